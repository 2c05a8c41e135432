"""Advice after an extension that forgot too much or learned too little.

What was found comes first, then one line of what to try. Both at once never ask for a shorter and for a longer step,
and no setting is advised that the step has already, or that changes nothing in its training.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from barm.engine.config import StepRecipe
from barm.words import count, listed

LOST = 0.03  # of the mean IoU of the old classes
AGREED, KEPT = 0.8, 0.5  # of the old network's pixels that the new one gives the same class: mean, and of one class
MISTAKEN, MISSED = 0.15, 0.5  # of a new class's pixels
CLAIMED = 0.01  # of the background of images without labels of new classes
UPDATES = 60  # fewer teach little
NAMED = 3  # classes that are named at most
OLD_PARTS = ("aspp", "backbone", "old")  # whose rates cost old classes

PASS = "give images that show the old classes too, with labels, or train the step: --recipe folder/barm"


def advice(result: Mapping[str, Any], recipe: StepRecipe, trained: Collection[str] = OLD_PARTS) -> list[str]:
    """Lines of advice, the most serious first.

    Args:
        result: of `barm.extension.run.extend`.
        recipe: recipe of the step's training.
        trained: parts of the network, as in `Rates`, whose rate changes something in this step.
    """
    forgot, mistaken, few = [*_forgot(result)], [*_mistaken(result)], [*_few(result, recipe)]
    lines = [*forgot, *mistaken, *few]
    if not result["updates"]:  # a method that trains nothing
        lines += [PASS] if lines else []
    elif forgot:
        lines.append(_gentler(recipe, trained, measured=result["agreement"] is None, short=bool(mistaken or few)))
    elif lines:
        lines.append(_longer(result, recipe, mistaken=bool(mistaken)))
    return [*lines, *_claimed(result)]


def _forgot(result: Mapping[str, Any]) -> Iterator[str]:
    """By labels of the old classes; without any, by how far the new network agrees with the old one."""
    before, after = result["old"]["before"], result["old"]["after"]
    if before is not None and after is not None:
        if before - after > LOST:
            yield f"the old classes lost {100 * (before - after):.1f} points"
        return
    shares = {name: share for name, share in (result["agreement"] or {}).items() if share is not None}
    if not shares:
        return
    mean, worst = sum(shares.values()) / len(shares), sorted(shares, key=shares.__getitem__)[:NAMED]
    gone = [f"'{name}' {100 * shares[name]:.0f} %" for name in worst if shares[name] < KEPT]
    if mean < AGREED or gone:
        named = f" ({listed(gone)})" if gone else ""
        yield (
            f"the old classes are probably forgotten: of the pixels that the old network gives a class, the new one "
            f"gives the same to {100 * mean:.0f} % in the mean over the classes{named}"
        )


def _mistaken(result: Mapping[str, Any]) -> Iterator[str]:
    for name, shares in result["taken_for"].items():
        for other, share in shares.items():
            if other == "background" and share >= MISSED:
                yield f"{100 * share:.0f} % of '{name}' is not found"
            elif other not in (name, "background") and share >= MISTAKEN:
                yield f"{100 * share:.0f} % of '{name}' is called '{other}', which looks alike to the network"


def _few(result: Mapping[str, Any], recipe: StepRecipe) -> Iterator[str]:
    if 0 < result["updates"] < UPDATES:
        yield (
            f"{count(result['images'], 'images')} in batches of {recipe.batch_size} gave only "
            f"{count(result['updates'], 'updates')}"
        )


def _gentler(recipe: StepRecipe, trained: Collection[str], *, measured: bool, short: bool) -> str:
    """What keeps the old classes; `short`: the new ones were learned too little, too."""
    parts = [part for part in OLD_PARTS if part in trained and not (part == "backbone" and recipe.backbone == "frozen")]
    parts = [part for part in parts if part != "old"] or parts
    ways = []
    kind, length = _length(recipe)
    if length > 1 and not short:
        ways.append(f"fewer {kind} (--set increment.{kind}={length // 2})")
    if parts:
        rates = (f"--set increment.lr.{part}={getattr(recipe.lr, part) / 3:.2g}" for part in parts)
        ways.append(f"lower rates ({' '.join(rates)})")
    if short or not ways:
        ways.append("more images of the new classes")
    unseen = "" if measured else "; --val DIR with labels of old classes measures what is lost"
    return f"try {(' and ' if short else ' or ').join(ways)}{unseen}"


def _longer(result: Mapping[str, Any], recipe: StepRecipe, *, mistaken: bool) -> str:
    """What teaches the new classes better, where the old ones have kept theirs."""
    kind, length = _length(recipe)
    enough = -(-length * UPDATES // max(1, result["updates"]))
    longer = max(enough, 4 * length if mistaken else length + 1)
    return f"try more images of the new {'class' if len(result['learned']) == 1 else 'classes'}, or more {kind}: " + (
        f"--set increment.{kind}={longer}"
    )


def _length(recipe: StepRecipe) -> tuple[str, int]:
    """The key that says how long a step is, and its value."""
    return ("epochs", recipe.epochs) if recipe.epochs is not None else ("updates", recipe.length(1))


def _claimed(result: Mapping[str, Any]) -> Iterator[str]:
    if (result["claimed"] or 0) > CLAIMED:
        yield (
            f"{100 * result['claimed']:.1f} % of the background is called a new class in images that label none; "
            "nobody knows whether it is, so it counts nowhere: look at some with `barm predict`"
        )
