"""`barm data check` on trees as annotation tools, cameras and operating systems write them: what its last line says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barm.data.check import check_folder
from barm.data.sources import detect_layout, open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.errors import UserError

SIZE = (24, 20)


def image(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (shade, 60, 30)).save(path)


def mask(path: Path, values: Sequence[int], mode: str = "L") -> None:
    """A mask that holds exactly these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.resize(np.array(values, np.uint8), SIZE[::-1])
    Image.fromarray(rows).convert(mode).save(path)


def folder(root: Path, values: Sequence[int] = (0, 1, 2, 255), classes: str = "cat\ndog\n", mode: str = "L") -> Path:
    """A sound plain folder of three and two images, unless the masks say otherwise."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes, "utf-8")
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            image(root / f"images/{split}/{split}{i}.png", 90 + i)
            mask(root / f"masks/{split}/{split}{i}.png", values, mode)
    return root


def flat(root: Path) -> Path:
    """The same without sub-folders, and with lists."""
    folder(root)
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            for file in (root / kind / split).iterdir():
                shutil.move(file, root / kind / file.name)
            (root / kind / split).rmdir()
    (root / "train.txt").write_text("train0\ntrain1\ntrain2\n")
    (root / "val.txt").write_text("val0\nval1\n")
    return root


def voc(root: Path, masks: str = "SegmentationClassAug", lists: str = "ImageSets/Segmentation") -> Path:
    """VOC's tree with images called as its own are."""
    names = {"train": [f"2007_00000{i}" for i in range(3)], "val": [f"2008_00000{i}" for i in range(2)]}
    for name in (n for split in names.values() for n in split):
        image(root / f"JPEGImages/{name}.jpg")
        mask(root / f"{masks}/{name}.png", (0, *range(1, 21), 255), "P" if masks == "SegmentationClass" else "L")
    (root / lists).mkdir(parents=True)
    for split, listed in names.items():
        (root / lists / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return root


def ade(root: Path) -> Path:
    for split in ("training", "validation"):
        for i in range(2):
            image(root / f"images/{split}/street{i}.jpg", 100 + i if split == "training" else 50 + i)
            mask(root / f"annotations/{split}/street{i}.png", (0, 1, 2))
    return root


def edit(make: Callable[..., Path], change: Callable[[Path], object], **options) -> Callable[[Path], Path]:
    def tree(root: Path) -> Path:
        change(make(root, **options))
        return root

    return tree


def copy(source: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, root / target)

    return change


def move(source: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / source, root / target)

    return change


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def deep(root: Path) -> None:
    for file in (root / "images/train").iterdir():
        Image.fromarray(np.full(SIZE[::-1], 900, np.uint16)).save(file)


def turn(root: Path) -> None:
    """Photographs that lie on their side in the file, and masks that were drawn over the file."""
    exif = Image.Exif()
    exif[274] = 6
    for file in (root / "images/train").iterdir():
        Image.open(file).copy().save(file, exif=exif)


def both(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def rename_all(suffix: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for file in list((root / "images").rglob("*.png")):
            if suffix.lower() == ".png":
                file.rename(file.with_suffix(suffix))
            else:
                Image.open(file).save(file.with_suffix(suffix.lower()))
                file.unlink()
                file.with_suffix(suffix.lower()).rename(file.with_suffix(suffix))

    return change


SOUND, FOUND = "no problems", ""
TREES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "sound": (folder, SOUND),
    # A2: class names
    "A2 labelme's names": (edit(folder, write("classes.txt", "__ignore__\n_background_\ncat\ndog\n")), SOUND),
    "A2 byte order mark": (edit(folder, write("classes.txt", b"\xef\xbb\xbfcat\ndog\n")), SOUND),
    "A2 void": (
        edit(folder, write("classes.txt", "void\ncat\ndog\n")),
        "1 problem: {root}/classes.txt:1 is 'void', which may be the id 0 or the first class",
    ),
    "A2 train ids": (
        lambda root: folder(root, (0, 1, 2, 255), "road\nwall\nsky\n"),
        "no problems, 1 warning: the class 'sky' stands in no image: the masks hold 0 to 2 and 255, so that 'road' "
        "may be 0 in them, as in Cityscapes' train ids",
    ),
    "A2 a class too many": (
        lambda root: folder(root, (0, 2, 255), "cat\ndog\nbird\n"),
        "no problems, 1 warning: the classes 'cat' and 'bird' stand in no image: no mask holds the ids 1 and 3",
    ),
    # A3: value sets
    "A3 binary": (
        lambda root: folder(root, (0, 255), "cat\n"),
        "1 problem: no image of the train split of {root} shows a class; of the values in its masks: they hold only "
        "0 and 255, as a binary export does: 255 is ignored here, the class is 1",
    ),
    "A3 empty": (lambda root: folder(root, (0,)), "they hold only 0, which is background: nothing is labelled"),
    "A3 multiples": (
        lambda root: folder(root, (0, 50, 100)),
        "5 problems: train: of the values in the masks: they are multiples of 50: divide by it, so that the classes "
        "are 1 to 2",
    ),
    "A3 spread": (lambda root: folder(root, (0, 127, 255)), "they are spread from 0 to 255 in 2 steps"),
    "A3 one too high": (lambda root: folder(root, (1, 2, 3)), "so that they may be one too high: subtract 1"),
    "A3 others": (lambda root: folder(root, (0, 1, 7)), "7 is no class of classes.txt: the classes are 1 to 2"),
    "A3 RGB": (
        lambda root: folder(root, (0, 1, 2), mode="RGB"),
        "its red, green and blue are equal (0, 1 and 2): save one channel alone",
    ),
    # A4: orientation; more in tests/data/test_orientation.py
    "A4 masks on their side": (
        edit(folder, turn),
        "3 problems: {root}/masks/train/train0.png: the mask is 24x20 as the image is stored, but upright (EXIF "
        "orientation 6) it is 20x24; turn the mask like the image",
    ),
    # A5: images of other kinds; more in tests/data/test_images.py
    "A5 dark 16 bits": (edit(folder, deep), "3 problems: {root}/images/train/train0.png: has 16 bits per pixel"),
    # A6: files left out
    "A6 tif": (edit(folder, rename_all(".tif")), SOUND),
    "A6 bmp": (edit(folder, rename_all(".bmp")), SOUND),
    "A6 JPG": (edit(folder, rename_all(".JPG")), SOUND),
    "A6 valid": (
        edit(folder, both(move("images/val", "images/valid"), move("masks/val", "masks/validation"))),
        SOUND,
    ),
    "A6 deeper": (
        edit(
            folder,
            both(
                move("images/train/train0.png", "images/train/a/x.png"),
                move("masks/train/train0.png", "masks/train/a/x.png"),
            ),
        ),
        SOUND,
    ),
    "A6 operating systems": (
        edit(
            folder,
            both(copy("images/train/train0.png", "images/train/._train0.png"), write("images/val/Thumbs.db", "x")),
        ),
        SOUND,
    ),
    "A6 mask without an image": (
        edit(folder, copy("masks/train/train0.png", "masks/train/other.png")),
        "no problems, 1 warning: {root}/masks/train: 1 mask without an image, such as other.png",
    ),
    "A6 image without a mask": (
        edit(folder, copy("images/train/train0.png", "images/train/other.png")),
        "1 problem: {root}/masks/train/other.png: is missing; add the file",
    ),
    "A6 other kinds": (
        edit(folder, write("images/train/photo.heic", "x")),
        "no problems, 1 warning: {root}/images/train: 1 file not read as images (.heic), such as photo.heic",
    ),
    "A6 JPEG masks": (
        edit(folder, copy("images/train/train0.png", "masks/train/train9.jpg")),
        "JPEG changes the ids in a mask, save PNG",
    ),
    "A6 beside the splits": (
        edit(folder, copy("images/train/train0.png", "images/loose.png")),
        "no problems, 1 warning: {root}/images: 1 file not used, since the splits are sub-folders, such as loose.png",
    ),
    "A6 a folder beside the splits": (
        edit(folder, copy("images/train/train0.png", "images/more/train0.png")),
        "no problems, 1 warning: {root}/images/more: this folder is not used",
    ),
    "A6 both names of a split": (
        edit(folder, copy("images/val/val0.png", "images/valid/x.png")),
        "1 problem: {root}/images has val and valid, which are both the val split",
    ),
    "A6 lists with endings": (
        edit(
            flat,
            both(
                write("train.txt", "train0.png\r\nimages\\train1.png\r\n./images/train2.PNG\r\n"),
                write("val.txt", "val0.png\r\nval1.png\r\n"),
            ),
        ),
        SOUND,
    ),
    "A6 a name twice": (
        edit(folder, copy("images/train/train0.png", "images/train/train0.jpg")),
        "two images are called 'train0' but for their endings",
    ),
    "A6 overlap": (
        edit(flat, write("val.txt", "val0\nval1\ntrain1\n")),
        "1 problem: 1 image of {root} is in the training and in the validation split, such as 'train1'",
    ),
    "A6 the same file in both": (
        edit(
            folder,
            both(
                copy("images/train/train1.png", "images/val/train1.png"),
                copy("masks/train/train1.png", "masks/val/train1.png"),
            ),
        ),
        "1 image of {root} is in the training and in the validation split, such as 'train1'",
    ),
    "A6 the same name for another": (
        edit(
            folder,
            both(
                copy("images/train/train1.png", "images/val/train0.png"),
                copy("masks/train/train1.png", "masks/val/train0.png"),
            ),
        ),
        SOUND,
    ),
    "A6 in no list": (
        edit(flat, write("train.txt", "train0\ntrain1\n")),
        "no problems, 1 warning: {root}/images: 1 image in neither list, such as train2.png",
    ),
    # A7: saliency maps
    "A7 an empty folder of maps": (
        edit(voc, lambda root: (root / "saliency_map").mkdir()),
        "no problems, 1 warning: 3 of 3 saliency maps are of no use, which matters to methods that use them; "
        "{root}/saliency_map/2007_000000.png: the saliency map is missing",
    ),
    "A7 maps of another size": (
        edit(voc, lambda root: [mask_of_size(root / f"saliency_map/2007_00000{i}.png", (9, 9)) for i in range(3)]),
        "2007_000000.png: the saliency map is 9x9 but its image 24x20; make both the same size",
    ),
    "A7 maps in colour": (
        edit(voc, lambda root: [image(root / f"saliency_map/2007_00000{i}.png") for i in range(3)]),
        "a map has one channel (palette or grey PNG), found mode RGB; save it as 8-bit grey",
    ),
    # A8: VOC's trees
    "A8 ImageSet": (lambda root: voc(root, lists="ImageSet/Segmentation"), SOUND),
    "A8 splits": (lambda root: voc(root, lists="splits"), SOUND),
    "A8 two levels down": (lambda root: voc(root / "VOCdevkit/VOC2012").parents[1], SOUND),
    "A8 the official archive": (
        lambda root: voc(root, masks="SegmentationClass"),
        "no problems, 1 warning: {root} has no SegmentationClassAug: it trains on the 3 images of VOC's own lists, "
        "published results on 10 582; barm data get voc {root} fetches the further masks",
    ),
    "A8 no lists": (
        edit(voc, remove("ImageSets")),
        "no file {root}/ImageSets/Segmentation/val.txt: expected a list with one name per line",
    ),
    # A9: ADE's tree
    "A9 own data": (
        ade,
        "1 problem: no file {root}/classes.txt: expected the class names, one per line, in the order of the ids 1, 2, "
        "...",
    ),
    "A9 own data with names": (edit(ade, write("classes.txt", "cat\ndog\n")), SOUND),
    "A9 nothing known": (
        edit(folder, remove("masks")),
        "{root} has none of the known layouts (`barm data import` makes one of what annotation tools write). VOC: "
        "{root} lacks the folders JPEGImages, SegmentationClassAug or SegmentationClass; ADE20K: {root} lacks the "
        "folder annotations/training or annotations/train; folder: {root} lacks the folder masks",
    ),
    "A9 several": (
        lambda root: (folder(root / "a"), voc(root / "b"), root)[2],
        "{root} holds several data sets: ",
    ),
    # A10: names
    "A10 names": (lambda root: folder(root, classes="hot dog, warm\n-weiß [red]\n"), SOUND),
}


def mask_of_size(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 255).save(path)


@pytest.mark.parametrize("name", TREES)
def test_the_last_line(name, cli, tmp_path):
    make, expected = TREES[name]
    root = make(tmp_path / "d")
    status, out, err = cli("data", "check", root)
    last = (out + err).strip().splitlines()[-1]
    expected = expected.replace("{root}", str(root))
    if expected == SOUND:
        assert (status, last) == (0, "no problems")
        return
    assert expected in last
    assert status == (0 if last.startswith("no problems") else 2)
    if status:
        assert err.startswith("barm: ")
        assert len(err.splitlines()) == 1


def test_the_table_shows_every_value(cli, tmp_path):
    status, out, _ = cli("data", "check", folder(tmp_path / "d", (0, 1, 2, 7, 255)))
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert status == 2
    for start in (["0", "background"], ["1", "cat"], ["7", "no", "class"], ["255", "ignored"]):
        assert [*start, "3", "2", "20.0", "%", "20.0", "%"] in rows  # images and area, of both splits
    status, out, _ = cli("data", "check", tmp_path / "d", "--json")
    found = json.loads(out)
    assert found["splits"][0]["values"]["7"] == 3
    assert found["verdict"].startswith("5 problems")


def test_sizes_have_names_in_json(cli, tmp_path):
    status, out, _ = cli("data", "check", folder(tmp_path / "d"), "--json")
    sizes = json.loads(out)["splits"][0]["sizes"]
    assert status == 0
    assert set(sizes) == {"smallest", "middle", "largest", "different"}
    assert sizes["smallest"] == sizes["largest"] == list(SIZE)
    assert sizes["different"] == 1


def test_names_are_printed_as_they_are(cli, tmp_path):
    _, out, _ = cli("data", "check", folder(tmp_path / "d", classes="[red]x\n[/]\n"))
    assert "[red]x" in out
    assert "[/]" in out


def test_many_problems_of_a_kind_are_shortened(cli, tmp_path):
    root = folder(tmp_path / "d")
    for i in range(30):
        image(root / f"images/train/new{i:02d}.png")
    _, out, _ = cli("data", "check", root)
    assert out.count("is missing") == 12
    assert "and 18 more of the kind 'missing'" in out
    assert len(check_folder(root).problems) == 30


def test_lists_divide_what_one_of_them_leaves(tmp_path):
    """With train.txt alone all others are held out; a fifth of the listed ones would be in both."""
    root = flat(tmp_path / "d")
    (root / "val.txt").unlink()
    train, val = (set(open_source("folder", root, s).names) for s in ("train", "val"))
    assert train == {"train0", "train1", "train2"}
    assert val == {"val0", "val1"}


def test_images_beside_a_folder_of_the_validation_split(tmp_path):
    root = folder(tmp_path / "d")
    for kind in ("images", "masks"):
        for file in (root / kind / "train").iterdir():
            file.rename(root / kind / file.name)
        (root / kind / "train").rmdir()
    assert open_source("folder", root, "train").names == ("train0", "train1", "train2")
    assert open_source("folder", root, "val").names == ("val0", "val1")
    assert check_folder(root).verdict == "no problems"


def test_a_line_twice_counts_once_and_dots_belong_to_names(tmp_path):
    root = flat(tmp_path / "d")
    for kind in ("images", "masks"):
        shutil.copy(root / kind / "train0.png", root / kind / "train.v2.png")
    (root / "train.txt").write_text("train0\ntrain0.png\ntrain.v2\n")
    assert open_source("folder", root, "train").names == ("train0", "train.v2")


def test_lists_that_differ_are_refused(tmp_path):
    root = voc(tmp_path / "d")
    (root / "splits").mkdir()
    (root / "splits/val.txt").write_text("/JPEGImages/2008_000000.jpg /SegmentationClassAug/2008_000000.png\n")
    with pytest.raises(UserError, match=r"name different images: keep one of them"):
        open_source("voc", root, "val")
    (root / "splits/val.txt").write_text("2008_000000\n2008_000001")
    assert open_source("voc", root, "val").names == ("2008_000000", "2008_000001")


def test_own_data_in_vocs_tree_do_not_get_its_names(tmp_path):
    make_shapes(tmp_path / "d", layout="voc", num_classes=3, num_train=3, num_val=2, size=(32, 32))
    (tmp_path / "d/classes.txt").unlink()
    with pytest.raises(UserError, match=r"no file .*classes.txt"):
        open_source("voc", tmp_path / "d", "train")
    assert open_source("voc", voc(tmp_path / "real"), "train").class_names[1] == "aeroplane"


def test_the_published_ade_keeps_its_names(tmp_path):
    root = ade(tmp_path / "d")
    (root / "objectInfo150.txt").write_text("Idx\n")
    assert open_source("ade", root, "train").class_names[1] == "wall"
    named = tmp_path / "named"
    for split, word in (("training", "train"), ("validation", "val")):
        image(named / f"images/{split}/ADE_{word}_00000001.jpg")
        mask(named / f"annotations/{split}/ADE_{word}_00000001.png", (0, 150))
    assert open_source("ade", named, "val").class_names[150] == "flag"


def test_a_copy_of_an_archive_made_on_a_mac(tmp_path):
    """``__MACOSX`` repeats the tree; it is nobody's data."""
    folder(tmp_path / "d/own")
    shutil.copytree(tmp_path / "d/own", tmp_path / "d/__MACOSX/own")
    assert detect_layout(tmp_path / "d") == "folder"
    assert check_folder(tmp_path / "d").verdict == "no problems"


def test_a_missing_classes_txt_is_said_once(cli, tmp_path):
    make_shapes(tmp_path / "own", layout="folder", num_classes=2, num_train=8, num_val=2, size=(32, 32), seed=3)
    (tmp_path / "own/classes.txt").unlink()
    status, out, err = cli("data", "check", "own")
    assert status == 2
    assert (out + err).count("classes.txt") == 1
    assert err == (
        "barm: own: 1 problem: no file own/classes.txt: expected the class names, one per line, in the order of the "
        "ids 1, 2, ...\n"
    )
