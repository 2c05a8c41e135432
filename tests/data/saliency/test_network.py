"""What a network is shown, what its output means, and one line for what does not fit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from barm.data.saliency.network import SaliencySettings, chosen, network, prepared, probabilities, resized
from barm.errors import UserError

PLAIN = SaliencySettings(mean=(0, 0, 0), std=(1, 1, 1))
FILE = Path("net.onnx")


def image_of(*colour: int, size=(8, 8)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def test_a_network_marks_what_is_bright(onnx_file):
    image = image_of(0, 0, 0, size=(32, 48))
    image[8:24, 16:32] = (240, 250, 245)
    tool = network(onnx_file(), replace(PLAIN, size="native"))
    np.testing.assert_array_equal(tool.map_of(image), np.where(image[..., 0] > 0, 255, 0))


def test_values_go_back_to_the_images_size(onnx_file):
    image = image_of(0, 0, 0, size=(30, 50))
    image[:, 25:] = 255
    made = network(onnx_file(shape=(1, 3, 16, 16)), PLAIN).map_of(image)
    assert made.shape == (30, 50)
    assert not made[:, :23].any()
    assert (made[:, 27:] == 255).all()


@pytest.mark.graph
@pytest.mark.parametrize(("form", "output"), [("map", "0"), ("flat", "0"), ("table", "fused"), ("nested", "-2")])
def test_an_exported_network_gives_the_same(exported_file, form, output):
    settings = SaliencySettings(mean=(0, 0, 0), std=(1, 1, 1), output=output)
    values = network(exported_file(form), settings).saliency(image_of(30, 60, 90))
    np.testing.assert_allclose(values, 60 / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (PLAIN, (1, 0.2, 0)),
        (SaliencySettings(mean=(0, 0, 0), std=(1, 1, 1), channels="bgr"), (0, 0.2, 1)),
        (SaliencySettings(mean=(104, 117, 123), std=(1, 1, 2), scale=1, channels="bgr"), (-104, -66, 66)),
    ],
)
def test_normalisation(settings, shown):
    values = prepared(image_of(255, 51, 0), settings)
    assert (values.shape, values.dtype) == ((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(values[0, :, 0, 0], shown, atol=1e-6)


def test_imagenets_mean_follows_the_order_of_the_channels(onnx_file):
    recipes = [network(onnx_file(), SaliencySettings(channels=order)).recipe for order in ("rgb", "bgr")]
    assert [r.settings["mean"] for r in recipes] == ["0.485, 0.456, 0.406", "0.406, 0.456, 0.485"]


def test_the_recipe_names_file_digest_and_size(onnx_file):
    path = onnx_file(shape=(1, 3, 8, "w"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert network(path, PLAIN).recipe.line == f"net.onnx (sha256 {sha256[:12]}), 320x8, threshold 0.5"


def test_weights_beside_the_file_are_part_of_the_digest(onnx_file):
    path = onnx_file()
    before = network(path, PLAIN).recipe
    path.with_name("net.onnx.data").write_bytes(b"weights")
    assert network(path, PLAIN).recipe.difference(before).startswith("sha256 ")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (SaliencySettings(size=(16, 8)), r"takes images of 8x8, not 16x8; leave --input-size out"),
        (SaliencySettings(size="native"), r"takes images of 8x8, not native; leave --input-size out"),
        (SaliencySettings(scale=1, mean=(1, 1, 1)), r"--scale 1 .*give --mean and --std in these units too"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(onnx_file, settings, says):
    with pytest.raises(UserError, match=says):
        network(onnx_file(shape=(1, 3, 8, 8)), settings)


LOGIT = float(np.log(0.8 / 0.2))


@pytest.mark.parametrize(
    ("output", "settings", "value"),
    [
        ([[[[0.8]]]], {}, 0.8),
        ([[[0.8]]], {}, 0.8),
        ([[[[0.2]], [[0.8]]]], {}, 0.8),
        ([[[[LOGIT]]]], {"activation": "sigmoid"}, 0.8),
        ([[[[1.0]], [[1 + LOGIT]]]], {"activation": "softmax"}, 0.8),
        ([[[[-2.0, 8.0, 6.0]]]], {"stretch": True}, [[0, 1, 0.8]]),
        ([[[[-1e4, 1e4]]]], {"activation": "sigmoid"}, [[0, 1]]),
        ([[[[3.0, 3.0]]]], {"stretch": True}, [[0, 0]]),
    ],
)
def test_outputs_become_saliency(output, settings, value):
    values = probabilities(np.array(output), SaliencySettings(**settings), FILE)
    assert values.ndim == 2
    np.testing.assert_allclose(values, value, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "settings", "says"),
    [
        (np.zeros((1, 1000)), {}, r"output of shape \(1, 1000\), expected \(1, 1, H, W\)"),
        (np.zeros((1, 3, 4, 4)), {}, r"output of shape \(1, 3, 4, 4\)"),
        (np.zeros((2, 4, 4)), {}, r"output of shape \(2, 4, 4\)"),
        (np.zeros((1, 1, 0, 4)), {}, r"output of shape"),
        (np.full((1, 1, 2, 2), np.nan), {}, "not finite"),
        (np.zeros((1, 1, 2, 2)), {"activation": "softmax"}, "one channel, softmax needs two"),
        (np.array([[[[-3.0, 7.5]]]]), {}, "values from -3 to 7.5, expected 0 to 1; pass --activation sigmoid"),
    ],
)
def test_outputs_that_are_no_saliency_are_one_line(output, settings, says):
    with pytest.raises(UserError, match=says) as error:
        probabilities(output, SaliencySettings(**settings), FILE)
    assert "\n" not in str(error.value)


def test_an_output_is_chosen_by_name_before_position():
    outputs = {"1959": np.zeros(1), "0": np.ones(1)}  # names as U2-Net's files have them
    assert [chosen(outputs, word, FILE)[0] for word in ("1959", "0", "-1")] == [0, 1, 1]
    for word in ("2", "fused"):
        with pytest.raises(UserError, match=rf"has the outputs '1959', '0', not '{word}'"):
            chosen(outputs, word, FILE)


def test_values_of_the_images_size_are_not_touched():
    values = np.random.default_rng(0).random((5, 7), np.float32)
    assert resized(values, (7, 5)) is values
    assert resized(values, (14, 10)).shape == (10, 14)
