"""Lists that have ended, as the top-level targets say: clients drop them.

The delegation to an ended list is gone, and the snapshot goes on naming its role, as TUF requires
of every role (its specification, 5.5.5). A delegation that is missing may be a mistake, and clients
keep such a list. So the targets name ended lists in a member of their own, beside `delegations`,
which is signed with the rest.
"""

from __future__ import annotations

from collections.abc import Collection

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Targets

from hashclient.core.model import is_name

#: The member of the top-level targets: an array of names.
FIELD = "hashclient-ended"
#: Names are never used again, so there may be more than lists.
MAX_ENDED = 1_024


def ended_lists(targets: Targets) -> frozenset[str]:
    """Return the names of the lists that have ended.

    Raises:
        RepositoryError: the member is no array of names, or names a list that is delegated.
    """
    found = targets.unrecognized_fields.get(FIELD, [])
    if not isinstance(found, list) or not all(isinstance(n, str) and is_name(n) for n in found):
        raise RepositoryError(f"{FIELD} is no array of names of lists")
    names = frozenset(found)
    if len(names) < len(found) or len(names) > MAX_ENDED:
        raise RepositoryError(f"{FIELD} has a name twice, or more than {MAX_ENDED:,}")
    delegations = targets.delegations
    if delegations is not None and names.intersection(delegations.roles or {}):
        raise RepositoryError(f"{FIELD} names a list that is delegated")
    return names


def end(targets: Targets, names: Collection[str]) -> None:
    """Let `targets` say that the lists `names` have ended; their delegations have to be gone."""
    targets.unrecognized_fields[FIELD] = sorted(names)
