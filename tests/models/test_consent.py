"""A name in a file that somebody else may have written fetches nothing, until the user asks for it."""

from __future__ import annotations

import json
import shutil
import socket
import tomllib
from pathlib import Path

import pytest
import tomli_w
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from barm.api import evaluate
from barm.config import load_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.extension.run import extend
from barm.models.download import check_reachable
from barm.predict.model import load
from barm.weights.export.formats import export_step
from barm.weights.importing import find_model
from barm.weights.trained import open_trained
from editing import unchecked

NAMES = ("hf-hub:owner/name", "hf_hub:owner/name", "HF-HUB:owner/name", " hf-hub:owner/name", "local-dir:/etc")
NOT_UNASKED = "not in the cache of the hub, and nothing that a file names is fetched unasked|expected the name of a net"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every look-up of a name and every connection is noted and fails."""
    asked = list[object]()

    def refuse(*words: object, **_: object) -> None:
        asked.append(words)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield asked
    assert not asked


@pytest.mark.parametrize("name", NAMES)
def test_in_the_record_of_a_run(name, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    file = tmp_path / "run/step02/method.json"
    record = json.loads(file.read_text())
    record["model"]["backbone"] = name
    unchecked(file).write_text(json.dumps(record))
    with pytest.raises(UserError, match=NOT_UNASKED):
        open_trained(tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
def test_in_the_header_of_a_file(name, tiny_run, tmp_path):
    export_step(tiny_run, tmp_path / "m.safetensors", "safetensors", None)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["barm"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    about["trained"]["model"]["backbone"] = name
    (tmp_path / "m.safetensors").write_bytes(save(tensors, {"barm": json.dumps(about)}))
    with pytest.raises(UserError, match=NOT_UNASKED):
        open_trained(tmp_path / "m.safetensors")


@pytest.mark.parametrize("decoder", ["v3", "auto"])
def test_in_the_configuration_of_a_run(decoder, tiny, tmp_path):
    table = to_table(tiny())
    table["model"] |= {"backbone": NAMES[0], "decoder": decoder}
    (tmp_path / "config.toml").write_text(tomli_w.dumps(table))
    with pytest.raises(UserError, match=NOT_UNASKED):
        RunDirectory(tmp_path).config()


@pytest.mark.parametrize("more", ["", 'decoder = "auto"\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n'])
@pytest.mark.parametrize("name", NAMES)
def test_in_a_recipe(name, more, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(f'extends = "shapes/2-1/barm"\n[model]\nbackbone = "{name}"\n{more}')
    with pytest.raises(UserError, match=NOT_UNASKED):
        load_config(file)


def test_the_user_may_name_it_too(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(f'extends = "shapes/2-1/barm"\n[model]\nbackbone = "{NAMES[0]}"\npretrained = false\n')
    with pytest.raises(UserError, match=r"or add --set model\.backbone=hf-hub:owner/name"):
        load_config(file)
    assert load_config(file, [f"model.backbone={NAMES[0]}"]).model.backbone == NAMES[0]


def test_what_is_in_the_cache_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("barm.models.download.cached_source", lambda name, pretrained: ("local-dir:/x", {}))
    file = tmp_path / "r.toml"
    file.write_text(f'extends = "shapes/2-1/barm"\n[model]\nbackbone = "{NAMES[0]}"\npretrained = false\n')
    assert load_config(file).model.backbone == NAMES[0]


PUBLISHED = "test_resnet.r160_in1k"  # timm's own list says where its weights are


@pytest.fixture
def strangers_run(tiny_run, tmp_path):
    """A run whose files all say that published weights are to be loaded."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    table = tomllib.loads((run / "config.toml").read_text())
    table["model"] |= {"backbone": PUBLISHED, "pretrained": True}
    unchecked(run / "config.toml").write_text(tomli_w.dumps(table))
    for file in run.glob("step*/method.json"):
        record = json.loads(file.read_text())
        record["model"] |= {"backbone": PUBLISHED, "pretrained": True}
        unchecked(file).write_text(json.dumps(record))
    return run


def test_a_strangers_run_has_no_published_weights_fetched(strangers_run, tmp_path):
    image = Image.new("RGB", (48, 48), "red")
    export_step(strangers_run, tmp_path / "m.safetensors", "safetensors", None)
    for path in (strangers_run, tmp_path / "m.safetensors"):
        assert load(path).predict(image).shape == (48, 48)
    evaluate(strangers_run, quiet=True)
    name = "green-plain-heart"
    make_shapes(tmp_path / "new", num_classes=4, only=[name], num_train=4, num_val=2, size=(48, 48), seed=1)
    extend(strangers_run, tmp_path / "new", [name], out=tmp_path / "out", overrides=["increment.epochs=1"], quiet=True)


def test_a_recipe_with_published_weights_asks_where_timm_has_them(no_network, tmp_path):
    """The way of training that is documented, which these tests would see."""
    file = tmp_path / "r.toml"
    file.write_text(f'extends = "shapes/2-1/barm"\n[model]\nbackbone = "{PUBLISHED}"\npretrained = true\n')
    name = load_config(file).model.backbone
    assert not no_network
    with pytest.raises(UserError, match="cannot be reached"):
        check_reachable(name)
    assert no_network
    no_network.clear()


UPERNET = {"architectures": ["UperNetForSemanticSegmentation"], "model_type": "upernet"}
DPT = {"architectures": ["DPTForSemanticSegmentation"], "model_type": "dpt", "is_hybrid": True}
SEGFORMER = {"architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer"}
CODE = {"auto_map": {"AutoModelForSemanticSegmentation": "owner/name--code.Model"}, "trust_remote_code": True}
BACKBONE = {"use_timm_backbone": True, "use_pretrained_backbone": True, "backbone": "hf-hub:owner/name"}
REMOTE = {"use_timm_backbone": False, "use_pretrained_backbone": True, "backbone": "owner/name"}


@pytest.mark.parametrize("kind", [UPERNET, DPT, SEGFORMER], ids=lambda kind: kind["model_type"])
@pytest.mark.parametrize("more", [CODE, BACKBONE, REMOTE, {"_name_or_path": "owner/name"}], ids=str)
def test_in_a_folder_of_transformers(kind, more, tmp_path):
    """Whether or not it can be loaded: nothing is fetched, and no code of the folder is run."""
    import torch

    pytest.importorskip("transformers")
    config = {**kind, **more, "id2label": {"0": "background", "1": "sky"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('code of the folder was run')\n")
    weight = {f"{part}.classifier.weight": torch.zeros(2, 16, 1, 1) for part in ("decode_head", "head")}
    (tmp_path / "model.safetensors").write_bytes(save(weight, {"format": "pt"}))
    with pytest.raises(UserError):
        find_model(tmp_path)


@pytest.mark.parametrize(
    "changed", [{"encoder_name": "tu-hf-hub:owner/name"}, {"encoder_weights": "imagenet"}], ids=str
)
def test_in_a_folder_of_smp(changed, tmp_path):
    import torch

    pytest.importorskip("segmentation_models_pytorch")
    config = {"_model_class": "Unet", "encoder_name": "resnet18", "encoder_weights": None, "classes": 3}
    (tmp_path / "config.json").write_text(json.dumps({**config, "in_channels": 3, "activation": None, **changed}))
    weight = {"segmentation_head.0.weight": torch.zeros(3, 16, 3, 3), "segmentation_head.0.bias": torch.zeros(3)}
    (tmp_path / "model.safetensors").write_bytes(save(weight, {"format": "pt"}))
    with pytest.raises(UserError):
        find_model(tmp_path)
