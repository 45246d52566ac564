"""Splits events that are too large for one line of the log into several records.

An event may have any length, because providers decide how many lists and entries a match has. Each
part has all values of the event that are not lists, and some elements of each list, in order;
`part` is the number of the part, and `parts` the number of parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hashclient.audit.record import MAX_LINE_BYTES, Encoded, Event, encode_body

#: The largest length in characters of a body (an event and its data). A longer body does not fit
#: into a line together with number, time, hashes and signature.
MAX_BODY_CHARS = MAX_LINE_BYTES - 1024
#: The length of a part in characters: less than a line, so that a copy of a part also fits into a
#: line.
_PART_CHARS = MAX_LINE_BYTES // 4


def bodies_of(event: Event | Encoded) -> list[str]:
    """Return the bodies of the records of an event: one, or several if the event is too large.

    Only lists are split. If another value is too large, a body is too large for a line.

    Raises:
        ValueError, TypeError: the data of the event is not a JSON object.
    """
    body = event.body if isinstance(event, Encoded) else encode_body(event.event, event.data)
    if len(body) <= MAX_BODY_CHARS:
        return [body]
    parts = list(_parts(json.loads(event.text) if isinstance(event, Encoded) else event.data))
    if len(parts) == 1:
        return [body]
    return [
        encode_body(event.event, {**part, "part": number, "parts": len(parts)})
        for number, part in enumerate(parts, 1)
    ]


def _parts(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = {key: value for key, value in data.items() if isinstance(value, list | tuple)}

    def empty() -> dict[str, Any]:
        return {**data, **{key: [] for key in lists}}

    each = _PART_CHARS - len(encode_body("", empty()))
    part, room, is_empty = empty(), each, True
    for key, value in ((key, value) for key, values in lists.items() for value in values):
        size = len(encode_body("", {"": value}))
        if size > room and not is_empty:
            yield part
            part, room = empty(), each
        part[key].append(value)
        room, is_empty = room - size, False
    yield part
