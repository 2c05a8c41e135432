"""A random sample of small faults, one after the other, in a copy of the tree: how many does the suite notice?

Needs ``pip install -e '.[audit]'``: the operators of cosmic-ray change code, and coverage knows which tests run
a line, so that only these are tried for a fault in it.

    export OMP_NUM_THREADS=1
    python -m pytest -m 'not slow and not long and not gpu' --cov=barm --cov-context=test --cov-report=term
    python benchmarks/mutation.py --sample 400 --seed 1 --coverage .coverage --out outcomes.json

The same command again goes on after the outcomes that the file has, and prints the figures of all of them.
Tests that run the line in a process of their own alone are not known and not tried, so that some faults count as unseen
which the whole suite would notice. It prints every fault that no test noticed, and the share of those that one did.
`tests/mutants.py` has chosen ones.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.ast import Visitor, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from coverage import CoverageData
from parso.tree import NodeOrLeaf

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ("tests/golden", "tests/methods", "tests/contract")
TESTS = {  # of the package's modules, by the start of their paths: the tests of lines that are run at the import
    "labels.py": ("tests/test_labels.py", "tests/data"),
    "losses/": ("tests/losses", *GOLDEN),
    "ops/strips": ("tests/ops", "tests/losses", *GOLDEN),  # kernels.py needs a GPU
    "ops/upsampled": ("tests/ops", "tests/losses", *GOLDEN),
    "metrics.py": ("tests/test_metrics.py", "tests/engine/test_details.py", "tests/engine/test_evaluate.py"),
    "data/transforms.py": ("tests/data",),
    "engine/schedule.py": ("tests/engine", "tests/golden"),
    "engine/train.py": ("tests/engine", "tests/runs/test_resume.py"),
    "writing.py": ("tests/test_targets.py", "tests/engine/checkpoint", "tests/runs"),
    "engine/checkpoint/": ("tests/engine/checkpoint", "tests/runs", "tests/test_api.py"),
}
FIRST = 30  # tests of a line that are tried before its others
FAST = "not slow and not long and not gpu"
LEFT_OUT = ("core/NoOp", "core/VariableReplacer", "core/VariableInserter")
PASSED = (0, 5)  # of pytest: all tests passed, or none was there
SECONDS = 600  # of one fault, after which it counts as hung


class Fault(NamedTuple):
    """A changed module.

    Attributes:
        path: below ``src/barm``.
        before: the whole module.
        code: the whole changed module.
    """

    path: str
    before: str
    code: str

    def lines(self) -> list[str]:
        """What is changed, as ``-`` and ``+`` lines."""
        changed = difflib.unified_diff(self.before.splitlines(), self.code.splitlines(), lineterm="", n=0)
        return [line for line in changed if line[:3] not in ("---", "+++") and line[:2] != "@@"]

    def places(self) -> set[int]:
        """Numbers of the lines of the changed statement, without those of statements in it."""
        pieces = difflib.SequenceMatcher(None, self.before.splitlines(), self.code.splitlines()).get_opcodes()
        changed = {n + 1 for kind, a, b, _, _ in pieces if kind != "equal" for n in range(a, max(a + 1, b))}
        found = [own for own in map(_own_lines, _statements(self.before)) if own & changed]
        return changed.union(*found)


def _statements(code: str) -> Iterator[ast.stmt]:
    return (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt))


def _own_lines(statement: ast.stmt) -> set[int]:
    """Lines of a statement: of one with a body, only what stands before the body."""
    body = getattr(statement, "body", None)
    end = body[0].lineno - 1 if isinstance(body, list) and body else statement.end_lineno or statement.lineno
    return set(range(statement.lineno, max(end, statement.lineno) + 1))


class Covering:
    """Which tests run a line of the package.

    Args:
        path: what ``pytest --cov-context=test`` wrote.
    """

    def __init__(self, path: Path) -> None:
        data = CoverageData(str(path))
        data.read()
        files = {name.rpartition("/src/barm/")[2]: name for name in data.measured_files()}
        self._tests = {file: data.contexts_by_lineno(name) for file, name in files.items()}
        self._size = Counter(test for lines in self._tests.values() for tests in lines.values() for test in tests)

    def tests(self, fault: Fault) -> list[str]:
        """Node ids of the tests that run a changed line, first those that run the fewest lines of the package."""
        lines = self._tests.get(fault.path, {})
        found = {test for line in fault.places() for test in lines.get(line, ()) if test}
        ids = dict.fromkeys(test.rpartition("|")[0] for test in sorted(found, key=lambda t: (self._size[t], t)))
        return list(ids)


class Chosen:
    """A plugin of pytest that runs some of the collected tests, in an order."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._order = {test: number for number, test in enumerate(ids)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda i: self._order[i.nodeid])


