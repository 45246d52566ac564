"""The lines of the audit log as a chain, for programs that count them: fast, and with the gaps.

Each line's hash and its place behind the line before are checked. Signatures are not, nor the
spelling: `reading.verify` does both. Archived files may lie in other folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from hashclient.audit.file import Log, audit_errors, closed_files, lines, open_closed, open_log
from hashclient.audit.record import SEGMENT, broken, line_hash


class Line(msgspec.Struct, frozen=True, gc=False):
    """One record; its data is JSON."""

    seq: int
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    event: str
    data: msgspec.Raw
    prev: str
    hash: str
    sig: str | None = None


class Gap(msgspec.Struct, frozen=True):
    """Records that are not here: from `first` to `last`, which were written up to `until`."""

    first: int
    last: int
    until: datetime


_decode = msgspec.json.Decoder(Line).decode


def chained(directory: Path, archives: Sequence[Path] = ()) -> Iterator[Line | Gap]:
    """Yield the records of a log in order, and a `Gap` where records are missing.

    Closed files may be in `archives`, too.

    Raises:
        AuditError: a file cannot be read, a hash is wrong, or a line is no link of the chain.
        StateError: there is no log yet.
    """
    with ExitStack() as stack:
        log = stack.enter_context(open_log(directory))
        parts = {part.number: part for part in log.closed}
        for archive in archives:
            with audit_errors("cannot read the archived files", archive):
                parts |= {part.number: part for part in closed_files(archive, None)}
        chain = _Chain()
        for _, part in sorted(parts.items()):
            with open_closed(part) as closed:
                yield from chain.of(closed)
        yield from chain.of(log)


class _Chain:
    """The end of the chain so far."""

    def __init__(self) -> None:
        self._seq = 0
        self._hash: str | None = None

    def of(self, log: Log) -> Iterator[Line | Gap]:
        """Yield the records of one file, behind those before."""
        seq, before = self._seq, self._hash
        for number, text in lines(log):
            try:
                line = _decode(text)
            except (ValueError, RecursionError):  # or is nested very deeply
                broken(log.where(number), "no record")
            if line.hash != line_hash(text, signed=line.sig is not None):
                broken(log.where(number), "wrong hash")
            if line.seq != seq + 1 and number == 1 and line.event == SEGMENT and line.seq > seq:
                yield Gap(seq + 1, line.seq - 1, line.time)
            elif line.seq != seq + 1 or (before is not None and line.prev != before):
                broken(log.where(number), "not the record behind the one before")
            seq, before = line.seq, line.hash
            yield line
        self._seq, self._hash = seq, before
