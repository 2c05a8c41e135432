"""`barm report`: the numbers of the page are those of the run, and a browser shows it without the network."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from barm.api import fit
from barm.app.viewer import open_runs
from barm.cli import main
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RunConfig, TaskConfig
from barm.errors import UserError
from barm.methods.barm import BARMConfig
from barm.methods.finetune import FineTuneConfig
from barm.report.build import choose_scenes, write_report
from barm.report.compare import write_comparison
from barm.report.history import read_run
from barm.report.page import views
from barm.report.results import read_results, task_title
from editing import edit, unchecked

expect = pytest.importorskip("playwright.sync_api").expect
MADE: dict[str, Path] = {}
PAGES: dict[str, Path] = {}


@pytest.fixture
def runs(tiny, tmp_path_factory):
    """Finished runs of three steps by method, trained once for this file; not to be changed."""
    if not MADE:
        folder = tmp_path_factory.mktemp("runs")
        for method in ("barm", "finetune"):
            start = folder / "barm" if method == "finetune" else None
            fit(tiny(method, "2-1", "runtime.log_every=1"), out=folder / method, quiet=True, start_from=start)
            MADE[method] = folder / method
    return MADE


@pytest.fixture
def one(runs, tmp_path_factory):
    """The report of one run."""
    if "one" not in PAGES:
        PAGES["one"] = write_report([runs["barm"]], tmp_path_factory.mktemp("page") / "one.html", images=2)
    return PAGES["one"]


@pytest.fixture
def two(runs, tmp_path_factory):
    """The report of two runs."""
    if "two" not in PAGES:
        file = tmp_path_factory.mktemp("page") / "two.html"
        PAGES["two"] = write_report([runs["barm"], runs["finetune"]], file, images=2)
    return PAGES["two"]


@pytest.fixture
def own(runs, tmp_path):
    """A copy of the BARM run that a test may damage."""
    shutil.copytree(runs["barm"], tmp_path / "barm")
    return tmp_path / "barm"


def metrics(run: Path, step: int = 2) -> dict:
    return RunDirectory(run).read(step, "metrics.json")


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def test_one_run(runs, one, browse):
    assert one.stat().st_size < 200_000
    page = browse(one.as_uri())
    last = metrics(runs["barm"])
    cards = page.locator(".cards dd:not(.hint)").all_inner_texts()
    assert [re.match(r"[\d.]+", c).group() for c in cards] == [
        percent(v)
        for v in (*(last["miou"][k] for k in ("all", "old", "new")), last["average_miou"], last["forgetting"])
    ]
    drawn = json.loads(page.locator("#miou .chart").get_attribute("data-hover"))
    for line, name in zip(drawn, ("all", "old", "new"), strict=True):
        steps = [metrics(runs["barm"], s)["miou"] for s in range(3)]
        assert line["values"] == [percent(m[name]) for m in steps if name in m]
    cells = page.locator("#classes tbody tr").nth(1).locator("td").all_inner_texts()
    name = page.locator("#classes tbody tr").nth(1).locator("th").inner_text()
    assert cells[:3] == [f"{100 * metrics(runs['barm'], s)['class_iou'][name]:.0f}" for s in range(3)]
    assert page.locator(".scene").count() == 2
    assert page.locator(".tale .heatmap").count() == 2 * (1 + 2 + 1)  # base, two residuals, sum
    terms = page.locator("#training figcaption").all_inner_texts()
    assert terms[0] == "loss"
    assert {"gkd", "bfd", "bga_bce", "learning rate"} < set(terms)
    assert not {"images_per_second", "memory_mb"} & set(terms)
    speed = page.locator("#training tbody tr").all_inner_texts()
    assert len(speed) == 3
    assert all(0 < float(v) < 1e6 for row in speed for v in row.split()[1:])  # updates, images/s, MB


def test_slider_and_keys(runs, one, tmp_path, browse):
    page = browse(one.as_uri())
    slider = page.locator("#images input[type=range]")
    shown = page.locator(".scene >> nth=0 >> .frame.on")
    assert shown.get_attribute("data-step") == "2"
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert shown.get_attribute("data-step") == "1"
    assert "after step 1" in page.locator("#images output").first.inner_text()
    assert page.locator("#confusion input[type=range]").input_value() == "1"  # all sliders move together
    counts = np.array(RunDirectory(runs["barm"]).read(1, "counts.json"))
    first = page.locator(".matrix tbody tr").nth(0).locator("td").all_inner_texts()
    assert first[: len(counts)] == [f"{100 * v:.0f}" if v >= 0.005 else "" for v in counts[0] / counts[0].sum()]
    page.locator("#images .play").click()
    expect(shown).to_have_attribute("data-step", "2")
    for image in page.locator(".frame.on img, .heatmap").all():
        assert image.get_attribute("alt")
        assert image.evaluate("e => e.naturalWidth") > 0


def test_hover_tells_values(runs, one, browse):
    page = browse(one.as_uri())
    tip, chart = page.locator("#tip.on"), page.locator("#miou .chart > svg")
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 60)
    told = tip.inner_text()
    assert "after step 2" in told
    assert percent(metrics(runs["barm"])["miou"]["old"]) in told
    page.locator("#miou .chart").focus()
    page.keyboard.press("ArrowLeft")
    assert "after step 1" in tip.inner_text()
    page.locator("#classes td").nth(0).hover()
    assert f"IoU {percent(metrics(runs['barm'], 0)['class_iou']['background'])} %" in tip.inner_text()
    page.locator(".matrix td").nth(0).hover()
    assert re.fullmatch(r"[\d.]+ % of background is labelled background", tip.inner_text())
    page.locator(".heatmap").nth(0).hover()
    assert re.fullmatch(r"logit -?[\d.]+", tip.inner_text())


def test_dark_phone_and_paper(two, browse):
    page = browse(two.as_uri(), width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.locator("#theme").click()
    assert page.evaluate(ground) != before
    page.locator("#theme").click()
    assert page.evaluate(ground) == before
    page.emulate_media(media="print")
    expect(page.locator("details:not([open])")).to_have_count(0)
    assert page.locator("header").is_hidden()
    assert page.locator(".scene >> nth=0 >> .frame:not(.absent)").evaluate_all(
        "all => all.every(e => getComputedStyle(e).display !== 'none')"
    )
    page.emulate_media(media="screen")
    expect(page.locator("details[open]")).to_have_count(0)
    dark = browse(two.as_uri(), color_scheme="dark")
    assert dark.evaluate(ground) != before


def test_without_javascript(one, browse):
    page = browse(one.as_uri(), java_script_enabled=False)
    assert page.locator(".stepper").first.is_hidden()
    assert [f.is_visible() for f in page.locator(".scene .frame:not(.absent)").all()] == [
        True
    ] * 6  # two images, three steps


def test_several_runs(runs, two, browse):
    page = browse(two.as_uri())
    ours, theirs = metrics(runs["barm"]), metrics(runs["finetune"])
    row = page.locator(".versus tbody tr").nth(1).locator("td").first.inner_text().split()
    assert row == [percent(theirs["miou"]["all"]), views.signed(theirs["miou"]["all"] - ours["miou"]["all"])]
    assert page.locator("#miou .chart").count() == 3
    assert [f.strip() for f in page.locator("#classes figcaption").all_inner_texts()] == [
        "barm",
        "finetune",
        "finetune − barm",
    ]
    name = list(ours["class_iou"])[1]
    cell = page.locator("#classes figure").nth(2).locator("tbody tr").nth(1).locator("td").nth(2)
    cell.hover()
    difference = views.signed(theirs["class_iou"][name] - ours["class_iou"][name])
    assert page.locator("#tip").inner_text() == f"{name} after step 2: {difference} points"
    assert page.locator(".scene >> nth=0 >> .panel").count() == 2
    assert {c.strip() for c in page.locator(".tale h3").all_inner_texts()} == {"barm"}
    assert "method.name" in page.locator("#again").inner_text()


def test_names_are_text(own, tmp_path, browse):
    evil = "<img src=x onerror=alert(1)>'\""
    known = list(metrics(own)["class_iou"])[1]
    for path in [p for p in own.glob("step0*/*.json") if p.name != "checksums.json"]:
        edit(path, json.dumps(known), json.dumps(evil))
    page = browse(write_report([own], tmp_path / "page.html").as_uri())
    assert evil in page.locator("#classes tbody th").all_inner_texts()
    assert page.locator("img[src=x]").count() == 0
    assert "has no class" in page.locator("#images .note").inner_text()


def test_data_that_is_gone(own, tmp_path, browse, shapes_voc):
    edit(own / "config.toml", str(shapes_voc), str(tmp_path / "gone"))
    page = browse(write_report([own]).as_uri())
    assert (own / "report.html").is_file()
    assert "is not there; pass --data DIR" in page.locator("#images .note").inner_text()
    assert page.locator(".scene, .tale").count() == 0
    assert page.locator("#miou .chart").count() == 1
    moved = browse(write_report([own], tmp_path / "moved.html", data=shapes_voc, images=1).as_uri())
    assert moved.locator(".scene").count() == 1


def test_interrupted_and_imported(own, tmp_path, browse):
    shutil.rmtree(own / "step02")
    page = browse(write_report([own], tmp_path / "page.html", images=1).as_uri())
    assert "2 of 3 steps are trained" in page.locator("#headline").inner_text()
    for step in range(2):
        for file in ("counts.json", "metrics.json"):
            unchecked(own / f"step{step:02d}" / file).unlink()
    (own / "log.csv").unlink()
    page = browse(write_report([own], tmp_path / "bare.html", images=1).as_uri())
    assert "no scores" in page.locator("#headline .note").last.inner_text()
    assert "no log" in page.locator("#training .note").inner_text()
    assert page.locator("#miou, #classes, #confusion").count() == 0
    assert page.locator(".scene .frame:not(.absent)").count() == 2


def test_another_task(runs, tiny, tmp_path, browse):
    fit(tiny("finetune", "3-1"), out=tmp_path / "other", quiet=True)
    page = browse(write_report([runs["barm"], tmp_path / "other"], tmp_path / "page.html", images=1).as_uri())
    assert "another task" in page.locator("#classes .note").inner_text()
    assert page.locator("#classes figure").count() == 2
    page.locator("#images input[type=range]").fill("2")
    assert page.locator(".scene >> nth=0 >> .panel >> nth=1 >> .frame.on").inner_text() == "not trained"


def test_one_line_for_what_makes_no_sense(runs, own, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="is not a run"):
        write_report([tmp_path / "nothing"])
    with pytest.raises(UserError, match="is a folder"):
        write_report([own], tmp_path)
    for step in range(3):
        path = unchecked(own / f"step{step:02d}" / "method.json")
        path.write_text(re.sub(r'"name": "(?!barm|background)', '"name": "other-', path.read_text("utf-8")), "utf-8")
    with pytest.raises(UserError, match="no class in common"):
        write_report([runs["barm"], own], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    monkeypatch.setattr("sys.argv", ["barm", "report", str(runs["barm"]), "--out", str(tmp_path / "p.html"), "--quiet"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert re.search(r"p\.html \(\d+ kB\)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "content"),
    [("method.json", "{}"), ("method.json", "[]"), ("metrics.json", "{}"), ("counts.json", "[[1]]")],
)
def test_damaged_files_are_one_line(name, content, own, tmp_path):
    (own / "step02" / name).write_text(content, "utf-8")
    with pytest.raises(UserError, match="damaged"):
        write_report([own], tmp_path / "page.html", images=0)
    if name != "counts.json":
        with pytest.raises(UserError, match=f"{name} is damaged"):
            open_runs([own])


def test_order_within_a_step_is_no_other_task(own):
    run = read_run(own, "run")
    background, first, second, *others = run.classes
    assert first.step == second.step == 0
    assert views.same_task(run, replace(run, classes=(background, second, first, *others)))
    assert not views.same_task(run, replace(run, classes=(background, first, replace(second, step=1), *others)))


def words(page) -> str:
    """All that the page says, on one line."""
    return " ".join(page.locator("body").inner_text().split())


@pytest.fixture
def single(tiny, tmp_path_factory):
    """A run of one step."""
    if "single" not in MADE:
        folder = tmp_path_factory.mktemp("single") / "run"
        fit(tiny("finetune", "offline", "runtime.log_every=1"), out=folder, quiet=True)
        MADE["single"] = folder
    return MADE["single"]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_run_of_one_step_has_no_steps(single, tmp_path, browse, width):
    page = browse(write_report([single], tmp_path / "page.html", images=2).as_uri(), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    told = words(page)
    assert "4 classes in 1 step ·" in told
    for absent in ("1 steps", "step 0", "forgotten", "first classes", "Δ"):
        assert absent not in told
    assert page.locator("#miou, .cells .none").count() == 0
    for chart in page.locator(".chart").all():
        assert len(json.loads(chart.get_attribute("data-hover"))[0]["x"]) > 1
        assert chart.locator(".axis").text_content() == "update"
    assert page.locator(".cards > div").count() == 1


def test_two_runs_of_one_step(single, tmp_path, browse):
    shutil.copytree(single, tmp_path / "other")
    page = browse(write_report([single, tmp_path / "other"], tmp_path / "page.html", images=0).as_uri())
    assert page.locator(".versus thead th").all_inner_texts() == ["run", "all"]
    assert page.locator("#miou").count() == 0


def test_images_say_what_they_were_chosen_for(one, browse):
    chosen = browse(one.as_uri()).locator(".chosen").all_inner_texts()
    assert len(chosen) == 2
    assert re.fullmatch(r"later classes in this image: IoU \d+ %, best of \d+ images", chosen[0])
    assert re.fullmatch(r"later classes in this image: IoU \d+ %, worst of \d+ images", chosen[1])


def test_equally_good_images_come_from_all_over_the_split():
    class Film:
        def __len__(self) -> int:
            return 100

        def classes_in(self, i: int) -> frozenset[int]:
            return frozenset({1, 2})

    taken = sorted(choose_scenes(Film(), [[1], [2]], 8))  # type: ignore[arg-type]
    gaps = np.diff([*taken, taken[0] + 100])
    assert gaps.min() >= 5
    assert gaps.max() <= 25


def test_what_was_chosen_for_two_runs_stands_side_by_side(runs, tmp_path, browse):
    long = "500: the least that is chosen; there are {} training images of the largest step"
    for name, images in (("one", 360), ("other", 367)):
        shutil.copytree(runs["barm"], tmp_path / name)
        lines = f'"base.updates" = "500"\n"increment.updates" = "{long.format(images)}"'
        edit(tmp_path / name / "config.toml", "[provenance]", f"[provenance.chosen]\n{lines}\n\n[provenance]")
    page = browse(write_report([tmp_path / "one", tmp_path / "other"], tmp_path / "page.html", images=0).as_uri())
    rows = page.locator(".settings tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows if "updates" in row] == [
        ["chosen increment.updates", long.format(360), long.format(367)]
    ]
    table, frame = page.locator(".settings").bounding_box(), page.locator(".scroll:has(.settings)").bounding_box()
    assert table["width"] <= frame["width"]


def test_images_keep_their_shape(tiny, tmp_path, browse):
    make_shapes(tmp_path / "wide", layout="voc", num_classes=4, num_train=12, num_val=4, size=(96, 48), seed=1)
    fit(tiny("finetune", "3-1"), data=tmp_path / "wide", out=tmp_path / "run", quiet=True)
    page = browse(write_report([tmp_path / "run"], tmp_path / "page.html", images=2).as_uri())
    for place in page.locator(".scene .stack:visible").all():
        box = place.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(2, abs=0.05)


def test_every_loss_says_what_it_is(one, two, browse):
    charts = browse(one.as_uri()).locator("#training .chart")
    about = {c.locator("figcaption").inner_text(): c.locator(".term").inner_text() for c in charts.all()}
    published = {name: what for name, what in BARMConfig.terms.items() if name != "absent"}
    assert {name: about[name] for name in published} == published
    assert "the sum of the terms" in about["loss"]
    assert FineTuneConfig.terms["bce"] in words(browse(two.as_uri()))


def test_steps_that_were_taken_over_are_named(runs, own, tmp_path, browse):
    log = own / "log.csv"
    lines = log.read_text("utf-8").splitlines(keepends=True)
    log.write_text("".join(line for line in lines if line[0] in "s2"), "utf-8")
    page = browse(write_report([own], tmp_path / "page.html", images=0).as_uri())
    assert "Steps 0, 1 were not trained in this run" in page.locator("#training").inner_text()
    chart = page.locator("#training .chart").first
    assert chart.locator(".axis").text_content() == "update of step 2"
    assert chart.locator(".tick[text-anchor=middle]").first.text_content() == "0"
    assert page.locator("#classes .cells td").count() == 5 * 4  # scores of all steps are there


def test_no_path_of_this_machine_is_shown(runs, own, tmp_path, monkeypatch, shapes_voc):
    monkeypatch.chdir(tmp_path)
    first = own / "step00"
    pages = [
        write_report([own.resolve()], images=2),
        write_report([own, runs["finetune"]], tmp_path / "two.html", images=0),
        write_report([own], tmp_path / "gone.html", data=tmp_path / "gone"),
        *write_comparison(tmp_path / "tables", read_results([own, runs["finetune"]]))[:-1],
    ]
    text = (own / "config.toml").read_text("utf-8")
    assert str(shapes_voc) in text
    edit(own / "config.toml", str(shapes_voc), str(tmp_path.parent / "moved"))
    pages.append(write_report([own], tmp_path / "moved.html"))
    shown = [page.read_text("utf-8") for page in pages]
    for page, content in zip(pages, shown, strict=True):
        for place in (tmp_path, runs["barm"].parent, shapes_voc.parent, Path.home(), first.parent.parent):
            assert str(place) not in content, page
        plain = re.sub(r"data:[^\"')]*|<style.*?</style>|<script.*?</script>", "", content, flags=re.DOTALL)
        assert not re.search(r"[\s\"'=(](/[\w.-]+){2,}", plain), page
    assert "barm train --recipe barm/config.toml --out barm-again" in shown[0]
    assert ".../moved is not there" in shown[-1]


def test_many_classes_are_no_title():
    names = tuple(f"part {i}" for i in range(15))
    config = RunConfig.model_construct(task=TaskConfig(groups=(names, ("hood", "trunk"))))
    assert task_title(config) == "15 classes / hood, trunk overlap"
