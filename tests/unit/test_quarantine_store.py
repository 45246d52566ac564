"""Steps that all actions of the quarantine share: folders, documents, waits, and failures."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.quarantine import CONTENT, Ward
from hashclient.audit.log import Event, read
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.index.blinding import Sealer
from hashclient.quarantine import store
from hashclient.quarantine.isolators.files import Files
from hashclient.quarantine.isolators.interface import Names
from hashclient.quarantine.item import Item, Note, Restoration, encode_item, load_notes, save_notes
from hashclient.quarantine.store import AT_ONCE, AT_ONCE_BYTES, Room, Wait, at_once, remove_folder
from hashclient.system import files as system_files


@pytest.fixture
def room(ward: Ward) -> Room:
    made = Room(ward.session(), lambda _: None, Files())
    with made.locked():
        return made


@pytest.fixture
def match(ward: Ward, file: Path) -> Match:
    match = ward.match(file)
    ward.take(match)
    return ward.get(match)


@pytest.fixture
def item(ward: Ward, match: Match) -> Item:
    return ward.item(match)


@pytest.mark.parametrize(
    ("most", "used", "items"),
    [
        *((resource.RLIM_INFINITY, 0, 128), (10_000, 0, 128), (1_034, 10, 128), (1_033, 10, 127)),
        *((26, 10, 2), (25, 10, 1), (17, 10, 1), (10, 10, 1), (5, 10, 1)),
    ],
)
def test_as_many_items_go_together_as_there_are_descriptors(
    monkeypatch: pytest.MonkeyPatch, most: int, used: int, items: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(resource, "getrlimit", lambda _: (most, most))
        patched.setattr(os, "listdir", lambda _: ["0"] * used)
        found = at_once()
    assert found == items


def test_without_proc_one_item_goes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(resource, "getrlimit", lambda _: (10_000, 10_000))
        patched.setattr(os, "listdir", fail)
        found = at_once()
    assert found == 1
    assert (AT_ONCE, AT_ONCE_BYTES) == (128, 64 * 1024 * 1024)


def test_the_first_act_removes_what_a_kill_has_left(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ward.settings.layout.quarantine
    mine = tmp_path / "mine"
    (mine / "deeper").mkdir(parents=True)
    (mine / "f").touch()
    (directory / ".tmp-folder" / "item" / "deeper").mkdir(parents=True)
    (directory / ".tmp-folder" / "item" / "evidence.age").touch()
    (directory / ".tmp-folder" / "link").symlink_to(mine)
    (directory / ".tmp-file").touch()
    (directory / ".tmp-link").symlink_to(mine)
    (directory / "bcdfgh2345").mkdir()
    (directory / "x.tmp-").touch()
    room = Room(ward.session(), lambda _: None, Files())
    synced: list[tuple[Path, int]] = []
    with monkeypatch.context() as patched:
        fsync_dir = lambda path: synced.append((path, len(ward.names())))  # noqa: E731
        patched.setattr(system_files, "fsync_dir", fsync_dir)
        with room.locked():
            assert ward.names() == {"bcdfgh2345", "x.tmp-"}
    # An exchange of two folders is made durable before one of the two is removed.
    assert synced == [(directory, 5)]
    assert sorted(path.name for path in mine.iterdir()) == ["deeper", "f"]
    (directory / ".tmp-again").touch()
    with room.locked():  # the temporary folder belongs to an action of this process
        assert (directory / ".tmp-again").exists()


def test_the_quarantine_is_private_and_locked_while_an_act_runs(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.0)
    room, other = (Room(ward.session(), lambda _: None, Files()) for _ in range(2))
    with room.locked():
        assert stat.S_IMODE(room.directory.stat().st_mode) == 0o700
        with pytest.raises(HashclientError), other.locked():
            pass
    with other.locked():
        pass


def test_a_document_is_written_again_whole(room: Room, item: Item) -> None:
    folder = room.folder(item.id)
    (folder / ".tmp-item.json").write_text("a longer text that a kill has left" * 999)
    changed = msgspec.structs.replace(item, tombstone="gone")
    room.save(changed)
    assert (folder / "item.json").read_bytes() == encode_item(changed)
    assert sorted(p.name for p in folder.iterdir()) == ["evidence.age", "item.json"]
    assert room.load(item.id) == changed
    room.save(item)
    assert stat.S_IMODE((folder / "item.json").stat().st_mode) == 0o600


def test_a_document_is_not_written_through_a_link(room: Room, item: Item, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (room.folder(item.id) / ".tmp-item.json").symlink_to(target)
    with pytest.raises(StateError, match="cannot write"):
        room.save(item)
    assert target.read_text() == "mine"


def test_errors_name_the_path(room: Room) -> None:
    path = room.directory / "x"
    with pytest.raises(StateError) as failed, room.errors("cannot write", path):
        raise OSError(28, "No space left on device")
    assert failed.value.message == f"cannot write: {path}: No space left on device"
    with pytest.raises(StateError, match=f"cannot write: {path}"):
        room.syncing(path)()


# Folders


def test_a_new_folder_is_private_and_removed_unless_it_is_admitted(
    room: Room, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    with room.new_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.parent == room.directory and folder.name.startswith(".tmp-")
        (folder / "evidence.age").touch()
    assert not folder.exists()
    new = msgspec.structs.replace(item, id="b" * 10)
    synced: list[Path] = []
    monkeypatch.setattr(system_files, "fsync_dir", synced.append)
    with room.new_folder() as folder:
        (folder / "evidence.age").touch()
        room.admit(folder, new)
    assert synced == []  # the caller makes the name durable
    assert not folder.exists() and room.evidence(new.id).exists()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_an_item(
    room: Room, ward: Ward, item: Item, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(store, "exchange", lambda *_: False)
    with room.new_folder() as folder:
        (folder / "evidence.age").write_text("new")
        with pytest.raises(StateError, match="cannot write to the quarantine"):
            room.admit(folder, item)  # the name of the item is in use
        synced: list[tuple[Path, bool]] = []
        fsync_dir = lambda path: synced.append((path, folder.exists()))  # noqa: E731
        monkeypatch.setattr(system_files, "fsync_dir", fsync_dir)
        room.admit(folder, item, replaces=True)
        assert synced[-1] == (room.directory, can_exchange)
    assert room.evidence(item.id).read_text() == "new"
    assert ward.names() == {item.id}


def test_an_exchange_leaves_the_former_item_to_be_removed(room: Room, item: Item) -> None:
    changed = msgspec.structs.replace(item, tombstone="gone")
    with room.new_folder() as folder:
        (folder / "evidence.age").write_text("new")
        room.exchange(folder, changed)
        assert room.load(item.id) == changed
        assert (folder / "item.json").read_bytes() == encode_item(item)
    assert not folder.exists() and room.evidence(item.id).read_text() == "new"


def test_without_an_exchange_in_one_step_the_item_stays(
    room: Room, ward: Ward, match: Match, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "exchange", lambda *_: False)
    with room.new_folder() as folder, pytest.raises(StateError) as refused:
        room.exchange(folder, ward.item(match))
    assert "cannot exchange two folders in one step" in refused.value.message
    assert "nothing was changed" in (refused.value.hint or "")
    assert not folder.exists() and ward.opened(match) == CONTENT


def test_an_exchange_that_may_not_be_durable_keeps_both_folders(
    room: Room, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename is not synced: after a power loss, the temporary name may be back."""

    def fail(path: Path) -> None:
        if path == room.directory:
            raise OSError(5, "Input/output error")

    with room.new_folder() as folder:
        (folder / "evidence.age").write_text("new")
        monkeypatch.setattr(system_files, "fsync_dir", fail)
        with pytest.raises(StateError, match="cannot write to the quarantine"):
            room.exchange(folder, item)
    assert (folder / "item.json").exists() and room.evidence(item.id).read_text() == "new"


