"""What a grid as jobs refuses, how it is settled and shown, and the command."""

from __future__ import annotations

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from rich.console import Console

from barm.cli import compare
from barm.errors import Stopped, UserError
from barm.jobs import control
from barm.jobs.plan import JobOptions, Places, Plan, PlannedRun, read_plan, write_record
from barm.jobs.states import NO_ANSWER, Alive, RunState, Submission, last_line, views_of
from barm.jobs.table import as_json, status_table, summary, watched


@pytest.fixture
def machine(monkeypatch):
    """A machine with four cores and two GPUs."""
    monkeypatch.setattr(control, "cores", lambda: 4)
    monkeypatch.setattr(control, "_devices", lambda: ("4", "7"))


def test_options_are_settled_by_the_machine(machine, monkeypatch):
    options, devices = control._settled(JobOptions())
    assert (options.jobs, options.gpus, options.cpus, devices) == (2, 1, 2, ("4", "7"))
    options, devices = control._settled(JobOptions(jobs=4, gpus=0))
    assert (options.jobs, options.gpus, options.cpus, devices) == (4, 0, 1, ())
    assert control._settled(JobOptions(jobs=9, gpus=0))[0].cpus == 1
    options, devices = control._settled(JobOptions(on="slurm", cpus=8))
    assert (options.jobs, options.gpus, options.cpus, options.time, devices) == (None, 1, 8, 1440, ())
    monkeypatch.setattr(control, "_devices", lambda: ())
    options, _ = control._settled(JobOptions())
    assert (options.jobs, options.gpus, options.cpus) == (1, 0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 3}, "--jobs 3, but 2 GPUs here: give at most as many, or --gpus 0"),
        ({"memory": 8}, "--memory is for a cluster: leave it out, or say --on slurm"),
        ({"slurm": {"qos": "long"}}, "--slurm is for a cluster"),
    ],
)
def test_options_that_do_not_fit(machine, options, message):
    with pytest.raises(UserError, match=message):
        control._settled(JobOptions(**options))


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(control, "_devices", lambda: ())
    with pytest.raises(UserError, match="--gpus 1, but no GPU is visible here"):
        control._settled(JobOptions(gpus=1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--status"], "--status is about the runs of a grid: give --grid FILE too"),
        (["--jobs", "2"], "--jobs is about the runs of a grid"),
        (["--grid", "g.toml", "--gpus", "0"], "--gpus is about jobs: say --on local or --on slurm too"),
        (["--grid", "g.toml", "--on", "local", "--cancel"], "give one of --on, --status and --cancel"),
        (["--grid", "g.toml", "--on", "slurm", "--slurm", "qos="], "--slurm expects key=value .*, got 'qos='"),
        (["--grid", "g.toml", "--on", "slurm", "--slurm", "wait"], "--slurm wait is not possible: "),
        (["--grid", "g.toml", "--on", "slurm"], "no SLURM on this machine"),
        (["--grid", "g.toml", "--status"], "runs/g has no jobs: start the runs with .* --on local"),
    ],
)
def test_the_command_refuses(cli, tmp_path, words, message):
    (tmp_path / "g.toml").write_text('recipes="shapes"\nmethods=["mib"]\ntasks=["6-1"]\n')
    status, _, err = cli("compare", *words)
    assert status == 2
    assert err.count("\n") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "increment.crop=abc"], "6-1-overlap-s1/mib: .*increment.crop.*abc"),
        (["--data", "absent"], "6-1-overlap-s1/mib: no folder .*absent: expected a data set there; check --data"),
        (["--data", "SHAPES"], "6-1-overlap-s1/mib: task '6-1' .*classes"),
        (
            ["--data", "SHAPES", "--gpus", "0", "--set", "runtime.device=cuda"],
            "runtime.device=cuda needs a GPU, but --",
        ),
        (["--data", "SHAPES", "--gpus", "0", "--set", "runtime.precision=16-mixed"], "precision=16-mixed needs a GPU"),
    ],
)
@pytest.mark.parametrize("on", ["local", "slurm"])
def test_every_run_is_checked_before_anything_begins(cli, cluster, shapes_voc, tmp_path, on, words, message):
    (tmp_path / "g.toml").write_text('recipes="shapes"\nmethods=["mib"]\ntasks=["6-1"]\n[shapes]\n')
    words = [str(shapes_voc) if word == "SHAPES" else word for word in words]
    status, _, err = cli(
        "compare", "--grid", str(tmp_path / "g.toml"), "--on", on, "--out", str(tmp_path / "o"), *words
    )
    assert status == 2
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not (tmp_path / "o").exists()
    assert not list(cluster.iterdir())


