"""A process that dies ends all others within the limit, with its message; one that works long does not."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from barm.engine.distributed import launcher as processes
from barm.engine.distributed import links, watch
from barm.errors import UserError

WORKER = Path(__file__).with_name("watch_worker.py")
SILENCE = 1.5


def start(
    folder: Path, world: int, deed: str, dying: int = 0, waiting: str = "collective", silence: float = SILENCE
) -> list[subprocess.Popen]:
    processes = []
    for rank in range(world):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        env |= {"BARM_SILENCE": str(silence)}
        words = [sys.executable, str(WORKER), str(folder), deed, str(dying), waiting]
        processes.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    return processes


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and stderr of each; none may take longer than a few seconds."""
    until = time.monotonic() + 20
    try:
        return [(p.wait(max(0.1, until - time.monotonic())), p.stderr.read()) for p in processes]
    finally:
        for process in processes:
            process.kill()


SAYS = {
    "sigkill": "ended without a word: it was killed",
    "segfault": "ended without a word: it was killed",
    "os_exit": "ended without a word: it was killed",
    "sys_exit": "ended before its work was done",
    "sigstop": "has not answered for 1.5 s",
    "exception": "failed: ValueError: image 7 is broken",
    "user_error": "failed: no data on this machine",
}
OWN = {"sigkill": -signal.SIGKILL, "segfault": -signal.SIGSEGV, "os_exit": 0, "sys_exit": 0, "sigstop": -signal.SIGKILL}


@pytest.mark.parametrize("dying", [0, 1])
@pytest.mark.parametrize("deed", sorted(SAYS))
def test_one_that_dies_ends_all(deed, dying, tmp_path):
    found = ends(start(tmp_path, 3, deed, dying))
    status, own = found.pop(dying)
    assert status == OWN.get(deed, 2 if deed == "user_error" else 1)
    if deed == "user_error":
        assert own == "barm: no data on this machine\n"
    elif deed == "exception":
        assert own.startswith("Traceback")
        assert own.endswith("ValueError: image 7 is broken\n")
    else:
        assert own == ""
    for status, err in found:
        assert status == 1
        assert err.startswith(f"barm: process {dying} of 3 (")
        assert SAYS[deed] in err
        assert err.count("\n") == 1, err


@pytest.mark.parametrize("waiting", ["broken", "word"])
@pytest.mark.parametrize("dying", [0, 2])
def test_however_the_others_find_out(dying, waiting, tmp_path):
    """A collective that breaks, and a wait for the others."""
    found = ends(start(tmp_path, 3, "sigkill", dying, waiting))
    assert found.pop(dying) == (-signal.SIGKILL, "")
    for status, err in found:
        assert status == 1
        assert err.startswith(f"barm: process {dying} of 3 (")
        assert err.count("\n") == 1, err


def test_an_error_that_all_have_is_shown_once(tmp_path):
    found = ends(start(tmp_path, 3, "together", silence=12.0))  # so that a late one lives to fail by itself
    assert found == [(2, "barm: all have found the same\n"), (2, ""), (2, "")]


def test_who_lives_is_left_alone(tmp_path):
    """Who leaves before the others; who works longer than anybody may be silent; a job that was suspended and woken."""
    groups = []
    for deed in ("end", "long", "suspend"):
        (tmp_path / deed).mkdir()
        groups.append(start(tmp_path / deed, 3, deed, silence=2.0))
    time.sleep(1)
    for process in groups[-1]:
        process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    for process in groups[-1]:
        process.send_signal(signal.SIGCONT)
    for group in groups:
        assert ends(group) == [(0, "")] * 3


@pytest.mark.parametrize("value", ["0", "-3", "soon", "inf", "nan"])
def test_silence_is_a_number_of_seconds(value, monkeypatch):
    monkeypatch.setenv("BARM_SILENCE", value)
    with pytest.raises(UserError, match=f"BARM_SILENCE is a number of seconds above 0, got '{value}'"):
        watch.silence()
    monkeypatch.delenv("BARM_SILENCE")
    assert watch.silence() == 30


def test_strangers_are_not_let_in():
    """Who does not know the word that the process group hands out is shown the door, and keeps nobody waiting."""
    shared = queue.Queue()
    with ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(links.accept, 2, True, shared.put)
        port, token = shared.get()
        for greeting in (b"7\n", b"GET / HTTP/1.1\r\n\r\n", b'["guess", 1, "here", 1]\n'):
            with socket.create_connection((links.LOOPBACK, port), timeout=10) as stranger, suppress(ConnectionError):
                stranger.sendall(greeting)
                assert stranger.recv(10) == b""
        here = links.connect(1, True, lambda _: (port, token))
        (there,) = accepting.result(10)
    assert (here.rank, there.rank, here.pid, there.pid) == (0, 1, os.getpid(), os.getpid())
    here.socket.close()
    there.socket.close()


def test_who_stays_away_is_named(monkeypatch):
    monkeypatch.setattr(links, "JOIN", 0.1)
    with pytest.raises(UserError, match="process 1, 2 of 3 did not connect to port"):
        links.accept(3, True, lambda _: None)


def test_the_process_that_talks(monkeypatch):
    """By torchrun's variables, by SLURM's, and in a shell that SLURM has given."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.processes(), processes.rank(), watch.is_first()) == ((1, 1), 0, True)
    slurm = {"NTASKS": 4, "NNODES": 2, "PROCID": 2, "LOCALID": 0, "JOB_NAME": "barm"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert (processes.processes(), processes.rank(), watch.is_first()) == ((2, 2), 2, False)
    assert watch.fail("no driver on this machine", 2)  # the first one of its machine
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert not watch.fail("no driver on this machine", 2)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert (processes.processes(), processes.rank(), watch.is_first()) == ((1, 1), 0, True)
    for name, value in {"RANK": 5, "LOCAL_RANK": 1, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert (processes.processes(), processes.rank(), watch.is_first()) == ((4, 2), 5, False)
