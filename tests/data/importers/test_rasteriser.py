"""The comparison of an import with another rasteriser prints what it found, and sees a mask that is wrong."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import samples
import writers
from PIL import Image

from barm.data.importers import import_data

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "rasteriser.py"


@pytest.mark.parametrize("shift", [0, 3])
def test_the_comparison(shift, tmp_path, monkeypatch, capsys):
    writers.write_coco(tmp_path / "export", samples.samples())
    import_data(tmp_path / "export", tmp_path / "own")
    for path in (tmp_path / "own/masks").rglob("*.png"):
        Image.fromarray(np.roll(np.asarray(Image.open(path)), shift, 1)).save(path)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "export/instances.json"), str(tmp_path / "own")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    objects, pixels, far, least = capsys.readouterr().out.splitlines()
    assert objects == "objects: 6 in the file; every class has as many"
    assert (float(far.split(": ")[1].split()[0]) < 1.5) == (shift == 0)
    assert (float(least.split()[-1]) > 0.98) == (shift == 0)
    assert pixels.startswith("pixels that differ: ")
