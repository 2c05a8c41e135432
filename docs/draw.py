"""Draw the images of docs/concepts.md from the generator and a finished `barm demo`.

    python docs/draw.py runs/demo docs/images

The same demo gives the same images. Colours are those of Okabe and Ito, told apart by people with any colour vision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from drawing import (
    BLUE,
    EMPTY,
    GREEN,
    GROUND,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    Pixels,
    arrow,
    bare,
    bare_title,
    box,
    frame,
    middle,
    outline,
    save,
    show_labels,
    write_on,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from barm.data.sources.shapes import Scene, class_names, render
from barm.engine.checkpoint.directory import METRICS, RunDirectory
from barm.engine.checkpoint.network import load_step
from barm.labels import IGNORE, Step, TaskPlan
from barm.losses.common import pseudo_labels

OLD, NEW = 1, 7  # crimson-plain-disc of step 0, blue-plain-square of step 1
NUM_CLASSES, SIDE = 10, 96
THREE = (21, 7, 51, 1, 46, 2)  # scenes of three classes: disc; square; disc, square; square, triangle; all; triangle
SCENE = 6430  # shows one of each, apart from each other, and no demo trains or tests on it
METHODS = {"BARM": "barm", "fine-tuning": "finetune"}


@dataclass(frozen=True)
class Demo:
    """A finished demo and the scene that all images are about."""

    path: Path
    scene: Scene

    def networks(self, method: str) -> list[Any]:
        """Network and method after every step."""
        directory = RunDirectory(self.path / method)
        return [load_step(directory, step) for step in directory.finished_steps()]

    def metrics(self, method: str) -> list[dict[str, Any]]:
        """Scores after every step."""
        directory = RunDirectory(self.path / method)
        return [directory.read(step, METRICS) for step in directory.finished_steps()]

    def output(self, network: Any) -> Any:
        """What a network computes for the scene."""
        pixels = torch.from_numpy(self.scene.image.transpose(2, 0, 1)[None].copy())
        with torch.inference_mode():
            return network(pixels)

    def prediction(self, network: Any, method: Any) -> Pixels:
        """Labels of the scene."""
        labels = method.predict(self.output(network), self.scene.mask.shape)[0]
        return np.asarray(labels.numpy(), np.uint8)


def draw_shift(demo: Demo) -> Figure:
    """One image, two steps, two truths."""
    scene = demo.scene
    figure, axes = plt.subplots(1, 4, figsize=(10.4, 3.3), layout="constrained")
    axes[0].imshow(scene.image)
    bare(axes[0], "an image", "a disc and a square")
    show_labels(axes[1], scene.mask, {OLD: RED})
    write_on(axes[1], scene, OLD, "disc")
    outline(axes[1], scene, NEW)
    write_on(axes[1], scene, NEW, '"back-\nground"', INK)
    bare(axes[1], "its label in step 0", "discs are taught, squares not yet")
    show_labels(axes[2], scene.mask, {NEW: BLUE})
    write_on(axes[2], scene, NEW, "square")
    outline(axes[2], scene, OLD)
    write_on(axes[2], scene, OLD, '"back-\nground"', INK)
    bare(axes[2], "its label in step 1", "squares are taught, discs no longer")
    show_labels(axes[3], scene.mask, {OLD: RED, NEW: BLUE})
    write_on(axes[3], scene, OLD, "disc")
    write_on(axes[3], scene, NEW, "square")
    bare(axes[3], "what it shall know then", "both")
    return figure


def draw_forgetting(demo: Demo) -> Figure:
    """What a model says about the image after each step."""
    taught = [m["learned"] for m in demo.metrics("barm")]
    figure = plt.figure(figsize=(10.4, 4.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.9, 1.5])
    axes = left.subplots(2, len(taught))
    others = dict.fromkeys(set(range(1, NUM_CLASSES + 1)) - {OLD, NEW}, PINK)
    for row, (title, name) in enumerate(METHODS.items()):
        for step, (network, method) in enumerate(demo.networks(name)):
            show_labels(axes[row, step], demo.prediction(network, method), {OLD: RED, NEW: BLUE, **others})
            bare(axes[row, step])
        axes[row, 0].set_ylabel(title, fontsize=12, color=INK, weight="bold")
    for step, names in enumerate(taught):
        what = "six classes,\none is discs" if step == 0 else "one more:\n" + names[0].split("-")[-1]
        axes[0, step].set_title(f"step {step}\n{what}", fontsize=10, color=INK)
    legend = {"disc": RED, "square": BLUE, "another class": PINK, "background": EMPTY}
    handles = [Patch(color=colour, label=text) for text, colour in legend.items()]
    left.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    ax = right.subplots()
    for (title, name), colour, marker in zip(METHODS.items(), (GREEN, ORANGE), "os", strict=True):
        scores = [100 * m["class_iou"][class_names(NUM_CLASSES)[OLD - 1]] for m in demo.metrics(name)]
        curve(ax, scores, title, colour, marker)
    ax.set_title("how well discs are found\nin 200 images (IoU, %)", fontsize=11, color=INK, weight="bold")
    return figure


def curve(ax: Axes, values: Sequence[float], title: str, colour: str, marker: str) -> None:
    """Percent after every step."""
    steps = range(len(values))
    ax.plot(steps, values, marker=marker, color=colour, lw=2.2, ms=7)
    ax.annotate(
        title, (len(values), values[-1]), xytext=(0, 9), textcoords="offset points", ha="right", fontsize=11, color=INK
    )
    ax.set_ylim(-4, 104)
    ax.set_xticks(steps)
    ax.set_xlabel("step", fontsize=10, color=INK)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def draw_residual(demo: Demo) -> Figure:
    """The background of BARM's last network as a sum."""
    network, method = demo.networks("barm")[-1]
    output = demo.output(network)
    parts = [output.heads[0], *(head.clamp(max=0) for head in output.heads[1:]), output.logits]
    figure, axes = plt.subplots(1, len(parts) + 2, figsize=(12.4, 2.75), layout="constrained")
    axes[0].imshow(demo.scene.image)
    bare(axes[0], "the\nimage")
    signs = ["", *["+"] * (len(parts) - 2), "="]
    titles = ["step 0\nsays", *(f"step {n}\ncorrects" for n in range(1, len(parts) - 1)), "background\nin the end"]
    for ax, part, sign, title in zip(axes[1:], parts, signs, titles, strict=False):
        shown = ax.imshow(enlarged(part[:, :1]), cmap="PuOr", norm=TwoSlopeNorm(0, -8, 8))
        bare(ax, title)
        ax.text(-0.08, 0.5, sign, transform=ax.transAxes, ha="center", va="center", fontsize=17, weight="bold")
    show_labels(axes[-1], demo.prediction(network, method), {OLD: RED, NEW: BLUE})
    bare(axes[-1], "the\nanswer")
    bar = figure.colorbar(shown, ax=list(axes), location="bottom", shrink=0.42, aspect=45, ticks=[-8, 0, 8])
    bar.ax.set_xticklabels(["not background", "undecided, or no correction", "background"], fontsize=10, color=INK)
    return figure


