"""`runtime.compile=auto` is settled once, by trying some updates, and changes nothing else of a run."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import tomllib
from functools import partial
from pathlib import Path

import pytest
import torch

from barm.api import fit
from barm.config import load_config
from barm.engine import compilation
from barm.engine import run as sequence
from barm.engine.capacity import update_need
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.compilation import Cost, Times, choice, cost_of
from barm.engine.config import RunConfig, RuntimeConfig
from barm.engine.prepare import prepare
from barm.engine.runtime import Runtime
from barm.engine.trial import try_updates
from barm.errors import Stopped, UserError
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig
from forked import ended, ranks

AUTO = "runtime.compile=auto"
FILES = ("model.safetensors", "counts.json", "metrics.json")


@pytest.mark.parametrize(
    ("cost", "updates", "steps", "expected"),
    [
        (Cost(0.84, 0.80, 95), 4500, 6, False),  # 180 s saved, 570 s compiling
        (Cost(0.84, 0.80, 95), 45_000, 6, True),  # 1800 s saved
        (Cost(1.0, 0.5, 10), 100, 5, False),  # 50 s for 50 s
        (Cost(1.0, 0.5, 10), 101, 5, True),
        (Cost(0.5, 1.0, 0), 10**6, 1, False),  # slower
        (Cost(0.5, 0.5, 0), 10**6, 1, False),
    ],
)
def test_it_pays_if_the_updates_save_more_than_compiling_takes(cost, updates, steps, expected):
    found = choice(cost, updates, steps)
    assert found.compile is expected
    assert found.reason.startswith("true: " if expected else "false: ")


def test_the_reason_has_the_numbers():
    told = choice(Cost(0.84, 0.80, 95), 2000, 1).reason
    assert told == "false: each of 2000 updates takes 0.84 s, compiled 0.80 s, and compiling the only step takes 95 s"


def test_compiling_is_what_the_first_compiled_update_takes_longer():
    """What both first updates do beside, such as starting loaders, is not the compiler's."""
    found = cost_of(Times(3.0, 1.0), Times(12.0, 0.5))
    assert found == Cost(eager=1.0, compiled=0.5, compiling=9.5)
    assert cost_of(Times(9.0, 1.0), Times(2.0, 0.5)).compiling == 0


def test_a_long_update_is_tried_as_often_as_asked(tiny, monkeypatch):
    monkeypatch.setattr("barm.engine.trial.LONG", 0.0)
    config = tiny("barm", "2-1")
    rt = Runtime(config.runtime)
    ready = prepare(config, rt)
    dataset = compilation.train_dataset(config, ready.data, ready.steps[0])
    for least in (1, 3):
        found = try_updates(config, rt, ready, ready.steps[0], dataset, least=least)
        assert len(found.later) == least - 1


def test_a_runtime_whose_choice_is_open_does_not_compile():
    """An evaluation needs none; before a trial, memory has to suffice for updates that are not compiled."""
    settled, open_ = (Runtime(RuntimeConfig(device="cpu", compile=value)) for value in (False, "auto"))
    assert open_.compile is False
    needs = [update_need(NetworkConfig(backbone="test_resnet"), METHODS["barm"](), rt) for rt in (settled, open_)]
    assert needs[0] == needs[1]


def test_other_words_are_refused(tiny):
    with pytest.raises(UserError, match=r"^runtime\.compile: Input should be True, False or 'auto', got 'sometimes'"):
        tiny("barm", "2-1", "runtime.compile=sometimes")


