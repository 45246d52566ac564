"""`report status` and `report export`: show the reports of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.options import REPORTS
from hashclient.cli.output import facts, table
from hashclient.core.errors import ExitCode, StateError
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.reporting.outbox import Outbox
    from hashclient.reporting.report import Answered, Report


@click.command("status")
@click.argument("report_id", metavar="[REPORT]", required=False, shell_complete=REPORTS)
@format_option("text", "json")
@pass_app
def status(app: App, report_id: str | None, output_format: str) -> ExitCode:
    """Show all reports with their states, or one report with its history.

    For a failed report, this shows why it failed and when it is tried next; for a retracted report,
    who retracted it and why.

    \b
      hashclient report status
      hashclient report status r-3kdz7wnq2m
    """
    outbox = open_outbox(app)
    if report_id is not None:
        report = outbox.get(report_id)
        app.show(output_format, report_document(report), _lines(report, app.now()))
        return ExitCode.OK
    code, reports = ExitCode.OK, []
    for name in outbox.ids():
        try:
            reports.append(outbox.get(name))
        except StateError as error:
            code = error.exit_code
            app.warn(error.message, error.hint)
    reports.sort(key=lambda report: (report.created, report.id))
    rows = [
        [r.id, str(r.state), r.destination, count_of(r), note_of(r, app.now())] for r in reports
    ]
    nothing = "no reports yet" if code is ExitCode.OK else ""
    document = {"reports": [report_document(report) for report in reports]}
    app.show(output_format, document, table(rows), nothing=nothing)
    return code


@click.command("export")
@click.argument("report_id", metavar="REPORT", shell_complete=REPORTS)
@format_option("csv", "jsonl")
@pass_app
def export(app: App, report_id: str, output_format: str) -> None:
    """Write a report as a table, for a body that takes reports by a form or portal.

    The table has a row for each entry of each match, with paths, entries and categories. It has no
    digest and no content. The audit log records who has exported the report. A report that waits
    for a review is not written, and rejected matches are left out.

    \b
      hashclient report export r-3kdz7wnq2m > report.csv
    """
    from hashclient.cli.package_lines import row_lines
    from hashclient.matches.store import Matches
    from hashclient.packages.index import DOCUMENT_COLUMNS, document_rows

    outbox = open_outbox(app)
    with Matches(app.settings.state_dir, create=False) as record:
        document = outbox.export(outbox.get(report_id), record)
    rows = (row for row, _ in document_rows(document))
    app.out("\n".join(row_lines(rows, DOCUMENT_COLUMNS, output_format)))


def _lines(report: Report, now: datetime) -> Iterator[str]:
    remote, problem = report.remote, report.problem
    rows = {
        "to": report.destination,
        "created": f"{for_people(report.created)}, by {report.by}",
        "matches": " ".join(report.matches),
        "left out": " ".join(report.left_out),
        "set apart": "; ".join(f"{' '.join(a.matches)} in {a.report}" for a in report.apart),
        "package": report.package.name if report.package else "",
        "reference": report.reference or "",
        "answers": "; ".join(_answer(answer) for answer in report.answers),
        "at service": remote.report_id or "",
        "in doubt": f"whether {remote.in_doubt} was carried out" if remote.in_doubt else "",
        "retraction": _retraction(report, when=True),
        "attempts": f"{report.attempts} failed, the last {for_people(problem.time)}"
        if problem
        else "",
        "next attempt": _next(report, now),
        "problem": problem.message if problem else "",
        "hint": (problem.hint if problem else None) or "",
        "requests": " ".join(request.id for request in remote.requests[-3:]),
    }
    yield f"report {report.id}: {report.state}"
    yield from facts(((name, printable(text)) for name, text in rows.items()), 13)
    yield "history"
    for step in report.history:
        detail = ", ".join(f"{key} {printable(str(v))}" for key, v in step.detail.items())
        yield f"  {for_people(step.time)}  {step.event:<15}{detail}".rstrip()


def report_document(report: Report) -> dict[str, Any]:
    """Return a report as a JSON object."""
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(report)
    del document["format"], document["settled"]
    return document


def count_of(report: Report) -> str:
    """Return the number of matches in a report as text."""
    return counted(len(report.matches), "match")


def _next(report: Report, now: datetime) -> str:
    """Return as text when the program tries again to send a report."""
    if not report.is_open and not report.is_retracting:
        return ""
    if report.next_attempt is None:
        return "as soon as asked"
    if report.is_due(now):
        return "is due"
    return for_people(report.next_attempt)


def _retraction(report: Report, *, when: bool = False) -> str:
    """Return as text who retracted a report, and why; with `when`, also the time."""
    decision = report.retraction
    if decision is None:
        return ""
    time = f", {for_people(decision.time)}" if when else ""
    return f"by {decision.by}{time}: {decision.reason}"


def _answer(answer: Answered) -> str:
    """Return as text who answered a report, which matches were refused, and the requests."""
    refused = f"refuses {' '.join(answer.refused)}" if answer.refused else "accepts"
    return ", ".join([answer.body, refused, *(f"asks to {ask}" for ask in answer.asks)])


def note_of(report: Report, now: datetime) -> str:
    """Return one line that says what a report waits for, its reference, or its retraction."""
    notes = []
    if report.retraction is not None:
        being = "being retracted " if report.is_retracting else ""
        notes.append(being + _retraction(report))
    elif report.reference is not None:
        notes.append(report.reference)
    notes += [f"asks to {ask}" for answer in report.answers for ask in answer.asks]
    if report.problem is not None and (report.is_open or report.is_retracting):
        notes.append(f"next {_next(report, now)}: {report.problem.message}")
    return printable("; ".join(notes))


def open_outbox(app: App) -> Outbox:
    """Return the outbox with the reports in the state directory."""
    from hashclient.reporting.outbox import Outbox
    from hashclient.system.files import require_state_dir

    require_state_dir(app.settings.state_dir)
    return Outbox(app.session)
