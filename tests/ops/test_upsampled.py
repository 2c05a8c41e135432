"""Strips and kernels give the numbers of the plain formulas: values, gradients, labels; odd sizes, odd cases."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest
import torch

import barm
from barm.batch import Term
from barm.labels import IGNORE
from barm.losses.balanced import balanced_binary_cross_entropy
from barm.losses.common import ELSEWHERE, best_channel, binary_cross_entropy, cross_entropy, focal_loss, pseudo_labels
from barm.losses.decomposed import multiple_binary_cross_entropy
from barm.losses.entropy import belief
from barm.losses.segmentation import segmentation
from barm.losses.unbiased import unbiased_cross_entropy, unbiased_distillation
from barm.ops import strips
from barm.ops.upsampled import computed_by, map_pixels, path_of, sum_all, sum_pixels, upsample

SIZES = [(2, 5, 7, 9, 50, 61), (1, 3, 4, 4, 4, 4), (2, 4, 9, 9, 5, 6), (1, 2, 1, 1, 8, 8), (3, 6, 5, 3, 33, 17)]
FULL = [(4, 17, 33, 33, 513, 513), (24, 21, 33, 33, 513, 513), (12, 151, 33, 33, 513, 513), (2, 1001, 65, 65, 513, 513)]
FORMULAS = [
    binary_cross_entropy,
    cross_entropy,
    focal_loss,
    partial(unbiased_cross_entropy, num_old=2),
    partial(multiple_binary_cross_entropy, first=0, positive_weight=2.0),
]


def case(size, *, elsewhere=False, dtype=torch.float32):
    n, c, h, w, height, width = size
    generator = torch.Generator().manual_seed(sum(size))
    logits = 3 * torch.randn(n, c, h, w, generator=generator, dtype=dtype)
    label = torch.randint(ELSEWHERE if elsewhere else 0, c, (n, height, width), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    return logits, label


@pytest.fixture(params=[1, 700, 4 << 20], ids=lambda b: f"{b}B")
def budget(request, monkeypatch):
    """Strips of one row, of a few, and the whole image."""
    monkeypatch.setitem(strips.STRIP_BYTES, "cpu", request.param)


def both(compute):
    """What a function gives by the plain path and by strips."""
    results = []
    for path in ("plain", "strips"):
        with computed_by(path):
            results.append(compute())
    return results


def sums_and_gradients(formula, logits, label, **options):
    """Sum, number and gradient of a formula by both paths."""

    def compute():
        leaf = logits.clone().requires_grad_()
        term = sum_pixels(formula, leaf, label, **options)
        (2 * term.value).backward()
        return term.total.detach(), term.number, leaf.grad

    return both(compute)


def within(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return float((actual - expected).abs().max()) <= tolerance * max(float(expected.abs().max()), 1e-12)


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: getattr(f, "__name__", None) or f.func.__name__)
def test_sums_and_gradients(formula, size):
    logits, label = case(size, elsewhere=formula is binary_cross_entropy)

    (total, number, gradient), (other, count, slope) = sums_and_gradients(formula, logits, label)
    assert within(other, total)
    assert int(number) == int(count)
    assert within(slope, gradient)


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("size", SIZES[::2], ids=str)
def test_terms_that_share_the_interpolation(size):
    logits, label = case(size)
    old = torch.randn(size[0], size[1] - 1, *size[2:4])

    def formula(new, teacher, truth):
        return {
            "ce": unbiased_cross_entropy(new, truth, num_old=size[1] - 1),
            "kd": unbiased_distillation(new, teacher, weight=10.0),
        }

    def compute():
        leaf = logits.clone().requires_grad_()
        terms = sum_all(formula, leaf, label, old=[old])
        (3 * terms["ce"].value + terms["kd"].value).backward()
        return {n: (float(t.total.detach()), int(t.number), t.weight) for n, t in terms.items()}, leaf.grad

    (terms, gradient), (others, slope) = both(compute)
    assert others.keys() == terms.keys()
    for name, (total, number, weight) in terms.items():
        assert others[name] == (pytest.approx(total, rel=1e-5), number, weight)
    assert within(slope, gradient)


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps(size):
    logits, label = case(size)
    for compute in (
        lambda: map_pixels(pseudo_labels, logits, label, threshold=0.8),
        lambda: map_pixels(pseudo_labels, logits, label, threshold=0.5, softmax=True, first=2),
        lambda: map_pixels(best_channel, logits, size=size[4:]),
    ):
        plain, ours = both(compute)
        assert torch.equal(plain, ours)
        assert ours.shape == label.shape
    plain, ours = both(lambda: map_pixels(belief, logits, size=size[4:], num_seen=size[1] + 1))
    assert torch.equal(plain[0], ours[0])
    assert within(ours[1], plain[1])


@pytest.mark.parametrize("formula", FORMULAS[:4], ids=lambda f: getattr(f, "__name__", None) or f.func.__name__)
def test_gradients_in_float64(formula):
    logits, label = case((1, 3, 3, 4, 11, 7), dtype=torch.float64)
    with computed_by("strips"):
        assert torch.autograd.gradcheck(lambda x: sum_pixels(formula, x, label).total, logits.requires_grad_())


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_balanced_sums_and_gradients(size):
    logits, label = case(size, elsewhere=True)
    positive = 1 + torch.arange(size[1], dtype=torch.float32) % 4

    (total, number, gradient), (other, count, slope) = sums_and_gradients(
        balanced_binary_cross_entropy, logits, label, positive=positive
    )
    assert within(other, total)
    assert int(number) == int(count)
    assert within(slope, gradient)
    with computed_by("plain"):
        same = sum_pixels(balanced_binary_cross_entropy, logits, label, positive=torch.ones(size[1]))
        assert within(same.total, sum_pixels(binary_cross_entropy, logits, label).total)


@pytest.mark.parametrize("loss", ["bce", "ce", "focal"])
def test_channels_that_keep_still(loss):
    """Their gradient is zero, the others' and the value are those of all channels."""
    logits, label = case(SIZES[0])

    def compute():
        leaf = logits.clone().requires_grad_()
        term = segmentation(loss, leaf, label, trained=(0, 3, 4))
        term.total.backward()
        return term.value.detach(), leaf.grad

    (value, gradient), (other, slope) = both(compute)
    assert float(gradient[:, 1:3].abs().max()) == 0
    assert float(gradient[:, [0, 3, 4]].abs().min()) > 0
    assert within(other, value)
    assert within(slope, gradient)


