"""The commands of docs/annotations.md work in their order, on drawn exports with the names of the page."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from typer.testing import CliRunner

from barm.catalogue import FORMATS
from barm.cli import app
from barm.data.importers.annotations import ImportOptions

PAGE = Path(__file__).parents[2] / "docs" / "annotations.md"
PARTS = ("front_glass", "back_glass", "front_bumper", "back_bumper", "wheel", "hood")
SHORTENED = {  # words that are added to a command; of two equal options the last counts
    "barm train": ["--set", "base.epochs=1", "--set", "base.crop=65", "--set", "increment.crop=65"],
    "barm extend": ["--set", "increment.epochs=1"],
}


def export(folder: Path, classes: tuple[str, ...], number: int) -> None:
    """A COCO export: images of coloured squares, each a class; ids as the photographs' annotations have them."""
    (folder / "images").mkdir(parents=True)
    images, objects, rng = [], [], np.random.default_rng(number)
    for i in range(number):
        image = Image.new("RGB", (64, 48), "gray")
        for name in classes:
            x, y, side = (int(v) for v in (rng.integers(0, 40), rng.integers(0, 30), rng.integers(8, 18)))
            ring = [x, y, x + side, y, x + side, y + side, x, y + side]
            ImageDraw.Draw(image).polygon(ring, fill=tuple(rng.integers(0, 255, 3).tolist()))
            objects.append({"id": len(objects), "image_id": i, "category_id": category(name), "segmentation": [ring]})
        image.save(folder / f"images/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
    categories = [{"id": 1, "name": "_background_"}, *({"id": category(name), "name": name} for name in classes)]
    text = json.dumps({"images": images, "annotations": objects, "categories": categories})
    (folder / "annotations.json").write_text(text)


def category(name: str) -> int:
    return 14 if name == "hood" else 2 + PARTS.index(name)


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(tmp_path / "export-2025", PARTS, 24)
    export(tmp_path / "export-2026", PARTS[-1:], 16)
    weights = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    save_file(
        {k: v.contiguous() for k, v in weights.items() if not k.endswith("num_batches_tracked")}, "lite0.safetensors"
    )
    text = PAGE.read_text("utf-8").split("## Where the numbers")[0].replace("\\\n", " ")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert [c.split()[2] for c in commands if c.startswith("barm data")] == ["import", "import", "check", "check"]
    for line in commands:
        run(line)
    result = json.loads(Path("runs/with-hoods/extension.json").read_text("utf-8"))
    assert result["learned"] == ["hood"]
    assert set(result["class_iou"]) == {"background", *PARTS}
    masks = sorted(Path("seen").rglob("*_mask.png"))
    assert len(masks) == 16
    known = {1, *(category(name) for name in PARTS)}  # 1 is `_background_`
    assert all(set(np.unique(np.asarray(Image.open(mask)))) <= known for mask in masks)


def run(line: str) -> None:
    """One line of a block: a command of ours, or the shell's `echo ... >> file`."""
    if line.startswith("echo"):
        text, _, place = line.removeprefix("echo ").partition(" >> ")
        with Path(place).open("a") as file:
            file.write(f"{shlex.split(text)[0]}\n")
        return
    more = [w for start, words in SHORTENED.items() if line.startswith(start) for w in words]
    done = CliRunner().invoke(app, [*shlex.split(line)[1:], *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_page_has_every_format_and_every_choice():
    text = PAGE.read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.split("## Formats")[1], re.M)
    assert sorted(rows) == sorted(FORMATS)
    asked = {f.name.replace("_", "-") for f in fields(ImportOptions) if f.default == "ask"}
    assert asked == set(
        re.findall(r"^\| .* \| `--([\w-]+) ", text.split("### Choices")[1].split("Other choices")[0], re.M)
    )
