"""A file to import: its first line, all its bytes, and errors that name a line of the file.

The beginning of a file decides which importer reads it, and a pipe cannot be read twice, so
`ImportFile` keeps the bytes that were read to choose the importer. A file that ends before its size
is refused, because an importer would not notice that a file was cut between two lines. A `Reading`
has the choices of the user for one command; its limit on unusable rows applies to all files of the
command together. An unusable row is an error, unless `max_bad` allows unusable rows: then the row
is counted in `remarks`.

The first bytes of a file decide whether it is decompressed; the name of the file does not matter. A
truncated or damaged compressed file is refused, and so is a file that is compressed twice, because
nobody compresses a file twice by accident.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec

from hashclient.core.errors import UsageError
from hashclient.lists.importers.where import CategoryMap, Where
from hashclient.system.text import printable

if TYPE_CHECKING:
    import pyarrow as pa


#: The columns that `--column` may name.
COLUMNS = ("entry_id", "md5", "sha1", "sha256", "size", "category", "added")

OTHER_HASHES = "hashes of other kinds than MD5, SHA-1 and SHA-256, such as PhotoDNA, are ignored"


class Remarks(msgspec.Struct):
    """Remarks about the files that were read.

    `notes`: sentences for the user, without repetitions. `skipped`: the place (`file:line`) and the
    fault of each unusable row. `not_meant`: the number of rows that `where` or the map of
    categories has left out.
    """

    notes: list[str] = msgspec.field(default_factory=list)
    skipped: list[tuple[str, str]] = msgspec.field(default_factory=list)
    not_meant: int = 0

    def note(self, text: str) -> None:
        """Add a note, unless `notes` contains an equal text."""
        if text not in self.notes:
            self.notes.append(text)


class Reading(msgspec.Struct, frozen=True):
    """The user's choices for reading files of digests.

    `where`: the filter that chooses rows by their columns, or None. `columns`: the name of the
    file's column for some of the names in `COLUMNS`. `categories`: the map from the categories in a
    file to the categories on the list, or None. `max_bad`: the number of unusable rows that may be
    skipped. `all_rows`: whether all rows of a file are used, as in a lookup.
    """

    where: Where | None = None
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)
    categories: CategoryMap | None = None
    max_bad: int = 0
    all_rows: bool = False
    remarks: Remarks = msgspec.field(default_factory=Remarks)

    def skip(self, place: str, what: str) -> None:
        """Count a row that cannot be used.

        Raises:
            UsageError: more than `max_bad` rows cannot be used.
        """
        if len(self.remarks.skipped) >= self.max_bad:
            if not self.max_bad:
                raise UsageError(f"{place}: {what}")
            raise UsageError(
                f"{place}: {what}; more than {self.max_bad:,} rows cannot be used",
                hint="correct the file, or allow more rows with --max-bad",
            )
        self.remarks.skipped.append((place, what))


def parse_columns(given: tuple[str, ...]) -> dict[str, str]:
    """Parse the values of `--column`, which have the form `ours=theirs`.

    Raises:
        UsageError: a value has another form, or a column is given or named twice.
    """
    columns: dict[str, str] = {}
    for text in given:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        ours = ours.lower()
        if not equals or not theirs or ours not in COLUMNS:
            raise UsageError(
                "--column is not of the form md5=NAME",
                hint=f"before the = write one of: {', '.join(COLUMNS)}; after it, the name of the "
                "column in the file",
            )
        if ours in columns:
            raise UsageError(f"--column is given twice for {ours}")
        if theirs.lower() in map(str.lower, columns.values()):
            raise UsageError(f"--column names the column {printable(theirs)} twice")
        columns[ours] = theirs
    return columns


#: The number of bytes that are read at a time: 32,000 rows of the shortest digest, which limits the
#: memory of a batch.
CHUNK_BYTES = 1 << 20
#: The largest number of bytes that blank lines and comments before the first row may have.
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
    """A file to import, read from the present position of the stream.

    `reading`: the user's choices.
    """

    def __init__(self, stream: BinaryIO, name: str, reading: Reading | None = None) -> None:
        """Import `stream`; messages show `name` as the name of the file."""
        self.stream = stream
        self.name = printable(name)
        self.reading = Reading() if reading is None else reading
        self._missing = _bytes_ahead(stream)
        self._begun = b""
        self._ended = False

    def head(self) -> bytes:
        """Return the first line that is neither blank nor a comment, without its end.

        A line that is too long is cut.

        Raises:
            UsageError: reading fails.
        """
        while True:
            found = _FIRST_LINE.match(self._begun + b"\n" if self._ended else self._begun)
            assert found is not None  # the pattern matches any text
            line: bytes = found["line"]
            is_whole = self._ended or found.end() < len(self._begun)
            if is_whole or len(line) > MAX_LINE_BYTES or len(self._begun) >= HEAD_BYTES:
                return line
            self._begun += self._read()

    def beginning(self, count: int) -> bytes:
        """Return the first `count` bytes of the file, or fewer if the file has fewer bytes.

        Raises:
            UsageError: reading fails.
        """
        while len(self._begun) < count and (block := self._read()):
            self._begun += block
        return self._begun[:count]

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the file, at least one byte at a time.

        `blocks` may be called only once.

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
                hint="the file was cut while it was read; try again when it is complete",
            )

    def bad(self, line: int, what: str) -> UsageError:
        """Return the error for a line; `what` names the fault without quoting the line."""
        return UsageError(f"{self.name}:{line}: {what}", hint=FORMATS_HINT)

    def skip(self, line: int, what: str) -> None:
        """Count a row that cannot be used; `what` names the fault without quoting the line.

        Raises:
            UsageError: more rows are skipped than allowed.
        """
        try:
            self.reading.skip(f"{self.name}:{line}", what)
        except UsageError as error:
            raise UsageError(error.message, hint=error.hint or FORMATS_HINT) from None

    def choose_rows(self, which: str, example: str) -> UsageError:
        """Return the error for a file that does not show which of its rows should be used."""
        return UsageError(
            f"{self.name}: {which}: which rows should be used?",
            hint=f"choose rows with --where, such as '{example}', or `all`",
        )

    def descriptor(self, what: str) -> int:
        """Return the descriptor of a regular file, for random access.

        Raises:
            UsageError: the file is not a regular file; `what` names its content.
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
        """Read the next bytes; an empty result means the end of the file."""
        if self._ended:  # reading a terminal again after its end would wait for more input
            return b""
        try:
            block = self._read_block()
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from error
        self._missing -= len(block)
        self._ended = not block
        return block

    def _read_block(self) -> bytes:
        """Wait for bytes of the stream, and return them.

        If another process shares a pipe, it can make the pipe non-blocking for all processes.
        Reading an empty non-blocking pipe returns None, which does not mean the end, so the reader
        must wait for more bytes.
        """
        while True:
            block: bytes | None = self.stream.read(CHUNK_BYTES)
            if block is not None:
                return block
            poll = select.poll()
            poll.register(self.stream, select.POLLIN)
            poll.poll()


