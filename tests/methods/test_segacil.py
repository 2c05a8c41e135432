"""SegACIL: steps are one regression; widths, labels, balance, and what is handed on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from barm.api import fit
from barm.batch import Batch
from barm.config import load_config
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.labels import IGNORE, SEQUENTIAL, Step, TaskPlan
from barm.losses.ridge import expand, inverse_autocorrelation, labels_on_grid, ridge_weight
from barm.methods import METHODS
from barm.methods.segacil import SegACIL, SegACILConfig
from barm.models.frozen import lower_precision
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
PLAN = TaskPlan.parse("2-1", 4)
CPU = torch.device("cpu")


def built(index: int, **settings) -> SegACIL:
    return SegACILConfig(width=32, **settings).build(PLAN[index], NETWORK)


def solved(method: SegACIL, model, label: torch.Tensor, seed: int = 0) -> None:
    """Run the method's pass over one batch of noise with these labels."""
    features = torch.randn(len(label), 16, 4, 4, generator=torch.Generator().manual_seed(seed)).relu()
    method.finish(model, None)
    sums = method.start_sums(CPU)
    with torch.no_grad():
        out = PlainOutput(model.classifier.regression(features), features, features)
    method.gather(out, Batch(features, label, {}), sums)
    method.gathered(model, sums)


def test_three_steps_equal_one_regression_on_all_cells(tiny, tmp_path, monkeypatch):
    """Spec section 5: with the labels that each step showed."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    gather = SegACIL.gather

    def note(self, out, batch, sums):
        label = labels_on_grid(batch.label, out.branch.shape[2:])
        seen.append((expand(out.branch, self._projection).flatten(0, 1), label.flatten()))
        gather(self, out, batch, sums)

    monkeypatch.setattr(SegACIL, "gather", note)
    published = ("method.balanced=false", "method.cell_label=corner")
    fit(tiny("segacil", "2-1", "method.width=48", "method.gamma=0.5", *published), out=tmp_path / "run", quiet=True)
    rows, label = (torch.cat(part).numpy() for part in zip(*seen, strict=True))
    rows, label = rows[label != IGNORE], label[label != IGNORE]
    ridge = np.concatenate([rows, np.sqrt(0.5) * np.eye(48)])
    targets = np.concatenate([np.eye(5)[label], np.zeros((48, 5))])
    expected = np.linalg.lstsq(ridge, targets, rcond=None)[0]
    run = RunDirectory(tmp_path / "run")
    state = run.load_carried(2)
    found = ridge_weight(state["auto"], state["cross"], 0.5)
    assert float(np.abs(found.numpy() - expected).max()) <= 1e-6 * float(np.abs(expected).max())
    stored = run.load_model_state(2)["classifier.regression.weight"][:, :, 0, 0].T
    torch.testing.assert_close(stored, found.float(), rtol=1e-6, atol=1e-7)
    first, last = run.load_model_state(0), run.load_model_state(2)
    assert {name for name in first if name not in last} == {"classifier.head.0.weight", "classifier.head.0.bias"}
    changed = {n for n in last if first[n].shape != last[n].shape or not torch.equal(first[n], last[n])}
    assert changed == {"classifier.regression.weight"}, "later steps train nothing"


def test_the_trained_classifier_starts_as_torch_draws_it():
    """Spec section 2: uniform, where all other convolutions are He's."""
    layer = SegACILConfig().build(PLAN[0], NetworkConfig(backbone="test_resnet", pretrained=False)).build_model()
    weight = layer.classifier.head[0].weight
    assert 0.9 / 16 < float(weight.abs().max()) <= 1 / 16
    assert float(layer.classifier.regression.projection.abs().max()) <= 1 / 16


def test_in_training_it_classifies_by_what_trains():
    model = built(0).build_model()
    image = torch.randn(2, 3, 32, 32)
    assert float(model.train()(image).logits.detach().abs().sum()) > 0
    assert float(model.eval()(image).logits.detach().abs().sum()) == 0  # not solved yet


def test_rows_of_any_labels_and_none():
    method, model = built(0), built(0).build_model()
    solved(method, model, torch.full((2, 16, 16), IGNORE))
    assert float(model.classifier.regression.weight.abs().sum()) == 0
    wrong = {name: value * float("nan") for name, value in method.hand_on().items()}
    with pytest.raises(UserError, match=r"no solution with method\.gamma=1"):
        ridge_weight(wrong["auto"], wrong["cross"], 1.0)


