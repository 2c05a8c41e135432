"""Every file and folder has a name: other libraries' networks, damaged files, and what is no checkpoint at all."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from described_folders import SEGFORMER_FOLDER, UNET, UPERNET_FOLDER, described
from safetensors.torch import save_file
from torch import nn

from barm.errors import UserError
from barm.predict.model import load
from barm.weights.recognise import Kind, check_usable, recognise
from barm.weights.steps import tasks_of


def tensors(*names: str, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A state dict of tensors with one value, or of the given shape; ``__`` in these names stands for a dot."""
    shapes = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {name: torch.zeros(shapes.get(name, (1,))) for name in (*names, *shapes)}


def resnet(prefix: str = "", blocks: tuple[int, ...] = (3, 4, 6, 3), deep: bool = True) -> dict[str, torch.Tensor]:
    convs = range(1, 4 if deep else 3)
    names = [f"{prefix}layer{i + 1}.{j}.conv{k}.weight" for i, n in enumerate(blocks) for j in range(n) for k in convs]
    return {
        **tensors(f"{prefix}conv1.weight", *names),
        f"{prefix}layer1.0.conv2.weight": torch.zeros(64, 64, 1, 1),
    }


def aspp(prefix: str = "classifier.aspp.") -> dict[str, torch.Tensor]:
    return tensors(f"{prefix}convs.0.0.weight", f"{prefix}project.0.weight")


def heads(pattern: str, *sizes: int) -> dict[str, torch.Tensor]:
    return {pattern.format(i): torch.zeros(n, 1, 1, 1) for i, n in enumerate(sizes)}


BARM = {
    **resnet("backbone.", (3, 4, 23, 3)),
    **aspp(),
    **tensors("classifier.head_pre.0.weight", "classifier.ear.0.0.weight"),
    **heads("classifier.head.{}.weight", 16, 2),
}
SSUL = {
    **tensors("backbone.high_level_features.4.conv.0.0.weight"),
    **aspp(),
    **heads("classifier.head.{}.3.weight", 1, 1, 100, 10),
}
VAINF = {
    **resnet("backbone."),
    **aspp(),
    **tensors("classifier.project.0.weight", classifier__classifier__3__weight=(21, 1, 1, 1)),
}
MIB = {**tensors("body.mod1.conv1.weight", "head.map_convs.0.weight"), **heads("cls.{}.weight", 16, 1)}
SMP = {
    **resnet("encoder.", (2, 2, 2, 2), deep=False),
    **tensors("decoder.blocks.0.conv1.0.weight", segmentation_head__0__weight=(7, 1, 1, 1)),
}
FCN = {**resnet("backbone."), **tensors("classifier.0.weight", classifier__4__weight=(5, 1, 1, 1))}
LRASPP = tensors(
    "backbone.0.0.weight",
    "backbone.1.block.0.0.weight",
    "classifier.cbr.0.weight",
    "classifier.low_classifier.weight",
    classifier__high_classifier__weight=(9, 1, 1, 1),
)
SEGFORMER = tensors("segformer.encoder.x", decode_head__classifier__weight=(5, 1, 1, 1))


