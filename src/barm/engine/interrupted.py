"""What is kept of a step that ends early, and how the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from barm.data.exemplars import Exemplar, to_json
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.errors import Failed, Stopped


def saving(
    rt: Runtime, directory: RunDirectory, trainer: StepTrainer, exemplars: Sequence[Exemplar]
) -> Callable[[], None]:
    """A function that saves the state of a step that is not finished; all processes call it together."""

    def save() -> None:
        trainer.check_finite()
        state = {**trainer.state_dict(), "memory": to_json(exemplars)}
        rt.on_main(lambda: directory.save_partial(trainer.method.step.index, state))

    return save


@contextmanager
def saved(rt: Runtime, save: Callable[[], None]) -> Iterator[None]:
    """Save first where a pass is stopped, or a picture fails between two batches, so that nothing is lost.

    A failure is that of one process: the others do not know of it, and where there are several nothing can be saved.
    """
    try:
        yield
    except Stopped:
        save()
        raise
    except Failed:
        if rt.world == 1:
            save()
        raise


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Add to what has ended a run early how it goes on; `path` is the run's folder."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(f"{stopped}; {_next(path)}", stopped.signum) from None
    except Failed as error:
        raise Failed(f"{error}; {_next(path)}") from error


def _next(path: Path) -> str:
    here = RunDirectory(path)  # as this process sees it: one that fails is alone
    if here.finished_steps() or here.has_partial():
        return f"the state is saved in {path}: go on with --resume"
    return "nothing was saved yet: start anew"
