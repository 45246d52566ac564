"""For how long a snapshot and a timestamp may be signed at most, as the root says.

Their keys lie on a machine that publishes every day. A thief of them could otherwise sign a
repository that clients take as fresh for years. The keys of the root are kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Signed

#: The member of the root: a number of days.
FIELD = "hashclient-longest-days"
MAX_DAYS = 3660
#: The clocks of a provider and a client may differ by so much.
TOLERANCE = timedelta(days=1)


def longest_of(root: Root) -> timedelta | None:
    """Return for how long snapshot and timestamp may be signed; None if the root does not say.

    Raises:
        RepositoryError: the member is no number of days.
    """
    days = root.unrecognized_fields.get(FIELD)
    if days is None:
        return None
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= MAX_DAYS:
        raise RepositoryError(f"{FIELD} is no number of days from 1 to {MAX_DAYS:,}")
    return timedelta(days=days)


def verify_expiry(root: Root, roles: Mapping[str, Signed], now: datetime) -> None:
    """Check that snapshot and timestamp among `roles` expire as soon as the root wants it.

    Raises:
        RepositoryError: one expires later, seen from `now`; or as `longest_of`.
    """
    longest = longest_of(root)
    if longest is None:
        return
    for name in ("snapshot", "timestamp"):
        if roles[name].expires > now + longest + TOLERANCE:
            raise RepositoryError(
                f"{name} is signed for more than the {longest.days:,} days that the root allows"
            )
