"""Write the tables of published results in docs/paper.md from src/barm/report/published.toml.

python docs/published.py            # write
"""

from __future__ import annotations

from pathlib import Path

from barm.report.published import published_markdown

PAGE = Path(__file__).parent / "paper.md"
TITLES = {
    ("voc", "overlap"): "PASCAL VOC 2012, overlap",
    ("voc", "disjoint"): "PASCAL VOC 2012, disjoint",
    ("ade", "overlap"): "ADE20K, overlap",
}
BEGIN, END = "<!-- published: written by docs/published.py -->\n", "<!-- end of published -->"


def written() -> str:
    """The page with its tables as the data say."""
    text = PAGE.read_text("utf-8")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    parts = [f"**{title}**\n\n{published_markdown(*key)}\n" for key, title in TITLES.items()]
    return head + BEGIN + "\n" + "".join(parts) + END + tail


if __name__ == "__main__":
    PAGE.write_text(written(), "utf-8")
