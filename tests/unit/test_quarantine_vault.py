"""The quarantine as other packages call it: who, why and when, and both values of options."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fixtures.quarantine import CONTENT, Ward, seen_of
from hashclient.audit.log import read
from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.core.model import Seen
from hashclient.quarantine import context, vault
from hashclient.quarantine.item import Mark
from hashclient.quarantine.vault import Taken, load_identities


@pytest.fixture
def match(ward: Ward, file: Path) -> Match:
    return ward.match(file)


@pytest.fixture
def taken(ward: Ward, match: Match) -> Match:
    ward.take(match)
    return ward.get(match)


def data_of(ward: Ward, event: str) -> dict[str, Any]:
    (record,) = read(ward.settings.layout.audit, event=event)
    return dict(record.data)


def test_an_item_says_who_has_taken_it_why_and_when(ward: Ward, match: Match) -> None:
    counted: list[int] = []
    with ward.record() as record:
        done = ward.open("ann", on_bytes=counted.append).take(match, record, reason="order 4\udcff")
        story = record.story(match.id)
    assert done == Taken(taken=True, sealed=True, detail="quarantined")
    assert sum(counted) == len(CONTENT)
    item = ward.item(match)
    assert item.taken == Mark("ann", "order 4?", ward.now)
    assert (item.size, item.key_id, item.path) == (len(CONTENT), match.key_id, match.path)
    assert item.recipients == (ward.public,)
    assert item.tags == {a.label: tag.hex() for a, tag in match.tags.items()}
    assert story[-1].detail == {"by": "ann", "reason": "order 4?"}
    for event in ("quarantine-sealed", "quarantined"):
        data = data_of(ward, event)
        assert (data["by"], data["reason"], data["id"]) == ("ann", "order 4?", match.id)
    assert data_of(ward, "quarantined")["remains"] == []


def test_the_file_that_is_given_counts_before_the_one_on_record(
    ward: Ward, match: Match, file: Path
) -> None:
    known = seen_of(file)
    other = Seen(known.directory_device, known.directory_inode, known.device, known.inode + 1)
    with ward.record() as record:
        refused = ward.open().take(match, record, reason="x", seen=other)
        assert (refused.taken, refused.sealed, refused.attention) == (False, False, True)
        assert refused.detail == ("not quarantined: changed: it is not the file that was read")
        assert file.exists()
        assert ward.open().take(match, record, reason="x", seen=known).taken


@pytest.mark.parametrize("count", [0, 3])
def test_many_are_taken_and_restored_each_once(ward: Ward, tmp_path: Path, count: int) -> None:
    files = [tmp_path / f"f-{number}" for number in range(count)]
    for file in files:
        file.write_text(file.name)
    ids = [ward.match(file).id for file in files]
    with ward.record() as record:
        wanted = [(i, None) for i in [*ids, *ids[:1]]]
        outcomes = list(ward.open().take_all(wanted, record, reason="x"))
        assert [i for i, _ in outcomes] == [i for i, _ in wanted]
        assert [getattr(o, "detail", o) for _, o in outcomes] == [
            *["quarantined"] * count,
            *["in quarantine already"] * (count > 0),
        ]
        assert not any(file.exists() for file in files)
        identities = load_identities(ward.key)
        back = list(ward.open().restore_all(ids, identities, record, reason="y", force=True))
    assert [i for i, _ in back] == ids
    assert [file.read_text() for file in files] == [file.name for file in files]
    assert ward.names() == set()


def test_items_are_unfinished_while_they_are_only_sealed(
    ward: Ward, taken: Match, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ward.evidence(taken).with_name("item.json")
    whole = json.loads(path.read_bytes())
    quarantine = ward.open()
    assert quarantine.unfinished() == frozenset()
    path.write_text(json.dumps(whole | {"stage": "sealed"}))
    assert quarantine.unfinished() == {taken.id}
    with monkeypatch.context() as patched:  # another command restores the other item meanwhile
        patched.setattr(vault, "item_ids", lambda _: ["b" * 10, taken.id])
        assert quarantine.unfinished() == {taken.id}
    restored = {"restored": {**whole["taken"], "in_place": True}}
    path.write_text(json.dumps(whole | {"stage": "sealed"} | restored))
    assert quarantine.unfinished() == frozenset()
    path.write_text("{")
    assert quarantine.unfinished() == frozenset()


def test_nothing_is_unfinished_before_the_first_act(ward: Ward) -> None:
    assert ward.open().unfinished() == frozenset()
    assert not ward.settings.layout.quarantine.exists()


@pytest.mark.parametrize(("by", "name"), [(None, "ann"), ("desk", "desk"), ("", "")])
def test_a_hold_is_by_the_operator_or_by_who_asks(
    ward: Ward, taken: Match, by: str | None, name: str
) -> None:
    with ward.record() as record:
        item = ward.open("ann").hold(taken.id, record, reason="17/4", by=by)
    assert item.hold is not None
    assert (item.hold.by, item.hold.reason, item.hold.time) == (name, "17/4", ward.now)
    assert data_of(ward, "on-hold")["by"] == name


def test_a_record_that_was_lost_is_the_reason_of_its_recovery(ward: Ward, taken: Match) -> None:
    (ward.state / "matches.db").unlink()
    with ward.record() as record:
        (item,) = ward.open("ann").recover(record)
    assert item.id == taken.id
    data = data_of(ward, "recorded-again")
    assert (data["by"], data["reason"]) == ("ann", "the record of matches was lost")


def test_a_restoration_says_where_and_by_whom(ward: Ward, taken: Match, tmp_path: Path) -> None:
    identities = load_identities(ward.key)
    place = tmp_path / "back"
    with ward.record() as record:
        with pytest.raises(UsageError) as refused:
            ward.open().restore(taken.id, identities, record, reason="y")
        assert refused.value.message == f"match {taken.id} is not withdrawn: it is quarantined"
        restored = ward.open("bob").restore(
            *(taken.id, identities, record), reason="back", to=place, force=True
        )
        match, step = record.get(taken.id), record.story(taken.id)[-1]
    assert (restored.path, restored.missing) == (str(place), ())
    assert (match.state, match.in_place) == (MatchState.RESTORED, False)
    assert (step.event, step.detail) == ("restored", {"by": "bob", "reason": "back"})
    for event in ("restoring", "restored"):
        data = data_of(ward, event)
        assert (data["by"], data["to"]["path"]) == ("bob", str(place))


# Context files of an item


def add(ward: Ward, match: Match, *paths: Path) -> Any:
    with ward.record() as record:
        return ward.open("ann").add_context(match.id, paths, record, reason="17/4")


def test_an_added_file_is_described_where_it_really_is(
    ward: Ward, taken: Match, tmp_path: Path
) -> None:
    empty, raw = tmp_path / "empty", tmp_path / os.fsdecode(b"raw\xff")
    empty.touch()
    raw.write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path)
    add(ward, taken, tmp_path / "link" / "empty", raw)
    item = add(ward, taken, empty)
    assert [one.file for one in item.context] == [str(empty), str(raw), str(empty)]
    assert [one.size for one in item.context] == [0, 3, 0]
    assert [one.path_b64 is None for one in item.context] == [True, False, True]
    for number, one in enumerate(item.context, 1):
        copy = ward.evidence(taken).with_name(f"evidence.{number}.age").read_bytes()
        assert (one.evidence_sha256, one.evidence_bytes) == (
            *(hashlib.sha256(copy).hexdigest(), len(copy)),
        )
        assert (one.added, one.recipients) == (Mark("ann", "17/4", ward.now), (ward.public,))
    assert ward.item(taken) == item
    data = ward.last_event()
    assert (data["event"], data["by"], data["reason"]) == ("context-added", "ann", "17/4")
    described = {"path": str(empty), "evidence_sha256": item.context[2].evidence_sha256}
    assert data["context"] == [described]
    with ward.record() as record:
        step = record.story(taken.id)[-1]
    assert (step.event, step.detail) == (
        *("context-added", {"by": "ann", "reason": "17/4", "files": 1}),
    )


def test_so_many_files_may_belong_to_an_item(
    ward: Ward, taken: Match, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert context.MOST == 1000
    monkeypatch.setattr(context, "MOST", 2)
    path = tmp_path / "f"
    path.touch()
    with pytest.raises(UsageError, match=f"more than 2 files belong to {taken.id}"):
        add(ward, taken, path, path, path)
    assert len(add(ward, taken, path, path).context) == 2
    with pytest.raises(UsageError, match="more than 2 files"):
        add(ward, taken, path)
    assert len(add(ward, taken).context) == 2


def test_a_file_that_shrinks_while_it_is_read_is_not_added(
    ward: Ward, taken: Match, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    monkeypatch.setattr(context, "check_space", lambda *_: os.truncate(path, 2))
    with pytest.raises(StateError) as refused:
        add(ward, taken, path)
    assert refused.value.message == f"changed while it was read: {path}"
    assert refused.value.hint == "try it again"
    assert ward.item(taken).context == ()


def test_files_are_added_to_an_item_that_is_not_on_record(
    ward: Ward, taken: Match, tmp_path: Path
) -> None:
    (ward.state / "matches.db").unlink()
    (tmp_path / "f").touch()
    assert len(add(ward, taken, tmp_path / "f").context) == 1


def test_nothing_is_added_to_an_item_that_is_being_destroyed(
    ward: Ward, taken: Match, tmp_path: Path
) -> None:
    ward.change(taken, MatchState.PURGED)
    with pytest.raises(UsageError, match="is being destroyed"):
        add(ward, taken, tmp_path / "f")


def test_a_file_that_is_not_there_is_not_added(ward: Ward, taken: Match) -> None:
    with pytest.raises(UsageError, match="cannot read /nowhere/x: not there any more"):
        add(ward, taken, Path("/nowhere/x"))
    assert ward.item(taken).context == ()
