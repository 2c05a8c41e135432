"""Lists of names: with or without folders and suffixes, and names that have dots of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from barm.data.sources.tree import listed

KNOWN = {name: Path(f"{name}.jpg") for name in ("a", "b.png", "c d.tif", "city/e.jpg")}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("a", "a"),
        ("a.jpg", "a"),
        ("images/a.jpg masks/a.png", "a"),
        ("b.png", "b.png"),  # of b.png.jpg
        ("b.png.jpg", "b.png"),
        ("c d.tif", "c d.tif"),
        ("e.jpg", "city/e.jpg"),
        ("images/city/e.jpg.jpg", "city/e.jpg"),
        ("gone.jpg", "gone"),
    ],
)
def test_the_name_that_a_line_means(line, name, tmp_path):
    (tmp_path / "train.txt").write_text(f"{line}\n")
    assert listed(tmp_path / "train.txt", KNOWN) == [name]
