"""What barm is made of: licences of what it needs, a bill of materials, known vulnerabilities, the same wheel twice.

``python benchmarks/supply.py`` writes ``licences.md`` and ``bom.json`` (CycloneDX 1.5) into runs/supply. It asks
pip-audit where that is installed, and builds the wheel twice. ``--parts licences bom`` does some of it. The status is 1
for a licence that is not allowed or not known, for a known vulnerability, and for two wheels that differ. Where
pip-audit gets no answer about any package, that is said, and is no success.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
OWN = "barm-seg"
EXTRAS = ("app", "cluster", "export", "saliency", "hf", "models", "wandb")  # of users; those of developers are left out
ALLOWED = {  # whole names of licences that let barm be used, changed and sold with them; the first that fits is shown
    "Apache": r"Apache[- ]2(\.0)?( License)?( WITH LLVM-exception)?|Apache (Software )?License(,? (Version )?2\.0)?",
    "BSD": r"0BSD|(Free)?BSD( License)?|((New|Modified|Simplified) |[23]-Clause )BSD( License)?|BSD-[123]-Clause",
    "MIT": r"MIT(-0|-CMU)?|(The )?MIT License",
    "ISC": r"ISC|ISC License( \(ISCL\))?",
    "PSF": r"PSF(-2\.0| License)?|Python-2\.0|Python Software Foundation License|CNRI-Python",
    "MPL": r"MPL[- ]2\.0|Mozilla Public License 2\.0( \(MPL 2\.0\))?",
    "HPND": r"HPND|Historical Permission Notice and Disclaimer( \(HPND\))?",
    "public": r"(The )?Unlicense( \(Unlicense\))?|CC0-1\.0|CC0 1\.0 Universal \(CC0 1\.0\) Public Domain Dedication",
    "Zlib": r"Zlib|zlib/libpng License",
    "Boost": r"BSL-1\.0|Boost Software License 1\.0 \(BSL-1\.0\)",
    "LGPL": r"LGPL-(2\.[01]|3\.0)(-only|-or-later)?|GNU (Library or )?Lesser General Public License"
    r"( v[23])?( or later)?( \(LGPL(v[23]\+?)?\))?",
}
CUDA = ("nvidia-", "cuda-")  # names of what torch brings on Linux: NVIDIA's terms, not open source, never with barm
NVIDIA = r"none|Other/Proprietary License|NVIDIA Proprietary Software|LicenseRef-NVIDIA-[A-Za-z-]+"  # those terms
EPOCH = "1700000000"  # the time in a wheel that is built twice


def normal(name: str) -> str:
    """A package's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def tree(start: str, extras: Sequence[str]) -> tuple[dict[str, Distribution], dict[str, list[str]], list[str]]:
    """All that a distribution needs: by name, what each needs, and what is not installed here.

    Args:
        start: its name.
        extras: of it.
    """
    found, needs, missing = dict[str, Distribution](), dict[str, list[str]](), list[str]()
    left = [(start, frozenset(extras))]
    seen = set[tuple[str, frozenset[str]]]()
    while left:
        name, wanted = left.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        for line in found[name].requires or ():
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                needs.setdefault(name, []).append(normal(need.name))
                left.append((normal(need.name), frozenset(need.extras)))
    return found, needs, sorted(set(missing))


def licence(found: Distribution) -> str:
    """What a distribution says of its licence, in one line; all of several classifiers hold; '' if it says nothing."""
    about: Any = found.metadata
    expression = about.get("License-Expression")
    classifiers = [
        c.rpartition("::")[2].strip() for c in about.get_all("Classifier") or () if c.startswith("License ::")
    ]
    told = [c for c in classifiers if c != "OSI Approved"]
    text = (about.get("License") or "").strip().splitlines()
    return expression or " AND ".join(told) or (text[0].strip() if text else "")


def kind_of(name: str, told: str) -> str | None:
    """The key of `ALLOWED` by which a licence is allowed, ``NVIDIA`` for CUDA's packages, or None.

    A licence is a whole name, or an expression of names with ``AND``, ``OR`` and brackets, as SPDX has it. Whatever has
    another word in it is not known, and so not allowed.

    >>> kind_of("a", "GPL-3.0-only"), kind_of("a", "GPL-2.0 OR MIT"), kind_of("a", "MIT, for evaluation")
    (None, 'MIT', None)
    """
    if name.startswith(CUDA) and re.fullmatch(NVIDIA, told):
        return "NVIDIA"
    told = told.strip()
    exact = next((kind for kind, names in ALLOWED.items() if re.fullmatch(names, told, re.IGNORECASE)), None)
    if exact is not None:
        return exact
    for word, enough in (("OR", any), ("AND", all)):
        parts = split_at(word, told)
        if len(parts) > 1:
            kinds = [kind_of("", part) for part in parts]
            return next((kind for kind in ALLOWED if kind in kinds), None) if enough(kinds) else None
    return kind_of("", told[1:-1]) if told.startswith("(") and told.endswith(")") else None


