"""A recipe shown whole: what is printed is a recipe, equal to the one it shows, with words on every key."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from barm.api import read_config
from barm.catalogue import recipe_names
from barm.config import load_config
from barm.engine.config import RunConfig, StepRecipe
from barm.methods import METHODS
from barm.methods.dkd import DKDMConfig
from barm.models.segmenter import NetworkConfig
from barm.settings import WIDTH, explained, recipe_text

TASK = "task.name=2-1"
SHOWN = (
    "voc/15-1/barm",
    "voc/10-1/plop",
    "voc/15-1/mib-published",
    "ade/100-10/dkd-m",
    "shapes/6-1/ssul-m",
    "voc/offline/joint",
)
ENTRY = re.compile(r"^(?:# )?(\w+) = ")  # of a key, set or not
HEADER = re.compile(r"^\[([\w.]+)\]")


def keys(model: BaseModel, before: str = "") -> Iterator[str]:
    """Dotted names of everything a configuration holds."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from keys(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def entries(text: str) -> dict[str, str]:
    """What stands in a shown recipe behind the ``#`` of every key and table, by dotted name."""
    found, table, name = dict[str, str](), "", ""
    for line in text.splitlines():
        header, entry = HEADER.match(line), ENTRY.match(line)
        if header:
            table = name = header[1]
        elif entry:
            name = f"{table}.{entry[1]}".removeprefix(".")
        words = re.search(r"(?:^\s+|  )# (.*)$", line)
        if header or entry:
            assert name not in found, f"{name} stands there twice"
            found[name] = ""
        if words and name:
            found[name] = f"{found[name]} {words[1]}".strip()
    return found


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_the_recipe(name, cli):
    status, text, err = cli("recipes", name)
    assert (status, err) == (0, "")
    with open("own.toml", "w") as file:
        file.write(text)
    assert load_config("own.toml") == load_config(name)
    assert cli("recipes", "own.toml")[1].splitlines()[2:] == text.splitlines()[2:]


@pytest.mark.parametrize("name", ["folder/barm", "folder/ssul-m", "voc/plop"])
def test_without_a_task_it_says_how_to_give_one(name, cli):
    text = cli("recipes", name)[1]
    assert re.search(r'^# name = "15-1" .*', text, re.MULTILINE)
    assert re.search(r"^# No task is set:.*--task .*--group", text, re.MULTILINE)
    assert "name" not in tomllib.loads(text)["task"]
    with open("own.toml", "w") as file:
        file.write(text)
    assert load_config("own.toml", [TASK]) == load_config(name, [TASK])
    groups = {"task": {"groups": (("cat",), ("dog",))}}
    assert load_config("own.toml", updates=groups) == load_config(name, updates=groups)
    with open("own.toml", "w") as file:
        file.write(text.replace('# name = "15-1"', 'name = "2-1"'))
    assert load_config("own.toml") == load_config(name, [TASK])
    assert cli("train", "--recipe", "own.toml", "--task", "2-1", "--data", "nowhere")[2].startswith("barm: no folder")


def test_a_crop_that_the_data_decide_stays_so(cli):
    table = tomllib.loads(cli("recipes", "folder/barm")[1])
    assert (table["base"]["crop"], table["increment"]["crop"], table["evaluation"]["crop"]) == ("auto", "auto", 0)


@pytest.mark.parametrize("method", METHODS)
def test_every_key_has_its_words(method):
    name = f"shapes/6-1/{method}"
    config, found = load_config(name), entries(recipe_text(name))
    tables = {key.rpartition(".")[0] for key in keys(config)} - {""}
    assert set(found) == set(keys(config)) | tables
    assert [key for key, words in found.items() if len(words.split()) < 2] == []
    assert "(spec/" not in recipe_text(name)
    assert all(len(line) <= WIDTH for line in recipe_text(name).splitlines())


def test_words_come_from_the_docstrings_and_from_those_inherited():
    words = explained(StepRecipe)
    assert words["momentum"] == "of SGD."
    assert words["policy"].endswith("or `step` (a tenth every `step_size` iterations).")
    own = explained(DKDMConfig)
    assert own["freeze_bn"].startswith("from step 1 on")
    assert own["kd_weight"] == "of the distillation of the logits."
    assert {name for name in own if name in DKDMConfig.model_fields} == set(DKDMConfig.model_fields)


