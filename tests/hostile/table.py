"""The table that both campaigns of hostile files print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def show(table: Mapping[str, Counter[str]], columns: Sequence[str], title: str, width: int) -> None:
    """Print a row per kind, ``width`` characters for its name, and the sum."""
    whole = sum(table.values(), Counter[str]())
    print(f"{title:{width}}" + "".join(f"{name:>11}" for name in columns))
    for kind, row in [*table.items(), ("all", whole)]:
        print(f"{kind:{width}}" + "".join(f"{row[name]:>11}" for name in columns))
