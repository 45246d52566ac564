"""Reports as `report` shows them: lines for people, JSON values for other programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hashclient.cli.app import App
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.reporting.report import Report


def show_report(app: App, report: Report, output_format: str) -> None:
    """Print all of one report, for people or as JSON."""
    if output_format == "json":
        app.out(json.dumps(report_document(report)))
        return
    remote = report.remote
    rows = {
        "to": report.destination,
        "created": f"{report.created:%Y-%m-%d %H:%M:%S} UTC, by {report.by}",
        "matches": " ".join(report.matches),
        "left out": " ".join(report.left_out),
        "package": report.package.name if report.package else "",
        "reference": report.reference or "",
        "at service": remote.report_id or "",
        "in doubt": f"whether {remote.in_doubt} was carried out" if remote.in_doubt else "",
        "next attempt": _next(report),
        "problem": report.problem.message if report.problem else "",
        "hint": (report.problem.hint if report.problem else None) or "",
        "requests": " ".join(request.id for request in remote.requests[-3:]),
    }
    app.out(f"report {report.id}: {report.state}")
    for name, text in rows.items():
        if text:
            app.out(f"  {name:<13} {printable(text)}")
    app.out("history")
    for step in report.history:
        detail = ", ".join(f"{key} {printable(str(v))}" for key, v in step.detail.items())
        app.out(f"  {step.time:%Y-%m-%d %H:%M:%S}  {step.event:<15}{detail}".rstrip())


def report_document(report: Report) -> dict[str, Any]:
    """Return a report as JSON values."""
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(report)
    del document["format"], document["settled"]
    return document


def count_of(report: Report) -> str:
    """Say how many matches are in a report."""
    return f"{len(report.matches)} match{'es' if len(report.matches) != 1 else ''}"


def _next(report: Report) -> str:
    if not report.is_open:
        return ""
    if report.next_attempt is None:
        return "as soon as asked"
    return f"{report.next_attempt:%Y-%m-%d %H:%M} UTC"


def note_of(report: Report) -> str:
    """Say in one line what a report waits for, or how its recipient calls it."""
    if report.problem is not None and report.is_open:
        return f"next {_next(report)}: {printable(report.problem.message)}"
    return printable(report.reference or "")
