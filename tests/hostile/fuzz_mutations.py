"""Turn a valid file into a hostile one: bytes, lines, values, headers, names, and what stands in a file's place.

Every function takes a `random.Random`, so that a case is made anew from its number alone.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from random import Random
from typing import Any

import tomli_w

CANARY = "canary"  # a file that appears where code of a file was run
HOSTILE = (  # texts that mean something to somebody
    *("../x", "../../x", "/etc/passwd", "/x", "a/../../x", "..", ".", "", " ", "-x", "--out", "~", "~root", "$HOME"),
    *("C:\\x", "\\\\host\\x", "a\\..\\..\\x", "con", "nul.png", "a\0b", "a\nb", "a\tb", "\x1b[31mred", "\u202egnp"),
    *("a" * 300, "b" * 5000, "é", "e\u0301", "猫", "\ud800", "\ufeff", "null", "NaN", "1e999", "-1", "0", "9" * 5000),
    *(f"`touch {CANARY}`", f"$(touch {CANARY})", f"; touch {CANARY}", f"__import__('os').system('touch {CANARY}')"),
    *("{{7*7}}", "%s%s%n", "{0.__class__}", "<script>alert(1)</script>", "' OR 1=1", "!!python/object/apply:os.system"),
    *("hf-hub:owner/name", "hf-hub:timm/resnet18.a1_in1k", "hf://owner/name", "local-dir:/etc", "owner/name"),
    *("http://127.0.0.1:9/x", "file:///etc/passwd", "https://example.org/x", "s3://x/y", "|cat", "background", "void"),
)
NUMBERS = (
    *(0, -1, 1, 2, 3, 254, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, 10**400),
    *(0.5, -0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")),
)
VALUES = (None, True, False, [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": {}}, [[[[1]]]], *HOSTILE, *NUMBERS)


def nested(depth: int, table: bool) -> Any:
    """Lists or tables in each other."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if table else [value]
    return value


def any_value(random: Random) -> Any:
    """A value that no schema expects."""
    if random.random() < 0.05:
        return nested(random.choice((3, 70, 400)), random.random() < 0.5)
    if random.random() < 0.03:
        return [random.choice(NUMBERS)] * random.choice((100, 20_000))
    return copy.deepcopy(random.choice(VALUES))


