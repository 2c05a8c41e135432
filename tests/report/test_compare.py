"""`barm compare`: grids, tables in every form, failures, and what is not repeated."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from barm.api import fit
from barm.cli import app
from barm.errors import UserError
from barm.grid import Cell, GridConfig, cells, read_grid, run_grid
from barm.report.compare import (
    SCORES,
    Result,
    read_result,
    read_results,
    summarise,
    to_json,
    to_latex,
    to_markdown,
    write_comparison,
)

ROOT = Path(__file__).parents[2]


def result(
    method: str, seed: int, value: float, task: str = "2-1 overlap", new: float | None = 0.5, **settings
) -> Result:
    scores = {"old": value, "new": new, "all": value, "average": value, "lost": 0.1}
    named = {name.replace("__", "."): v for name, v in settings.items()}
    return Result(f"runs/{method}{seed}", method, task, seed, 0, (0.9, value), scores, {}, named)


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
    assert r"20.0 $\pm$ 0.0" in latex


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


def grid(tiny_settings, methods=("finetune", "joint"), **values) -> GridConfig:
    values = {"tasks": ("3-1",), **values}
    return GridConfig(recipes="shapes", methods=methods, overrides=tiny_settings, **values)


def test_a_grid_trains_what_is_missing_and_shares_the_start(shapes_voc, tiny_settings, tmp_path):
    said: list[str] = []
    wanted = grid(tiny_settings, seeds=(1, 2), same_start=(("finetune", "joint"),))
    paths, failed = run_grid(wanted, tmp_path, shapes_voc, said.append, quiet=True)
    assert not failed
    assert len(paths) == len(said) == 4
    for seed in (1, 2):
        first = [(tmp_path / Cell(m, "3-1", "overlap", 0, seed).name() / "step00") for m in ("finetune", "joint")]
        contents = {(p / "model.safetensors").read_bytes() for p in first}
        assert len(contents) == 1

    said.clear()
    assert run_grid(wanted, tmp_path, shapes_voc, said.append, quiet=True) == (paths, [])
    assert said == []

    results = [read_result(p) for p in paths]
    for path in write_comparison(tmp_path / "tables", results):
        assert path.stat().st_size > 0
    with (tmp_path / "tables/compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(x["method"], x["seed"]) for x in lines] == [(r.method, str(r.seed)) for r in results]
    stored = json.loads((paths[0] / "step01/metrics.json").read_text())
    assert float(lines[0]["all"]) == stored["miou"]["all"]
    document = json.loads((tmp_path / "tables/compare.json").read_text())
    assert document["runs"][0]["provenance"]["torch"]
    assert set(document["rows"][0]["scores"]) == set(SCORES)


def test_a_failed_run_does_not_lose_the_others(shapes_voc, tiny_settings, tmp_path):
    wanted = grid(tiny_settings, methods=("finetune",), tasks=("3-1", "3-7"))
    paths, failed = run_grid(wanted, tmp_path, shapes_voc, lambda _: None, quiet=True)
    assert len(paths) == 1
    assert "3-7-overlap-s1/finetune" in failed[0]
    assert "does not divide" in failed[0]


def test_finished_runs_with_other_settings_are_not_taken_for_the_grid_s(shapes_voc, tiny_settings, tmp_path):
    run_grid(grid(tiny_settings, methods=("finetune",)), tmp_path / "out", shapes_voc, lambda _: None, quiet=True)
    other = grid((*tiny_settings, "base.epochs=2"), methods=("finetune",))
    paths, failed = run_grid(other, tmp_path / "out", shapes_voc, lambda _: None, quiet=True)
    assert paths == []
    assert "trained with other settings (base.epochs is 1 there, 2 here): choose another --out" in failed[0]
    shutil.copytree(shapes_voc, tmp_path / "moved")
    same = grid(tiny_settings, methods=("finetune",))
    paths, failed = run_grid(same, tmp_path / "out", tmp_path / "moved", lambda _: None, quiet=True)
    assert paths == []
    assert "data.root" in failed[0]


def test_generated_data_is_compared_with_the_grid(tiny_settings, tmp_path):
    def go(**shapes):
        about = {"classes": 4, "train": 12, "val": 4, "size": 48, **shapes}
        wanted = grid(tiny_settings, methods=("finetune",), shapes=about)
        return run_grid(wanted, tmp_path, None, lambda _: None, quiet=True)

    paths, failed = go()
    assert not failed
    assert go() == (paths, [])
    with pytest.raises(UserError, match=r"generated with another \[shapes\] \(seed is 0 there, 1 here\)"):
        go(seed=1)
    (tmp_path / "data.json").unlink()
    with pytest.raises(UserError, match="which says what was generated"):
        go()


def test_a_grid_names_recipes():
    assert grid(()).methods == ("finetune", "joint")
    assert GridConfig(recipes="voc", methods=("mib-published",), tasks=("15-1",)).methods == ("mib-published",)


def test_a_damaged_run_does_not_lose_the_others(shapes_voc, tiny_settings, tmp_path):
    wanted = grid(tiny_settings)
    paths, _ = run_grid(wanted, tmp_path, shapes_voc, lambda _: None, quiet=True)
    (paths[0] / "config.toml").write_text("seed = ")
    again, failed = run_grid(wanted, tmp_path, shapes_voc, lambda _: None, quiet=True)
    assert again == paths[1:]
    assert "config.toml is damaged" in failed[0]


def test_given_runs_are_looked_at_before_a_grid_works(tmp_path, monkeypatch):
    (tmp_path / "g.toml").write_text('recipes="shapes"\nmethods=["mib"]\ntasks=["6-1"]')
    monkeypatch.setattr("barm.grid.run_grid", lambda *_args, **_more: pytest.fail("the grid ran"))
    shown = CliRunner().invoke(app, ["compare", str(tmp_path / "absent"), "--grid", str(tmp_path / "g.toml")])
    assert isinstance(shown.exception, UserError)
    assert "absent is not a run" in str(shown.exception)


def test_a_grid_that_is_no_text(tmp_path):
    (tmp_path / "g.toml").write_bytes(b"recipes = 'caf\xe9'")
    with pytest.raises(UserError, match="not UTF-8"):
        read_grid(tmp_path / "g.toml")


def test_class_orders_are_other_tasks(tiny):
    plans = [tiny("finetune", "2-1", f"task.order={o}").task.plan(tuple("bwxyz"), 0) for o in (0, 2, 2, 3)]
    assert plans[0].classes == (1, 2, 3, 4)
    assert plans[1] == plans[2]
    assert len({p.classes for p in plans}) == 3
    assert all(sorted(p.classes) == [1, 2, 3, 4] for p in plans)


@pytest.mark.parametrize("name", ["shapes-small", "shapes"])
def test_the_grids_of_the_benchmarks_are_valid(name):
    found = read_grid(ROOT / f"benchmarks/{name}.toml")
    assert len(set(cells(found))) == len(found.methods) * len(found.tasks) * len(found.settings) * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('recipes="shapes"\nmethods=["mip"]\ntasks=["6-1"]', "unknown recipe 'mip' in 'shapes'.*mib"),
        ('recipes="shaeps"\nmethods=["mib"]\ntasks=["6-1"]', "no recipes for 'shaeps'.*shapes"),
        ('recipes="shapes"\nmethods=["mib"]\ntasks=["6-1"]\nseeds=[]', "seeds: .*at least 1"),
        ('recipes="shapes"\nmethods=["mib"]\ntasks=["6-1"]\nseeds=[1, 2, 1]', "seeds: '1' stands there twice"),
        ('recipes="shapes"\nmethods=["mib", "mib"]\ntasks=["6-1"]', "methods: 'mib' stands there twice"),
        ('recipes="shapes"\nmethods=["mib"]\ntasks=[]', "tasks: .*at least 1"),
        ('recipes="shapes"\nmethods=["mib"]\ntask=["6-1"]', "unknown key 'task'.*tasks|tasks: Field required"),
        ("recipes=", "not valid TOML"),
    ],
)
def test_a_grid_that_is_wrong(text, message, tmp_path):
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_grid(tmp_path / "g.toml")


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
