"""`barm data saliency`: make the saliency maps of a data set's images, all by one recipe."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from barm.data.at_once import room_for
from barm.data.images import read_image
from barm.data.index import cores
from barm.data.progress import progress_bar
from barm.data.saliency.network import SaliencySettings, network
from barm.data.saliency.record import RECORD, UNKNOWN, read_recipe
from barm.data.saliency.tool import Threshold, Tool, classical
from barm.data.sources import detect_layout, open_source
from barm.data.sources.tree import Files
from barm.errors import Failed, Stopped, UserError
from barm.words import count, verb
from barm.writing import write_atomically

Which = Literal["train", "val", "all"]


@dataclass(frozen=True)
class MapsReport:
    """What was made in one folder.

    Attributes:
        folder: of the maps.
        made: number of maps that are new.
        kept: number of maps that were there.
        line: how they were made.
    """

    folder: Path
    made: int
    kept: int
    line: str


@dataclass(frozen=True)
class _Work:
    """A folder of maps: the images that shall have one, by name, and the maps that are there."""

    folder: Path
    images: Mapping[str, Path]
    maps: Files | dict[str, Path]

    @property
    def outside(self) -> list[str]:
        return [name for name in self.maps if name not in self.images]


def make_saliency(
    root: Path | str,
    model: Path | str | None = None,
    settings: SaliencySettings | None = None,
    *,
    threshold: Threshold | None = None,
    grey: bool = False,
    layout: str = "auto",
    split: Which = "train",
    overwrite: bool = False,
) -> tuple[MapsReport, ...]:
    """Make the saliency maps that are missing. Each is written completely or not at all; another call goes on.

    Args:
        root: the data set's folder.
        model: a network's file, ``.onnx`` or ``.pt2``; by default OpenCV's fine-grained saliency is used.
        settings: what the network is shown, and what its output means.
        threshold: values from here on are salient, above 0 and at most 1; ``otsu`` chooses it for every image. By
            default 0.5 for a network, else ``otsu``.
        grey: keep the grey levels of salient pixels, which are 255 otherwise. The others are always 0.
        layout: the data set's.
        split: whose images; training uses those of ``train``.
        overwrite: make maps anew that are there.

    Returns:
        What was made, by folder.

    Raises:
        UserError: for a layout without maps, maps that were made in another way, a missing library, or a network that
            cannot be used or fails on the first image; nothing is written.
        Failed: if a later image fails; the maps before it are kept.
        Stopped: at Ctrl-C, likewise.
    """
    if threshold is not None and threshold != "otsu" and not 0 < threshold <= 1:
        raise UserError(f"a threshold is above 0 and at most 1, or 'otsu', got {threshold}")
    if model is None and settings is not None:
        raise UserError("the settings describe a network: give its file, too")
    if model is None:
        tool = classical("otsu" if threshold is None else threshold, grey=grey)
    else:
        tool = network(Path(model), settings or SaliencySettings(), 0.5 if threshold is None else threshold, grey=grey)
    return make_maps(Path(root), tool, layout=layout, split=split, overwrite=overwrite)


def make_maps(
    root: Path, tool: Tool, *, layout: str = "auto", split: Which = "train", overwrite: bool = False
) -> tuple[MapsReport, ...]:
    """Make the missing maps with a tool; arguments and errors are those of `make_saliency`."""
    work = _work(root, detect_layout(root) if layout == "auto" else layout, split)
    for one in work:
        _check(one, tool, overwrite)
    first = next((path for one in work for path in _missing(one, overwrite).values()), None)
    if first is not None:
        tool.map_of(np.asarray(read_image(first)))
    return tuple(_make(one, tool, overwrite) for one in work)


def _work(root: Path, layout: str, split: Which) -> list[_Work]:
    images: dict[Path, dict[str, Path]] = {}
    for name in ("train", "val") if split == "all" else (split,):
        source = open_source(layout, root, name)
        if source.maps_folder is None:
            raise UserError(
                f"{root} is in the {layout} layout, which has no saliency maps: methods do without them there, as "
                "published; a folder with images/ and masks/ may have them"
            )
        images.setdefault(source.maps_folder, {}).update(zip(source.names, source.images, strict=True))
    return [_Work(folder, wanted, _maps_in(folder)) for folder, wanted in images.items()]


def _maps_in(folder: Path) -> Files | dict[str, Path]:
    """The maps in a folder, without those of sub-folders that have a record of their own."""
    if not folder.is_dir():
        return {}
    own = {path.name.lower() for path in folder.iterdir() if (path / RECORD).is_file()}
    return Files(folder, (".png",), deep=True, without=own)


def _check(work: _Work, tool: Tool, overwrite: bool) -> None:
    """Refuse to mix maps of two recipes in a folder."""
    if not work.maps:
        return
    recipe = read_recipe(work.folder)
    change = UNKNOWN if recipe is None else recipe.difference(tool.recipe)
    if change is None:
        return
    number = f"{work.folder} has {count(len(work.maps), 'saliency maps')}"
    how = UNKNOWN if recipe is None else f"made in another way ({change})"
    if not overwrite:
        raise UserError(f"{number} {how}: repeat those settings, or make all anew with --overwrite")
    if work.outside:
        left = f"{len(work.outside)} {verb(len(work.outside), 'are')} of no image of this split"
        remedy = "add --split all, or take them away"
        raise UserError(f"{number} {how}, of which {left}, such as '{work.outside[0]}': {remedy}")


def _missing(work: _Work, overwrite: bool) -> dict[str, Path]:
    return {name: path for name, path in work.images.items() if overwrite or name not in work.maps}


def _make(work: _Work, tool: Tool, overwrite: bool) -> MapsReport:
    missing = _missing(work, overwrite)
    kept = len(work.images) - len(missing)
    if overwrite:
        (work.folder / RECORD).unlink(missing_ok=True)  # first: what remains after a crash is of unknown origin
        for name in missing:
            if name in work.maps:
                work.maps[name].unlink(missing_ok=True)
    there = len(work.maps) - (len(work.images.keys() & work.maps.keys()) if overwrite else 0)
    _record(work.folder, tool, there)
    made = 0
    try:
        with ThreadPoolExecutor(cores()) as pool, progress_bar(len(missing)) as bar:
            jobs = [pool.submit(_write_map, tool, path, work.folder / f"{name}.png") for name, path in missing.items()]
            try:
                for job in bar.track(as_completed(jobs), total=len(jobs), description="saliency maps"):
                    job.result()
                    made += 1
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                made = sum(job.done() and not job.cancelled() and job.exception() is None for job in jobs)
                raise
    except KeyboardInterrupt:
        raise Stopped(f"stopped: {_done(made, len(missing))}; the same command goes on", signal.SIGINT) from None
    except UserError as error:
        raise Failed(f"{error}; {_done(made, len(missing))}: mend it, and the same command goes on") from None
    finally:
        if made:
            _record(work.folder, tool, there + made)
    return MapsReport(work.folder, made, kept, tool.recipe.line)


def _done(made: int, number: int) -> str:
    return f"{made} of {count(number, 'saliency maps')} {verb(made, 'are')} made"


def _record(folder: Path, tool: Tool, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = tool.recipe.model_copy(update={"images": number})
    write_atomically(folder / RECORD, f"{recipe.model_dump_json(indent=1, exclude_defaults=True)}\n".encode())


def _write_map(tool: Tool, image: Path, place: Path) -> None:
    content = BytesIO()
    with room_for(image):
        Image.fromarray(tool.map_of(np.asarray(read_image(image)))).save(content, "png")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, content.getvalue(), flush=False)
