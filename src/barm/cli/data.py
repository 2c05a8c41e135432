"""Commands on data sets: make, check."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from barm.catalogue import LayoutName
from barm.cli.common import NAMES, Json, names_in, out, print_json, say
from barm.errors import UserError
from barm.escaping import markup
from barm.words import count, natural

if TYPE_CHECKING:
    from barm.data.check import Report

MOST = 12  # problems of one kind, and unknown values, that are shown


def make(
    kind: Annotated[Literal["shapes"], typer.Argument(help="What to draw.")],
    root: Annotated[Path, typer.Argument(help="A new folder.")],
    layout: Annotated[Literal["voc", "ade", "folder"], typer.Option()] = "folder",
    classes: Annotated[int | None, typer.Option(help="By default 20 (voc), 150 (ade), 10 (folder).")] = None,
    num_train: Annotated[int, typer.Option("--train", help="Training images.")] = 1000,
    num_val: Annotated[int, typer.Option("--val", help="Validation images.")] = 200,
    size: Annotated[str, typer.Option(help="<width>x<height>, or one number for both.")] = "96",
    seed: int = 0,
    only: Annotated[
        str | None, typer.Option(help="Label only these classes; the others stay unlabelled. " + NAMES)
    ] = None,
) -> None:
    """Draw images and masks in a real folder layout.

    Example: barm data make shapes data/shapes --layout voc --size 500x375
    """
    from barm.data.sources.shapes_disk import make_shapes

    first, _, second = size.partition("x")
    width, height = natural(first), natural(second or first)
    if width is None or height is None:
        raise UserError(f"--size expects <width>x<height> such as 500x375, got '{size}'")
    pixels = (width, height)
    make_shapes(
        root,
        layout=layout,
        num_classes=classes,
        num_train=num_train,
        num_val=num_val,
        size=pixels,
        seed=seed,
        only=names_in(only, "--only") if only else (),
    )
    say(f"{root}: {num_train} training and {count(num_val, 'validation images')} in the {layout} layout")


def resize(
    root: Annotated[Path, typer.Argument(help="The data set's folder.")],
    to: Annotated[Path, typer.Option("--out", help="A new folder.")],
    longest: Annotated[int, typer.Option(help="Pixels of the longer side, at most.")],
    layout: Annotated[LayoutName, typer.Option()] = "auto",
) -> None:
    """Write a data set again with smaller images, as a plain folder; photographs are often larger than a network needs.

    Example: barm data resize own --out own-512 --longest 512
    """
    from barm.data.resize import resize_folder

    done = resize_folder(root, to, longest, layout)
    parts = " and ".join(f"{number} {kind}" for kind, number in done.images.items())
    total = count(sum(done.images.values()), "images")
    say(f"{to}: {total} ({parts}), at most {longest} pixels a side; {done.smaller} made smaller, the others copied")


def check(
    root: Annotated[Path, typer.Argument(help="The data set's folder.")],
    layout: Annotated[LayoutName, typer.Option()] = "auto",
    class_lists: Annotated[
        Path | None, typer.Option(help="Also write train.txt and val.txt in the published class list format there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at every file: missing masks, wrong sizes, unknown ids, unreadable images, files that nothing uses.

    Example: barm data check data/shapes
    """
    from barm.data.check import check_folder

    report = check_folder(root, layout)
    wrong = [*report.broken, *map(str, report.problems)]
    if as_json:
        print_json({**asdict(report), "problems": wrong, "broken": report.broken, "verdict": report.verdict})
    elif report.splits or len(wrong) > 1:  # what alone keeps it from being opened is the verdict, said once
        out.print(_classes(root, report))
        for found in report.splits:
            say(f"sizes in the {found.split} split: {found.sizes or 'not known'}")
        _lines(report)
    if wrong:
        raise UserError(f"{root}: {report.verdict}")
    if class_lists is not None:
        from barm.data.index import checked, write_class_list
        from barm.data.sources import open_source

        class_lists.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            write_class_list(class_lists / f"{split}.txt", checked(open_source(report.layout, root, split)))
    if not as_json:
        say(report.verdict)


def _lines(report: Report) -> None:
    """The report line by line; of many problems of one kind only the first few."""
    kinds = Counter[str]()
    for problem in report.problems:
        kinds[problem.kind] += 1
        if kinds[problem.kind] <= MOST:
            show_line("red", "✗", str(problem))
    for kind, number in kinds.items():
        if number > MOST:
            show_line("red", "✗", f"and {number - MOST} more of the kind '{kind}': --json lists them all")
    for lines, colour, sign in (
        (report.broken, "red", "✗"),
        (report.reasons, "red", "→"),
        (report.warnings, "yellow", "!"),
        (report.notes, "dim", "·"),
    ):
        for text in lines:
            show_line(colour, sign, text)


def show_line(colour: str, sign: str, text: str) -> None:
    """Print a line of a report behind a coloured sign."""
    out.print(f"[{colour}]{sign}[/{colour}] {markup(text)}", highlight=False, soft_wrap=True)


def _classes(root: Path, report: Report) -> Table:
    """Number of images and share of the area per value of the masks: background, classes, ignored or unknown."""
    from barm.labels import IGNORE

    table = Table(title=markup(f"{root} ({report.layout}): images by class"), title_justify="left")
    shares = [s for s in report.splits if s.pixels]
    for column in (
        "id",
        "class",
        *(s.split for s in report.splits),
        *(f"{s.split} area" for s in shares),
    ):
        table.add_column(column, justify="left" if column == "class" else "right")
    names = {i: markup(name) for i, name in enumerate(report.class_names)}
    found = {value for s in report.splits for value in s.values}
    unknown = sorted(found - set(names) - {IGNORE})
    shown = unknown if len(unknown) <= MOST else unknown[:MOST]
    for i, name in [*names.items(), *((v, "[red]no class[/red]") for v in shown), (IGNORE, "ignored")]:
        if i not in (0, IGNORE) or i in found:
            area = (share_of(s.pixels.get(i, 0), sum(s.pixels.values())) for s in shares)
            table.add_row(str(i), name, *(str(s.values.get(i, 0)) for s in report.splits), *area)
    if len(unknown) > MOST:
        table.add_row("...", f"[red]{len(unknown) - MOST} more values that are no class[/red]")
    table.add_section()
    table.add_row("", "images in all", *(str(s.num_images) for s in report.splits))
    return table


def share_of(pixels: int, total: int) -> str:
    """Share of a class's pixels in all masks; a class with pixels never reads 0.

    >>> share_of(50, 100), share_of(1, 10**6), share_of(0, 5)
    ('50.0 %', '< 0.1 %', '')
    """
    share = 100 * pixels / total
    return f"{share:.1f} %" if share >= 0.1 else "< 0.1 %" if pixels else ""
