"""Parts of timm's transformers, written so that torch.export traces them for any size, in seconds.

Windows of Swin transformers: in timm's form the number of images is found again from the number of windows, with the
padding inside a formula that grows with every block. In the form here it is known.

Rotary embeddings of DINOv3: in timm's form the grid's sides become Python's floats, which fixes them.

The results are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.hiera import MaskUnitAttention
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn
from torch.nn import functional as F

APART = -100.0  # added to the attention between places that were not neighbours before the shift


def trace_simply(network: nn.Module) -> None:
    """Let what cannot be traced in a network work in the forms of this module, in place."""
    for module in network.modules():
        if isinstance(module, (SwinTransformerBlock, SwinTransformerV2Block)):
            module._attn = MethodType(attend, module)  # type: ignore[method-assign]
        elif isinstance(module, RotaryEmbeddingDinoV3):
            module._create_embed = MethodType(rotary, module)  # type: ignore[method-assign]
        elif isinstance(module, MaskUnitAttention):
            module.fused_attn = False  # whose five dimensions ONNX does not know


def attend(block: Any, x: Tensor) -> Tensor:
    """Attention within the windows of a block, ``(N, H, W, C)`` -> ``(N, H, W, C)``."""
    images, height, width, channels = x.shape
    (high, wide), shift = block.window_size, block.shift_size
    rows, columns = (height + high - 1) // high, (width + wide - 1) // wide
    if any(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
    x = F.pad(x, (0, 0, 0, columns * wide - width, 0, rows * high - height))
    x = x.view(images, rows, high, columns, wide, channels).transpose(2, 3)
    mask = _mask(rows, columns, block.window_size, shift, x) if any(shift) else None
    x = block.attn(x.reshape(images * rows * columns, high * wide, channels), mask=mask)
    x = x.view(images, rows, columns, high, wide, channels).transpose(2, 3)
    x = x.reshape(images, rows * high, columns * wide, channels)[:, :height, :width].contiguous()
    return torch.roll(x, tuple(shift), dims=(1, 2)) if any(shift) else x


def _mask(rows: int, columns: int, window: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Tensor:
    """What is added to the attention in every window, ``(rows * columns, window, window)``."""
    down, right = (_part(n, size, by, like) for n, size, by in zip((rows, columns), window, shift, strict=True))
    part = (3 * down.unsqueeze(1) + right).view(rows, window[0], columns, window[1]).transpose(1, 2)
    part = part.reshape(rows * columns, window[0] * window[1])
    return torch.where(part.unsqueeze(1) == part.unsqueeze(2), 0.0, APART).to(like.dtype)


def _part(windows: int, size: int, shift: int, like: Tensor) -> Tensor:
    """Number the parts of an axis that the shift has brought together, ``(windows * size,)``.

    >>> _part(2, 3, 1, torch.zeros(1))
    tensor([0, 0, 0, 1, 1, 2])
    """
    at, length = torch.arange(windows * size, device=like.device), windows * size
    return (at >= length - size).long() + (at >= length - shift).long() if shift else torch.zeros_like(at)


def rotary(embedding: Any, shape: Sequence[int], no_aug: bool = False) -> Tensor:
    """Rotary embedding of DINOv3 for a grid in evaluation, ``(h w, 2 D)``: sines, then cosines.

    Args:
        embedding: timm's module.
        shape: h and w.
        no_aug: of no effect: nothing is drawn in evaluation.
    """
    height, width = shape
    whole = {"max": torch.sym_max(height, width), "min": torch.sym_min(height, width)}.get(embedding.normalize_coords)
    sides = [(torch.arange(n, dtype=torch.float32) + 0.5 + embedding.grid_offset) / (whole or n) for n in shape]
    places = torch.stack(torch.meshgrid(sides, indexing="ij"), dim=-1)
    return torch.cat(embedding._get_pos_embed_from_coords(2 * places.flatten(0, 1) - 1), dim=-1)
