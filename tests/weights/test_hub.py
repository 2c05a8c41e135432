"""Push to a hub and load from it, through huggingface_hub's own code, against a small hub on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import barm
import barm.api
from barm.config import load_config
from barm.data.sources.shapes import class_names
from barm.data.sources.shapes_disk import make_shapes
from barm.weights import push as pushing
from barm.weights.push import push

sys.path.insert(0, str(Path(__file__).parent / "foreign"))
import networks

spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
assert spec is not None
hub_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub_server)

STORY = """
import json
from PIL import Image
from barm import UserError, load
from barm.cli import app
from barm.weights.push import push

def tried(call):
    try:
        return call()
    except UserError as error:
        return str(error)

said = {
    "where": push("run", "me/shapes"),
    "steps": [load("hf://me/shapes").step, load("hf://me/shapes@main").step],
    "classes": load("hf://me/shapes").class_names,
    "other step": tried(lambda: load("hf://me/shapes", 0)),
    "public": tried(lambda: push("run", "me/shapes", private=True)),
    "secret": push("run", "me/secret", private=True),
    "no repository": tried(lambda: load("hf://me/other")),
    "no revision": tried(lambda: load("hf://me/shapes@v9")),
    "no name": tried(lambda: load("hf://a b/c")),
    "no model": tried(lambda: load("hf://you/text")),
    "wrong token": tried(lambda: push("run", "me/shapes", token="hf_wrong")),
}
Image.new("RGB", (40, 32)).save("photo.png")
app(["predict", "hf://me/shapes", "photo.png", "--out", "seen"], standalone_mode=False)
print(json.dumps(said))
"""
OTHERS = """
import json
import barm
from barm.weights.importing import find_model

small = ["increment.epochs=1", "increment.batch_size=4", "increment.crop=64", "runtime.workers=0"]
barm.extend("hf://you/fpn", "data", out="run", recipe="folder/mib", overrides=small, device="cpu", quiet=True)
barm.push("run", "me/wider", original=True, licence="mit", data_licence="cc-by-4.0")
found = find_model("hf://me/wider")
print(json.dumps([found.title, found.names, found.module.segmentation_head[0].out_channels]))
"""
FORMS_OVER = """
import json
from pathlib import Path
from barm.weights.push import _upload

names = {
    "own": ["README.md", "config.toml", "metrics.json", "model.safetensors", "model.onnx"],
    "smp": ["README.md", "config.toml", "metrics.json", "model.safetensors", "config.json", "classes.txt"],
    "torchvision": ["README.md", "config.toml", "metrics.json", "model.pth"],
}
for form, files in names.items():
    Path(form).mkdir()
    for name in files:
        Path(form, name).write_text(form)
for form, name in (("own", "me/net"), ("smp", "me/net"), ("torchvision", "me/net"), ("own", "me/foreign")):
    _upload(Path(form), name, form, False, None)
print(json.dumps("done"))
"""
WITHOUT = """
import json, time
from barm import UserError, load
began = time.monotonic()
said = [load("hf://me/shapes").step]
try:
    load("hf://me/new")
except UserError as error:
    said.append(str(error))
