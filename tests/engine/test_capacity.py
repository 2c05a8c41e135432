"""What no machine has the memory for is refused before anything is read; what works is not."""

from __future__ import annotations

import pytest
import torch

from barm.api import fit
from barm.bench.facts import PASSING
from barm.data.index import checked
from barm.data.sources import open_source
from barm.engine import capacity
from barm.engine.capacity import check_evaluation, machine_memory, skeleton, update_need
from barm.engine.config import RuntimeConfig
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.models.frozen_norm import take_in_frozen_norms
from barm.models.segmenter import NetworkConfig

HUGE = [
    ("base.crop=1000000", "base.crop"),
    ("base.batch_size=1000000", "base.batch_size"),
    ("base.batch_size=100000000000000000000000000", "base.batch_size"),
    ("model.channels=10000000", "model.channels"),
    ("model.channels=1000000000", "8 EiB"),
    ("base.scale=[100,100]", "less than one pixel"),
    ("increment.crop=1000000", "increment.crop"),
    ("evaluation.crop=1000000", "evaluation.crop"),
]


@pytest.mark.parametrize(("setting", "says"), HUGE)
def test_refused_with_what_it_would_need(setting, says, tiny, tmp_path):
    with pytest.raises(UserError, match=says) as found:
        fit(tiny("barm", "2-1", setting), out=tmp_path / "run", quiet=True)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_the_line_names_both_amounts(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "machine_memory", lambda: 5_000_000)
    with pytest.raises(UserError, match=r"need at least 0\.0\d+ GB of memory, the machine has 0\.005 GB: take"):
        fit(tiny(), out=tmp_path / "run", quiet=True)


def kept(model: torch.nn.Module, image: torch.Tensor) -> int:
    """Bytes that a real forward pass keeps for the gradient."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            held[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(image)
    return sum(t.untyped_storage().nbytes() for t in held.values())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_estimate_is_below_what_training_keeps(name, tiny):
    """What the network itself keeps for the gradient, counted in real forward passes with two batches."""
    config = tiny(name, "2-1", "method.name=" + name)
    rt = Runtime(config.runtime)
    for increment in (False, True):
        recipe = config.increment if increment else config.base
        need = capacity._training_need(*capacity._key(config), increment)
        plan = TaskPlan.parse("1-1", 2)
        method = config.method.build(plan[int(increment)], config.model.model_copy(update={"pretrained": False}))
        model = rt.place(method.build_model())
        trained = {id(p) for g in method.param_groups(model, recipe.lr) for p in g["params"]}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        method.train_mode(model)
        if method.bn_frozen:
            take_in_frozen_norms(model)
        few, many = (kept(model, rt.image(torch.zeros(images, 3, 128, 128))) for images in (2, 6))
        measured, estimate = many - few, need.per_pixel * 4 * 128**2
        assert 0.8 * measured <= estimate <= 1.05 * measured, (increment, measured, estimate)


@pytest.mark.parametrize("name", ["barm", "plop"])
def test_blocks_that_are_computed_again_keep_their_inputs_alone(name, tiny):
    config = tiny(name, "2-1", "method.name=" + name, "model.backbone=resnet18")
    rt = Runtime(config.runtime.model_copy(update={"gradient_checkpointing": True}))
    for increment in (False, True):
        plain = capacity.update_need(config.model, config.method, Runtime(config.runtime), increment=increment)
        need = capacity.update_need(config.model, config.method, rt, increment=increment)
        assert need.per_pixel < (0.8 if increment else 0.6) * plain.per_pixel, increment
        method = config.method.build(TaskPlan.parse("1-1", 2)[int(increment)], config.model)
        model = rt.place(method.build_model())
        method.train_mode(model)
        wrapped, _ = rt.setup(model, torch.optim.SGD(model.parameters(), lr=0.1), trains_bn=not method.bn_frozen)
        few, many = (kept(wrapped, rt.image(torch.zeros(images, 3, 128, 128))) for images in (2, 6))
        measured, estimate = many - few, (need.per_pixel - capacity.LOADED) * 4 * 128**2
        assert 0.8 * measured <= estimate <= 1.05 * measured, (increment, measured, estimate)


def test_a_batch_is_never_larger_than_the_images(tiny, shapes_voc):
    """A batch of a million is one of six where the split has six."""
    config = tiny("barm", "2-1", "evaluation.batch_size=1000000")
    source = checked(open_source("voc", shapes_voc, "val"))
    check_evaluation(config, Runtime(config.runtime), [source])
    assert capacity._largest_batch(source, 48, 10**6) == 6 * 48**2
    assert capacity._largest_batch(source, 0, 4) == 4 * 48**2


def test_a_network_without_memory_has_the_tensors_of_the_real_one(tiny):
    config = tiny("plop")
    method = config.method.build(TaskPlan.parse("2-1", 4)[1], config.model)
    bare, real = skeleton(method), method.build_model()
    assert bare is not None
    shapes = [{n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (bare, real)]
    assert shapes[0] == shapes[1]
    assert all(t.device.type == "meta" for t in bare.state_dict().values())


def test_this_machine_has_memory():
    found = machine_memory()
    assert found is None or found > 1 << 28


@pytest.mark.parametrize(("batch", "measured"), [(8, 2.54), (24, 6.08)])
def test_the_need_of_a_published_update_is_what_a_gpu_has_shown(batch, measured, monkeypatch):
    """GiB of VOC 15-1 step 1 in bf16 on an H100 (docs/speed.md): counted is what stays, without what passes."""
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    monkeypatch.setattr(rt, "precision", "bf16-mixed")
    need = update_need(NetworkConfig(pretrained=False), METHODS["barm"](name="barm"), rt)
    counted, predicted = ((need.once + f * batch * 513**2 * need.per_pixel) / 2**30 for f in (1, PASSING))
    assert counted <= measured
    assert predicted == pytest.approx(measured, rel=0.06)
