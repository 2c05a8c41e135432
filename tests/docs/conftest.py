"""A shell for the documents' commands: real bash, in which `barm`, `python`, `torchrun` and `srun` start at once.

Starting Python with torch takes seconds and the documents have many commands. So these programs are scripts of a few
lines here, which ask the test's own process, where everything is loaded, to fork and go on as that program would.
Costly commands are cut short by words that are added to theirs, as a user could type them.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
import torch
from PIL import Image

import barm.demo
from barm.data.sources.shapes import render
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.distributed import watch
from barm.models.segmenter import MODELS

ROOT = Path(__file__).parents[2]
LIMIT = 120  # seconds for a block
SIDE = 48
SHORT = (  # a network that trains in a second
    "model.backbone=test_resnet",
    "model.pretrained=false",
    "model.channels=16",
    "base.epochs=1",
    "increment.epochs=1",
    "base.batch_size=8",
    "increment.batch_size=4",
    f"base.crop={SIDE}",
    f"increment.crop={SIDE}",
    f"evaluation.crop={SIDE}",
    "runtime.workers=0",
    "runtime.tensorboard=false",
)
ADDED = {  # to the words of a command; of two equal options the last counts
    ("barm", "train"): [word for setting in SHORT for word in ("--set", setting)],
    ("barm", "data", "make"): ["--train", "40", "--val", "8", "--size", str(SIDE)],
    ("barm", "bench"): ["--crop", "64", "--rounds", "1"],
    ("docs/draw.py", "runs/demo", "images"): ["residual", "groups", "scores"],
    ("train.py",): ["--train_epoch", "1", "--batch_size", "2", "--crop_size", str(SIDE)],
    ("eval.py",): ["--crop_size", str(SIDE)],
}
GIVEN = {  # what a page may say that its reader has
    "runs/demo": "barm demo --quiet",
    "runs/own": "barm data make shapes own --classes 4; barm train --recipe shapes/2-1/barm --data own --out runs/own",
}
PROGRAMS = ("barm", "python", "torchrun", "srun")
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect({address!r})
    text = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(s, [len(text).to_bytes(4, "big")], [0, 1, 2])
    s.sendall(text)
    status = s.recv(1)
sys.exit(status[0] if status else 1)
"""
OTHERS = {
    "sbatch": """#!/bin/bash
        option() {{ sed -nE "s/^#SBATCH --$1=([0-9]+).*/\\1/p" $2; }}
        export SLURM_JOB_ID=1234 SLURM_JOB_NAME=barm SLURM_NNODES=$(option nodes $1)
        export SLURM_NTASKS_PER_NODE=$(option ntasks-per-node $1)
        export SLURM_NTASKS=$((SLURM_NNODES * SLURM_NTASKS_PER_NODE))
        bash -eu $1""",
    "make": """#!/bin/bash
        {make} -C {root} -n "$@" > /dev/null""",  # the target exists
}


class Done(NamedTuple):
    """How a script ended and what it said."""

    status: int
    out: str
    err: str


class Shell:
    """Runs scripts in a folder.

    Args:
        place: for the programs and the socket; a short path.
        folder: where the scripts run.
    """

    def __init__(self, place: Path, folder: Path) -> None:
        self.folder, self.programs = folder, place / "bin"
        self.programs.mkdir()
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(place / "socket"))
        self.server.listen()
        self.server.settimeout(0.01)
        self.children: dict[socket.socket, list[int]] = {}
        texts = {p: CLIENT.format(python=sys.executable, address=str(place / "socket"), name=p) for p in PROGRAMS}
        texts |= {n: t.format(make=shutil.which("make"), root=ROOT) for n, t in OTHERS.items()}
        for name, text in texts.items():
            (self.programs / name).write_text(text, "utf-8")
            (self.programs / name).chmod(0o755)
        self.env = {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}", "HOME": str(folder)}
        self.env |= {"BARM_BACKBONE_WEIGHTS": "none", "HF_HUB_OFFLINE": "1"}

    def run(self, script: str) -> Done:
        """Run a bash script, which stops at the first command that fails."""
        place = self.programs.parent
        with (place / "out").open("w+") as out, (place / "err").open("w+") as err:
            bash = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
            began = time.monotonic()
            while bash.poll() is None:
                self._serve()
                if time.monotonic() - began > LIMIT:
                    bash.kill()
                    pytest.fail(f"longer than {LIMIT} s:\n{script}")
            out.seek(0), err.seek(0)
            return Done(bash.returncode, out.read(), err.read())

    def _serve(self) -> None:
        """Start what is asked for, and tell who waits how what has ended went."""
        with suppress(TimeoutError):
            client, _ = self.server.accept()
            start, fds, _, _ = socket.recv_fds(client, 4, 3)
            text = b""
            while len(text) < int.from_bytes(start, "big"):
                text += client.recv(1 << 20)
            name, words, cwd, env = json.loads(text)
            self.children[client] = [_fork(name, words, cwd, e, fds) for e in _environments(name, words, env)]
            for fd in fds:
                os.close(fd)
        for client, pids in list(self.children.items()):
            ended = [os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in pids]
            if all(ended):
                status = max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
                client.sendall(bytes([status % 256]))
                client.close()
                del self.children[client]


