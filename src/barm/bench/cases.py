"""The measured cases: an update, its losses, an evaluation, a constant network, the data path."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from barm.batch import Batch, total_loss
from barm.bench import plain
from barm.bench.measure import Cost, Work, side_by_side
from barm.data.decoded import DecodedSource
from barm.data.device_transforms import place
from barm.data.index import checked
from barm.data.sources import open_source
from barm.data.sources.shapes_disk import make_shapes
from barm.data.transforms import TrainTransform, draw, train_transform
from barm.engine.config import Precision, RuntimeConfig, StepRecipe
from barm.engine.memory_use import keep_freed_memory
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.labels import Step
from barm.methods.barm import BARM, BARMConfig
from barm.methods.groups import Rates
from barm.metrics import confusion_counts
from barm.models.heads import GroupedOutput
from barm.models.segmenter import NetworkConfig

UNLABELLED = 0.7  # share of background pixels, about VOC's
BLOCK = 32  # side of the labels' blocks in pixels
FRESH_RATE = 1e-6  # random weights must not diverge
OURS, PLAIN, BARE = "ours", "plain", "bare network"
SINGLY, COMPILED = "kernel by kernel", ", compiled"  # ways to launch an update, and the end of a way's name
AUTOCAST, FP32 = "plain autocast", "plain fp32"


@dataclass(frozen=True)
class Setting:
    """Settings of the measured update.

    Attributes:
        network: configuration of the network.
        step: classes of the step that is trained.
        batch: images at a time.
        crop: side in pixels.
        device: on which it runs; `auto` takes a GPU where there is one.
        precision: of our version and of the bare network.
    """

    network: NetworkConfig
    step: Step
    batch: int = 2
    crop: int = 513
    device: Any = "auto"
    precision: Precision = "auto"

    @property
    def method(self) -> BARM:
        """BARM at the step."""
        return BARMConfig().build(self.step, self.network)

    @property
    def before(self) -> BARM:
        """BARM at the step before."""
        return BARMConfig().build(Step(self.step.index - 1, self.step.groups[:-1]), self.network)

    def fast(self, **options: bool) -> Runtime:
        """Runtime settings with which barm trains, but for the given ones."""
        return Runtime(RuntimeConfig(device=self.device, precision=self.precision, **options))

    def slow(self) -> Runtime:
        """Runtime settings with which the published code trains. fp32 on a processor, fp16 autocast on a GPU, NCHW."""
        cuda = self.device != "cpu" and torch.cuda.is_available()
        return Runtime(
            RuntimeConfig(device=self.device, precision="16-mixed" if cuda else "32-true", channels_last=False)
        )


def random_batch(setting: Setting, rt: Runtime) -> Batch:
    """A batch of noise, with labels of the step in blocks, most of them background."""
    generator = torch.Generator().manual_seed(0)
    step, size, number = setting.step, setting.crop, setting.batch
    pixels = torch.randint(0, 256, (number, size, size, 3), generator=generator, dtype=torch.uint8)
    side = size // BLOCK + 1
    coarse = torch.randint(step.num_old, step.num_seen, (number, side, side), generator=generator)
    coarse[torch.rand(coarse.shape, generator=generator) < UNLABELLED] = 0
    label = coarse.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, :size, :size].contiguous()
    return Batch(pixels.to(rt.device).permute(0, 3, 1, 2), label.to(rt.device), {})


def update_work(setting: Setting) -> dict[str, Work]:
    """A whole update in three versions: ours, plain, and the bare network (student both ways, teacher forward)."""
    return {OURS: our_update(setting), PLAIN: _as_usual(_plain_update(setting)), BARE: _bare_network(setting)}


def launch_work(setting: Setting) -> dict[str, Work]:
    """Our update in every way to launch it: on a GPU also without CUDA graphs; compiled where a compiler is there."""
    ways: dict[str, dict[str, bool]] = {OURS: {}}
    if setting.fast().device.type == "cuda":
        ways[SINGLY] = {"cuda_graphs": False}
    if shutil.which("c++") is not None:
        ways |= {name + COMPILED: {**options, "compile": True} for name, options in list(ways.items())}
    return {name: our_update(setting, **options) for name, options in ways.items()}


def _as_usual(work: Work) -> Work:
    """Run the work under glibc's default memory settings, which barm changes."""

    def run() -> None:
        keep_freed_memory(False)
        try:
            work()
        finally:
            keep_freed_memory()

    return run


def _networks(setting: Setting, rt: Runtime) -> tuple[BARM, nn.Module, nn.Module | None]:
    method = setting.method
    model = rt.place(method.build_model())
    method.train_mode(model)
    return method, model, rt.place(setting.before.build_model()).eval() if setting.step.index else None


