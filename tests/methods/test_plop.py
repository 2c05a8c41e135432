"""Rules of PLOP that no golden file shows."""

from __future__ import annotations

import torch
from torch import nn

from barm.batch import Batch
from barm.labels import Step
from barm.losses.entropy import published_thresholds
from barm.methods.plop import PLOPConfig
from barm.models.heads import PlainOutput
from barm.models.segmenter import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
BASE, STEP = Step(0, ((1, 2),)), Step(1, ((1, 2), (3,)))


def batch_of(label: torch.Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, {})


def test_thresholds_that_are_no_number_become_the_floor():
    """spec/plop.md P4: half of class 0's 9900 counts is what the published search has added up where it ends."""
    histogram = torch.zeros(STEP.num_seen, 100, dtype=torch.int64)
    histogram[0, :3] = torch.tensor([4900, 4900, 100])
    histogram[1, :4] = 100_000  # no bin holds half: infinite, so everything is believed
    histogram[2, 0] = 10_000
    found = published_thresholds(histogram, 0.002)
    assert [bool(b) for b in found.isnan()] == [True, False, False, False]
    method = PLOPConfig(threshold_floor=0.002).build(STEP, NETWORK)
    method.calibrate(histogram)
    torch.testing.assert_close(method.thresholds, torch.tensor([0.002, float("inf"), 0.005, 0.002]))


def test_levels_of_plop_are_taken_before_the_last_activation():
    """spec/plop.md section 5.1, with ReLU: nothing that comes after it is negative."""
    model = PLOPConfig().build(STEP, NETWORK).build_model().train()
    for norm in (m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # fresh blocks otherwise add nothing to what the block before has activated
    out = model(torch.randn(2, 3, 64, 64))
    assert len(out.levels) == 4
    assert all(float(level.detach().min()) < 0 for level in out.levels)
    assert torch.equal(torch.relu(out.levels[-1]), out.feature)


def test_the_fifth_level_of_plop_is_the_classifiers_input():
    """spec/plop.md section 5.1: the backbone's last feature map itself is not compared."""
    method = PLOPConfig().build(STEP, NETWORK)
    levels = tuple(torch.randn(1, 4, 8, 8) for _ in range(4))
    feature, branch, logits = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    old = PlainOutput(logits[:, :3], feature, branch, levels)
    new = PlainOutput(torch.cat([logits[:, :3], torch.zeros(1, 1, 8, 8)], dim=1), feature, branch, levels)
    batch = batch_of(torch.zeros(1, 8, 8, dtype=torch.long))
    changed = {"none": new, "feature": new._replace(feature=feature + 1), "branch": new._replace(branch=branch + 1)}
    pod = {name: float(method.loss(out, old, batch)["pod"].value) for name, out in changed.items()}
    assert pod["none"] == pod["feature"] == 0
    assert pod["branch"] > 0
