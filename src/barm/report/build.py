"""`barm report`: write one page with the scores of runs and the predictions of their networks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from barm.data.base import Source
from barm.data.sources.named import labelled
from barm.engine.checkpoint.directory import METHOD, RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.engine.config import PlaceConfig, RunConfig
from barm.engine.datasets import open_val
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.escaping import place, placed
from barm.labels import IGNORE
from barm.methods.base import Method
from barm.models.heads import GroupedOutput
from barm.reading import check_target
from barm.report.figures import best_and_worst, image_iou
from barm.report.history import read_runs
from barm.report.measure import measure
from barm.report.page.content import Background, Details, Gallery, Pixels, Report, RunContent, Shot, Values
from barm.report.page.render import render
from barm.words import count, listed, noun
from barm.writing import write_atomically

IMAGES = 6
POOL = 4  # candidates per image that is shown
SIDE = 384  # of the images on the page, pixels at most
GOLDEN_RATIO = 0.6180339887498949  # its multiples modulo 1 fill the interval evenly
Say = Callable[[str], None]


def write_report(
    paths: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    images: int = IMAGES,
    data: Path | str | None = None,
    details: bool = False,
    say: Say = lambda _: None,
    warn: Say = lambda _: None,
    quiet: bool = True,
) -> Path:
    """Write a self-contained HTML page about one or several runs.

    Args:
        paths: folders of runs; the others are compared with the first.
        out: the file; ``report.html`` in the first run's folder by default.
        images: in the gallery; 0 for none.
        data: the data set's folder, if it is no longer where the runs found it.
        details: measure all validation images, for scores at borders, confused classes and calibration.
        say: called with what is being done.
        warn: called with what the page cannot show because a file is damaged.
        quiet: show no progress bar while `details` are measured.

    Returns:
        The file's path.

    Raises:
        UserError: if a folder is no run, has no finished step, or the runs have no class in common.
    """
    if not paths:
        raise UserError("no run to report on: give at least one folder that `barm train` wrote")
    folders = [Path(path) for path in paths]
    target = folders[0] / "report.html" if out is None else Path(out)
    if target.is_dir():
        raise UserError(f"{target} is a folder: give the name of an HTML file to --out")
    check_target(target)
    runs = read_runs(folders)
    for run in (run for run in runs if run.unread):
        warn(f"{run.path}: {run.unread}; the page has no curves of that")
    gallery, notes = _images(runs, images, None if data is None else Path(data), say)
    found: Mapping[str, Details] | None = None
    if details:
        found, told = measure(runs, None if data is None else Path(data), say, quiet=quiet)
        notes |= told
    options = [*(["--out", place(out)] if out else []), *(["--details"] if details else [])]
    command = shlex.join(["barm", "report", *(r.place for r in runs), *options])
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = render(Report(runs, gallery, notes, command, made, found))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, page.encode())
    return target


def _images(
    runs: Sequence[RunContent], number: int, data: Path | None, say: Say
) -> tuple[Gallery | None, dict[str, tuple[str, ...]]]:
    """The gallery, and a note on everything that is missing in it."""
    if number < 1:
        return None, {"gallery": ("No images were asked for (--images 0).",)}
    config = RunDirectory(Path(runs[0].path)).config()
    try:
        sources, notes = _sources(config, data)
        source, share = sources[0], -(-POOL * number // len(sources))
        pool = [shot for one in sources for shot in _pool(one, config, share)]
    except UserError as error:
        return None, {"gallery": (f"No images: {error}.",)}
    seen: dict[str, list[Answers]] = {}
    for run in runs:
        try:
            seen[run.label] = answers_of(run, source.class_names, [shot.image for shot in pool], say)
        except UserError as error:
            notes.append(f"No predictions of {run.label}: {placed(str(error), run.path)}.")
    if not seen:
        return None, {"gallery": tuple(notes)}
    shots = [
        replace(
            shot,
            answers={label: views[place].answers for label, views in seen.items()},
            background={label: b for label, views in seen.items() if (b := views[place].background) is not None},
        )
        for place, shot in enumerate(pool)
    ]
    shots = [_small(shot) for shot in choose(shots, number, *_new(runs[0], source.class_names))]
    return Gallery(tuple(shots), tuple(source.class_names), _colours(source, runs)), {"gallery": tuple(notes)}


def _sources(config: RunConfig, data: Path | None) -> tuple[list[Source], list[str]]:
    """The validation splits on which the first run was evaluated, by its classes, and a note on each missing one.

    Raises:
        UserError: if none is there.
    """
    record, rt = config.data, Runtime(config.runtime)
    root = data or record.root
    if root is None:
        raise UserError("the run was trained on data given in Python; pass --data DIR with the same classes")
    found, notes = list[Source](), list[str]()
    for one in (PlaceConfig(root=root, layout=record.layout, names=record.names), *record.val):
        shown = place(one.root)
        try:
            if not one.root.is_dir():
                raise UserError(f"the data set {shown} is not there; pass --data DIR if it was moved")
            source = open_val(rt, one, record.classes)
        except UserError as error:
            notes.append(placed(str(error), one.root))
            continue
        found.append(source)
        missing = [name for i, name in enumerate(source.class_names) if i and i not in labelled(source)]
        if missing:
            notes.append(f"{shown} does not label {listed(missing)}: background there may be one of them")
    if not found:
        raise UserError("; ".join(notes))
    return found, [f"{note}." for note in notes]


def _colours(source: Source, runs: Sequence[RunContent]) -> Pixels:
    """Colour per dataset id, ``(256, 3)``: the colours that the classes have elsewhere on the page."""
    colours = np.full((256, 3), 255, np.uint8)
    for known in (c for run in reversed(runs) for c in run.classes if c.name in source.class_names):
        colours[list(source.class_names).index(known.name)] = known.colour
    return colours


def _pool(source: Source, config: RunConfig, number: int) -> list[Shot]:
    """Candidates for the gallery, uncropped. Classes that the task never teaches are background."""
    plan = config.task.plan(tuple(source.class_names), config.seed)
    crop, kept = config.evaluation.crop, np.zeros(256, np.uint8)
    for i in (*plan.classes, IGNORE):
        kept[i] = i
    shots = []
    for i in choose_scenes(source, [plan[0].new, *(g for g in plan.groups[1:])], number):
        sample = source[i]
        image, mask = sample.image.convert("RGB"), sample.mask
        if crop:  # the size at which it is evaluated, but the whole image
            factor = crop / min(image.size)
            size = round(image.width * factor), round(image.height * factor)
            image = image.resize(size, Image.Resampling.BILINEAR)
            mask = mask.resize(size, Image.Resampling.NEAREST)
        shots.append(Shot(source.name(i), np.array(image), kept[np.asarray(mask)], {}))
    return shots


def choose_scenes(source: Source, groups: Sequence[Sequence[int]], number: int) -> list[int]:
    """Choose images that show classes of many steps, every class in turn.

    Neighbours are often frames of one film, so equally good images are taken from all over the split.

    Args:
        source: knows the classes of its images.
        groups: class ids per step.
        number: of images.

    Returns:
        Positions in the source, at most `number`.
    """
    step_of = {i: step for step, group in enumerate(groups) for i in group}
    present = [frozenset(c for c in source.classes_in(i) if c in step_of) for i in range(len(source))]

    def value(i: int) -> tuple[int, int, float]:
        return len({step_of[c] for c in present[i]}), len(present[i]), -((i * GOLDEN_RATIO) % 1.0)

    ranked = sorted(range(len(source)), key=value, reverse=True)
    taken: dict[int, None] = {}
    while len(taken) < min(number, len(ranked)):
        before = len(taken)
        for class_id in reversed(step_of):
            found = next((i for i in ranked if i not in taken and class_id in present[i]), None)
            if found is not None and len(taken) < number:
                taken[found] = None
        if len(taken) == before:
            taken |= dict.fromkeys([i for i in ranked if i not in taken][: number - len(taken)])
    return list(taken)


def _new(run: RunContent, class_names: Sequence[str]) -> tuple[list[int], str]:
    """Dataset ids of the classes by which images are chosen, and a name for these classes.

    For an extension these are its new classes, for a single step all, for any other run those after the first step.
    """
    first = 0 if run.single else run.finished[-1] if run.origin else 1
    names = [c.name for c in run.classes[1:] if c.step >= first]
    what = "all classes" if run.single else f"{'new' if run.origin else 'later'} {noun(len(names), 'classes')}"
    return [i for i, name in enumerate(class_names) if i and name in names], what


def choose(shots: Sequence[Shot], number: int, new: Sequence[int], what: str) -> list[Shot]:
    """Choose the candidates in which new classes are found best and worst, in turn, and why each was chosen.

    If none shows a new class, choose those in which the predictions change most over the steps.

    Args:
        shots: with the answers of all runs; the last answer of the first run decides.
        number: of images.
        new: dataset ids of the new classes.
        what: name of the new classes.
    """
    lasts = [next(iter(s.answers.values())) for s in shots]
    ious = [image_iou(last[max(last)], s.truth, new) for s, last in zip(shots, lasts, strict=True)]
    chosen = best_and_worst(ious, number)
    if not chosen:
        changes = [_change(s) for s in shots]
        return [shots[i] for i in sorted(range(len(shots)), key=lambda i: -changes[i])[:number]]
    one_of = "a class" if what == "all classes" else f"a {what.split(' ')[0]} class"
    told = [f"{what} in this image: IoU {100 * (ious[one.place] or 0.0):.0f} %, {one.told(one_of)}" for one in chosen]
    return [replace(shots[one.place], told=words) for one, words in zip(chosen, told, strict=True)]


def _change(shot: Shot) -> float:
    """Share of the image whose prediction changes from one step to the next, mean over steps and runs."""
    parts = [
        float((before != after).mean())
        for answers in shot.answers.values()
        for before, after in pairwise(answers[step] for step in sorted(answers))
    ]
    return float(np.mean(parts)) if parts else 0.0


class Answers(NamedTuple):
    """A run's predictions for an image: labels by step, and the parts of the last background logit if it has parts."""

    answers: dict[int, Pixels]
    background: Background | None


