"""Files of digests as people have them: bare digests, sum files, hashdeep audits, CSV.

`lookup` asks about what such files hold and a provider publishes it, so they are read here, once:
streaming, in columns, with the format detected from the content. The two formats that come in
millions of rows, bare digests and CSV, are decoded by the column; the others line by line. What a
digest means, and whether an entry's id or category is allowed, is left to the callers.

Nothing is dropped but blank lines and comments. A line ends in LF, CRLF or CR. Refused are NUL,
whatever else may be meant to end a line (VT, FF, NEL, U+2028 and the like), and a second row on a
line: they would become part of a file's name, and what follows would never be asked about. So is a
file that ends before its size. A line has at most `MAX_LINE_BYTES` and no CSV cell holds a line
break. Messages name file and line, never what stands there.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from hashclient.core.algorithms import Algorithm
from hashclient.errors import UsageError
from hashclient.lists.wire import NO_SIZE, Uint8, Uint32, Uint64
from hashclient.system.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes read at a time: 32k rows of the shortest digest, and the memory that a batch takes.
CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 10

FORMATS_HINT = (
    "accepted are: one digest (MD5, SHA-1 or SHA-256 in hex) a line; md5sum, sha1sum or sha256sum"
    " output; hashdeep output; CSV with a header of entry_id, md5, sha1, sha256, size, category,"
    " added; in UTF-8, with lines that end in LF, CRLF or CR"
)
DIGEST_HINT = "give an MD5, SHA-1 or SHA-256 in hexadecimal; --from reads files of them"

Int64 = npt.NDArray[np.int64]
Numbered = Iterator[tuple[int, bytes]]


class DigestBatch(msgspec.Struct, frozen=True, eq=False):
    """Some rows of a file of digests, by column; every row has at least one digest.

    `names` are file names as a sum file gives them (decoded with surrogateescape), None where
    there is none; `lines` (count,) are line numbers from 1. `digests[a]` is a pair: the digests
    of algorithm `a` as (m, digest_bytes) and the (m,) rows they belong to, ascending. `sizes`
    (count,) are in bytes or `NO_SIZE`. The last three are None unless a CSV has the column;
    `added` is (count,) datetime64[ms] in UTC, NaT for an empty cell.
    """

    count: int
    names: list[str | None]
    lines: Int64
    digests: dict[Algorithm, tuple[Uint8, Uint32]]
    sizes: Uint64
    entry_ids: list[str | None] | None = None
    categories: list[str | None] | None = None
    added: npt.NDArray[np.datetime64] | None = None


def read_digests(stream: BinaryIO, name: str) -> Iterator[DigestBatch]:
    """Read a file of digests in batches of about 32k rows at most.

    `name` is what messages call the file. A file without rows gives no batch.

    Raises:
        UsageError: a line is in no accepted format, or reading fails; also while iterating.
    """
    chunks = _line_chunks(stream, name)
    line, first = next(chunks, (1, b""))
    if first.startswith(_OTHER_ENCODINGS):
        raise _bad(name, line, "not UTF-8 but UTF-16 or UTF-32")
    first = first.removeprefix(b"\xef\xbb\xbf")
    start, line = _first_content(first, line)
    _refuse_separators(first.removesuffix(start), 1, name)
    numbered = itertools.chain([(line, start)], chunks)
    head = start[: start.find(b"\n") + 1]
    if head.startswith(b"%%%% HASHDEEP"):
        return _read_hashdeep(numbered, name)
    if _SUM_LINE.fullmatch(head.rstrip(b"\r\n")) is None and _is_csv_header(head):
        return _read_csv(numbered, name)
    return _read_sums(numbered, name)


def digests_of_arguments(arguments: Sequence[str]) -> DigestBatch:
    """Return digests that were typed as a batch; their numbers from 1 stand for lines.

    Raises:
        UsageError: one is no digest.
    """
    rows = _Rows()
    for number, argument in enumerate(arguments, 1):
        digits = argument.strip().encode("ascii", "replace")
        if _HEX.fullmatch(digits) is None:
            raise UsageError(f"argument:{number}: not a digest in hexadecimal", hint=DIGEST_HINT)
        algorithm = _BY_HEX_DIGITS.get(len(digits))
        if algorithm is None:
            what = f"no digest has {len(digits)} hexadecimal digits"
            raise UsageError(f"argument:{number}: {what}", hint=DIGEST_HINT)
        rows.add(number, None)
        rows.add_hex(algorithm, digits)
    return rows.batch()


def _bad(name: str, line: int, what: str) -> UsageError:
    return UsageError(f"{printable(name)}:{line}: {what}", hint=FORMATS_HINT)


def _line_chunks(stream: BinaryIO, name: str) -> Numbered:
    """Yield whole lines, many at a time, each ending in LF alone, with their first line number."""
    line, tail, held = 1, b"", b""
    missing = _bytes_ahead(stream)
    while True:
        try:
            block = _read_block(stream)
        except OSError as error:
            raise UsageError(f"cannot read {printable(name)}: {error.strerror}") from error
        if not block:
            break
        missing -= len(block)
        block, held = held + block, b""
        if b"\r" in block:
            if block.endswith(b"\r"):
                block, held = block[:-1], b"\r"  # the LF may be still to come
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = block.rfind(b"\n") + 1
        if end:
            chunk = b"".join([tail, memoryview(block)[:end]])
            yield line, chunk
            line += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == ord("\n")))
            tail = b""
        tail += block[end:]
        if len(tail) > MAX_LINE_BYTES:
            raise _bad(name, line, f"a line of more than {MAX_LINE_BYTES} bytes")
    if missing > 0:
        raise UsageError(
            f"{printable(name)} ended {missing:,} bytes before its size",
            hint="something has cut it short while it was read; ask again when it is whole",
        )
    if tail:
        yield line, tail + b"\n"


def _bytes_ahead(stream: BinaryIO) -> int:
    """Return how many bytes a regular file still has, by its size; none of anything else."""
    try:
        status = os.fstat(stream.fileno())
        return status.st_size - stream.tell() if stat.S_ISREG(status.st_mode) else 0
    except OSError:  # it has no descriptor, or cannot say where it is
        return 0


def _read_block(stream: BinaryIO) -> bytes:
    """Read the next bytes; none are the end.

    A pipe that somebody else has set not to block, which holds for all who share it, gives None
    where there is nothing yet. That is not its end: what is still to come has to be asked about.
    """
    while True:
        block: bytes | None = stream.read(CHUNK_BYTES)
        if block is not None:
            return block
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        poll.poll()


#: How UTF-16 and UTF-32 begin, if they say so. If they do not, every second character is a NUL.
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
#: What has no place in a line of text: NUL, and whatever else ends a line for somebody.
_CONTROLS = b"\0\x0b\x0c\x1c\x1d\x1e"
_SEPARATORS = re.compile(rb"[\0\x0b\x0c\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9]|\x85")
#: How a row begins that has no column in front of its digest but a size.
_ROW_START = re.compile(
    rb"[ \t]*(?:\\?(?:[0-9A-Fa-f]{32}|(?:MD5|SHA1|SHA256)[ ]?\()|[0-9]{1,18},[0-9A-Fa-f]{32}|%%%%)"
)


def _refuse_separators(chunk: bytes, first: int, name: str) -> None:
    """Refuse whatever in whole lines somebody may take for the end of a line.

    Raises:
        UsageError: there is some.
    """
    if chunk.isascii() and len(chunk.translate(None, _CONTROLS)) == len(chunk):
        return
    for found in _SEPARATORS.finditer(chunk):
        if found[0] == b"\x85":
            # A byte of a letter, or the end of a line in ISO 8859-1: then a row follows.
            start, end = chunk.rfind(b"\n", 0, found.start()) + 1, chunk.find(b"\n", found.end())
            if _is_utf8(chunk[start:end]) or not _ROW_START.match(chunk, found.end(), end):
                continue
        line = first + chunk.count(b"\n", 0, found.start())
        shown = found[0].decode("latin-1" if len(found[0]) == 1 else "utf-8")
        what = f"the character U+{ord(shown):04X} within a line, which may be meant to end it"
        raise _bad(name, line, what)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_content(chunk: bytes, line: int) -> tuple[bytes, int]:
    """Drop blank lines and comments from the front; return the rest and its line number."""
    start = 0
    while start < len(chunk):
        end = chunk.find(b"\n", start) + 1
        content = chunk[start:end].strip()
        if content and not content.startswith(b"#"):
            break
        start, line = end, line + 1
    return chunk[start:], line


def _lines(numbered: Numbered, name: str) -> Numbered:
    """Yield lines one by one, without their ends; blank ones and comments are left out."""
    for first, chunk in numbered:
        _refuse_separators(chunk, first, name)
        # The chunk ends in a newline, so the last part is empty and drops out here.
        for line, content in enumerate(chunk.split(b"\n"), first):
            if len(content) > MAX_LINE_BYTES:
                raise _bad(name, line, f"a line of more than {MAX_LINE_BYTES} bytes")
            if content.strip() and not content.startswith(b"#"):
                yield line, content


class _Rows(msgspec.Struct):
    """Collects rows one by one until they are a batch."""

    names: list[str | None] = msgspec.field(default_factory=list)
    lines: list[int] = msgspec.field(default_factory=list)
    sizes: list[int] = msgspec.field(default_factory=list)
    hexes: dict[Algorithm, tuple[list[bytes], list[int]]] = msgspec.field(default_factory=dict)

    def add(self, line: int, name: bytes | None, size: int = int(NO_SIZE)) -> None:
        self.names.append(None if name is None else os.fsdecode(name))
        self.lines.append(line)
        self.sizes.append(size)

    def add_hex(self, algorithm: Algorithm, digits: bytes) -> None:
        """Give the row added last a digest."""
        hexes, rows = self.hexes.setdefault(algorithm, ([], []))
        hexes.append(digits)
        rows.append(len(self.names) - 1)

    def batch(self) -> DigestBatch:
        digests = {
            a: (
                _from_hex(np.frombuffer(b"".join(hexes), np.uint8).reshape(len(rows), -1)),
                np.array(rows, np.uint32),
            )
            for a, (hexes, rows) in self.hexes.items()
        }
        lines, sizes = np.array(self.lines, np.int64), np.array(self.sizes, np.uint64)
        return DigestBatch(len(self.names), self.names, lines, digests, sizes)


#: The value of a hexadecimal digit, by its character; of anything else, more than a byte holds.
_DIGIT_VALUES = np.full(256, 1 << 8, np.uint16)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _DIGIT_VALUES[list(_digits)] = range(16)
#: The value of two digits, by their characters as a little-endian number.
_PAIR_VALUES = np.add.outer(_DIGIT_VALUES, _DIGIT_VALUES << 4).ravel()


def _from_hex(digits: Uint8) -> Uint8:
    """Decode (n, 2 w) hexadecimal digits to (n, w) bytes, while other threads run.

    Raises:
        ValueError: something else than hexadecimal digits is there.
    """
    values = _PAIR_VALUES.take(np.ascontiguousarray(digits).view("<u2"))
    if values.size and int(values.max()) > 255:
        raise ValueError("not hexadecimal")
    decoded: Uint8 = values.astype(np.uint8)
    return decoded


_BY_HEX_DIGITS = {2 * a.digest_bytes: a for a in Algorithm}

#: A bare digest, or a line of md5sum; or a line of `md5sum --tag`, of BSD's md5 or of openssl.
_SUM_LINE = re.compile(
    rb"(?P<escape>\\?)(?:"
    rb"(?P<hex>[0-9A-Fa-f]+)(?:[ ][ *](?P<name>.+)|[ \t]*)"
    rb"|(?P<tag>MD5|SHA1|SHA256)[ ]?\((?P<tag_name>.+)\)[ ]?=[ ]?(?P<tag_hex>[0-9A-Fa-f]+)"
    rb")",
    re.DOTALL,
)
#: The beginning of a row, with what stands before it where rows were joined by a space.
_ROW = re.compile(
    r"(?:^|[ \t])(?:\\?(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})[ ][ *]"
    r"|[0-9]{1,18},[0-9A-Fa-f]{32})"
    r"|\)[ ]?=[ ]?[0-9A-Fa-f]{32}"
)
#: Some of which each of these has. Few names have any, and they are looked for in many at a time.
_MARKS = ("  ", " *", ")=", ") =", ",")
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}


def _read_sums(numbered: Numbered, name: str) -> Iterator[DigestBatch]:
    for first, chunk in numbered:
        batch = _bare_batch(first, chunk)
        if batch is None:
            rows = _Rows()
            for line, content in _lines(iter([(first, chunk)]), name):
                _add_sum_line(rows, name, line, content)
            _refuse_rows_in_names(rows, name)
            batch = rows.batch()
        if batch.count:
            yield batch


def _bare_batch(first: int, chunk: bytes) -> DigestBatch | None:
    """Decode a chunk whose lines are digests of one length, or return None if they are not."""
    stride = chunk.find(b"\n") + 1
    algorithm = _BY_HEX_DIGITS.get(stride - 1)
    if algorithm is None or len(chunk) % stride:
        return None
    count, width = len(chunk) // stride, 2 * algorithm.digest_bytes
    table = np.frombuffer(chunk, np.uint8).reshape(count, stride)
    if (table[:, width] != ord("\n")).any():
        return None
    try:
        digests = _from_hex(table[:, :width])
    except ValueError:
        return None
    rows = np.arange(count, dtype=np.uint32)
    lines = np.arange(first, first + count, dtype=np.int64)
    sizes = np.full(count, NO_SIZE)
    return DigestBatch(count, [None] * count, lines, {algorithm: (digests, rows)}, sizes)


def _refuse_rows_in_names(rows: _Rows, name: str) -> None:
    """Refuse names that hold another row, as they do where rows were joined by spaces."""
    together = "\n".join(filter(None, rows.names))
    if not any(mark in together for mark in _MARKS):
        return
    for line, file_name in zip(rows.lines, rows.names, strict=True):
        if file_name is not None and _ROW.search(file_name):
            raise _bad(name, line, "a file name that holds another row")


def _add_sum_line(rows: _Rows, name: str, line: int, content: bytes) -> None:
    match = _SUM_LINE.fullmatch(content)
    if match is None:
        raise _bad(name, line, "not a line of a file of digests")
    digits = match["hex"] or match["tag_hex"]
    algorithm = _BY_HEX_DIGITS.get(len(digits))
    if algorithm is None:
        raise _bad(name, line, f"no digest has {len(digits)} hexadecimal digits")
    if match["tag"] and match["tag"] != algorithm.name.encode():
        raise _bad(name, line, "the digest does not have the length of its algorithm")
    file_name: bytes | None = match["name"] or match["tag_name"]
    if match["escape"]:
        try:
            file_name = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], file_name or b"")
        except KeyError:
            raise _bad(name, line, "an unknown escape in the file name") from None
    rows.add(line, file_name)
    rows.add_hex(algorithm, digits)


def _read_hashdeep(numbered: Numbered, name: str) -> Iterator[DigestBatch]:
    """Read `%%%% size,md5,...,filename` and rows like it; algorithms we do not use are passed."""
    columns: list[bytes] = []
    for first, chunk in numbered:
        rows = _Rows()
        for line, content in _lines(iter([(first, chunk)]), name):
            if content.startswith(b"%%%%"):
                if not content.startswith(b"%%%% HASHDEEP"):
                    columns = _hashdeep_columns(name, line, content)
            else:
                _add_hashdeep_line(rows, name, line, content.split(b",", len(columns) - 1), columns)
        _refuse_rows_in_names(rows, name)
        if rows.names:
            yield rows.batch()


def _hashdeep_columns(name: str, line: int, content: bytes) -> list[bytes]:
    columns = content.removeprefix(b"%%%%").strip().split(b",")
    known = [a for a in Algorithm if a.label.encode() in columns]
    if columns[0] != b"size" or columns[-1] != b"filename" or not known:
        raise _bad(name, line, "not a hashdeep header with an algorithm of ours")
    if len(set(columns)) != len(columns):
        raise _bad(name, line, "a column occurs twice in the hashdeep header")
    return columns


def _add_hashdeep_line(
    rows: _Rows, name: str, line: int, cells: list[bytes], columns: list[bytes]
) -> None:
    if not columns:
        raise _bad(name, line, "no hashdeep header (%%%% size,...) before the first row")
    if len(cells) != len(columns) or not _SIZE.fullmatch(cells[0]):
        raise _bad(name, line, "not a row of the hashdeep header above it")
    rows.add(line, cells[-1], int(cells[0]))
    for algorithm in Algorithm:
        if (label := algorithm.label.encode()) in columns:
            digits = cells[columns.index(label)]
            if _HEX.fullmatch(digits) is None or len(digits) != 2 * algorithm.digest_bytes:
                raise _bad(name, line, f"not a {algorithm.label} digest")
            rows.add_hex(algorithm, digits)


_HEX = re.compile(rb"[0-9A-Fa-f]+")
#: Eighteen digits are an exabyte, and below what a signed 64-bit number holds.
_SIZE = re.compile(rb"[0-9]{1,18}")

_CSV_COLUMNS = ("entry_id", "md5", "sha1", "sha256", "size", "category", "added")


def _header_cells(head: bytes) -> list[str]:
    cells = head.decode("utf-8", "replace").strip().split(",")
    return [cell.strip().strip('"').lower() for cell in cells]


def _is_csv_header(head: bytes) -> bool:
    return len(head) <= MAX_LINE_BYTES and bool(set(_header_cells(head)) & set(_CSV_COLUMNS))


def _read_csv(numbered: Numbered, name: str) -> Iterator[DigestBatch]:
    line, chunk = next(numbered)
    _refuse_separators(chunk, line, name)
    end = chunk.find(b"\n") + 1
    columns = _header_cells(chunk[:end])
    for position, column in enumerate(columns, 1):
        if column not in _CSV_COLUMNS:
            shown = f" ({printable(column)})" if len(column) < 32 else ""
            raise _bad(name, line, f"column {position}{shown} of the CSV header is unknown")
    if len(set(columns)) != len(columns):
        raise _bad(name, line, "a column occurs twice in the CSV header")
    if not any(a.label in columns for a in Algorithm):
        raise _bad(name, line, "the CSV header names no md5, sha1 or sha256 column")
    for first, rows in itertools.chain([(line + 1, chunk[end:])], numbered):
        _refuse_separators(rows, first, name)
        lines = _row_lines(first, rows, name)
        if len(lines):
            yield _csv_batch(_csv_table(rows, columns, lines, name), lines, name)


def _row_lines(first: int, chunk: bytes, name: str) -> Int64:
    """Return the numbers of the lines that are not blank: those that are rows."""
    data = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    lengths = np.diff(ends, prepend=-1)
    if (lengths > MAX_LINE_BYTES).any():
        line = first + int(np.argmax(lengths > MAX_LINE_BYTES))
        raise _bad(name, line, f"a line of more than {MAX_LINE_BYTES} bytes")
    return np.flatnonzero(lengths > 1) + first


def _csv_table(chunk: bytes, columns: list[str], lines: Int64, name: str) -> pa.Table:
    """Parse rows of CSV into columns of text, empty cells as nulls."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    broken: list[int] = []

    def note(row: pa_csv.InvalidRow) -> str:
        broken.append(row.number)
        return "error"

    try:
        # Of a row that has another number of cells besides, the reader would print a traceback.
        chunk.decode()
        table = pa_csv.read_csv(
            pa.BufferReader(chunk),
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=len(chunk) + 1, column_names=columns
            ),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=note),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):  # its message quotes the row
        if broken:
            line = int(lines[min(broken[0], len(lines)) - 1])
            what = f"not {len(columns)} cells, as the header has"
            raise _bad(name, line, what) from None
        what = "this line, or one of the next, is not CSV in UTF-8"
        raise _bad(name, int(lines[0]), what) from None
    if table.num_rows != len(lines):
        raise _bad(name, int(lines[0]), "from here on, a quoted cell holds a line break")
    return table


