"""Progress on a terminal: it is drawn on stderr, and keeps out of the way of what is written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from hashclient.cli import progress as bars
from hashclient.cli.app import App
from hashclient.config import Config, Settings
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.scan.engine import Progress
from tests.support import arguments, csv_of, environment, make_state

LISTED = b"dummy content that is on the list"
ERASE = "\r\x1b[2K"


def in_terminal(args: Sequence[object], *, stdout: int | None = None) -> tuple[int, str]:
    """Run the command with stderr, and stdout if none is given, on a terminal 20 columns wide."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments(*args),
        env=environment(TERM="xterm", COLUMNS="20", LINES="24"),
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:
        pass  # the other end is closed: that is how a terminal tells
    finally:
        os.close(ours)
    return process.wait(60), shown.decode()


@pytest.fixture
def scan(tmp_path: Path) -> list[object]:
    """The arguments of a scan that finds one match."""
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a name that is longer than the terminal is wide").write_bytes(LISTED)
    return ["--state-dir", state, "scan", "--format", "jsonl", tmp_path / "files"]


def test_data_goes_to_stdout_as_it_is(scan: list[object], tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        code, shown = in_terminal(scan, stdout=out.fileno())
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert code == 10
    assert [line["type"] for line in lines] == ["match", "summary"]
    assert "summary" not in shown
    # The same on the terminal itself: long lines are for it to fold.
    code, shown = in_terminal(scan)
    assert code == 10
    (line,) = (text for text in shown.split("\r\n") if '"type": "match"' in text)
    assert json.loads(line[line.index("{") :])["path"] == lines[0]["path"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def __enter__(self) -> Self:
        """Be stdout and stderr of this process."""
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(contextlib.redirect_stdout(self))
        self._stack.enter_context(contextlib.redirect_stderr(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal 60 columns wide; every picture is drawn."""
    monkeypatch.setattr(bars, "INTERVAL_S", -1.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def app(directory: Path) -> App:
    return App(lambda: Settings(directory, directory / "config.toml", None, Config()), 0)


def test_a_scan_is_drawn_again_below_what_is_written(tmp_path: Path, terminal: Terminal) -> None:
    one, summary = app(tmp_path), Summary(())
    with terminal, bars.scan_progress(one, Progress(summary)) as tick:
        summary.add(Outcome(Kind.CLEAN, "a"))
        tick()
        one.out("a line")
        one.out("another")
        one.warn("something", "a hint")
        summary.add(Outcome(Kind.MATCH, "b"))
        tick()
    shown = terminal.getvalue()
    # What was drawn is taken off once, and the lines are whole.
    assert "1 files, 0 match" in shown.split("a line")[0]
    assert f"{ERASE}a line\nanother\nhashclient: warning: something\nhint: a hint\n" in shown
    after = shown.split("hint: a hint\n")[1]
    assert "2 files, " in after and "1 match" in after


def test_a_fetch_is_drawn_list_by_list(tmp_path: Path, terminal: Terminal) -> None:
    one = app(tmp_path)
    with terminal, bars.fetch_progress(one) as show:
        show("base", 0, 2_000_000)
        show("base", 1_500_000, 2_000_000)
        one.out("list base: done")
        show("more", 1, 2)
    shown = terminal.getvalue()
    assert "1.5/2.0 MB" in shown
    assert f"{ERASE}list base: done\n" in shown
    assert "list more" in shown.split("list base: done\n")[1]


def test_nothing_is_drawn_where_nobody_looks(tmp_path: Path, terminal: Terminal) -> None:
    quiet = App(lambda: Settings(tmp_path, tmp_path, None, Config()), -1)
    with terminal, bars.scan_progress(quiet, Progress(Summary(()))) as tick:
        tick()
    with terminal, bars.fetch_progress(quiet) as show:
        show("base", 0, 1)
    assert terminal.getvalue() == ""
