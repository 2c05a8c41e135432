"""The offer of a pass without gradients, where an extension's training would take long."""

from __future__ import annotations

from barm.config import read_recipe
from barm.engine.runtime import Runtime
from barm.errors import UserError
from barm.extension.plan import Plan, check_method
from barm.methods import METHODS
from barm.words import count

SOLVED = "folder/segacil"
MANY = 300  # updates: minutes on a processor


def offer(plan: Plan, rt: Runtime, updates: int) -> str | None:
    """Offer SegACIL in one line, with its price; None where it does not suit.

    It suits a network whose branches it knows, if the step would be trained on a processor for long.

    Args:
        plan: of the extension.
        rt: the runtime.
        updates: that the plan's method would do.
    """
    if rt.device.type != "cpu" or updates < MANY or plan.config.data.unlabelled is not None:
        return None
    method = METHODS["segacil"].model_validate(read_recipe(SOLVED)["method"])
    solved = method.going_on(plan.known.config.method, plan.known.step)
    try:
        check_method(plan.config.model_copy(update={"method": solved}), plan.known, plan.data)
    except UserError:
        return None
    return (
        f"{count(updates, 'updates')} on a processor take a while; --recipe {SOLVED} learns from one pass over the "
        "images instead, at a price in accuracy (docs/teach.md: mean IoU of the old classes 72 instead of 76, of the "
        "new one 65 instead of 84)"
    )
