"""Records of the images on which a run was trained and measured, and the check that they are still the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from barm.data.fingerprint import Fingerprint, changed, fingerprint
from barm.data.unlabelled import changed_images
from barm.engine.datasets import Data
from barm.errors import UserError

Images = Mapping[str, Any]  # fingerprints of what is trained on, with labels and without, and measured on, for JSON


def images_of(data: Data) -> Images:
    """Record of the images on which a run is trained and measured."""
    beside = {} if data.unlabelled is None else {"unlabelled": data.unlabelled.fingerprint}
    return {"train": fingerprint(data.train), "measured": [fingerprint(source) for source in data.measured], **beside}


def other_images(theirs: Images, ours: Images, *, trained: bool = True, measured: bool = True) -> str | None:
    """Describe the first difference between two records; None if there is none.

    Args:
        theirs: of a finished step or of an unfinished one; without the training split where another run trained it.
        ours: of the data that is there now.
        trained: compare what is trained on.
        measured: compare what is measured on.
    """
    found = changed(theirs["train"], ours["train"]) if trained and theirs.get("train") and ours.get("train") else None
    if found is not None:
        return f"training split: {found}"
    return other_measured(theirs["measured"], ours["measured"]) if measured else None


def other_measured(theirs: Sequence[Fingerprint], ours: Sequence[Fingerprint]) -> str | None:
    """Describe the first difference between the images that two records measure on."""
    if len(theirs) != len(ours):
        return f"measured on {len(theirs)} data sets there, on {len(ours)} here"
    found = (changed(*both) for both in zip(theirs, ours, strict=True))
    return next((f"validation split: {what}" for what in found if what is not None), None)


def check_same(records: Iterable[tuple[Images, bool]], now: Images, where: Path) -> None:
    """Refuse to resume a run on other images than its own.

    Args:
        records: of its steps, each with whether scores were stored, which must have been measured on the same images.
        now: record of the images that are there now.
        where: the run's folder, for the message.

    Raises:
        UserError: says what is different.
    """
    for record, measured in records:
        found = other_images(record, now, measured=measured)
        if found is None and "train" in record:
            other = changed_images(record.get("unlabelled"), now.get("unlabelled"))
            found = other and f"data.unlabelled: {other}"
        if found is not None:
            raise UserError(
                f"{where} was started on other images ({found}): resume with the data it was started on, or choose "
                "another --out"
            )
