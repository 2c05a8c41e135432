"""Unpack the wanted parts of an archive that somebody else made: no file outside the target, no link, no bomb."""

from __future__ import annotations

import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from barm.data.archives import Archive, Part
from barm.data.sources.tree import is_clutter
from barm.errors import UserError
from barm.reading import check_regular, short
from barm.words import count

CHUNK = 1 << 18  # bytes
KINDS = {0: "file", stat.S_IFREG: "file", stat.S_IFLNK: "a link"}  # of a zip's members; other systems than Unix write 0
BEGINNING = 24  # bytes of a file that is no archive, for the message
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, struct.error, EOFError, RuntimeError, ValueError)


class Member(NamedTuple):
    """An entry of an archive.

    Attributes:
        name: as it is written there.
        kind: ``file``, ``folder``, or what else it is.
        size: bytes, as the archive says.
        position: bytes of the archive up to it, for the progress.
        open: opens the content.
    """

    name: str
    kind: str
    size: int
    position: int
    open: Callable[[], IO[bytes]]


def unpack(
    path: Path, archive: Archive, parts: tuple[Part, ...], folder: Path, progress: Callable[[int, int], None]
) -> Counter[str]:
    """Unpack parts of an archive into a new folder, which is not there if it fails.

    Args:
        path: of the archive, a tar or a zip.
        archive: what is expected in it.
        parts: of `archive`, to be unpacked.
        folder: for the parts; what lies there from an unpacking that was cut is removed.
        progress: called with the bytes so far, and in all.

    Returns:
        Number of files by part.

    Raises:
        UserError: for a damaged archive, one without the parts, or one with members that do not belong there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        found = _unpack(path, archive, parts, folder, progress)
        for part in parts:
            _check_part(path, archive, part, found[part.path])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return found


def _unpack(
    path: Path, archive: Archive, parts: tuple[Part, ...], folder: Path, progress: Callable[[int, int], None]
) -> Counter[str]:
    found, left, size = Counter[str](), archive.unpacked, path.stat().st_size
    for member in members(path):
        progress(min(member.position, size), size)
        inside = inner_path(member, path)
        wanted = _wanted(inside, archive.inner, parts)
        if wanted is None or member.kind == "folder":
            continue
        if member.kind != "file":
            raise _untrusted(path, f"'{member.name}' is {member.kind}")
        part, below = wanted
        if any(map(is_clutter, below.parts)):
            continue
        left -= _write(member, folder / below, left, path, archive)
        found[part.path] += 1
    progress(size, size)
    return found


def _wanted(inside: PurePosixPath, inner: str, parts: tuple[Part, ...]) -> tuple[Part, PurePosixPath] | None:
    """The part to which a member belongs, and its path below the inner folder."""
    if not inside.is_relative_to(inner or "."):
        return None
    below = inside.relative_to(inner or ".")
    return next(((part, below) for part in parts if below.is_relative_to(part.path)), None)


def inner_path(member: Member, path: Path) -> PurePosixPath:
    """The path of a member in its archive.

    Raises:
        UserError: if it leads out of the archive's folder on any system.
    """
    name = member.name
    place = PurePosixPath(name)
    if not name or place.is_absolute() or ".." in place.parts or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise _untrusted(path, f"'{short(Exception(name), 60)}' would lie outside the folder")
    return place


def members(path: Path) -> Iterator[Member]:
    """The entries of a tar, compressed or not, or of a zip.

    Raises:
        UserError: if it is neither, or damaged.
    """
    check_regular(path)
    with _damage_told(path):
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
        if beginning.startswith(b"PK"):
            yield from _zip_members(path)
        elif tarfile.is_tarfile(path):
            yield from _tar_members(path)
        else:
            raise UserError(
                f"{path} is neither a tar nor a zip archive (it begins with {beginning!r}): download it anew"
            )


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            kind = (
                "folder"
                if entry.filename.endswith("/")
                else KINDS.get(stat.S_IFMT(entry.external_attr >> 16), "a device or pipe")
            )
            yield Member(entry.filename, kind, entry.file_size, entry.header_offset, partial(file.open, entry))


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as file:
        for entry in file:
            kind = "file" if entry.isreg() else "folder" if entry.isdir() else _tar_kind(entry)
            yield Member(entry.name, kind, entry.size, entry.offset, partial(_content, file, entry))
        source: Any = file.fileobj
        source.seek(file.offset)  # tarfile ends without an error at a damaged header, too
        if source.read(tarfile.BLOCKSIZE).strip(b"\0") or source.tell() == file.offset:
            raise tarfile.ReadError(f"no end mark at byte {file.offset}")


def _tar_kind(entry: tarfile.TarInfo) -> str:
    return "a link" if entry.issym() or entry.islnk() else "a device or pipe"


def _content(file: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = file.extractfile(entry)
    if content is None:
        raise tarfile.ReadError(f"{entry.name} has no content")
    return content


def _write(member: Member, target: Path, left: int, path: Path, archive: Archive) -> int:
    """Write a member to a new file; returns its bytes."""
    if member.size > left:
        raise _untrusted(path, f"it would unpack to more than {archive.unpacked} bytes")
    with _damage_told(path), member.open() as source, _new_file(target, member, path) as out:
        for chunk in iter(lambda: source.read(CHUNK), b""):
            _put(out, chunk, target)
    return member.size  # neither library gives more


def _new_file(target: Path, member: Member, path: Path) -> IO[bytes]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _untrusted(path, f"'{member.name}' is there twice") from None


def _put(out: IO[bytes], chunk: bytes, target: Path) -> None:
    try:
        out.write(chunk)
        out.flush()
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; free some space") from error


def _check_part(path: Path, archive: Archive, part: Part, number: int) -> None:
    if not number:
        where = "/".join(filter(None, (archive.inner, part.path)))
        raise UserError(f"{path} holds no {where}: expected an archive like {archive.file} ({archive.home})")
    if archive.published and archive.checksum is None and number != part.files:
        raise UserError(
            f"{path} holds {count(number, 'files')} in {part.path}, expected {part.files}: it is damaged, or another "
            f"archive than the published one; download it anew, or accept it with --checksum {archive.name}=none"
        )


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turn exceptions of tarfile and zipfile into one line."""
    try:
        yield
    except UserError:
        raise
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, and not of the archive
            raise
        raise UserError(f"{path} is damaged or cut short ({short(error)}): download it anew") from None


def _untrusted(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not unpacked, since {why}: get the archive from another address")
