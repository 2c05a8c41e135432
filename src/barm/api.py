"""The Python interface: `fit`, `load`, `evaluate`. The command line calls the same functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from barm.config import load_config
from barm.data.base import Source
from barm.data.transforms import normalise
from barm.engine.monitor import Monitor
from barm.engine.recipe import RunConfig
from barm.engine.runtime import Runtime
from barm.engine.sequence import Data, evaluate_step, load_step, open_data, run, step_metrics
from barm.engine.store import COUNTS, RunDirectory
from barm.errors import UserError
from barm.methods import Method
from barm.trained import open_trained

Where = Path | str | tuple[Source, Source]  # a folder, or the training and the validation source


class Model:
    """A trained network with its classes.

    Attributes:
        class_names: by channel, background first.
        colours: by channel, ``(C, 3)`` uint8.
        step: index of the step it was trained in.
    """

    def __init__(self, network: nn.Module, method: Method[Any], about: Mapping[str, Any], rt: Runtime) -> None:
        self._network, self._method, self._rt = rt.constant(network), method, rt
        self.class_names = tuple(c["name"] for c in about["classes"])
        self.colours = np.array([c["colour"] for c in about["classes"]], np.uint8)
        self.step = method.step.index

    def predict(self, image: Image.Image) -> NDArray[np.uint8]:
        """Label every pixel of a picture.

        Args:
            image: any mode and size of at least 16 pixels a side.

        Returns:
            Channels (positions in `class_names`) at the picture's own size, ``(H, W)`` uint8.
        """
        _check_size(image, "the picture")
        pixels = torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1)[None].copy()).to(self._rt.device)
        labels = self._method.predict(self._network(normalise(pixels)), (image.height, image.width))[0]
        return np.asarray(labels.to(torch.uint8).cpu().numpy())


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


def read_picture(path: Path) -> Image.Image:
    """A picture as RGB.

    Raises:
        UserError: if there is no such file, or it is no picture.
    """
    if not path.is_file():
        raise UserError(f"no picture {path}: give existing image files")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as a picture ({' '.join(str(error).split())[:80]}): give JPEG, PNG or the like"
        ) from error


def check_pictures(paths: Sequence[Path]) -> None:
    """Look into pictures whose predictions are to stand in one folder under their names.

    Raises:
        UserError: if one cannot be read, is too small, or two have one name.
    """
    stems: dict[str, Path] = {}
    for path in paths:
        _check_size(read_picture(path), str(path))
        if path.stem in stems:
            raise UserError(
                f"{stems[path.stem]} and {path} would be written under one name: rename one, or predict them separately"
            )
        stems[path.stem] = path


def _check_size(image: Image.Image, what: str) -> None:
    if min(image.size) < 16:
        raise UserError(f"{what} is {image.width}x{image.height}: expected at least 16 pixels on each side")


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
    path: Path | str, step: int | None = None, data: Where | None = None, *, quiet: bool = False
) -> dict[str, Any]:
    """Evaluate a run's step anew on the validation split.

    Args:
        path: the run's folder.
        step: which step; the last by default.
        data: another data set with the same classes, as in `fit`.
        quiet: show no progress.

    Returns:
        Metrics as in ``metrics.json``; average mIoU and forgetting use the stored counts of the earlier steps.
    """
    config, sources = _where(read_config(path), data)
    directory = RunDirectory(Path(path))
    index = directory.last_step() if step is None else step
    rt = Runtime(config.runtime)
    opened = sources or open_data(config, rt)
    network, method = load_step(directory, index, opened.plan, opened.val.class_names)
    with Monitor(rt.is_main, quiet=quiet) as monitor:
        counts = evaluate_step(config, rt, method, network, opened, method.step, monitor)
    earlier = [directory.read(i, COUNTS) for i in range(index) if directory.has(i, COUNTS)]
    return step_metrics([*earlier, counts.tolist()], method.step, opened.val.class_names)


def _where(config: RunConfig, data: Where | None) -> tuple[RunConfig, Data | None]:
    """The configuration with a folder put in, or the sources with the plan on their classes."""
    if data is None:
        return config, None
    if isinstance(data, tuple):
        train, val = data
        return config, Data(train, val, config.task.plan(tuple(train.class_names), config.seed))
    return config.model_copy(update={"data": config.data.model_copy(update={"root": Path(data)})}), None
