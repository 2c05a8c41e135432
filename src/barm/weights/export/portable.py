"""The whole computation from an image to labels as one module, and the description of its file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from barm import __version__
from barm.errors import UserError
from barm.methods.base import Method
from barm.models.frozen import fold_batch_norm
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import computed_by
from barm.weights.export.padding import pad_simply
from barm.weights.trained import FORMAT, Trained

EXAMPLE = (2, 1040, 1456)  # batch, height and width of the image that is traced: no map of it is one window alone
LEAST_SIDE = 32  # pixels; of smaller ones the features may be one pixel, which a traced graph treats as a constant
LEAST_SIDES = (LEAST_SIDE, 2 * LEAST_SIDE)
LARGEST = 1 << 16
LEAST_TORCH = "2.11"  # older releases do not trace every network for any size
KEPT = ("torch", "timm", "python", "git", "device", "precision", "seed", "task", "setting")  # of the provenance


class Portable(nn.Module):
    """Module from images to labels: normalisation, network, and the method's prediction.

    Args:
        network: in evaluation mode; a copy with folded batch norm is taken.
        method: turns the network's output into predictions.
    """

    def __init__(self, network: nn.Module, method: Method[Any, Any]) -> None:
        super().__init__()
        self.network = fold_batch_norm(copy.deepcopy(network).eval().requires_grad_(False).float())
        pad_simply(self.network)
        _write_anew(self.network)
        self.method = method

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Predict labels ``(N, H, W)`` uint8 and the largest probability per pixel from RGB ``(N, H, W, 3)`` uint8."""
        size = (image.shape[1], image.shape[2])
        with computed_by("plain"):  # formulas on whole tensors: a graph has no strips
            out = self.network(image.permute(0, 3, 1, 2))
            labels, (best, _) = self.method.predict(out, size), self.method.confidence(out, size)
        return labels.to(torch.uint8), best


class Graph(NamedTuple):
    """A traced module, and the least side of its images in pixels."""

    program: ExportedProgram
    least: int


def trace(portable: Portable) -> Graph:
    """Trace the module to a graph for any batch and any size of at least `LEAST_SIDE` pixels a side.

    Where features of so small an image have one pixel, which a graph takes for a constant, the least side is larger.

    Raises:
        UserError: if torch is older than `LEAST_TORCH`.
    """
    if torch.__version__ < LEAST_TORCH:
        raise UserError(
            f"a graph needs torch >= {LEAST_TORCH}, found {torch.__version__}: update torch and "
            "torchvision, or export with --format safetensors, which needs no graph"
        )
    for least in LEAST_SIDES[:-1]:
        try:
            return Graph(_traced(portable, least), least)
        except Exception as error:  # of a class that torch does not make public
            if "Constraints violated" not in str(error):
                raise
    return Graph(_traced(portable, LEAST_SIDES[-1]), LEAST_SIDES[-1])


def _traced(portable: Portable, side: int) -> ExportedProgram:
    example = torch.zeros(*EXAMPLE, 3, dtype=torch.uint8)
    least = {"batch": 1, "height": side, "width": side}
    dims = {i: Dim(name, min=size, max=LARGEST) for i, (name, size) in enumerate(least.items())}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            portable,
            (example,),
            dynamic_shapes={"image": dims},
            # floors of sizes divided by strides are more than the solver of constraints can prove
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return program


def describe(trained: Trained, least: int = LEAST_SIDE) -> dict[str, Any]:
    """Describe the file, in values that JSON can hold (docs/export.md).

    Args:
        trained: the network.
        least: side of the smallest images that the file takes, in pixels.
    """
    step, names = trained.method.step, [c["name"] for c in trained.record["classes"]]
    network = NetworkConfig.stored(trained.record["model"])
    by_id = {c["id"]: c["name"] for c in trained.record["classes"]}
    return {
        "format": FORMAT,
        "barm": __version__,
        "method": trained.record["method"]["name"],
        "backbone": trained.record["model"]["backbone"],
        "step": step.index,
        "num_steps": trained.record["num_steps"],
        "class_names": names,
        "colours": [c["colour"] for c in trained.record["classes"]],
        "learned": [[by_id[i] for i in group] for group in step.groups],
        "input": {
            "name": "image",
            "dtype": "uint8",
            "shape": ["batch", "height", "width", 3],
            "channels": "RGB",
            "least_side": least,
        },
        "normalisation": {**network.rule._asdict(), "of": "values / 255", "inside": True},
        "outputs": {
            "labels": {"dtype": "uint8", "shape": ["batch", "height", "width"], "meaning": "position in class_names"},
            "confidence": {
                "dtype": "float32",
                "shape": ["batch", "height", "width"],
                "meaning": "largest probability of a class at the pixel",
            },
        },
        "provenance": _kept(trained.origin),
    }


def _write_anew(network: nn.Module) -> None:
    """Make every activation out of place.

    Tracing checks at length, layer by layer, what writing in place does to sizes.
    """
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def _kept(origin: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the provenance that is about the network and not about somebody's machine."""
    return {name: origin[name] for name in KEPT if name in origin}
