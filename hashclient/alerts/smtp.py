"""A mail client that limits what a server may send, because smtplib stores whole answers."""

from __future__ import annotations

import smtplib
from typing import BinaryIO

#: The largest number of bytes that a server may send on one connection; a server usually sends some
#: hundred bytes.
MAX_SAID_BYTES = 1 << 18


class _Answers:
    """The bytes from the server, in the form in which smtplib reads them."""

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
    """A connection to a mail server that begins without encryption."""

    def getreply(self) -> tuple[int, bytes]:
        """Read one answer; after STARTTLS, smtplib has to read from a new stream."""
        if self.file is None and self.sock is not None:
            self.file = _Answers(self.sock.makefile("rb"))
        return super().getreply()


class SmtpTls(Smtp, smtplib.SMTP_SSL):
    """A connection to a mail server that is encrypted from the beginning."""
