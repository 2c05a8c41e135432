"""Write generated scenes in the folder layouts of the real data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from barm.data.new_folder import new_folder
from barm.data.palette import id_palette
from barm.data.sources.named import matching
from barm.data.sources.shapes import MAX_SHAPES, MAX_SIDE, MIN_SIDE, class_names, render
from barm.errors import UserError, nearest
from barm.labels import IGNORE, Lut

Layout = Literal["voc", "ade", "folder"]
DEFAULT_CLASSES = {"voc": 20, "ade": 150, "folder": 10}
JPEG_QUALITY = 92
PARALLEL_FROM = 64 * 500 * 375  # pixels in all from which a second process pays


def make_shapes(
    root: Path | str,
    *,
    layout: Layout = "folder",
    num_classes: int | None = None,
    num_train: int = 1000,
    num_val: int = 200,
    size: tuple[int, int] = (96, 96),
    seed: int = 0,
    only: Sequence[str] = (),
    workers: int = 2,
) -> None:
    """Write a data set; the folder appears complete or not at all.

    Args:
        root: must not exist, or be empty.
        layout: of VOC 2012, of ADE20K, or a plain folder.
        num_classes: by default 20, 150 and 10.
        num_train: training images.
        num_val: validation images.
        size: ``(width, height)`` in pixels.
        seed: of the data set.
        only: names of the classes that are labelled, with ids 1, 2, ..., be they among the `num_classes` or not; every
            image shows one of them, and all else is background. By default all are labelled.
        workers: processes.

    Raises:
        UserError: for a size, number or name out of range, or a folder with contents.
    """
    root = Path(root)
    if layout not in DEFAULT_CLASSES:
        raise UserError(f"unknown layout '{layout}': expected voc, ade or folder")
    count = DEFAULT_CLASSES[layout] if num_classes is None else num_classes
    names = class_names(count)
    known = class_names(MAX_SHAPES)
    for name in only:
        if name not in known:
            raise UserError(
                f"shapes has no class '{name}'{nearest(name, known)}; there are {', '.join(names)}"
                + (f" and {MAX_SHAPES - count} more, up to {known[-1]}" if count < MAX_SHAPES else "")
            )
    if min(size) < MIN_SIDE or max(size) > MAX_SIDE:
        raise UserError(f"images must be {MIN_SIDE} to {MAX_SIDE} pixels on each side, asked for {size[0]}x{size[1]}")
    if num_train < 1 or num_val < 1:
        raise UserError(f"both splits need at least one image, asked for {num_train} and {num_val}")
    with new_folder(root, flush=False) as beside:
        _write(beside, layout, names, tuple(only), {"train": num_train, "val": num_val}, size, seed, workers)


def _write(
    root: Path,
    layout: Layout,
    names: tuple[str, ...],
    only: tuple[str, ...],
    counts: dict[str, int],
    size: tuple[int, int],
    seed: int,
    workers: int,
) -> None:
    (root / "classes.txt").write_text("\n".join(only or names) + "\n", "utf-8")
    stems = {split: [_stem(split, i) for i in range(n)] for split, n in counts.items()}
    for folder in _folders(layout):
        (root / folder).mkdir(parents=True)
    if layout == "voc":
        lists = root / "ImageSets/Segmentation"
        every = {"train": stems["train"], "train_aug": stems["train"], "val": stems["val"]}
        for name, ids in {**every, "trainval": stems["train"] + stems["val"]}.items():
            (lists / f"{name}.txt").write_text("\n".join(ids) + "\n", "utf-8")
    labelled = matching(("background", *class_names(MAX_SHAPES)), ("background", *(only or names)))
    job = partial(_write_one, root, layout, len(names), labelled, size, seed)
    work = [(split, i) for split, n in counts.items() for i in range(n)]
    _run(job, work, workers if len(work) * size[0] * size[1] >= PARALLEL_FROM else 1)


def _run(job: Callable[[tuple[str, int]], None], work: list[tuple[str, int]], workers: int) -> None:
    if workers <= 1:
        for item in work:
            job(item)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(job, work, chunksize=32):
            pass


def _folders(layout: Layout) -> tuple[str, ...]:
    if layout == "voc":
        return ("JPEGImages", "SegmentationClassAug", "saliency_map", "ImageSets/Segmentation")
    if layout == "ade":
        return tuple(f"{kind}/{split}" for kind in ("images", "annotations") for split in ("training", "validation"))
    return tuple(f"{kind}/{split}" for kind in ("images", "masks") for split in ("train", "val"))


def _stem(split: str, index: int) -> str:
    return f"shapes_{split}_{index:06d}"


def _write_one(
    root: Path,
    layout: Layout,
    num_classes: int,
    labelled: Lut,
    size: tuple[int, int],
    seed: int,
    item: tuple[str, int],
) -> None:
    split, index = item
    tops = [int(i) for i in np.flatnonzero(labelled[:IGNORE])]
    scene = render(index, split=split, num_classes=num_classes, size=size, seed=seed, tops=tops)
    stem = _stem(split, index)
    scene.mask[:] = labelled[scene.mask]
    mask = Image.fromarray(scene.mask)
    mask.putpalette(id_palette().tobytes())
    long_split = {"train": "training", "val": "validation"}[split]
    image_dir, mask_dir = {
        "voc": ("JPEGImages", "SegmentationClassAug"),
        "ade": (f"images/{long_split}", f"annotations/{long_split}"),
        "folder": (f"images/{split}", f"masks/{split}"),
    }[layout]
    Image.fromarray(scene.image).save(root / image_dir / f"{stem}.jpg", quality=JPEG_QUALITY)
    if layout == "ade":  # grey PNG without an ignored id, as in the real data: borders are "other", 0
        scene.mask[scene.mask == 255] = 0
        mask = Image.fromarray(scene.mask)
    mask.save(root / mask_dir / f"{stem}.png", optimize=False)
    if layout == "voc":
        Image.fromarray(scene.saliency).save(root / "saliency_map" / f"{stem}.png")
