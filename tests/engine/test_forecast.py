"""`barm train --dry-run` says what a run would be: its configuration, its updates; nothing is fetched or written."""

from __future__ import annotations

import re
import tomllib
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from barm.api import fit
from barm.cli import app
from barm.config import load_config, validate
from barm.engine import compilation
from barm.engine.compilation import Choice
from barm.engine.forecast import forecast
from barm.engine.monitor import Monitor
from barm.engine.prepare import prepare
from barm.engine.runtime import Runtime
from barm.errors import UserError


def test_the_compiler_is_settled_as_in_the_run(tiny_settings, shapes_voc, tmp_path, monkeypatch):
    """Tried for a new run, taken from a run that goes on."""
    seen = []
    monkeypatch.setattr(compilation, "_tried", lambda *_: seen.append("tried") or Choice(False, "false: slower"))
    run, call = tmp_path / "run", partial(words, tiny_settings, shapes_voc, "--set", "runtime.compile=auto")
    told = said(call("--out", str(run)))
    assert "compile = false" in told
    assert "runtime.compile is false: slower" in told
    config = load_config("shapes/2-1/barm", tiny_settings, {"data": {"root": str(shapes_voc)}})
    fit(config, out=run, steps=[0], quiet=True)
    assert "runtime.compile is false: as the run was started with" in said(call("--resume", "--out", str(run)))
    assert seen == ["tried"]


@pytest.mark.others("plop", "dkd-m", "star", "finetune")
@pytest.mark.parametrize("name", ["barm", "plop", "dkd-m", "ssul-m", "star", "joint", "finetune", "segacil"])
def test_it_counts_the_updates_of_the_run(name, tiny_settings, shapes_voc, tmp_path, monkeypatch):
    settings = [*tiny_settings, f"method.name={name}", "increment.epochs=2"]
    settings += ["method.memory.size=6"] if name.endswith("-m") else []
    config = load_config(f"shapes/2-1/{name}", settings, {"data": {"root": str(shapes_voc)}})
    rt = Runtime(config.runtime)
    told = forecast(prepare(config, rt), rt)
    totals: dict[int, int] = {}

    def note(self: Monitor, title: str, step: int, start: int, total: int, *rest) -> None:
        totals[step] = total

    monkeypatch.setattr(Monitor, "start_step", note)
    monkeypatch.setattr(Monitor, "progress", lambda *_: None)
    monkeypatch.setattr(Monitor, "end_step", lambda _: None)
    fit(config, out=tmp_path / "run", quiet=True)
    assert {one.step.index: one.updates for one in told if one.updates} == totals
    assert all(one.training > 0 and one.evaluation > 0 and one.crop == 48 for one in told)


def words(tiny_settings, data: Path, *more: str) -> list[str]:
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    return ["train", "--recipe", "shapes/2-1/barm", "--data", str(data), *settings, *more, "--dry-run"]


def test_it_prints_the_whole_configuration_and_writes_nothing(tiny_settings, shapes_voc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetched = ("--set", "model.pretrained=true")  # no weights are needed to know how long it takes
    done = CliRunner().invoke(app, words(tiny_settings, shapes_voc, *fetched, "--set", "base.crop=auto"))
    assert done.exit_code == 0, done.output
    assert list(tmp_path.iterdir()) == []
    text, rest = done.stdout.split("base.crop is 49: the smallest 16 k + 1 that holds")
    config = validate(tomllib.loads(text))
    expected = load_config("shapes/2-1/barm", [*tiny_settings, "base.crop=49", *fetched[1:]])
    for table in ("task", "model", "method", "base", "increment", "evaluation"):
        assert getattr(config, table) == getattr(expected, table), table
    assert "nothing was written" in rest
    rows = [line.split() for line in rest.splitlines() if re.match(r" +\d ", line)]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert [row[3] for row in rows] == ["49", "48", "48"], "the crop of every step"


def said(words: list[str]) -> str:
    """What the command prints, or what it complains about."""
    done = CliRunner().invoke(app, words)
    return str(done.exception) if isinstance(done.exception, UserError) else done.output


def test_what_would_stop_the_run_stops_it(tiny_settings, shapes_voc, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    call = partial(words, tiny_settings, shapes_voc)
    assert "exists already" in said(call("--out", str(tmp_path / "there")))
    assert "of memory" in said(call("--set", "base.crop=1000000"))
    assert "there is no such folder" in said(call("--start-from", str(tmp_path / "nothing")))
    assert "nothing to resume" in said(call("--resume", "--out", str(tmp_path / "nothing")))


def test_steps_that_are_there_are_not_counted(tiny_settings, shapes_voc, tmp_path):
    run, call = tmp_path / "run", partial(words, tiny_settings, shapes_voc)
    config = load_config("shapes/2-1/barm", tiny_settings, {"data": {"root": str(shapes_voc)}})
    fit(config, out=run, steps=[0], quiet=True)
    for options in (("--resume", "--out", str(run)), ("--start-from", str(run), "--out", str(tmp_path / "new"))):
        rows = [line.split()[0] for line in said(call(*options)).splitlines() if re.match(r" +\d ", line)]
        assert rows == ["1", "2"], options
        other = said(call(*options, "--set", "base.epochs=5"))
        assert "base.epochs is 1 there, 5 here" in other, options
    assert "every step" in said(call("--resume", "--out", str(run), "--step", "0"))


def test_the_largest_evaluation_is_tried(tiny_settings, shapes_voc, monkeypatch):
    seen = []
    monkeypatch.setattr("barm.engine.forecast.evaluate", lambda _method, _network, batches, _rt: seen.extend(batches))
    settings = [*tiny_settings, "evaluation.crop=0", "evaluation.batch_size=2"]
    config = load_config("shapes/offline/barm", settings, {"data": {"root": str(shapes_voc)}})
    rt = Runtime(config.runtime)
    ready = prepare(config, rt)
    forecast(ready, rt)
    width, height = max(ready.data.val.sizes, key=lambda size: size[0] * size[1])
    assert [tuple(batch.image.shape) for batch in seen] == [(2, 3, height, width)]
