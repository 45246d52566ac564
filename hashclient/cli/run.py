"""What `scan` and `lookup` share: writing outcomes while they come.

The library records, acts and counts (`scan/pipeline`); here is what it does not know: the output,
the terminal, and signals. However a run ends early, what was found so far is written, and the
summary comes last and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hashclient.cli.app import App, Terminated
from hashclient.cli.output import OutputError
from hashclient.cli.signals import Signals
from hashclient.core.kinds import Kind, MatchState
from hashclient.errors import ExitCode, HashclientError
from hashclient.scan.pipeline import FrontEnd, Observer, Run
from hashclient.system.process import exit_code_at_bad_pages
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.core.model import Handled
    from hashclient.index.open_lists import OpenLists
    from hashclient.reporting.report import Report as Prepared

#: What ends a run early, and the exit code that it stands for.
STOPS: Mapping[type[BaseException], ExitCode] = {
    KeyboardInterrupt: ExitCode.INTERRUPTED,
    Terminated: ExitCode.TERMINATED,
}


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


class Report(Observer):
    """Writes the outcomes of one run in one format, and what else happens to stderr."""

    def __init__(
        self,
        app: App,
        command: str,
        output_format: str,
        output: Path | None,
        *,
        show_digests: bool,
        show_all: bool,
    ) -> None:
        """Write to the file `output`, or to stdout."""
        from hashclient.formats.interface import DOCUMENTS, Context, formatter

        self._app = app
        self._output = output
        self._is_text = output_format == "text"
        self._written = formatter(output_format, Context(command, app.now(), show_digests))
        self._again = None if output_format in DOCUMENTS else self._written.begin
        self._show_all = show_all
        self._signals = Signals()
        #: What a run has to know of its front end.
        self.front = FrontEnd(self._signals, self, STOPS)
        #: Draws how far the run has come.
        self.tick: Callable[[], None] = lambda: None
        #: Writes one line; set once the output is open.
        self._write: Callable[[str], None] = lambda _line: None
        self._begun = False
        #: Whether something matched about which nothing was done yet.
        self._is_open = False

    def write(self, run: Run) -> ExitCode:
        """Write outcomes as they come, then the summary; return the exit code.

        Raises:
            HashclientError: the run failed, and nothing that was found outranks that.
        """
        summary = run.summary

        def found() -> ExitCode:
            return ExitCode.MATCH_ATTENTION if summary.counts[Kind.MATCH] else ExitCode.STATE

        failure: HashclientError | None = None
        with exit_code_at_bad_pages(found), self._signals:
            try:
                with self._app.output.open(
                    self._output, self._app.out, again=self._again, warn=self._app.warn
                ) as self._write:
                    failure = self._tell_all(run)
            except OutputError as error:
                # Nobody can be told but through the exit code; what was found still is logged.
                failure = error
                run.give_up(error)
            except (KeyboardInterrupt, Terminated) as error:
                # The second signal, while the end was told: what was found outranks it as well.
                run.give_up(error)
        if self._is_open and failure is None and self._is_text:
            self._app.say(
                "next: `hashclient quarantine add`, `report prepare` or `matches close`, with the"
                " id in brackets"
            )
        if failure is not None:
            if run.exit_code is failure.exit_code:
                raise failure
            self._app.warn(failure.message, failure.hint)
        return run.exit_code

    def _tell_all(self, run: Run) -> HashclientError | None:
        """Tell outcomes as they come, to the last; return what the run failed for."""
        while True:
            try:
                for handled in run:
                    self._tell(handled)
                return None
            except (KeyboardInterrupt, Terminated) as error:
                run.interrupt(error)
            except HashclientError as error:
                if error is not run.failure:
                    raise
                return error

    def _tell(self, handled: Handled) -> None:
        record = handled.record
        if record is not None and record.state is MatchState.FOUND and not handled.acted:
            self._is_open = True
        if self._show_all or handled.outcome.kind is not Kind.CLEAN:
            self._put(self._written.outcome(handled))

    def _put(self, text: str | None) -> None:
        """Write what a formatter gives, after its beginning."""
        if not self._begun:
            self._begun = True
            self._put(self._written.begin())
        if text is not None:
            self._write(text)

    def progressed(self) -> None:
        """Draw how far the run has come."""
        self._app.output.reopen_if_asked()
        self.tick()

    def failed(self, error: HashclientError) -> None:
        """Warn: the run goes on."""
        self._app.warn(error.message, error.hint)

    def file_system_changed(self, path: str) -> None:
        """Say so: it may be meant."""
        self._app.say(f"another file system than before: {printable(path)}")

    def prepared(self, report: Prepared) -> None:
        """Say what is to be done with the report."""
        self._app.say(f"report {report.id} is prepared; next: hashclient report submit {report.id}")

    def ending(self, run: Run) -> None:
        """Write the summary, unless the command fails without having checked anything."""
        if run.failure is None or run.summary.inputs or self._output is not None:
            self._put(self._written.end(run.summary))
