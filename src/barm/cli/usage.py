"""Errors in the command line, in one line each: unknown commands and options, missing and invalid values."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from barm.errors import UserError, nearest

# typer brings click along in some versions and imports it in others
USAGE: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class Commands(TyperGroup):
    """A group of commands that suggests the nearest name for an unknown one, also from other groups."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve the command: its name, the command, and the remaining words.

        Raises:
            UserError: for an unknown command.
        """
        if args and not ctx.resilient_parsing and not args[0].startswith("-") and args[0] not in self.commands:
            whole = dict(_below(ctx.find_root().command))
            inner = {path.split()[-1]: path for path in whole}
            own = ctx.command_path.split()[1:]
            inner.update({name: " ".join([*own, name]) for name in self.commands})  # a near one of this group first
            hint = nearest(args[0], inner)
            for name, path in inner.items():
                hint = hint.replace(f"'{name}'", f"'barm {path}'")
            known = f"; known: {', '.join(self.commands)}"
            raise UserError(f"unknown command '{' '.join(['barm', *own, args[0]])}'{hint or known}")
        return super().resolve_command(ctx, args)


def _below(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All commands below a group with their paths, groups included."""
    for name, command in getattr(group, "commands", {}).items():
        yield " ".join([*before, name]), command
        yield from _below(command, (*before, name))


def run(app: typer.Typer) -> None:
    """Parse the command line and call the command; ends with the exit status.

    Raises:
        UserError: for what was typed wrong.
    """
    try:
        status = app(standalone_mode=False, prog_name="barm")  # also where `python -m barm.cli` started it
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, end="")
            sys.exit(2)
        raise UserError(explain(error)) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    if status == 130:
        raise KeyboardInterrupt
    sys.stdout.flush()
    sys.exit(status if isinstance(status, int) else 0)


def explain(error: Any) -> str:
    """Describe a usage error in one line: what was expected, what was found, how to mend it."""
    context = getattr(error, "ctx", None)
    command, kind = getattr(context, "command", None), type(error).__name__
    path = getattr(context, "command_path", "barm")
    if kind == "NoSuchOption":
        known = {name.removeprefix("--"): name for p in getattr(command, "params", ()) for name in p.opts}
        hint = (
            nearest(error.option_name.lstrip("-"), known).replace("'", "'--", 1)
            or f"; {path} --help lists what there is"
        )
        return f"{path} has no option {error.option_name}{hint}"
    param: Any = getattr(error, "param", None)
    if kind == "MissingParameter":
        return f"{path} needs {_name(param)} ({(param.help or '').rstrip('.')}){_example(command)}"
    text = str(getattr(error, "message", error)).rstrip(".").removeprefix("Value error, ")
    if param is not None:
        choices = re.match(r"'(.*?)' is not one of (.*)$", text)
        if choices:
            allowed = re.findall(r"'(.*?)'", choices[2])
            found = f"{_name(param)} expects one of {', '.join(allowed)}, got '{choices[1]}'"
            return found + nearest(choices[1], allowed)
        return f"{_name(param)}: {text}{_example(command)}"
    extra = re.match(r"Got unexpected extra argument\S* \((.*)\)$", text)
    if extra:
        return f"{path} does not know what to do with '{extra[1]}'; quote values with spaces{_example(command)}"
    return f"{text}{_example(command)}"


def _name(param: Any) -> str:
    """The name of a parameter: ``--step``, or ``RUN`` for an argument."""
    options = [name for name in param.opts if name.startswith("--")]
    return options[0] if options else str(param.name).upper()


def _example(command: Any) -> str:
    """The example of a command's help."""
    found = re.search(r"Example:\s+(.*)", getattr(command, "help", None) or "")
    return f"; for example: {' '.join(found[1].split())}" if found else ""
