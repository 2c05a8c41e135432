"""The Python interface: `fit`, `load`, `evaluate`. The command line calls the same functions."""

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

from barm.config import load_config, merge, parse_override, validate
from barm.data.base import Source
from barm.data.images import SMALLEST, check_size, to_rgb
from barm.data.images import probe_picture as probe_picture
from barm.data.images import read_picture as read_picture
from barm.data.palette import display_palette
from barm.engine.capacity import check_evaluation
from barm.engine.earlier import scores_of
from barm.engine.identity import difference, settings, to_table
from barm.engine.monitor import Monitor
from barm.engine.recipe import RunConfig
from barm.engine.runtime import Runtime
from barm.engine.sequence import Data, evaluate_step, load_step, open_data, run
from barm.engine.shared import SharedDirectory
from barm.engine.sizes import sized
from barm.engine.store import RunDirectory
from barm.errors import UserError, nearest
from barm.escaping import markup
from barm.losses.common import best_channel, upsample
from barm.losses.strips import map_views
from barm.methods import Method
from barm.report.compare import Row, read_results, summarise, write_comparison
from barm.trained import open_trained

Picture = Image.Image | NDArray[np.uint8]
Labels = NDArray[np.uint8]
Where = Path | str | tuple[Source, Source]  # a folder, or the training and the validation source


class Model:
    """A trained network with its classes.

    Attributes:
        class_names: by channel, background first.
        colours: those of the data set, by channel, ``(C, 3)`` uint8; masks have them.
        display_colours: those of pictures for people, by channel, ``(C, 3)`` uint8 (`barm.data.palette`).
        class_ids: by channel, the number of the class in the data set's masks; after an extension, which has several
            data sets, the place in the order of learning.
        step: index of the step it was trained in.
    """

    def __init__(self, network: nn.Module, method: Method[Any], about: Mapping[str, Any], rt: Runtime) -> None:
        self._network, self._method, self._rt = rt.constant(network), method, rt
        self.class_names = tuple(c["name"] for c in about["classes"])
        self.colours = np.array([c["colour"] for c in about["classes"]], np.uint8)
        self.display_colours = display_palette()[: len(self.class_names)]
        self.class_ids = tuple(int(c["id"]) for c in about["classes"])
        self.step = method.step.index

    @overload
    def predict(
        self,
        image: Picture,
        *,
        sizes: Sequence[float] = ...,
        flip: bool = ...,
        classes: Sequence[str] | None = ...,
        batch: int = ...,
    ) -> Labels: ...
    @overload
    def predict(
        self,
        image: Sequence[Picture],
        *,
        sizes: Sequence[float] = ...,
        flip: bool = ...,
        classes: Sequence[str] | None = ...,
        batch: int = ...,
    ) -> list[Labels]: ...
    def predict(
        self,
        image: Picture | Sequence[Picture],
        *,
        sizes: Sequence[float] = (1.0,),
        flip: bool = False,
        classes: Sequence[str] | None = None,
        batch: int = 8,
    ) -> Labels | list[Labels]:
        """Label every pixel of a picture, or of several.

        Args:
            image: a PIL picture of any mode, or an array ``(H, W, 3)`` or ``(H, W)`` uint8, at least 16 pixels a side;
                or a list of them. Pixels are taken as they stand: a photograph whose EXIF data say that it lies on its
                side has to be turned before (`read_picture` does).
            sizes: at which the network sees the picture. A number below 16 is a factor, one from 16 on the short side
                in pixels. Of several, the mean of the classes' probabilities decides.
            flip: also look at the mirror image.
            classes: names; all others become background. Channels stay what they are.
            batch: pictures of one size that go through the network together.

        Returns:
            Channels (positions in `class_names`) at the picture's own size, ``(H, W)`` uint8; a list of them for a
            list.

        Raises:
            UserError: a picture that is too small or no picture, a size that is not above 0, or an unknown class.
        """
        shown = self.shown(classes)
        if isinstance(image, Image.Image | np.ndarray):
            return self._labels([as_picture(image)], sizes, flip, shown)[0]
        pictures = [as_picture(one) for one in image]
        by_size: dict[tuple[int, int], list[int]] = {}
        for place, picture in enumerate(pictures):
            by_size.setdefault(picture.size, []).append(place)
        found: dict[int, Labels] = {}
        for places in by_size.values():
            for start in range(0, len(places), max(1, batch)):
                part = places[start : start + max(1, batch)]
                found.update(zip(part, self._labels([pictures[i] for i in part], sizes, flip, shown), strict=True))
        return [found[place] for place in range(len(pictures))]

    def scores(self, image: Picture, *, sizes: Sequence[float] = (1.0,), flip: bool = False) -> NDArray[np.float32]:
        """Probabilities per class and pixel; `predict` is the channel where they are largest.

        Args:
            image: as for `predict`.
            sizes: as for `predict`.
            flip: as for `predict`.

        Returns:
            ``(C, H, W)`` float32 in the order of `class_names`. They need not sum to 1: a method that trains with a
            binary cross-entropy asks every class by itself, and SSUL adds the unknown's share to background's.
        """
        picture = as_picture(image)
        views = self._views([picture], sizes, flip)
        total = _total(self._method.decided(upsample(view, (picture.height, picture.width)))[0] for view in views)
        return np.asarray((total / len(views)).cpu().numpy(), np.float32)

    def _labels(
        self, pictures: Sequence[Image.Image], sizes: Sequence[float], flip: bool, shown: Labels | None
    ) -> list[Labels]:
        """Channels of pictures of one size."""
        size, method = (pictures[0].height, pictures[0].width), self._method
        if tuple(sizes) == (1.0,) and not flip:
            labels = method.predict(self._network(self._pixels(pictures, size)), size)
        else:
            views = self._views(pictures, sizes, flip)
            labels = map_views(lambda *values: best_channel(_total(map(method.decided, values))), views, size)
        found = np.asarray(labels.to(torch.uint8).cpu().numpy())
        return list(found if shown is None else shown[found])

    def _views(self, pictures: Sequence[Image.Image], sizes: Sequence[float], flip: bool) -> list[Tensor]:
        """What the method upsamples, for every size and, mirrored back, for the mirror images."""
        if not sizes:
            raise UserError("no sizes: give at least one, such as 1.0")
        views = []
        for wanted in sizes:
            pixels = self._pixels(pictures, _scaled(pictures[0].size, wanted))
            views.append(self._method.upsampled(self._network(pixels)))
            if flip:
                views.append(self._method.upsampled(self._network(pixels.flip(3))).flip(3))
        return views

    def _pixels(self, pictures: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
        """Pictures of one size, resized, on the device, ``(N, 3, *size)`` uint8."""
        planes = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])
        if planes.shape[2:] != size:
            planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
        return planes.to(self._rt.device)

    def shown(self, classes: Sequence[str] | None) -> Labels | None:
        """Table from channel to channel, ``(256,)``, that turns all but these classes into background; None for all.

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
        return table


def as_picture(image: Picture) -> Image.Image:
    """A picture as RGB.

    Raises:
        UserError: for an array of another shape or type, a picture below 16 pixels a side, or one whose values have no
            defined white (`read_picture`).
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            found = f"{'x'.join(map(str, image.shape))} {image.dtype}"
            raise UserError(f"a picture as an array is (H, W, 3) or (H, W) uint8, found {found}: convert it")
        image = Image.fromarray(image)
    check_size(image.size, "the picture")
    return to_rgb(image)[0]


