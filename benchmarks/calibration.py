"""How a softmax network's scores become probabilities per class: several forms, measured on held-out images.

barm data make shapes known --layout voc --classes 10 --train 1200 --seed 1
barm train --recipe shapes/finetune --task offline --data known --out runs/softmax --set method.loss=ce
python benchmarks/calibration.py runs/softmax known
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from barm.data.sources import open_source
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.weights.calibrate import agreement, calibration_error, excess, fit

IMAGES, HELD_OUT = 128, 4
Form = Callable[[Tensor, Tensor], Tensor]  # inputs (N, D) and logits (N, C) of the classifier -> scores (N, C)


def least(form: Form, parameters: list[Tensor], inputs: Tensor, logits: Tensor) -> Form:
    """The form with the parameters that bring it nearest to the softmax."""
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.LBFGS(parameters, max_iter=300, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(form(inputs, logits), logits.softmax(1))
        loss.backward()
        return loss

    optimizer.step(closure)
    for p in parameters:
        p.requires_grad_(False)
    return form


def forms(inputs: Tensor, logits: Tensor) -> dict[str, Form]:
    """All forms, fitted, by what they are."""

    def new(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    def centred(z: Tensor) -> Tensor:
        return z - z.mean(1, keepdim=True)

    channels = logits.shape[1]
    a, b = new() + 1, new()
    a2, b2 = new() + 1, new(channels)
    a3, b3 = new(channels) + 1, new(channels)
    mix, b4 = torch.eye(channels, dtype=torch.float64) - 1 / channels, new(channels)
    scale, weight, bias = fit(inputs, logits)
    return {
        "sigmoid(z)": lambda x, z: z,
        "a (z - mean) + b": least(lambda x, z: a * centred(z) + b, [a, b], inputs, logits),
        "a (z - mean) + b_c": least(lambda x, z: a2 * centred(z) + b2, [a2, b2], inputs, logits),
        "a_c (z - mean) + b_c": least(lambda x, z: a3 * centred(z) + b3, [a3, b3], inputs, logits),
        "M z + b_c": least(lambda x, z: z @ mix.T + b4, [mix, b4], inputs, logits),
        "a z + w . x + b": lambda x, z: scale * z + (x @ weight + bias)[:, None],
    }


def main(run: Path, data: Path) -> None:
    """Print one line per form."""
    torch.manual_seed(0)
    network, _ = load_step(RunDirectory(run), 0)
    source, seen = open_source("auto", data, "train"), []
    for i in range(IMAGES):
        image = torch.from_numpy(np.array(source[i].image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            out = network(image)
        seen.append((out.branch[0].double(), out.logits[0].double(), source[i].image.size[::-1]))
    fitting, holding = ([s for i, s in enumerate(seen) if (i % HELD_OUT == 0) == held] for held in (False, True))
    inputs, logits = (torch.cat([s[k].flatten(1) for s in fitting], 1).T for k in (0, 1))
    held_inputs, held_logits = (torch.cat([s[k].flatten(1) for s in holding], 1).T for k in (0, 1))
    target = held_logits.softmax(1)
    print("form                   cross-entropy   calibration error   same class (feature map)   same class (image)")
    for name, form in forms(inputs, logits).items():
        scores = form(held_inputs, held_logits)
        same = float((scores.argmax(1) == held_logits.argmax(1)).double().mean())
        maps = [(z, form(x.flatten(1).T, z.flatten(1).T).T.reshape(z.shape), size) for x, z, size in holding]
        whole = np.mean([agreement(z, u, size) for z, u, size in maps])
        print(
            f"{name:22} {excess(scores, target):13.5f} {calibration_error(scores, target):19.5f} "
            f"{100 * same:24.2f} % {100 * whole:20.2f} %"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
