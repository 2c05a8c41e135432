"""Networks in files, ONNX or torch.export, as functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barm.errors import UserError
from barm.reading import Unfit, check_regular, short

Outputs = Mapping[str, NDArray[Any]]
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
TAKES = "a saliency network takes one image, (1, 3, H, W) of floating-point numbers"


@dataclass(frozen=True)
class Graph:
    """A network in a file.

    Attributes:
        path: of the file.
        library: that runs it.
        version: the library's.
        size: height and width that the network takes; None where any will do.
        run: ``(1, 3, H, W)`` float32 to the outputs by name, or by position where they have no names.
    """

    path: Path
    library: str
    version: str
    size: tuple[int | None, int | None]
    run: Callable[[NDArray[np.float32]], Outputs]


def open_graph(path: Path) -> Graph:
    """Open a network's file.

    Raises:
        UserError: if there is no such file, it holds no such network, or the library that reads it is missing.
    """
    try:
        check_regular(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}: expected a saliency network, .onnx or .pt2") from None
    openers = {".onnx": _open_onnx, ".pt2": _open_exported}
    if path.suffix.lower() not in openers:
        what = f"ends in '{path.suffix}', expected .onnx or .pt2"
        raise Unfit(path, what, "export the network with torch.onnx.export or torch.export.save")
    return openers[path.suffix.lower()](path)


def _open_onnx(path: Path) -> Graph:
    """Open an ONNX file, on a GPU where the installed onnxruntime has one."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{path} needs onnxruntime, which cannot be imported ({short(error)}): pip install 'barm-seg[saliency]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of a file is in the error
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # the library has a type for every kind of defect
        raise Unfit(path, f"cannot be opened as ONNX ({short(error)})", "export the network anew") from None
    inputs, names = session.get_inputs(), [output.name for output in session.get_outputs()]
    found = ", ".join(f"{one.type} {one.shape}" for one in inputs)
    if len(inputs) != 1 or inputs[0].type not in FLOATS:
        raise Unfit(path, f"takes {found or 'nothing'}: {TAKES}", "export it so")
    kind = FLOATS[inputs[0].type]

    def run(image: NDArray[np.float32]) -> Outputs:
        try:
            return dict(zip(names, session.run(names, {inputs[0].name: image.astype(kind)}), strict=True))
        except Exception as error:
            raise _failed(path, image, error) from None

    return Graph(path, "onnxruntime", onnxruntime.__version__, _size(inputs[0].shape, path), run)


def _open_exported(path: Path) -> Graph:
    """Open a torch.export file, on the device for which it was exported."""
    import torch

    try:
        program = torch.export.load(path)
        module = program.module()
        names = program.graph_signature.user_inputs
        values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    except Exception as error:  # a damaged archive makes torch fail in any way
        raise Unfit(path, f"cannot be opened as a torch.export file ({short(error)})", "export it anew") from None
    if len(values) != 1 or not isinstance(values[0], torch.Tensor) or not values[0].is_floating_point():
        found = ", ".join(f"{one.dtype} {list(one.shape)}" for one in values if isinstance(one, torch.Tensor))
        raise Unfit(path, f"takes {found or 'no tensor'}: {TAKES}", "export it so")
    kind, device = values[0].dtype, values[0].device

    def run(image: NDArray[np.float32]) -> Outputs:
        try:
            with torch.no_grad():
                result = module(torch.from_numpy(image).to(device, kind))
            pairs = result.items() if isinstance(result, Mapping) else enumerate(_flat(result))
            return {str(name): value.float().cpu().numpy() for name, value in pairs}
        except Exception as error:
            raise _failed(path, image, error) from None

    shape = [int(side) if isinstance(side, int) else None for side in values[0].shape]
    return Graph(path, "torch", torch.__version__, _size(shape, path), run)


def _flat(result: Any) -> list[Any]:
    return [one for part in result for one in _flat(part)] if isinstance(result, list | tuple) else [result]


def _size(shape: list[Any], path: Path) -> tuple[int | None, int | None]:
    """Height and width of an input; dimensions that may vary have a name or None instead of a number."""
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape]
    last = len(sides) == 4 and sides[1] is None and sides[3] == 3  # (N, H, W, 3)
    if len(sides) != 4 or sides[0] not in (None, 1) or sides[1] not in (None, 3) or last:
        raise Unfit(path, f"takes an input of shape {shape}: {TAKES}", "export it so")
    return sides[2], sides[3]


def _failed(path: Path, image: NDArray[np.float32], error: Exception) -> Unfit:
    size = f"{image.shape[3]}x{image.shape[2]}"
    return Unfit(path, f"fails on an image of {size} ({short(error)})", "check --input-size, or export it anew")
