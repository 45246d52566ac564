"""`hashclient audit summary`: sums up a period of the audit log as text, JSON, CSV or HTML."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import TIME, whole_output_option
from hashclient.cli.output import json_text, table
from hashclient.cli.outputfile import write_whole
from hashclient.core.errors import UsageError
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.audit.summary import Summary

_TITLE = "Summary of the audit log"


@click.command("summary", short_help="Sum up a period.")
@click.option(
    "--from", "since", type=TIME, metavar="TIME", help="Only records from TIME on, in UTC."
)
@click.option("--to", "until", type=TIME, metavar="TIME", help="Only records before TIME, in UTC.")
@click.option(
    "--archive",
    "archives",
    type=existing_path(exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="A folder with closed files of this log that were moved away. Can be given several times.",
)
@format_option("text", "json", "csv", "html")
@whole_output_option
@pass_app
def summary(
    app: App,
    since: datetime | None,
    until: datetime | None,
    archives: tuple[Path, ...],
    output_format: str,
    output: Path | None,
) -> None:
    """Sum up a period: runs, files, unread files, matches, reports, lists, outages, gaps.

    Everything comes from the audit log, so the same log gives the same summary, byte for byte. The
    chain of the records is checked on the way; `hashclient audit verify` also checks signatures.
    The summary has no paths and no entries; it counts decisions by the name of the person.

    \b
      hashclient audit summary --from 2026-01-01 --to 2027-01-01
      hashclient audit summary --archive /mnt/old --format html -o year.html

    Exit codes: 8 no log exists yet, 9 the log is damaged; all are in `hashclient --help`.
    """
    from hashclient.audit.summary import summarise

    if since is not None and until is not None and since >= until:
        raise UsageError("--from is not before --to")
    found = summarise(app.settings.layout.audit, archives, since=since, until=until)
    write_whole(app.out, output, RENDERERS[output_format](found))


def _json(found: Summary) -> str:
    import msgspec

    return json_text(msgspec.to_builtins(found))


def _csv(found: Summary) -> str:
    from hashclient.formats.cells import csv_row

    rows = ((section, name, _shown(value)) for section, name, value in found.rows())
    return "\n".join([csv_row(("section", "figure", "value")), *map(csv_row, rows)])


def _text(found: Summary) -> str:
    rows = [(a.replace("_", " "), b.replace("_", " "), _shown(c)) for a, b, c in found.rows()]
    # Control characters in cells are escaped, because a summary of several machines contains names
    # from other machines.
    shown = [[printable(cell) for cell in row] for row in rows if row[2] not in ("", "0")]
    return "\n".join(table(shown))


def _html(found: Summary) -> str:
    from hashclient.formats.htmltable import Markup, document, element

    sections: dict[str, list[Markup]] = {}
    for section, name, value in found.rows():
        head = element("th", name.replace("_", " "), scope="row")
        is_number = not isinstance(value, str)
        text = f"{value:,}" if isinstance(value, int) else _shown(value)
        cells = (head, element("td", text, class_="num" if is_number else None))
        title = section.replace("_", " ").capitalize()
        sections.setdefault(title, []).append(element("tr", *cells))
    body = [
        element(
            "section",
            element("h2", title),
            element("table", element("tbody", *rows), class_="lists figures"),
        )
        for title, rows in sections.items()
    ]
    since, until = (None if t is None else for_people(t) for t in (found.since, found.until))
    period = f"from {since or 'the first record'} until {until or 'the last record'}"
    logs = counted(found.logs, "log")
    meaning = element("p", f"{period}; {logs}, {found.records:,} records", class_="meaning")
    header = element("header", element("h1", _TITLE), meaning, class_="plain")
    return document(_TITLE, [header, *body])


def _shown(value: object) -> str:
    # Numbers have four decimal places, because shares are less than 1.
    return "" if value is None else str(round(value, 4) if isinstance(value, float) else value)


#: For each format: the function that renders a summary.
RENDERERS = {"json": _json, "csv": _csv, "html": _html, "text": _text}
