"""The common part of `scan` and `lookup`: writes outcomes while the run produces them.

`hashclient/scan/run/pipeline.py` records and counts the outcomes, and acts on matches. This module
writes the output, draws the progress on the terminal, and handles signals. If a run ends early, the
outcomes so far are written, and the summary says why the run ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hashclient.cli.app import App
from hashclient.cli.output import OutputError, Signals, Terminated
from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.kinds import Kind, MatchState
from hashclient.formats.conclusion import conclusion
from hashclient.formats.fields import counts_text, not_opened_text
from hashclient.scan.run.pipeline import PORTION, FrontEnd, Observer, Run
from hashclient.system.process import exit_code_at_bad_pages
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.cli.options import OutcomeOptions
    from hashclient.cli.sorter import Sorter
    from hashclient.config.settings import Settings
    from hashclient.core.model import Handled
    from hashclient.index.open_lists import OpenLists
    from hashclient.reporting.report import Report

#: The exceptions that end a run early, with their exit codes.
STOPS: Mapping[type[BaseException], ExitCode] = {
    KeyboardInterrupt: ExitCode.INTERRUPTED,
    Terminated: ExitCode.TERMINATED,
}

#: The kinds of outcomes that are always counted, but are written only with `--show-all`.
_COUNTED = frozenset({Kind.CLEAN, Kind.SKIPPED})
#: Lines are collected, and are written together when they have this number of characters.
_CHARS_AT_ONCE = 4000
#: The colour codes of the first word of a line on a terminal: bold red and yellow.
_COLOURS = {Kind.MATCH: "1;31", Kind.CONFLICT: "33", Kind.UNREAD: "33"}


def load_lists(app: App) -> OpenLists:
    """Open the lists that this machine should have, and warn about missing and stale lists.

    Raises:
        StateError: no list can be used.
    """
    lists = app.session.open_lists()
    for entry in lists.unusable:
        app.warn(entry.text, entry.hint)
    for index, state in zip(lists.indexes, lists.states, strict=True):
        if state.is_early:
            app.warn(
                f"list {state.name} counts as stale: the clock shows {for_people(app.now())}, but "
                f"the list was checked at {for_people(index.manifest.checked_at)}",
                "set this machine's clock right",
            )
        elif not state.fresh:
            grace = " and is in its grace period" if state.in_grace else ""
            app.warn(
                f"list {state.name} is stale: it expired {for_people(state.expires)}{grace}",
                _stale_hint(app.settings, index.manifest.provider),
            )
    return lists


def _stale_hint(settings: Settings, provider: str) -> str:
    """Return the hint how a list of `provider` can be brought up to date."""
    config = settings.config.providers.get(provider)
    if config is None:
        from hashclient.index.open_lists import UNCONFIGURED_HINT

        return UNCONFIGURED_HINT
    how = "" if config.addresses else f" --provider {provider} --from PATH"
    return f"run `hashclient fetch{how}`; if that does not help, check this machine's clock"


class RunOutput(Observer):
    """Writes the outcomes of a run in one format, and messages about other events to stderr."""

    def __init__(
        self,
        app: App,
        command: str,
        options: OutcomeOptions,
        paths: Sequence[str] = (),
    ) -> None:
        """Store the `options` of the output; `paths` are the paths given to the command."""
        from hashclient.formats.registry import DOCUMENTS, Context, formatter

        about = app.session.invocation(paths)
        self._app = app
        self._output = options.output
        self._is_text = options.output_format == "text"
        self._has_colour = self._is_text and options.output is None and app.has_colour()
        context = Context(command, app.now(), options.show_digests, about)
        self._written = formatter(options.output_format, context)
        self._sorter: Sorter | None = None
        if options.sort:
            # The module is imported only if it is needed, because it imports SQLite.
            from hashclient.cli.sorter import Sorter

            self._sorter = Sorter(keep_digests=options.show_digests)
        self._again = None if options.output_format in DOCUMENTS else self._written.begin
        self._show_all = options.show_all
        self._signals = Signals()
        #: The objects that this module passes to a run: signals, observer and exit codes.
        self.front = FrontEnd(self._signals, self, STOPS)
        #: The function that draws the progress of the run.
        self.tick: Callable[[], None] = lambda: None
        #: The function that writes one line; set when the output is open.
        self._write: Callable[[str], None] = lambda _line: None
        self._begun = False
        #: Whether the run has found a match on which no action was done.
        self._is_open = False

    def write(self, run: Run) -> ExitCode:
        """Write each outcome when it is known, then the summary; return the exit code.

        Raises:
            HashclientError: the run failed, and no outcome has a more important exit code.
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
                    failure = self._show_outcomes(run)
            except OutputError as error:
                # The output cannot be written any more, so the error is reported only by the exit
                # code. All other outcomes are still logged.
                failure = error
                run.give_up(error)
            except (KeyboardInterrupt, Terminated) as error:
                # A second signal came while the end of the output was being written. If the run has
                # found matches, the exit code still reports the matches, and not the signal.
                run.give_up(error)
            finally:
                if self._sorter is not None:
                    self._sorter.close()
        if self._is_open and failure is None and self._is_text:
            self._app.say(
                "next: `hashclient quarantine add`, `report prepare` or `matches close`, with the"
                " id in brackets; if a file is harmless: `exceptions add --match ID --reason …`"
            )
        if run.summary.held and self._is_text:
            self._app.say(
                "held: look at some files of each entry; `hashclient matches release` acts on them"
            )
        if failure is not None:
            if run.exit_code is failure.exit_code:
                raise failure
            # FILE may still be empty, because all outcomes waited to be sorted. In this case, the
            # failure is written into FILE.
            self._app.output.fail(run.exit_code, failure.message, self._app.now)
            self._app.warn(failure.message, failure.hint)
        return run.exit_code

    def _show_outcomes(self, run: Run) -> HashclientError | None:
        """Write each outcome when it is known; return the error that ended the run, or None."""
        while True:
            try:
                for portion in run.portions():
                    self._show_portion(portion)
                return None
            except (KeyboardInterrupt, Terminated) as error:
                run.interrupt(error)
            except HashclientError as error:
                if error is not run.failure:
                    raise
                return error

    def _show_portion(self, portion: Sequence[Handled]) -> None:
        lines: list[str] = []
        chars = 0
        write = self._written.outcome
        for handled in portion:
            kind, record = handled.outcome.kind, handled.record
            if record is not None and record.state is MatchState.FOUND and not handled.acted:
                self._is_open = True
            if not self._show_all and kind in _COUNTED:
                continue
            if self._sorter is not None:
                self._sorter.add(handled)
                continue
            text = write(handled)
            if text is not None:
                lines.append(self._coloured(text, kind) if self._has_colour else text)
                chars += len(text)
                # A text that is shorter than the buffer of a stream is written completely or not at
                # all.
                if chars >= _CHARS_AT_ONCE:
                    self._put("\n".join(lines))
                    lines.clear()
                    chars = 0
        if lines:
            self._put("\n".join(lines))

    def _put_sorted(self) -> None:
        """Write the outcomes in the sorter in the order of their paths, and close the sorter."""
        sorter, self._sorter = self._sorter, None
        if sorter is not None:
            ordered = iter(sorter)
            while portion := list(itertools.islice(ordered, PORTION)):
                self._show_portion(portion)

    def _put(self, text: str | None) -> None:
        """Write a text of a formatter; before the first text, write the beginning of the output."""
        if not self._begun:
            self._begun = True
            self._put(self._written.begin())
        if text is not None:
            self._write(text)

    def _coloured(self, text: str, kind: Kind) -> str:
        """Return a line about an outcome, with the first word of the line in colour."""
        colour = _COLOURS.get(kind)
        if colour is None:
            return text
        word, space, rest = text.partition(" ")
        return f"\x1b[{colour}m{word}\x1b[0m{space}{rest}"

    def progressed(self) -> None:
        """Draw the progress of the run, and open FILE again if SIGHUP asked for it."""
        self._app.output.reopen_if_asked()
        self.tick()

    def failed(self, error: HashclientError) -> None:
        """Print a warning about an error that does not end the run."""
        self._app.warn(error.message, error.hint)

    def file_system_changed(self, path: str) -> None:
        """Print a message that a path is on another file system than at an earlier scan."""
        self._app.say(f"on another file system than before: {printable(path)}")

    def noticed(self, text: str) -> None:
        """Print the message `text` of the run."""
        self._app.say(text)

    def prepared(self, report: Report) -> None:
        """Print that a report is prepared, and the command that sends the report."""
        self._app.say(f"report {report.id} is prepared; next: hashclient report submit {report.id}")

    def ending(self, run: Run) -> None:
        """Write the summary, unless the command failed before the first check."""
        self._put_sorted()
        if run.failure is None or run.summary.inputs or self._output is not None:
            self._put(self._written.end(run.summary))
        if self._output is not None and self._app.has_terminal():
            code = run.summary.exit_code
            self._app.say(counts_text(run.summary))
            if (text := not_opened_text(run.summary)) is not None:
                self._app.say(text)
            self._app.say(f"exit {int(code)}: {conclusion(run.summary)}")
            self._app.say(f"the output is in {printable(self._output)}")
        if number := run.summary.gone:
            verb = "is" if number == 1 else "are"
            self._app.say(
                f"{counted(number, 'match')} of earlier scans {verb} gone:"
                " `hashclient matches --state gone`"
            )
