"""Runs of a grid side by side against one after the other: 8 small runs, `--jobs 2` against `--jobs 1`.

python benchmarks/grid_jobs.py                # some minutes per variant and round on two cores; nothing else may run
python benchmarks/grid_jobs.py --small --rounds 1

Every round times the three commands in turn, each in a fresh folder; medians over the rounds are printed and written to
OUT/grid-jobs.json. Step 0, which the four methods of a seed share, is trained before, and timed apart. At the end the
weights of `--jobs 2` are compared with those of `--jobs 1` on one thread, and with runs without `--on`: bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from barm.bench.run import processor

ASKED_OF_ONE, ASKED_OF_TWO = 1.6, 1.0  # so many times as fast as one run after the other with a thread, with two
METHODS = ("mib", "plop", "lwf", "ilt")  # with the same step 0
VARIANTS = {
    "two at once, one thread each": ("--on", "local", "--gpus", "0", "--jobs", "2", "--cpus", "1"),
    "one after the other, one thread": ("--on", "local", "--gpus", "0", "--jobs", "1", "--cpus", "1"),
    "one after the other, two threads": ("--on", "local", "--gpus", "0", "--jobs", "1", "--cpus", "2"),
}
GRID = """\
recipes = "shapes"
methods = {methods}
tasks = ["3-1"]
seeds = [1, 2]
same_start = [{methods}]
overrides = ["model.backbone=test_resnet", "model.channels=32", "base.epochs={epochs}", "increment.epochs={epochs}",
  "base.crop={size}", "increment.crop={size}", "evaluation.crop={size}", "runtime.workers=0", "runtime.device=cpu",
  "runtime.precision=32-true", "runtime.tensorboard=false"]
"""


def barm(*words: object, threads: int = 1) -> float:
    """Run a command; its seconds."""
    began = time.monotonic()
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "barm.cli", *map(str, words)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"barm {' '.join(map(str, words))}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - began


def weights(folder: Path) -> dict[str, bytes]:
    """The weights and counts of all steps of all runs."""
    names = ("model.safetensors", "counts.json")
    files = [path for name in names for path in folder.glob(f"3-1-*/*/step*/{name}")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def prepare(out: Path, *, small: bool) -> tuple[Path, Path]:
    """Make the data and the grid file; their paths."""
    images, size, epochs = (24, 48, 1) if small else (400, 96, 12)
    data, grid = out / "data", out / "grid.toml"
    barm("data", "make", "shapes", data, "--classes", 4, "--train", images, "--val", images // 4, "--size", size)
    text = GRID.format(methods=json.dumps(METHODS), epochs=epochs, size=size)
    grid.write_text(text, "utf-8")
    return data, grid


def train_starts(grid: Path, data: Path, out: Path) -> float:
    """Train the shared step 0 of both seeds; seconds."""
    code = (
        "import sys; from pathlib import Path; from barm.api import fit; from barm.grid import config_of\n"
        "from barm.grid_file import cells, read_grid\n"
        "grid, data, out = read_grid(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])\n"
        "for cell in cells(grid):\n"
        f"    if cell.method == {METHODS[0]!r}:\n"
        "        fit(config_of(grid, cell, data), out=out / cell.name(), steps=[0], quiet=True)\n"
    )
    began = time.monotonic()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, grid, data, out], env=env, check=True)
    return time.monotonic() - began


def main() -> int:
    """Measure, print and write; 1 if the bits differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/grid-jobs"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="sizes of seconds, for the tests")
    given = parser.parse_args()
    out = given.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    data, grid = prepare(out, small=given.small)
    start = train_starts(grid, data.resolve(), out / "starts")
    print(f"step 0 of both seeds, one thread: {start:.1f} s", flush=True)

    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    kept: dict[str, dict[str, bytes]] = {}
    for number in range(given.rounds):
        for name, words in VARIANTS.items():
            folder = out / "now"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(out / "starts", folder)
            seconds[name].append(barm("compare", "--grid", grid, "--data", data, "--out", folder, "--quiet", *words))
            kept[name] = weights(folder)
            print(f"round {number + 1}, {name}: {seconds[name][-1]:.1f} s", flush=True)
    shutil.rmtree(out / "now")
    shutil.copytree(out / "starts", out / "now")
    barm("compare", "--grid", grid, "--data", data, "--out", out / "now", "--quiet")
    return report(out, start, seconds, kept, weights(out / "now"))


def report(
    out: Path,
    start: float,
    seconds: dict[str, list[float]],
    kept: dict[str, dict[str, bytes]],
    plain: dict[str, bytes],
) -> int:
    """Print and write medians and ratios; 1 if the bits differ."""
    two, one, threaded = seconds
    medians = {name: median(values) for name, values in seconds.items()}
    equal = kept[two] == kept[one] == plain and len(plain) == 8 * 2 * 2
    for name, value in medians.items():
        print(f"{name}: median {value:.1f} s")
    ratios = {one: medians[one] / medians[two], threaded: medians[threaded] / medians[two]}
    for (name, ratio), asked in zip(ratios.items(), (ASKED_OF_ONE, ASKED_OF_TWO), strict=True):
        print(f"two at once are {ratio:.2f} x as fast as {name} (asked: {asked:g})")
    print("the same bits at equal threads" if equal else "DIFFERENT bits at equal threads")
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()
    made = {"commit": commit, "processor": processor(torch.device("cpu")), "cores": os.cpu_count()}
    record = {**made, "start": start, "seconds": seconds, "ratios": ratios, "equal": equal}
    (out / "grid-jobs.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
