"""Memory of large images: 12 bytes for each pixel of the largest one, however many threads read images."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.data.at_once import Room, room_for

SIDE = 4000
BYTES, SPARE = 12, 64 << 20  # per pixel; what a program takes whatever it reads, such as a table of all colours

CHILD = """
import json, os, sys
from pathlib import Path
from barm.data import at_once
from barm.data.class_values import ClassValues
from barm.data.image_files import ImageFile, check_images
from barm.data.images import probe, read_image
from barm.data.importers import import_data, mask_scan, write
from barm.data.importers.mask_scan import facts_of
from barm.data.masks import read_mask

at_once.ROOM.pixels, write.cores, mask_scan.cores = int(sys.argv[2]), lambda: 4, lambda: 4
folder, black = Path(sys.argv[1]), ClassValues(("a",), ((0, 0),), True, 1, Path("colours"))
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def measured(work, *parts):
    end, start = os.pipe()
    child = os.fork()
    if not child:
        before = peak()
        work(*parts)
        os.write(start, str(peak() - before).encode())
        os._exit(0)
    os.close(start)
    with open(end) as answer:
        return int(answer.read())
found = {}
for path in sorted(folder.glob("*.*")):
    found[f"probe {path.name}"] = measured(probe, path)
    found[f"read {path.name}"] = measured(read_image, path)
found["mask"] = measured(read_mask, folder / "RGBA.png", black)
for name in ("RGB.png", "I16.png", "L.png"):
    found[f"facts {name}"] = measured(facts_of, folder / name)
found["check"] = measured(check_images, [ImageFile(p, Path(p.stem)) for p in sorted(folder.glob("*.png"))])
found["labelme"] = measured(import_data, folder / "labelme", folder / "out1")
found["colours"] = measured(import_data, folder / "colours", folder / "out2")
print(json.dumps(found))
"""


def write_images(folder: Path) -> None:
    """Images of all kinds that are read in another way."""
    red = Image.new("RGB", (SIDE, SIDE), "red")
    red.save(folder / "RGB.png", compress_level=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    red.save(folder / "turned.png", compress_level=1, exif=exif)
    red.save(folder / "turned.jpg", exif=exif)
    red.save(folder / "turned.tif", exif=exif)
    red.convert("CMYK").save(folder / "CMYK.tif")
    clear = red.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 50, 50))
    clear.save(folder / "RGBA.png", compress_level=1)
    red.convert("L").save(folder / "L.png", compress_level=1)
    clear.convert("LA").save(folder / "LA.png", compress_level=1)
    clear.quantize(4).save(folder / "P.png", compress_level=1)
    Image.fromarray(np.full((SIDE, SIDE), 2**15, np.uint16)).save(folder / "I16.png", compress_level=1)


def write_sources(folder: Path) -> None:
    """A folder of LabelMe with objects over objects, and one of masks in colour."""
    for part in ("labelme", "colours/images", "colours/masks"):
        (folder / part).mkdir(parents=True)
    image, corner = Image.new("RGB", (SIDE, SIDE), "black"), SIDE // 2
    for i in range(3):
        image.save(folder / f"labelme/{i}.png", compress_level=1)
        image.save(folder / f"colours/images/{i}.png", compress_level=1)
        mask = image.copy()
        mask.paste("red", (0, 0, corner, corner))
        mask.save(folder / f"colours/masks/{i}.png", compress_level=1)
        rings = [[[0, 0], [SIDE, k], [SIDE, SIDE], [0, SIDE - k]] for k in range(8)]
        shapes = [{"label": "ab"[k % 2], "points": ring, "shape_type": "polygon"} for k, ring in enumerate(rings)]
        shapes.append({"label": "_background_", "points": rings[0][:3], "shape_type": "polygon"})
        content = {"shapes": shapes, "imagePath": f"{i}.png", "imageHeight": SIDE, "imageWidth": SIDE}
        (folder / f"labelme/{i}.json").write_text(json.dumps(content))
    (folder / "colours/colours.csv").write_text("name,colour\nbackground,#000000\nred,#ff0000\n")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_memory_of_large_images(tmp_path):
    write_images(tmp_path)
    write_sources(tmp_path)
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(SIDE * SIDE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 25
    over = {name: number / SIDE**2 for name, number in found.items() if number > BYTES * SIDE**2 + SPARE}
    assert not over, found


def test_room_is_never_taken_twice():
    room, lock, inside, most = Room(10), threading.Lock(), [], []

    def work(pixels: int) -> None:
        with room.taken(pixels):
            with lock:
                inside.append(pixels)
                most.append(tuple(inside))
            time.sleep(0.002)
            with lock:
                inside.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [4, 3, 12, 1, 5, 6, 10, 2] * 5))
    assert len(most) == 40  # also those that never fit
    assert all(sum(each) <= 10 or len(each) == 1 for each in most)
    assert max(map(len, most)) > 1


def test_room_is_given_back_and_strange_files_take_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for file in (tmp_path / "a.png", tmp_path / "none.png", b"no image"):
        with room_for(file), room_for():
            pass
    Image.new("L", (20, 10)).save(tmp_path / "b.png")
    for _ in range(3):
        with pytest.raises(KeyError), room_for(tmp_path / "b.png", (tmp_path / "b.png").read_bytes()):
            raise KeyError
