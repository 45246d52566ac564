"""What `scan` and `lookup` share: their options, and writing outcomes while they come.

Whatever ends a run early, what was found so far is written and counts, and the summary comes last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
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
from hashclient.errors import ExitCode, HashclientError, UsageError
from hashclient.fsio import printable
from hashclient.model import Kind, Outcome

if TYPE_CHECKING:
    from hashclient.scan import OpenLists
    from hashclient.summary import Summary


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
    *,
    output_format: str,
    output: Path | None,
    show_digests: bool,
    show_all: bool,
    tick: Callable[[], None] = lambda: None,
    arguments: list[str],
) -> ExitCode:
    """Write outcomes as they come, log matches, write the summary; return the exit code.

    Raises:
        HashclientError: the run failed, and nothing that was found outranks that.
    """
    from hashclient.record import RunRecord
    from hashclient.report import FORMATS

    formatter = FORMATS[output_format](show_digests)
    record = RunRecord(
        command,
        summary,
        app.audit_log(),
        app.settings.state_dir,
        now=app.now,
        on_failure=lambda error: app.warn(error.message, error.hint),
    )
    failure: HashclientError | None = None
    try:
        with _output(app, output) as write:
            try:
                record.start(arguments)
                # Whatever ends the loop, the workers end with it.
                with contextlib.closing(outcomes):
                    for outcome in outcomes:
                        if outcome is not None:
                            record.add(outcome)
                            if show_all or outcome.kind is not Kind.CLEAN:
                                write(formatter.outcome(outcome))
                        tick()
            except KeyboardInterrupt:
                summary.stopped = ExitCode.INTERRUPTED
            except Terminated:
                summary.stopped = ExitCode.TERMINATED
            except OutputError:
                raise
            except HashclientError as error:
                failure, summary.failed = error, error.exit_code
            record.end()
            if failure is None or summary.inputs:
                write(formatter.summary(summary))
    except OutputError as error:
        # Nobody can be told but through the exit code; what was found still is logged.
        failure, summary.failed = error, error.exit_code
        record.end()
    if failure is not None:
        if summary.exit_code is failure.exit_code:
            raise failure
        app.warn(failure.message, failure.hint)
    return summary.exit_code


@contextlib.contextmanager
def _output(app: App, path: Path | None) -> Iterator[Callable[[str], None]]:
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
