"""What is advised after an extension: one direction, and never what is set already."""

from __future__ import annotations

import itertools
import re

import pytest

from barm.config import load_config
from barm.engine.config import StepRecipe
from barm.extension.advice import OLD_PARTS, advice

RECIPE = load_config("folder/barm", ['task.groups=[["a"],["b"]]', "increment.epochs=10"]).increment
SETTING = re.compile(r"--set increment\.(\S+?)=([0-9.e+-]+[0-9])")


def result(**changes) -> dict:
    usual = {
        "old": {"before": 0.8, "after": 0.8},
        "agreement": None,
        "taken_for": {"lamp": {"lamp": 1.0}},
        "learned": ["lamp"],
        "images": 40,
        "updates": 200,
        "claimed": None,
    }
    return {**usual, **changes}


OLD = (
    {"old": {"before": 0.8, "after": 0.8}},
    {"old": {"before": 0.8, "after": 0.1}},
    {"old": {"before": None, "after": None}, "agreement": {"background": 0.99, "car": 0.98}},
    {"old": {"before": None, "after": None}, "agreement": {"background": 0.7, "car": 0.0, "sky": None}},
    {"old": {"before": None, "after": None}, "agreement": None},
)
NEW = (
    {"lamp": {"lamp": 1.0}},
    {"lamp": {"background": 0.9, "lamp": 0.1}},
    {"lamp": {"car": 0.5, "sky": 0.3, "lamp": 0.2}, "post": {"car": 1.0}},
)
PRESENT = (
    {"epochs": 1},
    {"epochs": 2},
    {"epochs": 40},
    {"epochs": 3, "backbone": "frozen"},
    {"epochs": None, "updates": 1},
    {"epochs": None, "updates": 500},
)


@pytest.mark.parametrize("trained", [OLD_PARTS, ("backbone", "old"), ("old",), ()])
def test_no_two_lines_contradict_and_none_says_what_is_set(trained):
    for old, new, updates, present in itertools.product(OLD, NEW, (1, 59, 60, 5000), PRESENT):
        recipe = StepRecipe.model_validate({**RECIPE.model_dump(), **present})
        lines = advice(result(**old, taken_for=new, updates=updates), recipe, trained)
        text = " ".join(lines)
        settings = SETTING.findall(text)
        assert len({key for key, _ in settings}) == len(settings), text
        length = "updates" if recipe.epochs is None else "epochs"
        assert not (f"fewer {length}" in text and f"more {length}" in text), text
        forgot = "lost" in text or "forgotten" in text
        for key, value in settings:
            part = key.removeprefix("lr.")
            now = getattr(recipe, length) if key == length else getattr(recipe.lr, part)
            assert float(value) != now, text
            assert (float(value) < now) == forgot, text
            assert key == length or part in trained, text
            assert not (part == "backbone" and recipe.backbone == "frozen"), text
        assert bool(lines) == (forgot or len(new["lamp"]) > 1 or updates < 60), text


def test_a_collapse_is_told_where_only_the_old_network_can_be_asked():
    found = result(old={"before": None, "after": None}, agreement={"background": 0.9, "car": 0.0, "sky": None})
    lines = advice(found, RECIPE)
    assert lines[0] == (
        "the old classes are probably forgotten: of the pixels that the old network gives a class, the new one gives "
        "the same to 45 % in the mean over the classes ('car' 0 %)"
    )
    assert "--val DIR" in lines[1]
    assert "--set increment.epochs=5" in lines[1]
    assert advice({**found, "agreement": {"background": 0.9, "car": 0.95}}, RECIPE) == []
