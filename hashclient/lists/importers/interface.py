"""The interface of importers: each recognises and reads one kind of file.

`registry` has all importers and chooses one for a file; publishing, lookups and lists of known good
files use `registry`. The code that uses a batch decides what a digest means, and whether the id or
the category of an entry is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.rows import DigestBatch


class Importer(Protocol):
    """Recognises and reads files of one kind.

    Every implementation passes `tests/contract/test_importers.py`.
    """

    @property
    def name(self) -> str:
        """The name of the kind of file, as `FORMATS_HINT` shows it."""

    @property
    def has_columns(self) -> bool:
        """Whether the rows of the file have named columns, which `--where` and `--column` need."""

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a file is of this kind, judged by its first line.

        `head` is the first line that is neither blank nor a comment, without its end and without a
        byte order mark; if this line is very long, at least its first 64 KiB. `reading` may name
        columns of the file.
        """

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches, in memory that does not grow with the size of the file.

        A file without rows yields no batch. A row that cannot be used is passed to `file.skip`.

        Raises:
            UsageError: a line or row is not understood (the message names the line and never quotes
                it), or reading fails.
        """
