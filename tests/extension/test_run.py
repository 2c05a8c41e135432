"""`barm extend`: a finished run learns a class from images in which only that class is labelled."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from barm.api import evaluate, fit, read_config
from barm.app.viewer import Limits, find_examples, open_runs
from barm.cli import app
from barm.cli.start import advice
from barm.config import load_config
from barm.data.sources import open_source
from barm.data.sources.named import Named
from barm.data.sources.shapes import class_names
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import CARRIED, COUNTS, IMAGES, METHOD, METRICS, RunDirectory
from barm.engine.monitor import Monitor
from barm.errors import Stopped, UserError
from barm.extension.run import default_out, extend
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.methods.base import Method
from barm.metrics import certain, class_iou, confusion_counts
from barm.models.segmenter import MODELS, NetworkConfig
from barm.predict.model import load
from barm.report.build import write_report
from barm.report.history import read_run
from barm.report.results import read_result
from barm.weights.published import export_checkpoint, import_published, read_checkpoint
from barm.weights.push import push
from editing import edit, unchecked

KNOWN = class_names(4)
NEW, NEXT = "green-plain-heart", "blue-dotted-star"


@pytest.fixture(scope="module")
def make_run(shapes_voc, tmp_path_factory):
    """A function that trains a run of seconds: three classes, then a fourth."""

    def make(method: str = "barm", *settings: str, tiny: tuple[str, ...], task: str = "3-1") -> Path:
        out = tmp_path_factory.mktemp("runs") / method
        overrides = [*tiny, f"method.name={method}", *settings]
        config = load_config(f"shapes/{task}/{method}", overrides, {"data": {"root": str(shapes_voc)}})
        fit(config, out=out, quiet=True)
        return out

    return make


@pytest.fixture(scope="module")
def lamp(tmp_path_factory) -> Path:
    """Images in which only one new class is labelled."""
    root = tmp_path_factory.mktemp("new") / "lamp"
    make_shapes(root, num_classes=4, only=[NEW], num_train=8, num_val=4, size=(48, 48), seed=5)
    return root


@pytest.fixture(scope="module")
def _finished() -> dict[str, Path]:
    return {}


@pytest.fixture
def finished(_finished, make_run, tiny_settings) -> Path:
    """A finished run of BARM."""
    if "barm" not in _finished:
        _finished["barm"] = make_run(tiny=tiny_settings)
    return _finished["barm"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_extension_is_a_run_like_any_other(finished, lamp, tmp_path):
    before = files(finished)
    result = extend(finished, lamp, [NEW], out=tmp_path / "first", quiet=True)
    assert files(finished) == before, "the old run changed"
    assert result["learned"] == [NEW]
    assert list(result["class_iou"]) == ["background", *KNOWN, NEW]

    old, new = RunDirectory(finished), RunDirectory(tmp_path / "first")
    assert new.finished_steps() == [0, 1, 2]
    for step in (0, 1):
        assert os.path.samefile(old.step_path(step) / "model.safetensors", new.step_path(step) / "model.safetensors")
    classes = new.read(2, METHOD)["classes"]
    assert [c["id"] for c in classes] == list(range(6))
    assert len({tuple(c["colour"]) for c in classes}) == 6
    assert [c["colour"] for c in classes[:5]] == [c["colour"] for c in old.read(1, METHOD)["classes"]]

    again = evaluate(tmp_path / "first", quiet=True)
    assert again == new.read(2, METRICS)
    assert evaluate(tmp_path / "first", step=1, quiet=True)["step"] == 1
    model = load(tmp_path / "first")
    assert model.class_names == ("background", *KNOWN, NEW)
    assert model.predict(Image.new("RGB", (40, 30))).shape == (30, 40)
    assert len(read_result(tmp_path / "first").steps) == 3
    export_checkpoint(tmp_path / "first", tmp_path / "model.pth")
    assert "classifier.head.2.weight" in read_checkpoint(tmp_path / "model.pth")

    more = tmp_path / "more"
    make_shapes(more, num_classes=4, only=[NEXT, NEW], num_train=6, num_val=3, size=(48, 48), seed=6)
    second = extend(tmp_path / "first", more, out=tmp_path / "second", quiet=True)
    assert second["learned"] == [NEXT]
    assert all(value["before"] is not None for name, value in second["class_iou"].items() if name != NEXT)
    assert evaluate(tmp_path / "second", quiet=True)["learned"] == [NEXT]


def test_classes_in_another_order_are_renumbered(make_run, tiny_settings, lamp, tmp_path):
    run = make_run("barm", "task.order=3", tiny=tiny_settings)
    directory = RunDirectory(run)
    learned = [c["name"] for c in directory.read(1, METHOD)["classes"]][1:]
    assert learned != list(KNOWN), "the order is the data set's: the test shows nothing"
    result = extend(run, lamp, out=tmp_path / "new", quiet=True)
    assert list(result["class_iou"]) == ["background", *learned, NEW]
    metrics = directory.read(1, METRICS)["class_iou"]
    for name in learned:  # measured anew on the same images, under other ids
        assert result["class_iou"][name]["before"] == pytest.approx(metrics[name], abs=1e-9)


@pytest.mark.others("dft", "finetune", "ilt", "lwf", "mib", "plop-ewf")
@pytest.mark.parametrize("name", sorted(n for n in METHODS if n not in ("joint", "ssul-m", "dkd-m", "star-m")))
def test_every_method_goes_on(name, make_run, tiny_settings, lamp, tmp_path):
    run = make_run(name, tiny=tiny_settings, task="offline")
    result = extend(run, lamp, out=tmp_path / "new", quiet=True)
    assert result["method"] == name
    assert 0 <= result["new"] <= 1


def test_a_method_without_statistics_is_refused_at_once(make_run, tiny_settings, lamp, tmp_path):
    """As where the network was imported: nothing is trained or written."""
    run = make_run("star", tiny=tiny_settings, task="offline")
    unchecked(RunDirectory(run).step_path(0) / CARRIED).unlink()
    with pytest.raises(UserError, match=r"step 0 has none .*imported"):
        extend(run, lamp, out=tmp_path / "new", quiet=True)
    assert not (tmp_path / "new").exists()


def test_one_pass_without_gradients_from_another_methods_run(finished, lamp, tmp_path, capsys, monkeypatch):
    """SegACIL on the branches of a BARM run, which has no sums: its network labels the old classes. Then on its own."""

    def sure(self, out, batch, threshold):  # this network of seconds is sure of nothing
        assert out.logits.shape[1] == 5
        return torch.where(batch.label == 0, 4, batch.label)

    with monkeypatch.context() as patch:
        patch.setattr(Method, "annotate", sure)
        result = extend(finished, lamp, [NEW], out=tmp_path / "first", recipe="folder/segacil")
    assert "method.width is 1024: for 8 training images" in capsys.readouterr().err
    assert (result["method"], result["updates"]) == ("segacil", 0)
    assert not any("epochs" in line for line in result["advice"])
    new = RunDirectory(tmp_path / "first")
    assert new.config().method.old_ears == 1
    state, old = new.load_carried(2), RunDirectory(finished).load_model_state(1)
    assert (state["cross"].sum(0) > 0).tolist() == [False, False, False, False, True, True], "the old network's labels"
    same = [name for name in new.load_model_state(2) if name in old]
    assert all(torch.equal(new.load_model_state(2)[name], old[name]) for name in same)
    assert {name.split(".")[1] for name in old if name not in same} == {"head"}

    more = tmp_path / "more"
    make_shapes(more, num_classes=4, only=[NEXT, NEW], num_train=6, num_val=3, size=(48, 48), seed=6)
    extend(tmp_path / "first", more, out=tmp_path / "second", quiet=True)
    grown = RunDirectory(tmp_path / "second").load_carried(3)["auto"].sum(0) - state["auto"].sum(0)
    assert float(torch.linalg.eigvalsh(grown).min()) > -1e-6 * float(grown.abs().max()), "cells were added"
    with pytest.raises(UserError, match="the run's sums have 1024"):
        extend(tmp_path / "first", more, out=tmp_path / "third", overrides=["method.width=64"], quiet=True)


def test_images_without_labels_beside_the_new_ones(finished, lamp, tmp_path, cli):
    """They change the result, and their folder is checked before anything is written."""
    make_shapes(tmp_path / "photos", num_classes=3, num_train=5, num_val=1, size=(48, 48), seed=8)
    words = ("extend", finished, "--data", lamp, "--classes", NEW, "--quiet")
    (tmp_path / "empty").mkdir()
    status, _, err = cli(*words, "--unlabelled", tmp_path / "empty", "--out", tmp_path / "no")
    assert status == 2
    assert "data.unlabelled: no images in" in err
    assert not (tmp_path / "no").exists()
    for name, more in (("plain", ()), ("kept", ("--unlabelled", tmp_path / "photos/images/train"))):
        assert cli(*words, *more, "--out", tmp_path / name)[0] == 0
    kept, plain = (RunDirectory(tmp_path / name).load_model_state(2) for name in ("kept", "plain"))
    assert any(not torch.equal(value, plain[name]) for name, value in kept.items())
    assert len(RunDirectory(tmp_path / "kept").read(2, IMAGES)["unlabelled"]) == 5


def test_unknown_truth_does_not_count():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    known = [True, True, True, False]
    kept = [(t, p) for t, p in zip(label, prediction, strict=True) if not (t == 0 and p == 3)]
    expected = np.zeros((4, 4), np.int64)
    for t, p in kept:
        expected[t, p] += 1
    counts = confusion_counts(torch.tensor(prediction), torch.tensor(label), 4)
    assert certain(counts, known).tolist() == expected.tolist()


def test_old_and_new_are_measured_where_they_are_labelled(finished, lamp, tmp_path):
    result = extend(finished, lamp, out=tmp_path / "new", quiet=True)
    model, names = load(tmp_path / "new"), ("background", *KNOWN, NEW)
    total = np.zeros((6, 6), np.int64)
    config = read_config(tmp_path / "new")
    for place in (config.data.root, config.data.val[0].root):
        source = Named(open_source("auto", place, "val"), names[1:])
        for i in range(len(source)):
            sample = source[i]
            truth, seen = np.asarray(sample.mask), model.predict(sample.image)
            for t, p in zip(truth.flatten(), seen.flatten(), strict=True):
                if t != 255 and not (t == 0 and p and p not in source.labelled):
                    total[t, p] += 1
    assert RunDirectory(tmp_path / "new").read(2, COUNTS) == total.tolist()
    assert [v["after"] for v in result["class_iou"].values()] == pytest.approx(class_iou(total).tolist(), abs=1e-9)


def test_without_labels_of_old_classes_agreement_is_told(make_run, tiny_settings, shapes_voc, lamp, tmp_path):
    run = make_run(tiny=tiny_settings, task="offline")
    edit(run / "config.toml", str(shapes_voc), str(tmp_path / "gone"))
    result = extend(run, lamp, out=tmp_path / "new", quiet=True)
    assert "cannot be had" in result["notes"][0]
    assert result["old"] == {"before": None, "after": None}
    assert result["new"] is not None
    assert all(share is None or 0 <= share <= 1 for share in result["agreement"].values())
    metrics = RunDirectory(tmp_path / "new").read(1, METRICS)
    assert metrics["miou"]["old"] is None
    assert metrics["miou"]["all"] is None
    assert metrics["class_iou"][KNOWN[0]] is None
    assert evaluate(tmp_path / "new", quiet=True) == metrics
    scores = read_run(tmp_path / "new", "new").scores
    assert [s.step for s in scores] == [0, 1]
    assert scores[1].means == {"new": metrics["miou"]["new"]}
    assert scores[1].iou == {NEW: metrics["class_iou"][NEW]}
    page = write_report([tmp_path / "new"], tmp_path / "page.html", images=1).read_text("utf-8")
    assert f"{KNOWN[0]} was not measured after step 1" in page
    assert f"those learned since stand at {100 * metrics['miou']['new']:.1f} %" in page
    shown = open_runs([tmp_path / "new"])[0]
    assert [x.miou is None for x in shown.steps] == [True, True]
    export_checkpoint(str(tmp_path / "new"), str(tmp_path / "new.pth"))
    assert "classifier.head.1.weight" in read_checkpoint(tmp_path / "new.pth")
    assert f"({result['method']}, {len(KNOWN) + 1} classes)" in advice(tmp_path, {"report"})[0]
    with pytest.raises(UserError, match=f"without labels of '{KNOWN[0]}'"):
        read_result(tmp_path / "new")

    known = extend(run, lamp, out=tmp_path / "measured", val=[shapes_voc], quiet=True)
    assert known["agreement"] is None
    assert known["old"]["before"] is not None
    assert RunDirectory(tmp_path / "measured").read(0, METRICS)["miou"]["all"] is not None


def renamed(run: Path, other: Path) -> Path:
    """A copy of an extension whose new class has another name, and an old one another colour."""
    shutil.copytree(run, other)
    about = RunDirectory(other).read(2, METHOD)
    about["classes"][-1] |= {"name": "chair"}
    about["classes"][1] |= {"colour": [1, 2, 3]}
    RunDirectory(other).add(2, {METHOD: about})
    return other


def test_what_comes_after_works_on_an_extension(finished, lamp, tmp_path, monkeypatch):
    plain, new = tmp_path / "plain", tmp_path / "new"
    shutil.copytree(lamp, plain)
    (plain / "classes.txt").unlink()
    extend(finished, plain, ["lamp/light"], out=new, quiet=True, overrides=["increment.epochs=2"])
    assert len(find_examples(open_runs([new])[0], Limits())) == 6  # of the new images and of the old ones
    other = renamed(new, tmp_path / "other")  # the same step learned something else: it had the same colour
    last = [run.steps[-1] for run in open_runs([new, other])]
    colours = [dict(zip(x.names, x.colours.tolist(), strict=True)) for x in last]
    assert colours[0]["lamp/light"] != colours[1]["chair"]
    assert all(colours[0][name] == colours[1][name] for name in ("background", *KNOWN))

    monkeypatch.chdir(tmp_path.parent)  # where all of it lies, so that the page's command has whole paths
    page = write_report([new], tmp_path / "page.html", images=2).read_text("utf-8")
    assert "Steps 0, 1 were taken over from " in page
    assert "new class in this image: IoU" in page
    assert page.count('class="scene"') == 2
    assert "does not label lamp/light" in page
    command = shlex.split(html.unescape(re.search(r'<pre class="command"><code>([^<]*)', page)[1]))
    assert command[:2] == ["barm", "extend"]
    done = CliRunner().invoke(app, [*command[1:], "--quiet"])
    assert done.exit_code == 0, done.output
    weights = [(tmp_path / name / "step02/model.safetensors").read_bytes() for name in ("new", "new-again")]
    assert weights[0] == weights[1]

    stopped = tmp_path / "stopped"  # `barm` alone advises `barm train --resume`
    shutil.copytree(new, stopped, ignore=shutil.ignore_patterns("step02", "extension.*"))
    fit(read_config(stopped), out=stopped, resume=True, quiet=True)
    assert (stopped / "step02/model.safetensors").read_bytes() == weights[0]
    assert RunDirectory(stopped).read(2, METRICS) == RunDirectory(new).read(2, METRICS)

    push(new, "me/lamp", dry_run=tmp_path / "card")
    pushed = b"".join(p.read_bytes() for p in (tmp_path / "card").iterdir())
    for place in (plain, finished, *(p.root for p in read_config(new).data.val)):
        assert str(place).encode() not in pushed
    assert "barm extend OLD --data DIR --classes lamp/light" in (tmp_path / "card/README.md").read_text("utf-8")
    monkeypatch.chdir(new)
    assert default_out(Path(), ["lamp/light"]) == tmp_path / "new+lamp-light"
    assert read_run(Path(), "here").label == "here"


def test_a_stopped_extension_resumes_to_the_same_weights(finished, lamp, tmp_path, monkeypatch):
    settings = {"overrides": ["increment.epochs=3"], "quiet": True}
    whole = extend(finished, lamp, out=tmp_path / "whole", **settings)
    show = Monitor.progress

    def stop(self: Monitor, iteration: int, *rest) -> None:
        show(self, iteration, *rest)
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "progress", stop)
        with pytest.raises(Stopped, match="--resume"):
            extend(finished, lamp, out=tmp_path / "broken", **settings)
    assert RunDirectory(tmp_path / "broken").finished_steps() == [0, 1]
    with pytest.raises(UserError, match="exists already"):
        extend(finished, lamp, out=tmp_path / "broken", **settings)
    with pytest.raises(UserError, match=r"increment\.epochs is 3 there, 1 here"):
        extend(finished, lamp, out=tmp_path / "broken", resume=True, quiet=True)
    broken = extend(finished, lamp, out=tmp_path / "broken", resume=True, **settings)
    model = "step02/model.safetensors"
    assert (tmp_path / "broken" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    assert broken["class_iou"] == whole["class_iou"]


def test_a_folder_without_lists_and_names(finished, tmp_path):
    """Flat folders; mask values are the classes of --classes; at least one image is held out."""
    make_shapes(tmp_path / "made", num_classes=4, only=[NEW], num_train=3, num_val=1, size=(48, 48), seed=7)
    for kind in ("images", "masks"):
        (tmp_path / "flat" / kind).mkdir(parents=True)
        for i, file in enumerate(sorted((tmp_path / "made" / kind / "train").iterdir())):
            shutil.copy(file, tmp_path / "flat" / kind / f"{i}{file.suffix}")
    with pytest.raises(UserError, match=r"no classes\.txt"):
        extend(finished, tmp_path / "flat", out=tmp_path / "new", quiet=True)
    result = extend(finished, tmp_path / "flat", ["heart"], out=tmp_path / "new", quiet=True)
    assert result["learned"] == ["heart"]
    assert result["images"] == 2
    assert evaluate(tmp_path / "new", quiet=True)["class_iou"]["heart"] == result["class_iou"]["heart"]["after"]


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ([KNOWN[1]], {}, f"knows '{KNOWN[1]}' already.*{NEW}"),
        (["green-plain-hart"], {}, f"no class 'green-plain-hart'; did you mean '{NEW}'"),
        ([NEW, NEW], {}, "given twice"),
        ([NEW], {"step": 7}, r"no finished step 7 \(finished: 0, 1\)"),
        ([NEW], {"overrides": ["base.epochs=3"]}, r"settled \[base\]"),
        ([NEW], {"overrides": ["increment.epohcs=3"]}, "did you mean 'epochs'"),
        ([NEW], {"recipe": "shapes/joint"}, "joint.*labels of all classes"),
        ([NEW], {"recipe": "shapes/dkd-m"}, "kept old images.*shapes/dkd"),
        ([NEW], {"recipe": "shapes/mib"}, "loss 'bce'.*'ce'"),
        ([NEW], {"recipe": "shapes/finetune"}, "does not fit"),
        ([NEW], {"val": ["LAMP"]}, "labels none of the classes"),
        ([NEW], {"val": ["nowhere"]}, "no folder"),
    ],
)
def test_what_cannot_work_is_said_before_training(classes, options, message, finished, lamp, tmp_path):
    if "val" in options:
        options = {**options, "val": [lamp if options["val"] == ["LAMP"] else tmp_path / "nowhere"]}
    with pytest.raises(UserError, match=message) as caught:
        extend(finished, lamp, classes, out=tmp_path / "new", quiet=True, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_masks_are_looked_at_before_training(finished, lamp, tmp_path):
    for value, message in (
        (9, "unknown id 9"),
        (255, "no image of the train split .* shows a class.*hold only 0 and 255"),
    ):
        folder = tmp_path / str(value)
        shutil.copytree(lamp, folder)
        for mask in (folder / "masks" / "train").iterdir():
            Image.fromarray(np.where(np.asarray(Image.open(mask)) > 0, value, 0).astype(np.uint8)).save(mask)
        with pytest.raises(UserError, match=message):
            extend(finished, folder, [NEW], out=tmp_path / "new", quiet=True)
        assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_refused_before_anything_is_announced(finished, lamp, tmp_path, capsys):
    """With --out before the images are read, without it before the line that says what will be learned."""
    shutil.copytree(finished, tmp_path / "run")
    beside = default_out(tmp_path / "run", [NEW])
    for place, options in ((tmp_path / "there", {"out": tmp_path / "there"}), (beside, {})):
        place.mkdir()
        (place / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match=r"exists already: choose another --out, or go on with it with --resume"):
            extend(tmp_path / "run", lamp, [NEW], **options)
        assert [p.name for p in place.iterdir()] == ["notes.txt"]
    said = capsys.readouterr()
    assert said.out + said.err == ""
    with pytest.raises(UserError, match="nothing to resume"):
        extend(tmp_path / "run", tmp_path / "no_data", [NEW], out=tmp_path / "none", resume=True)


def test_an_unfinished_run_is_not_extended_unawares(finished, lamp, tmp_path):
    shutil.copytree(finished, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "step01")
    with pytest.raises(UserError, match=r"not finished \(1 of 2 steps are\).*--step 0"):
        extend(tmp_path / "half", lamp, out=tmp_path / "new", quiet=True)
    result = extend(tmp_path / "half", lamp, step=0, out=tmp_path / "new", quiet=True)
    assert result["step"] == 1
    assert KNOWN[3] not in result["class_iou"]


def test_command_line(finished, lamp, tmp_path):
    arguments = ["extend", str(finished), "--data", str(lamp), "--classes", NEW, "--quiet"]
    shown = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a")])
    assert shown.exit_code == 0, shown.output
    for word in ("before", "after", "mean of the old", NEW):
        assert word in shown.output
    as_json = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "b"), "--json"])
    assert (
        json.loads(as_json.stdout)["class_iou"]
        == json.loads((tmp_path / "a" / "extension.json").read_text())["class_iou"]
    )


def test_an_official_checkpoint_goes_on(lamp, tmp_path, monkeypatch):
    """After step 1 of VOC 15-1, without step 0 and without VOC: the recipe is the published one."""
    monkeypatch.setitem(MODELS, "small", {"backbone": "test_resnet", "channels": 16})
    network = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
    model = METHODS["barm"](name="barm").build(TaskPlan.parse("15-1", 20)[1], network).build_model()
    torch.save({"model_state": model.state_dict(), "optimizer_state": {}, "best_score": 0.0}, tmp_path / "official.pth")
    import_published(tmp_path / "official.pth", tmp_path / "run", dataset="voc", task="15-1", step=1, model="small")
    small = ["increment.epochs=1", "increment.crop=48", "evaluation.crop=48", "runtime.workers=0"]
    result = extend(tmp_path / "run", lamp, out=tmp_path / "new", overrides=small, quiet=True)
    assert (result["step"], len(result["class_iou"])) == (2, 18)
    assert result["agreement"] is not None
    config = read_config(tmp_path / "new")
    assert config.increment.lr == load_config("voc/15-1/barm").increment.lr
    assert load(tmp_path / "new").class_names[-2:] == ("pottedplant", NEW)
