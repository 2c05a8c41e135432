"""Rules of DKD that no golden file shows."""

from __future__ import annotations

import pytest
import torch

from barm.batch import Batch
from barm.labels import Step
from barm.losses.decomposed import multiple_binary_cross_entropy
from barm.methods.dkd import DKDConfig
from barm.models.heads import DecomposedOutput
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import upsample

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))


def batch_of(label: torch.Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {})


@pytest.mark.parametrize(("step", "factor"), [(BASE, 2.0), (STEP, 1.0)])
def test_factor_on_positive_pixels_of_dkd(step, factor):
    """spec/dkd.md section 10: 2 at step 0, 1 later."""
    method = DKDConfig(base_pos_weight=2.0, pos_weight=1.0).build(step, NETWORK)
    logits = torch.randn(2, step.num_seen, 4, 4)
    label = torch.randint(0, 2, (2, 16, 16)) * step.num_old
    scores = torch.rand(2, step.num_seen - 1, 4, 4)
    new = DecomposedOutput(logits, scores, -scores)
    known = step.num_old - 1
    old = DecomposedOutput(logits[:, : known + 1], scores[:, :known], -scores[:, :known]) if step.index else None
    found = method.loss(new, old, batch_of(label))["mbce"]
    rows = upsample(logits, (16, 16))[:, step.num_old :]
    wanted = multiple_binary_cross_entropy(rows, label, first=step.num_old, positive_weight=factor)
    assert float(found.value) == pytest.approx(float(wanted.value), rel=1e-5)
