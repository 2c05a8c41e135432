"""Visitors at once: each gets the own answer, and who waits is told the place in the queue and about how long."""

from __future__ import annotations

import importlib.util
import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from barm.app.serve import Options, serving
from barm.app.viewer import Limits, Viewer

SECONDS = 1.0  # that the network takes here
WAITING = re.compile(r"queue: (\d+)/(\d+) \| ([\d.]+)/([\d.]+)s")

spec = importlib.util.spec_from_file_location("page_load", Path(__file__).parents[2] / "benchmarks/page_load.py")
assert spec is not None
page_load = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page_load)


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        ([900, 950, 1000, 1050], True),
        ([900, 1000, 1040, 1041, 1039], False),
        ([900, 950, 1000, 1003], False),
        ([900], False),
    ],
)
def test_a_leak_grows_in_every_round(memory, found):
    assert page_load.leaks(memory, 4) == found


def upload(folder: Path, page: Any, colour: str) -> None:
    Image.new("RGB", (64, 48), colour).save(folder / f"{colour}.png")
    page.locator("#upload input[type=file]").set_input_files(folder / f"{colour}.png")


def wait_until(page: Any, there: Any) -> Any:
    for _ in range(150):
        if found := there():
            return found
        page.wait_for_timeout(100)
    raise AssertionError("waited in vain")


def colour_of(page: Any) -> tuple[int, ...]:
    """The colour that the image on a page has where no class is shown."""
    image = page.locator("#view1 img")
    answer = page.request.get(image.get_attribute("src")).body() if image.count() else b""
    return tuple(np.asarray(Image.open(io.BytesIO(answer)).convert("RGB"))[0, 0]) if answer else ()


def waiting(page: Any) -> re.Match[str] | None:
    """What a page says of the queue: place, length, seconds that passed, seconds that are expected."""
    return next((m for line in page.locator(".progress-text").all_inner_texts() if (m := WAITING.search(line))), None)


def test_two_browsers_at_once(tiny_run, browse, tmp_path, monkeypatch):
    viewer = Viewer([tiny_run])

    def label(shown: Any, run: int, step: int) -> Any:
        time.sleep(SECONDS)
        return np.zeros(shown.pixels.shape[:2], np.uint8)

    monkeypatch.setattr(viewer, "label", label)
    with serving(viewer, Options(limits=Limits()), []) as (_, address):
        first, second = browse(address), browse(address)
        upload(tmp_path, first, "red")  # so that the page knows how long an image takes
        wait_until(first, lambda: colour_of(first) == (255, 0, 0))
        upload(tmp_path, first, "lime")
        first.get_by_text("processing").first.wait_for()
        start = time.monotonic()
        upload(tmp_path, second, "blue")
        place, length, _, expected = map(float, wait_until(second, lambda: waiting(second)).groups())
        assert (place, length) == (1, 1)
        wait_until(second, lambda: colour_of(second) == (0, 0, 255))
        took = time.monotonic() - start
        assert SECONDS < expected < took + SECONDS
        wait_until(first, lambda: colour_of(first) == (0, 255, 0))  # nobody got the other's image
        for page in (first, second):
            page.close()
