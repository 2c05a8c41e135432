"""Training in two processes of which one comes to harm; run by test_death, once for all kinds of harm.

Everything is imported once, then every case forks its two processes: starting is what takes the time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

import barm.api
import barm.report.tables  # noqa: F401
from barm.cli import main
from barm.data.dataset import StepDataset
from barm.engine.checkpoint.directory import RunDirectory

LIMIT = 60.0  # seconds, much more than is needed


def run_case(folder: Path, case: dict, words: list[str]) -> dict | None:
    """What became of a case; None in one of its processes, which is to go on and train."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group, ranks = 0, list[int]()
    for rank in range(2):
        pid = os.fork()
        if not pid:
            os.setpgid(0, group)
            become(rank, port, folder, case, words)
            return None
        group = group or pid
        os.setpgid(pid, group)
        ranks.append(pid)
    try:
        harm(folder, case, ranks)
        statuses = ended(ranks)
        return {"statuses": statuses, "group": group, "err": [said(folder, rank) for rank in range(2)]}
    finally:
        for pid in ranks:  # a stopped one too
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def become(rank: int, port: int, folder: Path, case: dict, words: list[str]) -> None:
    """Turn this process into one of the run."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test"}
    file = os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["barm", *words, "--out", str(folder / "run"), "--set", f"runtime.workers={case['workers']}"]
    if case["who"] == rank:
        prepare(case["deed"])


def prepare(deed: str) -> None:
    """Harm from within."""
    load = StepDataset.load

    def broken(self, index, key, lut, marks):
        if key[0] >= 2:
            if deed == "exception":
                raise ValueError("image 7 is broken")
            sys.exit(0)
        return load(self, index, key, lut, marks)

    if deed in ("exception", "leave"):
        StepDataset.load = broken
    elif deed == "save":

        def save_partial(self, index, state):
            raise ZeroDivisionError("a fault in the program")

        RunDirectory.save_partial = save_partial


def harm(folder: Path, case: dict, ranks: list[int]) -> None:
    """Harm from without, once the training is under way."""
    if case["deed"] not in ("sigkill", "sigstop", "loader"):
        return
    log, until = folder / "run/log.csv", time.monotonic() + LIMIT
    while not (log.exists() and log.read_text().count(",loss,") >= 2):
        assert time.monotonic() < until, folder
        assert not said(folder, 0) + said(folder, 1)
        time.sleep(0.02)
    pid = ranks[case["who"]]
    if case["deed"] == "loader":
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP if case["deed"] == "sigstop" else signal.SIGKILL)


def ended(ranks: list[int]) -> list[int | None]:
    """Exit statuses; None for a process that does not end."""
    found, until = dict[int, int](), time.monotonic() + LIMIT
    while len(found) < len(ranks) and time.monotonic() < until:
        for pid in set(ranks) - set(found):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                found[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [found.get(pid) for pid in ranks]


def still_there(group: int, patience: float = 20.0) -> bool:
    """Does any process of the case live on, loaders included?"""
    until = time.monotonic() + patience
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        if time.monotonic() >= until:
            return True
        time.sleep(0.05)


def said(folder: Path, rank: int) -> str:
    path = folder / f"{rank}.err"
    return path.read_text() if path.exists() else ""


def all_cases(folder: Path, words: list[str]) -> None:
    torch.set_num_threads(1)
    outcomes = {}
    for case in json.loads((folder / "cases.json").read_text()):
        found = run_case(folder / case["name"], case, words)
        if found is None:
            return main()
        outcomes[case["name"]] = found
    for name, found in outcomes.items():  # loaders of a killed process notice within a few seconds
        found["left"] = still_there(found["group"])
        if found["left"]:
            os.killpg(found["group"], signal.SIGKILL)
        (folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    all_cases(Path(sys.argv[1]), sys.argv[2:])
