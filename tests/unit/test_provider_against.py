"""Two hosts publish different states of one repository: clients and `status --against` say so."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from fixtures.client import Client, csv, digests_of
from fixtures.simulator import URL, Simulator
from hashclient.core.errors import HashclientError, VerificationError
from hashclient.fetch.fetcher import How
from hashclient.fetch.places import Place
from hashclient.fetch.providers import fetch_in_turn
from hashclient.lists.offline import open_copy
from hashclient.migrations.migrate import writing
from hashclient.provider.against import compare
from hashclient.provider.export import export_bundle
from tests.kit import Run, call


class Hosts:
    """A repository with a list of one generation, and a copy of the repository with all keys."""

    def __init__(self, directory: Path) -> None:
        self.one = Simulator(directory / "one")
        self.one.publish(csv(range(5)))
        shutil.copytree(directory / "one", directory / "two")
        self.two = Simulator(directory / "two")

    def states(self) -> dict[str, str]:
        """Return the states of the second host's roles, as the first host sees them."""
        found = compare(self.one.repository, self.two, URL)
        return {role.role: role.state for role in found}


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


def test_a_copy_is_the_same_behind_or_ahead(hosts: Hosts) -> None:
    assert set(hosts.states().values()) == {"same"}
    hosts.two.publish(csv(range(10, 12)))
    states = hosts.states()
    assert {role for role, state in states.items() if state == "ahead"} == {
        *("baseline", "snapshot", "timestamp")
    }
    assert states["root"] == states["targets"] == "same"
    hosts.one, hosts.two = hosts.two, hosts.one
    assert hosts.states() == {r: s.replace("ahead", "behind") for r, s in states.items()}
    hosts.one.rotate("root")
    assert hosts.states()["root"] == "behind"
    hosts.one, hosts.two = hosts.two, hosts.one
    assert hosts.states()["root"] == "ahead"


def test_a_fork_is_named_by_its_roles(hosts: Hosts) -> None:
    hosts.one.publish(csv(range(10, 12)))
    hosts.two.publish(csv(range(20, 23)))
    forked = {role for role, state in hosts.states().items() if state == "forked"}
    assert forked == {"baseline", "snapshot", "timestamp"}
    # The fork of the repository is found even if one host has published more, or other lists.
    for number in range(30, 33):
        hosts.two.publish(csv([number]))
    states = hosts.states()
    assert (states["baseline"], states["snapshot"]) == ("forked", "forked")


def test_different_lists_make_a_fork_as_well(hosts: Hosts) -> None:
    hosts.one.publish(csv(range(3)), "left")
    hosts.two.publish(csv(range(3)), "right")
    states = hosts.states()
    assert (states["targets"], states["snapshot"]) == ("forked", "forked")
    assert (states["left"], states["right"], states["baseline"]) == ("behind", "ahead", "same")


def test_what_other_keys_have_signed_is_foreign(hosts: Hosts, tmp_path: Path) -> None:
    other = Simulator(tmp_path / "other")
    other.publish(csv(range(5)))
    hosts.two = other
    assert hosts.states()["targets"] == "foreign"


def test_damage_here_is_named(hosts: Hosts) -> None:
    """The damaged file belongs to an earlier version, which this repository no longer needs."""
    there = hosts.two.repository.public
    hosts.one.publish(csv(range(10, 12)))
    (hosts.one.repository.public / "metadata" / "1.baseline.json").write_text("nonsense")
    assert "corrupt metadata" in status(hosts, "--against", there, code=8).err


def test_nonsense_is_refused(hosts: Hosts) -> None:
    hosts.two.tamper("metadata/timestamp.json", lambda _: b"nonsense")
    with pytest.raises(VerificationError, match=r"not metadata: timestamp\.json"):
        hosts.states()
    hosts.two.files.clear()
    with pytest.raises(VerificationError, match="not a repository of hash lists"):
        hosts.states()


def test_a_server_that_has_always_a_newer_root_is_refused(hosts: Hosts) -> None:
    root = hosts.two.files["metadata/1.root.json"]
    hosts.two.faults["metadata/*.root.json"] = lambda *_: root
    with pytest.raises(VerificationError, match="more than 256 newer roots"):
        hosts.states()


