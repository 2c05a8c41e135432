"""Networks whose batch norm is not that of a new network, so that what is done to it shows."""

from __future__ import annotations

import torch
from torch import nn


def settled(model: nn.Module) -> nn.Module:
    """Batch norm with statistics, scales and shifts of its own."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                nn.init.uniform_(tensor, low, low + 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model
