"""The rows of a file of digests are read as they are, in any format and any chunks."""

from __future__ import annotations

import io
import os
import re
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.lists.importers import importfile
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.wire import NO_SIZE

Row = tuple[bytes | None, int | None, dict[Algorithm, bytes]]

# The smallest chunk is still longer than any line in this test.
chunk_bytes = st.sampled_from([1024, 4096, 2 << 20])
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
SEPARATORS = re.compile(rb"[\0\r\n\x0b\x0c\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9]")
names = st.binary(min_size=1, max_size=20).filter(lambda n: not SEPARATORS.search(n))
digests = {a: st.binary(min_size=a.digest_bytes, max_size=a.digest_bytes) for a in Algorithm}
one_digest = st.one_of([st.fixed_dictionaries({a: d}) for a, d in digests.items()])
some_digests = st.fixed_dictionaries({}, optional=digests).filter(bool)
sizes = st.none() | st.integers(0, 10**18 - 1)
cased = st.booleans()


def hexed(value: bytes, upper: bool) -> bytes:
    text = value.hex().upper() if upper else value.hex()
    return text.encode()


def read(content: bytes, chunk: int) -> list[Row]:
    found: list[Row] = []
    with mock.patch.object(importfile, "CHUNK_BYTES", chunk):
        for batch in read_digests(io.BytesIO(content), "it"):
            by_row: list[dict[Algorithm, bytes]] = [{} for _ in range(batch.count)]
            for algorithm, (values, at) in batch.digests.items():
                for value, row in zip(values, at, strict=True):
                    by_row[row][algorithm] = value.tobytes()
            for name, size, of_row in zip(batch.names, batch.sizes, by_row, strict=True):
                given_size = None if size == NO_SIZE else int(size)
                found.append((None if name is None else os.fsencode(name), given_size, of_row))
    return found


@given(st.lists(one_digest, max_size=60), ends, cased, chunk_bytes)
def test_bare_digests(
    rows: list[dict[Algorithm, bytes]], end: bytes, upper: bool, chunk: int
) -> None:
    content = b"".join(hexed(v, upper) + end for row in rows for v in row.values())
    assert read(content, chunk) == [(None, None, row) for row in rows]


@given(st.lists(st.tuples(names, one_digest), max_size=30), ends, st.booleans(), chunk_bytes)
def test_sum_files(
    rows: list[tuple[bytes, dict[Algorithm, bytes]]], end: bytes, tagged: bool, chunk: int
) -> None:
    content = b""
    for name, row in rows:
        ((algorithm, value),) = row.items()
        escaped = name.replace(b"\\", b"\\\\")
        mark = b"\\" if escaped != name else b""
        if tagged:
            content += mark + b"%s (%s) = %s" % (
                algorithm.name.encode(),
                escaped,
                hexed(value, False),
            )
        else:
            content += mark + hexed(value, False) + b"  " + escaped
        content += end
    assert read(content, chunk) == [(name, None, row) for name, row in rows]


@given(
    st.lists(st.tuples(sizes, some_digests), max_size=30),
    st.permutations([*Algorithm, "size"]),
    ends,
    cased,
    chunk_bytes,
)
def test_csv(
    rows: list[tuple[int | None, dict[Algorithm, bytes]]],
    columns: list[Algorithm | str],
    end: bytes,
    upper: bool,
    chunk: int,
) -> None:
    header = [c.label if isinstance(c, Algorithm) else c for c in columns]
    lines = [",".join(header).encode()]
    for size, row in rows:
        cells = {a: hexed(v, upper) for a, v in row.items()}
        known = b"" if size is None else str(size).encode()
        lines.append(
            b",".join(cells.get(c, b"") if isinstance(c, Algorithm) else known for c in columns)
        )
    content = b"".join(line + end for line in lines)
    # Only the empty file has the size 0, and no row has its digest.
    assert read(content, chunk) == [(None, size or None, row) for size, row in rows]


PIECES = (
    *(b"a" * 32, b"b" * 40, b"c" * 64, b"  ", b" *", b"n", b"\\", b"\n", b"\r\n", b"#", b","),
    *(b"md5", b"size", b"1", b'"', b"%%%% HASHDEEP-1.0", b"%%%% ", b"filename", b"\xff"),
    *(b"MD5 (", b") = ", b"\xef\xbb\xbf", b"\r", b"\x0b", b"\x85", b"\xe2\x80\xa8", b"\0"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join) | st.binary(max_size=200))
def test_anything_else_is_an_error_that_quotes_no_digest(content: bytes) -> None:
    message = ""
    try:
        read(content, 1024)
    except UsageError as error:
        message = error.message
    assert not re.search("[0-9a-fA-F]{32}", message)


#: Bytes that may separate two rows. No name that a tool prints has such a byte before a complete
#: row.
DIVIDERS = [
    *map(bytes, zip(b"\r\n\0\x0b\x0c\x1c\x1d\x1e\x85 ")),
    "\x85".encode(),
    "\u2028".encode(),
]


@given(
    st.lists(st.tuples(names, one_digest), min_size=2, max_size=12),
    st.sampled_from(DIVIDERS),
    st.booleans(),
    chunk_bytes,
)
def test_no_row_is_lost_whatever_divides_them(
    rows: list[tuple[bytes, dict[Algorithm, bytes]]], divider: bytes, tagged: bool, chunk: int
) -> None:
    """All rows are read, or the file is refused."""
    lines = []
    for name, row in rows:
        ((algorithm, value),) = row.items()
        plain = name.replace(b"\\", b"")
        digits = hexed(value, False)
        tag = b"%s (%s) = %s" % (algorithm.name.encode(), plain, digits)
        lines.append(tag if tagged else digits + b"  " + plain)
    try:
        found = read(divider.join(lines), chunk)
    except UsageError:
        return
    assert [row for _, _, row in found] == [row for _, row in rows]