@pytest.mark.parametrize("value", [0.5, "\ud800"])
def test_metadata_that_cannot_be_signed_is_refused(hosts: Hosts, value: object) -> None:
    def change(data: bytes) -> bytes:
        document = json.loads(data)
        document["signed"]["x"] = value
        return json.dumps(document).encode()

    hosts.two.tamper("metadata/*.baseline.json", change)
    with pytest.raises(VerificationError, match=r"not metadata: 1\.baseline\.json"):
        hosts.states()


def test_a_name_of_the_other_host_cannot_control_the_terminal(hosts: Hosts) -> None:
    there = hosts.two.repository.public
    path = there / "metadata" / f"{hosts.two.metadata('snapshot').signed.version}.snapshot.json"
    document = json.loads(path.read_bytes())
    document["signed"]["meta"]["\x1b[2J.json"] = {"version": 1}
    path.write_text(json.dumps(document))
    assert "\\x1b[2J" in status(hosts, "--against", there, code=6).out


def fetch(client: Client, simulator: Simulator) -> list[HashclientError]:
    """Fetch from one of the hosts, and return the errors that the fetch reported."""
    named: list[HashclientError] = []
    with writing(client.settings.layout):
        session = client.session
        session.sealer(create=not client.settings.layout.seal_key.exists())
        place = Place(URL, URL, lambda: contextlib.nullcontext(simulator))
        how = How(on_failure=named.append)
        for fetched in fetch_in_turn(session, "main", [place], (), how):
            if fetched.error is not None:
                raise fetched.error
    return named


def test_a_client_names_the_fork_and_builds_the_list_again(hosts: Hosts, tmp_path: Path) -> None:
    client = Client(tmp_path / "state", hosts.one, hosts.one.root)
    hosts.one.publish(csv(range(10, 12)))
    assert fetch(client, hosts.one) == []
    hosts.two.publish(csv(range(20, 23)))
    hosts.two.publish(csv(range(30, 31)))
    (error,) = fetch(client, hosts.two)
    assert error.message == (
        "list baseline has forked: generation 3 does not follow generation 2, which is here; the "
        "list is built again"
    )
    assert error.hint is not None and "two hosts publish the same repository" in error.hint
    assert client.numbers(range(40)) == {*range(5), *range(20, 23), 30}
    assert fetch(client, hosts.two) == []


def test_a_client_refuses_another_state_of_the_same_generation(
    hosts: Hosts, tmp_path: Path
) -> None:
    client = Client(tmp_path / "state", hosts.one, hosts.one.root)
    hosts.one.publish(csv(range(10, 12)))
    fetch(client, hosts.one)
    hosts.two.publish(csv(range(20, 23)))
    hosts.two.publish(csv(range(3)), "other")
    with pytest.raises(VerificationError, match="was published again with other") as caught:
        fetch(client, hosts.two)
    assert caught.value.hint is not None and "two hosts" in caught.value.hint
    assert client.numbers(range(40)) == {*range(5), 10, 11}


def without_ids(*numbers: int) -> bytes:
    """Return entries without ids: both hosts choose the same ids for them."""
    rows = [
        digest.hex() for n in numbers for a, digest in digests_of(n).items() if a.label == "md5"
    ]
    return "\n".join(["md5", *rows, ""]).encode()


def listed(client: Client, *numbers: int) -> list[int]:
    """Return which files are listed, whatever the ids of their entries are."""
    judge = client.open().judge()
    return [n for n in numbers if judge.hits(judge.seal(digests_of(n)), None)]


@pytest.fixture
def same_ids(hosts: Hosts, tmp_path: Path) -> Client:
    """A client of the first host; both hosts have published different entries under equal ids."""
    client = Client(tmp_path / "state", hosts.one, hosts.one.root)
    hosts.one.publish(without_ids(10, 11))
    hosts.two.publish(without_ids(20, 21))
    fetch(client, hosts.one)
    return client


def test_another_state_with_the_same_ids_is_refused(hosts: Hosts, same_ids: Client) -> None:
    hosts.two.publish(csv(range(3)), "other")
    with pytest.raises(VerificationError, match="generation 2 was published again with other"):
        fetch(same_ids, hosts.two)
    assert listed(same_ids, 10, 11, 20, 21) == [10, 11]


def test_a_fork_with_the_same_ids_is_named_and_built_again(hosts: Hosts, same_ids: Client) -> None:
    hosts.two.publish(without_ids(30))
    (error,) = fetch(same_ids, hosts.two)
    assert "generation 3 does not follow generation 2, which is here" in error.message
    assert listed(same_ids, 10, 11, 20, 21, 30) == [20, 21, 30]
    assert fetch(same_ids, hosts.two) == []


