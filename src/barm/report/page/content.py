"""Content of a report as plain data: numbers of the runs, images with predictions, notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class KnownClass:
    """A class of a run.

    Attributes:
        name: as in the data set.
        colour: red, green, blue.
        step: in which it was learned; 0 for background too.
    """

    name: str
    colour: tuple[int, int, int]
    step: int


@dataclass(frozen=True)
class Scores:
    """Scores of a run after one step, as fractions.

    Attributes:
        step: its index.
        learned: names of the classes that it added.
        means: mIoU ``old``, ``new`` and ``all``, those that there are: images that label only some of the classes
            give only some of the scores.
        average: of ``all`` over the steps so far; None where that is not known.
        lost: forgetting; None where that is not known.
        iou: per class name, background first; of the classes that were measured.
        counts: confusion, ``(C, C)`` int64, row = truth; None where the run has none.
    """

    step: int
    learned: tuple[str, ...]
    means: Mapping[str, float]
    average: float | None
    lost: float | None
    iou: Mapping[str, float]
    counts: NDArray[np.int64] | None


@dataclass(frozen=True)
class Trace:
    """A logged value over the updates of one step.

    Attributes:
        step: its index.
        name: such as ``loss``.
        updates: counted from 1 within the step.
        values: one per update in `updates`.
    """

    step: int
    name: str
    updates: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunContent:
    """Numbers of one run.

    Attributes:
        label: a short name, unique in the report.
        path: its folder; the page shows `place` instead.
        place: its folder as others may read it, without the rest of an absolute path.
        method: its name.
        task: with the setting, short enough for a title.
        seed: of the run.
        num_steps: of the task.
        finished: indices of the finished steps.
        classes: by channel of the last finished step.
        scores: of the steps that are evaluated.
        traces: the training log.
        settings: settings that decide the result, by dotted names.
        config: resolved configuration as TOML.
        provenance: versions, machine, commit.
        command: the command that repeats the run.
        terms: explanation of each logged loss term, by name.
        unread: what of the training log cannot be read; else empty.
        origin: the run whose steps this one took over, where it is an extension; else empty.
    """

    label: str
    path: str
    place: str
    method: str
    task: str
    seed: int
    num_steps: int
    finished: tuple[int, ...]
    classes: tuple[KnownClass, ...]
    scores: tuple[Scores, ...]
    traces: tuple[Trace, ...]
    settings: Mapping[str, str]
    config: str
    provenance: Mapping[str, str]
    command: str
    terms: Mapping[str, str] = field(default_factory=dict)
    unread: str = ""
    origin: str = ""

    @property
    def untrained(self) -> tuple[int, ...]:
        """Finished steps without a log, since they were taken over or imported."""
        logged = {trace.step for trace in self.traces}
        return tuple(step for step in self.finished if step not in logged)

    @property
    def single(self) -> bool:
        """Whether the task has only one step."""
        return self.num_steps == 1


@dataclass(frozen=True)
class Background:
    """Parts of the background logit in one image; maps are ``(h, w)`` at feature resolution.

    Attributes:
        step: of the network.
        base: logit of step 0.
        residuals: of the later steps by their index, ``min(a_t, 0)``.
        total: their sum, which competes with the classes.
        without: labels if the base logit alone competed, dataset ids, ``(H, W)``.
        adapted: labels as they are.
    """

    step: int
    base: Values
    residuals: Mapping[int, Values]
    total: Values
    without: Pixels
    adapted: Pixels


@dataclass(frozen=True)
class Shot:
    """An image with its ground truth and the runs' predictions, in dataset ids.

    Attributes:
        name: in the data set.
        image: ``(H, W, 3)``.
        truth: ``(H, W)``; 255 is unlabelled.
        answers: per run's label and step, ``(H, W)``.
        background: per run's label, for methods with residual background channels.
        told: why the image was chosen.
    """

    name: str
    image: Pixels
    truth: Pixels
    answers: Mapping[str, Mapping[int, Pixels]]
    background: Mapping[str, Background] = field(default_factory=dict)
    told: str = ""


@dataclass(frozen=True)
class Gallery:
    """Images of the validation split.

    Attributes:
        shots: the images.
        class_names: by dataset id.
        colours: by dataset id, ``(256, 3)``.
        split: origin of the images, for the caption.
    """

    shots: tuple[Shot, ...]
    class_names: tuple[str, ...]
    colours: Pixels
    split: str = "validation"


@dataclass(frozen=True)
class Confused:
    """A class, another one that its pixels are given, and the share of these pixels as a fraction."""

    truth: str
    prediction: str
    share: float


@dataclass(frozen=True)
class Bin:
    """Pixels whose predicted class has a probability in one range, and their means, as fractions."""

    pixels: int
    accuracy: float
    probability: float


@dataclass(frozen=True)
class Details:
    """Where a run's network is wrong after one step.

    Attributes:
        step: its index.
        width: pixels on either side of a border.
        border: mIoU at borders; None where there are none.
        inner: mIoU elsewhere.
        confused: pairs of classes, the most confused first.
        bins: equal parts of the probability; none where the scores are no probabilities.
        error: expected calibration error, as a fraction.
        probability: of the predicted class, mean over the pixels.
    """

    step: int
    width: int
    border: float | None
    inner: float | None
    confused: tuple[Confused, ...]
    bins: tuple[Bin, ...]
    error: float
    probability: float

    @property
    def pixels(self) -> int:
        """Number of pixels in all bins, at least 1."""
        return max(sum(one.pixels for one in self.bins), 1)

    @property
    def right(self) -> float:
        """Share of these pixels that are right."""
        return sum(one.pixels * one.accuracy for one in self.bins) / self.pixels


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        runs: the first is the one that others are compared with.
        gallery: None where no images are to be had.
        notes: why something is missing, a sentence each, by section (``scores``, ``gallery``, ``background``,
            ``training``, ``speed``, ``compare``, ``wrong``).
        command: the command that wrote the report.
        made: date and time, for the foot of the page.
        details: by the runs' labels; None where they were not asked for.
    """

    runs: tuple[RunContent, ...]
    gallery: Gallery | None
    notes: Mapping[str, tuple[str, ...]]
    command: str
    made: str
    details: Mapping[str, Details] | None = None
