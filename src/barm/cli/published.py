"""``train.py`` and ``eval.py`` with the flags of the published code: flags -> `RunConfig` -> the same engine.

Results go to ``checkpoints/<subpath>/<task>/<overlap|disjoint>/``: ``step<k>/`` holds the checkpoint under its official
name and format, ``run/`` the run in our own.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from barm.config import merge, validate
from barm.engine.checkpoint.directory import COUNTS, METRICS, RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.engine.checkpoint.shared import SharedDirectory
from barm.engine.config import RunConfig
from barm.engine.datasets import Data, open_data
from barm.engine.evaluate import evaluate_step
from barm.engine.monitor import Monitor
from barm.engine.run import run
from barm.engine.runtime import Runtime
from barm.engine.scores import step_metrics
from barm.errors import UserError, nearest
from barm.models.segmenter import MODELS
from barm.reading import real
from barm.weights.published import file_name, import_checkpoint, save_checkpoint

SCRATCH = "none"  # value of --backbone_weights or BARM_BACKBONE_WEIGHTS that trains from scratch
LOSSES = {"bce_loss": "bce", "ce_loss": "ce", "focal_loss": "focal"}
BASE_RATE, BASE_BACKBONE_RATE, ASPP_RATE, OLD_RATE = 1e-2, 1e-3, 1e-3, 1e-4  # spec/barm.md section 4


def parser(prog: str) -> argparse.ArgumentParser:
    """The flags of the published scripts, with their defaults, and one of ours (``--backbone_weights``)."""
    p = argparse.ArgumentParser(prog=prog, description=f"{prog} of the published code, on barm's engine.")
    p.add_argument("--data_root", type=Path, required=True, help="folder with JPEGImages (VOC) or images (ADE)")
    p.add_argument("--dataset", choices=("voc", "ade"), default="voc")
    p.add_argument("--num_classes", type=int, default=None, help="accepted; the data set decides")
    p.add_argument("--model", default="deeplabv3bga_resnet101")
    p.add_argument("--separable_conv", action="store_true", help="changes only DeepLabV3+ networks")
    p.add_argument("--output_stride", type=int, choices=(8, 16), default=16)
    p.add_argument("--task", default="15-1")
    p.add_argument("--curr_step", type=int, default=0)
    p.add_argument("--curr_itrs", type=int, default=0, help="accepted; an interrupted run goes on by itself")
    p.add_argument("--overlap", action="store_true", help="overlapped setting; disjoint without")
    p.add_argument("--initial", action="store_true", help="train step 0 only")
    p.add_argument("--test_only", action="store_true", help="evaluate the step's checkpoint")
    p.add_argument("--train_epoch", type=int, default=50)
    p.add_argument("--batch_size", type=int, default=16, help="per process")
    p.add_argument("--val_batch_size", type=int, default=4)
    p.add_argument("--crop_size", type=int, default=513)
    p.add_argument("--crop_val", action="store_true", help="evaluate on centre crops; native size without")
    p.add_argument("--lr", type=float, default=0.01, help="of the newest branch at steps >= 1")
    p.add_argument("--lr_policy", choices=("poly", "step", "warm_poly"), default="warm_poly")
    p.add_argument("--step_size", type=int, default=10000)
    p.add_argument("--weight_decay", type=float, default=1e-4)
    p.add_argument("--loss_type", choices=tuple(LOSSES), default="bce_loss")
    p.add_argument("--pseudo", action="store_true")
    p.add_argument("--pseudo_thresh", type=float, default=0.7)
    p.add_argument("--bn_freeze", action="store_true")
    p.add_argument("--amp", action="store_true", help="fp16 with gradient scaling on a GPU, bf16 on a CPU that has it")
    p.add_argument("--random_seed", type=int, default=1)
    p.add_argument("--gpu_id", default=None)
    p.add_argument("--print_interval", type=int, default=10, help="accepted; progress is shown live")
    p.add_argument("--val_interval", type=int, default=100, help="accepted; the last iterate is what counts")
    p.add_argument("--subpath", default="BARM")
    p.add_argument(
        "--ckpt", type=Path, default=None, help="checkpoint of the previous step, instead of the one in place"
    )
    p.add_argument(
        "--backbone_weights",
        default=os.environ.get("BARM_BACKBONE_WEIGHTS"),
        help=f"local ImageNet weights, or '{SCRATCH}'; also as BARM_BACKBONE_WEIGHTS",
    )
    return p


def to_config(options: argparse.Namespace, device: str = "auto") -> RunConfig:
    """The configuration that the flags describe."""
    import torch

    if options.model not in MODELS:
        raise UserError(
            f"unknown --model '{options.model}'{nearest(options.model, MODELS) or ''}; known: {', '.join(MODELS)}"
        )
    step: dict[str, Any] = {
        "epochs": options.train_epoch,
        "batch_size": options.batch_size,
        "policy": options.lr_policy,
        "step_size": options.step_size,
        "weight_decay": options.weight_decay,
        "crop": options.crop_size,
    }
    weights = options.backbone_weights
    model: dict[str, Any] = {**MODELS[options.model], "output_stride": options.output_stride}
    if options.separable_conv and model.get("decoder") == "v3plus":
        model["separable"] = True
    if weights is not None:
        model |= {"pretrained": False} if weights == SCRATCH else {"weights": weights}
    amp = "16-mixed" if torch.cuda.is_available() and device != "cpu" else "auto"
    table = {
        "seed": options.random_seed,
        "data": {"root": str(real(options.data_root)), "layout": options.dataset},
        "task": {"name": options.task, "setting": "overlap" if options.overlap else "disjoint"},
        "model": model,
        "method": {
            "name": "barm",
            "loss": LOSSES[options.loss_type],
            "freeze_bn": options.bn_freeze,
            "pseudo": options.pseudo,
            "pseudo_threshold": options.pseudo_thresh,
        },
        "evaluation": {
            "crop": options.crop_size if options.crop_val else 0,
            "batch_size": options.val_batch_size,
            "absent": "zero",
        },
        "runtime": {
            "precision": amp if options.amp else "32-true",
            "device": device,
            "other_code": True,  # no flag could allow it, and steps are often trained on different days: a warning
        },
    }
    base = {**step, "lr": {"new": BASE_RATE, "aspp": BASE_RATE, "old": BASE_RATE, "backbone": BASE_BACKBONE_RATE}}
    later = {**step, "lr": {"new": options.lr, "aspp": ASPP_RATE, "old": OLD_RATE, "backbone": OLD_RATE}}
    return validate(merge(table, {"base": base, "increment": later}))


class Place:
    """Paths of a run's results in the layout of the published code."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.setting = "overlap" if options.overlap else "disjoint"
        self.root: Path = Path("checkpoints") / options.subpath / options.task / self.setting
        self.run = RunDirectory(self.root / "run")

    def checkpoint(self, step: int) -> Path:
        """The official checkpoint of a step."""
        o = self.options
        name: str = file_name(o.model, o.dataset, o.task, step, self.setting)
        return self.root / f"step{step}" / name


