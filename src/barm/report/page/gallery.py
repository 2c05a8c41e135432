"""Images in the form that the template needs: the gallery, and the parts of the background logit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from barm.report.page import images
from barm.report.page.content import Background, Gallery, Pixels, Shot, Values

EXPLAINED = 3  # images per run whose background is explained
UNLABELLED = 255


class Frame(NamedTuple):
    """A prediction in the gallery after one step: an image that lies over the photograph, and its text."""

    step: int
    uri: str
    told: str


class Panel(NamedTuple):
    """A run's predictions for one image."""

    label: str
    frames: tuple[Frame, ...]


class Scene(NamedTuple):
    """An image with its ground truth and predictions."""

    name: str
    photo: str
    told: str
    truth: Frame
    panels: tuple[Panel, ...]
    chips: tuple[tuple[str, str], ...]
    ratio: float
    chosen: str  # why it is shown


class Map(NamedTuple):
    """One map of the background logit's parts."""

    title: str
    uri: str
    told: str
    kind: str  # photo, heat or labels
    sign: str = ""  # what joins it to the one before


class Tale(NamedTuple):
    """The parts of the last network's background logit in one image."""

    label: str
    name: str
    photo: str
    maps: tuple[Map, ...]
    limit: float
    changed: float
    ratio: float


def scenes(gallery: Gallery) -> list[Scene]:
    """Prepare the gallery's images."""
    return [_scene(shot, gallery) for shot in gallery.shots]


def steps_shown(gallery: Gallery) -> list[int]:
    """Steps after which any run made predictions."""
    return sorted({step for shot in gallery.shots for answers in shot.answers.values() for step in answers})


def _scene(shot: Shot, gallery: Gallery) -> Scene:
    panels = tuple(
        Panel(
            label,
            tuple(
                Frame(step, _labels(a, gallery), f"{label} after step {step}: {_names(a, gallery)}")
                for step, a in sorted(answers.items())
            ),
        )
        for label, answers in shot.answers.items()
    )
    seen = {
        i for a in (shot.truth, *(a for answers in shot.answers.values() for a in answers.values())) for i in _ids(a)
    }
    chips = tuple((gallery.class_names[i], _hex(gallery.colours[i])) for i in sorted(seen))
    truth = Frame(-1, _labels(shot.truth, gallery), f"the truth: {_names(shot.truth, gallery)}")
    told = f"image {shot.name}, which shows {_names(shot.truth, gallery)}"
    return Scene(shot.name, images.photograph(shot.image), told, truth, panels, chips, _ratio(shot.truth), shot.told)


def tales(gallery: Gallery) -> list[Tale]:
    """Choose per run with residual background channels the images in which the residuals matter most."""
    runs = dict.fromkeys(label for shot in gallery.shots for label in shot.background)
    told = []
    for label in runs:
        shots = [s for s in gallery.shots if label in s.background]
        shots.sort(key=lambda s: _changed(s.background[label]), reverse=True)
        told += [_tale(shot, label, gallery) for shot in shots[:EXPLAINED]]
    return told


def _changed(background: Background) -> float:
    return float((background.without != background.adapted).mean())


def _tale(shot: Shot, label: str, gallery: Gallery) -> Tale:
    b = shot.background[label]
    limit = float(np.abs(b.base).max()) or 1.0  # residuals may go far beyond; they are to leave the base its contrast
    maps = [Map("base, step 0", images.heat(b.base, limit), f"base background logit, {_range(b.base)}", "heat")]
    for step, residual in b.residuals.items():
        told = f"residual of step {step}, {_range(residual)}"
        maps.append(Map(f"residual {step}", images.heat(residual, limit), told, "heat", "+"))
    maps.append(Map("sum", images.heat(b.total, limit), f"adapted background logit, {_range(b.total)}", "heat", "="))
    for title, labels in (("labels by the base", b.without), ("labels by the sum", b.adapted)):
        maps.append(Map(title, _labels(labels, gallery), f"{title}: {_names(labels, gallery)}", "labels"))
    return Tale(label, shot.name, images.photograph(shot.image), tuple(maps), limit, _changed(b), _ratio(shot.truth))


def _range(values: Values) -> str:
    return f"from {values.min():.1f} to {values.max():.1f}"


def _labels(ids: Pixels, gallery: Gallery) -> str:
    return images.labels(ids, gallery.colours)


def _ids(labels: Pixels) -> Sequence[int]:
    return [i for i in np.unique(labels).tolist() if i not in (0, UNLABELLED)]


def _names(labels: Pixels, gallery: Gallery) -> str:
    return ", ".join(gallery.class_names[i] for i in _ids(labels)) or "background only"


def _hex(colour: Pixels) -> str:
    return "#" + "".join(f"{int(c):02x}" for c in colour)


def _ratio(labels: Pixels) -> float:
    return round(float(labels.shape[1] / labels.shape[0]), 4)
