"""What is logged, and what a terminal and a log file get."""

from __future__ import annotations

import csv

from barm.api import fit


def test_the_log_holds_every_nth_update_and_the_last(tiny, tmp_path):
    fit(tiny("barm", "3-1", "base.epochs=2", "runtime.log_every=4"), out=tmp_path / "run", steps=[0], quiet=True)
    with (tmp_path / "run/log.csv").open() as file:
        logged = [int(r["iteration"]) for r in csv.DictReader(file) if r["name"] == "loss"]
    total = logged[-1]
    assert total > 4
    assert logged == sorted({*range(1, total, 4), total})
