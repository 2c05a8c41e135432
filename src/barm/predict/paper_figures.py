"""The figures of papers of the field, drawn from runs: predictions by method and step, and BARM's background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.images import read_image
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.predict.model import Model, load
from barm.reading import check_target
from barm.report.figures import overlay, pyplot, save_figure
from barm.report.results import task_name
from barm.words import count

Kind = Literal["qualitative", "background"]
KINDS = ("qualitative", "background")
CELL = 1.9  # inches
MOST_NAMES = 24  # classes in the legend
LOGIT = 10  # the largest that the colours tell apart


def figure(
    kind: Kind, runs: Sequence[Path | str], images: Sequence[Path | str], out: Path | str, *, device: str | None = None
) -> Path:
    """Draw predictions of runs for images.

    Args:
        kind: ``qualitative``: for every image a row per run and a column per step; ``background``: for every image and
            run the logit of the background at step 0, the residual of every later step, their sum as a probability.
        runs: folders of finished runs; for `qualitative` of one task.
        images: photographs.
        out: the PNG, PDF or SVG file.
        device: ``cpu`` or ``cuda``; by default as the runs were configured.

    Returns:
        The file.

    Raises:
        UserError: for runs of several tasks, runs whose method has no residuals, or bad images; nothing is written.
    """
    if kind not in KINDS:
        raise UserError(f"unknown figure '{kind}': expected {' or '.join(KINDS)}")
    if not runs or not images:
        raise UserError("nothing to draw: give at least one run and one image")
    target = Path(out)
    if target.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"{target} is no image: expected a name that ends in .png, .pdf or .svg")
    check_target(target)
    photos = {str(path): read_image(Path(path)) for path in images}
    directories = {str(path): RunDirectory(Path(path)) for path in runs}
    draw = _qualitative if kind == "qualitative" else _background
    drawn = draw(directories, photos, device)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_figure(drawn, target, dpi=130)
    return target


def _models(directory: RunDirectory, device: str | None) -> Iterator[Model]:
    directory.require(0)
    for step in directory.finished_steps():
        yield load(directory.path, step, device=device)


def _titles(directories: dict[str, RunDirectory]) -> dict[str, str]:
    """A run's method, and its folder where two runs have one method."""
    methods = {path: str(d.config().method.name) for path, d in directories.items()}
    several = list(methods.values())
    return {p: name if several.count(name) == 1 else f"{name} ({Path(p).name})" for p, name in methods.items()}


def _qualitative(directories: dict[str, RunDirectory], photos: dict[str, Image.Image], device: str | None) -> Any:
    tasks = {path: task_name(d.config()) for path, d in directories.items()}
    first, *others = tasks
    for path in others:
        if tasks[path] != tasks[first]:
            raise UserError(f"{first} learned the task '{tasks[first]}', {path} '{tasks[path]}': give runs of one task")
    titles, found, model = _titles(directories), dict[tuple[str, int, str], NDArray[np.uint8]](), None
    for path, directory in directories.items():
        for model in _models(directory, device):
            for name, photo in photos.items():
                found[path, model.step, name] = model.predict(photo)
    assert model is not None  # every run has a step
    steps = sorted({step for _, step, _ in found})
    plt, rows = pyplot(), [(name, path) for name in photos for path in directories]
    drawn, axes = plt.subplots(
        len(rows),
        1 + len(steps),
        figsize=(CELL * (1 + len(steps)), _heights(photos, len(directories))),
        squeeze=False,
        layout="constrained",
        height_ratios=[photos[n].height / photos[n].width for n, _ in rows],
    )
    for row, (line, (name, path)) in enumerate(zip(axes, rows, strict=True)):
        pixels = np.asarray(photos[name])
        _panel(line[0], pixels if path == first else None, "image" if row == 0 else "")
        for ax, step in zip(line[1:], steps, strict=True):
            label = found.get((path, step, name))
            tinted = None if label is None else overlay(pixels, label, model.display_colours)
            _panel(ax, tinted, f"step {step}" if row == 0 else "")
        line[1].set_ylabel(titles[path], fontsize=9)
    _legend(plt, drawn, model, np.unique(np.concatenate([label.ravel() for label in found.values()])))
    return drawn


def _background(directories: dict[str, RunDirectory], photos: dict[str, Image.Image], device: str | None) -> Any:
    titles, maps = _titles(directories), dict[tuple[str, str], NDArray[np.float32]]()
    for path, directory in directories.items():
        model = load(directory.path, directory.last_step(), device=device)
        for name, photo in photos.items():
            maps[name, path] = model.background(photo)
    longest, plt = max(len(parts) for parts in maps.values()), pyplot()
    rows = [(name, path) for name in photos for path in directories]
    drawn, axes = plt.subplots(
        len(rows),
        longest + 2,
        figsize=(CELL * (longest + 2) + 0.8, _heights(photos, len(directories))),
        squeeze=False,
        layout="constrained",
        height_ratios=[photos[n].height / photos[n].width for n, _ in rows],
    )
    shown: dict[str, Any] = {}
    for row, (line, (name, path)) in enumerate(zip(axes, rows, strict=True)):
        parts, top = maps[name, path], row == 0
        _panel(line[0], np.asarray(photos[name]), "image" if top else "")
        line[0].set_ylabel(titles[path], fontsize=9)
        for index, ax in enumerate(line[1:-1]):
            title = "background, step 0" if index == 0 else f"residual, step {index}"
            _panel(ax, None if index >= len(parts) else parts[index], title if top else "", cmap="RdBu", limit=LOGIT)
            shown["logit"] = ax.images[0] if ax.images else shown.get("logit")
        total = 1 / (1 + np.exp(-parts.sum(0)))
        _panel(line[-1], total, "sum, as probability" if top else "", cmap="gray", limit=None)
        shown["probability"] = line[-1].images[0]
    drawn.colorbar(shown["logit"], ax=axes[:, 1:-1], shrink=0.7, label="logit")
    drawn.colorbar(shown["probability"], ax=axes[:, -1], shrink=0.7, label="probability of background")
    return drawn


def _heights(photos: dict[str, Image.Image], each: int) -> float:
    """Height of a figure in inches whose cells are as wide as `CELL`."""
    return 0.9 + CELL * each * sum(p.height / p.width for p in photos.values())


def _panel(ax: Any, pixels: Any, title: str, cmap: str | None = None, limit: float | None = None) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    if title:
        ax.set_title(title, fontsize=9)
    if pixels is None:
        for spine in ax.spines.values():
            spine.set_visible(False)
        return
    low, high = (None, None) if cmap is None else ((0, 1) if limit is None else (-limit, limit))
    ax.imshow(pixels, cmap=cmap, vmin=low, vmax=high)


def _legend(plt: Any, drawn: Any, model: Model, channels: NDArray[np.uint8]) -> None:
    """Name the classes that were predicted anywhere."""
    shown = [int(c) for c in channels if c][:MOST_NAMES]
    patches = [plt.Rectangle((0, 0), 1, 1, color=model.display_colours[c] / 255) for c in shown]
    names = [model.class_names[c] for c in shown]
    if len(shown) < sum(1 for c in channels if c):
        names[-1] += f" and {count(sum(1 for c in channels if c) - len(shown), 'others')}"
    if names:
        drawn.legend(patches, names, loc="outside lower center", ncols=min(6, len(names)), fontsize=8, frameon=False)
