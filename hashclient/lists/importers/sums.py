"""Files of bare digests, and the output of md5sum, sha1sum, sha256sum, BSD's md5 and openssl.

Version 3 of openssl calls SHA-256 `SHA2-256`.

Files of bare digests may have millions of lines, so their lines are decoded together; lines with a
name are decoded one by one. A line with two rows is refused, because the second row would become
part of the first row's file name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.lines import chunks_of_lines, lines_of
from hashclient.lists.importers.rows import BY_HEX_DIGITS, DigestBatch, Rows, from_hex
from hashclient.lists.wire import NO_SIZE

#: A line that is a digest, or a line of md5sum, `md5sum --tag`, BSD's md5 or openssl.
_SUM_LINE = re.compile(
    rb"(?P<escape>\\?)(?:"
    rb"(?P<hex>[0-9A-Fa-f]+)(?:[ ][ *](?P<name>.+)|[ \t]*)"
    rb"|(?P<tag>MD5|SHA1|SHA(?:2-)?256)[ ]?\((?P<tag_name>.+)\)[ ]?=[ ]?(?P<tag_hex>[0-9A-Fa-f]+)"
    rb")",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}


class Sums:
    """Reads lines of bare digests and lines of md5sum and similar programs, also in one file."""

    name = "md5sum"
    has_columns = False

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a first line is a digest, or a line of md5sum or a similar program."""
        return _SUM_LINE.fullmatch(head) is not None

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`."""
        for first, chunk in chunks_of_lines(file):
            batch = _bare_batch(first, chunk)
            if batch is None:
                rows = Rows()
                for line, content in lines_of(first, chunk, file):
                    _add_sum_line(rows, file, line, content)
                rows.refuse_rows_in_names(file)
                batch = rows.batch()
            if batch.count:
                yield batch


def _bare_batch(first: int, chunk: bytes) -> DigestBatch | None:
    """Decode a chunk whose lines are all digests of one length; return None for any other chunk."""
    stride = chunk.find(b"\n") + 1
    algorithm = BY_HEX_DIGITS.get(stride - 1)
    if algorithm is None or len(chunk) % stride:
        return None
    count, width = len(chunk) // stride, 2 * algorithm.digest_bytes
    table = np.frombuffer(chunk, np.uint8).reshape(count, stride)
    if (table[:, width] != ord("\n")).any():
        return None
    try:
        digests = from_hex(table[:, :width].tobytes(), algorithm.digest_bytes)
    except ValueError:
        return None
    rows = np.arange(count, dtype=np.uint32)
    lines = np.arange(first, first + count, dtype=np.int64)
    sizes = np.full(count, NO_SIZE)
    return DigestBatch(count, [None] * count, lines, {algorithm: (digests, rows)}, sizes)


def _add_sum_line(rows: Rows, file: ImportFile, line: int, content: bytes) -> None:
    match = _SUM_LINE.fullmatch(content)
    if match is None:
        file.skip(line, "not a line of a file of digests")
        return
    escape, bare, name, tag, tag_name, tag_hex = match.groups()
    digits = bare or tag_hex
    algorithm = BY_HEX_DIGITS.get(len(digits))
    if algorithm is None:
        file.skip(line, f"no digest has {len(digits)} hexadecimal digits")
        return
    if tag and tag.replace(b"SHA2-", b"SHA") != algorithm.name.encode():
        file.skip(line, "the digest does not have the length of its algorithm")
        return
    file_name: bytes | None = name or tag_name
    if escape:
        try:
            file_name = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], file_name or b"")
        except KeyError:
            file.skip(line, "an unknown escape in the file name")
            return
    rows.add(line, file_name)
    rows.add_hex(algorithm, digits)