print(json.dumps([*said, time.monotonic() - began]))
"""


@pytest.fixture(scope="module")
def run(shapes_voc, tmp_path_factory):
    """Two finished steps."""
    folder = tmp_path_factory.mktemp("hub")
    overrides = [
        *("model.backbone=test_resnet", "model.channels=8", "base.epochs=1", "increment.epochs=1", "base.crop=32"),
        *("increment.crop=32", "evaluation.crop=32", "base.batch_size=8", "increment.batch_size=8"),
        *("runtime.workers=0", "runtime.precision=32-true", "runtime.device=cpu", "runtime.tensorboard=false"),
    ]
    barm.fit("shapes/3-1/barm", out=folder / "run", data=shapes_voc, overrides=overrides, quiet=True)
    return folder / "run"


def python(code: str, cwd: Path, **more: str):
    """What a program prints, with a hub's environment and no other settings of huggingface_hub."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {
        "PYTHONPATH": str(Path(barm.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_DISABLE_XET": "1",
        **more,
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_there_and_back(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    place = {"HF_HOME": str(tmp_path / "cache")}
    with hub_server.running() as hub:
        hub.files["you/text"], hub.private["you/text"] = {"README.md": b"words"}, False
        said = python(STORY, tmp_path, HF_ENDPOINT=hub.address, HF_TOKEN=hub_server.TOKEN, **place)
        files, private, address = hub.files, hub.private, hub.address
    assert said["where"] == f"{address}/me/shapes"
    assert said["steps"] == [1, 1]
    assert (tmp_path / "seen/photo_mask.png").is_file()
    assert tuple(said["classes"]) == barm.load(run).class_names
    assert set(files["me/shapes"]) == {"README.md", "config.toml", "metrics.json", "model.safetensors"}
    assert private == {"you/text": False, "me/shapes": False, "me/secret": True}
    expected = {
        "other step": "holds step 1 alone",
        "public": "is public",
        "no repository": "no repository me/other on http://127.0.0.1",
        "no revision": "me/shapes has no revision 'v9'",
        "no name": "'a b/c' is no name of a repository",
        "no model": "you/text is no model of barm",
        "wrong token": "not logged in",
    }
    for key, words in expected.items():
        assert words in said[key], said[key]
        assert "\n" not in said[key]
    cached, fetch, seconds = python(WITHOUT, tmp_path, HF_ENDPOINT=address, **place)  # nobody answers there now
    assert seconds < 10, "two questions of four seconds at most"
    assert cached == 1
    assert f"{address} cannot be reached" in fetch


def test_a_push_removes_the_files_of_the_other_form_in_the_same_commit(tmp_path):
    theirs = {"notes/config.json": b"mine", "picture.png": b"mine", ".gitattributes": b"mine"}
    with hub_server.running() as hub:
        hub.files |= {"me/net": {**theirs}, "me/foreign": {"config.json": b"theirs", "classes.txt": b"theirs"}}
        hub.private |= {"me/net": False, "me/foreign": False}
        place = {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": hub_server.TOKEN}
        python(FORMS_OVER, tmp_path, HF_ENDPOINT=hub.address, **place)
        files, commits = hub.files, [c["summary"] for c in hub.commits]
    assert commits == ["own", "smp", "torchvision", "own"]
    assert set(files["me/net"]) == {"README.md", "config.toml", "metrics.json", "model.pth", *theirs}
    assert {"config.json", "classes.txt"} <= set(files["me/foreign"]), "no push made it: its files are not ours"


def test_the_names_of_the_forms_match_nothing_else():
    from fnmatch import fnmatch

    others = ("notes/config.json", "model.safetensors.bak", "model-last.safetensors", "README.md", "tokenizer.json")
    assert not [n for n in others for pattern in pushing.FORMS if fnmatch(n, pattern)]
    assert any(fnmatch("model-00001-of-00002.safetensors", pattern) for pattern in pushing.FORMS)


def test_what_would_be_pushed(run, shapes_voc, tmp_path):
    assert push(run, "me/shapes", 0, licence="mit", dry_run=tmp_path / "card") == str(tmp_path / "card")
    text = (tmp_path / "card/README.md").read_text()
    metrics = json.loads((run / "step00/metrics.json").read_text())
    header = text.split("---\n")[1].splitlines()
    assert {"license: mit", "library_name: barm", "pipeline_tag: image-segmentation", "- barm"} <= set(header)
    assert f"| {100 * metrics['miou']['all']:.1f} |" in text
    assert all(f"| {name} | {100 * iou:.1f} |" in text for name, iou in metrics["class_iou"].items())
    assert 'barm.load("hf://me/shapes")' in text
    assert "learned in 1 of 2 steps" in text
    config = load_config(tmp_path / "card/config.toml")
    assert config.data.root is None
    assert config.method == barm.api.read_config(run).method
    everything = b"".join(p.read_bytes() for p in (tmp_path / "card").iterdir())
    assert str(shapes_voc.parent).encode() not in everything
    with pytest.raises(barm.UserError, match="choose another --dry-run"):
        push(run, "me/shapes", dry_run=tmp_path / "card")
    with pytest.raises(barm.UserError, match="no finished step 7"):
        push(run, "me/shapes", 7, dry_run=tmp_path / "other")
    with pytest.raises(barm.UserError, match="'a b/c' is no name"):
        push(run, "a b/c", dry_run=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_network_of_another_library_there_and_back(tmp_path):
    new = class_names(1)[0]
    make_shapes(tmp_path / "data", num_train=4, num_val=1, size=(96, 64), only=[new], workers=0)
    model = networks.QUICK["smp-fpn"](tmp_path / "model")
    with hub_server.running() as hub:
        hub.files["you/fpn"] = {p.name: p.read_bytes() for p in model.iterdir()}
        hub.private["you/fpn"] = False
        place = {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": hub_server.TOKEN}
        title, names, outputs = python(OTHERS, tmp_path, HF_ENDPOINT=hub.address, **place)
        files = hub.files["me/wider"]
    assert (title, outputs) == ("segmentation_models_pytorch FPN, resnet18", 5)
    assert names == [*networks.NAMES, new]
    text = files["README.md"].decode()
    header = text.split("---\n")[1].splitlines()
    expected = {"license: mit", "data_license: cc-by-4.0", "library_name: segmentation-models-pytorch"}
    assert {*expected, "base_model: you/fpn"} <= set(header)
    assert 'smp.from_pretrained("me/wider")' in text
    assert str(tmp_path).encode() not in b"".join(files.values())
