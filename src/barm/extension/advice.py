"""Advice after an extension that forgot too much or learned too little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from barm.engine.config import StepRecipe
from barm.words import count

LOST = 0.03  # of the mean IoU of the old classes
MISTAKEN, MISSED = 0.15, 0.5  # of a new class's pixels
CLAIMED = 0.01  # of the background of images without labels of new classes
UPDATES = 60  # fewer teach little


def advice(result: Mapping[str, Any], recipe: StepRecipe) -> list[str]:
    """Lines of advice, the most serious first.

    Args:
        result: of `barm.extension.run.extend`.
        recipe: recipe of the step's training; without updates it does not matter.
    """
    return [*_lost(result, recipe), *_mistaken(result, recipe), *_few(result, recipe), *_claimed(result)]


def _lost(result: Mapping[str, Any], recipe: StepRecipe) -> Iterator[str]:
    before, after = result["old"]["before"], result["old"]["after"]
    if before is None or before - after <= LOST:
        return
    if not result["updates"]:
        yield (
            f"the old classes lost {100 * (before - after):.1f} points: give images that show them too, label them "
            "there, or train the step: --recipe folder/barm"
        )
    else:
        yield (
            f"the old classes lost {100 * (before - after):.1f} points: try fewer epochs (--set increment.epochs="
            f"{max(1, recipe.epochs // 2)}) or lower rates (--set increment.lr.aspp={recipe.lr.aspp / 3:.2g} --set "
            f"increment.lr.backbone={recipe.lr.backbone / 3:.2g})"
        )


def _mistaken(result: Mapping[str, Any], recipe: StepRecipe) -> Iterator[str]:
    longer = "give more images of it" + (
        f", or train longer: --set increment.epochs={4 * recipe.epochs}" if result["updates"] else ""
    )
    for name, shares in result["taken_for"].items():
        for other, share in shares.items():
            if other == "background" and share >= MISSED:
                yield f"{100 * share:.0f} % of '{name}' is not found: {longer}"
            elif other not in (name, "background") and share >= MISTAKEN:
                yield f"{100 * share:.0f} % of '{name}' is called '{other}', which looks alike to the network: {longer}"


def _few(result: Mapping[str, Any], recipe: StepRecipe) -> Iterator[str]:
    if 0 < result["updates"] < UPDATES:
        epochs = -(-recipe.epochs * UPDATES // result["updates"])
        yield (
            f"{count(result['images'], 'images')} in batches of {recipe.batch_size} gave only "
            f"{count(result['updates'], 'updates')}: "
            f"with so few images take more epochs, --set increment.epochs={epochs}"
        )


def _claimed(result: Mapping[str, Any]) -> Iterator[str]:
    if (result["claimed"] or 0) > CLAIMED:
        yield (
            f"{100 * result['claimed']:.1f} % of the background is called a new class in images that label none; "
            "nobody knows whether it is, so it counts nowhere: look at some with `barm predict`"
        )
