"""A file that is imported: its first line, all its bytes, and errors that name a line.

The beginning decides which importer reads the file, and a pipe cannot be read twice, so the file
keeps the bytes that it has read. A file that ends before its size is refused: the cut may be
between two lines, so that no line shows it.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Iterator
from typing import BinaryIO

from hashclient.errors import UsageError
from hashclient.lists.importers.reading import Reading
from hashclient.system.text import printable

#: Bytes read at a time: 32k rows of the shortest digest, and the memory that a batch takes.
CHUNK_BYTES = 1 << 20
#: Blank lines and comments in front of the first row take less.
HEAD_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 10

FORMATS_HINT = (
    "accepted are: one digest (MD5, SHA-1 or SHA-256 in hex) a line; md5sum, sha1sum or sha256sum"
    " output; hashdeep output; CSV or TSV with a header of entry_id, md5, sha1, sha256, size,"
    " category, added, or with --column; ICSE exports; NSRLFile.txt; JSONL; ClamAV signatures"
    " (.hdb, .hsb); these in UTF-8, with lines that end in LF, CRLF or CR; VICS (Project VIC, CAID)"
    " JSON; NCMEC hash sharing XML; all these also in gzip or zstd; Parquet; and the NSRL database"
    " (RDSv3)"
)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIRST_LINE = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:[ \t\x0b\x0c]*+(?:#[^\r\n]*+)?[\r\n])*+(?P<line>[^\r\n]*+)"
)


class ImportFile:
    """A file that is imported, from the present position of its stream.

    `reading` has the user's choices.
    """

    def __init__(self, stream: BinaryIO, name: str, reading: Reading | None = None) -> None:
        """Import `stream`; messages call it `name`."""
        self.stream = stream
        self.name = printable(name)
        self.reading = Reading() if reading is None else reading
        self._missing = _bytes_ahead(stream)
        self._begun = b""
        self._ended = False

    def head(self) -> bytes:
        """Return the first line that is neither blank nor a comment, without its end.

        A line that is too long is cut; b"" if there is no such line in the first `HEAD_BYTES`.

        Raises:
            UsageError: reading fails.
        """
        while True:
            found = _FIRST_LINE.match(self._begun + b"\n" if self._ended else self._begun)
            assert found is not None  # it matches anything
            line: bytes = found["line"]
            is_whole = self._ended or found.end() < len(self._begun)
            if is_whole or len(line) > MAX_LINE_BYTES or len(self._begun) >= HEAD_BYTES:
                return line
            self._begun += self._read()

    def beginning(self, count: int) -> bytes:
        """Return the first `count` bytes, fewer if the file has no more.

        Raises:
            UsageError: reading fails.
        """
        while len(self._begun) < count and (block := self._read()):
            self._begun += block
        return self._begun[:count]

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the file, at least one at a time; called once.

        Raises:
            UsageError: reading fails, or the file ends before its size.
        """
        begun, self._begun = self._begun, b""
        if begun:
            yield begun
        while block := self._read():
            yield block
        if self._missing > 0:
            raise UsageError(
                f"{self.name} ended {self._missing:,} bytes before its size",
                hint="something has cut it short while it was read; ask again when it is whole",
            )

    def bad(self, line: int, what: str) -> UsageError:
        """Return the error for a line: `what` is wrong with it, without its text."""
        return UsageError(f"{self.name}:{line}: {what}", hint=FORMATS_HINT)

    def skip(self, line: int, what: str) -> None:
        """Count a row that cannot be used: `what` is wrong with it, without its text.

        Raises:
            UsageError: there are more such rows than allowed.
        """
        try:
            self.reading.skip(f"{self.name}:{line}", what)
        except UsageError as error:
            raise UsageError(error.message, hint=error.hint or FORMATS_HINT) from None

    def choose_rows(self, which: str, example: str) -> UsageError:
        """Return the error for a file that does not say by itself which rows are meant."""
        return UsageError(
            f"{self.name}: {which}: which rows are meant?",
            hint=f"say so with --where, such as '{example}', or `all`",
        )

    def descriptor(self, what: str) -> int:
        """Return the descriptor of a regular file, for random access.

        Raises:
            UsageError: it is not a regular file; `what` names its content.
        """
        try:
            descriptor = self.stream.fileno()
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
        except OSError as error:
            raise UsageError(
                f"{self.name}: {what} cannot be read from a pipe", hint="give the file itself"
            ) from error
        return descriptor

    def _read(self) -> bytes:
        """Read the next bytes; none are the end."""
        if self._ended:  # a terminal would go on after its end
            return b""
        try:
            block = self._read_block()
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from error
        self._missing -= len(block)
        self._ended = not block
        return block

    def _read_block(self) -> bytes:
        """Wait for bytes of the stream.

        Another process that shares a pipe can make it non-blocking for all. Such a pipe gives None
        while it is empty; this is not its end, so the bytes to come must be waited for.
        """
        while True:
            block: bytes | None = self.stream.read(CHUNK_BYTES)
            if block is not None:
                return block
            poll = select.poll()
            poll.register(self.stream, select.POLLIN)
            poll.poll()


def _bytes_ahead(stream: BinaryIO) -> int:
    """Return how many bytes a regular file still has, by its size; none of anything else."""
    try:
        status = os.fstat(stream.fileno())
        return status.st_size - stream.tell() if stat.S_ISREG(status.st_mode) else 0
    except OSError:  # it has no descriptor, or cannot say where it is
        return 0
