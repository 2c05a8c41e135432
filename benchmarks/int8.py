"""Time per image of PyTorch and of ONNX files in fp32 and int8, on one thread and in turn, and the size of the files.

The names of backbones stand for networks with random weights, whose time is that of trained ones. How many labels
agree is printed by ``barm export RUN --out FILE.onnx --int8``.

python benchmarks/int8.py resnet50 tf_efficientnet_lite0
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from barm.bench.measure import side_by_side
from barm.bench.run import processor
from barm.data.sources.shapes import render
from barm.engine.config import RuntimeConfig
from barm.labels import Step
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig
from barm.weights.export.agreement import in_pytorch
from barm.weights.export.formats import in_onnxruntime, to_onnx
from barm.weights.export.quantise import quantise
from barm.weights.trained import Trained


def random_network(backbone: str, num_classes: int) -> Trained:
    """A network of one step with random weights."""
    torch.manual_seed(0)
    step, model = Step(0, (tuple(range(1, num_classes + 1)),)), NetworkConfig(backbone=backbone, pretrained=False)
    method = METHODS["barm"]().build(step, model)
    record = {
        "method": method.config.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "groups": step.groups,
        "num_steps": 1,
        "classes": [{"id": i, "name": str(i), "colour": [0, 0, 0]} for i in range(num_classes + 1)],
    }
    return Trained(method.build_model().eval(), method, record, RuntimeConfig(), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbones", nargs="+")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    print(f"{processor(cpu)}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread")
    print(
        f"{given.side} x {given.side} pixels, {given.classes} classes, median of {given.rounds} rounds (least to most)"
    )
    side = (given.side, given.side)
    scenes = [render(i, split="val", num_classes=4, size=side, seed=0).image for i in range(4)]
    image = np.stack(scenes[:1])
    for backbone in given.backbones:
        trained = random_network(backbone, given.classes)
        plain = to_onnx(trained).content
        small = quantise(plain, scenes)
        fp32, int8 = in_onnxruntime(plain, threads=1), in_onnxruntime(small, threads=1)

        def in_bf16(trained: Trained = trained) -> object:
            with torch.autocast("cpu", torch.bfloat16):
                out = trained.network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
            return trained.method.predict(out, side), trained.method.confidence(out, side)

        works = {
            "PyTorch fp32": lambda trained=trained: in_pytorch(trained, image),
            "PyTorch bf16": torch.no_grad()(in_bf16),
            "ONNX fp32": lambda fp32=fp32: fp32(image),
            "ONNX int8": lambda int8=int8: int8(image),
        }
        sizes = {"ONNX fp32": len(plain), "ONNX int8": len(small)}
        costs = side_by_side(works, cpu, given.rounds)
        for name, cost in costs.items():
            size = f", {sizes[name] / 1e6:.1f} MB" if name in sizes else ""
            share = cost.median / costs["ONNX fp32"].median
            spread = f"({cost.least:.3f} to {cost.most:.3f})"
            print(f"{backbone:24} {name:13} {cost.median:.3f} s {spread}, {share:.2f} x ONNX fp32{size}", flush=True)


if __name__ == "__main__":
    main()
