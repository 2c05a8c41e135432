"""Check whether memory suffices for a configuration. The estimates are lower bounds: what works is never refused.

A network is built without memory (torch's meta device) and shown a small image there. What its training would keep
for the gradient grows with the pixels of a batch; the rest are its weights.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from barm.data.base import Source
from barm.engine.backbone import backbone_of, train_mode, trained_groups
from barm.engine.config import RunConfig, StepRecipe
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.labels import Step
from barm.methods import METHODS
from barm.methods.base import Method, MethodConfig
from barm.methods.groups import Rates
from barm.models.batch_norm import take_in
from barm.models.checkpointing import recompute_blocks
from barm.models.frozen_norm import followers
from barm.models.segmenter import NetworkConfig
from barm.words import count

SIDE, IMAGES = 64, 2  # of what the network is shown
MOST = 10**100  # pixels that are counted; numbers far above have no float
LOADED = 3 + 12 + 1 + 8  # bytes per pixel of a batch: 8-bit and float image, 8-bit and 64-bit label
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


ANY = Rates(new=1, aspp=1, old=1, backbone=1)  # what trains does not depend on how fast


class Need(NamedTuple):
    """Bytes that a network needs: a fixed number, and a number per pixel of a batch."""

    once: float
    per_pixel: float


def check_training(config: RunConfig, rt: Runtime, index: int) -> None:
    """Refuse a step's training that cannot fit into memory.

    Args:
        config: of the run.
        rt: the runtime, whose device decides which memory counts.
        index: of the step.

    Raises:
        UserError: with an estimate of what it would need.
    """
    recipe, table = config.recipe(index), "base" if index == 0 else "increment"
    if recipe.crop == "auto":  # chosen when the data are open
        return
    need = _training_need(*_key(config), index > 0, recipe.model_dump_json(include={"backbone", "lora"}), rt.recomputes)
    beside = (recipe.unlabelled or recipe.batch_size) if index and config.data.unlabelled is not None else 0
    pixels = min((recipe.batch_size + beside) * recipe.side**2, MOST)
    _check(
        rt,
        need.once + pixels * (LOADED + need.per_pixel * _share(rt)),
        f"{table}.batch_size={count(recipe.batch_size, 'images')}{_and_unlabelled(beside)} with "
        f"{table}.crop={recipe.crop} and model.channels={config.model.channels}",
        f"a smaller {table}.batch_size, {table}.crop or model.channels",
    )


def update_need(network: NetworkConfig, method: MethodConfig, rt: Runtime, *, increment: bool = True) -> Need:
    """Bytes that the updates of a later step need: weights, optimiser, images, and what is kept for the gradient.

    Those of the first step if `increment` is false.

    What a backward pass needs in passing is not counted.
    """
    need = _training_need(network.model_dump_json(), method.model_dump_json(), increment, recomputes=rt.recomputes)
    return Need(need.once, LOADED + need.per_pixel * _share(rt))


def _and_unlabelled(beside: int) -> str:
    return f" and {beside} without labels" if beside else ""


def check_evaluation(config: RunConfig, rt: Runtime, sources: Sequence[Source]) -> None:
    """Refuse an evaluation whose largest batch cannot fit into memory.

    Raises:
        UserError: with an estimate of what it would need.
    """
    crop, batch = config.evaluation.crop, config.evaluation.batch_size
    pixels = min(max(_largest_batch(source, crop, batch) for source in sources), MOST)
    need = _evaluation_need(*_key(config))
    _check(
        rt,
        need.once + pixels * (LOADED + need.per_pixel * _share(rt)),
        f"evaluation.batch_size={count(batch, 'images')} with evaluation.crop={crop}",
        "a smaller evaluation.batch_size or evaluation.crop",
    )


def skeleton(method: Method[Any, Any]) -> nn.Module | None:
    """A method's network without memory: names, shapes and types of its tensors.

    None for a network that cannot be built without memory, since its backbone reads values or does not exist.

    Raises:
        UserError: if the sizes are beyond all bounds.
    """
    try:
        with torch.device("meta"):
            return method.build_model()
    except (RuntimeError, TypeError, UserError) as error:
        if "overflow" in str(error).lower():
            raise UserError("this network has more than 8 EiB of weights: lower model.channels") from None
        if isinstance(error, TypeError):
            raise
        return None


def _working_skeleton(method: Method[Any, Any]) -> nn.Module | None:
    """As `skeleton`; None also for another's network whose code does not work without memory."""
    model = skeleton(method)
    if model is not None and method.network.adopted is not None:
        try:
            model.eval()(torch.empty(1, 3, SIDE, SIDE, device="meta"))
        except Exception:  # whatever it raises for tensors that are elsewhere
            return None
    return model


