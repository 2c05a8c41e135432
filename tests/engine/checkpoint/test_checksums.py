"""A bit that flips in a file of a run is found; older runs are read; newer ones are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from barm.api import fit
from barm.data.decoded import DecodedSource
from barm.data.index import _cache_path, checked
from barm.data.index_cache import load_entries
from barm.data.sources import open_source
from barm.engine.checkpoint import checksums
from barm.engine.checkpoint.directory import CONFIG, COUNTS, IMAGES, METRICS, MODEL, RunDirectory
from barm.errors import UserError


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def partial(run):
    run.save_partial(3, state())
    return run, run.path / ".step03.partial/trainer.pt"


def state():
    tables: dict[str, dict[str, object]] = {name: {} for name in ("optimizer", "scaler", "method")}
    return {"iteration": 1, "skipped": 0, "skipped_in_a_row": 0, "memory": [], **tables, "model": {"w": torch.ones(99)}}


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("place", [-1, -1000, -5000])
def test_a_bit_of_a_tensor(run, place):
    run.load_model_state(1)
    flip(run.step_path(1) / MODEL, place)
    with pytest.raises(UserError, match=rf"step01/{MODEL} is damaged \(its content does not fit its checksum"):
        run.load_model_state(1)


@pytest.mark.parametrize("name", [COUNTS, METRICS, IMAGES])
def test_a_digit_of_a_score_or_a_record(run, name):
    path = run.step_path(1) / name
    text = path.read_text()
    at = max(i for i, sign in enumerate(text) if sign in "24" and text[i - 1].isdigit())
    flip(path, at)  # 2 becomes 3, 4 becomes 5
    with pytest.raises(UserError, match=rf"step01/{name} is damaged \(its content does not fit its checksum"):
        run.read(1, name)


def test_the_checksums_themselves(run):
    path = run.step_path(1) / checksums.CHECKSUMS
    change(path, lambda value: value["files"].pop(METRICS))
    with pytest.raises(UserError, match=rf"{METRICS} is damaged \(does not have the checksum|{checksums.CHECKSUMS}"):
        run.read(1, METRICS)


def test_a_setting(run):
    path = run.path / CONFIG
    path.write_text(path.read_text().replace("seed = ", "seed = 1", 1))
    with pytest.raises(UserError, match=r"config\.toml is damaged .* remove that line if you edited the others$"):
        run.config()
    path.write_text(path.read_text().partition("\n")[2])  # the message's remedy
    assert run.config().seed >= 10


def read_or_told(run):
    try:
        return run.load_partial(3), ""
    except UserError as error:
        return None, str(error)


def test_every_bit_of_the_trainers_state_is_found_or_changes_nothing(partial):
    run, path = partial
    whole, wanted = path.read_bytes(), state()["model"]["w"]
    found = 0
    for place in range(0, len(whole), 41):
        path.write_bytes(whole)
        flip(path, place, place % 8)
        read, told = read_or_told(run)
        found += read is None
        assert str(path) in told if read is None else torch.equal(read["model"]["w"], wanted)
    assert found > 10


def test_what_has_no_checksums_is_read_as_before(partial):
    run, path = partial
    (run.path / CONFIG).write_text((run.path / CONFIG).read_text().partition("\n")[2])
    for index in range(3):
        (run.step_path(index) / checksums.CHECKSUMS).unlink()
    torch.save(state(), path)
    assert run.config()
    assert run.provenance()
    assert len(run.load_model_state(2)) > len(run.load_model_state(0))
    assert run.read(1, METRICS)["step"] == 1
    assert run.load_partial(3)["iteration"] == 1


def test_a_newer_format_is_one_line(partial):
    run, path = partial
    torch.save({"format": 2, **state()}, path)
    (run.path / CONFIG).write_text((run.path / CONFIG).read_text().replace("format 1", "format 2", 1))
    change(run.step_path(1) / checksums.CHECKSUMS, lambda value: value.update(format=2))
    for read in (run.config, lambda: run.read(1, METRICS), lambda: run.load_partial(3)):
        with pytest.raises(UserError, match=r"has format 2, but this version of barm reads up to 1: update barm"):
            read()


def test_files_that_are_replaced_fit_at_every_moment(run, monkeypatch):
    """Whatever was the last file to be renamed: old or new, never refused."""
    new, whole = {METRICS: {**run.read(1, METRICS), "average_miou": 0.5}}, checksums.write_atomically
    for moment in range(3):
        left = iter(range(moment))

        def write(path, content, left=left):
            next(left)
            whole(path, content)

        monkeypatch.setattr(checksums, "write_atomically", write)
        with pytest.raises(StopIteration):
            run.add(1, new)
        run.read(1, METRICS)
        run.read(1, COUNTS)
    monkeypatch.undo()
    run.add(1, new)
    assert run.read(1, METRICS)["average_miou"] == 0.5


def test_steps_taken_over_keep_their_checksums(run, tmp_path):
    other = RunDirectory(tmp_path / "other")
    other.path.mkdir()
    other.take_step(1, run, {}, leave=(METRICS,))
    other.load_model_state(1)
    content = bytearray((other.step_path(1) / MODEL).read_bytes())
    content[-1] ^= 1
    (other.step_path(1) / MODEL).write_bytes(content)
    with pytest.raises(UserError, match="does not fit its checksum"):
        other.load_model_state(1)


def test_a_run_on_a_damaged_step_is_refused(run, tiny):
    flip(run.step_path(1) / MODEL, -1)
    shutil.rmtree(run.step_path(2))
    with pytest.raises(UserError, match=rf"step01/{MODEL} is damaged"):
        fit(tiny("barm", "2-1"), out=run.path, resume=True, quiet=True)


def test_a_damaged_index_is_made_anew(shapes_voc):
    source = checked(open_source("voc", shapes_voc, "train"))
    wanted, path = source.classes_in(0), _cache_path(source)
    text = path.read_text()
    assert text.startswith("crc32 ")
    digit = text.rindex("1")
    path.write_text(f"{text[:digit]}3{text[digit + 1 :]}")
    assert not load_entries(path)
    assert checked(open_source("voc", shapes_voc, "train")).classes_in(0) == wanted
    path.write_text(text.partition("\n")[2])  # as older versions wrote it
    assert checked(open_source("voc", shapes_voc, "train")).classes_in(0) == wanted


def test_a_decoded_image_with_a_flipped_bit_is_decoded_again(shapes_voc):
    source = checked(open_source("voc", shapes_voc, "train"))
    decoded = DecodedSource(source, 1 << 24)
    path, wanted = decoded.pixels.filename, source[1].image.tobytes()
    start, width, height, _ = decoded.places[1]
    assert decoded[1].image.tobytes() == wanted
    with open(path, "r+b") as file:
        file.seek(start + 3 * width * height - 1)
        last = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([last[0] ^ 1]))
    assert DecodedSource(source, 1 << 24)[1].image.tobytes() == wanted
