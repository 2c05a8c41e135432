"""Archives that somebody else made: only what is wanted is written, and nothing of a bad archive stays."""

from __future__ import annotations

import importlib.util
import io
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from barm.data import unpack as module
from barm.data.archives import Archive, Part
from barm.data.unpack import unpack
from barm.errors import UserError

spec = importlib.util.spec_from_file_location("archive_server", Path(__file__).with_name("archive_server.py"))
assert spec is not None
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)

PARTS = (Part("list.txt", 1), Part("images", 2))
ARCHIVE = Archive("own", "own.tar", ("own.tar",), "http://home", None, None, 1000, "in/side", PARTS)
FILES = {
    "in/side/images/a.jpg": b"a" * 300,
    "in/side/images/deep/b.jpg": b"b" * 300,
    "in/side/list.txt": b"a\n",
    "in/side/more/c.txt": b"c",
    "other/images/d.jpg": b"d",
}


def unpacked(path: Path, archive: Archive = ARCHIVE) -> dict[str, bytes]:
    """Files by name below the folder, after unpacking."""
    folder = path.parent / "out"
    unpack(path, archive, archive.parts, folder, lambda done, size: None)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(path: Path, archive: Archive = ARCHIVE) -> str:
    """The message of an archive that is not unpacked; nothing of it stays."""
    with pytest.raises(UserError) as caught:
        unpacked(path, archive)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
    return str(caught.value)


@pytest.fixture
def stored(tmp_path):
    """A function that writes an archive into a folder of its own."""

    def store(content: bytes) -> Path:
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a/own.tar").write_bytes(content)
        return tmp_path / "a/own.tar"

    return store


def compressed(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content)


@pytest.mark.parametrize("made", [server.tar_of, server.zip_of, lambda files: compressed(server.tar_of(files))])
def test_the_wanted_parts_are_unpacked_alone(made, stored):
    assert unpacked(stored(made(FILES))) == {
        "images/a.jpg": b"a" * 300,
        "images/deep/b.jpg": b"b" * 300,
        "list.txt": b"a\n",
    }


def test_what_an_earlier_call_left_is_replaced(stored):
    path = stored(server.tar_of(FILES))
    (path.parent / "out/images").mkdir(parents=True)
    (path.parent / "out/images/stale.jpg").touch()
    assert "images/stale.jpg" not in unpacked(path)


@pytest.mark.parametrize("made", [server.tar_of, server.zip_of])
@pytest.mark.parametrize(
    "name", ["/etc/x", "in/side/images/../../../../x", "../x", "C:/x", "in\\side\\..\\x", "in/side/images/..\\..\\x"]
)
def test_names_that_lead_out_are_refused(made, name, stored):
    told = refused(stored(made({**FILES, name: b"x"})))
    assert "is not unpacked, since" in told
    assert "outside the folder" in told


def special(kind: bytes) -> bytes:
    out = io.BytesIO(server.tar_of(FILES))
    with tarfile.open(fileobj=out, mode="a") as tar:
        entry = tarfile.TarInfo("in/side/images/e.jpg")
        entry.type, entry.linkname = kind, "/etc/passwd"
        tar.addfile(entry)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
    ],
)
def test_links_and_devices_are_refused(kind, told, stored):
    assert f"'in/side/images/e.jpg' is {told}" in refused(stored(special(kind)))


def test_links_in_a_zip_are_refused(stored):
    out = io.BytesIO(server.zip_of(FILES))
    with zipfile.ZipFile(out, "a") as file:
        entry = zipfile.ZipInfo("in/side/images/e.jpg")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(entry, "/etc/passwd")
    assert "is a link" in refused(stored(out.getvalue()))


def test_a_file_that_is_there_twice_is_refused(stored):
    content = io.BytesIO(server.tar_of(FILES))
    with tarfile.open(fileobj=content, mode="a") as tar:
        tar.addfile(tarfile.TarInfo("in/side/images/a.jpg"))
        tar.addfile(tarfile.TarInfo("in/side/images/a.jpg/x"))
    assert "is there twice" in refused(stored(content.getvalue()))


@pytest.mark.parametrize("made", [server.tar_of, server.zip_of])
def test_more_bytes_than_the_table_says_are_refused(made, stored):
    bomb = made({**FILES, "in/side/images/z.jpg": bytes(1_000_000)})
    assert "would unpack to more than 1000 bytes" in refused(stored(bomb))


def test_a_zip_that_understates_its_sizes_is_refused(stored):
    honest = server.zip_of({**FILES, "in/side/images/z.jpg": bytes(1_000_000)})
    lying = honest.replace((1_000_000).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    assert lying != honest
    assert "is damaged" in refused(stored(lying))


@pytest.mark.parametrize("made", [server.tar_of, server.zip_of, lambda files: compressed(server.tar_of(files))])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_archive_is_refused(made, share, stored):
    """Also where a tar is cut between two members."""
    whole = made(FILES)
    kept = int(share * (4 * 1024 + 512)) // 512 * 512 if made is server.tar_of else int(share * len(whole))
    told = refused(stored(whole[:kept]))
    assert "damaged or cut short" in told
    assert "download it anew" in told


def test_a_damaged_header_in_the_middle_is_refused(stored):
    content = bytearray(server.tar_of(FILES))
    content[1024 + 10] ^= 0xFF  # in the header of the second member
    assert "damaged or cut short" in refused(stored(bytes(content)))


def test_a_damaged_zip_is_refused(stored):
    content = bytearray(server.zip_of({**FILES, "in/side/images/a.jpg": bytes(range(256))}))
    content[60:70] = b"\xff" * 10
    assert "is damaged or cut short" in refused(stored(bytes(content)))


def test_a_web_page_is_no_archive(stored):
    told = refused(stored(b"<!DOCTYPE html><title>Not found</title>"))
    assert "is neither a tar nor a zip archive (it begins with b'<!DOCTYPE html>" in told


def test_an_archive_without_the_parts_is_refused(stored):
    told = refused(stored(server.tar_of({"in/side/list.txt": b"a", "in/images/a.jpg": b"a"})))
    assert "holds no in/side/images: expected an archive like own.tar (http://home)" in told


def test_without_a_checksum_the_numbers_of_files_are_checked(stored):
    fewer = stored(server.tar_of({k: v for k, v in FILES.items() if not k.endswith("b.jpg")}))
    assert "holds 1 file in images, expected 2" in refused(fewer)
    assert len(unpacked(fewer, replace(ARCHIVE, published=False))) == 2
    assert len(unpacked(fewer, replace(ARCHIVE, checksum="00" * 16))) == 2  # which was compared before


def test_a_full_disk_is_told_and_leaves_nothing(stored, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_new_file", lambda target, member, path: Full())
    assert "No space left on device; free some space" in refused(stored(server.tar_of(FILES)))
