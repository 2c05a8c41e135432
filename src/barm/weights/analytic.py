"""Find the regression of a SegACIL network in a state dict, and give its tensors barm's names.

The body has the names of BARM's official code. Those of the regression differ from program to program, so its two
matrices are told by their sizes. Source: spec/segacil.md sections 1 and 2; spec/barm.md section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from barm.weights.kind import Kind, State
from barm.weights.steps import IMPORT
from barm.words import count

if TYPE_CHECKING:
    from torch import Tensor

BRANCH = "classifier.head_pre.0.weight"
BODY = ("backbone.", "classifier.aspp.", "classifier.head_pre.")
TRAINED = ("classifier.head.0.weight", "classifier.head.0.bias")  # of step 0, which the regression replaces
PROJECTION, WEIGHT = "classifier.regression.projection", "classifier.regression.weight"


class RegressionNames(NamedTuple):
    """A regression in a state dict.

    Attributes:
        prefix: of the body's names, such as ``module.``.
        projection: name of P, ``(E, D)``.
        weight: name of W, ``(E, C)`` or ``(C, E)``.
        width: E.
        outputs: C.
    """

    prefix: str
    projection: str
    weight: str
    width: int
    outputs: int


def find_regression(state: State, prefixes: Iterable[str]) -> RegressionNames | None:
    """The regression of a SegACIL network; none if the tensors are not such a network's, or leave it open.

    Args:
        state: names and shapes.
        prefixes: that the names of the body may have.
    """
    for prefix in prefixes:
        if state.has(*(f"{prefix}{name}" for name in (*BODY, BRANCH))):
            return _matrices(state, prefix)
    return None


def _matrices(state: State, prefix: str) -> RegressionNames | None:
    """The only projection of the branch's features, and the only matrix that fits behind it."""
    features, apart = state.tensors[f"{prefix}{BRANCH}"][0], tuple(f"{prefix}{n}" for n in (*BODY, "classifier.head."))
    matrices = {
        name: shape[:2]
        for name, shape in state.tensors.items()
        if not name.startswith(apart) and len(shape) in (2, 4) and set(shape[2:]) <= {1}
    }
    projections = [name for name, (rows, columns) in matrices.items() if columns == features != rows]
    if len(projections) != 1:
        return None
    width = matrices.pop(projections[0])[0]
    weights = {name: sum(shape) - width for name, shape in matrices.items() if width in shape and len({*shape}) == 2}
    if len(weights) != 1:
        return None
    ((weight, outputs),) = weights.items()
    return RegressionNames(prefix, projections[0], weight, width, outputs)


def kind_of_regression(state: State, found: RegressionNames) -> Kind:
    """The kind of such a state dict."""
    inner = state.without(found.prefix)
    backbone = "mobilenet" if inner.has("backbone.high_level_features.") else inner.resnet("backbone.")
    model = f"deeplabv3bga_{backbone}" if backbone in ("resnet50", "resnet101", "mobilenet") else ""
    lacks = ["--dataset", "--task", *([] if model else ["--model"])]
    outputs = count(found.outputs, "outputs")
    return Kind(
        "segacil",
        f"a network of SegACIL with {outputs}, a regression of width {found.width} on {backbone or 'a backbone'}",
        f"{IMPORT}, given {', '.join(lacks[:-1])} and {lacks[-1]}; it does not hold the sums of the steps before",
        "import",
        f"deeplabv3bga_{backbone or 'unknown'}",
        found.outputs,
        model=model,
        method="segacil",
        settings=(f"method.width={found.width}",),
    )


def named_as_here(state: Mapping[str, Tensor], found: RegressionNames) -> dict[str, Tensor]:
    """The tensors under barm's names, without what is not part of the network, such as the inverse of the sums."""
    body = {name.removeprefix(found.prefix): value for name, value in state.items()}
    weight = state[found.weight].flatten(1)
    weight = weight.T if weight.shape[0] == found.width else weight
    return {
        **{name: value for name, value in body.items() if name.startswith(BODY)},
        PROJECTION: state[found.projection].flatten(1)[:, :, None, None].float(),
        WEIGHT: weight[:, :, None, None].float(),
    }
