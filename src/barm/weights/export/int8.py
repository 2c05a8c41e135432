"""Export of a trained step as an ONNX file that computes in int8, with the measured agreement of its labels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from barm.data.images import read_image
from barm.errors import UserError
from barm.reading import short
from barm.weights.calibrate import FEWEST, HELD_OUT, MOST, find_images
from barm.weights.export.agreement import Agreement, Predict, compare, measure, own_images, shrunk
from barm.weights.export.formats import LONGEST, announced, checked_format, in_onnxruntime, make_file
from barm.weights.export.portable import LEAST_SIDE, describe
from barm.weights.export.quantise import quantise
from barm.weights.trained import KEY, Trained, open_trained
from barm.words import count
from barm.writing import write_atomically

LEAST_EQUAL = 0.90  # share of labels equal to PyTorch's; below it no file is written
LEAST_OF_A_CLASS, SEEN = 0.5, 0.01  # likewise, of every class that has at least so much of the pixels
REMEDY = "give a folder of fewer or smaller images to --calibrate"


@dataclass(frozen=True)
class Quantised:
    """How a file in int8 came out.

    Attributes:
        agreement: with PyTorch in fp32, on images that the ranges were not measured on.
        calibrated: number of images that the ranges were measured on.
        size: of the file, in bytes.
        size_fp32: of the same file without int8, in bytes.
        worst: in words, the class whose labels agree least; empty if no class has many pixels.
    """

    agreement: Agreement
    calibrated: int
    size: int
    size_fp32: int
    worst: str

    def __str__(self) -> str:
        return (
            f"int8, {self.size_fp32 / self.size:.1f} times smaller than in fp32 ({self.size_fp32 / 1e6:.1f} MB), "
            f"calibrated on {count(self.calibrated, 'images')}; on {count(self.agreement.images, 'other images')} "
            f"{self.agreement.result}{self.worst}"
        )


class Images(NamedTuple):
    """Images to measure ranges on, and others to measure the agreement on, ``(H, W, 3)`` uint8 each."""

    calibration: list[NDArray[np.uint8]]
    held_out: list[NDArray[np.uint8]]


def export_int8(
    run: Path | str,
    out: Path | str,
    *,
    images: Path | str | None = None,
    step: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
    limit: float = LONGEST,
) -> Quantised:
    """Write a trained step as an ONNX file with convolutions and matrix products in int8.

    The file in fp32 is made first and has to pass the check of every export. That in int8 is measured, and has to
    reach `LEAST_EQUAL`.

    Args:
        run: as for `export_step`.
        out: the file; overwritten where it exists.
        images: a folder of images like those that the file is used on, without labels: three of four for the ranges
            of the activations, every fourth for the agreement. By default the run's own training images for the
            ranges, and its own validation images for the agreement.
        step: which step of a run; the last by default.
        progress: as for `export_step`.
        limit: seconds that a stage may take, as for `export_step`.

    Returns:
        The agreement and the sizes, which whoever calls has to show.

    Raises:
        UserError: as `export_step`; without images; or if too few labels agree. Nothing is written.
    """
    target = Path(out)
    name = checked_format(target, "onnx")
    trained = open_trained(run, step)
    chosen = chosen_images(run, None if images is None else Path(images))
    part, patient = announced(progress, limit), announced(progress, limit, REMEDY)
    plain = make_file(trained, name, progress, part)
    with part("comparing it with PyTorch"):
        compare(trained, plain.predict, f"the {name} file", own_images(run), plain.least)
    usable = Images(*([one for one in some if min(one.shape[:2]) >= plain.least] for some in chosen))
    if not all(usable):
        raise UserError(f"every image is smaller than {plain.least} pixels a side: give larger ones to --calibrate")
    with patient(f"measuring ranges on {count(len(usable.calibration), 'images')}"):
        content, predict = _quantised(plain.content, usable.calibration)
    with patient(f"comparing int8 with PyTorch on {count(len(usable.held_out), 'other images')}"):
        found = measure(trained, predict, (one[None] for one in usable.held_out))
    worst, share = _worst(found, trained)
    if not (found.equal >= LEAST_EQUAL and share >= LEAST_OF_A_CLASS and math.isfinite(found.difference)):
        raise UserError(
            f"in int8 too few labels agree with PyTorch's ({found.result}{worst}; expected {100 * LEAST_EQUAL:.0f} %, "
            f"and {100 * LEAST_OF_A_CLASS:.0f} % of every class): nothing was written; give images like those it is "
            "used on to --calibrate, or export without --int8"
        )
    content = _described(content, trained, plain.least, found, len(usable.calibration))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    return Quantised(found, len(usable.calibration), len(content), len(plain.content), worst)


def _quantised(content: bytes, images: list[NDArray[np.uint8]]) -> tuple[bytes, Predict]:
    """The file in int8, and its prediction.

    Raises:
        UserError: if onnxruntime cannot quantise or load it.
    """
    try:
        made = quantise(content, images)
        return made, in_onnxruntime(made)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # onnxruntime raises its own and Python's
        raise UserError(f"the network cannot be written in int8 ({short(error)}): export it without --int8") from error


def _worst(found: Agreement, trained: Trained) -> tuple[str, float]:
    """The class whose labels agree least, in words, and their share; classes of few pixels tell nothing."""
    shares = {i: equal for i, (part, equal) in found.by_channel.items() if part >= SEEN}
    if not shares:
        return "", 1.0
    channel = min(shares, key=lambda i: shares[i])
    name = trained.record["classes"][channel]["name"]
    return f"; least of {name}, {100 * shares[channel]:.1f} %", shares[channel]


def chosen_images(run: Path | str, folder: Path | None) -> Images:
    """Images for the ranges and the agreement: from a folder, or from the run's own data.

    Raises:
        UserError: if there are too few; if no folder is given and the run's data is not there.
    """
    if folder is not None:
        found = shrunk(read_image(path) for path in find_images(folder))
        if len(found) < FEWEST:
            raise UserError(
                f"{folder} holds {count(len(found), 'images')} of at least {LEAST_SIDE} pixels a side: expected "
                f"{FEWEST} to calibrate on"
            )
        held_out = found[HELD_OUT - 1 :: HELD_OUT]
        return Images([one for i, one in enumerate(found) if i % HELD_OUT != HELD_OUT - 1], held_out)
    most = MOST // HELD_OUT
    own = Images(own_images(run, "train", MOST - most), own_images(run, "val", most))
    if not all(own):
        raise UserError(
            f"int8 needs images, and those that {run} was trained on are not at hand: give a folder of images like "
            "those it is used on, without labels, with --calibrate"
        )
    return own


def _described(content: bytes, trained: Trained, least: int, found: Agreement, calibrated: int) -> bytes:
    """The file with its description, in which the agreement is."""
    import onnx

    model: Any = onnx.load_from_string(content)
    about = {
        "weights": "int8",
        "activations": "uint8",
        "calibrated_on": calibrated,
        "measured_on": found.images,
        "equal_labels": found.equal,
        "equal_labels_by_channel": {str(i): equal for i, (_, equal) in found.by_channel.items()},
        "largest_difference": found.difference,
    }
    onnx.helper.set_model_props(model, {KEY: json.dumps({**describe(trained, least), "int8": about})})
    model.producer_name = "barm"
    return bytes(model.SerializeToString())