def machine_memory() -> int | None:
    """Memory of this machine, or of the container on it, in bytes; None if unknown."""
    found = []
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in LIMITS:
        try:
            text = limit.read_text("ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found, default=None)


def shown(size: float) -> str:
    """Format a number of bytes.

    >>> shown(2.4e10), shown(3e15), shown(5e7)
    ('24 GB', '3000 TB', '0.05 GB')
    """
    return (
        f"{size / 1e12:.0f} TB" if size >= 1e13 else f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"
    )


def _check(rt: Runtime, size: float, what: str, remedy: str) -> None:
    on_gpu = rt.device.type == "cuda"
    there = torch.cuda.get_device_properties(rt.device).total_memory if on_gpu else machine_memory()
    needed = size * (1 if on_gpu else rt.processes_per_node)
    if there is not None and needed > there:
        place = "the GPU" if on_gpu else "the machine"
        raise UserError(f"{what} need at least {shown(needed)} of memory, {place} has {shown(there)}: take {remedy}")


def _key(config: RunConfig) -> tuple[str, str]:
    """A text key of what the need depends on: network and method."""
    unloaded = config.model.model_copy(update={"pretrained": False, "weights": None})
    return unloaded.model_dump_json(), config.method.model_dump_json()


def _method(network: str, method: str, increment: bool) -> Method[Any, Any]:
    """The method with the smallest possible number of classes."""
    table = json.loads(method)
    step = Step(1, ((1,), (2,))) if increment else Step(0, ((1,),))
    return METHODS[table["name"]].model_validate(table).build(step, NetworkConfig.model_validate_json(network))


@lru_cache(maxsize=32)
def _training_need(network: str, config: str, increment: bool, trains: str = "{}", recomputes: bool = False) -> Need:
    recipe = StepRecipe(epochs=1, batch_size=1, lr=ANY, **json.loads(trains))
    method = _method(network, config, increment)
    model = _working_skeleton(method)
    if model is None:
        return Need(0, 0)
    trained = {id(p): p for group in trained_groups(method, model, recipe) for p in group["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    train_mode(method, model, recipe)
    weights = sum(_size(p) for p in model.parameters()) + 2 * sum(map(_size, trained.values()))
    if method.bn_frozen:  # as the engine trains it
        for conv, norm in followers(model, torch.empty(IMAGES, 3, SIDE, SIDE, device="meta")):
            take_in(conv, norm)
    if recomputes:
        recompute_blocks(backbone_of(model))
    sums = method.start_sums(torch.device("meta")).values() if method.gathers else ()
    few, many = (kept(model, images) for images in (IMAGES, 2 * IMAGES))
    scaled = 2 * few - many  # weights multiplied by the scales of batch norm
    return Need(max(weights + scaled, sum(map(_size, sums))), (many - few) / (IMAGES * SIDE**2))


@lru_cache(maxsize=32)
def _evaluation_need(network: str, config: str) -> Need:
    model, largest = _working_skeleton(_method(network, config, increment=False)), 0
    if model is None:
        return Need(0, 0)

    def note(_module: nn.Module, _given: Any, out: Any) -> None:
        nonlocal largest
        largest = max(largest, _size(out) if isinstance(out, Tensor) else 0)

    for module in model.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        model.eval()(torch.empty(IMAGES, 3, SIDE, SIDE, device="meta"))
    return Need(sum(_size(p) for p in model.parameters()), largest / (IMAGES * SIDE**2))


def kept(model: nn.Module, images: int, side: int = SIDE) -> int:
    """Bytes that a forward pass keeps for the gradient, without weights; each storage counts once.

    Args:
        model: on torch's meta device. Blocks that are computed again keep their inputs alone.
        images: number of them.
        side: of each in pixels.
    """
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    held: dict[int, Tensor] = {}  # holds them, so that no number comes twice

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in own:
            held[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.empty(images, 3, side, side, device="meta"))
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _share(rt: Runtime) -> float:
    """Share of the fp32 need that is kept: less in half precision, and with the compiler, which recomputes some."""
    return (0.5 if str(rt.precision) != "32-true" else 1.0) * (0.25 if rt.compile else 1.0)


def _largest_batch(source: Source, crop: int, batch: int) -> int:
    """Pixels of the largest evaluation batch; at native size at least those of one image, if sizes are known."""
    if crop:
        return min(batch, len(source)) * crop**2
    sizes = Counter(getattr(source, "sizes", ()))
    return max((min(batch, number) * w * h for (w, h), number in sizes.items()), default=0)