def train_main(arguments: Sequence[str] | None = None) -> None:
    """``train.py``: step 0 with ``--initial``, otherwise every step from ``--curr_step`` to the last."""
    options = parser("train.py").parse_args(arguments)
    _choose_gpus(options)
    if options.test_only:
        _evaluate(options)
        return
    config = to_config(options)
    rt = Runtime(config.runtime)
    place = Place(options)
    data = open_data(config, rt)
    first = 0 if options.initial else options.curr_step
    steps = [data.plan[first].index] if options.initial else [s.index for s in data.plan.steps() if s.index >= first]
    if not steps:
        raise UserError(f"--curr_step {first} does not exist: task {options.task} has steps 0..{len(data.plan) - 1}")

    def prepare() -> None:
        _previous(config, place, data, first)
        place.run.forget(first)

    rt.on_main(prepare)
    with Monitor(rt.is_main, tensorboard=False) as monitor:
        for step in steps:
            run(
                config,
                rt,
                place.run.path,
                monitor,
                resume=place.run.path.exists(),
                only=[step],
                same=("task", "model"),
                data=data,
            )
            rt.on_main(partial(_publish, place, step))


def eval_main(arguments: Sequence[str] | None = None) -> None:
    """``eval.py``: print the scores of the checkpoint of ``--curr_step``."""
    options = parser("eval.py").parse_args(arguments)
    _choose_gpus(options)
    _evaluate(options)


