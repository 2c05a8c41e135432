"""Class ids: the classes of each step, the images of each step, and the tables from dataset ids to channels.

This is the only file that does arithmetic on class ids. A *class id* is the number in a dataset's mask (0 =
background, 255 = ignore); a *channel* is a position in a network's output and in every label after loading (0 =
background, then the classes in learning order).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib import resources
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from barm.catalogue import ADE_TASKS, VOC_TASKS
from barm.errors import UserError, nearest
from barm.words import count

IGNORE = 255
NO_ROW = -1  # of a class that is no output of the network
TABLES = ("base", "increment")  # of the configuration: how step 0 is trained, and how every later one
MAX_CLASSES = 254  # ids 1..254 fit beside background and ignore in an 8-bit mask
Setting = Literal["overlap", "disjoint", "partitioned"]
Lut = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LabelPolicy:
    """How the label tables treat class ids that the model is not shown.

    Attributes:
        hidden: label in training of every class that the step does not learn (the background shift).
        unseen: label in evaluation of classes that a later step will learn; `IGNORE` leaves them out of the scores.
        void: label in training of the mask's 255.
        supervision: classes labelled in training: those of the `step` alone; all `seen` so far, in the images of all
            steps so far (joint training); or all so far in the step's images (`sequential`).
    """

    hidden: int = 0
    unseen: int = IGNORE
    void: int = IGNORE
    supervision: Literal["step", "seen", "sequential"] = "step"


INCREMENTAL = LabelPolicy()
JOINT = LabelPolicy(supervision="seen")
SEQUENTIAL = LabelPolicy(supervision="sequential")


@dataclass(frozen=True, slots=True)
class Step:
    """The classes of one step.

    Attributes:
        index: 0 for the base training.
        groups: class ids learned up to and including this step, one tuple per step, without background.
    """

    index: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def old(self) -> tuple[int, ...]:
        """Class ids learned before, in learning order."""
        return tuple(i for group in self.groups[:-1] for i in group)

    @property
    def new(self) -> tuple[int, ...]:
        """Class ids that this step learns."""
        return self.groups[-1]

    @property
    def seen(self) -> tuple[int, ...]:
        """Old and new class ids in learning order."""
        return self.old + self.new

    @property
    def num_old(self) -> int:
        """K: channels of the previous model, background included (1 at step 0)."""
        return 1 + len(self.old)

    @property
    def num_seen(self) -> int:
        """C: channels of this step's model, background included."""
        return 1 + len(self.seen)

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Number of classes per step, without background, e.g. ``(15, 1, 1)``."""
        return tuple(len(group) for group in self.groups)


class Place(NamedTuple):
    """The place of a class: its position in learning order, and its step."""

    position: int
    step: int


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task: which classes come at which step, and which images each step may use.

    Attributes:
        groups: class ids per step in learning order, without background.
        setting: `overlap` uses every image with a class of the step; `disjoint` refuses those that show a later
            step's class; `partitioned` gives every image to exactly one step, that of one of its classes drawn at
            random (Kwak et al., arXiv 2405.09858).
        seed: of the draw of `partitioned`.
    """

    groups: tuple[tuple[int, ...], ...]
    setting: Setting = "overlap"
    seed: int = 0
    _learned: dict[int, Place] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = [i for group in self.groups for i in group]
        if not self.groups or any(not group for group in self.groups):
            raise UserError("a task needs at least one step and at least one class in every step; remove empty groups")
        if len(set(ids)) != len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise UserError(f"every class is learned once, but class id(s) {twice} stand in two places; list each once")
        if min(ids) < 1 or max(ids) > MAX_CLASSES:
            raise UserError(f"class ids must be in 1..{MAX_CLASSES}, found {min(ids)}..{max(ids)}")
        if self.setting not in get_args(Setting):
            raise UserError(f"setting must be overlap, disjoint or partitioned, got '{self.setting}'")
        steps = [step for step, group in enumerate(self.groups) for _ in group]
        object.__setattr__(self, "_learned", dict(zip(ids, map(Place, range(len(ids)), steps), strict=True)))

    @classmethod
    def parse(
        cls, spec: str, num_classes: int, setting: Setting = "overlap", seed: int = 0, order: int = 0
    ) -> TaskPlan:
        """Read ``"15-1"``, ``"15-1_b"`` (a published order of the 20 VOC classes) or ``"offline"``.

        Args:
            spec: ``<first>-<increment>``: the first step learns `first` classes, each later one `increment`.
            num_classes: classes of the data set, background not counted.
            setting: as in `TaskPlan`.
            seed: as in `TaskPlan`.
            order: 0 learns the classes as the data set lists them, any other number shuffles them by that seed.

        Raises:
            UserError: for an unknown form, or an increment that does not divide what is left.

        Source: spec/ssul.md section 3.

        >>> TaskPlan.parse("2-1", 4).groups
        ((1, 2), (3,), (4,))
        """
        ids: Sequence[int] = range(1, num_classes + 1)
        if order:
            ids = [int(i) for i in np.random.default_rng(order).permutation(ids)]
        if spec == "offline":
            return cls((tuple(ids),), setting, seed)
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})(?:_([a-z]+))?", spec)
        if match is None:
            hint = nearest(spec, (*VOC_TASKS, *ADE_TASKS))
            raise UserError(f"unknown task '{spec}': expected <first>-<increment> such as 15-1, or offline{hint}")
        first, increment = int(match[1]), int(match[2])
        if match[3] is not None:
            if order:
                raise UserError(f"task '{spec}' has a published order of classes: leave task.order out")
            ids = _published_order(spec, match[3], num_classes)
        rest = num_classes - first
        if first < 1 or increment < 1 or rest < 1 or rest % increment:
            fits = [n for n in range(1, rest + 1) if rest % n == 0]
            advice = f"after {first} an increment of {_either(fits)} fits" if first and fits else "or use 'offline'"
            raise UserError(
                f"task '{spec}' does not divide: of {count(num_classes, 'classes')} {max(rest, 0)} remain after the "
                f"first {first}, not a positive multiple of {increment}; {advice}"
            )
        cuts = [0, *range(first, num_classes + 1, increment)]
        return cls(tuple(tuple(ids[a:b]) for a, b in pairwise(cuts)), setting, seed)

    @classmethod
    def from_names(
        cls, groups: Sequence[Sequence[str]], class_names: Sequence[str], setting: Setting = "overlap", seed: int = 0
    ) -> TaskPlan:
        """Explicit groups of class names.

        Classes in no group are never learned: they stay background in training and in evaluation.

        Args:
            groups: class names per step.
            class_names: names by class id, background first.
            setting: as in `TaskPlan`.
            seed: as in `TaskPlan`.

        Raises:
            UserError: for a name that the data set does not have.
        """
        ids = {name: i for i, name in enumerate(class_names) if i}
        for name in (name for group in groups for name in group):
            if name not in ids:
                raise UserError(f"unknown class '{name}'{nearest(name, ids) or '; known: ' + ', '.join(ids)}")
        return cls(tuple(tuple(ids[name] for name in group) for group in groups), setting, seed)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.groups)

    def __getitem__(self, index: int) -> Step:
        """The step with this index."""
        if not 0 <= index < len(self.groups):
            raise UserError(f"step {index} does not exist: this task has steps 0..{len(self.groups) - 1}")
        return Step(index, self.groups[: index + 1])

    def steps(self) -> tuple[Step, ...]:
        """All steps in order."""
        return tuple(self[i] for i in range(len(self)))

    @property
    def classes(self) -> tuple[int, ...]:
        """All class ids in learning order, without background."""
        return tuple(i for group in self.groups for i in group)

    def selects(self, step: Step, present: Iterable[int], key: str = "") -> bool:
        """Whether an image belongs to the step.

        Args:
            step: one of this plan's steps.
            present: class ids in the image's mask; 0 and 255 are disregarded.
            key: the image's name, on which the draw of the `partitioned` setting depends.

        Source: spec/ssul.md section 2.2, with the disjoint rule that holds for permuted orders too (its Q9).
        """
        return step.index in self._belongs(present, key)

    def selects_seen(self, step: Step, present: Iterable[int], key: str = "") -> bool:
        """Whether an image belongs to this step or an earlier one, as joint training uses them."""
        return any(index <= step.index for index in self._belongs(present, key))

    def _belongs(self, present: Iterable[int], key: str) -> set[int]:
        """Indices of the steps that an image belongs to.

        Called for every image, so its cost depends on the image's own classes alone.
        """
        shown = [self._learned[i] for i in set(present) if i in self._learned]
        if self.setting == "overlap":
            return {place.step for place in shown}
        if not shown:
            return set()
        # disjoint: a class of step t and none of a later one, so t is the step of the class that is learned last
        place = _draw(sorted(shown), f"{self.seed}:{key}") if self.setting == "partitioned" else max(shown)
        return {place.step}

    def train_lut(self, step: Step, policy: LabelPolicy = INCREMENTAL) -> Lut:
        """Table from dataset id to channel for training, ``(256,)`` uint8.

        Classes that the step does not teach become `policy.hidden`.
        """
        taught = step.new if policy.supervision == "step" else step.seen
        lut = self._lut(step, set(taught), policy.hidden)
        lut[IGNORE] = policy.void
        return lut

    def eval_lut(self, step: Step, policy: LabelPolicy = INCREMENTAL) -> Lut:
        """Table from dataset id to channel for evaluation, ``(256,)`` uint8.

        All classes seen so far have their channel; later ones are `unseen`.
        """
        lut = self._lut(step, set(step.seen), 0)
        for class_id in set(self.classes) - set(step.seen):
            lut[class_id] = policy.unseen
        return lut

    def _lut(self, step: Step, kept: set[int], rest: int) -> Lut:
        lut = np.full(256, rest, np.uint8)
        for channel, class_id in enumerate(step.seen, start=1):
            if class_id in kept:
                lut[class_id] = channel
        lut[0], lut[IGNORE] = 0, IGNORE
        return lut


