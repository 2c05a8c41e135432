"""Backbones of all kinds, each trained, stopped, resumed, exported and asked: a table for docs/backbones.md.

Every backbone has random weights and a process of its own, so that the memory is its own peak. A step of a few updates
on generated images is trained twice, once without a stop and once stopped in the middle; both must end in the same
weights, bit for bit. The ONNX file must give our labels (`barm.weights.export.agreement`).

python benchmarks/backbones.py                 # all, into docs/backbones.md and benchmarks/results/backbones.json
python benchmarks/backbones.py --resume        # those that the results lack
python benchmarks/backbones.py resnet18        # some: printed, nothing is written
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "backbones.md", ROOT / "benchmarks" / "results" / "backbones.json"
BEGIN, END = "<!-- backbones: written by benchmarks/backbones.py -->", "<!-- end of backbones -->"
NAMES = (
    *("resnet18", "resnet50", "efficientnet_lite0", "mobilenetv3_large_100", "mobilenetv4_conv_small"),
    *("convnext_atto", "convnextv2_atto", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
    *("hiera_tiny_224", "efficientformer_l1", "repvit_m0_9", "pvt_v2_b0", "mvitv2_tiny", "maxvit_nano_rw_256"),
    *("deit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"),
    *("vit_base_patch32_clip_224", "samvit_base_patch16", "eva02_tiny_patch14_224", "beit_base_patch16_224"),
)
FIRST = ("deit_tiny_patch16_224", "convnext_atto", "vit_small_patch14_dinov2", "pvt_v2_b0", "resnet18")
SIDE, CLASSES, TRAIN, VAL, BATCH, SEED = 64, 4, 24, 4, 4, 0
STOP_AFTER = 3  # of the updates
ODD = (61, 45)  # width and height of the image that is asked about
LIMIT = 900.0  # seconds for a backbone
USUAL = {(0.485, 0.456, 0.406): "ImageNet", (0.48145466, 0.4578275, 0.40821073): "CLIP", (0.5, 0.5, 0.5): "0.5"}
COLUMNS = ("backbone", "kind", "normalisation", "strides", "sizes", "parameters (M)", "processor ms per update", "MB")


@contextmanager
def timed(seconds: list[float], stop_after: int | None = None) -> Iterator[None]:
    """Context in which the processor time of every update is noted, and after some updates a stop is requested."""
    from barm.engine.train import StepTrainer

    update = StepTrainer.update

    def noted(trainer: StepTrainer, *given: Any, **named: Any) -> Any:
        began = time.process_time()
        outcome = update(trainer, *given, **named)
        seconds.append(time.process_time() - began)  # other work on the machine adds little to it
        if len(seconds) == stop_after:
            signal.raise_signal(signal.SIGTERM)
        return outcome

    with mock.patch.object(StepTrainer, "update", noted):
        yield


def measure(name: str, data: Path, out: Path) -> dict[str, Any]:
    """The row of a backbone; fails where one of the promises is not kept."""
    import numpy as np
    import torch

    import barm
    from barm.data.sources.shapes import render
    from barm.engine.checkpoint.directory import RunDirectory
    from barm.errors import Stopped
    from barm.weights.export.formats import export_step

    torch.set_num_threads(1)
    settings = (
        *(f"model.backbone={name}", "model.pretrained=false", "model.output_stride=16", "model.channels=32"),
        *(f"base.batch_size={BATCH}", f"base.crop={SIDE}", "base.epochs=1", f"evaluation.crop={SIDE}", f"seed={SEED}"),
        *("base.lr.new=1e-3", "base.lr.aspp=1e-3", "base.lr.backbone=1e-4"),  # scores that do not saturate: no ties
        *("runtime.device=cpu", "runtime.precision=32-true", "runtime.workers=0", "runtime.tensorboard=false"),
    )
    recipe = "shapes/offline/finetune"
    seconds: list[float] = []
    with timed(seconds):
        barm.fit(recipe, data=data, out=out / "whole", overrides=settings, quiet=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    try:
        with timed([], STOP_AFTER):
            barm.fit(recipe, data=data, out=out / "broken", overrides=settings, quiet=True)
        raise RuntimeError("the run was not stopped")
    except Stopped:
        barm.fit(recipe, data=data, out=out / "broken", overrides=settings, quiet=True, resume=True)
    states = [(RunDirectory(out / run).step_path(0) / "model.safetensors").read_bytes() for run in ("whole", "broken")]
    if states[0] != states[1]:
        raise RuntimeError("the resumed run has other weights than the one without a stop")
    found = export_step(out / "whole", out / "network.onnx")
    odd = render(0, split="val", num_classes=CLASSES, size=ODD, seed=SEED).image
    labels = barm.load(out / "whole").predict(np.asarray(odd))
    if labels.shape != ODD[::-1]:
        raise RuntimeError(f"labels of {labels.shape} for an image of {ODD[::-1]}")
    return {
        **about(name, out / "whole"),
        "ms": 1000 * statistics.median(seconds[1:]),
        "mb": peak,
        "resumed": True,
        "onnx": found.equal,
    }


def about(name: str, run: Path) -> dict[str, Any]:
    """What the network is."""
    from barm.engine.checkpoint.directory import RunDirectory
    from barm.engine.checkpoint.network import load_step
    from barm.models.inputs import timm_rule
    from barm.models.undilated import Undilated

    backbone = load_step(RunDirectory(run), 0)[0].backbone
    parameters = sum(p.numel() for p in backbone.parameters()) / 1e6
    mean = timm_rule(name).mean
    row = {"backbone": name, "normalisation": USUAL.get(mean, str(mean)), "parameters": parameters}
    if not isinstance(backbone, Undilated):
        return {**row, "kind": "dilated", "strides": [16], "sizes": "any"}
    form = backbone.form
    kind = "plain" if form.tokens else "pyramid"
    return {**row, "kind": kind, "strides": list(form.strides), "sizes": str(form.rule)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " | resumed | ONNX labels |", "| --- " * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        if "failed" in row:
            lines.append(f"| `{row['backbone']}` | failed: {row['failed']} |" + " |" * len(COLUMNS))
            continue
        strides = ", ".join(map(str, row["strides"]))
        numbers = f"{row['parameters']:.1f} | {row['ms']:.0f} | {row['mb']:.0f}"
        lines.append(
            f"| `{row['backbone']}` | {row['kind']} | {row['normalisation']} | {strides} | {row['sizes']} | {numbers} "
            f"| same bits | {100 * row['onnx']:.2f} % |"
        )
    return "\n".join(lines)


def provenance() -> dict[str, Any]:
    """Data, machine, commit and releases."""
    import timm
    import torch

    from barm.bench.run import processor

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "data": f"generated shapes, {CLASSES} classes, {TRAIN} images of {SIDE} x {SIDE} pixels, batches of {BATCH}",
        "machine": f"{processor(torch.device('cpu'))}, one thread",
        "commit": commit.stdout.strip(),
        "seed": SEED,
        "releases": f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}",
    }


def write(rows: Sequence[dict[str, Any]], setup: dict[str, Any]) -> None:
    """Write the results, and the table between the marks of the page."""
    RESULTS.write_text(json.dumps({"setup": setup, "rows": rows}, indent=1) + "\n", "utf-8")
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    words = (
        f"Data: {setup['data']}, seed {setup['seed']}. Machine: {setup['machine']}. Commit {commits}; "
        f"{setup['releases']}. `make backbones` writes this anew."
    )
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{words}\n\n{table(rows)}\n{END}{after}", "utf-8")


def row_of(name: str, data: Path) -> dict[str, Any]:
    """The row of a backbone, measured in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, name, "--inside", str(data)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    except subprocess.TimeoutExpired:
        return {"backbone": name, "failed": f"not done within {LIMIT:.0f} s"}
    if done.returncode != 0:
        return {"backbone": name, "failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="by default all of the table")
    parser.add_argument("--resume", action="store_true", help="keep what is measured already")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # the data, in the process of one backbone
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.inside:
            print(json.dumps(measure(given.names[0], given.inside, Path(folder))))
            return
        from barm.data.sources.shapes_disk import make_shapes

        data, setup = Path(folder) / "data", provenance()
        before = json.loads(RESULTS.read_text("utf-8"))["rows"] if given.resume and RESULTS.exists() else []
        rows = {row["backbone"]: row for row in before if "failed" not in row}
        make_shapes(data, num_classes=CLASSES, num_train=TRAIN, num_val=VAL, size=(SIDE, SIDE), seed=SEED)
        for name in given.names or sorted(NAMES, key=lambda name: name not in FIRST):
            if name in rows:
                continue
            rows[name] = {**row_of(name, data), "commit": setup["commit"]}
            print(json.dumps(rows[name]), flush=True)
            if not given.names:
                write([rows[n] for n in NAMES if n in rows], setup)
    if any("failed" in row for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
