"""The record of matches: recording, withdrawals, and several processes."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from fixtures.crash import in_child
from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.match import (
    LISTED_AGAIN,
    REPORT_PREPARED,
    REPORT_RETRACTED,
    REPORT_WANTED,
    Place,
    Step,
    new_id,
    new_ids,
    progress_of,
    standing_steps,
)
from hashclient.core.model import Hit, MatchRef, Outcome, Outer, Seen
from hashclient.matches import selection
from hashclient.matches.pruning import Pruner
from hashclient.matches.store import Matches
from hashclient.matches.verify import verify_matches
from hashclient.system import sqlite
from hashclient.system.layout import MATCHES_NAME as DATABASE_NAME

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
KEY = "0123456789abcdef"


def hit(entry: str, list_name: str = "base", *, complete: bool = True, generation: int = 1) -> Hit:
    return Hit(list_name, entry, "synthetic", generation, (Algorithm.MD5,), complete)


def match(path: str, *hits: Hit, md5: bytes = b"", sha1: bytes = b"") -> Outcome:
    given = {Algorithm.MD5: md5, Algorithm.SHA1: sha1}
    tags = {algorithm: tag for algorithm, tag in given.items() if tag}
    return Outcome(Kind.MATCH, path, 4, hits=hits, tags=tags)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Matches]:
    with Matches(tmp_path) as opened:
        yield opened


def paths(record: Matches, *entries: str, list_name: str = "base") -> list[str]:
    return [found.path for found, _ in record.of_entries(list_name, entries)]


def test_only_complete_hits_are_remembered_by_list_and_entry(record: Matches) -> None:
    partial = hit("e-9", complete=False)
    record.record([match("/a", hit("e-1"), hit("e-1", "other"), partial)], KEY, NOW)
    record.record([match("/b", hit("e-1"), hit("e-2"))], KEY, NOW)
    assert sorted(record.standing("base")) == ["e-1", "e-2"]
    assert record.standing("other") == ["e-1"]
    assert record.standing("nobody") == []
    assert paths(record, "e-1", "e-2", "e-9") == ["/a", "/b", "/b"]
    assert paths(record, "e-1", list_name="other") == ["/a"]
    assert paths(record) == []


def test_matches_are_chosen_by_any_number_of_paths(record: Matches) -> None:
    record.record([match(f"/{name}", hit("e-1")) for name in ("a/b", "c", "d")], KEY, NOW)
    choice = selection.Choice(paths=("/a", *(f"/x/{number}" for number in range(3_000)), "/d"))
    assert [found.path for found in record.find(choice=choice)] == ["/a/b", "/d"]


def test_finding_it_again_renews_it(record: Matches) -> None:
    zone = timezone(timedelta(hours=9))
    record.record([match("/a", hit("e-1"))], KEY, NOW)
    record.record([match("/a", hit("e-1", generation=5))], KEY, LATER.astimezone(zone))
    ((found, listed),) = record.of_entries("base", ["e-1"])
    assert (found.first_seen, found.last_seen) == (NOW, LATER)
    assert (listed.withdrawn_at, listed.withdrawn_generation) == (None, None)


def test_a_withdrawal_stands_until_the_entry_matches_again(record: Matches) -> None:
    record.record([match("/a", hit("e-1")), match("/b", hit("e-1"))], KEY, NOW)
    record.withdraw("base", ["e-1"], 7, LATER)
    assert record.standing("base") == []
    found = record.withdrawn()
    assert [(f.path, h.entry) for f, h in found] == [("/a", "e-1"), ("/b", "e-1")]
    assert {(h.withdrawn_generation, h.withdrawn_at) for _, h in found} == {(7, LATER)}
    assert {f.state for f, _ in found} == {MatchState.WITHDRAWN}
    assert paths(record, "e-1") == []
    # A second withdrawal does not change the time of the first withdrawal.
    record.withdraw("base", ["e-1"], 8, LATER + timedelta(days=1))
    assert {h.withdrawn_generation for _, h in record.withdrawn()} == {7}
    (again,) = record.record([match("/a", hit("e-1", generation=9))], KEY, LATER)
    assert again.state is MatchState.FOUND
    assert [step.event for step in record.story(again.id)] == ["found", "withdrawn", "found"]
    assert [f.path for f, _ in record.withdrawn()] == ["/b"]
    assert paths(record, "e-1") == ["/a"]


def test_a_match_is_withdrawn_when_none_of_its_entries_is_left(record: Matches) -> None:
    (made,) = record.record([match("/a", hit("e-1"), hit("e-2"))], KEY, NOW)
    record.withdraw("base", ["e-1"], 7, LATER)
    assert record.withdrawn() == []
    found = record.get(made.id)
    assert found.state is MatchState.FOUND
    assert [h.entry for h in found.standing] == ["e-2"]
    assert [h.withdrawn_generation for h in found.hits] == [7, None]
    record.withdraw("base", ["e-2"], 8, LATER)
    assert record.get(found.id).state is MatchState.WITHDRAWN
    assert [h.withdrawn_generation for _, h in record.withdrawn()] == [7, 8]


def test_a_match_that_is_listed_again_returns_to_its_former_state(record: Matches) -> None:
    made = record.record([match(f"/{n}", hit(f"e-{n}")) for n in range(3)], KEY, NOW)
    taken, left, given_back = (m.id for m in made)
    record.change(taken, MatchState.QUARANTINED, NOW, {}, in_place=False)
    record.change(taken, MatchState.REPORTED, NOW, {})
    record.withdraw("base", ["e-0", "e-1", "e-2"], 2, NOW)
    record.change(given_back, MatchState.RESTORED, NOW, {})
    again = record.list_again(taken, [hit("e-0", generation=3)], LATER)
    assert (again.state, again.in_place) == (MatchState.REPORTED, False)
    assert again.standing == (hit("e-0", generation=3),)
    assert record.story(taken)[-1].event == LISTED_AGAIN
    # The new entry may be on another list under another id; a settled match stays settled.
    assert record.list_again(left, [hit("x-1", "other")], LATER).state is MatchState.FOUND
    assert record.list_again(given_back, [hit("e-2")], LATER).state is MatchState.RESTORED
    assert record.standing("base") == ["e-0"] and record.standing("other") == ["x-1"]
    assert record.withdrawn() == []
    # A match that was listed again can be withdrawn again.
    record.withdraw("base", ["e-0"], 4, LATER)
    assert record.get(taken).state is MatchState.WITHDRAWN


def test_matches_come_in_the_order_they_were_found(record: Matches) -> None:
    for n in range(20):
        record.record([match(f"/{n}", hit("e-1"))], KEY, NOW)
    assert [m.path for m in record.find()] == [f"/{n}" for n in range(20)]


def test_the_same_file_is_the_same_record(record: Matches) -> None:
    first = match("/a", hit("e-1"), md5=b"m" * 16)
    (made,) = record.record([first], KEY, NOW)
    assert re.fullmatch(r"[a-z0-9]{10}", made.id)
    assert (made.state, made.in_place) == (MatchState.FOUND, True)
    assert record.get(made.id).tags == {Algorithm.MD5: b"m" * 16}
    # A common entry or common tags show that the file is the same; known tags stay known.
    (by_entry,) = record.record([match("/a", hit("e-1"), sha1=b"s" * 16)], KEY, LATER)
    by_tags = match("/a", hit("e-5", "other"), md5=b"m" * 16)
    assert record.record([by_tags], KEY, LATER)[0].id == made.id == by_entry.id
    found = record.get(made.id)
    assert found.tags == {Algorithm.MD5: b"m" * 16, Algorithm.SHA1: b"s" * 16}
    assert [(h.list_name, h.entry) for h in found.hits] == [
        ("base", "e-1"),
        ("other", "e-5"),
    ]
    assert [step.event for step in record.story(made.id)] == ["found"]
    others = [
        match("/b", hit("e-1"), md5=b"m" * 16),  # a match at another path
        match("/a", hit("e-7"), md5=b"n" * 16),  # another file at the same path
    ]
    known = {made.id, *(m.id for m in record.record(others, KEY, LATER))}
    assert len(known) == 3
    # If no digest is common, the file may be another file.
    (no_common,) = record.record([match("/b", hit("e-6"), sha1=b"m" * 16)], KEY, LATER)
    assert no_common.id not in known
    # Tags under another key prove nothing.
    (other_key,) = record.record([match("/a", hit("e-8"), md5=b"m" * 16)], "other", LATER)
    assert other_key.id not in known
    # After a change of the seal key, a common entry shows that the file is the same. Old tags are
    # dropped.
    (renewed,) = record.record([match("/a", hit("e-1"), md5=b"k" * 16)], "other", LATER)
    assert renewed.id == made.id
    found = record.get(renewed.id)
    assert (found.key_id, found.tags) == ("other", {Algorithm.MD5: b"k" * 16})


def test_a_new_file_at_the_path_of_a_quarantined_one_is_another_record(record: Matches) -> None:
    (taken,) = record.record([match("/a", hit("e-1"), md5=b"m" * 16)], KEY, NOW)
    record.change(taken.id, MatchState.QUARANTINED, NOW, {"by": "me"}, in_place=False)
    (again,) = record.record([match("/a", hit("e-1"), md5=b"m" * 16)], KEY, LATER)
    assert again.id != taken.id
    assert [m.id for m in record.find()] == [taken.id, again.id]
    assert [m.id for m in record.find([MatchState.QUARANTINED])] == [taken.id]
    assert [m.id for m in record.find([MatchState.PURGED, MatchState.CLOSED])] == []
    counts = record.counts()
    assert (counts[MatchState.QUARANTINED], counts[MatchState.FOUND], sum(counts.values())) == (
        1,
        1,
        2,
    )


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ("quarantined", "quarantined"),
        ("quarantined reported acknowledged", "acknowledged"),
        ("reported quarantined", "reported"),
        ("acknowledged reported", "acknowledged"),
        ("quarantined reported withdraw", "withdrawn"),
        ("withdraw reported", "withdrawn"),
        ("withdraw restored", "restored"),
        ("restored withdraw", "restored"),
        ("purged withdraw", "purged"),
        ("closed", "closed"),
    ],
)
def test_steps_lead_forward_only(record: Matches, steps: str, state: str) -> None:
    (made,) = record.record([match("/a", hit("e-1"))], KEY, NOW)
    for step in steps.split():
        if step == "withdraw":
            record.withdraw("base", ["e-1"], 2, NOW)
        else:
            record.change(made.id, MatchState(step), NOW, {"why": step})
    assert record.get(made.id).state == state
    events = steps.replace("withdraw", "withdrawn").split()
    story = record.story(made.id)
    assert [step.event for step in story] == ["found", *events]
    assert {step.time for step in story} == {NOW}
    for told in story[1:]:
        if told.event != "withdrawn":
            assert told.detail == {"why": told.event}


def test_a_note_leaves_the_state(record: Matches) -> None:
    (made,) = record.record([match("/a", hit("e-1"))], KEY, NOW)
    record.note(made.id, "on-hold", LATER, {"by": "me", "reason": "court"})
    assert record.get(made.id).state is MatchState.FOUND
    assert record.story(made.id)[-1] == Step(LATER, "on-hold", {"by": "me", "reason": "court"})


def test_a_held_match_is_held_again_when_its_report_is_taken_back(record: Matches) -> None:
    """The match is held when it is found. A retraction of its report restores the state `held`."""
    (made,) = record.record(
        [match("/a", hit("e-1"))], KEY, NOW, hold=lambda cases, _: {cases[0].id: True}
    )
    record.change(made.id, MatchState.REPORTED, LATER, {"report": "r-1"})
    again = record.take_back(made.id, REPORT_RETRACTED, LATER, {"report": "r-1"})
    assert again.state is MatchState.HELD
    record.change(made.id, MatchState.CLOSED, LATER, {})
    story = record.story(made.id)
    assert [s.event for s in story] == ["found", "held", "reported", REPORT_RETRACTED, "closed"]
    assert story[1].time == NOW


def test_a_report_is_wanted_until_one_is_prepared(record: Matches) -> None:
    found = [match(f"/{n}", hit(f"e-{n}")) for n in range(4)]
    ids = [made.id for made in record.record(found, KEY, NOW)]
    assert record.wanting_report() == {}
    assert [record.want_report(i, "police", NOW) for i in ids[:3]] == [True] * 3
    assert record.want_report(ids[0], "police", LATER)
    assert record.want_report(ids[3], "hotline", NOW)
    record.withdraw("base", ["e-1"], 2, LATER)
    for one, to in ((0, "hotline"), (2, "police"), (3, "police")):
        record.note(ids[one], REPORT_PREPARED, LATER, {"report": f"r-{one}", "to": to})
    wanted = {to: [m.id for m in matches] for to, matches in record.wanting_report().items()}
    assert wanted == {"police": [ids[0]], "hotline": [ids[3]]}
    assert not record.want_report(ids[2], "police", LATER)
    events = [step.event for step in record.story(ids[0])]
    assert events == ["found", REPORT_WANTED, REPORT_PREPARED]


def test_a_known_match_is_not_adopted(record: Matches) -> None:
    (made,) = record.record([match("/a", hit("e-1"))], KEY, NOW)
    assert not record.adopt(record.get(made.id), LATER, {"by": "me"})
    assert [step.event for step in record.story(made.id)] == ["found"]


def test_a_batch_is_kept_whole_or_not_at_all(record: Matches) -> None:
    (made,) = record.record([match("/a", hit("e-1"))], KEY, NOW)
    with record.batch():
        record.note(made.id, "on-hold", LATER, {})
        record.change(made.id, MatchState.REPORTED, LATER, {})

    def spoiled() -> None:
        with record.batch():
            record.change(made.id, MatchState.PURGED, LATER, {})
            record.get("nobody")

    with pytest.raises(UsageError):
        spoiled()
    assert record.get(made.id).state is MatchState.REPORTED
    assert [step.event for step in record.story(made.id)] == ["found", "on-hold", "reported"]


def test_an_unknown_id_is_a_mistake_of_usage(record: Matches) -> None:
    for ask in (
        lambda: record.get("nobody"),
        lambda: record.story("nobody"),
        lambda: record.change("nobody", MatchState.CLOSED, NOW, {}),
        lambda: record.note("nobody", "on-hold", NOW, {}),
    ):
        with pytest.raises(UsageError, match="no match has the id nobody"):
            ask()


def test_a_record_is_an_outcome_for_formats(record: Matches) -> None:
    (made,) = record.record([match("/a", hit("e-1"), hit("e-0", complete=False))], KEY, NOW)
    handled = record.get(made.id).handled()
    outcome = handled.outcome
    assert (outcome.kind, outcome.path, outcome.size) == (Kind.MATCH, "/a", 4)
    assert outcome.hits == (hit("e-1"),)
    assert handled.record == MatchRef(made.id, MatchState.FOUND, NOW, NOW)
    assert not outcome.tags and not outcome.digests


def test_a_path_is_kept_by_its_bytes_and_made_absolute(
    record: Matches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = os.fsdecode(b"/srv/\xff\xfe\n\x1b[31m")
    record.record([match(raw, hit("e-1")), match("sub/../x", hit("e-1"))], KEY, NOW)
    assert set(paths(record, "e-1")) == {raw, str(tmp_path / "x")}


@pytest.mark.slow
def test_thousands_are_no_burden(record: Matches) -> None:
    record.record([match(f"/{n:05d}", hit(f"e-{n}")) for n in range(5000)], KEY, NOW)
    gone = record.standing("base")
    assert len(gone) == 5000
    assert len(record.of_entries("base", gone)) == 5000
    record.withdraw("base", gone, 2, NOW)
    assert [f.path for f, _ in record.withdrawn()] == [f"/{n:05d}" for n in range(5000)]


def test_no_digest_and_nothing_for_others_is_in_the_file(tmp_path: Path) -> None:
    digest = bytes(range(16))
    outcome = Outcome(
        Kind.MATCH, "/a", 1, hits=(hit("e-1"),), digests={Algorithm.MD5: digest}, tags={}
    )
    with Matches(tmp_path) as record:
        record.record([outcome], KEY, NOW)
    path = tmp_path / DATABASE_NAME
    data = path.read_bytes()
    assert digest not in data and digest.hex().encode() not in data
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_batch_is_recorded_whole_or_not_at_all(record: Matches) -> None:
    good, bad = match("/a", hit("e-1")), match("/b", hit("e-2", generation=2**70))
    with pytest.raises(OverflowError):
        record.record([good, bad], KEY, NOW)
    assert record.standing("base") == []
    record.record([good], KEY, NOW)
    assert record.standing("base") == ["e-1"]


def test_several_scans_may_record_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def scan(number: int) -> None:
        try:
            for batch in range(10):
                with Matches(tmp_path) as record:
                    found = [match(f"/{number}/{batch}/{n}", hit("e-1")) for n in range(20)]
                    record.record(found, KEY, NOW)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=scan, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Matches(tmp_path) as record:
        assert len(record.of_entries("base", ["e-1"])) == 1200


@pytest.mark.parametrize("create", [True, False])
def test_a_transaction_of_a_killed_scan_is_rolled_back(tmp_path: Path, create: bool) -> None:
    with Matches(tmp_path) as record:
        record.record([match(f"/{n}", hit("e-1")) for n in range(2000)], KEY, NOW)

    def killed() -> None:
        with Matches(tmp_path) as record:
            # With so small a cache, the database writes pages before the transaction ends.
            record._db.execute("PRAGMA cache_size = 1")
            record._db.execute("BEGIN IMMEDIATE")
            record._db.execute("UPDATE hit SET withdrawn_generation = 1")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert (tmp_path / f"{DATABASE_NAME}-journal").exists()
    with Matches(tmp_path, create=create) as record:
        assert record.withdrawn() == []
        assert len(record.of_entries("base", ["e-1"])) == 2000


def test_a_reader_makes_none(tmp_path: Path) -> None:
    with Matches(tmp_path, create=False) as record:
        assert list(record.find()) == []
    assert list(tmp_path.iterdir()) == []
    # A scan that is killed while it creates the database leaves an empty file.
    (tmp_path / DATABASE_NAME).touch()
    with Matches(tmp_path, create=False) as record:
        assert record.withdrawn() == []
    with Matches(tmp_path) as record:
        record.record([match("/a", hit("e-1"))], KEY, NOW)
    with Matches(tmp_path, create=False) as record:
        assert len(list(record.find())) == 1


def test_another_version_is_refused_by_name_and_left_as_it_is(tmp_path: Path) -> None:
    Matches(tmp_path).__exit__()
    path = tmp_path / DATABASE_NAME
    with contextlib.closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        for other, said, hint in (
            (version - 1, "before the first release", "`hashclient quarantine recover`"),
            (version + 1, "newer", "use that version"),
        ):
            db.execute(f"PRAGMA user_version = {other}")
            before = path.read_bytes()
            for create in (False, True):
                with pytest.raises(StateError, match=said) as caught:
                    Matches(tmp_path, create=create)
                assert str(path) in caught.value.message
                assert "nothing was changed" in (caught.value.hint or "")
                assert hint in (caught.value.hint or "")
            assert path.read_bytes() == before


def test_one_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Matches(tmp_path).__exit__()
    other = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    with pytest.raises(StateError, match="locked"):
        Matches(tmp_path)
    other.close()


@pytest.mark.slow
def test_damage_of_any_kind_is_an_error_of_ours(tmp_path: Path) -> None:
    with Matches(tmp_path) as record:
        record.record([match(f"/{n}", hit(f"e-{n % 9}")) for n in range(200)], KEY, NOW)
        record.withdraw("base", ["e-1"], 2, NOW)
    path = tmp_path / DATABASE_NAME
    whole = path.read_bytes()
    chance = random.Random(3)
    refused = read = 0
    for number in range(150):
        data = bytearray(whole)
        for _ in range(number % 40):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        if number % 5 == 0:
            data = data[: chance.randrange(len(data))]
        path.write_bytes(data)
        for journal in tmp_path.glob("*-journal"):
            journal.unlink()
        try:
            with Matches(tmp_path) as record:
                record.withdrawn()
                record.of_entries("base", record.standing("base"))
                record.record([match("/x", hit("e-3"))], KEY, NOW)
            read += 1
        except StateError:
            refused += 1
    assert refused and read


@pytest.mark.parametrize("path", ["//srv/a", "///srv//a", "//srv/b/../a"])
def test_a_file_has_one_record_however_its_path_is_written(record: Matches, path: str) -> None:
    [plain] = record.record([match("/srv/a", hit("e-1"))], KEY, NOW)
    [again] = record.record([match(path, hit("e-1"))], KEY, LATER)
    assert (again.id, record.get(again.id).path) == (plain.id, "/srv/a")


@pytest.mark.parametrize("detail", ["[]", "null", "7", '"to"', "{", ""])
def test_a_story_that_is_damaged_is_said(record: Matches, tmp_path: Path, detail: str) -> None:
    [found] = record.record([match("/srv/a", hit("e-1"))], KEY, NOW)
    record.want_report(found.id, "police", NOW)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as damaged:
        damaged.execute("UPDATE step SET detail = ?", (detail,))
    damaged.close()
    with pytest.raises(StateError, match="cannot use the record of matches"):
        record.story(found.id)
    with pytest.raises(StateError, match="cannot use the record of matches"):
        record.want_report(found.id, "police", NOW)
    with pytest.raises(StateError, match="cannot use the record of matches"):
        record.wanting_report()


def test_a_batch_returns_what_is_on_record(record: Matches) -> None:
    chance = random.Random(7)
    for _ in range(40):
        found = []
        for _ in range(chance.randrange(1, 60)):
            hits = [
                hit(f"e-{chance.randrange(4)}", chance.choice(("base", "other")))
                for _ in range(chance.randrange(1, 4))
            ]
            tag = bytes([chance.randrange(3)]) * 16
            where = f"/{chance.randrange(30)}"
            found.append(match(where, *hits, md5=tag, sha1=tag if chance.random() < 0.5 else b""))
        if chance.random() < 0.3:
            record.withdraw("base", [f"e-{chance.randrange(4)}"], 2, NOW)
        made = record.record(found, chance.choice((KEY, "other")), NOW)
        # If a batch has the same match twice, the last outcome of the file counts.
        last = {m.id: m for m in made}
        assert {i: record.get(i).ref for i in last} == last


def test_many_ids_at_once_are_different_and_begin_alike() -> None:
    for count in (0, 1, 31, 32, 5000):
        ids = new_ids(count)
        assert len(set(ids)) == count == len(ids)
        assert all(re.fullmatch(r"[b-df-hj-np-tv-xz2-9]{10}", one) for one in ids)
        assert ids == sorted(ids)
    assert len({one[:4] for one in new_ids(100)}) == 1
    letters = "".join(new_id() for _ in range(3000))
    counts = [letters.count(letter) for letter in set(letters)]
    assert len(counts) == 27 and max(counts) < 1.3 * min(counts)


def test_the_story_of_a_gone_match_continues(record: Matches) -> None:
    places = [Place(f"/srv/{n}", "inner name") for n in range(4)]
    found = [match(f"/srv/{n}", hit(f"e-{n}")) for n in range(4)]
    ids = [m.id for m in record.record(found, KEY, NOW, places)]
    record.want_report(ids[2], "police", NOW)
    record.change(ids[3], MatchState.REPORTED, NOW, {})
    left = list(record.left_below("/srv", NOW))
    assert [(one.id, one.path) for one in left] == [(ids[0], b"/srv/0"), (ids[1], b"/srv/1")]
    assert list(record.left_below("/sr", NOW)) == []
    assert list(record.left_below("/srv", NOW - timedelta(seconds=1))) == []
    # Another scan has found the first match meanwhile.
    record.record(found[:1], KEY, LATER, places[:1])
    assert [one.id for one in record.mark_gone(left, LATER)] == [ids[1]]
    gone = record.get(ids[1])
    assert (gone.state, gone.in_place, gone.ended) == (MatchState.GONE, True, None)
    assert record.mark_gone(left, LATER) == []
    # A gone match can still be reported and withdrawn.
    assert record.change(ids[1], MatchState.REPORTED, LATER, {}).state is MatchState.REPORTED
    record.withdraw("base", ["e-1"], 2, LATER)
    assert record.get(ids[1]).state is MatchState.WITHDRAWN


def test_a_page_of_matches_may_end_among_those_of_one_path(record: Matches) -> None:
    count = selection.PAGE_ROWS + 20
    places = [Place(f"/srv/{n}", "inner name") for n in range(count)]
    found = [match(place.path, hit(f"e-{n}")) for n, place in enumerate(places)]
    record.record(found, KEY, NOW, places)
    record._db.execute("UPDATE match SET path = CAST('/srv/a' AS BLOB)")
    assert len({one.id for one in record.left_below("/", NOW)}) == count


@pytest.mark.sampled
@pytest.mark.parametrize("kill_at", [1, 4, 9])
def test_a_scan_killed_while_it_records_leaves_all_or_nothing(tmp_path: Path, kill_at: int) -> None:
    Matches(tmp_path).__exit__()
    found = [match(f"/{n}", hit(f"e-{n}")) for n in range(5000)]

    def killed() -> None:
        with Matches(tmp_path) as record:
            steps = 0

            def step() -> None:
                nonlocal steps
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            record._db.execute("PRAGMA cache_size = 4")
            record._db.set_progress_handler(step, 20_000)
            record.record(found, KEY, NOW)

    assert in_child(killed) == -signal.SIGKILL
    with Matches(tmp_path) as record:
        assert list(record.find()) == []
        assert len(record.record(found, KEY, NOW)) == 5000


def test_standings_of_no_match_are_forgotten_with_the_last(tmp_path: Path) -> None:
    with Matches(tmp_path) as record:
        places = [Place("/srv/a/1", "inner1 name"), Place("/srv/b/1", "inner2 name")]
        found = [match("/srv/a/1", hit("e-1")), match("/srv/b/1", hit("e-2"))]
        ids = [m.id for m in record.record(found, KEY, NOW, places)]
        record.change(ids[0], MatchState.CLOSED, NOW, {})
    with Pruner(tmp_path) as pruner:
        assert pruner.prune(ids) == 1
        left = pruner._db.execute("SELECT words FROM standing").fetchall()
        assert left == [("inner2 name",)]
    verify_matches(tmp_path)


# --- members of containers ----------------------------------------------------------------


def members(
    path: str, *entries: str, md5: bytes = b"0" * 16, is_stream: bool = False
) -> list[Outcome]:
    """Return members of one file: for each entry, a member that matches this entry."""
    outer = Outer(1000, {Algorithm.MD5: md5}, len(entries))
    return [
        Outcome(
            Kind.MATCH,
            path,
            4,
            hits=(hit(entry),),
            members=(f"m-{entry}",),
            outer=outer,
            is_stream=is_stream,
        )
        for entry in entries
    ]


def test_an_excepted_member_of_a_later_batch_does_not_except_what_was_a_match(
    record: Matches,
) -> None:
    """Two members hit the same entry, but an exception covers only one of them."""

    def batch(kind: Kind, now: datetime, since: datetime) -> MatchRef:
        (outcome,) = members("/a.zip", "e-1")
        excepted = {"exceptions": ("x-1",)} if kind is Kind.EXCEPTED else {}
        outcome = msgspec.structs.replace(outcome, kind=kind, **excepted)
        (ref,) = record.record([outcome], KEY, now, since=since)
        return ref

    later = NOW + timedelta(minutes=1)
    assert batch(Kind.MATCH, NOW, NOW).state is MatchState.FOUND
    assert batch(Kind.EXCEPTED, NOW, NOW).state is MatchState.FOUND
    # In the next run, an exception covers all matching members of the container.
    assert batch(Kind.EXCEPTED, later, later).state is MatchState.EXCEPTED
    # Once a member matches without an exception, the container stays a match until the run ends.
    again = later + timedelta(minutes=1)
    assert batch(Kind.EXCEPTED, again, again).state is MatchState.EXCEPTED
    assert batch(Kind.MATCH, again, again).state is MatchState.FOUND
    assert batch(Kind.EXCEPTED, again, again).state is MatchState.FOUND


def test_a_match_of_another_entry_is_not_excepted_by_a_run_that_does_not_find_this_entry(
    record: Matches,
) -> None:
    """The list of the other entry cannot be used in the second run, for example."""
    both = match("/a", hit("e-1"), hit("e-2"))
    (first,) = record.record([both], KEY, NOW)
    excepted = msgspec.structs.replace(
        both, kind=Kind.EXCEPTED, hits=both.hits[:1], exceptions=("x-1",)
    )
    (ref,) = record.record([excepted], KEY, LATER, since=LATER)
    assert (ref.id, ref.state) == (first.id, MatchState.FOUND)
    assert record.get(first.id).state is MatchState.FOUND
    record.withdraw("base", ["e-2"], 2, LATER)
    (ref,) = record.record([excepted], KEY, LATER, since=LATER)
    assert ref.state is MatchState.EXCEPTED


def test_all_members_of_a_file_have_its_record_and_their_entries(record: Matches) -> None:
    names = [f"e-{n}" for n in range(300)]
    found = [*members("/a.zip", *names), match("/b", hit("e-1")), *members("/a.zip", "e-more")]
    refs = record.record(found, KEY, NOW)
    assert [ref.id for ref in refs] == [refs[0].id] * 300 + [refs[300].id, refs[0].id]
    assert refs[0].id != refs[300].id
    made = record.get(refs[0].id)
    assert {h.entry for h in made.hits} == {*names, "e-more"}
    assert (made.size, made.tags) == (1000, {Algorithm.MD5: b"0" * 16})
    steps = [step for step in record.story(made.id) if step.event != "found"]
    assert [step.detail["members"] for step in steps] == [[f"m-e-{n}"] for n in range(100)]


def test_members_found_again_renew_the_record_and_are_noted_once(record: Matches) -> None:
    first = record.record(members("/a.zip", "e-1", "e-2"), KEY, NOW)
    again = record.record(members("/a.zip", "e-2", "e-3"), KEY, LATER)
    assert {ref.id for ref in [*first, *again]} == {first[0].id}
    assert {ref.last_seen for ref in again} == {LATER}
    story = [s.detail["members"] for s in record.story(first[0].id) if s.event != "found"]
    assert story == [["m-e-1"], ["m-e-2"], ["m-e-3"]]


def test_members_of_files_that_differ_are_not_of_one_record(record: Matches) -> None:
    """Between two members, another file took the place of the container."""
    found = [*members("/a.zip", "e-1"), *members("/a.zip", "e-2", md5=b"1" * 16)]
    refs = record.record(found, KEY, NOW)
    assert refs[0].id != refs[1].id
    untagged = [
        Outcome(Kind.MATCH, "/c.zip", 4, hits=(hit(e),), outer=Outer(9, {}, 2)) for e in ("x", "y")
    ]
    refs = record.record(untagged, KEY, NOW)
    assert refs[0].id != refs[1].id


def test_a_stream_counts_each_of_its_members(record: Matches) -> None:
    refs = record.record(members("mail", "e-1", "e-2", "e-3", is_stream=True), KEY, NOW)
    assert len({ref.id for ref in refs}) == 1
    assert record.get(refs[0].id).times_seen == 3


def test_many_members_cost_no_more_questions_than_one(record: Matches) -> None:
    def asked(found: list[Outcome]) -> int:
        statements: list[str] = []
        record._db.set_trace_callback(statements.append)
        record.record(found, KEY, NOW)
        record._db.set_trace_callback(None)
        return sum(text.startswith("SELECT") for text in statements)

    few = asked(members("/few.zip", "e-1"))
    assert asked(members("/many.zip", *(f"e-{n}" for n in range(200)))) == few
    assert asked(members("/many.zip", *(f"e-{n}" for n in range(200)))) <= few + 1


def test_steps_before_the_file_was_found_again_do_not_count() -> None:
    def story(*events: str) -> list[Step]:
        return [Step(NOW, event, {"report": "r"}) for event in events]

    before = story("found", "quarantined", "reported", "acknowledged")
    again = story("found", "reported")
    assert [step.event for step in standing_steps([*before, *again])] == ["reported"]
    assert standing_steps([*before, *story("found")]) == []
    assert progress_of([*before, *story("found")], in_place=True) is MatchState.FOUND
    assert progress_of([*before, *again], in_place=True) is MatchState.REPORTED
    assert progress_of(before, in_place=False) is MatchState.ACKNOWLEDGED


@pytest.mark.parametrize("inode", [1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_the_file_that_was_read_is_on_record_whatever_its_inode_is(
    tmp_path: Path, inode: int
) -> None:
    """The record has no device numbers, which change at a restart; the last scan counts."""
    outcome = match("/srv/a", hit("e-1"))
    with Matches(tmp_path) as record:
        for directory in (inode, 7, None):
            seen = Seen(1, directory, 2, inode)
            (ref,) = record.record([msgspec.structs.replace(outcome, seen=seen)], KEY, NOW)
            assert record.get(ref.id).seen == Seen(None, directory, None, inode)
        (ref,) = record.record([outcome], KEY, NOW)
        assert record.get(ref.id).seen is None
