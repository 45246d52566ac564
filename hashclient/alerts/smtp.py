"""A mail client that bounds what the server says: smtplib keeps every line of an answer."""

from __future__ import annotations

import smtplib
from typing import BinaryIO

#: The most bytes that a server may say on one connection; some hundred are usual.
MAX_SAID_BYTES = 1 << 18


class _Answers:
    """The bytes of the server, as smtplib reads them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_SAID_BYTES

    def readline(self, most: int) -> bytes:
        line = self._stream.readline(most)
        self._left -= len(line)
        if self._left < 0:
            raise OSError("the server says too much")
        return line

    def close(self) -> None:
        self._stream.close()


class Smtp(smtplib.SMTP):
    """A connection that begins without encryption."""

    def getreply(self) -> tuple[int, bytes]:
        """Read one answer; after STARTTLS, smtplib wants the bytes of another stream."""
        if self.file is None and self.sock is not None:
            self.file = _Answers(self.sock.makefile("rb"))
        return super().getreply()


class SmtpTls(Smtp, smtplib.SMTP_SSL):
    """A connection that is encrypted from the beginning."""
