"""The layout of the page in Gradio, and what happens on each of its events."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from barm.app import content
from barm.app.content import agreement, draw, shares
from barm.app.viewer import Limits, Refused, ShownImage, ShownStep, Viewer, read_upload
from barm.data.palette import OVERLAY

Answer = dict[Any, Any]
FAILED = "Something went wrong here; the terminal in which `barm serve` runs says what."
KEPT_HOURS = 6  # an idle visitor's image


class Page:
    """The page of one or two runs.

    Args:
        viewer: answers.
        limits: of uploads.
        examples: images to begin with; the first is shown at once.
    """

    def __init__(self, viewer: Viewer, limits: Limits, examples: Sequence[ShownImage]) -> None:
        self.viewer, self.limits, self.examples = viewer, limits, examples
        steps = [step for run in viewer.runs for step in run.steps]
        self.colours = {n: c for x in reversed(steps) for n, c in zip(x.names, x.colours, strict=True)}
        self.names = list(dict.fromkeys(n for run in viewer.runs for n in run.steps[-1].names[1:]))
        self.first = min(x.step for x in steps)
        self.last = max(x.step for x in steps)
        self.blocks = self._build()

    def _build(self) -> Any:
        runs = self.viewer.runs
        with gr.Blocks(
            title=f"{content.title(runs)} – barm", analytics_enabled=False, delete_cache=(600, 3600)
        ) as page:
            self.current = gr.State(None, time_to_live=KEPT_HOURS * 3600)
            self.header = gr.HTML(content.header(runs, self.last), elem_id="header")
            with gr.Row(elem_id="layout"):
                with gr.Column(elem_id="source"):
                    self._build_source()
                with gr.Column(elem_id="main"):
                    self._build_main()
                with gr.Column(elem_id="legend"):
                    self._build_legend()
            self._connect(page)
        return page

    def _build_source(self) -> None:
        self.upload = gr.File(  # gr.Image would open the file before our limits are asked
            file_types=["image"],
            label=f"Your image (up to {self.limits.megabytes:g} MB)",
            elem_id="upload",
            height=150,
        )
        self.notice = gr.HTML("", elem_id="notice")
        self.gallery = gr.Gallery(
            [p.image for p in self.examples],
            label="Examples from the run's validation data",
            elem_id="examples",
            columns=6,
            height="auto",
            allow_preview=False,
            object_fit="contain",
            format="png",
            buttons=[],
            visible=bool(self.examples),
        )

    def _build_main(self) -> None:
        runs = self.viewer.runs
        self.step = gr.Slider(
            self.first,
            max(self.last, self.first + 1e-9),
            value=self.last,
            step=1,
            label="Step: move it to see the model before and after each step",
            elem_id="step",
            visible=self.last > self.first,
            buttons=[],
        )
        self.strip = gr.HTML(self._strip(self.last), elem_id="strip")
        self.before = gr.Checkbox(
            False,
            label="Show before and after the step side by side",
            elem_id="before",
            visible=len(runs) == 1 and self.last > self.first,
            container=False,
        )
        self.titles, self.views = [], []
        with gr.Row(elem_id="panes"):
            for place in range(2):
                with gr.Column(min_width=140, visible=place == 0 or len(runs) > 1) as column:
                    self.titles.append(gr.HTML(content.hint(place), elem_classes="pane-title"))
                    self.views.append(
                        gr.Image(
                            format="png",
                            interactive=False,
                            show_label=False,
                            elem_id=f"view{place + 1}",
                            elem_classes="view",
                            buttons=["download", "fullscreen"],
                            container=False,
                        )
                    )
                if place == 1:
                    self.second = column
        self.status = gr.HTML("", elem_id="status")

    def _build_legend(self) -> None:
        self.opacity = gr.Slider(
            0,
            100,
            value=round(100 * OVERLAY),
            step=5,
            label="Opacity of the colours in %",
            elem_id="opacity",
            buttons=[],
        )
        self.classes = gr.CheckboxGroup(
            content.choices(self.names, []),
            value=self.names,
            label="Classes and their share of the pixels in %; untick to hide",
            elem_id="classes",
            show_select_all=True,
        )
        known, seen = set(self.viewer.runs[0].at(self.last).names), set[str]()
        self.style = gr.HTML(content.class_style(self.names, self.colours, known, seen), elem_id="style")

    def _connect(self, page: Any) -> None:
        """Connect events with handlers, one at a time in the order they came.

        The images are drawn last, with the settings of that moment.
        """
        settings = [self.current, self.step, self.before, self.classes, self.opacity]
        around = [
            self.current,
            self.upload,
            self.notice,
            self.header,
            self.strip,
            self.second,
            self.classes,
            self.style,
        ]
        everything = [*around, *self.titles, *self.views, self.status]
        lane: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "all", "api_visibility": "private"}

        def connect(event: Any, handler: Callable[..., Answer], inputs: Sequence[Any], mode: str | None = None) -> None:
            drawing = {**lane, "outputs": [*self.views, self.notice, self.upload], "show_progress": "hidden"}
            if handler == self._draw:
                event(self._answer(handler), inputs, trigger_mode=mode, **drawing)
                return
            asked = event(
                self._answer(handler), inputs, everything, trigger_mode=mode, show_progress_on=self.views, **lane
            )
            asked.then(self._answer(self._draw), settings, **drawing)

        if self.examples:
            connect(page.load, self._first, settings[1:])
            connect(self.gallery.select, self._example, settings[1:])
        connect(self.upload.upload, self._uploaded, [self.upload, *settings[1:]])
        for part in (self.step, self.before):
            connect(part.input, self._labelled, settings, "always_last")
        for toggle in (self.classes, self.opacity):
            connect(toggle.input, self._draw, settings, "always_last")

    def _answer(self, handler: Callable[..., Answer]) -> Callable[..., Answer]:
        """Turn an exception of a handler into a sentence on the page.

        The message of a refusal is shown as it is; anything else goes to the terminal.
        """

        @functools.wraps(handler)
        def guarded(*values: Any) -> Answer:
            try:
                return handler(*values)
            except Refused as refused:
                return {self.notice: content.notice(str(refused), "refusal"), self.upload: None}
            except Exception:
                traceback.print_exc()
                return {self.notice: content.notice(FAILED, "refusal"), self.upload: None}

        return guarded

    def _first(self, *settings: Any) -> Answer:
        return {self.current: self.examples[0], **self._labelled(self.examples[0], *settings)}

    def _example(self, step: float, before: bool, shown: list[str], opacity: float, event: gr.SelectData) -> Answer:
        chosen = self.examples[int(event.index)]
        return {
            self.current: chosen,
            self.upload: None,
            self.notice: content.notice(" ".join(chosen.remarks)),
            **self._labelled(chosen, step, before, shown, opacity),
        }

    def _uploaded(self, path: str, *settings: Any) -> Answer:
        current = read_upload(Path(path), self.limits)
        return {
            self.current: current,
            self.upload: None,  # ready for the next one
            self.notice: content.notice(" ".join(current.remarks)),
            **self._labelled(current, *settings),
        }

    def _labelled(
        self, current: ShownImage | None, step: float, before: bool, shown: list[str], opacity: float
    ) -> Answer:
        """Update everything around the images, and compute the labels of what is shown."""
        runs, index = self.viewer.runs, int(step)
        panes = self._panes(index, before)
        notes = ["Before:", "After:"] if len(panes) > len(runs) else [""] * len(panes)
        labels = [] if current is None else [self.viewer.label(current, r, x.step) for r, x in panes]
        columns = [shares(label, x.names) for label, (_, x) in zip(labels, panes, strict=False)]
        known = {n for _, x in panes for n in x.names}
        seen = {n for column in columns for n, share in column.items() if share}
        titles = {
            self.titles[place]: content.pane(runs[run], x, notes[place]) if labels else content.hint(place)
            for place, (run, x) in enumerate(panes)
        }
        return {
            **titles,
            self.header: content.header(runs, index),
            self.strip: self._strip(index),
            self.second: gr.Column(visible=len(panes) > 1),
            self.classes: gr.CheckboxGroup(choices=content.choices(self.names, columns), value=shown),
            self.style: content.class_style(self.names, self.colours, known, seen),
            self.status: self._status(panes, labels, columns),
        }

    def _draw(self, current: ShownImage | None, step: float, before: bool, shown: list[str], opacity: float) -> Answer:
        """Draw the images from labels that are computed already."""
        answer: Answer = dict.fromkeys(self.views)
        if current is None:
            return answer
        for place, (run, x) in enumerate(self._panes(int(step), before)):
            label = self.viewer.label(current, run, x.step)
            answer[self.views[place]] = draw(current.pixels, label, x.colours, x.names, shown, opacity / 100)
        return answer

    def _panes(self, step: int, before: bool) -> list[tuple[int, ShownStep]]:
        """The run and the step that each image shows."""
        runs = self.viewer.runs
        panes = [(i, run.at(step)) for i, run in enumerate(runs)]
        earlier = [x for x in runs[0].steps if x.step < panes[0][1].step]
        return [(0, earlier[-1]), *panes] if before and len(runs) == 1 and earlier else panes

    def _strip(self, step: int) -> str:
        runs = self.viewer.runs
        same = len({tuple(x.learned for x in run.steps) for run in runs}) == 1
        return "".join(content.strip(run, step) for run in (runs[:1] if same else runs))

    def _status(self, panes: list[tuple[int, ShownStep]], labels: list[Any], columns: list[dict[str, float]]) -> str:
        if not labels:
            return ""
        if len(labels) == 1:
            text = content.found(columns[0])
        else:
            same = agreement(labels[0], panes[0][1].names, labels[1], panes[1][1].names)
            text = f"The two images have the same class on {content.percent(same)} of the pixels."
        return f'<p aria-live="polite">{text}</p>'