def _recipe(setting: Setting) -> StepRecipe:
    rates = Rates(new=FRESH_RATE, aspp=FRESH_RATE, old=FRESH_RATE, backbone=FRESH_RATE)
    return StepRecipe(epochs=1, batch_size=max(2, setting.batch), lr=rates)


def our_update(setting: Setting, report_every: int = 10, **options: bool) -> Work:
    """A whole update as barm trains it; every n-th one returns the values of the loss. Options are the runtime's."""
    rt = setting.fast(**options)
    method, model, old = _networks(setting, rt)
    teacher = None if old is None else rt.constant(old)
    trainer = StepTrainer(method, model, teacher, _recipe(setting), 10**6, rt, seed=0)
    batch = random_batch(setting, rt)

    def work() -> None:
        with rt.one_shape():
            trainer.update(batch, report=trainer.iteration % report_every == 0)

    return work


def _plain_update(setting: Setting) -> Work:
    rt = setting.slow()
    method, model, teacher = _networks(setting, rt)
    groups = method.param_groups(model, _recipe(setting).lr)
    wrapped, optimizer = rt.fabric.setup(
        model, torch.optim.SGD([dict(g) for g in groups], momentum=0.9, nesterov=True, weight_decay=1e-4)
    )
    batch = random_batch(setting, rt)
    image = batch.image.contiguous()

    def work() -> None:
        with torch.no_grad(), rt.fabric.autocast():
            old = None if teacher is None else teacher(image)
        objective = plain.loss(wrapped(image), old, batch)
        rt.fabric.backward(objective)
        optimizer.step()
        optimizer.zero_grad()
        objective.item()  # the published loop shows every loss

    return work


