"""Turn an fp32 ONNX graph into one that computes in int8; it does not decide whether the result is good enough."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barm.silence import no_warnings_logged

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
BETWEEN = ("Clip", "Concat", "MaxPool", "Pad", "Relu", "Split")  # stay in int8 between two of those; sums lose too much
SIZES = ("Shape", "Size")  # what depends on them alone is a number, no map


def quantise(content: bytes, images: Sequence[NDArray[np.uint8]]) -> bytes:
    """Quantise what lies before the last convolution or matrix product on every way through the graph.

    Weights are int8 with a scale per channel, activations uint8 with the range that they have on the images. Weights
    use 7 of the 8 bits: sums of 16 bits, with which processors without VNNI add up, do not overflow then, so that the
    file predicts the same everywhere. Normalisation, the classifier and what comes after it stay in fp32.

    Args:
        content: an ONNX file with an input ``image``, ``(N, H, W, 3)`` uint8; nodes have names.
        images: ``(H, W, 3)`` uint8 each, of any sizes.

    Returns:
        An ONNX file with the same inputs and outputs, and no metadata.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load_from_string(content)
    names = before_the_last(model.graph)
    add_pre_process_metadata(model)  # shapes are in the graph already, and batch norm is folded
    with tempfile.TemporaryDirectory() as folder, no_warnings_logged():
        target = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            target,
            _reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*WEIGHTED, *BETWEEN],
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},  # products of two activations, as in attention, stay in fp32
        )
        made = onnx.load(target)
    del made.metadata_props[:]
    return bytes(made.SerializeToString())


def before_the_last(graph: Any) -> list[str]:
    """Names of the nodes to quantise: from the first node with weights on, if another one comes after it."""
    maps, needed, names = set[str](), set[str](), list[str]()
    for node in graph.node:  # in the order of computation
        if node.op_type not in SIZES and (node.op_type in WEIGHTED or maps.intersection(node.input)):
            maps.update(node.output)
    for node in reversed(graph.node):
        leads = not needed.isdisjoint(node.output)
        if leads or node.op_type in WEIGHTED:
            needed.update(node.input)
        if leads and node.op_type in (*WEIGHTED, *BETWEEN) and not maps.isdisjoint(node.output):
            names.append(node.name)
    return names[::-1]


def _reader(images: Sequence[NDArray[np.uint8]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            image = next(self.rest, None)
            return None if image is None else {"image": image[None]}

    return Reader()
