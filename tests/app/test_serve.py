"""The page of `barm serve`: its address, a browser that uses it, and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import barm
from barm.api import read_config
from barm.app.content import agreement, draw
from barm.app.serve import Options, check_installed, choose_port, serve, serving
from barm.app.viewer import Limits, Viewer, find_examples, open_runs
from barm.data.palette import display_colours
from editing import unchecked


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_ports_and_gradio(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(barm.UserError, match=f"cannot listen on 127.0.0.1:{port}.*another --port"):
            choose_port("127.0.0.1", port)
    assert choose_port("127.0.0.1", port) == port
    assert choose_port("127.0.0.1", None) > 1023
    with pytest.raises(barm.UserError, match=r"no address for --host nowhere\.invalid"):
        choose_port("nowhere.invalid", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(barm.UserError, match=r"pip install 'barm-seg\[app\]'"):
        check_installed()


class Tunnel:
    """Stands for gradio's way to a public address."""

    def __init__(self, port: int) -> None:
        self.local_port = port
        self.killed = False

    def kill(self) -> None:
        print(f"Killing tunnel {self.local_port}")
        self.killed = True


@pytest.mark.parametrize("fails", [False, True])
def test_the_public_address_ends_with_the_page(fails, monkeypatch, capsys):
    own, other = Tunnel(choose_port("127.0.0.1", None)), Tunnel(1)
    tunnels = [own, other]
    monkeypatch.setattr("gradio.tunneling.CURRENT_TUNNELS", tunnels)

    def start(*_: object) -> SimpleNamespace:
        if fails:
            raise ValueError("no address in time")
        return SimpleNamespace(close=lambda verbose: None)

    monkeypatch.setattr(sys.modules[serving.__module__], "_start", start)
    with (
        pytest.raises(ValueError) if fails else nullcontext(),
        serving(None, Options(port=own.local_port, share=True), ()),
    ):
        assert not own.killed
    assert (own.killed, other.killed) == (True, False)
    assert tunnels == [other]
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, shapes_voc, tiny_settings):
    """Two runs of three steps whose classifiers are noise, so that they find every class; their orders differ."""
    parent = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(parent / "cache"))
        for name, method, order in (("first", "barm", 0), ("second", "finetune", 2)):
            settings = [*tiny_settings, f"data.root={shapes_voc}", f"task.order={order}"]
            barm.fit(f"shapes/2-1/{method}", out=parent / name, overrides=settings, quiet=True)
            for seed, file in enumerate(sorted((parent / name).glob("step*/model.safetensors"))):
                state = load_file(file)
                noise = torch.Generator().manual_seed(seed)
                for key in [k for k in state if k.startswith("classifier.head.")]:
                    heavy = 5 * torch.randn(state[key].shape, generator=noise)
                    state[key] = heavy if key.endswith("weight") else torch.zeros_like(heavy)
                save_file(state, unchecked(file))
    return parent / "first", parent / "second"


@pytest.fixture
def served(browse):
    """A function that serves runs from a thread of this process and opens the page: the page and the viewer."""
    pages: list[Any] = []
    with ExitStack() as stack:

        def open_page(*paths: Path, width: int = 1280, **limits: Any) -> tuple[Any, Viewer]:
            viewer, options = Viewer(paths), Options(limits=Limits(**limits))
            page, address = stack.enter_context(serving(viewer, options, find_examples(viewer.runs[0], options.limits)))
            assert not page.share
            assert page.allowed_paths == []
            pages.append(browse(address, width=width))
            return pages[-1], viewer

        yield open_page
        for page in pages:  # before the server: an open page asks for it again and again
            page.close()


def shown(page: Any, place: int = 1) -> np.ndarray | None:
    """The image in a place of the page."""
    image = page.locator(f"#view{place} img")
    if not image.count():
        return None
    with urllib.request.urlopen(image.get_attribute("src")) as answer:
        return np.asarray(Image.open(answer).convert("RGB"))


def wait_for(page: Any, there: Callable[[], bool]) -> None:
    """Until something holds, at most ten seconds."""
    for _ in range(100):
        if there():
            return
        page.wait_for_timeout(100)
    raise AssertionError("waited in vain")