def meaning(code: str) -> str:
    """A module's syntax tree without annotations and docstrings, which nothing evaluates."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.dump(tree)


class Places(Visitor):
    """Counts the places of a module that an operator can change."""

    def __init__(self, operator: Operator) -> None:
        self.operator, self.number = operator, 0

    def visit(self, node: NodeOrLeaf) -> NodeOrLeaf:
        self.number += sum(1 for _ in self.operator.mutation_positions(node))
        return node


def places() -> Iterator[tuple[str, str, int]]:
    """Path, operator and number of every possible change of the modules in `TESTS`."""
    package = ROOT / "src/barm"
    for path in sorted(str(p.relative_to(package)) for p in package.rglob("*.py")):
        if path.startswith(tuple(TESTS)):
            code = (package / path).read_text("utf-8")
            for name in (n for n in operator_names() if n not in LEFT_OUT):
                counter = Places(get_operator(name)())
                counter.walk(get_ast(code))
                yield from ((path, name, number) for number in range(counter.number))


def sampled(number: int, seed: int) -> list[Fault]:
    """A sample of the faults that change what their modules mean, in random order."""
    possible = list(places())
    print(f"{len(possible)} possible changes", flush=True)
    random.Random(seed).shuffle(possible)
    found, known = list[Fault](), set[str]()
    for path, name, occurrence in possible:
        if len(found) == number:
            break
        code = (ROOT / "src/barm" / path).read_text("utf-8")
        try:
            changed = MutationVisitor.mutate_code(code, get_operator(name)(), occurrence)
            key = path + meaning(changed or code)
        except (AttributeError, SyntaxError):  # of an operator that cannot change what it found
            continue
        if key not in known and key != path + meaning(code):
            known.add(key)
            found.append(Fault(path, code, changed))
    return found


def noticed(fault: Fault, tree: Path, covering: Covering) -> str:
    """Run the tests of the changed line on a tree with a fault, until one fails."""
    file, ids = tree / "src/barm" / fault.path, covering.tests(fault)
    file.write_text(fault.code, "utf-8")
    near = next(tests for start, tests in TESTS.items() if fault.path.startswith(start))
    try:
        for some in (ids[:FIRST], ids[FIRST:]) if ids else (None,):
            if some == []:
                continue
            status = _in_a_process(near if some is None else _files(some), tree, some)
            if status not in PASSED:
                return "hung" if status is None else "killed"
    finally:
        file.write_text(fault.before, "utf-8")
    return "survived"


def _files(ids: Sequence[str]) -> list[str]:
    return sorted({test.partition("::")[0] for test in ids})


def _in_a_process(tests: Sequence[str], tree: Path, ids: Sequence[str] | None = None) -> int | None:
    """Exit status of pytest in a child of this process, which has imported what takes long; None if it hangs.

    Args:
        tests: files and folders.
        tree: where they lie, and the package.
        ids: those of their tests that are run, in this order; all if there are none.
    """
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(tree)
        sys.path.insert(0, str(tree / "src"))
        os.environ["PYTHONPATH"] = str(tree / "src")
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:warnings", "-m", FAST, *tests]
        os._exit(int(pytest.main(words, plugins=[] if ids is None else [Chosen(ids)])))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Trial:
    """What a process of the pool does with a fault; each process has a tree of its own.

    Args:
        covering: which tests run a line.
        folder: for the trees.
    """

    def __init__(self, covering: Covering, folder: Path) -> None:
        self.covering, self.folder = covering, folder

    def tree(self) -> Path:
        """The copy of the project of this process."""
        tree = self.folder / str(os.getpid())
        if not tree.is_dir():
            left_out = shutil.ignore_patterns(".git", ".venv*", "runs", "*.pyc", "__pycache__", "site")
            shutil.copytree(ROOT, tree, ignore=left_out)
        return tree

    def __call__(self, fault: Fault) -> dict[str, object]:
        outcome = noticed(fault, self.tree(), self.covering)
        return {"module": fault.path, "change": fault.lines(), "outcome": outcome}


def tried(faults: Sequence[Fault], trial: Trial, jobs: int, end: float) -> Iterator[dict[str, object]]:
    """Outcomes in the order of the faults; after the time ``end`` (of `time.monotonic`) no fault is begun."""
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for first in range(0, len(faults), jobs):
            if time.monotonic() > end:
                return
            yield from pool.map(trial, faults[first : first + jobs], chunksize=1)


def told(outcomes: Sequence[dict[str, object]], seed: int) -> str:
    """The unseen faults, and the numbers of all."""
    number = Counter(o["outcome"] for o in outcomes)
    unseen = [[o["module"], *o["change"]] for o in outcomes if o["outcome"] == "survived"]  # type: ignore[misc]
    figures = f"{number['killed']} of {len(outcomes)} noticed, {number['hung']} ran longer than {SECONDS} s"
    end = f"{figures}, {number['survived']} passed unseen (seed {seed})"
    return "\n".join([*("\n    ".join(lines) for lines in unseen), end])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", type=Path, required=True, help="which tests run a line")
    parser.add_argument("--jobs", type=int, default=1, help="faults that are tried at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; the sample is in random order")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file of all outcomes, written after each")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    outcomes = json.loads(given.out.read_text("utf-8")) if given.out.exists() else []
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Covering(given.coverage), Path(folder))
        if _in_a_process([*TESTS["metrics.py"]], trial.tree()) != 0:
            sys.exit("tests fail without a fault: mend them first")
        for outcome in tried(sampled(given.sample, given.seed)[len(outcomes) :], trial, given.jobs, end):
            outcomes.append(outcome)
            given.out.write_text(json.dumps(outcomes, indent=1) + "\n", "utf-8")
    print(told(outcomes, given.seed))


if __name__ == "__main__":
    import hypothesis
    import lightning_fabric
    import torch
    import torchvision

    assert all((hypothesis, lightning_fabric, torch, torchvision))  # imported here, once for all processes
    torch.set_num_threads(1)
    main()
