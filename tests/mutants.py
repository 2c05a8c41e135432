"""Does the suite notice when the code is wrong? Single faults, one after the other, in a copy of the tree.

``python tests/mutants.py`` prints for every fault whether a test failed, and ends with status 1 if one passed unseen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    *("tests/data", "tests/losses", "tests/methods", "tests/models", "tests/ops", "tests/golden", "tests/contract"),
    *("tests/test_labels.py", "tests/test_metrics.py"),
    *(f"tests/engine/test_{name}.py" for name in ("finite", "selection", "train")),
)
FAULTS = (  # what stands there once in the package, and what it is made
    # losses
    (
        "- positive.masked_fill(~here, 0.0)\n    return Term(loss.masked_fill(~valid, 0.0).sum(), ",
        "- positive.masked_fill(~here, 0.0)\n    return Term(loss.sum(), ",
    ),
    ("loss = alpha * (1 - torch.exp(-entropy)) ** gamma * entropy", "loss = alpha * (1 - entropy) ** gamma * entropy"),
    ("(label < first) & (channel >= first) & (score >= threshold)", "(label < first) & (score >= threshold)"),
    ("elif threshold >= 1:\n        return label", "elif threshold > 1:\n        return label"),
    ("where_counted(negative, (s - 1) ** 2 - s**2).clamp(min=0)", "where_counted(negative, (s - 1) ** 2 - s**2)"),
    ("masks = torch.stack([(label != 0) & (label != IGNORE), label", "masks = torch.stack([label != 0, label"),
    ("distance).sum(), count(old.numel() // num_branches, negative)", "distance).sum(), count(old.numel(), negative)"),
    ("(label - (num_old - 1)).clamp(min=0)", "(label - num_old).clamp(min=0)"),
    (
        "torch.cat([logits[:, :1], logits[:, num_old:]], dim=1), dim=1, keepdim=True)",
        "logits[:, :1], dim=1, keepdim=True)",
    ),
    (
        "return norm\n\n    share = math.sqrt(num_seen / num_new) / len(old)",
        "return norm\n\n    share = math.sqrt(num_seen / num_new)",
    ),
    ("/ math.log(num_old + EPSILON)", "/ math.log(num_seen)"),
    ("confident = seen.entropy < thresholds[seen.channel]", "confident = seen.entropy > thresholds[seen.channel]"),
    # labels
    ("lut[class_id] = policy.unseen", "lut[class_id] = 0"),
    ("lut[0], lut[IGNORE] = 0, IGNORE", "lut[0] = 0"),
    ("return any(index <= step.index for index in", "return any(index < step.index for index in"),
    ('== "partitioned" else max(shown)', '== "partitioned" else min(shown)'),
    # metrics
    ("return (label >= 0) & (label < num_classes)", "return label < num_classes"),
    ("hit / (matrix.sum(0) + matrix.sum(1) - hit + EPSILON)", "hit / (matrix.sum(0) + matrix.sum(1) + EPSILON)"),
    ("return mean(best - rows[-1][:known])", "return mean(rows[-2] - rows[-1][:known])"),
    ("return mean(best - rows[-1][:known])", "return mean(np.fmax(best, rows[-1][:known]) - rows[-1][:known])"),
    ("result[0, ~torch.tensor(known)] = 0", "result[:, ~torch.tensor(known)] = 0"),
    # training
    ("return max(base * decay, POLY_FLOOR)", "return base * decay"),
    ("self._in_a_row = (self._in_a_row + 1) * ~finite", "self._in_a_row = self._in_a_row + ~finite"),
    ("t.weight * t.total * (rt.world / n)", "t.total * (rt.world / n)"),
    ("torch.manual_seed(_mix(*seeds, rt.rank))", "torch.manual_seed(_mix(*seeds, 0))"),
    # transforms
    (
        "return pad + max(0, math.ceil((crop - height - 2 * pad) / 2))",
        "return pad + max(0, math.ceil((crop - height) / 2))",
    ),
    (
        "left, top = round((width - crop) / 2), round((height - crop) / 2)",
        "left, top = (width - crop + 1) // 2, (height - crop + 1) // 2",
    ),
    ("ratio = math.exp(rng.uniform(*bounds))", "ratio = rng.uniform(*ASPECT)"),
)


def places(text: str, tree: Path) -> list[Path]:
    """Files of the package in which a text stands, once for every time."""
    files = (path for path in (tree / "src/barm").rglob("*.py") if "bench" not in path.parts)
    return [path for path in files for _ in range(path.read_text("utf-8").count(text))]


def caught(fault: tuple[str, str], tree: Path, tests: list[str]) -> bool:
    """Put a fault into a tree, run the tests until one fails, and take it back."""
    right, wrong = fault
    (file,) = places(right, tree)
    text = file.read_text("utf-8")
    file.write_text(text.replace(right, wrong, 1), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not long"]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run([*command, *tests], cwd=tree, env=environment, capture_output=True, check=False)
    finally:
        file.write_text(text, "utf-8")
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout.decode()[-2000:])
    return done.returncode == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=TESTS)
    given = parser.parse_args()
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "*.pyc", "__pycache__"))
        for fault in FAULTS:
            began = time.monotonic()
            found = caught(fault, tree, list(given.tests))
            unseen += not found
            print(f"{'caught' if found else 'UNSEEN'} {time.monotonic() - began:4.0f} s  {fault[1]}", flush=True)
    print(f"{len(FAULTS) - unseen} of {len(FAULTS)} caught")
    sys.exit(bool(unseen))


if __name__ == "__main__":
    main()
