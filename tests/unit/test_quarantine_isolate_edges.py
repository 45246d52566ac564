"""Isolating: interrupted operations, what is known about a file, and the limits of a batch."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest

from fixtures.quarantine import CONTENT, Ward
from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import Algorithm, Kind, MatchState
from hashclient.core.match import Match
from hashclient.core.model import Hit, Outcome
from hashclient.index.blinding import Sealer
from hashclient.quarantine import isolate, restore, store
from hashclient.quarantine.isolate import Taken
from hashclient.quarantine.isolators.files import FileSpot
from hashclient.quarantine.isolators.interface import Held, Removed
from hashclient.quarantine.safe_rename import Place
from hashclient.quarantine.sealing import Digester, digest_all
from hashclient.quarantine.vault import Stage, load_identities


def several(ward: Ward, directory: Path, count: int) -> list[Match]:
    """Record files of eight bytes as matches."""
    paths = [directory / f"f-{number}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"benign %d" % number)
    return [ward.match(path, entry=f"e-{n}") for n, path in enumerate(paths)]


def take_all(ward: Ward, ids: list[str]) -> list[tuple[str, str]]:
    with ward.record() as record:
        outcomes = ward.open().take_all([(i, None) for i in ids], record, reason="test")
        return [(i, str(getattr(one, "detail", one))) for i, one in outcomes]


def groups_of(ward: Ward, event: str) -> list[int]:
    """Return how many events of a name follow each other in the log, for each group."""
    return [len([*group]) for name, group in groupby(ward.events()) if name == event]


# Batches


@pytest.mark.parametrize(
    ("at_once", "most_bytes", "groups"),
    [
        (1, 99, [1, 1, 1]),
        (2, 99, [2, 1]),
        (3, 99, [3]),
        (128, 8, [1, 1, 1]),
        (128, 9, [2, 1]),
        (128, 16, [2, 1]),
        (128, 17, [3]),
    ],
)
def test_a_batch_ends_at_so_many_files_or_bytes(
    ward: Ward,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    most_bytes: int,
    groups: list[int],
) -> None:
    ids = [match.id for match in several(ward, tmp_path, 3)]
    for module in (isolate, restore):
        monkeypatch.setattr(module, "at_once", lambda: at_once)
        monkeypatch.setattr(module, "AT_ONCE_BYTES", most_bytes)
    assert take_all(ward, ids) == [(i, "quarantined") for i in ids]
    assert groups_of(ward, "quarantine-sealed") == groups
    with ward.record() as record:
        given = (ids, load_identities(ward.key), record)
        done = [*ward.open().restore_all(*given, reason="back", force=True)]
    assert [i for i, _ in done] == ids
    assert sorted(path.name for path in tmp_path.glob("f-*")) == ["f-0", "f-1", "f-2"]
    assert groups_of(ward, "restoring") == groups


def test_an_id_that_is_given_twice_and_a_second_name_are_left_for_the_next_batch(
    ward: Ward, tmp_path: Path
) -> None:
    one, other = several(ward, tmp_path, 2)
    twin = tmp_path / "twin"
    twin.hardlink_to(one.path)
    second = ward.match(twin, entry="e-0")
    closed = ward.match(tmp_path / "f-1", entry="e-9", at=str(tmp_path / "gone"))
    ward.change(closed, MatchState.CLOSED)
    ids = [one.id, closed.id, other.id, second.id, one.id]
    assert take_all(ward, ids) == [
        (one.id, "quarantined; 1 other name of it remains"),
        (closed.id, f"match {closed.id} is not open: it is closed"),
        (other.id, "quarantined"),
        (second.id, "quarantined"),
        (one.id, "in quarantine already"),
    ]
    assert ward.names() == {one.id, other.id, second.id}
    assert groups_of(ward, "quarantine-sealed") == [2, 1]


def test_limits_are_those_of_the_documents() -> None:
    assert (store.LOCK_WAIT_S, store.AT_ONCE_BYTES) == (60.0, 64 << 20)


# Which matches may be isolated


def refused(ward: Ward, match: Match, kind: type[Exception]) -> str:
    with pytest.raises(kind) as error:
        ward.take(match)
    assert getattr(error.value, "hint", None)
    return str(error.value)


def test_a_match_whose_file_was_taken_and_whose_item_is_gone_is_not_open(
    ward: Ward, file: Path
) -> None:
    match = ward.match(file)
    with ward.record() as record:
        record.change(match.id, MatchState.REPORTED, ward.now, {}, in_place=False)
    said = refused(ward, match, UsageError)
    assert said == f"match {match.id} is not open: it is reported"
    assert file.read_bytes() == CONTENT


def test_a_match_without_tags_cannot_be_proven_and_one_without_a_size_can(
    ward: Ward, file: Path
) -> None:
    match = ward.match(file)
    for change, can_be_taken in (("sha256 = NULL", False), ("size = NULL", True)):
        with ward.record() as record:
            record._db.execute(f"UPDATE match SET {change}")
        if can_be_taken:
            assert ward.take(match).taken and ward.item(match).size == len(CONTENT)
        else:
            assert "was sealed with another key" in refused(ward, match, StateError)
            assert ward.match(file).id == match.id  # the file is scanned again


def test_a_withdrawn_match_and_one_without_a_key_have_advice(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)

    def fail(_: object) -> None:
        raise StateError("the seal key is missing", hint="fetch again")

    with monkeypatch.context() as patched:
        patched.setattr("hashclient.session.Session.sealer", fail)
        patched.setattr("fixtures.quarantine._Session.sealer", fail)
        with pytest.raises(StateError) as unproven:
            ward.take(match)
    said = "without the seal key nobody can prove which file matched: the seal key is missing"
    assert (unproven.value.message, unproven.value.hint) == (said, "fetch again")
    ward.withdraw()
    said = f"match {match.id} is withdrawn: the provider has withdrawn the entry"
    assert refused(ward, match, UsageError) == said
    assert file.exists() and ward.names() == set()


def test_a_stream_has_no_file(ward: Ward, file: Path) -> None:
    tags = ward.match(file).tags
    hit = Hit("base", "e-2", "c", 1, (Algorithm.SHA256,), complete=True)
    stream = Outcome(Kind.MATCH, "stdin:x", 5, hits=(hit,), tags=tags, is_stream=True)
    with ward.record() as record:
        (made,) = record.record([stream], ward.sealer.key_id, ward.now)
        match = record.get(made.id)
    assert "came as a stream: there is no file to isolate" in refused(ward, match, UsageError)


# Interrupted operations


def stuck(ward: Ward, match: Match, patched: pytest.MonkeyPatch) -> Taken:
    """Seal the file of a match whose name cannot be removed now."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with patched.context() as patch:
        patch.setattr("hashclient.quarantine.isolators.files.remove_exactly", refuse)
        return ward.take(match)


