"""Small data and small recipes for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from barm.config import load_config
from barm.data.shapes_disk import make_shapes
from barm.engine.recipe import RunConfig

os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks; the suite itself runs in parallel
torch.set_num_threads(1)

TINY = (
    "model.backbone=test_resnet",
    "model.channels=16",
    "model.output_stride=16",
    "base.epochs=1",
    "increment.epochs=1",
    "base.batch_size=4",
    "increment.batch_size=4",
    "base.crop=48",
    "increment.crop=48",
    "evaluation.crop=48",
    "evaluation.batch_size=4",
    "runtime.workers=0",
    "runtime.precision=32-true",
    "runtime.device=cpu",
    "runtime.tensorboard=false",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` run where there is a CUDA device and are skipped, visibly, elsewhere."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave no index in the user's cache."""
    monkeypatch.setenv("BARM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("BARM_BACKBONE_WEIGHTS", raising=False)


@pytest.fixture(scope="session")
def shapes_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes in the VOC layout, 24 + 6 pictures of 48 pixels."""
    root = tmp_path_factory.mktemp("voc") / "data"
    make_shapes(root, layout="voc", num_classes=4, num_train=24, num_val=6, size=(48, 48), seed=3)
    return root


@pytest.fixture
def tiny_settings() -> tuple[str, ...]:
    """``table.key=value`` settings of a run of seconds."""
    return TINY


@pytest.fixture
def tiny(shapes_voc: Path):
    """A function that gives a tiny configuration of a method: ``tiny("barm", "2-1")``."""

    def config(method: str = "barm", task: str = "2-1", *overrides: str) -> RunConfig:
        return load_config(f"shapes/{task}/{method}", [*TINY, *overrides], {"data": {"root": str(shapes_voc)}})

    return config
