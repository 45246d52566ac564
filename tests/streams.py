"""Streams that a reader of files of digests must withstand."""

from __future__ import annotations

import io

from hashclient.lists.importers import importfile


class Endless(io.RawIOBase):
    """A stream that repeats some bytes for ever; a test that reads too much of it fails."""

    def __init__(self, start: bytes, again: bytes) -> None:
        """Begin with `start`, and then repeat the bytes."""
        self._rest = start
        self._again = again
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        assert 0 < size <= importfile.CHUNK_BYTES
        self.given += size
        assert self.given < 8 * importfile.CHUNK_BYTES, "read on and on"
        data = (self._rest + self._again * size)[:size]
        self._rest = self._rest[size:]
        return data
