"""The model card of a repository."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import tomli_w
from huggingface_hub import ModelCardData

from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import EXTENSION, METHOD, METRICS, RunDirectory
from barm.escaping import markdown
from barm.escaping import names as names_word
from barm.methods import METHODS
from barm.report.tables import percent
from barm.weights.hub import SCHEME
from barm.words import count

VERSIONS = ("barm", "torch", "torchvision", "timm", "python", "git", "precision", "saliency_maps")
LIBRARIES = {"smp": "segmentation-models-pytorch", "transformers": "transformers", "torchvision": "torchvision"}
SCENARIO = {
    "overlap": "images of a step may show classes of other steps, which are not labelled there",
    "disjoint": "images of a step show no classes of later steps; those of earlier ones are not labelled",
    "partitioned": "every image belongs to one step",
}


class Repository(NamedTuple):
    """What the owner says of a repository.

    Attributes:
        name: ``owner/name``.
        licence: of the weights, as the hub names licences; none is claimed by default.
        data_licence: of the images that it was trained on, likewise.
        onnx: it has ``model.onnx``.
        original: it holds what another library loads.
    """

    name: str
    licence: str | None = None
    data_licence: str | None = None
    onnx: bool = False
    original: bool = False


def card(directory: RunDirectory, index: int, repository: Repository) -> str:
    """Write the README.md of a repository: header, scores by step, classes, data, licences, method, use, provenance.

    Args:
        directory: of the run.
        index: of the step that is pushed.
        repository: what the owner says of it.
    """
    record = directory.read(index, METHOD)
    method, tags = record["method"]["name"], ["semantic-segmentation", "continual-learning", "class-incremental"]
    adopted = record["model"].get("adopted") or {}
    library = LIBRARIES[adopted["family"]] if repository.original else "barm"
    header = ModelCardData(
        license=repository.licence,
        library_name=library,
        pipeline_tag="image-segmentation",
        tags=[*tags, method],
        base_model=SCHEME.sub("", adopted.get("origin", "")).partition("@")[0] or None,
        data_license=repository.data_licence,
    )
    done = [directory.read(i, METRICS) for i in range(index + 1) if directory.has(i, METRICS)]
    parts = [
        f"---\n{header.to_yaml()}\n---",
        _head(record, index, repository.name),
        _original_use(repository, adopted) if repository.original else _use(repository.name, repository.onnx),
        _scores(done, index),
        _training(directory, record),
        _licences(record["model"]["backbone"] if adopted else "", repository),
        _provenance(directory),
    ]
    return "\n\n".join(parts) + "\n"


def _licences(title: str, repository: Repository) -> str:
    before = f" It started from {markdown(title)}, whose own licence holds on." if title else ""
    return (
        f"## Licences\n\nWeights: {markdown(repository.licence or 'none is claimed')}. Images that it was trained on: "
        f"{markdown(repository.data_licence or 'not stated')}.{before}"
    )


def _original_use(repository: Repository, adopted: dict[str, Any]) -> str:
    """How the library that the network came from loads it."""
    name, family = repository.name, adopted["family"]
    architecture = json.loads(adopted["architecture"])
    code_lines = {
        "smp": ["import segmentation_models_pytorch as smp\n", f'model = smp.from_pretrained("{name}").eval()'],
        "transformers": [
            "from transformers import AutoModelForSemanticSegmentation\n",
            f'model = AutoModelForSemanticSegmentation.from_pretrained("{name}")',
        ],
        "torchvision": [
            "import torch\nfrom torchvision.models import segmentation\n",
            f"model = segmentation.{architecture.get('name')}(weights=None, weights_backbone=None, num_classes=N)",
            'model.load_state_dict(torch.load("model.pth", weights_only=True))',
        ],
    }[family]
    text = "\n".join(code_lines)
    more = "" if family == "torchvision" else f"\n\n`barm extend hf://{name}` teaches it more classes."
    return f"## Use\n\n```python\n{text}\n```{more}"


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
