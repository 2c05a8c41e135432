"""`barm data import`: every option reaches the importer under its own name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from barm.cli import app
from barm.data import importers
from barm.data.importers.annotations import ImportOptions

GIVEN = {
    "format": "coco",
    "images": Path("photos"),
    "classes": ("cat", "dog"),
    "rest": "ignore",
    "overlap": "smaller",
    "rings": "union",
    "crowd": "ignore",
    "boxes": "fill",
    "empty": "background",
    "values": "index",
    "labels": "trainids",
    "colours": Path("colours.csv"),
    "annotator": "last",
    "background": "below",
    "drawn_on": "stored",
    "image_column": "one",
    "label_column": "two",
    "first": "1",
}


@pytest.mark.parametrize("name", [field.name for field in fields(ImportOptions)])
def test_an_option_reaches_the_importer(name, monkeypatch):
    reached = []

    def stop(source, root, options, **more):
        reached.append(options)
        raise typer.Exit

    monkeypatch.setattr(importers, "import_data", stop)
    value = GIVEN[name]
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    CliRunner().invoke(app, ["data", "import", "in", "out", f"--{name.replace('_', '-')}", text])
    assert reached == [ImportOptions(**{name: value})]
