"""Renders the common parts of very many outcomes once.

The hits of a run differ mostly in their entries, and the records of a batch in their ids. The other
parts of their text are kept, so that a line costs about one microsecond; with `json` or a
dictionary of cells it would cost ten. The output is the same, letter by letter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from hashclient.core.model import Acted, Hit, MatchRef, hit_fields

#: A text as JSON, in ASCII.
quote: Callable[[str], str] = json.encoder.encode_basestring_ascii

#: In place of an entry; this character cannot occur in the name of a list, which comes before.
_ENTRY = "\0"
#: Number of hits kept; a list has some dozen categories, but may have as many as entries.
_KEPT = 1 << 12

T = TypeVar("T")
#: List, category, generation, algorithms, and whether the hit is complete.
_Key = tuple[str, str, int, tuple[int, ...], bool]


class HitParts(Generic[T]):
    """Keeps the results of `render` for hits; they must not depend on the entry."""

    def __init__(self, render: Callable[[Hit], T]) -> None:
        """Nothing is rendered yet."""
        self._render = render
        self._kept: dict[_Key, T] = {}

    def of(self, hit: Hit) -> T:
        """Return the rendered hit."""
        key = (hit.list_name, hit.category, hit.generation, hit.algorithms, hit.complete)
        try:
            return self._kept[key]
        except KeyError:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            made = self._kept[key] = self._render(hit)
            return made


class RecordParts(Generic[T]):
    """Keeps the results of `render` for records; they must not depend on the id."""

    def __init__(self, render: Callable[[MatchRef], T]) -> None:
        """Nothing is rendered yet."""
        self._render = render
        self._last: MatchRef | None = None
        self._made: T

    def of(self, record: MatchRef) -> T:
        """Return the rendered record."""
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
    """Keeps the last result of `render`: the actions of held matches are all equal."""

    def __init__(self, render: Callable[[tuple[Acted, ...]], T]) -> None:
        """Nothing is rendered yet."""
        self._render = render
        self._last: tuple[Acted, ...] | None = None
        self._made: T

    def of(self, acted: tuple[Acted, ...]) -> T:
        """Return the rendered actions."""
        if acted is not self._last:
            self._made, self._last = self._render(acted), acted
        return self._made


def json_around_entry(
    hit: Hit, names: tuple[str, ...], *, compact: bool = False
) -> tuple[str, str]:
    """Return the JSON of the fields `names` of `hit`: the parts before and after its entry.

    The text is the inside of an object, without braces; with `compact`, it has no spaces between
    its parts.
    """
    fields = hit_fields(msgspec.structs.replace(hit, entry=_ENTRY), names)
    text = json.dumps(fields, separators=(",", ":") if compact else None)
    before, _, after = text.removeprefix("{").removesuffix("}").partition(quote(_ENTRY))
    return before, after
