"""An output that is renamed during a scan, and SIGHUP: both files together have all outcomes."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hashclient.core.errors import ExitCode
from hashclient.formats.registry import DOCUMENTS, FORMATS
from tests.contract.readers import Report
from tests.contract.test_formats import TABLE
from tests.kit import (
    UNMEASURED,
    Run,
    arguments,
    attacker,
    call,
    csv_of,
    environment,
    make_state,
    write_tree,
)
from tests.kit.attacker import Victim, needs_root

LISTED = {"a": b"first", "b": b"second", "c": b"third"}
LINES = [name for name in FORMATS if name not in DOCUMENTS]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    state = make_state(directory, {"baseline": csv_of({f"e-{n}": d for n, d in LISTED.items()})})
    write_tree(directory / "files", {**LISTED, "other": b"not on it"})
    return state


@pytest.fixture(autouse=True)
def _signal() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    assert signal.getsignal(signal.SIGHUP) is before


class Scan:
    """A scan in this process that is disturbed when it has found its second match."""

    def __init__(self, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = state
        self.report = tmp_path / "report"
        self.renamed = tmp_path / "report.1"
        self._patch = monkeypatch

    def run(self, name: str, disturb: Callable[[], object], at: int = 2) -> Run:
        """Scan, and `disturb` before match number `at` is written."""
        from hashclient.formats.registry import formatter as real

        count = 0

        def formatter(*args: Any) -> Any:
            made = real(*args)
            original = made.outcome

            def outcome(handled: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    disturb()
                return original(handled)

            self._patch.setattr(made, "outcome", outcome, raising=False)
            return made

        self._patch.setattr("hashclient.formats.registry.formatter", formatter)
        # Outcomes of one portion stay in one file, so each portion of this test has one outcome.
        self._patch.setattr("hashclient.scan.run.pipeline.PORTION", 1)
        words = ("scan", "--jobs", 1, "--no-inventory", "--output", self.report, "--format", name)
        return call("--state-dir", self.state, *words, self.state.parent / "files")

    def rotate(self) -> None:
        self.report.rename(self.renamed)
        signal.raise_signal(signal.SIGHUP)


@pytest.fixture
def scan(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    return Scan(state, tmp_path, monkeypatch)


def names(report: Report) -> list[str]:
    return sorted(os.path.basename(os.fsdecode(f["path"])) for f in report.files)  # noqa: PTH119


@pytest.mark.parametrize("name", LINES)
def test_each_half_is_read_as_what_it_is(scan: Scan, name: str) -> None:
    result = scan.run(name, scan.rotate)
    assert (result.code, result.err.count("warning")) == (ExitCode.MATCH, 0)
    first, second = (TABLE[name].read(p.read_text()) for p in (scan.renamed, scan.report))
    assert first.run is None and first.exit_code is None, "it must not look complete"
    assert second.exit_code == ExitCode.MATCH and second.run is not None
    assert len(first.files) == 1 and len(second.files) == 2
    assert sorted([*names(first), *names(second)]) == ["a", "b", "c"]


@pytest.mark.parametrize("name", LINES)
def test_before_anything_was_written_and_before_the_end(scan: Scan, name: str) -> None:
    result = scan.run(name, scan.rotate, at=1)
    assert result.code == ExitCode.MATCH
    whole = TABLE[name].read(scan.report.read_text())
    assert (names(whole), whole.exit_code) == (["a", "b", "c"], ExitCode.MATCH)
    assert scan.renamed.read_text() == ""


@needs_root
@pytest.mark.parametrize("trap", ["link", "file", "pipe"])
def test_a_trap_of_another_user_is_not_written_to_when_it_is_opened_again(
    scan: Scan, tmp_path: Path, trap: str
) -> None:
    """The rest of the output is in the renamed file, and the command says so."""
    with attacker.open_ground() as ground:
        theirs = attacker.give_tree(ground / "theirs", {})
        victim = Victim(ground / "closed" / "file", b"root's")
        scan.report, scan.renamed = theirs / "report", theirs / "report.1"

        def disturb() -> None:
            scan.report.rename(scan.renamed)
            if trap == "link":
                attacker.attack_once(attacker.link(scan.report, victim.path))
            elif trap == "file":
                attacker.attack_once(attacker.write(scan.report, "theirs"))
            else:
                attacker.attack_once(attacker.make_fifo(scan.report))
            signal.raise_signal(signal.SIGHUP)

        result = scan.run("jsonl", disturb)
        assert result.code == ExitCode.MATCH
        assert "the output was not opened again: " in result.err
        assert victim.is_untouched()
        assert len(TABLE["jsonl"].read(scan.renamed.read_text()).files) == 3


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_one_document_stays_one(scan: Scan, name: str) -> None:
    result = scan.run(name, scan.rotate)
    assert result.code == ExitCode.MATCH
    assert f"was not opened again: {name} is one document" in result.err
    whole = TABLE[name].read(scan.renamed.read_text())
    assert (names(whole), whole.exit_code) == (["a", "b", "c"], ExitCode.MATCH)
    assert not scan.report.exists()


def test_an_output_that_was_not_renamed_is_not_emptied(scan: Scan) -> None:
    result = scan.run("jsonl", lambda: signal.raise_signal(signal.SIGHUP))
    assert result.code == ExitCode.MATCH
    assert names(TABLE["jsonl"].read(scan.report.read_text())) == ["a", "b", "c"]


def test_rotated_again_and_again(scan: Scan, tmp_path: Path) -> None:
    def twice() -> None:
        scan.rotate()
        signal.raise_signal(signal.SIGHUP)

    assert scan.run("csv", twice).code == ExitCode.MATCH
    assert len(scan.renamed.read_text().splitlines()) == 2
    assert names(TABLE["csv"].read(scan.report.read_text()))[-1] == "c"


def test_the_file_that_was_made_in_its_place_is_emptied(scan: Scan) -> None:
    def rotate() -> None:
        scan.rotate()
        scan.report.write_text("exit 0: yesterday\n")

    assert scan.run("text", rotate).code == ExitCode.MATCH
    assert "yesterday" not in scan.report.read_text()
    assert TABLE["text"].read(scan.report.read_text()).exit_code == ExitCode.MATCH


@pytest.mark.parametrize("how", ["a directory", "an input", "gone"])
def test_where_it_cannot_be_opened_again_it_goes_on(scan: Scan, state: Path, how: str) -> None:
    listed = state.parent / "files" / "a"

    def rotate() -> None:
        scan.rotate()
        if how == "a directory":
            scan.report.mkdir()
        elif how == "an input":
            scan.report.symlink_to(state.parent / "files")
        else:
            scan.report.symlink_to(scan.report.with_name("nowhere") / "x")

    result = scan.run("jsonl", rotate)
    assert result.code == ExitCode.MATCH and "was not opened again" in result.err
    assert names(TABLE["jsonl"].read(scan.renamed.read_text())) == ["a", "b", "c"]
    assert listed.read_bytes() == LISTED["a"]


def test_a_half_for_which_there_is_no_room_fails_the_run(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.dup

    def rotate() -> None:
        scan.rotate()

        def full(fd: int) -> int:
            if os.fstat(fd).st_ino == scan.renamed.stat().st_ino:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd)

        monkeypatch.setattr(os, "dup", full)

    result = scan.run("jsonl", rotate)
    assert result.code == ExitCode.MATCH_ATTENTION and "cannot write the output" in result.err
    for path in (scan.renamed, scan.report):
        assert not path.exists() or TABLE["jsonl"].read(path.read_text()).run is None


def test_of_stdout_the_signal_means_what_it_meant(state: Path) -> None:
    words = ("--state-dir", state, "scan", "-")
    with subprocess.Popen(
        arguments(*words), stdin=-1, stdout=-1, stderr=-1, env=environment(**UNMEASURED)
    ) as run:
        run.send_signal(signal.SIGHUP)
        assert run.wait(60) == -signal.SIGHUP


#: More bytes than a pipe buffers: once they are written, a process is reading the pipe.
ENDLESS = b"not on it " * 20_000


def begun(state: Path, report: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a scan of stdin and of a listed file, and return when it reads stdin."""
    words = ("--state-dir", state, "scan", "--output", report, "-", state.parent / "files" / "a")
    command = arguments(*words)
    run = subprocess.Popen(command, stdin=-1, env=environment(**UNMEASURED), **options)
    watchdog = threading.Timer(60, run.kill)
    watchdog.start()
    assert run.stdin is not None
    run.stdin.write(ENDLESS)
    watchdog.cancel()
    return run


