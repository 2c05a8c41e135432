"""The faults: how each is injected into a phase, and what must be seen of it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cells import LIMIT, NOBODY, Bench, Outcome, one_line, said, state, unlike
from injector import Injector, asked, clock_jump, killed, power_cut, torn
from phases import Phase

from barm.data import fetch, get
from forked import Forked, ranks

PARALLEL = ("--set", "runtime.workers=1")
MEETING = 20  # seconds that a command waits for the second one
RARE = ("trainer.pt", "state.safetensors", "memory.json", "extension.json")  # files that few phases leave
YEARS = 10 * 365 * 86400.0


class Fault(NamedTuple):
    """A kind of fault.

    Attributes:
        name: in the table.
        inject: brings it about in a phase, by a seed, and judges.
        times: how often in the whole campaign.
        fits: whether it applies to a phase.
    """

    name: str
    inject: Callable[[Bench, Phase, int], Outcome]
    times: int
    fits: Callable[[Phase], bool] = lambda phase: True


def kill(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """SIGKILL: at a random event, also one while a step is stored, at a random time, or in the middle of a file."""
    base, draw = bench.base(phase), random.Random(seed)
    bench.lay(phase)
    way = ("stored", "time", "torn", "stored", "event", "torn")[seed % 6]
    if way == "torn" and not phase.window:
        limit = draw.randrange(1, max(2, base.largest))
        process = bench.start(phase, bench.words(phase), before=partial(torn, limit))
        how = f"killed at byte {limit} of a file"
    elif way == "time" and not phase.window:
        process = bench.start(phase, bench.words(phase))
        moment = draw.random() * base.seconds
        time.sleep(moment)
        process.kill()
        how = f"killed after {moment:.2f} s"
    else:
        at = draw.choice(base.stored if way == "stored" and base.stored else range(1, base.events + 1))
        process = bench.start(phase, bench.words(phase), Injector(bench.folder, at, killed, not phase.window))
        how = f"killed at event {at} of {base.events}"
    process.communicate(LIMIT)
    if process.returncode is not None and process.returncode >= 0:
        return Outcome("missed", f"{how}: it ended before with {process.returncode}")
    return bench.finished(phase, how)


def terminate(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """SIGTERM at a random event."""
    base = bench.base(phase)
    at = random.Random(seed).randint(1, base.events)
    bench.lay(phase)
    process = bench.start(phase, bench.words(phase), Injector(bench.folder, at, asked, not phase.window))
    process.communicate(LIMIT)
    status, err, how = process.returncode, said(process.err), f"SIGTERM at event {at} of {base.events}"
    if status not in (0, -signal.SIGTERM, 128 + signal.SIGTERM) or "Traceback" in err:
        return Outcome("lost", f"{how}: status {status}: {err[-300:]}")
    return bench.finished(phase, how)


def cut(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """A loss of power at a random event: what was not flushed is lost."""
    base = bench.base(phase)
    at = random.Random(seed).randint(1, base.events)
    injector = Injector(bench.folder, at, power_cut(seed), not phase.window)
    injector.journal = True
    bench.lay(phase)
    process = bench.start(phase, bench.words(phase), injector)
    process.communicate(LIMIT)
    how = f"power cut at event {at} of {base.events}"
    if process.returncode != -signal.SIGKILL:
        return Outcome("missed", f"{how}: it ended with {process.returncode}: {process.err[-200:]}")
    outcome = bench.finished(phase, how)
    if phase.name == "data get" and outcome.result == "lost" and "the file is removed" in outcome.detail:
        return bench.finished(phase, f"{how}; a damaged download is named, and fetched anew")
    return outcome


def _unforeseen() -> None:
    """Let a download begin, though the room that the published archives take is not there."""
    fetch.check_space = get.check_space = lambda *_: None


def full(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """A disk that is full after a random part of what is to be written."""
    base, draw = bench.base(phase), random.Random(seed)
    share = draw.random() * 0.8
    with bench.small_disk(phase, int(base.grown * share)) as enlarge:
        process = bench.start(phase, bench.words(phase), before=_unforeseen)  # somebody else has filled the disk
        process.communicate(LIMIT)
        how = f"disk full after {share:.0%}"
        if process.returncode == 0 and phase.name == "index":  # a cache is none of the results
            enlarge()
            return bench.finished(phase, how)
        if process.returncode == 0:
            return Outcome("missed", f"{how}: all had room")
        err = said(process.err)
        if not one_line(err):
            return Outcome("lost", f"{how}: status {process.returncode}: {err[-300:]}")
        enlarge()
        return bench.finished(phase, f"{how}: {err.strip()[:120]}")


def read_only(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """A folder in which an unprivileged user may not write."""
    base = bench.base(phase)
    bench.lay(phase)
    before = state(bench.folder)
    for path in (bench.place, bench.folder):
        path.chmod(0o755)
    (bench.place / "cache").mkdir(exist_ok=True)
    (bench.place / "cache").chmod(0o777)

    def drop() -> None:
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    allow(bench.folder, False)
    process = bench.start(phase, bench.words(phase), before=drop)
    process.communicate(LIMIT)
    allow(bench.folder, True)
    err, how = said(process.err), "read-only"
    if phase.name == "index":  # does without its cache
        wrong = "" if process.returncode == 0 and process.out == base.out else f"status {process.returncode}"
        return Outcome("lost" if wrong else "survived", f"{how}{wrong}")
    if process.returncode == 0 or not one_line(err):
        return Outcome("lost", f"{how}: status {process.returncode}: {err[-300:]}")
    changed = unlike(state(bench.folder), before)
    if changed:
        return Outcome("lost", f"{how}: {changed}")
    return bench.finished(phase, f"{how}: {err.strip()[:120]}")


def allow(folder: Path, writing: bool) -> None:
    """Take away this user's right to write below a folder, or give it back; root becomes another user instead."""
    for path in (folder, *folder.rglob("*")) if os.getuid() != 0 else ():
        path.chmod((0o755 if path.is_dir() else 0o644) if writing else (0o555 if path.is_dir() else 0o444))


