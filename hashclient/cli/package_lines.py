"""Renders verified packages as a table for people, as CSV, or as JSON lines.

This module does not use click, because it is a part of `hashclient-verify`, the one-file program
for recipients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hashclient.cli.output import facts, json_text, table
from hashclient.formats.cells import csv_row, words
from hashclient.packages.answer import Answer, requests_of
from hashclient.packages.index import COLUMNS, Checked, rows
from hashclient.packages.verify import VerifiedNote
from hashclient.system.text import for_people, printable

FORMATS = ("table", "csv", "jsonl")
_HEADINGS = ("report", "match", "entry", "category", "evidence", "path", "also in")


def package_lines(
    checked: Sequence[Checked], output_format: str, *, compared: bool = False
) -> Iterator[str]:
    """Yield lines about verified packages; `compared` says whether the user gave the public key.

    The table for people omits files that do not verify, because a message reports each of these
    files.
    """
    found = rows(checked, public_key_compared=compared)
    if output_format != "table":
        yield from row_lines(found, COLUMNS, output_format)
    else:
        for one in checked:
            if one.error is None:
                yield from _block(one)
        matches = [_cells(row) for row in found if "path" in row]
        if matches:
            yield from ("", *table([_HEADINGS, *matches]))


def row_lines(
    found: Iterable[dict[str, Any]], columns: Sequence[str], output_format: str
) -> Iterator[str]:
    """Yield rows as CSV with a header line, or as JSON lines."""
    if output_format == "jsonl":
        yield from map(json_text, found)
        return
    yield csv_row(columns)
    for row in found:
        path = printable(row["path"]) if "path" in row else None
        yield csv_row((row | {"path": path}).get(column) for column in columns)


def _block(one: Checked) -> Iterator[str]:
    if isinstance(one.found, VerifiedNote):
        record = one.found.record
        destroyed = " ".join(one.found.matches)
        yield f"the note of {'destruction' if destroyed else 'retraction'} verifies"
        pairs: dict[str, Any] = {
            "file": one.path,
            "report" if destroyed else "retracted": one.found.report_id,
            "destroyed": destroyed,
            "time": for_people(record.time),
            "reason": record.data.get("reason"),
            "public key": one.found.public_key,
        }
    elif isinstance(one.found, Answer):
        answer = one.found
        asked = requests_of(answer)
        yield "the answer verifies"
        pairs = {
            "file": one.path,
            "report": answer.report,
            "body": answer.body,
            "time": for_people(answer.time),
            "reference": answer.reference,
            "accepted": " ".join(answer.accepted),
            "refused": " ".join(answer.refused),
            "asks": "; ".join(f"{i}: {', '.join(words)}" for i, words in asked.items() if words),
            "reporter's key": answer.public_key,
            "key": answer.key,
        }
    else:
        assert one.found is not None
        document, custody = one.found.document, one.found.custody
        yield "the package verifies"
        pairs = {
            "file": one.path,
            "report": document.report,
            "created": for_people(document.created),
            "organisation": document.reporter.organisation,
            "machine": document.reporter.machine,
            "contact": document.reporter.contact,
            "matches": len(document.matches),
            "evidence": one.found.evidence,
            "packaged": for_people(custody.last.time),
            "custody records": custody.records,
            "public key": one.found.public_key,
        }
    shown = (
        (name, None if value is None else printable(str(value))) for name, value in pairs.items()
    )
    yield from facts(shown, 16)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    entry = f"{row['list']}/{row['entry']}" if "entry" in row else ""
    return (
        row["report"],
        row["match"],
        words(entry),
        words(row.get("category", "")),
        row["evidence"],
        printable(row["path"]),
        row.get("also_in", ""),
    )
