"""How often keys occur in a piece of JSON, at any depth: what a fast decoder does not say.

It decodes the last of repeated keys and passes over unknown ones. So keys are counted in the bytes:
a key that occurs exactly as often as it was decoded occurs nowhere else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hashclient.lists.wire import Uint8, Uint32

#: The largest of the characters that are blank in JSON.
_LAST_BLANK = ord(" ")


class KeyEnds:
    """The ends of all keys in a piece of JSON.

    A quote within a text has a backslash before it, so no key is missed, but a text may be taken
    for a key: then it is counted too often.
    """

    def __init__(self, data: Uint8) -> None:
        """Find them in `data`, which begins with an array of objects."""
        colons = np.flatnonzero(data == ord(":"))
        before = data[colons - 1]
        #: Whether no blank comes before a colon, so that all keys were found.
        self.are_all = not len(before) or int(before.min()) > _LAST_BLANK
        self._data = data
        self._quotes: npt.NDArray[np.int64] = colons[before == ord('"')] - 1
        ends = [data[self._quotes - back].astype(np.uint32) << 8 * back for back in (1, 2, 3)]
        self._last_three: Uint32 = ends[0] | ends[1] | ends[2]

    def may_have(self, name: str) -> bool:
        """Return whether there is a key that ends as this one."""
        return bool((self._last_three == _last_three(name)).any())

    def count(self, name: str, expected: int) -> int:
        """Return how often a key occurs; `expected`, if as many end as it does."""
        found = self._quotes[self._last_three == _last_three(name)]
        key = f'"{name}'.encode()
        # No key is missed, so an equal count means the same keys.
        for back in range(4, len(key) + 1 if len(found) != expected else 0):
            found = found[self._data[found - back] == key[-back]]
        return len(found)


def _last_three(name: str) -> int:
    key = f'"{name}'.encode()
    return sum(key[-back] << 8 * back for back in (1, 2, 3))


def may_name_sha256(data: Uint8) -> bool:
    """Return whether a text in the JSON ends like a name of SHA-256 and is not all digits."""
    ends = data[4:] == ord('"')
    for back, byte in enumerate(b"652", 1):
        ends &= data[4 - back : -back] == byte
    before = data[:-4][ends]
    return bool(((before == ord("-")) | (before == ord("A")) | (before == ord("a"))).any())
