"""After an extension every place tells one story: the table, the report, `evaluate`, `compare` and the page."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from barm.api import compare, evaluate, fit, read_config
from barm.app.viewer import open_runs
from barm.cli import app
from barm.config import load_config
from barm.data.sources import open_source
from barm.data.sources.named import Named
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import COUNTS, IMAGES, METRICS, RunDirectory
from barm.engine.monitor import Monitor
from barm.engine.scores import read_scores
from barm.errors import Stopped, UserError
from barm.extension.run import extend
from barm.metrics import certain, class_iou, confusion_counts
from barm.predict.model import load
from barm.report.build import write_report
from barm.report.history import read_run
from barm.report.results import read_result
from barm.report.tables import percent
from editing import unchecked

Numbers = dict[str, float | None]


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("old") / "pictures"
    make_shapes(root, num_classes=3, num_train=16, num_val=6, size=(80, 60), seed=2)
    return root


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """Other images, of another size, that label a fourth class."""
    root = tmp_path_factory.mktemp("new") / "pictures"
    make_shapes(root, num_classes=4, only=["amber-plain-star"], num_train=8, num_val=4, size=(120, 90), seed=3)
    return root


@pytest.fixture(scope="module")
def bases(old, fast_settings, tmp_path_factory) -> dict[str, Path]:
    """A model of one step, and one of two."""
    runs = {}
    for task in ("offline", "2-1"):
        runs[task] = tmp_path_factory.mktemp("runs") / task
        config = load_config(
            "folder/barm", [*fast_settings, "base.epochs=2"], {"data": {"root": str(old)}, "task": {"name": task}}
        )
        fit(config, out=runs[task], quiet=True)
    return runs


def told(run: Path, result: dict) -> Iterator[tuple[str, Numbers]]:
    """Numbers by name, and where they stand: what was known before, at ``before``, and after the extension."""
    step = result["step"]
    known = [name for name, iou in result["class_iou"].items() if name not in result["learned"]]
    classes = {f"{when} {name}": iou[when] for name, iou in result["class_iou"].items() for when in ("before", "after")}
    means = {"before": result["old"]["before"], "new after": result["new"]}
    yield "table", {**{key: value for key, value in classes.items() if value is not None}, **means}

    before, after = (evaluate(run, i, quiet=True) for i in (step - 1, step))
    scores = {f"before {name}": before["class_iou"][name] for name in known}
    scores |= {f"after {name}": value for name, value in after["class_iou"].items()}
    story = {"before": before["miou"]["all"], "all": after["miou"]["all"], "lost": after["forgetting"]}
    yield "evaluate", {**scores, **story, "average": after["average_miou"], "old": after["miou"]["old"]}

    history = {s.step: s for s in read_run(run, "run").scores}
    scores = {f"before {name}": value for name, value in history[step - 1].iou.items()}
    scores |= {f"after {name}": value for name, value in history[step].iou.items()}
    story = {"before": history[step - 1].means["all"], "all": history[step].means["all"]}
    last = {"lost": history[step].lost, "average": history[step].average, "old": history[step].means["old"]}
    yield "report", {**scores, **story, **last}

    compared = read_result(run)
    row = compare([run])[0]
    story = {"before": compared.steps[step - 1], "all": compared.steps[step]}
    means = {name: spread.mean for name, spread in row.scores.items() if name != "new" and spread is not None}
    yield "compare", {**story, **means}

    shown = {x.step: x.miou for x in open_runs([run])[0].steps}
    yield "page", {"before": shown[step - 1], "all": shown[step]}


def check(run: Path, result: dict) -> None:
    """Every pair agrees in what both tell, and each tells something with every other."""
    places = list(told(run, result))
    assert len(places) == 5
    for (one, a), (other, b) in combinations(places, 2):
        shared = a.keys() & b.keys()
        assert "before" in shared, (one, other)
        differing = {key: (a[key], b[key]) for key in shared if a[key] != pytest.approx(b[key], abs=1e-9)}
        assert not differing, f"{one} and {other}: {differing}"


@pytest.mark.parametrize("task", [pytest.param("offline", marks=pytest.mark.long), "2-1"])
def test_every_place_tells_the_same(task, bases, new, tmp_path):
    result = extend(bases[task], new, out=tmp_path / "first", quiet=True)
    check(tmp_path / "first", result)
    more = tmp_path / "more"
    make_shapes(more, num_classes=6, only=["blue-striped-cross"], num_train=8, num_val=4, size=(64, 64), seed=9)
    check(tmp_path / "second", extend(tmp_path / "first", more, out=tmp_path / "second", quiet=True))


@pytest.mark.parametrize("options", [{"overrides": ["evaluation.crop=48"]}, {"val": True}])
def test_whatever_it_is_measured_on(options, bases, old, new, tmp_path):
    settings = {"val": [old]} if "val" in options else options
    check(tmp_path / "run", extend(bases["offline"], new, out=tmp_path / "run", quiet=True, **settings))


def seen_by(run: Path, extended: Path) -> np.ndarray:
    """IoU of a run's classes on the images on which another is measured, from the masks that it predicts there."""
    model, config, names = load(run), read_config(extended), load(extended).class_names
    total = torch.zeros(len(model.class_names), len(model.class_names), dtype=torch.int64)
    for place in (config.data, *config.data.val):
        source = Named(open_source(place.layout, place.root, "val", place.names), names[1:])
        known = [True, *(i in source.labelled for i in range(1, len(total)))]
        for sample in (source[i] for i in range(len(source))):
            truth = np.asarray(sample.mask)  # a class that is learned later has an id above those that are known
            labels = torch.tensor(model.predict(sample.image)), torch.tensor(np.where(truth < len(total), truth, 255))
            total += certain(confusion_counts(*labels, len(total)), known)
    return class_iou(total)


