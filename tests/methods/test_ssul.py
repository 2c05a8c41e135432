"""Rules of SSUL that no golden file shows."""

from __future__ import annotations

import pytest
import torch

from barm.batch import Batch
from barm.labels import Step
from barm.methods.ssul import SSULConfig
from barm.models.heads import UnknownOutput
from barm.models.segmenter import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))


def batch_of(label: torch.Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {})


@pytest.mark.parametrize(("loss", "threshold", "shown"), [("bce", 0.7, 2), ("bce", 0.9, 0), ("focal", 0.7, 0)])
def test_candidates_of_ssul_are_labelled_as_in_training(loss, threshold, shown):
    """spec/ssul.md Q20 and Q21: the sigmoid of 1.5 is 0.82, its softmax beside four zeros 0.53."""
    method = SSULConfig(loss=loss).build(STEP, NETWORK)
    logits = torch.tensor([0.0, 0.0, 0.0, 1.5, 0.0]).view(1, 5, 1, 1)
    batch = batch_of(torch.zeros(1, 1, 1, dtype=torch.long))
    assert method.annotate(UnknownOutput(logits), batch, threshold).item() == shown
