"""Commands that list recipes and methods."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from barm.cli import completion
from barm.cli.common import Json, out, print_json

Name = Annotated[
    str | None,
    typer.Argument(help="Show this one whole, with a comment on every key.", autocompletion=completion.recipes),
]


def recipes(name: Name = None, as_json: Json = False) -> None:
    """List the recipes: <data>/<task>/<method>; any other task works in the same place. Or show one whole.

    Example: barm recipes folder/barm
    """
    from barm.catalogue import recipe_names

    if name is not None:
        from barm.settings import recipe_text, recipe_values

        if as_json:
            print_json(recipe_values(name))
        else:
            print(recipe_text(name), end="")
    elif as_json:
        print_json(recipe_names())
    else:
        print("\n".join(recipe_names()))


def methods(as_json: Json = False) -> None:
    """List the methods with what they are.

    Example: barm methods
    """
    from barm.methods import METHODS

    summaries = {name: (config.__doc__ or "").strip().splitlines()[0] for name, config in METHODS.items()}
    if as_json:
        print_json(summaries)
        return
    table = Table(box=None)
    for name, words in summaries.items():
        table.add_row(f"[bold]{name}[/bold]", words)
    out.print(table)
