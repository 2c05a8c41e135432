"""Settings of the hardware, as far as they can be seen without a GPU: nothing here computes on one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from barm.api import fit
from barm.data.dataset import StepView
from barm.data.transforms import EvalTransform
from barm.engine import loaders as loading
from barm.engine import runtime
from barm.engine.config import RuntimeConfig
from barm.engine.datasets import open_data, train_dataset
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.models.frozen import Constant

CUDNN, PRODUCTS = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def _as_before():
    before = CUDNN.allow_tf32, PRODUCTS.allow_tf32, CUDNN.benchmark
    yield
    CUDNN.allow_tf32, PRODUCTS.allow_tf32, CUDNN.benchmark = before
    torch.use_deterministic_algorithms(False)


def test_fp32_is_fp32():
    CUDNN.allow_tf32 = PRODUCTS.allow_tf32 = True  # torch's own choice for convolutions
    Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    assert (CUDNN.allow_tf32, PRODUCTS.allow_tf32) == (False, False)
    Runtime(RuntimeConfig(device="cpu", precision="bf16-mixed"))
    assert CUDNN.allow_tf32


def test_a_deterministic_run_tries_no_algorithms():
    Runtime(RuntimeConfig(device="cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    rt = Runtime(RuntimeConfig(device="cpu", deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    with rt.one_shape():
        assert not CUDNN.benchmark


@pytest.mark.parametrize(("crop", "evaluated"), [(48, True), (0, False)])
def test_cudnn_may_try_its_algorithms_where_images_have_one_size(crop, evaluated, tiny, tmp_path, monkeypatch):
    seen = {"update": set(), "evaluate": set()}
    update, call = StepTrainer.update, Constant.__call__
    note = {True: seen["update"], False: seen["evaluate"]}
    training = []

    def updated(self, *arguments, **options):
        training.append(True)
        seen["update"].add(CUDNN.benchmark)
        try:
            return update(self, *arguments, **options)
        finally:
            training.pop()

    def called(self, image):
        note[bool(training)].add(CUDNN.benchmark)
        return call(self, image)

    monkeypatch.setattr(StepTrainer, "update", updated)
    monkeypatch.setattr(Constant, "__call__", called)
    fit(tiny("barm", "3-1", f"evaluation.crop={crop}"), out=tmp_path / "run", quiet=True)
    assert seen == {"update": {True}, "evaluate": {evaluated}}
    assert not CUDNN.benchmark


def test_buffers_are_not_sent_at_every_update():
    """What every process has in the end is the main process's: test_parallel."""
    strategies = [runtime._data_parallel(accelerator) for accelerator in ("cpu", "cuda")]
    assert [s._ddp_kwargs[runtime.SENDS_BUFFERS] for s in strategies] == [False, False]


@pytest.mark.parametrize("chosen", ["cpu", "cuda"])
def test_memory_is_pinned_for_the_chosen_device(chosen, tiny, monkeypatch):
    """Whether there is a GPU in the machine does not matter."""
    config, pinned = tiny("barm", "3-1"), []
    rt = Runtime(config.runtime)
    data = open_data(config, rt)
    images = train_dataset(config, data, data.plan[0])
    for name in ("make_train_loader", "make_eval_loader"):
        make = getattr(loading, name)

        def noted(*arguments, make=make, **options):
            pinned.append(options["pin"])
            made = make(*arguments, **{**options, "pin": False})
            assert not made.pin_memory
            return made

        monkeypatch.setattr(loading, name, noted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rt.device = torch.device(chosen)
    loading.train_batches(config, rt, images, total=1, batch_size=4)
    loading.ordered_batches(config, rt, StepView(images, EvalTransform(crop=48)))
    assert pinned == [chosen == "cuda"] * 2


@pytest.mark.parametrize(("name", "teachers"), [("finetune", 0), ("barm", 1), ("dkd-m", 1)])
def test_only_what_is_used_stays_on_the_device(name, teachers, tiny, tmp_path, monkeypatch):
    """While a step trains there are its network and the teacher's copy: no previous network, no unused teacher."""
    on_device: list[weakref.ref] = []
    alive = set()
    place, freeze, update = Runtime.place, Constant.__init__, StepTrainer.update

    def placed(self, module):
        on_device.append(weakref.ref(module))
        return place(self, module)

    def frozen(self, *arguments):
        freeze(self, *arguments)
        on_device.append(weakref.ref(self.network))

    def updated(self, *arguments, **options):
        gc.collect()
        if self.method.step.index > 0:
            alive.add(sum(r() is not None for r in on_device))
        return update(self, *arguments, **options)

    monkeypatch.setattr(Runtime, "place", placed)
    monkeypatch.setattr(Constant, "__init__", frozen)
    monkeypatch.setattr(StepTrainer, "update", updated)
    gc.collect()
    gc.freeze()  # so that to collect, at every update, is to look at what the run has made
    fit(tiny(name, "3-1"), out=tmp_path / "run", quiet=True)
    assert max(alive) == 1 + teachers  # a teacher whose convolutions were packed is another network
