"""Commands that list what there is."""

from __future__ import annotations

from rich.table import Table

from barm.cli.common import out


def recipes() -> None:
    """List the recipes: <data>/<task>/<method>; any other task works in the same place."""
    from barm.config import recipe_names

    print("\n".join(recipe_names()))


def methods() -> None:
    """List the methods with what they are."""
    from barm.methods import METHODS

    table = Table(box=None)
    for name, config in METHODS.items():
        table.add_row(f"[bold]{name}[/bold]", (config.__doc__ or "").strip().splitlines()[0])
    out.print(table)
