"""Compare runs: scores of the last step as mean and deviation over seeds and class orders."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import get_terminal_size
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from barm.engine.checkpoint.differences import differing, shown
from barm.errors import UserError
from barm.escaping import csv_cell, latex, markdown, markup, placeless, told_apart
from barm.report.results import Result
from barm.report.tables import left_out_by, percent, with_background
from barm.words import count
from barm.writing import write_atomically

WIDE = 76  # characters that a table with deviations needs
TOLD = 3  # differences in the name of a row
SCORES = ("old", "new", "all", "average", "lost")
MEANING = (
    "mIoU after the last step in percent, mean ± standard deviation over the runs. old: step 0's classes{}; "
    "new: learned later; average: of 'all' over the steps; lost: forgetting"
)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1; 0 for a single value), as fractions."""

    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{percent(self.mean)} ± {percent(self.deviation)}"


@dataclass(frozen=True)
class Row:
    """The runs of one method with one configuration on one task.

    Attributes:
        task: as in `Result`.
        method: its name, and in brackets what tells it from other rows of that method and task.
        runs: number of runs.
        scores: by the names in `SCORES`; None where a run has no such score.
        curve: mean mIoU over the classes seen after each step.
        title: of the task, short; as long as `task` where another task has the same.
        unmeasured: classes that are in no mean, since no image shows them; the same for all rows of a task.
    """

    task: str
    method: str
    runs: int
    scores: Mapping[str, Spread | None]
    curve: tuple[float, ...]
    title: str
    unmeasured: tuple[str, ...] = ()


def summarise(results: Sequence[Result]) -> list[Row]:
    """Summarise runs to one row per task, method and configuration, in the order in which they first appear.

    Raises:
        UserError: if runs of one row have different numbers of steps, or those of one task means over other classes.
    """
    _check_measured(results)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result, label in zip(results, _labels(results), strict=True):
        runs = groups.setdefault((result.task, label), [])
        runs.append(result)
        if len(result.steps) != len(runs[0].steps):
            raise UserError(
                f"{result.path} has {count(len(result.steps), 'steps')} but {runs[0].path} has {len(runs[0].steps)}, "
                f"though both are {label} on {result.title or result.task}: compare runs on data sets with the same "
                "classes"
            )
    titles = _titles(results)
    return [
        Row(
            task,
            method,
            len(runs),
            {name: _spread([r.scores[name] for r in runs]) for name in SCORES},
            tuple(fmean(values) for values in zip(*(r.steps for r in runs), strict=True)),
            titles[task],
            runs[0].unmeasured,
        )
        for (task, method), runs in sorted(groups.items(), key=lambda item: _first(results, item[0][0]))
    ]


def _check_measured(results: Sequence[Result]) -> None:
    """Refuse runs of one task that were not measured on the same classes."""
    first: dict[str, Result] = {}
    for result in results:
        other = first.setdefault(result.task, result)
        for name in sorted({*result.unmeasured} ^ {*other.unmeasured}):
            known, silent = (other, result) if name in result.unmeasured else (result, other)
            raise UserError(
                f"{silent.path} was measured on images that do not show '{name}', unlike {known.path}: measure both "
                "on the same images"
            )


def _labels(results: Sequence[Result]) -> list[str]:
    """Label every run by its method, and by its settings if runs of one method and task have several configurations."""
    variants: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for r in results:
        known = variants.setdefault((r.task, r.method), [])
        if r.settings not in known:
            known.append(r.settings)
    return [_label(r, variants[r.task, r.method]) for r in results]


def _label(result: Result, variants: Sequence[Mapping[str, Any]]) -> str:
    """A label such as ``barm (method.pseudo=false)``; of many differences the first few and the variant's number."""
    names = differing(*variants)
    if not names:
        return result.method
    place = variants.index(result.settings)
    values = {name: told_apart([settings.get(name) for settings in variants]) for name in names[:TOLD]}
    told = [f"{name}={shown(several[place])}" for name, several in values.items()]
    if len(names) > TOLD:
        told.append(f"and {len(names) - TOLD} more, variant {1 + place}")
    return f"{result.method} ({', '.join(told)})"


def _titles(results: Sequence[Result]) -> dict[str, str]:
    """Short names by task, no two alike."""
    titles = {r.task: r.title or r.task for r in results}
    short = list(titles.values())
    return {task: title if short.count(title) == 1 else task for task, title in titles.items()}