def test_after_new_snapshot_keys_the_other_state_is_taken(hosts: Hosts, same_ids: Client) -> None:
    hosts.two.rotate("snapshot")
    assert fetch(same_ids, hosts.two) == []
    assert listed(same_ids, 10, 11, 20, 21) == [20, 21]


def test_a_segment_that_is_signed_again_under_the_same_index_is_refused(
    hosts: Hosts, same_ids: Client
) -> None:
    name = "g000002-add-000.parquet"
    hosts.one.replace_target(name, hosts.two.files[hosts.two.target_path(name)])
    with pytest.raises(VerificationError, match="generation 2 was published again with other"):
        fetch(same_ids, hosts.one)


def test_damage_here_is_not_called_a_fork(hosts: Hosts, tmp_path: Path) -> None:
    """A consolidation, new snapshot keys, or a proper next generation does not count as a fork."""
    client = Client(tmp_path / "state", hosts.one, hosts.one.root)
    fetch(client, hosts.one)
    hosts.one.publish(csv(range(10, 12)))
    hosts.one.repository.consolidate("baseline", keep_newest=0)
    hosts.one.serve_published()
    assert fetch(client, hosts.one) == []
    hosts.two.publish(csv(range(20, 23)))
    hosts.two.publish(csv(range(30, 31)))
    for _ in range(3):
        hosts.two.renew()
        hosts.two.rotate("snapshot")
    assert fetch(client, hosts.two) == []


# The command


def status(hosts: Hosts, *words: object, code: int) -> Run:
    done = call("provider", "status", hosts.one.repository.directory, *words)
    assert done.code == code, done.err
    return done


def test_the_command(hosts: Hosts, tmp_path: Path) -> None:
    there = hosts.two.repository.public
    same = status(hosts, "--against", there, code=0)
    assert same.out.splitlines()[0].split() == ["ROLE", "HERE", "THERE", "STATE"]
    hosts.two.publish(csv(range(20, 23)))
    assert (
        "the address is ahead: copy the newer repository"
        in status(hosts, "--against", there, code=3).err
    )
    hosts.one.publish(csv(range(10, 12)))
    forked = status(hosts, "--against", there, "--format", "json", code=6)
    assert "forked: snapshot, timestamp, baseline: another host" in forked.err
    document = json.loads(forked.out)
    assert {r["role"]: r["state"] for r in document["roles"]}["baseline"] == "forked"
    bundle = tmp_path / "two.bundle"
    export_bundle(hosts.two.repository.directory, bundle, {})
    status(hosts, "--against", bundle, code=6)
    status(hosts, "--token-file", bundle, code=2)
    status(hosts, "--against", tmp_path / "nothing", code=2)
    with open_copy(bundle) as copy, pytest.raises(HashclientError):
        compare(hosts.one.repository, copy, "offline:elsewhere?")


def consolidated(simulator: Simulator, *, keep_newest: int) -> None:
    """Join the older segments of a host's list, and serve the result."""
    simulator.repository.consolidate("baseline", keep_newest=keep_newest)
    simulator.serve_published()


def test_a_fork_is_named_after_its_segments_were_consolidated(
    hosts: Hosts, same_ids: Client
) -> None:
    """No segment that the client has applied has a name by which it could be compared any more."""
    hosts.two.publish(without_ids(30))
    consolidated(hosts.two, keep_newest=1)
    (error,) = fetch(same_ids, hosts.two)
    assert "generation 3 does not follow generation 2, which is here" in error.message
    assert listed(same_ids, 10, 11, 20, 21, 30) == [20, 21, 30]
    assert fetch(same_ids, hosts.two) == []


def test_another_state_that_was_consolidated_is_refused(hosts: Hosts, same_ids: Client) -> None:
    consolidated(hosts.two, keep_newest=0)
    with pytest.raises(VerificationError, match="generation 2 was published again with other"):
        fetch(same_ids, hosts.two)


def test_a_consolidation_of_the_same_host_is_no_fork(hosts: Hosts, same_ids: Client) -> None:
    for number in range(40, 43):
        hosts.one.publish(without_ids(number))
        consolidated(hosts.one, keep_newest=1)
        assert fetch(same_ids, hosts.one) == []
        consolidated(hosts.one, keep_newest=0)
        assert fetch(same_ids, hosts.one) == []
    assert listed(same_ids, 10, 11, 40, 41, 42) == [10, 11, 40, 41, 42]
