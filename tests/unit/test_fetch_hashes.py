"""A list that is signed by SHA-512 only, as TUF allows: fetched, kept up to date, logged."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.audit.log import read


def test_a_list_that_is_signed_by_sha512_alone(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv(range(5)))
    client = Client(tmp_path / "state", simulator, simulator.root)
    index = simulator.files[simulator.target_path("index.json")]
    digest = hashlib.sha512(index).hexdigest()
    simulator.use_hashes("sha512", named_by="sha512")
    assert client.fetch()[0].added == 5
    assert client.numbers(range(8)) == set(range(5))
    assert client.leftovers() == set()
    # Without a change, a fetch needs as many requests as for a list with SHA-256.
    simulator.requests.clear()
    assert client.fetch()[0].changed is False
    assert simulator.requests == ["metadata/2.root.json", "metadata/timestamp.json"]
    logged = [r.data for r in read(client.settings.layout.audit, event="fetch")]
    assert [data["index_sha512"] for data in logged] == [digest, digest]
    assert "index_sha256" not in logged[0]


def test_a_provider_may_change_its_hashes(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv(range(5)))
    client = Client(tmp_path / "state", simulator, simulator.root)
    assert client.fetch()[0].added == 5
    simulator.use_hashes("sha512", named_by="sha512")
    (fetched,) = client.fetch()
    assert (fetched.changed, fetched.generation, fetched.entries) == (False, 1, 5)
    # The provider signs later versions of the metadata with its own algorithm.
    simulator.publish(csv(range(5, 6)))
    simulator.publish(csv(range(6, 7)))
    assert client.fetch()[0].added == 2
    assert client.numbers(range(8)) == set(range(7))
