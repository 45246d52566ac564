"""The format for spreadsheets: a header, a row for each entry that an input hit, rows on the run.

The dialect is RFC 4180's, but lines end in LF as in every text file here. No cell holds a line end
or a control character, and none is taken for a formula by a spreadsheet, whatever a path holds:
where a path had to be changed for that, `path_b64` has its bytes. The last rows tell of the run:
one for each thing that keeps it from being whole, then one of kind `summary`. A table of a run
without that row was cut off.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from hashclient.core.algorithms import Algorithm
from hashclient.core.kinds import Action
from hashclient.core.model import Handled, Hit
from hashclient.core.verdict import Summary
from hashclient.formats.conclusion import conclusion
from hashclient.formats.fields import (
    done_word,
    failure_text,
    gap_text,
    inside_text,
    interrupted_text,
    missing_text,
    plural,
    record_fields,
    rests_on,
    run_text,
    words,
)
from hashclient.system.text import printable
from hashclient.system.times import for_people

if TYPE_CHECKING:
    from hashclient.formats.interface import Context

#: What a row says of the file, then of the entry, then of what was done; digests come last.
COLUMNS = (
    *("kind", "path", "path_b64", "size", "reason"),
    *("id", "state", "in_place", "first_seen", "last_seen"),
    *("list", "entry", "category", "generation", "algorithms", "complete"),
    *(str(action) for action in Action),
    "actions",
    "container",
)
DIGEST_COLUMNS = tuple(a.label for a in Algorithm)

#: A cell that begins with one of these is a formula to a spreadsheet (OWASP, "CSV Injection"), in
#: full width as well. Tabs and line ends are never there: `printable` has escaped them.
_TRIGGERS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA = re.compile(f"[{_TRIGGERS}]")
#: Where the decimal sign is a comma, spreadsheets split at semicolons, quoted or not: what follows
#: one begins a cell.
_SEPARATED_FORMULA = re.compile(f";(?=[\\s\"']*[{_TRIGGERS}])")


class CsvFormatter:
    """Writes one row a hit, one for an outcome without any, and the run last."""

    def __init__(self, context: Context) -> None:
        """Write what `context` asks for."""
        self._context = context
        self._columns = COLUMNS + (DIGEST_COLUMNS if context.show_digests else ())

    def begin(self) -> str:
        """Return the header."""
        return _row(self._columns)

    def outcome(self, handled: Handled) -> str:
        """Return the rows of one outcome."""
        file = _file_cells(handled)
        rows = [{**file, **_hit_cells(hit)} for hit in handled.outcome.hits] or [file]
        return self._rows(rows)

    def end(self, summary: Summary | None) -> str | None:
        """Return the rows that tell of the run."""
        return None if summary is None else self._rows(self._run_rows(summary))

    def _run_rows(self, summary: Summary) -> Iterator[dict[str, str]]:
        """Yield what is to be said of a run, its end last; `kind` is none that an input has."""
        for missing in summary.missing:
            row = {"kind": "missing", "reason": missing_text(missing), "list": missing.name or ""}
            yield {name: text_cell(words(cell)) for name, cell in row.items()}
        for state in summary.lists:
            if not state.fresh:
                grace = ", in its grace period" if state.in_grace else ""
                reason = f"list {state.name} expired {for_people(state.expires)}{grace}"
                row = {"kind": "stale", "reason": reason, "list": text_cell(state.name)}
                yield row | {"generation": str(state.generation)}
        for gap in summary.gaps:
            reason = text_cell(gap_text(gap, accepted=summary.gaps_accepted))
            labels = " ".join(a.label for a in gap.algorithms)
            row = {"kind": "gap", "reason": reason, "list": text_cell(gap.list_name)}
            yield row | {"algorithms": labels}
        if (text := interrupted_text(summary)) is not None:
            yield {"kind": "interrupted", "reason": text}
        if (text := failure_text(summary)) is not None:
            yield {"kind": "failed", "reason": text_cell(words(text))}
        for skipped, number in sorted(summary.skipped.items()):
            yield {"kind": "skips", "reason": text_cell(f"{words(skipped)}: {number:,}")}
        if (text := run_text(self._context)) is not None:
            took = f"began {for_people(self._context.now)}, took {summary.elapsed_s:.1f} s"
            yield {"kind": "run", "reason": text_cell(f"{text}; {took}")}
        parts = [f"exit {int(summary.exit_code)}: {conclusion(summary)}"]
        parts.append(plural(summary.inputs, "input"))
        parts += filter(None, [rests_on(summary), inside_text(summary)])
        yield {"kind": "summary", "reason": "; ".join(parts)}

    def _rows(self, rows: Iterable[Mapping[str, str]]) -> str:
        return "\n".join(_row([row.get(name, "") for name in self._columns]) for row in rows)


def text_cell(text: str) -> str:
    """Return a text for people as a cell that is text wherever it is opened."""
    shown = _SEPARATED_FORMULA.sub(r"\\x3b", text)
    return f"'{shown}" if _FORMULA.match(shown) else shown


def _file_cells(handled: Handled) -> dict[str, str]:
    outcome, record = handled.outcome, handled.record
    path = text_cell(printable(outcome.place))
    exact = "" if path == outcome.place else base64.b64encode(os.fsencode(outcome.place)).decode()
    cells = {
        "kind": str(outcome.kind),
        "path": path,
        "path_b64": text_cell(exact),  # it can begin with a plus
        "size": "" if outcome.size is None else str(outcome.size),
        "reason": text_cell(words(outcome.reason or "")),
        "container": text_cell(printable(outcome.path)) if outcome.members else "",
        **{str(acted.action): done_word(acted) for acted in handled.acted},
        "actions": text_cell(words("; ".join(acted.detail for acted in handled.acted))),
    }
    if record is not None:
        cells.update(record_fields(record))
        cells["in_place"] = "yes" if record.in_place else "no"
    return cells | {a.label: digest.hex() for a, digest in outcome.digests.items()}


def _hit_cells(hit: Hit) -> dict[str, str]:
    return {
        "list": text_cell(hit.list_name),
        "entry": text_cell(hit.entry),
        "category": text_cell(hit.category),
        "generation": str(hit.generation),
        "algorithms": " ".join(a.label for a in hit.algorithms),
        "complete": "yes" if hit.complete else "no",
    }


def _row(cells: list[str] | tuple[str, ...]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
