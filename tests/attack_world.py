"""A provider with three generations and a client of it, for tests of attacks.

The fixtures are in `tests/faults/conftest.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole

from fixtures.client import Client, digests_of
from fixtures.simulator import Simulator
from hashclient.core.errors import ExitCode, HashclientError

#: Generation 1 lists entries 0-9, generation 2 adds 10-14, and generation 3 withdraws 0 and 1.
OLD, NEW = set(range(15)), set(range(2, 15))
ALL = range(20)
G2 = "g000002-add-000.parquet"


@dataclass
class Generations:
    """A provider with three generations, the files of each, and a client at generation 2."""

    simulator: Simulator
    served: dict[int, dict[str, bytes]]
    template: Path
    root: bytes


def refused(client: Client, code: ExitCode, message: str) -> HashclientError:
    """Check that a fetch fails in the expected way, and that no list has changed."""
    before = client.list_files()
    with pytest.raises(HashclientError) as caught:
        client.fetch()
    error = caught.value
    assert error.exit_code is code, error.message
    assert re.search(message, error.message), error.message
    assert error.message.isprintable() and len(error.message) < 600
    for number in ALL:
        assert not any(digest.hex() in error.message for digest in digests_of(number).values())
    assert client.list_files() == before
    assert client.leftovers() == set()
    assert client.numbers(ALL) == OLD
    return error


def new_root_key(signer: CryptoSigner) -> Callable[[Any], None]:
    def change(root: Any) -> None:
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        root.add_key(signer.public_key, "root")

    return change


def roles_of(signed: Any) -> dict[str, DelegatedRole]:
    roles: dict[str, DelegatedRole] = signed.delegations.roles
    return roles
