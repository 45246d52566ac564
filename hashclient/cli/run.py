"""What `scan` and `lookup` share: their options, and writing outcomes while they come.

Whatever ends a run early, what was found so far is written and counts, and the summary comes last.
A signal waits while outcomes are recorded and written, so that each is logged and told once.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import (
    App,
    OutputError,
    Terminated,
    existing_path,
    format_option,
    output_error,
)
from hashclient.errors import ExitCode, HashclientError, UsageError, out_of_memory
from hashclient.fsio import printable
from hashclient.model import Kind, MatchState, Outcome
from hashclient.process import exit_code_at_bad_pages

#: Outcomes are recorded and written in batches, at the latest when so many are waiting.
BATCH = 512

FORMAT_HELP = "How the report is written; docs/formats.md describes each format."

if TYPE_CHECKING:
    from hashclient.formats import Formatter
    from hashclient.lists import OpenLists
    from hashclient.record import RunRecord
    from hashclient.respond import Responder
    from hashclient.summary import Summary


def report_options(*formats: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options that say how outcomes are reported."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(
                "--show-digests",
                is_flag=True,
                help="Add the digests that were computed to each line.",
            ),
            click.option(
                "--all", "show_all", is_flag=True, help="Report clean inputs one by one too."
            ),
            output_option(),
            format_option(*formats, help=FORMAT_HELP),
        ):
            function = option(function)
        return function

    return add


def output_option() -> Callable[[Any], Any]:
    """Return the `--output` option."""
    return click.option(
        "--output",
        metavar="FILE",
        type=existing_path(dir_okay=False),
        help="Write the report to FILE instead of stdout.",
    )


def load_lists(app: App) -> OpenLists:
    """Open the lists that should be here, and say which cannot be used or are stale.

    Raises:
        StateError: none can be used.
    """
    from hashclient.lists import open_lists

    lists = open_lists(app.settings, os.environ, app.now())
    for entry in lists.unusable:
        app.warn(entry.text, entry.hint)
    for state in lists.states:
        if not state.fresh:
            grace = " and is in its grace period" if state.in_grace else ""
            app.warn(
                f"list {state.name} is stale: it expired {state.expires:%Y-%m-%d %H:%M} UTC{grace}",
                "run `hashclient fetch`; if that does not help, check this machine's clock",
            )
    return lists


def run_report(
    app: App,
    command: str,
    outcomes: Generator[Outcome | None],
    summary: Summary,
    key_id: str,
    *,
    output_format: str,
    output: Path | None,
    show_digests: bool,
    show_all: bool,
    tick: Callable[[], None] = lambda: None,
    responder: Responder | None = None,
    arguments: list[str],
) -> ExitCode:
    """Write outcomes as they come, log matches, write the summary; return the exit code.

    The tags of outcomes are sealed under the key `key_id`. What `responder` does about an outcome
    is done before it is told.

    Raises:
        HashclientError: the run failed, and nothing that was found outranks that.
    """
    from hashclient.formats import Context, formatter
    from hashclient.record import RunRecord

    record = RunRecord(
        command,
        summary,
        app.audit_log(),
        app.settings.state_dir,
        key_id,
        now=app.now,
        on_failure=lambda error: app.warn(error.message, error.hint),
    )
    written = formatter(output_format, Context(command, app.now(), show_digests))
    told = _Telling(record, written, summary, responder, show_all=show_all)
    failure: HashclientError | None = None

    def found() -> ExitCode:
        return ExitCode.MATCH_ATTENTION if summary.counts[Kind.MATCH] else ExitCode.STATE

    try:
        with exit_code_at_bad_pages(found), open_output(app, output) as told.write:
            try:
                # Whatever ends the loop, the workers end with it.
                with contextlib.closing(outcomes):
                    # They are at work while the start is logged. Nothing is told before it is, and
                    # what came first is not lost if a signal comes meanwhile.
                    first: list[Outcome | None] = []
                    try:
                        first += itertools.islice(outcomes, 1)
                    finally:
                        with uninterrupted():
                            record.start(arguments)
                            told.waiting += filter(None, first)
                    for outcome in outcomes:
                        told.add(outcome)
                        tick()
                told.flush()
            except KeyboardInterrupt:
                summary.stopped = ExitCode.INTERRUPTED
            except Terminated:
                summary.stopped = ExitCode.TERMINATED
            except OutputError:
                raise
            except MemoryError:
                failure, summary.failed = out_of_memory(), ExitCode.STATE
            except HashclientError as error:
                failure, summary.failed = error, error.exit_code
            # What ends the run anyway comes too late now.
            with uninterrupted(for_good=True):
                told.flush()
                if responder is not None:
                    _finish(app, responder, summary)
                record.end()
                if failure is None or summary.inputs:
                    told.put(written.end(summary))
    except OutputError as error:
        # Nobody can be told but through the exit code; what was found still is logged.
        failure, summary.failed = error, error.exit_code
        record.keep(told.waiting)
        record.end()
    if told.is_open and failure is None and output_format == "text":
        app.say(
            "next: `hashclient quarantine add`, `report prepare` or `matches close`, with the id"
            " in brackets"
        )
    if failure is not None:
        if summary.exit_code is failure.exit_code:
            raise failure
        app.warn(failure.message, failure.hint)
    return summary.exit_code


class _Telling:
    """Records outcomes, acts on them and writes them, in this order and in batches.

    Before anything is told it is remembered, logged, and acted on. Acting can take long and may be
    interrupted; then nothing is left out, only that no more is done about it.
    """

    def __init__(
        self,
        record: RunRecord,
        written: Formatter,
        summary: Summary,
        responder: Responder | None,
        *,
        show_all: bool,
    ) -> None:
        self._record = record
        self._written = written
        self._summary = summary
        self._responder = responder
        self._show_all = show_all
        self._ready: collections.deque[Outcome] = collections.deque()
        self._begun = False
        #: Writes one line; set once the output is open.
        self.write: Callable[[str], None] = lambda _line: None
        #: What was found and is not recorded yet.
        self.waiting: list[Outcome] = []
        #: Whether something matched about which nothing was done yet.
        self.is_open = False

    def add(self, outcome: Outcome | None) -> None:
        """Take an outcome; None says that it is time to tell what there is."""
        if outcome is not None:
            self.waiting.append(outcome)
        if outcome is None or len(self.waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Tell all that there is."""
        with uninterrupted():
            self._ready.extend(self._record.keep(self.waiting))
            self.waiting.clear()
            if self._responder is not None:
                self._responder.want_reports(self._ready)
            while self._ready and self._responder is None:
                self._tell(self._ready.popleft())
        while self._ready and self._responder is not None:
            ended = self._summary.stopped is not None
            self._ready[0] = self._responder.respond(self._ready[0], ended=ended)
            with uninterrupted():
                self._tell(self._ready.popleft())

    def put(self, text: str | None) -> None:
        """Write what a formatter gives, after its beginning."""
        if not self._begun:
            self._begun = True
            self.put(self._written.begin())
        if text is not None:
            self.write(text)

    def _tell(self, outcome: Outcome) -> None:
        recorded = outcome.recorded
        if recorded is not None and recorded.state is MatchState.FOUND and not outcome.acted:
            self.is_open = True
        if self._show_all or outcome.kind is not Kind.CLEAN:
            self.put(self._written.outcome(outcome))