def _environments(name: str, words: list[str], env: dict[str, str]) -> list[dict[str, str]]:
    """One environment per process that the launcher would start; its own words are taken away."""
    if name == "torchrun":
        number = 1
        while words[0].startswith("--"):
            option, _, value = words.pop(0).partition("=")
            number = int(value) if option == "--nproc_per_node" else number
        shared = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "GROUP_RANK": "0"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "TORCHELASTIC_RUN_ID": "docs"}
        return [{**env, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    if name == "srun":
        while words[0].startswith("--"):
            words.pop(0)
        number, local = int(env["SLURM_NTASKS"]), int(env["SLURM_NTASKS_PER_NODE"])
        shared = {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": _free_port()}
        ranks = [{"SLURM_PROCID": r, "SLURM_LOCALID": r % local, "SLURM_NODEID": r // local} for r in range(number)]
        return [{**env, **shared, **{k: str(v) for k, v in rank.items()}} for rank in ranks]
    return [env]


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _fork(name: str, words: list[str], cwd: str, env: dict[str, str], fds: Sequence[int]) -> int:
    """A child that goes on as the program, and its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        _become(name, words)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush(), sys.stderr.flush()
            watch.leave()  # at python's exit otherwise
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
        os._exit(status)


def _become(name: str, words: list[str]) -> None:
    """Be `barm` with these words, or Python with a module or a file."""
    for about in MODELS.values():  # the published names, with a network that trains in a second
        about["backbone"] = "test_resnet"
    barm.demo.NUM_TRAIN, barm.demo.NUM_VAL = 40, 8
    barm.demo.SHORTER.update({method: [*SHORT] for method in barm.demo.METHODS_SHOWN})
    if name != "barm" and words[0] == "python":  # below a launcher
        words = words[1:]
    if name == "barm" or words[:2] == ["-m", "barm.cli"]:
        sys.argv = ["barm", *_shortened(["barm", *(words if name == "barm" else words[2:])])[1:]]
        from barm.cli import main

        main()
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
    else:
        sys.argv = _shortened(words)
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def _shortened(words: list[str]) -> list[str]:
    """The words of a command with those that cut it short."""
    if "--grid" in words:
        _shorten_grid(Path(words[words.index("--grid") + 1]))
    return [*words, *(more for start, added in ADDED.items() if words[: len(start)] == [*start] for more in added)]


def _shorten_grid(path: Path) -> None:
    """Leave the first of each list of a grid, and small data."""
    grid = tomllib.loads(path.read_text("utf-8"))
    grid.pop("same_start", None)
    for key in ("methods", "tasks", "settings", "orders", "seeds"):
        grid |= {key: grid[key][:1]} if key in grid else {}
    grid["overrides"] = [*grid.get("overrides", ()), *SHORT]
    if "shapes" in grid:
        grid["shapes"] |= {"train": 40, "val": 8, "size": SIDE}
    path.write_text(tomli_w.dumps(grid), "utf-8")


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader is taken to have: both data sets (small generated ones), a photo, the checkout's own files."""
    place = tmp_path_factory.mktemp("reader")
    make_shapes(place / "VOC2012", layout="voc", num_train=40, num_val=4, size=(SIDE, SIDE), workers=0)
    ade = place / "ADEChallengeData2016"
    make_shapes(ade, layout="ade", num_train=150, num_val=4, size=(SIDE, SIDE), workers=0)
    Image.fromarray(render(0, split="val", num_classes=20, size=(96, 64), seed=0).image).save(place / "photo.jpg")
    return place


@pytest.fixture
def reader(stand_ins: Path, tmp_path: Path) -> Path:
    """A folder of one's own with these things in it."""
    for entry in stand_ins.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    for name in ("train.py", "eval.py", "run.sh", "run_init.sh", "Makefile", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    return tmp_path


@pytest.fixture
def shell(reader: Path) -> Iterator[Callable[[str], Done]]:
    """A function that runs a bash script in the reader's folder."""
    with tempfile.TemporaryDirectory(prefix="docs") as place:
        yield Shell(Path(place), reader).run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that makes what is given by a name of `GIVEN`, once, and says where."""
    places: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in places:
            places[name] = tmp_path_factory.mktemp("given")
            with tempfile.TemporaryDirectory(prefix="docs") as place:
                done = Shell(Path(place), places[name]).run(GIVEN[name])
            assert done.status == 0, done.err
        return places[name]

    return make


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """`barm.fit` with what makes a run short, for Python in the documents."""
    import barm.api

    fit = barm.api.fit

    def short_fit(*words: Any, overrides: Sequence[str] = (), **options: Any) -> Any:
        return fit(*words, overrides=[*overrides, *SHORT], **options)

    for home in (barm, barm.api):  # the first keeps what it takes from the second
        monkeypatch.setattr(home, "fit", short_fit)
