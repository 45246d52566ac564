"""Writes an overview of machines: as a table, lines of JSON, CSV, metrics, or an HTML page.

`_COLUMNS` defines the columns of all formats. The HTML page is complete without its script, which
sorts and filters the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import MatchState
from hashclient.fleet.document import StatusDocument
from hashclient.fleet.show import STATES, WELL, Row
from hashclient.formats.cells import csv_row
from hashclient.formats.htmltable import Markup, counts, element, head_of, sortable
from hashclient.formats.htmltable import document as page_of
from hashclient.status.prometheus import Metric, metrics_text
from hashclient.system.text import counted, for_people, for_programs

Cell = str | int | float | datetime | None


def _fresh(document: StatusDocument) -> str:
    fresh = sum(one.state == "fresh" for one in document.lists)
    if fresh:  # if a document has a fresh list, all lists that were left out are fresh
        fresh += document.lists_omitted
    return f"{fresh}/{len(document.lists) + document.lists_omitted + document.providers_unknown}"


def _of_state(state: MatchState) -> Callable[[StatusDocument], Cell]:
    return lambda document: None if document.matches is None else document.matches.get(state, 0)


#: The columns whose values are taken from a document.
_COLUMNS: Mapping[str, Callable[[StatusDocument], Cell]] = {
    "published": lambda document: document.made,
    "version": lambda document: document.version,
    "lists": _fresh,
    "open": lambda document: None if document.matches is None else document.open_matches,
    "held": _of_state(MatchState.HELD),
    "excepted": _of_state(MatchState.EXCEPTED),
    "to_review": lambda document: document.to_review,
    "scanned": lambda document: document.runs["scan"].last if "scan" in document.runs else None,
    "inputs": lambda document: sum(runs.inputs for runs in document.runs.values()),
    "unread": lambda document: sum(runs.unread for runs in document.runs.values()),
    "not_opened": lambda document: sum(document.not_opened.values()),
    "free_bytes": lambda document: document.room.free_bytes,
    "exit_code": lambda document: document.exit_code,
}
#: The position in `STATES` of the last state in which the document of a machine is not trusted.
_LAST_BAD = STATES.index("unknown")
#: The columns of the table for people.
_SHOWN = ("published", "version", "lists", "open", "scanned")


def _cells(row: Row, names: Sequence[str]) -> list[Cell]:
    document = row.document
    return [None if document is None else _COLUMNS[name](document) for name in names]


def _machines(rows: Sequence[Row]) -> int:
    """Return the number of pinned machines.

    Twins have the same name, so they count once.
    """
    return len({row.name for row in rows if _is_pinned(row)})


def _is_pinned(row: Row) -> bool:
    """Return whether a row is of a pinned machine, so that nobody else has chosen its name."""
    return row.state not in ("failed", "forged", "unknown")


def headline(rows: Sequence[Row]) -> str:
    """Return a sentence with the number of machines, and the number of documents in each state."""
    numbers = Counter(row.state for row in rows)
    states = [f"{numbers[state]:,} {state}" for state in STATES if numbers[state]]
    if numbers["failed"]:
        return "nothing is known of any machine"
    return f"{counted(_machines(rows), 'machine')}: {', '.join(states) or 'none'}"


def table_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Return a table for people as lists of cells, the head first."""
    head = ["MACHINE", "STATE", *(name.upper() for name in _SHOWN), ""]
    return [head, *([row.name, row.state, *_texts(row), row.notes] for row in rows)]


def _texts(row: Row) -> list[str]:
    cells = _cells(row, _SHOWN)
    return [
        for_people(c) if isinstance(c, datetime) else str("" if c is None else c) for c in cells
    ]