def _finish(app: App, responder: Responder, summary: Summary) -> None:
    """Prepare the reports that are wanted, and count what could not be done."""
    try:
        for report in () if summary.stopped else responder.end():
            app.say(f"report {report.id} is prepared; next: hashclient report submit {report.id}")
    except HashclientError as error:
        app.warn(error.message, error.hint)
        summary.failed = summary.failed or error.exit_code
    summary.failed = summary.failed or responder.failed


@contextlib.contextmanager
def uninterrupted(*, for_good: bool = False) -> Iterator[None]:
    """Keep the first SIGINT or SIGTERM waiting until the end.

    The second one comes through at once: whoever reads the output may have stopped for good. With
    `for_good`, the first is dropped, and so are all that come after the end: the process ends with
    the code that it has come to.
    """
    kept: list[tuple[int, FrameType | None]] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if kept:
            handle(number, frame)
        kept.append((number, frame))

    def handle(number: int, frame: FrameType | None) -> None:
        if callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in before.items():
            if callable(handler):  # what is ignored stays so
                signal.signal(number, keep)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if for_good and callable(handler) else handler)
        if kept and not for_good:
            handle(*kept[0])


@contextlib.contextmanager
def open_output(app: App, path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes a line to `path` or to stdout.

    Raises:
        UsageError: `path` cannot be opened.
        OutputError: writing failed.
    """
    if path is None:
        yield app.out
        return
    try:
        stream = path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"cannot open the output {printable(path)}: {error.strerror}",
            hint="choose another --output",
        ) from error

    def write(line: str) -> None:
        try:
            stream.write(line + "\n")
        except OSError as error:
            raise output_error(error, path) from error

    try:
        yield write
        stream.flush()
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            stream.close()
