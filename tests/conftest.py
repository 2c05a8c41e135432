"""Small data and small recipes for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

import barm
from barm.api import fit
from barm.config import load_config
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.config import RunConfig
from barm.weights.export.portable import LEAST_TORCH

sys.path.insert(0, str(Path(__file__).parent))  # for `forked`
settings.register_profile("same", derandomize=True)  # the same examples in every run; "search" looks for others
settings.register_profile("search", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks; the suite itself runs in parallel
torch.set_num_threads(1)
# processes that a test starts import the package that the test imports, whichever is installed
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(barm.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

TINY = (
    "model.backbone=test_resnet",
    "model.channels=16",
    "model.output_stride=16",
    "base.epochs=1",
    "increment.epochs=1",
    "base.batch_size=4",
    "increment.batch_size=4",
    "base.crop=48",
    "increment.crop=48",
    "evaluation.crop=48",
    "evaluation.batch_size=4",
    "runtime.workers=0",
    "runtime.precision=32-true",
    "runtime.device=cpu",
    "runtime.tensorboard=false",
)


VARIANTS = ("-m", "-ewf")  # of methods: exemplars, fusion; on the same network with the same losses
SHARED = {  # files whose tests see a method's network and losses alone
    *("test_batch_norm.py", "test_frozen.py", "test_frozen_norm.py", "test_formats.py", "test_backbone.py"),
    *("test_capacity.py", "test_methods.py", "test_waits.py"),
}


@pytest.hookimpl(tryfirst=True)  # before what is marked ``long`` is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` or ``graph`` are skipped, visibly, without a CUDA device or where torch is too old.

    What is about a method's network and losses alone is tested of one variant. What is the engine's work is tested of
    one method of each kind of head, teacher and state, and of new methods: the mark ``others`` names the rest, which
    `make test-long` has.
    """
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        others = item.get_closest_marker("others")
        if (item.path.name in SHARED and str(name).endswith(VARIANTS)) or (others and name in others.args):
            item.add_marker(pytest.mark.long)
    lacking = {}
    if not torch.cuda.is_available():
        lacking["gpu"] = "no CUDA device"
    if torch.__version__ < LEAST_TORCH:
        lacking["graph"] = f"graphs need torch >= {LEAST_TORCH}"
    for item in items:
        for marker, reason in lacking.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """What all tests import is left out of every later collection of garbage: there are millions of objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave no index in the user's cache."""
    monkeypatch.setenv("BARM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("BARM_BACKBONE_WEIGHTS", raising=False)


@pytest.fixture(scope="session")
def shapes_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes in the VOC layout, 24 + 6 images of 48 pixels."""
    root = tmp_path_factory.mktemp("voc") / "data"
    make_shapes(root, layout="voc", num_classes=4, num_train=24, num_val=6, size=(48, 48), seed=3)
    return root


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    """``table.key=value`` settings of a run of seconds."""
    return TINY


@pytest.fixture(scope="session")
def fast_settings(tiny_settings) -> tuple[str, ...]:
    """The same without the sizes, which the recipes for a folder take from the data."""
    return (*(setting for setting in tiny_settings if ".crop=" not in setting), "model.pretrained=false")


@pytest.fixture
def tiny(shapes_voc: Path):
    """A function that gives a tiny configuration of a method: ``tiny("barm", "2-1")``."""

    def config(method: str = "barm", task: str = "2-1", *overrides: str) -> RunConfig:
        return load_config(f"shapes/{task}/{method}", [*TINY, *overrides], {"data": {"root": str(shapes_voc)}})

    return config


@pytest.fixture(scope="session")
def tiny_run(shapes_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps, as `tiny` configures it; not to be changed."""
    path = tmp_path_factory.mktemp("tiny") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        fit("shapes/2-1/barm", data=shapes_voc, out=path, overrides=TINY, quiet=True)
    return path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium; without one on the machine, tests that need it are skipped, visibly."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Any]:
    """A function that opens an address: ``page = browse(url, width=390)``.

    After the test, every page must have stayed without errors on its console, without failed requests, and without
    requests to another host.
    """
    contexts, problems = [], []

    def note_request(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1", "ws://127.0.0.1")):
            problems.append(f"request to {request.url}")

    def open_page(url: str, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", note_request)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run ``barm ...`` in an empty folder; status and output."""
    from barm.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["barm", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call
