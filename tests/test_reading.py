"""Files that somebody else may have written: refused at once, in a few words, and never waited for."""

from __future__ import annotations

import os
import socket

import pytest
import torch

from barm.errors import UserError
from barm.reading import (
    Unfit,
    open_regular,
    read_bytes,
    read_json,
    read_pickled,
    read_safetensors,
    read_text,
    read_toml,
    read_yaml,
    real,
    state_dict_of,
)

PLACES = {
    "a named pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: os.symlink("/dev/zero", path),
    "Too many levels": lambda path: os.symlink("file", path),
}


@pytest.mark.parametrize("says", PLACES)
@pytest.mark.parametrize("read", [read_bytes, read_json, read_toml, read_pickled, read_safetensors, open_regular])
def test_what_is_no_file(says, read, tmp_path):
    PLACES[says](tmp_path / "file")
    with pytest.raises(Unfit, match=says) as found:
        read(tmp_path / "file")
    assert "\n" not in str(found.value)
    assert str(tmp_path / "file") in str(found.value)


def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("file")
        for read in (read_bytes, read_pickled):
            with pytest.raises(Unfit, match="is a socket"):
                read(tmp_path / "file")


@pytest.mark.parametrize("read", [read_bytes, read_json, read_toml, read_pickled, read_safetensors])
def test_a_missing_file_is_told_apart(read, tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    (tmp_path / "dangling").symlink_to("none")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "dangling")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
        (b"[" * 65 + b"]" * 65, "more than 64 tables"),
        (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, "nested too deeply|more than 64"),
        (b'{"a": "\xe9"}', "not UTF-8 text .* at byte 7"),
        ('{"a": 1}'.encode("utf-16-le"), "holds null bytes"),
        (b"", "not valid JSON"),
        (b"1" * 5_000, "not valid JSON"),
    ],
)
def test_json_that_is_none(content, says, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Unfit, match=says):
        read_json(tmp_path / "file")


def test_what_is_read(tmp_path):
    (tmp_path / "file").write_bytes('\ufeff{"é": [1]}'.encode())
    assert read_json(tmp_path / "file") == {"é": [1]}
    (tmp_path / "file").write_text("a.b = [1]", "utf-8")
    assert read_toml(tmp_path / "file") == {"a": {"b": [1]}}
    (tmp_path / "file").write_bytes(b"[" * 64 + b"]" * 64)
    assert isinstance(read_json(tmp_path / "file"), list)


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 50_000, "x = " + "{a=" * 3_000 + "1" + "}" * 3_000, "a." * 100 + "a = 1"]
)
def test_toml_that_is_too_deep(text, tmp_path):
    (tmp_path / "file").write_text(text, "utf-8")
    with pytest.raises(Unfit, match=r"nested too deeply|more than 64|not valid"):
        read_toml(tmp_path / "file")


def test_a_file_that_is_too_large(tmp_path):
    (tmp_path / "file").write_text("0123456789", "utf-8")
    assert read_text(tmp_path / "file", limit=10) == "0123456789"
    (tmp_path / "file").write_text("0123456789a", "utf-8")
    with pytest.raises(Unfit, match="expected at most"):
        read_text(tmp_path / "file", limit=10)
    assert read_text(tmp_path / "file", limit=None) == read_text(tmp_path / "file") == "0123456789a"


@pytest.mark.parametrize("content", [{1: 2}, {}, [torch.zeros(1)], {"a": 2}, {"a": torch.zeros(2).to_sparse()}, None])
def test_what_is_no_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "file")
    with pytest.raises(Unfit, match="holds no state dict"):
        state_dict_of(read_pickled(tmp_path / "file"), tmp_path / "file")


def test_the_real_path_of_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("a")
    assert real(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "b").symlink_to("c")
    assert real(tmp_path / "b") == real(tmp_path / "c")


def test_it_is_an_error_of_users(tmp_path):
    os.mkfifo(tmp_path / "file")
    with pytest.raises(UserError, match="expected a file; restore the file"):
        read_bytes(tmp_path / "file")


def test_yaml_holds_plain_values(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("names: {0: cat, 1: 'no'}\nlist: [1, 2.5, true]\n")
    assert read_yaml(path) == {"names": {0: "cat", 1: "no"}, "list": [1, 2.5, True]}
    path.write_text("")
    assert read_yaml(path) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", "a.yaml:2: the key 'c' is there twice"),
        ("a: &x [1]\nb:\n- *x\n", "a.yaml:1: an alias"),
        ("a: &x [*x]\n", "an alias"),
        ("a: [\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: !!python/name:os.system\n", "not valid YAML"),
        ("a: 2001-99-99\n", "not valid YAML"),
        ("[" * 100 + "]" * 100, "in each other"),
        ("[" * 5000, "nested too deeply"),
        ("x" * (1 << 19), "expected at most"),
    ],
)
def test_yaml_that_is_refused(text, told, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
