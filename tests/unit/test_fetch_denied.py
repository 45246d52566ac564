"""A token for some lists: the client is not offered the other lists, and scans do not need them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator, status
from hashclient.core.errors import AuthorisationError, HashclientError, VerificationError
from hashclient.fetch.fetcher import How
from hashclient.fetch.providers import fetch_in_turn
from hashclient.fetch.switch import Fetched
from hashclient.index.open_lists import delegated_lists, expected_lists
from hashclient.migrations.migrate import writing
from hashclient.net.client import RefusedError
from hashclient.system.layout import DENIED_NAME, TARGETS_NAME
from tests.kit.state import purpose_of
from tests.unit.test_fetch_mirrors import place_of


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """Return a provider with the lists a, b and c."""
    made = Simulator(tmp_path / "repo")
    for number, name in enumerate("abc"):
        made.publish(csv(range(3 * number, 3 * number + 3)), name)
    return made


def deny(simulator: Simulator, *names: str, status: int = 403) -> None:
    """Answer like a server for a client whose token excludes these lists."""

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
    client.fetch("a")  # this fetch does not ask for the lists `b` and `c`
    assert missing(client) == []
    assert [fetched.list_name for fetched in client.fetch()] == ["a", "b"]
    assert client.numbers(range(9)) == set(range(6))


def test_access_that_is_taken_away_is_an_error(simulator: Simulator, tmp_path: Path) -> None:
    """Without an error, the client's copy of the refused list would silently stay out of date."""
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
        with pytest.raises(AuthorisationError, match="the credential allows none of its lists"):
            client.fetch(*only)


def test_a_note_that_was_forged_hides_no_list_that_was_here(
    simulator: Simulator, tmp_path: Path
) -> None:
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    note = client.settings.layout.provider("main") / DENIED_NAME
    note.write_text('["b", "c"]')
    assert missing(client) == []  # the client still has the lists `b` and `c`
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


def test_a_failure_of_its_role_leaves_a_list_not_offered(
    simulator: Simulator, tmp_path: Path
) -> None:
    """A 503 for a list that was denied before does not make the list expected."""
    deny(simulator, "b")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    simulator.faults = {"metadata/*.b.json": status(503)}
    client.fetch()
    assert missing(client) == []
    deny(simulator, "b")
    client.fetch()
    assert missing(client) == []


def test_a_failure_before_the_first_refusal_is_an_error_until_then(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults = {"metadata/*.b.json": status(503)}
    client = Client(tmp_path / "state", simulator, simulator.root)
    with pytest.raises(HashclientError):
        client.fetch()
    assert missing(client) == ["b"]
    deny(simulator, "b")
    client.fetch()
    assert missing(client) == []


class TwoPlaces:
    """A client and two addresses of the provider, each with its own credential."""

    def __init__(self, provider: Simulator, state: Path) -> None:
        self.client = Client(state, provider, provider.root)
        self.places = [copy.copy(provider), copy.copy(provider)]
        self.told: list[HashclientError] = []

    def fetch(self, *only: str) -> dict[str, int | None]:
        """Fetch, and return the exit code for each list, or None for a list that was fetched."""
        for place in self.places:
            place.requests = []
        self.told.clear()
        with writing(self.client.settings.layout):
            self.client.session.sealer(create=True)
            places = [place_of(one, f"m-{n}") for n, one in enumerate(self.places, 1)]
            how = How(on_failure=self.told.append)
            results: list[Fetched] = list(
                fetch_in_turn(self.client.session, "main", places, only, how)
            )
        return {r.list_name: int(r.error.exit_code) if r.error else None for r in results}


@pytest.fixture
def two(simulator: Simulator, tmp_path: Path) -> TwoPlaces:
    return TwoPlaces(simulator, tmp_path / "state")


@pytest.mark.parametrize("first", [0, 1])
def test_a_list_that_another_address_gives_is_offered(two: TwoPlaces, first: int) -> None:
    deny(two.places[first], "b")
    for _ in range(2):
        assert two.fetch() == {"a": None, "b": None, "c": None}
        assert missing(two.client) == []
    assert two.client.numbers(range(9)) == set(range(9))


def test_each_address_may_give_another_list(two: TwoPlaces) -> None:
    deny(two.places[0], "a", "b")
    deny(two.places[1], "b", "c")
    for _ in range(2):
        assert two.fetch() == {"a": None, "c": None}
        assert missing(two.client) == []
    assert two.told == []
    manifest = two.client.manifest("c")
    assert manifest is not None and manifest.offered == ("a", "c")


def test_a_list_that_each_address_refuses_is_not_offered(two: TwoPlaces) -> None:
    for place in two.places:
        deny(place, "b")
    for _ in range(2):
        assert two.fetch() == {"a": None, "c": None}
        assert missing(two.client) == [] and two.told == []
    # The second address is asked only for the list that the first address refused.
    assert [path for path in two.places[1].requests if ".b.json" in path]
    assert not [path for path in two.places[1].requests if path.startswith("targets/")]
    deny(two.places[1])  # from now on, the second address refuses list `b` no longer
    assert two.fetch() == {"a": None, "b": None, "c": None}


@pytest.mark.parametrize("first", [0, 1])
def test_an_address_that_is_down_does_not_count_as_a_refusal(two: TwoPlaces, first: int) -> None:
    """An unreachable address may offer the list, so only refusals by all addresses count."""
    refusing, down = two.places[first], two.places[1 - first]
    deny(refusing, "b")
    down.faults = {"*": status(503)}
    assert two.fetch() == {"a": None, "b": 5, "c": None}
    assert missing(two.client) == ["b"]
    deny(down, "b")
    assert two.fetch() == {"a": None, "c": None}
    down.faults = {"*": status(503)}
    assert two.fetch() == {"a": None, "c": None}
    assert missing(two.client) == []


def test_a_credential_for_nothing_at_one_address_is_passed_over(two: TwoPlaces) -> None:
    deny(two.places[0], "a", "b", "c")
    deny(two.places[1], "b")
    assert two.fetch() == {"a": None, "c": None}
    assert [error.exit_code for error in two.told] == [5]
    assert missing(two.client) == []


def test_what_a_useless_credential_refuses_is_not_denied_for_another_address(
    two: TwoPlaces,
) -> None:
    deny(two.places[0], "a", "b", "c")
    two.places[1].faults = {"metadata/*.b.json": status(503)}
    assert two.fetch() == {"a": None, "b": 5, "c": None}
    assert missing(two.client) == ["b"]
    two.places[1].faults = {}
    assert two.fetch() == {"a": None, "b": None, "c": None}


def test_credentials_that_are_for_nothing_at_all_addresses_are_refused(two: TwoPlaces) -> None:
    for place in two.places:
        deny(place, "a", "b", "c")
    for only in ((), ("a",)):
        with pytest.raises(AuthorisationError, match="the credential allows none of its lists"):
            two.fetch(*only)