def test_several_items_are_dropped_together(
    room: Room, ward: Ward, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b" * 10, "c" * 10, "d" * 10):
        (room.directory / name / "more").mkdir(parents=True)
        (room.directory / name / "item.json").touch()
    before: list[set[str]] = []
    with monkeypatch.context() as patched:
        patched.setattr(system_files, "fsync_dir", lambda _: before.append(ward.names()))
        room.drop("b" * 10, item.id, "c" * 10)
    assert ward.names() == {"d" * 10}
    # The folders have lost their names durably before their content is removed.
    ((temporary, *names),) = map(sorted, before)
    assert temporary.startswith(".tmp-") and names == ["d" * 10]
    with pytest.raises(StateError, match=f"cannot remove from the quarantine: .*{'b' * 10}"):
        room.drop("b" * 10)


def test_a_folder_is_removed_and_nothing_behind_a_link(tmp_path: Path) -> None:
    mine, folder, link = tmp_path / "mine", tmp_path / "x", tmp_path / "link"
    (mine / "deeper").mkdir(parents=True)
    (mine / "f").touch()
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "f").touch()
    (folder / "a" / "link").symlink_to(mine)
    (folder / "link").symlink_to(mine)
    link.symlink_to(mine)
    os.mkfifo(tmp_path / "pipe")  # without a writer, it cannot be opened
    # The second removal of the folder finds nothing.
    for path in (folder, str(folder), link, mine / "f", tmp_path / "pipe"):
        remove_folder(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mine", "pipe"]
    assert sorted(path.name for path in mine.iterdir()) == ["deeper", "f"]


# Items for an action


def test_an_item_is_found_needed_or_missing(room: Room, ward: Ward, item: Item) -> None:
    with ward.record() as record:
        assert room.find(item.id, record) == item == room.need(item.id, record)
        kept, match = room.need_kept(item.id, record)
        assert kept == item and match is not None and match.id == item.id
        assert room.find("b" * 10, record) is None
        for need in (room.need, room.need_kept):
            with pytest.raises(UsageError, match="nothing in quarantine has the id"):
                need("b" * 10, record)


def test_an_item_that_was_restored_is_dropped_when_it_is_found(
    room: Room, ward: Ward, item: Item
) -> None:
    restored = Restoration("bob", "back", ward.now, in_place=False, path="/x")
    save_notes(room.directory, {item.id: Note(item.evidence_sha256, restored)})
    with ward.record() as record:
        with pytest.raises(UsageError, match="nothing in quarantine has the id"):
            room.need(item.id, record)
        match = record.get(item.id)
        story = record.story(item.id)
    assert (match.state, match.in_place) == (MatchState.RESTORED, False)
    assert story[-1].detail == {"by": "bob", "reason": "back"}
    assert not room.folder(item.id).exists() and load_notes(room.directory) == {}


def test_an_item_that_is_being_destroyed_is_not_kept(room: Room, ward: Ward, item: Item) -> None:
    with ward.record() as record:
        record.change(item.id, MatchState.PURGED, ward.now, {})
        with pytest.raises(UsageError) as refused:
            room.need_kept(item.id, record)
        assert refused.value.message == f"{item.id} is being destroyed"
        assert "`hashclient quarantine purge`" in (refused.value.hint or "")
        assert room.need(item.id, record) == item


def test_an_item_whose_match_is_not_on_record_is_kept(room: Room, ward: Ward, item: Item) -> None:
    (ward.state / "matches.db").unlink()
    with ward.record() as record:
        assert room.need_kept(item.id, record) == (item, None)


@pytest.mark.parametrize(
    ("state", "in_place", "after"),
    [
        (MatchState.QUARANTINED, False, (MatchState.RESTORED, True)),
        (MatchState.WITHDRAWN, False, (MatchState.RESTORED, True)),
        (MatchState.WITHDRAWN, True, (MatchState.RESTORED, True)),
        (MatchState.REPORTED, True, (MatchState.REPORTED, True)),
        (MatchState.RESTORED, False, (MatchState.RESTORED, False)),
        (MatchState.CLOSED, True, (MatchState.CLOSED, True)),
    ],
)
def test_a_restored_file_that_was_found_again_keeps_its_record(
    room: Room,
    ward: Ward,
    item: Item,
    state: MatchState,
    in_place: bool,
    after: tuple[MatchState, bool],
) -> None:
    with ward.record() as record:
        record.change(item.id, state, ward.now, {}, in_place=in_place)
        before = len(record.story(item.id))
        done = msgspec.structs.replace(item, restored=Restoration("bob", "back", ward.now))
        ward.now += timedelta(days=1)
        room.note_restored([done], record)
        match, story = record.get(item.id), record.story(item.id)
    assert (match.state, match.in_place) == after
    assert [step.time for step in story[before:]] == ([ward.now] if after[0] != state else [])


def test_notes_stay_as_long_as_their_folders(room: Room, ward: Ward, item: Item) -> None:
    restored = Restoration("bob", "back", ward.now)
    other, gone = "b" * 10, "c" * 10
    room.folder(other).mkdir()
    old = {other: Note("00", restored), gone: Note("00", restored)}
    save_notes(room.directory, old)
    done = msgspec.structs.replace(item, restored=restored)
    with ward.record() as record:
        room.note_restored([done, msgspec.structs.replace(item, id="d" * 10)], record)
    notes = load_notes(room.directory)
    assert notes == {other: old[other], item.id: Note(item.evidence_sha256, restored)}
    room.drop_noted([done])
    assert load_notes(room.directory) == {other: old[other]}
    assert ward.names() == {other}


# Steps of actions

Act = Generator[Wait, None, str]


def logged(ward: Ward) -> set[str]:
    """Return the names of the events in the log; the log may not exist yet."""
    try:
        return {record.event for record in read(ward.settings.layout.audit)}
    except StateError:
        return set()


def act(*waits: Wait, end: Callable[[], str] = lambda: "done") -> Act:
    yield from waits
    return end()


def fail(error: BaseException) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> Any:
        raise error

    return failing


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_acts_take_their_steps_together_and_return_their_results(
    room: Room, ward: Ward, count: int, is_slow: bool
) -> None:
    done: list[str] = []

    def steps(name: str, length: int) -> Act:
        for number in range(length):
            yield Wait(Event(f"step-{number}-of-{name}", {}), (lambda: done.append(name),))
        return name * 2

    lengths = {name: length for length, name in enumerate("abcde"[:count])}
    with ward.record() as record:
        acts = {name: steps(name, length) for name, length in lengths.items()}
        results = room.run(acts, record, is_slow=is_slow)
    assert results == {name: name * 2 for name in lengths}
    assert sorted(done) == [name for name, length in lengths.items() for _ in range(length)]
    assert len({event for event in logged(ward) if event.startswith("step")}) == len(done)


def test_a_failure_ends_its_own_act_alone(room: Room, ward: Ward) -> None:
    errors: dict[str, Exception] = {"ours": StateError("no"), "system": OSError(5, "no")}
    acts: dict[str, Act] = {name: act(Wait(), end=fail(e)) for name, e in errors.items()}
    acts |= {f"begin {name}": act(end=fail(error)) for name, error in errors.items()}
    acts["sync"] = act(Wait(Event("x", {}), (lambda: None, fail(errors["ours"]))))
    acts["good"] = act(Wait(Event("y", {})), Wait())
    with ward.record() as record:
        results = room.run(acts, record)
    assert results.pop("good") == "done"
    assert results.pop("sync") is errors["ours"]
    assert results == errors | {f"begin {name}": error for name, error in errors.items()}
    assert logged(ward) & {"x", "y"} == {"y"}


def test_each_directory_is_synced_once_and_its_failure_ends_the_acts_in_it(
    room: Room, ward: Ward
) -> None:
    error = StateError("no")
    synced: list[int] = []

    def names(number: int) -> Names:
        def sync() -> None:
            synced.append(number)
            if number == 2:
                raise error

        return Names((1, number), sync)

    # The first four actions wait for two directories, and each directory is synced once.
    acts = {n: act(Wait(names=names(1 + (n in "cd")))) for n in "abcd"}
    with ward.record() as record:
        results = room.run(acts | {n: act() for n in "efgh"}, record)
    assert sorted(synced) == [1, 2]
    assert results == {n: error if n in "cd" else "done" for n in "abcdefgh"}


def test_folders_get_their_names_durably_or_all_acts_fail(
    room: Room, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    acts = {"a": act(Wait(is_named=True)), "b": act(Wait(Event("x", {}))), "c": act(), "d": act()}
    with ward.record() as record, monkeypatch.context() as patched:
        patched.setattr(system_files, "fsync_dir", synced.append)
        room.run({"a": act(Wait(is_named=True)), "b": act(Wait())}, record)
        assert synced == [room.directory]
        room.run({"a": act(Wait())}, record)
        assert synced == [room.directory]
        patched.setattr(system_files, "fsync_dir", fail(OSError(5, "no")))
        results = room.run(acts, record)
    assert isinstance(results["a"], StateError) and results["a"] is results["b"]
    assert results["c"] == results["d"] == "done" and "x" not in logged(ward)


def test_a_log_that_cannot_be_written_ends_the_acts_that_wait(
    room: Room, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = StateError("no")
    monkeypatch.setattr(ward.audit, "append", fail(error))
    with ward.record() as record:
        assert room.run({"a": act(Wait(Event("x", {})))}, record) == {"a": error}
        assert room.run({"a": act(Wait())}, record) == {"a": "done"}
        results = room.run({"a": act(Wait(Event("x", {}))), "b": act()}, record)
    assert results == {"a": error, "b": "done"}


def test_the_record_is_changed_as_each_act_says(room: Room, ward: Ward, tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(file.name)
    one, two, three = (ward.match(file).id for file in files)
    unknown = "b" * 10
    refusal = UsageError("it is withdrawn")
    acts = {
        one: act(Wait(Event("one", {}), change=lambda match: (match, {"by": "me"}, False))),
        two: act(Wait(Event("two", {}), change=fail(refusal))),
        three: act(Wait(Event("three", {}), change=lambda _: None)),
        unknown: act(Wait(Event("four", {}), change=lambda _: None)),
    }
    with ward.record() as record:
        results = room.run(acts | {n: act() for n in "efgh"}, record)
        found = [record.get(i) for i in (one, two, three)]
        story = record.story(one)
    failed = results[unknown]
    assert isinstance(failed, UsageError)
    assert failed.message == f"no match has the id {unknown}"
    assert (results[one], results[two], results[three]) == ("done", refusal, "done")
    assert [(m.state, m.in_place) for m in found] == [
        (MatchState.QUARANTINED, False),
        *[(MatchState.FOUND, True)] * 2,
    ]
    assert (story[-1].event, story[-1].detail) == ("quarantined", {"by": "me"})
    assert logged(ward) & {"one", "two", "three", "four"} == {"one", "three"}


def test_acts_are_closed_if_something_else_fails(room: Room, ward: Ward) -> None:
    closed: list[str] = []

    def steps(name: str) -> Act:
        try:
            yield Wait(syncs=(fail(KeyboardInterrupt()),))
        finally:
            closed.append(name)
        return ""

    acts = {name: steps(name) for name in "abc"}
    with ward.record() as record, pytest.raises(KeyboardInterrupt):
        room.run(acts, record)
    assert sorted(closed) == ["a", "b", "c"]


def test_events_of_steps_are_logged_durably(
    room: Room, ward: Ward, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, how = ward.audit.append, list[dict[str, bool]]()

    def noting(events: Any, **options: bool) -> None:
        how.append(options)
        append(events, **options)

    monkeypatch.setattr(ward.audit, "append", noting)
    with ward.record() as record:
        room.run({"a": act(Wait(Event("x", {})))}, record)
    room.log("done", item, room.mark("because"))
    assert how == [{"durable": True}] * 2


def test_a_file_system_that_does_not_rename_keeps_the_new_folder(
    room: Room, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a check, the last copy of a file could be removed."""
    for replaces in (True, False):
        with monkeypatch.context() as patched:
            patched.setattr(store, "exchange", lambda *_: True)
            patched.setattr(Path, "rename", lambda path, _: path)
            with (
                room.new_folder() as folder,
                pytest.raises(StateError, match="does not rename folders"),
            ):
                room.admit(folder, item, replaces=replaces)
        assert folder.exists()
        assert room.load(item.id) == item


def test_an_event_names_the_item_the_person_and_the_reason(
    room: Room, ward: Ward, item: Item
) -> None:
    raw = msgspec.structs.replace(item, path="/a/?", path_b64="L2Ev/w==")
    mark = room.mark("because")
    assert room.event("done", item, mark, size=1) == Event(
        "done", {"id": item.id, "path": item.path, "by": "alice", "reason": "because", "size": 1}
    )
    assert room.event("done", raw, mark).data["path_b64"] == "L2Ev/w=="
    room.log("done", item, mark, reason="other")
    (record,) = read(ward.settings.layout.audit, event="done")
    assert (record.data["id"], record.data["reason"]) == (item.id, "other")
    assert (mark.by, mark.reason, mark.time) == ("alice", "because", ward.now)


def test_only_the_present_key_can_prove(
    room: Room, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert room.can_prove(ward.sealer.key_id)
    assert not room.can_prove(Sealer(bytes(32)).key_id)
    lost = Room(ward.session(), lambda _: None, Files())
    monkeypatch.setattr(lost.session, "sealer", fail(StateError("no key")))
    assert not lost.can_prove(ward.sealer.key_id)
