"""Restoring: failures of a batch, files in the way, and the places where a file may come back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.quarantine import CONTENT, Ward
from hashclient.audit.log import read
from hashclient.core.errors import StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.quarantine import restore
from hashclient.quarantine.age import load_identities
from hashclient.quarantine.item import Item
from hashclient.quarantine.restore import Restored
from hashclient.quarantine.safe_rename import PRIVATE_NAME, Place
from hashclient.quarantine.store import Room
from hashclient.system.strangers import Stranger


def taken(ward: Ward, path: Path, content: bytes = CONTENT) -> Match:
    path.write_bytes(content)
    match = ward.match(path)
    ward.take(match)
    return match


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def restore_all(ward: Ward, ids: Sequence[str], *, force: bool = True) -> dict[str, object]:
    with ward.record() as record:
        given = (ids, load_identities(ward.key), record)
        return dict(ward.open("bob").restore_all(*given, reason="back", force=force))


@pytest.fixture
def three(ward: Ward, tmp_path: Path) -> list[Match]:
    return [taken(ward, tmp_path / f"f-{n}", b"benign %d" % n) for n in range(3)]


@pytest.mark.parametrize("bad", [None, 0, 1, 2])
def test_folders_that_cannot_be_removed_together_are_removed_one_by_one(
    ward: Ward, three: list[Match], monkeypatch: pytest.MonkeyPatch, bad: int | None
) -> None:
    """The first folder is removed before the failure, and is not removed again."""
    drop, asked = Room.drop_noted, list[list[int]]()
    ids = [match.id for match in three]

    def half(room: Room, items: Sequence[Item]) -> None:
        numbers = [ids.index(item.id) for item in items]
        asked.append(numbers)
        if len(items) > 1:
            drop(room, items[:1])
            raise StateError("the disk is tired")
        if numbers == [bad]:
            raise StateError("the disk is broken")
        drop(room, items)

    with monkeypatch.context() as patched:
        patched.setattr(Room, "drop_noted", half)
        done = restore_all(ward, ids)
    assert asked == [[0, 1, 2], [1], [2]]
    is_bad = [n == bad and n > 0 for n in range(3)]
    assert [isinstance(done[i], StateError) for i in ids] == is_bad
    assert ward.names() == {i for i, failed in zip(ids, is_bad, strict=True) if failed}
    for number, match in enumerate(three):
        assert Path(match.path).read_bytes() == b"benign %d" % number
        assert ward.get(match).state is MatchState.RESTORED
    # The next call removes a folder whose file was restored before.
    assert all(isinstance(one, Restored | UsageError) for one in restore_all(ward, ids).values())
    assert ward.names() == set()


def test_nothing_to_restore_is_no_failure(ward: Ward) -> None:
    assert restore_all(ward, []) == {}
    assert ward.names() == set() and restore._together(Room.__new__(Room), [], print) == {}


@pytest.mark.parametrize("is_named", [True, False])
def test_the_path_of_an_interrupted_restoration_is_told_byte_by_byte(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    match = taken(ward, file)
    to = file.with_name(os.fsdecode(b"raw\xff")) if is_named else None

    def killed(_room: Room, *_ids: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Room, "drop", killed)
        with pytest.raises(KeyboardInterrupt):
            ward.restore(match, force=True, to=to)
    restored = ward.item(match).restored
    assert restored is not None and restored.in_place is not is_named
    assert (restored.path_b64 is not None) is is_named
    assert (restored.by, restored.reason, restored.time) == ("bob", "back", ward.now)
    assert ward.restore(match, force=True) == Restored(str(to or file), ())


def test_a_relative_place_is_told_and_logged_as_a_whole_path(
    ward: Ward, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = taken(ward, file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restore, "give_back", lambda *_, **__: ["its mode"])
    counted: list[int] = []
    sealed = ward.item(match).evidence_bytes
    with ward.record() as record:
        done = ward.open("bob", on_bytes=counted.append).restore(
            *(match.id, load_identities(ward.key), record),
            reason="back",
            to=Path("here"),
            force=True,
        )
    whole = str(tmp_path / "here")
    assert done == Restored(whole, ("its mode",)) and sum(counted) == sealed
    (before,), (after,) = (
        read(ward.settings.layout.audit, event=name) for name in ("restoring", "restored")
    )
    assert before.data["to"] == after.data["to"] == {"path": whole}
    assert after.data["missing"] == ["its mode"] and "missing" not in before.data


@pytest.mark.parametrize(
    ("content", "make", "is_opened"),
    [
        (b"abc", lambda path: path.write_bytes(b"ab"), False),
        (b"abc", lambda path: path.symlink_to("x"), False),
        (b"", os.mkfifo, True),
        (b"", Path.touch, True),
        (b"abc", lambda path: path.symlink_to("xyz"), True),
        (b"abc", lambda path: path.write_bytes(b"xyz"), True),
    ],
    ids=["shorter", "link", "pipe", "empty", "link of the size", "file of the size"],
)
def test_what_is_in_the_way_stays_and_the_copy_is_opened_only_if_sizes_are_equal(
    ward: Ward, file: Path, content: bytes, make: object, is_opened: bool
) -> None:
    match = taken(ward, file, content)
    assert callable(make)
    make(file)
    os.utime(file, ns=(7, 7), follow_symlinks=False)
    before = file.lstat()
    with pytest.raises(UsageError) as refused:
        ward.restore(match, force=True)
    assert refused.value.message == f"something else is there: {file}"
    assert refused.value.hint == "choose another place with --output"
    assert ("restoring" in ward.events()) is is_opened
    assert file.lstat() == before and names_in(file.parent) == [file.name]
    assert ward.item(match).restored is None


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("has_stranger", [True, False])
@pytest.mark.parametrize("is_other", [True, False])
def test_in_another_directory_a_stranger_may_stand_only_where_the_place_was_named(
    ward: Ward,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_named: bool,
    has_stranger: bool,
    is_other: bool,
) -> None:
    file.touch()
    file.chmod(0o4755)
    match = taken(ward, file)
    if is_other:
        file.parent.rename(file.parent.with_name("before"))
        file.parent.mkdir()
    stranger = Stranger("/shared\n", "user 7") if has_stranger else None
    monkeypatch.setattr(restore, "stranger_on", lambda _: stranger)
    to = file if is_named else None
    if is_other and has_stranger and not is_named:
        with pytest.raises(UsageError) as refused:
            ward.restore(match, force=True)
        assert refused.value.message.startswith(
            f"cannot restore to {file}: its directory is another one now, and user 7 may write to"
        )
        assert "\n" not in refused.value.message
        assert refused.value.hint == "look at this directory, then name the place with --output"
        assert not file.exists()
        return
    done = ward.restore(match, force=True, to=to)
    has_powers = not (is_other and has_stranger)
    assert done.missing == (() if has_powers else ("its set-id bits",))
    assert file.stat().st_mode & 0o7777 == (0o4755 if has_powers else 0o755)


@pytest.mark.parametrize("text", [None, "gone {id}"])
def test_a_tombstone_makes_way_under_either_name(
    tmp_path: Path, file: Path, text: str | None
) -> None:
    ward = Ward(tmp_path, tombstone=text)
    match = taken(ward, file)
    private = file.with_name(PRIVATE_NAME.format(match.id))
    assert file.exists() is (text is not None)
    if text is not None:
        private.write_bytes(file.read_bytes())  # a killed command has renamed it
    ward.restore(match, force=True)
    assert names_in(file.parent) == [file.name] and file.read_bytes() == CONTENT
    assert ward.match(file).id == match.id
    ward.take(match)
    if text is not None:
        file.write_bytes(file.read_bytes() + b"!")
        with pytest.raises(UsageError, match="something else is there"):
            ward.restore(match, force=True)
        assert file.read_bytes().endswith(b"!")


def test_the_hold_and_the_state_of_a_match_are_told(ward: Ward, file: Path) -> None:
    match = taken(ward, file)
    for state, word in ((None, "quarantined"), (MatchState.REPORTED, "reported")):
        if state is not None:
            ward.change(match, state)
        (refused,) = restore_all(ward, [match.id], force=False).values()
        assert isinstance(refused, UsageError)
        assert refused.message == f"match {match.id} is not withdrawn: it is {word}"
        assert refused.hint == "to restore it anyway, give --force and a reason"
    ward.hold(match)
    (refused,) = restore_all(ward, [match.id]).values()
    assert isinstance(refused, UsageError)
    assert refused.message == f"{match.id} is on hold, by dave: order"
    assert refused.hint is not None and "quarantine release" in refused.hint
    assert "restoring" not in ward.events()


@pytest.mark.parametrize("then", ["moved", "replaced"])
def test_a_restored_file_that_is_moved_away_at_once_keeps_its_sealed_copy(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    match = taken(ward, file)
    give_name = restore._give_name

    def moving(place: Place, fd: int, name: str | None) -> None:
        give_name(place, fd, name)
        file.rename(file.with_name("elsewhere"))
        if then == "replaced":
            file.write_bytes(CONTENT)

    with monkeypatch.context() as patched:
        patched.setattr(restore, "_give_name", moving)
        with pytest.raises(StateError) as failed:
            ward.restore(match, force=True)
    assert failed.value.message == f"somebody has moved the restored file away: {file}"
    assert failed.value.hint == "the sealed copy is kept; choose another place with --output"
    assert ward.opened(match) == CONTENT and "restored" not in ward.events()


def test_an_object_is_restored_only_to_a_named_place(ward: Ward, file: Path) -> None:
    match = taken(ward, file)
    path = ward.evidence(match).with_name("item.json")
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "path": "s3://bu/a%0A"}))
    with pytest.raises(UsageError) as refused:
        ward.restore(match, force=True)
    assert refused.value.message == f"{match.id} came from a bucket: s3://bu/a%0A"
    assert "give it back as a file, with --output" in (refused.value.hint or "")
    assert "restoring" not in ward.events()
    assert ward.restore(match, force=True, to=file) == Restored(str(file), ())
    assert file.read_bytes() == CONTENT and not ward.get(match).in_place


def test_a_copy_that_is_not_the_sealed_file_and_a_place_that_is_gone_have_advice(
    ward: Ward, file: Path
) -> None:
    match = taken(ward, file)
    path = ward.evidence(match).with_name("item.json")
    whole = path.read_text()
    path.write_text(whole.replace(f'"size": {len(CONTENT)}', '"size": 1'))
    with pytest.raises(StateError) as failed:
        ward.restore(match, force=True)
    said = f"the sealed copy is not the file that was sealed: {ward.evidence(match)}"
    assert failed.value.message == said
    assert "`hashclient quarantine verify`" in (failed.value.hint or "")
    path.write_text(whole)
    file.parent.rmdir()
    with pytest.raises(UsageError) as refused:
        ward.restore(match, force=True)
    assert refused.value.message == f"cannot restore to {file}: not there any more"
    assert "make its directory" in (refused.value.hint or "")


def test_a_tombstone_that_changes_at_the_last_moment_is_somebody_elses(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = Ward(tmp_path, tombstone="gone")
    match = taken(ward, file)
    monkeypatch.setattr(restore, "remove_tombstone", lambda *_: False)
    with pytest.raises(UsageError) as refused:
        ward.restore(match, force=True)
    assert refused.value.message == f"something else is there: {file}"
    assert file.read_text() == "gone\n" and ward.opened(match) == CONTENT