def truncated(path: Path, draw: random.Random) -> str:
    """Cut a file."""
    size = path.stat().st_size
    left = draw.randrange(size)
    os.truncate(path, left)
    return f"cut from {size} to {left} bytes"


def flipped(path: Path, draw: random.Random) -> str:
    """Flip a bit."""
    content = bytearray(path.read_bytes())
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} flipped"


def emptied(path: Path, draw: random.Random) -> str:
    """Empty a file."""
    path.write_bytes(b"")
    return "emptied"


def swapped(path: Path, draw: random.Random) -> str:
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def damage(do: Callable[[Path, random.Random], str], bench: Bench, phase: Phase, seed: int) -> Outcome:
    """Damage a file that the phase has written: of its result, or of what it leaves when it is stopped."""
    base, draw = bench.base(phase), random.Random(seed)
    finished = seed % 2 == 0
    victims = _victims(bench, phase, base, finished)
    if not victims:
        finished = not finished
        victims = _victims(bench, phase, base, finished)
    bench.clear()
    shutil.copytree(bench.place / f"{'done' if finished else 'stopped'} {phase.name}", bench.folder, symlinks=True)
    victim = bench.folder / choose(victims, draw, first=seed % 6 < 2)
    name = str(victim.relative_to(bench.folder))
    how = f"{name} ({'finished' if finished else 'stopped'}): {do(victim, draw)}"
    if not finished:
        return _gone_on(bench, phase, how, name)
    for words, wanted in zip(phase.reads, base.read, strict=True):
        status, out, err = bench.ended(phase, words)
        if status != 0 and (not one_line(err) or not names_it(err, name)):
            return Outcome("lost", f"{how}: status {status}: {err[-300:]}")
        if status != 0:
            return Outcome("named", f"{how}: {err.strip()[:160]}")
        if out != wanted:
            return Outcome("silent", f"{how}: `barm {' '.join(words[:2])}` prints something else")
    return Outcome("survived", how)


def choose(victims: Sequence[str], draw: random.Random, *, first: bool) -> str:
    """The file that is damaged: the `first` cell of each kind takes one that few phases leave, where there is any.

    >>> names = ["run/config.toml", "run/step00/memory.json", "run/step00/method.json"]
    >>> choose(names, random.Random(0), first=True)
    'run/step00/memory.json'
    """
    rare = [name for name in victims if first and Path(name).name in RARE]
    return draw.choice(rare or list(victims))


def _victims(bench: Bench, phase: Phase, base: object, finished: bool) -> list[str]:
    """Files that the phase has written, and that are no data: nothing is computed from the log, lists are edited."""
    folder = bench.place / f"{'done' if finished else 'stopped'} {phase.name}"
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        ours = any(name == one or name.startswith(f"{one}/") for one in phase.writes)
        data = path.suffix in (*phase.images, ".txt") or name.startswith("grid/data/")
        if ours and path.stat().st_size and path.name not in ("log.csv", ".lock", "lock") and not data:
            found.append(name)
    return found


