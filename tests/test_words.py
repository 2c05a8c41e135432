"""Numbers in sentences: one or several, and nowhere put together by hand."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import barm
from barm.app import content as page
from barm.app.viewer import Run, ShownStep
from barm.data.palette import display_palette
from barm.words import count, duration, listed, noun, step_title, verb

ROOT = Path(barm.__file__).parent
NOUNS = re.compile(
    r" (?:[a-z]+ )?(?:steps|classes|problems|warnings|updates|others|runs|epochs|rows|columns|outputs|tensors|"
    r"processes|colours|groups|frames|files|masks|images)\b"
)
SEVERAL = {  # numbers that are never 1 where they stand, words, and speeds
    "' / '.join(suffixes)",
    "', '.join(SUFFIXES)",
    "1 / image",
    "BRANCHES[-1]",
    "MAX_SHAPES",
    "NUM_CLASSES",
    "NUM_TRAIN + NUM_VAL",
    "count",  # here a number above 1
    "len(counts)",
    "len(ious)",
    "len(m['learned'])",
    "len(others)",
    "len(state)",
    "limit",
    "options.task",
    "planned",
    "s.split",
    "self.ranked",
}


def test_one_or_several():
    assert [count(n, "classes") for n in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
    assert count(1, "validation images") == "1 validation image"
    assert [noun(1, w) for w in ("losses", "batches", "processes", "others")] == ["loss", "batch", "process", "other"]
    assert verb(1, "are") == "is"
    assert (step_title(0, 1), step_title(0, 3)) == ("the only step", "step 0 of 2")
    assert listed([str(i) for i in range(15)]) == "15 classes"
    assert duration(3 * 3600 + 60) == "3 h 1 min"


@pytest.mark.parametrize("folder", sorted(p.name for p in ROOT.iterdir() if p.suffix == ".py" or p.is_dir()))
def test_no_plural_stands_behind_any_number(folder):
    files = [ROOT / folder] if folder.endswith(".py") else (ROOT / folder).rglob("*.py")
    found = []
    for file in files:
        for text in (n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.JoinedStr)):
            for value, after in zip(text.values, text.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    number = ast.unparse(value.value)
                    if NOUNS.match(str(after.value)) and number not in SEVERAL:
                        found.append(f"{file.name}:{text.lineno}: {number}{after.value}")
    assert not found, "use barm.words.count"


def test_the_page_of_a_run_with_one_step():
    only = ShownStep(0, ("cat",), ("background", "cat"), display_palette()[:2], 0.5)
    run = Run(Path("runs/one"), "one", "BARM", (only,), 1)
    told = (
        page.header([run], 0) + page.pane(run, only) + page.strip(run, 0) + page.found({"background": 0.9, "cat": 0.1})
    )
    assert "Knows 1 class," in told
    assert "1 of the 1 class it knows" in told
    assert "step 0" not in told.lower()


OUT = re.compile(r"(?<![a-z])(pictures?|story|stories|lessons?|tellings?)(?![a-z])", re.IGNORECASE)
STORED = re.compile(r"pictures\.json|[\"']pictures?[\"']|\bpictures: dict|--pictures")  # in older runs; an older option
NAMES = re.compile(r"_?(looks?|looked|ways?|about|telling)(_.*)?")
TYPES = re.compile(r"_?(Given|Found|Seen|Look|Looked|Story|Way|About)")


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_words_that_are_out(file):
    """The glossary (docs/glossary.md) has the words of the field for them."""
    text = file.read_text("utf-8")
    lines = [line for line in text.splitlines() if OUT.search(STORED.sub("", line))]
    assert not lines, lines
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    names = {t.string for t in tokens if t.type == tokenize.NAME}
    assert not [n for n in names if TYPES.fullmatch(n)]
    functions = [n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert not [n for n in functions if NAMES.fullmatch(n)]


DOCUMENTS = [p for p in (ROOT.parents[1].glob("*.md")) if p.name != "CHANGELOG.md"]
DOCUMENTS += sorted((ROOT.parents[1] / "docs").rglob("*.md"))


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda f: f.name)
def test_words_that_are_out_of_the_documents(file):
    lines = [line for line in file.read_text("utf-8").splitlines() if OUT.search(STORED.sub("", line))]
    assert file.name == "glossary.md" or not lines, lines


def test_a_step_is_called_a_step():
    """One word for one thing, in what is printed, shown and written."""
    root = Path(__file__).parents[1]
    texts = [root / "README.md", root / "CHANGELOG.md", *root.glob("docs/**/*.md"), *root.glob("docs/*.py")]
    texts += [p for p in root.glob("src/**/*") if p.suffix in (".py", ".css", ".js", ".html", ".toml")]
    texts = [p for p in texts if p.name != "glossary.md"]  # which names the words that are out
    assert len(texts) > 100
    assert not [str(p) for p in texts if "lesson" in p.read_text("utf-8").lower()]
