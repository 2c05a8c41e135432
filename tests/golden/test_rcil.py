"""RCIL against numbers of the official implementation (golden/rcil), through the modules and the method that train."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from arrays import batch_of, named, step_of, tensors
from timm.models.resnet import Bottleneck
from torch import nn
from torch.nn import functional as F

from barm.batch import total_loss
from barm.labels import Step
from barm.losses.cube import channel_cube, spatial_cube
from barm.methods.rcil import RCILConfig
from barm.models.backbone import Revealed
from barm.models.heads import PlainOutput
from barm.models.neck import LEAK, AddedPoolNeck
from barm.models.pairs import (
    Branch,
    Norm,
    Pair,
    draw_paths,
    merged_branches,
    pair_neck,
    pairs_of,
    path_weights,
    settled,
)
from barm.models.segmenter import NetworkConfig

files = partial(named, "rcil", "_[a-z][0-9]*")
CUBE = {"voc": (0.01, 0.0005), "ade": (5e-6, 5e-7)}  # spec/rcil.md section 7


def assert_close(actual, expected, double=1e-9, single=2e-5) -> None:
    """Within a share of the largest value."""
    expected = np.asarray(expected)
    bound = (double if expected.dtype == np.float64 else single) * max(float(np.abs(expected).max(initial=0)), 1e-6)
    assert actual.shape == expected.shape
    assert float(np.abs(actual.detach().numpy() - expected).max(initial=0)) <= bound


def assert_gradient(actual, expected) -> None:
    assert_close(actual, expected, double=1e-8, single=3e-4)


def norm_of(g, name: str) -> Norm:
    """A norm of the files, which applies the absolute value of its scale plus eps."""
    scale, shift, mean, variance = tensors(
        g, *(f"{name}_{k}" for k in ("weight", "bias", "running_mean", "running_var"))
    )
    eps = float(g["norm_eps"])
    return Norm(scale.abs() + eps, shift, mean, variance, eps)


def run(branch: Branch, x, **options):
    """A branch as it is, not folded."""
    y, n = F.conv2d(x, branch.weight, branch.bias, **options), branch.norm
    return y if n is None else F.batch_norm(y, n.mean, n.variance, n.scale, n.shift, eps=n.eps)


@pytest.mark.parametrize("file", files("merge"))
def test_merged_branches(file, golden):
    g = golden(f"rcil/{file}.npz")
    options = {"stride": int(g["stride"]), "dilation": int(g["dilation"]), "padding": int(g["dilation"])}
    x = torch.from_numpy(g["input"])
    for k in range(int(g["n_merges"])):
        weights = tensors(g, f"merge{k}_conv2_weight", f"merge{k}_conv2_bias", f"merge{k}_conv2_new_weight")
        old = Branch(*weights[:2], norm_of(g, f"merge{k}_bn2"))
        new = Branch(weights[2], None, norm_of(g, f"merge{k}_bn2_new"))
        merged = Branch(*merged_branches(old, new))
        assert_close(merged.weight, g[f"merge{k}_expected_weight"])
        assert_close(merged.bias, g[f"merge{k}_expected_bias"])
        bare = Branch(*merged_branches(old._replace(norm=None) if k else old, new))  # Q4: no norm in the old branch
        assert_close(bare.weight, g[f"merge{k}_expected_weight"], double=1e-5)
        u, v, w = (run(branch, x, **options) for branch in (old, new, merged))
        assert_close((u + v) / 2, g[f"merge{k}_expected_teacher"])
        assert_close(w, g[f"merge{k}_expected_merged_branch"])
        assert_close((w + v) / 2, g[f"merge{k}_expected_student_start"])


@pytest.mark.parametrize("file", files("merge_aspp"))
def test_aspp_is_merged_by_its_convolutions(file, golden):
    """Each convolution has its own channels of the common norm."""
    g = golden(f"rcil/{file}.npz")
    norms, pixels, x = [norm_of(g, "old_norm"), norm_of(g, "new_norm")], [], torch.from_numpy(g["input"])
    for i, rate in enumerate((0, 6, 12, 18)):
        weights = tensors(g, f"old_weight_{i}", f"new_weight_{i}")
        width = len(weights[0])
        own = [Norm(*(t[i * width : (i + 1) * width] for t in norm[:4]), norm.eps) for norm in norms]
        weight, bias = merged_branches(Branch(weights[0], None, own[0]), Branch(weights[1], None, own[1]))
        assert_close(bias, g[f"expected_bias_{i}"], single=1e-5)
        if f"expected_weight_{i}" in g:
            assert_close(weight, g[f"expected_weight_{i}"], single=1e-5)
        pixels.append(F.conv2d(x, weight, bias, padding=rate, dilation=rate or 1)[0, :, 1, 2])
    assert_close(torch.cat(pixels), g["expected_merged_pixel"], single=1e-4)


@pytest.mark.parametrize("file", files("drop_path"))
def test_path_weights(file, golden):
    g = golden(f"rcil/{file}.npz")
    for found, name in zip(path_weights(torch.from_numpy(g["r"])), ("old", "new"), strict=True):
        np.testing.assert_array_equal(found, g[f"expected_weight_{name}_branch"])


def fill(norm: nn.BatchNorm2d, g, name: str) -> nn.BatchNorm2d:
    """The norm with a file's tensors, and the scale that it applies."""
    values = dict(zip(("weight", "bias", "running_mean", "running_var"), norm_of(g, name)[:4], strict=True))
    norm.double().load_state_dict({**values, "num_batches_tracked": torch.tensor(0)})
    return norm


