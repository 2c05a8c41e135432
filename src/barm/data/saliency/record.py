"""The record of how a folder's saliency maps were made, ``saliency.json`` beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints, ValidationError

from barm.reading import Unfit, read_json

RECORD = "saliency.json"
UNKNOWN = "of unknown origin"
DIGITS = 12  # of a digest, where it is shown
Text = Annotated[str, StringConstraints(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Recipe(BaseModel):
    """How maps were made.

    Attributes:
        tool: its name; a network's is the library that runs it.
        version: the library's.
        file: name of the network's file; empty without a network.
        sha256: digest of that file, 64 hexadecimal digits.
        settings: all that decides the maps' values, by name.
        images: number of maps that are finished.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    tool: Text
    version: Text
    file: Text = ""
    sha256: Text = ""
    settings: dict[Text, Text] = {}
    images: NonNegativeInt = 0

    @property
    def line(self) -> str:
        """Describe the recipe in one line, as a report shows it.

        >>> Recipe(tool="OpenCV fine-grained saliency", version="4.10.0", settings={"threshold": "otsu"}).line
        'OpenCV fine-grained saliency 4.10.0, threshold otsu'
        """
        size, threshold = (self.settings.get(name, "") for name in ("input size", "threshold"))
        who = f"{self.file} (sha256 {self.sha256[:DIGITS]})" if self.file else f"{self.tool} {self.version}"
        return ", ".join(part for part in (who, size, threshold and f"threshold {threshold}") if part)

    def difference(self, other: Recipe) -> str | None:
        """Name the first difference from another recipe; None for the same, under whatever name its file has."""
        mine, theirs = (
            {"tool": r.tool, "version": r.version, "sha256": r.sha256[:DIGITS], **r.settings} for r in (self, other)
        )
        for name in dict.fromkeys((*mine, *theirs)):
            if mine.get(name) != theirs.get(name):
                return f"{name} {mine.get(name) or 'none'}, not {theirs.get(name) or 'none'}"
        return None if self.sha256 == other.sha256 else "another file"


def read_recipe(folder: Path) -> Recipe | None:
    """Read how the maps in a folder were made; None if nothing says it.

    Raises:
        Unfit: for a record that is damaged.
    """
    path = folder / RECORD
    try:
        return Recipe.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        remedy = "restore the file, or remove it and the maps"
        raise Unfit(path, f"is no record of saliency maps ({where}: {error.errors()[0]['msg']})", remedy) from None


def origin(folder: Path | None) -> str:
    """Describe the origin of the maps in a folder in one line.

    Raises:
        Unfit: as `read_recipe`.
    """
    recipe = None if folder is None else read_recipe(folder)
    return UNKNOWN if recipe is None else recipe.line
