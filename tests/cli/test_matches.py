"""`matches`: the recorded matches of scans, by the real command."""

from __future__ import annotations

import json
import os
import re
import socket
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hashclient.audit import log
from hashclient.cli import matches as module
from hashclient.cli.app import App
from hashclient.core.kinds import MatchState
from hashclient.formats.registry import FORMATS
from hashclient.matches.store import Matches
from tests.kit import State, bytes_path, run

CONTENTS = {"e-1": b"the first of them", "e-2": b"the second, and a longer one"}


def listed(state: State, *args: object) -> list[tuple[str, str]]:
    """Return the name and state of each listed match."""
    result = state.call("matches", "--format", "jsonl", *args)
    assert (result.code, result.err) == (0, "")
    return [(Path(line["path"]).name, line["state"]) for line in result.lines]


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A tree in which two files are listed."""
    files = {"a": CONTENTS["e-1"], "sub/b": CONTENTS["e-2"], "c": b"nobody listed this"}
    return State(tmp_path, {"base": CONTENTS}, files)


def test_before_any_scan_there_are_none(state: State) -> None:
    for output_format in ("text", "jsonl"):
        result = state.call("matches", "--format", output_format)
        assert (result.code, result.out) == (0, "")
        assert result.err == "no scan has found anything yet\n"
    # A command that only reads creates no database, because another user's scan could not write to
    # it.
    assert not (state.path / "matches.db").exists()
    state.ids()
    assert state.call("matches", "--state", "purged").err == "no match is in that state\n"
    assert state.call("-q", "matches", "--state", "purged").err == ""


@pytest.mark.sampled
@pytest.mark.parametrize(
    "command", ["matches", "matches stats", "quarantine list", "report status", "notices"]
)
def test_a_state_directory_that_is_missing_does_not_count_as_one_without_records(
    tmp_path: Path, command: str
) -> None:
    result = run("--state-dir", tmp_path / "mistyped", *command.split())
    assert (result.code, result.out) == (8, "")
    assert f"no state directory: {tmp_path}/mistyped" in result.err
    assert not (tmp_path / "mistyped").exists()


def test_a_match_of_a_scan_is_listed_under_its_id(state: State) -> None:
    ids = state.ids()
    assert len(set(ids.values())) == 2
    result = run("--state-dir", state.path, "matches")
    assert (result.code, result.err) == (0, "")
    shown = sorted(result.out.splitlines())
    why = f"(synthetic; md5, sha1, sha256 agree)  on {socket.gethostname()}"
    assert shown == [
        f"found         {state.tree}/a  [{ids['a']}]  base e-1 {why}",
        f"found         {state.tree}/sub/b  [{ids['b']}]  base e-2 {why}",
    ]
    # Files that are found again keep their matches, even if the scan reached them by another path.
    assert state.ids() == ids
    os.utime(state.tree / "a")
    assert state.ids() == ids
    assert sorted(listed(state)) == [("a", "found"), ("b", "found")]


def test_matches_are_chosen_by_state(state: State) -> None:
    ids = state.ids()
    closed = state.call("matches", "close", ids["a"], "--reason", "removed by hand")
    assert (closed.code, closed.out) == (0, f"{ids['a']}  {state.tree}/a  closed\n")
    assert listed(state, "--state", "found") == [("b", "found")]
    assert listed(state, "--state", "closed") == [("a", "closed")]
    assert sorted(listed(state, "--state", "closed", "--state", "found")) == [
        ("a", "closed"),
        ("b", "found"),
    ]
    assert state.call("matches", "--state", "lost").code == 2


def test_open_matches_are_those_whose_story_has_not_ended(state: State) -> None:
    ids = state.ids()
    state.call("matches", "close", ids["a"], "--reason", "removed by hand")
    assert listed(state, "--open") == [("b", "found")]
    for name in ("a", "sub/b"):
        (state.tree / name).unlink()
    state.scan()
    assert listed(state, "--open") == [("b", "gone")]
    both = state.call("matches", "--open", "--state", "found")
    assert (both.code, "exclude each other" in both.err) == (2, True)
    done = state.call("matches", "close", "--open", "--reason", "the disk is destroyed")
    assert done.code == 0
    assert state.call("matches", "--open").err == "no match is in that state\n"


def test_each_line_names_the_machine(state: State) -> None:
    state.ids()
    host = socket.gethostname()
    for form in FORMATS:
        shown = state.call("matches", "--format", form).out
        assert host in shown
        if form in ("text", "jsonl", "csv"):
            lines = shown.splitlines()[form == "csv" :]
            assert len(lines) == 2 and all(host in line for line in lines)


def test_a_story_is_shown(state: State) -> None:
    match_id = state.ids()["b"]
    result = state.call("matches", "show", match_id)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"match {match_id}: found"
    assert f"  path        {state.tree}/sub/b" in lines
    assert "  entry       base e-2 (synthetic; generation 1)" in lines
    assert re.fullmatch(r"  \d{4}-\d\d-\d\d \d\d:\d\d UTC  found", lines[-1])
    document = json.loads(state.call("matches", "show", match_id, "--format", "json").out)
    assert (document["id"], document["state"], document["in_place"]) == (match_id, "found", True)
    assert [e["entry"] for e in document["entries"]] == ["e-2"]
    assert state.story(match_id) == ["found"]


@pytest.mark.slow
def test_a_story_is_plain_text(state: State) -> None:
    with zipfile.ZipFile(state.tree / "z.zip", "w") as archive:
        archive.writestr("in/x", CONTENTS["e-1"])
    (match_id,) = (line["id"] for line in state.scan().lines[:-1] if "container" in line)
    shown = state.call("matches", "show", match_id).out
    assert "{" not in shown and "[" not in shown and "'" not in shown
    assert "members: in/x, entries: base e-1" in shown


def test_closing_says_who_and_why_and_a_new_find_opens_again(state: State) -> None:
    match_id = state.ids()["a"]
    result = state.call("matches", "close", match_id, "--reason", "ticket 4711", "--format", "json")
    shown = state.call("matches", "show", match_id).out
    assert "closed" in shown and "reason: ticket 4711" in shown
    (event,) = log.read(state.path / "audit", event="closed")
    assert event.data["id"] == match_id
    assert event.data["reason"] == "ticket 4711" and event.data["by"]
    (item,) = json.loads(result.out)["items"]
    assert (item["id"], item["done"], item["detail"]) == (match_id, True, "closed")
    assert state.ids()["a"] == match_id
    assert state.story(match_id) == ["found", "closed", "found"]


def test_closing_needs_something_to_close_and_a_reason(state: State) -> None:
    ids = state.ids()
    for args in (["--reason", "x"], [ids["a"]], ["nobody", "--reason", "x"]):
        result = state.call("matches", "close", *args)
        assert result.code == 2 and "hint: " in result.err
    result = state.call("matches", "close", "--withdrawn", "--reason", "x")
    assert (result.code, result.out) == (0, "")
    assert result.err == "no withdrawn match has its file in place\n"
    # All ids are looked up before the first match is closed.
    assert state.call("matches", "close", ids["a"], "nobody", "--reason", "x").code == 2
    assert sorted(listed(state, "--state", "found")) == [("a", "found"), ("b", "found")]


def test_an_unknown_id_is_said_to_be_unknown(state: State) -> None:
    result = state.call("matches", "show", "nobody\x1b")
    assert result.code == 2
    assert "no match has the id nobody\\x1b" in result.err and "`hashclient matches`" in result.err


def test_a_log_that_cannot_be_written_keeps_a_match_open(state: State) -> None:
    match_id = state.ids()["a"]
    for path in (state.path / "audit").iterdir():
        path.unlink()
    (state.path / "audit").rmdir()
    (state.path / "audit").touch()
    assert state.call("matches", "close", match_id, "--reason", "x").code == 9
    assert sorted(listed(state)) == [("a", "found"), ("b", "found")]


def test_names_of_any_bytes_and_an_output_file(state: State, tmp_path: Path) -> None:
    raw = os.fsencode(state.tree) + b"/\xff\n\x1b"
    Path(os.fsdecode(raw)).write_bytes(CONTENTS["e-1"])
    state.ids()
    report = tmp_path / "report"
    result = state.call("matches", "--format", "jsonl", "--output", report)
    assert (result.code, result.out) == (0, "")
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert raw in {bytes_path(line) for line in lines}
    assert all(line["state"] in set(MatchState) for line in lines)
    text = state.call("matches").out
    assert "\\xff\\x0a\\x1b" in text and "\x1b" not in text


def test_a_damaged_record_is_said_to_be_damaged(state: State) -> None:
    state.ids()
    (state.path / "matches.db").write_bytes(b"no database" * 100)
    for args in (["matches"], ["matches", "show", "x"]):
        result = state.call(*args)
        assert result.code == 8 and "move it away" in result.err


def test_matches_are_chosen_by_path_list_and_time(state: State) -> None:
    state.ids()
    # The folder `sub2` is not below the folder `sub`, although its name begins with `sub`.
    (state.tree / "sub2").mkdir()
    (state.tree / "sub2/x").write_bytes(CONTENTS["e-1"])
    state.ids()
    assert listed(state, "--path", state.tree / "sub") == [("b", "found")]
    assert listed(state, "--path", f"{state.tree}/sub/") == [("b", "found")]
    assert listed(state, "--path", state.tree / "a") == [("a", "found")]
    assert len(listed(state, "--path", "/")) == 3
    both = ("--path", state.tree / "sub", "--path", state.tree / "a")
    assert sorted(listed(state, *both)) == [("a", "found"), ("b", "found")]
    assert len(listed(state, "--list", "base", "--since", "2026-01-01")) == 3
    for nothing in (
        ("--list", "other"),
        ("--since", "2999-01-01T00:00:00"),
        ("--path", state.tree / "nobody"),
        ("--path", state.tree / "sub", "--state", "closed"),
    ):
        result = state.call("matches", *nothing)
        assert (result.code, result.out, result.err) == (0, "", "no match fits these options\n")
    assert state.call("matches", "--since", "yesterday").code == 2


def test_a_path_through_a_link_and_one_that_is_relative_choose_the_same(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.ids()
    (tmp_path / "way").symlink_to("tree")
    assert listed(state, "--path", tmp_path / "way/sub") == [("b", "found")]
    monkeypatch.chdir(state.tree)
    assert listed(state, "--path", "sub") == [("b", "found")]


@pytest.mark.slow
def test_many_are_closed_by_what_they_have_in_common(state: State) -> None:
    for number in range(600):
        (state.tree / f"sub/{number}").write_bytes(CONTENTS["e-1"])
    ids = state.ids()
    chosen = ("matches", "close", "--path", state.tree / "sub", "--reason", "disk destroyed")
    tried = state.call(*chosen, "--dry-run")
    assert (tried.code, tried.err) == (0, "would be closed: 601 matches\n")
    assert len(tried.out.splitlines()) == 601
    assert {state for _, state in listed(state)} == {"found"}
    done = state.call(*chosen)
    assert (done.code, done.err) == (0, "closed: 601 matches\n")
    assert listed(state, "--state", "found") == [("a", "found")]
    events = list(log.read(state.path / "audit", event="closed"))
    assert len(events) == 601 and all(event.sig for event in events)
    assert {event.data["reason"] for event in events} == {"disk destroyed"}
    again = state.call(*chosen)
    assert (again.code, again.out) == (0, "")
    assert again.err == "no open match fits these options\n"
    # A single id is still possible, also together with conditions.
    both = state.call(
        *("matches", "close", ids["a"], "--list", "base", "--reason", "x", "--format", "json")
    )
    (item,) = json.loads(both.out)["items"]
    assert (item["id"], item["detail"]) == (ids["a"], "closed")


def test_a_quarantined_or_reported_match_is_not_closed_with_others(state: State) -> None:
    ids = state.ids()
    with Matches(state.path) as record:
        now = datetime(2026, 5, 1, tzinfo=UTC)
        record.change(ids["b"], MatchState.QUARANTINED, now, {}, in_place=False)
        record.change(ids["a"], MatchState.REPORTED, now, {})
    closed = state.call("matches", "close", "--list", "base", "--reason", "x")
    assert (closed.code, closed.out) == (0, "")
    assert sorted(listed(state)) == [("a", "reported"), ("b", "quarantined")]


def test_a_match_whose_sealed_copy_is_lost_is_closed_by_its_id(state: State) -> None:
    ids = state.ids()
    with Matches(state.path) as record:
        now = datetime(2026, 5, 1, tzinfo=UTC)
        for match_id, ended in ((ids["b"], MatchState.QUARANTINED), (ids["a"], MatchState.PURGED)):
            record.change(match_id, ended, now, {}, in_place=False)
    item = state.path / "quarantine" / ids["b"]
    item.mkdir(parents=True)
    for match_id in ids["a"], ids["b"]:
        refused = state.call("matches", "close", match_id, "--reason", "the disk is destroyed")
        assert refused.code == 2 and "is not in place" in refused.err
    item.rmdir()
    refused = state.call("matches", "close", ids["b"], "--reason", "the disk is destroyed")
    assert refused.code == 8 and "the quarantine is not there" in refused.err
    assert "mount its file system" in refused.err
    (item.parent / "lock").touch()
    assert state.call("matches", "close", ids["b"], "--reason", "the disk is destroyed").code == 0
    assert sorted(listed(state)) == [("a", "purged"), ("b", "closed")]


def test_the_list_has_a_name_of_its_own_with_the_same_options(state: State, tmp_path: Path) -> None:
    state.ids()
    for args in ([], ["--format", "jsonl"], ["--path", state.tree / "sub"], ["--state", "gone"]):
        assert state.call("matches", "list", *args) == state.call("matches", *args)
    output = tmp_path / "list"
    assert state.call("matches", "list", "--output", output).code == 0
    assert output.read_text() == state.call("matches").out
    # The output of an earlier run is never left in place.
    refused = state.call("matches", "list", "--output", output, "--state", "lost")
    assert refused.code == 2 and "lost" in output.read_text()
    assert state.call("matches", "--format", "jsonl", "list").code == 2


def test_options_before_the_subcommand_close_nothing_else(state: State) -> None:
    ids = state.ids()
    wide = ("close", "--list", "base", "--reason", "x")
    refused = state.call("matches", "--path", state.tree / "sub", *wide)
    assert refused.code == 2 and "are before `close`" in refused.err
    assert state.call("matches", "--state", "found", "show", ids["a"]).code == 2
    # A script passes an empty path if its shell variable is not set.
    empty = state.call("matches", "close", "--path", "", "--reason", "x")
    assert (empty.code, "a path is empty" in empty.err) == (2, True)
    assert sorted(listed(state)) == [("a", "found"), ("b", "found")]


def test_withdrawn_is_one_of_the_options_that_choose_together(state: State) -> None:
    state.ids()
    with Matches(state.path) as record:
        record.withdraw("base", ["e-1", "e-2"], 9, datetime(2026, 5, 1, tzinfo=UTC))
    below = ("matches", "close", "--withdrawn", "--path", state.tree / "sub", "--reason", "x")
    assert state.call(*below, "--state", "found").code == 2
    assert state.call(*below).code == 0
    assert sorted(listed(state)) == [("a", "withdrawn"), ("b", "closed")]


def test_a_match_quarantined_meanwhile_is_not_closed(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = state.ids()
    real = module._close

    def later(app: App, record: Matches, *rest: Any) -> set[str]:
        now = datetime(2026, 5, 1, tzinfo=UTC)
        record.change(ids["b"], MatchState.QUARANTINED, now, {}, in_place=False)
        return real(app, record, *rest)

    monkeypatch.setattr(module, "_close", later)
    result = state.call("matches", "close", "--list", "base", "--reason", "x")
    assert (result.code, result.err) == (3, "closed: 1 match\n")
    assert "not closed: its state has changed meanwhile" in result.out
    assert sorted(listed(state)) == [("a", "closed"), ("b", "quarantined")]
    events = log.read(state.path / "audit", event="closed")
    assert [event.data["id"] for event in events] == [ids["a"]]
