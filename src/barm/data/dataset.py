"""The images of one step as a `torch.utils.data.Dataset`.

Every random choice is a function of (seed, step, epoch, index): neither the number of workers nor a restart changes it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from barm.data.base import Sample, Source, load
from barm.data.device_transforms import Placed, place
from barm.data.sampler import Key
from barm.data.transforms import EvalTransform, TrainTransform, eval_transform, train_transform
from barm.errors import UserError
from barm.labels import LabelPolicy, Lut, Step, TaskPlan

Item = tuple[Tensor, Tensor, dict[str, Tensor]]  # (3, H, W), (H, W) and maps, uint8


class StepDataset(Dataset[Item | Placed]):
    """The images that a step may use, with its labels.

    Args:
        source: the training split.
        plan: of the task.
        step: one of its steps.
        policy: label of hidden classes, and which images are used (joint training uses those of all steps so far).
        transform: augmentation.
        seed: of the augmentation.
        on_device: return items that `barm.data.device_transforms` augments, instead of augmented images.

    Raises:
        UserError: if no image belongs to the step.
    """

    def __init__(
        self,
        source: Source,
        plan: TaskPlan,
        step: Step,
        policy: LabelPolicy,
        transform: TrainTransform,
        seed: int,
        *,
        on_device: bool = False,
    ) -> None:
        selects = plan.selects_seen if policy.supervision == "seen" else plan.selects
        self.images = tuple(i for i in range(len(source)) if selects(step, source.classes_in(i), source.name(i)))
        if not self.images:
            learned = ", ".join(source.class_names[i] for i in step.new)
            raise UserError(
                f"no training image belongs to step {step.index} ({learned}) in the {plan.setting} setting; "
                "add images or choose another task or setting"
            )
        self.source, self.step, self.transform, self.seed = source, step, transform, seed
        self.lut, self.on_device = plan.train_lut(step, policy), on_device

    def __len__(self) -> int:
        return len(self.images)

    @property
    def positions(self) -> int:
        """Number of positions that a key may have."""
        return len(self.images)

    def __getitem__(self, key: Key) -> Item | Placed:
        return self.load(self.images[key[1]], key, self.lut, {})

    def pixels(self) -> NDArray[np.int64]:
        """Number of pixels by channel in the labels of all images, not augmented, ``(256,)``.

        The index of a source knows it; masks of any other are read.
        """
        counts = np.zeros(256, np.int64)
        areas = getattr(self.source, "areas", ())
        for i in self.images:
            area = areas[i] if areas else dict(enumerate(self.source[i].mask.histogram()))
            for value, number in area.items():
                counts[self.lut[value]] += number
        return counts

    def load(self, index: int, key: Key, lut: Lut, marks: dict[str, Tensor]) -> Item | Placed:
        """Load an image and augment it as its key says, with further scalars by name."""
        marks = {"index": torch.tensor(index), **marks}
        return self.augmented(load(self.source, index), key, lut, self.transform, marks)

    def augmented(
        self, sample: Sample, key: Key, lut: Lut, transform: TrainTransform, marks: dict[str, Tensor]
    ) -> Item | Placed:
        """Augment an image as its key says, with scalars by name."""
        rng = np.random.default_rng([self.seed, self.step.index, *key])
        if self.on_device:
            part, mask, maps, placing = place(sample, lut, rng, transform)
            return part, mask, {**maps, **marks}, placing
        image, label, extras = train_transform(sample, lut, rng, transform)
        return image, label, {**extras, **marks}


class StepView(Dataset[Item]):
    """A step's images with its training labels, cropped as in evaluation, in order."""

    def __init__(self, step: StepDataset, transform: EvalTransform) -> None:
        self.step, self.transform = step, transform

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, position: int) -> Item:
        index = self.step.images[position]
        image, label, extras = eval_transform(load(self.step.source, index), self.step.lut, self.transform)
        return image, label, {**extras, "index": torch.tensor(index)}

    def shapes(self) -> list[Hashable]:
        """One value per image; images with equal values fit into one batch."""
        return _shapes(self.step.source, self.step.images, self.transform)


class EvalDataset(Dataset[Item]):
    """The whole validation split with the labels of all classes seen so far."""

    def __init__(
        self, source: Source, plan: TaskPlan, step: Step, policy: LabelPolicy, transform: EvalTransform
    ) -> None:
        self.source, self.transform = source, transform
        self.lut = plan.eval_lut(step, policy)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        sample = load(self.source, index)._replace(extras={})
        image, label, _ = eval_transform(sample, self.lut, self.transform)
        return image, label, {"index": torch.tensor(index)}

    def shapes(self) -> list[Hashable]:
        """One value per image; images with equal values fit into one batch."""
        return _shapes(self.source, range(len(self)), self.transform)


def _shapes(source: Source, images: Sequence[int], transform: EvalTransform) -> list[Hashable]:
    """One value per image: None where all are cropped to one size, else the image's size if the source knows it."""
    if transform.crop is not None:
        return [None] * len(images)
    sizes = getattr(source, "sizes", ())
    return [sizes[i] if sizes else (i,) for i in images]
