"""Networks of SegACIL: recognised whatever the regression is called, imported, and never unpickled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from barm.cli import published as commands
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError
from barm.labels import TaskPlan
from barm.methods.segacil import SegACILConfig
from barm.models.segmenter import NetworkConfig
from barm.predict.model import load
from barm.weights.analytic import PROJECTION, TRAINED, WEIGHT
from barm.weights.published import export_checkpoint, import_published
from barm.weights.recognise import recognise

STEP, WIDTH = 1, 32


@pytest.fixture(scope="module")
def own():
    """Tensors of a small network after step 1 of VOC 15-1, with a regression of its own."""
    network = NetworkConfig(backbone="test_resnet", channels=24, pretrained=False)
    model = SegACILConfig(width=WIDTH).build(TaskPlan.parse("15-1", 20)[STEP], network).build_model()
    model.classifier.regression.weight.normal_()
    return model.state_dict()


def foreign(own, prefix: str = "") -> dict[str, torch.Tensor]:
    """The same as another program may store it: in float64, ``(E, C)``, with the inverse of the sums."""
    body = {f"{prefix}{name}": value for name, value in own.items() if name not in (PROJECTION, WEIGHT)}
    projection, weight = own[PROJECTION].flatten(1).double(), own[WEIGHT].flatten(1).double()
    return {**body, "fc.W": weight.T.contiguous(), "fc.R": torch.eye(WIDTH).double(), "buffer.weight": projection}


@pytest.fixture(autouse=True)
def _small_is_published(monkeypatch):
    small = {"backbone": "test_resnet", "channels": 24}
    monkeypatch.setitem(commands.MODELS, "small", small)


@pytest.mark.parametrize("form", ["exported", "another's", "prefix", "bare", "state_dict"])
def test_imported_whatever_its_names(form, own, tmp_path):
    state = own if form == "exported" else foreign(own, "net." if form == "prefix" else "")
    key = "state_dict" if form == "state_dict" else "model_state"
    torch.save(state if form == "bare" else {key: state}, tmp_path / "a.pth")
    kind = recognise(tmp_path / "a.pth")
    assert (kind.family, kind.use, kind.outputs) == ("segacil", "import", 17)
    assert "SegACIL with 17 outputs, a regression of width 32" in kind.name
    assert "given --dataset, --task and --model" in kind.advice
    import_published(tmp_path / "a.pth", tmp_path / "run", dataset="voc", task="15-1", model="small")
    directory = RunDirectory(tmp_path / "run")
    assert directory.finished_steps() == [STEP]
    stored = directory.load_model_state(STEP)
    assert stored.keys() == own.keys()
    assert all(torch.equal(stored[name], own[name]) for name in own)


def test_the_first_step_has_no_trained_classifier(own, tmp_path):
    state = {**foreign(own), "fc.W": torch.ones(WIDTH, 16).double()}
    torch.save({"model_state": state}, tmp_path / "a.pth")
    import_published(tmp_path / "a.pth", tmp_path / "run", dataset="voc", task="15-1", model="small")
    assert RunDirectory(tmp_path / "run").finished_steps() == [0]
    assert not {*TRAINED} & own.keys()
    model = load(tmp_path / "run")
    assert len(model.class_names) == 16
    export_checkpoint(tmp_path / "run", tmp_path / "again.pth")
    assert recognise(tmp_path / "again.pth").family == "segacil"  # with the classifier that trained


def test_a_task_that_never_has_these_outputs(own, tmp_path):
    torch.save({"model_state": own}, tmp_path / "a.pth")
    says = "--dataset voc --task 19-1 does not fit: .* with 17 outputs.*; expected 20, 21 after the steps"
    with pytest.raises(UserError, match=says):
        import_published(tmp_path / "a.pth", tmp_path / "run", dataset="voc", task="19-1", model="small")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["two projections", "two weights", "no weight"])
def test_matrices_that_leave_it_open(change, own, tmp_path):
    state = foreign(own)
    more = {"two projections": torch.zeros(40, 24), "two weights": torch.zeros(5, WIDTH)}
    state = {**state, "more": more[change]} if change in more else {k: v for k, v in state.items() if k != "fc.W"}
    torch.save({"model_state": state}, tmp_path / "a.pth")
    assert recognise(tmp_path / "a.pth").family != "segacil"


def module_of(state: dict[str, torch.Tensor]) -> nn.Module:
    """A module with these buffers."""
    whole = nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        inner = whole
        for part in path:
            if part not in inner._modules:
                inner.add_module(part, nn.Module())
            inner = inner._modules[part]
        inner.register_buffer(last, value)
    return whole


@pytest.mark.parametrize("key", [None, "model_state"])
def test_a_whole_pickled_network_is_named_and_not_unpickled(key, own, tmp_path):
    module = module_of(foreign(own))
    torch.save(module if key is None else {key: module, "epoch": 1}, tmp_path / "a.pth")
    kind = recognise(tmp_path / "a.pth")
    assert (kind.family, kind.use) == ("module", "none")
    line = kind.line("a.pth")
    assert "\n" not in line
    got = "" if key is None else "['model_state']"
    for words in (
        "a whole pickled network of the class torch.nn.modules.module.Module",
        "a network of SegACIL with 17 outputs",
        "unpickling would run code, so barm does not",
        f"`torch.save(torch.load(PATH, weights_only=False){got}.state_dict(), FILE)`",
    ):
        assert words in line, line
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        import_published(tmp_path / "a.pth", tmp_path / "run", dataset="voc", task="15-1", step=1, model="small")
    assert not (tmp_path / "run").exists()
