"""Names of recipes and published tasks, available without heavy imports, for listings and completion."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from barm.errors import UserError, nearest

VOC_TASKS = ("19-1", "15-5", "15-1", "10-1", "5-5", "5-3", "5-1", "2-2", "2-1", "offline")
ADE_TASKS = ("100-50", "100-10", "100-5", "50-50", "50-20", "offline")
LAYOUTS = ("voc", "ade", "folder")  # of data sets on disk: the names in `barm.data.sources`
FORMATS = (
    "coco",
    "cvat",
    "colours",
    "binary",
    "indexed",
    "cityscapes",
    "huggingface",
    "label_studio",
    "labelme",
    "yolo",
)  # that `barm data import` reads: the names in `barm.data.importers`
if TYPE_CHECKING:
    LayoutName = str
    FormatName = str
else:
    FormatName = Literal[("auto", *FORMATS)]
    LayoutName = Literal[("auto", *LAYOUTS)]  # what `data.layout` and ``--layout`` take
PUBLISHED_TASKS = {
    "voc": VOC_TASKS[:-1],
    "ade": ADE_TASKS[:-1],
    "shapes": ("6-1",),
    "folder": (),
}


def recipes_folder() -> Any:
    """The folder of the packaged recipes."""
    return resources.files("barm").joinpath("recipes")


def recipe_names() -> list[str]:
    """All recipes of the package with the tasks they were published for; other tasks work too."""
    names = []
    for data, tasks in PUBLISHED_TASKS.items():
        methods = methods_of(data)
        names += [f"{data}/{task}/{m}" for task in tasks for m in methods] or [f"{data}/{m}" for m in methods]
    return names


def methods_of(data: str) -> list[str]:
    """Method names of a data set's recipes, such as ``barm`` or ``mib-published``.

    Raises:
        UserError: if there are no recipes for it.
    """
    if data not in PUBLISHED_TASKS:
        hint = nearest(data, PUBLISHED_TASKS) or f"; known: {', '.join(PUBLISHED_TASKS)}"
        raise UserError(f"there are no recipes for '{data}'{hint}")
    return sorted(f.name.removesuffix(".toml") for f in recipes_folder().joinpath(data).iterdir())
