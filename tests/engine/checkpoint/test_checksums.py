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
from barm.engine.checkpoint.directory import CONFIG, COUNTS, IMAGES, METHOD, METRICS, MODEL, RunDirectory
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


def unsealed(run):
    """Take away the first line of ``config.toml``, as somebody does who edits it."""
    path = run.path / CONFIG
    path.write_text(path.read_text().partition("\n")[2])


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
    with pytest.raises(UserError, match=rf"^\S+/step01/{checksums.CHECKSUMS} is damaged \(does not have the checksum"):
        run.read(1, METRICS)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\0"])
def test_checksums_that_are_damaged_are_named_and_no_sound_file(run, content):
    (run.step_path(1) / checksums.CHECKSUMS).write_bytes(content)
    reads = (run.read, METHOD), (run.read, COUNTS), (lambda i, _: run.load_model_state(i), ""), (run.has, METRICS)
    for read, name in reads:
        with pytest.raises(
            UserError, match=rf"^\S+/step01/{checksums.CHECKSUMS} is damaged \(.*: restore the file, or"
        ):
            read(1, name)


@pytest.mark.parametrize("folder", ["step01", ".step03.partial"])
def test_checksums_that_are_missing_are_told_and_how_to_do_without(run, tiny, folder):
    run.images = run.read(1, IMAGES)
    run.save_partial(3, state())
    (run.path / folder / checksums.CHECKSUMS).unlink()
    flip(run.step_path(1) / MODEL, -1)
    told = rf"/{folder}/{checksums.CHECKSUMS} is missing, .*: restore it, or remove the first line of \S+/config\.toml "
    reads = [lambda: fit(tiny("barm", "2-1"), out=run.path, resume=True, quiet=True)]
    if folder == "step01":
        reads += [lambda: run.load_model_state(1), lambda: run.read(1, COUNTS), lambda: run.add(1, {})]
    for read in reads:
        with pytest.raises(UserError, match=told):
            read()
    unsealed(run)
    assert run.has(1, IMAGES)
    if folder == "step01":
        run.load_model_state(1)


@pytest.mark.parametrize("name", [METRICS, IMAGES])
def test_a_file_that_is_lost_is_told(run, tiny, name):
    """Without its record of images, a run went on with others."""
    (run.step_path(1) / name).unlink()
    assert run.has(1, name)
    told = rf"/step01/{name} is damaged \(it is missing\)"
    for read in (lambda: run.read(1, name), lambda: fit(tiny("barm", "2-1"), out=run.path, resume=True, quiet=True)):
        with pytest.raises(UserError, match=told):
            read()


def test_a_resume_gives_checksums_to_what_an_older_version_wrote(run, tiny):
    """Also where a part of them is there: what was evaluated later."""
    unsealed(run)
    for index in range(3):
        (run.step_path(index) / checksums.CHECKSUMS).unlink()
    run.add(1, {METRICS: run.read(1, METRICS)})
    assert list(checksums.sums_of(run.step_path(1))) == [METRICS]
    fit(tiny("barm", "2-1"), out=run.path, resume=True, quiet=True)
    for index in range(3):
        there = {p.name for p in run.step_path(index).iterdir()} - {checksums.CHECKSUMS}
        assert set(checksums.sums_of(run.step_path(index))) == there
    flip(run.step_path(1) / MODEL, -1)
    with pytest.raises(UserError, match=f"step01/{MODEL} is damaged"):
        run.load_model_state(1)


def test_a_setting(run):
    path = run.path / CONFIG
    path.write_text(path.read_text().replace("seed = ", "seed = 1", 1))
    with pytest.raises(UserError, match=r"config\.toml is damaged .* remove that line if you edited the others$"):
        run.config()
    unsealed(run)  # the message's remedy
    assert run.config().seed >= 10


def test_settings_that_are_no_file(run, tiny):
    (run.path / CONFIG).unlink()
    (run.path / CONFIG).mkdir()
    with pytest.raises(UserError, match=r"/config\.toml is damaged \(is a folder, expected a file\)"):
        run.config()
    with pytest.raises(UserError, match=r"/config\.toml is no file: expected the settings of a run; restore it"):
        fit(tiny("barm", "2-1"), out=run.path, resume=True, quiet=True)


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
    unsealed(run)
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
    torch.save({"format": 3, **state()}, path)
    (run.path / CONFIG).write_text((run.path / CONFIG).read_text().replace("format 2", "format 3", 1))
    change(run.step_path(1) / checksums.CHECKSUMS, lambda value: value.update(format=3))
    for read in (run.config, lambda: run.read(1, METRICS), lambda: run.load_partial(3)):
        with pytest.raises(UserError, match=r"has format 3, but this version of barm reads up to 2: update barm"):
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
