"""A pass without gradients is offered where training would take long, with its price."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from barm.api import fit
from barm.data.sources.shapes_disk import make_shapes
from barm.extension import offer as offers
from barm.extension.plan import Request, make_plan

NEW = "green-plain-heart"


@pytest.fixture
def lamp(tmp_path):
    make_shapes(tmp_path / "new", num_classes=4, only=[NEW], num_train=4, num_val=2, size=(48, 48), seed=5)
    return tmp_path / "new"


@pytest.mark.parametrize(("method", "suits"), [("mib", True), ("ssul", False)])
def test_where_it_suits(method, suits, tiny, lamp, tmp_path):
    """For many updates on a processor, and for a network whose branches the regression can stand on."""
    fit(tiny(method, "3-1"), out=tmp_path / "run", steps=[0], quiet=True)
    plan, rt = make_plan(Request(tmp_path / "run", lamp, [NEW], step=0))
    line = offers.offer(plan, rt, offers.MANY)
    assert (line is not None) == suits
    assert offers.offer(plan, rt, offers.MANY - 1) is None
    assert offers.offer(plan, SimpleNamespace(device=torch.device("cuda")), offers.MANY) is None
    if line is not None:
        assert line.startswith("300 updates on a processor take a while; --recipe folder/segacil")


def test_the_price_is_the_documented_one(tiny, lamp, tmp_path):
    text = (Path(__file__).parents[2] / "docs/teach.md").read_text("utf-8")
    trained, solved = (
        [float(cell) for cell in re.findall(r"\| (\d+\.\d) ", row)]
        for row in re.findall(r"^ +\| (?:`barm extend` with BARM|the same with).*", text, re.MULTILINE)
    )
    fit(tiny("barm", "3-1"), out=tmp_path / "run", steps=[0], quiet=True)
    line = offers.offer(*make_plan(Request(tmp_path / "run", lamp, [NEW], step=0)), offers.MANY)
    said = [int(number) for number in re.findall(r"\b\d\d\b", line)]
    assert said == [round(v) for v in (solved[0], trained[0], solved[1], trained[1])]
