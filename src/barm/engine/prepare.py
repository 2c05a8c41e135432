"""Preparation of a run: open the data, choose sizes, check memory. Nothing is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from barm.engine.capacity import check_evaluation, check_training
from barm.engine.config import RunConfig
from barm.engine.crops import sized
from barm.engine.datasets import Data, open_data
from barm.engine.runtime import Runtime
from barm.labels import Step


class Prepared(NamedTuple):
    """A run that is ready to begin.

    Attributes:
        config: the configuration, with every crop settled.
        data: its images.
        steps: indices of the steps to do.
        chosen: reasons for settings that the data decided, by key.
        warnings: about sizes that differ much from the data's.
    """

    config: RunConfig
    data: Data
    steps: tuple[Step, ...]
    chosen: Mapping[str, str]
    warnings: tuple[str, ...]


def prepare(
    config: RunConfig,
    rt: Runtime,
    only: Sequence[int] | None = None,
    data: Data | None = None,
    known: Collection[int] = (),
) -> Prepared:
    """Open the data and resolve the settings that depend on them.

    Args:
        config: the whole configuration.
        rt: the runtime.
        only: indices of the steps to do; all by default.
        data: as `open_data` returned it; opened here by default.
        known: indices of steps that are taken from another run.

    Raises:
        UserError: for data that cannot be used, or too little memory.
    """
    if only is None or 0 in only:
        check_training(config, rt, 0)  # as far as it can be told before the data are open
    data = data or open_data(config, rt)
    steps = data.plan.steps() if only is None else tuple(data.plan[i] for i in sorted(set(only)))
    config, chosen, warnings = sized(config, data, [s.index for s in steps], rt.world, known)
    for index in sorted({min(s.index, 1) for s in steps}):
        check_training(config, rt, index)
    check_evaluation(config, rt, data.measured)
    return Prepared(config, data, steps, chosen, warnings)
