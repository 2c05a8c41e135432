"""Time of one BARM update, side by side: as trained here, in fp32, and the networks alone.

    python benchmarks/step.py --task 15-1 --classes 20 --step 1 --batch 2 --crop 513

One process, the three variants in turn (A B C A B C ...), medians. Prints a table; ``--json FILE`` also writes it with
its provenance. Pictures and labels are random: the time does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from barm.batch import Batch
from barm.engine.recipe import RuntimeConfig, StepRecipe
from barm.engine.runtime import Runtime
from barm.engine.sequence import provenance
from barm.engine.store import write_atomically
from barm.engine.train import StepTrainer
from barm.labels import Step, TaskPlan
from barm.methods import Rates
from barm.methods.barm import BARMConfig
from barm.models.network import NetworkConfig

UNLABELLED = 0.7  # share of background pixels, about VOC's


def main() -> None:
    """Measure and print."""
    options = arguments()
    step = TaskPlan.parse(options.task, options.classes)[options.step]
    fast = Runtime(RuntimeConfig(device=options.device))
    plain = Runtime(RuntimeConfig(device=options.device, precision="32-true", channels_last=False))
    variants = {
        f"step, {fast.precision}, channels-last": update(options, step, fast),
        "step, 32-true": update(options, step, plain),
        f"networks alone, {fast.precision}, channels-last": networks_alone(options, step, fast),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(options.rounds + 1):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            if fast.device.type == "cuda":
                torch.cuda.synchronize()
            if round_ > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    table = {name: {"median_s": statistics.median(s), "min_s": min(s), "max_s": max(s)} for name, s in seconds.items()}
    reference = table[next(iter(table))]["median_s"]
    print(f"BARM {options.task} step {options.step}, batch {options.batch}, {options.crop} px, {options.rounds} rounds")
    for name, row in table.items():
        ratio = row["median_s"] / reference
        print(f"{name:45s} {row['median_s']:7.3f} s  ({row['min_s']:.3f} to {row['max_s']:.3f})  {ratio:5.2f} x")
    if options.json is not None:
        asked = {k: v for k, v in vars(options).items() if k != "json"}
        result = {"settings": asked, "provenance": provenance(fast), "seconds": table}
        write_atomically(options.json, (json.dumps(result, indent=1) + "\n").encode())


def arguments() -> argparse.Namespace:
    """The flags."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--task", default="15-1")
    p.add_argument("--classes", type=int, default=20, help="of the data set, without background")
    p.add_argument("--step", type=int, default=1)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--crop", type=int, default=513)
    p.add_argument("--backbone", default="resnet101")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--json", type=Path)
    return p.parse_args(sys.argv[1:])


def update(options: argparse.Namespace, step: Step, rt: Runtime) -> Callable[[], object]:
    """A function that does one whole update."""
    network = NetworkConfig(backbone=options.backbone, pretrained=False)
    method = BARMConfig().build(step, network)
    before = Step(step.index - 1, step.groups[:-1])
    teacher = rt.place(BARMConfig().build(before, network).build_model())
    rates = Rates(new=1e-6, aspp=1e-6, old=1e-6, backbone=1e-6)  # random weights must not diverge
    recipe = StepRecipe(epochs=1, batch_size=options.batch, lr=rates)
    trainer = StepTrainer(method, rt.place(method.build_model()), teacher, recipe, 1000, rt, seed=0)
    batch = random_batch(options, step, rt)
    return lambda: trainer.update(batch)


def networks_alone(options: argparse.Namespace, step: Step, rt: Runtime) -> Callable[[], object]:
    """A function that runs the student forward and backward and the teacher forward, and nothing else."""
    network = NetworkConfig(backbone=options.backbone, pretrained=False)
    method = BARMConfig().build(step, network)
    student = rt.place(method.build_model())
    method.train_mode(student)
    before = Step(step.index - 1, step.groups[:-1])
    teacher = rt.place(BARMConfig().build(before, network).build_model()).eval()
    batch = random_batch(options, step, rt)

    def run() -> None:
        rt.infer(teacher, batch.image)
        with rt.fabric.autocast():
            out = student(rt.image(batch.image))
        out.logits.float().mean().backward()
        student.zero_grad(set_to_none=True)

    return run


def random_batch(options: argparse.Namespace, step: Step, rt: Runtime) -> Batch:
    """Noise with labels in blocks of 32 pixels, most of them background."""
    generator = torch.Generator().manual_seed(0)
    size = options.crop
    image = torch.randn(options.batch, 3, size, size, generator=generator)
    coarse = (options.batch, 1, size // 32 + 1, size // 32 + 1)
    label = torch.randint(step.num_old, step.num_seen, coarse, generator=generator).float()
    label[torch.rand(coarse, generator=generator) < UNLABELLED] = 0
    full = torch.nn.functional.interpolate(label, size=(size, size), mode="nearest")[:, 0].long()
    return Batch(image.to(rt.device), full.to(rt.device), {})


if __name__ == "__main__":
    main()
