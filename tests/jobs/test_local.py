"""Jobs on this machine, with a stand-in for the training: what runs beside what, deaths, preemption, cancellation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from barm.errors import Failed
from barm.jobs.plan import JobOptions
from barm.jobs.states import is_held, read_state

ONE = JobOptions(jobs=1, gpus=0)
SHARED = (("finetune", "joint"),)


def test_two_at_once(folder):
    folder.order(finetune=[{"seconds": 1.5}], joint=[{"seconds": 0.5}], mib=[{"seconds": 1.5}])
    assert set(folder.submit("finetune", "mib", "joint").values()) <= {"waiting", "queued", "running"}
    assert set(folder.wait().values()) == {"finished"}
    (first, first_end), (other, other_end) = folder.times("finetune"), folder.times("mib")
    assert max(first, other) < min(first_end, other_end), "side by side"
    assert folder.times("joint")[0] >= min(first_end, other_end), "the third waits for a place"
    assert folder.lines("mib")[0].split(" ")[2:] == ["3", ""], "its threads, and no GPU"
    assert folder.run("mib").seconds(0) >= 1.5
    folder.until(lambda: not is_held(folder.places.lock("keeper")))


def test_a_gpu_each(folder, monkeypatch):
    monkeypatch.setattr("barm.jobs.control._devices", lambda: ("4", "7"))
    folder.order(finetune=[{"seconds": 2}], joint=[{"seconds": 2}])
    folder.submit("finetune", "joint", options=JobOptions())
    assert set(folder.wait().values()) == {"finished"}
    assert {folder.lines(method)[0].split(" ")[3] for method in ("finetune", "joint")} == {"4", "7"}


def test_a_job_without_a_note_is_not_started_twice(folder):
    folder.order(finetune=[{"seconds": 3}])
    folder.submit("finetune")
    folder.state("finetune")
    folder.places.of("3-1-overlap-s1/finetune", ".job.json").unlink()  # as if the keeper had died before it
    assert folder.status() == {"finetune": "running"}
    assert folder.wait() == {"finetune": "finished"}
    assert folder.events("finetune") == ["begin", "end"]


def test_a_shared_start_is_waited_for(folder):
    folder.order(finetune=[{"before": 1, "seconds": 60}])
    folder.submit("finetune", "joint", same_start=SHARED)
    folder.until(lambda: folder.events("joint") == ["begin", "end"])
    assert folder.events("finetune") == ["begin"], "step 0 is enough"
    assert folder.times("joint")[0] > folder.times("finetune")[0] + 1


def test_a_failed_run_is_retried_once_and_reported(folder):
    failure = {"status": 1, "say": "no more disk"}
    folder.order(finetune=[{"status": 1}], joint=[failure, failure], mib=[{"signal": 9}, {"signal": 9}])
    folder.submit("finetune", "joint", "mib", same_start=(("joint", "finetune"),))
    assert folder.wait() == {"finetune": "finished", "joint": "failed", "mib": "failed"}
    assert folder.events("finetune") == folder.events("joint") == ["begin", "end"] * 2
    assert folder.run("joint").why(folder.places) == f"no more disk; see {folder.path}/jobs/3-1-overlap-s1/joint.log"
    assert folder.run("mib").why(folder.places).startswith("it was ended by SIGKILL (for want of memory?); see ")
    (folder.path / "orders.json").unlink()
    folder.submit("finetune", "joint", "mib")
    assert set(folder.wait().values()) == {"finished"}, "the same command tries them again"


def test_a_run_whose_settings_are_wrong_is_not_tried_again(folder):
    folder.order(finetune=[{"status": 2, "say": "barm: no folder data: expected a data set there; check --data"}])
    folder.submit("finetune", "joint")
    assert folder.wait() == {"finetune": "failed", "joint": "finished"}
    assert folder.events("finetune") == ["begin", "end"]
    assert folder.run("finetune").why(folder.places).startswith("barm: no folder data: expected a data set there; ")
    folder.submit("finetune", "joint")
    assert set(folder.wait().values()) == {"finished"}, "the same command tries it again"


def test_a_killed_and_a_preempted_job_go_on(folder):
    folder.order(finetune=[{"seconds": 60}], joint=[{"seconds": 60}])
    folder.submit("finetune", "joint")
    os.kill(folder.state("finetune").pid, signal.SIGKILL)  # the training notices, saves and ends
    os.kill(folder.state("joint").pid, signal.SIGUSR2)
    assert set(folder.wait().values()) == {"finished"}
    assert folder.events("finetune") == folder.events("joint") == ["begin", "saved", "begin", "end"]
    assert (folder.run("finetune").failures, folder.run("joint").failures) == (1, 0)
    assert folder.run("joint").begun, "queued again, not submitted anew"


def test_nothing_is_lost_with_the_keeper(folder):
    folder.order(finetune=[{"seconds": 3}])
    folder.submit("finetune", "joint", options=ONE)
    folder.state("finetune")
    os.kill(keeper(folder.path), signal.SIGKILL)
    folder.until(lambda: is_finished(folder, "finetune"))
    assert not folder.events("joint")
    assert folder.status()["joint"] in ("waiting", "queued")  # and starts another keeper
    folder.until(lambda: folder.events("joint") == ["begin", "end"])
    assert set(folder.wait().values()) == {"finished"}


def is_finished(folder, method):
    """Whether a run's job says so."""
    state = read_state(folder.places, f"3-1-overlap-s1/{method}")
    return state is not None and state.status == "finished"


def keeper(path):
    """The keeper's process, found by its words."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        words = file.read_bytes().split(b"\0") if file.exists() else []
        if b"barm.jobs.local" in words and str(path).encode() in words:
            return int(file.parent.name)
    raise AssertionError("no keeper")


def test_cancelled_runs_save_and_the_same_command_goes_on(folder):
    folder.order(finetune=[{"seconds": 60}])
    folder.submit("finetune", "joint", options=ONE)
    folder.state("finetune")
    assert folder.cancel() == {"finetune": "cancelled", "joint": "cancelled"}
    assert folder.status() == {"finetune": "cancelled", "joint": "cancelled"}, "nothing starts by itself"
    assert folder.events("finetune") == ["begin", "saved"]
    folder.submit("finetune", "joint", options=ONE)
    assert set(folder.wait().values()) == {"finished"}


@pytest.mark.long
def test_a_time_limit_saves_and_goes_on(folder):
    folder.order(finetune=[{"seconds": 120}])
    folder.submit("finetune", options=JobOptions(jobs=1, gpus=0, time=1))  # told to save after half of it
    folder.until(lambda: folder.events("finetune") == ["begin", "saved", "begin", "end"], 90)


def test_a_job_that_never_begins(folder, monkeypatch):
    monkeypatch.setenv("NOTHING_BEGINS", "1")
    folder.submit("finetune")
    assert folder.wait() == {"finetune": "failed"}
    assert "no such library; see " in folder.run("finetune").why(folder.places)


def test_a_keeper_that_ends_at_once(folder, monkeypatch):
    monkeypatch.setattr("barm.jobs.control.ensure_keeper", lambda places: True)
    folder.submit("finetune")
    folder.places.of("keeper", ".log").write_text("Traceback\nOSError: no space left\n")
    with pytest.raises(Failed, match="the process that starts the runs ends at once: OSError: no space left; see"):
        folder.wait()
