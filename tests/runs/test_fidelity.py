"""Behaviour of the official codes that is kept and that no golden file shows (docs/fidelity.md)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from barm.api import fit
from barm.batch import Batch
from barm.config import load_config
from barm.data.base import Sample
from barm.data.dataset import StepDataset, StepView
from barm.data.index import checked
from barm.data.palette import published
from barm.data.sources import open_source
from barm.data.transforms import EvalTransform, TrainTransform
from barm.engine.checkpoint.directory import COUNTS, RunDirectory
from barm.engine.datasets import Data, open_data, train_dataset
from barm.engine.evaluate import evaluate_step
from barm.engine.monitor import Monitor
from barm.engine.runtime import Runtime, unwrap
from barm.engine.selection import presence
from barm.engine.train import StepTrainer
from barm.labels import INCREMENTAL, Step, TaskPlan
from barm.methods import METHODS
from barm.methods.star import STAR
from barm.metrics import group_means
from barm.models.segmenter import NetworkConfig

STEP = Step(1, ((1, 2), (3,)))


def updates(monkeypatch, probe) -> list:
    """What `probe(trainer)` returned after every update."""
    seen, update = [], StepTrainer.update

    def spy(self, batch, *, report):
        outcome = update(self, batch, report=report)
        seen.append(probe(self))
        return outcome

    monkeypatch.setattr(StepTrainer, "update", spy)
    return seen


def test_the_last_weights_count(tiny, tmp_path, monkeypatch):
    """MiB Q10; SSUL Q3 the other way round: no checkpoint is selected."""

    def weights(trainer):
        return {k: v.clone() for k, v in unwrap(trainer.model).state_dict().items()}

    seen = updates(monkeypatch, weights)
    fit(tiny("mib", "3-1", "base.epochs=2"), out=tmp_path / "run", steps=[0], quiet=True)
    stored = RunDirectory(tmp_path / "run").load_model_state(0)
    assert len(seen) > 1
    assert all(torch.equal(stored[k], v) for k, v in seen[-1].items())


def test_plop_compares_features_of_training_and_evaluation_mode(tiny, tmp_path, monkeypatch):
    """PLOP P15."""

    def modes(trainer):
        if trainer.teacher is None:
            return None
        return trainer.teacher.network.training, {
            m.training for m in unwrap(trainer.model).modules() if isinstance(m, nn.BatchNorm2d)
        }

    seen = updates(monkeypatch, modes)
    fit(tiny("plop", "3-1"), out=tmp_path / "run", quiet=True)
    assert [m for m in seen if m is not None][-1] == (False, {True})


def test_the_protocols_of_both_releases(tiny, tmp_path):
    """MiB Q1 and Q2: void as background in training, classes to come as background in evaluation."""
    plan = TaskPlan.parse("2-1", 4)
    assert plan.train_lut(plan[0])[255] == 255
    config = tiny("mib", "2-1", "base.void_label=0", "evaluation.unseen=background")
    rt = Runtime(config.runtime)
    data = open_data(config, rt)
    assert train_dataset(config, data, plan[0]).lut[255] == 0
    whole, part = (
        int(fit_counts(tiny("mib", "2-1", *words), tmp_path / name).sum())
        for name, words in (("all", ["evaluation.unseen=background"]), ("seen", []))
    )
    assert whole > part


def fit_counts(config, out):
    fit(config, out=out, steps=[0], quiet=True)
    return np.array(RunDirectory(out).read(0, COUNTS))


def test_class_0_of_ade_is_scored():
    """DKD Q11, SSUL Q27."""
    names, _ = published("ade")
    plan = TaskPlan.parse("100-10", len(names) - 1)
    assert plan.eval_lut(plan[0])[0] == 0
    assert plan.train_lut(plan[0])[0] == 0
    assert group_means([1.0, 0.0, 0.0, 0.0], 2)["old"] == 0.5


def test_biases_start_at_the_frameworks_default():
    """DKD Q18: uniform within one over the root of the width."""
    width = 64
    network = NetworkConfig(backbone="test_resnet", channels=width, pretrained=False)
    model = METHODS["dkd"]().build(Step(0, (tuple(range(1, 60)),)), network).build_model()
    bias = model.classifier.head[0].bias
    assert 0 < float(bias.detach().abs().max()) <= width**-0.5
    assert len(bias.unique()) == len(bias)


def test_deviation_of_fresh_classifiers():
    """spec/deeplab.md section 3: SSUL's DeepLabV3+ starts at 0.001, all others as Kaiming says."""
    for name, decoder, expected in (("ssul", "v3plus", 0.001), ("ssul", "v3", None), ("finetune", "v3plus", None)):
        network = NetworkConfig(backbone="test_resnet", channels=32, pretrained=False, decoder=decoder)
        model = METHODS[name]().build(STEP, network).build_model()
        conv = next(m for m in model.classifier.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
        fan = conv.weight[0].numel()
        assert float(conv.weight.detach().std()) == pytest.approx(expected or (2 / fan) ** 0.5, rel=0.1)


class Wide:
    """A source of one image, 60 x 30, with class 1 in the middle and class 2 at the left edge."""

    class_names, palette = ("background", "a", "b"), np.zeros((256, 3), np.uint8)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> Sample:
        mask = np.zeros((30, 60), np.uint8)
        mask[10:20, 28:32], mask[10:20, :4] = 1, 2
        return Sample(Image.new("RGB", (60, 30)), Image.fromarray(mask), {})

    def name(self, _: int) -> str:
        return "wide"

    def classes_in(self, _: int) -> frozenset[int]:
        return frozenset({1, 2})


@pytest.mark.parametrize(("crop", "shown"), [(30, [False, True, False]), (0, [False, True, True])])
def test_candidates_of_the_memory_are_seen_in_the_evaluations_view(crop, shown, tiny):
    """SSUL section 12.1, DKD Q6: what the centre crop leaves out does not count; at native size nothing is left out."""
    config = tiny("ssul-m", "2-1", f"evaluation.crop={crop}")
    plan = TaskPlan(((1, 2),))
    images = StepDataset(Wide(), plan, plan[0], INCREMENTAL, TrainTransform(32), seed=0)
    method = config.method.build(plan[0], config.model)
    found = presence(config, Runtime(config.runtime), config.method.memory, images, None, method)
    assert found.tolist() == [shown]


@pytest.mark.parametrize(("crop", "shape"), [(32, (32, 32)), (0, (48, 48))])
def test_evaluation_sees_the_recipes_crop(crop, shape, tiny, monkeypatch):
    """MiB Q8, SSUL Q4: resized labels, cropped; at native size on request."""
    config, seen = tiny("mib", "2-1", f"evaluation.crop={crop}"), []

    def probe(method, model, batches, rt, progress):
        seen.extend(tuple(batch.label.shape[1:]) for batch in batches)
        return torch.zeros(3, 3)

    monkeypatch.setattr("barm.engine.evaluate.evaluate", probe)
    rt = Runtime(config.runtime)
    data = open_data(config, rt)
    method = config.method.build(data.plan[0], config.model)
    evaluate_step(config, rt, method, method.build_model(), data, data.plan[0], Monitor(True, quiet=True))
    assert set(seen) == {shape}


class Full(Wide):
    """One image that is class 1 all over, and salient where there is a map."""

    class_names = ("background", *map(str, range(1, 21)))

    def __init__(self, salient: bool) -> None:
        self.extras = {"saliency": Image.new("L", (60, 30), 255)} if salient else {}

    def __getitem__(self, _: int) -> Sample:
        return Sample(Image.new("RGB", (60, 30)), Image.new("L", (60, 30), 1), self.extras)


@pytest.mark.parametrize(("salient", "padded"), [(True, 1), (False, 0)])
def test_padding_is_trained(salient, padded):
    """SSUL Q6: by default as background, which without a saliency map is the unknown; left out on request."""
    source = Full(salient)
    data = Data(source, source, TaskPlan.parse("15-1", 20))
    for settings, label_of_padding in ([], 0), (["base.pad_label=255"], 255):
        config = load_config("voc/15-1/ssul", settings)
        _, label, extras = train_dataset(config, data, data.plan[0])[(0, 0)]
        border, inside = (0, 0), (label != label_of_padding).nonzero()[0].tolist()
        assert label.shape == (513, 513)
        assert label[border] == label_of_padding
        assert label[tuple(inside)] == 1
        assert not salient or (extras["saliency"][border] == 0 and extras["saliency"][tuple(inside)] == 255)
        if not settings:
            batch = Batch(torch.zeros(1, 3, 513, 513), label[None].long(), {k: v[None] for k, v in extras.items()})
            private = config.method.build(data.plan[0], config.model).private_labels(batch)[0]
            assert private[border] == padded
            assert private[tuple(inside)] == 2


def test_step_views_carry_saliency(shapes_voc):
    source = checked(open_source("voc", shapes_voc, "train"))
    plan = TaskPlan.parse("2-1", 4)
    step = StepDataset(source, plan, plan[0], INCREMENTAL, TrainTransform(32), seed=0)
    image, label, extras = StepView(step, EvalTransform(crop=48))[0]
    assert image.shape[1:] == label.shape == extras["saliency"].shape
    assert int(extras["index"]) == step.images[0]


DOC = Path(__file__).parents[2] / "docs/fidelity.md"
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in DOC.read_text("utf-8").splitlines() if "|" in line]


