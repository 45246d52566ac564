"""Lists of a provider that our credential is not for: for this client they are not offered.

All clients of a provider see the names of all lists, since they verify the same metadata. A server
may keep a list from a client: it answers 403 to the role of the list. A list that is here already,
or that the configuration names, is not among these: then the refusal is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from hashclient.errors import AuthorisationError, HashclientError
from hashclient.index.open_lists import denied_lists
from hashclient.lists.wire import INDEX_NAME
from hashclient.system.files import write_atomic
from hashclient.system.layout import DENIED_NAME
from hashclient.trust.tuf import Trust

#: The answer to a credential that is known, and not for this file.
_FORBIDDEN = 403


def load_roles(trust: Trust, names: Collection[str]) -> dict[str, HashclientError | None]:
    """Load the roles of lists; return the error for each, or None."""
    found: dict[str, HashclientError | None] = dict.fromkeys(sorted(names))
    for name in found:
        try:
            trust.target(name, INDEX_NAME)
        except HashclientError as error:
            found[name] = error
    return found


def note_denied(
    folder: Path, new: Collection[str], asked: Mapping[str, HashclientError | None]
) -> set[str]:
    """Return which of the `new` lists the credential is not for; scans do not miss them.

    Those that were not `asked` for are as the last fetch has noted in the provider's `folder`.

    Raises:
        StateError: it cannot be noted.
    """
    path = folder / DENIED_NAME
    before = denied_lists(path)
    denied = {name for name in before.difference(asked) if name in new}
    for name, error in asked.items():
        if isinstance(error, AuthorisationError) and getattr(error, "status", None) == _FORBIDDEN:
            denied.add(name)
    if denied != before:
        write_atomic(path, msgspec.json.encode(sorted(denied)) + b"\n")
    return denied
