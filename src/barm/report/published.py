"""Published results beside one's own."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from rich import box
from rich.table import Table
from rich.text import Text

from barm.errors import UserError, nearest
from barm.escaping import markup
from barm.report.compare import Row

SCORES = ("old", "new", "all")
LAYOUTS = {"voc": "PASCAL VOC 2012", "ade": "ADE20K"}
NOTE = (
    "Published: on photographs, with the codes' own networks and tests (docs/fidelity.md). Other data, other "
    "backbones or shorter trainings do not compare with them."
)


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        data: ``voc`` or ``ade``.
        task: such as ``15-1``.
        setting: ``overlap`` or ``disjoint``.
        method: as `barm methods` names it.
        source: where it stands, in words.
        scores: mIoU after the last step in percent by the names in `SCORES`; None where it was not published.
    """

    data: str
    task: str
    setting: str
    method: str
    source: str
    scores: dict[str, float | None]


@cache
def published_results() -> tuple[Published, ...]:
    """All published results, in the order of ``published.toml``."""
    table = tomllib.loads(resources.files("barm.report").joinpath("published.toml").read_text("utf-8"))
    return tuple(
        Published(
            row["data"],
            task,
            row["setting"],
            row["method"],
            table["sources"][row["source"]],
            {name: row.get(name, {}).get(task) for name in SCORES},
        )
        for row in table["results"]
        for task in row["all"]
    )


def find_published(name: str) -> list[Published]:
    """The published results of a task.

    Args:
        name: ``voc/15-1``, ``ade/100-10/disjoint``, ...; the setting is overlap by default.

    Raises:
        UserError: if there are none; it names those that there are.
    """
    data, _, rest = name.partition("/")
    task, _, setting = rest.partition("/")
    found = [p for p in published_results() if (p.data, p.task, p.setting) == (data, task, setting or "overlap")]
    if not found:
        known = dict.fromkeys(
            f"{p.data}/{p.task}" + ("" if p.setting == "overlap" else f"/{p.setting}") for p in published_results()
        )
        told = nearest(name, known) or f": known are {', '.join(known)}"
        raise UserError(f"no published result of '{name}'{told}")
    return found


def check_task(name: str, rows: Sequence[Row]) -> None:
    """Refuse runs of another task than that of the published results."""
    _, task, setting = [*name.split("/"), "overlap"][:3]
    wanted = f"{task} {setting}"
    for row in rows:
        if row.task != wanted:
            raise UserError(
                f"the runs of {row.method} are of the task '{row.task}', the published results of '{wanted}': compare "
                "runs of one task, or leave --published out"
            )


def published_table(name: str, rows: Sequence[Row] = ()) -> list[Text | Table]:
    """Published results of a task and the rows of one's own runs, by method, for the terminal."""
    found = find_published(name)
    check_task(name, rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for score in SCORES:
        table.add_column(score, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold")
    order = list(dict.fromkeys([*(p.method for p in found), *(r.method.split(" (")[0] for r in rows)]))
    for method in order:
        for p in (p for p in found if p.method == method):
            table.add_row(method, *(_percent(p.scores[s]) for s in SCORES), p.source, style="dim")
        for row in (r for r in rows if r.method.split(" (")[0] == method):
            spread = [row.scores[s] for s in SCORES]
            cells = [_percent(None if s is None else 100 * s.mean) for s in spread]
            table.add_row(markup(row.method), *cells, f"yours, {row.runs} run" + ("s" if row.runs > 1 else ""))
    title = f"{LAYOUTS[found[0].data]} {found[0].task} {found[0].setting}: mIoU after the last step in percent"
    return [Text(title, "italic"), table, Text(NOTE, "dim italic")]


def published_markdown(data: str, setting: str) -> str:
    """Published results of a data set as a table in Markdown: a row per source and method, a column per task."""
    chosen = [p for p in published_results() if (p.data, p.setting) == (data, setting)]
    tasks = sorted({p.task for p in chosen}, key=lambda t: [-int(n) for n in t.split("-")])
    values = {(p.source, p.method, p.task): p.scores["all"] for p in chosen}
    lines = [["method", *tasks, "source"], ["---", *["---:"] * len(tasks), "---"]]
    lines += [
        [method, *(_percent(values.get((source, method, task))) for task in tasks), source]
        for source, method in dict.fromkeys((p.source, p.method) for p in chosen)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".removesuffix("0")
