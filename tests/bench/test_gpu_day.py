"""Every part of the day on a GPU runs on a processor, with small sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/gpu_day.py"


def day(out: Path, *words: str) -> list[dict[str, object]]:
    command = [sys.executable, str(SCRIPT), "--small", "--device", "cpu", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    outcomes = json.loads((out / "gpu-day.json").read_text("utf-8"))
    page = (out / "gpu-day.md").read_text("utf-8")
    assert all(f"## {outcome['name']}" in page for outcome in outcomes)
    return outcomes


@pytest.mark.slow
def test_a_part(tmp_path):
    (outcome,) = day(tmp_path, "--only", "voc-large-batch")
    assert outcome["statuses"] == [0]
    assert {row["name"] for row in outcome["numbers"]["rows"]} == {"ours", "plain", "bare network"}
    assert "largest batch, predicted" in outcome["numbers"]["facts"]


@pytest.mark.long
def test_the_whole_day(tmp_path):
    names = ["machine", "tests", "voc", "launch", "ade", "voc-large-batch", "images", "training", "table", "growth"]
    outcomes = day(tmp_path, "--seconds", "900")
    assert [outcome["name"] for outcome in outcomes] == [*names, "compiled", "evaluation"]
    assert all(status == 0 for outcome in outcomes for status in outcome["statuses"])


@pytest.mark.slow
def test_a_second_day_in_the_same_folder(tmp_path):
    for _ in range(2):
        (outcome,) = day(tmp_path, "--only", "images")
        assert outcome["statuses"] == [0]


def test_parts_that_were_not_tried_are_told(tmp_path):
    command = [sys.executable, str(SCRIPT), "--small", "--device", "cpu", "--out", str(tmp_path)]
    late = subprocess.run([*command, "--seconds", "1"], capture_output=True, text=True, check=False)
    assert late.returncode == 1
    assert "not begun within 1 s: machine, tests, voc, launch" in late.stdout
    unknown = subprocess.run([*command, "--only", "nothing"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "no part is called nothing: machine, tests, voc" in unknown.stderr


def test_what_a_bare_machine_lacks():
    printed = subprocess.run([sys.executable, str(SCRIPT), "--wheels"], capture_output=True, text=True, check=True)
    assert "pydantic" in printed.stdout
