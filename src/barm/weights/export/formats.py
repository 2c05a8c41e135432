"""Export formats: ONNX, torch.export, safetensors. Each file is made in memory, read back, compared, then written."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch import nn

from barm.engine.checkpoint.checksums import crc_of_tensors
from barm.engine.checkpoint.network import rebuild
from barm.errors import UserError
from barm.reading import check_target
from barm.weights.export.agreement import Agreement, Predict, compare, in_pytorch, own_images
from barm.weights.export.portable import LEAST_SIDE, Portable, describe, trace
from barm.weights.export.stages import stage
from barm.weights.trained import KEY, Trained, open_trained
from barm.writing import write_atomically

OPSET = 18  # the oldest that torch writes; onnxruntime reads it since 1.14
LIMIT = 2**31 - 2**20  # bytes that one ONNX file may hold
LONGEST = 600.0  # seconds for a stage
TRACING = "tracing the network"
REMEDY = "try --format safetensors, which needs no graph, or another backbone; what takes so long is torch's own code"
METADATA = "metadata.json"  # of a torch.export file

Part = Callable[[str], AbstractContextManager[None]]  # announces a part of the work and bounds it


def unbounded(title: str) -> AbstractContextManager[None]:
    """Run a part of the work without announcing it."""
    return nullcontext()


class Made(NamedTuple):
    """A file's content, its prediction when it is read back, and the least side of the images that it takes."""

    content: bytes
    predict: Predict
    least: int = LEAST_SIDE


def to_onnx(trained: Trained, part: Part = unbounded) -> Made:
    """Make an ONNX file, opset 18; the description is in ``metadata_props["barm"]``."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX export needs {', '.join(missing)}: pip install 'barm-seg[export]'")
    size = sum(t.numel() * t.element_size() for t in trained.network.state_dict().values())
    if size > LIMIT:
        raise UserError(f"the network has {size >> 20} MiB, an ONNX file holds 2 GiB: export as torch-export instead")
    content, least = _onnx(trained, part)
    with part("reading it back"):
        return Made(content, in_onnxruntime(content), least)


def in_onnxruntime(content: bytes, threads: int = 0) -> Predict:
    """Prediction of an ONNX file by onnxruntime on the processor, with as many threads as it has cores by default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda image: tuple(session.run(["labels", "confidence"], {"image": image}))


def _onnx(trained: Trained, part: Part) -> tuple[bytes, int]:
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with part(TRACING):
        program, least = trace(Portable(trained.network, trained.method))
    with part("turning the graph into ONNX"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            input_names=["image"],
            output_names=["labels", "confidence"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    _tidy(model)
    onnx.helper.set_model_props(model, {KEY: json.dumps(describe(trained, least))})
    model.producer_name = "barm"
    return bytes(model.SerializeToString()), least


def _tidy(model: Any) -> None:
    """Name the sizes in the graph, and drop notes on how it was made, which are longer than the graph."""
    graph = model.graph
    dims = [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim[:3]]
    names = dict(zip(dims, ("batch", "height", "width"), strict=True))
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, dims)) + r")\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda m: names[m[0]], dim.dim_param)
    for owner in (graph, *graph.node, *graph.initializer):
        del owner.metadata_props[:]


def to_torch_export(trained: Trained, part: Part = unbounded) -> Made:
    """Make a file for ``torch.export.load``; the description is in the extra file ``metadata.json``."""
    with part(TRACING):
        (program, least), content = trace(Portable(trained.network, trained.method)), io.BytesIO()
    with part("writing and reading the graph"):
        torch.export.save(program, content, extra_files={METADATA: json.dumps(describe(trained, least))})
        module = torch.export.load(io.BytesIO(content.getvalue())).module()

    @torch.no_grad()
    def predict(image: Any) -> Any:
        return tuple(module(torch.from_numpy(image)))

    return Made(content.getvalue(), predict, least)


