"""Published checkpoints: written, read, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from barm.cli import published as commands
from barm.cli.published import parser, to_config
from barm.config import load_config
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.labels import TaskPlan
from barm.methods.barm import BARMConfig
from barm.models.segmenter import MODELS, NetworkConfig
from barm.predict.model import load
from barm.weights.published import export_checkpoint, import_published, read_checkpoint
from barm.weights.published_names import published_names


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """An official checkpoint of a small network after step 1 of VOC 15-1, with a numpy scalar as in the real files."""
    monkeypatch.setitem(commands.MODELS, "small", {"backbone": "test_resnet"})
    network = NetworkConfig(backbone="test_resnet", pretrained=False)
    model = BARMConfig().build(TaskPlan.parse("15-1", 20)[1], network).build_model()
    path = tmp_path / "official.pth"
    torch.save({"model_state": model.state_dict(), "optimizer_state": {}, "best_score": np.float64(0.7)}, path)
    return path


def test_checkpoint_round_trip(checkpoint, tmp_path):
    given = read_checkpoint(checkpoint)
    import_published(checkpoint, tmp_path / "run", dataset="voc", task="15-1", step=1, model="small")
    export_checkpoint(tmp_path / "run", tmp_path / "again.pth", step=1)
    again = read_checkpoint(tmp_path / "again.pth")
    assert list(again) == list(given)
    assert all(torch.equal(again[name], given[name]) for name in given)


def edited(path: Path, **changes):
    state = read_checkpoint(path)
    state = {name: changes.get(name.replace(".", "_"), value) for name, value in state.items()}
    state |= {name: value for name, value in changes.items() if name == "extra"}
    torch.save({"model_state": {k: v for k, v in state.items() if v is not None}}, path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classifier_head_1_bias": None}, "'classifier.head.1.bias' is missing"),
        ({"extra": torch.zeros(1)}, "'extra' is not in this network"),
        ({"classifier_head_1_bias": torch.zeros(5)}, r"'classifier.head.1.bias' is \(5,\), expected \(2,\)"),
    ],
)
def test_checkpoints_that_do_not_fit(changes, says, checkpoint, tmp_path):
    edited(checkpoint, **changes)
    with pytest.raises(UserError, match=says):
        import_published(checkpoint, tmp_path / "run", dataset="voc", task="15-1", step=1, model="small")
    assert not (tmp_path / "run").exists()


def test_an_import_that_fails_leaves_the_folder_as_it_was(checkpoint, tmp_path):
    into = {"dataset": "voc", "task": "15-1", "step": 1, "model": "small"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(UserError, match="is not a run"):
        import_published(checkpoint, tmp_path / "mine", **into)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]

    import_published(checkpoint, tmp_path / "run", **into)
    with pytest.raises(UserError, match="has step 1 already"):
        import_published(checkpoint, tmp_path / "run", **into)
    assert RunDirectory(tmp_path / "run").finished_steps() == [1]


def test_checkpoint_of_another_task(checkpoint, tmp_path):
    with pytest.raises(UserError, match="does not fit"):
        import_published(checkpoint, tmp_path / "run", dataset="voc", task="10-1", step=1, model="small")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "text.pth")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="has no 'model_state'"):
        read_checkpoint(tmp_path / "other.pth")
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")


class Harmful:
    """Runs code when it is unpickled without restriction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoints_run_no_code(tmp_path):
    torch.save({"model_state": {}, "best_score": Harmful(tmp_path / "harm")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("method", "model", "task", "step", "single"),
    [
        ("ssul", "deeplabv3_mobilenet", "15-1", 1, False),
        ("ssul", "deeplabv3plus_mobilenet", "15-1", 0, False),
        ("finetune", "deeplabv3_mobilenet", "offline", 0, True),
        ("finetune", "deeplabv3plus_mobilenet", "offline", 0, True),
    ],
)
def test_checkpoints_of_the_code_base(method, model, task, step, single, tmp_path):
    """A checkpoint under published names becomes a step that loads, with the same tensors."""
    config = load_config(f"voc/{task}/{method}", updates={"model": {**MODELS[model], "pretrained": False}})
    own = config.method.build(TaskPlan.parse(task, 20)[step], config.model).build_model().state_dict()
    names = published_names(own, single_head=single, v3plus="v3plus" in model)
    path = tmp_path / "published.pth"
    torch.save({"model_state": {names[k]: v for k, v in own.items()}, "best_score": 0.5}, path)
    out = tmp_path / "run"
    import_published(path, out, dataset="voc", task=task, step=step, model=model, method=method)
    stored = RunDirectory(out).load_model_state(step)
    assert stored.keys() == own.keys()
    assert all(torch.equal(stored[k], own[k]) for k in own)
    assert load(out).class_names[0] == "background"


def test_separable_convolutions_need_the_decoder():
    words = "--data_root D --model deeplabv3plus_mobilenet --separable_conv"
    assert to_config(parser("train.py").parse_args(words.split())).model.separable
    with pytest.raises(UserError, match="exist for decoder = 'v3plus' only"):
        load_config("voc/15-1/ssul", ["model.separable=true"])
