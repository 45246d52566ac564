"""Signals during a run: which signals wait, which act at once, and that no signal is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from hashclient.cli.output import SIGNALS, Signals, Terminated, ignore_signals, on_sigterm
from tests.kit import ROOT, environment, restored_signals

INT, TERM = SIGNALS


def set_handlers() -> None:
    """Set the signal handlers of the program at the beginning of a run."""
    signal.signal(INT, signal.default_int_handler)
    signal.signal(TERM, on_sigterm)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    with restored_signals():
        set_handlers()
        yield


def ended(step: Callable[[], object]) -> str:
    """Return the signal that ended a step."""
    try:
        step()
    except KeyboardInterrupt:
        return "SIGINT"
    except Terminated:
        return "SIGTERM"
    return "nothing"


def raise_in(context: Any, *numbers: signal.Signals) -> tuple[str, int]:
    """Raise signals within a step; return the signal that ended it, and how many had to wait."""
    waited = 0

    def step() -> None:
        nonlocal waited
        with context:
            for number in numbers:
                signal.raise_signal(number)
                waited += 1

    return ended(step), waited


def test_outside_of_any_step_they_come_at_once() -> None:
    with Signals():
        assert ended(lambda: signal.raise_signal(INT)) == "SIGINT"
        assert ended(lambda: signal.raise_signal(TERM)) == "SIGTERM"


def test_the_first_waits_and_the_second_does_not() -> None:
    with Signals() as signals:
        assert raise_in(signals.held(), INT) == ("SIGINT", 1)
        assert raise_in(signals.held(), INT, TERM, INT) == ("SIGTERM", 1)
        assert raise_in(signals.held()) == ("nothing", 0)  # no earlier signal is left


def test_where_they_are_barred_all_wait() -> None:
    with Signals() as signals:
        assert raise_in(signals.barred(), INT, INT, TERM) == ("SIGTERM", 3)


@pytest.mark.parametrize(
    ("numbers", "went_on"), [((), True), ((TERM,), True), ((TERM, INT), False)]
)
def test_a_barred_block_within_a_held_block(
    numbers: tuple[signal.Signals, ...], went_on: bool
) -> None:
    went: list[str] = []

    def step() -> None:
        with signals.held():
            with signals.barred():
                for number in numbers:
                    signal.raise_signal(number)
                went.append("to its end")
            went.append("on")

    with Signals() as signals:
        assert ended(step) == (numbers[-1].name if numbers else "nothing")
    assert went == ["to its end", *(["on"] if went_on else [])]


def test_the_last_step_drops_the_first_and_all_that_come_after_it() -> None:
    def step() -> None:
        with signals.last():
            signal.raise_signal(INT)
            with signals.held():
                pass
        for number in SIGNALS:
            signal.raise_signal(number)

    with Signals() as signals:
        assert ended(step) == "nothing"
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


def test_the_last_step_can_be_left_by_the_second() -> None:
    with Signals() as signals:
        assert raise_in(signals.last(), INT, TERM, INT) == ("SIGTERM", 1)
    assert signal.getsignal(INT) is signal.default_int_handler


def test_a_signal_that_was_ignored_before_stays_ignored() -> None:
    ignore_signals()
    with Signals() as signals:
        assert raise_in(signals.held(), INT, TERM) == ("nothing", 2)
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


class RaisedAt:
    """Raises a signal at one line of the module; `lines` are the lines that were run."""

    def __init__(self, number: signal.Signals, at: int) -> None:
        self.number, self.at, self.lines = number, at, 0

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if not frame.f_code.co_filename.endswith("cli/output.py"):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                signal.raise_signal(self.number)
        return self.trace


def run_in_steps() -> None:
    with Signals() as signals, signals.held(), signals.barred():
        pass


@pytest.mark.parametrize("number", SIGNALS)
def test_at_whatever_line_it_comes_it_comes_once(number: signal.Signals) -> None:
    """A signal at any line ends the block once, and the former signal handlers are restored."""
    for at in range(1, 1_000):
        set_handlers()
        raised = RaisedAt(number, at)
        before = sys.gettrace()
        sys.settrace(raised.trace)
        try:
            how = ended(run_in_steps)
        finally:
            sys.settrace(before)
        for each in SIGNALS:
            assert ended(partial(signal.raise_signal, each)) == each.name, at
        if raised.lines < at:
            assert at > 20
            return
        assert how == number.name, at
    pytest.fail("there is no end of lines")


LOST = """
import signal, sys, time, weakref
from hashclient.cli.output import Terminated, raise_at_signals
class Thing: pass
def end(_):
    signal.raise_signal(int(sys.argv[1]))
raise_at_signals()
thing = Thing()
reference = weakref.ref(thing, end)
try:
    del thing
    print("dropped", flush=True)
    time.sleep(30)
except (KeyboardInterrupt, Terminated) as interrupt:
    print(type(interrupt).__name__)
"""


@pytest.mark.parametrize(("number", "name"), [(INT, "KeyboardInterrupt"), (TERM, "Terminated")])
def test_a_signal_whose_exception_python_drops_comes_again(
    number: signal.Signals, name: str
) -> None:
    """Python drops exceptions in callbacks of weak references, which imports use."""
    words = [sys.executable, "-c", LOST, str(int(number))]
    run = subprocess.run(
        words, check=False, env=environment(), cwd=ROOT, capture_output=True, text=True
    )
    assert (run.stdout.split(), run.stderr) == (["dropped", name], "")
