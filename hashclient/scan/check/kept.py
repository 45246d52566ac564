"""Streams that may be containers: kept while they come, and read again when they have ended.

Only the beginning and the end of a stream say whether it may be a container. One whose beginning
does not is not kept, and costs the few bytes of its end.
"""

from __future__ import annotations

import os

from hashclient.containers.interface import ISO_HEAD_BYTES
from hashclient.containers.sniffing import (
    ends_as_container,
    ends_as_other,
    has_end_of_zip,
    is_front,
    is_opened,
    kind_by_end,
    look,
    not_opened,
    tail_bytes,
)
from hashclient.scan.values.reasons import reason_of

#: Why the members of a stream that was not kept are unknown.
BEHIND = "limit: only the end of the stream shows that it is an archive; scan it as a file"


def may_be_container(data: bytes | memoryview) -> bool:
    """Return whether content may be a container, or of a kind that is not opened.

    It is no longer than this.
    """
    size = len(data)
    head = end = bytes(data[:ISO_HEAD_BYTES])
    if size > ISO_HEAD_BYTES:
        end = bytes(data[-tail_bytes(size, is_front=False) :])
    return bool(look(head)) or ends_as_container(end, len(end), size)


class Kept:
    """A stream that may be a container, kept in memory to be read again; others are not kept."""

    def __init__(self, most_bytes: int) -> None:
        """Keep `most_bytes` at most."""
        self._most_bytes = most_bytes
        self._fd: int | None = None
        self._head: bytearray | None = bytearray()
        self._end = bytearray()
        self.length = 0
        #: Why the stream could not be kept, if that is so.
        self.failure: str | None = None
        #: The kind of a stream that is not opened; empty for others.
        self.not_opened = ""

    def update(self, chunk: memoryview) -> None:
        """Take the next bytes."""
        self.length += len(chunk)
        if self._head is not None:
            self._head += chunk
            if len(self._head) < ISO_HEAD_BYTES:
                return
            chunk = self._decide()
        if self._fd is not None:
            self._write(chunk)
        else:
            self._keep_end(chunk)

    def finish(self, content: bytearray | None = None) -> int | None:
        """Return a descriptor of the whole stream; None if it is no container.

        Of a stream that was not kept, only the end is known. If that is the end of an archive, the
        stream is opened if somebody else has its `content`; otherwise, this is a `failure`.
        """
        if self._head is not None:
            chunk = self._decide(is_all=True)
            if self._fd is not None:
                self._write(chunk)
        elif self._fd is None and self.failure is None and self._has_end():
            if content is None:
                self.failure = BEHIND
            else:
                self._begin()
                self._write(memoryview(content))
        elif self._fd is None:
            self.not_opened = self.not_opened or kind_by_end(self._end)
        return self._fd

    def close(self) -> None:
        """Drop the bytes that were kept."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _decide(self, *, is_all: bool = False) -> memoryview:
        """Look at the first bytes, and begin to keep what may be a container; return them."""
        head = bytes(self._head or b"")
        self._head = None
        view = memoryview(head)
        if is_all:
            if may_be_container(head):
                self._begin()
            return view
        found = look(head)
        if is_opened(found) or is_front(found):
            self._begin()
        else:
            self.not_opened = not_opened(found)
            self._keep_end(view)
        return view

    def _begin(self) -> None:
        try:
            self._fd = os.memfd_create("hashclient")
        except OSError as error:
            self.failure = reason_of(error)

    def _keep_end(self, chunk: memoryview) -> None:
        """Keep the last bytes, as many as may hold the end of an archive."""
        most = tail_bytes(self.length, is_front=False)
        if len(chunk) >= most:
            self._end[:] = chunk[-most:]
            return
        self._end += chunk
        if len(self._end) > 2 * most:
            del self._end[:-most]

    def _has_end(self) -> bool:
        end = bytes(self._end[-tail_bytes(self.length, is_front=False) :])
        return has_end_of_zip(end) or ends_as_other(end)

    def _write(self, chunk: memoryview) -> None:
        if self.length > self._most_bytes:
            self.failure = f"limit: more than {self._most_bytes >> 20} MiB of a stream"
            self.close()
            return
        try:
            while chunk and self._fd is not None:
                chunk = chunk[os.write(self._fd, chunk) :]
        except OSError as error:
            self.failure = reason_of(error)
            self.close()
