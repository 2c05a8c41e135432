"""Where data parallel training bends: bytes of gradients against the time of an update, for 1 to 512 GPUs.

The bytes are counted from the network. The time of an update is a measured one, by default that in
`benchmarks/results/gpu/launch`, kernel by kernel, as several processes run it. The rates of the links are assumptions,
which are printed with the result. A ring sends 2 (n - 1) / n of the gradients through every link; the machines' ring
begins when the GPUs of a machine have added up theirs. Both hide behind the backward pass, two thirds of an update;
what is left is waited for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from barm.bench.cases import _recipe
from barm.bench.run import setting_of

LAUNCH = Path(__file__).resolve().parent / "results/gpu/launch/bench.json"
NUMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PER_MACHINE = 8
BACKWARD = 2 / 3  # of an update
WITHIN = 300e9  # bytes per second and GPU between the GPUs of a machine
BETWEEN = {  # bytes per second and machine
    "400 Gbit/s per GPU": 50e9 * PER_MACHINE,
    "100 Gbit/s per machine": 12.5e9,
    "25 Gbit/s per machine": 3.125e9,
    "10 Gbit/s per machine": 1.25e9,
}


def gradient_bytes(model: str, task: str, classes: int) -> int:
    """Bytes of the gradients of a later step's update, which are fp32."""
    setting = setting_of(model, task, classes, 1, 2, 513, "cpu", "32-true")
    method = setting.method
    groups = method.param_groups(method.build_model(), _recipe(setting).lr)
    return 4 * sum(p.numel() for group in groups for p in group["params"])


def seconds(number: int, update: float, size: int, between: float) -> float:
    """Time of an update on so many GPUs."""
    inside, machines = min(number, PER_MACHINE), -(-number // PER_MACHINE)
    sent = 2 * (inside - 1) / inside * size / WITHIN
    if machines > 1:
        sent += 2 * (machines - 1) / machines * size / between
    return update + max(0.0, sent - BACKWARD * update)


def draw(path: Path, curves: Mapping[str, list[float]]) -> None:
    """Efficiency against the number of GPUs, a line per network."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, values in curves.items():
        axes.plot(NUMBERS, [100 * v for v in values], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(NUMBERS, [str(n) for n in NUMBERS])
    axes.set(xlabel="GPUs", ylabel="images per second and GPU, % of one", ylim=(0, 105))
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deeplabv3bga_resnet101")
    parser.add_argument("--task", default="15-1")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--seconds", type=float, help="of an update on one GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling.png"))
    given = parser.parse_args()
    size = gradient_bytes(given.model, given.task, given.classes)
    measured = next(r["median"] for r in json.loads(LAUNCH.read_text())["rows"] if r["name"] == "kernel by kernel")
    update = given.seconds or measured
    print(f"{given.model}, {given.task}: {size / 1e6:.0f} MB of gradients, {update:.4f} s per update on one GPU")
    print(f"assumed: {WITHIN / 1e9:.0f} GB/s per GPU within a machine of {PER_MACHINE}")
    print("| GPUs | " + " | ".join(BETWEEN) + " |\n| ---: |" + " ---: |" * len(BETWEEN))
    curves = {name: [update / seconds(n, update, size, rate) for n in NUMBERS] for name, rate in BETWEEN.items()}
    for i, number in enumerate(NUMBERS):
        print(f"| {number} | " + " | ".join(f"{100 * curve[i]:.0f} %" for curve in curves.values()) + " |")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    draw(given.out, curves)
    print(given.out)


if __name__ == "__main__":
    main()
