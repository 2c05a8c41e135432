"""Draw new images with the predictions before and after an extension."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from barm.data.base import Source
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.runtime import Runtime
from barm.extension.plan import Plan
from barm.predict.model import Model, load
from barm.report.extension import Change, draw_changes
from barm.report.figures import best_and_worst, image_iou
from barm.words import listed, noun

ROWS = 4
LOOKED_AT = 24  # images among which the best and the worst are chosen


def draw(plan: Plan, rt: Runtime, directory: RunDirectory, path: Path) -> None:
    """Write an image of held-out examples: labels, prediction before, prediction after.

    At most 24 images in which a new class is labelled are predicted. Those with the highest and the lowest IoU of the
    new classes are shown.
    """
    source = plan.data.val
    models = [load(directory.path, step, rt) for step in (plan.known.step, plan.step)]
    chosen = choose(source, models[1], plan.data.plan[plan.step].new)
    changes = []
    for i, told in chosen:
        sample = source[i]
        before, after = (model.predict(sample.image) for model in models)
        changes.append(Change(np.asarray(sample.image.convert("RGB")), np.asarray(sample.mask), before, after, told))
    names, colours = models[1].class_names, models[1].display_colours
    draw_changes(path, changes, names, colours, f"before and after learning {listed(plan.new)}")


def choose(source: Source, model: Model, new: Sequence[int]) -> list[tuple[int, str]]:
    """Choose images in which new classes are found best and worst in turn: positions, and why each was chosen.

    Args:
        source: its ids are the model's channels.
        model: the extended network.
        new: ids of the new classes.
    """
    showing = [i for i in range(len(source)) if set(new) & source.classes_in(i)]
    drawn = showing[:: max(1, -(-len(showing) // LOOKED_AT))]
    if not drawn:
        return [(i, "no new class is labelled") for i in range(min(ROWS, len(source)))]
    ious = [image_iou(model.predict(source[i].image), np.asarray(source[i].mask), new) for i in drawn]
    known = f"new {noun(len(new), 'classes')}"
    return [
        (drawn[one.place], f"{known}: IoU {100 * (ious[one.place] or 0.0):.0f} %, {one.told('a new class')}")
        for one in best_and_worst(ious, ROWS)
    ]
