"""Every command of the documents is run, or says in a comment above it why not.

A fenced block of bash or Python is run in a folder of its page, one after the other, as a reader would. The comments:

    <!-- needs: a GPU -->                     it is not run; the reason is one of REASONS
    <!-- run by: tests/test_x.py::test_y -->  that test runs it
    <!-- page run by: ... -->                 the same for all blocks of the page that say nothing else
    <!-- fails -->                            it fails, and the block of text after it is what it says
    <!-- given: runs/demo -->                 what the page's reader has already (GIVEN in conftest.py)

A block with a title is the file of that name.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_BLOCKS = [p for p in PAGES if "```" in p.read_text("utf-8")]
REASONS = ("real data", "a GPU", "several machines", "docker or conda", "hours")
COMMANDS = ("bash", "python")
BLOCK = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HAS = re.compile(r"^<!-- given: (.*?) ?-->$", re.MULTILINE)
WHOLE = re.compile(r"^<!-- page run by: (.*?) ?-->$", re.MULTILINE)
COMMENT = re.compile(r"<!-- (needs|run by|fails):? ?(.*?) ?-->\s*\Z")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        line: of the page.
        language: after the fence.
        title: the file's name, or nothing.
        text: between the fences.
        marker: `needs`, `run by`, `fails` or nothing.
        detail: what the marker says.
    """

    line: int
    language: str
    title: str
    text: str
    marker: str
    detail: str


def blocks_of(text: str) -> list[Block]:
    """All fenced blocks of a page."""
    found, whole = [], WHOLE.search(text)
    for match in BLOCK.finditer(text):
        title = re.search(r'title="([^"]+)"', match[2])
        comment = COMMENT.search(text[: match.start()])
        marker, detail = (comment[1], comment[2]) if comment else ("run by", whole[1]) if whole else ("", "")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, match[1], title[1] if title else "", match[3], marker, detail))
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("cut_short")
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_what_the_page_says_works(page, shell, reader, made, monkeypatch):
    monkeypatch.chdir(reader)
    for given in HAS.findall(page.read_text("utf-8")):
        shutil.copytree(made(given), reader, dirs_exist_ok=True)
    known: dict[str, Any] = {"__name__": "__main__", "image": Image.open("photo.jpg")}
    blocks = blocks_of(page.read_text("utf-8"))
    for place, block in enumerate(blocks):
        if block.language not in COMMANDS or block.marker in ("needs", "run by"):
            continue
        where = f"{name(page)}:{block.line}"
        if block.title:
            Path(block.title).write_text(block.text, "utf-8")
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), known)
        else:
            done = shell(block.text)
            assert (done.status != 0) == (block.marker == "fails"), f"{where}\n{done.out}\n{done.err}"
            if block.marker == "fails":
                said = done.err.splitlines()[-1].replace(str(reader), "/home/you")
                assert said == blocks[place + 1].text.strip(), where


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_what_is_not_run_says_why(page):
    for block in blocks_of(page.read_text("utf-8")):
        where = f"{name(page)}:{block.line}"
        assert block.language, f"{where}: say what it is: bash, python, toml, text"
        assert block.language in (*COMMANDS, "toml", "text"), f"{where}: {block.language} is not run"
        if block.marker == "needs":
            assert block.detail in REASONS, where
        elif block.marker == "run by":
            file, _, test = block.detail.partition("::")
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, f"{where}: no {test}"


def test_blocks_are_found():
    text = (
        "Say\n\n<!-- needs: a GPU -->\n```bash\nmake gpu\n```\n\n"
        "<!-- fails -->\n```bash\nfalse\n```\n```text\nno\n```\n"
        '```python title="a.py"\nx = 1\n```\n'
    )
    assert blocks_of(text) == [
        Block(4, "bash", "", "make gpu\n", "needs", "a GPU"),
        Block(9, "bash", "", "false\n", "fails", ""),
        Block(12, "text", "", "no\n", "", ""),
        Block(15, "python", "a.py", "x = 1\n", "", ""),
    ]
    others = blocks_of("<!-- page run by: tests/a.py::b -->\n" + text)
    assert [b.marker for b in others] == ["needs", "fails", "run by", "run by"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_waits_for_text(page):
    """A word of capitals on a line of its own stands where something was to be filled in."""
    assert not re.findall(r"^[A-Z][A-Z-]{4,}$", page.read_text("utf-8"), re.MULTILINE)
