"""Networks: every decoder with every classifier, and weights from files."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

from barm.errors import UserError
from barm.labels import Step
from barm.methods import METHODS
from barm.models.frozen import fold_batch_norm
from barm.models.frozen_norm import take_in_frozen_norms
from barm.models.segmenter import MODELS, NetworkConfig

STEP = Step(1, ((1, 2), (3,)))
STEPS = (Step(0, ((1, 2),)), STEP, Step(2, ((1, 2), (3,), (4,))))


@pytest.mark.parametrize(("decoder", "separable"), [("v3", False), ("v3plus", False), ("v3plus", True)])
@pytest.mark.parametrize("name", ["barm", "finetune", "dkd", "ssul"])
def test_every_classifier_takes_either_decoder(name, decoder, separable):
    network = NetworkConfig(backbone="test_resnet", channels=8, pretrained=False, decoder=decoder, separable=separable)
    models = [METHODS[name]().build(step, network).build_model() for step in STEPS]
    for step, previous, model in zip(STEPS[1:], models, models[1:], strict=False):
        METHODS[name]().build(step, network).init_from(model, previous)
    method, model = METHODS[name]().build(STEPS[-1], network), models[-1].eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        out = model(image)
    stride = 4 if decoder == "v3plus" else 16
    assert out.logits.shape[2:] == (64 // stride, 64 // stride)
    assert method.predict(out, (64, 64)).shape == (1, 64, 64)
    method.train_mode(model)
    assert model(torch.cat([image, image])).logits.shape == (2, *out.logits.shape[1:])
    model = fold_batch_norm(model.eval())
    assert torch.allclose(model(image).logits, out.logits, atol=1e-4)


def test_separable_convolutions_are_smaller():
    plain, separable = (
        METHODS["finetune"]()
        .build(STEP, NetworkConfig(backbone="test_resnet", pretrained=False, decoder="v3plus", separable=s))
        .build_model()
        for s in (False, True)
    )
    assert sum(p.numel() for p in separable.parameters()) < sum(p.numel() for p in plain.parameters())


def test_separable_heads_are_handed_over():
    """spec/ssul.md Q24."""
    network = NetworkConfig(backbone="test_resnet", channels=8, pretrained=False, decoder="v3plus", separable=True)
    before = METHODS["ssul"]().build(Step(0, STEP.groups[:1]), network).build_model()
    method = METHODS["ssul"]().build(STEP, network)
    model = method.build_model()
    method.init_from(model, before)
    unknown, new = (model.classifier.head[i].state_dict() for i in (0, -1))
    assert unknown.keys() == new.keys()
    assert all(torch.equal(value, unknown[name]) for name, value in new.items())


def test_the_body_of_mib_and_plop():
    network = NetworkConfig(
        backbone="test_resnet", channels=8, pretrained=False, decoder="added_pool", activation="leaky_relu", dropout=0
    )
    method = METHODS["plop"]().build(STEP, network)
    model = method.build_model()
    assert not any(isinstance(m, torch.nn.ReLU) for m in model.modules())
    assert [n for n in model.classifier.state_dict() if n.startswith("head_pre")] == []
    out = model.train()(torch.randn(2, 3, 64, 64))
    assert out.branch.shape == (2, 8, 4, 4)
    assert all(float(level.detach().min()) < 0 for level in out.levels)  # before the activation
    assert float(out.branch.detach().min()) < 0  # the leak


def test_scales_of_batch_norm_are_taken_as_they_are(tmp_path):
    """spec/mib.md Q14: in-place batch norm applies |scale| + 1e-5, so its weights have to be converted before."""
    network = NetworkConfig(backbone="test_resnet", channels=8, pretrained=False, activation="leaky_relu")
    given = METHODS["mib"]().build(Step(0, ((1, 2),)), network).build_model().backbone.state_dict()
    given["layer1.0.bn1.weight"].fill_(-0.5)
    torch.save(given, tmp_path / "weights.pth")
    told = network.model_copy(update={"weights": tmp_path / "weights.pth"})
    found = METHODS["mib"]().build(Step(0, ((1, 2),)), told).build_model().backbone.state_dict()
    assert all(torch.equal(found[name], value) for name, value in given.items())
    assert float(found["layer1.0.bn1.weight"].max()) == -0.5


def test_unknown_published_name():
    with pytest.raises(UserError, match="did you mean 'deeplabv3plus_mobilenet'"):
        NetworkConfig.from_name("deeplabv3plus_mobilnet")
    assert len(MODELS) == 9


@pytest.mark.parametrize("name", ["barm", "dkd", "plop", "rcil", "ssul"])
def test_traced_by_the_compiler(name):
    """Every kind of classifier, the frozen batch norm inside the convolutions: what `runtime.compile` compiles."""
    network = NetworkConfig(backbone="test_resnet", channels=8, pretrained=False, dropout=0)
    method = METHODS[name](name=name, freeze_bn=True).build(STEP, network)
    model = method.build_model()
    method.train_mode(model)
    take_in_frozen_norms(model)
    image = torch.randn(2, 3, 48, 48)
    leaves = [tree_leaves(run(image)) for run in (model, torch.compile(model, backend="eager"))]
    assert all(torch.equal(a, b) for a, b in zip(*leaves, strict=True))
    leaves[1][0].sum().backward()
    assert any(p.grad is not None for p in model.parameters())
