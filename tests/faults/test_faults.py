"""Some cells of the campaign of faults on every run of the whole suite; ``make faults`` runs all of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds open files in /proc"),
]


def campaign(out: Path, *words: str) -> tuple[int, dict[str, int], list[dict[str, object]], str]:
    """Run the script: status, totals, cells and what it printed."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out), *words],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (out / "faults.json").exists(), run.stdout + run.stderr[-2000:]
    record = json.loads((out / "faults.json").read_text())
    return run.returncode, record, record["cells"], run.stdout


def test_nothing_is_lost_and_nothing_is_silent(tmp_path):
    """Every fourteenth cell: all phases, most faults."""
    status, totals, cells, shown = campaign(tmp_path, "--every", "14")
    assert status == 0, shown
    assert totals["lost"] == totals["silent"] == 0
    assert totals["survived"] + totals["named"] >= 19, shown
    assert len({cell["phase"] for cell in cells}) == 13
    assert len({cell["fault"] for cell in cells}) >= 8
    assert re.search(r"lost 0, silent 0", shown)


@pytest.mark.parametrize(
    ("broken", "words", "column"),
    [
        pytest.param(
            *("steps", ("--phase", "step 0", "--fault", "SIGKILL", "--seed", "3"), "lost"), marks=pytest.mark.long
        ),
        ("flush", ("--phase", "step 0", "--fault", "power cut"), "lost"),
        ("checksums", ("--phase", "grid", "--fault", "bit flipped", "--seed", "3"), "silent"),
    ],
)
def test_a_program_that_is_broken_on_purpose_is_found_out(broken, words, column, tmp_path):
    """Steps not stored as a whole, nothing flushed, no checksum compared: the campaign must see each."""
    status, totals, _, shown = campaign(tmp_path, "--broken", broken, *words)
    assert totals[column] > 0, shown
    assert status == 1


def test_messages_must_name_the_file_itself():
    """And each kind of damage takes the files that few phases leave."""
    here = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import doctest, kinds; print(doctest.testmod(kinds))"
    )
    run = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, check=False)
    assert "TestResults(failed=0, attempted=5)" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("phase", ["data get", "increment"])
def test_two_at_once_are_so_at_the_same_time(phase, tmp_path):
    _, totals, cells, shown = campaign(tmp_path, "--phase", phase, "--fault", "two at once")
    assert totals["survived"] == 1, shown
    detail = str(cells[0]["detail"])
    assert re.match(r"the second at event \d+ of \d+ of the first: \['barm: ", detail)
    assert "is in use by another run" in detail or "is being fetched by another process" in detail


def test_a_fault_that_this_user_cannot_bring_about_is_counted_as_such(tmp_path, monkeypatch):
    """Without the right to mount there is no full disk."""
    mount = tmp_path / "bin/mount"
    mount.parent.mkdir()
    mount.write_text("#!/bin/sh\necho 'mount: must be superuser to use mount' >&2; exit 1\n")
    mount.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mount.parent}{os.pathsep}{os.environ['PATH']}")
    status, totals, cells, shown = campaign(tmp_path / "out", "--phase", "index", "--fault", "disk full")
    assert status == 0
    assert totals["impossible"] == 1
    assert totals["survived"] == totals["injected"] == 0
    assert "must be superuser" in str(cells[0]["detail"])
    assert "Injected 0, survived 0" in shown
    assert "Not possible here: 1" in shown