def _csv_batch(table: pa.Table, lines: Int64, name: str) -> DigestBatch:
    count = table.num_rows
    cells = {c: table.column(c).combine_chunks() for c in table.column_names}
    digests: dict[Algorithm, tuple[Uint8, Uint32]] = {}
    has_digest = np.zeros(count, np.bool_)
    for algorithm in Algorithm:
        column = cells.get(algorithm.label)
        if column is None or column.null_count == count:
            continue
        rows = _valid_rows(column)
        has_digest[rows] = True
        digests[algorithm] = (_csv_digests(column, algorithm, rows, lines, name), rows)
    if not has_digest.all():
        raise _bad(name, int(lines[np.argmin(has_digest)]), "a row without a digest")
    sizes = np.full(count, NO_SIZE)
    if "size" in cells:
        rows = _valid_rows(cells["size"])
        sizes[rows] = _csv_sizes(cells["size"].drop_null(), lines[rows], name)
    added = _csv_times(cells["added"], lines, name) if "added" in cells else None
    return DigestBatch(
        count,
        [None] * count,
        lines,
        digests,
        sizes,
        _csv_texts(cells.get("entry_id")),
        _csv_texts(cells.get("category")),
        added,
    )


def _valid_rows(column: pa.Array) -> Uint32:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(valid).astype(np.uint32)


