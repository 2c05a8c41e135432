"""Downloads from a host of one machine: complete, cut, resumed, refused, unanswered."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import socket
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from barm.data import fetch as module
from barm.data.archives import Archive, Part
from barm.data.fetch import amount, check_space, fetch, part_of
from barm.errors import Failed, UserError

spec = importlib.util.spec_from_file_location("archive_server", Path(__file__).with_name("archive_server.py"))
assert spec is not None
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)

CONTENT = bytes(range(256)) * 4000  # 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0)
    with server.running() as running:
        running.files = {"/a.tar": CONTENT}
        yield running


@pytest.fixture
def archive(host):
    address = f"{host.address}/a.tar"
    return Archive("a", "a.tar", (address,), "http://home", len(CONTENT), SHA256, 10**7, "", (Part("x", 1),))


def silent(*_: object) -> None:
    """No progress."""


def cut_at(host, archive: Archive, folder: Path, size: int) -> None:
    """Leave a download of which `size` bytes came."""

    def stop(title: str, done: int, total: int | None) -> None:
        if done >= size:
            raise KeyboardInterrupt

    host.cuts = [size, 0, 0, 0, 0, 0]
    with pytest.raises((KeyboardInterrupt, Failed)):
        fetch(archive, folder, stop)
    host.cuts, host.asked = [], []
    assert part_of(archive, folder).stat().st_size == size


def test_a_complete_download(host, archive, tmp_path):
    seen = []
    path = fetch(archive, tmp_path, lambda *event: seen.append(event))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
    assert [done for title, done, _ in seen if title == "a: download"][-1] == len(CONTENT)
    assert seen[-1] == ("a: sha256", len(CONTENT), len(CONTENT))
    assert fetch(archive, tmp_path, silent) == path  # from what is there
    assert len(host.asked) == 1


def test_a_download_that_is_cut_goes_on_by_itself(host, archive, tmp_path):
    host.cuts = [300_000, 1, 200_000]
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in host.asked] == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_a_stopped_download_is_resumed_by_the_next_call(host, archive, tmp_path):
    cut_at(host, archive, tmp_path, 400_000)
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert host.asked == [("/a.tar", "bytes=400000-", f'"{hashlib.md5(CONTENT).hexdigest()}"')]


def test_cut_again_and_again_is_told_with_what_is_kept(host, archive, tmp_path):
    host.cuts = [300_000] + [0] * 10
    with pytest.raises(Failed, match=r"the connection was cut at 0\.3 MB, 4 times in a row") as error:
        fetch(archive, tmp_path, silent)
    assert f"kept in {tmp_path}/a.tar.part: the same command goes on from there" in str(error.value)
    assert len(host.asked) == 1 + module.TRIES


def test_a_host_without_ranges_starts_anew(host, archive, tmp_path):
    cut_at(host, archive, tmp_path, 400_000)
    host.ranges = False
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT


def test_another_file_under_the_same_address_starts_anew(host, archive, tmp_path):
    cut_at(host, archive, tmp_path, 400_000)
    host.files["/a.tar"] = other = CONTENT[::-1]
    other_archive = replace(archive, checksum=hashlib.sha256(other).hexdigest())
    assert fetch(other_archive, tmp_path, silent).read_bytes() == other


@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT + b"x"])
def test_a_host_that_does_not_heed_the_sign_of_change_starts_anew(other, host, archive, tmp_path):
    cut_at(host, archive, tmp_path, 400_000)
    host.files["/a.tar"], host.heeds = other, False
    assert fetch(replace(archive, size=None, checksum=None), tmp_path, silent).read_bytes() == other
    assert [wanted for _, wanted, _ in host.asked] == ["bytes=400000-", None]


def test_a_mirror_with_another_file_starts_anew(host, archive, tmp_path):
    cut_at(host, archive, tmp_path, 400_000)
    host.files["/mirror.tar"] = other = CONTENT[::-1] + b"x"
    mirrored = replace(archive, addresses=(f"{host.address}/mirror.tar",), size=None)
    mirrored = replace(mirrored, checksum=hashlib.sha256(other).hexdigest())
    assert fetch(mirrored, tmp_path, silent).read_bytes() == other


def test_without_a_sign_of_change_it_starts_anew(host, archive, tmp_path):
    """The host sends neither ETag nor a date."""
    host.tags = False
    cut_at(host, archive, tmp_path, 400_000)
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in host.asked] == [None]


@pytest.mark.parametrize("damage", ["larger", "notes", "no notes"])
def test_what_does_not_fit_starts_anew(damage, host, archive, tmp_path):
    cut_at(host, archive, tmp_path, 400_000)
    part, notes = part_of(archive, tmp_path), tmp_path / "a.tar.part.json"
    if damage == "larger":
        part.write_bytes(CONTENT + b"x")
    elif damage == "notes":
        notes.write_text(json.dumps({"address": 1, "size": "many"}))
    else:
        notes.unlink()
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in host.asked] == [None]


def test_a_part_that_is_whole_is_not_asked_for_again(host, archive, tmp_path):
    cut_at(host, archive, tmp_path, len(CONTENT))
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert host.asked == []


def test_a_mirror_goes_on_where_the_first_host_stopped(host, archive, tmp_path):
    """A checksum tells whether both have the same file; without one, the mirror starts anew."""
    host.files["/mirror.tar"] = CONTENT
    for checksum, wanted in ((SHA256, "bytes=400000-"), (None, None)):
        cut_at(host, archive, tmp_path, 400_000)
        mirrored = (f"{host.address}/gone.tar", f"{host.address}/mirror.tar")
        path = fetch(replace(archive, addresses=mirrored, checksum=checksum), tmp_path, silent)
        assert path.read_bytes() == CONTENT
        assert host.asked[-1] == ("/mirror.tar", wanted, None)
        path.unlink()


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_an_address_that_is_cut_again_and_again_is_followed_by_the_next(checksum, host, archive, tmp_path):
    host.files["/mirror.tar"] = CONTENT
    host.cuts = [300_000] + [0] * module.TRIES
    both = replace(archive, addresses=(*archive.addresses, f"{host.address}/mirror.tar"), checksum=checksum)
    assert fetch(both, tmp_path, silent).read_bytes() == CONTENT
    assert host.asked[-1] == ("/mirror.tar", "bytes=300000-" if checksum else None, None)


def test_what_came_from_an_address_stays_where_the_next_does_not_answer(host, archive, tmp_path):
    host.cuts = [300_000] + [0] * module.TRIES
    both = replace(archive, addresses=(*archive.addresses, f"{host.address}/gone.tar"), checksum=None)
    with pytest.raises(Failed, match=r"4 times in a row; .*goes on from there; .*gone\.tar answers 404") as error:
        fetch(both, tmp_path, silent)
    assert "\n" not in str(error.value)
    host.asked = []
    assert fetch(both, tmp_path, silent).read_bytes() == CONTENT
    assert host.asked[0][:2] == ("/a.tar", "bytes=300000-")


def test_a_wrong_checksum_is_told_and_the_file_removed(host, archive, tmp_path):
    host.files["/a.tar"] = wrong = b"x" + CONTENT[1:]
    with pytest.raises(UserError) as error:
        fetch(archive, tmp_path, silent)
    assert f"its sha256 is {hashlib.sha256(wrong).hexdigest()}, expected {SHA256}" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    host.files["/a.tar"] = CONTENT
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"files": {}}, "answers 404"),
        ({"kind": "text/html; charset=utf-8"}, "answers with a web page instead of the archive"),
        ({"files": {"/a.tar": CONTENT[:-1]}}, "offers a file of 1023999 bytes, expected 1024000"),
    ],
)
def test_what_is_not_the_archive_is_not_stored(change, told, host, archive, tmp_path):
    for name, value in change.items():
        setattr(host, name, value)
    with pytest.raises(UserError) as error:
        fetch(archive, tmp_path, silent)
    assert f"{archive.addresses[0]} {told}" in str(error.value)
    assert "download a.tar with a browser (http://home says where) and add --address a=FILE" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_answer(host, archive, tmp_path):
    host.silent, began = True, time.monotonic()
    with pytest.raises(UserError, match=r"a\.tar does not answer within 0\.2 s; try again later, or download"):
        fetch(archive, tmp_path, silent, timeout=0.2)
    assert time.monotonic() - began < 5
    assert len(host.asked) == 1  # asked once


def test_a_name_whose_look_up_hangs(archive, tmp_path, monkeypatch):
    """The look-up of a name has no limit of its own."""
    monkeypatch.setattr(module, "GRACE", 0)
    with server.running() as other:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: other.ended.wait(20))
        with pytest.raises(UserError, match=r"does not answer within 0\.1 s"):
            fetch(replace(archive, addresses=("http://host.invalid/a.tar",)), tmp_path, silent, timeout=0.1)


def test_a_host_that_is_not_there_and_one_that_is(host, archive, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}/a.tar"
    with pytest.raises(UserError, match=r"a\.tar cannot be reached \(.*refused"):
        fetch(replace(archive, addresses=(gone,)), tmp_path, silent)
    both = replace(archive, addresses=(gone, *archive.addresses))
    assert fetch(both, tmp_path, silent).read_bytes() == CONTENT


def test_a_local_archive_stays_where_it_is(archive, tmp_path):
    path = tmp_path / "mine.tar"
    path.write_bytes(CONTENT)
    for address in (str(path), path.as_uri()):
        assert fetch(replace(archive, addresses=(address,)), tmp_path / "none", silent) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"cut short, or another file .* 1023999 bytes, expected 1024000"):
        fetch(replace(archive, addresses=(str(path),)), tmp_path, silent)
    path.write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(UserError, match="accept it with --checksum a="):
        fetch(replace(archive, addresses=(str(path),)), tmp_path, silent)
    assert path.exists()


def test_a_disk_that_is_too_small(host, archive, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 500_000))
    check_space(tmp_path / "new/folder", 500_000, "VOC")
    with pytest.raises(UserError, match=r"VOC needs 0\.5 MB in .*folder, where 0\.5 MB are free: free some space"):
        check_space(tmp_path / "new/folder", 500_001, "VOC")
    with pytest.raises(UserError, match=r"a needs 1\.0 MB in"):  # the size is the host's
        fetch(replace(archive, size=None), tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_came(host, archive, tmp_path, monkeypatch):
    cut_at(host, archive, tmp_path, 400_000)

    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    write = module._write
    monkeypatch.setattr(module, "_write", lambda out, chunk, path: write(Full(), chunk, path))
    with pytest.raises(UserError, match=r"a\.tar\.part: No space left on device; free some space, what came"):
        fetch(archive, tmp_path, silent)
    assert part_of(archive, tmp_path).stat().st_size == 400_000


def test_a_host_that_sends_too_much_is_stopped(host, archive, tmp_path):
    small = replace(archive, size=None, checksum=None, unpacked=500)
    with pytest.raises(UserError, match="offers a file of 1024000 bytes, expected at most 1000"):
        fetch(small, tmp_path, silent)
    host.lengths = False
    with pytest.raises(UserError, match="sends more than 1000 bytes"):
        fetch(small, tmp_path, silent)


def test_a_host_that_does_not_tell_the_size(host, archive, tmp_path):
    host.lengths = False
    host.cuts = [1000]
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert len(host.asked) == 2


def test_amounts():
    assert [amount(n) for n in (0, 99_999, 100_000, 10**9)] == ["0 bytes", "99999 bytes", "0.1 MB", "1.00 GB"]
