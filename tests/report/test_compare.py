"""`barm compare`: grids, tables in every form, failures, and what is not repeated."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from barm.api import fit
from barm.cli import app
from barm.errors import UserError
from barm.report.compare import summarise, tables, to_json, to_latex, to_markdown
from barm.report.results import Result, read_result, read_results
from barm.report.tables import left_out


def result(
    method: str, seed: int, value: float, task: str = "2-1 overlap", new: float | None = 0.5, **settings
) -> Result:
    scores = {"old": value, "new": new, "all": value, "average": value, "lost": 0.1}
    named = {name.replace("__", "."): v for name, v in settings.items()}
    return Result(f"runs/{method}{seed}", method, task, seed, 0, (0.9, value), scores, {}, named)


def shown(runs: list[Result]) -> str:
    """What the terminal shows of a comparison, on one line."""
    console = Console(width=200, file=io.StringIO())
    for part in tables(summarise(runs)):
        console.print(part)
    return " ".join(console.file.getvalue().split())


def test_mean_and_sample_deviation():
    rows = summarise([result("a", 1, 0.2), result("b", 1, 0.5), result("a", 2, 0.4), result("a", 3, 0.6)])
    assert [(r.method, r.runs) for r in rows] == [("a", 3), ("b", 1)]
    assert str(rows[0].scores["all"]) == "40.0 ± 20.0"
    assert str(rows[1].scores["all"]) == "50.0 ± 0.0"
    assert rows[0].curve == pytest.approx((0.9, 0.4))


def test_a_score_that_a_run_lacks_is_a_dash():
    rows = summarise([result("a", 1, 0.2, new=None), result("a", 2, 0.4)])
    assert rows[0].scores["new"] is None
    assert "| – |" in to_markdown(rows)
    assert "-- &" in to_latex(rows)


def test_markdown_and_latex_have_a_row_per_method_and_task():
    rows = summarise([result("a", 1, 0.2), result("a", 1, 0.2, task="1-1_b disjoint"), result("b", 1, 0.3)])
    assert len(to_markdown(rows).splitlines()) == 2 + 3
    latex = to_latex(rows)
    assert latex.count(r"\midrule") == 2
    assert "| 20.0 |" in to_markdown(rows)


def test_a_single_run_has_no_deviation():
    """A deviation of 0.0 would say that repetitions agree."""
    rows = summarise([result("a", 1, 0.2), result("a", 2, 0.4), result("b", 1, 0.3)])
    several, single = to_markdown(rows).splitlines()[2:]
    assert "| 30.0 ± 14.1 |" in several
    assert "| 30.0 |" in single
    assert "±" not in single
    several, single = [line for line in to_latex(rows).splitlines() if line.startswith("2-1")]
    assert r"30.0 $\pm$ 14.1" in several
    assert "pm" not in single


@pytest.mark.parametrize("silent", [("background",), ("background", "ghost_1")])
def test_tables_name_the_classes_that_are_in_no_mean(silent):
    runs = [replace(result("a", 1, 0.2), unmeasured=silent), replace(result("b", 1, 0.3), unmeasured=silent)]
    printed = shown(runs)
    told = f"No mean includes {' and '.join(silent)}, which the masks do not show"
    assert told in printed
    assert "counts against its true class" in printed
    assert "old: step 0's classes; new" in printed
    assert told.replace("_", r"\_") in to_markdown(summarise(runs))
    assert told.replace("_", r"\_") in to_latex(summarise(runs))
    assert json.loads(to_json(runs, summarise(runs)))["rows"][0]["unmeasured"] == list(silent)
    other = result("a", 1, 0.2, task="1-1 overlap")
    for form in (to_markdown, to_latex):
        assert f"2-1 overlap: no mean includes {silent[0]}" in form(summarise([*runs, other]))
        assert "mean" not in form(summarise([other]))
    assert "old: step 0's classes, and background where the masks show it; new" in shown([*runs, other])
    assert "old: step 0's classes and background; new" in shown([other])


def test_of_many_classes_in_no_mean_the_first_are_named():
    told = left_out([f"class {i}" for i in range(20)])
    assert "class 0, class 1" in told
    assert "and 12 others" in told
    assert left_out([]) == ""


def test_other_settings_are_no_repetitions():
    plain, changed = {"method__pseudo": True, "base__epochs": 2}, {"method__pseudo": False, "base__epochs": 2}
    rows = summarise([result("a", 1, 0.2, **plain), result("a", 1, 0.6, **changed), result("a", 2, 0.4, **plain)])
    assert [(r.method, r.runs) for r in rows] == [("a (method.pseudo=true)", 2), ("a (method.pseudo=false)", 1)]
    many = [result("a", 1, 0.2, **{f"x{i}": value for i in range(5)}) for value in (1, 2)]
    assert [r.method for r in summarise(many)] == [
        f"a (x0={v}, x1={v}, x2={v}, and 2 more, variant {v})" for v in (1, 2)
    ]


def test_files_of_one_name_are_no_repetitions():
    """Paths are shortened where they are shown, not where runs are told apart."""
    runs = [result("a", 1, 0.2, model__weights=f"/home/me/{place}/backbone.pth") for place in ("one", "two")]
    rows = summarise(runs)
    assert [(r.method, r.runs) for r in rows] == [
        (f"a (model.weights=.../{place}/backbone.pth)", 1) for place in ("one", "two")
    ]
    assert "/home" not in to_json(runs, rows)


def test_a_row_s_runs_have_equal_numbers_of_steps():
    longer = result("a", 2, 0.3)
    with pytest.raises(UserError, match="a2 has 3 steps but runs/a1 has 2"):
        summarise([result("a", 1, 0.2), replace(longer, steps=(0.9, 0.5, 0.3))])


def test_names_cannot_break_a_table():
    rows = summarise([result("a", 1, 0.2, task="b|c_d / 50% {x} # ~^\\ overlap")])
    line = to_markdown(rows).splitlines()[2]
    assert line.count(" | ") == to_markdown(rows).splitlines()[0].count(" | ")
    assert "b\\|c\\_d" in line
    assert r"b|c\_d / 50\% \{x\} \# \textasciitilde{}\textasciicircum{}\textbackslash{} overlap" in to_latex(rows)


def test_runs_are_told_apart_by_their_configuration(tiny, tmp_path):
    fit(tiny("finetune", "3-1"), out=tmp_path / "a", quiet=True)
    fit(tiny("finetune", "3-1", "seed=2", "runtime.workers=1"), out=tmp_path / "b", quiet=True)
    fit(tiny("finetune", "3-1", "method.loss=ce"), out=tmp_path / "c", quiet=True)
    results = read_results([tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "b/../a"])
    assert [(r.method, r.runs) for r in summarise(results)] == [
        ("finetune (method.loss=bce)", 2),
        ("finetune (method.loss=ce)", 1),
    ]


def test_class_orders_are_other_tasks(tiny):
    plans = [tiny("finetune", "2-1", f"task.order={o}").task.plan(tuple("bwxyz"), 0) for o in (0, 2, 2, 3)]
    assert plans[0].classes == (1, 2, 3, 4)
    assert plans[1] == plans[2]
    assert len({p.classes for p in plans}) == 3
    assert all(sorted(p.classes) == [1, 2, 3, 4] for p in plans)


def test_unfinished_runs_are_refused(tiny, tmp_path):
    fit(tiny("finetune", "3-1"), out=tmp_path / "run", steps=[0], quiet=True)
    with pytest.raises(UserError, match="is not finished"):
        read_result(tmp_path / "run")


def test_the_command_prints_a_row_per_run(tiny, tmp_path):
    for name in ("finetune", "joint"):
        fit(tiny(name, "3-1"), out=tmp_path / name, quiet=True)
    shown = CliRunner().invoke(app, ["compare", str(tmp_path / "finetune"), str(tmp_path / "joint")])
    assert shown.exit_code == 0
    assert "finetune" in shown.output
    assert "joint" in shown.output
    assert "3-1 overlap" in shown.output