def places(value: Any, start: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in a document; of long lists the first ones."""
    found = [start]
    inner = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*start, key))
    return found


def changed(value: Any, random: Random) -> Any:
    """A document with up to three changes: other values, keys that are gone or are called otherwise."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        spots = places(value)
        spot = random.choice(spots)
        if not spot:
            if random.random() < 0.05:
                return any_value(random)
            continue
        holder = value
        for key in spot[:-1]:
            holder = holder[key]
        _change(holder, spot[-1], random)
    return value


def _change(holder: Any, key: Any, random: Random) -> None:
    what, old = random.random(), holder[key]
    if what < 0.55:
        holder[key] = any_value(random)
    elif what < 0.65 and isinstance(old, int | float):
        holder[key] = random.choice((-old, old + 1, old * 2**20, float(old), str(old), [old]))
    elif what < 0.72 and isinstance(old, str):
        holder[key] = random.choice((old + "\0", old * 100, old[: len(old) // 2], f"../{old}", old.upper(), [old]))
    elif what < 0.82:
        del holder[key]
    elif isinstance(holder, dict):
        holder[random.choice(HOSTILE)] = holder.pop(key) if random.random() < 0.5 else old
    else:
        holder.insert(random.randrange(len(holder) + 1), copy.deepcopy(random.choice((old, any_value(random)))))


def of_json(content: bytes, random: Random) -> bytes:
    """JSON with other values, or text that is no JSON any more."""
    if random.random() < 0.2:
        return of_text(content, random)
    text = json.dumps(changed(json.loads(content), random))
    return text.encode("utf-8")


def of_toml(content: bytes, random: Random) -> bytes:
    """TOML with other values, or text that is no TOML any more."""
    if random.random() < 0.3:
        return of_text(content, random)
    try:
        return tomli_w.dumps(_without_none(changed(tomllib.loads(content.decode()), random))).encode()
    except (TypeError, ValueError, AttributeError):  # what TOML cannot say
        return of_text(content, random)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value if v is not None] if isinstance(value, list) else value


def of_text(content: bytes, random: Random) -> bytes:
    """Lines that are gone, there twice, swapped, or hold what they should not."""
    lines = content.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        i = random.randrange(len(lines))
        line, what = lines[i], random.random()
        words = line.split(b" ")
        if what < 0.3:
            words[random.randrange(len(words))] = _word(random)
            lines[i] = b" ".join(words)
        elif what < 0.4:
            lines[i] = _word(random)
        elif what < 0.5:
            del lines[i]
            lines = lines or [b""]
        elif what < 0.6:
            lines.insert(i, random.choice(lines))
        elif what < 0.7:
            lines[i] = line.replace(b"=", b":").replace(b",", b"\0") if random.random() < 0.5 else line[::-1]
        elif what < 0.72:
            lines = lines * random.choice((3, 1000))
        elif what < 0.75:
            lines[i] = (b"[" if random.random() < 0.5 else b'{"a":') * random.choice((100, 5000))
        else:
            return of_bytes(b"\n".join(lines), random)
    return b"\n".join(lines)


def _word(random: Random) -> bytes:
    word = random.choice(HOSTILE) if random.random() < 0.6 else str(random.choice(NUMBERS))
    return word.encode("utf-8", "surrogatepass")


def of_bytes(content: bytes, random: Random) -> bytes:
    """Bytes that are flipped, cut, repeated or strange."""
    data = bytearray(content)
    what = random.random()
    if not data or what < 0.02:
        return random.choice((b"", b"\0", b"\xff" * 100, bytes(range(256)) * 8, b"\xff\xfe" + content))
    if what < 0.2:
        return bytes(data[: random.randrange(len(data))])
    if what < 0.3:
        at = random.randrange(len(data))
        return bytes(data[:at] + data[at + random.choice((1, 4, 100)) :])
    if what < 0.4:
        at = random.randrange(len(data))
        return bytes(data[:at] + bytes(random.choices(range(256), k=random.choice((1, 4, 300)))) + data[at:])
    reach = len(data) if random.random() < 0.5 else min(len(data), 512)  # headers are at the beginning
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        at = random.randrange(reach)
        kind = random.random()
        if kind < 0.5:
            data[at] ^= 1 << random.randrange(8)
        elif kind < 0.7:
            data[at] = random.choice((0, 255, 127, 128, 10, 46, 47))
        else:
            size = random.choice((2, 4, 8))
            number = random.choice((0, 1, 2**31 - 1, 2**32 - 1, 60_000, 2**16 - 1)) % 2 ** (8 * size)
            data[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
    return bytes(data[: len(content) + 8])


def of_png(content: bytes, random: Random) -> bytes:
    """A PNG whose chunks are other ones, with checksums that fit."""
    if random.random() < 0.3 or content[:4] != b"\x89PNG":
        return of_bytes(content, random)
    chunks, at = list[tuple[bytes, bytes]](), 8
    while at + 8 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    i = random.randrange(len(chunks))
    name, data = chunks[i]
    what = random.random()
    if what < 0.3:  # a header of another size, depth or colour
        header = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        place = random.randrange(7)
        sizes = (0, 1, 15, 16, 47, 49, 10_000, 60_000, 2**31 - 1)
        header[place] = random.choice(sizes if place < 2 else (0, 1, 2, 3, 4, 6, 8, 16, 255))
        if random.random() < 0.2:
            header[0] = header[1] = 60_000
        chunks[0] = (chunks[0][0], struct.pack(">IIBBBBB", *header))
    elif what < 0.5:
        chunks[i] = (name, of_bytes(data, random))
    elif what < 0.6:
        del chunks[i]
    elif what < 0.7:
        chunks.insert(i, random.choice(chunks))
    else:
        orientation = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">H", random.choice((0, 3, 6, 9)))
        extra = {
            b"tRNS": bytes(random.choices(range(256), k=random.choice((1, 2, 6, 300)))),
            b"PLTE": bytes(random.choices(range(256), k=random.choice((0, 3, 5, 768, 900)))),
            b"eXIf": orientation + bytes(6),
            b"zTXt": b"key\0\0" + zlib.compress(bytes(random.choice((10, 80_000_000))), 9),
            b"iCCP": b"x\0\0" + zlib.compress(bytes(5000)),
            b"acTL": struct.pack(">II", random.choice((2, 2**31 - 1)), 0),
            b"gAMA": b"\0\0\0\0",
        }
        chunks.insert(1, random.choice(list(extra.items())))
    out = content[:8]
    for name, data in chunks:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


class _Call:
    """Unpickled, it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {CANARY}",)


def of_zip(content: bytes, random: Random) -> bytes:
    """A zip, or a checkpoint of torch, with other members; checksums fit."""
    if random.random() < 0.3:
        return of_bytes(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i = random.randrange(len(members))
    pickles = [k for k, (name, _) in enumerate(members) if name.endswith(".pkl")]
    if pickles and random.random() < 0.7:
        i = pickles[0]
    name, data = members[i]
    what = random.random()
    if what < 0.5:
        members[i] = (name, of_pickle(data, random) if name.endswith(".pkl") else of_bytes(data, random))
    elif what < 0.7:
        members[i] = (_member(name, random), data)
    elif what < 0.8:
        del members[i]
    elif what < 0.9:
        members.append((_member(name, random), data))
    else:
        members[i] = (name, bytes(random.choice((0, 3_000_000, 100_000_000))))
    deflated = random.random() < 0.3
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode()[:60_000].replace("\0", "_"))
            info.compress_type = zipfile.ZIP_DEFLATED if deflated or len(data) > 10**6 else zipfile.ZIP_STORED
            info.external_attr = random.choice((0o100644, 0o100644, 0o120777, 0o010644)) << 16
            archive.writestr(info, data)
    return out.getvalue()


def _member(name: str, random: Random) -> str:
    part = random.choice(HOSTILE)
    return random.choice((part, f"{name}/{part}", str(PurePosixPath(name).parent / part), f"../{name}", f"/{name}"))


def of_pickle(content: bytes, random: Random) -> bytes:
    """A pickle that calls something, or whose operations are damaged."""
    if random.random() < 0.15:
        return pickle.dumps({"model_state": _Call()}, protocol=2)
    if random.random() < 0.3:  # another function, of the same length of name or not
        new = random.choice((b"cos\nsystem\n", b"cbuiltins\neval\n", b"csubprocess\nPopen\n", b"ctorch\nload\n"))
        return content.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", new)
    data = bytearray(content)
    for _ in range(random.choice((1, 2, 5))):
        at = random.randrange(len(data))
        if data[at : at + 1] in (b"K", b"M", b"J") and random.random() < 0.9:  # a whole number follows
            data[at + 1] = random.randrange(256)
        else:
            data[at] = random.choice((data[at] ^ 1, *b"KMJ]}()tqhN0.RbI"))
    return bytes(data)


def of_tar(content: bytes, random: Random) -> bytes:
    """A tar with other members, or damaged."""
    if random.random() < 0.3:
        return of_bytes(content, random)
    out = io.BytesIO()
    kinds = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=out, mode="w") as new:
        entries = [(entry, old.extractfile(entry)) for entry in old]
        chosen = random.randrange(len(entries))
        for i, (entry, file) in enumerate(entries):
            data = file.read() if file is not None else b""
            if i == chosen:
                what = random.random()
                if what < 0.5:
                    entry.name = _member(entry.name, random).replace("\0", "_").encode("utf-8", "replace").decode()
                elif what < 0.9:
                    entry.type, entry.linkname = random.choice(kinds), random.choice(("/etc/passwd", "../../x", "a"))
                else:
                    data = bytes(random.choice((0, 5000)))
            entry.size = len(data) if entry.type == tarfile.REGTYPE else 0
            new.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def of_safetensors(content: bytes, random: Random) -> bytes:
    """Safetensors with another header, or a description in it that is another."""
    if random.random() < 0.3:
        return of_bytes(content, random)
    length = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    about = header.get("__metadata__", {}).get("barm")
    if about and random.random() < 0.8:
        header["__metadata__"]["barm"] = json.dumps(changed(json.loads(about), random))
    else:
        header = changed(header, random)
    text = json.dumps(header).encode()
    size = len(text) if random.random() < 0.95 else random.choice((0, 1, 2**40, 2**64 - 1))
    return size.to_bytes(8, "little") + text + rest


UNWRITTEN = (
    *(ValueError, OverflowError, RecursionError, struct.error),
    *(zipfile.LargeZipFile, zipfile.BadZipFile, tarfile.TarError),
)
BY_ENDING: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": of_json,
    ".toml": of_toml,
    ".txt": of_text,
    ".csv": of_text,
    ".yaml": of_text,
    ".png": of_png,
    ".zip": of_zip,
    ".pt": of_zip,
    ".pth": of_zip,
    ".tar": of_tar,
    ".safetensors": of_safetensors,
}


def mutated(name: str, content: bytes, random: Random) -> bytes:
    """A hostile form of a file's content, by the ending of its name."""
    if random.random() < 0.004:
        return bomb(name, random)
    try:
        return BY_ENDING.get(PurePosixPath(name).suffix.lower(), of_bytes)(content, random)
    except UNWRITTEN:
        return of_bytes(content, random)  # what a writer refuses to write


def bomb(name: str, random: Random) -> bytes:
    """A file that costs far more than its size."""
    ending = PurePosixPath(name).suffix.lower()
    if ending == ".json":
        return random.choice((b"[" * 10**6, b'{"a":' * 10**5, b"[" + b"0," * 10**6 + b"0]", b"1" * 10**6))
    if ending in (".toml", ".yaml", ".csv", ".txt"):
        lines = (b"image%d\n" % i for i in range(10**6))
        return random.choice((b"x = " + b"[" * 10**5, b"a" * 10**7, b"\n" * 10**6, b"".join(lines), b"a.b" * 10**5))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300_000_000))
    return out.getvalue()