def names_it(err: str, victim: str) -> bool:
    """Whether a message names a file by its path in the case's folder: neither another one, nor its folder.

    >>> names_it("barm: run/step01/counts.json is damaged", "run/step01/counts.json")
    True
    >>> names_it("barm: run/step01/method.json is damaged", "run/step01/checksums.json")
    False
    >>> names_it("barm: run is in use", "run/config.toml"), names_it("barm: run/config.toml.tmp: no", "run/config.toml")
    (False, False)
    """
    return re.search(rf"(?<![\w./-]){re.escape(victim)}(?![\w/-]|\.\w)", err) is not None


def _gone_on(bench: Bench, phase: Phase, how: str, victim: str) -> Outcome:
    """Give the command again after a stop and a damage: it is refused by name, or leads to the right result."""
    status, out, err = bench.ended(phase, phase.again(bench.folder))
    if status != 0:
        named = one_line(err) and names_it(err, victim)
        return Outcome("named" if named else "lost", f"{how}: status {status}: {err.strip()[-300:]}")
    base = bench.bases[phase.name]
    wrong = unlike(state(bench.folder), base.new, (victim,), logs=False)
    if not wrong and phase.name == "index" and out != base.out:
        wrong = "its output"
    return Outcome("silent", f"{how}; another result: {wrong}") if wrong else Outcome("survived", how)


