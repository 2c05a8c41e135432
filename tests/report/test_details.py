"""`barm report --details`: the section on where networks are wrong has the numbers of `barm evaluate --details`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from barm.api import evaluate, fit
from barm.data.sources.shapes_disk import make_shapes
from barm.engine import details as engine
from barm.report.build import write_report
from barm.report.tables import percent
from editing import edit


@pytest.fixture(scope="module")
def other(shapes_voc, tiny_settings, tmp_path_factory) -> Path:
    """A run of fine-tuning on the task of `tiny_run`."""
    path = tmp_path_factory.mktemp("runs") / "finetune"
    fit("shapes/2-1/finetune", data=shapes_voc, out=path, overrides=tiny_settings, quiet=True)
    return path


@pytest.fixture(scope="module")
def found(tiny_run) -> dict[str, Any]:
    """What `barm evaluate --details` says of `tiny_run`."""
    return evaluate(tiny_run, details=True, quiet=True)["details"]


@pytest.fixture(scope="module")
def one(tiny_run, tmp_path_factory) -> Path:
    """A page with details of one run."""
    return write_report([tiny_run], tmp_path_factory.mktemp("page") / "one.html", images=0, details=True)


@pytest.fixture(scope="module")
def two(tiny_run, other, tmp_path_factory) -> Path:
    """A page with details of two runs."""
    return write_report([tiny_run, other], tmp_path_factory.mktemp("page") / "two.html", images=0, details=True)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_numbers_are_those_of_evaluate(found, one, browse):
    page = browse(one.as_uri())
    section = page.locator("#wrong")
    assert "at most 3 pixels" in section.inner_text()
    cells = section.locator(".beside tbody td").all_inner_texts()
    assert cells[:2] == [percent(found["border_miou"]), percent(found["inner_miou"])]
    assert f"expected calibration error is {percent(found['calibration_error'])} points" in flat(section.inner_text())
    rows = section.locator(".confused tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [
        [p["truth"], p["prediction"], percent(p["share"]), "%"] for p in found["confused"]
    ]
    bins = [b for b in found["bins"] if b["pixels"]]
    drawn = json.loads(section.locator(".chart").get_attribute("data-hover"))[0]
    assert drawn["values"] == [percent(b["accuracy"]) for b in bins]
    total = sum(b["pixels"] for b in bins)
    assert drawn["more"] == [f"{percent(b['pixels'] / total)} % of the pixels" for b in bins]
    assert 'href="#wrong"' in one.read_text("utf-8")


def test_the_diagram_shows_the_diagonal_and_the_size_of_every_bin(found, one, browse):
    chart = browse(one.as_uri()).locator("#wrong .chart")
    bins = [b for b in found["bins"] if b["pixels"]]
    halos, dots = (chart.locator(f"circle.{name}") for name in ("halo", "mark"))
    assert halos.count() == dots.count() == len(bins)
    radii = [float(h.get_attribute("r")) for h in halos.all()]
    largest = max(range(len(bins)), key=lambda i: bins[i]["pixels"])
    assert radii[largest] == max(radii)
    assert [r**2 for r in radii] == pytest.approx(
        [max(radii) ** 2 * b["pixels"] / bins[largest]["pixels"] for b in bins], abs=2
    )
    x, bottom, right, top = map(float, re.findall(r"[\d.]+", chart.locator(".guide").get_attribute("d")))
    assert x < right
    assert top < bottom
    for b, dot in zip(bins, dots.all(), strict=True):
        assert float(dot.get_attribute("cx")) == pytest.approx(x + (right - x) * b["probability"], abs=0.1)
        assert float(dot.get_attribute("cy")) == pytest.approx(bottom + (top - bottom) * b["accuracy"], abs=0.1)


def test_keys_and_pointer_tell_a_bin_of_every_run(two, browse):
    page = browse(two.as_uri())
    chart, tip = page.locator("#wrong .chart"), page.locator("#tip.on")
    assert chart.locator(".legend li").all_inner_texts() == ["barm", "finetune"]
    places = [set(line["x"]) for line in json.loads(chart.get_attribute("data-hover"))]
    assert places[0] & places[1], "a bin is told of both at once"
    chart.focus()
    page.keyboard.press("ArrowLeft")
    told = tip.inner_text()
    assert re.search(r"probability \d+\.\d to \d+\.\d %", told)
    assert re.search(r"(barm|finetune) \d+\.\d .*% of the pixels", told)
    page.keyboard.press("Escape")
    assert tip.count() == 0


def test_several_runs_stand_in_one_chart_and_one_table(two, other, browse):
    page = browse(two.as_uri())
    section = page.locator("#wrong")
    assert section.locator(".chart").count() == 1
    assert [flat(name) for name in section.locator(".beside tbody th").all_inner_texts()] == ["barm", "finetune"]
    theirs = evaluate(other, details=True, quiet=True)["details"]
    assert section.locator(".beside tbody tr").nth(1).locator("td").first.inner_text() == percent(theirs["border_miou"])
    assert section.locator(".confused figcaption").all_inner_texts() == ["barm", "finetune"]


def test_a_phone_the_dark_paper_and_no_script(two, browse):
    page = browse(two.as_uri(), width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    colour = "e => getComputedStyle(e).stroke"
    guide = page.locator("#wrong .guide")
    before = guide.evaluate(colour)
    page.locator("#theme").click()
    assert guide.evaluate(colour) != before
    page.emulate_media(media="print")
    assert guide.is_visible()
    dark = browse(two.as_uri(), color_scheme="dark")
    card = "getComputedStyle(document.querySelector('#wrong .chart')).backgroundColor"
    assert dark.evaluate(card) != "rgb(255, 255, 255)"
    dark.emulate_media(media="print")
    assert dark.evaluate(card) == "rgb(255, 255, 255)", "paper is white"
    plain = browse(two.as_uri(), java_script_enabled=False)
    for part in (".chart", ".beside table", ".confused table"):
        assert plain.locator(f"#wrong {part}").first.is_visible()
    assert plain.locator("#wrong .halo").count() > 0


def test_without_it_nothing_is_measured_and_one_line_tells(tiny_run, tmp_path, browse, monkeypatch):
    monkeypatch.setattr(engine, "near_borders", lambda *_: pytest.fail("measured"))
    page = browse(write_report([tiny_run], tmp_path / "page.html", images=0).as_uri())
    assert page.locator("#wrong, a[href='#wrong']").count() == 0
    (line,) = page.locator("#confusion > .caption").all_inner_texts()
    assert re.match(r"barm report \S+ --out \S+ --details adds where it is wrong", flat(line))


def test_with_it_the_foot_names_the_option_and_no_line_tells(one, browse):
    page = browse(one.as_uri())
    assert page.locator("footer code").inner_text().endswith(" --details")
    assert page.locator("#confusion > .caption").count() == 0


def test_scores_that_are_no_probabilities_have_a_note(tiny, tiny_run, tmp_path, browse):
    fit(tiny("segacil", "2-1"), out=tmp_path / "run", quiet=True)
    section = browse(write_report([tmp_path / "run"], tmp_path / "page.html", images=0, details=True).as_uri()).locator(
        "#wrong"
    )
    assert "scores of segacil are no probabilities" in section.locator(".note").inner_text()
    assert section.locator(".chart").count() == 0
    assert section.locator(".beside tbody td").count() == 2
    file = write_report([tmp_path / "run", tiny_run], tmp_path / "both.html", images=0, details=True)
    both = browse(file.as_uri()).locator("#wrong")
    assert both.locator(".legend li").all_inner_texts() == ["barm"]
    assert "in 15 bins" in both.locator(".term").inner_text()
    assert both.locator(".chart .line.s1").count() == 2, "the colour of the second run, in the legend too"


def test_data_that_are_gone_have_a_note(tiny_run, other, shapes_voc, tmp_path, browse, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "barm"
    shutil.copytree(tiny_run, own)
    edit(own / "config.toml", str(shapes_voc), str(tmp_path.parent / "gone"))
    file = write_report([own, other], tmp_path / "page.html", images=0, details=True)
    section = browse(file.as_uri()).locator("#wrong")
    note = "No details of barm: the data set .../gone is not there; pass --data DIR if it was moved."
    assert section.locator(".note").all_inner_texts() == [note]
    assert section.locator(".beside tbody tr").count() == 1
    moved = write_report([own], tmp_path / "moved.html", images=0, details=True, data=shapes_voc)
    assert browse(moved.as_uri()).locator("#wrong .note").count() == 0
    for page in (file, moved):
        assert str(shapes_voc.parent) not in page.read_text("utf-8")
        assert str(tmp_path) not in page.read_text("utf-8")
    alone = write_report([own], tmp_path / "alone.html", images=0, details=True)
    section = browse(alone.as_uri()).locator("#wrong")
    assert section.locator(".note").all_inner_texts() == [note]
    assert section.locator("table, .chart").count() == 0


def test_data_given_in_python_and_other_images_are_told(tiny_run, tmp_path, browse):
    own = tmp_path / "run"
    shutil.copytree(tiny_run, own)
    make_shapes(tmp_path / "data", layout="voc", num_classes=4, num_train=8, num_val=4, size=(48, 48), seed=9)
    page = write_report([own], tmp_path / "other.html", images=0, details=True, data=tmp_path / "data")
    note = browse(page.as_uri()).locator("#wrong .note").inner_text()
    assert "other images than the scores above" in note
    config = (own / "config.toml").read_text("utf-8")
    edit(own / "config.toml", re.search(r'^root = ".*"\n', config, re.MULTILINE).group(), "")
    page = write_report([own], tmp_path / "page.html", images=0, details=True)
    note = browse(page.as_uri()).locator("#wrong .note").inner_text()
    assert note == (
        "No details of barm: the run was trained on data given in Python; pass --data DIR with the same classes."
    )


def test_the_command(tiny_run, tmp_path, cli):
    status, out, _ = cli("report", tiny_run, "--details", "--images", "0", "--out", tmp_path / "page.html", "--quiet")
    assert status == 0
    assert "page.html" in out
    assert 'id="wrong"' in (tmp_path / "page.html").read_text("utf-8")
