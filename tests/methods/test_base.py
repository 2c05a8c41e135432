"""Rules of several methods that no golden file shows: divisors, fresh weights, thresholds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.batch import Batch
from barm.labels import Step
from barm.methods import METHODS
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import upsample

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))


def batch_of(label: torch.Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {})


@pytest.mark.parametrize("name", ["mib", "lwf", "ilt", "plop"])
def test_ignored_pixels_stay_in_the_divisor_of_step_0(name):
    """spec/mib.md Q3."""
    method = METHODS[name]().build(BASE, NETWORK)
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 16, 16))
    label[:, :8] = 255
    term = method.loss(PlainOutput(logits, logits, logits), None, batch_of(label))["ce"]
    assert int(term.number) == label.numel()
    assert float(term.total) == pytest.approx(
        float(nn.functional.cross_entropy(upsample(logits, (16, 16)), label, ignore_index=255, reduction="sum")),
        rel=1e-5,
    )


@pytest.mark.parametrize("name", ["finetune", "lwf", "ilt"])
@pytest.mark.parametrize("decoder", ["v3", "added_pool"])
def test_fresh_classifier_rows(name, decoder):
    """Behind a neck that refines, Kaiming's normal; on MiB's body the framework's uniform (spec/mib.md section 6)."""
    width = 64
    network = NETWORK.model_copy(update={"channels": width, "decoder": decoder})
    many = Step(1, ((1,), tuple(range(2, 102))))
    weight = METHODS[name]().build(many, network).build_model().classifier.head[-1].weight.detach()
    assert weight.shape == (100, width, 1, 1)
    if decoder == "v3":
        assert float(weight.std()) == pytest.approx((2 / width) ** 0.5, rel=0.05)
    else:
        assert float(weight.std()) == pytest.approx((1 / (3 * width)) ** 0.5, rel=0.05)
        assert float(weight.abs().max()) <= width**-0.5


def sure(scores: torch.Tensor) -> torch.Tensor:
    """Numbers so large that probabilities round to 0 and 1."""
    return (torch.rand_like(scores) - 0.5) * 400


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_threshold_of_1_accepts_nothing(name):
    """No probability is 1; sigmoid and softmax of a large logit round to it in single precision."""
    method = METHODS[name]().build(STEP, NETWORK)
    torch.manual_seed(0)
    with torch.no_grad():
        out = method.build_model().eval()(torch.zeros(1, 3, 48, 48))
    out = type(out)(*(tuple(map(sure, part)) if isinstance(part, tuple) else sure(part) for part in out))
    batch = batch_of(torch.zeros(1, 16, 16, dtype=torch.long))
    found = {t: method.annotate(out, batch, t).unique().tolist() for t in (0.999, 1.0)}
    assert found[1.0] == [0]
    assert found[0.999] != [0]  # the same network is believed below
