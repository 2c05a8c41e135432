"""Tensor names of the public DeepLab code base and of SSUL, which grew from it. Source: spec/deeplab.md section 3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
SINGLE = "classifier.classifier."  # only the single-head layout has such names
DECODER = "classifier.project."  # only DeepLabV3+ has such names

MULTI_V3PLUS = {"classifier.aspp.low.": DECODER, "classifier.aspp.aspp.": "classifier.aspp."}
SINGLE_V3PLUS = {
    **MULTI_V3PLUS,
    "classifier.head_pre.0.": f"{SINGLE}0.",
    "classifier.head_pre.1.": f"{SINGLE}1.",
    "classifier.head.0.": f"{SINGLE}3.",
}
SINGLE_V3 = {
    "classifier.aspp.": f"{SINGLE}0.",
    "classifier.head_pre.0.": f"{SINGLE}1.",
    "classifier.head_pre.1.": f"{SINGLE}2.",
    "classifier.head.0.": f"{SINGLE}4.",
}


def published_names(own: Iterable[str], *, single_head: bool, v3plus: bool) -> dict[str, str]:
    """Map our names of a network's tensors to the published ones, in our order.

    Args:
        own: names in our network.
        single_head: one classifier (the code base itself) instead of one per step (SSUL).
        v3plus: DeepLabV3+.

    >>> published_names(["classifier.aspp.low.0.weight"], single_head=False, v3plus=True)
    {'classifier.aspp.low.0.weight': 'classifier.project.0.weight'}
    """
    multi = MULTI_V3PLUS if v3plus else {}
    prefixes = (SINGLE_V3PLUS if v3plus else SINGLE_V3) if single_head else multi
    return {name: _replaced(name, prefixes) for name in own}


def own_names(state: Mapping[str, T], own: Iterable[str]) -> dict[str, T]:
    """Rename a published state dict to our names. Names from which the layout cannot be told stay as they are.

    Args:
        state: by published names.
        own: names in our network.
    """
    names = published_names(
        own,
        single_head=any(name.startswith(SINGLE) for name in state),
        v3plus=any(name.startswith(DECODER) for name in state),
    )
    back = {published: name for name, published in names.items()}
    return {back.get(name, name): value for name, value in state.items()}


def _replaced(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name
