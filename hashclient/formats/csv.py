"""The format for spreadsheets: a header, rows for the entries that were hit, rows about the run.

The dialect is RFC 4180, but lines end in LF, as in all text files of this program. No cell has a
line end or a control character, and no spreadsheet takes a cell for a formula, whatever bytes a
path has. If making a path safe changes it, the column `path_b64` has the bytes of the path. The
last rows are about the run: one row for each reason why the run is not complete, and then a row of
kind `summary`. A table of a run without a row of kind `summary` was cut off.
"""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hashclient.core.kinds import Action, Algorithm
from hashclient.core.model import Handled, Hit, MatchRef
from hashclient.core.verdict import Summary
from hashclient.formats.cells import text_cell, words
from hashclient.formats.conclusion import conclusion
from hashclient.formats.fields import (
    done_word,
    inside_text,
    record_fields,
    remarks,
    rests_on,
    run_text,
)
from hashclient.formats.ready import HitParts, RecordParts
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.formats.registry import Context

#: The columns: first the columns about the file, then about the entry, then about actions, and last
#: the digests.
_RECORD_COLUMNS = ("id", "state", "in_place", "first_seen", "last_seen")
_HIT_COLUMNS = ("list", "entry", "category", "generation", "algorithms", "complete")
COLUMNS = (
    *("kind", "path", "path_b64", "size", "reason"),
    *_RECORD_COLUMNS,
    *_HIT_COLUMNS,
    *(str(action) for action in Action),
    "actions",
    *("container", "evidence", "host"),
)
_NO_RECORD = ("",) * len(_RECORD_COLUMNS)
_NO_HIT = ("",) * len(_HIT_COLUMNS)
#: The empty cells for an outcome without actions.
_NOT_ACTED = ("",) * (len(Action) + 1)
DIGEST_COLUMNS = tuple(a.label for a in Algorithm)


class CsvFormatter:
    """Writes one row for each hit, one row for an outcome without a hit, and rows about the run."""

    def __init__(self, context: Context) -> None:
        """Write the outcomes in the form that `context` requires."""
        self._context = context
        self._digests = tuple(Algorithm) if context.show_digests else ()
        self._columns = COLUMNS + (DIGEST_COLUMNS if context.show_digests else ())
        self._host = text_cell(words(context.host or ""))
        self._line = io.StringIO()
        self._writer = csv.writer(self._line, lineterminator="")
        self._hits = HitParts(_around_entry)
        self._records = RecordParts(_record_cells)

    def begin(self) -> str:
        """Return the row of column names."""
        return self._row(self._columns)

    def outcome(self, handled: Handled) -> str:
        """Return the rows of one outcome."""
        before, after = self._file_cells(handled)
        hits = handled.outcome.hits
        if len(hits) == 1:
            return self._row([*before, *self._hit_cells(hits[0]), *after])
        cells = [self._hit_cells(hit) for hit in hits] or [_NO_HIT]
        return "\n".join(self._row([*before, *row, *after]) for row in cells)

    def end(self, summary: Summary | None) -> str | None:
        """Return the rows about the run."""
        if summary is None:
            return None
        rows = self._run_rows(summary)
        return "\n".join(self._row([row.get(name, "") for name in self._columns]) for row in rows)

    def _run_rows(self, summary: Summary) -> Iterator[dict[str, str]]:
        """Yield the rows about a run, the summary last; their `kind` is not a kind of outcome."""
        for remark in remarks(summary):
            row = {"kind": remark.subject, "reason": remark.text, "list": remark.list_name}
            row |= {"generation": remark.generation, "algorithms": remark.algorithms}
            yield {name: text_cell(words(cell)) for name, cell in row.items()}
        for word, reasons in (("skips", summary.skipped), ("exceptions", summary.excepted)):
            for reason, number in sorted(reasons.items()):
                yield {"kind": word, "reason": text_cell(f"{words(reason)}: {number:,}")}
        for kind, number in sorted(summary.not_opened.items()):
            yield {"kind": "not-opened", "reason": f"{kind}: {number:,}"}
        if (text := run_text(self._context)) is not None:
            took = f"began {for_people(self._context.now)}, took {summary.elapsed_s:.1f} s"
            yield {"kind": "run", "reason": text_cell(f"{text}; {took}")}
        parts = [f"exit {int(summary.exit_code)}: {conclusion(summary)}"]
        parts.append(counted(summary.inputs, "input"))
        parts += filter(None, [rests_on(summary), inside_text(summary)])
        yield {"kind": "summary", "reason": "; ".join(parts)}

    def _file_cells(self, handled: Handled) -> tuple[list[str], list[str]]:
        """Return the cells of a row that come before the cells of the hit, and those after."""
        outcome, record = handled.outcome, handled.record
        place = outcome.place if outcome.members else outcome.path
        path = text_cell(printable(place))
        exact = "" if path == place else base64.b64encode(os.fsencode(place)).decode()
        before = [
            outcome.kind,
            path,
            text_cell(exact),  # base64 text can begin with `+`, like a formula
            "" if outcome.size is None else str(outcome.size),
            "" if outcome.reason is None else text_cell(words(outcome.reason)),
            *(_NO_RECORD if record is None else (record.id, *self._records.of(record))),
        ]
        after = list(_NOT_ACTED)
        if handled.acted:
            done = {acted.action: done_word(acted) for acted in handled.acted}
            after = [done.get(action, "") for action in Action]
            after.append(text_cell(words("; ".join(acted.detail for acted in handled.acted))))
        after.append(text_cell(printable(outcome.path)) if outcome.members else "")
        after.append("" if outcome.evidence is None else text_cell(outcome.evidence))
        after.append(self._host)
        after += [outcome.digests[a].hex() if a in outcome.digests else "" for a in self._digests]
        return before, after

    def _hit_cells(self, hit: Hit) -> tuple[str, ...]:
        before, after = self._hits.of(hit)
        return before, text_cell(hit.entry), *after

    def _row(self, cells: Iterable[str]) -> str:
        self._line.seek(0)
        self._line.truncate()
        self._writer.writerow(cells)
        return self._line.getvalue()


def _record_cells(record: MatchRef) -> tuple[str, ...]:
    """Return the cells for a recorded match, except its id."""
    fields = record_fields(record)
    fields["in_place"] = "yes" if record.in_place else "no"
    return tuple(fields[name] for name in _RECORD_COLUMNS[1:])


def _around_entry(hit: Hit) -> tuple[str, tuple[str, ...]]:
    """Return the cells of a hit that are before its entry, and the cells after its entry."""
    algorithms = " ".join(a.label for a in hit.algorithms)
    complete = "yes" if hit.complete else "no"
    after = (text_cell(hit.category), str(hit.generation), algorithms, complete)
    return text_cell(hit.list_name), after
