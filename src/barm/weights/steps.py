"""Recognise networks that learn class after class, and the DeepLabs that they grew from, by the names of their tensors.

Source of the names: spec/barm.md section 2, spec/deeplab.md section 3, spec/ssul.md section 4, spec/mib.md section 7.
"""

from __future__ import annotations

from barm.catalogue import PUBLISHED_TASKS
from barm.weights.kind import Family, Kind, State
from barm.words import count

SIZES = {"voc": 20, "ade": 150}
EXPORTED = "that `barm weights export` wrote"
IMPORT = "`barm weights import {path} --out runs/official` makes it a step of a run"


def tasks_of(groups: tuple[int, ...], dataset: str) -> list[str]:
    """Published tasks of a data set of which these can be the first groups, the task of the recipes first.

    >>> tasks_of((15, 1, 1), "voc"), tasks_of((15,), "voc"), tasks_of((20,), "voc")
    (['15-1'], ['15-1', '15-5'], ['offline'])
    """
    size, first = SIZES[dataset], groups[0]
    if min(groups) < 1:
        return []
    if groups == (size,):
        return ["offline"]
    found = []
    for task in sorted(PUBLISHED_TASKS[dataset], key=lambda name: name not in ("15-1", "100-10")):
        base, increment = map(int, task.split("-"))
        if base == first and all(g == increment for g in groups[1:]) and sum(groups) <= size:
            found.append(task)
    if not found and len(groups) > 1 and len(set(groups[1:])) == 1 and sum(groups) <= size:
        found = [f"{first}-{groups[1]}"] if (size - first) % groups[1] == 0 else []
    return found


def dataset_of(groups: tuple[int, ...]) -> str:
    """The data set whose tasks can begin with these groups; VOC if both do, and nothing if none does.

    >>> dataset_of((15, 1)), dataset_of((100, 10)), dataset_of((7, 3, 2))
    ('voc', 'ade', '')
    """
    return next((name for name in SIZES if tasks_of(groups, name)), "")


def network_with_steps(state: State) -> Kind | None:
    """The kind of a state dict of these networks."""
    if state.has("body.mod1.", "cls.0.weight"):
        return _mib(state)
    if state.has("aspp.", "backbone.", "cls.0.weight") and state.outputs("cls.0.weight") == 1:
        groups = _sizes(state, "cls.{}.weight")[1:]
        name = f"a checkpoint of DKD's official code {_after(groups)}"
        advice = (
            "barm does not import it: `barm train --recipe voc/15-1/dkd` trains the method, `barm recipes` lists tasks"
        )
        return Kind("official-dkd", name, advice, "none", "DeepLabV3", 1 + sum(groups), groups, len(groups) - 1)
    if not state.has("classifier.") or not state.has("backbone."):
        return None
    if state.has("classifier.head.0.3.weight"):
        sizes = _sizes(state, "classifier.head.{}.3.weight")
        return _official(state, "official-ssul", "SSUL's official code", sizes[2:], "ssul", 1)
    if state.has("classifier.aspp.", "classifier.head.0.weight"):
        return _grown(state)
    if state.has("classifier.classifier.0.convs.0.0.weight") or state.has("classifier.project.0.weight"):
        place = "4" if state.has("classifier.classifier.0.convs.0.0.weight") else "3"
        outputs = state.outputs(f"classifier.classifier.{place}.weight")
        if outputs is not None:
            return _official(state, "vainf", "DeepLabV3Plus-Pytorch", (outputs - 1,), "finetune", 0)
    return None


def _grown(state: State) -> Kind:
    """A network with BARM's head, or one with another head that `barm weights export` wrote."""
    sizes, ears = _sizes(state, "classifier.head.{}.weight"), state.blocks("classifier.ear.")
    if state.has("classifier.aux.weight"):
        return _official(state, "barm-export", f"DKD {EXPORTED}", sizes, "dkd", 1)
    if state.has("classifier.aspp.pool_conv.weight"):
        return _official(state, "barm-export", f"MiB or a relative {EXPORTED}", (sizes[0] - 1, *sizes[1:]), "mib", 0)
    with_background = (sizes[0] - 1, *sizes[1:])
    if not ears and dataset_of(sizes) and not dataset_of(with_background):  # only then are all outputs classes
        return _official(state, "barm-export", f"STAR {EXPORTED}", sizes, "star", 0)
    if ears == len(sizes) - 1:
        return _official(state, "official-barm", "BARM's official code", tuple(n - 1 for n in sizes), "barm", 0)
    return _official(state, "barm-export", f"fine-tuning {EXPORTED}", with_background, "finetune", 0)


def _official(state: State, family: Family, code: str, groups: tuple[int, ...], method: str, extra: int) -> Kind:
    """A checkpoint of one of the codes with DeepLab's names.

    Args:
        state: names and shapes.
        family: of the result.
        code: whose it is.
        groups: classes per step.
        method: with which barm imports it.
        extra: channels of the classifier that are neither background nor a class.
    """
    if not groups or min(groups) < 1:
        return Kind("damaged", f"a checkpoint of {code} with a head that has no classes", "give another file")
    backbone = "mobilenet" if state.has("backbone.high_level_features.") else state.resnet("backbone.")
    plus = state.any("classifier.project.", "classifier.aspp.low.*")
    head = "deeplabv3plus" if plus else "deeplabv3bga" if family == "official-barm" else "deeplabv3"
    model = f"{head}_{backbone}" if backbone in ("resnet50", "resnet101", "mobilenet") else ""
    dataset = dataset_of(groups)
    tasks = [f"{dataset} {task}" for task in tasks_of(groups, dataset)] if dataset else []
    lacks = [name for name, there in (("--model", model), ("--dataset and --task", tasks)) if not there]
    fits = f"{' or '.join(tasks)} fits" if tasks else "no published task of VOC or ADE20K fits"
    steps = f"with {count(groups[0] + 1, 'outputs')}" if family == "vainf" else _after(groups)
    return Kind(
        family,
        f"a checkpoint of {code} {steps} ({', '.join(filter(None, (model, fits)))})",
        IMPORT if not lacks else f"{IMPORT}, given {' and '.join(lacks)}",
        "import",
        f"{head}_{backbone or 'unknown'}",
        1 + extra + sum(groups),
        groups,
        len(groups) - 1,
        model,
        method,
    )


def _mib(state: State) -> Kind:
    sizes = _sizes(state, "cls.{}.weight")
    groups = (sizes[0] - 1, *sizes[1:])
    parallel = any(name.endswith("conv2_new.weight") for name in state.tensors)
    code = "RCIL's official code" if parallel else "the official code of MiB or PLOP, or one that grew from it (EWF)"
    names = "voc/15-1/rcil`" if parallel else "voc/15-1/mib` or voc/15-1/plop"
    recipe = f": `barm train --recipe {names} trains the method anew"
    advice = f"its in-place batch norm and body have no counterpart here, so barm does not import it{recipe}"
    family: Family = "rcil" if parallel else "mib-plop"
    name = f"a checkpoint of {code} {_after(groups)}"
    return Kind(family, name, advice, "none", "DeepLabV3", sum(sizes), groups, len(groups) - 1)


def _sizes(state: State, pattern: str) -> tuple[int, ...]:
    """Outputs of the classifiers of all steps."""
    sizes: list[int] = []
    while (number := state.outputs(pattern.format(len(sizes)))) is not None:
        sizes.append(number)
    return tuple(sizes)


def _after(groups: tuple[int, ...]) -> str:
    """Words for the step that a network was saved after."""
    return f"after step {len(groups) - 1}, groups {', '.join(map(str, groups))}"
