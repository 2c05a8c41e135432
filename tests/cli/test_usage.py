"""The terminal: what is suggested for wrong words, how fast, and in which width and colours."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from rich.console import Console

import barm
from barm.cli import app, results
from barm.report.tables import steps_table

SOURCES = str(Path(barm.__file__).parents[1])
FAST = 1.0  # seconds of processor time; half of it is what an idle machine shows


def commands(group: Any = None, path: tuple[str, ...] = ("barm",)) -> Iterator[tuple[str, Any]]:
    """Every command, and every group, with its words."""
    command = typer.main.get_command(app) if group is None else group
    yield " ".join(path), command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


COMMANDS = dict(commands())


def shell(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``barm ...`` in a process of its own."""
    program = "import sys; sys.argv[0] = 'barm'; from barm.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": SOURCES, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example(name):
    found = re.search(r"Example: (barm\b.*)", COMMANDS[name].help or "", re.DOTALL)
    assert found, f"the docstring of `{name}` needs a last paragraph 'Example: {name} ...'"
    words = found[1].split()
    assert " ".join(words).startswith(name) or getattr(COMMANDS[name], "commands", None), found[1]


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not getattr(command, "commands", None)])
def test_every_example_names_options_that_exist(name):
    words = COMMANDS[name].help.split("Example:")[1].split()
    known = {option for p in COMMANDS[name].params for option in (*p.opts, *p.secondary_opts)}
    assert {w.split("=")[0] for w in words if w.startswith("--")} <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_has_a_word_in_brackets_which_would_be_taken_for_a_style(name):
    texts = [COMMANDS[name].help or "", *(getattr(p, "help", None) or "" for p in COMMANDS[name].params)]
    assert [text for text in texts if re.search(r"\[[a-z]", text)] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("trian",), ("unknown command 'barm trian'", "did you mean 'barm train'")),
        (("data", "chek"), ("unknown command 'barm data chek'", "did you mean 'barm data check'")),
        (("check",), ("did you mean 'barm data check'",)),
        (("xyzzy",), ("unknown command", "known: demo, train")),
        (("train", "--recpe", "x"), ("no option --recpe", "did you mean '--recipe'")),
        (("train", "--qqqq"), ("no option --qqqq", "barm train --help")),
        (("train",), ("barm train needs --recipe", "for example: barm train --recipe")),
        (("evaluate",), ("barm evaluate needs RUN", "for example: barm evaluate")),
        (("data", "check", "x", "--layout", "vok"), ("--layout expects one of auto, voc", "did you mean 'voc'")),
        (("evaluate", "x", "--step", "one"), ("--step:", "integer")),
        (("evaluate", "x", "y z"), ("does not know what to do with 'y z'",)),
        (("train", "--recipe"), ("--recipe", "argument")),
        (("bench", "--part", "losess"), ("unknown part 'losess'", "did you mean 'losses'")),
        (("train", "--recipe", "shapes/6-1/brm"), ("did you mean 'shapes/6-1/barm'",)),
    ],
)
def test_wrong_words_are_one_line_with_the_nearest_name(words, told, cli):
    status, out, err = cli(*words)
    assert (status, out) == (2, "")
    assert err.startswith("barm: ")
    assert err.count("\n") == 1
    assert all(word in err for word in told), err


def test_what_is_no_run_is_told_the_run_that_may_be_meant(cli, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "runs/demo/barm")
    for path, told in {
        "runs/demo": "expected config.toml in it; did you mean runs/demo/barm?",
        "runs/demo/bram": "there is no such folder; did you mean 'barm'?",
        "runs/demo/xyz": "there is no such folder\n",
    }.items():
        status, out, err = cli("evaluate", path)
        assert (status, out) == (2, "")
        assert f"{path} is not a run: {told}" in err


def test_version_and_help(cli):
    assert cli("--version") == (0, f"barm {barm.__version__}\n", "")
    assert cli("--help")[0] == 0
    assert cli("train", "-h")[0] == 0
    status, out, _ = cli("data")
    assert status == 2
    assert "Example: barm data check" in out


def test_json_where_a_script_wants_it(cli, tiny_run, shapes_voc):
    assert json.loads(cli("recipes", "--json")[1]) == cli("recipes")[1].split()
    assert json.loads(cli("methods", "--json")[1])["mib"].startswith("MiB")
    report = json.loads(cli("data", "check", shapes_voc, "--json")[1])
    assert report["problems"] == []
    assert report["splits"][0]["num_images"] == 24
    compared = json.loads(cli("compare", tiny_run, "--json")[1])
    metrics = json.loads((tiny_run / "step02/metrics.json").read_text())
    assert compared["rows"][0]["scores"]["all"]["mean"] == pytest.approx(metrics["miou"]["all"])
    status, out, err = cli("evaluate", tiny_run, "--json", "--quiet")
    assert (status, err) == (0, "")
    assert json.loads(out) == metrics


