"""The number of keys of a role, and how long the signatures of each role are valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Root

from hashclient.core.errors import StateError, UsageError
from hashclient.system.text import for_people
from hashclient.trust.additions import longest_of

Clock = Callable[[], datetime]


class Keys(msgspec.Struct, frozen=True):
    """The number of keys of a role, and how many of these keys have to sign.

    `public` has the public keys of people who sign drafts on their own machines.
    """

    count: int = 1
    threshold: int = 1
    public: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.count <= 16:
            raise UsageError(
                f"a threshold of {self.threshold} with {self.count} keys is not possible",
                hint="1 <= threshold <= keys <= 16",
            )


class Validity(msgspec.Struct, frozen=True):
    """How long signatures are valid.

    If somebody withholds new versions from clients, clients notice this when the signatures expire.
    """

    root: timedelta = timedelta(days=365)
    targets: timedelta = timedelta(days=365)
    lists: timedelta = timedelta(days=90)
    snapshot: timedelta = timedelta(days=30)
    timestamp: timedelta = timedelta(days=7)
    #: The longest validity that a new root allows for snapshot and timestamp. A provider may use
    #: such a long validity once, for example before a holiday.
    longest: timedelta = timedelta(days=60)

    def of(self, role: str) -> timedelta:
        """Return how long a signature of `role` is valid; `role` may be the name of a list."""
        validity: timedelta = getattr(self, role if role in TOP_LEVEL_ROLE_NAMES else "lists")
        return validity


class Expiry:
    """Computes when new signatures expire, and which roles are due to be signed again.

    The argument `ends` of the methods maps each role to the time at which its signatures expire.
    """

    def __init__(self, clock: Clock, validity: Validity) -> None:
        self._clock = clock
        self._validity = validity
        #: The time until which new signatures are valid at least; None for the usual validity.
        self._until: datetime | None = None

    def of(self, role: str) -> datetime:
        """Return the time at which a signature of `role` expires if it is made now."""
        usual = self._clock().replace(microsecond=0) + self._validity.of(role)
        return max(usual, self._until or usual)

    def hold_until(self, until: datetime, root: Root) -> None:
        """Make new signatures valid until at least `until`, if `root` allows this validity.

        Raises:
            UsageError: the root does not allow a validity until `until`, or `until` has passed.
            StateError: the field of the root is not a number of days.
        """
        try:
            longest = longest_of(root)
        except RepositoryError as error:
            raise StateError(f"corrupt metadata: {error}") from error
        last = self._clock() + (longest or timedelta(0))
        if not self._clock() < until <= last:
            said = "does not say how long" if longest is None else f"allows {longest.days} days"
            raise UsageError(
                f"signatures cannot hold until {for_people(until)}: the root {said}",
                hint=f"give a time to come, at the latest {for_people(last)}; `hashclient provider"
                " rotate REPO root --longest-days N` allows more",
            )
        self._until = until

    def with_less_than(
        self, share: float, ends: Mapping[str, datetime]
    ) -> list[tuple[str, datetime]]:
        """Return the roles with less than `share` of their validity left, and when they expire."""
        now = self._clock()
        return [(r, at) for r, at in ends.items() if at - now < self._validity.of(r) * share]

    def due(self, ends: Mapping[str, datetime]) -> list[str]:
        """Return the roles past half of their validity, and roles that expire before `_until`."""
        half = dict(self.with_less_than(1 / 2, ends))
        return [r for r, at in ends.items() if r in half or (self._until and at < self._until)]