class Other(nn.Module):
    """A network of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)


CHECKPOINTS: dict[str, tuple[Any, str, tuple[str, ...]]] = {  # content, family, words
    "barm": (
        {"model_state": BARM, "optimizer_state": {}, "best_score": np.float64(0.5)},
        "official-barm",
        (
            "BARM's official code after step 1, groups 15, 1",
            "deeplabv3bga_resnet101, voc 15-1 fits",
            "barm weights import",
        ),
    ),
    "ssul": (
        {"model_state": SSUL},
        "official-ssul",
        ("SSUL", "groups 100, 10", "deeplabv3_mobilenet, ade 100-10 fits"),
    ),
    "vainf": ({"model_state": VAINF}, "vainf", ("DeepLabV3Plus-Pytorch with 21 outputs", "deeplabv3plus_resnet50")),
    "mib": ({"model_state": {f"module.{k}": v for k, v in MIB.items()}}, "mib-plop", ("MiB or PLOP", "groups 15, 1")),
    "rcil": (
        {"model_state": {**MIB, "body.mod2.block1.convs.conv2_new.weight": torch.zeros(1)}},
        "rcil",
        ("RCIL's official code after step 1",),
    ),
    "dkd": (
        {"state_dict": {**tensors("backbone.a", "aspp.b"), **heads("cls.{}.weight", 1, 15, 5)}, "epoch": 3},
        "official-dkd",
        ("DKD's official code after step 1, groups 15, 5", "voc/15-1/dkd"),
    ),
    "segacil": (
        {
            **resnet("backbone.", (3, 4, 23, 3)),
            **aspp(),
            **tensors(classifier__head_pre__0__weight=(8, 8, 3, 3), P=(32, 8), W=(32, 5), R=(32, 32)),
        },
        "segacil",
        ("SegACIL with 5 outputs, a regression of width 32 on resnet101", "barm weights import"),
    ),
    "fine-tuned": (
        {
            **resnet("backbone."),
            **aspp(),
            **tensors("classifier.head_pre.0.weight"),
            **heads("classifier.head.{}.weight", 16, 1),
        },
        "barm-export",
        ("`barm weights export` wrote after step 1, groups 15, 1",),
    ),
    "star": (
        {
            **resnet("backbone."),
            **aspp(),
            **tensors("classifier.head_pre.0.weight"),
            **heads("classifier.head.{}.weight", 15, 5),
        },
        "barm-export",
        ("STAR that `barm weights export` wrote after step 1, groups 15, 5", "voc 15-5"),
    ),
    "fcn": (FCN, "torchvision", ("fcn_resnet50, 5 outputs",)),
    "lraspp": ({"model": LRASPP, "epoch": 1}, "torchvision", ("lraspp_mobilenet_v3_large, 9 outputs",)),
    "detector": (tensors("roi_heads.box_predictor.cls_score.weight", "backbone.x"), "network", ("Faster R-CNN",)),
    "classifier": (
        {**resnet(), **tensors(fc__weight=(1000, 1))},
        "timm",
        ("resnet50", "model.backbone=resnet50.tv_in1k"),
    ),
    "vit": (
        tensors("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        "timm",
        ("vision transformer", "model.weights="),
    ),
    "smp": (SMP, "smp-state", ("Unet on resnet18, 7 outputs", "model.save_pretrained(FOLDER)")),
    "segformer": (SEGFORMER, "transformers-state", ("transformers' SegFormer, 5 outputs", "save_pretrained")),
    "lightning": (
        {"pytorch-lightning_version": "2.6", "state_dict": {f"net.{k}": v for k, v in SMP.items()}},
        "lightning",
        ("a checkpoint of Lightning that holds", "Unet on resnet18", "load_from_checkpoint(PATH).net.save_pretrained"),
    ),
    "mmseg": (
        {"meta": {}, "state_dict": {**resnet("backbone."), **tensors(decode_head__conv_seg__weight=(19, 1, 1, 1))}},
        "mmsegmentation",
        ("MMSegmentation, 19 outputs", "barm train --recipe folder/barm"),
    ),
    "nnunet": (
        {"network_weights": tensors("encoder.stages.0.a", decoder__seg_layers__0__weight=(3, 1)), "init_args": {}},
        "nnunet",
        ("a checkpoint of nnU-Net, 3 outputs",),
    ),
    "gpt": (tensors("transformer.wte.weight", "lm_head.weight"), "network", ("a language model",)),
    "sam": (tensors("image_encoder.a.weight", "mask_decoder.b.weight"), "network", ("Segment Anything",)),
    "lora": (tensors("a.lora_A.weight", "a.lora_B.weight"), "network", ("LoRA adapters",)),
    "own": (
        tensors("down.blocks.0.a", "up.b"),
        "state",
        ("2 tensors of a network that barm does not know (first 'down.blocks.0.a')", "`barm.adopt`"),
    ),
    "fcn18": (
        {**resnet("backbone.", (2, 2, 2, 2), deep=False), **tensors("classifier.0.weight", "classifier.4.weight")},
        "torchvision",
        ("torchvision's fcn_resnet18, 1 output: of torchvision's names barm takes fcn_resnet50", "`barm.adopt`"),
    ),
    "unet": (
        tensors("inc.double_conv.0.weight", outc__conv__weight=(3, 1, 1, 1)),
        "network",
        ("the U-Net of PyTorch-UNet, 3 outputs: from Python `barm.adopt`",),
    ),
    "optimiser": (torch.optim.SGD([torch.zeros(1)], 0.1).state_dict(), "optimizer", ("the state of an optimiser",)),
    "training": (
        {"optimizer": {"state": {}}, "epoch": 1},
        "optimizer",
        ("an optimiser alone (keys: optimizer, epoch)",),
    ),
    "module": (Other(), "module", ("a whole pickled network of the class", ".Other", "`barm.adopt`")),
    "inside": ({"model": Other(), "epoch": 1}, "module", ("under 'model'",)),
    "tensor": (torch.zeros(3), "arrays", ("a single tensor",)),
    "numbers": ({"epoch": 3}, "pickle", ("without a state dict (keys: epoch)",)),
}


def says(kind: Kind, family: str, words: tuple[str, ...], path: Path) -> None:
    line = kind.line(path)
    assert kind.family == family, line
    assert all(word in line for word in words), line
    assert "\n" not in line


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name, tmp_path):
    content, family, words = CHECKPOINTS[name]
    path = tmp_path / "model.pth"
    torch.save(content, path)
    says(recognise(path), family, words, path)


COMMANDS = ("barm extend", "barm weights import", "barm.adopt", "model.weights=", "save_pretrained(FOLDER)")
DEEPLAB = {
    **resnet("backbone."),
    **tensors("classifier.0.convs.0.0.weight", "classifier.0.project.0.weight", "classifier.4.weight"),
}
ROWS: dict[str, tuple[Any, ...]] = {  # beginning of a row of the table in docs/export.md, and files that it is about
    "a checkpoint of the official code": ("barm", "ssul", "vainf", "fine-tuned"),
    "a network of SegACIL": ("segacil",),
    "a checkpoint of MiB": ("mib", "rcil", "dkd"),
    "FCN and DeepLabV3": ("fcn", "lraspp", DEEPLAB),
    "a folder of": (UNET, SEGFORMER_FOLDER, UPERNET_FOLDER),
    "a state dict of a network of your own": ("own",),
    "a state dict of segmentation_models_pytorch": ("smp", "segformer"),
    "an image classifier": ("classifier", "vit"),
    "MMSegmentation": ("mmseg", "unet", "fcn18", {"architectures": ["DPTForSemanticSegmentation"]}),
    "nnU-Net": ("nnunet", "detector", "gpt", "sam"),
    "a whole pickled network": ("module", "inside"),
    "the state of an optimiser": ("optimiser", "training", "numbers"),
}
ELSEWHERE = ("a run;", "a checkpoint of Lightning", "TorchScript", "an archive")  # rows that other tests are about


def test_the_documents_promise_what_the_lines_say(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8").partition("## What is this file?")[2]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert {next((s for s in (*ROWS, *ELSEWHERE) if row[0].startswith(s)), row[0]) for row in rows} == {
        *ROWS,
        *ELSEWHERE,
    }
    for start, examples in ROWS.items():
        said = set()
        for example in examples:
            if isinstance(example, dict) and "classifier.4.weight" not in example:
                kind = recognise(described(tmp_path / "folder", example))
            else:
                torch.save(CHECKPOINTS[example][0] if isinstance(example, str) else example, tmp_path / "model.pth")
                kind = recognise(tmp_path / "model.pth")
            said |= {command for command in COMMANDS if command in kind.advice}
            said |= {"barm weights import"} if kind.use == "import" else set()
        promised = next(row[2] for row in rows if row[0].startswith(start))
        assert {command for command in COMMANDS if command in promised} == said, start


@pytest.mark.parametrize("name", ["barm", "fcn", "smp"])
def test_the_form_of_a_checkpoint_does_not_matter(name, tmp_path):
    content, family, _ = CHECKPOINTS[name]
    state = content.get("model_state", content)
    torch.save(OrderedDict(state), tmp_path / "bare.pth")
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({f"module.model.{k}": nn.Parameter(v) for k, v in state.items()}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "model.safetensors")
    kinds = [recognise(tmp_path / n) for n in ("bare.pth", "old.pth", "wrapped.pth", "model.safetensors")]
    assert {kind.family for kind in kinds} == {family}
    assert len({(kind.outputs, kind.groups, kind.architecture) for kind in kinds}) == 1


def test_what_is_learned_from_names_and_shapes(tmp_path):
    torch.save({"model_state": BARM}, tmp_path / "model.pth")
    kind = recognise(tmp_path / "model.pth")
    assert (kind.groups, kind.step, kind.outputs) == ((15, 1), 1, 17)
    assert (kind.model, kind.method, kind.use) == ("deeplabv3bga_resnet101", "barm", "import")
    torch.save(FCN, tmp_path / "fcn.pth")
    kind = recognise(tmp_path / "fcn.pth")
    assert (kind.architecture, kind.outputs, kind.use) == ("fcn_resnet50", 5, "adopt")


@pytest.mark.parametrize(
    ("groups", "dataset", "tasks"),
    [
        ((15,), "voc", ["15-1", "15-5"]),
        ((15, 5), "voc", ["15-5"]),
        ((14, 3, 3), "voc", ["14-3"]),
        ((14, 4), "voc", []),
        ((20,), "voc", ["offline"]),
        ((100, 10), "ade", ["100-10"]),
        ((15, 0), "voc", []),
    ],
)
def test_tasks_that_fit(groups, dataset, tasks):
    assert tasks_of(groups, dataset) == tasks


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return stream.getvalue()


def torch_bytes(content: Any = None) -> bytes:
    stream = io.BytesIO()
    torch.save(SMP if content is None else content, stream)
    return stream.getvalue()


def tensors_header(shape: list[int], end: int) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(text)) + text


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return stream.getvalue()


FILES: dict[str, tuple[bytes, str, str]] = {  # name: bytes, family, words
    "empty.pth": (b"", "empty", "an empty file"),
    "zeros.pth": (bytes(5000), "empty", "5000 zeros"),
    "cut.pth": (torch_bytes()[:4000], "damaged", "cut short or damaged"),
    "page.pth": (b"\n<!DOCTYPE html><html>Not found", "page", "a web page"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer", "git lfs pull"),
    "config.json": (b'{"a": 1}', "text", "a JSON file"),
    "notes.txt": (b"notes: {hello}", "text", "a text file"),
    "settings": (b"settings{}", "text", "a text file"),
    "photo.png": (b"\x89PNG\r\n\x1a\n", "image", "an image (PNG)"),
    "bytes.pth": (bytes(range(255, 0, -1)), "unknown", "no file that barm knows"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n", "tensorflow", "HDF5"),
    "lite.tflite": (b"\x1c\0\0\0TFL3", "tensorflow", "TensorFlow Lite"),
    "a.npy": (b"\x93NUMPY", "arrays", "a numpy array"),
    "a.npz": (zipped(a_dot_npy=b"", b_dot_npy=b""), "arrays", "2 numpy arrays"),
    "a.zip": (zipped(deep__model_dot_pth=b""), "archive", "deep/model.pth in it"),
    "a.tar": (tar(), "archive", "a tar archive"),
    "a.gz": (b"\x1f\x8b\x08", "archive", "gzip"),
    "a.onnx": (b"\x08\x0a\x12\x07pytorch", "onnx", "an ONNX graph"),
    "own.onnx": (b"\x08\x0a\x12\x07pytorch...\n\x04barm", "barm-graph", "`barm export` wrote"),
    "script.pt": (zipped(m__data_dot_pkl=b"", m__constants_dot_pkl=b""), "torchscript", "TorchScript"),
    "program.pt2": (zipped(m__archive_format=b"", m__models__model_dot_json=b""), "exported-program", "torch.export"),
    "broken.pth": (zipped(m__data_dot_pkl=b"\x80\x02}q"), "damaged", "is damaged"),
    "broken.pkl": (b"\x80\x04\x95", "damaged", "a pickle that is damaged"),
    "no.safetensors": (b"no", "damaged", "no safetensors file although it is called so"),
    "cut.safetensors": (tensors_header([4], 16)[:20], "damaged", "header is cut short"),
    "short.safetensors": (tensors_header([4], 16) + bytes(6), "damaged", "(10 of its bytes are missing)"),
    "odd.safetensors": (
        tensors_header([4], 16).replace(b"shape", b"shaqe"),
        "damaged",
        "header is cut short or damaged",
    ),
    "zoo.pkl": (
        pickle.dumps({"model": {"a": np.zeros((300, 300))}, "__author__": "x", "matching_heuristics": True}),
        "detectron2",
        "detectron2's model zoo",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint_of_torch(name, tmp_path):
    content, family, words = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    says(recognise(path), family, (words,), path)
    with pytest.raises(UserError, match="is "):
        check_usable(path)


@pytest.mark.parametrize(
    "entry",
    [1, None, {"shape": "x", "data_offsets": [0, 4]}, {"shape": [1], "data_offsets": [0, "x"]}, {"shape": [1e400]}],
)
def test_headers_of_safetensors_that_are_wrong(entry, tmp_path):
    text = json.dumps({"a": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert recognise(tmp_path / "a.safetensors").family == "damaged"


@pytest.mark.parametrize("about", ["[]", "{}", "{", '{"step": 1, "class_names": 3, "learned": [1]}'])
def test_a_damaged_description_is_that_of_a_file_of_barm(about, tmp_path):
    save_file(SMP, tmp_path / "a.safetensors", {"barm": about})
    assert "a file of barm whose description is damaged" in recognise(tmp_path / "a.safetensors").name


@pytest.mark.parametrize("cut", [1, 3, 9, 30, 200])
def test_a_checkpoint_that_is_cut_anywhere_has_a_line(cut, tmp_path):
    stream = io.BytesIO()
    torch.save(SMP, stream, _use_new_zipfile_serialization=False)
    for content in (torch_bytes(), stream.getvalue()):
        path = tmp_path / "model.pth"
        path.write_bytes(content[: len(content) * cut // 201])
        assert recognise(path).family in ("damaged", "unknown", "smp-state")


@pytest.mark.parametrize(
    ("config", "family", "words"),
    [
        (UNET, "smp", "Unet on resnet34, 3 outputs: `barm"),
        (
            SEGFORMER_FOLDER,
            "transformers",
            "transformers' SegFormer (SegformerForSemanticSegmentation, 3 outputs): `barm",
        ),
        (UPERNET_FOLDER, "transformers", "transformers' UPerNet (UperNetForSemanticSegmentation, 3 outputs): `barm"),
        (
            {"architectures": ["Mask2FormerForUniversalSegmentation"]},
            "transformers",
            "no logits per pixel): of transformers",
        ),
        ({"architectures": ["DPTForSemanticSegmentation"]}, "transformers", "DPTForSemanticSegmentation"),
        ({"architectures": ["DetrForObjectDetection"]}, "transformers", "a detector"),
        ({"architectures": ["LlamaForCausalLM"]}, "transformers", "a language model"),
        ({"architecture": "convnext_tiny", "num_classes": 1000}, "timm", "model.backbone=convnext_tiny"),
        ({"other": 1}, "folder", "names no network"),
        ("{", "damaged", "is not valid JSON"),
        ([], "damaged", "config.json is a list, expected a JSON object"),
    ],
)
def test_folders_with_a_description(config, family, words, tmp_path):
    folder = described(tmp_path / "net", config)
    says(recognise(folder), family, (words,), folder)


def test_a_mistyped_path_has_a_hint(tmp_path):
    (tmp_path / "unet.pth").touch()
    assert recognise(tmp_path / "umet.pth").advice == "check the path; did you mean 'unet.pth'?"


def test_the_state_dict_in_a_described_folder_points_to_the_folder(tmp_path):
    folder = described(tmp_path / "net", {"_model_class": "Unet"})
    save_file(SMP, folder / "model.safetensors")
    assert recognise(folder / "model.safetensors").line("x").endswith(f"give the folder that it lies in: {folder}")


def test_other_folders(tmp_path):
    assert "an empty folder" in recognise(tmp_path).name
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/last.ckpt").touch()
    assert recognise(tmp_path).advice == "give one of them: deep/last.ckpt"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").touch()
    assert recognise(tmp_path).advice == f"give one of them: {tmp_path}/run"
    assert recognise(tmp_path / "run").name == "a run of barm without a finished step"
    (tmp_path / "run/step00").mkdir()
    assert (recognise(tmp_path / "run").use, recognise(tmp_path / "run").step) == ("open", 0)
    (tmp_path / "saved_model.pb").touch()
    assert recognise(tmp_path).family == "tensorflow"
    assert recognise(tmp_path / "absent").family == "missing"
    os.mkfifo(tmp_path / "pipe")
    assert "is a named pipe" in recognise(tmp_path / "pipe").name


class Harmful:
    """Runs code when it is unpickled without restriction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    for number, content in enumerate(
        (Harmful(tmp_path / "harm"), {"state_dict": SMP, "extra": Harmful(tmp_path / "harm")})
    ):
        torch.save(content, tmp_path / f"{number}.pth")
        with (tmp_path / f"{number}.pkl").open("wb") as file:
            pickle.dump(content, file)
    whole, beside = (recognise(tmp_path / f"{i}.pth") for i in range(2))
    assert "a pickled object of the class pathlib.Path.touch" in whole.name
    assert "Unet on resnet18" in beside.name
    assert "beside pickled objects (pathlib.Path" in beside.name
    assert [recognise(tmp_path / f"{i}.pkl").family for i in range(2)] == ["pickle", "smp-state"]
    assert not (tmp_path / "harm").exists()
    pickle.loads((tmp_path / "0.pkl").read_bytes())
    assert (tmp_path / "harm").exists(), "the file is harmless: the test shows nothing"


