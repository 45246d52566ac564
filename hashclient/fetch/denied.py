"""Records lists that a provider refuses to our credential; this client treats them as not offered.

All clients of a provider see the names of all lists, because they verify the same metadata. A
server may withhold a list from a client: it answers 403 to a request for the role of the list. Each
address of a provider has its own credential, so a list is denied only if every address refuses it
(see `providers`). A list stays denied until an address delivers it; other failures change nothing.
If a list is on this machine already, or if the configuration names it, a refusal is an error.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from hashclient.core.errors import AuthorisationError, HashclientError
from hashclient.index.open_lists import denied_lists
from hashclient.lists.wire import INDEX_NAME
from hashclient.system.files import write_atomic
from hashclient.system.layout import DENIED_NAME
from hashclient.trust.tuf import Trust

#: The HTTP status of a request whose credential is known but does not permit access to the file.
_FORBIDDEN = 403


class Asked(msgspec.Struct, frozen=True):
    """The results of requests for the roles of new lists.

    `refused`: the lists that this address refuses, and the lists that were denied before and whose
    role fails in another way. `failed`: the lists whose roles could not be fetched for another
    reason. `denied`: the lists that were denied before and were not delivered now.
    """

    refused: dict[str, HashclientError]
    failed: dict[str, HashclientError]
    denied: frozenset[str]


def ask_for(trust: Trust, folder: Path, new: Collection[str], wanted: Collection[str]) -> Asked:
    """Load the TUF roles of the `new` lists that are wanted.

    Forget denials of lists that are delivered.

    `folder` is the folder of the provider.

    Raises:
        StateError: the file of denials cannot be written.
    """
    failures: dict[str, HashclientError] = {}
    asked = sorted({*new}.intersection(wanted))
    for name in asked:
        try:
            trust.target(name, INDEX_NAME)
        except HashclientError as error:
            failures[name] = error
    before = denied_lists(folder / DENIED_NAME)
    denied = before.intersection(new).difference(set(asked) - failures.keys())
    if denied != before:
        _write(folder, denied)
    refused = {
        name: error
        for name, error in failures.items()
        if name in denied
        or (isinstance(error, AuthorisationError) and getattr(error, "status", None) == _FORBIDDEN)
    }
    failed = {name: error for name, error in failures.items() if name not in refused}
    return Asked(refused, failed, denied)


def note_denied(folder: Path, names: Collection[str]) -> None:
    """Record that every address has refused the lists `names`.

    Scans do not report denied lists as missing.

    Raises:
        StateError: the file of denials cannot be written.
    """
    before = denied_lists(folder / DENIED_NAME)
    if not before.issuperset(names):
        _write(folder, before.union(names))


def _write(folder: Path, names: Collection[str]) -> None:
    write_atomic(folder / DENIED_NAME, msgspec.json.encode(sorted(names)) + b"\n")
