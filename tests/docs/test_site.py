"""The site builds without a warning and without the network; every page, image, link and number in it holds."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import barm
from barm.catalogue import methods_of
from barm.config import load_config
from barm.data.sampler import iterations_per_epoch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
HOSTS = {"arxiv.org", "github.com", "host.robots.ox.ac.uk", "sceneparsing.csail.mit.edu"}
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
LARGEST = 250 * 1024  # bytes of an image


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; without mkdocs (the `docs` extra) its tests are skipped, visibly."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """What a page makes the browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video") and found.get("src"):
            self.addresses.append(str(found["src"]))
        if tag == "link" and found.get("rel") != "canonical":
            self.addresses.append(str(found["href"]))


@pytest.mark.slow
def test_no_page_fetches_anything_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text("utf-8"))
        assert reader.addresses
        assert [a for a in reader.addresses if urlsplit(a).netloc] == [], page
    styles = "".join(f.read_text("utf-8") for f in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?https?:|@import", styles)


@pytest.mark.slow
def test_the_reference_shows_the_docstrings(site):
    text = (site / "reference/api.html").read_text("utf-8")
    assert all(f'id="barm.{word}"' in text for word in ("api.fit", "api.evaluate", "predict.model.Model.predict"))
    assert "Train and evaluate the steps of a task." in text


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_pages_open_in_a_browser(site, browse, width, scheme):
    for address in ("concepts.html", "reference/methods.html"):
        page = browse((site / address).as_uri(), width=width, color_scheme=scheme)
        page.wait_for_load_state()
        assert page.locator("h1").first.is_visible()
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.evaluate("document.body.dataset.mdColorScheme") == ("slate" if scheme == "dark" else "default")


def navigation(entry: Any) -> Iterator[str]:
    """The pages that the site's menu names."""
    if isinstance(entry, str):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from navigation(part)


def test_every_page_is_in_the_menu_once():
    yaml = pytest.importorskip("yaml")
    menu = list(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    assert sorted(menu) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


def links(page: Path) -> list[tuple[bool, str, str]]:
    """Is it an image, its text, its target; code left out."""
    found = LINK.findall(CODE.sub("", page.read_text("utf-8")))
    return [(bang == "!", text, target) for bang, text, target in found]


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, here and on GitHub."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page):
    for _, _, target in links(page):
        parts = urlsplit(target)
        if parts.scheme:
            assert parts.scheme in ("http", "https"), target
            assert parts.netloc in HOSTS, f"{target}: not among the hosts that are known to be right"
            continue
        file = page.parent / parts.path if parts.path else page
        assert file.exists(), target
        if parts.fragment and file.suffix == ".md" and not parts.fragment.startswith("barm."):
            assert parts.fragment in anchors(file), target
    bare = re.findall(r"(?<![(<\"])https?://[^\s)>\"]+", CODE.sub("", page.read_text("utf-8")))
    assert bare == [], "write a link as [text](address)"


def test_images_are_there_described_and_small():
    used = {}
    for page in PAGES:
        for _, text, target in (link for link in links(page) if link[0]):
            assert len(text.split()) >= 3, f"{name(page)}: describe {target} in words"
            used[(page.parent / target).resolve()] = page
    there = {p.resolve() for kind in ("png", "svg", "jpg", "webp") for p in DOCS.rglob(f"*.{kind}")}
    assert set(used) == there
    assert [p.name for p in there if p.stat().st_size > LARGEST] == []


def templates() -> list[re.Pattern[str]]:
    """The one-line errors of the package, with anything in the places that vary."""
    found = []
    for file in Path(barm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError" and node.args):
                continue
            text = node.args[0]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            fixed = [p.value if isinstance(p, ast.Constant) else None for p in parts]
            if sum(len(str(part)) for part in fixed if part) > 15:
                found.append(re.compile("".join(".*" if part is None else re.escape(part) for part in fixed)))
    return found


def test_errors_that_no_command_shows_stand_in_the_code():
    text = (DOCS / "faq.md").read_text("utf-8")
    shown = re.findall(r"(?<!```bash)\n\n```text\nbarm: (.*)\n```", text)
    assert len(shown) >= 12
    run = re.findall(r"<!-- fails -->\n```bash\n(?:.*\n)*?```\n\n```text\nbarm: (.*)\n```", text)
    assert len(run) >= 12
    known = templates()
    for message in set(shown) - set(run):
        assert any(template.fullmatch(message) for template in known), message


ROW = re.compile(r"^\| (\d) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


def test_updates_of_the_published_schedules():
    text = (DOCS / "paper.md").read_text("utf-8")
    for title, recipe in (("VOC 15-1", "voc/15-1/barm"), ("ADE 100-10", "ade/100-10/barm")):
        table = text[text.index(f"| step of {title} ") :].split("\n\n")[0]
        rows = [[int(cell) for cell in row] for row in ROW.findall(table)]
        assert len(rows) == 6
        for step, images, epochs, batch, *updates in rows:
            about = load_config(recipe).recipe(step)
            assert (epochs, batch) == (about.epochs, about.batch_size)
            assert updates == [epochs * iterations_per_epoch(images, batch, world) for world in (1, 2)]


def test_batches_and_crops_of_the_published_recipes():
    """The table of docs/paper.md, and that no recipe is missing in it."""
    text = (DOCS / "paper.md").read_text("utf-8")
    listed = {}
    for line in text[text.index("| recipe | batch, step 0 ") :].split("\n\n")[0].splitlines()[2:]:
        names, *numbers = line.strip("| ").split(" | ")
        listed |= {name: [int(number) for number in numbers] for name in re.findall("`(.*?)`", names)}
    published = {f"{data}/{method}" for data in ("voc", "ade") for method in methods_of(data)}
    assert {name for name in published if not name.endswith("-published")} == set(listed)
    for name, numbers in listed.items():
        data, method = name.split("/")
        config = load_config(f"{data}/{'15-1' if data == 'voc' else '100-10'}/{method}")
        assert numbers == [config.base.batch_size, config.increment.batch_size, config.base.crop]
        assert (config.model.backbone, config.model.output_stride) == ("resnet101.tv_in1k", 16)
