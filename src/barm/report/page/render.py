"""Render the report as HTML: fill the template with the results of the other modules."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from barm.report.page import details, training, views
from barm.report.page.colours import mixed_rules, sequential_rules
from barm.report.page.content import Report
from barm.report.page.gallery import scenes, steps_shown, tales
from barm.report.page.notes import notes
from barm.report.tables import left_out_by, named, with_background
from barm.words import count, listed


def render(report: Report) -> str:
    """Render the page as HTML with styles, script and images inside. Names that users chose are escaped."""
    environment = Environment(
        loader=PackageLoader("barm.report.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html").render(**_context(report))


def _context(report: Report) -> dict[str, Any]:
    runs = [run for run in report.runs if run.scores]
    gallery = report.gallery
    residuals = tales(gallery) if gallery else []
    charts = views.miou_charts(runs) if runs else []
    silent = {run.label: views.unmeasured(run) for run in runs}
    confusions = [c for c in map(views.confusion, runs) if c is not None]
    return {
        "report": report,
        "reasons": notes(report),
        "several": len(report.runs) > 1,
        "css": Markup(_text("page.css") + sequential_rules() + mixed_rules()),
        "js": Markup(_text("page.js")),
        "scored": runs,
        "lines": views.comparison(runs),
        "charts": charts,
        "old_too": with_background(silent.values()),
        "left_out": left_out_by(silent),
        "heats": [views.heat(run) for run in runs],
        "differences": views.differences(runs),
        "confusions": confusions,
        "scenes": scenes(gallery) if gallery else [],
        "steps": steps_shown(gallery) if gallery else [],
        "tales": residuals,
        "cards": views.cards(runs[0]) if len(report.runs) == 1 and runs else [],
        "confusion_data": [{"steps": c.steps, "last": c.last} for c in confusions],
        "wrong": None if report.details is None else details.section(report.runs, report.details),
        "sections": _sections(report, bool(runs), bool(charts), bool(confusions), bool(residuals)),
        "curves": training.curves(report.runs),
        "speed": training.speed(report.runs),
        "settings": views.differing_settings(report.runs) if len(report.runs) > 1 else [],
        "facts": views.common_facts(report.runs),
        "learned": _learned(report),
        "views": views,
        "count": count,
        "named": named,
        "steps_logged": len({t.step for run in report.runs for t in run.traces}) > 1,
        "single": all(run.single for run in report.runs),
        "columns": views.columns(runs),
    }


def _sections(report: Report, scored: bool, charts: bool, confusion: bool, background: bool) -> list[tuple[str, str]]:
    """Sections of the page for its table of contents."""
    present = {
        "miou": ("Steps", charts),
        "classes": ("Classes", scored),
        "images": ("Images", bool(report.gallery or report.notes.get("gallery"))),
        "background": ("Background", background),
        "confusion": ("Confusion", confusion),
        "wrong": ("Mistakes", report.details is not None),
        "training": ("Training", True),
        "again": ("Repeat", True),
    }
    return [(id_, name) for id_, (name, there) in present.items() if there]


def _learned(report: Report) -> dict[int, str]:
    """Classes learned in each step of the first run."""
    learned: dict[int, list[str]] = {}
    for known in report.runs[0].classes[1:]:
        learned.setdefault(known.step, []).append(known.name)
    return {step: listed(names) for step, names in learned.items()}


def _text(name: str) -> str:
    return resources.files("barm.report.page").joinpath(name).read_text("utf-8")
