"""What the tests of all importers share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from barm.data.importers import import_data
from barm.data.importers.annotations import ImportOptions
from barm.data.importers.write import ImportReport, Split


@pytest.fixture(scope="session")
def writers() -> ModuleType:
    """The module that writes examples of all formats."""
    spec = importlib.util.spec_from_file_location("importers_writers", Path(__file__).with_name("writers.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def imported(tmp_path):
    """Import a folder into ``out``: ``imported(source, values="colour")``; returns the report."""

    def call(source: Path, **options: Any) -> ImportReport:
        return import_data(source, tmp_path / "out", ImportOptions(**options), split=Split(0.2))

    return call


@pytest.fixture
def masks(tmp_path):
    """The masks of what was imported, by name, as arrays of ids."""

    def call() -> dict[str, np.ndarray]:
        return {file.stem: np.asarray(Image.open(file)) for file in (tmp_path / "out" / "masks").rglob("*.png")}

    return call
