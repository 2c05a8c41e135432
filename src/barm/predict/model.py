"""Load a trained network and predict labels from images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from barm.data.images import SMALLEST, check_size, to_rgb
from barm.data.palette import display_palette
from barm.engine.runtime import Runtime
from barm.errors import UserError, nearest
from barm.labels import IGNORE
from barm.losses.common import best_channel, sure_channel
from barm.methods.base import Method
from barm.ops.strips import map_views
from barm.ops.upsampled import upsample
from barm.weights.trained import open_trained

ImageLike = Image.Image | NDArray[np.uint8]
Labels = NDArray[np.uint8]


def load(
    path: Path | str,
    step: int | None = None,
    runtime: Runtime | None = None,
    *,
    device: str | None = None,
    precision: str | None = None,
) -> Model:
    """Load the network of a run, a file, or a hub.

    Args:
        path: the run's folder, a file that ``barm export --format safetensors`` wrote, or
            ``hf://owner/name[@revision]``.
        step: which step of a run; the last by default.
        runtime: device and precision; by default as the run was configured.
        device: overrides the device of the run.
        precision: overrides the precision of the run.
    """
    found = open_trained(path, step)
    if runtime is None:
        runtime = Runtime(found.runtime.changed(device=device, precision=precision))
    return Model(found.network, found.method, found.record, runtime)


class Model:
    """A trained network with its classes, as a function from images to labels.

    Attributes:
        class_names: by channel, background first.
        colours: the data set's colours by channel, for masks, ``(C, 3)`` uint8.
        display_colours: colours for display by channel, ``(C, 3)`` uint8 (`barm.data.palette`).
        class_ids: by channel, the number of the class in the data set's masks; after an extension, which has several
            data sets, the position in learning order.
        step: index of the step it was trained in.
    """

    def __init__(self, network: nn.Module, method: Method[Any, Any], record: Mapping[str, Any], rt: Runtime) -> None:
        self._network, self._method, self._rt = rt.constant(network), method, rt
        self.class_names = tuple(c["name"] for c in record["classes"])
        self.colours = np.array([c["colour"] for c in record["classes"]], np.uint8)
        self.display_colours = display_palette()[: len(self.class_names)]
        self.class_ids = tuple(int(c["id"]) for c in record["classes"])
        self.step = method.step.index

    @overload
    def predict(
        self,
        image: ImageLike,
        *,
        sizes: Sequence[float] = ...,
        flip: bool = ...,
        classes: Sequence[str] | None = ...,
        sure: float = ...,
        batch: int = ...,
    ) -> Labels: ...
    @overload
    def predict(
        self,
        image: Sequence[ImageLike],
        *,
        sizes: Sequence[float] = ...,
        flip: bool = ...,
        classes: Sequence[str] | None = ...,
        sure: float = ...,
        batch: int = ...,
    ) -> list[Labels]: ...
    def predict(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        sizes: Sequence[float] = (1.0,),
        flip: bool = False,
        classes: Sequence[str] | None = None,
        sure: float = 0.0,
        batch: int = 8,
    ) -> Labels | list[Labels]:
        """Label every pixel of an image, or of several.

        Args:
            image: a PIL image of any mode, or an array ``(H, W, 3)`` or ``(H, W)`` uint8, at least 16 pixels a side;
                or a list of them. Pixels are taken as they stand: a photograph whose EXIF data say that it lies on its
                side has to be turned before (`read_image` does).
            sizes: at which the network sees the image. A number below 16 is a factor, one from 16 on the short side
                in pixels. Of several, the mean of the classes' probabilities decides.
            flip: also predict the mirrored image, and average.
            classes: names; all others become background. Channels stay what they are.
            sure: a pixel whose class is less probable than this is 255, which training ignores.
            batch: images of one size that go through the network together.

        Returns:
            Channels (positions in `class_names`) at the image's own size, ``(H, W)`` uint8; a list of them for a
            list.

        Raises:
            UserError: an image that is too small or no image, a size that is not above 0, or an unknown class.
        """
        self.check_sure(sure)
        shown = self.shown(classes)
        if isinstance(image, Image.Image | np.ndarray):
            return self._labels([as_image(image)], sizes, flip, shown, sure)[0]
        images = [as_image(one) for one in image]
        by_size: dict[tuple[int, int], list[int]] = {}
        for place, rgb in enumerate(images):
            by_size.setdefault(rgb.size, []).append(place)
        found: dict[int, Labels] = {}
        for places in by_size.values():
            for start in range(0, len(places), max(1, batch)):
                part = places[start : start + max(1, batch)]
                found.update(zip(part, self._labels([images[i] for i in part], sizes, flip, shown, sure), strict=True))
        return [found[place] for place in range(len(images))]

    def scores(self, image: ImageLike, *, sizes: Sequence[float] = (1.0,), flip: bool = False) -> NDArray[np.float32]:
        """Compute probabilities per class and pixel; `predict` is the channel where they are largest.

        Args:
            image: as for `predict`.
            sizes: as for `predict`.
            flip: as for `predict`.

        Returns:
            ``(C, H, W)`` float32 in the order of `class_names`. They need not sum to 1: a method that trains with a
            binary cross-entropy asks every class by itself, and SSUL adds the unknown's share to background's.
        """
        rgb = as_image(image)
        views = self._views([rgb], sizes, flip)
        total = _total(self._method.decided(upsample(view, (rgb.height, rgb.width)))[0] for view in views)
        return np.asarray((total / len(views)).cpu().numpy(), np.float32)

    def background(self, image: ImageLike) -> NDArray[np.float32]:
        """Compute what BARM's background is made of: its logit at step 0, and the residual that every step adds.

        Args:
            image: as for `predict`.

        Returns:
            ``(T, H, W)`` float32 at the image's size: the logit z_0[0], then min(a_t, 0) for every later step where it
            acts. Their sum is the background's logit (spec/barm.md section 2).

        Raises:
            UserError: for a network without residuals.
        """
        rgb = as_image(image)
        size = (rgb.height, rgb.width)
        parts = self._method.background_parts(self._network(self._pixels([rgb], size)))
        if not parts:
            raise UserError(f"{self._method.config.name} has no residuals of the background: give a run of barm")
        return np.asarray(upsample(torch.cat(parts, dim=1), size)[0].cpu().numpy(), np.float32)

    def _labels(
        self, images: Sequence[Image.Image], sizes: Sequence[float], flip: bool, shown: Labels | None, sure: float
    ) -> list[Labels]:
        """Predict channels of images of one size."""
        size, method = (images[0].height, images[0].width), self._method
        if tuple(sizes) == (1.0,) and not flip and not sure:
            labels = method.predict(self._network(self._pixels(images, size)), size)
        else:
            views = self._views(images, sizes, flip)
            number = len(views)

            def label(*values: Tensor) -> Tensor:
                total = _total(map(method.decided, values))
                return sure_channel(total / number, least=sure) if sure else best_channel(total)

            labels = map_views(label, views, size)
        found = np.asarray(labels.to(torch.uint8).cpu().numpy())
        return list(found if shown is None else shown[found])

    def _views(self, images: Sequence[Image.Image], sizes: Sequence[float], flip: bool) -> list[Tensor]:
        """The values that the method upsamples, for every size, and for flipped images (flipped back)."""
        if not sizes:
            raise UserError("no sizes: give at least one, such as 1.0")
        views = []
        for wanted in sizes:
            pixels = self._pixels(images, _scaled(images[0].size, wanted))
            views.append(self._method.upsampled(self._network(pixels)))
            if flip:
                views.append(self._method.upsampled(self._network(pixels.flip(3))).flip(3))
        return views

    def _pixels(self, images: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
        """Images of one size, resized, on the device, ``(N, 3, *size)`` uint8."""
        planes = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in images])
        if planes.shape[2:] != size:
            planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
        return planes.to(self._rt.device)

    def check_sure(self, sure: float) -> None:
        """Refuse a threshold that is no probability, or that has none to be compared with.

        Raises:
            UserError: says why.
        """
        if not 0 <= sure < 1:
            raise UserError(f"expected a probability from 0 to below 1 to be sure of a class, got {sure:g}")
        name, config = self._method.config.name, self._method.config
        if sure and not config.probable:
            raise UserError(
                f"the scores of {name} are no probabilities, so no threshold on them can be given: leave it out"
            )

    def shown(self, classes: Sequence[str] | None) -> Labels | None:
        """Table from channel to channel, ``(256,)``, in which all but these classes become background; None for all.

        Raises:
            UserError: for a name that the model does not know.
        """
        if classes is None:
            return None
        table = np.zeros(256, np.uint8)
        for name in classes:
            if name not in self.class_names:
                known = f"; known: {', '.join(self.class_names)}"
                raise UserError(f"unknown class '{name}'{nearest(name, self.class_names) or known}")
            table[self.class_names.index(name)] = self.class_names.index(name)
        table[IGNORE] = IGNORE
        return table


def as_image(image: ImageLike) -> Image.Image:
    """Convert an image to RGB.

    Raises:
        UserError: for an array of another shape or type, an image below 16 pixels a side, or one whose values have no
            defined white (`read_image`).
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            found = f"{'x'.join(map(str, image.shape))} {image.dtype}"
            raise UserError(f"an image as an array is (H, W, 3) or (H, W) uint8, found {found}: convert it")
        image = Image.fromarray(image)
    check_size(image.size, "the image")
    return to_rgb(image)[0]


def _scaled(size: tuple[int, int], wanted: float) -> tuple[int, int]:
    """``(height, width)`` for an image of ``(width, height)``, from a factor or from a short side in pixels."""
    if not 0 < wanted < float("inf"):
        raise UserError(f"a size is a factor such as 0.75, or the short side in pixels from 16 on, got {wanted}")
    factor = wanted if wanted < SMALLEST else wanted / min(size)
    return max(SMALLEST, round(size[1] * factor)), max(SMALLEST, round(size[0] * factor))


def _total(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    return sum(others, start=first)
