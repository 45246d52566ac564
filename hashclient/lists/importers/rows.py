"""Collects rows, of files or of arguments, into batches; and decodes digits to digests."""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Sequence

import msgspec
import numpy as np

from hashclient.core.algorithms import Algorithm
from hashclient.errors import UsageError
from hashclient.lists.importers.importfile import ImportFile
from hashclient.lists.importers.interface import DigestBatch
from hashclient.lists.wire import NO_SIZE, Uint8

DIGEST_HINT = "give an MD5, SHA-1 or SHA-256 in hexadecimal; --from reads files of them"

BY_HEX_DIGITS = {2 * a.digest_bytes: a for a in Algorithm}
HEX = re.compile(rb"[0-9A-Fa-f]+")
#: Eighteen digits are an exabyte, and below what a signed 64-bit number holds.
SIZE = re.compile(rb"[0-9]{1,18}")

#: The beginning of a row within a line, where rows were joined by a space.
_ROW = re.compile(
    r"(?:^|[ \t])(?:\\?(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})[ ][ *]"
    r"|[0-9]{1,18},[0-9A-Fa-f]{32})"
    r"|\)[ ]?=[ ]?[0-9A-Fa-f]{32}"
)
#: Texts of which each such beginning has one. Few names have any; many names are searched at once.
_MARKS = ("  ", " *", ")=", ") =", ",")


def from_hex(digits: bytes, width: int) -> Uint8:
    """Decode hexadecimal digits, end to end, to (n, `width`) bytes.

    Raises:
        ValueError: there are other characters than hexadecimal digits.
    """
    return np.frombuffer(binascii.unhexlify(digits), np.uint8).reshape(-1, width)


class Rows(msgspec.Struct):
    """Collects rows one by one until they are a batch."""

    names: list[str | None] = msgspec.field(default_factory=list)
    lines: list[int] = msgspec.field(default_factory=list)
    sizes: list[int] = msgspec.field(default_factory=list)
    hexes: dict[Algorithm, tuple[list[bytes], list[int]]] = msgspec.field(default_factory=dict)

    def add(self, line: int, name: bytes | None, size: int = int(NO_SIZE)) -> None:
        """Add a row, which has no digest yet."""
        self.names.append(None if name is None else os.fsdecode(name))
        self.lines.append(line)
        self.sizes.append(size)

    def add_hex(self, algorithm: Algorithm, digits: bytes) -> None:
        """Give the row added last a digest."""
        hexes, rows = self.hexes.setdefault(algorithm, ([], []))
        hexes.append(digits)
        rows.append(len(self.names) - 1)

    def refuse_rows_in_names(self, file: ImportFile) -> None:
        """Refuse names that contain another row, as where rows were joined by spaces.

        Raises:
            UsageError: a name contains a row.
        """
        together = "\n".join(filter(None, self.names))
        if not any(mark in together for mark in _MARKS):
            return
        for line, name in zip(self.lines, self.names, strict=True):
            if name is not None and _ROW.search(name):
                raise file.bad(line, "a file name that holds another row")

    def batch(self) -> DigestBatch:
        """Return the rows as a batch."""
        digests = {
            a: (from_hex(b"".join(hexes), a.digest_bytes), np.array(rows, np.uint32))
            for a, (hexes, rows) in self.hexes.items()
        }
        lines, sizes = np.array(self.lines, np.int64), np.array(self.sizes, np.uint64)
        return DigestBatch(len(self.names), self.names, lines, digests, sizes)


def digests_of_arguments(arguments: Sequence[str]) -> DigestBatch:
    """Return typed digests as a batch; their numbers from 1 serve as line numbers.

    Raises:
        UsageError: an argument is no digest.
    """
    rows = Rows()
    for number, argument in enumerate(arguments, 1):
        digits = argument.strip().encode("ascii", "replace")
        if HEX.fullmatch(digits) is None:
            raise UsageError(f"argument:{number}: not a digest in hexadecimal", hint=DIGEST_HINT)
        algorithm = BY_HEX_DIGITS.get(len(digits))
        if algorithm is None:
            what = f"no digest has {len(digits)} hexadecimal digits"
            raise UsageError(f"argument:{number}: {what}", hint=DIGEST_HINT)
        rows.add(number, None)
        rows.add_hex(algorithm, digits)
    return rows.batch()
