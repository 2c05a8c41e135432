"""Which output of another library's network is which class, from names alone: it loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from barm.data.class_names import BACKGROUND, plain
from barm.errors import UserError
from barm.escaping import normal
from barm.labels import NO_ROW
from barm.words import count

Activation = Literal["softmax", "sigmoid"]  # that turns logits into probabilities
ACTIVATIONS = ("softmax", "sigmoid")
LONGEST = 200  # characters of a name
NO_BACKGROUND = "none"  # for a network without this class


@dataclass(frozen=True)
class Classes:
    """Classes of a network, background first.

    Attributes:
        names: of them.
        outputs: row of the classifier for each; -1 for a background without one.
        background: as in `AdoptedConfig`.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    background: Literal["row", "threshold", "none"]


def classes_of(
    outputs: int, names: Sequence[str], background: str | None, activation: Activation, what: str
) -> Classes:
    """Decide which output is which class.

    Args:
        outputs: of the network.
        names: of its outputs in their order; background may be left out if it is output 0.
        background: name of the background, or ``none``; by default the one that is called so.
        activation: of the network.
        what: name of the network for error messages.

    Raises:
        UserError: if the names are not as many as the outputs, or not all different.
    """
    own = _checked(names, what)
    if background == NO_BACKGROUND:
        called: list[str] = []
    else:
        called = [n for n in own if n == background] or _called_background(own, what)
    if background not in (None, NO_BACKGROUND) and background not in own:
        raise UserError(f"{what} has no class '{background}': give one of {', '.join(own[:12])}, or none")
    if "background" in own and background not in (None, "background"):
        raise UserError(
            f"{what} has a class called 'background', found the background '{background}': give 'background', or "
            "another name to that class with --class-names FILE"
        )
    if outputs == 1:
        foreground = [n for n in own if n not in called]
        if len(foreground) == 1:
            return Classes(("background", *foreground), (NO_ROW, 0), "threshold")
    elif background != NO_BACKGROUND and called and len(own) == outputs:
        at = own.index(called[0])
        rest = [i for i in range(outputs) if i != at]
        return Classes(("background", *(own[i] for i in rest)), (at, *rest), "row")
    elif background != NO_BACKGROUND and not called and len(own) == outputs - 1:
        return Classes(("background", *own), tuple(range(outputs)), "row")
    elif len(own) == outputs:
        kind: Literal["threshold", "none"] = "threshold" if activation == "sigmoid" else "none"
        return Classes(("background", *own), (NO_ROW, *range(outputs)), kind)
    expected = count(outputs, "names")
    if outputs > 1 and background is None and not called:
        expected += f", or {outputs - 1} if output 0 is background"
    raise UserError(
        f"{what} has {count(outputs, 'outputs')}, found {count(len(own), 'class names')}: expected {expected}"
    )


def _checked(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Names in their normal form: texts that are not empty, have no control characters, and are all different."""
    for name in names:
        wrong = not isinstance(name, str) or not name.strip() or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
        if wrong or len(name) > LONGEST:
            found = repr(name) if len(repr(name)) < 40 else f"{repr(name)[:37]}..."
            raise UserError(
                f"the class names of {what} hold {found}: expected texts of 1 to {LONGEST} characters on one line"
            )
    own = tuple(map(normal, names))
    twice = next((n for n in own if own.count(n) > 1), None)
    if twice is not None:
        raise UserError(f"the class names of {what} hold '{twice}' twice: expected different ones")
    return own


def _called_background(names: Sequence[str], what: str) -> list[str]:
    """The name among some that says background; none, or one."""
    called = [n for n in names if n == "background"] or [n for n in names if plain(n) in BACKGROUND]
    if len(called) > 1:
        raise UserError(f"{what} has the classes {' and '.join(called)}: say with --background which is the background")
    return called