def test_pseudo_labels_come_from_the_step_before():
    """Spec Q2 and Q4: from a fixed copy, at step 1 too, never of the new class."""
    method = built(1, pseudo=True, pseudo_threshold=0.7)
    scores = torch.tensor([0.0, 1.0, 0.0, 9.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    label = torch.tensor([[[0, 3], [IGNORE, 0]]])
    found = method.labels(PlainOutput(scores, scores, scores), Batch(scores, label, {}))
    assert found.tolist() == [[[1, 3], [IGNORE, 1]]]
    unsure = 0.8 * scores  # sigmoid(0.8) is below 0.7
    assert method.labels(PlainOutput(unsure, scores, scores), Batch(scores, label, {})).tolist() == label.tolist()
    assert built(1).labels(PlainOutput(scores, scores, scores), Batch(scores, label, {})) is label


def test_balanced_steps_equal_one_balanced_regression():
    """Spec Q8, over two steps: counts and sums per class are handed on."""
    first, second = built(0, balanced=True), built(1, balanced=True)
    model, grown = first.build_model(), second.build_model()
    solved(first, model, torch.arange(3).repeat(2, 6, 6)[:, :16, :16], seed=1)
    second.take_over(first.hand_on())
    second.init_from(grown, model)
    solved(second, grown, torch.full((2, 16, 16), 3), seed=2)
    state = second.hand_on()
    assert state["counts"].tolist()[3] == 32
    share = 1 / state["counts"].double()
    expected = inverse_autocorrelation((share[:, None, None] * state["auto"]).sum(0), 1.0) @ (state["cross"] * share)
    torch.testing.assert_close(grown.classifier.regression.weight[:, :, 0, 0].T, expected.float())


def test_sums_of_another_width_or_kind_are_refused():
    state = built(0).start_sums(CPU)
    with pytest.raises(UserError, match=r"the sums of the previous step are auto 32x32.*expected auto 3x32x32"):
        built(1, balanced=True).take_over(state)
    with pytest.raises(UserError, match="expected auto 64x64"):
        SegACILConfig(width=64).build(PLAN[1], NETWORK).take_over(state)


@pytest.mark.parametrize(("images", "width"), [(8, 1024), (512, 1024), (513, 2048), (3000, 8192), (10**6, 8192)])
def test_the_number_of_images_decides_the_width(images, width):
    config, reasons = SegACILConfig(width="auto").settled(images)
    assert config.width == width
    assert reasons["method.width"].startswith(f"{width}: for {images} training images")
    assert SegACILConfig(width="auto", balanced=True).settled(images)[0].width == 1024
    assert SegACILConfig(width=64).settled(images) == (SegACILConfig(width=64), {})


def test_settings_that_contradict_are_refused():
    for settings in ("pseudo = true, sequential = true", "memory = { size = 5 }"):
        with pytest.raises(UserError, match="leave method"):
            load_config("shapes/2-1/segacil", [f"method.{s}" for s in settings.replace(" ", "").split(",")])


def test_sequential_labels_hold_the_old_classes():
    assert SegACILConfig(sequential=True).build(PLAN[1], NETWORK).policy == SEQUENTIAL
    lut = PLAN.train_lut(PLAN[1], SEQUENTIAL)
    assert lut[:5].tolist() == [0, 1, 2, 3, 0]
    assert PLAN.train_lut(PLAN[1], built(1).policy)[:5].tolist() == [0, 0, 0, 3, 0]


@pytest.mark.parametrize("name", ["barm", "finetune", "dkd", "mib"])
def test_other_methods_networks_go_on(name):
    """Of BARM all branches; of the others the one."""
    torch.manual_seed(0)
    before = METHODS[name](name=name)
    previous = before.build(PLAN[1], NETWORK).build_model().eval()
    config = SegACILConfig(width=32).going_on(before, 1)
    assert config.old_ears == (1 if name == "barm" else 0)
    method = config.build(Step(2, PLAN[2].groups), NETWORK)
    method.take_over({})
    assert method.asks_previous == 0.7
    model = method.build_model()
    method.init_from(model, previous)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        mine, theirs = model.eval()(image), previous(image)
    if name in ("barm", "finetune", "mib"):
        torch.testing.assert_close(mine.branch, theirs.branches if name == "barm" else theirs.branch)
    assert mine.logits.shape[1] == 5


def test_what_it_cannot_go_on_with_is_one_line():
    method = built(1)
    with pytest.raises(UserError, match=r"head_pre\.0\.weight' is missing"):
        method.init_from(method.build_model(), METHODS["ssul"]().build(PLAN[0], NETWORK).build_model())
    with pytest.raises(UserError, match=r"method\.width is 64, the run's sums have 32"):
        SegACILConfig(width=64).going_on(SegACILConfig(width=32), 1)


def test_the_regression_keeps_its_precision_in_a_network_of_a_lower_one():
    model = built(1).build_model().eval()
    kept = copy.deepcopy(model.classifier.regression.state_dict())
    lower_precision(model, torch.bfloat16)
    assert all(torch.equal(value, kept[name]) for name, value in model.classifier.regression.state_dict().items())
    assert model.classifier.head_pre[0].weight.dtype == torch.bfloat16
