"""ClamAV's signatures of whole files: `.hdb`, `.hsb`, and the similar `.fp` and `.sfp`.

A line is `digest:size:name`, where the size is `*` if it is unknown; one or two functionality
levels of ClamAV may follow. The number of digits in the digest determines the algorithm. Lines of
every level are read, because a level says only which versions of ClamAV can read the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.lines import chunks_of_lines, lines_of
from hashclient.lists.importers.rows import BY_HEX_DIGITS, DigestBatch, Rows
from hashclient.lists.wire import NO_SIZE

_NO_SIZE = int(NO_SIZE)
_FIRST = re.compile(rb"[0-9A-Fa-f]{16,}:")
_LINE = re.compile(
    rb"(?P<hex>[0-9A-Fa-f]+):(?:(?P<size>[0-9]{1,18})|\*):(?P<name>[^:\s]+)(?::[0-9]+){0,2}[ \t]*"
)


class ClamAv:
    """Reads ClamAV's signatures of whole files; the name of a signature becomes the row's name."""

    name = "ClamAV"
    has_columns = False

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a first line begins like one of ClamAV's signatures of whole files."""
        return _FIRST.match(head) is not None

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`."""
        for first, chunk in chunks_of_lines(file):
            rows = Rows()
            for line, content in lines_of(first, chunk, file):
                _add_line(rows, file, line, content)
            if rows.names:
                yield rows.batch()


def _add_line(rows: Rows, file: ImportFile, line: int, content: bytes) -> None:
    match = _LINE.fullmatch(content)
    if match is None:
        file.skip(line, "not a ClamAV signature of a file (digest:size:name)")
        return
    digits, size, name = match.groups()
    algorithm = BY_HEX_DIGITS.get(len(digits))
    if algorithm is None:
        file.skip(line, f"no digest has {len(digits)} hexadecimal digits")
        return
    rows.add(line, name, _NO_SIZE if size is None else int(size))
    rows.add_hex(algorithm, digits)
