"""One update of every method at step 1 on a part of a fixed batch; run by test_parallel under several processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from barm.batch import Batch
from barm.engine.completion import gather
from barm.engine.config import RuntimeConfig, StepRecipe
from barm.engine.runtime import Runtime, unwrap
from barm.engine.train import StepTrainer, calibrate
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.methods.groups import Rates
from barm.models.segmenter import NetworkConfig

SMALL = {"segacil": {"width": 64}}  # settings by method, to be quick


def main(target: str, *cases: str) -> None:
    rt = Runtime(RuntimeConfig(device="cpu", precision="32-true", channels_last=False))
    for case in cases:
        update(rt, *case.split(":"), Path(target) / f"{case.replace(':', '-')}.pt")


def update(rt: Runtime, name: str, kind: str, target: Path) -> None:
    network = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False, dropout=0)
    plan = TaskPlan.parse("2-1", 4)
    torch.manual_seed(0)
    method = METHODS[name](name=name, freeze_bn=True, **SMALL.get(name, {})).build(plan[1], network)
    teacher = METHODS[name](name=name, **SMALL.get(name, {})).build(plan[0], network).build_model()
    model = method.build_model()
    method.init_from(model, teacher)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, 64, 64, generator=generator)
    half = torch.zeros(2, 64, 64, dtype=torch.long)
    half[:, 10:40, 20:50], half[:, :2] = 3, 255
    label = torch.cat([half, half.flip(2)])
    if kind == "unequal":
        label[3] = 0
        label[2, :30] = 255
    rates = Rates(new=0.1, aspp=0.1, old=0.1, backbone=0.1)
    trains = kind if kind in ("frozen", "lora") else "trained"
    recipe = StepRecipe(epochs=1, batch_size=4 // rt.world, lr=rates, backbone=trains)
    teacher = rt.constant(teacher) if method.uses_teacher else None
    share = slice(rt.rank * 4 // rt.world, (rt.rank + 1) * 4 // rt.world)
    batch = Batch(image[share], label[share], {})
    if not method.trains:
        values, model = {}, rt.place(model)
    else:
        trainer = StepTrainer(method, rt.place(model), teacher, recipe, 10, rt, seed=1)
        if teacher is not None and method.calibrates:
            calibrate(method, teacher, [batch], rt)
        values, model = trainer.update(batch).values, unwrap(trainer.model)
    if method.gathers:
        if method.finishes:
            method.finish(model, None)
        gather(method, model, [batch], rt)
    if rt.is_main:
        state = {"model": model.state_dict(), "method": method.state_dict()}
        torch.save({**state, "values": values}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