def answers_of(run: RunContent, class_names: Sequence[str], images: Sequence[Pixels], say: Say) -> list[Answers]:
    """Predict images with the networks of all finished steps of a run.

    Args:
        run: the run.
        class_names: of the data set, by id.
        images: ``(H, W, 3)`` each.
        say: called with a line for every step.

    Raises:
        UserError: if the data set lacks a class of the run, or a network does not load.
    """
    directory = RunDirectory(Path(run.path))
    rt = Runtime(directory.config().runtime)
    answers: list[dict[int, Pixels]] = [{} for _ in images]
    backgrounds: list[Background | None] = [None] * len(images)
    for step in run.finished:
        say(f"{run.label}: step {step}, {count(len(images), 'images')}")
        network, method = load_step(directory, step)
        ids = _ids(directory.read(step, METHOD), class_names)
        constant = rt.constant(network)
        for position, image in enumerate(images):
            output = constant(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).to(rt.device))
            answers[position][step] = _labels(method, output, image, ids)
            if step == run.finished[-1] and isinstance(output, GroupedOutput) and step > 0:
                backgrounds[position] = _background(method, output, image, ids)
    return [Answers(a, b) for a, b in zip(answers, backgrounds, strict=True)]


def _ids(record: Mapping[str, Any], class_names: Sequence[str]) -> Pixels:
    """Dataset id per channel, matched by the classes' names."""
    for name in (c["name"] for c in record["classes"]):
        if name not in class_names:
            raise UserError(f"the data set has no class '{name}'; pass --data DIR with all classes of the run")
    return np.array([list(class_names).index(c["name"]) for c in record["classes"]], np.uint8)


