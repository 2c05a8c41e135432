"""A step's images followed by images without labels, as one data set."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from barm.data.base import load
from barm.data.dataset import Item, StepDataset
from barm.data.device_transforms import Placed
from barm.data.exemplars import MemoryDataset
from barm.data.sampler import Key
from barm.data.unlabelled import UnlabelledImages
from barm.labels import IGNORE, Lut

NOTHING: Lut = np.full(256, IGNORE, np.uint8)  # the label of every pixel


class BesideDataset(Dataset[Item | Placed]):
    """A step's images, with or without exemplars, followed by images without labels.

    Their labels are 255 throughout, the padding's too, and their ``extras["index"]`` is -1.

    Args:
        current: the step's images.
        unlabelled: the others.
    """

    def __init__(self, current: StepDataset | MemoryDataset, unlabelled: UnlabelledImages) -> None:
        self.current, self.unlabelled, self.step = current, unlabelled, current.step
        self.first = current.positions
        self._own = current if isinstance(current, StepDataset) else current.current
        self._transform = self._own.transform._replace(pad_label=IGNORE)
        self._marks = {"index": torch.tensor(-1)}
        if isinstance(current, MemoryDataset):
            self._marks["memory"] = torch.tensor(False)

    def __len__(self) -> int:
        """Number of images of an epoch, those without labels left out."""
        return len(self.current)

    def __getitem__(self, key: Key) -> Item | Placed:
        if key[1] < self.first:
            return self.current[key]
        sample = load(self.unlabelled, key[1] - self.first)
        return self._own.augmented(sample, key, NOTHING, self._transform, dict(self._marks))