def test_cancelled_runs_have_not_failed(cli, folder, tmp_path):
    folder.order(finetune=[{"seconds": 60}], mib=[{"status": 2, "say": "no disk"}])
    lists = {"methods": ["mib", "finetune", "joint"], "tasks": ["3-1"], "overrides": list(folder.settings)}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lists.items())
    (tmp_path / "g.toml").write_text(f'recipes = "shapes"\n{text}')
    grid = ("compare", "--grid", str(tmp_path / "g.toml"), "--out", str(folder.path))
    local = ("--data", str(folder.data), "--on", "local", "--jobs", "1", "--gpus", "0")
    with ThreadPoolExecutor() as pool:
        cancelled = pool.submit(lambda: (folder.state("finetune"), folder.cancel()))
        status, _, err = cli(*grid, *local)
        assert cancelled.result()[1] == {"mib": "failed", "finetune": "cancelled", "joint": "cancelled"}
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("cancelled: ")] == [
        "cancelled: 3-1-overlap-s1/finetune",
        "cancelled: 3-1-overlap-s1/joint",
    ]
    assert sum(line.startswith("failed: 3-1-overlap-s1/mib: ") for line in lines) == 1
    assert status == 2
    assert lines[-1].startswith("barm: 1 run failed, the first: 3-1-overlap-s1/mib: ")
    assert lines[-1].endswith("; 2 runs were cancelled: the same command goes on with them")
    found = json.loads(cli(*grid, "--status", "--json")[1])
    assert [(run["state"], run["why"] is None) for run in found] == [("failed", False), *[("cancelled", True)] * 2]


def test_cancelled_runs_alone():
    with pytest.raises(Stopped, match=r"^1 run was cancelled: the same command goes on with it$") as stopped:
        compare._end([], ["a"])
    assert stopped.value.signum == signal.SIGTERM
    compare._end([], [])


def test_without_submitit(cli, tmp_path, monkeypatch):
    (tmp_path / "g.toml").write_text('recipes="shapes"\nmethods=["mib"]\ntasks=["6-1"]\n')
    monkeypatch.setattr(control, "find_spec", lambda name: None)
    status, _, err = cli("compare", "--grid", "g.toml", "--on", "local")
    assert (status, err.count("\n")) == (2, 1)
    assert "runs as jobs need submitit, which is not installed: pip install 'barm-seg[cluster]'" in err


def planned(out, *states):
    """A plan with a run for every state of a job, and its files."""
    places, runs = Places(out), []
    for seed, state in enumerate(states):
        name = f"6-1-overlap-s{seed}/mib"
        runs.append(
            PlannedRun(
                name=name, method="mib", task="6-1", setting="overlap", order=0, seed=seed, finished=False, starts=()
            )
        )
        if state is not None:
            began = {"began": time.time() - 60, "host": "node1", "pid": 1, "job": "5", "seconds": 30, "ended": None}
            write_record(places.of(name, ".state.json"), RunState(**{"failures": 0, **began, **state}))
            write_record(places.of(name, ".job.json"), Submission(job="5", when=0, slot=1, silent=0))
    plan = Plan(
        grid={},
        root="data",
        host="node1",
        cwd=".",
        options=JobOptions(jobs=2, cpus=1),
        devices=("4", "7"),
        runs=tuple(runs),
    )
    write_record(places.plan, plan)
    return plan, places


def test_how_runs_stand(tmp_path):
    states = [None, *({"status": s} for s in ("running", "stopped", "finished")), {"status": "failed", "failures": 2}]
    plan, places = planned(tmp_path, *states, {"status": "running", "failures": 1}, {"status": "running"})
    alive = {"6-1-overlap-s6/mib": Alive("running")}
    views = views_of(plan, places, lambda submitted: alive)
    found = [view.status for view in views]
    assert found == ["waiting", "waiting", "waiting", "finished", "failed", "failed", "running"]
    assert summary(views) == "7 runs: 1 finished, 1 running, 3 waiting, 2 failed"
    assert views[5].why(places).startswith("its job died without a word, twice (for want of memory?); see ")
    assert 89 <= views[6].seconds(time.time()) < 95
    places.cancelled.touch()
    assert [view.status for view in views_of(plan, places, lambda _: {})][:3] == ["cancelled"] * 3