def test_programs_that_pickle_classes_are_named(tmp_path, monkeypatch):
    for name, family in (("ultralytics.nn.tasks", "ultralytics"), ("fastai.learner", "fastai")):
        for end in range(1, name.count(".") + 1):
            parent = ".".join(name.split(".")[:end])
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        module = ModuleType(name)
        module.Thing = type("Thing", (), {"__module__": name, "__qualname__": "Thing"})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        thing = module.Thing()
        torch.save({"model": thing, "epoch": 1} if family == "ultralytics" else thing, tmp_path / "model.pt")
        kind = recognise(tmp_path / "model.pt")
        assert (kind.family, f"{name}.Thing" in kind.name) == (family, True)


def test_a_name_in_a_file_cannot_break_the_line(tmp_path):
    folder = described(tmp_path / "net", {"architectures": ["A\n\x1b[31m{path}" + "b" * 900]})
    line = recognise(folder).line(folder)
    assert line.isprintable()
    assert len(line) < 600 + 2 * len(str(folder))


def test_a_foreign_file_is_named_where_a_model_is_expected(tmp_path):
    torch.save(SMP, tmp_path / "unet.pth")
    with pytest.raises(
        UserError, match=r"unet.pth is the state dict of segmentation_models_pytorch's Unet on resnet18"
    ):
        load(tmp_path / "unet.pth")
    folder = described(tmp_path / "net", {"architectures": ["LlamaForCausalLM"]})
    with pytest.raises(UserError, match="a language model"):
        load(folder)


def test_large_files_are_named_without_torch(tmp_path):
    """The tensors are not read: a file of 8 GiB, of which almost nothing is on the disk."""
    head = tensors_header([1 << 31], 8 << 30)
    with (tmp_path / "big.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + (8 << 30))
    torch.save({"model_state": BARM}, tmp_path / "model.pth")
    code = (
        "import sys; from barm.weights.recognise import recognise; "
        "print([recognise(p).family for p in sys.argv[1:]], 'torch' in sys.modules)"
    )
    paths = [str(tmp_path / "big.safetensors"), str(tmp_path / "model.pth")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['state', 'official-barm'] False"
