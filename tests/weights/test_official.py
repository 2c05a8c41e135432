"""What an official checkpoint was trained on is read off the file, and contradictions are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from barm.errors import UserError
from barm.weights.kind import Kind
from barm.weights.official import settle

KIND = Kind(
    "official-barm", "a checkpoint", "", "import", groups=(15,), step=0, model="deeplabv3bga_resnet50", method="barm"
)
LATER = replace(KIND, groups=(15, 5), step=1)


def test_the_tensors_say_it():
    origin = settle(LATER, Path("model.pth"))
    assert (origin.dataset, origin.task, origin.step) == ("voc", "15-5", 1)
    assert (origin.model, origin.method, origin.others) == ("deeplabv3bga_resnet50", "barm", ())
    assert settle(KIND, Path("model.pth")).others == ("15-5",)
    ade = settle(replace(KIND, groups=(100, 10), step=1, method="ssul"), Path("model.pth"))
    assert (ade.dataset, ade.task, ade.method) == ("ade", "100-10", "ssul")


def test_the_name_of_the_file_decides_between_tasks():
    named = Path("deeplabv3bga_resnet50_voc_15-5_step_0_overlap.pth")
    assert settle(KIND, named).task == "15-5"
    assert settle(KIND, named).others == ()
    assert settle(KIND, Path("deeplabv3bga_resnet50_voc_10-1_step_0_overlap.pth")).task == "15-1", (
        "a name that is wrong"
    )
    assert settle(KIND, named, task="15-1").task == "15-1"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"step": 1}, "--step 1 does not fit: model.pth is a checkpoint"),
        ({"model": "deeplabv3_mobilenet"}, "--model deeplabv3_mobilenet does not fit"),
        ({"task": "10-1"}, "--dataset voc --task 10-1 does not fit"),
        ({"dataset": "ade", "task": "100-10"}, "--dataset ade --task 100-10 does not fit"),
    ],
)
def test_contradictions(said, words):
    with pytest.raises(UserError, match=words):
        settle(KIND, Path("model.pth"), **said)


def test_one_network_has_two_names():
    assert settle(KIND, Path("model.pth"), model="deeplabv3_resnet50").model == "deeplabv3_resnet50"


def test_what_the_file_does_not_tell_is_asked_for():
    odd = replace(KIND, groups=(7, 2, 3), step=2, model="")
    with pytest.raises(UserError, match="give --dataset and --task and --model"):
        settle(odd, Path("model.pth"))
    with pytest.raises(UserError, match=r"model.pth is an empty file: fetch it"):
        settle(Kind("empty", "an empty file", "fetch it"), Path("model.pth"))