def _scaled(size: tuple[int, int], wanted: float) -> tuple[int, int]:
    """``(height, width)`` of a picture of ``(width, height)`` at a factor, or with a short side in pixels."""
    if not 0 < wanted < float("inf"):
        raise UserError(f"a size is a factor such as 0.75, or the short side in pixels from 16 on, got {wanted}")
    factor = wanted if wanted < SMALLEST else wanted / min(size)
    return max(SMALLEST, round(size[1] * factor)), max(SMALLEST, round(size[0] * factor))


def _total(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    return sum(others, start=first)


def read_config(path: Path | str) -> RunConfig:
    """The configuration that a run was trained with."""
    return RunDirectory(Path(path)).config()


def load(path: Path | str, step: int | None = None, runtime: Runtime | None = None) -> Model:
    """Load the network of a run, of a file, or of a hub.

    Args:
        path: the run's folder, a file that ``barm export --format safetensors`` wrote, or
            ``hf://owner/name[@revision]``.
        step: which step of a run; the last by default.
        runtime: device and precision; by default as the run was configured.
    """
    found = open_trained(path, step)
    return Model(found.network, found.method, found.about, runtime or Runtime(found.runtime))


def fit(
    recipe: str | Path | RunConfig,
    *,
    out: Path | str,
    data: Where | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    steps: Sequence[int] | None = None,
    start_from: Path | str | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Train and evaluate the steps of a scenario.

    Args:
        recipe: a recipe's name or file, or a whole configuration.
        out: the run's folder.
        data: the data set, unless the configuration says it: its folder, or the training and the validation source.
        overrides: ``table.key=value``.
        resume: go on with what is in `out`.
        steps: only these.
        start_from: another run whose step 0 is taken over.
        quiet: show nothing.

    Returns:
        The metrics of every finished step.
    """
    config = recipe if isinstance(recipe, RunConfig) else load_config(recipe, overrides)
    config, sources = _where(config, data)
    rt = Runtime(config.runtime)
    with Monitor(rt.is_main, quiet=quiet, tensorboard=config.runtime.tensorboard) as monitor:
        return run(
            config,
            rt,
            Path(out),
            monitor,
            resume=resume,
            only=steps,
            start_from=None if start_from is None else Path(start_from),
            data=sources,
        )


def evaluate(
    path: Path | str,
    step: int | None = None,
    data: Where | None = None,
    *,
    overrides: Sequence[str] = (),
    native: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's step anew on the validation split.

    Args:
        path: the run's folder.
        step: which step; the last by default.
        data: another data set with the same classes, as in `fit`.
        overrides: ``evaluation.key=value``; by default it is evaluated as the run was.
        native: at native size, as `Model.predict` sees a picture; short for ``evaluation.crop=0``.
        quiet: show no progress.

    Returns:
        Metrics as in ``metrics.json``; average mIoU and forgetting use the stored counts of the earlier steps, and are
        None where those were measured on other pictures or in another way.

    Raises:
        UserError: for an override of anything but the evaluation.
    """
    trained = read_config(path)
    config, sources = _where(evaluated_as(trained, overrides, native=native), data)
    if data is not None:  # nothing was trained on its training split
        config = config.model_copy(update={"data": config.data.model_copy(update={"allow_shared": True})})
    rt = Runtime(config.runtime)
    directory = SharedDirectory(Path(path), rt)
    index = directory.last_step() if step is None else step
    opened = sources or open_data(config, rt)
    check_evaluation(config, rt, opened.measured)
    network, method = load_step(directory, index, opened.plan, opened.val.class_names)
    with Monitor(rt.is_main, quiet=quiet) as monitor:
        for line in sized(config, opened, ()).warnings:
            monitor.say(f"[yellow]warning:[/yellow] {markup(line)}")
        counts = evaluate_step(config, rt, method, network, opened, method.step, monitor)
    same_view = difference(*(settings(c, ("evaluation",)) for c in (trained, config))) is None
    return scores_of(directory, method.step, counts, opened, others=data is not None, same_view=same_view)


def view_of(path: Path | str, overrides: Sequence[str] = (), *, native: bool = False) -> str:
    """How `evaluate` sees the pictures with these arguments, in words."""
    return evaluated_as(read_config(path), overrides, native=native).evaluation.view


def evaluated_as(config: RunConfig, overrides: Sequence[str], *, native: bool = False) -> RunConfig:
    """A run's configuration with another evaluation.

    Raises:
        UserError: for an override of anything else.
    """
    changes = [*overrides, *(["evaluation.crop=0"] if native else [])]
    table = to_table(config)
    for text in changes:
        change = parse_override(text)
        if set(change) != {"evaluation"}:
            raise UserError(f"--set {text}: a run is evaluated as it was trained; only evaluation.* may be set here")
        table = merge(table, change)
    return validate(table) if changes else config


def compare(runs: Sequence[Path | str], out: Path | str | None = None) -> list[Row]:
    """Compare runs after their last step.

    Args:
        runs: folders of finished runs.
        out: folder for ``compare.csv``, ``.json``, ``.md``, ``.tex`` and ``.png``; nothing is written by default.

    Returns:
        Mean and standard deviation (n - 1) of every score per task and method, over its repetitions.
    """
    results = read_results([Path(run) for run in runs])
    if out is not None:
        write_comparison(Path(out), results)
    return summarise(results)


def _where(config: RunConfig, data: Where | None) -> tuple[RunConfig, Data | None]:
    """The configuration with a folder put in, or the sources with the plan on their classes."""
    if data is None:
        return config, None
    if isinstance(data, tuple):
        train, val = data
        return config, Data(train, val, config.task.plan(tuple(train.class_names), config.seed))
    return config.model_copy(update={"data": config.data.model_copy(update={"root": Path(data)})}), None
