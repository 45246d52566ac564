"""A token for some lists: the others are not offered to this client, and scans do not miss them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.errors import AuthorisationError, VerificationError
from hashclient.index.open_lists import delegated_lists, expected_lists
from hashclient.net.client import RefusedError
from hashclient.system.layout import DENIED_NAME, TARGETS_NAME
from tests.kit.state import purpose_of


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """Lists a, b and c."""
    made = Simulator(tmp_path / "repo")
    for number, name in enumerate("abc"):
        made.publish(csv(range(3 * number, 3 * number + 3)), name)
    return made


def deny(simulator: Simulator, *names: str, status: int = 403) -> None:
    """Serve as to a client with a token that is not for these lists."""

    def refuse(url: str, _body: bytes, _cap: int) -> bytes:
        raise RefusedError(f"provider refuses the credential: {url}: {status}", status)

    simulator.faults = {f"metadata/*.{name}.json": refuse for name in names}
    simulator.faults |= {f"targets/lists/{name}/*": refuse for name in names}


def missing(client: Client) -> list[str | None]:
    expected = expected_lists(client.settings, client.session.sealer())
    return [entry.name for entry in expected if entry.problem]


def test_other_lists_are_not_offered(simulator: Simulator, tmp_path: Path) -> None:
    deny(simulator, "b")
    client = Client(tmp_path / "state", simulator, simulator.root)
    for _ in range(2):
        assert [fetched.list_name for fetched in client.fetch()] == ["a", "c"]
        assert missing(client) == []
        manifest = client.manifest("a")
        assert manifest is not None and manifest.offered == ("a", "c")
    assert client.numbers(range(9)) == {0, 1, 2, 6, 7, 8}
    targets = client.settings.layout.metadata("main") / TARGETS_NAME
    assert sorted(delegated_lists(targets) or ()) == ["a", "c"]
    note = client.settings.layout.provider("main") / DENIED_NAME
    assert purpose_of(note.relative_to(client.settings.layout.root).as_posix()) is not None


def test_one_request_more_is_made_for_each_of_them(simulator: Simulator, tmp_path: Path) -> None:
    deny(simulator, "b")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    assert len(simulator.requests) == len(set(simulator.requests))
    simulator.requests.clear()
    client.fetch()
    assert len(simulator.requests) == 3
    assert sum(".b.json" in path for path in simulator.requests) == 1


def test_access_that_is_given_later_brings_the_list(simulator: Simulator, tmp_path: Path) -> None:
    deny(simulator, "b", "c")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    deny(simulator, "c")
    client.fetch("a")  # which does not ask for the others
    assert missing(client) == []
    assert [fetched.list_name for fetched in client.fetch()] == ["a", "b"]
    assert client.numbers(range(9)) == set(range(6))


def test_access_that_is_taken_away_is_an_error(simulator: Simulator, tmp_path: Path) -> None:
    """The list is here, and would not be kept up to date."""
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    simulator.publish(csv(range(20, 23)), "b")
    deny(simulator, "b")
    with pytest.raises(AuthorisationError):
        client.fetch()
    assert not (client.settings.layout.provider("main") / DENIED_NAME).exists()


def test_a_list_that_the_configuration_names_is_an_error(
    simulator: Simulator, tmp_path: Path
) -> None:
    deny(simulator, "b")
    client = Client(tmp_path / "state", simulator, simulator.root, lists=("a", "b"))
    with pytest.raises(AuthorisationError):
        client.fetch()
    assert "b" in missing(client)


@pytest.mark.parametrize("status", [401, 407])
def test_only_403_says_that_a_list_is_for_others(
    simulator: Simulator, tmp_path: Path, status: int
) -> None:
    deny(simulator, "b", status=status)
    client = Client(tmp_path / "state", simulator, simulator.root)
    with pytest.raises(AuthorisationError):
        client.fetch()
    assert "b" in missing(client)


def test_a_token_for_no_list_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    deny(simulator, "a", "b", "c")
    client = Client(tmp_path / "state", simulator, simulator.root)
    for only in ((), ("a",)):
        with pytest.raises(AuthorisationError, match="the credential is for none of its lists"):
            client.fetch(*only)


def test_a_note_that_was_forged_hides_no_list_that_was_here(
    simulator: Simulator, tmp_path: Path
) -> None:
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    note = client.settings.layout.provider("main") / DENIED_NAME
    note.write_text('["b", "c"]')
    assert missing(client) == []  # they are here
    for path in sorted((client.settings.layout.lists / "b").iterdir()):
        path.unlink()
    (client.settings.layout.lists / "b").rmdir()
    assert missing(client) == ["b"]
    for nonsense in ("nonsense", "{}", "[1]", "[" * 100_000):
        note.write_text(nonsense)
        assert missing(client) == ["b"]


def test_another_failure_of_a_role_is_said_once(simulator: Simulator, tmp_path: Path) -> None:
    simulator.tamper("metadata/*.b.json", lambda data: data + b" ")
    client = Client(tmp_path / "state", simulator, simulator.root)
    with pytest.raises(VerificationError):
        client.fetch()
    assert len([path for path in simulator.requests if path.endswith(".b.json")]) == 1
