"""The fit of scores that become probabilities."""

from __future__ import annotations

import pytest
import torch

from barm.weights.calibrate import excess, fit


def test_the_fit_finds_what_was_hidden():
    """Of two classes with logits d and -d, moved by a linear offset c, softmax is sigmoid(2 d): a = 2, o = -2 c."""
    torch.manual_seed(1)
    inputs = torch.randn(2000, 4, dtype=torch.float64)
    hidden = torch.tensor([0.5, -1.0, 0.3, 2.0], dtype=torch.float64)
    difference, moved = 1.5 * inputs[:, 0], inputs @ hidden + 3.0
    logits = torch.stack([difference + moved, moved - difference], dim=1)
    scale, weight, bias = fit(inputs, logits)
    assert float(scale) == pytest.approx(2, abs=0.02)
    torch.testing.assert_close(weight, -2 * hidden, rtol=0, atol=0.05)
    assert float(bias) == pytest.approx(-6, abs=0.05)
    scores = scale * logits + (inputs @ weight + bias)[:, None]
    assert excess(scores, logits.softmax(dim=1)) < 1e-4 < excess(logits, logits.softmax(dim=1))
