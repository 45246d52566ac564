"""The digest algorithms, and sets of them as bits."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Algorithm(enum.IntEnum):
    """A digest algorithm; its value is its bit in an entry's mask of algorithms."""

    MD5 = 1
    SHA1 = 2
    SHA256 = 4

    # Algorithms are keys of many small dictionaries; the hash of an enumeration is slow Python
    # code.
    __hash__ = int.__hash__

    @property
    def label(self) -> str:
        """The name used in files, options and output: `md5`, `sha1`, `sha256`."""
        return _LABELS[self]

    @property
    def digest_bytes(self) -> int:
        """Length of a digest in bytes."""
        return _DIGEST_BYTES[self]

    @classmethod
    def from_label(cls, label: str) -> Algorithm:
        """Return the algorithm called `label`.

        Raises:
            KeyError: no algorithm has that name.
        """
        return _BY_LABEL[label]

    @classmethod
    def in_mask(cls, mask: int) -> tuple[Algorithm, ...]:
        """Return the algorithms whose bits are set in `mask`, in ascending order."""
        return _BY_MASK[mask]


_LABELS = {a: a.name.lower() for a in Algorithm}


_DIGEST_BYTES = {Algorithm.MD5: 16, Algorithm.SHA1: 20, Algorithm.SHA256: 32}


_BY_LABEL = {a.label: a for a in Algorithm}


_BY_MASK = tuple(tuple(a for a in Algorithm if mask & a) for mask in range(8))


def mask_of(algorithms: Iterable[Algorithm]) -> int:
    """Return the mask with the bits of `algorithms` set."""
    mask = 0
    for algorithm in algorithms:
        mask |= algorithm
    return mask
