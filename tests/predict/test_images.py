"""`barm predict` and what it stands on: files found, labelled at their size, written, or refused together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import barm
from barm.data.image_files import check_images, find_images
from barm.data.palette import display_palette
from barm.predict.images import _batches
from barm.report.images import index_mask, with_legend


@pytest.fixture
def predict(cli, tiny_run):
    """Run ``barm predict`` on the tiny run in an empty folder; status and output."""
    return lambda *words: cli("predict", tiny_run, *words)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Images of two sizes in a tree, with what is no image beside them."""
    rng = np.random.default_rng(0)
    for name, size in {
        "a.png": (40, 56),
        "deep/b.jpg": (40, 56),
        "deep/er/c.PNG": (33, 47),
        ".hidden.png": (9, 9),
    }.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos/notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def model(tiny_run) -> barm.Model:
    return barm.load(tiny_run)


def test_a_folder_keeps_its_tree(predict, photos, tmp_path, model):
    status, out, err = predict("photos", "--out", "seen", "--write", "mask,colour,overlay")
    assert (status, err) == (0, "")
    assert out.count("\n") == 3
    for name in ("a", "deep/b", "deep/er/c"):
        assert all((tmp_path / f"seen/{name}{end}").is_file() for end in ("_mask.png", "_colour.png", "_overlay.jpg"))
    mask, image = Image.open(tmp_path / "seen/deep/er/c_mask.png"), Image.open(photos / "deep/er/c.PNG")
    assert mask.size == image.size
    np.testing.assert_array_equal(np.asarray(mask), model.predict(image))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "seen/deep/er/c_colour.png")), display_palette()[np.asarray(mask)]
    )
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), model.colours[np.asarray(mask)])
    about = json.loads((tmp_path / "seen/classes.json").read_text())
    assert [row["name"] for row in about] == list(model.class_names)
    assert about[1]["colour"] == model.colours[1].tolist()
    assert about[1]["display_colour"] == model.display_colours[1].tolist() == display_palette()[1].tolist()


def test_what_words_stand_for(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {str(one.name) for one in find_images(["photos"])}
    assert names == {"a", "deep/b", "deep/er/c"}
    assert {str(one.name) for one in find_images(["photos/**/*.jpg"])} == {"deep/b"}
    assert {str(one.name) for one in find_images(["photos/*", "photos/a.png"])} == {"a"}
    assert [str(one.name) for one in find_images([photos / "deep/b.jpg"])] == ["b"]
    with pytest.raises(barm.UserError, match="no images at photos/x"):
        find_images(["photos/x*"])
    with pytest.raises(barm.UserError, match="under one name"):
        find_images(["photos/deep/b.jpg", photos / "b.png"])
    assert len(find_images(["photos/deep/b.jpg", "photos/deep"])) == 2
    (photos / "out").mkdir()
    Image.new("RGB", (20, 20)).save(photos / "out/a_mask.png")
    assert {str(one.name) for one in find_images(["photos"], Path("photos/out"))} == names
    with pytest.raises(barm.UserError, match="choose another --out"):
        find_images(["photos"], Path("photos"))


def test_everything_wrong_is_said_at_once(predict, photos, tmp_path):
    (photos / "cut.jpg").write_bytes((photos / "deep/b.jpg").read_bytes()[:-300])
    Image.new("RGB", (12, 40)).save(photos / "small.png")
    status, out, err = predict("photos", "absent.jpg", "--out", "seen")
    assert (status, out, err.count("\n")) == (2, "", 1)
    for word in (
        "3 of 6 images",
        "cut.jpg cannot be read",
        "small.png is 12x40",
        "no image absent.jpg",
        "--keep-going",
    ):
        assert word in err
    assert not (tmp_path / "seen").exists()
    status, out, err = predict("photos", "absent.jpg", "--out", "seen", "--keep-going")
    assert status == 2
    assert out.count("\n") == 3
    assert (tmp_path / "seen/deep/b_mask.png").is_file()
    assert err.startswith("barm: 3 of 6 images left out")
    assert predict("absent.jpg", "--out", "no", "--keep-going")[0] == 2


def test_json_has_shares_and_needs_no_folder(predict, photos, model):
    out = predict("photos/a.png", "photos/deep/b.jpg", "--json")[1]
    rows = json.loads(out)
    assert [row["image"] for row in rows] == ["photos/a.png", "photos/deep/b.jpg"]
    label = model.predict(Image.open(photos / "a.png"))
    shares = {model.class_names[c]: (label == c).mean() for c in np.unique(label)}
    assert rows[0]["classes"] == pytest.approx(shares, abs=1e-6)
    assert rows[0]["size"] == [56, 40]
    assert rows[0]["files"] == {}
    assert "--json" in predict("photos/a.png")[2]


def test_a_mask_fits_the_image_as_viewers_show_it(predict, tmp_path, model):
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "p.png", exif=exif)
    assert check_images(find_images([tmp_path / "p.png"]))[0][1] == (32, 60)
    assert predict("p.png", "--out", "seen")[0] == 0
    mask = Image.open(tmp_path / "seen/p_mask.png")
    assert mask.size == (32, 60)
    np.testing.assert_array_equal(np.asarray(mask), model.predict(upright))


