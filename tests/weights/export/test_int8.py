"""Files in int8: what is in them, how their labels agree and that this is said, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import barm
from barm.data.sources.shapes import render
from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.weights.export.agreement import in_pytorch, measure
from barm.weights.export.formats import in_onnxruntime, to_onnx
from barm.weights.export.int8 import LEAST_EQUAL
from barm.weights.export.quantise import before_the_last, quantise
from barm.weights.trained import open_trained

DOCUMENT = (Path(__file__).parents[3] / "docs/export.md").read_text("utf-8")
INT8, FLOAT = onnx.TensorProto.INT8, onnx.TensorProto.FLOAT
SCENES = [render(i, split="val", num_classes=4, size=(60, 50), seed=3).image for i in range(8)]


@pytest.fixture(scope="module")
def plain(run):
    """The run's last step in fp32: tracing it takes longer than everything else here."""
    return to_onnx(open_trained(run))


@pytest.fixture
def traced(plain, monkeypatch):
    """Exports find the network traced."""
    monkeypatch.setattr("barm.weights.export.int8.make_file", lambda *_: plain)


@pytest.fixture(scope="module")
def made(run, plain, tmp_path_factory):
    """The file in int8 of the run's own images, and what was found."""
    path = tmp_path_factory.mktemp("int8") / "deep" / "small.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("barm.weights.export.int8.make_file", lambda *_: plain)
        return path, barm.export_int8(run, path)


@pytest.fixture
def folder(tmp_path):
    """Eight images of a user's own."""
    (tmp_path / "images").mkdir()
    for i, scene in enumerate(SCENES):
        Image.fromarray(scene).save(tmp_path / f"images/{i}.png")
    return tmp_path / "images"


