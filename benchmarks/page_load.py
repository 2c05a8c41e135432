"""Eight visitors of `barm serve` at once: times, memory, and what hostile requests get.

``python benchmarks/page_load.py`` trains a small network on generated shapes, serves it on this machine, and lets eight
clients segment pictures in five equal rounds of 20 seconds; every fourth file is damaged, no image, or too large. It
prints the times of answers (p50, p99), the memory of the server after each round, how far off the page's own estimates
of the time were, and the answers to foreign host names and to paths that lead out of the page. The status is 1 where a
request that must be refused is answered, and where memory grows in every round by more than ``--leak`` MiB.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

PATHS = ("../../etc/passwd", "/etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "/proc/self/environ")
TINY = ("model.channels=16", "base.epochs=1", "increment.epochs=1", "runtime.device=cpu", "runtime.tensorboard=false")


def trained(folder: Path) -> Path:
    """A run of a small network."""
    import barm
    from barm.data.sources.shapes_disk import make_shapes

    make_shapes(folder / "data", layout="voc", num_classes=4, num_train=16, num_val=6, size=(96, 96), seed=3)
    barm.fit("shapes/2-1/barm", data=folder / "data", out=folder / "run", overrides=TINY, quiet=True)
    return folder / "run"


def pictures(megabytes: float) -> list[tuple[str, bytes]]:
    """Files to upload: three pictures, then one that must be refused, and so on."""
    random = np.random.default_rng(0)
    good = []
    for side in (96, 256, 512):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (side, side, 3), np.uint8)).save(out, "PNG")
        good.append(("good", out.getvalue()))
    bad = [good[0][1][:500], b"no image" * 100, bytes(int(1.5 * megabytes * 2**20)), b""]
    return [each for wrong in bad for each in (*good, ("bad", wrong))]


class Visitor(threading.Thread):
    """One client, which uploads a file, waits for the answer, and goes on until the time is over."""

    def __init__(self, address: str, index: int, files: list[tuple[str, bytes]], end: float, shift: int) -> None:
        super().__init__()
        self.address, self.index, self.files, self.end, self.at = address, index, files, end, shift
        self.times, self.seen, self.ranks = list[float](), Counter[str](), list[int]()
        self.ratios = list[float]()  # of the time that was estimated to that which passed

    def run(self) -> None:
        with httpx.Client(base_url=self.address, timeout=60) as client:
            while time.monotonic() < self.end:
                kind, content = self.files[self.at % len(self.files)]
                self.at += 1
                start = time.monotonic()
                try:
                    outcome = self.once(client, content)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                self.seen[f"{kind}: {outcome}"] += 1
                if kind == "good":
                    self.times.append(time.monotonic() - start)

    def once(self, client: httpx.Client, content: bytes) -> str:
        """Upload a file and wait for what the page shows."""
        sent = client.post("/gradio_api/upload", files={"files": ("a.png", content, "image/png")})
        if sent.status_code != 200:
            return f"status {sent.status_code}"
        file = {"path": sent.json()[0], "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        session = uuid.uuid4().hex
        config = client.get("/config").json()
        entry = next(d for d in config["dependencies"] if d["id"] == self.index)
        kinds = {c["id"]: c for c in config["components"]}
        data = [
            file if kinds[i]["props"].get("elem_id") == "upload" else kinds[i]["props"].get("value")
            for i in entry["inputs"]
        ]
        body = {"data": data, "fn_index": self.index, "session_hash": session, "event_data": None, "trigger_id": None}
        joined = client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return f"status {joined.status_code} of the queue"
        asked, estimate = time.monotonic(), None
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer:
            for line in answer.iter_lines():
                if not line.startswith("data:"):
                    continue
                message: dict[str, Any] = json.loads(line[5:])
                if message["msg"] == "estimation":
                    self.ranks.append(int(message.get("rank") or 0))
                    estimate = message.get("rank_eta") if estimate is None else estimate
                if message["msg"] == "process_completed":
                    if estimate:
                        self.ratios.append(estimate / (time.monotonic() - asked))
                    text = json.dumps(message.get("output"))
                    told = "refusal" in text or "cannot be read" in text or "at most" in text
                    return "refused in words" if told else "answered" if message["success"] else "failed"
        return "no end"


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def probes(address: str) -> list[str]:
    """Complaints about requests that must be refused."""
    bad = []
    with httpx.Client(base_url=address, timeout=20) as client:
        for host in ("evil.example", "127.0.0.1.evil.example", "0.0.0.0"):
            status = client.get("/", headers={"Host": host}).status_code
            print(f"host {host}: status {status}")
            bad += [f"host {host} is answered"] if status < 400 else []
        for path in PATHS:
            for place in ("/gradio_api/file=", "/file=", "/static/", "/assets/"):
                answer = client.get(place + path)
                if b"root:" in answer.content or b"PATH=" in answer.content:
                    bad.append(f"{place}{path} gives a file of this machine")
    return bad


def leaks(memory: Sequence[float], allowed: float) -> bool:
    """Whether memory after equal rounds grows in every one of them by more than is allowed, in the same unit.

    >>> leaks([900, 1000, 1040, 1041], 10), leaks([900, 950, 1000, 1050], 10)
    (False, True)
    """
    return len(memory) > 1 and all(after - before > allowed for before, after in pairwise(memory))


def loaded(address: str, server: int, options: argparse.Namespace) -> tuple[list[Visitor], list[float]]:
    """All rounds: the visitors, and the memory of the server in MiB before the first and after each."""
    config = httpx.get(f"{address}/config", timeout=30).json()
    upload = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "upload")
    index = next(d["id"] for d in config["dependencies"] if any(t[0] == upload for t in d["targets"]))
    files = pictures(2)
    with httpx.Client(base_url=address, timeout=60) as client:
        Visitor(address, index, files, 0, 0).once(client, files[0][1])
    everybody, memory = list[Visitor](), [resident(server) / 2**20]
    for _ in range(options.rounds):
        end = time.monotonic() + options.seconds
        visitors = [Visitor(address, index, files, end, 3 * i) for i in range(options.clients)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        everybody += visitors
        memory.append(resident(server) / 2**20)
        print(f"round {len(memory) - 1}: memory of the server {memory[-1]:.0f} MiB ({memory[-1] - memory[-2]:+.0f})")
    return everybody, memory


def told(visitors: Sequence[Visitor], options: argparse.Namespace) -> list[str]:
    """Print what the visitors saw; returns complaints."""
    times = sorted(t for v in visitors for t in v.times)
    seen: Counter[str] = sum((v.seen for v in visitors), Counter())
    ranks, ratios = [r for v in visitors for r in v.ranks], [r for v in visitors for r in v.ratios]
    p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
    whole = f"{sum(seen.values())} uploads, {len(times)} of good pictures"
    print(f"{options.clients} clients, {options.rounds} rounds of {options.seconds:.0f} s: {whole}")
    print(f"good pictures: p50 {statistics.median(times):.2f} s, p99 {p99:.2f} s; last place {max(ranks or [0])}")
    if ratios:
        print(f"estimated times: {len(ratios)}, in the median {statistics.median(ratios):.2f} of what it took")
    for outcome, number in sorted(seen.items()):
        print(f"  {outcome}: {number}")
    return [f"{n} times {k}" for k, n in seen.items() if k in ("bad: answered", "good: failed", "good: no end")]


def main() -> int:
    """Measure, and print; the status is 1 where something is answered that must not be, or memory leaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--leak", type=float, default=4, help="MiB: growth in every round that is a leak")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = trained(Path(name))
        words = ("-m", "barm.cli", "serve", str(run), "--max-upload-mb", "2")
        server = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[1].rstrip("/")
            bad = probes(address)
            visitors, memory = loaded(address, server.pid, options)
        finally:
            server.terminate()
            server.wait(20)
    bad += told(visitors, options)
    print(f"memory of the server: {memory[0]:.0f} MiB before, {memory[-1]:.0f} MiB after")
    if leaks(memory, options.leak):
        bad.append(f"memory grows by more than {options.leak:g} MiB in each of {options.rounds} rounds")
    for complaint in bad:
        print(f"BAD: {complaint}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
