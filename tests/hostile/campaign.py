"""Meets every reader of barm with thousands of hostile files, and prints what became of them.

``python tests/hostile/campaign.py`` tries 20 000, ``--cases 500`` so many, ``--target coco`` those of readers whose
name holds this, ``--only NAME:NUMBER`` one case again. A case is a valid file that is made hostile by the random
numbers of its name and number, so that it is the same in every run with the same ``--seed``.

Cases run one after the other in a forked process. It is killed and replaced where one hangs. A case is good if the
reader gives a result that passes its check, or one line and a status other than 0, and meanwhile

* no file outside of the case's folder is opened for writing, removed, renamed or linked,
* no program is started, no connection is opened, no name is looked up,
* no file appears that code in the hostile file would have made,
* it takes less than 10 seconds of a processor, and less than 2 GiB of memory more than before: the largest image that
  Pillow opens has 179 million pixels, and twelve bytes for each are enough for an image and its mask.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_mutations import CANARY, HOSTILE, mutated
from fuzz_targets import Target, make_targets
from material import PLACES, emptied, reseal
from table import show

LIMIT, MEMORY = 10, 2 << 30  # seconds of a processor, bytes
RESEALED = 0.9  # of the cases of a run's files: their checksums fit
WAIT = 4  # times as long, by the clock, until a process that does not answer is killed
OWN = ("git",)  # asked for the commit of barm itself
STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
TALKING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
COLUMNS = ("tried", "one line", "taken", "traceback", "hang", "memory", "outside", "wrong")


class Case(NamedTuple):
    """One hostile file: the number of its reader, and its own number."""

    target: int
    number: int


SOUND = -1  # the number of a case whose files are as they should be


class Watch:
    """Notes what a reader must not do, through Python's audit hooks."""

    def __init__(self) -> None:
        self.folder, self.on, self.seen = "", False, list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        what = self._forbidden(event, args)
        if what is not None:
            self.seen.append(what)
            raise PermissionError(1, f"forbidden: {what}")

    def _forbidden(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event in STARTING:
            return None if args[0] in OWN else f"{event} {args[0]!r}"[:200]
        if event in TALKING:
            return f"{event} {args!r}"[:200]
        if event == "open":
            path, mode, flags = args
            writes = any(c in (mode or "") for c in "wax+") or bool(int(flags or 0) & (os.O_WRONLY | os.O_RDWR))
            return f"open {path!r} for writing" if writes and not self._inside(path, follow=True) else None
        if event in CHANGING:
            paths = args[:2] if event in ("os.rename", "os.link") else args[1:2] if event == "os.symlink" else args[:1]
            outside = [p for p in paths if not self._inside(p)]
            return f"{event} {outside[0]!r}" if outside else None
        return None

    def _inside(self, path: Any, *, follow: bool = False) -> bool:
        if isinstance(path, int):
            return True
        text = os.fsdecode(path)
        place = os.path.join(os.path.realpath(os.path.dirname(text) or "."), os.path.basename(text))
        if follow:  # a link at the end, too
            place = os.path.realpath(place)
        measure = f"/proc/{os.getpid()}/clear_refs"  # with which barm measures its own memory
        return place.startswith(self.folder) or place in (os.devnull, measure)


def lay_out(target: Target, number: int, seed: str, folder: Path) -> None:
    """Write the files of a case; one of them is hostile, by its content, its name, or what stands in its place."""
    random = Random(f"{seed}:{target.name}:{number}")
    chosen, what = random.choice(target.fuzzed), random.random()
    if number == SOUND:
        what = 1
    for name, content in target.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(name, content, random) if name == chosen and what < 0.93 else content)
    path = folder / chosen
    if number == SOUND:
        return
    if what >= 0.96:
        emptied(PLACES[random.choice(list(PLACES))])(path)
    elif what >= 0.93:
        name = random.choice(HOSTILE).replace("/", "_").replace("\0", "")[:200].encode("utf-8", "replace").decode()
        if name.strip(".") and not (path.parent / f"{name}{path.suffix}").exists():
            path.rename(path.parent / f"{name}{path.suffix}")
    if target.resealed and random.random() < RESEALED:
        reseal(folder)


def attempt(target: Target, folder: Path, watch: Watch) -> dict[str, Any]:
    """Run a reader in its folder; how it ended."""
    from barm.cli.common import guarded

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before, streams = resident(), (sys.stdout, sys.stderr)
    status, trace = 0, ""
    sys.stdout, sys.stderr = out, err
    watch.seen.clear()
    watch.folder, watch.on = os.path.realpath(folder), True
    start = time.process_time()
    try:
        guarded(lambda: target.call(folder))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        trace = traceback.format_exc()
    finally:
        watch.on = False
        sys.stdout, sys.stderr = streams
    err.seek(0)
    grown = resident(peak=True) - before
    return {
        "status": status,
        "trace": trace[-1500:],
        "err": err.buffer.getvalue().decode("utf-8", "replace")[-4000:],  # type: ignore[attr-defined]
        "seconds": time.process_time() - start,
        "grown": grown,
        "seen": watch.seen[:3],
        "canary": [str(p) for p in (folder / CANARY, folder.parent / CANARY) if p.exists()],
    }