def unset(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    """Keys that may have no value, with their examples."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from unset(METHODS["barm"] if name == "method" else field.annotation, f"{before}{name}.")
        elif field.default is None:
            yield f"{before}{name}", (field.examples or [None])[0]


def test_what_is_not_set_has_an_example_that_would_be_taken():
    found = dict(unset(RunConfig))
    assert set(found) >= {"data.root", "task.name", "task.groups", "model.rates", "method.memory"}
    for key, example in found.items():
        recipe = "voc/barm" if key.endswith(".updates") else "folder/barm"  # one has the length in epochs
        words = recipe_text(recipe).split(f"[{key.partition('.')[0]}]")[1]
        line = next(line for line in words.splitlines() if line.startswith(f"# {key.partition('.')[2]} = "))
        set_there = line[2:].split("   #")[0].split(" = ", 1)[1]
        assert tomllib.loads(f"x = {set_there}")["x"] == example
        beside = [] if "groups" in key else [TASK]
        config = load_config(recipe, [*beside, "data.unlabelled=photos", f"{key}={set_there}"])
        table, name = key.split(".")
        assert getattr(getattr(config, table), name) is not None


def test_mean_and_deviation_follow_the_backbone_of_a_saved_recipe(cli):
    text = cli("recipes", "folder/barm")[1]
    assert "# mean = [0.485, 0.456, 0.406]" in text
    with open("own.toml", "w") as file:
        file.write(text)
    other = [TASK, "model.backbone=tf_efficientnet_lite0.in1k"]
    assert load_config("own.toml", other) == load_config("folder/barm", other)
    assert load_config("own.toml", other).model.mean == (0.5, 0.5, 0.5)
    with open("own.toml", "w") as file:
        file.write('extends = "folder/barm"\nmodel = { mean = [0.1, 0.2, 0.3] }')
    assert tomllib.loads(cli("recipes", "own.toml")[1])["model"]["mean"] == [0.1, 0.2, 0.3]
    assert "std" not in tomllib.loads(cli("recipes", "own.toml")[1])["model"]
    assert set(NetworkConfig.model_fields) >= NetworkConfig.derived


def test_odd_values_are_written_as_toml(cli):
    with open("own.toml", "w") as file:
        file.write(
            'extends = "folder/barm"\ntask.groups = [["a \\"b\\" # c"], ["d\'e", "\\u00e9"]]\n'
            'data.classes = ["x"]\ndata.val = [{ root = "C:\\\\own" }]\nmethod.memory = { size = 7 }\n'
        )
    config = load_config("own.toml")
    os.rename("own.toml", "my\nown.toml")
    text = cli("recipes", "my\nown.toml")[1]
    assert text.startswith('# The recipe "my\\nown.toml", whole')
    with open("saved.toml", "w", encoding="utf-8") as file:
        file.write(text)
    assert load_config("saved.toml") == config
    assert '# name = "15-1"' in text
    assert "No task is set" not in text


def test_the_configuration_of_a_run_is_shown_as_a_recipe(cli, tiny_run):
    text = cli("recipes", tiny_run / "config.toml")[1]
    with open("own.toml", "w") as file:
        file.write(text)
    assert load_config("own.toml") == read_config(tiny_run)
    assert "[provenance]" not in text


def test_json_has_the_same_values(cli):
    values = json.loads(cli("recipes", "voc/15-1/barm", "--json")[1])
    assert RunConfig.model_validate(values) == load_config("voc/15-1/barm")
    values = json.loads(cli("recipes", "folder/barm", "--json")[1])
    assert values["task"] == {"name": None, "groups": None, "setting": "overlap", "order": 0}
    assert values["base"]["crop"] == "auto"


def test_the_list_is_as_before(cli):
    assert cli("recipes") == (0, "\n".join(recipe_names()) + "\n", "")
    assert cli("recipes", "--json") == (0, json.dumps(recipe_names(), indent=1) + "\n", "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("voc/15-1/bram", "unknown recipe 'voc/15-1/bram'.*did you mean 'voc/15-1/barm'"),
        ("barm", "unknown recipe 'barm'.*expected <data>/<task>/<method>"),
        ("gone.toml", "no recipe file gone.toml"),
        ("odd.toml", "task: .*'15-1'"),
    ],
)
def test_what_is_no_recipe_is_one_line(name, words, cli, tmp_path):
    (tmp_path / "odd.toml").write_text('extends = "folder/barm"\ntask = "15-1"\n')
    for option in ([], ["--json"]):
        status, out, err = cli("recipes", name, *option)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert re.match(f"barm: {words}", err)
