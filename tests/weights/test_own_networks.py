"""Networks of somebody's own, from Python: what is taken over, what is refused, and how another process knows them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import barm
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.errors import UserError
from barm.labels import Step
from barm.models.families import own
from barm.weights.importing import adopt

sys.path.insert(0, str(Path(__file__).parent / "foreign"))
import networks

CPU = ("runtime.device=cpu", "runtime.precision=32-true", "runtime.workers=0")
GIVEN = {"classifier": "head.1", "classes": networks.NAMES, "recipe": "folder/mib", "overrides": CPU}
IMAGE = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _no_network_is_registered(monkeypatch):
    monkeypatch.setattr(own, "_factories", {})
    monkeypatch.setattr(own, "_checked", set())


class Wide(networks.Own):
    """Of the same tensors as `Own`, with other scores."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().forward(2 * image)


class Ending(networks.Own):
    """Returns what a function makes of the enlarged logits."""

    def __init__(self, end) -> None:
        super().__init__()
        self.end = end

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.body(image))
        return self.end(F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False))


class Tied(networks.Own):
    """Uses one layer twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.body[3]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(self.body[:3](image)))


class Fixed(networks.Own):
    """Knows its number of classes by heart."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.body(image))
        size = image.shape[2:]
        flat = logits.reshape(len(image), 4, *logits.shape[2:])
        return F.interpolate(flat, size, mode="bilinear", align_corners=True)


class Keeping(networks.Own):
    """Keeps what it computed."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        self.kept = self.body(image)
        return super().forward(image)


def test_two_networks_do_not_share_a_name(tmp_path):
    adopt(networks.Own(), tmp_path / "one", name="mine", **GIVEN)
    adopt(networks.Own(), tmp_path / "two", name="mine", **GIVEN)  # of the same form, with weights of its own
    with pytest.raises(UserError, match="another network is registered as 'mine'"):
        adopt(Wide(), tmp_path / "three", name="mine", **GIVEN)
    assert not (tmp_path / "three").exists()
    load_step(RunDirectory(tmp_path / "one"), 0)


def test_another_process_must_register_the_same_network(tmp_path, monkeypatch):
    adopt(networks.Own(), tmp_path / "run", name="mine", **GIVEN)
    barm.register_network("mine", Wide)
    with pytest.raises(UserError, match="'mine' is not the one that this run was made from"):
        load_step(RunDirectory(tmp_path / "run"), 0)
    barm.register_network("mine", networks.Own)
    load_step(RunDirectory(tmp_path / "run"), 0)


def test_building_a_network_takes_no_random_numbers(tmp_path):
    taken = adopt(networks.Own(), tmp_path / "run", name="mine", **GIVEN)
    barm.register_network("mine", networks.Own)
    before = torch.random.get_rng_state()
    own.build(taken.config.model.adopted.description)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_that_was_refused_is_not_registered(tmp_path):
    with pytest.raises(UserError, match="expected 4 names"):
        adopt(networks.Own(), tmp_path / "run", **{**GIVEN, "classes": ["a"]})
    assert not own.is_held("Own")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_network_that_ends_in_probabilities_gives_its_logits(activation, tmp_path):
    end = nn.Softmax(dim=1) if activation == "softmax" else nn.Sigmoid()
    recipe = "folder/mib" if activation == "softmax" else "folder/barm"
    module = networks.shaken(Ending(end))
    adopt(module, tmp_path / "run", **{**GIVEN, "activation": activation, "recipe": recipe})
    network, _ = load_step(RunDirectory(tmp_path / "run"), 0)
    with torch.no_grad():
        logits = module.head(module.body(IMAGE))
        torch.testing.assert_close(network(IMAGE).logits, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("end", "change", "line"),
    [
        (nn.Sigmoid(), {}, "ends in a sigmoid, found the activation 'softmax': expected 'sigmoid'"),
        (lambda t: t.softmax(dim=1) ** 2, {}, "returns values in 0..1, which may be probabilities: expected logits"),
        (
            lambda t: t / t.abs().sum(dim=1, keepdim=True),
            {},
            "depends on its 4 channels .one more changes what it returns for the old ones",
        ),
        (nn.Identity(), {"divisor": 0}, "divisor is 0: expected a whole number from 1 on"),
        (nn.Identity(), {"divisor": 1.5}, "divisor is 1.5: expected a whole number from 1 on"),
        (nn.Identity(), {"normalisation": "imagenet"}, "normalisation is 'imagenet': expected mean and deviation"),
        (nn.Identity(), {"normalisation": (0.5, 0.5)}, "expected mean and deviation of the three channels"),
        (nn.Identity(), {"normalisation": ((0, 0, 0), (1, 0, 1))}, "expected mean and deviation of the three"),
    ],
)
def test_what_python_code_gives_wrongly(end, change, line, tmp_path):
    with pytest.raises(UserError, match=line):
        adopt(Ending(end), tmp_path / "run", **{**GIVEN, **change})
    assert not (tmp_path / "run").exists()


class Channels(networks.Own):
    """Returns what the classifier gives, and knows the number of its channels by heart."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.body(image))
        return logits.view(len(image), 4, *logits.shape[2:])