def test_what_keeps_still_costs_nothing_until_it_is_shown(monkeypatch):
    logits, label = case(SIZES[0])
    seen = []
    interpolate = strips.Strip.interpolate
    monkeypatch.setattr(strips.Strip, "interpolate", lambda s, wide: seen.append(wide.shape[1]) or interpolate(s, wide))
    term = segmentation("bce", logits.requires_grad_(), label, trained=(0, 4))
    assert set(seen) == {2}
    term.whole  # noqa: B018
    assert set(seen) == {2, 3}


@pytest.mark.parametrize("path", ["plain", "strips"])
def test_nothing_to_count(path):
    """All pixels ignored: value 0 and no gradient."""
    logits, label = case(SIZES[0])
    leaf = logits.requires_grad_()
    with computed_by(path):
        term = sum_pixels(binary_cross_entropy, leaf, torch.full_like(label, IGNORE))
        term.value.backward()
    assert (float(term.value.detach()), int(term.number), float(leaf.grad.abs().max())) == (0, 0, 0)


def test_a_term_without_gradient_may_stand_beside_others():
    logits, label = case(SIZES[0])

    def formula(new, truth):
        return {"a": Term(new.sum(), (truth != IGNORE).sum()), "b": Term((truth == 1).sum().float(), torch.tensor(1))}

    def compute():
        leaf = logits.clone().requires_grad_()
        terms = sum_all(formula, leaf, label)
        (terms["a"].value + terms["b"].value).backward()
        return terms["a"].total.detach(), terms["b"].total, leaf.grad

    plain, ours = both(compute)
    assert all(within(b, a) for a, b in zip(plain, ours, strict=True))


def test_interpolation_is_that_of_torch():
    for size in SIZES:
        logits, _ = case(size)
        weights = [
            strips.interpolation(s, t, torch.float32, torch.device("cpu"))
            for s, t in zip(size[2:4], size[4:], strict=True)
        ]
        product = weights[0] @ (logits.flip((2, 3)) @ weights[1].T)
        assert within(product, upsample(logits, size[4:]), 1e-6)


