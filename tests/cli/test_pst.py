"""Stores of Outlook by the command: attachments match, damage is unread, limits apply."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures import archives
from fixtures.pst import Message, store_of
from tests.kit import State, write_tree

LISTED = b"a listed file of some length"
STORE = store_of(
    {"Inbox": [Message("hello", attached={"a.zip": archives.zip_of({"in zip": LISTED})})]},
    encoding=1,
)
PATH = ["top/Inbox/hello/a.zip", "in zip"]


@pytest.mark.slow
def test_a_listed_attachment_is_shown_with_folder_message_and_name(tmp_path: Path) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    unknown = STORE[:8] + b"XX" + STORE[10:]
    write_tree(state.tree, {"m.pst": STORE, "m.zip": archives.zip_of({"m.pst": STORE})})
    write_tree(state.tree, {"of-readpst": unknown})
    run = state.scan("--jobs", "1")
    found = {Path(line["container"]).name: line["members"] for line in run.lines[:-1]}
    assert found == {"m.pst": PATH, "m.zip": ["m.pst", *PATH], "of-readpst": PATH}
    assert (run.code, run.summary["not_opened"]) == (10, {})


@pytest.mark.slow
def test_a_store_without_a_match_is_clean_and_one_that_is_cut_off_is_unread(
    tmp_path: Path,
) -> None:
    state = State(tmp_path, {"base": {"e-1": b"other"}}, {"m.pst": STORE})
    assert state.scan().code == 0
    write_tree(state.tree, {"m.pst": STORE[:-512], "no.pst": b"!BDN, a text"})
    run = state.scan("--jobs", "1")
    assert run.code == 3
    assert {line["type"] for line in run.lines[:-1]} == {"unread"}
    assert {Path(line["container"]).name for line in run.lines[:-1]} == {"m.pst"}


@pytest.mark.slow
def test_an_attachment_may_be_larger_than_the_memory_and_members_are_counted(
    tmp_path: Path,
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    many = {f"{number}": b"x" for number in range(20)}
    large = Message("large", attached={"zeros": bytes(100 << 20), "end": LISTED})
    write_tree(state.tree, {"m.pst": store_of({"a": [large, Message(attached=many)]})})
    state.configure("[scan.containers]\nmemory_mib = 64\n")
    run = state.scan("--jobs", "1")
    assert run.code == 10 and run.summary["unread"] == 0
    state.configure("[scan.containers]\nmembers = 10\n")
    run = state.scan("--jobs", "1", "--no-inventory")
    assert run.code == 11
    assert "limit: more than 10 members" in {line.get("reason") for line in run.lines[:-1]}
