"""A bar is shown on a terminal, for work on many files."""

from __future__ import annotations

import pytest
from rich.console import Console

from barm.data.progress import BAR_FROM, progress_bar


@pytest.mark.parametrize(
    ("terminal", "number", "shown"),
    [(True, BAR_FROM, True), (True, BAR_FROM - 1, False), (False, BAR_FROM, False)],
)
def test_a_bar_is_shown_where_it_helps(terminal, number, shown, monkeypatch, capsys):
    monkeypatch.setattr(Console, "is_terminal", terminal)
    with progress_bar(number) as bar:
        assert list(bar.track(range(number), total=number, description="reading")) == list(range(number))
    out, err = capsys.readouterr()
    assert (out, "reading" in err) == ("", shown)
    assert shown or not err