def _bare_network(setting: Setting) -> Work:
    rt = setting.fast()
    method, model, old = _networks(setting, rt)
    teacher = None if old is None else rt.constant(old)
    training = {id(p) for g in method.param_groups(model, _recipe(setting).lr) for p in g["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in training)
    batch = random_batch(setting, rt)

    def work() -> None:
        with rt.one_shape():
            if teacher is not None:
                teacher(batch.image)
            with rt.fabric.autocast():
                out = model(rt.image(batch.image))
            (sum(h.float().mean() for h in out.heads) + out.branches.float().mean()).backward()
            model.zero_grad(set_to_none=True)

    return work


def losses_work(setting: Setting) -> dict[str, Work]:
    """All losses of an update, ours and plain, from given network outputs to the gradient at these outputs."""
    rt = Runtime(RuntimeConfig(device=setting.device, precision="32-true"))
    method, batch = setting.method, random_batch(setting, rt)
    side = -(-setting.crop // setting.network.output_stride)
    generator = torch.Generator().manual_seed(0)

    def output(step: Step, grad: bool) -> GroupedOutput:
        def noise(channels: int) -> Tensor:
            values = torch.randn(setting.batch, channels, side, side, generator=generator)
            return values.to(rt.device).requires_grad_(grad)

        heads = tuple(noise(1 + size) for size in step.group_sizes)
        return GroupedOutput(heads, noise(setting.network.channels * len(heads)))

    new, old = output(method.step, True), output(setting.before.step, False) if setting.step.index else None

    def backward(objective: Tensor) -> None:
        objective.backward()  # type: ignore[no-untyped-call]
        for tensor in (*new.heads, new.branches):
            tensor.grad = None

    return {
        OURS: lambda: backward(_trained(method.loss(new, old, batch))),
        PLAIN: _as_usual(lambda: backward(plain.loss(new, old, batch))),
    }


def _trained(terms: dict[str, Any]) -> Tensor:
    """The sum that the engine differentiates, without the parts that only the log shows."""
    return total_loss({name: term._replace(rest=None) for name, term in terms.items()})


def evaluation_work(setting: Setting) -> tuple[dict[str, Work], Callable[[], dict[str, str]]]:
    """Prediction and counts of a batch, ours and plain, and a function that measures how far both agree."""
    fast, slow = setting.fast(), setting.slow()
    method, step = setting.method, setting.step
    model = method.build_model().eval()
    constant, placed = fast.constant(model), slow.place(model)
    batch = random_batch(setting, fast)
    image = batch.image.contiguous()

    def ours() -> Tensor:
        prediction = method.predict(constant(batch.image), batch.size)
        return confusion_counts(prediction, batch.label, step.num_seen).cpu()

    @torch.no_grad()
    def outputs() -> GroupedOutput:
        with slow.fabric.autocast():
            out: GroupedOutput = placed(image)
        return out

    def plainly() -> Tensor:
        return torch.from_numpy(plain.counts(plain.predict(outputs(), batch.size), batch.label, step.num_seen))

    def agreement() -> dict[str, str]:
        out, exact = outputs(), Runtime(RuntimeConfig(device=setting.device, precision="32-true")).constant(model)
        theirs = plain.predict(out, batch.size)
        labels = method.predict(out, batch.size)
        mine = confusion_counts(labels, batch.label, step.num_seen).cpu()
        same = mine.tolist() == plain.counts(theirs, batch.label, step.num_seen).tolist()
        other = (
            f"NOT the same: {100 * float((labels != theirs).double().mean()):.4f} % of the pixels have another label"
        )
        shares = {
            name: float((method.predict(network(batch.image), batch.size) != theirs).double().mean())
            for name, network in (("fp32", exact), (str(fast.precision), constant))
        }
        others = ", ".join(f"{name} {100 * share:.4f} %" for name, share in shares.items())
        return {
            "counts of the same outputs, ours and plain": "the same" if same else other,
            "pixels labelled otherwise by the folded network": f"{others} (random weights, of which many are ties)",
        }

    return {OURS: ours, PLAIN: _as_usual(plainly)}, agreement


def constant_work(setting: Setting) -> tuple[dict[str, Work], Callable[[], dict[str, str]]]:
    """A network that does not train, ours and under autocast alone, and a function that measures how far both agree."""
    rt, exact = setting.fast(), Runtime(RuntimeConfig(device=setting.device, precision="32-true"))
    model = setting.method.build_model().eval().requires_grad_(False)
    image = random_batch(setting, rt).image
    constant, placed = rt.constant(model), rt.place(model)

    @torch.inference_mode()
    def run(within: Runtime) -> GroupedOutput:
        with within.fabric.autocast():
            out: GroupedOutput = placed(within.image(image))
        return out

    def agreement() -> dict[str, str]:
        outs, best = {OURS: constant(image), AUTOCAST: run(rt)}, torch.cat(run(exact).heads, 1)
        apart = {
            name: (torch.cat(o.heads, 1).float() - best).abs().max() / best.abs().max() for name, o in outs.items()
        }
        shown = ", ".join(f"{name} {float(share):.1e}" for name, share in apart.items())
        return {"logits from those in fp32, of the largest": shown, "type of the constant": str(constant.dtype)}

    work: dict[str, Work] = {OURS: lambda: constant(image), AUTOCAST: lambda: run(rt)}
    return work if rt.precision == exact.precision else {**work, FP32: lambda: run(exact)}, agreement


class LoaderCost(NamedTuple):
    """Costs of the data path of one process, per image: ours (without and with the decoded cache) and plain."""

    costs: dict[str, Cost]
    images: int


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def loader_cost(root: Path, crop: int, rounds: int, images: int = 64) -> LoaderCost:
    """Measure the data path on one core, in seconds per image.

    Decode, scale, crop, flip, labels; the plain version also normalises in the loader.

    Args:
        root: a data set in any layout; generated VOC-sized images where it does not exist.
        crop: side in pixels.
        rounds: measured rounds, after a warm-up.
        images: number of its images that are used.
    """
    if not root.exists():
        make_shapes(root, layout="voc", num_classes=20, num_train=images, num_val=4, size=(500, 375), seed=1)
    source = checked(open_source("auto", root, "train"))
    cached, config, lut = DecodedSource(source, 1 << 30), TrainTransform(crop), np.arange(256, dtype=np.uint8)
    count = min(images, len(source))

    def ours(given: Any) -> None:
        rng = np.random.default_rng(0)
        for i in range(count):
            train_transform(given[i]._replace(extras={}), lut, rng, config)

    def plainly() -> None:
        rng = np.random.default_rng(0)
        for i in range(count):
            sample = source[i]
            plain.augment(sample, lut, draw(rng, sample.image.size, config), crop)

    def decoded() -> None:
        rng = np.random.default_rng(0)
        for i in range(count):
            place(bare[i], lut, rng, config)

    bare = replace(source, saliency=())  # maps that only some methods read
    work = {OURS: lambda: ours(bare), f"{OURS}, decoded cache": lambda: ours(cached)}
    work |= {f"{OURS}, rest on the device": decoded, PLAIN: plainly}
    with _one_thread():
        costs = side_by_side(work, torch.device("cpu"), rounds)
    return LoaderCost(
        {n: Cost(c.median / count, c.least / count, c.most / count, None) for n, c in costs.items()}, count
    )
