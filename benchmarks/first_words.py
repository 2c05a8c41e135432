"""Seconds until commands have their first result, beside those of `import torch`.

python benchmarks/first_words.py              # some minutes; nothing else should run
python benchmarks/first_words.py --rounds 1

A small run is trained in a folder that is removed afterwards. Every round starts each command in its own process, in
turn; what is printed is the median of the rounds: of `barm predict` and `barm evaluate` to their end, on one image and
on eight, and of `barm train` until its log has the loss of an update.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

BARM = [sys.executable, "-m", "barm.cli"]
SMALL = {
    "model": ("backbone=test_resnet", "pretrained=false", "channels=32"),
    "base": ("updates=3", "batch_size=4", "crop=64"),
    "increment": ("updates=3", "batch_size=4", "crop=64"),
    "evaluation": ("crop=0",),
    "runtime": ("workers=0", "log_every=1", "device=cpu"),
}


def run(*words: object) -> None:
    """Run a command to its end."""
    subprocess.run([str(word) for word in words], check=True, capture_output=True, env={**os.environ, "NO_COLOR": "1"})


def train(data: Path, out: Path) -> list[str]:
    """The command of the small run."""
    settings = [word for table, keys in SMALL.items() for key in keys for word in ("--set", f"{table}.{key}")]
    return [
        *BARM,
        "train",
        "--recipe",
        "folder/barm",
        "--data",
        str(data),
        "--task",
        "3-1",
        "--out",
        str(out),
        *settings,
    ]


def first_update(data: Path, out: Path) -> None:
    """Train until the log has a loss, and stop."""
    with subprocess.Popen(train(data, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not ((log := out / "log.csv").is_file() and ",loss," in log.read_text()):
            if process.poll() is not None:
                raise SystemExit(f"barm train ended with {process.returncode} before its first update")
            time.sleep(0.01)
        process.kill()


def main() -> None:
    """Time every command in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shapes, known = place / "shapes", place / "run"
        run(*BARM, "data", "make", "shapes", shapes, "--classes", 4, "--train", 24, "--val", 8, "--size", 64)
        images = sorted(shapes.glob("images/val/*"))
        run(*train(shapes, known))
        cases: dict[str, Callable[[int], object]] = {
            "import torch": lambda _: run(sys.executable, "-c", "import torch"),
            "barm predict": lambda i: run(*BARM, "predict", known, images[0], "--out", place / f"seen{i}"),
            "barm evaluate": lambda _: run(*BARM, "evaluate", known),
            "barm train": lambda i: first_update(shapes, place / f"run{i}"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds + 1):  # the first round only warms the disk
            for name, case in cases.items():
                began = time.monotonic()
                case(number)
                if number:
                    seconds[name].append(time.monotonic() - began)
    torch = median(seconds["import torch"])
    print(f"medians of {rounds} rounds, seconds\n{'':16}{'whole':>8}{'beyond import torch':>22}")
    for name, times in seconds.items():
        print(f"{name:16}{median(times):8.2f}{median(times) - torch:22.2f}")


if __name__ == "__main__":
    main()