def _csv_texts(column: pa.Array | None) -> list[str | None] | None:
    if column is None:
        return None
    texts: list[str | None] = column.to_numpy(zero_copy_only=False).tolist()
    return texts


def _csv_digests(
    column: pa.Array, algorithm: Algorithm, rows: Uint32, lines: Int64, name: str
) -> Uint8:
    """Decode a column of hexadecimal digests, nulls left out, over its one buffer."""
    import pyarrow.compute as pc

    values = column.drop_null()
    fits = pc.equal(pc.binary_length(values), 2 * algorithm.digest_bytes)
    wrong = ~fits.to_numpy(zero_copy_only=False)
    if not wrong.any():
        offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset :]
        text = values.buffers()[2][int(offsets[0]) : int(offsets[len(values)])]
        digits = np.frombuffer(text, np.uint8).reshape(-1, 2 * algorithm.digest_bytes)
        try:
            return _from_hex(digits)
        except ValueError:
            pass
        is_hex = pc.match_substring_regex(values, "^[0-9A-Fa-f]+$")
        wrong = ~is_hex.to_numpy(zero_copy_only=False)
    line = int(lines[rows[np.argmax(wrong)]])
    raise _bad(name, line, f"not a {algorithm.label} digest in hexadecimal")


def _csv_sizes(values: pa.Array, lines: Int64, name: str) -> Uint64:
    import pyarrow as pa
    import pyarrow.compute as pc

    fits = pc.match_substring_regex(values, f"^{_SIZE.pattern.decode()}$")
    wrong = ~fits.to_numpy(zero_copy_only=False)
    if wrong.any():
        raise _bad(name, int(lines[np.argmax(wrong)]), "not a size in bytes")
    sizes: Uint64 = values.cast(pa.uint64()).to_numpy()
    return sizes


def _csv_times(column: pa.Array, lines: Int64, name: str) -> npt.NDArray[np.datetime64]:
    """Parse RFC 3339 times; a date alone is its midnight, and without a zone it is UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_date = pc.match_substring_regex(column, "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    has_zone = pc.match_substring_regex(column, "(Z|[+-][0-9]{2}:?[0-9]{2})$")
    suffix = pc.if_else(is_date, "T00:00:00Z", pc.if_else(has_zone, "", "Z"))
    full = pc.binary_join_element_wise(column, suffix, "")
    utc = pa.timestamp("ms", tz="UTC")
    try:
        times = full.cast(utc)
    except pa.ArrowInvalid:
        line = int(lines[_first_uncastable(full, utc)])
        what = "not a date, nor a time such as 2024-05-01T12:00:00Z (at most milliseconds)"
        raise _bad(name, line, what) from None
    result: npt.NDArray[np.datetime64] = times.to_numpy(zero_copy_only=False)
    return result


def _first_uncastable(column: pa.Array, to: pa.DataType) -> int:
    """Return the first row at which a cast fails that is known to fail somewhere."""
    import pyarrow as pa

    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(to)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
