"""Answers to botocore that cannot last or grow for ever.

botocore limits each read of a socket, but not the sum of all, and keeps an answer of any length. A
store that sends one byte a minute, or a listing without end, would hold a scan or fill the memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import HTTPError

from hashclient.objects.interface import CHUNK_BYTES, TIMEOUT_S

#: A page has 1,000 objects at most, whose keys have 1,024 bytes: escaped, some 7 MB.
MAX_ANSWER_BYTES = 32 << 20


class BoundedSession(URLLib3Session):  # type: ignore[misc]
    """Sends requests as botocore does; answers are bounded."""

    def send(self, request: Any, **_: Any) -> Any:
        """Return the answer to a request, with its whole body unless the caller streams the body.

        Raises:
            HTTPClientError: the store cannot be reached, or its answer is too slow or too long.
        """
        streams, request.stream_output = request.stream_output, True
        answer = super().send(request)
        answer.raw = _Body(answer.raw)
        if not streams:
            assert answer.content is not None  # it is read here, and kept
        return answer


class _Body:
    """The body of an answer."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._ends = time.monotonic() + TIMEOUT_S

    def read(self, amt: int = CHUNK_BYTES) -> Any:
        """Return the bytes that have come, up to `amt`; none at the end."""
        if time.monotonic() > self._ends:
            raise ReadTimeoutError(endpoint_url="")
        try:
            return self._raw.read1(amt)
        except HTTPError as error:
            raise ConnectionClosedError(endpoint_url="", error=error) from None

    def stream(self) -> Iterator[bytes]:
        """Yield the whole body, which the caller keeps in memory."""
        count = 0
        while chunk := self.read():
            count += len(chunk)
            if count > MAX_ANSWER_BYTES:
                self._raw.close()
                raise HTTPClientError(error="too long")
            yield chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
