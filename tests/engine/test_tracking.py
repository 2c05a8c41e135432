"""Weights & Biases without its server: what is written, where, and what is not."""

from __future__ import annotations

import socket

import pytest

from barm.api import fit
from barm.engine import tracking
from barm.engine.monitor import Monitor
from barm.engine.train import StepTrainer
from barm.errors import UserError


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server that nobody may ask; the user's home is an empty folder."""
    wandb = pytest.importorskip("wandb")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield listening
        wandb.teardown()


def stored(run):
    """Content of the files in which the library keeps what it would send, oldest first, once it has ended."""
    import wandb

    wandb.teardown()
    return [file.read_bytes() for file in sorted(run.glob("wandb/offline-run-*/*.wandb"))]


def test_offline_everything_stays_in_the_folder_of_the_run(tiny, tmp_path, server):
    config = tiny("barm", "3-1", "runtime.wandb=offline", "runtime.log_every=1")
    fit(config, out=tmp_path / "run", steps=[0], quiet=True)
    (first,) = stored(tmp_path / "run")
    for name in ("step00/loss", "step00/pb_bce", "step00/lr", "miou/all", "barm-3-1", '"batch_size":4', "test_resnet"):
        assert name.encode() in first.replace(b": ", b":"), name
    assert str(config.data.root).encode() not in first
    with pytest.raises(BlockingIOError):
        server.accept()
    assert not list((tmp_path / "home").rglob("*wandb*"))


def test_a_resumed_run_goes_on_under_its_identifier(tiny, tmp_path, server):
    config = tiny("barm", "3-1", "runtime.wandb=offline")
    fit(config, out=tmp_path / "run", steps=[0], quiet=True)
    known = (tmp_path / "run/wandb/run-id").read_text().strip()
    fit(config, out=tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run/wandb/run-id").read_text().strip() == known
    assert {p.stem for p in (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")} == {f"run-{known}"}
    assert any(b"step01/loss" in content for content in stored(tmp_path / "run"))


def test_a_run_that_fails_leaves_nothing(tiny, tmp_path, server, monkeypatch):
    def refuse(self):
        raise UserError("step 0 diverged")

    monkeypatch.setattr(StepTrainer, "check_finite", refuse)
    config = tiny("barm", "3-1", "runtime.wandb=offline")
    with pytest.raises(UserError, match="diverged"):
        fit(config, out=tmp_path / "run", steps=[0], quiet=True)
    stored(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def configured(path, mode):
    path.mkdir()
    (path / "config.toml").write_text(f'task.name = "3-1"\nmethod.name = "barm"\nruntime.wandb = "{mode}"\n')
    return path


def test_off_is_the_default_and_only_the_main_process_writes(tmp_path, server):
    assert tracking.wanted(tmp_path) is None
    assert tracking.wanted(configured(tmp_path / "off", "off")) is None
    run = configured(tmp_path / "run", "offline")
    with Monitor(False, tensorboard=False) as monitor:
        monitor.open(run)
    assert [p.name for p in run.iterdir()] == ["config.toml"]


def test_online_without_a_login_is_one_line(tmp_path, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = configured(tmp_path / "run", "online")
    with pytest.raises(UserError, match=r"^Weights & Biases cannot be used \(.*: log in with `wandb login`") as error:
        Monitor(True, tensorboard=False, quiet=True).open(run)
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named_in_every_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    run = configured(tmp_path / "run", "offline")
    for main in (True, False):
        with pytest.raises(UserError, match="wandb is not installed: pip install wandb"):
            Monitor(main, tensorboard=False, quiet=True).open(run)


@pytest.mark.parametrize("content", [b"\xff", b"", b"../x"])
def test_an_identifier_that_is_damaged(content, tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/run-id").write_bytes(content)
    with pytest.raises(UserError, match="run-id is damaged"):
        tracking.run_id(tmp_path)
