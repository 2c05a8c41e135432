"""The cache of a split's index: a JSON file with its checksum in a first line."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from rich.console import Console

from barm.reading import Unfit, parse_json, read_text
from barm.writing import temporary


def load_entries(path: Path) -> dict[str, Any]:
    """Read the cache; what is damaged is nothing, and is made anew. Older versions wrote no first line."""
    try:
        text = read_text(path, limit=None)
        if not text.startswith("{"):
            head, _, text = text.partition("\n")
            if head != _head(text):
                return {}
        entries = parse_json(text, path)
    except (OSError, Unfit):
        return {}
    return entries if isinstance(entries, dict) else {}


def _head(text: str) -> str:
    """The first line of the cache: a checksum of the rest, at gigabytes a second."""
    return f"crc32 {zlib.crc32(text.encode()):08x}"


def store_entries(path: Path, entries: dict[str, Any]) -> None:
    """Write the cache. A run does not fail if that is impossible (read-only or full home)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(entries)
        with temporary(path) as beside:
            beside.write_bytes(f"{_head(text)}\n{text}".encode())
            beside.replace(path)
    except OSError as error:
        Console(stderr=True).print(f"the index is not cached ({error.strerror}): set BARM_CACHE to a writable folder")
