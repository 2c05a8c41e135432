"""The model card of a repository."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import tomli_w
from huggingface_hub import ModelCardData

from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import METHOD, METRICS, RunDirectory
from barm.escaping import markdown
from barm.escaping import names as names_word
from barm.methods import METHODS
from barm.models.adopted import AdoptedConfig
from barm.models.segmenter import NetworkConfig
from barm.report.tables import percent
from barm.weights.export.original import has_background
from barm.weights.hub import SCHEME
from barm.weights.snippets import has_processor, input_rows, original_code
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
        outputs: names of the outputs in that form.
    """

    name: str
    licence: str | None = None
    data_licence: str | None = None
    onnx: bool = False
    original: bool = False
    outputs: tuple[str, ...] = ()


def card(directory: RunDirectory, index: int, repository: Repository) -> str:
    """Write the README.md of a repository: header, use, images, scores by step, data, licences, method, provenance.

    Args:
        directory: of the run.
        index: of the step that is pushed.
        repository: what the owner says of it.
    """
    record = directory.read(index, METHOD)
    config = NetworkConfig.stored(record["model"])
    adopted = config.adopted
    done = [directory.read(i, METRICS) for i in range(index + 1) if directory.has(i, METRICS)]
    background = has_background(record, directory.load_model_state(index))
    parts = [
        f"---\n{_header(record, adopted, repository)}\n---",
        _head(record, index, repository.name, adopted, background=background),
        _original_use(repository, config) if repository.original else _use(repository.name, repository.onnx, adopted),
        _input(config, repository),
        _scores(done, index, background=background),
        _agreement(directory, index),
        _training(directory, record, measured=any(map(_measured, done))),
        _licences("" if adopted is None or adopted.family == "python" else record["model"]["backbone"], repository),
        _provenance(directory),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(record: dict[str, Any], adopted: AdoptedConfig | None, repository: Repository) -> str:
    tags = ["semantic-segmentation", "continual-learning", "class-incremental", record["method"]["name"]]
    origin = "" if adopted is None else adopted.origin
    header = ModelCardData(
        license=repository.licence,
        library_name=LIBRARIES[adopted.family] if adopted is not None and repository.original else "barm",
        pipeline_tag="image-segmentation",
        tags=tags,
        base_model=SCHEME.sub("", origin).partition("@")[0] or None,
        data_license=repository.data_licence,
    )
    return str(header.to_yaml())


def _licences(title: str, repository: Repository) -> str:
    before = f" It started from {markdown(title)}, whose own licence holds on." if title else ""
    return (
        f"## Licences\n\nWeights: {markdown(repository.licence or 'none is claimed')}. Images that it was trained on: "
        f"{markdown(repository.data_licence or 'not stated')}.{before}"
    )


def _original_use(repository: Repository, config: NetworkConfig) -> str:
    """How the library that the network came from loads it, and which output is which class."""
    text = original_code(config, repository.name, repository.outputs)
    rows = [[str(i), markdown(name)] for i, name in enumerate(repository.outputs)]
    more = "" if "model.pth" in text else f"\n\n`barm extend hf://{repository.name}` teaches it more classes."
    return f"## Use\n\n```python\n{text}\n```\n\n{_table(['output', 'class'], rows)}{more}"


def _input(config: NetworkConfig, repository: Repository) -> str:
    told = "" if repository.original else " barm does this itself, from 8-bit RGB images of any size."
    if repository.original and has_processor(config):
        told = " `preprocessor_config.json` holds mean and deviation too, and perhaps a size of its own."
    return f"## Images\n\nWhat the network takes.{told}\n\n{_table(['', ''], input_rows(config))}"


def _head(record: dict[str, Any], index: int, name: str, adopted: AdoptedConfig | None, *, background: bool) -> str:
    name_of_method, model = record["method"]["name"], record["model"]
    title = (METHODS[name_of_method].__doc__ or "").strip().splitlines()[0].rstrip(".")
    number = count(len(record["classes"]) - 1, "classes")
    what = f"Semantic segmentation into {number} {'and' if background else 'without'} background"
    if adopted is None:
        seen = (
            "every step saw the labels of all classes so far"
            if name_of_method == "joint"
            else ("later steps saw labels of their new classes only")
        )
        told = f"{what}, learned in {index + 1} of {count(record['num_steps'], 'steps')}: {seen}."
        network = f"DeepLab ({model['decoder']}) on {code(model['backbone'])}"
    else:
        names = {c["id"]: c["name"] for c in record["classes"]}
        new = [names[i] for group in record["groups"][1:] for i in group]
        known = markdown(", ".join(new))
        taught = f" It was then taught {known}, from images in which nothing else is labelled." if new else ""
        first = count(len(record["groups"][0]), "classes")
        told = f"{what}. The network was trained elsewhere on its first {first}.{taught}"
        network = code(model["backbone"]) + (", a module of its owner's own" if adopted.family == "python" else "")
    return f"# {name.split('/')[-1]}\n\n{told} Network: {network}. Method: {title}."


def _use(name: str, onnx: bool, adopted: AdoptedConfig | None) -> str:
    own = adopted.description["name"] if adopted is not None and adopted.family == "python" else ""
    register = (
        f'barm.register_network("{own}", {own})  # your class, or a function that builds the network' if own else ""
    )
    lines = [
        *(["The files hold the weights and not the code of the network.\n"] if own else []),
        "```python\nimport barm\n",
        *([register] if own else []),
        f'model = barm.load("hf://{name}")',
        'labels = model.predict(barm.read_image("photo.jpg"))  # (H, W): positions in model.class_names\n```\n',
        f"```bash\n{'BARM_NETWORKS=my.module ' if own else ''}barm predict hf://{name} photo.jpg --out seen\n```",
    ]
    if adopted is not None and adopted.family in ("smp", "transformers"):
        lines.append("\nIt needs the extra of barm for networks of other libraries: `pip install 'barm-seg[models]'`.")
    if onnx:
        lines.append(
            "\n`model.onnx` needs onnxruntime alone: input `image`, uint8 RGB, (batch, height, width, 3); outputs "
            "`labels` and `confidence`. Class names and colours are in its metadata under `barm`."
        )
    return "## Use\n\n" + "\n".join(lines)


def _measured(metrics: dict[str, Any]) -> bool:
    return any(iou is not None for iou in metrics["class_iou"].values())


def _scores(done: Sequence[dict[str, Any]], index: int, *, background: bool = True) -> str:
    """Scores that were measured; what was not is left out."""
    rows = [
        [str(m["step"]), markdown(", ".join(m["learned"])) if len(m["learned"]) < 7 else f"{len(m['learned'])} classes"]
        + [percent(v) for v in (m["miou"]["old"], m["miou"].get("new"), m["miou"]["all"], _lost(m))]
        for m in done
        if _measured(m)
    ]
    if not rows:
        return "## Scores\n\nNot evaluated."
    head = ["step", "learned", "old", "new", "all", "lost"]
    shown = [i for i in range(len(head)) if i < 2 or any(row[i] != percent(None) for row in rows)]
    with_background = any(m["class_iou"].get("background") is not None for m in done)
    meaning = {
        "old": f"old: classes of step 0{' with background' if with_background else ''}",
        "new": "new: learned later",
        "lost": "lost: mean fall of a class below its best",
    }
    told = "; ".join(meaning[head[i]] for i in shown if head[i] in meaning)
    text = (
        "## Scores\n\nmIoU in percent on the validation images after every step"
        + (f"; {told}.\n\n" if told else ".\n\n")
        + _table([head[i] for i in shown], [[row[i] for i in shown] for row in rows])
    )
    if done[-1]["step"] != index or not _measured(done[-1]):
        return text
    known, unknown = ({n: v for n, v in done[-1]["class_iou"].items() if (v is None) == none} for none in (False, True))
    by_class = [[markdown(name), percent(iou)] for name, iou in known.items()]
    if not background:
        unknown.pop("background", None)
    missing = f"\n\nNot measured, for want of labels: {markdown(', '.join(unknown))}." if unknown else ""
    return f"{text}\n\nIoU per class after step {index}:\n\n{_table(['class', 'IoU'], by_class)}{missing}"


def _lost(metrics: dict[str, Any]) -> float | None:
    """Forgetting; nothing can be lost at step 0."""
    value: float | None = metrics["forgetting"] if metrics["step"] else None
    return value


def _agreement(directory: RunDirectory, index: int) -> str:
    """What stands for the scores of the old classes where no image labels them."""
    result = directory.extension() or {}
    shares = [v for v in (result.get("agreement") or {}).values() if v is not None]
    if result.get("step") != index or not shares:
        return ""
    return (
        f"Agreement with the network before step {index}, which is no accuracy: of the pixels that it gives a class, "
        f"this one gives the same to {percent(sum(shares) / len(shares))} % in the mean over the classes."
    )


def _training(directory: RunDirectory, record: dict[str, Any], *, measured: bool) -> str:
    config = directory.config()
    names = {c["id"]: c["name"] for c in record["classes"]}
    task = config.task.name or " | ".join(", ".join(g) for g in config.task.groups or ())
    groups = [[str(i), markdown(", ".join(names[c] for c in group))] for i, group in enumerate(record["groups"])]
    later = " of the steps after step 0" if record["model"].get("adopted") and len(groups) > 1 else ""
    root = "" if config.data.root is None else f" Data set{later}: {code(config.data.root.name)}."
    method = tomli_w.dumps({"method": to_table(config)["method"]}).strip()
    return (
        f"## Data and method\n\n{root.strip()} Task {code(task)}, setting {config.task.setting} "
        f"({SCENARIO[config.task.setting]}).{f' Evaluated at {config.evaluation.view}.' if measured else ''}\n\n"
        f"{_table(['step', 'classes'], groups)}\n\n```toml\n{method}\n```\n\n"
        f"`config.toml` holds every setting: {code(_again(directory, record))} repeats it."
    )


def _again(directory: RunDirectory, record: dict[str, Any]) -> str:
    if not directory.is_extension():
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