def split_at(word: str, told: str) -> list[str]:
    """The parts of an expression between a word that stands in no brackets.

    >>> split_at("AND", "(MIT AND ISC) AND Zlib")
    ['(MIT AND ISC) ', ' Zlib']
    """
    parts, depth = [""], 0
    for piece in re.split(rf"(\(|\)|\b{word}\b)", told):
        depth += (piece == "(") - (piece == ")")
        if piece == word and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def judged(found: Mapping[str, Distribution]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Name, version and licence of each, and complaints."""
    rows = [(name, one.version, licence(one) or "none") for name, one in sorted(found.items())]
    bad = [
        f"{name} {version}: the licence '{told}' is not allowed"
        for name, version, told in rows
        if not kind_of(name, told)
    ]
    return rows, bad


def bill(found: Mapping[str, Distribution], needs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The bill of materials in CycloneDX's form 1.5."""

    def component(name: str, kind: str) -> dict[str, Any]:
        one = found[name]
        told, place = licence(one), f"pkg:pypi/{name}@{one.version}"
        record = hashlib.sha256((one.read_text("RECORD") or "").encode()).hexdigest()
        entry: dict[str, Any] = {"type": kind, "bom-ref": place, "name": name, "version": one.version, "purl": place}
        entry["properties"] = [{"name": "barm:sha256-of-RECORD", "value": record}]
        return {**entry, "licenses": [{"license": {"name": told}}]} if told else entry

    refs = {name: f"pkg:pypi/{name}@{one.version}" for name, one in found.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(OWN, "application")},
        "components": [component(name, "library") for name in sorted(found) if name != OWN],
        "dependencies": [
            {"ref": refs[name], "dependsOn": sorted({refs[n] for n in needs.get(name, ()) if n in refs})}
            for name in sorted(found)
        ],
    }


def audited(found: Mapping[str, Distribution]) -> tuple[str, list[str]]:
    """What pip-audit says of the installed versions, and complaints."""
    program = shutil.which("pip-audit") or shutil.which(str(Path(sys.executable).parent / "pip-audit"))
    if program is None:
        return "pip-audit is not installed: nothing is known of vulnerabilities", ["pip-audit is not installed"]
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text("".join(f"{n}=={d.version}\n" for n, d in sorted(found.items()) if n != OWN), "utf-8")
        words = (
            "--requirement",
            str(pins),
            "--no-deps",
            "--disable-pip",
            "--format",
            "json",
            "--progress-spinner",
            "off",
        )
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    return answers(done.stdout)


def answers(text: str) -> tuple[str, list[str]]:
    """Read pip-audit's JSON.

    >>> answers('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}')[1]
    ['no package could be looked up: nothing is known of vulnerabilities']
    """
    try:
        entries = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return "pip-audit gave no answer", ["pip-audit gave no answer: nothing is known of vulnerabilities"]
    asked = [e for e in entries if "skip_reason" not in e]
    bad = [f"{e['name']} {e['version']}: {v['id']}" for e in asked for v in e.get("vulns", ())]
    line = f"{len(asked)} of {len(entries)} packages looked up, {len(bad)} known vulnerabilities"
    return line, bad if asked else ["no package could be looked up: nothing is known of vulnerabilities"]


def wheels(folder: Path) -> tuple[str, list[str]]:
    """Build the wheel twice from two copies of the tree, and compare the bytes."""
    digests = []
    for i in range(2):
        copy = folder / f"tree{i}"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "runs", "build", "dist", "*.egg-info")
        )
        for path in copy.rglob("*"):
            os.utime(path, (1_600_000_000 + 1000 * i,) * 2, follow_symlinks=False)
        words = ("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / f"dist{i}"), str(copy))
        environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)
        made = sorted((folder / f"dist{i}").glob("*.whl"))
        if done.returncode or not made:
            return "the wheel could not be built", [f"no wheel: {(done.stderr or done.stdout).strip()[-300:]}"]
        digests.append(hashlib.sha256(made[0].read_bytes()).hexdigest())
    line = f"two builds of {made[0].name} with SOURCE_DATE_EPOCH={EPOCH}: sha256 {digests[0]}"
    return line, [] if digests[0] == digests[1] else [f"two builds of the wheel differ: {digests[0]}, {digests[1]}"]


def main() -> int:
    """Do all parts; the status is 1 where one has a complaint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/supply"))
    parser.add_argument("--parts", nargs="+", default=["licences", "bom", "audit", "wheel"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found, needs, missing = tree(OWN, EXTRAS)
    bad = list[str]()
    print(
        f"{len(found) - 1} packages below {OWN}[{','.join(EXTRAS)}]; not installed here: {', '.join(missing) or 'none'}"
    )
    if "licences" in options.parts:
        rows, complaints = judged(found)
        bad += complaints
        lines = ["| package | version | licence |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
        (options.out / "licences.md").write_text("\n".join(lines) + "\n", "utf-8")
        kinds = Counter(kind_of(name, told) or "not allowed" for name, _, told in rows)
        print("licences: " + ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()))
    if "bom" in options.parts:
        content = json.dumps(bill(found, needs), indent=1) + "\n"
        (options.out / "bom.json").write_text(content, "utf-8")
        print(f"bill of materials: {options.out / 'bom.json'}, {len(found) - 1} components")
    for part, work in (("audit", lambda: audited(found)), ("wheel", None)):
        if part not in options.parts:
            continue
        with tempfile.TemporaryDirectory() as folder:
            line, complaints = work() if work is not None else wheels(Path(folder))
        bad += complaints
        print(f"{part}: {line}")
    for complaint in bad:
        print(f"BAD: {complaint}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
