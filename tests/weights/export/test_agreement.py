"""When two programs predict the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import barm
from barm.weights.export.agreement import compare, in_pytorch


def test_faint_scores_differ_by_a_share(tiny_trained):
    """Scores far below 0.1 may differ little, and still be wrong."""
    trained = tiny_trained("finetune")
    with torch.no_grad():
        for head in trained.network.classifier.head:
            head.bias.sub_(5)  # every class is unlikely

    def other(image):
        labels, best = in_pytorch(trained, image)
        return labels, best + np.where(best < 0.05, 9e-4, 0).astype(np.float32)

    with pytest.raises(barm.UserError, match=r"does not agree with PyTorch .* of the score"):
        compare(trained, other, "the file")


def test_labels_of_one_class_prove_little(tiny_trained):
    """A constant network: its labels are equal whatever the file does, and the line says so."""
    trained = tiny_trained("finetune")
    with torch.no_grad():
        for parameter in trained.network.classifier.parameters():
            parameter.zero_()
    found = compare(trained, lambda image: in_pytorch(trained, image), "the file")
    assert found.classes == 1
    assert "with 1 class:" in str(found)
    assert "only 1 class in PyTorch's labels, so that the equal labels prove little" in str(found)
    varied = tiny_trained("finetune")
    assert "prove little" not in str(compare(varied, lambda image: in_pytorch(varied, image), "the file"))


@pytest.mark.parametrize(("bias", "right"), [(0.0, True), (1e-3, False)])
def test_a_label_that_is_as_likely_is_right(bias, right, tiny_trained):
    """Scores that are equal up to rounding have no order; those that are nearly equal do."""
    trained = tiny_trained("finetune")
    with torch.no_grad():
        for parameter in trained.network.classifier.parameters():
            parameter.zero_()
        trained.network.classifier.head[0].bias[0] += bias  # background is a little likelier

    def other(image):
        labels, best = in_pytorch(trained, image)
        return np.ones_like(labels), best

    if right:
        assert compare(trained, other, "the file").equal == 1
    else:
        with pytest.raises(barm.UserError, match="does not agree with PyTorch"):
            compare(trained, other, "the file")
