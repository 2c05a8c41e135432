"""Open and check the images of a run: training, validation, and the plan on their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from barm.data.base import Source
from barm.data.beside import BesideDataset
from barm.data.check import leak
from barm.data.dataset import EvalDataset, StepDataset
from barm.data.decoded import DecodedSource
from barm.data.exemplars import Exemplar, MemoryDataset
from barm.data.index import checked
from barm.data.left_right import flip_warning
from barm.data.saliency.record import origin
from barm.data.sources import open_source
from barm.data.sources.files import FileSource
from barm.data.sources.named import Named, labelled
from barm.data.transforms import EvalTransform, TrainTransform
from barm.data.unlabelled import UnlabelledImages
from barm.engine.config import DataConfig, PlaceConfig, RunConfig
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.labels import INCREMENTAL, JOINT, LabelPolicy, Step, TaskPlan


@dataclass(frozen=True)
class Data:
    """The images of a run and the plan on them.

    Attributes:
        train: the training split.
        val: the validation split.
        plan: of the task.
        others: validation splits of further data sets.
        warnings: what is likely a mistake in the data, a line each.
        saliency: origin of the saliency maps, or that there are none; empty where the method uses none.
        unlabelled: images without masks for later steps.
    """

    train: Source
    val: Source
    plan: TaskPlan
    others: tuple[Source, ...] = ()
    warnings: tuple[str, ...] = ()
    saliency: str = ""
    unlabelled: UnlabelledImages | None = None

    @property
    def measured(self) -> tuple[Source, ...]:
        """All sources that are measured on."""
        return (self.val, *self.others)

    @property
    def labelled(self) -> frozenset[int]:
        """Class ids that at least one of the measured sources labels."""
        return frozenset().union(*(labelled(source) for source in self.measured))

    def known(self, source: Source, step: Step) -> tuple[bool, ...]:
        """The channels of a step that a source labels, background always, ``(C,)`` bool."""
        ids = labelled(source)
        return (True, *(i in ids for i in step.seen))

    def warned(self, config: RunConfig, steps: Sequence[Step]) -> tuple[str, ...]:
        """The warnings on the data, and on class names that flips in these steps' training would mix up."""
        tables = dict.fromkeys("base" if s.index == 0 else "increment" for s in steps if config.recipe(s.index).flip)
        mixed = flip_warning(self.train.class_names[1:], tuple(tables))
        return self.warnings if mixed is None else (*self.warnings, mixed)


def open_data(config: RunConfig, rt: Runtime) -> Data:
    """Open all splits, check every image, make the plan.

    Raises:
        UserError: no root, no data there, an unsound image, one that trains and measures, or a task that does not fit
            the classes.
    """
    data_config, root = config.data, config.data.root
    if root is None:
        raise UserError("no data set: pass --data DIR, or set data.root in the recipe")
    found = rt.main_first(lambda: _checked_train(data_config, root, config.method.maps))
    own = PlaceConfig(root=root, layout=data_config.layout, names=data_config.names)
    val, *others = (_checked_val(rt, place) for place in (own, *data_config.val))
    for source in () if data_config.allow_shared else (val, *others):
        if (shared := leak(found, source)) is not None:
            raise UserError(shared)
    unlabelled = _unlabelled(data_config, rt, (val, *others))
    train: Source = rt.main_first(lambda: _held(found, data_config))
    measured = [Named(source, data_config.classes) if data_config.classes else source for source in (val, *others)]
    plan = config.task.plan(tuple(train.class_names), config.seed)
    remarks = dict.fromkeys(r for source in (found, val, *others) for r in source.remarks)
    warnings = tuple(r.text for r in remarks if r.level == "warning")
    saliency = _origin(found) if "saliency" in config.method.maps else ""
    return Data(train, measured[0], plan, tuple(measured[1:]), warnings, saliency, unlabelled)


def open_val(rt: Runtime, place: PlaceConfig, classes: Sequence[str] = ()) -> Source:
    """Open and check a validation split, mapped to the run's `classes` if they are given."""
    source = _checked_val(rt, place)
    return Named(source, classes) if classes else source


def _checked_val(rt: Runtime, place: PlaceConfig) -> FileSource:
    return rt.main_first(lambda: checked(open_source(place.layout, place.root, "val", place.names)))


def _checked_train(data_config: DataConfig, root: Path, maps: frozenset[str]) -> FileSource:
    """Open and check the training split, with the method's maps."""
    source = open_source(data_config.layout, root, "train", data_config.names)
    return checked(source if "saliency" in maps else replace(source, saliency=()), data_config.class_list)


def _unlabelled(data_config: DataConfig, rt: Runtime, measured: Sequence[FileSource]) -> UnlabelledImages | None:
    """Open the images without masks; one process checks them.

    Raises:
        UserError: no image there, an unsound one, or one that is measured on.
    """
    if data_config.unlabelled is None:
        return None
    images = UnlabelledImages(data_config.unlabelled)
    rt.on_main(lambda: images.check(() if data_config.allow_shared else measured))
    return images


def _origin(source: FileSource) -> str:
    """The origin of a split's saliency maps in one line."""
    return origin(source.maps_folder) if source.saliency else "none"


def _held(source: FileSource, data_config: DataConfig) -> Source:
    """The training split with the cache of decoded images, mapped to the run's classes, as configured."""
    held: Source = DecodedSource(source, data_config.cache_mb << 20) if data_config.cache_mb else source
    return Named(held, data_config.classes) if data_config.classes else held


def train_dataset(config: RunConfig, data: Data, step: Step) -> StepDataset:
    """The images that a step trains on, with its labels."""
    recipe = config.recipe(step.index)
    transform = TrainTransform(recipe.side, recipe.geometry, recipe.scale, recipe.flip, recipe.pad_label)
    method = config.method.build(step, config.model)
    policy = replace(method.policy, void=recipe.void_label)
    on_device = config.runtime.augment == "device"
    return StepDataset(data.train, data.plan, step, policy, transform, seed=config.seed, on_device=on_device)


def eval_dataset(config: RunConfig, data: Data, source: Source, step: Step, policy: LabelPolicy) -> EvalDataset:
    """A data set for evaluation, transformed as configured, with a step's labels."""
    return EvalDataset(source, data.plan, step, policy, EvalTransform(crop=config.evaluation.crop or None))


def training_images(
    config: RunConfig, data: Data, dataset: StepDataset, step: Step, exemplars: Sequence[Exemplar]
) -> StepDataset | MemoryDataset | BesideDataset:
    """The step's images, with exemplars and images without labels if there are any."""
    images = with_exemplars(config, data, dataset, step, exemplars)
    return images if data.unlabelled is None or step.index == 0 else BesideDataset(images, data.unlabelled)


def with_exemplars(
    config: RunConfig, data: Data, dataset: StepDataset, step: Step, exemplars: Sequence[Exemplar]
) -> StepDataset | MemoryDataset:
    """The step's images, with exemplars if there are any."""
    memory = config.method.memory
    if memory is None or not exemplars:
        return dataset
    supervision = JOINT if memory.labels == "seen" else INCREMENTAL
    policy = replace(supervision, void=config.recipe(step.index).void_label)
    return MemoryDataset(dataset, exemplars, memory, data.plan.train_lut(step, policy))
