"""Images that show how a source would be read, where it can be read in several ways."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from barm.data.images import Probe, open_image, read_image, upright
from barm.data.importers.annotations import Ambiguous, ImportOptions, Preview
from barm.data.importers.drawn import upright_mask
from barm.data.importers.undecided import as_shown
from barm.data.palette import OVERLAY, display_palette
from barm.errors import UserError
from barm.escaping import place
from barm.labels import IGNORE
from barm.reading import short

READINGS = "-readings"  # what the folder of previews is called behind the name of the new one

LONGEST = 2000  # pixels of a side
LINE = 20  # pixels of a line of the legend


def explain(question: Ambiguous, root: Path, options: ImportOptions) -> UserError:
    """Draw every reading of an ambiguous source, and name the option that chooses between them.

    Args:
        question: what may be read in several ways.
        root: the folder that would have been made; the images are written beside it.
        options: choices.

    Returns:
        The error that stops the import.
    """
    folder = root.with_name(f"{root.name}{READINGS}")
    folder.mkdir(parents=True, exist_ok=True)
    answers = list[str]()
    for answer, preview in question.readings.items():
        path = folder / f"{question.flag.lstrip('-')}-{answer}.png"
        try:
            draw(preview, options).save(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            answers.append(f"{question.flag} {answer} (its image cannot be shown: {short(error)})")
        else:
            answers.append(f"{question.flag} {answer} ({place(path)})")
    return UserError(f"{question.what}: give {' or '.join(answers)}")


def is_reading(path: PurePosixPath) -> bool:
    """Whether a file is such an image of an earlier import."""
    answers = {f"{f.name.replace('_', '-')}-" for f in fields(ImportOptions) if f.default == "ask"}
    return path.parent.name.endswith(READINGS) and path.suffix == ".png" and path.name.startswith(tuple(answers))


def draw(preview: Preview, options: ImportOptions) -> Image.Image:
    """An image with its mask laid over it in colours for display."""
    item = preview.item
    with open_image(item.image if isinstance(item.image, Path) else io.BytesIO(item.image())) as opened:
        turn, orientation = upright(opened)
        image = read_image(item.image) if isinstance(item.image, Path) else turn.convert("RGB")
    painted, _ = upright_mask(item, Probe(image.size, orientation, ()), as_shown(options))
    mask = Image.fromarray(painted.ids)
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST))
        mask = mask.resize(image.size, Image.Resampling.NEAREST)
    ids = np.asarray(mask)[..., None]
    colours = display_palette()[ids[..., 0]]
    blended = np.where(ids > 0, OVERLAY * colours + (1 - OVERLAY) * np.asarray(image), np.asarray(image))
    return _with_legend(Image.fromarray(blended.astype(np.uint8)), ids[..., 0], preview.classes)


def _with_legend(image: Image.Image, ids: NDArray[np.uint8], classes: Sequence[str]) -> Image.Image:
    """An image above the colours and names of the classes in its mask."""
    shown = [int(i) for i in np.unique(ids) if i]
    texts = ["ignored" if i == IGNORE else classes[i - 1] if i <= len(classes) else f"class {i}" for i in shown]
    width = max(image.width, 2 * LINE + 8 * max(map(len, texts), default=0))
    sheet = Image.new("RGB", (width, image.height + LINE * len(shown)), "white")
    sheet.paste(image)
    pen = ImageDraw.Draw(sheet)
    for k, (i, text) in enumerate(zip(shown, texts, strict=True)):
        top = image.height + k * LINE
        pen.rectangle((4, top + 4, LINE - 4, top + LINE - 4), tuple(display_palette()[i].tolist()), "black")
        pen.text((LINE + 4, top + 3), text, "black", ImageFont.load_default(12))
    return sheet
