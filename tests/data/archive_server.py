"""A host of one machine for the tests of downloads, and small archives with the inner layout of the published ones."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from PIL import Image

from barm.data.archives import DATASETS, Archive, Dataset, Part

NAMES = [f"2007_{i:06d}" for i in range(1, 7)]
TRAIN, VAL = NAMES[:2], NAMES[4:]
FILES = {"voc": "/voc.tar", "masks": "/masks.zip", "ade20k": "/ade.zip"}


class Host(ThreadingHTTPServer):
    """Files by path. What goes wrong is set by the test.

    Attributes:
        files: bytes by path.
        cuts: bytes after which the next answers end, one after the other.
        ranges: whether ``Range`` is understood.
        tags: whether ETags are sent.
        heeds: whether ``If-Range`` is understood.
        lengths: whether the number of bytes is sent.
        silent: whether requests are never answered.
        kind: content type.
        asked: path, ``Range`` and ``If-Range`` of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges = self.tags = self.heeds = self.lengths = True
        self.silent = False
        self.kind = "application/octet-stream"
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.ended = Event()

    def handle_error(self, *_: object) -> None:
        """Nothing on the terminal about clients that go early."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        host, wanted = self.server, self.headers.get("Range")
        host.asked.append((self.path, wanted, self.headers.get("If-Range")))
        if host.silent:
            host.ended.wait()
            return
        if self.path not in host.files:
            self.send_error(404)
            return
        content = host.files[self.path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        match = re.match(r"bytes=(\d+)-", wanted or "")
        same = not host.heeds or self.headers.get("If-Range", tag) == tag
        start = int(match[1]) if match and host.ranges and same else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if host.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", host.kind)
        if host.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + host.cuts.pop(0)] if host.cuts else content[start:])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def running() -> Iterator[Host]:
    """A host that answers while the block runs."""
    host = Host()
    thread = Thread(target=host.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.ended.set()
        host.shutdown()
        host.server_close()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar with these files by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A zip with these files by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return out.getvalue()


def voc_files() -> dict[str, bytes]:
    """The files of VOC's archive: six images, masks of the two for training and the two for validation."""
    lists = {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL}
    files = {f"ImageSets/Segmentation/{n}.txt": "\n".join(names).encode() for n, names in lists.items()}
    files |= {"ImageSets/Main/train.txt": b"x\n", "Annotations/2007_000001.xml": b"<a/>"}
    files |= {f"SegmentationClass/{name}.png": _encoded("P", "PNG") for name in TRAIN + VAL}
    files |= {f"JPEGImages/{name}.jpg": _encoded("RGB", "JPEG") for name in NAMES}
    return {f"VOCdevkit/VOC2012/{name}": content for name, content in files.items()}


def mask_files() -> dict[str, bytes]:
    """The files of the archive of additional masks, with what macOS leaves in archives."""
    files = {f"SegmentationClassAug/{name}.png": _encoded("L", "PNG") for name in NAMES}
    return {**files, "SegmentationClassAug/.DS_Store": b"x", "__MACOSX/SegmentationClassAug/._a.png": b"x"}


def ade_files() -> dict[str, bytes]:
    """The files of ADE20K's archive: two images for training, one for validation."""
    files = {"objectInfo150.txt": b"Idx\n", "sceneCategories.txt": b"a b\n"}
    for split, name in (("training", "ADE_train_00000001"), ("training", "ADE_train_2"), ("validation", "ADE_val_1")):
        files[f"images/{split}/{name}.jpg"] = _encoded("RGB", "JPEG")
        files[f"annotations/{split}/{name}.png"] = _encoded("L", "PNG")
    return {f"ADEChallengeData2016/{name}": content for name, content in files.items()}


def datasets(host: Host) -> dict[str, Dataset]:
    """The table of `barm.data.archives` for small archives, which the host then has."""
    host.files = {"/voc.tar": tar_of(voc_files()), "/masks.zip": zip_of(mask_files()), "/ade.zip": zip_of(ade_files())}
    return {
        name: replace(dataset, archives=tuple(_small(archive, host) for archive in dataset.archives))
        for name, dataset in DATASETS.items()
    }


def _small(archive: Archive, host: Host) -> Archive:
    content = host.files[FILES[archive.name]]
    known = archive.checksum is not None
    return replace(
        archive,
        addresses=(host.address + FILES[archive.name],),
        size=len(content) if known else None,
        checksum=hashlib.sha1(content).hexdigest() if known else None,
        unpacked=100_000,
        parts=tuple(Part(part.path, len(NAMES), part.unless) for part in archive.parts),
    )


def _encoded(mode: str, kind: str) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (8, 8), 1 if mode in ("L", "P") else "green").save(out, kind)
    return out.getvalue()
