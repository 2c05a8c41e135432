"""What form a file has: a checkpoint of torch, safetensors, a graph, an archive, a text, an image.

The first bytes decide, and the contents of an archive; of a checkpoint the names and shapes are read, not the tensors.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from barm.reading import open_regular
from barm.weights.kind import AGAIN, OWN, Kind
from barm.weights.pickled import NoPickle, Shape, outline, outline_bytes
from barm.words import count

TORCH = 0x1950A86A20F9469CFC6C  # the first pickle of torch's format before 1.6
MAX_HEADER = 100 << 20  # bytes, of safetensors
MAX_PICKLE = 512 << 20  # bytes, of an archive's pickle without its tensors
HEAD = 4096  # bytes that are read first
TAIL = 1 << 20  # bytes, of an ONNX file, in which its metadata are
GRAPH = f"a finished graph cannot be trained or extended; {OWN}"
WEIGHTS = "give its weights: `torch.save(model.state_dict(), FILE)`"
STARTS: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89HDF", Kind("tensorflow", "an HDF5 file, such as weights of Keras", "barm reads networks of PyTorch alone")),
    (b"\x93NUMPY", Kind("arrays", "a numpy array", "give a checkpoint of a network")),
    (
        b"version https://git-lfs",
        Kind("pointer", "a pointer of Git LFS, not the file itself", "run `git lfs pull` there"),
    ),
    (b"GGUF", Kind("network", "a GGUF file, a language model of llama.cpp", f"barm cannot use it; {OWN}")),
    (b"\x1f\x8b", Kind("archive", "a gzip archive", "unpack it and give the checkpoint in it")),
    (b"BZh", Kind("archive", "a bzip2 archive", "unpack it and give the checkpoint in it")),
    (b"\xfd7zXZ", Kind("archive", "an xz archive", "unpack it and give the checkpoint in it")),
    (b"7z\xbc\xaf", Kind("archive", "a 7-Zip archive", "unpack it and give the checkpoint in it")),
    (b"\x28\xb5\x2f\xfd", Kind("archive", "a Zstandard archive", "unpack it and give the checkpoint in it")),
    (b"Rar!", Kind("archive", "a RAR archive", "unpack it and give the checkpoint in it")),
    (b"%PDF", Kind("text", "a PDF document", "give a checkpoint of a network")),
    (b"\x89PNG", Kind("image", "an image (PNG)", "give a checkpoint; `barm predict RUN IMAGE` takes images second")),
    (
        b"\xff\xd8\xff",
        Kind("image", "an image (JPEG)", "give a checkpoint; `barm predict RUN IMAGE` takes images second"),
    ),
    (b"GIF8", Kind("image", "an image (GIF)", "give a checkpoint of a network")),
    (b"II*\0", Kind("image", "an image (TIFF)", "give a checkpoint of a network")),
    (b"MM\0*", Kind("image", "an image (TIFF)", "give a checkpoint of a network")),
    (b"RIFF", Kind("image", "an image (WebP), a sound or a film", "give a checkpoint of a network")),
)
OWN_GRAPH = Kind(
    "barm-graph",
    "a graph that `barm export` wrote",
    "it cannot be trained or extended: give the folder of the run that it was exported from",
)
PAGE = Kind(
    "page", "a web page, not the file it was saved as", "open the address in a browser and fetch the file itself"
)
CUT = Kind("damaged", "a zip archive that is cut short or damaged (torch.save writes such)", AGAIN)
ZIP = (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError)  # what zipfile raises for damage
TENSORFLOW = "barm reads networks of PyTorch alone"


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        form: ``torch``, ``pickle`` or ``safetensors``.
        top: the outermost value, as `barm.weights.pickled` gives it; of safetensors, `Shape` by name.
        names: classes and functions that unpickling calls.
        metadata: texts of a safetensors header.
    """

    form: str
    top: Any
    names: frozenset[str] = frozenset()
    metadata: Mapping[str, str] | None = None