class Elsewhere(networks.Own):
    """Makes a tensor on the processor, wherever its image is."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().forward(image * torch.ones(1, 3, 1, 1, device="cpu"))


class Alias(networks.Own):
    """Has its classifier under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.other = self.head[1]


class Chance(networks.Own):
    """Never gives the same scores."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().forward(image + torch.rand_like(image))


class Needs(networks.Own):
    """Takes sides that a number divides."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        assert all(side % self.number == 0 for side in image.shape[2:]), f"{self.number} must divide the sides"
        return super().forward(image)


@pytest.mark.parametrize(
    ("module", "change", "line"),
    [
        (Channels(), {}, "depends on its 4 channels"),
        (Alias(), {}, r"has one convolution in several places \(head.1, other\): leave it one name"),
        (Alias(), {"classifier": "other"}, "has one convolution in several places"),
        (Chance(), {}, "gives other scores for the same image each time"),
        (nn.Conv2d(3, 4, 1), {"classifier": ""}, "has no path to its last convolution"),
        (torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1))), {"classifier": "0"}, "is compiled by torch.jit"),
        (Needs(48), {}, "takes no image of 161 x 193 pixels"),
        (lambda image: image, {}, "found a function: expected the network, an nn.Module"),
        (networks.Own(), {"divisor": True}, "divisor is True: expected a whole number"),
        (networks.Own(), {"activation": "tanh"}, "unknown activation 'tanh': expected softmax or sigmoid"),
        (networks.Own(), {"classes": "abcd"}, "classes is the text 'abcd': expected a list of names"),
        (networks.Own(), {"classes": ["background", "a", "b", ""]}, "hold '': expected texts of 1 to 200 characters"),
        (networks.Own(), {"classes": ["background", "a", "b", 3]}, "hold 3: expected texts"),
        (networks.Own(), {"classes": ["background", "a", "b", "c\n"]}, "expected texts of 1 to 200 characters on one"),
        (networks.Own(), {"classes": ["background", "background", "b", "c"]}, "hold 'background' twice"),
        (networks.Own(), {"classes": ["a", "b", "c"], "background": "a"}, "found 3 class names: expected 4 names$"),
    ],
)
def test_networks_and_names_that_are_refused(module, change, line, tmp_path):
    with pytest.raises(UserError, match=line):
        adopt(module, tmp_path / "run", **{**GIVEN, **change})
    assert not (tmp_path / "run").exists()


def test_a_size_that_is_said(tmp_path):
    taken = adopt(Needs(48), tmp_path / "run", divisor=48, **GIVEN)
    assert taken.config.model.adopted.divisor == 48


def test_a_network_that_ends_in_log_softmax_gives_its_logits(tmp_path):
    module = networks.shaken(Ending(nn.LogSoftmax(dim=1)))
    adopt(module, tmp_path / "run", **GIVEN)
    network, _ = load_step(RunDirectory(tmp_path / "run"), 0)
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGE).logits, module.head(module.body(IMAGE)), rtol=0, atol=1e-5)


def test_a_compiled_network_is_taken_as_it_was_before(tmp_path):
    adopt(torch.compile(networks.Own()), tmp_path / "run", **{**GIVEN, "classifier": "_orig_mod.head.1"})
    assert own.is_held("Own")


