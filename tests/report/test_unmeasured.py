"""Classes that the masks do not show, such as the background of data without one: every table and the page say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import barm.metrics
from barm.api import fit
from barm.engine.checkpoint.directory import METRICS, RunDirectory
from barm.report.build import write_report

TOLD = "No mean includes background, which the masks do not show: a pixel given to it counts against its true class."


@pytest.fixture(scope="module")
def filled(shapes_voc, tmp_path_factory) -> Path:
    """The shapes without background: what is none of the classes is unlabelled."""
    root = shutil.copytree(shapes_voc, tmp_path_factory.mktemp("filled") / "data")
    for path in root.glob("SegmentationClass*/*.png"):
        mask = Image.open(path)
        pixels = np.array(mask)
        pixels[pixels == 0] = 255
        changed = Image.fromarray(pixels)
        changed.putpalette(mask.getpalette())
        changed.save(path)
    return root


@pytest.fixture(scope="module")
def run(filled, tiny_settings, tmp_path_factory) -> Path:
    """A run of two steps on them."""
    path = tmp_path_factory.mktemp("runs") / "run"
    fit("shapes/3-1/finetune", data=filled, out=path, overrides=tiny_settings, quiet=True)
    assert RunDirectory(path).read(1, METRICS)["class_iou"]["background"] is None
    return path


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "old"),
    [
        (("evaluate", "--quiet"), "old: step 0's classes; new"),
        (("evaluate", "--quiet", "--step", "0"), "the mean of all classes that the masks show No mean"),
        (("compare",), "old: step 0's classes; new"),
    ],
)
def test_the_terminal_says_what_is_in_no_mean(words, old, run, cli):
    status, out, _ = cli(words[0], run, *words[1:])
    assert status == 0
    assert TOLD in flat(out)
    assert old in flat(out)


def test_training_says_it_too(run, filled, tiny_settings, cli):
    sets = [word for setting in tiny_settings for word in ("--set", setting)]
    words = ["--recipe", "shapes/3-1/finetune", "--data", filled, "--out", run, "--resume"]
    status, out, _ = cli("train", *words, *sets, "--quiet")
    assert status == 0
    assert TOLD in flat(out)


def test_where_all_is_shown_nothing_is_said(tiny_run, cli):
    for command in ("evaluate", "compare"):
        _, out, _ = cli(command, tiny_run, *(["--quiet"] if command == "evaluate" else []))
        assert "No mean" not in flat(out)
        assert "old: step 0's classes" in flat(out)
        assert "background" in flat(out).partition("old: step 0's classes")[2]


def test_the_page_says_it(run, tmp_path, browse):
    page = browse(write_report([run], tmp_path / "page.html", images=0).as_uri())
    caption = flat(page.locator("#headline .caption").inner_text())
    assert "old: the first step's classes; new" in caption
    assert caption.endswith(TOLD)
    cells = page.locator("#classes tbody tr").first.locator("td").all_inner_texts()
    assert cells[:2] == ["–", "–"]
    assert "– not measured: the masks do not show the class" in flat(page.locator("#classes .scales").inner_text())
    heads = [flat(text) for text in page.locator(".matrix thead .upright").all_text_contents()]
    rows = page.locator(".matrix tbody th").all_inner_texts()
    assert heads == ["background", *rows]
    caption = flat(page.locator(".matrix .caption").first.inner_text())
    assert caption == "No row: background, which the masks do not show."


def test_cells_belong_to_their_rows(run, tmp_path, browse):
    """The row that is left out moves no other: the script's cells and texts are those of the counts."""
    counts = np.array(RunDirectory(run).read(1, "counts.json"))
    page = browse(write_report([run], tmp_path / "page.html", images=0).as_uri())
    shares = counts[1] / counts[1].sum()
    cells = page.locator(".matrix tbody tr").first.locator("td")
    shown = [float(text or 0) for text in cells.all_inner_texts()]
    assert shown == pytest.approx((100 * shares).tolist(), abs=0.6)
    cells.nth(0).hover()
    name = page.locator(".matrix tbody th").first.inner_text()
    assert page.locator("#tip").inner_text().endswith(f"% of {name} is labelled background")


def test_two_runs_that_lack_different_classes(run, tiny_run, tmp_path, browse):
    page = browse(write_report([run, tiny_run], tmp_path / "page.html", images=0).as_uri())
    caption = flat(page.locator("#headline .caption").inner_text())
    assert "old: the first step's classes, and background where the masks show it; new" in caption
    assert "finetune: no mean includes background" in caption


def test_a_page_where_all_is_shown_has_no_such_words(tiny_run, tmp_path, browse):
    page = browse(write_report([tiny_run], tmp_path / "page.html", images=0).as_uri())
    assert "the first step's classes and background; new" in flat(page.locator("#headline .caption").inner_text())
    for word in ("No mean", "not measured", "No row"):
        assert word not in page.locator("body").inner_text()


def test_the_formulas_name_the_switch():
    for word in ("evaluation.absent", "barm.engine.scores"):
        assert word in (barm.metrics.__doc__ or "")
        assert word in (barm.metrics.class_iou.__doc__ or "")
