"""The container and the conda environment install what pyproject.toml has; where their tools are, they are built."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FORMS = {  # what stands behind an instruction
    "ARG": r"[A-Z_]+(=\S*)?",
    "CMD": r"\[.*\]",
    "COPY": r"\S+( \S+)+",
    "ENTRYPOINT": r"\[.*\]",
    "ENV": r"[A-Z_]+=\S+( [A-Z_]+=\S+)*",
    "FROM": r"\S+( AS \w+)?",
    "RUN": r".+",
    "USER": r"\w+",
    "WORKDIR": r"/\S+",
}


class Instruction(NamedTuple):
    """A line of a Dockerfile: its first word, and the rest."""

    word: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """All instructions, with continued lines joined and comments left out."""
    lines = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    joined = re.sub(r"[ \t]*\\\n[ \t]*", " ", lines)
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text("utf-8"))
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))


def rest(word: str) -> list[str]:
    return [i.rest for i in DOCKERFILE if i.word == word]


def copied() -> list[str]:
    """Files and folders of the checkout that the image takes."""
    return [source for line in rest("COPY") for source in line.split()[:-1]]


def tracked(path: str) -> list[str]:
    """Files of the checkout at or below a path, without those that git ignores."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", path]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder with what the image's build copies, and nothing else."""
    for source in copied():
        for file in tracked(source):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, tmp_path / file)
    return tmp_path


def requirement(text: str) -> set[str]:
    """Extras that ``.[a,b]`` asks for."""
    return set(re.search(r"\.\[([\w,]+)\]", text)[1].split(","))


def test_every_instruction_has_its_form():
    assert [i.word for i in DOCKERFILE[:2]] == ["ARG", "FROM"]
    for instruction in DOCKERFILE:
        assert re.fullmatch(FORMS[instruction.word], instruction.rest), instruction
    for word in ("CMD", "ENTRYPOINT"):
        assert all(isinstance(part, str) for part in json.loads(rest(word)[0]))


def test_variables_are_declared_before_they_are_used():
    known = {"PATH"}
    for word, text in DOCKERFILE:
        assert set(re.findall(r"\$\{?([A-Z_]+)", text)) <= known, text
        if word in ("ARG", "ENV"):
            known |= set(re.findall(r"([A-Z_]+)(?==|$)", text))


@pytest.mark.parametrize("line", rest("RUN"))
def test_commands_are_shell(line):
    assert subprocess.run(["sh", "-n", "-c", line], capture_output=True, text=True).stderr == ""


def test_it_runs_the_command_as_a_user_without_rights():
    assert json.loads(rest("ENTRYPOINT")[0])[0] in PROJECT["scripts"]
    (user,) = rest("USER")
    assert user != "root"
    assert any(re.search(rf"useradd .*\b{user}\b", line) for line in rest("RUN"))
    assert [i.word for i in DOCKERFILE].index("USER") > max(n for n, i in enumerate(DOCKERFILE) if i.word == "RUN")


def test_what_is_copied_is_in_the_repository_and_not_ignored():
    lines = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied())
    assert all(tracked(source) for source in copied())


def test_what_is_copied_can_be_installed(context, tmp_path_factory):
    """As pip does it in the image, but without other packages and without the network."""
    pytest.importorskip("setuptools", minversion="77")  # the package's build system
    target = tmp_path_factory.mktemp("installed")
    words = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target), str(context)]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (target / "bin/barm").is_file()
    program = "import barm; print(barm.__file__, len(barm.recipe_names()))"
    words = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(target)}
    told = subprocess.run(words, env=environment, cwd=target, capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"{target}/barm/")
    assert int(told.split()[1]) > 50


def test_the_extras_exist():
    (pip,) = (entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    (asked,) = (line.removeprefix("EXTRAS=") for line in rest("ARG") if line.startswith("EXTRAS="))
    assert set(asked.split(",")) == requirement(" ".join(pip)) <= set(PROJECT["optional-dependencies"])
    assert any("--constraint constraints.txt" in line for line in rest("RUN"))
    assert pip[0] == "--constraint constraints.txt"


def test_their_python_is_one_that_the_package_runs_on():
    least = tuple(int(n) for n in PROJECT["requires-python"].removeprefix(">=").split("."))
    image = re.fullmatch(r"BASE=python:(\d+)\.(\d+)-slim", rest("ARG")[0])
    (conda,) = (d for d in ENVIRONMENT["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert tuple(map(int, image.groups())) == tuple(map(int, conda.removeprefix("python=").split("."))) >= least
    assert "pip" in ENVIRONMENT["dependencies"]


def run(*words: str, cwd: Path = ROOT) -> Any:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
def test_the_constraints_can_be_met(context):
    extras = ",".join(sorted(requirement(str(ENVIRONMENT))))
    words = ("install", "--dry-run", "--ignore-installed", "--constraint", "constraints.txt", f".[{extras}]")
    assert "Would install" in run(sys.executable, "-m", "pip", *words, cwd=context)


@pytest.mark.long
def test_the_image_is_built():
    tools = [t for t in ("docker", "podman") if shutil.which(t)]
    tool = next((t for t in tools if subprocess.run([t, "info"], capture_output=True).returncode == 0), None)
    if tool is None:
        pytest.skip("no docker and no podman that answers")
    run(tool, "build", "--tag", "barm-test", ".")
    assert "Usage: barm" in run(tool, "run", "--rm", "barm-test")
    assert run(tool, "run", "--rm", "--entrypoint", "id", "barm-test", "-un").strip() == "barm"


@pytest.mark.long
def test_the_conda_environment_is_made(tmp_path):
    tool = next((t for t in ("mamba", "micromamba", "conda") if shutil.which(t)), None)
    if tool is None:
        pytest.skip("no mamba and no conda")
    place = str(tmp_path / "env")
    run(tool, "env", "create", "--yes", "--file", "environment.yml", "--prefix", place)
    assert "Usage: barm" in run(f"{place}/bin/barm", "--help")
