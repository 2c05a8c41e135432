"""Weights in the names of `efficientnet_pytorch`: every tensor goes where timm has it."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from barm.errors import UserError
from barm.models.backbone import create_backbone
from barm.models.efficientnet import timm_name
from barm.models.segmenter import NetworkConfig
from barm.weights.recognise import recognise

IN_TIMM = {  # parts of a block by their order in both packages
    "conv_dw": ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"],
    "conv_pw": ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"],
}


def theirs(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A network's tensors in the other package's names, from the order of its modules."""
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    for number, block in enumerate(b for stage in network.blocks for b in stage):
        own = next(name for name, m in network.named_modules() if m is block)
        parts = [name for name, m in block.named_children() if name.startswith(("conv", "bn"))]
        names |= {f"{own}.{a}": f"_blocks.{number}.{b}" for a, b in zip(parts, IN_TIMM[parts[0]], strict=True)}
        if hasattr(block.se, "conv_reduce"):
            names[f"{own}.se.conv_reduce"] = f"_blocks.{number}._se_reduce"
            names[f"{own}.se.conv_expand"] = f"_blocks.{number}._se_expand"
    split = {key: key.rpartition(".") for key in network.state_dict()}
    return {f"{names[head]}.{last}": network.state_dict()[key] for key, (head, _, last) in split.items()}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
def test_every_tensor_finds_its_place(name, tmp_path):
    network = timm.create_model(name)
    state = theirs(network)
    assert timm_name({k: tuple(v.shape) for k, v in state.items()}) == name
    torch.save(state, tmp_path / "theirs.pth")
    torch.save(network.state_dict(), tmp_path / "timms.pth")
    given, expected = (
        create_backbone(name, 16, weights=tmp_path / f"{file}.pth").state_dict() for file in ("theirs", "timms")
    )
    assert all(torch.equal(given[key], value) for key, value in expected.items())


def test_another_variant_is_refused(tmp_path):
    save_file(theirs(timm.create_model("tf_efficientnet_lite0")), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"does not fit backbone 'tf_efficientnet_lite1': .* tensors missing"):
        create_backbone("tf_efficientnet_lite1", 16, weights=tmp_path / "w.safetensors")


def test_what_the_file_is(tmp_path):
    """The line names the backbone; its normalisation is timm's."""
    save_file(theirs(timm.create_model("tf_efficientnet_lite0")), tmp_path / "w.safetensors")
    kind = recognise(tmp_path / "w.safetensors")
    assert (kind.family, kind.use) == ("timm", "backbone")
    assert "--set model.backbone=tf_efficientnet_lite0 --set model.weights=" in kind.advice
    config = NetworkConfig(backbone="tf_efficientnet_lite0", weights=tmp_path / "w.safetensors")
    assert (config.mean, config.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert timm_name({"conv_stem.weight": (1,)}) is None
