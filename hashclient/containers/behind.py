"""Finds archives behind other bytes: in self-extractors, and behind pictures and documents.

`sniffing` decides which files must be searched for archives behind other bytes. This module
searches all bytes of the file for marks: byte sequences (`Kind.in_programs`) that occur near the
beginning of an archive. The expander of a kind decides whether an archive begins at a mark, and how
long the archive is. If a kind is not opened, its archives are reported as not opened. This module
does not search for zip, because the zip expander itself finds a zip behind other bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from hashclient.containers.forward import Joined, part_of
from hashclient.containers.interface import (
    Data,
    Expander,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)
from hashclient.containers.kind import Kind

_WINDOW_BYTES = 1 << 20
#: `_MAX_ARCHIVES`: the most archives that are opened in one file; `MAX_MARKS`: the most marks at
#: which the expanders find no archive. If a file has more archives or marks, its rest is reported
#: as unread, because more than `MAX_MARKS` marks do not occur by chance.
_MAX_ARCHIVES, MAX_MARKS = 64, 10_000


class Begun(Expander, Protocol):
    """An expander of a kind whose archives may be behind other bytes."""

    def length(self, data: Data) -> int:
        """Return the length of the archive at the beginning of `data`.

        Return 0 if no archive begins at the beginning of `data`.

        If no field or checksum shows where the archive ends, return the length of all bytes.
        """
        ...


class Behind:
    """Opens archives that are behind other bytes, of all kinds except zip."""

    name = "behind"
    seeks = True

    def __init__(self, kinds: Sequence[tuple[Kind, Begun | None]]) -> None:
        """`kinds`: all kinds that have `in_programs`, each with its expander.

        The expander is None for a kind that is not opened.
        """
        self._kinds = kinds
        self._longest = max(kind.in_programs_at + len(kind.in_programs) for kind, _ in kinds)

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members of all archives, and report archives of kinds that are not opened."""
        for kind, expander, part in self._found(cast(Data, data)):
            if expander is None:
                yield Unlisted(b"", Why.NOT_OPENED, kind.name)
                continue
            try:
                yield from expander.members(part)
            except NotReadError as error:
                yield Unlisted(b"", error.why, error.detail)

    def _found(self, data: Data) -> Iterator[tuple[Kind, Begun | None, Joined]]:
        """Yield each archive with its kind and expander, except archives inside another archive.

        If no field of an archive states its end, the bytes after its first byte are still searched
        for archives of other kinds, because most programs search for archives of one kind only.
        """
        kinds, begin, start, count = list(self._kinds), -_WINDOW_BYTES, 0, 0
        marks = MAX_MARKS
        window = b""
        places: dict[str, int] = {}  # by kind: the offset in the file of the next mark
        ends: dict[str, int] = {}  # by kind: the offset where its last archive ends
        while start < data.size:
            if start >= begin + _WINDOW_BYTES:
                begin, window = start, data.read_at(start, _WINDOW_BYTES + self._longest)
                places.clear()
            beyond = begin + _WINDOW_BYTES
            for kind, _ in kinds:
                least = max(start, ends.get(kind.name, 0))
                if places.get(kind.name, -1) < least:
                    found = window.find(kind.in_programs, least - begin + kind.in_programs_at)
                    places[kind.name] = (
                        begin + found - kind.in_programs_at if found >= 0 else max(beyond, least)
                    )
            at = min(places.values(), default=beyond)
            if at >= beyond:
                start = beyond
                continue
            part, lengths = part_of(data, at), []
            # Marks of several kinds may be at one offset, so every kind with a mark at this offset
            # is tried.
            for kind, expander in [one for one in kinds if places[one[0].name] == at]:
                if expander is None:
                    kinds.remove((kind, None))  # an unopened kind is reported only once
                    del places[kind.name]
                    yield kind, None, part
                elif length := expander.length(part):
                    if count == _MAX_ARCHIVES:
                        raise NotReadError(Why.LIMIT, "too many archives in one file")
                    count += 1
                    ends[kind.name] = at + length
                    lengths.append(length if length < part.size else 1)
                    yield kind, expander, part_of(data, at, length)
            marks -= not lengths
            if marks < 0:
                raise NotReadError(Why.LIMIT, "too many marks of archives in one file")
            start = at + min(lengths, default=1)
