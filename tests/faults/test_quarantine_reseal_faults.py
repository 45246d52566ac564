"""Sealing to other keys and isolating, interrupted at each change of the disk in turn.

The item is sealed to either the old or the new recipients, and is complete with its document.
`quarantine add --all` finishes a killed action without a scan.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.crash import FailAt, Recorder, in_child, kill_at, watched
from fixtures.quarantine import CONTENT, Ward
from hashclient.core.errors import AuditError, AuthorisationError, StateError
from hashclient.core.match import Match
from hashclient.quarantine.age import unseal
from hashclient.quarantine.vault import Stage, load_identities, write_identity
from hashclient.system import files
from hashclient.system.layout import MATCHES_NAME
from tests.kit import call, fast_directory
from tests.kit.depth import changes, of_changes

#: An upper bound for the changes of one action.
MOST = 200


class Scene:
    """A file that matched, a state for it, and the keys of an old and a new officer."""

    def __init__(self, directory: Path, **config: object) -> None:
        self.ward = Ward(directory, **config)
        self.file = directory / "share" / "file.bin"
        self.file.parent.mkdir()
        self.file.write_bytes(CONTENT)
        self.match: Match = self.ward.match(self.file)
        self.key = directory / "new.key"
        self.public = write_identity(self.key, self.ward.now)

    def reseal(self) -> None:
        with self.ward.record() as record:
            self.ward.open().reseal(
                self.match.id,
                [*load_identities(self.ward.key), *load_identities(self.key)],
                [self.public],
                record,
                reason="new officer",
            )

    def openers(self) -> list[str]:
        """Return the officers whose keys open the sealed files."""
        found = []
        for name, key in (("old", self.ward.key), ("new", self.key)):
            opened = bytearray()
            with (
                contextlib.suppress(AuthorisationError),
                self.ward.evidence(self.match).open("rb") as sealed,
            ):
                unseal(sealed.read, opened.extend, load_identities(key))
                assert bytes(opened) == CONTENT
                found.append(name)
        return found

    def check(self) -> str:
        """Check that the kept copy is complete, and return whether it is the old or the new one."""
        (opener,) = self.openers()
        (recipient,) = self.ward.item(self.match).recipients
        assert recipient == {"old": self.ward.public, "new": self.public}[opener]
        assert self.ward.verify()[self.match.id].detail == "whole"
        return opener


@pytest.fixture
def fast() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def scenes(directory: Path, *, taken: bool) -> Iterator[tuple[int, Scene]]:
    place, kept = directory / "scene", directory / "kept"
    place.mkdir()
    scene = Scene(place, tombstone=None if taken else "gone")
    if taken:
        assert scene.ward.take(scene.match).taken
    place.rename(kept)
    for number in changes(MOST):
        shutil.copytree(kept, place)
        if not taken:  # record the inodes of the copied file, as if a scan had read it
            inodes = (scene.file.parent.stat().st_ino, scene.file.stat().st_ino)
            with contextlib.closing(sqlite3.connect(scene.ward.state / MATCHES_NAME)) as db, db:
                db.execute("UPDATE match SET directory_inode = ?, inode = ?", inodes)
        yield number, scene
        shutil.rmtree(place)
    raise AssertionError("there is no end to it")


@pytest.mark.slow
@pytest.mark.parametrize("code", [None, errno.ENOSPC, errno.EIO])
def test_an_item_is_old_or_new_at_any_instant(fast: Path, code: int | None) -> None:
    seen = []
    for number, scene in scenes(fast, taken=True):
        if code is None:

            def act(number: int = number, scene: Scene = scene) -> None:
                with watched(kill_at(number)):
                    scene.reseal()

            is_over = in_child(act) == 0
        else:
            failing = FailAt(number, code)

            def fail(name: str, argument: object, failing: FailAt = failing) -> None:
                if not (isinstance(argument, int) and stat.S_ISFIFO(os.fstat(argument).st_mode)):
                    failing(name, argument)  # writing to a pipe does not change the disk

            with contextlib.suppress(StateError, AuditError), watched(fail):
                scene.reseal()
            is_over = not failing.fired
        seen.append(scene.check())
        assert ("resealed" in scene.ward.events()) or seen[-1] == "old"
        scene.reseal()
        assert scene.check() == "new"
        # The next action takes the lock and removes what the kill has left.
        scene.ward.hold(scene.match)
        assert scene.ward.names() == {scene.match.id}
        if is_over:
            break
    assert seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}
    assert len(seen) > of_changes(10)


def test_an_exchange_that_may_not_be_on_the_disk_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    scene.ward.take(scene.match)
    quarantine = scene.ward.settings.layout.quarantine
    real, failing = files.fsync_dir, [True]

    def fsync_dir(path: Path) -> None:
        if failing and path == quarantine:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(path)

    monkeypatch.setattr(files, "fsync_dir", fsync_dir)
    with pytest.raises(StateError):
        scene.reseal()
    both = {scene.ward.evidence(scene.match), *quarantine.glob(".tmp-*/evidence.age")}
    assert len(both) == 2, "the old copy has to stay while the new one may not be on the disk"
    with pytest.raises(StateError):
        scene.ward.hold(scene.match)
    assert len([*quarantine.glob(".tmp-*/evidence.age")]) == 1
    failing.clear()
    scene.ward.hold(scene.match)
    assert scene.check() == "new" and scene.ward.names() == {scene.match.id}


def test_an_old_copy_that_cannot_be_removed_is_not_called_removed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ward.take(scene.match)

    def fail(name: str, argument: object) -> None:
        if name == "unlink" and str(argument).endswith("evidence.age"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(StateError, match="the old copy cannot be removed"), watched(fail):
        scene.reseal()
    assert scene.check() == "new"
    (old,) = scene.ward.settings.layout.quarantine.glob(".tmp-*/evidence.age")
    scene.reseal()
    assert not old.exists() and scene.ward.names() == {scene.match.id}


@pytest.mark.slow
def test_a_killed_isolation_is_finished_by_add_all(fast: Path) -> None:
    """The real command finishes the isolation after a kill at any instant, without a scan."""
    stages = set()
    for number, scene in scenes(fast, taken=False):
        config = f'[quarantine]\nrecipients = ["{scene.ward.public}"]\n'

        def act(number: int = number, scene: Scene = scene) -> None:
            with watched(kill_at(number)):
                scene.ward.take(scene.match)

        is_over = in_child(act) == 0
        sealed = scene.match.id in scene.ward.names()
        removed = sealed and scene.ward.item(scene.match).stage is Stage.REMOVED
        stages.add((scene.ward.get(scene.match).in_place, sealed, removed))
        (scene.ward.state / "config.toml").write_text(config)
        done = call("--state-dir", scene.ward.state, "quarantine", "add", "--all")
        assert done.code == 0, (number, done.err)
        assert scene.openers() == ["old"]
        assert {f.detail for f in scene.ward.verify().values()} == {"whole"}
        assert scene.ward.events()[-1] == "quarantined"
        assert not [p for p in scene.file.parent.iterdir() if p.name.startswith(".hashclient")]
        assert not scene.file.exists() or scene.file.read_bytes() != CONTENT
        if is_over:
            break
    assert stages >= {
        (True, False, False),
        (True, True, False),
        (False, True, False),
        (False, True, True),
    }


@pytest.mark.slow
def test_a_removal_whose_entry_was_withdrawn_is_finished_by_add_all(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    number = 1
    # The kill must come after the record of the removal and before the document of the item.
    while True:

        def act(number: int = number) -> None:
            with watched(kill_at(number)):
                scene.ward.take(scene.match)

        in_child(act)
        if not scene.ward.get(scene.match).in_place:
            break
        number += 1
    assert scene.ward.item(scene.match).stage is Stage.SEALED
    scene.ward.withdraw()
    done = call("--state-dir", scene.ward.state, "quarantine", "add", "--all")
    assert (done.code, done.out.split()[0]) == (0, scene.match.id)
    assert scene.ward.item(scene.match).stage is Stage.REMOVED


def test_the_new_copy_is_on_the_disk_before_the_old_one_goes(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ward.take(scene.match)
    recorder = Recorder()
    with watched(recorder):
        scene.reseal()
    calls = [(name, str(argument)) for name, argument in recorder.calls]
    quarantine = str(scene.ward.settings.layout.quarantine)
    (exchanged,) = (n for n, (name, _) in enumerate(calls) if name == "rename")
    folder = calls[exchanged][1]
    synced = [path for name, path in calls[:exchanged] if name == "fsync"]
    assert any(path.endswith(f"{folder}/evidence.age") for path in synced)
    assert any(path.endswith(folder) for path in synced), "the names in the new folder"
    after = calls[exchanged + 1 :]
    gone = next(n for n, (name, _) in enumerate(after) if name == "unlink")
    assert ("fsync", quarantine) in after[:gone]