def test_what_was_known_before_is_what_the_old_network_predicts(bases, new, tmp_path):
    result = extend(bases["offline"], new, out=tmp_path / "run", quiet=True)
    truth = seen_by(bases["offline"], tmp_path / "run")
    first, last = read_run(tmp_path / "run", "run").scores
    assert list(first.iou.values()) == pytest.approx(truth.tolist(), abs=1e-9)
    assert result["old"]["before"] == pytest.approx(truth.mean(), abs=1e-9)
    assert last.lost == pytest.approx(truth.mean() - last.means["old"], abs=1e-9)
    assert RunDirectory(tmp_path / "run").read(0, METRICS) != RunDirectory(bases["offline"]).read(0, METRICS)


def test_what_is_printed_is_what_the_page_shows(bases, new, tmp_path):
    done = CliRunner().invoke(
        app, ["extend", str(bases["offline"]), "--data", str(new), "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    before, after = (RunDirectory(tmp_path / "run").read(i, METRICS) for i in (0, 1))
    page = write_report([tmp_path / "run"], tmp_path / "page.html", images=1).read_text("utf-8")
    means = [percent(before["miou"]["all"]), percent(after["miou"]["old"])]
    line = next(x for x in done.output.splitlines() if "mean of the old" in x).split()
    assert line[-3:-1] == means
    assert f"went from {means[0]} to {means[1]} %" in page
    again = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--step", "0", "--json", "--quiet"])
    assert json.loads(again.stdout)["miou"] == before["miou"]


def test_a_stopped_extension_is_measured_on_the_same_images(bases, new, tmp_path, monkeypatch):
    whole = extend(bases["offline"], new, out=tmp_path / "whole", quiet=True)
    show = Monitor.progress

    def stop(self: Monitor, iteration: int, *rest) -> None:
        show(self, iteration, *rest)
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "progress", stop)
        with pytest.raises(Stopped):
            extend(bases["offline"], new, out=tmp_path / "run", quiet=True)
    result = extend(bases["offline"], new, out=tmp_path / "run", resume=True, quiet=True)
    assert result["class_iou"] == whole["class_iou"]
    check(tmp_path / "run", result)
    run = RunDirectory(tmp_path / "run")
    assert run.read(0, IMAGES)["measured"] == run.read(1, IMAGES)["measured"]
    assert "train" not in run.read(0, IMAGES), "another run has trained it"


def test_a_class_that_no_image_shows_is_not_measured(bases, old, fast_settings, tmp_path):
    """It has no score, neither 0 nor in a mean, and runs measured on other classes are not compared."""
    shutil.copytree(old, tmp_path / "data")
    with (tmp_path / "data/classes.txt").open("a", encoding="utf-8") as names:
        names.write("ghost\n")
    updates = {"data": {"root": str(tmp_path / "data")}, "task": {"name": "offline"}}
    fit(load_config("folder/barm", [*fast_settings, "base.epochs=2"], updates), out=tmp_path / "run", quiet=True)
    metrics = RunDirectory(tmp_path / "run").read(0, METRICS)
    ious = dict(metrics["class_iou"])
    assert ious.pop("ghost") is None
    assert metrics["miou"]["all"] == metrics["average_miou"] == pytest.approx(fmean(ious.values()), abs=1e-12)
    assert compare([tmp_path / "run"])[0].scores["all"].mean == metrics["miou"]["all"]
    with pytest.raises(UserError, match=r"measured on images that do not show 'ghost'.*on the same images"):
        compare([bases["offline"], tmp_path / "run"])


@pytest.fixture
def older(bases, new, tmp_path) -> tuple[Path, dict]:
    """What an older version left: the first step's scores are those on the base's images, without a record."""
    result = extend(bases["offline"], new, out=tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    unchecked(tmp_path / "run/step00" / IMAGES).unlink()
    for name in (METRICS, COUNTS):
        shutil.copy(bases["offline"] / "step00" / name, tmp_path / "run/step00" / name)
    run.add(1, {METRICS: {**run.read(1, METRICS), "forgetting": -0.138, "average_miou": 0.9}})
    return run.path, result


def test_an_extension_of_an_older_version_is_not_compared(older, tmp_path):
    path, result = older
    scores = read_run(path, "run").scores
    assert [(s.step, s.lost, s.average) for s in scores] == [(1, None, None)]
    page = write_report([path], tmp_path / "page.html", images=1).read_text("utf-8")
    assert "went from" not in page
    assert "13.8" not in page
    found = evaluate(path, quiet=True)
    assert (found["forgetting"], found["average_miou"]) == (None, None)
    assert found["class_iou"] == {name: iou["after"] for name, iou in result["class_iou"].items()}
    assert [x.miou is None for x in open_runs([path])[0].steps] == [True, False]
    with pytest.raises(UserError, match=r"measured on other images than its last one.*extend it anew"):
        compare([path])


def test_an_extension_of_an_older_version_is_measured_again(older, bases, new):
    path, result = older
    again = extend(bases["offline"], new, out=path, resume=True, quiet=True)
    assert again["class_iou"] == result["class_iou"]
    check(path, again)


def test_zeros_of_an_older_version_are_no_scores(old, fast_settings, tmp_path):
    shutil.copytree(old, tmp_path / "data")
    with (tmp_path / "data/classes.txt").open("a", encoding="utf-8") as names:
        names.write("ghost\n")
    updates = {"data": {"root": str(tmp_path / "data")}, "task": {"name": "offline"}}
    fit(load_config("folder/barm", [*fast_settings, "base.epochs=2"], updates), out=tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    now = run.read(0, METRICS)
    run.add(0, {METRICS: {**now, "class_iou": {**now["class_iou"], "ghost": 0.0}, "miou": {"old": 0.01, "all": 0.01}}})
    assert read_scores(run) == [now]
    assert compare([run.path])[0].scores["all"].mean == now["miou"]["all"]


def test_a_class_that_no_image_shows_scores_0_where_the_published_evaluation_is_asked_for(old, fast_settings, tmp_path):
    shutil.copytree(old, tmp_path / "data")
    with (tmp_path / "data/classes.txt").open("a", encoding="utf-8") as names:
        names.write("ghost\n")
    updates = {"data": {"root": str(tmp_path / "data")}, "task": {"name": "offline"}}
    settings = [*fast_settings, "base.epochs=2", "evaluation.absent=zero"]
    fit(load_config("folder/barm", settings, updates), out=tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    (metrics,) = read_scores(run)
    ious = metrics["class_iou"]
    assert ious["ghost"] == 0.0
    assert metrics["miou"]["all"] == pytest.approx(fmean(ious.values()), abs=1e-12)
    skipped = evaluate(run.path, overrides=["evaluation.absent=skip"], quiet=True)
    assert skipped["class_iou"] == {**ious, "ghost": None}
    assert skipped["average_miou"] is not None, "it is the same view of the same images"
