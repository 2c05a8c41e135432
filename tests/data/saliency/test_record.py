"""The record beside the maps: what it says in one line, and what is refused."""

from __future__ import annotations

import json

import pytest

from barm.data.saliency.record import RECORD, Recipe, origin, read_recipe
from barm.reading import Unfit

U2NET = Recipe(
    tool="onnxruntime",
    version="1.20.0",
    file="u2net.onnx",
    sha256="0123456789abcdef" * 4,
    settings={"input size": "320x320", "threshold": "0.5"},
)


def test_a_line_names_the_network_its_digest_and_size(tmp_path):
    (tmp_path / RECORD).write_text(U2NET.model_dump_json())
    assert origin(tmp_path) == "u2net.onnx (sha256 0123456789ab), 320x320, threshold 0.5"


def test_maps_without_a_record_are_of_unknown_origin(tmp_path):
    assert read_recipe(tmp_path) is None
    assert origin(tmp_path) == origin(None) == "of unknown origin"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"file": "renamed.onnx", "images": 7}, None),
        ({"version": "1.21.0"}, "version 1.21.0, not 1.20.0"),
        ({"settings": {"input size": "256x256", "threshold": "0.5"}}, "input size 256x256, not 320x320"),
        ({"settings": {"input size": "320x320"}}, "threshold none, not 0.5"),
        ({"sha256": U2NET.sha256[:-1] + "0"}, "another file"),
    ],
)
def test_recipes_differ_in_what_decides_the_maps(change, told):
    assert U2NET.model_copy(update=change).difference(U2NET) == told


@pytest.mark.parametrize("text", ["[]", "{}", '{"tool": 3, "version": "1"}', '{"tool": "a\\nb", "version": ""}', "{"])
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(Unfit, match=r"saliency\.json: is (no record of saliency maps|not valid JSON)") as error:
        origin(tmp_path)
    assert "\n" not in str(error.value)


def test_a_record_of_a_later_version_may_hold_more(tmp_path):
    (tmp_path / RECORD).write_text(json.dumps({**json.loads(U2NET.model_dump_json()), "more": 1}))
    assert read_recipe(tmp_path) == U2NET
