"""`barm demo`: make generated data, train three methods, compare them and draw the result."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from barm.api import fit, read_config
from barm.config import load_config
from barm.data.base import Source
from barm.data.palette import display_palette
from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.runtime import Runtime
from barm.errors import Stopped
from barm.escaping import markup
from barm.predict.model import load
from barm.report.build import write_report
from barm.report.figures import SceneHistory, draw_histories
from barm.report.tables import steps_table
from barm.words import count

METHODS_SHOWN = {"barm": "BARM", "finetune": "fine-tuning", "joint": "joint training"}
TASK = "6-1"
NUM_CLASSES, NUM_TRAIN, NUM_VAL, SIDE = 10, 1200, 200, 96
NUM_SCENES = 3
MARK, PAGE = ".demo", "report.html"  # what a demo leaves at its beginning (its seed stands in it) and at its end
SHORTER = {"joint": ["increment.epochs=2"]}  # sees every image in every step; the demo is to take minutes


def demo(out: Path, *, seed: int = 1, quiet: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Run the comparison.

    Args:
        out: folder for the data, the runs and the image. A demo of the same seed that was stopped there goes on;
            any other one is replaced.
        seed: of data and training.
        quiet: show only errors and results.

    Returns:
        The metrics of every step by method.

    Raises:
        Stopped: on Ctrl-C or SIGTERM while a method is trained; its state is saved.
    """
    console, results_console = Console(quiet=quiet, emoji=False), Console(emoji=False)
    began = time.monotonic()
    data = _begin(out, seed, console)
    console.print(
        f"[bold]2.[/bold] Learning 6 classes, then 4 more one at a time (task {TASK}); "
        "in new images the old objects are not labelled"
    )
    results: dict[str, list[dict[str, Any]]] = {}
    for name, title in METHODS_SHOWN.items():
        console.print(f"   {title}" + ("" if name == "barm" else " (starts from the same first step)"))
        results[title] = _learn(name, out, data, seed, quiet=quiet)
    results_console.print(steps_table(f"{NUM_CLASSES} generated classes, task {TASK}, seed {seed}", results))
    figure = out / "demo.png"
    draw(figure, out, results, open_source("voc", data, "val"))
    results_console.print(f"[bold]3.[/bold] {summary(results)}")
    page = write_report([out / name for name in METHODS_SHOWN], out / PAGE)
    results_console.print(f"   Look at [bold]{markup(str(figure))}[/bold]")
    results_console.print(
        f"   Open [bold]{markup(str(page))}[/bold] in a browser ({time.monotonic() - began:.0f} s in all)"
    )
    return results


def _begin(out: Path, seed: int, console: Console) -> Path:
    """The folder of the data: as a stopped demo left it, or newly drawn."""
    data, mark = out / "data", out / MARK
    if mark.is_file() and mark.read_text("utf-8") == str(seed) and not (out / PAGE).exists():
        console.print(f"[bold]1.[/bold] Going on with the demo in {markup(str(out))} that was stopped")
        return data
    if mark.exists():
        shutil.rmtree(out)
    console.print(
        f"[bold]1.[/bold] Drawing {NUM_TRAIN + NUM_VAL} images of {NUM_CLASSES} classes in {markup(str(data))}"
    )
    make_shapes(
        data, layout="voc", num_classes=NUM_CLASSES, num_train=NUM_TRAIN, num_val=NUM_VAL, size=(SIDE, SIDE), seed=seed
    )
    mark.write_text(str(seed), "utf-8")
    return data


def _learn(name: str, out: Path, data: Path, seed: int, *, quiet: bool) -> list[dict[str, Any]]:
    """Train a method, or resume it; returns the metrics of every step."""
    config = load_config(
        f"shapes/{TASK}/{name}",
        [f"seed={seed}", "runtime.tensorboard=false", *SHORTER.get(name, [])],
        {"data": {"root": str(data.resolve())}},
    )
    folder, first = out / name, None if name == "barm" else out / "barm"
    try:
        return fit(config, out=folder, resume=folder.exists(), start_from=first, quiet=quiet)
    except Stopped as stopped:
        raise Stopped("stopped; what was learned is saved, and the same command goes on", stopped.signum) from None


def summary(results: dict[str, list[dict[str, Any]]]) -> str:
    """Summarise the outcome in a sentence."""
    final = {name: metrics[-1]["miou"]["all"] for name, metrics in results.items()}
    first, last = (100 * results["BARM"][step]["miou"]["old"] for step in (0, -1))
    return (
        f"After the last step BARM knows all classes at {100 * final['BARM']:.1f} % mIoU, fine-tuning at "
        f"{100 * final['fine-tuning']:.1f} %, joint training (which keeps every image) at "
        f"{100 * final['joint training']:.1f} %. With BARM the first classes went from {first:.1f} % to {last:.1f} %."
    )


def draw(path: Path, out: Path, results: dict[str, list[dict[str, Any]]], source: Source) -> None:
    """Write the image: scenes with many classes, each method's answer after every step, and the curves."""
    chosen = _choose_scenes(source)
    rt = Runtime(read_config(out / "barm").runtime)
    shown = {name: title for name, title in METHODS_SHOWN.items() if name != "joint"}
    answers: dict[str, list[list[Any]]] = {title: [[] for _ in chosen] for title in shown.values()}
    for name, title in shown.items():
        for step in range(len(results[title])):
            model = load(out / name, step, rt)
            ids = np.array([source.class_names.index(n) for n in model.class_names], np.uint8)
            for place, index in enumerate(chosen):
                answers[title][place].append(ids[model.predict(source[index].image)])
    histories = [
        SceneHistory(
            np.asarray(source[index].image),
            np.asarray(source[index].mask),
            {title: answers[title][place] for title in shown.values()},
        )
        for place, index in enumerate(chosen)
    ]
    learned = [m["learned"] for m in results["BARM"]]
    taught = [f"{count(len(names), 'classes')}" if i == 0 else "\n".join(names) for i, names in enumerate(learned)]
    curves = {title: [m["miou"]["all"] for m in metrics] for title, metrics in results.items()}
    draw_histories(path, histories, display_palette(), curves, taught, "What a model still knows after each step")


def _choose_scenes(source: Source) -> list[int]:
    """Choose images that show the first step's classes beside later ones."""

    def value(i: int) -> tuple[int, int]:
        ids = source.classes_in(i)
        return min(len([c for c in ids if c <= 6]), len([c for c in ids if c > 6])), len(ids)

    return sorted(range(len(source)), key=value, reverse=True)[:NUM_SCENES]
