"""Names that some language would read otherwise are names wherever they are written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import METHOD, RunDirectory
from barm.report.compare import summarise, to_csv, to_latex, to_markdown, write_comparison
from barm.report.extension import extension_table
from barm.report.results import read_results
from barm.report.tables import classes_table, steps_table
from barm.weights.card import Repository, card, code
from editing import edit

MARKUP = ("[/]", "[red]x", "[bold", ":smile:", "a\\")


def printed(table) -> str:
    console = Console(file=io.StringIO(), width=200, emoji=False)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("name", MARKUP)
def test_tables_of_the_terminal(name):
    score = {"old": 0.5, "all": 0.5}
    metrics = {
        "step": 0,
        "learned": [name],
        "miou": score,
        "average_miou": 0.5,
        "forgetting": None,
        "class_iou": {name: 0.25},
        "class_accuracy": {name: 0.75},
    }
    assert name in printed(steps_table(name, {"a": [metrics], name: [metrics]}))
    assert name in printed(classes_table(metrics))
    result = {
        "run": name,
        "agreement": None,
        "learned": [name],
        "class_iou": {name: {"before": None, "after": 0.5}},
        "old": {"before": None, "after": None},
    }
    assert f"new: {name}" in printed(extension_table(result))


@pytest.mark.parametrize("name", ["[/]", "[red]x"])
def test_a_check_and_a_report_of_such_classes(name, cli, shapes_voc, tmp_path):
    shutil.copytree(shapes_voc, tmp_path / "data")
    (tmp_path / "data/classes.txt").write_text(f"{name}\nb\nc\nd\n", "utf-8")
    assert open_source("voc", tmp_path / "data", "val").class_names[1] == name
    status, out, err = cli("data", "check", "data")
    assert (status, err) == (0, "")
    assert name in out


TASK = "@SUM(1) 100 % $x$ <b>_a_"


@pytest.fixture
def results(tiny_run):
    return [replace(read_results([tiny_run])[0], method="=cmd|' /C calc'!A0", task=TASK, title=TASK, path="-1+1")]


def test_a_spreadsheet_finds_no_formula(results):
    rows = list(csv.reader(io.StringIO(to_csv(results))))
    assert all(cell[0] not in "=+-@\t\r" or _is_number(cell) for row in rows for cell in row if cell)
    assert rows[1][1] == "'=cmd|' /C calc'!A0"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_tables_in_files(results, tmp_path):
    rows = summarise(results)
    lines = to_markdown(rows).splitlines()
    assert {len(line.replace("\\|", "").split("|")) for line in lines} == {len(lines[0].split("|"))}
    assert "&lt;b>" in lines[2]
    assert r"\_a\_" in lines[2]
    assert r"100 \% \$x\$ \textless{}b\textgreater{}" in to_latex(rows)
    files = write_comparison(tmp_path / "out", results)  # a dollar in a title begins no formula
    assert all(path.stat().st_size for path in files)


@pytest.fixture
def odd_run(tiny_run, tmp_path):
    """A run whose first class has a name for every language."""
    shutil.copytree(tiny_run, tmp_path / "odd")
    run, name = RunDirectory(tmp_path / "odd"), "a|b `c` <d> *e*"
    for index in run.finished_steps():
        about = run.read(index, METHOD)
        old = about["classes"][1]["name"]
        about["classes"][1]["name"] = name
        run.add(index, {METHOD: about})
        edit(run.step_path(index) / "metrics.json", json.dumps(old), json.dumps(name))
    return run


def test_the_model_card(odd_run):
    text = card(odd_run, 2, Repository("me/odd"))
    escaped = r"a\|b \`c\` &lt;d> \*e\*"
    assert text.count(escaped) >= 3
    assert "<d>" not in text
    for line in text.splitlines():
        if line.startswith("| a"):
            assert len(line.replace("\\|", "").split("|")) == 4


def test_code_within_a_line():
    assert code("a`b``c") == "``` a`b``c ```"
    assert code("two\nlines") == "`two lines`"


@pytest.mark.skipif(os.name == "nt", reason="such names of files are not possible there")
def test_names_are_written_safely(cli, tmp_path):
    """Trained by TOML, with names that are markup, formulas and commands somewhere: all tables and hints hold."""
    names = ["=1+1, [red]x", "-w & <b>|_$HOME\u00e9"]
    root = tmp_path / "own data; echo"
    make_shapes(root, layout="folder", num_classes=2, num_train=8, num_val=2, size=(48, 48))
    (root / "classes.txt").write_text("\n".join(names), "utf-8")
    settings = [word for text in barm_settings() for word in ("--set", text)]
    out = tmp_path / "runs/my run"
    groups = ["--group", '["=1+1, [red]x"]', "--group", '["-w & <b>|_$HOME\u00e9"]']
    status, _, err = cli(
        "train", "--recipe", "shapes/barm", "--data", root, "--out", out, *groups, *settings, "--quiet"
    )
    assert status == 0, err
    status, text, err = cli("compare", out, "--out", tmp_path / "tables", "--quiet")
    assert status == 0, err
    rows = (tmp_path / "tables/compare.csv").read_text("utf-8").splitlines()
    assert not rows[1].startswith(("=", '"=', "-", '"-'))
    assert r"\textless{}b\textgreater{}" in (tmp_path / "tables/compare.tex").read_text("utf-8")
    assert "&lt;b>\\|" in (tmp_path / "tables/compare.md").read_text("utf-8")
    status, _, err = cli("report", out, "--out", tmp_path / "page.html")
    assert status == 0, err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<b>|" not in page
    status, text, err = cli()
    assert status == 0
    assert "'runs/my run'" in text
    assert " runs/my run" not in text.replace("'runs/my run'", "").replace("newest run is runs/my run", "")


def barm_settings() -> tuple[str, ...]:
    return (
        "model.backbone=test_resnet", "model.channels=16", "model.output_stride=16", "base.epochs=1",
        "increment.epochs=1", "base.batch_size=4", "increment.batch_size=4", "base.crop=48", "increment.crop=48",
        "evaluation.crop=48", "runtime.workers=0", "runtime.precision=32-true", "runtime.device=cpu",
        "runtime.tensorboard=false",
    )  # fmt: skip
