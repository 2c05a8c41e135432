"""What hostile files are made from: small data, a finished run, a stopped one, and what stands in a file's place."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from barm.api import fit
from barm.config import load_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint import checksums
from barm.engine.config import RunConfig
from barm.engine.monitor import Monitor
from barm.errors import Stopped, UserError
from barm.reading import Unfit

TINY = (
    "model.backbone=test_resnet",
    "model.channels=16",
    "base.epochs=1",
    "increment.epochs=4",
    "base.batch_size=4",
    "increment.batch_size=4",
    "base.crop=48",
    "increment.crop=48",
    "evaluation.crop=48",
    "runtime.workers=0",
    "runtime.precision=32-true",
    "runtime.device=cpu",
    "runtime.tensorboard=false",
)
Hostile = Callable[[Path], object]  # puts something in the place of a file


def make_material(folder: Path) -> None:
    """Write ``data`` (VOC), ``own`` (a folder), ``run``, ``stopped`` (in step 1) and ``model.safetensors``."""
    for name, layout in (("data", "voc"), ("own", "folder")):
        make_shapes(folder / name, layout=layout, num_classes=4, num_train=10, num_val=3, size=(48, 48), seed=3)
    config = load_config("shapes/2-1/barm", TINY, {"data": {"root": str(folder / "data")}})
    fit(config, out=folder / "run", quiet=True)
    _stopped(config, folder / "stopped")
    from barm.weights.export.formats import export_step

    export_step(folder / "run", folder / "model.safetensors", "safetensors", None)


def _stopped(config: RunConfig, out: Path) -> None:
    """A run that was asked to stop after its first update of step 1."""
    show = Monitor.progress

    def stop(self: Monitor, iteration: int, values: dict[str, float] | None, lr: float) -> None:
        show(self, iteration, values, lr)
        if self.step == 1 and iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Monitor.progress = stop  # type: ignore[method-assign]
    try:
        fit(config, out=out, quiet=True)
    except Stopped:  # as it should be
        return
    finally:
        Monitor.progress = show  # type: ignore[method-assign]
    raise AssertionError(f"the run in {out} was not stopped")


def holding(content: str | bytes) -> Hostile:
    """A file with this content."""
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def emptied(make: Hostile) -> Hostile:
    """What stood there is removed first."""

    def put(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return put


def bound(path: Path) -> None:
    """A socket; its path has to be short."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


PLACES: dict[str, Hostile] = {  # whatever the file should be
    "named pipe": os.mkfifo,
    "socket": bound,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link to nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "empty": holding(b""),
    "noise": holding(bytes(range(256)) * 40),
}
DEEP = 100_000
TEXTS: dict[str, Hostile] = {  # where JSON should be
    "a list": holding("[]"),
    "null": holding("null"),
    "an empty table": holding("{}"),
    "a word": holding('"x"'),
    "cut short": holding('{"step": 0, "mio'),
    "deep lists": holding("[" * DEEP + "]" * DEEP),
    "deep tables": holding('{"a":' * DEEP + "1" + "}" * DEEP),
    "lists deeper than tables": holding("[" * 300 + "]" * 300),
    "Latin-1": holding('{"name": "caf\xe9"}'.encode("latin-1")),
    "UTF-16": holding('{"a": 1}'.encode("utf-16")),
    "an endless number": holding("1" * 5000),
    "not finite": holding("[[NaN, Infinity], [1e999, 2]]"),
}


def png(width: int, height: int, bits: int, colour: int, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG of any header, whether its content fits it or not."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def grey(bits: int, value: int, side: int = 48) -> bytes:
    """A grey PNG of one value, of any depth."""
    if bits >= 8:
        line = b"\0" + value.to_bytes(bits // 8, "big") * side
    else:
        packed = sum(value << shift for shift in range(0, 8, bits))
        line = b"\0" + bytes([packed]) * (side * bits // 8)
    return png(side, side, bits, 0, line * side)


def reseal(folder: Path) -> None:
    """Make a run's checksums fit what its files hold now, as somebody does who changes them on purpose."""
    for path in folder.rglob(checksums.CHECKSUMS):
        try:
            names = [name for name in checksums.sums_of(path.parent) if (path.parent / name).is_file()]
        except (UserError, Unfit, OSError):  # it is what was made hostile
            continue
        path.write_bytes(checksums._manifest({name: [checksums.crc_of(path.parent / name)] for name in names}))
    for path in [p for p in folder.rglob("config.toml") if p.is_file()]:
        line, _, rest = path.read_bytes().partition(b"\n")
        known = checksums.SEALED.match(line.decode("utf-8", "replace") + "\n")
        if known is not None:
            path.write_bytes(line.replace(known[2].encode(), checksums.crc(rest).encode()) + b"\n" + rest)