def in_learning_order(groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Renumber the groups to 1, 2, ... in learning order, so that an id equals its channel.

    >>> in_learning_order([[4, 2], [9]])
    ((1, 2), (3,))
    """
    cuts = accumulate((len(group) for group in groups), initial=1)
    return tuple(tuple(range(a, b)) for a, b in pairwise(cuts))


def _draw(shown: Sequence[Place], key: str) -> Place:
    """Draw one of the classes uniformly, as a function of the key alone."""
    digest = blake2b(key.encode(), digest_size=8).digest()
    return shown[int.from_bytes(digest, "big") % len(shown)]


def _either(numbers: Sequence[int]) -> str:
    """Join numbers by "or": ``[1, 5]`` -> ``"1 or 5"``."""
    return " or ".join(map(str, numbers[:6]))


@cache
def voc_orders() -> dict[str, tuple[int, ...]]:
    """The published reorderings of the 20 VOC classes by their letter."""
    text = resources.files("barm").joinpath("tables/voc_orders.toml").read_text("utf-8")
    return {letter: tuple(order) for letter, order in tomllib.loads(text).items()}


def _published_order(spec: str, letter: str, num_classes: int) -> tuple[int, ...]:
    orders = voc_orders()
    if letter not in orders or num_classes != 20:
        raise UserError(
            f"unknown task '{spec}': published orders are b..w of the 20 VOC classes (this data set has {num_classes})"
        )
    return orders[letter]