def test_each_path_is_chosen_in_one_place():
    tensor = torch.zeros(1, 1, 1, 1)
    assert path_of(binary_cross_entropy, tensor) == "strips"
    for path in ("plain", "strips"):
        with computed_by(path):
            assert path_of(binary_cross_entropy, tensor) == path
    with computed_by("fused"):
        assert path_of(binary_cross_entropy, tensor) == "fused"
        assert path_of(cross_entropy, tensor) == "strips"  # has no kernel


KERNELS = """
import sys
import barm, torch
from test_upsampled import *

print(barm.__file__)

several = (1, 3, 5, 3, 17, 18)  # blocks of an image; SIZES has more of them, which take most of the time
for size in SIZES if "all" in sys.argv else [*SIZES[1:4], several]:
    logits, label = case(size, elsewhere=True)
    made = {}
    for path in ("plain", "fused"):
        with computed_by(path):
            leaf = logits.clone().requires_grad_()
            term = sum_pixels(binary_cross_entropy, leaf, label)
            term.total.backward()
            truth = label.clamp(min=0)
            made[path] = [term.total.detach(), leaf.grad, term.number.float()]
            leaf, positive = logits.clone().requires_grad_(), 1 + torch.arange(size[1]) % 4 / 2
            balanced = sum_pixels(balanced_binary_cross_entropy, leaf, label, positive=positive)
            balanced.total.backward()
            made[path] += [balanced.total.detach(), leaf.grad]
            made[path] += [map_pixels(pseudo_labels, logits, truth, threshold=0.8).float()]
            made[path] += [map_pixels(pseudo_labels, logits, truth, threshold=0.5, softmax=True, first=2).float()]
            made[path] += [map_pixels(best_channel, logits, size=size[4:]).float()]
    assert all(within(b, a) for a, b in zip(made["plain"], made["fused"])), size
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["some", pytest.param("all", marks=pytest.mark.long)])
def test_kernels_by_the_interpreter(sizes):
    """The Triton kernels, run on the processor."""
    pytest.importorskip("triton", minversion="3.5")  # interpreters before give inner functions no constants
    places = (os.path.dirname(__file__), os.environ["PYTHONPATH"])
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run([sys.executable, "-c", KERNELS, sizes], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, [barm.__file__, "equal"]), done.stderr[-2000:]


COMPILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from barm.ops import kernels

pointers = {"label": "*i64", "channel": "*i64", "starts_y": "*i32", "starts_x": "*i32"}
sizes = {n: "i32" for n in ("channels", "h", "w", "height", "width")}
fixed = {"IGNORE": 255, "GRADIENT": True, "WEIGHTED": True, "BY": 16, "BX": 16}
for kernel in (kernels.sums, kernels.best):
    signature = {n: "constexpr" if n in fixed else sizes.get(n) or pointers.get(n, "*fp32") for n in kernel.arg_names}
    constants = {n: v for n, v in fixed.items() if n in kernel.arg_names}
    made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert ".entry" in made.asm["ptx"]
print("compiled")
"""


def test_kernels_compile_for_a_gpu():
    """To the machine code of compute capability 9.0, which needs no GPU."""
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "compiled"), done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("size", [*SIZES, *FULL], ids=str)
def test_kernels_on_a_gpu(size):
    logits, label = (t.cuda() for t in case(size, elsewhere=True))
    made: dict[str, list[torch.Tensor]] = {}
    for path in ("plain", "fused", "strips"):
        with computed_by(path):
            leaf = logits.clone().requires_grad_()
            term: Term = sum_pixels(binary_cross_entropy, leaf, label)
            term.total.backward()
            labels = map_pixels(pseudo_labels, logits, label.clamp(min=0), threshold=0.8)
            made[path] = [term.total.detach(), leaf.grad, labels.float()]
            leaf, positive = logits.clone().requires_grad_(), 1 + torch.arange(size[1]).cuda() % 4 / 2
            balanced = sum_pixels(balanced_binary_cross_entropy, leaf, label, positive=positive)
            balanced.total.backward()
            made[path] += [balanced.total.detach(), leaf.grad]
    for path in ("fused", "strips"):
        assert all(within(b, a) for a, b in zip(made["plain"], made[path], strict=True))
