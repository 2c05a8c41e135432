"""The forms for tracing compute what timm's forms compute."""

from __future__ import annotations

import pytest
import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block

from barm.models.tracing import trace_simply


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (3, 5), (4, 4)])
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("kind", [SwinTransformerBlock, SwinTransformerV2Block])
def test_windows(kind, shift, size):
    torch.manual_seed(0)
    block = kind(8, (16, 16), num_heads=2, window_size=4, shift_size=shift, dynamic_mask=True).eval()
    x = torch.randn(2, *size, 8)
    with torch.no_grad():
        timms = block(x)
        trace_simply(block)
        assert torch.equal(block(x), timms)


@pytest.mark.parametrize("normalize", ["separate", "max", "min"])
def test_rotary_embeddings(normalize):
    embedding = RotaryEmbeddingDinoV3(16, normalize_coords=normalize).eval()
    timms = embedding.get_embed((5, 7))
    trace_simply(embedding)
    assert torch.equal(embedding.get_embed((5, 7)), timms)