def test_help_and_completion_are_fast_and_load_no_torch(tmp_path):
    for words, environment in (
        (["--help"], {}),
        ([], {}),
        ([], {"_BARM_COMPLETE": "complete_bash", "COMP_WORDS": "barm train --recipe voc/", "COMP_CWORD": "3"}),
    ):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = shell(*words, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1", **environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0
        assert not re.search(r"\| +(torch|numpy|matplotlib|PIL)$", done.stderr, re.MULTILINE)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < FAST
    assert "torch" not in shell("recipes", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1").stderr


def test_a_missing_image_is_told_before_torch_is_loaded(tiny_run, tmp_path):
    """Also among images that are there; with --keep-going where none of them is."""
    Image.new("RGB", (32, 32)).save(tmp_path / "there.png")
    for words in (["nofile.jpg"], ["there.png", "nofile.jpg"], ["nofile.jpg", "--keep-going"], ["no*.jpg"]):
        done = shell("predict", str(tiny_run), *words, "--out", "seen", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
        imports, said = [], []
        for line in done.stderr.splitlines():
            (imports if line.startswith("import time:") else said).append(line)
        assert done.returncode == 2
        assert len(said) == 1
        assert "image" in said[0]
        assert words[-1 if words[0] == "there.png" else 0] in said[0]
        assert not [line for line in imports if re.search(r"\| +torch$", line)]
        assert not (tmp_path / "seen").exists()


def test_a_closed_pipe_is_no_error(tmp_path):
    program = "import sys; sys.argv[:] = ['barm', 'recipes']; from barm.cli import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": SOURCES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()  # before anything is written
    assert child.stderr.read() == b""
    assert child.wait() == 1


@pytest.mark.parametrize("width", [60, 80])
def test_narrow_terminals(width, cli, tiny_run, monkeypatch):
    """Nothing is wider than the terminal, and no name or number is cut."""
    monkeypatch.setattr(results, "out", Console(width=width))
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, _ = cli("evaluate", tiny_run, "--quiet")
    assert status == 0
    assert max(len(line) for line in out.splitlines() if str(tiny_run) not in line) <= width
    metrics = json.loads((tiny_run / "step02/metrics.json").read_text())
    for name, iou in metrics["class_iou"].items():
        assert re.search(rf"{name} .* {100 * iou:.1f} ", out)
    assert re.search(rf"{100 * metrics['average_miou']:.1f} +{100 * metrics['forgetting']:.1f} *$", out, re.MULTILINE)
    drawn = Console(width=width, file=io.StringIO())
    drawn.print(steps_table("demo", {"BARM": [metrics], "joint training": [metrics]}))
    shown = drawn.file.getvalue()
    assert "joint training" in shown
    assert shown.count(f"{100 * metrics['forgetting']:.1f}") == 2
    assert any("step" in line and "learned" in line and "average" in line for line in shown.splitlines()) == (
        width == 80
    )


def test_a_run_with_one_step_has_one_mean(tiny_settings, shapes_voc, tmp_path):
    words = ["train", "--recipe", "shapes/2-1/finetune", "--task", "offline", "--data", str(shapes_voc), "--out", "run"]
    done = shell(*words, *[w for s in tiny_settings for w in ("--set", s)], cwd=tmp_path, COLUMNS="120")
    shown = done.stdout + done.stderr
    assert re.search(r"the only step: mIoU 0\.\d{3}$", shown, re.MULTILINE), shown
    assert "step 0: mIoU" not in shown
    assert [line.split() for line in shown.splitlines() if "learned" in line] == [["step", "learned", "all"]]
    assert "mIoU in percent: the mean of all classes that the masks show, background too" in " ".join(shown.split())


def test_no_color(tmp_path):
    colour = re.compile(r"\x1b\[[\d;]*3\d")
    assert colour.search(shell("--help", cwd=tmp_path, FORCE_COLOR="1").stdout)
    assert not colour.search(shell("--help", cwd=tmp_path, FORCE_COLOR="1", NO_COLOR="1").stdout)
    assert "\x1b" not in shell("--help", cwd=tmp_path).stdout
