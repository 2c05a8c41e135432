"""Small examples of every format that can be imported, as its tools write them.

Each function takes a new folder and images with their objects: a label and its outlines in pixels, holes after the
outer one. It leaves out what the format cannot express.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Objects = Sequence[tuple[str, Sequence[NDArray[np.float64]]]]


def write_coco(root: Path, samples: Sequence[tuple[Image.Image, Objects]]) -> None:
    """One JSON file beside the images; every outline is a ring of its object's polygon."""
    root.mkdir(parents=True, exist_ok=True)
    labels, images, annotations = _labels(samples), list[dict[str, Any]](), list[dict[str, Any]]()
    for i, (image, objects) in enumerate(samples):
        image.save(root / f"image{i}.png")
        images.append({"id": i, "file_name": f"image{i}.png", "width": image.width, "height": image.height})
        for label, rings in objects:
            outlines = [ring.ravel().tolist() for ring in rings]
            one = {"id": len(annotations), "image_id": i, "category_id": 3 * labels.index(label) + 2, "iscrowd": 0}
            annotations.append({**one, "segmentation": outlines})
    categories = [{"id": 3 * k + 2, "name": label} for k, label in enumerate(labels)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))


def write_yolo(root: Path, samples: Sequence[tuple[Image.Image, Objects]]) -> None:
    """images/train, labels/train and data.yaml; the last image is the one for validation."""
    labels = _labels(samples)
    for i, (image, objects) in enumerate(samples):
        split = "val" if i and i == len(samples) - 1 else "train"
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        image.save(root / f"images/{split}/image{i}.png")
        lines = [" ".join([str(labels.index(label)), *_shares(rings[0], image.size)]) for label, rings in objects]
        (root / f"labels/{split}/image{i}.txt").write_text("".join(f"{line}\n" for line in lines))
    names = json.dumps(dict(enumerate(labels)))
    (root / "data.yaml").write_text(f"path: ../datasets/own\ntrain: images/train\nval: images/val\nnames: {names}\n")


def write_labelme(root: Path, samples: Sequence[tuple[Image.Image, Objects]]) -> None:
    """A JSON file beside each image; a hole is a shape of the background above the object."""
    root.mkdir(parents=True, exist_ok=True)
    for i, (image, objects) in enumerate(samples):
        image.save(root / f"image{i}.png")
        shapes = list[dict[str, Any]]()
        for label, rings in objects:
            for name, ring in zip([label, *["_background_"] * len(rings)], rings, strict=False):
                shapes.append({"label": name, "points": ring.tolist(), "group_id": None, "shape_type": "polygon"})
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"image{i}.png", "imageData": None}
        content |= {"imageHeight": image.height, "imageWidth": image.width}
        (root / f"image{i}.json").write_text(json.dumps(content))


def write_label_studio(root: Path, samples: Sequence[tuple[Image.Image, Objects]]) -> None:
    """One JSON file; objects without holes are polygons, the others brush strokes."""
    root.mkdir(parents=True, exist_ok=True)
    tasks = list[dict[str, Any]]()
    for i, (image, objects) in enumerate(samples):
        image.save(root / f"image{i}.png")
        results = [label_studio_region(label, rings, image.size) for label, rings in objects]
        annotation = {"id": i, "was_cancelled": False, "ground_truth": False, "result": results}
        data = {"image": f"/data/upload/1/0a1b2c3d-image{i}.png"}
        tasks.append({"id": i, "annotations": [annotation], "predictions": [], "data": data})
    (root / "project.json").write_text(json.dumps(tasks))


def label_studio_region(
    label: str, rings: Sequence[NDArray[np.float64]], size: tuple[int, int], **changes: Any
) -> dict[str, Any]:
    """A polygon, or a brush stroke where there are holes."""
    result = {"from_name": "label", "to_name": "image", "original_width": size[0], "original_height": size[1]}
    if len(rings) == 1:
        points = (rings[0] / size * 100).tolist()
        value: dict[str, Any] = {"points": points, "closed": True, "polygonlabels": [label]}
    else:
        value = {"format": "rle", "rle": packed_stroke(stroke(rings, size)), "brushlabels": [label]}
    kind = next(key for key in value if key.endswith("labels"))
    return {**result, "image_rotation": 0, "type": kind, "value": {**value, **changes}}


def stroke(rings: Sequence[NDArray[np.float64]], size: tuple[int, int], finer: int = 4) -> NDArray[np.bool_]:
    """The pixels of an outline with holes of which more than half is inside, ``(H, W)``."""
    drawing = Image.new("L", (size[0] * finer, size[1] * finer))
    for i, ring in enumerate(rings):
        ImageDraw.Draw(drawing).polygon([tuple(point) for point in (ring * finer - 0.5).tolist()], fill=int(i == 0))
    return np.asarray(drawing).reshape(size[1], finer, size[0], finer).mean((1, 3)) > 0.5


def packed_stroke(mask: NDArray[np.bool_]) -> list[int]:
    """Label Studio's run lengths of a mask, in blocks of one repeated value."""
    values = np.repeat(np.where(mask, 255, 0).ravel(), 4)
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    bits = f"{len(values):032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    for start, stop in pairwise(starts):
        for first in range(start, stop, 2**16):
            bits += f"1{3:02b}{min(stop - first, 2**16) - 1:016b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def _labels(samples: Sequence[tuple[Image.Image, Objects]]) -> list[str]:
    return sorted({label for _, objects in samples for label, _ in objects})


def _shares(ring: NDArray[np.float64], size: tuple[int, int]) -> list[str]:
    return [f"{number:.6f}" for number in (ring / size).ravel()]


def write_huggingface(root: Path, samples: Sequence[tuple[Image.Image, Objects]]) -> None:
    """A Parquet file per split with images and masks, as ``push_to_hub`` names them; needs pyarrow."""
    labels = ["background", *_labels(samples)]
    rows = []
    for i, (image, objects) in enumerate(samples):
        ids = np.zeros((image.height, image.width), np.uint8)
        for label, rings in objects:
            ids[stroke(rings, image.size)] = labels.index(label)
        rows.append({"image": embedded(image, f"image{i}.png"), "label": embedded(Image.fromarray(ids), None)})
    save_rows(root / "data/train-00000-of-00001.parquet", rows[:1])
    save_rows(root / "data/validation-00000-of-00001.parquet", rows[1:])
    (root / "id2label.json").write_text(json.dumps(dict(enumerate(labels))))


def embedded(image: Image.Image, path: str | None) -> dict[str, Any]:
    """A cell of a column of images."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": path}


def save_rows(path: Path, rows: Sequence[dict[str, Any]], features: Mapping[str, Any] = {}, group: int = 2) -> None:
    """Write columns of images, and describe further ones, as Hugging Face's datasets does: Parquet, or Arrow."""
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = list(rows[0]) if rows else ["image", "label"]
    told = {"info": {"features": {**{name: {"_type": "Image"} for name in columns}, **features}}}
    schema = pa.schema(dict.fromkeys(columns, kind), {"huggingface": json.dumps(told)})
    table = pa.Table.from_pylist(list(rows), schema=schema)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=group)
    else:
        with pa.ipc.new_stream(path, schema) as stream:
            stream.write_table(table)
