"""The simulator of a provider: a client without code of this project finds its attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError, RepositoryError

from fixtures.client import csv
from fixtures.simulator import URL, PlainClient, Simulator, endless, status, truncated
from hashclient.core.errors import (
    AuthorisationError,
    HashclientError,
    UnreachableError,
    VerificationError,
)


def _one_signature_twice(simulator: Simulator) -> None:
    def twice(document: dict[str, Any]) -> None:
        document["signatures"] *= 2

    simulator.edit("timestamp", raw=twice)


def _mixed_generations(simulator: Simulator) -> None:
    old = simulator.files["metadata/1.baseline.json"]
    simulator.publish(csv([3]))
    simulator.files["metadata/2.baseline.json"] = old


ATTACKS: dict[str, Callable[[Simulator], object]] = {
    "tampered": lambda s: s.tamper("metadata/timestamp.json", lambda d: d.replace(b"2", b"3")),
    "unsigned": lambda s: s.edit("snapshot", signers=[]),
    "signed by others": lambda s: s.edit("baseline", signers=[CryptoSigner.generate_ed25519()]),
    "signed by another role": lambda s: s.edit("baseline", signers=s.signers("targets")),
    "one signature twice": _one_signature_twice,
    "root by new keys only": lambda s: s.edit("root", signers=[CryptoSigner.generate_ed25519()]),
    "expired": lambda s: s.expire("baseline"),
    "mixed generations": _mixed_generations,
    "tampered target": lambda s: s.tamper("targets/*/*.index.json", lambda d: d[:-1] + b" "),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_of_the_simulator_are_refused(
    name: str, simulator: Simulator, client: PlainClient
) -> None:
    simulator.publish(csv(range(3)))
    assert client.generation() == 1
    ATTACKS[name](simulator)
    with pytest.raises(RepositoryError):
        client.fetch()


def test_going_back_in_time_is_refused(simulator: Simulator, client: PlainClient) -> None:
    simulator.publish(csv(range(3)))
    saved = dict(simulator.files)
    simulator.publish(csv([3]))
    assert client.generation() == 2
    simulator.files = saved
    with pytest.raises(RepositoryError):
        client.fetch()


def test_a_malicious_list_is_properly_signed(simulator: Simulator, client: PlainClient) -> None:
    simulator.publish(csv(range(3)))
    simulator.replace_target("g000001-add-000.parquet", b"not Parquet")
    assert client.fetch()[1] == {"g000001-add-000.parquet": b"not Parquet"}
    simulator.edit_index(lambda document: document.update(entries=4))
    with pytest.raises(VerificationError, match="4 live entries, but segments add 3"):
        client.fetch()


def test_the_simulator_raises_what_the_transport_raises(simulator: Simulator) -> None:
    url = f"{URL}/metadata/timestamp.json"
    faults: list[tuple[Any, type[HashclientError]]] = [
        (status(401), AuthorisationError),
        (status(503), UnreachableError),
        (truncated, UnreachableError),
        (endless, VerificationError),
        (lambda _url, data, _cap: data[:-1], UnreachableError),
        (lambda _url, data, _cap: data + b" ", VerificationError),
    ]
    size = len(simulator.files["metadata/timestamp.json"])
    for fault, expected in faults:
        simulator.faults = {"metadata/time*": fault}
        with pytest.raises(expected):
            simulator.get(url, 10_000, expected_bytes=size)
    for bad in ("https://other.test/x", f"{URL}/metadata/../x", f"{URL}/%2e", f"{URL}/a?b"):
        with pytest.raises(VerificationError):
            simulator.get(bad, 10)
    with pytest.raises(UnreachableError) as caught:
        simulator.get(f"{URL}/metadata/9.root.json", 10)
    assert getattr(caught.value, "status", None) == 404
    with pytest.raises(LookupError):
        simulator.tamper("nothing", bytes)
    assert set(simulator.requests) == {"metadata/timestamp.json", "metadata/9.root.json"}


def test_a_provider_without_access_is_distinguished_from_one_without_a_newer_root(
    simulator: Simulator, client: PlainClient
) -> None:
    simulator.publish(csv(range(3)))
    simulator.faults = {"metadata/*": status(403)}
    with pytest.raises(DownloadHTTPError):
        client.fetch()
