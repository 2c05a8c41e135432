"""Networks of other libraries become step 0 of a run, and give the scores that they gave before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from barm.batch import Batch
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.errors import UserError
from barm.labels import Step
from barm.methods.base import Method
from barm.models.adopted import size_rule
from barm.models.families import build
from barm.models.families.logits import logits_of
from barm.models.inputs import InputRule
from barm.weights.importing import adopt, find_model, import_model
from barm.weights.output_classes import Classes, classes_of

sys.path.insert(0, str(Path(__file__).parent / "foreign"))
import networks

CPU = ("runtime.device=cpu", "runtime.precision=32-true", "runtime.workers=0")
IMAGE = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


SOON = ("smp-fpn", "transformers-segformer", "torchvision-lraspp")
LONG = [pytest.param(name, marks=pytest.mark.long) for name in networks.EVERY if name not in SOON]


@pytest.fixture(scope="module", params=[*SOON, *LONG])
def model(request, tmp_path_factory) -> Path:
    return networks.EVERY[request.param](tmp_path_factory.mktemp("models") / request.param)


def imported(model: Path, out: Path, recipe: str = "folder/mib", **options) -> tuple[nn.Module, Method]:
    names = {} if model.is_dir() else {"class_names": networks.NAMES}
    import_model(model, out, recipe=recipe, overrides=CPU, **{**names, **options})
    return load_step(RunDirectory(out), 0)


def next_step(network: nn.Module, method: Method) -> nn.Module:
    """The network of step 1, before its first update."""
    step = Step(1, (*method.step.groups, (method.step.num_seen,)))
    later = method.config.build(step, method.network)
    new = later.build_model().eval()
    later.init_from(new, network)
    return new


@torch.no_grad()
def theirs(model: Path, image: torch.Tensor) -> torch.Tensor:
    """Logits of the library's own network, ``(N, C, H, W)``."""
    found = find_model(model)
    logits = logits_of(found.module(image))
    return nn.functional.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def ours(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(network(image).logits, image.shape[2:], mode="bilinear", align_corners=False)


def test_scores_are_those_of_the_original(model, tmp_path):
    network, _ = imported(model, tmp_path / "run")
    torch.testing.assert_close(ours(network, IMAGE), theirs(model, IMAGE), rtol=0, atol=1e-5)


def test_before_the_first_update_old_classes_have_the_same_probabilities(model, tmp_path):
    new = next_step(*imported(model, tmp_path / "run"))
    before, after = (t.softmax(dim=1) for t in (theirs(model, IMAGE), ours(new, IMAGE)))
    torch.testing.assert_close(after[:, 1 : len(networks.NAMES)], before[:, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(after[:, 0] + after[:, -1], before[:, 0], rtol=0, atol=1e-5)  # MiB shares background's


def test_barm_keeps_the_calibrated_scores_of_old_classes(tmp_path, shapes_voc):
    model = networks.QUICK["smp-fpn"](tmp_path / "model")
    network, method = imported(model, tmp_path / "run", "folder/barm", images=shapes_voc)
    new = next_step(network, method)
    with torch.no_grad():
        old, later = network(IMAGE), new(IMAGE)
    assert torch.equal(later.heads[0], old.heads[0])
    torch.testing.assert_close(later.branches[:, old.branches.shape[1] :], old.branches, rtol=1e-5, atol=1e-6)
    apart = theirs(model, IMAGE).softmax(dim=1) - torch.sigmoid(ours(network, IMAGE))
    assert float(apart.abs().max()) > 1e-3  # a probability per class is not the softmax: it was fitted


def test_a_calibration_needs_images(tmp_path):
    model = networks.QUICK["smp-fpn"](tmp_path / "model")
    with pytest.raises(UserError, match="needs --calibrate DIR to go on with barm"):
        imported(model, tmp_path / "run", "folder/barm")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("outputs", "names", "background", "activation", "expected"),
    [
        (3, ("background", "a", "b"), None, "softmax", Classes(("background", "a", "b"), (0, 1, 2), "row")),
        (3, ("a", "b"), None, "softmax", Classes(("background", "a", "b"), (0, 1, 2), "row")),
        (3, ("a", "other", "b"), "other", "softmax", Classes(("background", "a", "b"), (1, 0, 2), "row")),
        (3, ("a", "b", "__Background__"), None, "softmax", Classes(("background", "a", "b"), (2, 0, 1), "row")),
        (2, ("a", "b"), None, "softmax", Classes(("background", "a", "b"), (-1, 0, 1), "none")),
        (2, ("a", "b"), None, "sigmoid", Classes(("background", "a", "b"), (-1, 0, 1), "threshold")),
        (1, ("crack",), None, "sigmoid", Classes(("background", "crack"), (-1, 0), "threshold")),
        (1, ("background", "crack"), None, "sigmoid", Classes(("background", "crack"), (-1, 0), "threshold")),
        (
            3,
            ("unlabeled", "background", "a"),
            None,
            "softmax",
            Classes(("background", "unlabeled", "a"), (1, 0, 2), "row"),
        ),
        (2, ("void", "a"), "none", "softmax", Classes(("background", "void", "a"), (-1, 0, 1), "none")),
    ],
)
def test_which_output_is_which_class(outputs, names, background, activation, expected):
    assert classes_of(outputs, names, background, activation, "it") == expected


@pytest.mark.parametrize(
    ("outputs", "names", "background", "line"),
    [
        (5, ("a", "b"), None, "it has 5 outputs, found 2 class names: expected 5 names, or 4 if output 0 is"),
        (2, ("a", "a"), None, "hold 'a' twice"),
        (2, ("a", "b"), "c", "has no class 'c': give one of a, b, or none"),
        (1, ("a", "b"), None, "expected 1 name"),
        (3, ("void", "background", "x"), "void", "has a class called 'background', found the background 'void'"),
        (2, ("background", "x"), "none", "has a class called 'background', found the background 'none'"),
        (
            3,
            ("unlabelled", "unlabeled", "x"),
            None,
            "has the classes unlabelled and unlabeled: say with --background which",
        ),
    ],
)
def test_names_that_do_not_fit(outputs, names, background, line):
    with pytest.raises(UserError, match=line):
        classes_of(outputs, names, background, "softmax", "it")


@pytest.mark.parametrize("recipe", ["folder/mib", "folder/barm"])
def test_a_network_of_one_output_becomes_two_classes(recipe, tmp_path):
    model = networks.of_smp("FPN", classes=1)(tmp_path / "model")
    network, method = imported(model, tmp_path / "run", recipe, class_names=["crack"])
    with torch.no_grad():
        probability = method.scores(network(IMAGE))[:, 1]
        logits = find_model(model).module(IMAGE)[:, 0]
    if recipe == "folder/barm":  # at the classifier's own size
        logits = nn.functional.avg_pool2d(logits, 1)[:, :: IMAGE.shape[2] - 1, :: IMAGE.shape[3] - 1]  # corners stay
        probability = probability[:, :: probability.shape[1] - 1, :: probability.shape[2] - 1]
    torch.testing.assert_close(probability, torch.sigmoid(logits), rtol=0, atol=1e-5)


def test_a_network_without_background_never_predicts_it_and_learns_from_random_rows(tmp_path):
    model = networks.segformer(tmp_path / "model", id2label=dict(enumerate(["sky", "road", "car"])))
    network, method = imported(model, tmp_path / "run")
    assert float(network(IMAGE).logits.softmax(dim=1)[:, 0].max()) < 1e-9
    torch.testing.assert_close(ours(network, IMAGE)[:, 1:], theirs(model, IMAGE), rtol=0, atol=1e-5)
    assert float(next_step(network, method).classifier.head[1].weight.abs().min()) > 0  # MiB copies background's else


def test_classes_are_renumbered_with_the_background_first(tmp_path):
    model = networks.segformer(tmp_path / "model", id2label=dict(enumerate(["sky", "road", "background"])))
    network, _ = imported(model, tmp_path / "run")
    torch.testing.assert_close(ours(network, IMAGE), theirs(model, IMAGE)[:, [2, 0, 1]], rtol=0, atol=1e-5)


def test_the_rule_of_the_images_comes_with_the_model(tmp_path):
    assert find_model(networks.segformer(tmp_path / "a")).rule == InputRule((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    found = find_model(networks.of_smp("FPN", "tu-tf_efficientnet_lite0")(tmp_path / "b"))
    assert found.rule == InputRule((0.5,) * 3, (0.5,) * 3)
    assert found.divisor == 32


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (70, 300)])
def test_images_of_any_size(size, tmp_path):
    model = networks.QUICK["smp-fpn"](tmp_path / "model")
    network, _ = imported(model, tmp_path / "run")
    image = torch.randn(1, 3, *size)
    fitting = size_rule(32).fit(image)
    assert all(side % 32 == 0 and abs(side - own) <= 16 for side, own in zip(fitting.shape[2:], size, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(network(image).logits, find_model(model).module(fitting), rtol=0, atol=1e-5)


def test_any_module_is_adopted_from_python(tmp_path):
    module = networks.shaken(networks.Own())
    taken = adopt(
        module, tmp_path / "run", classifier="head.1", classes=networks.NAMES, recipe="folder/mib", overrides=CPU
    )
    assert taken.config.model.adopted.tail  # corners are aligned, which is not how ours are enlarged
    network, _ = load_step(RunDirectory(tmp_path / "run"), 0)
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGE).logits, module(IMAGE)["out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"classifier": "head.7"}, "has no module 'head.7': its last convolutions are body.0, body.3, head.1"),
        ({"classifier": "head.0"}, "'head.0' is a ReLU: expected the last convolution"),
        ({"classifier": "body.3"}, "expected a convolution of stride 1"),
        ({"classes": ["a"]}, "has 4 outputs, found 1 class name: expected 4 names, or 3"),
        ({"recipe": "folder/ssul"}, "ssul cannot go on with Own"),
        ({"recipe": "folder/plop"}, "has no stages of a ResNet"),
        ({"activation": "sigmoid"}, "asks every class by itself"),
    ],
)
def test_what_cannot_be_adopted(change, line, tmp_path):
    given = {"classifier": "head.1", "classes": networks.NAMES, "recipe": "folder/mib", "overrides": CPU, **change}
    with pytest.raises(UserError, match=line):
        adopt(networks.Own(), tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_own_class_says_how_to_register_it(tmp_path, monkeypatch):
    from barm.models.families import own

    given = {"classifier": "head.1", "classes": networks.NAMES, "recipe": "folder/mib", "overrides": CPU}
    adopt(networks.Own(), tmp_path / "run", name="mine", **given)
    monkeypatch.setattr(own, "_factories", {})
    with pytest.raises(UserError, match=r"call barm.register_network\('mine', FACTORY\)"):
        load_step(RunDirectory(tmp_path / "run"), 0)
    own.register_network("mine", networks.Own)
    load_step(RunDirectory(tmp_path / "run"), 0)


@pytest.mark.parametrize("name", ["smp-fpn", "transformers-segformer"])
def test_a_folder_without_its_weights(name, tmp_path):
    model = networks.QUICK[name](tmp_path / "model")
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match=str(model)):
        find_model(model)


@pytest.mark.parametrize("name", ["smp-fpn", "transformers-segformer", "torchvision-lraspp"])
def test_a_damaged_file(name, tmp_path):
    model = networks.QUICK[name](tmp_path / "model")
    file = model / "model.safetensors" if model.is_dir() else model
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"not readable|cannot be loaded|cut short or damaged"):
        find_model(model)


class Halving(networks.Own):
    """Refuses sides that 8 does not divide."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        if any(side % 8 for side in image.shape[2:]):
            raise RuntimeError(f"cannot halve {tuple(image.shape[2:])} three times")
        return super().forward(image)


def test_the_size_that_a_network_needs_is_found(tmp_path):
    given = {"classifier": "head.1", "classes": networks.NAMES, "recipe": "folder/mib", "overrides": CPU}
    taken = adopt(Halving(), tmp_path / "run", **given)
    assert taken.config.model.adopted.divisor == 8


def test_a_network_that_takes_no_image(tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1))
    with pytest.raises(UserError, match="takes no image of 161 x 193 pixels"):
        adopt(module, tmp_path / "run", classifier="1", classes=networks.NAMES, recipe="folder/mib")
    assert not (tmp_path / "run").exists()


def test_a_file_names_networks_alone_and_no_other_function(tmp_path):
    model = networks.QUICK["smp-fpn"](tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    other = {"_model_class": "from_pretrained", "pretrained_model_name_or_path": str(model), "encoder_name": "resnet18"}
    with pytest.raises(UserError, match="'from_pretrained' is no network of segmentation_models_pytorch"):
        build("smp", other)
    (model / "config.json").write_text(json.dumps({**config, "encoder_weights": "/secret/place.pth"}))
    assert "secret" not in json.dumps(find_model(model).architecture)


def test_a_configuration_names_no_place_and_no_code(tmp_path):
    model = networks.upernet(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["backbone_config"] |= {"_name_or_path": "/secret/place", "attn_implementation": "somebody/kernels"}
    (model / "config.json").write_text(json.dumps(config))
    found = json.dumps(find_model(model).architecture)
    assert "secret" not in found
    assert "somebody" not in found


def test_barm_trains_no_background_that_a_network_does_not_have(tmp_path, shapes_voc):
    model = networks.segformer(tmp_path / "model", id2label=dict(enumerate(["sky", "road", "car"])))
    network, method = imported(model, tmp_path / "run", "folder/barm", images=shapes_voc)
    new = next_step(network, method)
    later = method.config.build(Step(1, (*method.step.groups, (method.step.num_seen,))), method.network)
    batch = Batch(IMAGE, torch.zeros(2, *IMAGE.shape[2:], dtype=torch.long), {})
    terms = later.loss(new(IMAGE), network(IMAGE), batch)
    value = float(terms["pb_bce"].total.detach() / terms["pb_bce"].number)
    terms["pb_bce"].total.backward()
    gradient = new.classifier.head[1].weight.grad
    assert value >= 0
    assert float(gradient[0].abs().max()) == 0  # the residual is not driven at the constant
    assert float(gradient[1].abs().max()) > 0
