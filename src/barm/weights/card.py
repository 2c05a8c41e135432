"""The model card of a repository."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tomli_w
from huggingface_hub import ModelCardData

from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import EXTENSION, METHOD, METRICS, RunDirectory
from barm.escaping import markdown
from barm.escaping import names as names_word
from barm.methods import METHODS
from barm.report.tables import percent
from barm.words import count

VERSIONS = ("barm", "torch", "torchvision", "timm", "python", "git", "precision", "saliency_maps")
SCENARIO = {
    "overlap": "images of a step may show classes of other steps, which are not labelled there",
    "disjoint": "images of a step show no classes of later steps; those of earlier ones are not labelled",
    "partitioned": "every image belongs to one step",
}


def card(directory: RunDirectory, index: int, name: str, *, licence: str | None = None, onnx: bool = False) -> str:
    """Write the README.md of a repository: header, scores by step, classes, data, method, use, provenance.

    Args:
        directory: of the run.
        index: of the step that is pushed.
        name: ``owner/name``.
        licence: as the hub names licences; none is claimed by default.
        onnx: whether the repository has ``model.onnx``.
    """
    record = directory.read(index, METHOD)
    method, tags = record["method"]["name"], ["semantic-segmentation", "continual-learning", "class-incremental"]
    header = ModelCardData(
        license=licence, library_name="barm", pipeline_tag="image-segmentation", tags=[*tags, method]
    )
    done = [directory.read(i, METRICS) for i in range(index + 1) if directory.has(i, METRICS)]
    parts = [
        f"---\n{header.to_yaml()}\n---",
        _head(record, index, name),
        _use(name, onnx),
        _scores(done, index),
        _training(directory, record),
        _provenance(directory),
    ]
    return "\n\n".join(parts) + "\n"


def _head(record: dict[str, Any], index: int, name: str) -> str:
    name_of_method = record["method"]["name"]
    title = (METHODS[name_of_method].__doc__ or "").strip().splitlines()[0].rstrip(".")
    seen = (
        "every step saw the labels of all classes so far"
        if name_of_method == "joint"
        else ("later steps saw labels of their new classes only")
    )
    return (
        f"# {name.split('/')[-1]}\n\n"
        f"Semantic segmentation into {count(len(record['classes']) - 1, 'classes')} and background, learned in "
        f"{index + 1} of {count(record['num_steps'], 'steps')}: {seen}. Network: DeepLab "
        f"({record['model']['decoder']}) on {code(record['model']['backbone'])}. Method: {title}."
    )


def _use(name: str, onnx: bool) -> str:
    lines = [
        "## Use\n\n```python\nimport barm\n",
        f'model = barm.load("hf://{name}")',
        'labels = model.predict(barm.read_image("photo.jpg"))  # (H, W): positions in model.class_names\n```\n',
        f"```bash\nbarm predict hf://{name} photo.jpg --out seen\n```",
    ]
    if onnx:
        lines.append(
            "\n`model.onnx` needs onnxruntime alone: input `image`, uint8 RGB, (batch, height, width, 3); outputs "
            "`labels` and `confidence`. Class names and colours are in its metadata under `barm`."
        )
    return "\n".join(lines)


def _scores(done: Sequence[dict[str, Any]], index: int) -> str:
    if not done:
        return "## Scores\n\nNot evaluated."
    rows = [
        [str(m["step"]), markdown(", ".join(m["learned"])) if len(m["learned"]) < 7 else f"{len(m['learned'])} classes"]
        + [percent(v) for v in (m["miou"]["old"], m["miou"].get("new"), m["miou"]["all"], m["forgetting"])]
        for m in done
    ]
    text = (
        "## Scores\n\nmIoU in percent on the validation images after every step. Old: classes of step 0 with "
        "background; new: learned later; lost: mean fall of a class below its best.\n\n"
        + _table(["step", "learned", "old", "new", "all", "lost"], rows)
    )
    if done[-1]["step"] != index:
        return text
    by_class = [[markdown(name), percent(iou)] for name, iou in done[-1]["class_iou"].items()]
    return f"{text}\n\nIoU per class after step {index}:\n\n{_table(['class', 'IoU'], by_class)}"


def _training(directory: RunDirectory, record: dict[str, Any]) -> str:
    config = directory.config()
    names = {c["id"]: c["name"] for c in record["classes"]}
    task = config.task.name or " | ".join(", ".join(g) for g in config.task.groups or ())
    groups = [[str(i), markdown(", ".join(names[c] for c in group))] for i, group in enumerate(record["groups"])]
    root = "" if config.data.root is None else f" Data set: {code(config.data.root.name)}."
    method = tomli_w.dumps({"method": to_table(config)["method"]}).strip()
    return (
        f"## Data and method\n\n{root.strip()} Task {code(task)}, setting {config.task.setting} "
        f"({SCENARIO[config.task.setting]}). Evaluated at {config.evaluation.view}.\n\n"
        f"{_table(['step', 'classes'], groups)}\n\n```toml\n{method}\n```\n\n"
        f"`config.toml` holds every setting: {code(_again(directory, record))} repeats it."
    )


def _again(directory: RunDirectory, record: dict[str, Any]) -> str:
    if not (directory.path / EXTENSION).is_file():
        return "barm train --recipe config.toml --data DIR --out RUN"
    learned = names_word([c["name"] for c in record["classes"] if c["id"] in record["groups"][-1]])
    return f"barm extend OLD --data DIR --classes {learned} --recipe config.toml --out RUN"


def _provenance(directory: RunDirectory) -> str:
    found = directory.provenance()
    rows = [[name, markdown(str(found[name]))] for name in VERSIONS if name in found] + [
        ["seed", str(directory.config().seed)]
    ]
    return f"## Provenance\n\n{_table(['', ''], rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """Format text as code within a line of Markdown, whatever backticks it holds.

    >>> code("a"), code("a`b")
    ('`a`', '`` a`b ``')
    """
    line = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    return f"`{line}`" if not longest else f"{'`' * (longest + 1)} {line} {'`' * (longest + 1)}"
