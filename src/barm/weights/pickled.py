"""Outline of a pickle: what it holds, with shapes in place of tensors. Nothing in it is imported or called.

The operations of the pickle are listed by `pickletools` and carried out on placeholders: a class is its name, a call is
a record of its arguments. So files of any program can be named, also those that `torch.load` refuses, and the numbers
of a tensor are never read.
"""

from __future__ import annotations

import io
import os
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_OPERATIONS = 4_000_000  # a checkpoint has some 60 for every tensor
MAX_VALUE = 1 << 16  # bytes; longer values are numbers, which are skipped
PLAIN = {"OrderedDict", "defaultdict", "Counter", "dict"}  # tables of the standard library
MARK = object()


class NoPickle(Exception):
    """A stream that is no pickle, or one that is cut short."""


@dataclass(frozen=True)
class ClassName:
    """A class or function that the pickle names, such as ``torch.nn.modules.conv.Conv2d``."""

    name: str


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor or an array."""

    sizes: tuple[int, ...]


@dataclass(eq=False)
class Record:
    """An object that unpickling would build.

    Attributes:
        name: of its class or of the function that makes it.
        args: of the call.
        items: entries of a table, elements of a list.
        state: attributes.
    """

    name: str
    args: Any = ()
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


class Skipping:
    """A file in which long values are skipped: their bytes are not read.

    Args:
        file: seekable.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        here = file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(here)

    def read(self, number: int) -> bytes:
        """The next bytes, or as many zeros."""
        if number <= MAX_VALUE:
            return self._file.read(number)
        if number > self._size - self._file.tell():
            raise NoPickle("it is cut short")
        self._file.seek(number, os.SEEK_CUR)
        return bytes(number)

    def readline(self) -> bytes:
        """The next line of limited length."""
        return self._file.readline(MAX_VALUE)

    def tell(self) -> int:
        """Position in bytes."""
        return self._file.tell()


def outline(file: BinaryIO) -> tuple[Any, frozenset[str]]:
    """Read one pickle from a file.

    Args:
        file: seekable, at the beginning of a pickle; it is left behind the pickle's end.

    Returns:
        What the pickle holds, made of plain values, `ClassName`, `Shape` and `Record`; and the names of all classes and
        functions that unpickling it would call.

    Raises:
        NoPickle: if it is none.
    """
    machine = _Machine()
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(Skipping(file))):  # type: ignore[arg-type]
            if number > MAX_OPERATIONS:
                raise NoPickle("it has too many operations")
            machine.run(operation.name, argument)
        return machine.stack[-1], frozenset(machine.names)
    except NoPickle:
        raise
    except Exception as error:  # whatever an operation on the wrong values leads to
        raise NoPickle(" ".join(str(error).split())[:100] or type(error).__name__) from None


def outline_bytes(content: bytes) -> tuple[Any, frozenset[str]]:
    """`outline` of a pickle in memory."""
    return outline(io.BytesIO(content))


def shape_of(value: Any, depth: int = 8) -> tuple[int, ...] | None:
    """The shape of what a pickle holds, if it is a dense tensor or an array."""
    if isinstance(value, Shape):
        return value.sizes
    if not isinstance(value, Record) or depth == 0:
        return None
    function, args = value.name.rpartition(".")[2], value.args
    if function in ("_rebuild_parameter", "_rebuild_parameter_with_state") and args:
        return shape_of(args[0], depth - 1)
    if function == "_rebuild_from_type_v2" and len(args) > 2 and isinstance(args[0], ClassName):
        return shape_of(Record(args[0].name, args[2]), depth - 1)
    place = {"_rebuild_tensor_v2": 2, "_rebuild_tensor_v3": 2, "_rebuild_tensor": 2, "_rebuild_qtensor": 2}.get(
        function
    )
    if function in ("_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy"):
        place = 1
    if function == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) > 1:  # numpy's
        args, place = value.state, 1
    sizes = args[place] if place is not None and isinstance(args, tuple) and len(args) > place else None
    if isinstance(sizes, Record) and sizes.name.endswith(".Size"):
        sizes = sizes.args[0] if sizes.args else ()
    return tuple(sizes) if isinstance(sizes, tuple | list) and all(isinstance(n, int) for n in sizes) else None


def tables_in(value: Any) -> Mapping[Any, Any]:
    """The entries of a table or of an object's attributes; empty for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Record):
        return value.state if isinstance(value.state, dict) else value.items
    return {}


def module_shapes(module: Any, prefix: str = "", depth: int = 32) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and buffers of a pickled ``torch.nn.Module``, by the names of its state dict."""
    attributes, shapes = tables_in(module), dict[str, tuple[int, ...]]()
    for kind in ("_parameters", "_buffers"):
        for name, value in tables_in(attributes.get(kind)).items():
            if (shape := shape_of(value)) is not None:
                shapes[f"{prefix}{name}"] = shape
    for name, inner in tables_in(attributes.get("_modules")).items() if depth else ():
        shapes |= module_shapes(inner, f"{prefix}{name}.", depth - 1)
    return shapes