def enlarged(part: torch.Tensor) -> NDArray[np.float32]:
    """The first channel at the image's size."""
    part = torch.nn.functional.interpolate(part, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return np.asarray(part[0, 0].numpy())


def enlarged_all(logits: torch.Tensor) -> NDArray[np.float32]:
    """All channels at the image's size."""
    return torch.nn.functional.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False).numpy()


def draw_network(_demo: Demo) -> Figure:
    """BARM's network in step 2."""
    figure, ax = plt.subplots(figsize=(10.4, 4.2), layout="constrained")
    ax.set_xlim(0, 13.2)
    ax.set_ylim(-0.8, 4.4)
    ax.axis("off")
    slow, fast = "#dbe9f4", "#ffd9a8"
    box(ax, (0.1, 1.65), (1.2, 0.9), "image", GROUND)
    box(ax, (1.8, 1.65), (1.9, 0.9), "backbone\nand ASPP", slow)
    arrow(ax, (1.3, 2.1), (1.8, 2.1))
    rows = (
        (3.3, "branch 0", "background", "the 6 classes\nof step 0", slow),
        (1.7, "branch 1", "correction 1", "square", slow),
        (0.1, "branch 2", "correction 2", "triangle", fast),
    )
    for y, name, first, classes, colour in rows:
        arrow(ax, (3.7, 2.1), (4.4, y + 0.4))
        box(ax, (4.4, y), (1.4, 0.8), name, colour)
        arrow(ax, (5.8, y + 0.4), (6.4, y + 0.72))
        arrow(ax, (5.8, y + 0.4), (6.4, y + 0.08))
        box(ax, (6.4, y + 0.46), (2.0, 0.52), first, colour)
        box(ax, (6.4, y - 0.18), (2.0, 0.52), classes, colour)
        arrow(ax, (8.4, y + 0.72), (10.1, 2.42 + 0.12 * (y - 1.7)))
    for y, turn in ((2.5, 0), (1.5, 42)):
        ax.text(9.2, y, "where below 0", fontsize=9.5, color=INK, style="italic", ha="center", rotation=turn)
    box(ax, (10.1, 2.0), (0.9, 0.84), "sum", GROUND)
    arrow(ax, (11.0, 2.42), (11.5, 2.42))
    box(ax, (11.5, 2.0), (1.6, 0.84), "background\nfrom now on", GROUND)
    box(ax, (0.1, -0.65), (0.4, 0.3), "", slow)
    ax.text(0.65, -0.5, "from earlier steps: changes slowly", va="center", fontsize=10, color=INK)
    box(ax, (6.4, -0.65), (0.4, 0.3), "", fast)
    ax.text(6.95, -0.5, "new in step 2: learns from its labels", va="center", fontsize=10, color=INK)
    return figure


