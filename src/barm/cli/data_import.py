"""The command that imports what annotation tools write, and the one that divides a folder into splits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from barm.catalogue import FormatName
from barm.cli.common import NAMES, Json, names_in, out, print_json, say
from barm.cli.data import share_of, show_line
from barm.escaping import markup
from barm.words import count

if TYPE_CHECKING:
    from barm.data.importers.report import ImportReport

GROUPS = "A regular expression; what its first group matches names the images that stay in one split."
OBJECTS = "Which of several objects a pixel belongs to; ignore: to none, if their classes differ."
OUTSIDE = "Read also what symbolic links to files and folders outside of the source lead to."
SOURCE = "The folder that an annotation tool wrote, or owner/name on Hugging Face."

Source = Annotated[Path, typer.Argument(help=SOURCE)]
Format = Annotated[FormatName, typer.Option(help="ForeignModel out by default.")]
Images = Annotated[Path | None, typer.Option(help="Where the images are, if not beside the annotations.")]
Classes = Annotated[str | None, typer.Option(help="The classes to keep, in the order of their ids. " + NAMES)]
Rest = Annotated[Literal["background", "ignore"], typer.Option(help="What the pixels of other classes become.")]
Overlap = Annotated[Literal["later", "earlier", "smaller", "ignore"], typer.Option(help=OBJECTS)]
Rings = Annotated[Literal["ask", "holes", "union"], typer.Option(help="What a ring inside a ring of an object is.")]
Crowd = Annotated[Literal["class", "ignore"], typer.Option(help="What COCO's crowds are.")]
Boxes = Annotated[Literal["ignore", "fill"], typer.Option(help="What objects with a box alone are.")]
Empty = Annotated[Literal["drop", "background"], typer.Option(help="What images without any annotation are.")]
Values = Annotated[Literal["ask", "index", "colour"], typer.Option(help="What names the class in a palette's mask.")]
Labels = Annotated[Literal["ask", "ids", "trainids"], typer.Option(help="Which of Cityscapes' masks are read.")]
Colours = Annotated[Path | None, typer.Option(help="Colours and names of the classes, for masks in colour.")]
First = Annotated[Literal["ask", "0", "1"], typer.Option(help="The number in masks of the first name of a list.")]
Annotator = Annotated[Literal["ask", "first", "last"], typer.Option(help="Which annotation of an image counts.")]
Background = Annotated[
    Literal["ask", "cut", "below"],
    typer.Option(help="What an object called background is that lies over others."),
]
DrawnOn = Annotated[
    Literal["ask", "stored", "upright"], typer.Option(help="What a mask lies over where EXIF data turn an image.")
]
ImageColumn = Annotated[str, typer.Option(help="The column of images in a data set of Hugging Face.")]
LabelColumn = Annotated[str, typer.Option(help="The column of its masks.")]
Share = Annotated[float, typer.Option("--val", help="Share of the images for validation, where nothing says it.")]
GroupBy = Annotated[str, typer.Option(help=GROUPS)]


def import_(
    source: Source,
    root: Annotated[Path, typer.Argument(help="A new folder outside of the source.")],
    format: Format = "auto",
    images: Images = None,
    classes: Classes = None,
    rest: Rest = "background",
    overlap: Overlap = "later",
    rings: Rings = "ask",
    crowd: Crowd = "class",
    boxes: Boxes = "ignore",
    empty: Empty = "drop",
    values: Values = "ask",
    labels: Labels = "ask",
    colours: Colours = None,
    first: First = "ask",
    annotator: Annotator = "ask",
    background: Background = "ask",
    drawn_on: DrawnOn = "ask",
    image_column: ImageColumn = "",
    label_column: LabelColumn = "",
    share: Share = 0.2,
    group_by: GroupBy = "",
    anew: Annotated[bool, typer.Option("--anew", help="Divide the images even if the source does.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Link to the images instead of copying them.")] = False,
    follow_links: Annotated[bool, typer.Option("--follow-links", help=OUTSIDE)] = False,
    as_json: Json = False,
) -> None:
    """Turn what an annotation tool wrote into a folder of images, masks and class names.

    Example: barm data import export own --overlap smaller
    """
    from barm.data.importers import import_data
    from barm.data.importers.annotations import ImportOptions

    options = ImportOptions(
        format=format,
        images=images,
        classes=tuple(names_in(classes, "--classes")) if classes else (),
        rest=rest,
        overlap=overlap,
        rings=rings,
        crowd=crowd,
        boxes=boxes,
        empty=empty,
        values=values,
        labels=labels,
        colours=colours,
        first=first,
        annotator=annotator,
        background=background,
        drawn_on=drawn_on,
        image_column=image_column,
        label_column=label_column,
    )
    report = import_data(
        source, root, options, val_share=share, group_by=group_by, anew=anew, link=link, follow_links=follow_links
    )
    if as_json:
        print_json(asdict(report))
    else:
        _show(report, root, overlap)


def split(
    root: Annotated[Path, typer.Argument(help="A folder with images, masks and class names.")],
    share: Share = 0.2,
    group_by: GroupBy = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace lists that are there.")] = False,
) -> None:
    """Divide the images of a folder into training and validation: writes train.txt and val.txt.

    Example: barm data split own --val 0.25 --group-by '(.*)_frame'
    """
    from barm.data.sources.folder import write_split

    sizes = write_split(root, share, group_by, overwrite=overwrite)
    say(f"{root}: {sizes['train']} training and {count(sizes['val'], 'validation images')}, in train.txt and val.txt")
    for part in (part for part, number in sizes.items() if not number):
        show_line("yellow", "!", f"the {part} split is empty, and a training needs both")


def _show(report: ImportReport, root: Path, overlap: str) -> None:
    """What was imported, what was left out and why, and what to type next."""
    total = report.background + report.ignored + sum(each.pixels for each in report.classes)
    objects = any(each.objects is not None for each in report.classes)
    table = Table(title=markup(f"{root}, read as {report.format}"), title_justify="left")
    for column in ("id", "class", *(["objects"] if objects else []), "images", "area"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for i, each in enumerate(report.classes, 1):
        number = [str(each.objects)] if objects else []
        table.add_row(str(i), markup(each.name), *number, str(each.images), share_of(each.pixels, total))
    table.add_section()
    blank = [""] if objects else []
    table.add_row("0", "background", *blank, "", share_of(report.background, total))
    if report.ignored:
        table.add_row("255", "ignored", *blank, "", share_of(report.ignored, total))
    out.print(table)
    say(", ".join(f"{images} {part}" for part, images in report.images.items()) + " images")
    for why, left in report.left_out.items():
        show_line("yellow", "!", f"left out: {left} {why}")
    for line in report.warnings:
        show_line("yellow", "!", line)
    if report.contested[0]:
        shown, pixels = report.contested
        rule = "they are ignored" if overlap == "ignore" else f"the {overlap} object is on top"
        text = f"objects of several classes cover {share_of(pixels, total)} of the area in {count(shown, 'images')}"
        show_line("dim", "·", f"{text}: {rule} (--overlap)")
    for note in report.notes:
        show_line("dim", "·", note)
    say(f"look at every file with: barm data check {root}")