def _labels(method: Method[Any, Any], output: Any, image: Pixels, ids: Pixels) -> Pixels:
    channels = method.predict(output, (image.shape[0], image.shape[1]))[0].cpu().numpy()
    return np.asarray(ids[channels])


def _background(method: Method[Any, Any], output: GroupedOutput, image: Pixels, ids: Pixels) -> Background:
    """Split the aggregated background logit into its parts."""
    first, *later = output.heads
    base, *added = method.background_parts(output)
    alone = [torch.cat([torch.zeros_like(h[:, :1]), h[:, 1:]], dim=1) for h in later]
    return Background(
        step=method.step.index,
        base=_map(base),
        residuals=dict(enumerate(map(_map, added), start=1)),
        total=_map(base + sum(added)),
        without=_labels(method, output._replace(heads=(first, *alone)), image, ids),
        adapted=_labels(method, output, image, ids),
    )


def _map(head: Tensor) -> Values:
    return head[0, 0].float().cpu().numpy()


def _small(shot: Shot) -> Shot:
    """Shrink a shot to the page's size: the image smoothed, labels by nearest neighbour."""
    height, width = shot.truth.shape
    factor = SIDE / max(height, width)
    if factor >= 1:
        return shot
    size = max(1, round(width * factor)), max(1, round(height * factor))

    def nearest(labels: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))

    return Shot(
        shot.name,
        np.asarray(Image.fromarray(shot.image).resize(size, Image.Resampling.LANCZOS)),
        nearest(shot.truth),
        {label: {step: nearest(a) for step, a in answers.items()} for label, answers in shot.answers.items()},
        {
            label: replace(b, without=nearest(b.without), adapted=nearest(b.adapted))
            for label, b in shot.background.items()
        },
        shot.told,
    )
