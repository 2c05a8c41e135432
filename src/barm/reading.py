"""Open files that somebody else may have written: every defect is reported in one line, and nothing blocks.

`check_target` looks in the same way at a place where a file is going to be written.

A named pipe, a socket or a device in the place of a file is refused at once, since opening or reading it may never end.
Images have their own reader, which opens them here.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import tomllib
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from barm.errors import UserError

TEXT_LIMIT = 64 << 20  # bytes; of our files only those grow beyond it that have a line for every image
YAML_LIMIT = 1 << 18  # bytes; its parser takes seconds for a mebibyte
DEPTH = 64  # tables in tables: more is no file of ours, and would exhaust Python's stack
PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""  # of a dotted key
LONG_KEY = re.compile(rf"(?:{PART}[ \t]*+\.[ \t]*+){{{DEPTH}}}")  # tomllib's time grows with the square of its parts
SPARE = 1 << 28  # bytes by which a tensor may be larger than its file, as a view of few values is
MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Unfit(UserError):
    """A file that cannot be read, or does not hold what it should.

    Args:
        path: of the file.
        what: the error, in a few words.
        remedy: how to mend it.

    Attributes:
        path: as given.
        what: as given.
    """

    def __init__(self, path: Path, what: str, remedy: str = "restore the file") -> None:
        super().__init__(f"{path}: {what}; {remedy}")
        self.path, self.what = path, what


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading without blocking, whatever the path leads to.

    Raises:
        FileNotFoundError: if there is none (a link may point nowhere).
        Unfit: if it is no regular file, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise Unfit(path, _why(path, error)) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise Unfit(path, f"is {_kind(mode)}, expected a file")
    return os.fdopen(handle, "rb")


def check_regular(path: Path) -> None:
    """Refuse a path that is no regular file, for libraries that open paths themselves.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is no regular file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Unfit(path, _why(path, error)) from None
    if not stat.S_ISREG(mode):
        raise Unfit(path, f"is {_kind(mode)}, expected a file")


def check_target(path: Path) -> None:
    """Refuse to write a file in the place of a device, a pipe or a folder. A link to a file or to nothing is none.

    Raises:
        UserError: if the path leads to anything but a file or nothing.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing, or the attempt to write says why it is none
        return
    if not stat.S_ISREG(mode):
        raise UserError(
            f"cannot write {path}: it is {_kind(mode)}, expected a file or nothing; choose another place, or remove it"
        )


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Read a file's bytes.

    Args:
        path: of the file.
        limit: largest size in bytes.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is no regular file, cannot be read, or is larger than the limit.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise Unfit(path, f"has {size / 2**20:.0f} MiB, expected at most {limit / 2**20:.0f}")
        try:
            return file.read()
        except OSError as error:
            raise Unfit(path, f"cannot be read ({error.strerror})") from None


def read_text(path: Path, limit: int | None = TEXT_LIMIT) -> str:
    """Read text in UTF-8, or in UTF-16 or -32 with a byte order mark, which is left out.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: as `read_bytes`, or if it is no such text.
    """
    content = read_bytes(path, limit)
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        what = f"is not UTF-8 text ({error.reason} at byte {error.start}, line {line})"
        raise Unfit(path, what, "save it as UTF-8") from None
    if "\0" in text:
        raise Unfit(path, "is not text (it holds null bytes)", "save it as UTF-8")
    return text


def read_json(path: Path, limit: int | None = TEXT_LIMIT) -> Any:
    """Read a JSON file of limited size.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: as `read_text`, or if it is no JSON.
    """
    return parse_json(read_text(path, limit), path)


def parse_json(text: str, path: Path) -> Any:
    """Parse JSON that came from a file.

    Raises:
        Unfit: if it is no JSON.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Unfit(path, f"is not valid JSON ({error})") from None
    except RecursionError:
        raise Unfit(path, "is nested too deeply") from None
    return _shallow(value, path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: as `read_text`, or if it is no TOML.
    """
    return parse_toml(read_text(path), path)


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Parse TOML that came from a file.

    Raises:
        Unfit: if it is no TOML.
    """
    if LONG_KEY.search(text):  # also in a string, where a file of ours has none
        raise Unfit(path, f"has a key, or a text, of more than {DEPTH} parts with dots between", "shorten it")
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise Unfit(path, f"is not valid TOML ({error})", "mend it") from None
    except RecursionError:
        raise Unfit(path, "is nested too deeply") from None
    _shallow(table, path)
    return table


def read_yaml(path: Path) -> Any:
    """Read a YAML file of limited size, of plain values alone.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: as `read_text`, or if it is no YAML.
        UserError: if it has a key twice, or an alias: a few aliases of aliases stand for more than a memory holds.
    """
    import yaml

    text = read_text(path, YAML_LIMIT)
    try:
        root, seen = yaml.compose(text, yaml.SafeLoader), set[int]()
        nodes = [root] if root is not None else []
        while nodes:
            node = nodes.pop()
            where = f"{path}:{node.start_mark.line + 1}"
            if id(node) in seen:
                raise UserError(f"{where}: an alias (*) stands for this value: write it out")
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
                if twice := [key for key, number in keys.items() if number > 1]:
                    raise UserError(f"{where}: the key '{twice[0][:60]}' is there twice: keep one of them")
            if not isinstance(node, yaml.ScalarNode):
                nodes += [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        return _shallow(yaml.safe_load(text), path)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise Unfit(path, f"is not valid YAML ({short(error)})", "mend it") from None
    except RecursionError:
        raise Unfit(path, "is nested too deeply") from None


def too_deep(value: Any, limit: int = DEPTH) -> bool:
    """Whether more than `limit` lists and tables are nested.

    >>> too_deep([[[]]], limit=2), too_deep({"a": [1]}, limit=2)
    (True, False)
    """
    level, depth = [value], 0
    while level:
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list | tuple)]
        depth += bool(inner)
        if depth > limit:
            return True
        level = [v for values in inner for v in values]
    return False


