"""Nothing in a method's loss waits for a GPU: it runs on stand-ins for CUDA tensors, which need no GPU.

Reading a value, a shape that depends on values, and a copy from the processor that is not asynchronous would wait.
"""

from __future__ import annotations

import traceback

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from barm.batch import Batch, total_loss
from barm.labels import TaskPlan
from barm.losses import cube, segmentation
from barm.losses.prototypes import Plan
from barm.methods import METHODS
from barm.models.segmenter import NetworkConfig
from barm.ops import strips
from barm.ops.upsampled import computed_by

pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.11", reason="before torch 2.11 a stand-in for a CUDA tensor asks the driver"
)
NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
CACHES = (strips.interpolation, cube.averaging, segmentation.numbering, segmentation._positions)


class Copies(TorchDispatchMode):
    """Notes the lines that copy from one device to another and wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [a for a in args if isinstance(a, torch.Tensor)]
        if "copy" in str(func) and given and not (kwargs or {}).get("non_blocking"):
            target = out if isinstance(out, torch.Tensor) else given[0]
            if given[-1].device.type != target.device.type:
                frames = [f for f in traceback.extract_stack() if "/barm/" in f.filename]
                self.lines.add(f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].line}" if frames else str(func))
        return out


@pytest.fixture(autouse=True)
def _no_stand_ins_in_caches():
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


def on_gpu(found, grad: bool):
    """The same outputs as stand-ins for tensors on a GPU."""
    return tree_map(lambda t: torch.empty(t.shape, device="cuda").requires_grad_(grad), found)


def outputs(name: str, index: int, loss: dict[str, str]):
    plan, image = TaskPlan.parse("2-1", 4), torch.randn(2, 3, 48, 48)
    methods = [METHODS[name](name=name, **loss).build(plan[i], NETWORK) for i in (index, index - 1) if i >= 0]
    with torch.no_grad():
        return methods[0], [m.build_model().eval()(image) for m in methods]


def waits(method, found, path: str) -> set[str]:
    """The lines of a loss that wait, once its tables are made."""
    with FakeTensorMode(allow_non_fake_inputs=True), computed_by(path):
        new, *old = (on_gpu(out, grad) for out, grad in zip(found, (True, False), strict=False))
        maps = {n: torch.zeros(2, 48, 48, dtype=torch.uint8, device="cuda") for n in ("saliency",)}
        maps["memory"] = torch.zeros(2, dtype=torch.bool, device="cuda")
        label = torch.zeros(2, 48, 48, dtype=torch.int64, device="cuda")
        batch = Batch(torch.empty(2, 3, 48, 48, device="cuda"), label, maps)
        teacher = old[0] if old and method.uses_teacher else None
        method.loss(new, teacher, batch)
        with Copies() as copies:
            total_loss({n: t._replace(rest=None) for n, t in method.loss(new, teacher, batch).items()})
    return copies.lines


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("index", [0, 2])
def test_losses_wait_for_nothing(name, index):
    assert waits(*outputs(name, index, {}), "plain") == set()


@pytest.mark.parametrize("name", ["barm", "ssul"])
def test_nor_do_strips(name):
    """Those that need no autograd within a strip, which stand-ins do not have."""
    assert waits(*outputs(name, 2, {}), "strips") == set()


def test_nor_does_barm_by_softmax():
    assert waits(*outputs("barm", 2, {"loss": "ce"}), "plain") == set()


def test_nor_does_a_replay():
    """Of features that are drawn from statistics, which come to the device once."""
    method, found = outputs("star", 2, {})
    method.replay(Plan((3, 2, 0), 0.5))
    method.prototypes = torch.eye(3, 16)
    assert waits(method, found, "plain") == set()


def test_a_copy_that_waits_is_noticed():
    with FakeTensorMode(), Copies() as copies:
        torch.tensor(3, device="cuda")
    assert len(copies.lines) == 1