def _evaluate(options: argparse.Namespace) -> None:
    config = to_config(options)
    rt = Runtime(config.runtime)
    place, step = Place(options), options.curr_step
    data = open_data(config, rt)
    directory = SharedDirectory(place.run.path, rt)
    if not directory.is_complete(step):
        rt.on_main(lambda: _import(config, place, data, step, options.ckpt or place.checkpoint(step)))
    network, method = load_step(directory, step, data.plan, data.val.class_names)
    with Monitor(rt.is_main, tensorboard=False) as monitor:
        counts = evaluate_step(config, rt, method, network, data, method.step, monitor)
    if rt.is_main:
        earlier = [place.run.read(i, COUNTS) for i in range(step) if place.run.has(i, COUNTS)]
        _print_scores(
            step_metrics(
                [*earlier, counts.tolist()], method.step, data.val.class_names, absent=config.evaluation.absent
            )
        )


def _previous(config: RunConfig, place: Place, data: Data, first: int) -> None:
    """Make sure that the network before step `first` exists, from ``--ckpt`` or the official checkpoint at its path."""
    if first == 0:
        return
    given = place.options.ckpt
    if given is not None or not place.run.is_complete(first - 1):
        place.run.forget(first - 1)
        path = given or place.checkpoint(first - 1)
        if not path.is_file():
            raise UserError(
                f"step {first} starts from step {first - 1}, but {path} is missing: train it first, or give --ckpt"
            )
        _import(config, place, data, first - 1, path)


def _import(config: RunConfig, place: Place, data: Data, step: int, path: Path) -> None:
    import_checkpoint(
        path,
        place.run.path,
        config=config,
        plan=data.plan,
        step=step,
        class_names=data.train.class_names,
        palette=data.train.palette,
    )


def _publish(place: Place, step: int) -> None:
    """Write the official checkpoint and print the scores."""
    metrics = place.run.read(step, METRICS)
    target = place.checkpoint(step)
    save_checkpoint(target, place.run.load_model_state(step), metrics["miou"]["all"])
    _print_scores(metrics)
    print(f"... saved {target}", flush=True)


def _print_scores(metrics: dict[str, Any]) -> None:
    """Print the scores in the order of the published code."""
    ious, accuracies = metrics["class_iou"], metrics["class_accuracy"]
    print(f"... step {metrics['step']}: {len(ious)} classes")
    print(f"Overall Acc: {metrics['overall_accuracy']:.6f}\nMean Acc: {metrics['accuracy']['all']:.6f}")
    print(f"Mean IoU: {metrics['miou']['all']:.6f}")
    for index, (name, iou) in enumerate(ious.items()):
        print(f"  class {index:3d} {name:24s} IoU {_shown(iou, 4)}  Acc {_shown(accuracies[name], 4)}")
    for kind, key in (("mIoU", "miou"), ("acc", "accuracy")):
        for when, group in (("before", "old"), ("after", "new")):
            if group in metrics[key]:
                print(f"test_{when}_{kind}: {_shown(metrics[key][group], 6)}")


def _shown(value: float | None, digits: int) -> str:
    """Format a score; nan for a class that no image shows."""
    return f"{float('nan') if value is None else value:.{digits}f}"


def _choose_gpus(options: argparse.Namespace) -> None:
    if options.gpu_id is not None and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = options.gpu_id