class _Machine:
    """Stack and memo of the pickle's operations."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()

    def run(self, name: str, argument: Any) -> None:
        """Carry out one operation."""
        if name in _VALUES:
            long = isinstance(argument, bytes | bytearray | str) and len(argument) > MAX_VALUE
            self.stack.append(None if long else argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _MEMO:
            _MEMO[name](self, argument)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP", "NEXT_BUFFER", "READONLY_BUFFER"):
            raise NoPickle(f"it has the operation {name}")

    def until_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        values: list[Any] = []
        while (value := self.stack.pop()) is not MARK:
            values.append(value)
        return values[::-1]

    def take(self, number: int) -> list[Any]:
        """Take the last values, in their order."""
        if len(self.stack) < number:
            raise NoPickle("its stack is empty")
        values, self.stack[-number:] = self.stack[-number:], []
        return values

    def named(self, name: str) -> ClassName:
        """A class or function by its name."""
        self.names.add(name)
        return ClassName(name)

    def call(self, function: Any, args: Any) -> Any:
        """The record of a call; a table of the standard library is a table."""
        if isinstance(function, Record) and function.name.endswith(".getattr") and len(function.args) == 2:
            owner, attribute = function.args
            return Record(f"{owner.name if isinstance(owner, ClassName) else 'object'}.{attribute}", args)
        if not isinstance(function, ClassName):
            return Record("object", args)
        if function.name.rpartition(".")[2] in PLAIN:
            return dict(_pairs(args))
        return Record(function.name, args)


def _pairs(args: Any) -> Iterator[tuple[Any, Any]]:
    """Entries of a call such as ``OrderedDict([[name, value], ...])``."""
    for entry in args[0] if isinstance(args, tuple) and args and isinstance(args[0], list) else ():
        if isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str | int):
            yield entry[0], entry[1]


def _fill(target: Any, entries: list[Any]) -> None:
    """Put keys and values that follow each other into a table."""
    table = target.items if isinstance(target, Record) else target
    for key, value in zip(entries[::2], entries[1::2], strict=True):
        table[key if isinstance(key, str | int | float | bytes | bool | None) else id(key)] = value


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Record):
        target.items.update(enumerate(values, len(target.items)))


def _set_state(machine: _Machine, _: Any) -> None:
    target, state = machine.take(2)
    if isinstance(target, Record):
        target.state = state
    machine.stack.append(target)


def _add(number: int | None, put: Callable[[Any, list[Any]], None]) -> Callable[[_Machine, Any], None]:
    """An operation that puts `number` values, or all above the mark, into what lies below them."""

    def operation(machine: _Machine, _: Any) -> None:
        values = machine.until_mark() if number is None else machine.take(number)
        put(machine.stack[-1], values)

    return operation


def _make(number: int | None, build: Callable[[_Machine, list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    """An operation that replaces `number` values, or all above the mark, by one."""

    def operation(machine: _Machine, _: Any) -> None:
        machine.stack.append(build(machine, machine.until_mark() if number is None else machine.take(number)))

    return operation


def _dict(_: _Machine, values: list[Any]) -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    _fill(table, values)
    return table


_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"}
_VALUES |= {"SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "BYTEARRAY8"}
_VALUES |= {"SHORT_BINBYTES", "BINBYTES8"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "MARK": lambda: MARK,
}
_MEMO: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, i: m.memo.__setitem__(i, m.stack[-1])),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m.stack.append(m.memo[i])),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": lambda m, _: m.take(1).clear(),
    "POP_MARK": lambda m, _: m.until_mark().clear(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "LIST": _make(None, lambda _, values: values),
    "FROZENSET": _make(None, lambda _, values: values),
    "TUPLE": _make(None, lambda _, values: tuple(values)),
    "TUPLE1": _make(1, lambda _, values: tuple(values)),
    "TUPLE2": _make(2, lambda _, values: tuple(values)),
    "TUPLE3": _make(3, lambda _, values: tuple(values)),
    "DICT": _make(None, _dict),
    "APPEND": _add(1, _extend),
    "APPENDS": _add(None, _extend),
    "ADDITEMS": _add(None, _extend),
    "SETITEM": _add(2, _fill),
    "SETITEMS": _add(None, _fill),
    "GLOBAL": lambda m, name: m.stack.append(m.named(name.replace(" ", "."))),
    "STACK_GLOBAL": _make(2, lambda m, values: m.named(".".join(map(str, values)))),
    "INST": lambda m, name: m.stack.append(m.call(m.named(name.replace(" ", ".")), tuple(m.until_mark()))),
    "OBJ": _make(None, lambda m, values: m.call(values[0], tuple(values[1:]))),
    "NEWOBJ": _make(2, lambda m, values: m.call(*values)),
    "NEWOBJ_EX": _make(3, lambda m, values: m.call(values[0], values[1])),
    "REDUCE": _make(2, lambda m, values: m.call(*values)),
    "BUILD": _set_state,
    "PERSID": lambda m, _: m.stack.append(None),
    "BINPERSID": _make(1, lambda _m, _v: None),
}