def resident(*, peak: bool = False) -> int:
    """Bytes in memory; their peak since this was last asked without `peak`."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def judge(result: dict[str, Any] | None) -> tuple[str, str]:
    """The column of the table, and what is wrong with it (an empty text: nothing)."""
    if result is None:
        return "hang", f"no end within {WAIT * LIMIT} s, or the process died"
    lines = [line for line in result["err"].splitlines() if line.strip()]
    if result["canary"] or result["seen"]:
        return "outside", f"{result['canary'] or result['seen'][0]}"
    if result["trace"]:
        return "traceback", result["trace"]
    if result["grown"] > MEMORY:
        return "memory", f"{result['grown'] / 2**20:.0f} MiB; {lines[-1:]}"
    if result["seconds"] > LIMIT:
        return "hang", f"{result['seconds']:.1f} s; {lines[-1:]}"
    if result["status"] == 0:
        return "taken", ""
    said = [line for line in lines if line.startswith("barm: ")]
    told = said[-1] if said else ""
    if len(said) != 1 or lines[-1] != told or len(told) > 2000 or not told.isprintable():
        return "wrong", f"status {result['status']}, {len(said)} lines: {result['err'][:400]}"
    return "one line", ""


class Worker:
    """A forked process that runs cases one after the other."""

    def __init__(self, cases: Sequence[Case], targets: Sequence[Target], seed: str, place: Path) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            try:
                self._work(cases, targets, seed, place, writing)
            except BaseException:  # of the campaign itself
                os.write(writing, json.dumps({"broken": traceback.format_exc()}).encode() + b"\n")
            finally:
                os._exit(0)
        os.close(writing)
        self.pipe = os.fdopen(reading, "rb")

    def _work(self, cases: Sequence[Case], targets: Sequence[Target], seed: str, place: Path, writing: int) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        watch = Watch()
        for case in cases:
            folder = place / "case"
            os.chdir(place)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            os.environ.update(BARM_CACHE=str(folder / "cache"), TMPDIR=str(folder))
            tempfile.tempdir = str(folder)
            os.chdir(folder)
            lay_out(targets[case.target], case.number, seed, folder)
            os.write(writing, b"go\n")
            result = attempt(targets[case.target], folder, watch)
            os.write(writing, json.dumps(result).encode() + b"\n")

    def answer(self) -> dict[str, Any] | None:
        """The result of the next case, None where there is none in time; the process is then gone."""
        for limit in (60, WAIT * LIMIT):  # to lay the files out, to read them
            ready, _, _ = select.select([self.pipe], [], [], limit)
            line = self.pipe.readline() if ready else b""
            if not line:
                self.end()
                return None
            if line.startswith(b'{"broken"'):
                raise RuntimeError(json.loads(line)["broken"])
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Kill the process."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pipe.close()


def results(cases: Sequence[Case], targets: Sequence[Target], seed: str, place: Path) -> Iterator[Any]:
    """The result of every case."""
    at = 0
    while at < len(cases):
        batch = cases[at : at + 500]
        worker = Worker(batch, targets, seed, place)
        for i in range(len(batch)):
            found = worker.answer()
            at += 1
            yield found
            if found is None:
                break
            if i == len(batch) - 1:
                worker.end()


def chosen(targets: Sequence[Target], number: int, pattern: str, only: str) -> list[Case]:
    """Cases of all readers in turn, more of those with more weight."""
    if only:
        name, _, one = only.rpartition(":")
        return [Case(i, int(one)) for i, target in enumerate(targets) if target.name == name]
    kept = [i for i, target in enumerate(targets) if pattern in f"{target.group}/{target.name}"]
    whole = sum(targets[i].weight for i in kept)
    last = [max(1, round(number * targets[i].weight / whole)) for i in kept]
    cases = [Case(i, n) for i, stop in zip(kept, last, strict=True) for n in range(SOUND, stop)]
    return sorted(cases, key=lambda case: (case.number, case.target))


def main() -> int:
    """Run the cases and print the table; the status is 1 where any is bad."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--target", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=Path, help="a folder in which the files of --only stay")
    options = parser.parse_args()
    start, table, bad = time.monotonic(), dict[str, Counter[str]](), Counter[str]()
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as name:
        place = Path(os.path.realpath(name))
        os.environ.update(BARM_CACHE=str(place / "material/cache"), COLUMNS="100", OMP_NUM_THREADS="1")
        targets = make_targets(place)
        (place / "work").mkdir()
        cases = chosen(targets, options.cases, options.target, options.only)
        gc.collect()
        gc.freeze()
        for case, result in zip(cases, results(cases, targets, options.seed, place / "work"), strict=True):
            target = targets[case.target]
            column, wrong = judge(result)
            if case.number == SOUND and column != ("taken" if target.sound else "one line"):
                wrong = wrong or f"the files as they should be: {result}"
            row = table.setdefault(target.group, Counter())
            row["tried"] += 1
            row[column] += 1
            if wrong:
                bad[f"{target.name}: {column}"] += 1
                print(f"{target.group}: {target.name}:{case.number}: {column}: {wrong}", flush=True)
            elif options.only:
                print(result)
        if options.keep and (place / "work/case").is_dir():
            shutil.copytree(place / "work/case", options.keep, symlinks=True)
    show(table, COLUMNS, "readers", 20)
    print(f"{len(cases)} cases in {time.monotonic() - start:.0f} s; {sum(bad.values())} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
