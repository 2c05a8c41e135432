"""Saliency by a network that the user has, in an ONNX or torch.export file: what it is shown, what its output means."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from barm.data.saliency.graphs import Graph, open_graph
from barm.data.saliency.record import Recipe
from barm.data.saliency.tool import Pixels, Threshold, Tool, Values, threshold_settings
from barm.errors import UserError
from barm.reading import Unfit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, red first
SIDE = 320  # of U2-Net's input, where neither the file nor the user says it
SLACK = 1e-3  # outside 0..1
Activation = Literal["none", "sigmoid", "softmax"]
Channels = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class SaliencySettings:
    """What a saliency network is shown, and what its output means.

    Attributes:
        size: ``(width, height)`` to which images are scaled; ``native`` leaves them as they are; by default what the
            file says, or 320.
        mean: is subtracted from the channels, after the division by `scale`, in the order of `channels`; ImageNet's
            by default.
        std: the channels are then divided by it.
        scale: pixel values in 0..255 are divided by it, 255 or 1.
        channels: order in which the network takes red, green and blue.
        output: name or position of one of several outputs.
        activation: applied to the output. Of two channels the second is that of salient pixels.
        stretch: map every image's smallest and largest output to 0 and 1.
    """

    size: tuple[int, int] | Literal["native"] | None = None
    mean: Triple | None = None
    std: Triple | None = None
    scale: Literal[255, 1] = 255
    channels: Channels = "rgb"
    output: str = "0"
    activation: Activation = "none"
    stretch: bool = False

    def resolved(self, graph: Graph) -> SaliencySettings:
        """The settings with nothing left open.

        Raises:
            Unfit: if the file takes images of another size.
            UserError: if the scale is not that of the default mean.
        """
        if self.scale == 1 and (self.mean is None or self.std is None):
            raise UserError(
                "--scale 1 leaves pixel values in 0 to 255: give --mean and --std in these units too, such as "
                "--mean 104,117,123 --std 1,1,1"
            )
        (height, width), rgb = graph.size, self.channels == "rgb"
        size = self.size or (width or SIDE, height or SIDE)
        asked = (None, None) if size == "native" else size
        if (width or asked[0], height or asked[1]) != asked:
            what = f"takes images of {width or 'any'}x{height or 'any'}, not {_by(size)}"
            raise Unfit(graph.path, what, "leave --input-size out")
        mean, std = (defaults if rgb else _reversed(defaults) for defaults in (MEAN, STD))
        return replace(self, size=size, mean=self.mean or mean, std=self.std or std)

    def described(self) -> dict[str, str]:
        """The settings as texts by name."""
        return {
            "input size": _by(self.size or ()),
            "mean": ", ".join(f"{v:g}" for v in self.mean or ()),
            "std": ", ".join(f"{v:g}" for v in self.std or ()),
            "scale": str(self.scale),
            "channels": self.channels,
            "output": self.output,
            "activation": self.activation,
            "stretch": "yes" if self.stretch else "no",
        }


def network(path: Path, settings: SaliencySettings, threshold: Threshold = 0.5, *, grey: bool = False) -> Tool:
    """Open a saliency network.

    Args:
        path: a file ``.onnx`` or ``.pt2``.
        settings: what it is shown, what its output means.
        threshold: as `Tool` has it.
        grey: as `Tool` has it.

    Raises:
        UserError: for a file that is no such network, settings that do not fit it, or a library that is missing.
    """
    graph = open_graph(path)
    settings, lock = settings.resolved(graph), Lock()

    def saliency(image: Pixels) -> Values:
        shown = prepared(image, settings)
        with lock:  # the libraries use all processors for one image
            outputs = graph.run(shown)
        values = probabilities(chosen(outputs, settings.output, path), settings, path)
        return resized(values, (image.shape[1], image.shape[0]))

    recipe = Recipe(
        tool=graph.library,
        version=graph.version,
        file=path.name,
        sha256=digest(path),
        settings={**settings.described(), **threshold_settings(threshold, grey)},
    )
    return Tool(recipe, saliency, threshold, grey)


def prepared(image: Pixels, settings: SaliencySettings) -> NDArray[np.float32]:
    """Scale and normalise an image for a network, ``(1, 3, H, W)`` float32."""
    size = settings.size
    if isinstance(size, tuple) and size != (image.shape[1], image.shape[0]):
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    values = image[..., :: 1 if settings.channels == "rgb" else -1] / np.float32(settings.scale)
    values = (values - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def chosen(outputs: Mapping[str, NDArray[Any]], wanted: str, path: Path) -> NDArray[Any]:
    """Choose an output by its name or its position.

    Raises:
        Unfit: if there is none of that name or at that position.
    """
    if wanted in outputs:
        return outputs[wanted]
    try:
        return list(outputs.values())[int(wanted)]
    except (ValueError, IndexError):
        names = ", ".join(f"'{name}'" for name in list(outputs)[:8])
        raise Unfit(path, f"has the outputs {names}, not '{wanted}'", "give a name, or a position from 0 on") from None


def probabilities(output: NDArray[Any], settings: SaliencySettings, path: Path) -> Values:
    """Turn a network's output into saliency in 0..1, ``(h, w)``.

    Args:
        output: ``(1, 1, h, w)``, ``(1, 2, h, w)`` or ``(1, h, w)``.
        settings: the activation, and whether values are stretched.
        path: of the network, for messages.

    Raises:
        Unfit: for another shape, or values that are no saliency.
    """
    shape = output.shape
    if output.ndim not in (3, 4) or shape[0] != 1 or 0 in shape or (output.ndim == 4 and shape[1] not in (1, 2)):
        what = f"gives an output of shape {shape}, expected (1, 1, H, W), (1, 2, H, W) or (1, H, W)"
        raise Unfit(path, what, "choose another with --output, or export the network with such an output")
    values = np.asarray(output[0] if output.ndim == 4 else output, np.float64)
    if not np.isfinite(values).all():
        raise Unfit(path, "gives values that are not finite", "check --mean, --std and --scale")
    if settings.activation == "softmax":
        if len(values) == 1:
            raise Unfit(path, "gives one channel, softmax needs two", "pass --activation sigmoid or none")
        values = _sigmoid(values[1] - values[0])
    else:
        values = _sigmoid(values[-1]) if settings.activation == "sigmoid" else values[-1]
    low, high = float(values.min()), float(values.max())
    if settings.stretch:
        values = (values - low) / max(high - low, 1e-12)
    elif low < -SLACK or high > 1 + SLACK:
        what = f"gives values from {low:.3g} to {high:.3g}, expected 0 to 1"
        raise Unfit(path, what, "pass --activation sigmoid (one channel) or softmax (two), or --stretch")
    return values.clip(0, 1).astype(np.float32)


def resized(values: Values, size: tuple[int, int]) -> Values:
    """Scale ``(h, w)`` to an image's ``(width, height)``, bilinear."""
    if values.shape == size[::-1]:
        return values
    scaled = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(scaled, np.float32).clip(0, 1)


def digest(path: Path) -> str:
    """SHA-256 of a network's file, and of the weights that ONNX may store beside it as ``FILE.data``."""
    total = hashlib.sha256()
    for part in (path, path.with_name(f"{path.name}.data")):
        if part.is_file():
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
    return total.hexdigest()


def _by(size: tuple[int, ...] | str) -> str:
    return size if isinstance(size, str) else "x".join(map(str, size))


def _reversed(values: Triple) -> Triple:
    return values[2], values[1], values[0]


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(0.5 * values))
