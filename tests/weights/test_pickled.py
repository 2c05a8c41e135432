"""Pickles are read without executing them: the same values, and shapes in place of tensors."""

from __future__ import annotations

import io
import pickle
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from barm.weights.pickled import NoPickle, outline, outline_bytes, shape_of

VALUE = {"a": [1, -5, 1 << 70, 2.5, None, True, "text", b"bytes"], "t": (1, (2, 3), ()), 7: {"deep": [[], {}]}}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_themselves(protocol):
    value, names = outline_bytes(pickle.dumps(VALUE, protocol=protocol))
    assert {**value, "a": value["a"][:-1]} == {**VALUE, "a": VALUE["a"][:-1]}
    assert value["a"][-1] == b"bytes" or protocol < 3  # which write bytes as a call
    assert protocol < 3 or not names


def test_one_value_in_two_places_stays_one():
    value = outline_bytes(pickle.dumps([shared := ["x"], shared]))[0]
    assert value[0] is value[1]
    circle: list[object] = []
    circle.append(circle)
    value = outline_bytes(pickle.dumps(circle))[0]
    assert value[0] is value


def test_shapes_of_tensors_of_every_kind():
    class Own(torch.Tensor):
        pass

    tensors = {
        "plain": torch.zeros(2, 3),
        "half": torch.zeros(4, dtype=torch.bfloat16),
        "parameter": nn.Parameter(torch.zeros(5)),
        "scalar": torch.tensor(1),
        "meta": torch.zeros(6, device="meta"),
        "array": np.zeros((7, 8)),
        "none": "text",
    }
    stream = io.BytesIO()
    torch.save(OrderedDict(tensors), stream, _use_new_zipfile_serialization=False)
    stream.seek(0)
    for _ in range(3):
        outline(stream)
    table, _ = outline(stream)
    shapes = {name: shape_of(value) for name, value in table.items()}
    assert shapes == {**{name: tuple(t.shape) for name, t in tensors.items() if name != "none"}, "none": None}


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x80\x04.", b"\x80\x04]e.", b"\x80\x02}q\x00h\x05.", b"\x80\x04R."]
)
def test_what_is_no_pickle(content):
    with pytest.raises(NoPickle):
        outline_bytes(content)


def test_long_values_are_neither_read_nor_believed():
    array = pickle.dumps({"a": np.zeros(20_000_000, np.uint8), "b": 1}, protocol=4)
    began = time.perf_counter()
    table, _ = outline(io.BytesIO(array))
    assert table["b"] == 1
    assert shape_of(table["a"]) == (20_000_000,)
    assert time.perf_counter() - began < 2
    with pytest.raises(NoPickle, match="cut short"):
        outline_bytes(b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x.")
