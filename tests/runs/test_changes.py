"""Every kind of change between a stop and a resume: refused, or allowed by a switch with a name, never silent.

Changes of single images, masks, maps and lists are in ``tests/engine/checkpoint/test_images.py``.
"""

from __future__ import annotations

import os
import shutil
import signal
import tomllib
from pathlib import Path

import pytest

from barm.api import fit
from barm.config import load_config
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.provenance import provenance, source_digest
from barm.engine.monitor import Monitor
from barm.errors import Stopped, UserError
from editing import unchecked

LONG = ("base.epochs=2", "increment.epochs=3")
RECIPE = {  # a setting of every table that decides the result
    "seed": "seed=7",
    "task": "task.order=1",
    "setting": "task.setting=disjoint",
    "network": "model.channels=8",
    "normalisation": "model.mean=[0.1,0.1,0.1]",
    "method": "method.pseudo_threshold=0.9",
    "weight of a term": "method.triplet_weight=0.5",
    "frozen batch norm": "method.freeze_bn=false",
    "length": "increment.epochs=2",
    "rate": "increment.lr.new=0.5",
    "batch": "increment.batch_size=2",
    "crop": "base.crop=40",
    "labels": "base.void_label=0",
    "evaluation": "evaluation.crop=40",
    "absent classes": "evaluation.absent=zero",
}
CODE = {
    "barm": {"barm": "9.9.9"},
    "commit": {"git": "0123456789ab"},
    "torch": {"torch": "9.9.9"},
    "timm": {"timm": "9.9.9"},
    "pillow": {"pillow": "9.9.9"},
}
ALLOWED = {  # named switches of what changes no result, or rounding alone
    "one worker": "runtime.workers=1",
    "three workers": "runtime.workers=3",
    "place of the loader's batches": "evaluation.batch_size=1",
    "cache": "data.cache_mb=0",
    "log": "runtime.log_every=1",
    "states": "runtime.save_every=1",
}


