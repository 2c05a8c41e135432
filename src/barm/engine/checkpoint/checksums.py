"""Checksums of a run's files: a bit that flipped on the disk is found when the file is read.

``checksums.json`` lies beside the files and holds a CRC-32 of each, the format of the folder, and a CRC-32 of itself.
``config.toml`` is read by people and starts with a comment instead. ``trainer.pt`` is a zip archive and has a CRC-32 of
every tensor of its own. From format 2 on every folder with files of a run has a ``checksums.json``, and what it lists
is there; a run of an older format, or one whose ``config.toml`` lost its first line, is read unchecked without it.

CRC-32 finds every error of up to 32 bits in a row, and misses one of 4e9 others; it is no protection against somebody
who changes files on purpose. It costs 0.25 s for a gigabyte where zlib computes 4 GB/s (1 s where it computes 1 GB/s):
0.1 s for a checkpoint of 400 MB, whenever it is written or read.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from barm.engine.checkpoint.schema import misfit
from barm.errors import UserError
from barm.reading import Unfit, open_regular, read_json, short
from barm.writing import sync, write_atomically

CHECKSUMS = "checksums.json"
FORMAT = 2  # of the files of a run; 0 are those of versions that wrote no format, 1 may lack checksums of old steps
WHOLE = 2  # the first format in which no folder is without them
CHUNK = 1 << 20  # bytes
SEAL = "# barm run, format "
SEALED = re.compile(re.escape(SEAL) + r"([0-9]{1,9}), crc32 ([0-9a-f]{8})\b[^\n]*\n")

Sums = dict[str, list[str]]  # accepted checksums by the name of the file: two while it is replaced


def crc(*parts: bytes | memoryview) -> str:
    """CRC-32 of bytes, as eight hexadecimal digits.

    >>> crc(b"barm"), crc(b"ba", b"rm")
    ('d7744712', 'd7744712')
    """
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return f"{value:08x}"


def crc_of(path: Path, start: int = 0) -> str:
    """CRC-32 of a file from a byte on, read in pieces.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is no regular file, or cannot be read.
    """
    value = 0
    with open_regular(path) as file:
        try:
            file.seek(start)
            while chunk := file.read(CHUNK):
                value = zlib.crc32(chunk, value)
        except OSError as error:
            raise Unfit(path, f"cannot be read ({error.strerror})") from None
    return f"{value:08x}"


def fill(
    folder: Path, files: Mapping[str, bytes], linked: Iterable[str] = (), sums: Mapping[str, list[str]] = {}
) -> None:
    """Write files into a new folder with their checksums, and flush all to the disk.

    Args:
        folder: that nobody reads yet.
        files: contents by name.
        linked: names of files that are there already.
        sums: checksums of these, where they are known.
    """
    for name, content in files.items():
        (folder / name).write_bytes(content)
    known = {name: list(sums[name]) if name in sums else [crc_of(folder / name)] for name in linked}
    (folder / CHECKSUMS).write_bytes(_manifest({**known, **{name: [crc(c)] for name, c in files.items()}}))
    for name in (*files, CHECKSUMS, *linked):
        sync(folder / name)
    sync(folder)


def replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that is read, each completely or not at all, with their checksums.

    While a file is replaced both its checksums are accepted, and a new one is listed once it is there, so that a loss
    of power at any moment leaves files that can be read.
    """
    before = sums_of(folder)
    for name in files:
        if name not in before and (folder / name).is_file():  # of an older version
            before[name] = [crc_of(folder / name)]
    after = {name: [crc(content)] for name, content in files.items()}
    both = {name: [*before[name], *after[name]] for name in files if name in before}
    write_atomically(folder / CHECKSUMS, _manifest({**before, **both}))
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_atomically(folder / CHECKSUMS, _manifest({**before, **after}))


def complete(folder: Path, names: Iterable[str]) -> None:
    """List the files of a folder that an older version wrote, as they are. What has a checksum keeps it."""
    before = sums_of(folder)
    added = {name: [crc_of(folder / name)] for name in names if name not in before and (folder / name).is_file()}
    if added or not (folder / CHECKSUMS).exists():
        write_atomically(folder / CHECKSUMS, _manifest({**before, **added}))


