"""Measurements that explain the times: multiplication rates, profile of operations, effect of kept memory."""

from __future__ import annotations

import multiprocessing
import statistics
import time

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from barm.bench.cases import Setting, our_update
from barm.bench.measure import Work, finish
from barm.engine.capacity import update_need
from barm.engine.memory_use import keep_freed_memory
from barm.engine.runtime import DTYPES
from barm.methods.barm import BARMConfig

MATRIX = {"cpu": 1024, "cuda": 8192}  # side of the square matrices
WIDE, NARROW = 1024, 256  # channels of a ResNet's third stage
CALLS = 9
GIB = 2**30
CARDS = (24, 40, 80)  # GiB of usual cards
PASSING = 1.26  # what an image needs on an H100 at the most, of what is counted to be kept of it (docs/speed.md)
TOP = 10


def product_rates(setting: Setting) -> tuple[dict[str, str], float]:
    """Operations per second of a matrix product and two typical convolutions, in fp32 and in our precision.

    Their ratio is the most that a change of precision alone can bring on this machine.

    Returns:
        A line for each product, and the largest rate of a convolution in our precision.
    """
    rt = setting.fast()
    dtypes = dict.fromkeys([torch.float32, DTYPES.get(rt.precision, torch.float32)])
    facts, largest = dict[str, str](), 0.0
    for name in ("matrix product", "1x1 convolution", "3x3 convolution"):
        rates = {}
        for dtype in dtypes:
            work, operations = _product(name, setting, rt.device, dtype)
            rates[str(dtype).removeprefix("torch.")] = _rate(work, operations, rt.device)
        first, last = next(iter(rates.values())), list(rates.values())[-1]
        largest = max(largest, last if "convolution" in name else 0.0)
        shown = ", ".join(f"{rate / 1e12:.3f} {kind}" for kind, rate in rates.items())
        facts[f"{name}, TFLOP/s"] = f"{shown}: {last / first:.2f} x" if len(rates) > 1 else shown
    return facts, largest


def _product(name: str, setting: Setting, device: torch.device, dtype: torch.dtype) -> tuple[Work, float]:
    """A function that computes one product, and its number of floating point operations."""

    def noise(*shape: int) -> Tensor:
        values = torch.randn(*shape, device=device, dtype=dtype)
        return values if len(shape) < 4 else values.contiguous(memory_format=torch.channels_last)

    if name == "matrix product":
        side = MATRIX[device.type]
        a, b = noise(side, side), noise(side, side)
        return lambda: a @ b, 2.0 * side**3
    side, kernel = -(-setting.crop // setting.network.output_stride), int(name[0])
    channels = WIDE if kernel == 1 else NARROW
    x, weight = noise(setting.batch, channels, side, side), noise(NARROW, channels, kernel, kernel)
    return lambda: F.conv2d(x, weight, padding=kernel // 2), 2.0 * setting.batch * side**2 * weight.numel()


@torch.inference_mode()
def _rate(work: Work, operations: float, device: torch.device) -> float:
    """Operations per second: the median of some calls, after two warm-up calls."""
    seconds = []
    for _ in range(CALLS + 2):
        finish(device)
        began = time.perf_counter()
        work()
        finish(device)
        seconds.append(time.perf_counter() - began)
    return operations / statistics.median(seconds[2:])


def memory_forecast(setting: Setting) -> dict[str, str]:
    """The counted memory of an update, the measured one on a GPU, and the batches that usual cards hold.

    A tenth of a card stays free. What an image needs is counted also with gradient checkpointing.
    """
    rt = setting.fast()
    need = update_need(setting.network, BARMConfig(), rt)

    image = PASSING * setting.crop**2 * need.per_pixel
    told = f"{(need.once + setting.batch * image) / GIB:.2f} GiB predicted"
    if rt.device.type == "cuda":
        told += f", {_largest_in_use(setting, rt.device) / GIB:.2f} GiB measured"
    fits = {card: int((0.9 * card * GIB - need.once) // image) for card in CARDS}
    cards = ", ".join(f"{batch} on {card} GiB" for card, batch in fits.items() if batch > 0)
    return {
        f"memory of an update, batch {setting.batch}": told,
        "largest batch, predicted": cards or "none fits",
        **kept_of_an_image(setting),
    }


def kept_of_an_image(setting: Setting) -> dict[str, str]:
    """What an update keeps of an image, with and without gradient checkpointing; batch norm trains in the first step.

    The image and its labels are among it.
    """
    facts, runtimes = {}, (setting.fast(), setting.fast(gradient_checkpointing=True))
    for steps, later in (("first step", False), ("later steps", True)):
        needs = [update_need(setting.network, BARMConfig(), rt, increment=later).per_pixel for rt in runtimes]
        plain, again = (setting.crop**2 * need / 2**20 for need in needs)
        facts[f"kept of an image, {steps}"] = (
            f"{plain:.0f} MiB, with runtime.gradient_checkpointing {again:.0f} MiB ({again / plain:.2f} x)"
        )
    return facts


def _largest_in_use(setting: Setting, device: torch.device) -> int:
    """The most bytes in use during the first updates, networks included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work = our_update(setting)
    for _ in range(3):
        work()
    finish(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


def profiled(works: dict[str, Work], device: torch.device) -> dict[str, str]:
    """The convolutions' share of the time in every case, and the ten most expensive operations of the first case."""
    facts: dict[str, str] = {}
    for number, (name, work) in enumerate(works.items()):
        events = _events(work, device)
        total = sum(spent for spent, _, _, on_device in events if on_device)
        convolutions = sum(spent for spent, key, _, _ in events if "convolution" in key and "::" in key)
        facts[f"convolutions' share of {name}"] = f"{100 * convolutions / max(total, 1e-9):.1f} %"
        if number == 0:
            best = sorted((e for e in events if e[3]), reverse=True)[:TOP]
            facts |= {
                f"profile {i}": f"{100 * spent / max(total, 1e-9):4.1f} %  {calls} x  {key}"
                for i, (spent, key, calls, _) in enumerate(best, start=1)
            }
    return facts


def _events(work: Work, device: torch.device) -> list[tuple[float, str, int, bool]]:
    """Profile a function: per operation its own time, its name, its calls, and whether it counts.

    On a GPU only kernels count, since operations repeat their kernels' time.
    """
    cuda = device.type == "cuda"
    work()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as prof:
        work()
        finish(device)
    return [
        (e.self_device_time_total, e.key, e.count, e.device_type == DeviceType.CUDA)
        if cuda
        else (e.self_cpu_time_total, e.key, e.count, True)
        for e in prof.key_averages()
    ]


def kept_memory(few: Setting, many: Setting, rounds: int) -> str:
    """Compare updates with many and with few branches, with and without keeping freed memory.

    Each runs in a process of its own, since memory that was kept once stays kept.
    """
    context = multiprocessing.get_context("spawn")
    found = {}
    for keep in (True, False):
        with context.Pool(1) as pool:
            found[keep] = pool.apply(_medians, (few, many, rounds, keep))
    kept, returned = (f"{b:.3f} s, {b / a:.2f} x one with few" for a, b in (found[True], found[False]))
    return f"kept {kept}; given back {returned}"


def _medians(few: Setting, many: Setting, rounds: int, keep: bool) -> tuple[float, float]:
    """Median seconds of two updates that run in turn, after a warm-up."""
    works = [our_update(s) for s in (few, many)]
    keep_freed_memory(keep)
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for spent, work in zip(seconds, works, strict=True):
            began = time.perf_counter()
            work()
            spent.append(time.perf_counter() - began)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])
