"""What `scan` and `lookup` share: their options, and writing outcomes while they come.

Whatever ends a run early, what was found so far is written and counts, and the summary comes last
and says so. A signal waits while outcomes are recorded and written, so that each is logged and told
once.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, Terminated, existing_path, format_option
from hashclient.cli.output import OutputError
from hashclient.cli.signals import Signals
from hashclient.core.kinds import Kind, MatchState
from hashclient.core.model import Handled, Outcome, Recorded
from hashclient.errors import ExitCode, HashclientError, out_of_memory
from hashclient.system.process import exit_code_at_bad_pages

#: Outcomes are recorded and written in batches, at the latest when so many are waiting.
BATCH = 512

FORMAT_HELP = "How the report is written; docs/formats.md describes each format."

if TYPE_CHECKING:
    from hashclient.core.verdict import Summary
    from hashclient.formats.interface import Formatter
    from hashclient.index.open_lists import OpenLists
    from hashclient.scan.actions import Responder
    from hashclient.scan.engine import Progress
    from hashclient.scan.recorder import RunRecord


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
    lists = app.session.open_lists()
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
    outcomes: Generator[Outcome | Progress],
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
    from hashclient.formats.interface import Context, formatter
    from hashclient.scan.recorder import RunRecord

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

    def found() -> ExitCode:
        return ExitCode.MATCH_ATTENTION if summary.counts[Kind.MATCH] else ExitCode.STATE

    with exit_code_at_bad_pages(found), Signals() as signals:
        told = _Telling(record, written, summary, responder, signals, show_all=show_all)
        failure: HashclientError | None = None
        try:
            with app.output.open(output, app.out) as told.write:
                failure = _gather(outcomes, told, summary, tick, arguments)
                # What ends the run anyway comes too late now.
                with signals.last():
                    told.flush()
                    told.settle()
                    if responder is not None:
                        _finish(app, responder, summary)
                    told.end()
                    if failure is None or summary.inputs or output is not None:
                        told.put(written.end(summary))
        except OutputError as error:
            # Nobody can be told but through the exit code; what was found still is logged.
            failure, summary.failed, summary.failure = error, error.exit_code, error.message
            told.give_up()
        except (KeyboardInterrupt, Terminated) as error:
            # The second signal, while the end was told: what was found outranks it as well.
            summary.stopped = summary.stopped or _stopped_by(error)
            told.give_up()
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


def _gather(
    outcomes: Generator[Outcome | Progress],
    told: _Telling,
    summary: Summary,
    tick: Callable[[], None],
    arguments: list[str],
) -> HashclientError | None:
    """Tell outcomes as they come, until the last one, a signal or a failure, which is returned."""
    try:
        # Whatever ends the loop, the workers end with it.
        with contextlib.closing(outcomes):
            # They are at work while the start is logged. Nothing is told before it is, and what
            # came first is not lost if a signal comes meanwhile.
            first: list[Outcome | Progress] = []
            try:
                first += itertools.islice(outcomes, 1)
            finally:
                told.start(arguments, first)
            for outcome in outcomes:
                told.add(outcome)
                tick()
        told.flush()
    except (KeyboardInterrupt, Terminated) as error:
        summary.stopped = _stopped_by(error)
    except OutputError:
        raise
    except (HashclientError, MemoryError) as error:
        failure = out_of_memory() if isinstance(error, MemoryError) else error
        summary.failed, summary.failure = failure.exit_code, failure.message
        return failure
    return None


def _stopped_by(error: KeyboardInterrupt | Terminated) -> ExitCode:
    return ExitCode.TERMINATED if isinstance(error, Terminated) else ExitCode.INTERRUPTED


class _Telling:
    """Records outcomes, acts on them and writes them, in this order and in batches.

    Before anything is told it is remembered, logged, and acted on. Acting can take long and may be
    interrupted; then nothing is left out, only that no more is done about it. No signal comes while
    outcomes are recorded and logged: a second one, too, would have them logged again.
    """

    def __init__(
        self,
        record: RunRecord,
        written: Formatter,
        summary: Summary,
        responder: Responder | None,
        signals: Signals,
        *,
        show_all: bool,
    ) -> None:
        self._record = record
        self._written = written
        self._summary = summary
        self._responder = responder
        self._signals = signals
        self._show_all = show_all
        self._ready: collections.deque[Recorded] = collections.deque()
        self._found: collections.Counter[Kind] = collections.Counter()
        self._begun = False
        #: Writes one line; set once the output is open.
        self.write: Callable[[str], None] = lambda _line: None
        #: What was found and is not recorded yet.
        self._waiting: list[Outcome] = []
        #: Whether something matched about which nothing was done yet.
        self.is_open = False

    def start(self, arguments: list[str], first: list[Outcome | Progress]) -> None:
        """Log that the run starts; `first` is what was found meanwhile."""
        with self._signals.barred():
            self._record.start(arguments)
            self._waiting += [item for item in first if isinstance(item, Outcome)]

    def add(self, item: Outcome | Progress) -> None:
        """Take an outcome; progress says that it is time to tell what there is."""
        if isinstance(item, Outcome):
            self._waiting.append(item)
            if len(self._waiting) < BATCH:
                return
        self.flush()

    def flush(self) -> None:
        """Tell all that there is."""
        with self._signals.held():
            self._keep()
            if self._responder is not None:
                self._responder.want_reports(self._ready)
            while self._ready and self._responder is None:
                recorded = self._ready.popleft()
                self._tell(Handled(recorded.outcome, recorded.record))
        while self._ready and self._responder is not None:
            ended = self._summary.stopped is not None
            handled = self._responder.respond(self._ready[0], ended=ended)
            self._ready[0] = Recorded(self._ready[0].outcome, handled.record)
            with self._signals.held():
                self._ready.popleft()
                self._tell(handled)

    def settle(self) -> None:
        """Count as matches and conflicts what was told as such, and no more.

        A signal may come when something was counted and is on its way to here.
        """
        if self._summary.stopped is not None:
            for kind in (Kind.MATCH, Kind.CONFLICT):
                self._summary.counts[kind] = self._found[kind]

    def end(self) -> None:
        """Log that the run has ended; only the first time."""
        with self._signals.barred():
            self._record.end()

    def give_up(self) -> None:
        """Record and log what there is, and tell no more."""
        with self._signals.barred():
            self._keep()
            self.settle()
            self._record.end()

    def _keep(self) -> None:
        with self._signals.barred():
            kept = self._record.keep(self._waiting)
            self._found.update(recorded.outcome.kind for recorded in kept)
            self._ready.extend(kept)
            self._waiting.clear()

    def put(self, text: str | None) -> None:
        """Write what a formatter gives, after its beginning."""
        if not self._begun:
            self._begun = True
            self.put(self._written.begin())
        if text is not None:
            self.write(text)

    def _tell(self, handled: Handled) -> None:
        record = handled.record
        if record is not None and record.state is MatchState.FOUND and not handled.acted:
            self.is_open = True
        if self._show_all or handled.outcome.kind is not Kind.CLEAN:
            self.put(self._written.outcome(handled))


def _finish(app: App, responder: Responder, summary: Summary) -> None:
    """Prepare the reports that are wanted, and count what could not be done."""
    try:
        for report in () if summary.stopped else responder.end():
            app.say(f"report {report.id} is prepared; next: hashclient report submit {report.id}")
    except HashclientError as error:
        app.warn(error.message, error.hint)
        summary.fail(error)
    summary.failed = summary.failed or responder.failed