def _first(results: Sequence[Result], task: str) -> int:
    return next(i for i, r in enumerate(results) if r.task == task)


def _spread(values: Sequence[float | None]) -> Spread | None:
    present = [v for v in values if v is not None]
    if not present or len(present) < len(values):
        return None
    return Spread(fmean(present), stdev(present) if len(present) > 1 else 0.0)


def tables(rows: Sequence[Row]) -> list[Text | Table]:
    """Title and table of every task for the terminal, followed by the meaning of the columns.

    Deviations over several runs are included if there is room. Titles and meanings may be wider than a table.
    """
    made: list[Text | Table] = []
    wide = get_terminal_size().columns >= WIDE
    for task, title in {row.task: row.title for row in rows}.items():
        made.append(Text(title, "italic"))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("method", overflow="fold", min_width=8)
        for name in ("runs", *SCORES):
            table.add_column(name, justify="right", no_wrap=True)
        for row in (r for r in rows if r.task == task):
            table.add_row(markup(row.method), str(row.runs), *_cells(row, deviations=wide))
        made.append(table)
    meaning = MEANING.format(with_background(row.unmeasured for row in rows))
    return [*made, *(Text(line, "dim italic") for line in (meaning, *_left_out(rows)))]


def _left_out(rows: Sequence[Row]) -> list[str]:
    """Which classes are in no mean: a sentence, or one per task where tasks lack different classes."""
    return left_out_by({row.title: row.unmeasured for row in rows})


def _cells(row: Row, *, deviations: bool = True) -> list[str]:
    """The scores of a row; a single run has no deviation."""
    scores = [row.scores[name] for name in SCORES]
    if deviations and row.runs > 1:
        return ["–" if score is None else str(score) for score in scores]
    return [percent(None if score is None else score.mean) for score in scores]


def to_markdown(rows: Sequence[Row]) -> str:
    """Format rows as a table in Markdown for GitHub and MkDocs, and name the classes that are in no mean."""
    head = ["task", "method", "runs", *SCORES]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    lines += [[markdown(r.title), markdown(r.method), str(r.runs), *_cells(r)] for r in rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return table + "".join(f"\n{markdown(line)}\n" for line in _left_out(rows))


def to_latex(rows: Sequence[Row]) -> str:
    """Format rows as a ``tabular`` for booktabs, with a rule between tasks; below it the classes in no mean."""
    lines = [r"\begin{tabular}{ll" + "r" * (1 + len(SCORES)) + "}", r"\toprule"]
    lines += [" & ".join(["task", "method", "runs", *SCORES]) + r" \\", r"\midrule"]
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.task != row.task:
            lines.append(r"\midrule")
        cells = [c.replace("±", r"$\pm$").replace("–", "--") for c in _cells(row)]
        lines.append(" & ".join([latex(row.title), latex(row.method), str(row.runs), *cells]) + r" \\")
    below = [rf"\par\smallskip{{\footnotesize {latex(line)}\par}}" for line in _left_out(rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *below, ""])


def to_csv(results: Sequence[Result]) -> str:
    """Format runs as CSV, one line per run, scores as fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "method", "seed", "order", *SCORES, "path"])
    for r in results:
        words = (csv_cell(r.task), csv_cell(r.method), r.seed, r.order)
        writer.writerow([*words, *(r.scores[name] for name in SCORES), csv_cell(str(r.path))])
    return text.getvalue()


def to_json(results: Sequence[Result], rows: Sequence[Row], published: Sequence[Any] = ()) -> str:
    """Format everything as JSON: the rows, every run with its provenance, and published results where asked for."""
    runs = [{**asdict(r), "settings": placeless(r.settings)} for r in results]
    beside = {"published": [asdict(p) for p in published]} if published else {}
    return json.dumps({"rows": [asdict(r) for r in rows], "runs": runs, **beside}, indent=1) + "\n"


def write_comparison(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write ``compare.csv``, ``.json``, ``.md``, ``.tex`` and ``.png`` into a folder; returns their paths."""
    from barm.report.figures import draw_comparison

    rows = summarise(results)
    texts = {
        "csv": to_csv(results),
        "json": to_json(results, rows),
        "md": to_markdown(rows),
        "tex": to_latex(rows),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"compare.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, text.encode())
    curves: dict[str, dict[str, Sequence[float]]] = {}
    for row in rows:
        curves.setdefault(row.title, {})[row.method] = row.curve
    draw_comparison(folder / "compare.png", curves)
    return [*paths, folder / "compare.png"]
