"""A proven copy is handed on exactly as it was proven, or the handing on ends with an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hashclient.core.errors import StateError
from hashclient.quarantine.evidence import Source, prove

PIECES = [b"ab", b"cd", b"ef"]


class Changing:
    """Bytes that have changed when they are read again."""

    def __init__(self, *again: bytes) -> None:
        self._times = iter([PIECES, again])
        self.given = 0

    def __call__(self) -> Iterator[bytes]:
        self.given = 0
        for piece in next(self._times):
            self.given += 1
            yield piece


def handed_on(bytes_: Changing) -> tuple[list[bytes], bool]:
    """Return what is handed on of bytes that were proven, and whether it ends without an error."""
    source = Source("x", 6, bytes_)
    proven = prove(source)
    assert (proven.size, bytes_.given) == (6, 3)
    got: list[bytes] = []
    try:
        got.extend(proven.chunks())
    except StateError:
        return got, False
    return got, True


@pytest.mark.parametrize("again", [PIECES, [b"abcdef"], [b"a", b"bcde", b"f"]])
def test_the_same_bytes_come_in_any_pieces(again: list[bytes]) -> None:
    assert handed_on(Changing(*again)) == (again, True)


@pytest.mark.parametrize("again", [[], [b"ab"], [b"ab", b"cd"], [b"ab", b"cd", b"eX"]])
def test_of_other_bytes_the_last_are_kept_back(again: list[bytes]) -> None:
    assert handed_on(Changing(*again)) == (again[:-1], False)


def test_more_bytes_are_not_read_to_their_end() -> None:
    longer = Changing(*PIECES, *[b"gh"] * 50)
    assert handed_on(longer) == (PIECES, False)
    assert longer.given == 4