def draw_groups(demo: Demo) -> Figure:
    """Who teaches what in step 1: the label, the previous network's classes, and its heads one by one."""
    scene, networks = demo.scene, [network for network, _ in demo.networks("barm")[:2]]
    label = np.where(scene.mask == NEW, NEW, 0).astype(np.uint8)
    old = demo.output(networks[0]).logits
    used = pseudo_labels(torch.from_numpy(enlarged_all(old)), torch.from_numpy(label)[None].long(), threshold=0.7)[0]
    figure = plt.figure(figsize=(10.4, 5.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    axes = upper.subplots(1, 4)
    axes[0].imshow(scene.image)
    bare(axes[0], "the image")
    show_labels(axes[1], label, {NEW: BLUE})
    bare(axes[1], "the label of step 1", "a person drew it")
    show_labels(axes[2], demo.prediction(*demo.networks("barm")[0]), {OLD: RED})
    bare(axes[2], "what step 0 knows", "the previous network's answer")
    show_labels(axes[3], used.numpy().astype(np.uint8), {OLD: RED, NEW: BLUE})
    bare(axes[3], "what is trained with", "the label, filled where it is sure")
    for ax, sign in zip(axes[2:], "+=", strict=True):
        ax.text(-0.07, 0.5, sign, transform=ax.transAxes, ha="center", va="center", fontsize=17, weight="bold")
    draw_heads(lower, demo)
    return figure


def draw_heads(figure: Any, demo: Demo) -> None:
    """What the heads of the networks after steps 2 and 3 say about a pixel at the disc's edge."""
    networks = [network for network, _ in demo.networks("barm")[2:4]]
    x, y = middle(demo.scene, OLD)
    x -= 13
    said = []
    for network in networks:
        heads = demo.output(network).heads
        row, column = (round(v * heads[0].shape[2] / SIDE) for v in (y, x))
        said.append([torch.sigmoid(head[0, :, row, column]) for head in heads])
    names, first = class_names(NUM_CLASSES), 0
    sizes = [len(part) for part in said[1]]
    axes = figure.subplots(1, len(sizes), width_ratios=[size + 1.2 for size in sizes], sharey=True)
    for head, (ax, size) in enumerate(zip(axes, sizes, strict=True)):
        shapes = [name.split("-")[-1] for name in names[first : first + size - 1]]
        first += size - 1
        old = head < len(said[0])
        for network, (colour, hatch) in enumerate(((SKY, ""), (ORANGE, "//"))):
            if network or old:
                place = np.arange(size) + (0.4 * network - 0.2) * old
                ax.bar(place, said[network][head], 0.4, color=colour, ec=INK, lw=0.6, hatch=hatch)
        ax.set_xticks(
            range(size),
            ["correction" if head else "background", *shapes],
            fontsize=9,
            rotation=30,
            ha="right",
            rotation_mode="anchor",
        )
        ax.set_title(f"head {head + 1}: " + ("repeats" if old else "free"), fontsize=11, color=INK, weight="bold")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(0, 1.05)
    axes[0].set_ylabel("probability at\nthe disc's edge", fontsize=10, color=INK)
    labels = ((SKY, "", "network after step 2"), (ORANGE, "//", "network after step 3, which it taught"))
    handles = [Patch(fc=colour, hatch=hatch, ec=INK, label=text) for colour, hatch, text in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=10)


def draw_settings(_demo: Demo) -> Figure:
    """Which image is seen in which step, labelled how."""
    scenes = [render(i, split="train", num_classes=3, size=(SIDE, SIDE), seed=4) for i in THREE]
    figure = plt.figure(figsize=(10.4, 6.4), layout="constrained")
    about = {
        "overlap": "every image with a new class",
        "disjoint": "none with a class of the future",
        "partitioned": "every image once",
    }
    first, *parts = figure.subfigures(1, 1 + len(about), width_ratios=[1.15, 3, 3, 3], wspace=0.02)
    first.suptitle("\n", fontsize=11)
    column = first.subplots(len(scenes), 1)
    column[0].set_title("image", fontsize=10, color=INK)
    for ax, scene in zip(column, scenes, strict=True):
        ax.imshow(scene.image)
        frame(ax)
    for part, (setting, text) in zip(parts, about.items(), strict=True):
        part.suptitle(f"{setting}\n{text}", fontsize=11, weight="bold", color=INK)
        plan = TaskPlan(((1,), (2,), (3,)), setting, seed=2)
        grid = part.subplots(len(scenes), len(plan))
        for step, word in zip(plan.steps(), ("disc", "square", "triangle"), strict=True):
            grid[0, step.index].set_title(f"{step.index + 1}: {word}", fontsize=10, color=INK)
            for row, scene in enumerate(scenes):
                show_step(grid[row, step.index], scene, step, plan, str(row))
    return figure


def show_step(ax: Axes, scene: Scene, step: Step, plan: TaskPlan, key: str) -> None:
    """A scene's label in a step, or nothing where it does not belong to it."""
    present = set(np.unique(scene.mask).tolist()) - {0, IGNORE}
    if not plan.selects(step, present, key):
        ax.axis("off")
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        return
    show_labels(ax, scene.mask, {i: (RED, BLUE, PINK)[i - 1] for i in step.new})
    for other in present - set(step.new):
        outline(ax, scene, other)
    frame(ax)


def draw_scores(demo: Demo) -> Figure:
    """What IoU, average and lost mean, with the demo's numbers."""
    network, method = demo.networks("barm")[-1]
    truth, said = demo.scene.mask == NEW, demo.prediction(network, method) == NEW
    figure, axes = plt.subplots(1, 3, figsize=(10.8, 3.9), layout="constrained", width_ratios=[1, 1.15, 1.15])
    table = np.where(demo.scene.mask == IGNORE, IGNORE, truth + 2 * said).astype(np.uint8)
    show_labels(axes[0], table, {1: ORANGE, 2: PINK, 3: BLUE, IGNORE: GROUND})
    valid = demo.scene.mask != IGNORE
    hit, either = int((truth & said & valid).sum()), int(((truth | said) & valid).sum())
    share = f"= {hit} / {either} pixels = {100 * hit / either:.0f} %"
    bare(axes[0], "IoU of one class", f"found / (found + missed + invented)\n{share}")
    found = {"found": BLUE, "missed": ORANGE, "invented": PINK}
    axes[0].legend(handles=[Patch(color=c, label=t) for t, c in found.items()], loc="lower right", fontsize=9)
    for (title, name), colour, marker in zip(METHODS.items(), (GREEN, ORANGE), "os", strict=True):
        scores, last = [100 * m["miou"]["all"] for m in demo.metrics(name)], demo.metrics(name)[-1]
        curve(axes[1], scores, title, colour, marker)
        mean = 100 * last["average_miou"]
        axes[1].axhline(mean, color=colour, ls=":", lw=1.6)
        axes[1].text(1.15, mean + (1.5 if mean < 50 else -7), f"average {mean:.1f}", fontsize=10, color=INK)
    bare_title(axes[1], "mIoU: mean over all classes seen (%)")
    lost_per_class(axes[2], demo)
    bare_title(axes[2], "lost: from the best to the last (%)")
    return figure


def lost_per_class(ax: Axes, demo: Demo) -> None:
    """Of every class known before the last step: its best IoU before, and the one in the end."""
    for (title, name), colour, shift in zip(METHODS.items(), (GREEN, ORANGE), (-0.14, 0.14), strict=True):
        metrics = demo.metrics(name)
        known = list(metrics[-2]["class_iou"])
        for place, class_name in enumerate(known):
            best = max(100 * m["class_iou"][class_name] for m in metrics[:-1] if class_name in m["class_iou"])
            last = 100 * metrics[-1]["class_iou"][class_name]
            arrow(ax, (best, place + shift), (last, place + shift), colour)
            ax.plot(best, place + shift, "o", color=colour, ms=4)
        lost = 100 * metrics[-1]["forgetting"]
        ax.plot([], [], color=colour, lw=2, label=f"{title}: mean fall {lost:.1f}")
    ax.set_yticks(range(len(known)), [n.replace("-", " ") for n in known], fontsize=8)
    ax.set_ylim(len(known) + 2.2, -0.7)
    ax.set_xlim(-4, 104)
    ax.legend(loc="lower left", fontsize=9)
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


IMAGES: dict[str, Callable[[Demo], Figure]] = {
    "shift": draw_shift,
    "forgetting": draw_forgetting,
    "residual": draw_residual,
    "network": draw_network,
    "groups": draw_groups,
    "settings": draw_settings,
    "scores": draw_scores,
}


def main() -> None:
    """Draw all images, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="folder that `barm demo` wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("only", nargs="*")
    options = parser.parse_args()
    mpl.use("Agg")
    plt.rcParams["font.family"] = "DejaVu Sans"
    options.out.mkdir(parents=True, exist_ok=True)
    demo = Demo(options.demo, render(SCENE, split="val", num_classes=NUM_CLASSES, size=(SIDE, SIDE), seed=1))
    for name, draw in IMAGES.items():
        if name in options.only or not options.only:
            save(draw(demo), options.out / f"{name}.png")


if __name__ == "__main__":
    main()