def test_batches_of_one_size_give_what_single_images_give(photos, model):
    images = [
        barm.read_image(p) for p in sorted(photos.rglob("*.*g")) + sorted(photos.rglob("*.PNG")) if p.name[0] != "."
    ]
    assert len({p.size for p in images}) == 2
    together = model.predict(images)
    for image, label in zip(images, together, strict=True):
        assert label.shape == (image.height, image.width)
        assert (model.predict(image) == label).mean() > 0.99  # sums in another order
    sound = check_images(find_images([photos]))
    assert sorted(map(len, _batches(sound, 8))) == [1, 2]
    assert sorted(map(len, _batches(sound, 1))) == [1, 1, 1]


def test_sizes_flip_and_scores(photos, model):
    image = barm.read_image(photos / "a.png")
    scores = model.scores(image)
    assert scores.shape == (len(model.class_names), 40, 56)
    assert scores.dtype == np.float32
    assert scores.min() >= 0
    assert scores.max() <= 1
    np.testing.assert_array_equal(scores.argmax(0), model.predict(image))
    several = {"sizes": (0.75, 1.0, 1.5), "flip": True}
    mean = model.scores(image, **several)
    np.testing.assert_array_equal(mean.argmax(0), model.predict(image, **several))
    single = [model.scores(image, sizes=[s], flip=True) for s in several["sizes"]]
    np.testing.assert_allclose(mean, np.mean(single, axis=0), atol=1e-6)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one_side = model.scores(image), model.scores(mirrored)[:, :, ::-1]
    np.testing.assert_allclose(model.scores(image, flip=True), np.mean(one_side, axis=0), atol=1e-6)
    np.testing.assert_array_equal(model.scores(image, sizes=[80]), model.scores(image, sizes=[2.0]))
    for wrong in ((), (0,), (-1.0,), (float("nan"),)):
        with pytest.raises(barm.UserError, match="size"):
            model.predict(image, sizes=wrong)


def test_chosen_classes(predict, photos, tmp_path, model):
    image = barm.read_image(photos / "a.png")
    whole = model.predict(image)
    seen = [c for c in np.unique(whole) if c]
    assert seen, "the tiny model sees something in noise"
    name = model.class_names[seen[-1]]
    np.testing.assert_array_equal(model.predict(image, classes=[name]), np.where(whole == seen[-1], whole, 0))
    assert not model.predict(image, classes=[]).any()
    assert predict("photos/a.png", "--out", "seen", "--classes", f" {name} ")[0] == 0
    assert set(np.unique(np.asarray(Image.open(tmp_path / "seen/a_mask.png")))) <= {0, seen[-1]}
    _, _, err = predict("photos/a.png", "--out", "no", "--classes", name[:-1])
    assert f"did you mean '{name}'" in err
    assert not (tmp_path / "no").exists()


def test_pixels_of_which_it_is_not_sure(predict, photos, tmp_path, model):
    """They are 255 in the mask, background for the eye, and their share is told; also of several sizes."""
    image = barm.read_image(photos / "a.png")
    best = model.scores(image).max(0)
    middle = float(np.median(best))
    whole, some = model.predict(image), model.predict(image, sure=middle)
    near = np.abs(best - middle) < 1e-4  # views are summed in another order
    np.testing.assert_array_equal(some[~near], np.where(best >= middle, whole, 255)[~near])
    views = {"sizes": (1.0, 0.75), "flip": True}
    best = model.scores(image, **views).max(0)
    assert abs((model.predict(image, sure=middle, **views) == 255).mean() - (best < middle).mean()) < 0.01
    words = ("photos/a.png", "--out", "seen", "--write", "mask,colour,overlay", "--unsure-below", middle)
    status, told, _ = predict(*words)
    assert status == 0
    assert "unsure 50 %" in told
    mask = np.asarray(Image.open(tmp_path / "seen/a_mask.png"))
    np.testing.assert_array_equal(mask, some)
    colours = np.asarray(Image.open(tmp_path / "seen/a_colour.png"))
    assert not colours[mask == 255].any()
    status, told, _ = predict("photos/a.png", "--json", "--unsure-below", middle)
    shown = json.loads(told)[0]
    assert shown["unsure"] + sum(shown["classes"].values()) == pytest.approx(1, abs=1e-5)
    only = model.predict(image, sure=middle, classes=[])
    np.testing.assert_array_equal(only == 255, some == 255)


