"""Small examples of formats with masks, as tools write them, and what an import makes of them.

Each ``write_`` function takes a new folder and images with their objects: a label and its outlines in pixels, holes
after the outer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from barm.data.importers import import_data
from barm.data.importers.annotations import ImportOptions
from barm.data.importers.report import ImportReport

NAMES = ("cat", "dog", "hot dog")
COLOURS = {"background": (0, 0, 0), "cat": (128, 64, 128), "dog": (0, 200, 10), "hot dog": (250, 170, 30)}
SIZE = (112, 96)


Objects = Sequence[tuple[str, Sequence[np.ndarray]]]
Sample = tuple[Image.Image, Objects]


class Entry(NamedTuple):
    """An image with its objects, its name and its split."""

    image: Image.Image
    objects: Objects
    name: str
    split: str


def samples(number: int = 4) -> list[Sample]:
    """Images with one object of every class, which do not overlap."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(number):
        noise = random.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
        image = Image.fromarray(noise).resize(SIZE, Image.Resampling.BILINEAR)
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False) + random.uniform(0, 0.5)
        objects = []
        for place, name in enumerate(NAMES):
            centre = (20 + 34 * place, random.uniform(30, 60))
            objects.append((name, [np.stack([centre[0] + 15 * np.cos(angle), centre[1] + 22 * np.sin(angle)], 1)]))
        made.append((image, objects))
    return made


def entries(made: Sequence[Sample] | None = None) -> list[Entry]:
    """The samples with names; the last one is for validation."""
    made = samples() if made is None else made
    splits = ["train"] * (len(made) - 1) + ["val"]
    return [Entry(*sample, f"image{i}", split) for i, (sample, split) in enumerate(zip(made, splits, strict=True))]


def ids_of(sample: Entry, names: Sequence[str] = NAMES) -> np.ndarray:
    """The mask of a sample as ids, filled by Pillow; rings after the first are holes."""
    mask = Image.new("L", sample.image.size)
    for name, rings in sample.objects:
        for ring, value in zip(rings, [names.index(name) + 1, *[0] * len(rings)], strict=False):
            ImageDraw.Draw(mask).polygon([tuple(point) for point in ring.tolist()], fill=value)
    return np.asarray(mask)


def save(image: Image.Image | np.ndarray, path: Path, **options) -> Path:
    """Save an image or an array, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def in_colour(ids: np.ndarray, colours: Sequence[tuple[int, int, int]] = tuple(COLOURS.values())) -> np.ndarray:
    """A mask of ids as a mask in colour."""
    return np.array(colours, np.uint8)[ids]


def with_palette(ids: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A mask of ids with the colours of a palette."""
    mask = Image.fromarray(ids.astype(np.uint8)).convert("P")
    mask.putdata(ids.ravel().tolist())
    mask.putpalette([channel for colour in colours for channel in colour])
    return mask


def write_cvat(root: Path, made: Sequence[Sample]) -> None:
    """CVAT's Segmentation mask 1.1 of a project with subsets."""
    lines = [f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in sorted(COLOURS.items())]
    root.mkdir(parents=True)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(lines))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for sample in entries(made):
        save(sample.image, root / "JPEGImages" / f"{sample.name}.jpg", quality=95)
        save(in_colour(ids_of(sample)), root / "SegmentationClass" / f"{sample.name}.png")
        objects = with_palette(ids_of(sample), [(0, 0, 60 * i) for i in range(4)]).convert("RGB")
        save(objects, root / "SegmentationObject" / f"{sample.name}.png")
        with (lists / f"{sample.split}.txt").open("a") as file:
            file.write(f"{sample.name}\n")


def write_colours(root: Path, made: Sequence[Sample]) -> None:
    """Masks in colour as CamVid has them, with ``class_dict.csv``."""
    for sample in entries(made):
        save(sample.image, root / sample.split / f"{sample.name}.png")
        save(in_colour(ids_of(sample)), root / f"{sample.split}_labels" / f"{sample.name}_L.png")
    lines = [f"{name},{r},{g},{b}\n" for name, (r, g, b) in COLOURS.items()]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "".join(lines))


def write_binary(root: Path, made: Sequence[Sample]) -> None:
    """A mask of 0 and 255 per image and class, in a folder per class."""
    for sample in entries(made):
        save(sample.image, root / "images" / f"{sample.name}.jpg")
        for name, _ in sample.objects:
            alone = ids_of(sample) == NAMES.index(name) + 1
            save(alone.astype(np.uint8) * 255, root / "masks" / name / f"{sample.name}.png")


def write_indexed(root: Path, made: Sequence[Sample]) -> None:
    """Masks with one palette for all, with ``classes.txt``."""
    for sample in entries(made):
        save(sample.image, root / "images" / f"{sample.name}.jpg")
        save(with_palette(ids_of(sample), tuple(COLOURS.values())), root / "labels" / f"{sample.name}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", *NAMES)))


def write_cityscapes(root: Path, made: Sequence[Sample], kinds: Sequence[str] = ("labelIds",)) -> None:
    """Cityscapes with the labels road, person and bicycle on unlabelled ground, and a dummy of the test split."""
    values = {"labelIds": (0, 7, 24, 33), "labelTrainIds": (255, 0, 11, 18)}
    for i, sample in enumerate([*entries(made), entries(made)[0]._replace(split="test")]):
        folder, name = Path(sample.split) / "aachen", f"aachen_{i:06}_000019"
        save(sample.image, root / "leftImg8bit" / folder / f"{name}_leftImg8bit.png")
        ids = ids_of(sample) * (sample.split != "test")
        for kind in kinds:
            mask = np.array(values[kind], np.uint8)[ids]
            save(mask, root / "gtFine" / folder / f"{name}_gtFine_{kind}.png")
        save(in_colour(ids), root / "gtFine" / folder / f"{name}_gtFine_color.png")


def imported(source: Path, **options: Any) -> ImportReport:
    """Import a folder into ``out`` beside it."""
    return import_data(source, source.with_name("out"), ImportOptions(**options), val_share=0.2)


def masks(source: Path) -> dict[str, np.ndarray]:
    """The masks that `imported` made, by name, as ids."""
    return {file.stem: np.asarray(Image.open(file)) for file in source.with_name("out").glob("masks/**/*.png")}


def reasons(report: ImportReport) -> dict[str, int]:
    """What was left out by the reason, without the example."""
    return {why.split(", such as ")[0]: number for why, number in report.left_out.items()}
