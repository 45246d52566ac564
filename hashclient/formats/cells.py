"""Makes any text safe for terminals and spreadsheets: without escape sequences and formulas."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

from hashclient.system.text import printable

#: If a cell begins with one of these characters, a spreadsheet takes the cell for a formula (OWASP,
#: "CSV Injection"), in full width as well. Tabs and line ends cannot occur: `printable` has escaped
#: them.
_TRIGGERS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA_CHARS = frozenset(_TRIGGERS.replace("\\", ""))
#: In countries with a decimal comma, spreadsheets split at semicolons, quoted or not: the text
#: after a semicolon begins a cell.
_SEPARATED_FORMULA = f";(?=[\\s\"']*[{_TRIGGERS}])"


def words(text: str) -> str:
    """Return a text for people; if it has unsafe characters for a terminal, escaped.

    For paths use `printable`, which gives different paths different texts.
    """
    return text if text.isprintable() else printable(text)


def text_cell(text: str) -> str:
    """Return a text for people as a cell that every program takes for text."""
    shown = re.sub(_SEPARATED_FORMULA, r"\\x3b", text) if ";" in text else text
    return f"'{shown}" if shown[:1] in _FORMULA_CHARS else shown


def csv_row(values: Iterable[object]) -> str:
    """Return a row of figures, whose texts are cells for text; None is an empty cell."""
    import csv  # few commands write rows

    line = io.StringIO()
    cells = (text_cell(words(value)) if isinstance(value, str) else value for value in values)
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
