"""`fetch`, `status` and the audit log name earlier matches whose entry is withdrawn."""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import content, csv, digests_of
from fixtures.simulator import Simulator
from hashclient.audit import log
from hashclient.cli import fetch as fetch_command
from hashclient.config.edit import provider_table
from hashclient.core.kinds import Algorithm
from hashclient.matches.store import Matches
from hashclient.system.layout import MATCHES_NAME as DATABASE_NAME
from tests.kit import Run, State, bytes_path, run, write_tree

LISTED = range(6)


class Withdrawals(State):
    """A tree in which f<n> is the file of entry e-<n>; some of these entries are listed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, files={f"f{n}": content(n) for n in range(8)})
        self.provider.publish(csv(LISTED))
        self.client.fetch()
        self.configure(provider_table("main", self.client.settings.provider("main")))

    def quarantine(self, *names: str) -> dict[str, str]:
        """Isolate files by a scan, and return the ids of their matches by name."""
        self.officer = self.tree.with_name("officer.key")
        args = ("quarantine", "keygen", "--write-config", "--output", self.officer)
        assert self.call(*args).code == 0
        result = self.scan("--quarantine", *(self.tree / name for name in names))
        return {Path(line["path"]).name: line["id"] for line in result.lines[:-1]}

    def states_of(self, ids: dict[str, str]) -> dict[str, str]:
        with Matches(self.path) as matches:
            return {name: str(matches.get(match_id).state) for name, match_id in ids.items()}

    def status(self) -> list[dict[str, Any]]:
        """Return the withdrawn matches of `status`, which are the same in both formats."""
        result = self.call("status", "--format", "json")
        found: list[dict[str, Any]] = json.loads(result.out)["withdrawn_matches"]
        text = self.call("status").out
        assert ("entries withdrawn since they matched" in text) == bool(found)
        for line in found:
            assert f"{line['list']} {line['entry']}" in text
        return found

    def affected(self) -> list[tuple[str, str]]:
        """Fetch, and return the matches that are withdrawn by this fetch."""
        (fetched,) = self.client.fetch()
        return [(Path(match.path).name, hit.entry) for match, hit in fetched.affected]

    def logged(self) -> list[dict[str, Any]]:
        records = log.read(self.path / "audit")
        return [dict(r.data) for r in records if r.event == "withdrawn"]


@pytest.fixture
def world(tmp_path: Path) -> Withdrawals:
    return Withdrawals(tmp_path)


def names(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(Path(line["path"]).name, line["entry"]) for line in lines]


def test_withdrawn_matches_are_named_once_and_shown_until_scanned_again(world: Withdrawals) -> None:
    assert world.scan().summary["match"] == 6
    world.provider.withdraw("e-1", "e-4")
    assert world.status() == []
    before = datetime.now(UTC)
    assert world.affected() == [("f1", "e-1"), ("f4", "e-4")]
    assert names(world.logged()) == [("f1", "e-1"), ("f4", "e-4")]
    assert {line["generation"] for line in world.logged()} == {2}
    assert world.affected() == []
    assert len(world.logged()) == 2
    found = world.status()
    assert names(found) == [("f1", "e-1"), ("f4", "e-4")]
    assert {line["withdrawn_generation"] for line in found} == {2}
    assert {line["list"] for line in found} == {"baseline"}
    assert datetime.fromisoformat(found[0]["last_seen"]) <= before
    # A scan no longer matches these files, and does not change the state of their matches.
    assert world.scan().summary["match"] == 4
    assert len(world.status()) == 2


def test_publishing_again_clears_it_when_it_matches_again(world: Withdrawals) -> None:
    world.scan()
    world.provider.withdraw("e-1", "e-4")
    world.affected()
    world.provider.publish(csv([1]))
    assert world.affected() == []
    assert names(world.status()) == [("f1", "e-1"), ("f4", "e-4")]
    assert world.scan().summary["match"] == 5
    assert names(world.status()) == [("f4", "e-4")]
    world.provider.withdraw("e-1")
    assert world.affected() == [("f1", "e-1")]


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "list_name"), [(1, "baseline"), (1, "second")])
def test_a_quarantined_file_that_is_listed_again_stays_in_quarantine(
    world: Withdrawals, entry: int, list_name: str
) -> None:
    """If the content of a quarantined file is listed again, its match is no longer withdrawn."""
    ids = world.quarantine("f1", "f4")
    world.provider.withdraw("e-1", "e-4")
    world.affected()
    assert world.states_of(ids) == {"f1": "withdrawn", "f4": "withdrawn"}
    world.provider.publish(csv([entry]), list_name)
    fetched = [f for f in world.client.fetch() if f.listed_again]
    assert [(f.list_name, [m.id for m in f.listed_again]) for f in fetched] == [
        (list_name, [ids["f1"]])
    ]
    assert world.states_of(ids) == {"f1": "quarantined", "f4": "withdrawn"}
    assert names(world.status()) == [("f4", "e-4")]
    (event,) = log.read(world.path / "audit", event="listed-again")
    assert event.data["id"] == ids["f1"]
    assert [e["list"] for e in event.data["entries"]] == [list_name]
    assert not any(f.listed_again for f in world.client.fetch())
    args = ("quarantine", "restore", "--identity", world.officer, "--reason", "withdrawn")
    result = world.call(*args, "--withdrawn")
    assert (result.code, len(result.out.splitlines())) == (0, 1)
    assert (world.tree / "f4").exists() and not (world.tree / "f1").exists()
    # The entry that was published again can be withdrawn again.
    if list_name == "baseline":
        world.provider.withdraw("e-1")
        assert world.affected() == [("f1", "e-1")]
        assert world.states_of(ids)["f1"] == "withdrawn"


def test_a_match_in_place_or_not_listed_again_hides_no_other(world: Withdrawals) -> None:
    """All withdrawn entries are looked up, in the order in which the matches were found."""
    world.scan(world.tree / "f2")  # the matching file of this match stays in its place
    ids = world.quarantine("f5", "f1", "f4")
    with Matches(world.path) as matches:
        order = [Path(match.path).name for match in matches.find()]
    assert order[0] == "f2" and set(order) == {"f1", "f2", "f4", "f5"}
    world.provider.withdraw("e-1", "e-2", "e-4", "e-5")
    world.affected()
    world.provider.publish(csv([2, *(int(name[1:]) for name in order[2:])]))
    (fetched,) = world.client.fetch()
    assert [m.id for m in fetched.listed_again] == [ids[name] for name in order[2:]]
    assert world.states_of(ids) == dict.fromkeys(order[2:], "quarantined") | {order[1]: "withdrawn"}


def test_a_match_of_another_seal_key_hides_no_other(world: Withdrawals) -> None:
    ids = world.quarantine("f1", "f4")
    world.provider.withdraw("e-1", "e-4")
    world.affected()
    with Matches(world.path) as matches:
        first, second = matches.find()
        matches._db.execute("UPDATE match SET key_id = 'other' WHERE id = ?", (first.id,))
    world.provider.publish(csv([1, 4]))
    (fetched,) = world.client.fetch()
    assert [m.id for m in fetched.listed_again] == [second.id]
    assert set(ids.values()) == {first.id, second.id}


def test_an_entry_that_was_put_right_does_not_hold_back_what_it_was_withdrawn_for(
    world: Withdrawals,
) -> None:
    ids = world.quarantine("f1")
    world.provider.withdraw("e-1")
    world.affected()
    world.provider.publish(csv([7]).replace(b"e-7", b"e-1"))
    assert not any(f.listed_again for f in world.client.fetch())
    assert world.states_of(ids) == {"f1": "withdrawn"}


def test_an_entry_under_another_name_is_no_withdrawal_for_what_was_taken_away(
    world: Withdrawals,
) -> None:
    ids = world.quarantine("f1")
    world.provider.withdraw("e-1")
    world.provider.publish(csv([1]).replace(b"e-1", b"renamed"))
    (fetched,) = world.client.fetch()
    assert [m.id for m in fetched.listed_again] == [ids["f1"]]
    assert [m.state for m, _ in fetched.affected] == ["quarantined"]
    assert world.states_of(ids) == {"f1": "quarantined"}


def test_an_entry_that_came_and_went_between_fetches_is_not_withdrawn(world: Withdrawals) -> None:
    world.scan()
    world.provider.withdraw("e-1")
    world.provider.publish(csv([1]))
    assert world.affected() == []
    assert world.status() == []


def test_all_paths_of_an_entry_are_affected_and_no_other_entry(world: Withdrawals) -> None:
    write_tree(world.tree, {"copy/f1": content(1), "copy/f2": content(2)})
    world.scan()
    world.provider.withdraw("e-1")
    assert world.affected() == [("f1", "e-1"), ("f1", "e-1")]
    assert [os.path.relpath(line["path"], world.tree) for line in world.status()] == [
        "copy/f1",
        "f1",
    ]


def test_a_list_that_is_built_again_reaches_back_too(world: Withdrawals) -> None:
    world.scan()
    world.provider.withdraw("e-1", "e-2")
    manifest = world.path / "lists" / "baseline" / "manifest.json"
    manifest.write_text("{}")
    assert world.affected() == [("f1", "e-1"), ("f2", "e-2")]


def test_a_consolidated_segment_that_straddles_our_generation_reaches_back(
    world: Withdrawals,
) -> None:
    world.scan()
    world.provider.withdraw("e-1")
    straddled = Simulator(world.provider.repository.directory.with_name("other"))
    straddled.publish(csv([0, 2, 3, 4, 5]))
    data = straddled.files[straddled.target_path("g000001-add-000.parquet")]

    def change(document: dict[str, Any]) -> None:
        segment = {"name": "w1.parquet", "kind": "add", "entries": 5, "first": 1, "last": 2}
        document["segments"] = [segment]

    world.provider.replace_target("w1.parquet", data)
    world.provider.edit_index(change)
    (fetched,) = world.client.fetch()
    assert (fetched.added, fetched.entries) == (None, 5)
    assert [hit.entry for _, hit in fetched.affected] == ["e-1"]
    assert names(world.status()) == [("f1", "e-1")]


@pytest.mark.parametrize("step", ["log", "record"])
def test_after_a_fetch_that_dies_after_the_switch_withdrawals_are_noted(
    world: Withdrawals, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    world.scan()
    world.provider.withdraw("e-1")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Matches, "of_entries" if step == "log" else "withdraw", die)
        with pytest.raises(KeyboardInterrupt):
            world.client.fetch()
    manifest = world.client.manifest()
    assert manifest is not None and manifest.generation == 2
    assert world.status() == []
    # The list has not changed, but the withdrawal is still reported.
    (fetched,) = world.client.fetch()
    assert not fetched.changed
    assert [hit.entry for _, hit in fetched.affected] == ["e-1"]
    assert len(world.logged()) == (1 if step == "log" else 2)
    assert names(world.status()) == [("f1", "e-1")]


def test_a_path_that_is_not_utf8_is_shown_by_its_bytes(world: Withdrawals) -> None:
    raw = os.fsencode(world.tree) + b"/\xff\n\x1b"
    Path(os.fsdecode(raw)).write_bytes(content(1))
    world.scan()
    world.provider.withdraw("e-1")
    (fetched,) = world.client.fetch()
    assert {os.fsencode(match.path) for match, _ in fetched.affected} == {
        raw,
        os.fsencode(world.tree / "f1"),
    }
    assert raw in {bytes_path(line) for line in world.status()}
    assert raw in {bytes_path(line) for line in world.logged()}
    text = world.call("status").out
    assert "\\xff\\x0a\\x1b" in text and "\x1b" not in text


@pytest.mark.slow
def test_thousands_of_matches_are_withdrawn_and_logged(world: Withdrawals) -> None:
    with Matches(world.path) as record:
        ((path, match),) = world.client.scan(world.tree / "f1", inventory=False)[0].items()
        paths = [path, *(f"/x/{n:05d}" for n in range(3000))]
        times = [type(match)(match.kind, path, 6, hits=match.hits) for path in paths[1:]]
        record.record(times, "key", datetime.now(UTC))
    world.provider.withdraw("e-1")
    (fetched,) = world.client.fetch()
    assert [m.path for m, _ in fetched.affected] == paths
    assert [line["path"] for line in world.logged()] == paths
    log.verify(world.path / "audit")
    world.status()
    document = json.loads(world.call("status", "--format", "json").out)
    assert document["withdrawn_matches_count"] == len(paths)


def test_lookups_are_not_remembered(world: Withdrawals) -> None:
    digest = digests_of(1)[Algorithm.MD5].hex()
    assert world.call("lookup", digest).code == 10
    assert not (world.path / DATABASE_NAME).exists()


def test_withdrawn_entries_of_one_list_leave_those_of_others(world: Withdrawals) -> None:
    world.provider.publish(csv([1]), "other")
    world.client.fetch()
    world.scan()
    world.provider.withdraw("e-1", list_name="other")
    results = {f.list_name: f.affected for f in world.client.fetch()}
    assert [hit.list_name for _, hit in results["other"]] == ["other"] and not results["baseline"]
    # The file is still on the other list, so the isolation stays as it is.
    assert world.status() == []
    world.provider.withdraw("e-1")
    world.client.fetch()
    assert [line["list"] for line in world.status()] == ["baseline", "other"]


def test_a_damaged_record_stops_neither_scan_nor_list(world: Withdrawals) -> None:
    world.scan()
    path = world.path / DATABASE_NAME
    path.write_bytes(os.urandom(5000))
    found = world.scan()
    assert found.code == 11 and found.summary["match"] == 6
    assert found.err.count("warning: cannot use the record of matches") == 1
    for args in (["status"], ["status", "--format", "json"]):
        result = world.call(*args)
        assert result.code == 8 and "move it away" in result.out
    world.provider.withdraw("e-1")
    (fetched,) = world.client.fetch()
    assert (fetched.generation, fetched.error) == (2, None)
    assert fetched.problem is not None and "cannot use the record" in fetched.problem.message
    assert world.client.numbers(range(8)) == {0, 2, 3, 4, 5}
    assert not any(r.event == "refused" for r in log.read(world.path / "audit"))
    path.unlink()
    assert world.affected() == []
    assert world.scan().code == 10


@pytest.mark.parametrize("output_format", ["text", "json"])
def test_the_command_says_that_it_cannot_reach_back(
    world: Withdrawals, monkeypatch: pytest.MonkeyPatch, output_format: str
) -> None:
    world.scan()
    (world.path / DATABASE_NAME).write_bytes(os.urandom(5000))
    world.provider.withdraw("e-1")
    results = world.client.fetch()
    monkeypatch.setattr(fetch_command, "fetch_lists", lambda *_, **__: iter(results))
    done = world.call("fetch", "--format", output_format)
    assert done.code == 8
    assert "cannot find the files that had matched a withdrawn entry" in done.err
    assert "move it away" in done.err
    if output_format == "json":
        (document,) = json.loads(done.out)["lists"]
        assert document["changed"] and document["problem"]["exit_code"] == 8
    else:
        assert "generation 1 -> generation 2, 0 added, 1 withdrawn" in done.out


@pytest.mark.slow
def test_the_command_names_the_paths(world: Withdrawals, monkeypatch: pytest.MonkeyPatch) -> None:
    world.scan()
    for number, arguments in enumerate(([], ["--format", "json"]), 1):
        world.provider.withdraw(f"e-{number}")
        results = world.client.fetch()
        monkeypatch.setattr(
            fetch_command, "fetch_lists", lambda *_, results=results, **__: iter(results)
        )
        done = world.call("fetch", *arguments)
        path = str(world.tree / f"f{number}")
        if arguments:
            affected = json.loads(done.out)["lists"][0]["affected"]
            (line,) = affected
            assert re.fullmatch("[a-z0-9]{10}", line.pop("id"))
            assert line == {
                "path": path,
                "entry": f"e-{number}",
                "in_place": True,
                "state": "withdrawn",
            }
        else:
            assert "withdrawn entries of list baseline had matched 1 path:" in done.out
            assert re.search(rf"^  {path}  \[[a-z0-9]{{10}}\]  e-{number}$", done.out, re.MULTILINE)


def test_of_very_many_paths_the_first_and_the_number_are_shown(tmp_path: Path) -> None:
    state = State(tmp_path, {"base": {"e-1": b"x"}}, {f"f{n:02}": b"x" for n in range(25)})
    state.configure(provider_table("main", state.client.settings.provider("main")))
    state.scan()
    state.provider.withdraw("e-1", list_name="base")
    (fetched,) = state.client.fetch()
    assert len(fetched.affected) == 25
    for text in (_said_of(state, fetched), state.call("status").out):
        assert "matched 25 paths:" in text
        assert text.count("  [") == 10
        assert "\n  and 15 more: `hashclient matches --state withdrawn`\n" in text
    document = json.loads(state.call("status", "--format", "json").out)
    assert (len(document["withdrawn_matches"]), document["withdrawn_matches_count"]) == (10, 25)


def _said_of(state: State, fetched: Any) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_command, "fetch_lists", lambda *_, **__: iter([fetched]))
        return state.call("fetch").out


@pytest.mark.slow
def test_the_command_says_what_is_left_of_each(
    world: Withdrawals, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.provider.publish(csv([2]), "second")
    world.client.fetch()
    ids = world.quarantine("f1")
    world.scan()
    with Matches(world.path) as matches:
        (third,) = (m.id for m in matches.find() if m.path.endswith("f3"))
    world.call("matches", "close", third, "--reason", "x")

    def fetch(*args: str) -> Run:
        results = world.client.fetch()
        monkeypatch.setattr(fetch_command, "fetch_lists", lambda *_, **__: iter(results))
        return world.call("fetch", *args)

    world.provider.withdraw("e-1", "e-2", "e-3")
    told = fetch()
    assert re.search(rf"f1  \[{ids['f1']}\]  e-1, which was isolated$", told.out, re.MULTILINE)
    assert re.search(r"f2  \[\w+\]  e-2, but still matches another entry$", told.out, re.MULTILINE)
    assert re.search(r"f3  \[\w+\]  e-3, which is closed$", told.out, re.MULTILINE)
    assert "next: `hashclient quarantine restore --withdrawn`" in told.err
    world.provider.publish(csv([1]))
    told = fetch()
    said = "list baseline lists 1 file again whose entries were withdrawn; these files stay in"
    assert f"{said} quarantine:" in told.out
    assert f"  {world.tree}/f1  [{ids['f1']}]  e-1\n" in told.out
    world.provider.withdraw("e-1")
    assert "next: " in fetch().err
    world.provider.publish(csv([1]))
    documents = json.loads(fetch("--format", "json").out)["lists"]
    assert [d["listed_again"] for d in documents if d["list"] == "baseline"] == [
        [{"path": f"{world.tree}/f1", "id": ids["f1"], "entries": ["e-1"]}]
    ]


@pytest.mark.slow
def test_the_record_is_readable_where_nothing_can_be_written(world: Withdrawals) -> None:
    world.scan()
    world.provider.withdraw("e-1")
    world.client.fetch()
    copy = Path(shutil.copytree(world.path, world.tree.with_name("copy")))
    (copy / DATABASE_NAME).chmod(0o400)
    result = run("--state-dir", copy, "status", "--format", "json")
    assert len(json.loads(result.out)["withdrawn_matches"]) == 1
