"""The published archives of PASCAL VOC 2012 and ADE20K: addresses, sizes, checksums, and what is unpacked from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from barm.errors import UserError, nearest

ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256"}  # by the number of hexadecimal digits
UNCHECKED = "none"  # of ``--checksum``: accept any file


class Part(NamedTuple):
    """A folder or file of an archive that is unpacked.

    Attributes:
        path: below `Archive.inner` in the archive, and below the data set's folder on disk.
        files: number of files in it, as published.
        unless: a folder on disk that makes it unnecessary.
    """

    path: str
    files: int
    unless: str = ""


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        name: in ``--address`` and ``--checksum``.
        file: its file name.
        addresses: URLs or local paths, in the order in which they are tried.
        home: page on which people find the archive.
        size: bytes, where they are published; other sizes are refused.
        checksum: hexadecimal digits of a kind in `ALGORITHMS`, where one is published.
        unpacked: bytes of the parts, rounded up; an archive that holds more is refused.
        inner: folder in the archive that holds the parts.
        parts: the last one is put in its place last.
        without: what is possible without it, for messages.
        published: whether it must be the published file, with the numbers of files in `parts`.
    """

    name: str
    file: str
    addresses: tuple[str, ...]
    home: str
    size: int | None
    checksum: str | None
    unpacked: int
    inner: str
    parts: tuple[Part, ...]
    without: str = ""
    published: bool = True

    @property
    def local(self) -> Path | None:
        """The archive on this machine, if its address is a path or a ``file:`` URL."""
        return local_path(self.addresses[0])

    def missing(self, root: Path) -> tuple[Part, ...]:
        """The parts that a data set's folder lacks; empty folders count as lacking."""
        return tuple(
            part
            for part in self.parts
            if not _is_there(root / part.path) and not (part.unless and _is_there(root / part.unless))
        )


@dataclass(frozen=True)
class Dataset:
    """A data set that can be fetched.

    Attributes:
        title: as people call it.
        layout: a name in `barm.data.sources.SOURCES`.
        archives: needed for the whole tree.
        recipe: that trains on it, for the next command.
    """

    title: str
    layout: str
    archives: tuple[Archive, ...]
    recipe: str


# The MD5 of VOC is torchvision's (datasets/voc.py), its size TensorFlow Datasets' (url_checksums/voc.txt).
# The SHA-1 of ADE20K is GluonCV's (scripts/datasets/ade20k.py). Of the additional masks neither is published.
DATASETS: Mapping[str, Dataset] = {
    "voc": Dataset(
        "PASCAL VOC 2012",
        "voc",
        (
            Archive(
                "voc",
                "VOCtrainval_11-May-2012.tar",
                (
                    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                ),
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
                1_999_639_040,
                "6cd6e144f989b92b3379bac3b3de84fd",
                2_000_000_000,
                "VOCdevkit/VOC2012",
                (
                    Part("ImageSets/Segmentation", 3),
                    Part("SegmentationClass", 2913, "SegmentationClassAug"),
                    Part("JPEGImages", 17125),
                ),
            ),
            Archive(
                "masks",
                "SegmentationClassAug.zip",
                ("https://www.dropbox.com/s/oeu149j8qtbs1x0/SegmentationClassAug.zip?dl=1",),
                "https://github.com/DrSleep/tensorflow-deeplab-resnet",
                None,
                None,
                200_000_000,
                "",
                (Part("SegmentationClassAug", 12031),),
                without="without these masks, training takes VOC's own 1464 images",
            ),
        ),
        "voc/15-1/barm",
    ),
    "ade20k": Dataset(
        "ADE20K",
        "ade",
        (
            Archive(
                "ade20k",
                "ADEChallengeData2016.zip",
                (
                    "https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                ),
                "http://sceneparsing.csail.mit.edu/",
                967_382_037,
                "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
                1_500_000_000,
                "ADEChallengeData2016",
                (Part("objectInfo150.txt", 1), Part("annotations", 22210), Part("images", 22210)),
            ),
        ),
        "ade/100-10/barm",
    ),
}


def local_path(address: str) -> Path | None:
    """The path of an address that names a file of this machine.

    >>> str(local_path("voc.tar")), local_path("https://host/voc.tar")
    ('voc.tar', None)
    """
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme in ("http", "https") else Path(address)


def overridden(
    archives: Iterable[Archive], addresses: Iterable[str] = (), checksums: Iterable[str] = ()
) -> tuple[Archive, ...]:
    """Replace addresses and checksums of archives.

    Args:
        archives: to be changed.
        addresses: ``NAME=URL`` or ``NAME=FILE``; the published size and checksum still hold.
        checksums: ``NAME=HEX`` of another file, or ``NAME=none``; nothing else that is published holds for it.

    Raises:
        UserError: for other words, unknown names, files that do not exist, or digits of no known kind.
    """
    table = {archive.name: archive for archive in archives}
    for text in addresses:
        name, value = _named(text, "--address", "URL", table)
        path = local_path(value)
        if path is not None and not path.is_file():
            raise UserError(
                f"--address {name}: no file {path}; expected an archive, or an address with http:// or https://"
            )
        table[name] = replace(table[name], addresses=(value,))
    for text in checksums:
        name, value = _named(text, "--checksum", "HEX", table)
        table[name] = replace(table[name], checksum=_checksum(value), size=None, published=False)
    return tuple(table.values())


def _named(text: str, option: str, what: str, known: Mapping[str, Archive]) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not value or not name:
        raise UserError(f"{option} expects NAME={what} such as {next(iter(known))}={what}, got '{text}'")
    if name not in known:
        hint = nearest(name, known) or f"; known: {', '.join(known)}"
        raise UserError(f"{option}: there is no archive '{name}'{hint}")
    return name, value


def _checksum(value: str) -> str | None:
    digits = value.strip().lower()
    if digits == UNCHECKED:
        return None
    if len(digits) not in ALGORITHMS or not re.fullmatch(r"[0-9a-f]+", digits):
        kinds = ", ".join(f"{length} ({kind})" for length, kind in ALGORITHMS.items())
        raise UserError(f"--checksum expects hexadecimal digits, {kinds}, or {UNCHECKED}; got '{value}'")
    return digits


def _is_there(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.is_file()
