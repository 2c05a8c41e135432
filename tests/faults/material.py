"""What the phases start from: small data, finished and unfinished runs, annotations, archives, a foreign network."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from barm.api import fit
from barm.data.sources.shapes_disk import make_shapes

TINY = (
    "model.backbone=test_resnet",
    "model.channels=16",
    "model.output_stride=16",
    "base.epochs=2",
    "increment.epochs=2",
    "base.batch_size=4",
    "increment.batch_size=4",
    "base.crop=48",
    "increment.crop=48",
    "evaluation.crop=48",
    "evaluation.batch_size=2",
    "runtime.workers=0",
    "runtime.precision=32-true",
    "runtime.device=cpu",
    "runtime.tensorboard=false",
    "runtime.save_every=3",
    "runtime.log_every=1",
)
SMALL = tuple(word for setting in TINY for word in ("--set", setting))
GRID = """recipes = "shapes"
methods = ["finetune"]
tasks = ["2-2"]
seeds = [1]
overrides = {overrides}
[shapes]
classes = 4
train = 16
val = 4
size = 48
"""


def sibling(path: Path) -> ModuleType:
    """A module that lies elsewhere among the tests."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_material(folder: Path) -> None:
    """Write everything into a new folder."""
    os.environ["BARM_CACHE"] = str(folder / "cache")
    make_shapes(folder / "data", layout="voc", num_classes=4, num_train=16, num_val=4, size=(48, 48), seed=3)
    only = ("blue-striped-cross",)
    make_shapes(
        folder / "own", layout="folder", num_classes=8, only=only, num_train=8, num_val=3, size=(48, 48), seed=5
    )
    here = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("barm", "star", "ssul-m"):
            steps = None if name == "barm" else [0]
            fit(f"shapes/2-2/{name}", data="data", out=f"run-{name}", overrides=TINY, steps=steps, quiet=True)
    finally:
        os.chdir(here)
    (folder / "grid.toml").write_text(GRID.format(overrides=json.dumps(list(TINY))))
    _annotations(folder / "labelme")
    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    torch.save(network.state_dict(), folder / "foreign.pth")
    (folder / "names.txt").write_text("background\ncat\ndog\n")
    (folder / "photos").mkdir()
    for i in range(5):
        Image.effect_noise((64, 48), 60 + i).convert("RGB").save(folder / f"photos/{i}.png")
    server = sibling(Path(__file__).parents[1] / "data/archive_server.py")
    with server.running() as host:
        server.datasets(host)
        (folder / "voc.tar").write_bytes(host.files["/voc.tar"])
        (folder / "masks.zip").write_bytes(host.files["/masks.zip"])


def _annotations(folder: Path) -> None:
    folder.mkdir()
    for i in range(8):
        Image.effect_noise((40, 30), 50 + i).convert("RGB").save(folder / f"{i}.png")
        ring = [[4 + i, 4], [30, 5], [28, 20 + i], [6, 22]]
        shape = {"label": ("cat", "dog")[i % 2], "points": ring, "shape_type": "polygon"}
        head = {"version": "5.5.0", "flags": {}, "imagePath": f"{i}.png", "imageData": None}
        content = {**head, "shapes": [shape], "imageHeight": 30, "imageWidth": 40}
        (folder / f"{i}.json").write_text(json.dumps(content))
