"""The output of hashdeep: a header `%%%% size,md5,...,filename`, and rows below a header."""

from __future__ import annotations

from collections.abc import Iterator

from hashclient.core.kinds import Algorithm
from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.lines import chunks_of_lines, lines_of
from hashclient.lists.importers.rows import HEX, SIZE, DigestBatch, Rows

_MAGIC = b"%%%% HASHDEEP"


class Hashdeep:
    """Reads output of hashdeep; digests of algorithms that lists do not use are ignored."""

    name = "hashdeep"
    has_columns = False

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether the first line of a file is the first line of hashdeep's output."""
        return head.startswith(_MAGIC)

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`."""
        columns: list[bytes] = []
        for first, chunk in chunks_of_lines(file):
            rows = Rows()
            for line, content in lines_of(first, chunk, file):
                if not content.startswith(b"%%%%"):
                    cells = content.split(b",", len(columns) - 1)
                    _add_line(rows, file, line, cells, columns)
                elif not content.startswith(_MAGIC):
                    columns = _columns(file, line, content)
            rows.refuse_rows_in_names(file)
            if rows.names:
                yield rows.batch()


def _columns(file: ImportFile, line: int, content: bytes) -> list[bytes]:
    columns = content.removeprefix(b"%%%%").strip().split(b",")
    known = [a for a in Algorithm if a.label.encode() in columns]
    if columns[0] != b"size" or columns[-1] != b"filename" or not known:
        raise file.bad(line, "not a hashdeep header with an algorithm of ours")
    if len(set(columns)) != len(columns):
        raise file.bad(line, "a column occurs twice in the hashdeep header")
    return columns


def _add_line(
    rows: Rows, file: ImportFile, line: int, cells: list[bytes], columns: list[bytes]
) -> None:
    if not columns:
        raise file.bad(line, "no hashdeep header (%%%% size,...) before the first row")
    if len(cells) != len(columns) or not SIZE.fullmatch(cells[0]):
        file.skip(line, "not a row of the hashdeep header above it")
        return
    found = []
    for algorithm in Algorithm:
        if (label := algorithm.label.encode()) in columns:
            digits = cells[columns.index(label)]
            if HEX.fullmatch(digits) is None or len(digits) != 2 * algorithm.digest_bytes:
                file.skip(line, f"not a {algorithm.label} digest")
                return
            found.append((algorithm, digits))
    rows.add(line, cells[-1], int(cells[0]))
    for algorithm, digits in found:
        rows.add_hex(algorithm, digits)
