"""300 cases of the campaign on every run of the tests; ``make hostile`` tries 20 000. And that it can fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BAD = """
import os, socket, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
import campaign
from fuzz_targets import Target
from barm.errors import UserError

def refused(folder): raise UserError("expected x, found y: mend it")
def two_lines(folder): print("barm: a", file=sys.stderr); raise UserError("b")
def steers(folder): print("barm: \\x1b[31ma", file=sys.stderr); sys.exit(2)
def writes(folder): open("../beside", "w")
def linked(folder): os.symlink("..", "up"); open("up/beside", "w")
def renames(folder): os.rename("a.txt", "../a.txt")
def ran(folder): (folder / campaign.CANARY).touch()
def grows(folder): len(bytearray(2200 << 20))
def dies(folder): os.abort()
def works(folder):
    while time.process_time() < 100:
        pass
CALLS = {{
    "taken": lambda folder: None,
    "one line": refused,
    "traceback": lambda folder: {{}}["missing"],
    "traceback ": lambda folder: (_ for _ in ()).throw(RecursionError()),
    "hang": lambda folder: time.sleep(60),
    "hang ": dies,
    "hang  ": works,
    "memory": grows,
    "outside": writes,
    "outside ": linked,
    "outside  ": renames,
    "outside a program": lambda folder: os.system("true"),
    "outside another": lambda folder: subprocess.run(["true"]),
    "outside a talk": lambda folder: socket.getaddrinfo("localhost", 80),
    "outside code": ran,
    "wrong": two_lines,
    "wrong ": steers,
}}
campaign.LIMIT, campaign.WAIT = 2, 6  # by the clock 12 s: a busy machine fills 2 GiB in no less
targets = [Target("", name, {{"a.txt": b"a\\n"}}, ("a.txt",), call) for name, call in CALLS.items()]
place = Path({place!r})
cases = [campaign.Case(i, n) for i in range(len(targets)) for n in range(2)]
for case, result in zip(cases, campaign.results(cases, targets, "1", place), strict=True):
    column, why = campaign.judge(result)
    expected = targets[case.target].name
    assert expected.startswith(column), (expected, column, why)
    assert bool(why) == (column not in ("taken", "one line")), (expected, why)
print("seen", len(cases))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by /proc")
def test_the_campaign_sees_what_it_looks_for(tmp_path):
    (tmp_path / "work").mkdir()
    done = run("-c", BAD.format(here=str(HERE), place=str(tmp_path / "work")))
    assert done.stdout.strip() == "seen 34", done.stdout + done.stderr[-2000:]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by /proc")
def test_300_hostile_files():
    done = run(str(HERE / "campaign.py"), "--cases", "300")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    rows = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines()}
    assert {"recipes", "grid files", "lists", "step folders", "images and masks", "uploads"} <= set(rows)
    assert {"caches", "imports", "checkpoints", "archives", "records"} <= set(rows)
    tried, refused, taken, *bad = map(int, rows["all"])
    assert tried >= 285
    assert refused + taken == tried
    assert refused > tried / 3  # hostile indeed
    assert not any(bad)
    assert re.search(r"; 0 bad$", done.stdout.strip())