def test_scores_that_are_no_probabilities(model, photos, monkeypatch):
    monkeypatch.setattr(type(model._method.config), "probable", False)
    with pytest.raises(barm.UserError, match="the scores of barm are no probabilities"):
        model.predict(barm.read_image(photos / "a.png"), sure=0.5)


def test_arrays_are_images_too(photos, model):
    image = barm.read_image(photos / "a.png")
    np.testing.assert_array_equal(model.predict(np.asarray(image)), model.predict(image))
    assert model.predict(np.asarray(image.convert("L"))).shape == (40, 56)
    for wrong in (np.zeros((40, 40, 4), np.uint8), np.zeros((40, 40, 3), np.float32)):
        with pytest.raises(barm.UserError, match="uint8, found"):
            model.predict(wrong)
    with pytest.raises(barm.UserError, match="at least 16"):
        model.predict([image, Image.new("RGB", (15, 40))])


def test_masks_of_the_data_set_s_ids(model):
    label = np.array([[0, 1], [2, 0]], np.uint8)
    colours = np.array([[0, 0, 0], [10, 20, 30], [40, 50, 60]], np.uint8)
    mask = index_mask(label, colours, [0, 7, 3])
    np.testing.assert_array_equal(np.asarray(mask), [[0, 7], [3, 0]])
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), colours[label])
    assert model.class_ids == (0, 1, 2, 3, 4)


def test_the_legend_stands_below(tmp_path):
    image = Image.new("RGB", (300, 200), (200, 30, 30))
    wide = with_legend(image, [("cat 12 %", (0, 0, 255)), ("dog 3 %", (0, 255, 0))])
    assert wide.width == 300
    assert wide.getpixel((5, 5)) == (200, 30, 30)
    below = np.asarray(wide)[200:]
    assert (below == (0, 0, 255)).all(2).any()
    assert (below == (0, 255, 0)).all(2).any()
    assert with_legend(image, [("a long name of a class", (0, 0, 255))] * 9).height > wide.height


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sizes", "1,big"), ("--sizes expects numbers", "'1,big'")),
        (("--sizes", "0"), ("a size is a factor", "got 0.0")),
        (("--write", "mask,overlays"), ("unknown kind of file 'overlays'", "did you mean 'overlay'")),
        (("--step", "7"), ("no finished step 7",)),
        (("--unsure-below", "1"), ("a probability from 0 to below 1", "got 1")),
        (("--unsure-below", "0.5", "--save-as", "classes.toml"), ("no number for pixels without a sure class",)),
    ],
)
def test_bad_options(words, told, predict, photos, tmp_path):
    status, _, err = predict("photos/a.png", "--out", "seen", *words)
    assert status == 2
    assert err.count("\n") == 1
    assert all(word in err for word in told)
    assert not (tmp_path / "seen").exists()


def test_a_file_runs_where_it_is_told(predict, photos, tiny_run, tmp_path, monkeypatch):
    trained = load_file(tiny_run / "step02/model.safetensors")
    barm.export_step(tiny_run, tmp_path / "model.safetensors")
    found = barm.predict_files(tmp_path / "model.safetensors", [photos], device="cpu", precision="32-true")
    assert [f.shares for f in found] == [f.shares for f in barm.predict_files(tiny_run, [photos])]
    for number, description in enumerate(("[1]", "{}", '{"trained": 1}', '{"trained": {}, "format": 1, "step": 0}')):
        path = tmp_path / f"odd{number}.safetensors"
        save_file(trained, path, {"barm": description})
        with pytest.raises(barm.UserError, match="description"):
            barm.load(path)


def test_results_are_not_taken_for_images(photos, tmp_path, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert len(barm.predict_files(tiny_run, ["photos/**/*"], out="photos/seen")) == 3
    with pytest.raises(barm.UserError, match="no images at ''"):
        find_images([""])
    with pytest.raises(barm.UserError, match="nothing to write"):
        barm.PredictOptions(write=())
