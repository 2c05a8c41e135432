"""What barm is made of: licences, the bill of materials, what is said of vulnerabilities, and the same wheel twice."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("supply", ROOT / "benchmarks/supply.py")
assert spec is not None
supply = importlib.util.module_from_spec(spec)
spec.loader.exec_module(supply)


@pytest.fixture(scope="module")
def parts():
    return supply.tree("barm-seg", supply.EXTRAS)


def test_every_licence_is_allowed(parts):
    rows, bad = supply.judged(parts[0])
    assert not bad
    assert len(rows) > 60


@pytest.mark.parametrize(
    ("name", "told", "kind"),
    [
        ("a", "AGPL-3.0-only", None),
        ("a", "GNU General Public License v3 (GPLv3)", None),
        ("a", "GNU Lesser General Public License v3 (LGPLv3)", "LGPL"),
        ("a", "MIT AND GPL-3.0-only", None),
        ("a", "GPL-3.0-only OR Apache-2.0", "Apache"),
        ("a", "CC-BY-NC-4.0", None),
        ("a", "none", None),
        ("a", "Other/Proprietary License", None),
        ("nvidia-cublas", "Other/Proprietary License", "NVIDIA"),
        ("nvidia-cublas", "GPL-3.0-only", None),
        ("a", "LicenseRef-NVIDIA-Proprietary", None),
        ("a", "Limited Use Proprietary", None),
        ("a", "Commercial, permitted for evaluation only", None),
        ("a", "All rights reserved; see disclaimer", None),
        ("a", "MIT, for evaluation only", None),
        ("a", "MIT WITH Commons-Clause", None),
        ("a", "BUSL-1.1", None),
        ("a", "Apache", None),
        ("a", "CC-BY-NC-4.0 AND MIT", None),
        ("a", "(MIT AND GPL-3.0-only", None),
        ("a", "MIT License AND Mozilla Public License 2.0 (MPL 2.0)", "MIT"),
        ("a", "MPL-2.0 AND (Apache-2.0 OR GPL-2.0-only)", "Apache"),
        ("a", "MPL-2.0 AND (Proprietary AND MIT)", None),
        ("a", "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND BSL-1.0", "Apache"),
        ("a", "FreeBSD", "BSD"),
        ("a", "Apache License, Version 2.0", "Apache"),
        ("a", "0BSD", "BSD"),
    ],
)
def test_kinds_of_licences(name, told, kind):
    assert supply.kind_of(name, told) == kind


def test_the_bill_of_materials(parts):
    found, needs, _ = parts
    bill = json.loads(json.dumps(supply.bill(found, needs)))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    refs = {c["bom-ref"] for c in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    assert len(refs) == len(bill["components"]) + 1
    names = {c["name"] for c in bill["components"]}
    assert {"torch", "timm", "pillow", "numpy", "safetensors", "gradio"} <= names
    assert "pytest" not in names
    edges = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert set(edges) == refs
    assert {ref for each in edges.values() for ref in each} <= refs
    own = edges[bill["metadata"]["component"]["bom-ref"]]
    assert any(ref.startswith("pkg:pypi/torch@") for ref in own)


def test_what_is_not_answered_is_no_success():
    one = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}
    assert supply.answers(json.dumps({"dependencies": [one]}))[1] == ["a 1: CVE-1"]
    line, bad = supply.answers(json.dumps({"dependencies": [{**one, "vulns": []}, {"name": "b", "skip_reason": "x"}]}))
    assert (line, bad) == ("1 of 2 packages looked up, 0 known vulnerabilities", [])
    for text in ("", "[]", "{}", json.dumps({"dependencies": [{"name": "b", "skip_reason": "not found"}]})):
        assert "nothing is known" in supply.answers(text)[1][0]


@pytest.mark.slow
def test_the_wheel_is_the_same_in_every_build(tmp_path):
    line, bad = supply.wheels(tmp_path)
    assert not bad
    assert "two builds of barm_seg-" in line
