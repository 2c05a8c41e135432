"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) of a network's layers, by the library peft.

Adapters exist only while a step trains. `merged` gives the network without them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from barm.errors import UserError

ADAPTER = "default"  # peft's name of the only one


def check_installed() -> None:
    """Refuse to go on without the library.

    Raises:
        UserError: if it is not installed.
    """
    if find_spec("peft") is None:
        raise UserError(
            "backbone = 'lora' needs the library peft, which is not installed: pip install 'barm-seg[models]'"
        )


def add_adapters(
    backbone: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], wanted: Collection[int], seed: int
) -> dict[int, list[nn.Parameter]]:
    """Add an adapter to every linear layer and every convolution without groups, in place. The output stays the same.

    Args:
        backbone: whose layers are adapted.
        rank: of an adapter's two factors.
        alpha: the product of the factors is multiplied by ``alpha / rank``.
        targets: names of layers, or ends of names; all layers where it is empty.
        wanted: identities of the weights that may be adapted; the others stay as they are.
        seed: of the first factor; the second is 0.

    Returns:
        The two factors of every adapter, by the identity of the adapted weight.

    Raises:
        UserError: if peft is not installed, or a target is the name of no such layer.
    """
    check_installed()
    layers = {name: module for name, module in backbone.named_modules() if _adaptable(module)}
    for target in targets:
        if not any(_named(name, target) for name in layers):
            raise UserError(
                f"lora.targets has '{target}', which is the name of no linear layer and no convolution without groups: "
                f"expected one such as '{next(reversed(layers), '')}' or the end of one, or leave lora.targets out"
            )
    chosen = {
        name: cast(nn.Parameter, layer.weight)
        for name, layer in layers.items()
        if id(layer.weight) in wanted and (not targets or any(_named(name, target) for target in targets))
    }
    if chosen:
        _inject(backbone, list(chosen), rank, alpha, seed)
    return {id(weight): _factors(backbone.get_submodule(name)) for name, weight in chosen.items()}


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a layer with an adapter."""
    layer = sys.modules.get("peft.tuners.lora.layer")
    return layer is not None and isinstance(module, layer.LoraLayer)


@torch.no_grad()
def merged(layer: nn.Module) -> nn.Module:
    """The adapted layer without its adapter, whose product is added to the weight.

    Args:
        layer: whose own layer may be changed; its tensors are not.
    """
    adapted = cast(Any, layer)
    own: nn.Module = adapted.get_base_layer()
    weight = cast(Tensor, own.weight)
    own.weight = nn.Parameter(weight + adapted.get_delta_weight(ADAPTER).to(weight.dtype), requires_grad=False)
    return own.train(layer.training)


def _adaptable(module: nn.Module) -> bool:
    """Whether a layer computes exactly what torch's does; classes made of it may prepare weight or image."""
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _inject(backbone: nn.Module, names: Sequence[str], rank: int, alpha: float, seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules="|".join(map(re.escape, names)))
    bare = next(backbone.parameters()).device.type == "meta"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone, ADAPTER, low_cpu_mem_usage=bare)
    if hasattr(backbone, "peft_config"):
        del backbone.peft_config
    for name in names:
        layer = cast(Any, backbone.get_submodule(name))
        layer.cast_input_dtype_enabled = False  # autocast decides
        own = layer.get_base_layer()
        if isinstance(own, nn.Conv2d):  # peft leaves these out
            first = layer.lora_A[ADAPTER]
            first.dilation, first.padding_mode = own.dilation, own.padding_mode
            first._reversed_padding_repeated_twice = own._reversed_padding_repeated_twice


def _factors(layer: nn.Module) -> list[nn.Parameter]:
    adapted = cast(Any, layer)
    return [adapted.lora_A[ADAPTER].weight, adapted.lora_B[ADAPTER].weight]
