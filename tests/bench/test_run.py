"""The benchmark measures what it says: the plain way computes the same, every part runs, bad names are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from barm.bench.cases import AUTOCAST, OURS
from barm.bench.measure import Cost
from barm.bench.run import fastest_launch, run_bench, setting_of, step_of
from barm.cli import app
from barm.errors import UserError

ROOT = Path(__file__).parents[2]


def tiny(task: str = "15-1", step: int = 2):
    return setting_of("test_resnet", task, 20, step, 2, 65, "cpu", "32-true")


def test_names_are_checked(tmp_path):
    with pytest.raises(UserError, match="unknown part 'losess'; did you mean 'losses'"):
        run_bench(tiny(), ["losess"], 1, tmp_path / "data")
    with pytest.raises(UserError, match="unknown backbone 'no_net'"):
        run_bench(setting_of("no_net", "15-1", 20, 1, 2, 65, "cpu", "auto"), ["step"], 1, tmp_path / "data")


def test_growth_beyond_a_mask():
    step = step_of((1000, 1))
    assert (step.index, step.num_seen, step.group_sizes) == (1, 1002, (1000, 1))


def test_the_command(shapes_voc, tmp_path):
    words = ["bench", "--model", "test_resnet", "--crop", "65", "--rounds", "1", "--device", "cpu", "--quiet"]
    words += ["--out", str(tmp_path / "out"), "--data", str(shapes_voc), "--precision", "32-true"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "bare network" in done.output
    result = json.loads((tmp_path / "out/bench.json").read_text())
    assert {r["part"] for r in result["rows"]} == {"step", "losses", "evaluation", "loader"}
    assert all(r["median"] > 0 and r["least"] <= r["median"] <= r["most"] for r in result["rows"])
    assert {"plain / bare network", "matrix product, TFLOP/s", "3x3 convolution, TFLOP/s"} <= set(result["facts"])
    assert "ours, rest on the device" in {r["name"] for r in result["rows"]}
    assert result["facts"]["counts of the same outputs, ours and plain"] == "the same"
    assert result["provenance"]["git"]


@pytest.mark.long
def test_the_standard_set(shapes_voc, tmp_path):
    """What `make bench` and, on a GPU, `make bench-gpu` run: here tiny and on the processor."""
    once = dict.fromkeys(("ROUNDS", "GROWTH_ROUNDS", "LOADER_ROUNDS"), "1")
    small = {"MODEL": "test_resnet", "CROP": "33", "DEVICE": "cpu", **once, "CONSTANT_ROUNDS": "1"}
    small |= {"CONSTANT_CROP": "33", "BACKBONES": "test_convnext", "STEP_CROP": "33", "STEP_BACKBONES": "test_vit"}
    env = {
        **os.environ,
        **small,
        "OUT": str(tmp_path),
        "DATA": str(shapes_voc),
        "BARM": str(Path(sys.executable).with_name("barm")),
    }
    done = subprocess.run([ROOT / "benchmarks/standard.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    names = {p.parent.name for p in tmp_path.glob("*/bench.json")}
    assert names == {
        "voc-15-1",
        "loader",
        "voc-15-1-losses",
        "ade-100-10",
        "ade-100-10-evaluation",
        "growth",
        "profile",
        "constant-test_convnext",
        "step-test_vit",
    }
    constant = json.loads((tmp_path / "constant-test_convnext/bench.json").read_text())
    assert (constant["model"]["backbone"], constant["crop"], constant["batch"]) == ("test_convnext", 33, 8)
    assert constant["provenance"]["threads"] == 1
    assert [r["name"] for r in constant["rows"]][:2] == [OURS, AUTOCAST]
    assert re.match(rf"ours [\d.]+ \(1\.00 x\), {AUTOCAST} [\d.]+", constant["facts"]["processor seconds, median"])
    assert (tmp_path / "growth/growth.png").stat().st_size > 10_000
    facts = json.loads((tmp_path / "profile/bench.json").read_text())["facts"]
    assert {"profile 1", "profile 10"} <= set(facts)
    assert all(0 < float(facts[f"convolutions' share of an {w}"][:-2]) < 100 for w in ("update", "evaluation"))
    growth = json.loads((tmp_path / "growth/bench.json").read_text())["facts"]
    assert "given back" in growth["50 branches, freed memory"]


def cost(median: float, first: float) -> Cost:
    return Cost(median, median, median, None, None, first)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"ours, compiled": cost(0.04, 30.0)}, "as it is; runtime.compile and runtime.cuda_graphs stay as they are"),
        (
            {"ours, compiled": cost(0.02, 41.0), "kernel by kernel": cost(0.05, 0.5)},
            "ours, compiled, with runtime.compile=true: 0.0100 s less of 0.0300 s; it starts 40 s later, so it is for "
            "steps with more updates than 4000",
        ),
        (
            {"kernel by kernel, compiled": cost(0.025, 2.0)},
            "kernel by kernel, compiled, with runtime.compile=true and runtime.cuda_graphs=false: 0.0050 s less of "
            "0.0300 s; it starts 1 s later, so it is for steps with more updates than 200",
        ),
        (
            {"kernel by kernel": cost(0.025, 0.5)},
            "kernel by kernel, with runtime.cuda_graphs=false: 0.0050 s less of 0.0300 s; it starts 0 s later, so it "
            "is for steps with more updates than 0",
        ),
    ],
)
def test_the_fastest_launch_pays_after_some_updates(others, expected):
    assert fastest_launch({"ours": cost(0.03, 1.0), **others}) == expected
