"""Long work says that it goes on, and ends at its limit."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from barm.errors import UserError
from barm.weights.export import stages
from barm.weights.export.stages import stage


def test_it_is_announced_and_says_that_it_goes_on(monkeypatch):
    monkeypatch.setattr(stages, "BEAT", 0.05)
    said: list[str] = []
    with stage(said.append, "tracing", 60, "wait"):
        assert said == ["tracing"]
        time.sleep(0.3)
    number = len(said)
    assert said[1:] == ["tracing: 0 s"] * (number - 1)
    assert number >= 3
    time.sleep(0.15)
    assert len(said) == number


def work_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def test_the_limit_is_one_line():
    began = time.monotonic()
    with pytest.raises(UserError, match="tracing took longer than 0 s: take another"):
        limited(0.2)
    assert time.monotonic() - began < 5


def limited(limit: float) -> None:
    with stage(lambda _: None, "tracing", limit, "take another"):
        work_for(60)


def test_an_interrupt_by_hand_stays_one():
    with pytest.raises(KeyboardInterrupt), stage(lambda _: None, "tracing", 60, "wait"):
        raise KeyboardInterrupt


def test_where_it_cannot_be_stopped_a_limit_that_has_passed_changes_nothing(monkeypatch):
    monkeypatch.setattr(stages, "BEAT", 0.2)
    said: list[str] = []

    def work() -> None:
        with stage(said.append, "tracing", 0.05, "wait"):
            time.sleep(0.7)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert 2 <= len(said) <= 4, said  # the title, and a line every 0.2 seconds


def test_elsewhere_than_in_the_main_thread_nothing_is_interrupted():
    done: list[bool] = []

    def work() -> None:
        with stage(lambda _: None, "tracing", 0.05, "wait"):
            time.sleep(0.3)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_the_limit_holds_where_interrupts_are_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(UserError, match="tracing took longer than 0 s: take another"):
            limited(0.05)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