def _bytes_ahead(stream: BinaryIO) -> int:
    """Return the number of bytes from the position to the end of a regular file, otherwise 0."""
    try:
        status = os.fstat(stream.fileno())
        return status.st_size - stream.tell() if stat.S_ISREG(status.st_mode) else 0
    except OSError:  # the stream has no descriptor, or no position
        return 0


_MAGICS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MAGIC_BYTES = 4


def expanded(file: ImportFile) -> ImportFile:
    """Return the content of a compressed file; any other file is returned as it is.

    Raises:
        UsageError: reading fails, or the file is compressed twice.
    """
    codec = _codec(file)
    if codec is None:
        return file
    inner = ImportFile(cast(BinaryIO, _Expanded(file, codec)), file.name, file.reading)
    inner.name = file.name  # `ImportFile` has escaped the name a second time
    if _codec(inner) is not None:
        raise UsageError(f"{file.name}: compressed twice", hint="unpack it first")
    return inner


def _codec(file: ImportFile) -> str | None:
    beginning = file.beginning(_MAGIC_BYTES)
    return next((c for magic, c in _MAGICS.items() if beginning.startswith(magic)), None)


class _Packed(io.RawIOBase):
    """The bytes of a compressed file as a stream that can be read in pieces."""

    def __init__(self, file: ImportFile) -> None:
        self._blocks = file.blocks()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not self._rest:
            self._rest = next(self._blocks, b"")
        end = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:end], self._rest[end:]
        return given


class _Expanded(io.RawIOBase):
    """The decompressed content of a file, as a stream."""

    def __init__(self, file: ImportFile, codec: str) -> None:
        import pyarrow as pa

        self._name, self._codec = file.name, codec
        packed = pa.PythonFile(_Packed(file), mode="r")
        self._stream: pa.NativeFile = pa.CompressedInputStream(packed, codec)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            # `read` of pyarrow 26 never frees its buffer if it fails, so `read_buffer` is called
            # instead.
            data: bytes = self._stream.read_buffer(None if size < 0 else size).to_pybytes()
        except OSError as error:  # pyarrow cannot decompress the file
            raise UsageError(
                f"{self._name}: this {self._codec} file cannot be unpacked",
                hint="the file is damaged or incomplete; get it again",
            ) from error
        return data