def test_a_network_that_needs_the_processor_is_extended(tmp_path):
    from barm.data.sources.shapes_disk import make_shapes

    make_shapes(tmp_path / "data", num_train=4, num_val=1, size=(64, 64), seed=3, workers=0)
    adopt(Elsewhere(), tmp_path / "run", **GIVEN)
    result = barm.extend(
        tmp_path / "run",
        tmp_path / "data",
        [barm.open_source("folder", tmp_path / "data", "train").class_names[1]],
        out=tmp_path / "new",
        overrides=["increment.epochs=1", "increment.crop=64", "runtime.workers=0"],
        quiet=True,
    )
    assert result["updates"] > 0
    assert RunDirectory(tmp_path / "new").finished_steps() == [0, 1]


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        (lambda: 3, "the factory of 'mine' returns a int: expected the network"),
        (lambda: networks.Own(nothing=1), "the factory of 'mine' .* does not build a network: .*unexpected keyword"),
        (lambda: nn.Conv2d(1, 4, 1), "the network that is registered as 'mine' takes no image"),
    ],
)
def test_a_factory_that_does_not_fit(factory, line, tmp_path):
    adopt(networks.Own(), tmp_path / "run", name="mine", **GIVEN)
    barm.register_network("mine", factory)
    with pytest.raises(UserError, match=line):
        load_step(RunDirectory(tmp_path / "run"), 0)


def test_a_network_is_no_factory():
    with pytest.raises(UserError, match="the factory of 'mine' is a Own: expected a function or class"):
        barm.register_network("mine", networks.Own())


def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0")
    adopt(networks.Own(), tmp_path / "run", name="mine", **GIVEN)
    monkeypatch.setattr(own, "_factories", {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BARM_NETWORKS", "broken_module")
    with pytest.raises(UserError, match=r"names 'broken_module', which cannot be imported .division by zero"):
        load_step(RunDirectory(tmp_path / "run"), 0)


def test_a_large_divisor(tmp_path):
    taken = adopt(networks.Own(), tmp_path / "run", divisor=200, **GIVEN)
    assert taken.config.model.adopted.divisor == 200
    assert len(repr(taken)) < 500


def test_tied_weights_are_taken_and_stay_tied(tmp_path):
    module = networks.shaken(Tied())
    adopt(module, tmp_path / "run", **GIVEN)
    network, _ = load_step(RunDirectory(tmp_path / "run"), 0)
    assert network.backbone.again.weight is network.backbone.body[3].weight
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGE).logits, module(IMAGE), rtol=0, atol=1e-5)


def test_a_fixed_number_of_channels_is_no_obstacle_to_barm(tmp_path, shapes_voc):
    with pytest.raises(UserError, match="depends on its 4 channels"):
        adopt(Fixed(), tmp_path / "run", **GIVEN)
    assert not (tmp_path / "run").exists()
    barm_given = {**GIVEN, "recipe": "folder/barm", "images": shapes_voc}
    assert adopt(Fixed(), tmp_path / "run", **barm_given).config.model.adopted.handed == 4
    network, method = load_step(RunDirectory(tmp_path / "run"), 0)
    later = method.config.build(Step(1, (*method.step.groups, (4,))), method.network)
    new = later.build_model().eval()
    later.init_from(new, network)
    with torch.no_grad():
        assert torch.equal(new(IMAGE).heads[0], network(IMAGE).heads[0])


def test_a_network_that_keeps_what_it_computed(tmp_path):
    module = Keeping()
    module(IMAGE)
    with pytest.raises(UserError, match=r"Keeping cannot be copied .* expected a network that keeps nothing"):
        adopt(module, tmp_path / "run", **GIVEN)
    del module.kept
    adopt(module, tmp_path / "run", **GIVEN)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_other_kinds_of_numbers(kind, tmp_path):
    module = networks.Own().to(kind)
    taken = adopt(module, tmp_path / "run", **GIVEN)
    assert any("float32 from now on" in note for note in taken.notes)
    network, _ = load_step(RunDirectory(tmp_path / "run"), 0)
    with torch.no_grad():
        expected = copy.deepcopy(module).float().eval()(IMAGE)["out"]
        torch.testing.assert_close(network(IMAGE).logits, expected, rtol=0, atol=1e-5)
    assert next(module.parameters()).dtype == kind
    assert module.training
