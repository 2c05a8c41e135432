"""Recognise a checkpoint: the table around the state dict says whose it is, the tensors' names which network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from barm.weights.containers import Contents
from barm.weights.kind import ADOPTED, OWN, Kind, State
from barm.weights.networks import network_of
from barm.weights.pickled import ClassName, Record, module_shapes, shape_of, tables_in
from barm.words import count

KEY = "barm"  # of the description among a file's metadata
STATES = (  # keys under which programs store a state dict, the better first
    "model_state",
    "state_dict",
    "model_state_dict",
    "network_weights",
    "model_state_dict_ema",
    "model_ema",
    "model",
    "network",
    "net",
    "module",
    "params_ema",
    "params",
    "weights",
    "teacher",
    "student",
)
HARMLESS = re.compile(  # what `barm.weights.torchvision.read_state` takes
    r"torch\.(_utils\.\w+|\w+Storage|storage\.\w+|Size|device|Tensor|nn\.parameter\.\w+|_tensor\.\w+|b?float\d+|u?int\d+|bool)"
    r"|collections\.(OrderedDict|Counter)|argparse\.Namespace|_codecs\.encode"
    r"|(builtins|__builtin__)\.(set|complex|bytearray)|numpy\.(_?core\.multiarray\.\w+|dtype|ndarray|dtypes\.\w+)"
)
UNTELLING = ("torch.nn.", "builtins.", "__builtin__.")  # named last: they do not say whose file it is
LEAST = 0.5  # share of tensors in a table that is a state dict
SAVED = "save its state dict where it was trained: `torch.save(model.state_dict(), FILE)`"
INNER = "`torch.save(torch.load(PATH, weights_only=False){keys}, FILE)` where it was trained gets its state dict out"
Shapes = dict[str, tuple[int, ...]]


def kind_of_checkpoint(contents: Contents) -> Kind:
    """The kind of what a checkpoint holds."""
    if contents.form == "safetensors":
        return _safetensors(contents)
    top = contents.top
    if isinstance(top, Record) and shape_of(top) is None:
        return _module(top)
    table = tables_in(top)
    for rule in (_program, _optimizer):
        if (kind := rule(table, contents)) is not None:
            return kind
    keys, state = state_in(table)
    if state is not None:
        kind = network_of(State(state))
        classes = foreign(contents.names)
        if classes:
            return _with_classes(kind, classes, keys)
        if contents.form == "pickle" and kind.use != "none":  # torch.load refuses it, safe or not
            return replace(kind, name=f"{kind.name}, in a plain pickle", advice=SAVED, use="none")
        return kind
    return _no_state(table, contents)


def state_in(
    table: Mapping[Any, Any], shape: Callable[[Any], tuple[int, ...] | None] = shape_of
) -> tuple[tuple[str, ...], Shapes | None]:
    """Find the state dict in a checkpoint: what is named by these keys is read by them.

    Args:
        table: the checkpoint, or its outline.
        shape: of a value in it that is a tensor; none for what is none.

    Returns:
        Keys that lead to it, none if the table itself is one; and shapes of its tensors by name.
    """
    own = shapes_in(table, shape)
    if own and len(own) >= LEAST * len(table):
        return (), own
    for key in (*STATES, *(k for k in table if isinstance(k, str) and "optim" not in k)):
        inner = tables_in(table.get(key))
        shapes = shapes_in(inner, shape)
        if shapes and len(shapes) >= LEAST * len(inner):
            return (key,), shapes
        second = "state_dict" if "state_dict" in inner else "model"
        deeper = shapes_in(tables_in(inner.get(second)), shape)
        if deeper:
            return (key, second), deeper
    return (), own or None


def foreign(names: frozenset[str]) -> list[str]:
    """Classes that only the program knows which wrote the file, so that a safe reader refuses it."""
    return sorted(
        (name for name in names if not HARMLESS.fullmatch(name)), key=lambda name: (name.startswith(UNTELLING), name)
    )


def shapes_in(table: Mapping[Any, Any], shape: Callable[[Any], tuple[int, ...] | None] = shape_of) -> Shapes:
    """Shapes of the tensors in a table by name; other values are left out."""
    found = {name: shape(value) for name, value in table.items() if isinstance(name, str)}
    return {name: sizes for name, sizes in found.items() if sizes is not None}


def _safetensors(contents: Contents) -> Kind:
    text = (contents.metadata or {}).get(KEY)
    if text is not None:
        try:
            description = json.loads(text)
            step, classes = int(description["step"]), len(description["class_names"])
            groups = tuple(len(group) for group in description["learned"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return Kind("barm-file", "a file of barm whose description is damaged", "write it anew with `barm export`")
        name = f"a model of barm after step {step}, {count(classes - 1, 'classes')} and background"
        advice = "`barm predict {path} IMAGE --out seen` and `barm load` take it as it is"
        return Kind("barm-file", name, advice, "open", str(description.get("backbone", "")), classes, groups, step)
    return (
        network_of(State(shapes_in(contents.top)))
        if contents.top
        else Kind("empty", "a safetensors file without tensors", SAVED)
    )


def _module(top: Record) -> Kind:
    """A pickled object in place of a state dict."""
    name = top.name
    if name.startswith("numpy.") or "ndarray" in name:
        return Kind("arrays", "a pickled numpy array", "give a checkpoint of a network")
    if name.startswith(("fastai.", "fastcore.")):
        title = f"a Learner of fastai (pickled class {name})"
        return Kind("fastai", title, "save its state dict: `torch.save(learn.model.state_dict(), FILE)`")
    if not isinstance(top.state, dict) or "_modules" not in top.state:
        return Kind("pickle", f"a pickled object of the class {name}, not a state dict", SAVED)
    return _whole(top, f"a whole pickled network of the class {name} (torch.save(model))")


def _whole(module: Record, title: str, key: str = "") -> Kind:
    """A pickled network. If barm takes its state dict: how to get that."""
    shapes = module_shapes(module)
    inner = network_of(State(shapes)) if shapes else None
    if inner is None or inner.use == "none":
        advice = f"load it in Python, and {ADOPTED}"
    else:
        title = f"{title}, {inner.name}"
        advice = (
            f"where its code is, `torch.save(torch.load(PATH, weights_only=False){key}.state_dict(), FILE)` makes a "
            "file that barm takes"
        )
    return Kind("module", title, f"unpickling would run code, so barm does not: {advice}")


def _program(table: Mapping[Any, Any], contents: Contents) -> Kind | None:
    """A checkpoint whose table is that of a well-known program."""
    if "pytorch-lightning_version" in table:
        return _lightning(table)
    ultralytics = next((n for n in sorted(contents.names) if n.startswith(("ultralytics.", "models.yolo."))), None)
    if ultralytics is not None:
        title = f"a YOLO checkpoint of ultralytics (its pickle needs the class {ultralytics})"
        return Kind("ultralytics", title, f"unpickling would run code, and barm has no such network; {OWN}")
    if "network_weights" in table:
        _, shapes = state_in(table)
        kind = network_of(State(shapes or {"": ()}))
        outputs = kind.outputs if kind.family == "nnunet" else None
        what = f", {count(outputs, 'outputs')}" if outputs else ""
        return Kind("nnunet", f"a checkpoint of nnU-Net{what}", f"barm cannot go on from it; {OWN}", outputs=outputs)
    if "matching_heuristics" in table or ("__author__" in table and "model" in table):
        return Kind(
            "detectron2", "a file of weights of detectron2's model zoo (.pkl)", f"barm cannot go on from it; {OWN}"
        )
    if "args" in table and "model" in table and any(n.startswith("fairseq") for n in contents.names):
        return Kind("fairseq", "a checkpoint of fairseq", f"barm cannot go on from it; {OWN}")
    if "model" in table and {"cfg", "extra_state", "optimizer_history"} & table.keys() and "task_state" in table:
        return Kind("fairseq", "a checkpoint of fairseq", f"barm cannot go on from it; {OWN}")
    if "meta" in table and "state_dict" in table:
        return _openmmlab(table)
    return None


def _lightning(table: Mapping[Any, Any]) -> Kind:
    shapes = shapes_in(tables_in(table.get("state_dict")))
    if not shapes:
        return Kind("lightning", "a checkpoint of Lightning without a state dict", SAVED)
    inner, parts = network_of(State(shapes)), {name.split(".")[0] for name in shapes}
    attribute = next(iter(parts)) if len(parts) == 1 else "model"
    advice = (
        "get the network out, MODULE being your LightningModule: "
        f"`torch.save(MODULE.load_from_checkpoint(PATH).{attribute}.state_dict(), FILE)`"
    )
    if inner.family == "smp-state":
        advice = (
            "get the network out, MODULE being your LightningModule, and give the folder: "
            f"`MODULE.load_from_checkpoint(PATH).{attribute}.save_pretrained(FOLDER)`"
        )
    return replace(
        inner, family="lightning", name=f"a checkpoint of Lightning that holds {inner.name}", advice=advice, use="none"
    )


def _openmmlab(table: Mapping[Any, Any]) -> Kind | None:
    shapes = shapes_in(tables_in(table["state_dict"]))
    if not shapes:
        return None
    kind = network_of(State(shapes))
    if kind.family == "state":
        return Kind("mmsegmentation", "a checkpoint of OpenMMLab (MMSegmentation, MMDetection)", kind.advice)
    return kind


def _optimizer(table: Mapping[Any, Any], _: Contents) -> Kind | None:
    if {"state", "param_groups"} <= table.keys() and "model" not in table:
        return Kind(
            "optimizer", "the state of an optimiser, without a network", f"give the network's checkpoint: {SAVED}"
        )
    return None


def _with_classes(kind: Kind, classes: list[str], keys: tuple[str, ...]) -> Kind:
    """A checkpoint that `torch.load` refuses for other things than the state dict in it."""
    name = f"{kind.name}, beside pickled objects ({classes[0]}{', ...' if len(classes) > 1 else ''})"
    if kind.use in ("none", "open"):
        return replace(kind, name=name)
    inner = INNER.format(keys="".join(f"[{key!r}]" for key in keys))
    return replace(kind, name=name, advice=f"they are never unpickled: {inner}", use="none")


def _no_state(table: Mapping[Any, Any], contents: Contents) -> Kind:
    classes = foreign(contents.names)
    keys = [key for key in table if isinstance(key, str)]
    module = next((k for k in keys if isinstance(table[k], Record) and "_modules" in tables_in(table[k])), None)
    if module is not None:
        title = f"a checkpoint with a whole pickled network of the class {table[module].name} under {module!r}"
        return _whole(table[module], title, f"[{module!r}]")
    if isinstance(contents.top, ClassName):
        return Kind("pickle", f"a pickled reference to {contents.top.name}", SAVED)
    if shape_of(contents.top) is not None:
        return Kind("arrays", "a single tensor, not a state dict", SAVED)
    what = "a checkpoint" if contents.form == "torch" else "a pickle"
    if classes:
        return Kind("pickle", f"{what} of pickled objects ({classes[0]}) without a state dict", SAVED)
    inside = f" (keys: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})" if keys else ""
    optimiser = any("optim" in key for key in keys)
    title = (
        f"{what} with the state of an optimiser alone{inside}" if optimiser else f"{what} without a state dict{inside}"
    )
    return Kind("optimizer" if optimiser else "pickle", title, SAVED)
