"""`barm data get` as it is typed, against a host of one machine."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from barm.cli import data_get
from barm.data import archives, fetch

spec = importlib.util.spec_from_file_location("archive_server", Path(__file__).parents[1] / "data/archive_server.py")
assert spec is not None
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)


@pytest.fixture
def host(monkeypatch):
    """A host that has small archives, and the table with its addresses."""
    monkeypatch.setattr(fetch, "PAUSE", 0)
    with server.running() as running:
        monkeypatch.setattr(archives, "DATASETS", server.datasets(running))
        yield running


@pytest.mark.parametrize(
    ("name", "images"),
    [("voc", "4 training and 2 validation images"), ("ade20k", "2 training and 1 validation image\n")],
)
def test_a_data_set_is_fetched_and_the_next_command_works(name, images, host, cli):
    status, out, err = cli("data", "get", name, "data set")
    assert status == 0, err
    assert f"data set is complete: {images}" in out
    assert "next: barm data check 'data set'" in out
    assert re.search(r"then: barm train --recipe \S+/barm --data 'data set'", out)
    assert "files" in err
    assert cli("data", "check", "data set")[::2] == (0, "")
    status, out, err = cli("data", "get", name, "data set")
    assert (status, err) == (0, "")
    assert "was complete already" in out


def test_a_dry_run_tells_and_writes_nothing(host, cli, tmp_path):
    status, out, _ = cli("data", "get", "voc", "voc", "--dry-run")
    assert status == 0
    assert "masks: SegmentationClassAug.zip (size not published, no checksum published)" in out
    assert f"from {host.address}/voc.tar" in out
    assert re.search(r"voc takes at most 0\.\d MB; \S+ GB are free", out)
    assert (host.asked, list(tmp_path.iterdir())) == ([], [])
    cli("data", "get", "voc", "voc")
    assert cli("data", "get", "voc", "voc", "--dry-run")[1].count("is in its place") == 2


def test_archives_by_hand(host, cli, tmp_path):
    Path("voc.tar").write_bytes(host.files["/voc.tar"])
    other = server.zip_of({**server.mask_files(), "readme.txt": b"packed anew"})
    Path("masks.zip").write_bytes(other)
    words = ["--address", "voc=voc.tar", "--address", f"masks={(tmp_path / 'masks.zip').as_uri()}", "--quiet"]
    status, _, err = cli("data", "get", "voc", "voc", *words)
    assert (status, err, host.asked) == (0, "", [])
    assert Path("masks.zip").read_bytes() == other


def test_a_wrong_checksum_and_its_acceptance(host, cli):
    host.files["/voc.tar"] = host.files["/voc.tar"].replace(b"<a/>", b"<b/>")
    status, _, err = cli("data", "get", "voc", "voc", "--quiet")
    assert status == 2
    assert err.count("\n") == 1
    digits = re.search(r"its sha1 is (\w{40}), expected \w{40}", err)
    assert digits is not None
    assert not Path("voc/JPEGImages").exists()
    assert cli("data", "get", "voc", "voc", "--checksum", f"voc={digits[1]}")[0] == 0


def test_a_host_that_does_not_answer_is_one_line(host, cli):
    host.silent = True
    status, out, err = cli("data", "get", "ade20k", "ade", "--timeout", "0.2")
    assert (status, out) == (2, "")
    assert err == (
        f"barm: {host.address}/ade.zip does not answer within 0.2 s; try again later, or download "
        "ADEChallengeData2016.zip with a browser (http://sceneparsing.csail.mit.edu/ says where) and add --address "
        "ade20k=FILE to the command, or another URL in the place of FILE\n"
    )
    assert not Path("ade").exists()


def test_a_download_that_was_cut_is_resumed(host, cli):
    host.cuts = [4000] + [0] * fetch.TRIES
    status, _, err = cli("data", "get", "voc", "voc")
    assert status == 1
    assert "the connection was cut at 4000 bytes, 4 times in a row; what came is kept in voc/.download/" in err
    assert "4000 bytes of it are here already" in cli("data", "get", "voc", "voc", "--dry-run")[1]
    assert cli("data", "get", "voc", "voc")[0] == 0
    assert host.asked[fetch.TRIES + 1][:2] == ("/voc.tar", "bytes=4000-")


def test_a_log_file_hears_of_a_long_download(host, cli, monkeypatch):
    monkeypatch.setattr(data_get, "FIRST_LINE", 0)
    size = len(host.files["/voc.tar"])
    assert re.search(rf"^voc: download: \d+ bytes of {size} bytes$", cli("data", "get", "voc", "voc")[2], re.MULTILINE)


def test_ctrl_c_keeps_what_came(host, cli, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    write = fetch._write
    monkeypatch.setattr(fetch, "_write", lambda *words: (write(*words), stop()))
    status, _, err = cli("data", "get", "voc", "voc", "--quiet")
    assert (status, err) == (128 + signal.SIGINT, "barm: stopped; what came so far is kept, the same command goes on "
                             "from there\n")  # fmt: skip
    assert Path("voc/.download/VOCtrainval_11-May-2012.tar.part").stat().st_size > 0


def test_no_torch_is_loaded(tmp_path):
    program = "import sys; sys.argv[0] = 'barm'; from barm.cli import main; main()"
    words = ["data", "get", "voc", "voc", "--dry-run"]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "VOCtrainval_11-May-2012.tar (2.00 GB, md5)" in done.stdout
    assert not re.search(r"\| +(torch|timm|torchvision)$", done.stderr, re.MULTILINE)