def wait_for_image(page: Any, expected: np.ndarray, place: int = 1) -> None:
    """Until exactly this image is shown."""
    wait_for(page, lambda: np.array_equal(shown(page, place), expected))


def press(page: Any, slider: str, *keys: str) -> None:
    """Move a slider with the keyboard."""
    page.locator(f"{slider} input[type=range]").focus()
    for key in keys:
        page.keyboard.press(key)


def tinted(
    image: Image.Image, model: barm.Model, names: Collection[str], known: Sequence[str] | None = None
) -> np.ndarray:
    """What is to be seen: the classes' colours, opaque; `known` classes in the order in which they have them."""
    label, colours = model.predict(image), display_colours(known or model.class_names)
    table = np.array([colours[name] for name in model.class_names], np.uint8)
    return draw(np.asarray(image), label, table, model.class_names, names, 1)


def upload(tmp_path: Path, page: Any, image: Image.Image) -> None:
    page.locator("#upload input[type=file]").set_input_files(saved(tmp_path / "own.png", image))


@pytest.fixture
def own():
    """An image with many colours."""
    tiles = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(tiles).resize((160, 120))


def told(page: Any, label: np.ndarray, names: Sequence[str]) -> list[int]:
    """The classes of a prediction, all of which the page names with their shares."""
    found = [i for i in range(1, len(names)) if (label == i).any()]
    assert len(found) > 1
    legend = page.locator("#classes").inner_text()
    for i in found:
        assert re.search(rf"{100 * (label == i).mean():.1f}\s+{names[i]}", legend)
    assert f"Found {len(found)} of the {len(names) - 1} classes" in page.locator("#status").inner_text()
    return found


def test_one_run_in_a_browser(served, folders, own, tmp_path):
    page, viewer = served(folders[0])
    last, middle = barm.load(folders[0]), barm.load(folders[0], 1)
    everything = last.class_names
    wait_for(page, lambda: shown(page) is not None)  # an example is there from the start
    assert page.locator("#examples .grid-container img").count() == 6
    assert page.locator("h1").inner_text() == "first (BARM)"
    assert "After step 2 of 2: learned" in page.locator("#header p").inner_text()
    miou = json.loads((folders[0] / "step02" / "metrics.json").read_text())["miou"]["all"]
    assert f"mIoU {100 * miou:.1f} %" in page.locator("#header p").inner_text()

    upload(tmp_path, page, own)
    press(page, "#opacity", "End")
    wait_for_image(page, tinted(own, last, everything))
    label = last.predict(own)
    found = told(page, label, everything)

    ran = viewer.predictions
    gone = everything[found[0]]
    box = page.get_by_label(gone)
    box.focus()
    page.keyboard.press("Space")
    wait_for_image(page, tinted(own, last, set(everything) - {gone}))
    press(page, "#opacity", "Home")
    plain = draw(np.asarray(own), label, last.display_colours, everything, [], 0)
    wait_for_image(page, plain)
    box.check()
    press(page, "#opacity", "End")
    wait_for_image(page, tinted(own, last, everything))
    assert viewer.predictions == ran  # hiding and tinting never run the network

    press(page, "#step", "ArrowLeft")
    wait_for_image(page, tinted(own, middle, everything))
    header = page.locator("#header p").inner_text()
    assert f"After step 1 of 2: learned {middle.class_names[3]}" in " ".join(header.split())
    assert page.locator("#strip li[aria-current]").inner_text().startswith("Step 1")
    press(page, "#step", "ArrowRight")
    wait_for_image(page, tinted(own, last, everything))
    assert viewer.predictions == ran + 1
    page.get_by_label("Show before and after").check()
    wait_for_image(page, tinted(own, last, everything), 2)
    assert np.array_equal(shown(page, 1), tinted(own, middle, everything))


