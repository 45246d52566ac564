"""The enumerations: digest algorithms, kinds of outcomes, states of a match, and actions."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping


class Algorithm(enum.IntEnum):
    """A digest algorithm; its value is the bit of the algorithm in a mask of algorithms."""

    MD5 = 1
    SHA1 = 2
    SHA256 = 4

    # Algorithms are keys of many small dictionaries, and the hash function of an enumeration is
    # slow Python code.
    __hash__ = int.__hash__

    @property
    def label(self) -> str:
        """The name of the algorithm in files, options and output: `md5`, `sha1`, `sha256`."""
        return _LABELS[self]

    @property
    def digest_bytes(self) -> int:
        """The length of a digest in bytes."""
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
    return sum(set(algorithms))


class Kind(enum.StrEnum):
    """The kind of the outcome of an input.

    `ACCEPTED`: the input was not read, and the configuration allows this. `EXCEPTED`: the input
    matched, but a person has ruled that nothing is done about its file.
    """

    CLEAN = "clean"
    MATCH = "match"
    CONFLICT = "conflict"
    SKIPPED = "skipped"
    UNREAD = "unread"
    ACCEPTED = "accepted"
    EXCEPTED = "excepted"

    # Kinds are dictionary keys in loops over all outcomes, and the hash function of an enumeration
    # is slow Python code.
    __hash__ = str.__hash__


class MatchState(enum.StrEnum):
    """The state of a recorded match.

    `docs/operations/after-a-match.md` has a picture of the states.
    """

    FOUND = "found"
    HELD = "held"
    EXCEPTED = "excepted"
    QUARANTINED = "quarantined"
    REPORTED = "reported"
    ACKNOWLEDGED = "acknowledged"
    GONE = "gone"
    WITHDRAWN = "withdrawn"
    RESTORED = "restored"
    PURGED = "purged"
    CLOSED = "closed"

    __hash__ = str.__hash__  # states are keys of dictionaries as well


class Verdict(enum.StrEnum):
    """The verdict of a person who reviews a match; it does not change the state of the match."""

    CONFIRMED = "confirmed"
    REJECTED = "rejected"

    __hash__ = str.__hash__  # verdicts are keys of counters


#: The reasons for confirming and for rejecting a match, from which a reviewer chooses.
REVIEW_REASONS: Mapping[Verdict, tuple[str, ...]] = {
    Verdict.CONFIRMED: ("as-listed", "circumstances", "provider"),
    Verdict.REJECTED: ("harmless", "other-file", "wrong-category", "lawful", "provider"),
}


class Action(enum.StrEnum):
    """An action of a policy for a match; a match is recorded in any case."""

    QUARANTINE = "quarantine"
    REPORT = "report"


#: The states in which a match needs no attention, unless its file is found again.
SETTLED = frozenset(
    {MatchState.EXCEPTED, MatchState.RESTORED, MatchState.PURGED, MatchState.CLOSED}
)

_S = MatchState
_IN_HANDS = (_S.QUARANTINED, _S.REPORTED, _S.ACKNOWLEDGED)
_ENDED = (_S.GONE, _S.WITHDRAWN, _S.RESTORED, _S.PURGED, _S.CLOSED)
#: For each state, the states that may come before it. `docs/operations/after-a-match.md` says who
#: changes a state, and which data are kept. A state may also change to an earlier state when a
#: report is retracted, or when an entry is listed again.
COMES_FROM: Mapping[MatchState, tuple[MatchState, ...]] = {
    _S.FOUND: (_S.HELD, _S.EXCEPTED, *_ENDED),
    _S.HELD: (_S.FOUND, _S.EXCEPTED, *_ENDED),
    _S.EXCEPTED: (_S.FOUND, _S.HELD, *_ENDED),
    _S.QUARANTINED: (_S.FOUND, _S.HELD),
    _S.REPORTED: (_S.FOUND, _S.HELD, _S.QUARANTINED),
    _S.ACKNOWLEDGED: (_S.REPORTED,),
    _S.GONE: (_S.FOUND, _S.HELD, _S.WITHDRAWN),
    _S.WITHDRAWN: (_S.FOUND, _S.HELD, *_IN_HANDS, _S.GONE),
    _S.RESTORED: (*_IN_HANDS, _S.WITHDRAWN),
    _S.PURGED: (*_IN_HANDS, _S.WITHDRAWN),
    _S.CLOSED: (_S.FOUND, _S.HELD, *_IN_HANDS, _S.GONE, _S.WITHDRAWN),
}
