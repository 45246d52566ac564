"""The history of a list: a mark of each generation, which is signed beside `index.json`.

Two hosts that publish the same repository can publish different generations under one number. The
checksum of a list covers only ids, and a client can compare the signed hashes of segments only
until a consolidation replaces the segments. So a provider signs a mark of each generation, and a
client compares the mark of its own generation (`docs/format.md`, 'History'). Marks find mistakes;
signatures protect against forgery. Programs that do not know the history ignore it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from hashclient.core.errors import VerificationError
from hashclient.lists.wire import ListIndex, delta_of
from hashclient.system.text import excerpt

#: The member of `custom` of the target `index.json` that contains the history.
FIELD = "hashclient-history"
#: The newest marks that a history has; a list without consolidations has one for each segment.
MAX_MARKS = 2_000

#: The mark of each generation, by the number of the generation.
History = Mapping[int, str]

_Generation = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,15}\Z")]
_Mark = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
_Written = Annotated[dict[_Generation, _Mark], msgspec.Meta(max_length=MAX_MARKS)]


def history_of(custom: object) -> History:
    """Return the history in `custom` of an `index.json`; it is empty if there is none.

    Raises:
        VerificationError: the history is malformed.
    """
    written = custom.get(FIELD, {}) if isinstance(custom, Mapping) else {}
    try:
        found = msgspec.convert(written, _Written)
    except ValueError as error:
        raise VerificationError(f"{FIELD} is not valid: {excerpt(error)}") from error
    return {int(generation): mark for generation, mark in found.items()}


def written(history: History) -> dict[str, str]:
    """Return a history as `custom` has it; `history_of` is the inverse."""
    return {str(generation): mark for generation, mark in history.items()}


def continued(before: History, index: ListIndex, hashes: Mapping[str, str]) -> History:
    """Return the history beside `index`; `before` is the history beside the previous index.

    `hashes` has the signed SHA-256 of each segment, by name. A consolidation makes no new mark, and
    removes the marks of generations that a segment straddles, because their clients build the list
    again.
    """
    history = dict(before)
    if index.generation not in history:
        newest = max(history, default=0)
        lines = [history.get(newest, "")]
        lines += [f"{s.name} {hashes[s.name]}" for s in index.segments if s.last > newest]
        mark = hashlib.sha256("".join(f"{line}\n" for line in lines).encode())
        history[index.generation] = mark.hexdigest()[:16]
    kept = sorted(g for g in history if delta_of(g, index) is not None)
    return {generation: history[generation] for generation in kept[-MAX_MARKS:]}


def has_other(history: History, generation: int, mark: str) -> bool:
    """Return whether `history` has another generation of this number than the one with `mark`.

    Without a mark, or before the first generation in `history`, nothing can be compared.
    """
    is_known = bool(mark and history) and generation >= min(history)
    return is_known and history.get(generation) != mark