@pytest.mark.parametrize("row", [r for r in ROWS if "---" not in r[0] and r[-1] != "test"], ids=lambda row: row[0][:40])
def test_the_page_names_tests_that_exist(row):
    """Every test by a part of its name, or by the golden file that it is given."""
    _, here, _, tests = row
    assert tests or not here.startswith("same")
    for file, names in re.findall(r"`([\w/]+): ([^`]+)`", tests):
        (path,) = (p for p in DOC.parents[1].glob("tests/**/test_*.py") if p.as_posix().endswith(f"/{file}.py"))
        golden = [p.stem for p in (path.parent / "data" / path.stem.removeprefix("test_")).glob("*")]
        known = [*re.findall(r"def test_(\w+)", path.read_text("utf-8")), *golden]
        assert all(any(name in one for one in known) for name in names.split(", ")), (file, names)
    assert len(re.findall("`", tests)) == 2 * len(re.findall(r"`([\w/]+): ([^`]+)`", tests))


def test_star_takes_statistics_of_the_steps_own_images(tiny, tmp_path, monkeypatch):
    """STAR-M: kept images train, and count for the plan; they show old classes, of which statistics are there."""
    seen = {"observe": 0, "gather": 0}
    for name in seen:
        inner = getattr(STAR, name)

        def spy(self, out, batch, *rest, name=name, inner=inner):
            if self.step.index:
                seen[name] += len(batch.label)
            return inner(self, out, batch, *rest)

        monkeypatch.setattr(STAR, name, spy)
    config = tiny("star-m", "3-1", "method.memory.size=8", "increment.batch_size=1")
    fit(config, out=tmp_path / "run", quiet=True)
    data = open_data(config, Runtime(config.runtime))
    own = len(train_dataset(config, data, data.plan[1]))
    assert seen == {"observe": own + 8, "gather": own}
