"""`matches stats`: counts matches and the results of reviews, and measures times of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, format_option, pass_app, shortened
from hashclient.cli.options import TIME
from hashclient.cli.output import facts, table
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.core.figures import Spread
    from hashclient.matches.stats import Line


@click.command("stats")
@click.option("--from", "start", type=TIME, metavar="TIME", help="Found at TIME or later, in UTC.")
@click.option("--to", "end", type=TIME, metavar="TIME", help="Found before TIME, in UTC.")
@format_option("text", "json", "csv")
@pass_app
def stats(app: App, start: datetime | None, end: datetime | None, output_format: str) -> None:
    """Count matches: by list, by category and by entry, and how long each step took.

    A match counts at the time when it was first found. The precision is the share of the reviewed
    matches that were confirmed, with its 95 % interval.

    \b
      hashclient matches stats --from 2026-01-01 --to 2027-01-01
      hashclient matches stats --format csv > figures.csv
    """
    from hashclient.matches.stats import Statistics, fields

    people = app.settings.config.report.people
    with Statistics(app.settings.state_dir, create=False) as record:
        lines = record.lines(people, start, end)
    if output_format == "csv":
        from hashclient.formats.cells import csv_row

        rows = [fields(line) for line in lines]
        app.out("\n".join([csv_row(rows[0]), *(csv_row(row.values()) for row in rows)]))
        return
    document = {"from": start, "to": end, "lines": [fields(line) for line in lines]}
    app.show(output_format, document, _text(lines), indent=2)


def _text(lines: Sequence[Line]) -> Iterator[str]:
    from hashclient.matches.stats import COUNTS

    heads = ["LIST", "CATEGORY", "ENTRY", *(name.upper() for name in COUNTS), "PRECISION (95 %)"]
    rows = [
        [
            *(printable(of or "-") for of in line.about),
            *(f"{getattr(line, name):,}" for name in COUNTS),
            _precision(line),
        ]
        for line in lines
    ]
    head, total, *rest = table([heads, *rows])
    yield from (head, total)
    yield from shortened(rest, "`--format csv`")
    yield "after the first finding, median and 95th percentile"
    yield from facts((name, _time(time)) for name, time in lines[0].times.items())


def _precision(line: Line) -> str:
    found = line.precision
    if found is None:
        return "-"
    return f"{found.share:.1%} ({found.low:.1%} to {found.high:.1%})"


def _time(time: Spread) -> str:
    if time.median_s is None or time.p95_s is None:
        return "never"
    return f"{time.median_s:,.0f} s, {time.p95_s:,.0f} s"
