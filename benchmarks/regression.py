"""What a pass of SegACIL costs, by the width of its expansion: seconds and memory per 100 images of generated shapes.

    python benchmarks/regression.py --data DATA --widths 1024 2048 4096 8192

Measured are the network's pass, the sums and the solution, without reading images. Processor seconds are those of all
threads together: on a shared machine they say more than the clock.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from barm.config import load_config
from barm.engine.datasets import open_data, train_dataset
from barm.engine.loaders import once_batches
from barm.engine.runtime import Runtime
from barm.words import count


def measure(data: Path, width: int, images: int, *, balanced: bool) -> str:
    """A row of the table: seconds per 100 images, processor seconds, those of the solution, peak memory and sums."""
    given = [f"method.width={width}", f"method.balanced={str(balanced).lower()}", "runtime.device=cpu"]
    config = load_config("shapes/3-1/segacil", given, {"data": {"root": str(data)}})
    rt = Runtime(config.runtime)
    opened = open_data(config, rt)
    dataset = train_dataset(config, opened, opened.plan[0])
    method = config.method.build(opened.plan[0], config.model)
    model = method.build_model()
    method.finish(model, None)
    loading, _ = once_batches(config, rt, dataset, config.base.batch_size)
    with loading as found:
        batches, number = [], 0
        for batch in found:
            batches.append(batch)
            number += len(batch.image)
            if number >= images:
                break
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sums, constant = method.start_sums(rt.device), rt.constant(model, exact=True)
    wall, spent = time.monotonic(), time.process_time()
    for batch in batches:
        method.gather(constant(batch.image), batch, sums)
    wall, spent = ((time.monotonic() - wall) * 100 / number, (time.process_time() - spent) * 100 / number)
    solve = time.process_time()
    method.gathered(model, sums)
    solve = time.process_time() - solve
    stored = sum(value.nbytes for value in sums.values()) / 1e6
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    kind = f"{width}, balanced over {opened.plan[0].num_seen}" if balanced else str(width)
    return f"| {kind} | {wall:.1f} | {spent:.1f} | {solve:.1f} | {grown:.0f} MB | {stored:.0f} MB |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="*", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--balanced", type=int, nargs="*", default=[1024, 2048], help="widths with every class alike")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        width, *_ = options.widths or options.balanced
        print(measure(options.data, width, options.images, balanced=not options.widths))
        return
    print(f"{count(options.images, 'images')}, {count(options.threads, 'threads')}, torch {torch.__version__}")
    print("| width | seconds per 100 images | processor seconds | of the solution | peak memory | state in the run |")
    print("|---|---|---|---|---|---|")
    words = ["--data", str(options.data), "--images", str(options.images), "--threads", str(options.threads), "--one"]
    plain = [["--widths", str(width), "--balanced"] for width in options.widths]
    alike = [["--widths", "--balanced", str(width)] for width in options.balanced]
    for kind in [*plain, *alike]:  # a process each, for its own peak
        command = [sys.executable, __file__, *words, *kind]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
