"""Grids: what is missing is trained, what is there is compared, failures, and what is wrong."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from barm.cli import app
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.grid import config_of, each_run, run_grid, without_known
from barm.grid_file import Cell, GridConfig, cells, read_grid
from barm.jobs.control import _planned
from barm.report.compare import SCORES, summarise, write_comparison
from barm.report.results import read_result, read_results

ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize(
    ("error", "expected"), [(UserError("no step 2"), "no step 2"), (KeyError("step02"), "KeyError: 'step02'")]
)
def test_the_line_of_a_failed_run(error, expected, shapes_voc, tiny_settings, tmp_path):
    def fail(cell: Cell) -> None:
        raise error

    said: list[str] = []
    wanted = grid(tiny_settings, methods=("finetune",))
    _, failed = each_run(wanted, tmp_path, shapes_voc, fail, said.append, generated=False)
    assert failed == [f"3-1-overlap-s1/finetune: {expected}"]
    assert said == [f"failed: {failed[0]}"]


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


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.toml")), ids=lambda path: path.stem)
def test_the_grids_of_the_benchmarks_are_valid(path):
    found = read_grid(path)
    number = len(found.methods) * len(found.tasks) * len(found.settings) * len(found.seeds)
    assert len(set(cells(found))) == number - len(found.skip)
    assert found.quick is None or 0 < len(cells(found.shortened())) < number


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


def test_variants_are_recipes_with_other_settings(shapes_voc, tiny_settings, tmp_path):
    variants = {"finetune-7": {"recipe": "finetune", "overrides": ["increment.batch_size=3"]}}
    wanted = grid(tiny_settings, methods=("finetune", "finetune-7"), variants=variants)
    paths, failed = run_grid(wanted, tmp_path, shapes_voc, lambda _: None, quiet=True)
    assert not failed
    assert [path.name for path in paths] == ["finetune", "finetune-7"]
    assert [RunDirectory(path).config().increment.batch_size for path in paths] == [4, 3]
    assert [row.method for row in summarise(read_results(paths))] == [
        "finetune (increment.batch_size=4)",
        "finetune (increment.batch_size=3)",
    ]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"barm": {"recipe": "finetune", "overrides": ["seed=2"]}}, "a variant may not be called 'barm'"),
        ({"../x": {"recipe": "finetune", "overrides": ["seed=2"]}}, "a variant may not be called '../x'"),
        ({"..": {"recipe": "finetune", "overrides": ["seed=2"]}}, "a variant may not be called '..'"),
        ({"new": {"recipe": "fintune", "overrides": ["seed=2"]}}, "unknown recipe 'fintune' in 'shapes'; did you mean"),
    ],
)
def test_a_variant_has_a_name_of_its_own_and_a_recipe(tiny_settings, variants, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        grid(tiny_settings, variants=variants)


def test_known_results_are_not_trained_again(shapes_voc, tiny_settings, tmp_path):
    first = grid(tiny_settings, methods=("finetune",))
    paths, _ = run_grid(first, tmp_path / "there", shapes_voc, lambda _: None, quiet=True)
    write_comparison(tmp_path / "tables", read_results(paths))
    stored = tmp_path / "tables/compare.json"
    known = read_results([stored])
    assert [(r.method, r.seed, r.scores) for r in known] == [(r.method, r.seed, r.scores) for r in read_results(paths)]
    rest = {"out": tmp_path / "rest", "data": shapes_voc}
    both = without_known(grid(tiny_settings, methods=("finetune", "joint")), known, **rest)
    assert [cell.method for cell in cells(both)] == ["joint"]
    for other in (("base.epochs=2",), ("data.names=['a', 'b', 'c', 'd']",)):
        changed = grid((*tiny_settings, *other), methods=("finetune",))
        assert cells(without_known(changed, known, **rest)) == cells(changed), other
    assert cells(without_known(grid(tiny_settings, methods=("finetune",), seeds=(2,)), known, **rest))
    make_shapes(tmp_path / "other", layout="voc", num_classes=4, num_train=24, num_val=6, size=(48, 48), seed=4)
    with pytest.raises(UserError, match=r"was trained or measured on other images than those of the grid"):
        without_known(first, known, tmp_path / "rest", tmp_path / "other")
    table = json.loads(stored.read_text())
    for run in table["runs"]:
        run["settings"] |= {"model.weights": ".../ears.pth", "model.mean": [0.5] * 3, "model.std": [0.5] * 3}
    (tmp_path / "ears.json").write_text(json.dumps(table))
    for name, number in (("ears.pth", 0), (tmp_path / "elsewhere/ears.pth", 0), ("eyes.pth", 1)):
        model = (f"model.weights={name}", "model.mean=[0.5, 0.5, 0.5]", "model.std=[0.5, 0.5, 0.5]")
        weighted = grid((*tiny_settings, *model), methods=("finetune",))
        assert len(cells(without_known(weighted, read_results([tmp_path / "ears.json"]), **rest))) == number, name
    table = json.loads(stored.read_text())
    for run in table["runs"]:
        del run["settings"]["evaluation.absent"], run["settings"]["method.class_balance"]
    (tmp_path / "older.json").write_text(json.dumps(table))
    older = read_results([tmp_path / "older.json"])
    assert cells(without_known(first, older, **rest)) == []
    assert run_grid(without_known(first, older, **rest), tmp_path / "rest", None, print) == ([], [])
    assert len(read_results([stored, tmp_path / "older.json", *paths])) == 1


def test_the_command_adds_to_stored_results(shapes_voc, tiny_settings, tmp_path):
    table = {"recipes": "shapes", "methods": ["finetune", "joint"], "tasks": ["3-1"], "overrides": tiny_settings[:-1]}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    (tmp_path / "grid.toml").write_text(f'{text}[quick]\nmethods = ["finetune"]\n')
    shared = ["compare", "--grid", str(tmp_path / "grid.toml"), "--data", str(shapes_voc), "--set", tiny_settings[-1]]
    done = CliRunner().invoke(app, [*shared, "--quick", "--out", str(tmp_path / "quick")])
    assert done.exit_code == 0, done.output
    assert [path.parent.name for path in tmp_path.glob("quick/*/*/step00")] == ["finetune"]
    kept = str(tmp_path / "quick/compare.json")
    done = CliRunner().invoke(app, [*shared, kept, "--out", str(tmp_path / "whole")])
    assert done.exit_code == 0, done.output
    assert [path.parent.name for path in tmp_path.glob("whole/*/*/step00")] == ["joint"]
    document = json.loads((tmp_path / "whole/compare.json").read_text())
    assert [run["method"] for run in document["runs"]] == ["finetune", "joint"]
    assert len(document["rows"]) == 2


@pytest.mark.parametrize("text", ["[]", "{}", '{"runs": 3}', '{"runs": [{"path": "x"}]}', "no json"])
def test_what_is_no_comparison_is_one_line(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json (is no comparison|is not valid JSON)") as error:
        read_results([tmp_path / "x.json"])
    assert "\n" not in str(error.value)


def test_the_quick_table_is_checked_with_the_file(tmp_path):
    start = 'recipes = "shapes"\nmethods = ["barm"]\ntasks = ["6-1"]\n'
    path = tmp_path / "grid.toml"
    path.write_text(start)
    with pytest.raises(UserError, match=r"grid\.toml has no \[quick\] table"):
        read_grid(path, quick=True)
    path.write_text(f'{start}[quick]\nmethod = ["barm"]\n')
    with pytest.raises(UserError, match=r"grid\.toml: unknown key 'quick\.method'; did you mean 'methods'"):
        read_grid(path)
    path.write_text(f'overrides = ["seed=2"]\n{start}[quick]\nseeds = [3]\noverrides = ["base.updates=9"]\n')
    short = read_grid(path, ["base.flip=0"], quick=True)
    assert (short.seeds, short.overrides) == ((3,), ("seed=2", "base.updates=9", "base.flip=0"))
    path.write_text(f"{start}[quick]\noverrides = 5\n")
    with pytest.raises(UserError, match=r"grid\.toml: quick\.overrides: "):
        read_grid(path)
    path.write_text(f'skip = ["6-1-overlap-s1/barn"]\n{start}')
    with pytest.raises(UserError, match=r"grid\.toml: skip: there is no run '6-1-overlap-s1/barn'; did you mean"):
        read_grid(path)


def test_later_overrides_reach_variants(tmp_path):
    (tmp_path / "grid.toml").write_text("""
recipes = "shapes"
methods = ["barm", "long"]
tasks = ["6-1"]
[variants.long]
recipe = "barm"
overrides = ["base.epochs=50", "increment.epochs=40"]
[quick]
overrides = ["base.epochs=1"]
""")
    whole, short = (read_grid(tmp_path / "grid.toml", ["seed=5"], quick=quick) for quick in (False, True))
    lengths = [
        [(c.base.epochs, c.increment.epochs, c.seed) for c in (config_of(g, cell, tmp_path) for cell in cells(g))][1]
        for g in (whole, short)
    ]
    assert lengths == [(50, 40, 5), (1, 40, 5)]


def test_jobs_wait_for_runs_of_the_plan_alone(tiny_settings, tmp_path):
    wanted = grid(tiny_settings, same_start=(("finetune", "joint"),))
    assert [run.starts for run in _planned(wanted, tmp_path)] == [(), ("3-1-overlap-s1/finetune",)]
    rest = wanted.model_copy(update={"skip": ("3-1-overlap-s1/finetune",)})
    assert [run.starts for run in _planned(rest, tmp_path)] == [()]
