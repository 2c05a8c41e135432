"""What a report says of a run's provenance."""

from __future__ import annotations

import shutil

import pytest

from barm.api import fit
from barm.data.saliency.record import Recipe
from barm.report.build import write_report
from barm.report.history import read_run


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (None, "of unknown origin"),
        (
            Recipe(tool="onnxruntime", version="1", file="<u2>.onnx", sha256="0" * 64, settings={"input size": "8x8"}),
            "<u2>.onnx (sha256 000000000000), 8x8",
        ),
    ],
)
def test_the_report_says_which_saliency_maps_were_used(shapes_voc, tiny, tmp_path, recipe, line):
    root = shutil.copytree(shapes_voc, tmp_path / "data")
    if recipe is not None:
        (root / "saliency_map/saliency.json").write_text(recipe.model_dump_json())
    config = tiny("ssul", "2-1")
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    fit(config, out=tmp_path / "run", steps=[0], quiet=True)
    assert read_run(tmp_path / "run", "ssul").provenance["saliency maps"] == line
    text = write_report([tmp_path / "run"], tmp_path / "report.html", images=0).read_text("utf-8")
    assert f"<dt>saliency maps</dt><dd>{line.replace('<', '&lt;').replace('>', '&gt;')}</dd>" in text


def test_methods_without_maps_say_nothing_of_them(tiny_run):
    assert "saliency maps" not in read_run(tiny_run, "barm").provenance