def to_safetensors(trained: Trained, part: Part = unbounded) -> Made:
    """Make a file for ``barm.load``: the trained tensors; description and method are in the header."""
    description = {**describe(trained), "trained": dict(trained.record)}
    state = {name: t.contiguous() for name, t in trained.network.state_dict().items()}
    description["crc32"] = crc_of_tensors(save(state))
    content = save(state, {KEY: json.dumps(description)})
    network, method = rebuild(trained.record, trained.method.step.index, load(content), "the file")
    again = Trained(network, method, trained.record, trained.runtime, trained.origin)
    return Made(content, lambda image: in_pytorch(again, image))


FORMATS: dict[str, tuple[str, Callable[[Trained, Part], Made]]] = {  # by name: ending, maker
    "onnx": (".onnx", to_onnx),
    "torch-export": (".pt2", to_torch_export),
    "safetensors": (".safetensors", to_safetensors),
}


def export_step(
    run: Path | str,
    out: Path | str,
    format: str | None = None,
    step: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
    limit: float = LONGEST,
) -> Agreement:
    """Write a trained step as one file that other programs load.

    Args:
        run: a run's folder, a safetensors file of barm, or ``hf://owner/name``.
        out: the file; overwritten where it exists.
        format: ``onnx``, ``torch-export`` or ``safetensors``; by default what the file's ending says.
        step: which step of a run; the last by default.
        progress: called with what is being done, and every 10 seconds while it goes on.
        limit: seconds that a stage may take (in python's main thread; elsewhere nothing stops it).

    Returns:
        How near the file is to PyTorch.

    Raises:
        UserError: for bad input, a missing library, or a file that does not agree with PyTorch; nothing is written.
    """
    target = Path(out)
    name = checked_format(target, format)
    check_target(target)
    trained = open_trained(run, step)
    bounded = announced(progress, limit)
    made = make_file(trained, name, progress, bounded)
    with bounded("comparing it with PyTorch"):
        found = compare(trained, made.predict, f"the {name} file", own_images(run), made.least)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, made.content)
    return found


def checked_format(target: Path, format: str | None) -> str:
    """The format of a file, by default what its ending says.

    Raises:
        UserError: if there is no such format, or the file is a folder.
    """
    name = format or _by_ending(target)
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}': expected one of {', '.join(FORMATS)}")
    if target.is_dir():
        raise UserError(f"{target} is a folder: give a file, such as {target / ('model' + FORMATS[name][0])}")
    other = next((n for n, (ending, _) in FORMATS.items() if n != name and target.suffix == ending), None)
    if other is not None:
        right = target.with_suffix(FORMATS[name][0]).name
        raise UserError(f"{target.name} is a name for {other}, found format {name}: give {right}, or format {other}")
    return name


def announced(progress: Callable[[str], None], limit: float, remedy: str = REMEDY) -> Part:
    """Run parts of the work as stages of at most so many seconds; see `stage`."""
    return lambda title: stage(progress, title, limit, remedy)


def make_file(trained: Trained, name: str, progress: Callable[[str], None], part: Part) -> Made:
    """Make a file of a format; it is not compared yet.

    Raises:
        UserError: if a library is missing, or the network cannot be written in the format.
    """
    convolutions = sum(isinstance(module, nn.Conv2d) for module in trained.network.modules())
    what = f"{trained.record['model']['backbone']}, {convolutions} convolutions"
    progress(f"making the {name} file of step {trained.method.step.index} ({trained.record['method']['name']}, {what})")

    try:
        return FORMATS[name][1](trained, part)
    except (UserError, OSError):
        raise
    except Exception as error:  # torch raises its own and Python's, for layers that it cannot trace
        raise UserError(
            f"'{trained.record['model']['backbone']}' cannot be exported as {name} "
            f"({' '.join(str(error).split())[:160]}): try another format"
        ) from error


def _by_ending(target: Path) -> str:
    for name, (ending, _) in FORMATS.items():
        if target.suffix == ending:
            return name
    known = ", ".join(f"{ending} ({name})" for name, (ending, _) in FORMATS.items())
    raise UserError(f"which format is {target.name}? Give --format, or a file that ends in one of {known}")
