"""Meets barm with hundreds of hostile files and prints what became of them.

``python tests/hostile/run.py`` runs all, ``--every 8`` each eighth, ``--kind index`` one kind. Every command has ten
seconds; it runs in a process that is used again, and killed where a command hangs. A case is good if the command ends
with one line on stderr and a status other than 0, and leaves every file as it was (or with a result, where one is due).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from cases import Case, cases, lay_out
from material import make_material
from table import show

LIMIT, START = 30, 120  # seconds by the clock, on a busy machine too: for a command, for the import
OWN = ("config.toml", ".lock")  # of a run that is taken up again: that it was is noted, before anything else is read
COLUMNS = ("tried", "one line", "taken", "traceback", "hang", "left over", "wrong")


class Worker:
    """A process that runs commands one after the other."""

    def __init__(self, material: Path) -> None:
        script = Path(__file__).with_name("worker.py")
        env = {**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, str(script)], stdin=-1, stdout=-1, env=env)
        self.answer(START)
        usual = Case("", "", (), lambda folder: None, ("evaluate", "run", "--quiet"), "taken")
        self.call(usual, material, material, START)  # imports what commands import late

    def answer(self, seconds: float) -> Any:
        """The next answer, or None where there is none in time; the process is then gone."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.process.kill()
            self.process.wait()
            return None
        return json.loads(line)

    def call(self, case: Case, folder: Path, place: Path, limit: float = LIMIT) -> Any:
        """The exit status of a command, or None where it hung."""
        assert self.process.stdin is not None
        request = {"folder": str(folder), "words": list(case.words), "cache": str(folder / "cache")}
        request |= {"out": str(place / "out"), "err": str(place / "err")}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return self.answer(limit)


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below a folder but the cache: its kind, size and time."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if Path(place, f) != folder / "cache"]
        for path in (
            Path(place, name) for name in (*folders, *files) if not place.endswith("/stopped") or name not in OWN
        ):
            about = path.lstat()
            is_folder = path.is_dir() and not path.is_symlink()
            found[str(path)] = (about.st_mode, 0, 0) if is_folder else (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def judge(case: Case, status: Any, err: str, changed: list[str]) -> tuple[str, str]:
    """The column of the table, and what is wrong with it (an empty text: nothing)."""
    if status is None:
        return "hang", f"no end within {LIMIT} s"
    if "Traceback (most recent call last)" in err:
        return "traceback", err.strip().splitlines()[-1]
    if status == 0:
        return "taken", "" if case.outcome != "refused" else "taken, though it had to be refused"
    lines = err.splitlines()
    if len(lines) != 1 or not lines[0].startswith("barm: "):
        return "wrong", f"{len(lines)} lines: {err[:300]}"
    if changed:
        return "left over", f"{lines[0][:200]} | left: {', '.join(changed[:4])}"
    return "one line", "" if case.outcome != "taken" else f"refused, though it had to be taken: {lines[0][:300]}"


def main() -> int:
    """Run the cases and print the table; the status is 1 where any is bad."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--kind")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    table: dict[str, Counter[str]] = {}
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(os.path.realpath(name))
        os.environ["BARM_CACHE"] = str(place / "material/cache")
        make_material(place / "material")
        worker = Worker(place / "material")
        chosen = [c for c in cases() if options.kind in (None, c.kind)][:: options.every]
        for case in chosen:
            folder = place / "case"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            lay_out(case, place / "material", folder)
            before = listing(folder)
            status = worker.call(case, folder, place)
            after, err = listing(folder), (place / "err").read_text("utf-8", errors="replace")
            changed = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
            column, wrong = judge(case, status, err, [os.path.relpath(p, folder) for p in changed])
            row = table.setdefault(case.kind, Counter())
            row["tried"] += 1
            row[column] += 1
            if wrong:
                bad += 1
                print(f"{case.kind}: {case.name}: {column}: {wrong}", flush=True)
            elif options.verbose:
                print(f"{case.kind}: {case.name}: {err.strip()[:300] or column}", flush=True)
            if worker.process.poll() is not None:
                worker = Worker(place / "material")
        worker.process.kill()
        worker.process.wait()
    show(table, COLUMNS, "kind", 26)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
