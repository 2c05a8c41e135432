"""Jobs on a stand-in for a SLURM cluster that really runs the scripts, with a stand-in for the training."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from barm.errors import UserError
from barm.jobs.plan import JobOptions
from barm.jobs.slurm import states_of

SLURM = JobOptions(on="slurm", gpus=1, cpus=3, time=30, partition="gpu", memory=12, slurm={"account": "vision"})
SHARED = (("finetune", "joint"),)


def job(folder, cluster, method):
    """What the cluster knows of a run's job."""
    return json.loads((cluster / f"{folder.run(method).submission.job}.json").read_text())


def test_the_jobs_ask_for_what_is_wanted_and_wait_for_a_shared_start(folder, cluster):
    folder.order(finetune=[{"seconds": 1}])
    assert folder.submit("finetune", "joint", "mib", options=SLURM, same_start=SHARED)["joint"] == "queued"
    options = job(folder, cluster, "joint")["options"]
    wanted = {"partition": "gpu", "gpus-per-node": "1", "cpus-per-task": "3", "mem": "12GB", "time": "30"}
    wanted |= {"requeue": "", "account": "vision", "signal": "USR2@300", "dependency": "afterok:1", "nodes": "1"}
    assert wanted.items() <= options.items()
    assert options["job-name"] == "barm-3-1-overlap-s1-joint"
    assert "dependency" not in job(folder, cluster, "mib")["options"]
    assert set(folder.wait().values()) == {"finished"}
    assert folder.times("joint")[0] > folder.times("finetune")[1]
    assert folder.lines("mib")[0].split(" ")[2] == "3", "threads"


def test_at_most_so_many_at_once(folder, cluster):
    folder.submit("finetune", "joint", "mib", options=SLURM.model_copy(update={"jobs": 1}), same_start=SHARED)
    found = [job(folder, cluster, m)["options"].get("dependency") for m in ("finetune", "joint", "mib")]
    assert found == [None, "afterok:1,afterany:1", "afterany:2"]


def test_preemption_queues_the_job_again_and_a_killed_one_is_submitted_anew(folder, cluster):
    folder.order(finetune=[{"seconds": 60}], joint=[{"seconds": 60}])
    folder.submit("finetune", "joint", options=SLURM)
    folder.state("finetune"), folder.state("joint")
    subprocess.run(["scancel", "--signal", "USR2", folder.run("finetune").submission.job], check=True)
    os.kill(folder.state("joint").pid, signal.SIGKILL)
    assert set(folder.wait().values()) == {"finished"}
    assert folder.events("finetune") == folder.events("joint") == ["begin", "saved", "begin", "end"]
    assert job(folder, cluster, "finetune")["ran"] == 2, "the same job"
    assert folder.run("joint").submission.job == "3", "another one"
    assert (folder.run("finetune").failures, folder.run("joint").failures) == (0, 1)


def test_a_start_that_fails_does_not_lose_the_others(folder, cluster):
    folder.order(finetune=[{"start": False, "status": 1, "seconds": 0}] * 2)
    folder.submit("finetune", "joint", options=SLURM, same_start=SHARED)
    assert folder.wait() == {"finetune": "failed", "joint": "finished"}
    assert "dependency" not in job(folder, cluster, "joint")["options"]


def test_a_start_that_is_ended_again_and_again_does_not_lose_the_others(folder, cluster):
    folder.order(finetune=[{"seconds": 60, "start": False}, {"seconds": 60, "start": False}, {}])
    folder.submit("finetune", "joint", options=SLURM, same_start=SHARED)
    for _ in range(2):
        os.kill(folder.state("finetune").pid, signal.SIGTERM)  # it saves; the cluster gives joint's job up
        folder.until(lambda: folder.events("finetune")[-1] == "saved")
        folder.until(lambda: folder.status() and folder.events("finetune")[-1] != "saved")
    assert set(folder.wait().values()) == {"finished"}
    assert folder.events("joint") == ["begin", "end"]


def test_cancelled_jobs_leave_the_cluster(folder, cluster):
    folder.order(finetune=[{"seconds": 60}])
    folder.submit("finetune", "joint", options=SLURM, same_start=SHARED)
    folder.state("finetune")
    assert set(folder.cancel().values()) == {"cancelled"}
    assert {json.loads(path.read_text())["state"] for path in cluster.glob("*.json")} == {"CANCELLED"}
    assert folder.events("finetune") == ["begin", "saved"]


def test_a_cluster_without_accounting_is_asked_for_its_queue(folder, cluster, monkeypatch):
    monkeypatch.setenv("NO_ACCOUNTING", "1")
    folder.order(finetune=[{"seconds": 1}])
    folder.submit("finetune", options=SLURM)
    folder.state("finetune")
    assert states_of(["1", "77"]) == {"1": "RUNNING", "77": ""}
    assert folder.wait() == {"finetune": "finished"}


def test_a_cluster_that_refuses(folder, cluster):
    with pytest.raises(UserError, match=r"sbatch refused the job of 3-1-overlap-s1/finetune: .*invalid partition"):
        folder.submit("finetune", options=SLURM.model_copy(update={"partition": "absent"}))


def test_no_cluster(folder):
    with pytest.raises(UserError, match="no SLURM on this machine"):
        folder.submit("finetune", options=SLURM)
