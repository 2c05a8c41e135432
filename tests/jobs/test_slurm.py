"""Jobs on a stand-in for a SLURM cluster that really runs the scripts, with a stand-in for the training."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from barm.errors import Failed, UserError
from barm.jobs import slurm
from barm.jobs.plan import JobOptions, Places, PlannedRun
from barm.jobs.sbatch import parameters, settled
from barm.jobs.slurm import states_of
from barm.jobs.states import RunView, Submission, read_submission
from barm.jobs.table import as_json, remarks

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
    folder.state("finetune")
    assert "--cpus-per-task=3" in job(folder, cluster, "finetune")["srun"], "srun does not take it over from sbatch"
    assert "dependency" not in job(folder, cluster, "mib")["options"]
    assert set(folder.wait().values()) == {"finished"}
    assert folder.times("joint")[0] > folder.times("finetune")[1]
    assert folder.lines("mib")[0].split(" ")[2] == "3", "threads"


def test_the_script_of_the_documents_tells_srun_its_processors():
    text = (Path(__file__).parents[2] / "docs/parallel.md").read_text("utf-8")
    assert re.findall("^srun (.*) --kill", text, re.MULTILINE) == ['--cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"']


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
    assert states_of(["1", "77"]) == ({"1": ("RUNNING", ""), "77": ("", "")}, "")
    assert folder.wait() == {"finetune": "finished"}


def test_a_cluster_that_refuses(folder, cluster):
    with pytest.raises(UserError, match=r"sbatch refused the job of 3-1-overlap-s1/finetune: .*invalid partition"):
        folder.submit("finetune", options=SLURM.model_copy(update={"partition": "absent"}))

    assert not folder.places.plan.exists(), "--cancel finds nothing"


def test_no_cluster(folder):
    with pytest.raises(UserError, match=r"no SLURM on this machine \(no sbatch\): use --on local, or a login node"):
        folder.submit("finetune", options=SLURM)
    assert list(folder.path.iterdir()) == []


def test_without_its_programs_nothing_is_cancelled(folder, cluster, monkeypatch):
    folder.order(finetune=[{"seconds": 60}])
    folder.submit("finetune", options=SLURM)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/usr/bin:/bin")
        for action in (folder.cancel, folder.status):
            with pytest.raises(UserError, match="no SLURM on this machine"):
                action()
    assert not folder.places.cancelled.exists()


def test_a_cluster_that_does_not_answer_loses_and_doubles_nothing(folder, cluster):
    folder.order(finetune=[{"seconds": 60}], mib=[{"seconds": 60}])
    folder.submit("finetune", "joint", "mib", options=SLURM, same_start=SHARED)
    folder.state("finetune"), folder.state("mib")
    (cluster / "down").touch()
    for name in ("finetune", "joint"):  # long ago
        path = folder.places.of(f"3-1-overlap-s1/{name}", ".job.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "when": 0}))
    assert folder.status() == {"finetune": "running", "joint": "queued", "mib": "running"}
    view = folder.run("joint")
    assert view.is_unknown
    assert view.note.startswith("SLURM did not answer: sacct: Unable to contact slurm controller (connect failure); sq")
    assert as_json(folder.path, [view])[0]["note"] == view.note
    (line,) = remarks([view, folder.run("finetune")])
    assert line == f"{view.note}; its runs are shown as last known, and none is submitted"
    (cluster / "down").unlink()
    assert folder.run("joint").note == "Dependency", "why it is pending"
    assert not folder.run("mib").note
    assert len(list(cluster.glob("*.taken"))) == 3, "nothing was submitted again"
    assert {m: folder.events(m) for m in ("finetune", "mib")} == {"finetune": ["begin"], "mib": ["begin"]}


def test_a_run_that_ended_while_nothing_answered(folder, cluster):
    folder.order(finetune=[{"seconds": 60}], joint=[{"seconds": 1}])
    folder.submit("finetune", "joint", options=SLURM)
    state = folder.state("finetune")
    (cluster / "down").touch()
    os.kill(state.pid, signal.SIGKILL)
    folder.until(lambda: folder.events("finetune")[-1] == "saved" and folder.status()["joint"] == "finished")
    assert folder.status()["finetune"] == "running", "nobody knows"
    (cluster / "down").unlink()
    assert folder.wait() == {"finetune": "finished", "joint": "finished"}
    assert folder.run("finetune").submission.job == "3"


@pytest.mark.parametrize("word", ["STAGE_OUT", "RESIZING", "A_WORD_OF_TOMORROW"])
def test_a_job_in_any_other_state_lives(tmp_path, monkeypatch, word):
    monkeypatch.setattr(slurm, "states_of", lambda jobs: ({job: slurm.Word(word) for job in jobs}, ""))
    about = {"method": "mib", "task": "3-1", "setting": "overlap", "order": 0, "seed": 1}
    run = PlannedRun(name="a", finished=False, starts=(), **about)
    view = RunView(run, "waiting", None, Submission(job="1", when=0, slot=0, silent=0), 0)
    assert slurm.Jobs(Places(tmp_path))([view]) == {"a": ("queued", "")}


def test_a_preempted_job_that_is_not_queued_again_has_ended(monkeypatch):
    said = {"sacct": ["5|PREEMPTED", "6|PREEMPTED"], "squeue": ["6 PENDING BeginTime"]}
    monkeypatch.setattr(slurm, "_ask", lambda *words: said[words[0]])
    assert states_of(["5", "6"]) == ({"5": ("", ""), "6": ("PENDING", "BeginTime")}, "")


@pytest.mark.parametrize("word", ["NODE_FAIL", "BOOT_FAIL"])
def test_a_job_that_slurm_queues_again_after_a_failed_node_lives(monkeypatch, word):
    said = {"sacct": [f"5|{word}", f"6|{word}"], "squeue": ["6 PENDING BeginTime"]}
    monkeypatch.setattr(slurm, "_ask", lambda *words: said[words[0]])
    assert states_of(["5", "6"]) == ({"5": (word, ""), "6": ("PENDING", "BeginTime")}, "")

    def silent(*words):
        if words[0] == "squeue":
            raise slurm.NoAnswer("squeue is silent")
        return said[words[0]]

    monkeypatch.setattr(slurm, "_ask", silent)
    assert states_of(["5", "6"]) == ({}, "squeue is silent")


def test_a_command_of_slurm_that_hangs(monkeypatch, cluster):
    monkeypatch.setattr(slurm, "ANSWERS", 0.0)
    assert states_of(["5"]) == ({}, "sacct took more than 0 s; squeue took more than 0 s")


def test_what_a_limit_refuses_is_submitted_later(folder, cluster):
    (cluster / "limit").write_text("2")
    folder.order(finetune=[{"seconds": 2}], joint=[{"seconds": 2}])
    assert folder.submit("finetune", "joint", "mib", options=SLURM)["mib"] == "waiting"
    folder.state("finetune"), folder.state("joint")
    view = folder.run("mib")
    assert remarks([view]) == [
        "sbatch refused the job of 3-1-overlap-s1/mib: sbatch: error: QOSMaxSubmitJobPerUserLimit; the runs that wait "
        "are submitted later"
    ]
    assert set(folder.wait().values()) == {"finished"}
    assert read_submission(folder.places, view.run.name).job == "3"


def test_a_cancellation_that_does_not_reach_the_cluster(folder, cluster, monkeypatch):
    monkeypatch.setattr("barm.jobs.control.PATIENCE", 1.0)
    folder.order(finetune=[{"seconds": 60}])
    folder.submit("finetune", "joint", options=SLURM, same_start=SHARED)
    folder.state("finetune")
    (cluster / "down").touch()
    with pytest.raises(
        Failed, match=r"did not stop in 1 s \(scancel: Unable to contact .*; give the same command again"
    ):
        folder.cancel()
    (cluster / "down").unlink()
    monkeypatch.setattr("barm.jobs.control.PATIENCE", 60.0)
    assert set(folder.cancel().values()) == {"cancelled"}


@pytest.mark.parametrize(
    ("extra", "wanted", "absent"),
    [
        ({"exclusive": True}, {"exclusive", "gpus-per-node=1", "cpus-per-task=3"}, set()),
        ({"gpus-per-node": "a100:1"}, {"gpus-per-node=a100:1"}, {"gpus-per-node=1"}),
        ({"--gpus_per_node": "a100:1"}, {"gpus-per-node=a100:1"}, {"gpus-per-node=1"}),
        ({"gres": "gpu:a100:1"}, {"gres=gpu:a100:1"}, {"gpus-per-node=1"}),
        ({"gres": "scratch:10"}, {"gres=scratch:10", "gpus-per-node=1"}, set()),
        ({"mem-per-cpu": "4G"}, {"mem-per-cpu=4G"}, {"mem=12GB"}),
        ({"cpus-per-task": "8"}, {"cpus-per-task=8"}, {"cpus-per-task=3"}),
        ({"cpus-per-gpu": "8"}, {"cpus-per-gpu=8"}, {"cpus-per-task=3", "cpus-per-task=8"}),
        ({"ntasks-per-node": "1", "partition": "big"}, {"ntasks-per-node=1", "partition=big"}, {"partition=gpu"}),
    ],
)
def test_an_option_of_sbatch_takes_the_place_of_ours(tmp_path, cluster, extra, wanted, absent):
    import submitit

    options = settled(SLURM.model_copy(update={"slurm": extra}))
    executor = submitit.SlurmExecutor(tmp_path)
    executor.update_parameters(**parameters(options, "3-1/mib", ""))
    script = executor._make_submission_file_text("train", "1").splitlines()
    lines = [line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH")]
    assert wanted <= set(lines)
    assert not absent & set(lines)
    names = [line.partition("=")[0] for line in lines]
    assert len(names) == len(set(names)), "each once"
    (srun,) = (line for line in script if line.startswith("srun "))
    assert f"--cpus-per-{'gpu' if 'cpus-per-gpu' in extra else 'task'}={options.cpus} train" in srun


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("time", "3:00:00", "--slurm time is not possible: give --time, in minutes"),
        ("depend", "afterok:1", "--slurm depend is not possible: barm sets it for --jobs and for a shared step 0: le"),
        ("job_name", "x", "--slurm job-name is not possible: jobs are called as their runs: leave it out"),
        ("requeue", True, "--slurm requeue is not possible: barm sets it, so that a run saves and is queued again"),
        ("ntasks-per-node", "2", "--slurm ntasks-per-node=2 is not possible: a run is one process; give 1"),
        ("cpus-per-task", "many", "--slurm cpus-per-task expects a number above 0, got 'many'"),
        ("p", "gpu", "--slurm takes the long names of sbatch's options, such as partition=gpu, got 'p'"),
        *(
            (key, "1", "is not possible")
            for key in ("array", "output", "error", "signal", "open-mode", "wrap", "chdir")
        ),
    ],
)
def test_an_option_of_sbatch_that_would_break_a_grid(folder, cluster, key, value, message):
    with pytest.raises(UserError, match=message):
        folder.submit("finetune", options=SLURM.model_copy(update={"slurm": {key: value}}))
    assert list(folder.path.iterdir()) == []


def test_memory_is_a_whole_number(tmp_path):
    found = [parameters(settled(JobOptions(on="slurm", memory=m)), "a", "").get("mem") for m in (12, 1.5, None)]
    assert found == ["12GB", "1536MB", None]