def open_contents(path: Path) -> Contents | Kind:
    """Read what a file holds, or what it is if it is no checkpoint.

    Raises:
        FileNotFoundError: if there is none.
        Unfit: if it is no regular file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD)
        file.seek(0)
        if not head.strip(b"\0 \r\n\t"):
            empty = "an empty file" if not size else f"a file of {size} zeros or spaces"
            return Kind("empty", empty, AGAIN)
        known = next((kind for start, kind in STARTS if head.startswith(start)), None)
        if known is not None:
            return known
        if path.suffix == ".safetensors" and head[:2] in (b"PK", b"\x80\x02"):  # torch.load goes by the ending
            return Kind("damaged", "a file of torch.save that is called .safetensors", "give it the ending .pth")
        if head[:2] == b"PK":
            return _zip(file)
        if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
            return _pickles(file)
        header = head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER
        if header or path.suffix == ".safetensors":
            return _safetensors(file, size, head)
        kind = _other(path, head)
        if kind.family == "onnx":
            file.seek(max(0, size - TAIL))
            return OWN_GRAPH if b"\n\x04barm" in file.read() else kind  # the key of the description, as protobuf
        return kind


def _zip(file: BinaryIO) -> Contents | Kind:
    try:
        archive = zipfile.ZipFile(file)
    except ZIP:
        return CUT
    names = {name.partition("/")[2] or name: name for name in archive.namelist()}
    if {
        "models/model.json",
        "archive_format",
    } & names.keys() or "serialized_exported_program.json" in archive.namelist():
        if "extra/metadata.json" in names:
            return OWN_GRAPH
        return Kind("exported-program", "an exported program of torch.export", GRAPH)
    if "data.pkl" in names and ("constants.pkl" in names or any(name.startswith("code/") for name in names)):
        return Kind("torchscript", "a TorchScript archive (torch.jit.save)", f"{WEIGHTS}, from the network's own code")
    if "data.pkl" in names:
        return _torch(archive, names["data.pkl"])
    return _no_checkpoint(archive)


def _torch(archive: zipfile.ZipFile, name: str) -> Contents | Kind:
    try:
        found = archive.getinfo(name)
        if found.compress_size < found.file_size:
            return Kind("damaged", "a checkpoint whose pickle is compressed, which torch.save never does", AGAIN)
        if found.file_size > MAX_PICKLE:
            return Kind("damaged", "a checkpoint whose pickle is too large to be read", "save its state dict alone")
        top, names = outline_bytes(archive.read(name))
    except (*ZIP, zlib.error, RuntimeError, NoPickle) as error:
        return _damaged(error)
    return Contents("torch", top, names)


def _damaged(error: Exception) -> Kind:
    what = " ".join(str(error).split())[:80] or type(error).__name__
    return Kind("damaged", f"a checkpoint of torch.save that is damaged ({what})", AGAIN)


def _no_checkpoint(archive: zipfile.ZipFile) -> Kind:
    names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return Kind(
            "arrays", f"an archive of {count(len(names), 'numpy arrays')} (.npz)", "give a checkpoint of PyTorch"
        )
    if "model.weights.h5" in names:
        return Kind("tensorflow", "a network of Keras (.keras)", TENSORFLOW)
    if "[Content_Types].xml" in names:
        return Kind("text", "an office document", "give a checkpoint of a network")
    found = [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))]
    inside = f" with {found[0]} in it" if found else ""
    return Kind(
        "archive", f"a zip archive of {count(len(names), 'files')}{inside}", "unpack it and give the checkpoint"
    )


def _pickles(file: BinaryIO) -> Contents | Kind:
    """A plain pickle, or torch's older format: several pickles in a row."""
    try:
        top, names = outline(file)
        if top == TORCH:
            outline(file)
            outline(file)
            top, names = outline(file)
            return Contents("torch", top, names)
    except NoPickle as error:
        return Kind("damaged", f"a pickle that is damaged ({error})", AGAIN)
    return Contents("pickle", top, names)


def _safetensors(file: BinaryIO, size: int, head: bytes) -> Contents | Kind:
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > MAX_HEADER:
        return Kind("damaged", "no safetensors file although it is called so", AGAIN)
    file.seek(8)
    try:
        header = json.loads(file.read(length))
        texts = header.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        shapes = {name: Shape(tuple(map(int, entry["shape"]))) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        return Kind("damaged", "a safetensors file whose header is cut short or damaged", AGAIN)
    missing = 8 + length + max(ends, default=0) - size
    if missing > 0:
        return Kind("damaged", f"a safetensors file that is cut short ({missing} of its bytes are missing)", AGAIN)
    return Contents("safetensors", shapes, metadata=texts if isinstance(texts, dict) else None)


def _other(path: Path, head: bytes) -> Kind:
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")[:200].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return PAGE
    if head[4:8] == b"TFL3":
        return Kind("tensorflow", "a TensorFlow Lite graph", TENSORFLOW)
    if head[257:262] == b"ustar":
        return Kind("archive", "a tar archive", "unpack it and give the checkpoint in it")
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"\x12" in head[2:4] and b"pytorch" in head[:64]):
        return Kind("onnx", "an ONNX graph", GRAPH)
    if path.suffix == ".pb":
        return Kind("tensorflow", "a graph of TensorFlow", TENSORFLOW)
    if path.suffix == ".msgpack":
        return Kind("tensorflow", "weights of Flax", TENSORFLOW)
    try:
        text = head[: HEAD - 4].decode("utf-8")
    except UnicodeDecodeError:
        return Kind("unknown", "no file that barm knows", "give a run's folder, or a checkpoint (.pth, .safetensors)")
    if "\0" in text:
        return Kind("unknown", "no file that barm knows", "give a run's folder, or a checkpoint (.pth, .safetensors)")
    what = "a JSON file" if text.lstrip()[:1] in ("{", "[") else "a text file"
    return Kind("text", what, "give a checkpoint, or the folder in which a library saved network and description")
