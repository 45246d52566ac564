"""JSON with one object on each line (JSONL); the keys of the objects are the columns.

The objects of a file may have different keys. A key `baseline` may say which rows should be used,
like the column Baseline of a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from hashclient.lists.importers.importfile import COLUMNS, OTHER_HASHES, ImportFile, Reading
from hashclient.lists.importers.lines import chunks_of_lines, lines_of
from hashclient.lists.importers.rows import (
    CHOOSERS,
    LIKENESSES,
    OTHER_NAMES,
    DigestBatch,
    ask_which,
    no_column,
)
from hashclient.lists.importers.table import batch_of, text_of
from hashclient.system.strictjson import parse_json

_FIRST = re.compile(rb'\{\s*(?:"(?!@?odata\.)|\})')


class JsonLines:
    """Reads one object from each line; upper and lower case are equal in keys."""

    name = "JSONL"
    has_columns = True

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a first line begins like an object of JSON."""
        return _FIRST.match(head) is not None

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`."""
        records = _Records(file)
        for first, chunk in chunks_of_lines(file):
            for line, content in lines_of(first, chunk, file):
                records.add(line, content)
            if (batch := records.batch()).count:
                yield batch
        records.check()


class _Records:
    """Collects objects until they are taken as a batch."""

    def __init__(self, file: ImportFile) -> None:
        self._file, reading = file, file.reading
        given = {theirs.lower(): ours for ours, theirs in reading.columns.items()}
        ours = {**{name: name for name in COLUMNS}, **OTHER_NAMES}
        self._ours = {k: v for k, v in ours.items() if v not in reading.columns} | given
        asked = () if reading.where is None else reading.where.columns()
        self._keys = dict.fromkeys([*self._ours, *asked])
        #: Keys that `reading` names and that no object has had so far.
        self._unseen = {*given, *asked}
        self._lines: list[int] = []
        self._columns: dict[str, list[str | None]] = {key: [] for key in self._keys}
        self._any = False

    def add(self, line: int, content: bytes) -> None:
        """Add the object on a line, or count the line as unusable."""
        try:
            given = parse_json(content)
        except ValueError:
            self._file.skip(line, "not an object of JSON that means one thing to every parser")
            return
        if not isinstance(given, dict):
            self._file.skip(line, "not an object of JSON")
            return
        record: dict[str, Any] = {key.lower(): value for key, value in given.items()}
        if len(record) != len(given):
            self._file.skip(line, "keys that differ in case alone")
            return
        self._ask(record)
        try:
            cells = {key: text_of(record.get(key)) for key in self._keys}
        except ValueError:
            self._file.skip(line, "a value that is neither text nor a number")
            return
        names = [self._ours[key] for key, cell in cells.items() if cell and key in self._ours]
        if len(set(names)) != len(names):
            self._file.skip(line, "two keys that mean the same")
            return
        self._any = True
        self._unseen -= record.keys()
        self._lines.append(line)
        for key, cell in cells.items():
            self._columns[key].append(cell)

    def batch(self) -> DigestBatch:
        """Return the rows that were added since the last call, possibly none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = {key: pa.array(cells, pa.string()) for key, cells in self._columns.items()}
        cells: dict[str, pa.Array] = {}
        for key, ours in self._ours.items():
            column = columns[key]
            cells[ours] = pc.coalesce(cells[ours], column) if ours in cells else column
        lines = np.array(self._lines, np.int64)
        self._lines, self._columns = [], {key: [] for key in self._keys}
        used = {ours: c for ours, c in cells.items() if c.null_count < len(c)}
        return batch_of(used, lines, self._file, columns.__getitem__)

    def check(self) -> None:
        """Refuse a file if no object has a key that `reading` names."""
        if self._any and self._unseen:
            raise no_column(min(self._unseen), (), self._file)

    def _ask(self, record: dict[str, Any]) -> None:
        reading = self._file.reading
        if reading.where is None and not reading.all_rows:
            for name in CHOOSERS:
                if name in record:
                    raise ask_which(name, self._file)
        if any(name in record for name in LIKENESSES):
            reading.remarks.note(OTHER_HASHES)
