"""Train on two machines that one machine pretends to be: network namespaces, joined by a virtual cable.

Every "machine" has its own network, its own working folder and its own torchrun; only the data are on a common path.
Shown: (1) the weights after the later steps are those of one process with the same global batch, from one step 0 (its
batch norm trains, and processors do not share its statistics); (2) one machine is killed in the middle, is started
again, and both go on from the last saved state to the same weights. Needs Linux, `ip`, and the rights of root.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from barm.bench.run import processor
from barm.engine.checkpoint.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
NAMES = ("barm-one", "barm-two")
BATCH = 8  # of all processes
PATIENCE = 600.0  # seconds
REBOOT = 30.0  # seconds; torchrun counts a silent machine as there for 15
TORCHRUN = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else the first machine does not tell a new one its address
TASK = "2-1"
SHORT, LONG = 1, 4  # epochs: rounding that moves a pixel over the threshold of its pseudo-label soon grows
SETTINGS = (
    "model.backbone=test_resnet",
    "model.channels=32",
    "base.epochs=3",
    "base.crop=97",
    "increment.crop=97",
    "model.dropout=0",
    "method.freeze_bn=true",
    "runtime.save_every=5",
    "runtime.log_every=1",
    "runtime.device=cpu",
    "runtime.workers=0",
    "runtime.precision=32-true",
)


@contextmanager
def two_machines() -> Iterator[None]:
    """Namespaces with one end each of a virtual cable."""
    calls = [["ip", "netns", "add", name] for name in NAMES]
    calls.append(["ip", "link", "add", "end-1", "netns", NAMES[0], "type", "veth", "peer", "end-2", "netns", NAMES[1]])
    for number, (name, address) in enumerate(zip(NAMES, ADDRESSES, strict=True), 1):
        inside = ["ip", "-n", name]
        calls += [[*inside, "addr", "add", f"{address}/24", "dev", f"end-{number}"]]
        calls += [[*inside, "link", "set", f"end-{number}", "up"], [*inside, "link", "set", "lo", "up"]]
    try:
        for call in calls:
            subprocess.run(call, check=True)
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def training(data: Path, out: str, batch: int, epochs: int, *more: str) -> list[str]:
    """The words after ``python``."""
    settings = (*SETTINGS, f"base.batch_size={BATCH}", f"increment.batch_size={batch}", f"increment.epochs={epochs}")
    words = ["--recipe", f"shapes/{TASK}/barm", "--data", str(data), "--out", out, "--quiet", *more]
    return ["-m", "barm.cli", "train", *words, *(word for s in settings for word in ("--set", s))]


def start(node: int, folder: Path, data: Path, first: Path, epochs: int = LONG) -> subprocess.Popen[bytes]:
    """torchrun on a machine, with one process."""
    folder.mkdir(parents=True, exist_ok=True)
    rendezvous = ["--rdzv_id=two", "--rdzv_backend=c10d", f"--rdzv_endpoint={ADDRESSES[0]}:29500"]
    rendezvous += [f"--rdzv_conf=is_host={int(node == 0)}", f"--local_addr={ADDRESSES[node]}"]
    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=3", *rendezvous]
    words = [
        "ip",
        "netns",
        "exec",
        NAMES[node],
        sys.executable,
        *torchrun,
        *training(data, "run", BATCH // 2, epochs, "--start-from", str(first)),
    ]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": f"end-{node + 1}", "OMP_NUM_THREADS": "1", **TORCHRUN}
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)


def waited(processes: Sequence[subprocess.Popen[bytes]], folders: Sequence[Path]) -> None:
    """Wait for the end of all; end with their last words if one failed."""
    deadline = time.monotonic() + PATIENCE
    for process, folder in zip(processes, folders, strict=True):
        status = process.wait(max(1.0, deadline - time.monotonic()))
        if status != 0:
            sys.exit(f"{folder.name}: exit status {status}\n{(folder / 'log.txt').read_text()[-3000:]}")


def updates(run: Path) -> list[tuple[int, int]]:
    """Step and number of every update in a run's log."""
    if not (run / "log.csv").exists():
        return []
    with (run / "log.csv").open() as file:
        return [(int(row["step"]), int(row["iteration"])) for row in csv.DictReader(file) if row["name"] == "loss"]


def apart(one: Path, other: Path) -> float:
    """Distance of two runs' weights after the last step, per tensor and relative to its norm; the largest."""
    paths = (RunDirectory(run).step_path(RunDirectory(run).last_step()) / "model.safetensors" for run in (one, other))
    first, second = map(load_file, paths)
    pairs = [(value.double(), second[name].double()) for name, value in first.items() if value.is_floating_point()]
    return max(float((a - b).norm() / a.norm().clamp(min=1e-12)) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/two-nodes"))
    out = parser.parse_args().out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    data = out / "data"
    make = ["-m", "barm.cli", "data", "make", "shapes", str(data), "--classes", "4", "--layout", "voc"]
    subprocess.run([sys.executable, *make, "--train", "64", "--val", "16"], check=True)
    one = [sys.executable, *training(data, "run", BATCH, SHORT)]
    (out / "alone").mkdir()
    subprocess.run(one, cwd=out / "alone", check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    alone = out / "alone/run"
    print(f"{processor(torch.device('cpu'))}, torch {torch.__version__}, gloo, shapes {TASK}, batch {BATCH}, fp32")

    for name, epochs in (("short", SHORT), ("whole", LONG)):
        with two_machines():
            folders = [out / f"{name}-{node}" for node in (1, 2)]
            waited([start(node, folder, data, alone, epochs) for node, folder in enumerate(folders)], folders)
    distance, many = apart(alone, out / "short-1/run"), len(updates(out / "short-1/run"))
    print(f"two machines, weights from those of one process after {many} updates: {distance:.1e}")
    print(f"the second machine's folder holds no run: {not (folders[1] / 'run').exists()}")

    with two_machines():
        folders = [out / f"broken-{node}" for node in (1, 2)]
        processes = [start(node, folder, data, alone) for node, folder in enumerate(folders)]
        while (1, 8) not in updates(folders[0] / "run") and all(p.poll() is None for p in processes):
            time.sleep(0.02)
        for pid in subprocess.run(["ip", "netns", "pids", NAMES[1]], capture_output=True, check=True).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        killed = time.monotonic()
        processes[1].wait()
        time.sleep(REBOOT)
        before = len(updates(folders[0] / "run"))
        processes[1] = start(1, folders[1], data, alone)
        while len(updates(folders[0] / "run")) <= before and all(p.poll() is None for p in processes):
            time.sleep(0.02)
        seconds = time.monotonic() - killed
        print(f"the second machine killed in step 1 and started again: training again after {seconds:.0f} s")
        waited(processes, folders)
    print(f"weights from those of the whole run: {apart(out / 'whole-1/run', folders[0] / 'run'):.1e}")


if __name__ == "__main__":
    main()
