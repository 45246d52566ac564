"""Progress on a terminal: it is drawn on stderr, and does not disturb the output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pytest

from hashclient.cli import progress as bars
from hashclient.cli.app import App
from hashclient.cli.progress import files_counted
from hashclient.config.settings import Config, Settings
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.verdict import Summary
from hashclient.index.open_lists import open_lists
from hashclient.scan.executors.interface import Executor
from hashclient.scan.run import engine
from hashclient.scan.run.engine import Progress
from hashclient.scan.sources.interface import Several
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Advance, Result
from tests.kit import (
    arguments,
    csv_of,
    environment,
    make_state,
    open_files,
    wait_until,
    write_tree,
)

LISTED = b"dummy content that is on the list"
ERASE = "\r\x1b[2K"


def in_terminal(args: Sequence[object], *, stdout: int | None = None) -> tuple[int, str]:
    """Run the command with stderr (and stdout, if not given) on a terminal of 20 columns."""
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
        pass  # a terminal reports by this error that its other end is closed
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


@pytest.mark.slow
def test_data_goes_to_stdout_as_it_is(scan: list[object], tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        code, shown = in_terminal(scan, stdout=out.fileno())
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert code == 10
    assert [line["type"] for line in lines] == ["match", "summary"]
    assert "summary" not in shown
    # On a terminal, the output has the same text, and the terminal itself folds long lines.
    code, shown = in_terminal(scan)
    assert code == 10
    (line,) = (text for text in shown.split("\r\n") if '"type": "match"' in text)
    assert json.loads(line[line.index("{") :])["path"] == lines[0]["path"]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True

    def __enter__(self) -> Self:
        """Replace stdout and stderr of this process."""
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(contextlib.redirect_stdout(self))
        self._stack.enter_context(contextlib.redirect_stderr(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal 60 columns wide on which every update is drawn."""
    monkeypatch.setattr(bars, "INTERVAL_S", -1.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def app(directory: Path) -> App:
    return App(lambda: Settings(directory, directory / "config.toml", None, Config()), 0)


def test_a_scan_is_drawn_again_below_what_is_written(tmp_path: Path, terminal: Terminal) -> None:
    one, summary = app(tmp_path), Summary(lists=())
    with terminal, bars.scan_progress(one, Progress(summary)) as tick:
        summary.add(Outcome(Kind.CLEAN, "a"))
        tick()
        one.out("a line")
        one.out("another")
        one.warn("something", "a hint")
        summary.add(Outcome(Kind.MATCH, "b"))
        tick()
    shown = terminal.getvalue()
    # The progress line is erased once, and the lines of output are whole.
    assert "1 file, 0 match" in shown.split("a line")[0]
    assert f"{ERASE}a line\nanother\nhashclient: warning: something\nhint: a hint\n" in shown
    after = shown.split("hint: a hint\n")[1]
    assert "2 files, " in after and "1 match" in after


def test_progress_never_goes_back_and_names_the_file(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two large files are read at the same time, and the reading of one ends first."""
    part, small = 300_000_000, 1_000
    first, second = str(tmp_path / "a.iso"), str(tmp_path / "b.iso")
    for path, size in ((first, part), (second, 2 * part)):
        Path(path).touch()
        os.truncate(path, size)
    given: list[Advance | Result] = [
        Advance(),
        Advance(part, first),
        Advance(part, second),
        Result(clean=1, files_read=1, bytes_read=small),
        Result(clean=1, files_read=1, bytes_read=part, reported=Advance(part, first)),
        Advance(part, second),
        Result(clean=1, files_read=1, bytes_read=2 * part, reported=Advance(2 * part, second)),
    ]
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(engine, "TICK_S", -1.0)
    monkeypatch.setattr(engine, "TICK_SHARE", 0)
    progress = Progress(Summary(lists=()))
    state = make_state(tmp_path, {"base": csv_of({"e": LISTED})})
    lists = open_lists(Settings(state, tmp_path, None, Config()), {}, datetime.now(UTC))
    told = []
    with terminal, bars.scan_progress(app(tmp_path), progress) as tick:
        for _ in engine.scan(
            Several([]), lists, progress, ScanOptions(jobs=1), executor=Given(given)
        ):
            told.append(progress.summary.bytes_read + progress.bytes_ahead)
            tick()
    assert told == sorted(told) and told[-1] == 3 * part + small
    assert progress.reading == {}
    shown = terminal.getvalue()
    for picture in (f"  {first} 100 %", f"  {second} 50 %", f"  {second} 100 %"):
        assert picture in shown


def test_the_time_left_is_that_of_a_large_file_where_it_is_the_last(tmp_path: Path) -> None:
    path = tmp_path / "big.iso"
    path.touch()
    os.truncate(path, 1_000)
    reading = {str(path): 100, "-": 50}
    large = bars._LargeFiles(reading)
    large.look(10.0)
    assert (large.shown, large.left_s) == (f"{path} 10 %", 0.0)
    # In 4 seconds, 200 bytes were read, and 700 bytes are left.
    reading[str(path)] = 300
    large.look(14.0)
    assert (large.shown, large.left_s) == (f"{path} 30 %", 14.0)
    # A file that has grown is read only as far as its earlier size; a stream has no size.
    reading[str(path)] = 1_200
    large.look(15.0)
    assert (large.shown, large.left_s) == (f"{path} 100 %", 0.0)
    del reading[str(path)]
    large.look(16.0)
    assert large.shown == "-"


class Given(Executor):
    """An executor that yields the given results."""

    def __init__(self, results: list[Advance | Result]) -> None:
        self._results = results

    def run(self, work: object, make_checker: object) -> Iterator[Result | Outcome | Advance]:
        yield from self._results


def test_the_share_and_the_time_left_are_shown_once_all_is_counted(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "MIN_ELAPSED_S", 0.0)
    progress, total = Progress(Summary(lists=())), [None, 8, 8, 1]
    with terminal, bars.scan_progress(app(tmp_path), progress, lambda: total.pop(0)) as tick:
        for _ in range(4):
            progress.summary.add(Outcome(Kind.CLEAN, "a"))
            tick()
    assert "%" not in terminal.getvalue().split("1 file,")[0]
    assert "25 %, 0 s left, 2 files, 0 " in terminal.getvalue()
    assert "37 %, " in terminal.getvalue()
    # The scan found more files than were counted, so the share stays at 100 %.
    assert "100 %, 4 files" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (2e5, "2 days"),
    ],
)
def test_times_are_shown_in_units_with_a_number_above_zero(seconds: float, text: str) -> None:
    assert bars.human_time(seconds) == text


def test_files_are_counted_as_the_scan_counts_them(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {f"{n % 3}/f{n}": b"" for n in range(50)} | {"x.iso": b""})
    (tree / "link").symlink_to("x.iso")
    before = open_files()
    with files_counted([str(tree), str(tmp_path / "none")], ScanOptions(("*.iso",))) as total:
        wait_until(lambda: total() is not None, 0)
        # The count includes the files, an excluded file, a link, and a path that does not exist.
        assert total() == 50 + 1 + 1 + 1
    assert open_files() == before
    with files_counted([], ScanOptions()) as total:
        assert total() is None


def test_files_that_cannot_be_counted_have_no_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", fork)
        with files_counted([str(tmp_path)], ScanOptions()) as total:
            assert total() is None
    # If counting the files never ends, the scan still ends.
    with monkeypatch.context() as patch:
        patch.setattr(Trees, "batches", lambda _: iter(signal.pause, 0))
        with files_counted([str(tmp_path)], ScanOptions()) as total:
            assert total() is None


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


def test_no_progress_is_drawn_without_a_terminal(tmp_path: Path, terminal: Terminal) -> None:
    quiet = App(lambda: Settings(tmp_path, tmp_path, None, Config()), -1)
    with terminal, bars.scan_progress(quiet, Progress(Summary(lists=()))) as tick:
        tick()
    with terminal, bars.fetch_progress(quiet) as show:
        show("base", 0, 1)
    assert terminal.getvalue() == ""
