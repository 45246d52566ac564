"""Renders the parts that very many outcomes have in common only once.

The hits of a run mostly differ in their entries, and the records of a batch in their ids. The
remaining parts of the text of hits and records are kept, so that a line takes about one
microsecond; with `json` or a dictionary of cells it would take ten. The output with this module
equals the output without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from hashclient.core.model import Acted, Hit, MatchRef, hit_fields

#: Returns a text as JSON, in ASCII.
quote: Callable[[str], str] = json.encoder.encode_basestring_ascii

#: A placeholder for the entry; the name of a list, which precedes the entry, cannot contain this
#: character.
_ENTRY = "\0"
#: The largest number of rendered hits that are kept. A list usually has some dozen categories, but
#: each of its entries could have a category of its own.
_KEPT = 1 << 12

T = TypeVar("T")
#: The key of a rendered hit: list, category, generation, algorithms, and whether the hit is
#: complete.
_Key = tuple[str, str, int, tuple[int, ...], bool]


class HitParts(Generic[T]):
    """Keeps the results of `render` for hits; the results must not depend on the entry."""

    def __init__(self, render: Callable[[Hit], T]) -> None:
        """Begin without a rendered hit."""
        self._render = render
        self._kept: dict[_Key, T] = {}

    def of(self, hit: Hit) -> T:
        """Return the result of `render` for `hit`."""
        key = (hit.list_name, hit.category, hit.generation, hit.algorithms, hit.complete)
        try:
            return self._kept[key]
        except KeyError:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            made = self._kept[key] = self._render(hit)
            return made


class RecordParts(Generic[T]):
    """Keeps the last result of `render` for recorded matches.

    The result must not depend on the id.
    """

    def __init__(self, render: Callable[[MatchRef], T]) -> None:
        """Begin without a rendered record."""
        self._render = render
        self._last: MatchRef | None = None
        self._made: T

    def of(self, record: MatchRef) -> T:
        """Return the result of `render` for `record`."""
        last = self._last
        if (
            last is None
            or record.last_seen is not last.last_seen
            or record.first_seen is not last.first_seen
            or record.state is not last.state
            or record.in_place is not last.in_place
        ):
            self._made, self._last = self._render(record), record
        return self._made


class ActedParts(Generic[T]):
    """Keeps the last result of `render`, because the actions of held matches are all equal."""

    def __init__(self, render: Callable[[tuple[Acted, ...]], T]) -> None:
        """Begin without rendered actions."""
        self._render = render
        self._last: tuple[Acted, ...] | None = None
        self._made: T

    def of(self, acted: tuple[Acted, ...]) -> T:
        """Return the result of `render` for `acted`."""
        if acted is not self._last:
            self._made, self._last = self._render(acted), acted
        return self._made


def json_around_entry(
    hit: Hit, names: tuple[str, ...], *, compact: bool = False
) -> tuple[str, str]:
    """Return the fields `names` of `hit` as JSON, in two parts: before and after the entry.

    The JSON has no braces of an object; with `compact`, it has no spaces.
    """
    fields = hit_fields(msgspec.structs.replace(hit, entry=_ENTRY), names)
    text = json.dumps(fields, separators=(",", ":") if compact else None)
    before, _, after = text.removeprefix("{").removesuffix("}").partition(quote(_ENTRY))
    return before, after