def replace(path: Path, content: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(content)
    new.rename(path)


def nothing(_: Path) -> None:
    pass


LEFT_ALONE = "quarantined; something else is at its path now, and was left alone"
IS_OTHER = "sealed, but changed: it is not the file that was read"


@pytest.mark.parametrize("text", [None, "gone"])
@pytest.mark.parametrize(
    ("change", "detail", "left"),
    [
        (nothing, "quarantined", None),
        (os.utime, "quarantined", None),
        (Path.unlink, "quarantined", None),
        (lambda path: replace(path, b"other"), LEFT_ALONE, b"other"),
        (lambda path: path.write_bytes(b"other"), LEFT_ALONE, b"other"),
        (lambda path: path.write_bytes(CONTENT[::-1]), LEFT_ALONE, CONTENT[::-1]),
        (lambda path: replace(path, CONTENT), IS_OTHER, CONTENT),
        (lambda path: replace(path, b"gone\n"), None, b"gone\n"),
    ],
    ids=["same", "touched", "gone", "other", "written", "as long", "copied", "tombstone"],
)
def test_an_interrupted_operation_is_finished_by_what_is_at_the_path(
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    change: Callable[[Path], object],
    detail: str | None,
    left: bytes | None,
) -> None:
    ward = Ward(tmp_path, tombstone=text)
    match = ward.match(file)
    assert stuck(ward, match, monkeypatch) == Taken(
        taken=False,
        sealed=True,
        detail="sealed, but still in place: permission denied",
        attention=True,
    )
    assert ward.last_event()["event"] == "quarantine-incomplete"
    assert ward.last_event()["detail"] == "still in place: permission denied"
    change(file)
    if detail is None:  # another operation has written the tombstone already
        detail = LEFT_ALONE if text is None else "quarantined"
    done = ward.take(match)
    is_taken = detail != IS_OTHER
    assert done == Taken(
        taken=is_taken, sealed=True, detail=detail, attention=detail != "quarantined"
    )
    item, now = ward.item(match), ward.get(match)
    assert item.stage is (Stage.REMOVED if is_taken else Stage.SEALED)
    assert now.in_place is not is_taken
    assert ward.opened(match) == CONTENT
    expected = left if left is not None or text is None else b"gone\n"
    assert (file.read_bytes() if file.exists() else None) == expected
    if is_taken:
        has_tombstone = text is not None and detail == "quarantined"
        assert item.tombstone == ("gone\n" if has_tombstone else None)
        assert ward.last_event()["remains"] == detail.split("; ")[1:]


@pytest.mark.parametrize("differs", ["inode", "content"])
def test_a_file_under_the_private_name_that_is_not_the_sealed_one_is_named(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, differs: str
) -> None:
    match = ward.match(file)
    stuck(ward, match, monkeypatch)
    private = file.with_name(f".hashclient-{match.id}")
    if differs == "inode":
        file.rename(file.with_name("moved"))
        private.write_bytes(CONTENT)
    else:
        file.rename(private)
        private.write_bytes(CONTENT[::-1])
    file.write_bytes(b"other")
    done = ward.take(match)
    said = f"sealed, but another file was in its place; this file is now {private}"
    assert done == Taken(taken=False, sealed=True, detail=said, attention=True)
    assert private.exists() and file.read_bytes() == b"other"


def test_the_file_that_was_read_is_known_from_the_item_if_the_record_lacks_it(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    stuck(ward, match, monkeypatch)
    with ward.record() as record:
        record._db.execute("UPDATE match SET directory_inode = NULL, inode = NULL")
    assert ward.take(match).detail == "quarantined"


def test_a_file_that_changes_while_an_operation_is_finished_stays(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    stuck(ward, match, monkeypatch)

    def touching(held: Held, tags: Iterable[Algorithm], limit: int) -> Digester:
        found = digest_all(held, tags, limit)
        os.utime(file)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(isolate, "digest_all", touching)
        done = ward.take(match)
    said = "sealed, but still in place: changed while it was read"
    assert (done.taken, done.sealed, done.detail) == (False, True, said)
    assert file.read_bytes() == CONTENT and ward.take(match).taken


def test_an_item_whose_sealed_copy_is_damaged_removes_no_file(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    stuck(ward, match, monkeypatch)
    evidence = ward.evidence(match)
    evidence.write_bytes(evidence.read_bytes()[:-1])
    with pytest.raises(StateError, match="the sealed copy is damaged"):
        ward.take(match)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_item_of_a_withdrawn_match_stays_with_its_file(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    match = ward.match(file)
    stuck(ward, match, monkeypatch)

    def fetch(_bytes: int) -> None:
        ward.withdraw()

    if when == "before":
        ward.withdraw()
    with ward.record() as record, pytest.raises(UsageError, match="is withdrawn"):
        ward.open(on_bytes=fetch).take(match, record, reason="test")
    assert file.read_bytes() == CONTENT and ward.names() == {match.id}


def test_a_copy_that_is_on_hold_stays_when_the_match_is_withdrawn_meanwhile(
    ward: Ward, file: Path
) -> None:
    match = ward.match(file)
    until = (ward.now + timedelta(days=1)).isoformat()
    asked = {"request": "keep", "text": "keep it", "until": until}
    with ward.record() as record:
        record.note(match.id, "answered", ward.now, {"by": "the body", "requests": [asked]})
        with pytest.raises(UsageError, match="is withdrawn"):
            ward.open(on_bytes=lambda _: ward.withdraw()).take(match, record, reason="test")
    assert file.read_bytes() == CONTENT and ward.names() == {match.id}
    assert ward.item(match).stage is Stage.SEALED


def test_a_copy_that_is_made_again_with_another_key_keeps_its_hold_and_its_context(
    ward: Ward, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    stuck(ward, match, monkeypatch)
    ward.hold(match)
    other = tmp_path / "chat"
    other.write_bytes(b"chat")
    with ward.record() as record:
        ward.open().add_context(match.id, [other], record, reason="x")
    before = ward.item(match)
    ward.sealer = Sealer(bytes(32))
    assert ward.match(file).id == match.id
    assert ward.take(match).detail == "quarantined"
    item = ward.item(match)
    assert item.hold == before.hold is not None
    assert item.context == before.context and len(item.context) == 1
    assert item.key_id == ward.sealer.key_id != before.key_id
    assert {finding.detail for finding in ward.verify().values()} == {"whole"}


def test_a_file_that_is_meant_to_stay_needs_no_attention(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may put an object on legal hold instead of deleting it."""
    match = ward.match(file)
    for is_meant, word in ((True, "and"), (False, "but")):
        removed = Removed(done=False, why="put on hold", is_meant=is_meant)
        monkeypatch.setattr(FileSpot, "remove", lambda *_, removed=removed: removed)
        assert ward.take(match) == Taken(
            taken=False,
            sealed=True,
            detail=f"sealed, {word} put on hold",
            attention=not is_meant,
        )
        assert ward.last_event()["detail"] == "put on hold"


def test_the_removal_of_a_name_is_durable_before_it_is_logged(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match, seen = ward.match(file), list[tuple[bool, str]]()

    def look(place: Place) -> None:
        seen.append((place.status() is None, ward.events()[-1]))

    monkeypatch.setattr(Place, "try_sync", look)
    assert ward.take(match).taken
    assert seen == [(True, "quarantine-sealed")]
    assert ward.events()[-1] == "quarantined"


def test_an_item_that_was_sealed_for_another_match_and_is_still_in_place_settles_none(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item says that the file of the first match was not removed."""
    kept = file.with_name("kept")
    kept.write_bytes(CONTENT)
    first = ward.match(file)
    stuck(ward, first, monkeypatch)
    with ward.record() as record:
        record.change(first.id, MatchState.REPORTED, ward.now, {}, in_place=False)
    file.unlink()
    second = ward.match(kept, at=str(file))
    assert second.id != first.id
    assert ward.take(second).detail == "not quarantined: not there any more"
