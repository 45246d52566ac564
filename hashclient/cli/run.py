"""What `scan` and `lookup` share: their options, and writing outcomes while they come.

Whatever ends a run early, what was found so far is written and counts, and the summary comes last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
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
from hashclient.errors import AuditError, ExitCode, UsageError
from hashclient.model import Kind, Outcome

if TYPE_CHECKING:
    from hashclient.audit import Event
    from hashclient.scan import OpenLists
    from hashclient.summary import Summary

#: Matches are logged in batches, at the latest when so many are waiting.
AUDIT_BATCH = 512


def report_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how outcomes are reported."""
    for option in (
        click.option(
            "--show-digests", is_flag=True, help="Add the digests that were computed to each line."
        ),
        click.option("--all", "show_all", is_flag=True, help="Report clean inputs one by one too."),
        click.option(
            "--output",
            metavar="FILE",
            type=existing_path(dir_okay=False),
            help="Write the report to FILE instead of stdout.",
        ),
        format_option("text", "jsonl", help="For people, or one JSON object a line for scripts."),
    ):
        function = option(function)
    return function


def load_lists(app: App) -> OpenLists:
    """Open the lists of the state directory, and say so if they are stale.

    Raises:
        StateError: there are none, or they are damaged or sealed with another key.
    """
    from hashclient.scan import open_lists

    lists = open_lists(app.settings, os.environ, app.now())
    for state in lists.states:
        if not state.fresh:
            app.warn(
                f"list {state.name} is stale: it expired {state.expires:%Y-%m-%d %H:%M} UTC",
                "run `hashclient fetch`; if that does not help, check this machine's clock",
            )
    return lists


def run_report(
    app: App,
    command: str,
    outcomes: Iterable[Outcome | None],
    summary: Summary,
    *,
    output_format: str,
    output: Path | None,
    show_digests: bool,
    show_all: bool,
    tick: Callable[[], None] = lambda: None,
    arguments: list[str],
) -> ExitCode:
    """Write outcomes as they come, log matches, write the summary; return the exit code."""
    from hashclient.report import FORMATS

    formatter = FORMATS[output_format](show_digests)
    log = _MatchLog(app, command, summary, arguments)
    with _output(output) as write:
        try:
            log.start()
            for outcome in outcomes:
                if outcome is not None:
                    if show_all or outcome.kind is not Kind.CLEAN:
                        write(formatter.outcome(outcome))
                    log.add(outcome)
                tick()
        except KeyboardInterrupt:
            summary.stopped = ExitCode.INTERRUPTED
        except Terminated:
            summary.stopped = ExitCode.TERMINATED
        except OutputError as error:
            # Nobody can be told but through the exit code; what was found still is logged.
            summary.failed = error.exit_code
            log.end()
            if not summary.counts[Kind.MATCH]:
                raise
            return summary.exit_code
        log.end()
        write(formatter.summary(summary))
    return summary.exit_code


class _MatchLog:
    """Writes to the audit log what a run did; failing to is told once and ends in exit 9."""

    def __init__(self, app: App, command: str, summary: Summary, arguments: list[str]) -> None:
        self._app = app
        self._command = command
        self._summary = summary
        self._arguments = arguments
        self._waiting: list[Event] = []
        self._log = app.audit_log()

    def start(self) -> None:
        self._event(
            f"{self._command}-start", {"arguments": self._arguments, "lists": self._lists()}
        )
        self._flush()

    def add(self, outcome: Outcome) -> None:
        if outcome.kind not in (Kind.MATCH, Kind.CONFLICT):
            return
        from hashclient.audit import path_fields

        data = {
            **path_fields(outcome.origin or outcome.path),
            "size": outcome.size,
            "hits": [
                {
                    "list": hit.list_name,
                    "entry": hit.entry,
                    "category": hit.category,
                    "generation": hit.generation,
                    "algorithms": [a.label for a in hit.algorithms],
                    "complete": hit.complete,
                }
                for hit in outcome.hits
            ],
        }
        self._event(str(outcome.kind), data)
        if len(self._waiting) >= AUDIT_BATCH:
            self._flush()

    def end(self) -> None:
        summary = self._summary
        self._flush()
        counts = {str(kind): summary.counts[kind] for kind in Kind}
        data = {"inputs": summary.inputs, **counts, "exit_code": int(summary.exit_code)}
        self._event(f"{self._command}-end", data)
        self._flush()

    def _lists(self) -> list[dict[str, Any]]:
        return [
            {"list": s.name, "generation": s.generation, "fresh": s.fresh}
            for s in self._summary.lists
        ]

    def _event(self, name: str, data: dict[str, Any]) -> None:
        from hashclient.audit import Event

        self._waiting.append(Event(name, data))

    def _flush(self) -> None:
        if not self._waiting or self._summary.failed is ExitCode.AUDIT:
            return
        try:
            self._log.append(self._waiting)
        except AuditError as error:
            self._summary.failed = ExitCode.AUDIT
            self._app.warn(error.message, error.hint)
        self._waiting.clear()


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes a line to `path` or to stdout.

    Raises:
        UsageError: `path` cannot be opened.
        OutputError: writing failed.
    """
    if path is None:
        yield App.out
        return
    try:
        stream = path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"cannot open the output {path}: {error.strerror}", hint="choose another --output"
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