def weights(model: onnx.ModelProto, kind: str) -> list[onnx.TensorProto]:
    """The weights of all nodes of a kind, as they are stored: a node's second input, or what it is made of."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    source = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    names = [source.get(node.input[1], node.input[1]) for node in model.graph.node if node.op_type == kind]
    return [stored[name] for name in names if name in stored]


@pytest.mark.graph
def test_the_command_says_how_many_labels_agree(run, cli, tmp_path):
    """The whole way, from the network on."""
    status, out, err = cli("export", run, "--format", "onnx", "--out", "x.onnx", "--int8")
    assert status == 0
    found = re.search(
        r"int8, (\d\.\d) times smaller than in fp32 \(\d+\.\d MB\), calibrated on 48 images; on 6 other images with "
        r"\d classes: (\d+\.\d+) % of the labels equal PyTorch's, .* differ by at most \d\.\de-\d\d",
        " ".join(out.split()),
    )
    assert found, out
    assert float(found[1]) > 2
    assert float(found[2]) >= 100 * LEAST_EQUAL
    stages = [line for line in err.splitlines() if not re.search(r": \d+ s$", line)]
    assert stages[-3:] == [
        "comparing it with PyTorch",
        "measuring ranges on 48 images",
        "comparing int8 with PyTorch on 6 other images",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.graph
def test_convolutions_are_int8_and_the_rest_is_not(plain, made):
    """Per channel, in 7 bits, except the classifier; batch norm is folded, so that nothing else has weights."""
    model, whole = onnx.load(made[0]), onnx.load_from_string(plain.content)
    onnx.checker.check_model(model)
    found, expected = weights(model, "Conv"), weights(whole, "Conv")
    small = [tensor for tensor in found if tensor.data_type == INT8]
    heads = [tensor for tensor in found if tensor.data_type == FLOAT]
    assert len(found) == len(expected) > 20
    assert len(small) > 20
    assert heads
    assert len(small) + len(heads) == len(found)
    assert all("head" in tensor.name for tensor in heads), [tensor.name for tensor in heads]
    assert max(int(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max()) for t in small) == 64
    scales = {n.input[0]: n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    sizes = {t.name: list(t.dims) for t in model.graph.initializer}
    assert all(sizes[scales[tensor.name]] == [tensor.dims[0]] for tensor in small)
    float_inputs = {i for n in model.graph.node if n.op_type in ("Sigmoid", "ArgMax", "ReduceMax") for i in n.input}
    quantised = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    assert Counter(n.op_type for n in model.graph.node)["Sigmoid"] >= 1
    assert not float_inputs & quantised


@pytest.mark.graph
def test_the_labels_agree_as_it_was_said(run, made):
    """Counted here once more, by onnxruntime alone and `barm.load`, and written in the file too."""
    path, found = made
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = barm.load(run, runtime=Runtime(RuntimeConfig(device="cpu", precision="32-true")))
    held_out = sorted((run.parent / "data/JPEGImages").glob("shapes_val_*"))
    equal = []
    for photo in held_out:
        labels, confidence = session.run(None, {"image": np.asarray(Image.open(photo))[None]})
        assert (labels.dtype, confidence.dtype) == (np.uint8, np.float32)
        equal.append((labels[0] == model.predict(Image.open(photo))).mean())
    assert len(held_out) == found.agreement.images == 6
    assert np.mean(equal) == pytest.approx(found.agreement.equal, abs=2e-3)
    assert LEAST_EQUAL <= found.agreement.equal < 1
    assert found.agreement.classes >= 3
    about = json.loads(session.get_modelmeta().custom_metadata_map["barm"])
    assert about["class_names"] == list(model.class_names)
    assert (
        about["int8"].items() >= {"calibrated_on": 48, "measured_on": 6, "equal_labels": found.agreement.equal}.items()
    )
    assert set(about["int8"]) == set(re.findall(r"`(\w+)`", re.search(r"Under `int8`.*", DOCUMENT)[0])) - {"int8"}


@pytest.mark.graph
def test_it_is_smaller_and_takes_any_size(plain, made):
    path, found = made
    assert found.size == path.stat().st_size
    assert found.size_fp32 > 2 * found.size
    assert 0 <= found.size_fp32 - len(plain.content) < 1
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((3, 33, 47, 3), (1, 150, 320, 3)):
        labels, confidence = session.run(["labels", "confidence"], {"image": np.zeros(shape, np.uint8)})
        assert labels.shape == confidence.shape == shape[:3]


@pytest.mark.graph
def test_a_folder_of_images(run, plain, traced, folder, cli, tmp_path):
    """Every fourth measures, the others calibrate; a model that is a file has no images of its own."""
    barm.export_step(run, tmp_path / "barm.safetensors")
    words = ("--format", "onnx", "--out", "x.onnx", "--int8", "--calibrate", folder)
    status, out, _ = cli("export", "barm.safetensors", *words)
    assert status == 0
    assert "calibrated on 6 images; on 2 other images" in " ".join(out.split())
    content = quantise(plain.content, [scene for i, scene in enumerate(SCENES) if i % 4 != 3])
    theirs, ours = (in_onnxruntime(c)(SCENES[0][None])[1] for c in (content, (tmp_path / "x.onnx").read_bytes()))
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.graph
def test_what_agrees_too_little_is_not_written(run, traced, folder, cli, tmp_path, monkeypatch):
    def wrong(content):
        return lambda image: ((labels := in_onnxruntime(content)(image))[0] ^ 1, labels[1])

    monkeypatch.setattr("barm.weights.export.int8.in_onnxruntime", wrong)
    status, _, err = cli("export", run, "--out", "deep/x.onnx", "--int8", "--calibrate", folder)
    assert status == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("barm: in int8 too few labels agree with PyTorch's (with ")
    assert f"expected {100 * LEAST_EQUAL:.0f} %, and 50 % of every class): nothing was written" in line
    assert f"below {100 * LEAST_EQUAL:.0f} % nothing is written" in " ".join(DOCUMENT.split())
    assert list(tmp_path.iterdir()) == [folder]
    (tmp_path / "old.onnx").write_bytes(b"before")
    assert cli("export", run, "--out", "old.onnx", "--int8", "--calibrate", folder)[0] == 2
    assert (tmp_path / "old.onnx").read_bytes() == b"before"


@pytest.mark.graph
def test_a_class_that_is_lost_is_refused(run, traced, folder, tmp_path, monkeypatch):
    """Most pixels of the scenes are background: a file that says nothing else agrees with 9 of 10 labels."""
    found = measure(open_trained(run), lambda image: in_pytorch(open_trained(run), image), (s[None] for s in SCENES))
    lost = min((i for i, (part, _) in found.by_channel.items() if part >= 0.01), key=lambda i: found.by_channel[i][0])
    assert found.by_channel[lost][0] < 1 - LEAST_EQUAL

    def without(content):
        def predict(image):
            labels, confidence = in_onnxruntime(content)(image)
            return np.where(labels == lost, 0 if lost else 1, labels), confidence

        return predict

    monkeypatch.setattr("barm.weights.export.int8.in_onnxruntime", without)
    name = open_trained(run).record["classes"][lost]["name"]
    with pytest.raises(barm.UserError, match=rf"9\d\.\d+ % of the labels equal .*least of {name}, \d+\.\d %; expected"):
        barm.export_int8(run, tmp_path / "x.onnx", images=folder)
    assert not (tmp_path / "x.onnx").exists()


def test_what_the_library_cannot_quantise_is_one_line(run, traced, folder, cli, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no shape for\n node 3")

    monkeypatch.setattr("barm.weights.export.int8.quantise", broken)
    status, _, err = cli("export", run, "--out", "x.onnx", "--int8", "--calibrate", folder)
    assert status == 2
    said = "barm: the network cannot be written in int8 (no shape for node 3): export it without --int8"
    assert err.splitlines()[-1] == said
    assert not (tmp_path / "x.onnx").exists()


def test_a_score_that_is_no_number_is_refused(run, traced, folder, tmp_path, monkeypatch):
    def wrong(content):
        return lambda image: (in_onnxruntime(content)(image)[0], np.full(image.shape[:3], np.nan, np.float32))

    monkeypatch.setattr("barm.weights.export.int8.in_onnxruntime", wrong)
    with pytest.raises(barm.UserError, match="nothing was written"):
        barm.export_int8(run, tmp_path / "x.onnx", images=folder)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "safetensors", "--out", "x.safetensors", "--int8"), "--int8 is for onnx, found safetensors"),
        (("--format", "original", "--out", "x", "--int8"), "--int8 is for onnx, found original"),
        (("--out", "x.pt2", "--int8"), "--int8 is for onnx, found x.pt2"),
        (("--format", "onnx", "--out", "x.pt2", "--int8"), "x.pt2 is a name for torch-export, found format onnx"),
        (("--format", "onnx", "--out", "x.safetensors"), "x.safetensors is a name for safetensors, found format onnx"),
        (("--out", "x.onnx", "--calibrate", "images"), "--calibrate is for --int8"),
        (("--out", "x.onnx", "--int8", "--calibrate", "nothing"), "no folder nothing: give a folder of images"),
        (("--out", "x.onnx", "--int8", "--calibrate", "few"), "few holds 3 images: expected at least 4"),
        (("--out", "x.onnx", "--int8", "--calibrate", "tiny"), "tiny holds 0 images of at least 32 pixels a side"),
    ],
)
def test_wrong_use_is_one_line(words, said, run, folder, cli, tmp_path):
    for name, number, side in (("few", 3, 50), ("tiny", 4, 20)):
        (tmp_path / name).mkdir()
        for i in range(number):
            Image.fromarray(SCENES[i][:side, :side]).save(tmp_path / name / f"{i}.png")
    before = sorted(tmp_path.iterdir())
    status, _, err = cli("export", run, *words)
    assert status == 2
    assert [line for line in err.splitlines() if said in line] == err.splitlines()[-1:]
    assert sorted(tmp_path.iterdir()) == before


def test_images_are_needed(run, cli, tmp_path):
    """A file has no data; a run's may have been moved away."""
    barm.export_step(run, tmp_path / "one.safetensors")
    status, _, err = cli("export", "one.safetensors", "--out", "x.onnx", "--int8")
    assert status == 2
    assert "int8 needs images, and those that one.safetensors was trained on are not at hand" in err.splitlines()[-1]
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run/config.toml"
    _, text = config.read_text("utf-8").split("\n", 1)  # without the checksum
    config.write_text(text.replace(str(run.parent / "data"), str(tmp_path / "gone")), "utf-8")
    with pytest.raises(barm.UserError, match="with --calibrate"):
        barm.export_int8(tmp_path / "run", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.graph
@pytest.mark.long
def test_products_of_a_transformer_are_int8(tiny_trained):
    content = quantise(to_onnx(tiny_trained("finetune", backbone="test_vit")).content, SCENES)
    kinds = Counter(tensor.data_type for tensor in weights(onnx.load_from_string(content), "MatMul"))
    assert kinds[INT8] > 10
    labels, _ = in_onnxruntime(content)(SCENES[0][None])
    assert labels.shape == (1, 50, 60)


def test_what_lies_before_the_last_convolution():
    """Not the image's normalisation, not sizes that a map has, not the classifier and what follows it."""
    nodes = [
        ("Sub", ["image", "mean"], "normal"),
        ("Conv", ["normal", "w1"], "first"),
        ("Relu", ["first"], "active"),
        ("Shape", ["active"], "size"),
        ("Add", ["size", "one"], "larger"),
        ("Conv", ["active", "w2"], "second"),
        ("Add", ["second", "active"], "sum"),
        ("Softmax", ["sum"], "shares"),
        ("Resize", ["shares", "", "", "larger"], "map"),
        ("Conv", ["map", "w3"], "classes"),
        ("Relu", ["classes"], "scores"),
    ]
    made = [onnx.helper.make_node(kind, given, [out], name=out) for kind, given, out in nodes]
    graph = onnx.helper.make_graph(made, "small", [], [])
    assert before_the_last(graph) == ["first", "active", "second"]