def conv_of(g, name: str, **options) -> nn.Conv2d:
    weight = torch.from_numpy(g[f"{name}.weight"])
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], bias=False, **options).double()
    conv.weight.data = weight
    return conv


def layers(g, conv: str, norm: str, **options) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    made, renamed = conv_of(g, f"param.{conv}", **options), {k.replace(f"param.{norm}.", "n_"): v for k, v in g.items()}
    return made, fill(nn.BatchNorm2d(made.out_channels), renamed, "n")


def block_of(g) -> Bottleneck:
    """timm's bottleneck with a file's tensors and a pair in the middle."""
    block, options = Bottleneck(8, 2), {"stride": int(g["stride"]), "dilation": int(g["dilation"])}
    options["padding"] = options["dilation"]
    for i in (1, 3):
        conv, norm = layers(g, f"convs.conv{i}", f"convs.bn{i}")
        setattr(block, f"conv{i}", conv)
        setattr(block, f"bn{i}", norm)
    pair = Pair(*layers(g, "convs.conv2_new", "convs.bn2_new", **options), "trained")
    pair.old = nn.Sequential(*layers(g, "convs.conv2", "convs.bn2", **options))
    block.conv2, block.bn2 = pair, nn.Identity()
    block.act1, block.act2, block.act3 = nn.LeakyReLU(LEAK), nn.LeakyReLU(LEAK), Revealed(LEAK, "after")
    if "param.proj_conv.weight" in g:
        block.downsample = nn.Sequential(*layers(g, "proj_conv", "proj_bn", stride=options["stride"]))
    return block.double()


def draw(module: nn.Module, r: np.ndarray, monkeypatch) -> None:
    """Mix the branches as a file's draw says, through the function that draws while training."""
    drawn = torch.from_numpy(r).flatten()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda number: drawn[:number])
        draw_paths(module)


@pytest.mark.parametrize("file", files("block"))
def test_block(file, golden, monkeypatch):
    g = golden(f"rcil/{file}.npz")
    block, x = block_of(g).eval(), torch.from_numpy(g["input"]).requires_grad_()
    out = block(x)
    assert_close(out, g["expected_output_eval"])
    assert_close(block.act3.take(), g.get("expected_level_eval", g["expected_output_eval"]))
    assert_gradient(torch.autograd.grad((out**2).sum(), x)[0], g["expected_grad_input_eval"])
    draw(block, g["drop_path_r"], monkeypatch)
    out, pair = block.train()(x), block.conv2
    assert_close(out, g["expected_output_train"])
    gradients = torch.autograd.grad((out**2).sum(), (x, pair.old[0].weight, pair.new[0].weight))
    for found, name in zip(gradients, ("input_train", "conv2", "conv2_new"), strict=True):
        assert_gradient(found, g[f"expected_grad_{name}"])
    for name in ("running_mean", "running_var"):
        if f"expected_{name}_bn2_new" in g:
            assert_close(getattr(pair.new[1], name), g[f"expected_{name}_bn2_new"])