@pytest.mark.slow
def test_the_real_command_opens_it_again(state: Path, tmp_path: Path) -> None:
    report, renamed = tmp_path / "report", tmp_path / "report.1"
    with begun(state, report, start_new_session=True) as run:
        report.rename(renamed)
        run.send_signal(signal.SIGHUP)
        assert run.stdin is not None
        run.stdin.close()
        assert run.wait(60) == ExitCode.MATCH
    second = TABLE["text"].read(report.read_text())
    assert (second.exit_code, names(second)) == (ExitCode.MATCH, ["a"])
    assert renamed.read_text() == ""


@pytest.mark.slow
def test_ignored_signals_stay_ignored(state: Path, tmp_path: Path) -> None:
    """nohup starts programs with SIGHUP ignored."""
    report, renamed = tmp_path / "report", tmp_path / "report.1"
    with begun(
        *(state, report),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as run:
        report.rename(renamed)
        run.send_signal(signal.SIGHUP)
        assert run.stdin is not None
        run.stdin.close()
        assert run.wait(60) == ExitCode.MATCH
    assert TABLE["text"].read(renamed.read_text()).exit_code == ExitCode.MATCH
    assert not report.exists()


@pytest.mark.slow
def test_a_terminal_that_goes_ends_the_run(state: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    run = begun(
        *(state, tmp_path / "report"),
        start_new_session=True,
        preexec_fn=take_terminal,
        pass_fds=[theirs],
    )
    with run:
        os.close(theirs)
        os.close(ours)
        assert run.wait(60) == -signal.SIGHUP
    assert (tmp_path / "report").read_text() == ""
