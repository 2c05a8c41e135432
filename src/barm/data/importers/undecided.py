"""Masks that can be painted in several ways: an option decides, or it is asked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from barm.data.importers.annotations import Ambiguous, ImportOptions, Item, Painted, Preview, Size, Undecided
from barm.data.importers.names import source_of


def answered(item: Item, options: ImportOptions) -> Item:
    """The item with a `paint` that follows the options where a mask is `Undecided`, and raises `Ambiguous` without."""
    return replace(item, paint=partial(_paint, item, options))


def as_shown(options: ImportOptions) -> ImportOptions:
    """The options with an answer to every question that an image by itself may raise, for previews."""
    return replace(
        options,
        background="cut" if options.background == "ask" else options.background,
        drawn_on="upright" if options.drawn_on == "ask" else options.drawn_on,
    )


def _paint(item: Item, options: ImportOptions, size: Size) -> Painted:
    try:
        return item.paint(size)
    except Undecided as question:
        chosen = getattr(options, question.flag.lstrip("-").replace("-", "_"))
        if chosen in question.answers:
            return question.answers[chosen](size)
        previews = {
            answer: Preview(replace(item, paint=paint, size=item.size or size), ())
            for answer, paint in question.answers.items()
        }
        raise Ambiguous(f"{source_of(item)}: {question.what}", question.flag, previews) from None
