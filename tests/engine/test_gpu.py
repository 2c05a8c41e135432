"""Real sizes on a GPU: the paper's network on 500 x 375 pictures, step 0 and step 1, in bf16."""

from __future__ import annotations

import csv
import math

import pytest

from barm.api import fit
from barm.config import load_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import RunDirectory

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("layout", "task", "batch", "terms"),
    [
        ("voc", "15-1", 16, {"pb_bce", "bga_triplet", "bfd", "gkd", "bga_bce"}),
        ("ade", "100-10", 8, {"pb_bce", "bga_triplet", "bfd", "gkd", "bga_bce"}),
    ],
)
def test_real_size_steps(layout, task, batch, terms, tmp_path):
    root = tmp_path / "data"
    make_shapes(root, layout=layout, num_classes=None, num_train=8 * batch, num_val=8, size=(500, 375), seed=1)
    settings = [
        "model.pretrained=false",
        "base.epochs=1",
        "increment.epochs=1",
        f"base.batch_size={batch // 2}",
        f"increment.batch_size={batch // 2}",
        "runtime.device=cuda",
        "runtime.precision=bf16-mixed",
        "runtime.workers=4",
    ]
    config = load_config(f"{layout}/{task}/barm", settings, {"data": {"root": str(root)}})
    metrics = fit(config, out=tmp_path / "run", steps=[0, 1], quiet=True)

    assert RunDirectory(tmp_path / "run").finished_steps() == [0, 1]
    assert [m["step"] for m in metrics] == [0, 1]
    with (tmp_path / "run/log.csv").open() as file:
        rows = [(int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file)]
    assert all(math.isfinite(value) for _, _, value in rows)
    assert {name for step, name, _ in rows if step == 1} == terms | {"loss", "lr", "images_per_second", "memory_mb"}
