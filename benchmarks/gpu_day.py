"""The first day on a GPU in nine minutes: tests, speed, memory and training, the most valuable first.

Every part is a process with a limit of its own. After each part `gpu-day.json` and `gpu-day.md` are written anew, so
that a day cut short keeps what it had. With ``--small`` every part runs on a processor, with sizes of seconds.

A bare machine needs no network: ``python benchmarks/gpu_day.py --wheels`` prints how to bring what it lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BARM = (sys.executable, "-m", "barm.cli")
SHOWN = 60  # lines of a part's output in the page
LEAST = 5  # seconds that must be left for a part
WHEELS = """\
On a machine with a network, in this folder (3.12: the python of the bare machine):
  python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \\
      -d .wheels pydantic pydantic-core annotated-types typing-inspection tomli-w
On the bare machine:
  python -m pip install --no-index --no-deps --target .site .wheels/*.whl
  PYTHONPATH=.site:src python benchmarks/gpu_day.py"""


MACHINE = """
import platform, torch, lightning_fabric, timm
print("python", platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda)
print("cuDNN", torch.backends.cudnn.version(), "fabric", lightning_fabric.__version__, "timm", timm.__version__)
print(torch.cuda.get_device_properties(0) if torch.cuda.is_available() else platform.processor())
"""


@dataclass(frozen=True)
class Part:
    """A command of the day.

    Attributes:
        name: also of its folder.
        command: what is run.
        limit: seconds.
        beside: further commands that run at the same time.
        makes: folders that it makes, which an earlier day may have left.
    """

    name: str
    command: Sequence[str]
    limit: float
    beside: Sequence[Sequence[str]] = ()
    makes: Sequence[Path] = ()


@dataclass
class Outcome:
    """What became of a part: exit statuses (None: it ran into its limit), seconds, output, numbers."""

    name: str
    commands: list[str]
    statuses: list[int | None]
    seconds: float
    output: str
    numbers: dict[str, object] = field(default_factory=dict)


def parts(out: Path, small: bool, device: str) -> Iterator[Part]:
    """The day, in the order of value."""
    size = ["--model", "test_resnet", "--crop", "65"] if small else []
    few, many = ("1", "1") if small else ("10", "20")
    batch, large = ("2", "3") if small else ("8", "24")

    def bench(name: str, limit: float, *words: str, measured: Sequence[str]) -> Part:
        named = [word for part in measured for word in ("--part", part)]
        command = (*BARM, "bench", "--quiet", "--device", device, *size, "--out", str(out / name), *words, *named)
        return Part(name, command, limit)

    yield Part("machine", (sys.executable, "-c", MACHINE), 30)
    workers = str(min(12, os.cpu_count() or 1))
    marked = sorted(str(f) for f in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in f.read_text("utf-8"))
    pytest = ["-m", "pytest", *marked, "-m", "gpu and not long", "-v", "-rs", "--tb=short", "-p", "no:warnings", "-n"]
    yield Part("tests", (sys.executable, *pytest, workers, "-k", "not test_compiled"), 180)
    yield bench("voc", 90, "--batch", batch, "--rounds", many, measured=["memory", "step", "losses", "profile"])
    yield bench("launch", 120, "--batch", batch, "--rounds", many, measured=["launch"])
    ade = ["--task", "100-10", "--classes", "150"]
    yield bench("ade", 60, *ade, "--batch", batch, "--rounds", few, measured=["memory", "step", "losses", "evaluation"])
    yield bench("voc-large-batch", 60, "--batch", large, "--rounds", few, measured=["memory", "step"])
    yield from training(out, small, device)
    yield bench("growth", 60, "--batch", batch, "--rounds", few, measured=["growth"])
    yield Part("compiled", (sys.executable, *pytest, workers, "-k", "test_compiled"), 200)
    yield bench("evaluation", 40, "--batch", batch, "--rounds", few, measured=["evaluation", "constant"])


def training(out: Path, small: bool, device: str) -> Iterator[Part]:
    """Methods on generated images, four at a time."""
    data, number = out / "data", ["--train", "48", "--val", "8"] if small else ["--train", "1200", "--val", "200"]
    made = ("data", "make", "shapes", str(data), "--classes", "10", "--layout", "voc", *number)
    yield Part("images", (*BARM, *made), 30, makes=[data])
    shorter = ["--set", "base.epochs=1", "--set", "increment.epochs=1"] if small else []

    def train(method: str) -> Sequence[str]:
        words = (
            "--recipe",
            f"shapes/6-1/{method}",
            "--data",
            str(data),
            "--out",
            str(out / method),
            "--device",
            device,
        )
        return (*BARM, "train", "--quiet", *words, *shorter)

    methods = ["barm", "finetune"] if small else ["barm", "mib", "plop", "finetune"]
    yield Part("training", train(methods[0]), 120, [train(m) for m in methods[1:]], [out / m for m in methods])
    yield Part("table", (*BARM, "compare", *(str(out / m) for m in methods)), 30)


def run(part: Part, folder: Path) -> Outcome:
    """Run a part to its end or to its limit."""
    folder.mkdir(parents=True, exist_ok=True)
    commands, began = [part.command, *part.beside], time.monotonic()
    logs = [folder / f"{part.name}{i or ''}.txt" for i in range(len(commands))]

    def one(command: Sequence[str], log: Path) -> int | None:
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                return process.wait(part.limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                return None

    with ThreadPoolExecutor(len(commands)) as pool:
        statuses = list(pool.map(one, commands, logs))
    output = "\n".join(log.read_text("utf-8", "replace").strip() for log in logs)
    numbers = folder / part.name / "bench.json"
    return Outcome(
        part.name,
        [" ".join(map(str, command)) for command in commands],
        statuses,
        round(time.monotonic() - began, 1),
        output,
        json.loads(numbers.read_text("utf-8")) if numbers.exists() else {},
    )


def write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Both files, with all that is known so far."""
    (folder / "gpu-day.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n", "utf-8")
    lines = ["# A day on a GPU", "", "| part | seconds | exit status |", "| --- | ---: | --- |"]
    lines += [f"| {o.name} | {o.seconds} | {', '.join(map(str, o.statuses))} |" for o in outcomes]
    for o in outcomes:
        shown = o.output.splitlines()[-SHOWN:]
        lines += ["", f"## {o.name}", "", "```text", *shown, "```"]
    (folder / "gpu-day.md").write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-day"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes of seconds, for a processor")
    parser.add_argument("--seconds", type=float, default=540, help="no part begins after so many")
    parser.add_argument("--only", nargs="*", help="names of parts")
    parser.add_argument("--wheels", action="store_true", help="how to bring what a bare machine lacks")
    given = parser.parse_args()
    if given.wheels:
        print(WHEELS)
        return
    out, began = given.out.resolve(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    outcomes, late = list[Outcome](), list[str]()
    day = list(parts(out, given.small, given.device))
    unknown = set(given.only or ()) - {part.name for part in day}
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}: {', '.join(part.name for part in day)}")
    for part in day:
        left = given.seconds - (time.monotonic() - began)
        if given.only and part.name not in given.only:
            continue
        if left < LEAST:
            late.append(part.name)
            continue
        for folder in part.makes:
            shutil.rmtree(folder, ignore_errors=True)
        limited = replace(part, limit=min(part.limit, left))
        outcomes.append(run(limited, out))
        write(outcomes, out)
        print(f"{part.name}: {outcomes[-1].seconds} s, exit status {outcomes[-1].statuses}", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)
    if late:
        print(f"not begun within {given.seconds:g} s: {', '.join(late)}", flush=True)
    sys.exit(bool(late) or any(status != 0 for o in outcomes for status in o.statuses))


if __name__ == "__main__":
    main()
