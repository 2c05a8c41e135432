"""What is installed is called barm-seg, and its versions are told in one way everywhere."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import barm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OLDEST = dict(
    line.split("==") for line in (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines() if "==" in line
)


def floors(requirements: list[str]) -> dict[str, str]:
    """Lowest release by the name of the package."""
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in requirements)


def test_the_name_of_the_distribution():
    found = metadata.distribution("barm-seg")
    assert found.metadata["Name"] == "barm-seg"
    assert found.version == barm.__version__
    assert [(e.name, e.value) for e in found.entry_points if e.group == "console_scripts"] == [
        ("barm", "barm.cli:main")
    ]
    assert {"app", "docs", "export"} <= set(found.metadata.get_all("Provides-Extra"))


def test_a_source_tree_that_nobody_installed_has_a_version(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert barm.__version__ == "unknown"


def test_one_version_in_all_files():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first[1] == PROJECT["version"]


@pytest.mark.parametrize("name", sorted(floors(PROJECT["dependencies"])))
def test_every_floor_is_the_release_that_is_tested(name):
    """`make test-oldest`; a floor without a patch stands for any of its patches."""
    floor = floors(PROJECT["dependencies"])[name]
    assert f"{OLDEST[name]}.".startswith(f"{floor}.")


EXTRAS = {
    name: floor
    for extra in ("cluster", "export", "hf", "models", "saliency")  # which the tests import
    for name, floor in floors(PROJECT["optional-dependencies"][extra]).items()
    if name != "torch"  # graphs need a newer one, and are not tested there
}


@pytest.mark.parametrize("name", sorted(EXTRAS))
def test_every_floor_of_an_extra_is_the_release_that_is_tested(name):
    assert f"{OLDEST[name]}.".startswith(f"{EXTRAS[name]}.")


def test_what_audits_need_is_an_extra_of_its_own():
    extras = PROJECT["optional-dependencies"]
    assert set(floors(extras["audit"])) == {"cosmic-ray", "pip-audit", "pytest-cov"}
    assert not any("audit" in line for line in extras["dev"])
    pinned = (ROOT / "constraints.txt").read_text("utf-8")
    assert all(f"\n{name}==" in pinned for name in floors(extras["audit"]))
    assert "'.[audit]'" in (ROOT / "docs/reliability.md").read_text("utf-8")


def test_what_the_oldest_releases_leave_out_is_there():
    ignored = re.findall(r"--ignore (\S+)", (ROOT / "Makefile").read_text("utf-8"))
    assert ignored
    assert all((ROOT / place).exists() for place in ignored)


def test_every_target_of_the_makefile_has_one_recipe():
    text = (ROOT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    rules = re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE)
    assert sorted(rules) == sorted(phony)
