"""Makes any text safe for terminals and spreadsheets: no escape sequence and no formula is left."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

from hashclient.system.text import printable

#: The characters that begin a formula in a spreadsheet (OWASP, "CSV Injection"), and their
#: full-width forms. Tabs and line ends cannot occur in a cell, because `printable` has escaped
#: them.
_TRIGGERS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA_CHARS = frozenset(_TRIGGERS.replace("\\", ""))
#: A pattern for a semicolon before a formula: in countries with a decimal comma, spreadsheets split
#: a line at semicolons, quoted or not, and the text after a semicolon begins a cell.
_SEPARATED_FORMULA = f";(?=[\\s\"']*[{_TRIGGERS}])"


def words(text: str) -> str:
    """Return a text for people, in which characters that are unsafe on a terminal are escaped.

    For paths, use `printable` instead of `words`, because `printable` returns different texts for
    different paths.
    """
    return text if text.isprintable() else printable(text)


def text_cell(text: str) -> str:
    """Return a text for people as a cell that no program takes for a formula."""
    shown = re.sub(_SEPARATED_FORMULA, r"\\x3b", text) if ";" in text else text
    return f"'{shown}" if shown[:1] in _FORMULA_CHARS else shown


def csv_row(values: Iterable[object]) -> str:
    """Return values as a row of CSV; texts are safe as cells, and None is an empty cell."""
    import csv  # the import is in this function because few commands write rows of CSV

    line = io.StringIO()
    cells = (text_cell(words(value)) if isinstance(value, str) else value for value in values)
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