def json_rows(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    """Yield an object for each machine, which contains the machine's published document."""
    for row in rows:
        findings = [{"word": f.word, "text": f.text, "exit_code": f.code} for f in row.findings]
        document = msgspec.to_builtins(row.document)
        about = {"machine": row.name, "state": row.state, "file": row.file, "key": row.key}
        yield {**about, "findings": findings, "document": document}


def csv_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a CSV file."""
    yield csv_row(["machine", "state", *_COLUMNS, "notes", "file"])
    for row in rows:
        cells = _cells(row, list(_COLUMNS))
        plain = [for_programs(c) if isinstance(c, datetime) else c for c in cells]
        yield csv_row([row.name, row.state, *plain, row.notes, row.file])


def metrics(rows: Sequence[Row]) -> str:
    """Return metrics: the number of machines in each state, and some figures of each machine."""
    numbers = Counter(row.state for row in rows)
    states: dict[tuple[str, ...], float] = {(state,): numbers[state] for state in STATES}
    of_each: dict[tuple[str, ...], float] = {
        (row.name, finding.word): 1 for row in rows if _is_pinned(row) for finding in row.findings
    }
    found = [
        Metric("fleet_machines", "Machines, by their worst finding.", ("state",), states),
        Metric(
            "fleet_finding",
            "1 for each finding about a pinned machine.",
            ("machine", "finding"),
            of_each,
        ),
    ]
    for name in ("published", "open", "held", "scanned", "unread", "free_bytes", "exit_code"):
        values: dict[tuple[str, ...], float] = {}
        for row in rows:
            (cell,) = _cells(row, [name])
            if isinstance(cell, datetime):
                values[row.name,] = cell.timestamp()
            elif isinstance(cell, int):
                values[row.name,] = cell
        unit = "_timestamp_seconds" if name in ("published", "scanned") else ""
        what = f"`{name}` of the last document of a machine."
        found.append(Metric(f"fleet_{name}{unit}", what, ("machine",), values))
    return metrics_text(found)


def page(rows: Sequence[Row], code: ExitCode, now: datetime) -> str:
    """Return an HTML page that needs no other file."""
    numbers = Counter(row.state for row in rows)
    is_match = code in (ExitCode.MATCH, ExitCode.MATCH_ATTENTION)
    tone = "bad" if is_match or numbers["failed"] else "warn" if code else "good"
    title = f"{numbers[WELL]:,} of {counted(_machines(rows), 'machine')} well"
    if numbers["failed"]:
        title = "The machines could not be looked at"
    when = element("time", for_people(now), datetime=for_programs(now))
    header = element(
        "header",
        element("p", "hashclient fleet show, ", when, class_="about"),
        element("h1", title),
        element("p", f"{headline(rows)}. Exit code {int(code)}.", class_="meaning"),
        class_=tone,
    )
    by_state = {state: numbers[state] for state in STATES if numbers[state] or state == WELL}
    head = head_of("State", "Machine", "Open", "Published", "Fresh lists", numeric={"Open"})
    content = (
        element("h2", "Machines", id="files"),
        sortable(head, map(_html_row, rows), {"state": numbers}),
    )
    sections = [
        element("section", element("h2", "By state"), counts(by_state)),
        element("section", *content, class_="files"),
    ]
    return page_of(title, [header, element("main", *sections)], "page.js")


def _html_row(row: Row) -> Markup:
    published, version, lists, number, scanned = _texts(row)
    rank = STATES.index(row.state)
    is_bad = row.state == "match" or rank <= _LAST_BAD
    tone = "good" if row.state == WELL else "bad" if is_bad else "warn"
    state = element("data", row.state, value=str(rank), class_=f"tag {tone}")
    notes = [element("div", finding.text, class_="note") for finding in row.findings]
    times = [element("div", published)] if published else []
    if scanned:
        times.append(element("div", f"scanned {scanned}", class_="note"))
    about = [element("div", lists)] if lists else []
    if version:
        about.append(element("div", f"hashclient {version}", class_="note"))
    return element(
        "tr",
        element("td", state),
        element("td", element("bdi", row.name, class_="path"), *notes),
        element("td", number, class_="num", data_label="open"),
        element("td", *times, data_label="published"),
        element("td", *about, data_label="fresh lists"),
        data_state=row.state,
    )
