"""The terminal: what is offered, suggested and completed, how fast, and what reaches a log file."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console

import barm
from barm.cli import app, main, results
from barm.cli.completion import STATIC
from barm.cli.start import advice
from barm.engine import monitor
from barm.engine.monitor import Monitor, track
from barm.predict.images import KINDS
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
    assert command == ["barm", "train", "--recipe", "runs/mine/config.toml", "--out", "runs/mine", "--resume"]
    assert cli(*command[1:], "--quiet")[0] == 0
    assert (tmp_path / "runs/mine/step02/metrics.json").is_file()
    shutil.copytree(tmp_path / "runs/mine", tmp_path / "runs/other")
    assert "barm compare runs/mine runs/other" in cli()[1]


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


def test_advice_names_only_commands_that_exist(tmp_path):
    assert not any("demo" in line for line in advice(tmp_path, {"train", "data"}))
    named = {line.split()[1] for line in advice(tmp_path, COMMANDS["barm"].commands) if line.startswith("  barm ")}
    assert named <= set(COMMANDS["barm"].commands)


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


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("barm tra", ["train"]),
        ("barm train --recipe shapes/6-1/mi", ["shapes/6-1/mib"]),
        ("barm evaluate ru", ["runs/deep/mine"]),
        ("barm evaluate runs/deep/", ["runs/deep/mine"]),
        ("barm compare runs/deep/mine r", ["runs/deep/mine"]),
        ("barm evaluate runs/deep/mine --step ", ["0", "1", "2"]),
        ("barm predict runs/deep/mine p.png --step 0 --classes ", "classes of step 0"),
        ("barm predict runs/deep/mine p.png --write mask,o", ["mask,overlay"]),
        ("barm bench --part lo", ["losses", "loader"]),
        ("barm data check --layout v", ["voc"]),
    ],
)
def test_completion(line, offered, tmp_path, tiny_run, monkeypatch, capsys):
    (tmp_path / "runs/deep").mkdir(parents=True)
    (tmp_path / "runs/deep/mine").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["barm"])
    words = line.split(" ")
    for name, value in (("_BARM_COMPLETE", "complete_bash"), ("COMP_WORDS", line), ("COMP_CWORD", len(words) - 1)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit):
        main()
    if offered == "classes of step 0":
        offered = json.loads((tiny_run / "step00/metrics.json").read_text())["learned"]
    assert sorted(capsys.readouterr().out.split()) == sorted(offered)


def test_completion_knows_what_there_is():
    from barm.bench.run import PARTS

    assert STATIC["write"] == KINDS
    assert set(STATIC["part"]) == set(PARTS)


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
    assert "mIoU in percent: the mean of all classes and background" in " ".join(shown.split())


def test_no_color(tmp_path):
    colour = re.compile(r"\x1b\[[\d;]*3\d")
    assert colour.search(shell("--help", cwd=tmp_path, FORCE_COLOR="1").stdout)
    assert not colour.search(shell("--help", cwd=tmp_path, FORCE_COLOR="1", NO_COLOR="1").stdout)
    assert "\x1b" not in shell("--help", cwd=tmp_path).stdout
