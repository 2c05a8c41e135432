"""The pictures of a run, opened and checked: what trains, what measures, and the plan on their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from barm.data import open_source
from barm.data.base import Source
from barm.data.cache import DecodedSource
from barm.data.index import checked
from barm.data.named import Named, labelled
from barm.engine.recipe import DataConfig, PlaceConfig, RunConfig
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.labels import Step, TaskPlan


@dataclass(frozen=True)
class Data:
    """The pictures of a run and the plan on them.

    Attributes:
        train: the training split.
        val: the validation split.
        plan: the scenario.
        others: validation splits of further data sets.
    """

    train: Source
    val: Source
    plan: TaskPlan
    others: tuple[Source, ...] = ()

    @property
    def measured(self) -> tuple[Source, ...]:
        """All that is measured on."""
        return (self.val, *self.others)

    @property
    def labelled(self) -> frozenset[int]:
        """Class ids that at least one of them labels."""
        return frozenset().union(*(labelled(source) for source in self.measured))

    def known(self, source: Source, step: Step) -> tuple[bool, ...]:
        """Which of a step's channels a source labels, background always, ``(C,)``."""
        ids = labelled(source)
        return (True, *(i in ids for i in step.seen))


def open_data(config: RunConfig, rt: Runtime) -> Data:
    """Open all splits, check every picture, make the plan.

    Raises:
        UserError: no root, no data there, an unsound picture, or a task that does not fit the classes.
    """
    about, root = config.data, config.data.root
    if root is None:
        raise UserError("no data set: pass --data DIR, or set data.root in the recipe")
    train: Source = rt.main_first(lambda: _train_source(about, root))
    own = PlaceConfig(root=root, layout=about.layout, names=about.names)
    val, *others = (open_val(rt, place, about.classes) for place in (own, *about.val))
    return Data(train, val, config.task.plan(tuple(train.class_names), config.seed), tuple(others))


def open_val(rt: Runtime, place: PlaceConfig, classes: Sequence[str] = ()) -> Source:
    """The validation split of a data set, checked; under the run's `classes` where they are given."""
    source = rt.main_first(lambda: checked(open_source(place.layout, place.root, "val", place.names)))
    return Named(source, classes) if classes else source


def _train_source(about: DataConfig, root: Path) -> Source:
    """The training split, checked, and decoded as far as the cache may hold it."""
    source = checked(open_source(about.layout, root, "train", about.names), about.class_list)
    held: Source = DecodedSource(source, about.cache_mb << 20) if about.cache_mb else source
    return Named(held, about.classes) if about.classes else held
