"""`runtime.compile = "auto"`: whether a run trains compiled, decided once by trying some updates both ways."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from barm.data.dataset import StepDataset
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RunConfig
from barm.engine.datasets import train_dataset
from barm.engine.distributed.watch import Died
from barm.engine.prepare import Prepared
from barm.engine.runtime import Runtime
from barm.engine.trial import try_updates, updates_of, without_weights
from barm.errors import Stopped, UserError
from barm.labels import Step
from barm.reading import short
from barm.words import noun

KEY = "runtime.compile"
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}  # variables; folders of what is compiled
LEAST = 3  # updates that are tried, so that two are timed without the compiler's work


class Choice(NamedTuple):
    """Whether to compile, and why in words that follow the setting's name and `is`."""

    compile: bool
    reason: str


class Cost(NamedTuple):
    """Seconds of an update without and with the compiler, and of compiling the network of a step."""

    eager: float
    compiled: float
    compiling: float


class Times(NamedTuple):
    """Seconds of the first update of a trial, and the median of the later ones."""

    first: float
    later: float


def choice(cost: Cost, updates: int, steps: int) -> Choice:
    """Compile if the updates of a run save more time than compiling for its steps takes.

    Args:
        cost: measured.
        updates: of the whole run.
        steps: that train; each of them compiles its own network.

    >>> choice(Cost(eager=0.84, compiled=0.80, compiling=95), updates=4500, steps=6).reason
    'false: each of 4500 updates takes 0.84 s, compiled 0.80 s, and compiling each of 6 steps takes 95 s'
    >>> choice(Cost(eager=0.84, compiled=0.80, compiling=95), updates=45_000, steps=6).compile
    True
    """
    pays = (cost.eager - cost.compiled) * updates > cost.compiling * steps
    eager, compiled, compiling = map(_seconds, cost)
    every = f"{_each(updates, 'updates')} takes {eager}, compiled {compiled}"
    return Choice(pays, f"{str(pays).lower()}: {every}, and compiling {_each(steps, 'steps')} takes {compiling}")


def _each(number: int, what: str) -> str:
    """Every one of so many; the noun is given in the plural.

    >>> _each(6, "steps"), _each(1, "steps")
    ('each of 6 steps', 'the only step')
    """
    return f"each of {number} {what}" if number != 1 else f"the only {noun(1, what)}"


def cannot_pay(eager: float, updates: int, least: float, steps: int) -> bool:
    """Whether no compiler helps: all updates take less than compiling does.

    Args:
        eager: seconds of an update without the compiler.
        updates: of the whole run.
        least: seconds of compiling one step's network, at least.
        steps: that train.

    >>> cannot_pay(0.1, 14, least=2.0, steps=3), cannot_pay(0.8, 4500, least=2.0, steps=6)
    (True, False)
    """
    return eager * updates <= least * steps


def cost_of(eager: Times, compiled: Times) -> Cost:
    """Costs of an update from trials without and with the compiler.

    The first compiled update also compiles. What the first one without the compiler takes longer than others, such as
    for starting the loaders, is not the compiler's.
    """
    started = max(0.0, eager.first - eager.later)
    return Cost(eager.later, compiled.later, max(0.0, compiled.first - compiled.later - started))


