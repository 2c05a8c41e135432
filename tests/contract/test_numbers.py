"""Batches that training data do contain now and then: for every method the loss and the gradients are finite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barm.batch import Batch, Term, total_loss
from barm.labels import IGNORE, TaskPlan
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
PLAN = TaskPlan.parse("2-1", 4)
NEGATIVE = ("dkd", "star")  # as published, ignored pixels are negatives of all classes there (docs/fidelity.md)
LABELS = {  # of a batch (N, H, W), by the newest channel
    "of ignore only": lambda label, newest: label.fill_(IGNORE),
    "of background only": lambda label, newest: label.zero_(),
    "of foreground only": lambda label, newest: label.fill_(newest),
    "of one pixel": lambda label, newest: label.zero_()[0, 0].fill_(0)[:1].fill_(newest),
    "of one pixel in ignored ones": lambda label, newest: label.fill_(IGNORE)[0, 0, :1].fill_(newest),
    "of one ignored image": lambda label, newest: label.zero_()[0].fill_(IGNORE),
    "of a pixel per image": lambda label, newest: label.zero_()[:, -1, -1].fill_(newest),
}


def built(name: str, index: int, size: tuple[int, int] = (48, 40), number: int = 2):
    """Method, network in training mode, teacher and images at a step."""
    torch.manual_seed(0)
    method = METHODS[name](name=name).build(PLAN[index], NETWORK)
    if not method.trains:
        pytest.skip(f"{name} trains nothing at step {index}")
    model, teacher = method.build_model(), None
    if index:
        previous = METHODS[name](name=name).build(PLAN[index - 1], NETWORK).build_model().eval()
        method.init_from(model, previous)
        teacher = previous if method.uses_teacher else None
    method.train_mode(model)
    return method, model, teacher, torch.randn(number, 3, *size)


def checked(method, model, teacher, image, label, *, loud: float = 1.0) -> dict[str, Term]:
    """Run forward and backward; every term's value and every gradient must be finite."""
    old = None
    if teacher is not None:
        with torch.no_grad():
            old = teacher(image * loud)
    given_label = label.clone()
    terms = method.loss(model(image * loud), old, Batch(image, label, {}))
    assert torch.equal(label, given_label)
    for name, term in terms.items():
        assert torch.isfinite(term.value.detach()), name
        assert torch.isfinite(term.whole), name
    total = total_loss(terms)
    if total.requires_grad:
        total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    return terms


@pytest.fixture(params=sorted(METHODS))
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_hold_little(name, index, kind):
    method, model, teacher, image = built(name, index)
    label = torch.zeros(2, 48, 40, dtype=torch.int64)
    LABELS[kind](label, PLAN[index].num_seen - 1)
    checked(method, model, teacher, image, label)


@pytest.mark.parametrize("index", [0, 1])
def test_ignored_pixels_move_nothing_in_the_loss_of_the_labels(name, index):
    """A batch of ignore only: the terms about labels are 0, whatever else the method distils."""
    method, model, teacher, image = built(name, index)
    label = torch.full((2, 48, 40), IGNORE)
    terms = checked(method, model, teacher, image, label)
    about_labels = [term for key, term in terms.items() if key not in method.config.distillation]
    assert about_labels
    if index == 0 and not name.startswith(NEGATIVE):
        assert all(float(term.total.detach()) == 0 for term in about_labels)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (17, 3)])
def test_maps_of_one_pixel(name, index, size):
    """Images so small that the network's map is 1 x 1."""
    method, model, teacher, image = built(name, index, size)
    label = torch.full((2, *size), PLAN[index].num_seen - 1)
    checked(method, model, teacher, image, label)


@pytest.mark.parametrize("loud", [1e4, 1e8])
@pytest.mark.parametrize("kind", ["of ignore only", "of one pixel", "of foreground only"])
def test_logits_far_from_zero(name, kind, loud):
    """Images whose values are far out of range give logits of thousands: no exponential overflows."""
    method, model, teacher, image = built(name, 1)
    label = torch.zeros(2, 48, 40, dtype=torch.int64)
    LABELS[kind](label, PLAN[1].num_seen - 1)
    model.eval()  # batch norm would take the size out
    checked(method, model, teacher, image, label, loud=loud)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, IGNORE]), min_size=2, max_size=9),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_any_labels_of_any_size(name, index, values, size):
    if not METHODS[name](name=name).build(PLAN[index], NETWORK).trains:
        return
    method, model, teacher, image = built(name, index, size)
    allowed = [v if v == IGNORE else min(v, PLAN[index].num_seen - 1) for v in values]
    if method.policy.supervision == "step" and index:
        allowed = [v if v in (0, IGNORE) else PLAN[index].num_seen - 1 for v in allowed]
    area = 2 * size[0] * size[1]
    label = torch.tensor((allowed * (area // len(allowed) + 1))[:area]).view(2, *size)
    checked(method, model, teacher, image, label)
