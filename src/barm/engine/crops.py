"""Settings that the images decide: sizes of crops, lengths of steps, and what a method leaves to the data.

A given crop is compared with the sizes of the images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from barm.data.image_sizes import Size, image_sizes, middle
from barm.data.transforms import Geometry
from barm.engine.config import RunConfig, StepRecipe
from barm.engine.datasets import Data
from barm.labels import TABLES
from barm.words import count

UPDATES = {"base": 2000, "increment": 500}  # the least that a step needs, however few its images are
PASSES = {"base": 25, "increment": 10}  # over its images, where these are more
MOST = 513  # side of the published crops, beyond which memory and time grow more than scores
FAR = 1.5  # ratio of two sides
SMALL = 0.1  # share of an image that a crop shows


class Sized(NamedTuple):
    """A configuration with every crop settled, and every setting of the method.

    Attributes:
        config: the configuration.
        chosen: reasons for what was chosen here, by key of the configuration.
        warnings: on crops that are far from the images, a line each.
    """

    config: RunConfig
    chosen: Mapping[str, str]
    warnings: tuple[str, ...]


def sized(
    config: RunConfig, data: Data, steps: Sequence[int] = (0, 1), world: int = 1, known: Collection[int] = ()
) -> Sized:
    """Settle crops by the sizes of the training images, lengths and the method's settings by their number.

    Args:
        config: of a run.
        data: its images.
        steps: indices of the steps that will be trained; the crops of others are settled without a warning.
        world: number of processes, each of which has a batch of its own.
        known: indices of steps that are taken from another run.
    """
    train, measured = middle(image_sizes(data.train)), middle(image_sizes(data.val))
    best = fitting(train, config.model.output_stride)
    chosen, warnings, settled = dict[str, str](), list[str](), dict[str, StepRecipe]()
    trained = {min(index, 1) for index in steps}
    for number, table in enumerate(TABLES):
        recipe = config.recipe(number)
        if recipe.crop == "auto":
            recipe = recipe.model_copy(update={"crop": best})
            chosen[f"{table}.crop"] = _reason(best, train, config.model.output_stride)
        if recipe.updates == "auto" and number < len(data.plan):
            images = _images(config, data, [i for i in range(len(data.plan)) if min(i, 1) == number and i not in known])
            recipe, chosen[f"{table}.updates"] = _lengthened(table, recipe, images, world)
        settled[table] = recipe
        if number in trained and number < len(data.plan):
            warnings += _far(table, recipe.side, recipe.geometry, train, best)
    warnings += _far_evaluation(config.evaluation.crop, measured)
    method, reasons = config.method.settled(len(data.train))
    return Sized(config.model_copy(update={**settled, "method": method}), chosen | reasons, tuple(warnings))


def _images(config: RunConfig, data: Data, steps: Sequence[int]) -> list[int]:
    """Numbers of training images of the steps."""
    plan, train, sizes = data.plan, data.train, list[int]()
    for step in (plan[i] for i in steps):
        policy = config.method.build(step, config.model).policy
        selects = plan.selects_seen if policy.supervision == "seen" else plan.selects
        sizes.append(sum(selects(step, train.classes_in(i), train.name(i)) for i in range(len(train))))
    return sizes


def _lengthened(table: str, recipe: StepRecipe, sizes: Sequence[int], world: int) -> tuple[StepRecipe, str]:
    """A recipe whose updates are chosen for steps with so many images, and the reason."""
    passes, least, images = PASSES[table], UPDATES[table], max(sizes, default=0)
    updates = max(least, passes * images // (recipe.batch_size * world))
    why = f"{passes} passes over" if updates > least else "the least that is chosen; there are"
    largest = " of the largest step" if len(sizes) > 1 else ""
    told = f"{updates}: {why} {count(images, 'training images')}{largest}"
    return recipe.model_copy(update={"updates": updates}), told


def chosen_lines(chosen: Mapping[str, str], steps: Iterable[int] = (0, 1)) -> list[str]:
    """Describe the choices for the steps that train, one line per reason.

    >>> both = {"base.crop": "161", "increment.crop": "161"}
    >>> chosen_lines(both), chosen_lines(both, [1])
    (['base.crop and increment.crop are 161'], ['increment.crop is 161'])
    """
    keys, trained = dict[str, list[str]](), {TABLES[min(index, 1)] for index in steps}
    for key, reason in chosen.items():
        table = key.partition(".")[0]
        if table in trained or table not in TABLES:
            keys.setdefault(reason, []).append(key)
    return [f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} {why}" for why, names in keys.items()]


def fitting(size: Size, stride: int) -> int:
    """The smallest side ``stride * k + 1`` that holds the shorter side of an image, at most `MOST`.

    Every corner of such a crop is a position of the feature map. A crop that holds the longer side too, as the
    published 513 pixels do for VOC's images of 500 x 375, has nearly twice as many pixels.

    >>> fitting((160, 120), 16), fitting((500, 375), 16), fitting((4000, 3000), 16)
    (129, 385, 513)
    """
    steps = max(2, -(-(min(size) - 1) // stride))
    return min(stride * steps + 1, MOST)


def _reason(crop: int, size: Size, stride: int) -> str:
    width, height = size
    if crop < min(size):
        why = f"the largest that is chosen; the training image of median size is {width}x{height}"
    else:
        why = f"the smallest {stride} k + 1 that holds the shorter side of the median training image, {width}x{height}"
    return f"{crop}: {why}"


def _far(table: str, crop: int, geometry: Geometry, size: Size, best: int) -> list[str]:
    """Warn of a training crop that is much larger or smaller than the images."""
    (width, height), instead = size, f"--set {table}.crop={best}"
    if crop > FAR * max(size):
        what = f"{table}.crop={crop} is far larger than the training images (the median one is {width}x{height})"
        if geometry == "resized_crop":
            return [f"{what}: they are enlarged {crop / max(size):.1f} times, which is slow; take {instead}"]
        padding = 1 - width * height / crop**2
        return [f"{what}: {100 * padding:.0f} % of a crop is padding, which is slow; take {instead}"]
    share = min(crop, width) * min(crop, height) / (width * height)
    if share < SMALL and geometry == "rescale":
        return [
            f"a crop of {crop} pixels shows {100 * share:.0f} % of a training image (the median one is {width}x"
            f"{height}): make the images smaller with `barm data resize`, or the crop larger with "
            f"--set {table}.crop=..."
        ]
    return []


def _far_evaluation(crop: int, size: Size) -> list[str]:
    """Warn of an evaluation at another image size than that of prediction."""
    factor = crop / min(size)
    if not crop or 1 / FAR <= factor <= FAR:
        return []
    changed = f"enlarges the images {factor:.1f}" if factor > 1 else f"makes the images smaller {1 / factor:.1f}"
    return [
        f"evaluation.crop={crop} {changed} times (the median one is {size[0]}x{size[1]}) before they are measured, "
        "`barm predict` does not: its masks have other scores; --set evaluation.crop=0 measures at native size"
    ]
