"""The new classifier starts from the old ones and trains alone first."""

from __future__ import annotations

import pytest
import torch

from barm.api import fit
from barm.batch import Batch
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RuntimeConfig, StepRecipe
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.errors import Stopped, UserError
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.methods.groups import Rates
from barm.methods.warm_start import resemblance
from barm.models.segmenter import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
RATES = Rates(new=0.1, aspp=0.1, old=0.1, backbone=0.1)
WARMING = [name for name, config in METHODS.items() if config.warms]


def test_what_the_previous_network_takes_a_new_class_for():
    probability = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.3, 0.3, 0.4]]).T.reshape(1, 3, 1, 3)
    label = torch.tensor([[[3, 4, 4, 4, 255, 0]]])  # cells show pixels 1, 3 and 5
    found = resemblance(probability, label, first=3, number=2)
    assert torch.allclose(found, torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.8, 0.6]], dtype=torch.float64), atol=1e-7)


def made(name, task="2-2", step=1):
    torch.manual_seed(0)
    plan, config = TaskPlan.parse(task, 4), METHODS[name](warm_start={"alone": 0.5})
    previous = config.build(plan[step - 1], NETWORK).build_model()
    method = config.build(plan[step], NETWORK)
    model = method.build_model()
    method.init_from(model, previous)
    return method, model, previous


@pytest.mark.parametrize("name", WARMING)
def test_new_rows_are_means_of_the_old_ones(name):
    """With softmax, background counts too; otherwise it does not. A residual of BARM stays."""
    method, model, _ = made(name)
    first, newest = model.classifier.head
    before = newest.weight.clone()
    method.warm(model, torch.tensor([[8.0, 1.0, 1.0], [0.0, 0.0, 2.0]], dtype=torch.float64))
    given = [[0.8, 0.1, 0.1], [0, 0, 1]] if method.config.loss == "ce" else [[0, 0.5, 0.5], [0, 0, 1]]
    rows = newest.out_channels - 2
    assert torch.allclose(newest.weight[rows:, :, 0, 0], torch.tensor(given) @ first.weight[..., 0, 0], atol=1e-6)
    assert torch.allclose(newest.bias[rows:], torch.tensor(given) @ first.bias, atol=1e-6)
    assert torch.equal(newest.weight[:rows], before[:rows])


def test_later_heads_of_barm_have_a_residual_that_is_no_class():
    method, model, _ = made("barm", "1-1", step=2)
    first, second, newest = model.classifier.head
    method.warm(model, torch.tensor([[4.0, 1.0, 3.0]], dtype=torch.float64))
    assert torch.allclose(newest.weight[1], 0.25 * first.weight[1] + 0.75 * second.weight[1], atol=1e-6)


@pytest.mark.parametrize("name", WARMING)
def test_it_trains_alone_first(name):
    """Not even the statistics of batch norm move. Then all train, without the momentum of the updates before."""
    method, model, previous = made(name)
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    teacher = rt.constant(previous) if method.uses_teacher else None
    recipe = StepRecipe(epochs=1, batch_size=2, lr=RATES)
    trainer = StepTrainer(method, rt.place(model), teacher, recipe, 4, rt, seed=1)
    label = torch.randint(0, 5, (2, 48, 48))
    label[(label > 0) & (label < 3)] = 0
    batch = Batch(torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8), label, {})
    before = {n: p.clone() for n, p in trainer.network.state_dict().items()}
    for _ in range(2):
        trainer.update(batch)
    moved = {n for n, p in trainer.network.state_dict().items() if not torch.equal(p, before[n])}
    assert moved == {"classifier.head.1.weight", "classifier.head.1.bias"}
    others = [p for g in trainer.optimizer.param_groups if g["name"] != "new_head" for p in g["params"]]
    assert not any(trainer.optimizer.state[p]["momentum_buffer"].any() for p in others)
    trainer.update(batch)
    moved = {n for n, p in trainer.network.state_dict().items() if not torch.equal(p, before[n])}
    assert any(n.startswith("backbone") for n in moved)
    assert any("running_mean" in n for n in moved) != method.bn_frozen


def test_a_method_with_a_start_of_its_own_refuses(tiny):
    with pytest.raises(UserError, match=r"dkd starts new classes in its own way: leave method.warm_start out"):
        tiny("dkd", "2-1", "method.warm_start={}")


def test_a_stopped_run_ends_in_the_same_weights(tiny, tmp_path, monkeypatch):
    """Stopped while the new classifier trains alone. Step 0 is that of a run without a warm start."""
    config = tiny("mib", "3-1", "method.warm_start.alone=0.5", "increment.epochs=2")
    fit(config, out=tmp_path / "whole", quiet=True)
    update = StepTrainer.update

    def stopping(trainer, *words, **named):
        outcome = update(trainer, *words, **named)
        return outcome._replace(stop=trainer.method.step.index == 1 and trainer.iteration == 1)

    monkeypatch.setattr(StepTrainer, "update", stopping)
    with pytest.raises(Stopped):
        fit(config, out=tmp_path / "broken", quiet=True)
    monkeypatch.undo()
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    plain = tiny("mib", "3-1", "increment.epochs=2")
    fit(plain, out=tmp_path / "plain", start_from=tmp_path / "whole", quiet=True)
    whole, broken, without = (weights(tmp_path / name) for name in ("whole", "broken", "plain"))
    assert whole == broken
    assert whole != without


def weights(out):
    return (RunDirectory(out).step_path(1) / "model.safetensors").read_bytes()
