"""Where the networks of runs are wrong, measured for the page on all validation images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from barm.engine.capacity import check_evaluation
from barm.engine.checkpoint.directory import IMAGES, RunDirectory
from barm.engine.checkpoint.images import images_of, other_images
from barm.engine.checkpoint.network import load_step
from barm.engine.config import DataConfig, RunConfig
from barm.engine.datasets import open_data
from barm.engine.details import details
from barm.engine.monitor import Monitor
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.escaping import place, placed
from barm.report.page.content import Bin, Confused, Details, RunContent


def measure(
    runs: Sequence[RunContent], data: Path | None, say: Callable[[str], None], *, quiet: bool
) -> tuple[dict[str, Details], dict[str, tuple[str, ...]]]:
    """Measure the network of every run's last step as `barm evaluate --details` does.

    Args:
        runs: the runs.
        data: the data set's folder, if it is no longer where the runs found it.
        say: called with a line for every run.
        quiet: show no progress bar.

    Returns:
        The details by the runs' labels, and a note on everything that is missing in them.
    """
    found, notes = dict[str, Details](), list[str]()
    for run in runs:
        config = RunDirectory(Path(run.path)).config()
        config = config.model_copy(update={"data": _read(config, data)})
        say(f"{run.label}: step {run.finished[-1]}, details on all validation images")
        try:
            found[run.label], remark = _measure(run, config, quiet=quiet)
        except UserError as error:
            told = placed(str(error), run.path, config.data.root, *(val.root for val in config.data.val))
            notes.append(f"No details of {run.label}: {told}.")
            continue
        notes += [remark] if remark else []
        if not found[run.label].bins:
            notes.append(f"The scores of {run.label} are no probabilities: it has no reliability diagram.")
    return found, {"wrong": tuple(notes)}


def _read(config: RunConfig, data: Path | None) -> DataConfig:
    """What of a run's data is read; on another folder nothing was trained, so that its splits may share images."""
    changes: dict[str, Any] = {} if data is None else {"allow_shared": True, "root": data}
    return config.data.model_copy(update={"unlabelled": None, **changes})


def _measure(run: RunContent, config: RunConfig, *, quiet: bool) -> tuple[Details, str]:
    """The details of a run's last step, and a remark if its scores are those of other images.

    Raises:
        UserError: if the data set is not there or has other classes, or the network does not load.
    """
    root = config.data.root
    if root is None:
        raise UserError("the run was trained on data given in Python; pass --data DIR with the same classes")
    if not root.is_dir():
        raise UserError(f"the data set {place(root)} is not there; pass --data DIR if it was moved")
    directory, rt, step = RunDirectory(Path(run.path)), Runtime(config.runtime), run.finished[-1]
    opened = open_data(config, rt)
    check_evaluation(config, rt, opened.measured)
    network, method = load_step(directory, step, opened.plan, opened.val.class_names)
    with Monitor(rt.is_main, quiet=quiet) as monitor:
        found = details(config, rt, method, network, opened, monitor)
    other = None
    if directory.has(step, IMAGES):
        other = other_images(directory.read(step, IMAGES), images_of(opened), trained=False)
    remark = f"The details of {run.label} are of other images than the scores above ({other})." if other else ""
    return _content(step, found), remark


def _content(step: int, found: Mapping[str, Any]) -> Details:
    """What `barm.engine.details.details` returns, for the page."""
    return Details(
        step=step,
        width=found["border_width"],
        border=found["border_miou"],
        inner=found["inner_miou"],
        confused=tuple(Confused(**pair) for pair in found["confused"]),
        bins=tuple(Bin(**one) for one in found.get("bins", ())),
        error=found.get("calibration_error", 0.0),
        probability=found.get("mean_probability", 0.0),
    )
