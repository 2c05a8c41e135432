"""`runtime.compile = "auto"`: whether a run trains compiled, decided once by trying some updates both ways."""

from __future__ import annotations

import os
import tempfile
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
from barm.engine.trial import Trial, try_updates, updates_of, without_weights
from barm.errors import Stopped, UserError
from barm.labels import Step
from barm.reading import short
from barm.words import noun

KEY = "runtime.compile"
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # torch's variable: the folder of what was compiled before
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


def cost_of(eager: Trial, compiled: Trial) -> Cost:
    """Costs of an update from trials without and with the compiler.

    The first update of the second also compiles; what the first one of the other does beside its work is not counted.
    """
    started = eager.first - eager.median
    return Cost(eager.median, compiled.median, max(0.0, compiled.first - compiled.median - max(0.0, started)))


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
        found = _tried(ready, rt, [step for step in ready.steps if step.index not in done], say)
    rt.compile = found.compile
    runtime = ready.config.runtime.model_copy(update={"compile": found.compile})
    config = ready.config.model_copy(update={"runtime": runtime})
    return ready._replace(config=config, chosen={**ready.chosen, KEY: found.reason})


def _stored(path: Path, *, resume: bool) -> object:
    """The setting of the run that goes on in a folder; None for a new one."""
    directory = RunDirectory(path)
    _, existing = directory.check_place(resume=resume)
    return directory.config().runtime.compile if existing else None


def _tried(ready: Prepared, rt: Runtime, steps: Sequence[Step], say: Callable[[str], None]) -> Choice:
    """Choose for the steps that are left, by trying the last one of the kind with more updates."""
    config = without_weights(ready.config)
    training = [s for s in steps if config.method.build(s, config.model).trains]
    if not training:
        return Choice(False, "false: no step trains by updates")
    datasets = {s.index: train_dataset(config, ready.data, s) for s in training}
    updates = {s.index: updates_of(config, rt, ready, s, datasets[s.index])[0] for s in training}
    later = sum(number for index, number in updates.items() if index > 0)
    step = training[-1] if later >= updates.get(0, 0) else training[0]
    say(f"trying some updates of step {step.index} with and without torch.compile")
    found = _measured(config, rt, ready, step, datasets[step.index])
    if isinstance(found, str):
        return Choice(False, f"false: the network cannot be compiled here ({found})")
    total = rt.all_sum(torch.tensor(found, dtype=torch.float64).to(rt.device))
    return rt.from_main(partial(_agreed, total, rt.world, sum(updates.values()), len(training)))


def _agreed(total: Tensor, world: int, updates: int, steps: int) -> Choice:
    """The choice by the means over all processes, from the sums of their costs."""
    return choice(Cost(*(total / world).tolist()), updates, steps)


def _measured(config: RunConfig, rt: Runtime, ready: Prepared, step: Step, dataset: StepDataset) -> Cost | str:
    """Costs of an update, or why it cannot be compiled. The runtime is left as it was."""
    with _undone(rt), _empty_cache():
        rt.compile = False
        eager = try_updates(config, rt, ready, step, dataset, least=LEAST)
        reason = _lacking(rt)
        if reason:
            return reason
        rt.compile = True
        try:
            return cost_of(eager, try_updates(config, rt, ready, step, dataset, least=LEAST))
        except (UserError, Stopped, Died, MemoryError):
            raise
        except Exception as error:  # whatever compilers raise
            if rt.world > 1:  # another process may wait in a collective for this one
                raise UserError(
                    f"{KEY}=auto: the network cannot be compiled ({_why(error)}): train with --set {KEY}=false"
                ) from error
            return _why(error)


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
        torch.compiler.reset()


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Context in which the compiler finds nothing of earlier runs on the disk, as most steps of a new run do not."""
    before = os.environ.get(CACHE)
    with tempfile.TemporaryDirectory(prefix="barm-compile-", ignore_cleanup_errors=True) as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(CACHE, None)
            else:
                os.environ[CACHE] = before


def _lacking(rt: Runtime) -> str:
    """Why not every process can compile for its device; empty if all can."""
    reason = ""
    try:
        torch.compile(_doubled)(torch.ones(2, device=rt.device))
    except Exception as error:  # whatever compilers raise
        reason = _why(error)
    failed = rt.all_sum(torch.tensor(float(bool(reason))).to(rt.device))
    return rt.from_main(lambda: reason or "in another process") if bool(failed) else ""


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
