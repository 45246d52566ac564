"""Objects that are clean by the digests of their store, and wait for the end of the run.

If the content of one object contradicts the digest of the store, all waiting objects are unread.
Millions of objects may wait, so they are written to a file without a name, and only their number is
kept in memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from hashclient.core.errors import StateError
from hashclient.objects.pages import SCHEMA, page_of
from hashclient.scan.check.kept import Spool
from hashclient.scan.objects.sorting import objects_of
from hashclient.scan.objects.wanted import Wanted
from hashclient.scan.values.work import reason_of

#: The number of single objects that are written to the file together.
TOGETHER = 1_000


class Pending:
    """The objects of one bucket that wait for the end of the run."""

    def __init__(self, spool: Spool) -> None:
        """Keep objects in a file in the directory of `spool`; the first object creates the file."""
        self._spool = spool
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._few: list[Wanted] = []
        self._written = 0

    @property
    def count(self) -> int:
        """The number of waiting objects."""
        return self._written + len(self._few)

    def add_page(self, page: Any) -> None:
        """Add all objects of a page.

        Raises:
            StateError: no space is left for the file.
        """
        try:
            if self._file is None:
                self._file = os.fdopen(self._spool.open(), "w+b")
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_stream(self._file, SCHEMA, options=options)
            self._writer.write_batch(page)
        except OSError as error:
            raise StateError(
                f"cannot keep the waiting objects: {reason_of(error)}",
                hint="make room in the state directory, or scan with trust_etag off",
            ) from error
        self._written += page.num_rows

    def add(self, wanted: Wanted) -> None:
        """Add one object.

        Raises:
            StateError: no space is left in the file.
        """
        self._few.append(wanted)
        if len(self._few) >= TOGETHER:
            self._write_few()

    def _write_few(self) -> None:
        rows = [(w.key, w.size, w.etag, w.version) for w in self._few]
        self._few.clear()
        if rows:
            self.add_page(page_of(rows))

    def take(self) -> Iterator[Wanted]:
        """Yield all waiting objects, and forget them.

        Raises:
            StateError: the objects cannot be read back.
        """
        self._write_few()
        if self._file is None:
            return
        try:
            self._writer.close()
            self._file.seek(0)
            with pa.ipc.open_stream(self._file) as stream:
                for page in stream:
                    yield from objects_of(page, np.arange(page.num_rows))
        except (OSError, pa.ArrowException) as error:
            raise StateError(
                "the waiting objects cannot be read back", hint="scan them again"
            ) from error
        finally:
            self.close()

    def close(self) -> None:
        """Forget all waiting objects, and close the file."""
        if self._file is not None:
            # the disk is full, and the rest of the file is not needed
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = self._writer = None
        self._few.clear()
        self._written = 0