def worker(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """A process of the loader is killed."""
    base, draw = bench.base(phase), random.Random(seed)
    bench.lay(phase)
    process = bench.start(phase, bench.words(phase, PARALLEL))
    moment = draw.random() * base.seconds
    _wait(lambda: children(process.pid), process)
    time.sleep(moment)
    _wait(lambda: children(process.pid), process)
    victims = children(process.pid)
    for victim in victims[:1]:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    process.communicate(LIMIT)
    err, how = said(process.err), f"a worker killed after {moment:.2f} s"
    if process.returncode == 0:
        return Outcome("missed", f"{how}: it had done its work")
    if not one_line(err):
        return Outcome("lost", f"{how}: status {process.returncode}: {err[-300:]}")
    return bench.finished(phase, f"{how}: {err.strip()[:120]}")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def rank(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """One of two processes that train together is killed."""
    draw, key = random.Random(seed), f"two {phase.name}"
    if key not in bench.bases:
        bench.base(phase)
        began = time.monotonic()
        bench.lay(phase)
        statuses = _both(bench, phase, bench.words(phase), None)
        assert statuses[0] == 0, statuses
        base = bench.bases[phase.name]
        bench.bases[key] = base._replace(new=state(bench.folder), seconds=time.monotonic() - began)
    base = bench.bases[key]
    bench.lay(phase)
    moment, who = 0.6 * draw.random() * base.seconds, draw.randrange(2)
    status, err = _both(bench, phase, bench.words(phase), (moment, who))
    how = f"rank {who} killed after {moment:.2f} s"
    if status == 0:
        return Outcome("missed", f"{how}: both had ended")
    if "Traceback" in err:
        return Outcome("lost", f"{how}: status {status}: {err}")
    status, err = _both(bench, phase, phase.again(bench.folder), None)
    if status != 0:
        return Outcome("lost", f"{how}; given again it ends with {status}: {err[-300:]}")
    wrong = unlike(state(bench.folder), base.new, logs=False)
    return Outcome("silent", f"{how}; another result: {wrong}") if wrong else Outcome("survived", how)


def _wait(reached: Callable[[], object], process: Forked) -> None:
    deadline = time.monotonic() + LIMIT
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


def _both(bench: Bench, phase: Phase, words: tuple[str, ...], end: tuple[float, int] | None) -> tuple[int, str]:
    """Run two processes; the largest status, and what they say."""
    went = os.environ.get("BARM_CACHE")
    os.environ.update(bench.env(phase))
    processes: list[Forked] = ranks(lambda: bench._go(phase, words, None, int), bench.folder)
    if went is not None:
        os.environ["BARM_CACHE"] = went
    if end is not None:
        _wait(
            lambda: (bench.folder / phase.writes[0] / ".lock").exists(), processes[0]
        )  # before that none knows of the other
        time.sleep(end[0])
        processes[end[1]].kill()
    for process in processes:
        process.communicate(LIMIT)
    killed_one = end[1] if end is not None else -1
    statuses = [p.returncode or 0 for i, p in enumerate(processes) if i != killed_one]
    return max(map(abs, statuses)), "".join(said(p.err) for i, p in enumerate(processes) if i != killed_one)


def removed(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """The result's folder is removed while the command works."""
    base = bench.base(phase)
    at = random.Random(seed).randint(1, base.events)
    target = bench.folder / phase.writes[0]

    def act(_: Injector) -> None:
        shutil.rmtree(target, ignore_errors=True)

    bench.lay(phase)
    process = bench.start(phase, bench.words(phase), Injector(bench.folder, at, act, not phase.window))
    process.communicate(LIMIT)
    how, err = f"{phase.writes[0]} removed at event {at} of {base.events}", said(process.err)
    if process.returncode != 0 and not one_line(err):
        return Outcome("lost", f"{how}: status {process.returncode}: {err[-300:]}")
    found = ""
    if process.returncode == 0 and target.exists():
        found = unlike(state(bench.folder), base.new)
    if found and phase.name != "index":
        return Outcome("silent", f"{how}; it ended well, but {found}")
    shutil.rmtree(target, ignore_errors=True)
    bench.lay(phase)
    return bench.finished(phase, f"{how}: {err.strip()[:100]}", bench.words(phase))


def clock(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """The clock is set ten years on or back in the middle, and the files have times of the future."""
    base, draw = bench.base(phase), random.Random(seed)
    at, jump = draw.randint(1, base.events), draw.choice((YEARS, -YEARS))
    bench.lay(phase)
    process = bench.start(phase, bench.words(phase), Injector(bench.folder, at, clock_jump(jump), not phase.window))
    process.communicate(LIMIT)
    how = f"the clock jumps by {jump / YEARS * 10:+.0f} years at event {at} of {base.events}"
    if process.returncode != 0:
        return Outcome("lost", f"{how}: status {process.returncode}: {process.err[-300:]}")
    wrong = unlike(state(bench.folder), base.new)
    if wrong:
        return Outcome("silent", f"{how}: {wrong}")
    for path in bench.folder.rglob("*"):
        os.utime(path, (time.time() + YEARS,) * 2)
    for words, wanted in zip(phase.reads, base.read, strict=True):
        status, out, err = bench.ended(phase, words)
        if status != 0 or out != wanted:
            return Outcome("lost", f"{how}; read in the future: status {status}: {err[-300:]}")
    return Outcome("survived", how)


def twice(bench: Bench, phase: Phase, seed: int) -> Outcome:
    """The command is given a second time while the first works: that waits at an event until the second has written."""
    base = bench.base(phase)
    at = random.Random(seed).randint(1, base.events)
    reached, met = bench.place / "reached", bench.place / "met"
    for mark in (reached, met):
        mark.unlink(missing_ok=True)

    def wait(_: Injector) -> None:
        reached.touch()
        deadline = time.monotonic() + MEETING
        while not met.exists() and time.monotonic() < deadline:
            time.sleep(0.001)

    bench.lay(phase)
    first = bench.start(phase, bench.words(phase), Injector(bench.folder, at, wait, not phase.window))
    _wait(reached.exists, first)
    how = f"the second at event {at} of {base.events} of the first"
    if not reached.exists() or first.poll() is not None:
        first.communicate(LIMIT)
        return Outcome("missed", f"{how}, which ended before with {first.returncode}")
    second = bench.start(phase, bench.again(phase), Injector(bench.folder, 1, lambda _: met.touch()))
    _wait(met.exists, second)
    together = first.poll() is None
    met.touch()
    for process in (first, second):
        process.communicate(LIMIT)
    if not together:
        return Outcome("missed", f"{how}, which had ended when the second wrote")
    for process in (first, second):
        err = said(process.err)
        if process.returncode != 0 and not one_line(err):
            return Outcome("lost", f"{how}: status {process.returncode}: {err[-300:]}")
    if first.returncode and second.returncode:
        return Outcome("lost", f"{how}: neither came to an end: {first.err[-150:]} {second.err[-150:]}")
    wrong = unlike(state(bench.folder), base.new)
    refused = [p.err.strip()[:120] for p in (first, second) if p.returncode]
    return Outcome("silent", f"{how}: {wrong}") if wrong else Outcome("survived", f"{how}: {refused}")


def _folder(phase: Phase) -> bool:
    return "." not in phase.writes[0]


FAULTS: tuple[Fault, ...] = (
    Fault("SIGKILL", kill, 5),
    Fault("SIGTERM", terminate, 2),
    Fault("power cut", cut, 4),
    Fault("disk full", full, 1),
    Fault("read-only", read_only, 1),
    Fault("truncated", partial(damage, truncated), 2),
    Fault("bit flipped", partial(damage, flipped), 4),
    Fault("emptied", partial(damage, emptied), 1),
    Fault("a folder", partial(damage, swapped), 1),
    Fault("worker killed", worker, 1, lambda phase: phase.trains),
    Fault("rank killed", rank, 1, lambda phase: phase.trains),
    Fault("removed", removed, 1, _folder),
    Fault("clock jump", clock, 1),
    Fault("two at once", twice, 1),
)
