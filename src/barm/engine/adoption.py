"""Take over step 0 of another run if it was the same training."""

from __future__ import annotations

import torch

from barm.engine.checkpoint.differences import BASE, difference, settings
from barm.engine.checkpoint.directory import COUNTS, IMAGES, METRICS, RunDirectory
from barm.engine.checkpoint.images import Images, other_images
from barm.engine.checkpoint.network import describe_classes
from barm.engine.config import RunConfig
from barm.engine.datasets import Data
from barm.errors import UserError
from barm.models.segmenter import check_names


def check_adoptable(config: RunConfig, other: RunDirectory, images: Images | None) -> None:
    """Refuse another run's step 0 unless it was the same training.

    Args:
        config: of the run that would take it over.
        other: the other run.
        images: record of the images that this one trains on.

    Raises:
        UserError: says what is different.
    """
    theirs = other.config()
    other.require(0)
    found = difference(settings(theirs, BASE), settings(config, BASE))
    if images is not None and other.has(0, IMAGES):
        what = other_images(other.read(0, IMAGES), images)
        if what is not None and found is None:
            raise UserError(f"step 0 of {other.path} was trained on other images ({what}): train it here instead")
    else:  # of an older version, which kept no record: of the same folder, at least
        found = found or difference(*({"data.root": str(c.data.root)} for c in (theirs, config)))
    if found is not None:
        raise UserError(
            f"step 0 of {other.path} was trained with another [{found[0]}] ({found[1]}): train it here instead"
        )
    found = difference(theirs.method.base_training, config.method.base_training)
    if found is not None:
        raise UserError(
            f"step 0 of {other.path} was trained by {theirs.method.name}, which minimises something else there than "
            f"{config.method.name} ({found[1]}): train it here instead"
        )


def adopt(config: RunConfig, directory: RunDirectory, other: RunDirectory, data: Data) -> None:
    """Take over another run's step 0, which `check_adoptable` has accepted."""
    if directory.is_complete(0):
        return
    state, step = other.load_model_state(0), data.plan[0]
    check_names(config.method.build(step, config.model).build_model().state_dict(), state, set(), str(other.path))
    counts = torch.tensor(other.read(0, COUNTS))
    directory.save_step(
        0,
        state,
        describe_classes(config, data.plan, step, data.train.class_names, data.train.palette),
        counts,
        other.read(0, METRICS),
        carried=other.load_carried(0),
    )
