"""`matches`: what scans have found, by the real command."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hashclient.audit import log
from hashclient.cli import matches as module
from hashclient.cli.app import App
from hashclient.core.kinds import MatchState
from hashclient.matches.store import Matches
from tests.support import Result, bytes_path, call, csv_of, make_state, run, write_tree

CONTENTS = {"e-1": b"the first of them", "e-2": b"the second, and a longer one"}


class World:
    """A state directory, and a tree in which two files are listed."""

    def __init__(self, directory: Path) -> None:
        self.state = make_state(directory, {"base": csv_of(CONTENTS)})
        files = {"a": CONTENTS["e-1"], "sub/b": CONTENTS["e-2"], "c": b"nobody listed this"}
        self.tree = write_tree(directory / "tree", files)

    def call(self, *args: object) -> Result:
        return call("--state-dir", self.state, *args)

    def ids(self) -> dict[str, str]:
        """Scan, and return the id of each match by the name of its file."""
        found = self.call("scan", "--format", "jsonl", self.tree).lines[:-1]
        return {Path(line["path"]).name: line["id"] for line in found}

    def listed(self, *args: object) -> list[tuple[str, str]]:
        """Return name and state of the matches that are listed."""
        result = self.call("matches", "--format", "jsonl", *args)
        assert (result.code, result.err) == (0, "")
        return [(Path(line["path"]).name, line["state"]) for line in result.lines]

    def story(self, match_id: str) -> list[str]:
        document = json.loads(self.call("matches", "show", match_id, "--format", "json").out)
        return [step["event"] for step in document["story"]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_before_any_scan_there_are_none(world: World) -> None:
    for output_format in ("text", "jsonl"):
        result = world.call("matches", "--format", output_format)
        assert (result.code, result.out) == (0, "")
        assert result.err == "no scan has found anything yet\n"
    # A reader makes nothing: the scan of another user could not write to it.
    assert not (world.state / "matches.db").exists()
    world.ids()
    assert world.call("matches", "--state", "purged").err == "no match is in that state\n"
    assert world.call("-q", "matches", "--state", "purged").err == ""


def test_what_a_scan_finds_is_listed_under_its_id(world: World) -> None:
    ids = world.ids()
    assert len(set(ids.values())) == 2
    result = run("--state-dir", world.state, "matches")
    assert (result.code, result.err) == (0, "")
    shown = sorted(result.out.splitlines())
    why = "(synthetic; md5, sha1, sha256 agree)"
    assert shown == [
        f"found         {world.tree}/a  [{ids['a']}]  base e-1 {why}",
        f"found         {world.tree}/sub/b  [{ids['b']}]  base e-2 {why}",
    ]
    # The same files found again are the same matches, however the scan reached them.
    assert world.ids() == ids
    os.utime(world.tree / "a")
    assert world.ids() == ids
    assert sorted(world.listed()) == [("a", "found"), ("b", "found")]


def test_matches_are_chosen_by_state(world: World) -> None:
    ids = world.ids()
    closed = world.call("matches", "close", ids["a"], "--reason", "removed by hand")
    assert (closed.code, closed.out) == (0, f"{ids['a']}  {world.tree}/a  closed\n")
    assert world.listed("--state", "found") == [("b", "found")]
    assert world.listed("--state", "closed") == [("a", "closed")]
    assert sorted(world.listed("--state", "closed", "--state", "found")) == [
        ("a", "closed"),
        ("b", "found"),
    ]
    assert world.call("matches", "--state", "lost").code == 2


def test_a_story_is_told(world: World) -> None:
    match_id = world.ids()["b"]
    result = world.call("matches", "show", match_id)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"match {match_id}: found"
    assert f"  path        {world.tree}/sub/b" in lines
    assert "  entry       base e-2 (synthetic; generation 1)" in lines
    assert re.fullmatch(r"  \d{4}-\d\d-\d\d \d\d:\d\d UTC  found", lines[-1])
    document = json.loads(world.call("matches", "show", match_id, "--format", "json").out)
    assert (document["id"], document["state"], document["in_place"]) == (match_id, "found", True)
    assert [e["entry"] for e in document["entries"]] == ["e-2"]
    assert world.story(match_id) == ["found"]


def test_closing_says_who_and_why_and_a_new_find_opens_again(world: World) -> None:
    match_id = world.ids()["a"]
    result = world.call("matches", "close", match_id, "--reason", "ticket 4711", "--format", "json")
    shown = world.call("matches", "show", match_id).out
    assert "closed" in shown and "reason: ticket 4711" in shown
    (event,) = log.read(world.state / "audit", event="closed")
    assert event.data["id"] == match_id
    assert event.data["reason"] == "ticket 4711" and event.data["by"]
    (item,) = json.loads(result.out)["items"]
    assert (item["id"], item["done"], item["detail"]) == (match_id, True, "closed")
    assert world.ids()["a"] == match_id
    assert world.story(match_id) == ["found", "closed", "found"]


def test_closing_needs_something_to_close_and_a_reason(world: World) -> None:
    ids = world.ids()
    for args in (["--reason", "x"], [ids["a"]], ["nobody", "--reason", "x"]):
        result = world.call("matches", "close", *args)
        assert result.code == 2 and "hint: " in result.err
    result = world.call("matches", "close", "--withdrawn", "--reason", "x")
    assert (result.code, result.out) == (0, "")
    assert result.err == "no match is withdrawn and in its place\n"
    # All are known before the first is closed.
    assert world.call("matches", "close", ids["a"], "nobody", "--reason", "x").code == 2
    assert sorted(world.listed("--state", "found")) == [("a", "found"), ("b", "found")]


def test_an_unknown_id_is_said_to_be_unknown(world: World) -> None:
    result = world.call("matches", "show", "nobody\x1b")
    assert result.code == 2
    assert "no match has the id nobody\\x1b" in result.err and "`hashclient matches`" in result.err


def test_a_log_that_cannot_be_written_keeps_a_match_open(world: World) -> None:
    match_id = world.ids()["a"]
    for path in (world.state / "audit").iterdir():
        path.unlink()
    (world.state / "audit").rmdir()
    (world.state / "audit").touch()
    assert world.call("matches", "close", match_id, "--reason", "x").code == 9
    assert sorted(world.listed()) == [("a", "found"), ("b", "found")]


def test_names_of_any_bytes_and_an_output_file(world: World, tmp_path: Path) -> None:
    raw = os.fsencode(world.tree) + b"/\xff\n\x1b"
    Path(os.fsdecode(raw)).write_bytes(CONTENTS["e-1"])
    world.ids()
    report = tmp_path / "report"
    result = world.call("matches", "--format", "jsonl", "--output", report)
    assert (result.code, result.out) == (0, "")
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert raw in {bytes_path(line) for line in lines}
    assert all(line["state"] in set(MatchState) for line in lines)
    text = world.call("matches").out
    assert "\\xff\\x0a\\x1b" in text and "\x1b" not in text


def test_a_damaged_record_is_said_to_be_damaged(world: World) -> None:
    world.ids()
    (world.state / "matches.db").write_bytes(b"no database" * 100)
    for args in (["matches"], ["matches", "show", "x"]):
        result = world.call(*args)
        assert result.code == 8 and "move it away" in result.err


def test_matches_are_chosen_by_path_list_and_time(world: World) -> None:
    world.ids()
    # A name that begins like a folder is not below it.
    (world.tree / "sub2").mkdir()
    (world.tree / "sub2/x").write_bytes(CONTENTS["e-1"])
    world.ids()
    assert world.listed("--path", world.tree / "sub") == [("b", "found")]
    assert world.listed("--path", f"{world.tree}/sub/") == [("b", "found")]
    assert world.listed("--path", world.tree / "a") == [("a", "found")]
    assert len(world.listed("--path", "/")) == 3
    both = ("--path", world.tree / "sub", "--path", world.tree / "a")
    assert sorted(world.listed(*both)) == [("a", "found"), ("b", "found")]
    assert len(world.listed("--list", "base", "--since", "2026-01-01")) == 3
    for nothing in (
        ("--list", "other"),
        ("--since", "2999-01-01T00:00:00"),
        ("--path", world.tree / "nobody"),
        ("--path", world.tree / "sub", "--state", "closed"),
    ):
        result = world.call("matches", *nothing)
        assert (result.code, result.out, result.err) == (0, "", "no match is like that\n")
    assert world.call("matches", "--since", "yesterday").code == 2


def test_a_path_through_a_link_and_one_that_is_relative_choose_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ids()
    (tmp_path / "way").symlink_to("tree")
    assert world.listed("--path", tmp_path / "way/sub") == [("b", "found")]
    monkeypatch.chdir(world.tree)
    assert world.listed("--path", "sub") == [("b", "found")]


def test_many_are_closed_by_what_they_have_in_common(world: World) -> None:
    for number in range(600):
        (world.tree / f"sub/{number}").write_bytes(CONTENTS["e-1"])
    ids = world.ids()
    chosen = ("matches", "close", "--path", world.tree / "sub", "--reason", "disk destroyed")
    tried = world.call(*chosen, "--dry-run")
    assert (tried.code, tried.err) == (0, "would be closed: 601 matches\n")
    assert len(tried.out.splitlines()) == 601
    assert {state for _, state in world.listed()} == {"found"}
    done = world.call(*chosen)
    assert (done.code, done.err) == (0, "closed: 601 matches\n")
    assert world.listed("--state", "found") == [("a", "found")]
    events = list(log.read(world.state / "audit", event="closed"))
    assert len(events) == 601 and all(event.sig for event in events)
    assert {event.data["reason"] for event in events} == {"disk destroyed"}
    again = world.call(*chosen)
    assert (again.code, again.out) == (0, "")
    assert again.err == "no such match is open\n"
    # A single one is as it was, also beside others.
    both = world.call(
        *("matches", "close", ids["a"], "--list", "base", "--reason", "x", "--format", "json")
    )
    (item,) = json.loads(both.out)["items"]
    assert (item["id"], item["detail"]) == (ids["a"], "closed")


def test_what_is_taken_away_is_not_closed_with_others(world: World) -> None:
    ids = world.ids()
    with Matches(world.state) as record:
        now = datetime(2026, 5, 1, tzinfo=UTC)
        record.change(ids["b"], MatchState.QUARANTINED, now, {}, in_place=False)
        record.change(ids["a"], MatchState.REPORTED, now, {})
    closed = world.call("matches", "close", "--list", "base", "--reason", "x")
    assert (closed.code, closed.out) == (0, "")
    assert sorted(world.listed()) == [("a", "reported"), ("b", "quarantined")]


def test_options_before_the_subcommand_close_nothing_else(world: World) -> None:
    ids = world.ids()
    wide = ("close", "--list", "base", "--reason", "x")
    refused = world.call("matches", "--path", world.tree / "sub", *wide)
    assert refused.code == 2 and "stand before `close`" in refused.err
    assert world.call("matches", "--state", "found", "show", ids["a"]).code == 2
    # A variable of the shell that is not set.
    empty = world.call("matches", "close", "--path", "", "--reason", "x")
    assert (empty.code, "--path is empty" in empty.err) == (2, True)
    assert sorted(world.listed()) == [("a", "found"), ("b", "found")]


def test_withdrawn_is_one_of_the_options_that_choose_together(world: World) -> None:
    world.ids()
    with Matches(world.state) as record:
        record.withdraw("base", ["e-1", "e-2"], 9, datetime(2026, 5, 1, tzinfo=UTC))
    below = ("matches", "close", "--withdrawn", "--path", world.tree / "sub", "--reason", "x")
    assert world.call(*below, "--state", "found").code == 2
    assert world.call(*below).code == 0
    assert sorted(world.listed()) == [("a", "withdrawn"), ("b", "closed")]


def test_what_is_taken_away_meanwhile_is_not_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = world.ids()
    real = module._close

    def later(app: App, record: Matches, *rest: Any) -> set[str]:
        now = datetime(2026, 5, 1, tzinfo=UTC)
        record.change(ids["b"], MatchState.QUARANTINED, now, {}, in_place=False)
        return real(app, record, *rest)

    monkeypatch.setattr(module, "_close", later)
    result = world.call("matches", "close", "--list", "base", "--reason", "x")
    assert (result.code, result.err) == (3, "closed: 1 match\n")
    assert "not closed: something was done about it meanwhile" in result.out
    assert sorted(world.listed()) == [("a", "closed"), ("b", "quarantined")]
    events = log.read(world.state / "audit", event="closed")
    assert [event.data["id"] for event in events] == [ids["a"]]