def with_compiler(
    ready: Prepared,
    rt: Runtime,
    path: Path,
    *,
    resume: bool,
    done: Collection[int] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Settle `runtime.compile`: as a resumed run has it, or by a trial. Nothing that a run depends on is changed.

    All processes call this together, and decide alike.

    Args:
        ready: the run; what was chosen in it gets the reason.
        rt: the runtime, which compiles from then on or does not.
        path: the run's folder.
        resume: whether the run goes on there.
        done: indices of steps that are finished or taken from another run.
        say: called with what is tried.

    Raises:
        UserError: if the run cannot be written or resumed there; if several processes have a compiler that fails.
    """
    if ready.config.runtime.compile != "auto":
        return ready
    stored = rt.from_main(partial(_stored, path, resume=resume))
    if isinstance(stored, bool):
        found = Choice(stored, f"{str(stored).lower()}: as the run was started with")
    else:
        found = _tried(ready, rt, done, say)
    rt.compile = found.compile
    runtime = ready.config.runtime.model_copy(update={"compile": found.compile})
    config = ready.config.model_copy(update={"runtime": runtime})
    return ready._replace(config=config, chosen={**ready.chosen, KEY: found.reason})


def _stored(path: Path, *, resume: bool) -> object:
    """The setting of the run that goes on in a folder; None for a new one."""
    directory = RunDirectory(path)
    _, existing = directory.check_place(resume=resume)
    return directory.config().runtime.compile if existing else None


def _tried(ready: Prepared, rt: Runtime, done: Collection[int], say: Callable[[str], None]) -> Choice:
    """Choose for the task's steps that are not done, by trying the last one of the kind with more updates.

    Steps that another command is to train count too: they will keep the choice.
    """
    config = without_weights(ready.config)
    left = (step for step in ready.data.plan.steps() if step.index not in done)
    training = [s for s in left if config.method.build(s, config.model).trains]
    if not training:
        return Choice(False, "false: no step trains by updates")
    datasets = {s.index: train_dataset(config, ready.data, s) for s in training}
    updates = {s.index: updates_of(config, rt, ready, s, datasets[s.index])[0] for s in training}
    later = sum(number for index, number in updates.items() if index > 0)
    step = training[-1] if later >= updates.get(0, 0) else training[0]
    say(f"trying some updates of step {step.index} with and without torch.compile")
    tried = partial(_times, config, rt, ready, step, datasets[step.index])
    with _undone(rt), _empty_caches():
        return _chosen(rt, tried, sum(updates.values()), len(training))


def _times(config: RunConfig, rt: Runtime, ready: Prepared, step: Step, dataset: StepDataset, compiled: bool) -> Times:
    """Try updates of a step, and free their memory."""
    rt.compile = compiled
    trial = try_updates(config, rt, ready, step, dataset, least=LEAST)
    return Times(trial.first, trial.median)


def _chosen(rt: Runtime, tried: Callable[[bool], Times], updates: int, steps: int) -> Choice:
    """The choice by trials, whose times are the means over all processes."""
    eager = tried(False)
    least, reason = _compiler(rt)
    if reason:
        return Choice(False, f"false: the network cannot be compiled here ({reason})")
    seconds, least = _means(rt, [eager.later, least])
    if rt.from_main(lambda: cannot_pay(seconds, updates, least, steps)):
        return Choice(False, f"false: all updates together take {_seconds(seconds * updates)}, and compiling longer")
    try:
        cost = cost_of(eager, tried(True))
    except (UserError, Stopped, Died, MemoryError):
        raise
    except Exception as error:  # whatever compilers raise
        if rt.world > 1:  # another process may wait in a collective for this one
            raise UserError(
                f"{KEY}=auto: the network cannot be compiled ({_why(error)}): train with --set {KEY}=false"
            ) from error
        return Choice(False, f"false: the network cannot be compiled here ({_why(error)})")
    agreed = Cost(*_means(rt, cost))
    return rt.from_main(lambda: choice(agreed, updates, steps))


def _means(rt: Runtime, values: Sequence[float]) -> list[float]:
    """Means over all processes."""
    total = rt.all_sum(torch.tensor(values, dtype=torch.float64).to(rt.device))
    return [float(value) for value in (total / rt.world).tolist()]


@contextmanager
def _undone(rt: Runtime) -> Iterator[None]:
    """Context after which random numbers and the runtime are as before."""
    before, scaler = rt.compile, rt.scaler_state()
    devices = [rt.device] if rt.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        rt.compile = before
        rt.load_scaler_state(scaler)


@contextmanager
def _empty_caches() -> Iterator[None]:
    """Context in which the compiler finds nothing that was compiled before, as for most steps of a new run."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory(prefix="barm-compile-", ignore_cleanup_errors=True) as folder:
        os.environ |= {name: os.path.join(folder, part) for name, part in CACHES.items()}
        _forget_compiled()
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            _forget_compiled()


def _forget_compiled() -> None:
    """Drop what this process has compiled, and the places where it looks for that."""
    from torch._inductor.utils import clear_inductor_caches

    torch.compiler.reset()
    clear_inductor_caches()


def _compiler(rt: Runtime) -> tuple[float, str]:
    """Seconds of compiling next to nothing; and why not every process can, empty if all can."""
    reason, began = "", time.monotonic()
    try:
        torch.compile(_doubled)(torch.ones(2, device=rt.device))
    except Exception as error:  # whatever compilers raise
        reason = _why(error)
    took = time.monotonic() - began
    failed = rt.all_sum(torch.tensor(float(bool(reason))).to(rt.device))
    return took, rt.from_main(lambda: reason or "in another process") if bool(failed) else ""


def _doubled(values: Tensor) -> Tensor:
    """Something to be compiled."""
    return values * 2 + 1


def _why(error: BaseException) -> str:
    """The message of a compiler's error in one line; torch wraps it in others."""
    inner = getattr(error, "inner_exception", None)
    return _why(inner) if isinstance(inner, BaseException) else short(error)


def _seconds(value: float) -> str:
    """Seconds with two digits or more.

    >>> _seconds(0.8), _seconds(95.2), _seconds(0.00691)
    ('0.80 s', '95 s', '0.0069 s')
    """
    return f"{value:.0f} s" if value >= 9.95 else f"{value:#.2g} s"
