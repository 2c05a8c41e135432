"""Tables and files that `barm bench` makes."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from barm.bench.measure import Cost
from barm.bench.run import Result
from barm.engine.memory_use import MEGABYTE
from barm.report.figures import draw_lines
from barm.writing import write_atomically


def print_result(console: Console, result: Result) -> None:
    """Print the measurements as tables, and the findings line by line."""
    if result.rows:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("")
        table.add_column("", no_wrap=True)
        for name in ("median s", "least", "most", "x ours", "MB"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in result.rows:
            table.add_row(row.part, row.name, *_times(row.cost), f"{row.ratio:.2f}", _megabytes(row.cost))
        console.print(table)
    for quantity, costs in result.growth.items():
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in (quantity, "median s", "least", "most", "MB"):
            table.add_column(name, justify="right", no_wrap=True)
        for value, cost in costs.items():
            table.add_row(str(value), *_times(cost), _megabytes(cost))
        console.print(table)
    for name, fact in result.facts.items():
        console.print(f"{name}: {fact}", highlight=False, soft_wrap=True)


def write_result(folder: Path, result: Result) -> list[Path]:
    """Write ``bench.json`` and, if growth was measured, ``growth.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "bench.json"]
    write_atomically(paths[0], result.to_json().encode())
    if result.growth:
        panels: dict[str, dict[int, float]] = {}
        for quantity, costs in result.growth.items():
            panels[f"seconds per update, {quantity}"] = {n: c.median for n, c in costs.items()}
            panels[f"MB, {quantity}"] = {n: max(c.memory or 0, MEGABYTE) / MEGABYTE for n, c in costs.items()}
        paths.append(folder / "growth.png")
        draw_lines(paths[-1], panels)
    return paths


def _times(cost: Cost) -> list[str]:
    return [f"{s:.4f}" if s < 0.1 else f"{s:.3f}" for s in (cost.median, cost.least, cost.most)]


def _megabytes(cost: Cost) -> str:
    return "–" if cost.memory is None else f"{cost.memory / MEGABYTE:.0f}"