def test_how_they_are_shown(tmp_path):
    plan, places = planned(tmp_path, {"status": "running"})
    run = tmp_path / "6-1-overlap-s0/mib"
    (run / "step00").mkdir(parents=True)
    (run / "log.csv").write_text("step,epoch,iteration,name,value\n1,1,40,loss,0.5\n")
    views = views_of(plan, places, lambda _: {"6-1-overlap-s0/mib": Alive("running")})
    console = Console(width=120)
    with console.capture() as shown:
        console.print(status_table(tmp_path, views))
    cells = [cell.strip() for cell in shown.get().splitlines()[3].strip("│").split("│")]
    assert cells == ["mib", "6-1 overlap", "0", "running", "1, update 40", "1.5", "node1, GPU 7, job 5"]
    (record,) = json.loads(json.dumps(as_json(tmp_path, views)))
    assert (record["state"], record["step"], record["where"]) == ("running", "1, update 40", "node1, GPU 7, job 5")


@pytest.mark.parametrize("live", [True, False])
def test_what_is_shown_while_they_run(tmp_path, capsys, monkeypatch, live):
    monkeypatch.setattr("barm.jobs.table.is_live", lambda console: live)
    monkeypatch.setattr("barm.jobs.table.Console", partial(Console, force_terminal=live, width=120))
    plan, places = planned(tmp_path, None, {"status": "failed", "failures": 2, "last": "no [disk]"})
    with watched(tmp_path, quiet=False) as show:
        show(views_of(plan, places, lambda _: {}))
        show(views_of(plan, places, lambda _: {"6-1-overlap-s0/mib": Alive("running")}))
        show(views_of(plan, places, lambda _: {"6-1-overlap-s0/mib": Alive("running", f"{NO_ANSWER}: why")}))
    err = capsys.readouterr().err
    if live:
        assert "running" in err
    else:
        log = places.of("6-1-overlap-s1/mib", ".log")
        lines = [f"[1/2] 6-1-overlap-s1/mib: failed: no [disk]; see {log}", "[1/2] 6-1-overlap-s0/mib: running"]
        lines.append("SLURM did not answer: why; its runs are shown as last known, and none is submitted")
        assert err.splitlines() == lines
    with watched(tmp_path, quiet=True) as show:
        show(views_of(plan, places, lambda _: {}))
    assert capsys.readouterr().err == ""


def test_damaged_files(tmp_path):
    plan, places = planned(tmp_path, {"status": "running"})
    places.of("6-1-overlap-s0/mib", ".state.json").write_text('{"status": "going"}')
    with pytest.raises(UserError, match=r"mib\.state\.json is damaged \(status: .*\): remove it"):
        views_of(plan, places, lambda _: {})
    places.plan.write_text("{")
    with pytest.raises(UserError, match=r"plan\.json is damaged .*: remove .*jobs"):
        read_plan(places)


def test_jobs_of_another_machine(tmp_path):
    planned(tmp_path, {"status": "running"})
    for action in (control.grid_status, control.cancel_grid):
        with pytest.raises(UserError, match="were started on node1: give this command there"):
            action(tmp_path)


def test_the_last_line_of_a_log(tmp_path):
    (tmp_path / "log").write_text("a\n" * 9000 + "the end\n\n")
    assert last_line(tmp_path / "log") == "the end"
    assert last_line(tmp_path / "log", 18009) == last_line(tmp_path / "absent") == ""


def test_another_grid_does_not_take_the_place_of_one_at_work(folder):
    folder.order(finetune=[{"seconds": 60}])
    folder.submit("finetune")
    with pytest.raises(UserError, match="jobs of another grid, or started in another way, are at work there"):
        folder.submit("finetune", seeds=(2,))
    folder.submit("finetune", options=JobOptions(jobs=1, gpus=0))
    assert read_plan(folder.places).options.jobs == 1