def read_pickled(path: Path, allowed: list[Any] | None = None) -> Any:
    """Read tensors and plain values that `torch.save` wrote, on the CPU. Nothing in the file is executed.

    Args:
        path: of the file.
        allowed: further types that it may hold.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is no such file.
    """
    import torch

    check_regular(path)
    _check_stored(path)
    try:
        with torch.serialization.safe_globals(allowed or []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of a file is in the error, if it is none of ours
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a pickle that is cut short or of another kind leads to
        raise Unfit(path, f"cannot be read as what torch.save writes ({short(error)})") from None
    _check_sizes(content, path)
    return content


def _check_stored(path: Path) -> None:
    """Refuse an archive with members larger than itself: torch.save compresses none, and lays none over another."""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError):  # the older format, or damaged
        return
    size = path.stat().st_size
    if whole > size:
        what = f"would unpack to {whole} bytes from {size}, and torch.save compresses nothing"
        raise Unfit(path, what, "save it anew with torch.save")


def _check_sizes(content: Any, path: Path) -> None:
    """Refuse a tensor that stands for many more values than the file holds, each of them many times."""
    from torch import Tensor, strided

    limit = path.stat().st_size + SPARE
    seen, left = set[int](), [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            if value.layout == strided and value.numel() * value.element_size() > limit:
                what = f"holds a tensor of the shape {tuple(value.shape)}, more values than the file has"
                raise Unfit(path, what, "save its `.contiguous()` form")
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read a safetensors file: tensors by name, on the CPU.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_regular(path)
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Unfit(path, f"cannot be read as safetensors ({short(error)})") from None


def state_dict_of(content: Any, path: Path) -> dict[str, Any]:
    """Check that a value is a table of tensors by name, and return it.

    Raises:
        Unfit: if it is something else.
    """
    import torch
    from torch import Tensor

    if not isinstance(content, dict) or not content:
        raise Unfit(path, "holds no state dict", "give what torch.save(model.state_dict(), path) writes")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            found = f"a {value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            what = f"holds no state dict: '{str(name)[:60]}' is {found}, expected a dense tensor under a name"
            raise Unfit(path, what, "give what torch.save(model.state_dict(), path) writes")
    return content


def short(error: BaseException, limit: int = 120) -> str:
    """The message of an error, cut to one line of limited length."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def real(path: Path) -> Path:
    """The absolute path with links resolved; a circle of links is left as it is (`Path.resolve` raises there)."""
    return Path(os.path.realpath(path))


def _shallow(value: Any, path: Path) -> Any:
    if too_deep(value):
        raise Unfit(path, f"has more than {DEPTH} tables in each other")
    return value


def _why(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        try:
            mode = os.stat(path).st_mode  # a socket cannot be opened at all
        except OSError:
            return f"cannot be opened ({error.strerror})"
        return f"cannot be opened ({error.strerror})" if stat.S_ISREG(mode) else f"is {_kind(mode)}, expected a file"
    return f"cannot be opened ({error})"


def _kind(mode: int) -> str:
    return next((name for is_kind, name in KINDS if is_kind(mode)), "no regular file")
