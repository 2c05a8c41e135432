"""Published results: what the file holds, beside one's own runs, and on the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from barm.catalogue import ADE_TASKS, VOC_TASKS
from barm.cli import app
from barm.errors import UserError
from barm.report.compare import Row, Spread
from barm.report.published import find_published, published_results, published_table

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
import published as page


def row(task: str = "15-1 overlap", method: str = "barm") -> Row:
    scores = {name: Spread(0.5, 0.01) for name in ("old", "new", "all", "average", "lost")}
    return Row(task, method, 3, scores, (0.5,), task)


def shown(name: str, *rows: Row) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        for part in published_table(name, rows):
            console.print(part)
    return capture.get()


def test_every_row_is_of_a_known_task_and_in_percent():
    tasks = {"voc": VOC_TASKS, "ade": ADE_TASKS}
    results = published_results()
    assert len(results) > 80
    for p in results:
        assert p.task in tasks[p.data]
        assert p.setting in ("overlap", "disjoint")
        assert all(v is None or 0 < v < 100 for v in p.scores.values())
        if p.scores["old"] is not None and p.task != "10-1":  # RCIL's triple of 10-1 is not consistent
            old, new = int(p.task.split("-")[0]) + 1, 20 - int(p.task.split("-")[0])
            mean = (old * p.scores["old"] + new * p.scores["new"]) / (old + new)
            assert mean == pytest.approx(p.scores["all"], abs=0.15)


def test_numbers_of_the_paper():
    found = {p.method: p.scores["all"] for p in find_published("voc/15-1") if p.source.startswith("BARM")}
    assert found == {"mib": 29.3, "plop": 54.6, "dkd": 69.7, "barm": 70.0}
    found = {p.method: p.scores["all"] for p in find_published("ade/100-5") if p.source.startswith("BARM")}
    assert found == {"mib": 26.0, "plop": 28.8, "barm": 34.1}


def test_own_runs_stand_beside_the_published_ones():
    lines = shown("voc/15-1", row()).splitlines()
    place = next(i for i, line in enumerate(lines) if "yours, 3 runs" in line)
    assert lines[place].split()[:4] == ["barm", "50.0", "50.0", "50.0"]
    assert lines[place - 1].split()[0] == "barm"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("voc/15-2", "no published result of 'voc/15-2'; did you mean 'voc/15-"),
        ("nothing", "no published result of 'nothing': known are voc/10-1, voc/15-1, "),
        ("ade/100-10/disjoint", "no published result"),
    ],
)
def test_a_task_without_published_results(name, line):
    with pytest.raises(UserError, match=line):
        find_published(name)


def test_runs_of_another_task():
    with pytest.raises(UserError, match="the runs of barm are of the task '3-1 overlap', the published results of"):
        published_table("voc/15-1", [row("3-1 overlap")])


def test_the_command_alone_and_as_json():
    result = CliRunner().invoke(app, ["compare", "--published", "voc/15-1/disjoint"])
    assert result.exit_code == 0
    assert "70.78" in result.output
    result = CliRunner().invoke(app, ["compare", "--published", "voc/15-1/disjoint", "--json"])
    assert {p["method"] for p in json.loads(result.output)["published"]} == {
        "dkd",
        "dkd-m",
        "star",
        "star-m",
        "rcil",
        "segacil",
    }


def test_the_page_has_the_tables():
    assert page.PAGE.read_text("utf-8") == page.written(), "run `python docs/published.py`"