def test_refusals_in_a_browser(served, folders, own, tmp_path):
    page, _ = served(folders[0], width=390, megabytes=0.02, pixels=30_000)
    wait_for(page, lambda: shown(page) is not None)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before = shown(page)
    upload(tmp_path, page, own.resize((200, 160)).quantize(8))
    page.get_by_text("200 x 160 = 32,000 pixels; at most 30,000 are taken").wait_for()
    assert np.array_equal(shown(page), before)
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8))
    upload(tmp_path, page, large)
    page.get_by_text("at most 0.02 MB are taken").wait_for()
    (tmp_path / "bad.png").write_bytes(b"nothing")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "bad.png")
    page.get_by_text("cannot be read as an image").wait_for()
    assert np.array_equal(shown(page), before)
    assert str(folders[0].parent) not in page.content()


def test_two_runs_from_the_command_line(folders, browse, own, tmp_path):
    command = [sys.executable, "-m", "barm.cli", "serve", *map(str, folders)]
    environment = {**os.environ, "GRADIO_SHARE": "True", "TMPDIR": str(tmp_path), "GRADIO_ALLOWED_PATHS": "/"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line
        page = browse(address[0])
        models = [barm.load(folder) for folder in folders]
        everything = models[0].class_names
        assert page.locator("h1").inner_text() == "first (BARM) and second (Fine-tuning)"
        wait_for(page, lambda: shown(page, 2) is not None)
        assert page.locator("#strip ol").count() == 2  # the orders differ
        upload(tmp_path, page, own)
        press(page, "#opacity", "End")
        for place, model in enumerate(models, 1):
            wait_for_image(page, tinted(own, model, everything, everything), place)
        same = agreement(*(x for m in models for x in (m.predict(own), m.class_names)))
        assert f"same class on {100 * same:.1f} %" in page.locator("#status").inner_text()
        check_that_nothing_leaks(address[0], folders[0])
        assert list(tmp_path.glob("barm-serve-*"))
        page.close()  # before the server: an open page asks for it again and again
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    assert not list(tmp_path.glob("barm-serve-*"))  # uploads are gone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_ends_quietly_while_a_browser_is_there(number, folders, chromium):
    """An open page and a network that has run: neither a message of C++ nor a traceback at the end."""
    command = [sys.executable, "-m", "barm.cli", "serve", str(folders[0])]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    context = chromium.new_context()
    try:
        assert server.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert address
        page = context.new_page()
        page.goto(address[0])
        wait_for(page, lambda: shown(page) is not None)
        server.send_signal(number)
        _, said = server.communicate(timeout=30)
    finally:
        server.kill()
        context.close()
    assert said == ""
    assert server.returncode == 0


BUSY = """
import sys, threading, time
import barm.app.serve
def page(*_):
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("served")
barm.app.serve.serve = page
from barm.cli import main
sys.argv = ["barm", "serve", "runs/any"]
main()
"""


def test_an_image_that_is_in_the_network_does_not_hold_up_the_end():
    done = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served\n", "")


def check_that_nothing_leaks(address: str, folder: Path) -> None:
    """No path of the runs or the data, no file outside of the uploads, no visitor by another name."""
    with urllib.request.urlopen(address + "config") as answer:
        config = answer.read().decode()
        policy = answer.headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert str(folder.parent) not in config
    root = str(read_config(folder).data.root)
    assert root not in config
    for wrong in (f"gradio_api/file={folder / 'config.toml'}", "gradio_api/file=/etc/passwd", "openapi.json"):
        with pytest.raises(urllib.error.HTTPError, match=r"40[34]"):
            urllib.request.urlopen(address + wrong)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}))


def test_what_cannot_be_served(folders, tmp_path):
    with pytest.raises(barm.UserError, match="one run or two"):
        serve([folders[0]] * 3, Options(), print)
    with pytest.raises(barm.UserError, match="one run or two"):
        serve([])
    with pytest.raises(barm.UserError, match=r"is not a run: expected config\.toml"):
        serve([tmp_path], Options(), print)
    run = open_runs([folders[0]])[0]
    with pytest.raises(barm.UserError, match="no folder"):
        find_examples(run, Limits(), tmp_path / "nothing")
    assert len(find_examples(run, Limits())) == 6
    assert find_examples(run, Limits(pixels=100)) == []
    twice = open_runs([folders[0], folders[0]])
    assert [r.name for r in twice] == [f"{folders[0].parent.name}/first"] * 2
