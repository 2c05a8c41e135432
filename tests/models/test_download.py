"""Without a network, pretrained weights are one line within five seconds, whichever way nobody answers."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from barm.errors import UserError
from barm.models import download
from barm.models.backbone import create_backbone
from barm.models.download import Origin, ask, check_reachable, find_origin

NAME = "resnet18.a1_in1k"
LIMIT = 5.0  # seconds


@contextmanager
def refusing() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """One that takes connections and never answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


@contextmanager
def answering(status: int, after: float = 0) -> Iterator[str]:
    """One that gives every question the same status, after some seconds."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            time.sleep(after)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def uncached(monkeypatch):
    """A machine without weights, whose hub is elsewhere: ``uncached(address)``."""
    monkeypatch.setattr(download, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return lambda address: monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.mark.parametrize(
    ("hub", "why"),
    [(refusing, "refused"), (silent, "no answer within 4 s"), (lambda: answering(503), "it answers 503")],
    ids=["refused", "silent", "503"],
)
def test_one_line_within_five_seconds(hub, why, uncached, caplog):
    with hub() as address:
        uncached(address)
        began = time.monotonic()
        with pytest.raises(UserError) as caught:
            create_backbone(NAME, 16, pretrained=True)
        took = time.monotonic() - began
    line = str(caught.value)
    assert took < LIMIT
    assert "\n" not in line
    assert why in line
    for word in (f"'{NAME}'", address, "model.weights=FILE", "model.pretrained=false"):
        assert word in line
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]  # no retries of the hub's own


def test_a_name_that_is_looked_up_for_long():
    began = time.monotonic()
    found = ask("http://nowhere.invalid", lambda *_: time.sleep(30) or 200)
    assert found == "no answer within 4 s; a larger HF_HUB_ETAG_TIMEOUT waits longer"
    assert time.monotonic() - began < LIMIT


@pytest.mark.parametrize(("seconds", "limit"), [(10, 4), (30, 30), (6, 6), (2, 4)])
def test_the_limit_of_the_hubs_library(seconds, limit, monkeypatch):
    """Its default of 10 seconds is nobody's wish."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", seconds)
    assert download.patience() == limit


def test_a_slow_hub_has_the_time_that_was_asked_for(uncached, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 30)
    with answering(200, after=6) as address:
        uncached(address)
        check_reachable(NAME)


@pytest.mark.parametrize("status", [200, 302, 401, 404, 500, 501])
def test_any_sound_answer_lets_the_hub_go_on(status, uncached):
    with answering(status) as address:
        uncached(address)
        check_reachable(NAME)


def test_offline_by_request(uncached, monkeypatch):
    uncached("http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"'{NAME}' are not in the cache and HF_HUB_OFFLINE is set"):
        check_reachable(NAME)


def test_what_is_in_the_cache_asks_nobody(monkeypatch, tmp_path):
    asked: list[str] = []
    monkeypatch.setattr(download, "ask", lambda address, _: asked.append(address))
    monkeypatch.setattr(download, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    check_reachable(NAME)
    assert asked == []
    check_reachable("deeplab_mobilenetv2")
    assert asked == ["https://download.pytorch.org"]
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints/mobilenet_v2-b0353104.pth"
    file.touch()
    assert find_origin("deeplab_mobilenetv2") == Origin("https://download.pytorch.org", file, False)
    assert find_origin("no_such_network") is None


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A cache of the hub that holds a repository: ``cached(name)`` gives the weights in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def fill(name: str) -> dict[str, torch.Tensor]:
        folder, commit = tmp_path / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
        snapshot = folder / "snapshots" / commit
        for new in (folder / "refs", snapshot):
            new.mkdir(parents=True)
        (folder / "refs/main").write_text(commit)
        state = timm.create_model("test_resnet").state_dict()
        save_file(state, snapshot / "model.safetensors")
        (snapshot / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 1000}))
        return state

    return fill


@pytest.mark.parametrize(
    ("name", "repository"), [("test_resnet.r160_in1k", "timm/test_resnet.r160_in1k"), ("hf-hub:me/net", "me/net")]
)
def test_cached_weights_are_loaded_without_a_question(name, repository, cached, monkeypatch):
    """Behind a network that swallows what is sent: at once, and the cached numbers."""
    state = cached(repository)
    with silent() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        began = time.monotonic()
        body = create_backbone(name, 16, pretrained=True)
        took = time.monotonic() - began
    loaded = body.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())
    assert took < LIMIT


def test_the_command(cli, shapes_voc, tiny_settings, tmp_path, uncached):
    """Status 2, one line, and nothing left on the disk."""
    words = [word for s in (*tiny_settings, f"model.backbone={NAME}") for word in ("--set", s)]
    with refusing() as address:
        uncached(address)
        recipe = ("--recipe", "shapes/2-1/barm", "--data", shapes_voc, "--out", "run")
        status, _, err = cli("train", *recipe, *words, "--set", "model.pretrained=true", "--quiet")
    assert status == 2
    assert err.startswith(f"barm: the ImageNet weights of '{NAME}'")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
