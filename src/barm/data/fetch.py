"""Download archives: resumed after a cut, checked, and in one line of error where a host does not answer."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from barm.data.archives import ALGORITHMS, Archive
from barm.errors import Failed, UserError
from barm.reading import Unfit, check_target, open_regular, read_json, short
from barm.writing import as_json, write_atomically

Progress = Callable[[str, int, int | None], None]  # what is done, bytes so far, bytes in all where they are known

TIMEOUT = 30.0  # seconds without an answer, or without a byte
GRACE = 1.0  # seconds beyond it, in which a socket tells of its own limit
PAUSE = 2.0  # seconds before a cut download goes on
TRIES = 4  # in a row that bring nothing new
CHUNK = 1 << 18  # bytes
RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18})$")


class Unanswered(UserError):
    """An address that does not give the archive; the message is the reason in a few words."""


@dataclass
class Partial:
    """The origin of a download that is not complete, stored beside it.

    Attributes:
        address: URL.
        validator: strong ETag or time of the last change, by which the host tells a newer file.
        size: bytes of the whole file.
    """

    address: str = ""
    validator: str | None = None
    size: int | None = None


class Download:
    """An archive on its way into a folder: ``FILE.part``, with its `Partial` in ``FILE.part.json``.

    Args:
        archive: to be fetched.
        folder: exists.
        timeout: seconds without an answer, or without a byte.
        progress: called with the bytes so far.
    """

    def __init__(self, archive: Archive, folder: Path, timeout: float, progress: Progress) -> None:
        self.archive, self.timeout, self.progress = archive, timeout, progress
        self.limit = archive.size or 2 * archive.unpacked
        self.path = part_of(archive, folder)
        self.notes = self.path.with_name(self.path.name + ".json")
        self.origin = self._read_origin()

    def run(self, address: str) -> None:
        """Download from one address until the file is complete.

        Raises:
            Unanswered: if the address does not give the archive at all.
            Failed: if the connection is cut again and again.
        """
        best, tries, began = _size(self.path), 0, False
        while True:
            try:
                if self._pull(address):
                    return
                reason = "the connection was cut"
            except Unanswered as error:
                if not began:
                    raise
                reason = str(error)
            began, size = True, _size(self.path)
            best, tries = (size, 0) if size > best else (best, tries + 1)
            if tries == TRIES:
                raise Failed(
                    f"{self.archive.name}: {reason} at {amount(size)}, {TRIES} times in a row; what came is kept in "
                    f"{self.path}: the same command goes on from there"
                )
            time.sleep(PAUSE)

    def remove(self) -> None:
        """Remove what is there, so that the next download starts anew."""
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _pull(self, address: str) -> bool:
        """Send one request and store its answer; False if the connection was cut.

        Raises:
            Unanswered: before anything of the answer is stored.
        """
        start = self._usable(address)
        if start and start == self.origin.size:
            return True
        answer = self._request(address, start)
        with closing(answer):
            total = self._accepted(answer, address, start)
            if total is None:  # the rest does not belong to what is there
                self.remove()
                return self._pull(address)
            if answer.status == 200:
                start = 0
            size = total if total >= 0 else None
            if not start:  # what came from elsewhere stays until this address has answered
                self.remove()
            check_space(self.path.parent, max(0, (size or 0) - start), self.archive.name)
            self._write_origin(Partial(address, _validator(answer), size))
            return self._store(answer, start, size)

    def _usable(self, address: str) -> int:
        """Bytes from which to go on: 0 where nothing tells whether the file is still the same."""
        size, known = _size(self.path), self.origin
        same = known.validator is not None if known.address == address else self.archive.checksum is not None
        if not size or not same or known.size is None or size > known.size:
            self.origin = Partial()
            return 0
        return size

    def _request(self, address: str, start: int) -> Any:
        request = urllib.request.Request(address, headers={"User-Agent": "barm", "Accept-Encoding": "identity"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            if self.origin.address == address and self.origin.validator:
                request.add_header("If-Range", self.origin.validator)
        return opened(request, self.timeout)

    def _accepted(self, answer: Any, address: str, start: int) -> int | None:
        """Bytes of the whole file, -1 if the host does not tell; None to start anew.

        Raises:
            Unanswered: if it is no archive, or has another size than the published one.
        """
        if answer.status not in (200, 206, 416) or (answer.status != 200 and not start):
            raise Unanswered(f"answers {answer.status}")
        if answer.status == 416:
            return None
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise Unanswered("answers with a web page instead of the archive")
        length = answer.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch("[0-9]{1,18}", length) else -1
        if answer.status == 206:
            match = RANGE.match(answer.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start or int(match[2]) != self.origin.size:
                return None
            if address == self.origin.address and _validator(answer) != self.origin.validator:
                return None
            total = int(match[2])
        if self.archive.size is not None and total not in (-1, self.archive.size):
            raise Unanswered(f"offers a file of {total} bytes, expected {self.archive.size}")
        if total > self.limit:
            raise Unanswered(f"offers a file of {total} bytes, expected at most {self.limit}")
        return total

    def _store(self, answer: Any, start: int, size: int | None) -> bool:
        """Append the body to the file; False if it ends early."""
        done = start
        check_target(self.path)
        with self.path.open("r+b" if start else "wb") as out:
            out.seek(start)
            with suppress(OSError, http.client.HTTPException), closing(answer):
                for chunk in iter(lambda: answer.read1(CHUNK), b""):
                    done += len(chunk)
                    if done > self.limit:
                        raise UserError(f"{answer.url} sends more than {self.limit} bytes: give another with --address")
                    _write(out, chunk, self.path)
                    self.progress(f"{self.archive.name}: download", done, size)
                return done == (size or self.archive.size or done)
        return False

    def _read_origin(self) -> Partial:
        with suppress(FileNotFoundError, Unfit, TypeError):
            origin = Partial(**read_json(self.notes, 1 << 16))
            if isinstance(origin.size, int) and isinstance(origin.validator, str | None):
                return origin
        return Partial()

    def _write_origin(self, origin: Partial) -> None:
        self.origin = origin
        write_atomically(self.notes, as_json(asdict(origin), indent=None))


def fetch(archive: Archive, folder: Path, progress: Progress, *, timeout: float = TIMEOUT) -> Path:
    """Fetch an archive from the first of its addresses that gives it, and check it.

    Args:
        archive: a local one stays where it is.
        folder: for the download; an earlier one in it is taken up.
        progress: called with the bytes so far.
        timeout: seconds without an answer, or without a byte.

    Raises:
        UserError: no address answers, no space, or another checksum.
        Failed: the connection is cut again and again, whatever the address.
    """
    if archive.local is not None:
        _check_size(archive.local, archive)
        verify(archive.local, archive, progress)
        return archive.local
    whole = folder / archive.file
    if not whole.is_file():
        check_target(whole)
        download = Download(archive, folder, timeout, progress)
        _try_all(archive, download)
        download.path.replace(whole)
        download.notes.unlink(missing_ok=True)
    try:
        verify(whole, archive, progress)
    except UserError as error:
        whole.unlink()
        raise UserError(f"{error}; the file is removed") from None
    return whole


def _try_all(archive: Archive, download: Download) -> None:
    """Download from the first address that gives the whole archive.

    Raises:
        UserError: if none answers.
        Failed: if none that answers gives it to the end.
    """
    reasons, cut = list[str](), list[Failed]()
    for address in archive.addresses:
        try:
            download.run(address)
            return
        except Unanswered as error:
            reasons.append(f"{address} {error}")
        except Failed as error:
            cut.append(error)
    if cut:
        raise Failed("; ".join([str(cut[-1]), *reasons]))
    raise UserError(f"{'; '.join(reasons)}; {by_hand(archive)}")


def by_hand(archive: Archive) -> str:
    """How to go on where no address answers."""
    way = (
        f"try again later, or download {archive.file} with a browser ({archive.home} says where) and add --address "
        f"{archive.name}=FILE to the command, or another URL in the place of FILE"
    )
    return f"{way}; {archive.without}" if archive.without else way


def verify(path: Path, archive: Archive, progress: Progress) -> None:
    """Compare a file with the checksum of its archive, if it has one.

    Raises:
        UserError: if they differ.
    """
    if archive.checksum is None:
        return
    kind = ALGORITHMS[len(archive.checksum)]
    digest, done, size = hashlib.new(kind, usedforsecurity=False), 0, _size(path)
    with open_regular(path) as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
            done += len(chunk)
            progress(f"{archive.name}: {kind}", done, size)
    if digest.hexdigest() != archive.checksum:
        raise UserError(
            f"{path}: damaged, or another file than the published one: its {kind} is {digest.hexdigest()}, expected "
            f"{archive.checksum}; download it anew, or accept it with --checksum {archive.name}={digest.hexdigest()}"
        )


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse work for which a disk has too little space.

    Args:
        folder: on that disk; need not exist.
        needed: bytes.
        what: for the message.

    Raises:
        UserError: if there is not enough.
    """
    free = free_space(folder)
    if needed > free:
        raise UserError(
            f"{what} needs {amount(needed)} in {folder}, where {amount(free)} are free: free some space or choose "
            "another folder"
        )


