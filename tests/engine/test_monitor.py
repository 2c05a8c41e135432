"""What is logged, and what a terminal and a log file get."""

from __future__ import annotations

import csv
import io
import re
import time
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from barm.api import fit
from barm.engine import monitor
from barm.engine.monitor import Monitor, track


def test_the_log_holds_every_nth_update_and_the_last(tiny, tmp_path):
    fit(tiny("barm", "3-1", "base.epochs=2", "runtime.log_every=4"), out=tmp_path / "run", steps=[0], quiet=True)
    with (tmp_path / "run/log.csv").open() as file:
        logged = [int(r["iteration"]) for r in csv.DictReader(file) if r["name"] == "loss"]
    total = logged[-1]
    assert total > 4
    assert logged == sorted({*range(1, total, 4), total})


class Terminal(io.StringIO):
    """A stream that says that somebody watches it."""

    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_plain_lines_and_a_terminal_a_bar(monkeypatch):
    monkeypatch.setattr(monitor, "FIRST_LINE", 0.02)
    log, screen = io.StringIO(), Terminal()
    for stream, options in ((log, {"force_terminal": True}), (screen, {})):  # colours forced, as in many a CI
        with track(Console(file=stream, width=60, **options), "predicting", 10) as done:
            for _ in range(10):
                time.sleep(0.005)
                done()
    lines = log.getvalue().splitlines()
    assert 1 <= len(lines) <= 9
    assert all(re.fullmatch(r"predicting: \d+/10 · about \d+ s left", line) for line in lines)
    assert "\r" not in log.getvalue()
    assert "\x1b[" in screen.getvalue()
    quiet = io.StringIO()
    with track(Console(file=quiet, quiet=True), "predicting", 10) as done:
        time.sleep(0.03)
        done()
    assert quiet.getvalue() == ""


def test_a_resumed_step_says_what_cannot_be_read_of_the_log_and_leaves_it_out(tmp_path):
    """The last line of a killed run may be cut short, and the step's own updates are done again."""
    header = "step,epoch,iteration,name,value\n"
    bad = "0,0,5,loss,abc\n0,x,5,loss,1\nnonsense\n"
    (tmp_path / "log.csv").write_text(f"{header}0,0,5,loss,1.5\n{bad}1,0,3,loss,2.5\n1,0,7,loss,3.5\n1,0,8,lo")
    said = io.StringIO()
    for _ in range(2):
        with Monitor(True, tensorboard=False, console=Console(file=said, width=60)) as shown:
            shown.path = tmp_path / "log.csv"
            shown.start_step("step 1 of 2", 1, 5, 10, 10, 4)
        assert (tmp_path / "log.csv").read_text().split() == [header.strip(), "0,0,5,loss,1.5", "1,0,3,loss,2.5"]
    assert said.getvalue() == "3 lines of log.csv cannot be read and are left out of it now\n"


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def heard(monkeypatch, tmp_path, seconds: float, updates: int, log_every: int = 10):
    """Lines of a log file with the time at which each was written, from the end of the first update on."""
    began, clock, log, lines = 0.0, Clock(), io.StringIO(), list[tuple[float, str]]()
    monkeypatch.setattr(monitor, "time", clock)
    with Monitor(True, tensorboard=False, console=Console(file=log, no_color=True, width=200)) as shown:
        shown.open(tmp_path)
        shown.start_step("step 0 of 2", 0, 0, updates, 100, 4)
        for update in range(1, updates + 1):
            clock.now += max(3.0, seconds) if update == 1 else seconds
            began = clock.now if update == 1 else began
            shown.progress(update, {"loss": 1.0} if update % log_every == 0 or update == updates else None, 0.1)
            if len(log.getvalue().splitlines()) > len(lines):
                lines.append((clock.now - began, log.getvalue().splitlines()[-1]))
        shown.end_step()
    return lines


@pytest.mark.parametrize(("seconds", "log_every"), [(0.3, 10), (0.3, 100_000), (4.0, 10), (25.0, 10)])
def test_a_log_file_hears_soon_how_long_it_takes(seconds, log_every, monkeypatch, tmp_path):
    lines = heard(monkeypatch, tmp_path, seconds, 2000, log_every)
    assert lines[0][0] <= 10
    for when, line in lines[:-1]:
        found = re.search(r"(\d+)/2000 · .*about (?:(\d+) h )?(?:(\d+) min|(\d+) s) left$", line)
        assert found, line
        hours, minutes, rest = (int(v or 0) for v in found.groups()[1:])
        if when:  # of the first update alone nothing better is known than its own time
            left = (2000 - int(found[1])) * seconds
            assert 3600 * hours + 60 * minutes + rest == pytest.approx(left, rel=0.05, abs=40)
    gaps = np.diff([when for when, _ in lines[:-1]])
    assert gaps[0] < 60 + seconds
    assert gaps.max() <= 300 + seconds
    assert all(later > 0.8 * earlier for earlier, later in pairwise(gaps))
    assert len(lines) < 12 + 2000 * seconds / 300
    assert lines[-1][1].startswith("step 0 of 2: 2000/2000")


def test_a_short_training_says_its_end_alone(monkeypatch, tmp_path):
    lines = heard(monkeypatch, tmp_path, 0.01, 100)
    assert [line.split(" · ")[0] for _, line in lines] == ["step 0 of 2: 100/100"]


def test_training_into_a_log_file(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = io.StringIO()
    with Monitor(True, tensorboard=False, console=Console(file=log, no_color=True)) as shown:
        assert not shown.live
        shown.open(tmp_path)
        shown.start_step("step 0 of 2", 0, 0, 2, 2, 4)
        shown.progress(1, {"bce": 1.0}, 0.1)
        shown.progress(2, {"bce": 0.5}, 0.1)
        shown.end_step()
    assert "\r" not in log.getvalue()
    assert re.search(r"step 0 of 2: 2/2 · epoch 1 · bce 0.500", log.getvalue())
