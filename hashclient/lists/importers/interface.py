"""The interface of importers: each recognises a kind of file by its beginning, and reads it.

`registry` has all importers and picks the right importer; publishing, lookups and lists of known
good files use the registry. The callers decide what a digest means, and whether an entry's id or
category is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.rows import DigestBatch


class Importer(Protocol):
    """Reads files of one kind. Every implementation passes `tests/contract/test_importers.py`."""

    @property
    def name(self) -> str:
        """The name of the kind of file, as in `FORMATS_HINT`."""

    @property
    def has_columns(self) -> bool:
        """Whether rows have named columns, which `--where` and `--column` need."""

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a file is of this kind, by its first line.

        `head` is the first line that is neither blank nor a comment, without its end and without a
        byte order mark; if this line is very long, at least its first 64 KiB. `reading` may name
        columns.
        """

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches, in memory that does not grow with it.

        A file without rows gives no batch. A row that cannot be used goes to `file.skip`.

        Raises:
            UsageError: a line or row is not understood (the message names it and never quotes it),
                or reading fails.
        """