def _manifest(sums: Sums) -> bytes:
    own = crc(json.dumps(sums).encode())
    return (json.dumps({"format": FORMAT, "files": sums, "own": own}, indent=1) + "\n").encode()


def sums_of(folder: Path) -> Sums:
    """The checksums of a folder's files; empty for a folder of an older version.

    Raises:
        UserError: if they were written by a newer version.
        Unfit: if their file is damaged.
    """
    path = folder / CHECKSUMS
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    newer = value.get("format") if isinstance(value, dict) else None
    if type(newer) is int:
        check_format(newer, path)
    wrong = misfit(CHECKSUMS, value)
    if wrong is not None:
        raise Unfit(path, f"holds something else than barm wrote: {wrong}")
    if crc(json.dumps(value["files"]).encode()) != value["own"]:
        raise Unfit(path, "does not have the checksum that barm wrote: a part of it has changed")
    return dict(value["files"])


def check_format(found: int, path: Path) -> None:
    """Refuse a file of a newer version."""
    if found > FORMAT:
        raise UserError(f"{path} has format {found}, but this version of barm reads up to {FORMAT}: update barm")


def is_whole(config: Path) -> bool:
    """Whether a run's ``config.toml`` has a format in which no folder is without checksums."""
    try:
        with open_regular(config) as file:
            first = file.readline(200).decode("utf-8", "replace")
    except (OSError, Unfit):  # reported by whoever reads the configuration
        return False
    found = SEALED.match(first)
    return found is not None and int(found[1]) >= WHOLE


def check(path: Path) -> None:
    """Refuse a file whose content is not what was written.

    Raises:
        FileNotFoundError: if there is none, and it has a checksum.
        UserError: if the checksums are those of a newer version.
        Unfit: if the file or the checksums are damaged.
    """
    for _ in range(2):  # the file may be replaced after its checksum was read
        wanted = sums_of(path.parent).get(path.name)
        if wanted is None or crc_of(path) in wanted:
            return
    raise Unfit(path, f"its content does not fit its checksum in {CHECKSUMS}: a part of it has changed")


def check_archive(path: Path) -> None:
    """Refuse a file of `torch.save` whose content is not what was written. Other kinds of files are left unchecked.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is damaged.
    """
    with open_regular(path) as file:
        if file.read(2) != b"PK":
            return
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            ValueError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise Unfit(path, f"cannot be read as what torch.save writes ({short(error)})") from None
    if damaged is not None:
        raise Unfit(path, f"the content of '{damaged[:60]}' in it does not fit its checksum: a part of it has changed")


def crc_of_tensors(content: bytes | Path) -> str:
    """CRC-32 of the tensors of a safetensors file, without its header."""
    if isinstance(content, Path):
        with open_regular(content) as file:
            return crc_of(content, 8 + int.from_bytes(file.read(8), "little"))
    return crc(memoryview(content)[8 + int.from_bytes(content[:8], "little") :])


def sealed(text: str) -> str:
    """A TOML text with a first line that holds its format and its checksum.

    >>> print(sealed("seed = 1"))
    # barm run, format 2, crc32 e2239859 of the lines below (remove this line if you edit them)
    seed = 1
    """
    own = crc(text.encode())
    return f"{SEAL}{FORMAT}, crc32 {own} of the lines below (remove this line if you edit them)\n{text}"


def check_seal(text: str, path: Path) -> None:
    """Refuse a text that has such a first line and is not what was written. Without the line it is not checked.

    Raises:
        UserError: if it was written by a newer version, or has changed.
    """
    if not text.startswith(SEAL):
        return
    found = SEALED.match(text)
    if found is not None:
        check_format(int(found[1]), path)
    if found is None or crc(text[found.end() :].encode()) != found[2]:
        raise UserError(
            f"{path} is damaged (it does not fit the checksum in its first line): restore the file, or remove that "
            "line if you edited the others"
        )