def free_space(folder: Path) -> int:
    """Free bytes of the disk on which a folder is, or would be."""
    whole = Path(os.path.abspath(folder))
    return shutil.disk_usage(next(path for path in (whole, *whole.parents) if path.exists())).free


def amount(size: int) -> str:
    """A number of bytes in the largest unit that fits.

    >>> amount(1_999_639_040), amount(27_139_358), amount(512)
    ('2.00 GB', '27.1 MB', '512 bytes')
    """
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"


def part_of(archive: Archive, folder: Path) -> Path:
    """The file of a download that is not complete."""
    return folder / f"{archive.file}.part"


def opened(request: urllib.request.Request, limit: float) -> Any:
    """Send a request and wait for the head of the answer; status 416 is an answer, too.

    In a thread, since the look-up of a name has no limit of its own.

    Raises:
        Unanswered: with the reason in a few words.
    """
    outcome = Queue[Any]()
    late = f"does not answer within {limit:g} s"

    def work() -> None:
        try:
            outcome.put(urllib.request.urlopen(request, timeout=limit))
        except Exception as error:  # whatever a library raises where nobody is
            outcome.put(error)

    threading.Thread(target=work, name="barm-fetch", daemon=True).start()
    try:
        answer = outcome.get(timeout=limit + GRACE)
    except Empty:
        raise Unanswered(late) from None
    if isinstance(answer, urllib.error.HTTPError):
        if answer.code == 416:
            return answer
        raise Unanswered(f"answers {answer.code} ({answer.reason})")
    if isinstance(answer, Exception):
        reason = getattr(answer, "reason", answer)
        if isinstance(reason, TimeoutError) or "timed out" in str(reason):
            raise Unanswered(late)
        if isinstance(reason, ssl.SSLError):
            raise Unanswered(f"has no valid certificate ({short(reason)})")
        raise Unanswered(f"cannot be reached ({short(reason)})")
    return answer


def _validator(answer: Any) -> str | None:
    """What the host takes in ``If-Range``: a strong ETag, or the time of the last change."""
    tag = answer.headers.get("ETag")
    found = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
    return str(found) if found else None


def _check_size(path: Path, archive: Archive) -> None:
    size = _size(path)
    if archive.size is not None and size != archive.size:
        raise UserError(
            f"{path}: cut short, or another file than the published one: it has {size} bytes, expected {archive.size}; "
            f"download it anew, or accept it with --checksum {archive.name}=none"
        )


def _write(out: Any, chunk: bytes, path: Path) -> None:
    """Write a chunk; a full disk is a `UserError`, which the loss of a connection is not."""
    try:
        out.write(chunk)
        out.flush()
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free some space, what came so far is kept and the same command "
            "goes on from there"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
