"""barm: teach a semantic segmentation model new classes, step after step, without the old images.

import barm
barm.fit("voc/15-1/barm", data="VOC2012", out="runs/voc")
model = barm.load("runs/voc")
labels = model.predict(image)
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from barm.api import Model, evaluate, fit, load
    from barm.config import load_config
    from barm.errors import UserError
    from barm.labels import Step, TaskPlan
    from barm.methods import METHODS

__version__ = version("barm")
__all__ = ["METHODS", "Model", "Step", "TaskPlan", "UserError", "evaluate", "fit", "load", "load_config"]

_HOMES = {
    "METHODS": "barm.methods",
    "Model": "barm.api",
    "Step": "barm.labels",
    "TaskPlan": "barm.labels",
    "UserError": "barm.errors",
    "evaluate": "barm.api",
    "fit": "barm.api",
    "load": "barm.api",
    "load_config": "barm.config",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``barm --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'barm' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
