"""`barm train --dry-run`: show what a run would do and take, without writing a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tomli_w
from rich import box
from rich.table import Table

from barm.cli.common import out, progress, say
from barm.engine.adoption import check_adoptable
from barm.engine.capacity import shown
from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.images import images_of
from barm.engine.checkpoint.shared import SharedDirectory
from barm.engine.compilation import with_compiler
from barm.engine.config import RunConfig
from barm.engine.crops import chosen_lines
from barm.engine.forecast import StepForecast, forecast
from barm.engine.prepare import Prepared, prepare
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.escaping import markup
from barm.words import duration, listed


def show_forecast(
    config: RunConfig,
    target: Path,
    *,
    resume: bool,
    only: Sequence[int] | None,
    start_from: Path | None,
    quiet: bool,
) -> None:
    """Print the configuration with every setting resolved, and the cost of each step.

    Args:
        config: of the run.
        target: the run's folder, which is not touched.
        resume: whether the run would be resumed.
        only: indices of the steps; all by default.
        start_from: another run whose step 0 would be taken over.
        quiet: do not print which step is being tried.

    Raises:
        UserError: for anything that would keep the run from starting.
    """
    rt = Runtime(config.runtime)
    run = SharedDirectory(target, rt)
    rt.on_main(lambda: run.check_place(resume=resume))
    ready = prepare(config, rt, only)
    done = {*(run.finished_steps() if resume else ()), *([0] if start_from is not None else ())}
    if resume:
        rt.on_main(lambda: run.check_same(ready.config))
    if start_from is not None:
        rt.on_main(lambda: check_adoptable(ready.config, RunDirectory(start_from), images_of(ready.data)))
    ready = ready._replace(steps=tuple(step for step in ready.steps if step.index not in done))
    if not ready.steps:
        raise UserError(f"nothing is left to be trained: every step of {target} is finished")
    tell = progress(quiet or not rt.is_main)
    with rt.catch_signals():
        ready = with_compiler(ready, rt, target, resume=resume, done=done, say=tell)
        steps = forecast(ready, rt, tell)
    if not rt.is_main:
        return
    say(tomli_w.dumps(to_table(ready.config)))
    for line in chosen_lines(ready.chosen):
        say(line)
    for line in (*ready.data.warned(ready.config, ready.steps), *ready.warnings):
        say(f"warning: {line}")
    out.print(_table(ready, steps))
    seconds = sum(step.training + step.evaluation for step in steps)
    memory = max((step.memory for step in steps if step.memory is not None), default=None)
    place = "GPU memory" if rt.device.type == "cuda" else "memory, without that of the loaders"
    used = "" if memory is None else f", {shown(memory)} of {place}"
    say(f"about {duration(seconds)} on {rt.device} in {rt.precision}{used}; nothing was written")


def _table(ready: Prepared, steps: Sequence[StepForecast]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("step", "learned", "images", "crop", "updates", "training", "evaluation"):
        table.add_column(name, justify="left" if name == "learned" else "right")
    names = ready.data.train.class_names
    for one in steps:
        learned = markup(listed([names[i] for i in one.step.new]))
        numbers = (str(one.images), str(one.crop), str(one.updates), duration(one.training), duration(one.evaluation))
        table.add_row(str(one.step.index), learned, *numbers)
    return table
