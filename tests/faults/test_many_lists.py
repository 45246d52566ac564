"""Very many lists, or entries for one file, take bounded memory and linear time."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import DelegatedRole

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.core.errors import ExitCode, UsageError
from hashclient.core.model import MAX_LISTS
from hashclient.index.open_lists import expected_lists
from hashclient.lists.importers.importfile import Reading
from hashclient.provider import repository
from hashclient.provider.changes import addition
from hashclient.provider.keys import Keys
from hashclient.provider.repository import Repository
from hashclient.provider.screen import read_screened
from tests.attack_world import refused, roles_of
from tests.kit.provider import digests_of
from tests.kit.site import Site

#: The limit of processor time for a first fetch of all lists that a provider may have, each of one
#: segment: twice what it takes beside other work, and far less than work that grows as the square.
MAX_FETCH_S = 20
#: The requests of a client: the next root, the timestamp, and the snapshot and targets if they are
#: new; then the role, the index and the segment of each list.
REQUESTS, REQUESTS_A_LIST = 4, 3
DATA = b"benign"


def publish_at_once(repo: Repository, contents: dict[str, bytes]) -> None:
    """Publish new lists with one signature of the targets; singly it would take a minute."""
    with repo.changing():
        roles = repo.load()
        for name, content in contents.items():
            sources = [(f"{name}.csv", io.BytesIO(content))]
            batches = read_screened(sources, Reading(), None)
            _, change = addition(repo.files, roles, name, batches, category=None, replace=False)
            assert change is not None
            roles.add_list(name, Keys())
            change.write(repo.files, roles)
        roles.commit({"targets", *contents})


def test_a_provider_with_more_lists_than_may_be_is_refused(
    client: Client, simulator: Simulator
) -> None:
    def add(signed: Any) -> None:
        for name in (f"l{n}" for n in range(MAX_LISTS)):
            role = DelegatedRole(name, [], 1, terminating=True, paths=[f"lists/{name}/*"])
            roles_of(signed)[name] = role

    simulator.edit("targets", add)
    refused(client, ExitCode.UNVERIFIED, "offers 257 lists, more than 256")
    # Fetched lists stay in use, and one message covers all lists that are not used.
    doubtful, here = expected_lists(client.settings, client.session.sealer())
    assert here.index is not None
    assert doubtful.name is None
    assert "offers 257 lists, more than 256" in doubtful.problem


def test_a_provider_publishes_no_more_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = Simulator(tmp_path / "repo")
    monkeypatch.setattr(repository, "MAX_LISTS", 1)
    simulator.publish(csv([1]))
    simulator.publish(csv([2]))
    with pytest.raises(UsageError, match="at most 1 lists"):
        simulator.publish(csv([3]), list_name="other")


@pytest.mark.slow
def test_as_many_lists_as_may_be_are_fetched_in_linear_time(tmp_path: Path) -> None:
    file = tmp_path / "files" / "a"
    file.parent.mkdir()
    file.write_bytes(DATA)
    contents = {
        f"list-{n:04d}": f"entry_id,sha256\ne-{n},{digests_of(DATA)[2]}\n".encode()
        for n in range(MAX_LISTS)
    }
    with Site(tmp_path) as site:
        publish_at_once(site.repository, contents)
        assert site.run(*site.init_arguments()).code == 0
        site.requests.clear()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert site.run("fetch").code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MAX_FETCH_S
        assert len(site.requests) <= REQUESTS + REQUESTS_A_LIST * MAX_LISTS
        fetched = site.run("audit", "show", "--event", "fetch", "--format", "jsonl").lines
        assert [line["data"]["list"] for line in fetched] == list(contents)
        assert site.run("scan", file.parent).code == ExitCode.MATCH
        (logged,) = site.run("audit", "show", "--event", "match", "--format", "jsonl").lines
        assert len(logged["data"]["hits"]) == MAX_LISTS


@pytest.mark.slow
def test_a_match_with_any_number_of_entries_is_in_the_log(tmp_path: Path) -> None:
    """One file is listed under 10,000 ids, beside another match in the same batch."""
    count = 10_000
    file = tmp_path / "files" / "a"
    file.parent.mkdir()
    file.write_bytes(DATA)
    (file.parent / "b").write_bytes(b"another")
    rows = [f"{'e' * 50}-{n},{digests_of(DATA)[2]}" for n in range(count)]
    rows.append(f"another,{digests_of(b'another')[2]}")
    with Site(tmp_path) as site:
        site.publish("\n".join(["entry_id,sha256", *rows, ""]).encode())
        assert site.run(*site.init_arguments()).code == 0
        assert site.run("fetch").code == 0
        for _ in range(2):
            assert site.run("scan", file.parent).code == ExitCode.MATCH
        logged = site.run("audit", "show", "--event", "match", "--format", "jsonl").lines
        assert site.run("audit", "verify").code == 0
        (listed,) = (
            match
            for match in site.run("matches", "--format", "jsonl").lines
            if match.get("path") == str(file)
        )
    parts = [r["data"] for r in logged if r["data"]["path"] == str(file)]
    others = [r["data"] for r in logged if r["data"]["path"] != str(file)]
    assert len(others) == 2
    half = len(parts) // 2
    for scan in (parts[:half], parts[half:]):
        assert [part["part"] for part in scan] == list(range(1, half + 1))
        assert {part["id"] for part in scan} == {listed["id"]}
        assert len({hit["entry"] for part in scan for hit in part["hits"]}) == count
