"""Limits the time and the length of each HTTP answer that botocore receives.

botocore limits the time of each single read from a socket, but not the time of a whole answer, and
keeps an answer of any length in memory. Without further limits, a store that sends one byte a
minute, or a listing without an end, would stop a scan or fill the memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import HTTPError

from hashclient.objects.interface import CHUNK_BYTES, TIMEOUT_S

#: The longest HTTP answer that is kept in memory, in bytes. The longest valid answer has about 7
#: MB: a page of a listing with 1,000 objects, whose keys have 1,024 bytes each and are escaped.
MAX_ANSWER_BYTES = 32 << 20


class BoundedSession(URLLib3Session):  # type: ignore[misc]
    """The HTTP session of botocore, with a limit for the time and the length of each answer."""

    def send(self, request: Any, **_: Any) -> Any:
        """Send a request; return its answer, whose body was read unless the caller streams it.

        Raises:
            HTTPClientError: the store cannot be reached, or its answer is too slow or too long.
        """
        streams, request.stream_output = request.stream_output, True
        answer = super().send(request)
        answer.raw = _Body(answer.raw)
        if not streams:
            assert answer.content is not None  # the attribute `content` reads the whole body
        return answer


class _Body:
    """The body of an HTTP answer, which must be read within `TIMEOUT_S`."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._ends = time.monotonic() + TIMEOUT_S

    def read(self, amt: int = CHUNK_BYTES) -> Any:
        """Return up to `amt` bytes that have arrived; return no bytes at the end of the body."""
        if time.monotonic() > self._ends:
            raise ReadTimeoutError(endpoint_url="")
        try:
            return self._raw.read1(amt)
        except HTTPError as error:
            raise ConnectionClosedError(endpoint_url="", error=error) from None

    def stream(self) -> Iterator[bytes]:
        """Yield the whole body in chunks.

        A body of more than `MAX_ANSWER_BYTES` is refused, because it would take too much memory.
        """
        count = 0
        while chunk := self.read():
            count += len(chunk)
            if count > MAX_ANSWER_BYTES:
                self._raw.close()
                raise HTTPClientError(error="too long")
            yield chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
