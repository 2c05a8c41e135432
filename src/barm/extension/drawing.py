"""A picture of what changed: new pictures before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from barm.api import Model
from barm.engine.runtime import Runtime
from barm.engine.sequence import load_step
from barm.engine.store import METHOD, RunDirectory
from barm.extension.planning import Plan
from barm.report.extension import Change, draw_changes

ROWS = 4


def draw(plan: Plan, rt: Runtime, directory: RunDirectory, path: Path) -> None:
    """Write pictures that were not trained on: their labels, and what the network said before and says now."""
    source = plan.data.val
    new = set(plan.data.plan[plan.step].new)
    chosen = [i for i in range(len(source)) if new & source.classes_in(i)][:ROWS] or list(range(min(ROWS, len(source))))
    models = []
    for step in (plan.known.step, plan.step):
        network, method = load_step(directory, step)
        models.append(Model(network, method, directory.read(step, METHOD), rt))
    changes = []
    for i in chosen:
        sample = source[i]
        before, after = (model.predict(sample.image) for model in models)
        changes.append(Change(np.asarray(sample.image), np.asarray(sample.mask), before, after))
    names, colours = models[1].class_names, models[1].colours
    draw_changes(path, changes, names, colours, f"before and after learning {', '.join(plan.new)}")
