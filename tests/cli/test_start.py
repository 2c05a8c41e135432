"""What comes next, as `barm` alone says."""

from __future__ import annotations

import shutil

import typer

from barm.cli import app
from barm.cli.start import advice

COMMANDS = typer.main.get_command(app).commands


def test_barm_alone_says_what_comes_next(cli, tiny_run, tmp_path):
    status, out, err = cli()
    assert (status, err) == (0, "")
    assert "barm demo" in out
    assert "barm data check DIR" in out
    (tmp_path / "runs").mkdir()
    shutil.copytree(tiny_run, tmp_path / "runs/mine")
    out = cli()[1]
    assert "newest run is runs/mine (barm, 4 classes" in out
    assert "barm evaluate runs/mine" in out
    assert "--resume" not in out
    assert out.count("\n") < 20
    shutil.rmtree(tmp_path / "runs/mine/step02")
    lines = cli()[1]
    assert "finished 2 of 3 steps" in lines
    command = next(line for line in lines.splitlines() if "--resume" in line).split()
    assert command == ["barm", "train", "--out", "runs/mine", "--resume"]
    assert cli(*command[1:], "--quiet")[0] == 0
    assert (tmp_path / "runs/mine/step02/metrics.json").is_file()
    shutil.copytree(tmp_path / "runs/mine", tmp_path / "runs/other")
    assert "barm compare runs/mine runs/other" in cli()[1]


def test_advice_names_only_commands_that_exist(tmp_path):
    assert not any("demo" in line for line in advice(tmp_path, {"train", "data"}))
    named = {line.split()[1] for line in advice(tmp_path, COMMANDS) if line.startswith("  barm ")}
    assert named <= set(COMMANDS)