@pytest.fixture(scope="module")
def stopped(shapes_voc, tiny_settings, tmp_path_factory):
    """A folder with a ``whole`` run, and with ``run``, which was stopped in step 1."""
    folder, show = tmp_path_factory.mktemp("changes"), Monitor.progress

    def stop(self: Monitor, iteration: int, *rest) -> None:
        show(self, iteration, *rest)
        if self.step == 1 and iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = load_config("shapes/2-1/barm", [*tiny_settings, *LONG], {"data": {"root": str(shapes_voc)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(folder / "cache"))
        fit(config, out=folder / "whole", steps=[0, 1], quiet=True)
        patch.setattr(Monitor, "progress", stop)
        with pytest.raises(Stopped):
            fit(config, out=folder / "run", steps=[0, 1], quiet=True)
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    return Path(shutil.copytree(stopped / "run", tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def again(run: Path, *changes: str) -> None:
    fit(load_config(run / "config.toml", changes), out=run, steps=[0, 1], resume=True, quiet=True)


def refused(run: Path, *changes: str) -> str:
    before = files(run)
    with pytest.raises(UserError) as error:
        again(run, *changes)
    assert files(run) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def same_weights(run: Path, whole: Path) -> bool:
    one, two = ((folder / "step01/model.safetensors").read_bytes() for folder in (run, whole))
    return one == two


@pytest.mark.parametrize("kind", RECIPE)
def test_a_change_of_the_recipe_is_refused(kind, run):
    key = RECIPE[kind].partition("=")[0]
    told = refused(run, RECIPE[kind])
    assert key in told
    assert "there" in told
    assert "here" in told
    assert "resume with" in told


@pytest.mark.parametrize("kind", CODE)
def test_a_change_of_the_code_is_refused_or_allowed_by_name(kind, run, stopped, monkeypatch):
    monkeypatch.setattr("barm.engine.run.provenance", lambda *words: {**provenance(*words), **CODE[kind]})
    ((name, value),) = CODE[kind].items()
    there = RunDirectory(run).provenance()[name]
    told = refused(run)
    assert f"was begun with other code ({name} {there} there, {value} here)" in told
    assert "--set runtime.other_code=true" in told
    again(run, "runtime.other_code=true")
    record = tomllib.loads((run / "config.toml").read_text())["provenance"]
    assert record[name] == there
    assert f"{name} {value}" in record["resumed"][-1]
    assert not RunDirectory(run).config().runtime.other_code, "the switch is for one start"
    assert same_weights(run, stopped / "whole")


def test_the_code_of_the_last_start_counts(run, monkeypatch):
    others = iter(["9.9.9", "9.9.9", "0.0.1"])
    monkeypatch.setattr("barm.engine.run.provenance", lambda *words: {**provenance(*words), "barm": next(others)})
    saved = shutil.copytree(run / ".step01.partial", run.parent / "saved")
    again(run, "runtime.other_code=true")
    for allowed in (True, False):
        shutil.rmtree(run / "step01")
        shutil.copytree(saved, run / ".step01.partial")
        if allowed:
            again(run)
        else:
            assert "barm 9.9.9 there, 0.0.1 here" in refused(run)


def test_between_two_steps_other_code_is_a_warning(stopped, tmp_path, monkeypatch, capsys):
    run = Path(shutil.copytree(stopped / "whole", tmp_path / "run"))
    shutil.rmtree(run / "step01")
    monkeypatch.setattr("barm.engine.run.provenance", lambda *words: {**provenance(*words), "git": "0123456789ab"})
    fit(load_config(run / "config.toml"), out=run, steps=[0, 1], resume=True)
    told = " ".join(capsys.readouterr().err.split())
    assert "goes on with other code than before (git" in told
    assert same_weights(run, stopped / "whole")


def told_of(run: Path, capsys, *changes: str) -> str:
    capsys.readouterr()
    fit(load_config(run / "config.toml", changes), out=run, steps=[0, 1], resume=True)
    return " ".join(capsys.readouterr().err.split())


def test_another_precision_within_a_step_is_told(run, capsys):
    told = told_of(run, capsys, "runtime.precision=bf16-mixed")
    assert "goes on under other conditions than before (precision 32-true there, bf16-mixed here)" in told
    assert told.count("warning:") == 1


@pytest.mark.parametrize(("name", "value"), [("python", "3.9.0"), ("device", "cuda:0"), ("processes", 2)])
def test_other_conditions_between_two_steps_are_told(name, value, stopped, tmp_path, monkeypatch, capsys):
    run = Path(shutil.copytree(stopped / "whole", tmp_path / "run"))
    shutil.rmtree(run / "step01")
    first = RunDirectory(run).provenance()[name]
    monkeypatch.setattr("barm.engine.run.provenance", lambda *words: {**provenance(*words), name: value})
    told = told_of(run, capsys).replace(" cpu ", f" {first} ")
    assert f"other conditions than before ({name} {first} there, {str(value).partition(':')[0]} here)" in told


def test_the_same_code_and_conditions_are_not_worth_a_word(run, capsys):
    assert "warning" not in told_of(run, capsys)


@pytest.mark.parametrize("git", ["0123456789ab+", "unknown"])
def test_two_uncommitted_states_are_told_apart(git, run, monkeypatch, capsys):
    record = {"git": git, "source": "aaaa"}
    monkeypatch.setattr("barm.engine.run.provenance", lambda *words: {**provenance(*words), **record})
    again(run, "runtime.other_code=true")
    shutil.rmtree(run / "step01")
    assert "other code" not in told_of(run, capsys)
    shutil.rmtree(run / "step01")
    record["source"] = "bbbb"
    assert "other code than before (source aaaa there, bbbb here)" in told_of(run, capsys)


@pytest.mark.parametrize("git", ["0123456789ab+", "unknown"])
def test_code_that_an_older_version_kept_no_digest_of_is_told(git, run, monkeypatch, capsys):
    path = run / "config.toml"
    lines = path.read_text().splitlines(keepends=True)[1:]
    kept = [f'git = "{git}"\n' if line.startswith("git = ") else line for line in lines if line[:9] != "source = "]
    path.write_text("".join(kept))
    monkeypatch.setattr("barm.engine.run.provenance", lambda *words: {**provenance(*words), "git": git})
    told = told_of(run, capsys)
    assert f"may go on with other code than before, which cannot be known (git {git} there, {git} here" in told


def test_the_digest_of_the_code_is_that_of_its_modules(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a.py").write_bytes(b"x = 1\n")
    first = source_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / "inner/a.py").write_bytes(b"x = 1\r\n")  # as git writes it on Windows
    assert source_digest(tmp_path) == first
    (tmp_path / "inner/a.py").write_bytes(b"x = 2\n")
    assert source_digest(tmp_path) != first


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_switch_that_changes_no_result(kind, run, stopped):
    again(run, ALLOWED[kind])
    assert same_weights(run, stopped / "whole")


def test_other_images_are_refused(run, shapes_voc, tmp_path):
    data = Path(shutil.copytree(shapes_voc, tmp_path / "data"))
    lists = data / "ImageSets/Segmentation/train_aug.txt"
    lists.write_text("\n".join(lists.read_text().split()[:9]))
    told = refused(run, f"data.root={data}")
    assert "was started on other images (training split: 24 images there, 9 here" in told


def test_the_data_at_another_place(run, stopped, shapes_voc, tmp_path):
    data = Path(shutil.copytree(shapes_voc, tmp_path / "data"))
    again(run, f"data.root={data}")
    assert same_weights(run, stopped / "whole")


def test_from_its_own_configuration_alone(run, stopped, tmp_path):
    """Stopped or not: ``config.toml`` holds all that decides the result."""
    again(run)
    assert same_weights(run, stopped / "whole")
    fit(load_config(stopped / "whole/config.toml"), out=tmp_path / "anew", steps=[0, 1], quiet=True)
    for step in ("step00", "step01"):
        for file in ("model.safetensors", "counts.json", "metrics.json"):
            one, two = ((f / step / file).read_bytes() for f in (tmp_path / "anew", stopped / "whole"))
            assert one == two, (step, file)


def test_a_step_that_was_imported_goes_with_any_code(tiny_run, tmp_path, monkeypatch):
    """Without a record of its images, a step was trained elsewhere, and nothing here depends on its code."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    for folder in ("step01", "step02"):
        shutil.rmtree(run / folder)
    unchecked(run / "step00/pictures.json").unlink()
    monkeypatch.setattr("barm.engine.run.provenance", lambda *words: {**provenance(*words), "barm": "9.9.9"})
    again(run)
    assert RunDirectory(run).is_complete(1)