@pytest.mark.parametrize("file", files("block_step"))
def test_block_at_a_later_step(file, golden, monkeypatch):
    """The teacher keeps two branches; the student's old one is merged and has no gradient."""
    g = golden(f"rcil/{file}.npz")
    before, x = block_of(g).eval(), torch.from_numpy(g["input"]).requires_grad_()
    with torch.no_grad():
        block = settled(before)
        assert_close(before(x), g["expected_teacher_output"])
        assert_close(block(x), g["expected_student_output_eval"])
    draw(block, g["drop_path_r"], monkeypatch)
    out = block.train()(x)
    assert_close(out, g["expected_output_train"])
    (out**2).sum().backward()
    assert_gradient(x.grad, g["expected_grad_input_train"])
    assert all(p.grad is None for p in block.conv2.old.parameters())
    own = {"conv2_new": block.conv2.new[0], "bn2_new": block.conv2.new[1]}
    own |= {name: getattr(block, name) for name in ("conv1", "bn1", "conv3", "bn3")}
    expected = {k.removeprefix("expected_grad_convs."): v for k, v in g.items() if k.startswith("expected_grad_convs.")}
    if block.downsample is not None:
        own |= {"proj_conv": block.downsample[0], "proj_bn": block.downsample[1]}
        expected |= {k.removeprefix("expected_grad_"): v for k, v in g.items() if k.startswith("expected_grad_proj")}
    for name, value in expected.items():
        layer, kind = name.split(".")
        found = getattr(own[layer], kind).grad
        if "bn" in layer and kind == "weight":  # of the scale before its absolute value is taken
            path = f"param.{'' if layer.startswith('proj') else 'convs.'}{name}"
            found = found * torch.from_numpy(np.sign(g[path]))
        assert_gradient(found, value)


def neck_of(g) -> AddedPoolNeck:
    """The neck with a file's tensors, whose common norms are taken apart."""
    first, rates = g["param.map_convs.0.weight"], (6, 12, 18)
    hidden, width = first.shape[0], g["param.red_conv.weight"].shape[0]
    neck = AddedPoolNeck([first.shape[1]], rates, hidden, 0.0)
    pair_neck(neck, "trained")
    for i, pair in enumerate(pairs_of(neck)):
        for branch, name in ((pair.old, ""), (pair.new, "_new")):
            branch[0].weight.data = torch.from_numpy(g[f"param.map_convs{name}.{i}.weight"])
            own = slice(i * hidden, (i + 1) * hidden)
            part = {k.replace(f"param.map_bn{name}.", "n_"): v[own] for k, v in g.items() if f"map_bn{name}." in k}
            fill(branch[1], {**part, "norm_eps": g["norm_eps"]}, "n")
    for name, conv in (("reduce", "red_conv"), ("pool_conv", "global_pooling_conv"), ("pool_reduce", "pool_red_conv")):
        setattr(neck, name, conv_of(g, f"param.{conv}"))
    for name, norm, channels in (("pool_norm", "global_pooling_bn", hidden), ("last_norm", "red_bn", width)):
        renamed = {k.replace(f"param.{norm}.", "n_"): v for k, v in g.items()}
        getattr(neck, name)[0] = fill(nn.BatchNorm2d(channels), renamed, "n")
    return neck.double()