@pytest.fixture
def eager(monkeypatch):
    """torch's graphs without its compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.fixture
def costs(monkeypatch, eager):
    """A function that decides what the trials find: trials run, and their times are replaced."""

    def decide(found: Cost) -> None:
        monkeypatch.setattr(compilation, "cannot_pay", lambda *_: False)
        monkeypatch.setattr(compilation, "cost_of", lambda _eager, _compiled: found)

    return decide


def stored(run: Path) -> object:
    return tomllib.loads((run / "config.toml").read_text())["runtime"]["compile"]


def forbidden(*_args: object, **_options: object) -> None:
    raise AssertionError("measured again")


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]


def test_the_choice_is_printed_stored_and_kept(tiny, tmp_path, costs, monkeypatch, capsys):
    config = tiny("barm", "2-1", AUTO)
    costs(Cost(1.0, 0.5, 0.1))
    fit(config, out=tmp_path / "run", steps=[0])
    reason = "true: each of 10 updates takes 1.0 s, compiled 0.50 s, and compiling each of 3 steps takes 0.10 s"
    assert f"runtime.compile is {reason}" in said(capsys)
    assert stored(tmp_path / "run") is True
    assert RunDirectory(tmp_path / "run").provenance()["chosen"]["runtime.compile"] == reason
    monkeypatch.setattr(compilation, "_tried", forbidden)
    seen: list[bool] = []
    setup = Runtime.setup

    def noted(self: Runtime, *args, **options):
        seen.append(self.compile)
        return setup(self, *args, **options)

    monkeypatch.setattr(Runtime, "setup", noted)
    fit(config, out=tmp_path / "run", steps=[1], resume=True)
    assert "runtime.compile is true: as the run was started with" in said(capsys)
    assert stored(tmp_path / "run") is True
    fit(load_config(tmp_path / "run/config.toml"), out=tmp_path / "run", steps=[2], resume=True)
    assert seen == [True, True]


def same_files(one: Path, two: Path, steps: int) -> bool:
    names = [f"step{step:02d}/{file}" for step in range(steps) for file in FILES]
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


@pytest.mark.parametrize("name", ["barm", "ssul-m"])
def test_a_run_that_is_not_compiled_is_the_same_bit_for_bit(name, tiny, tmp_path, costs):
    """With dropout, whose random numbers a trial must not use up."""
    costs(Cost(1.0, 2.0, 0.1))
    more = ["method.memory.size=6"] if name.endswith("-m") else []
    for value in ("auto", "false"):
        config = tiny(name, "2-1", f"runtime.compile={value}", "model.dropout=0.3", *more)
        fit(config, out=tmp_path / value, steps=[0, 1], quiet=True)
    assert stored(tmp_path / "auto") is False
    assert same_files(tmp_path / "auto", tmp_path / "false", 2)


def test_updates_that_take_less_than_compiling_need_no_trial_of_it(tiny, monkeypatch, eager):
    """Seconds of training are no reason to compile for minutes."""
    config, tried = tiny("barm", "2-1", AUTO), list[bool]()
    rt, whole = Runtime(config.runtime), compilation._times
    monkeypatch.setattr(compilation, "_compiler", lambda _rt: (1000.0, ""))
    monkeypatch.setattr(compilation, "_times", lambda *given: tried.append(given[-1]) or whole(*given))
    found = compilation._tried(prepare(config, rt), rt, (), lambda _: None)
    assert found.compile is False
    assert re.fullmatch(r"false: all updates together take \d+(\.\d+)? s, and compiling longer", found.reason)
    assert tried == [False]


def test_a_stop_while_it_is_tried_is_one(tiny, tmp_path, monkeypatch, eager):
    """As in training: a message and the signal's status; nothing is left, also no folder of the compiler."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = compilation.try_updates

    def stopped(*given, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(*given, **options)

    monkeypatch.setattr(compilation, "try_updates", stopped)
    with pytest.raises(Stopped, match="nothing was saved yet: start anew") as found:
        fit(tiny("barm", "2-1", AUTO), out=tmp_path / "run", quiet=True)
    assert found.value.signum == signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_random_numbers_and_the_scaler_are_as_before(tiny, monkeypatch, eager):
    config = tiny("barm", "2-1", AUTO, "model.dropout=0.3")
    rt = Runtime(config.runtime)
    ready = prepare(config, rt)
    scaler, loaded = {"scale": 3.0}, list[object]()
    monkeypatch.setattr(compilation, "cannot_pay", lambda *_: False)
    monkeypatch.setattr(rt, "scaler_state", lambda: scaler)
    monkeypatch.setattr(rt, "load_scaler_state", loaded.append)
    before = torch.get_rng_state()
    found = compilation._tried(ready, rt, (), lambda _: None)
    assert "takes" in found.reason
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded == [scaler]
    assert rt.compile is False


def broken(message: str, *, first: int):
    """A compiler whose work fails from the `first` time on."""
    calls: list[object] = []

    def backend(graph: torch.fx.GraphModule, _given: list[torch.Tensor]) -> object:
        calls.append(graph)
        if len(calls) > first:
            raise RuntimeError(message)
        return graph.forward

    return partial(torch.compile, backend=backend)


@pytest.mark.parametrize("first", [0, 1], ids=["no compiler", "not this network"])
def test_without_a_compiler_it_is_false_and_says_why(first, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", broken("No working C++ compiler found", first=first))
    monkeypatch.setattr(compilation, "cannot_pay", lambda *_: False)
    fit(tiny("barm", "2-1", AUTO), out=tmp_path / "run", steps=[0])
    (line,) = (line for line in said(capsys) if line.startswith("runtime.compile"))
    assert line.startswith("runtime.compile is false: the network cannot be compiled here (")
    assert "No working C++ compiler found" in line
    assert stored(tmp_path / "run") is False


def test_what_earlier_runs_have_compiled_is_not_found(tiny, monkeypatch):
    """Or a second run would take the first one's work for that of the compiler."""
    config, seen, forgotten = tiny("barm", "2-1", AUTO), set[tuple[str, bool]](), list[bool]()

    def backend(graph: torch.fx.GraphModule, _given: list[torch.Tensor]) -> object:
        for name in compilation.CACHES:
            folder = Path(os.environ[name])
            seen.add((str(folder), not folder.exists() or not any(folder.iterdir())))
        return graph.forward

    forget = compilation._forget_compiled
    monkeypatch.setattr(compilation, "_forget_compiled", lambda: forgotten.append(True) or forget())
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    rt = Runtime(config.runtime)
    ready = prepare(config, rt)
    for before in (None, "there"):
        for name in compilation.CACHES:
            monkeypatch.delenv(name, raising=False)
            if before is not None:
                monkeypatch.setenv(name, before)
        compilation._tried(ready, rt, (), lambda _: None)
        assert [os.environ.get(name) for name in compilation.CACHES] == [before, before]
    assert len(seen) == 4
    assert all(empty for _, empty in seen)
    assert not any(Path(folder).exists() for folder, _ in seen)
    assert len(forgotten) == 4


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [False, True], ids=["measured", "one without a compiler"])
def test_two_processes_choose_alike(lacking, tiny, tmp_path):
    """By the mean of what they have measured; the second one alone would choose otherwise."""
    config = tiny("barm", "2-1", AUTO)

    def train() -> None:
        rank = int(os.environ["RANK"])
        torch.compile = broken("no compiler", first=0) if lacking and rank else partial(torch.compile, backend="eager")
        compilation.cannot_pay = lambda *_: False
        compilation.cost_of = lambda *_: Cost(1.0, 1.2 if rank else 0.5, 0.1)
        settle = sequence.with_compiler

        def noted(*args, **options):
            ready = settle(*args, **options)
            (tmp_path / str(rank)).write_text(ready.chosen["runtime.compile"])
            return ready

        sequence.with_compiler = noted
        fit(config, out=tmp_path / "run", steps=[0], quiet=True)

    statuses, errors = ended(ranks(train))
    assert statuses == [0, 0], errors
    first, second = ((tmp_path / str(rank)).read_text() for rank in range(2))
    assert first == second
    if lacking:
        assert first == "false: the network cannot be compiled here (in another process)"
    else:
        assert "takes 1.0 s, compiled 0.85 s" in first
    assert stored(tmp_path / "run") is not lacking


def test_what_is_wrong_with_the_run_is_no_fault_of_the_compiler(tiny, tmp_path, eager):
    with pytest.raises(UserError, match="batch norm"):
        fit(tiny("barm", "2-1", AUTO, "base.batch_size=1"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_may_not_start_is_refused_before_the_trial(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_tried", forbidden)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        fit(tiny("barm", "2-1", AUTO), out=tmp_path, quiet=True)


def test_a_step_that_is_taken_over_does_not_count(tiny, tmp_path, costs, capsys):
    costs(Cost(1.0, 0.5, 0.1))
    fit(tiny("barm", "2-1"), out=tmp_path / "first", steps=[0], quiet=True)
    fit(tiny("barm", "2-1", AUTO), out=tmp_path / "run", steps=[0, 1], start_from=tmp_path / "first")
    lines = said(capsys)
    assert "trying some updates of step 2 with and without torch.compile" in lines
    assert any("and compiling each of 2 steps takes" in line for line in lines)


def test_steps_without_updates_are_not_tried(tiny, tmp_path, costs, monkeypatch, capsys):
    costs(Cost(1.0, 0.5, 0.1))
    config = tiny("segacil", "2-1", AUTO, "method.width=64")
    fit(tiny("segacil", "2-1", "method.width=64"), out=tmp_path / "first", steps=[0], quiet=True)
    monkeypatch.setattr(compilation, "try_updates", forbidden)
    fit(config, out=tmp_path / "run", steps=[0, 1], start_from=tmp_path / "first")
    assert "runtime.compile is false: no step trains by updates" in said(capsys)


def test_the_kind_of_step_with_more_updates_is_tried(tiny, costs):
    costs(Cost(1.0, 0.5, 0.1))
    for epochs, step in ((1, 2), (99, 0)):
        config: RunConfig = tiny("barm", "2-1", AUTO, f"base.epochs={epochs}", "increment.epochs=2")
        rt, lines = Runtime(config.runtime), list[str]()
        ready = prepare(config, rt)
        compilation._tried(ready, rt, (), lines.append)
        assert lines == [f"trying some updates of step {step} with and without torch.compile"]