@pytest.mark.parametrize("file", files("aspp"))
def test_aspp(file, golden, monkeypatch):
    g = golden(f"rcil/{file}.npz")
    neck, x = neck_of(g), torch.from_numpy(g["input"]).requires_grad_()
    draw(neck, g["drop_path_r"], monkeypatch)
    for mode in ("eval", "train"):
        out = neck.train(mode == "train")([x])
        assert_close(out, g[f"expected_output_{mode}"])
        assert_gradient(torch.autograd.grad((out**2).sum(), x)[0], g[f"expected_grad_input_{mode}"])


def levels_of(g):
    """The student's levels, which take a gradient, and the teacher's."""
    names = range(int(g["n_levels"]))
    new = [t.requires_grad_() for t in tensors(g, *(f"student_{k}" for k in names))]
    return new, tensors(g, *(f"teacher_{k}" for k in names))


@pytest.mark.parametrize("file", files("pckd_spatial") + files("pckd_channel"))
def test_pooled_cubes(file, golden):
    g = golden(f"rcil/{file}.npz")
    new, old = levels_of(g)
    sizes = {"num_seen": int(g["n_old_classes"]) + int(g["n_new_classes"]), "num_new": int(g["n_new_classes"])}
    weights = dict(zip(("weight", "weight_last"), CUBE[str(g["dataset"])], strict=True))
    spatial = file.startswith("pckd_spatial")
    used = len(new) if spatial else len(new) - 1
    term = (spatial_cube if spatial else channel_cube)(new[:used], old[:used], **sizes, **weights)
    assert_close(term.value, g["expected_loss"])
    gradients = torch.autograd.grad(term.value, new, allow_unused=True)
    for k, (leaf, gradient) in enumerate(zip(new, gradients, strict=True)):
        assert_gradient(torch.zeros_like(leaf) if gradient is None else gradient, g[f"expected_grad_student_{k}"])


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("file", files("objective"))
def test_objectives(file, golden):
    g = golden(f"rcil/{file}.npz")
    cube, last = CUBE[str(g["dataset"])]
    config = RCILConfig(cube_weight=cube, cube_weight_last=last, distillation_weight=float(g["weight_kd"]))
    student, teacher = levels_of(g)
    outputs = [PlainOutput(m[-1], m[-3], m[-2], tuple(m[:-2])) for m in (student, teacher)]
    method = config.build(step_of(g, background=True), NetworkConfig(pretrained=False))
    terms = method.loss(*outputs, batch_of(g["labels"]))
    for name, part in (("unce", "ce"), ("unkd", "kd"), ("spatial", "spatial"), ("channel", "channel")):
        assert_close(terms[name].value, g[f"expected_{part}_term"])
    total = total_loss(terms)
    assert_close(total, g["expected_loss"])
    for k, gradient in enumerate(torch.autograd.grad(total, student)):
        assert_gradient(gradient, g[f"expected_grad_student_{k}"])


@pytest.mark.parametrize("file", files("classifier_init"))
def test_new_classes_start_with_the_backgrounds_weights(file, golden):
    g = golden(f"rcil/{file}.npz")
    sizes, width = [int(s) for s in g["classes_per_step"]], g["weight_before"].shape[1]
    ids = iter(range(1, sum(sizes)))
    groups = tuple(tuple(next(ids) for _ in range(s - (i == 0))) for i, s in enumerate(sizes))
    network = NetworkConfig(backbone="test_resnet", channels=width, pretrained=False)
    method = RCILConfig().build(Step(len(sizes) - 1, groups), network)
    before = RCILConfig().build(Step(len(sizes) - 2, groups[:-1]), network).build_model()
    model = method.build_model()
    for head in (before.classifier.head, model.classifier.head):  # the file's biases stand for the random ones
        rows = 0
        for conv in head:
            own = slice(rows, rows + conv.out_channels)
            conv.weight.data = torch.from_numpy(g["weight_before"][own, :, None, None])
            conv.bias.data = torch.from_numpy(g["bias_before"][own])
            rows += conv.out_channels
    method.init_from(model, before)
    assert_close(torch.cat([h.weight for h in model.classifier.head]).flatten(1), g["expected_weight_after"])
    assert_close(torch.cat([h.bias for h in model.classifier.head]), g["expected_bias_after"])
