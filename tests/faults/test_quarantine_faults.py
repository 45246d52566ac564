"""The quarantine is killed, fails, or loses a race at each of its changes of the disk.

In each case, the file is in its place or its sealed copy is complete, and messages about it are
true. The next command finishes the work, and no file of another user is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures.crash import FailAt, Recorder, drop_capabilities, in_child, kill_at, watched
from fixtures.quarantine import Ward
from hashclient.audit.log import Event
from hashclient.core.errors import AuditError, HashclientError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.index.blinding import Sealer
from hashclient.matches.store import Matches
from hashclient.quarantine import isolate
from hashclient.quarantine.isolators.files import HeldFile
from hashclient.quarantine.safe_rename import PRIVATE_NAME, Place
from hashclient.quarantine.safe_rename import open_file as real_open_file
from hashclient.quarantine.sealing import Digester, digest_all
from hashclient.quarantine.vault import Stage, Taken, load_identities, load_item, write_identity
from tests import disks
from tests.kit import fast_directory
from tests.kit.depth import changes, of_changes

CONTENT = b"benign " * 20_000
INNOCENT = b"somebody else's"
#: An upper bound for the changes of one action.
MOST = 200
IS_ROOT = os.geteuid() == 0

root_only = pytest.mark.skipif(not IS_ROOT, reason="only root can mount")


class Scene:
    """One match whose file is in `share/`, in a copy of a state that is ready for it."""

    def __init__(self, directory: Path, **config: object) -> None:
        self.ward = Ward(directory, **config)
        self.share = directory / "share"
        self.file = self.share / "file.bin"
        self.share.mkdir()
        self.file.write_bytes(CONTENT)
        self.match: Match = self.ward.match(self.file)
        self.ward.audit.append([])
        self.private = self.share / PRIVATE_NAME.format(self.match.id)

    def is_in_place(self) -> bool:
        """Return whether the content is in its place, or under the private name beside it."""
        return any(
            path.is_file() and not path.is_symlink() and path.read_bytes() == CONTENT
            for path in (self.file, self.private)
        )

    def is_sealed(self) -> bool:
        """Return whether a sealed copy has the id, and check that the copy is complete."""
        if self.match.id not in self.ward.names():
            return False
        assert self.ward.opened(self.match) == CONTENT
        load_item(self.ward.settings.layout.quarantine, self.match.id)
        return True

    def check_safe(self) -> None:
        """Check that no content is lost, whatever the test has done."""
        sealed = self.is_sealed()
        assert self.is_in_place() or sealed
        if sealed and self.ward.item(self.match).stage is Stage.REMOVED:
            assert not self.ward.get(self.match).in_place

    def check_taken(self, *names: str) -> None:
        """Check that the state is as after an undisturbed isolation."""
        assert self.is_sealed()
        assert {p.name for p in self.share.iterdir()} == set(names)
        assert self.ward.names() == {self.match.id}
        now = self.ward.get(self.match)
        assert (now.state, now.in_place) == (MatchState.QUARANTINED, False)
        assert {f.detail for f in self.ward.verify().values()} == {"whole"}
        assert self.ward.events()[-1] == "quarantined"


def scenes(
    directory: Path, prepare: Callable[[Scene], object] = lambda _scene: None, **config: object
) -> Iterator[tuple[int, Scene]]:
    """Yield the same scene again and again, with the number of the change that should fail."""
    place, kept = directory / "scene", directory / "kept"
    place.mkdir()
    scene = Scene(place, **config)
    prepare(scene)
    place.rename(kept)
    for number in changes(MOST):
        shutil.copytree(kept, place, symlinks=True)
        if scene.file.exists():
            # The copied file has another inode, so it is recorded again.
            scene.ward.match(scene.file)
        yield number, scene
        shutil.rmtree(place)
    raise AssertionError("there is no end to it")


@pytest.fixture
def fast() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def test_the_watched_calls_are_those_that_happen(tmp_path: Path) -> None:
    """If the important calls were not watched, the other tests would prove nothing."""
    scene = Scene(tmp_path, tombstone="gone")
    recorder = Recorder()
    with watched(recorder):
        scene.ward.take(scene.match)
    names = [name for name, _ in recorder.calls]
    assert {"mkdir", "create", "write", "fsync", "rename", "unlink", "replace"} <= set(names)
    # for the folder, for the file that is moved aside, and for the tombstone
    assert names.count("rename") == 3
    assert 20 < len(names) < MOST
    scene.check_taken("file.bin")
    # The sealed copy and its folders are synced before the file is removed.
    gone = recorder.calls.index(("unlink", scene.private.name))
    synced = [str(path) for name, path in recorder.calls[:gone] if name == "fsync"]
    quarantine = str(scene.ward.settings.layout.quarantine)
    assert any(path.endswith("evidence.age") for path in synced)
    assert synced.count(quarantine) == 1


@pytest.mark.slow
@pytest.mark.parametrize("tombstone", [None, "gone"])
def test_a_kill_at_any_instant_loses_nothing(fast: Path, tombstone: str | None) -> None:
    left = ["file.bin"] if tombstone else []
    stages = set()
    for number, scene in scenes(fast, tombstone=tombstone):

        def killed(number: int = number, scene: Scene = scene) -> None:
            with watched(kill_at(number)):
                scene.ward.take(scene.match)

        died = in_child(killed) != 0
        scene.check_safe()
        stages.add((scene.is_in_place(), scene.is_sealed()))
        assert scene.ward.take(scene.match).taken
        scene.check_taken(*left)
        if not died:
            break
    assert stages == {(True, False), (True, True), (False, True)}


@pytest.mark.slow
def test_a_kill_while_many_files_are_isolated_loses_none(fast: Path) -> None:
    def take_all(ward: Ward, ids: list[str]) -> None:
        with ward.record() as record:
            wanted = [(match_id, None) for match_id in ids]
            for _, outcome in ward.open().take_all(wanted, record, reason="test"):
                assert isinstance(outcome, Taken) and outcome.taken, outcome

    def other(scene: Scene, number: int) -> Match:
        path = scene.share / f"other-{number}"
        path.write_bytes(b"%d" % number + CONTENT)
        return scene.ward.match(path, entry=f"o-{number}")

    deaths = 0
    for number, scene in scenes(fast, tombstone="gone"):
        ward = scene.ward
        others = [other(scene, n) for n in range(2)]
        whole = {scene.match.id: CONTENT}
        whole |= {m.id: b"%d" % n + CONTENT for n, m in enumerate(others)}

        def killed(number: int = number, ward: Ward = ward, ids: list[str] = [*whole]) -> None:  # noqa: B006
            with watched(kill_at(number)):
                take_all(ward, ids)

        died = in_child(killed) != 0
        sealed = ward.names() & whole.keys()
        for match in (scene.match, *others):
            if match.id in sealed:
                assert ward.opened(match) == whole[match.id]
                continue
            private = scene.share / PRIVATE_NAME.format(match.id)
            assert not private.exists() and Path(match.path).read_bytes() == whole[match.id]
        take_all(ward, [*whole])
        for match in (scene.match, *others):
            assert ward.opened(match) == whole[match.id]
            assert not ward.get(match).in_place
        assert {p.read_bytes() for p in scene.share.iterdir()} == {b"gone\n"}
        assert {f.detail for f in ward.verify().values()} == {"whole"}
        deaths += died
        if not died:
            break
    assert deaths > of_changes(20)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_at_any_change_loses_nothing(fast: Path, code: int) -> None:
    for number, scene in scenes(fast, tombstone="gone"):
        fail = FailAt(number, code)
        taken: Taken | None = None
        with watched(fail), contextlib.suppress(StateError, AuditError):
            taken = scene.ward.take(scene.match)
        scene.check_safe()
        if taken is not None:
            assert taken.sealed == scene.is_sealed()
            assert taken.taken or scene.file.read_bytes() == CONTENT
            assert taken.taken == (not scene.ward.get(scene.match).in_place)
        # Example: a tombstone that could not be written is not written later.
        assert scene.ward.take(scene.match).taken
        scene.check_taken(*(["file.bin"] if scene.file.exists() else []))
        if not fail.fired:
            assert taken is not None and not taken.attention
            break


def swap_file(scene: Scene) -> None:
    scene.file.rename(scene.share / "moved")
    scene.file.write_bytes(INNOCENT)


def swap_link(scene: Scene) -> None:
    (scene.share / "target").write_bytes(INNOCENT)
    scene.file.rename(scene.share / "moved")
    scene.file.symlink_to("target")


def swap_directory(scene: Scene) -> None:
    other = scene.share.with_name("other")
    other.mkdir()
    (other / "file.bin").write_bytes(INNOCENT)
    scene.share.rename(scene.share.with_name("aside"))
    other.rename(scene.share)


def rewrite(scene: Scene) -> None:
    scene.file.write_bytes(INNOCENT)


def move_away(scene: Scene) -> None:
    scene.file.rename(scene.share / "moved")


def remove(scene: Scene) -> None:
    scene.file.unlink()


@pytest.mark.sampled
@pytest.mark.parametrize("swap", [swap_file, swap_link, swap_directory, rewrite, move_away, remove])
def test_a_swap_at_any_instant_harms_nobody(fast: Path, swap: Callable[[Scene], None]) -> None:
    details = set()
    for number, scene in scenes(fast):
        left = number
        swapped = False

        def act(_name: str, _argument: object, scene: Scene = scene) -> None:
            nonlocal left, swapped
            left -= 1
            # Once the file has been moved aside, it cannot be exchanged any more.
            if left == 0 and scene.file.exists() and not scene.private.exists():
                swapped = True
                swap(scene)

        with watched(act):
            taken = scene.ward.take(scene.match)
        details.add(taken.detail)
        innocents = [
            path
            for path in fast.joinpath("scene").rglob("*")
            if path.is_file() and not path.is_symlink() and path.read_bytes() == INNOCENT
        ]
        assert len(innocents) == (
            swapped and swap in {swap_file, swap_link, swap_directory, rewrite}
        )
        assert not scene.private.exists()
        if swapped and swap not in {swap_directory, remove}:
            # If the file was exchanged, rewritten or moved away, the outcome says that a person
            # must act.
            assert taken.attention
            assert not taken.taken
        assert taken.taken <= scene.is_sealed()
        assert taken.sealed == scene.is_sealed()
        if left > 0:
            break
    assert "quarantined" in details and len(details) > 1


@pytest.mark.parametrize("swap", [swap_file, swap_link, rewrite, move_away, remove])
def test_after_a_swap_the_next_act_settles_it(
    tmp_path: Path, swap: Callable[[Scene], None]
) -> None:
    scene = Scene(tmp_path)

    def act(name: str, argument: object) -> None:
        if name == "rename" and argument == scene.file.name and not scene.private.exists():
            swap(scene)

    with watched(act):
        taken = scene.ward.take(scene.match)
    assert taken.sealed
    settled = scene.ward.take(scene.match)
    assert settled.taken
    assert scene.ward.item(scene.match).stage is Stage.REMOVED
    if swap in {swap_file, swap_link, rewrite}:
        assert settled.attention
        assert settled.detail.endswith("something else is at its path now, and was left alone")
        assert scene.file.read_bytes() == INNOCENT


def test_a_directory_that_is_another_one_settles_nothing(tmp_path: Path) -> None:
    """A file system may be unmounted: the file then exists but cannot be seen."""
    scene = Scene(tmp_path)
    assert not fail_removal(scene).taken
    scene.share.rename(tmp_path / "unmounted")
    taken = scene.ward.take(scene.match)
    assert not taken.taken and "not there any more" in taken.detail
    scene.share.mkdir()
    taken = scene.ward.take(scene.match)
    assert not taken.taken and "is a file system not mounted?" in taken.detail
    scene.share.rmdir()
    (tmp_path / "unmounted").rename(scene.share)
    assert scene.ward.take(scene.match).taken
    scene.check_taken()


@root_only
def test_another_disk_in_the_place_of_the_one_with_the_file_settles_nothing(
    tmp_path: Path,
) -> None:
    """The top directories of two file systems of one kind have the same inode."""
    scene = Scene(tmp_path)
    disk = tmp_path / "disk"
    file = disk / "file.bin"
    with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "none"):
        file.write_bytes(CONTENT)
        match = scene.ward.match(file, entry="e-2")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        taken = scene.ward.take(match)
        assert (taken.taken, taken.sealed) == (False, True)
        with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "none"):
            taken = scene.ward.take(match)
            assert not taken.taken and taken.attention
            assert "is a file system not mounted?" in taken.detail
        assert scene.ward.get(match).in_place and file.exists()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert scene.ward.take(match).detail == "quarantined"
        assert not file.exists()


@root_only
def test_a_directory_that_is_encrypted_and_locked_settles_nothing(tmp_path: Path) -> None:
    """While an encrypted directory is locked, the kernel denies that its files exist."""
    scene = Scene(tmp_path)
    image = disks.make_image(tmp_path / "image", "ext4", *disks.Vault.OPTIONS)
    with disks.mounted("-o", "loop", image, tmp_path / "disk") as disk:
        vault = disks.Vault(disk)
        file = vault.path / "file.bin"
        file.write_bytes(CONTENT)
        match = scene.ward.match(file, entry="e-2")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        taken = scene.ward.take(match)
        assert (taken.taken, taken.sealed) == (False, True)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        vault.lock()
        taken = scene.ward.take(match)
        assert not taken.taken and "its directory is encrypted, and locked" in taken.detail
        assert scene.ward.get(match).in_place


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ELOOP, errno.EISDIR])
def test_a_file_that_does_not_open_is_not_taken_for_gone(tmp_path: Path, code: int) -> None:
    """A file system may return any error, and without /proc no file can be opened."""
    scene = Scene(tmp_path)
    assert not fail_removal(scene).taken
    real_open = os.open

    def open_(name: str | Path, flags: int, *args: int, **kwargs: int) -> int:
        if str(name).startswith("/proc/self/fd/"):
            raise OSError(code, os.strerror(code))
        return real_open(name, flags, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_)
        taken = scene.ward.take(scene.match)
    assert (taken.taken, taken.attention) == (False, True)
    assert taken.detail == "sealed, but still in place: it cannot be opened"
    assert scene.file.exists() and scene.ward.get(scene.match).in_place
    assert scene.ward.take(scene.match).taken
    scene.check_taken()


@pytest.mark.parametrize("other", ["nothing", "file", "link", "directory"])
def test_a_file_that_is_away_for_a_moment_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """The file is moved away while the action looks for it, and is back before it decides."""
    scene = Scene(tmp_path)
    assert not fail_removal(scene).taken
    aside = tmp_path / "aside"

    @contextlib.contextmanager
    def open_file(place: Place) -> Iterator[tuple[int, os.stat_result]]:
        if place.name != scene.file.name:
            with real_open_file(place) as opened:
                yield opened
            return
        scene.file.rename(aside)
        if other == "file":
            scene.file.write_bytes(b"other")
        elif other == "link":
            scene.file.symlink_to("nowhere")
        elif other == "directory":
            scene.file.mkdir()
        try:
            with real_open_file(place) as opened:
                yield opened
        finally:
            if other == "directory":
                scene.file.rmdir()
            else:
                scene.file.unlink(missing_ok=True)
            aside.rename(scene.file)

    with monkeypatch.context() as patch:
        patch.setattr("hashclient.quarantine.isolators.files.open_file", open_file)
        taken = scene.ward.take(scene.match)
    assert (taken.taken, taken.attention) == (False, True)
    assert "is being exchanged just now" in taken.detail
    assert scene.ward.get(scene.match).in_place
    assert scene.ward.take(scene.match).taken
    scene.check_taken()


def fail_removal(scene: Scene, code: int = errno.EBUSY) -> Taken:
    """Isolate, with an error when the name is moved aside."""

    def act(name: str, argument: object) -> None:
        if name == "rename" and argument == scene.file.name:
            raise OSError(code, os.strerror(code))

    with watched(act):
        return scene.ward.take(scene.match)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.EROFS, "read-only file system"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "the system does not permit it"),
        (errno.EBUSY, "something is mounted on it"),
        (errno.ENOSPC, "no space left on its file system"),
        (errno.EDQUOT, "disk quota exceeded"),
        (errno.EIO, "input/output error"),
    ],
)
def test_a_file_that_cannot_be_removed_is_sealed_and_reported(
    tmp_path: Path, code: int, why: str
) -> None:
    scene = Scene(tmp_path)
    taken = fail_removal(scene, code)
    assert (taken.taken, taken.sealed, taken.attention) == (False, True, True)
    assert taken.detail == f"sealed, but still in place: {why}"
    assert scene.ward.events()[-1] == "quarantine-incomplete"
    finding = scene.ward.verify()[scene.match.id]
    assert finding.ok and finding.attention
    assert f"the file is at {scene.file}" in finding.detail
    assert scene.ward.take(scene.match).detail == "quarantined"
    scene.check_taken()


@contextlib.contextmanager
def unreadable(path: Path, code: int, call: str) -> Iterator[None]:
    """Let the system fail with `code` when the file at `path` is opened or read."""
    inode = path.stat().st_ino
    real_open, real_read = os.open, os.read

    def open_(name: str | Path, flags: int, *args: int, **kwargs: int) -> int:
        fd = real_open(name, flags, *args, **kwargs)
        if not flags & os.O_PATH and os.fstat(fd).st_ino == inode:
            os.close(fd)
            raise OSError(code, os.strerror(code))
        return fd

    def read(fd: int, count: int) -> bytes:
        if os.fstat(fd).st_ino == inode:
            raise OSError(code, os.strerror(code))
        return real_read(fd, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, open_ if call == "open" else read)
        yield


@pytest.mark.sampled
@pytest.mark.parametrize("is_aside", [False, True])
@pytest.mark.parametrize(
    ("code", "call"),
    [
        (errno.EACCES, "open"),
        (errno.EPERM, "open"),
        (errno.EIO, "open"),
        (errno.EMFILE, "open"),
        (errno.ESTALE, "open"),
        (errno.EIO, "read"),
    ],
)
def test_a_file_unreadable_when_an_act_resumes_is_not_taken_for_gone(
    tmp_path: Path, code: int, call: str, is_aside: bool
) -> None:
    """The unreadable file may be the matching file, which must not be called quarantined."""
    scene = Scene(tmp_path)
    fail_removal(scene)
    there = scene.file
    if is_aside:
        there = scene.private
        scene.file.rename(there)
        scene.file.write_bytes(b"a third")
    with unreadable(there, code, call):
        taken = scene.ward.take(scene.match)
    assert (taken.taken, taken.sealed, taken.attention) == (False, True, True)
    assert taken.detail.startswith("sealed, but ")
    assert there.read_bytes() == CONTENT
    assert scene.ward.get(scene.match).in_place
    assert scene.ward.item(scene.match).stage is Stage.SEALED
    assert scene.ward.events()[-1] == "quarantine-incomplete"
    assert scene.ward.take(scene.match).taken
    assert not there.exists()


def test_a_file_without_permission_is_not_taken_for_gone_either(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    scene.file.chmod(0)

    def work() -> None:
        drop_capabilities()
        taken = scene.ward.take(scene.match)
        assert not taken.taken
        assert taken.detail == "sealed, but still in place: permission denied"

    assert in_child(work) == 0
    assert scene.ward.get(scene.match).in_place
    assert scene.ward.item(scene.match).stage is Stage.SEALED
    scene.file.chmod(0o600)
    assert scene.ward.take(scene.match).detail == "quarantined"
    scene.check_taken()


@pytest.mark.parametrize("is_aside", [False, True])
def test_a_file_touched_while_it_is_proven_again_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_aside: bool
) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    there = scene.file
    if is_aside:
        there = scene.private
        scene.file.rename(there)
        scene.file.write_bytes(b"a third")

    def and_touch(held: HeldFile, *args: Any) -> Digester:
        digester = digest_all(held, *args)
        if os.fstat(held.fd).st_ino == there.stat().st_ino:
            os.utime(there)
        return digester

    with monkeypatch.context() as patch:
        patch.setattr(isolate, "digest_all", and_touch)
        taken = scene.ward.take(scene.match)
    assert (taken.taken, taken.sealed, taken.attention) == (False, True, True)
    assert taken.detail == "sealed, but still in place: changed while it was read"
    assert there.read_bytes() == CONTENT
    assert scene.ward.get(scene.match).in_place
    assert scene.ward.item(scene.match).stage is Stage.SEALED
    assert scene.ward.take(scene.match).taken
    assert not there.exists()


def test_that_it_is_sealed_is_logged_by_the_act_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    real = scene.ward.audit.append

    def append(events: list[Event], **kwargs: bool) -> None:
        if events[0].event == "quarantine-sealed":
            raise AuditError("cannot write the audit log")
        real(events, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scene.ward.audit, "append", append)
        with pytest.raises(AuditError):
            scene.ward.take(scene.match)
    assert scene.ward.take(scene.match).taken
    assert scene.ward.events() == ["quarantine-sealed", "quarantined"]


def test_a_damaged_copy_never_takes_the_files_place(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    evidence = scene.ward.evidence(scene.match)
    data = bytearray(evidence.read_bytes())
    data[-1] ^= 1
    evidence.write_bytes(data)
    with pytest.raises(StateError, match="the sealed copy is damaged"):
        scene.ward.take(scene.match)
    assert scene.file.read_bytes() == CONTENT


@pytest.mark.parametrize("call", ["quarantine-sealed", "quarantined"])
def test_without_the_log_nothing_goes(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    real = scene.ward.audit.append

    def append(events: list[Event], **kwargs: bool) -> None:
        if events[0].event == call:
            raise AuditError("cannot write the audit log")
        real(events, **kwargs)

    monkeypatch.setattr(scene.ward.audit, "append", append)
    with pytest.raises(AuditError):
        scene.ward.take(scene.match)
    assert scene.is_sealed()
    assert scene.is_in_place() == (call == "quarantine-sealed")
    monkeypatch.undo()
    assert scene.ward.take(scene.match).taken
    scene.check_taken()


def test_a_tombstone_that_is_there_already_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, tombstone="gone")
    real = scene.ward.audit.append

    def append(events: list[Event], **kwargs: bool) -> None:
        if events[0].event == "quarantined":
            raise AuditError("cannot write the audit log")
        real(events, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scene.ward.audit, "append", append)
        # The record of matches is not written, as after a kill.
        patch.setattr(Matches, "change_all", lambda *_args, **_kwargs: None)
        with pytest.raises(AuditError):
            scene.ward.take(scene.match)
    assert scene.file.read_text() == "gone\n" and scene.ward.get(scene.match).in_place
    taken = scene.ward.take(scene.match)
    assert (taken.detail, taken.attention) == ("quarantined", False)
    scene.check_taken("file.bin")
    scene.ward.restore(scene.match, force=True)
    assert scene.file.read_bytes() == CONTENT


def test_a_file_in_place_of_one_whose_copy_is_lost_stays(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ward.take(scene.match)
    shutil.rmtree(scene.ward.evidence(scene.match).parent)
    scene.file.write_bytes(CONTENT)
    with pytest.raises(UsageError, match="is not open: it is quarantined"):
        scene.ward.take(scene.match)
    assert scene.file.read_bytes() == CONTENT and not scene.is_sealed()


def test_an_interruption_leaves_the_name_as_it_was(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    def act(name: str, argument: object) -> None:
        if name == "unlink" and argument == scene.private.name:
            raise KeyboardInterrupt

    with watched(act), pytest.raises(KeyboardInterrupt):
        scene.ward.take(scene.match)
    assert scene.file.read_bytes() == CONTENT and not scene.private.exists()
    scene.check_safe()


def test_a_kill_while_anothers_file_is_aside_gives_it_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    scene.file.rename(scene.share / "moved")
    scene.private.write_bytes(INNOCENT)  # the exchanged file, which was moved aside at the kill
    assert "something else is at" in scene.ward.verify()[scene.match.id].detail
    taken = scene.ward.take(scene.match)
    assert taken.taken and taken.attention
    assert scene.file.read_bytes() == INNOCENT and not scene.private.exists()


def test_a_file_planted_under_the_private_name_saves_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.private.write_bytes(INNOCENT)
    fail_removal(scene)
    assert scene.is_in_place()
    assert scene.ward.take(scene.match).detail == "quarantined"
    assert not scene.file.exists() and scene.private.read_bytes() == INNOCENT
    scene.check_safe()


def test_a_copy_under_a_lost_seal_key_is_made_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    scene.ward.hold(scene.match)
    chat = tmp_path / "chat"
    chat.write_bytes(INNOCENT)
    with scene.ward.record() as record:
        scene.ward.open().add_context(scene.match.id, [chat], record, reason="x")
    before = scene.ward.item(scene.match)
    scene.ward.sealer = Sealer(b"\1" * 32)
    with pytest.raises(StateError, match="sealed with another key"):
        scene.ward.take(scene.match)
    assert scene.ward.match(scene.file).id == scene.match.id  # the file is scanned again
    assert scene.ward.take(scene.match).detail == "quarantined"
    scene.check_taken()
    after = scene.ward.item(scene.match)
    assert after.key_id != before.key_id and after.hold == before.hold is not None
    assert after.context == before.context and len(after.context) == 1
    assert {finding.detail for finding in scene.ward.verify().values()} == {"whole"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "full"])
def test_a_copy_that_is_made_again_is_there_at_any_instant_and_on_hold(
    tmp_path: Path, how: str
) -> None:
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        directory.mkdir()
        scene = Scene(directory)
        fail_removal(scene)
        scene.ward.hold(scene.match)
        scene.ward.sealer = Sealer(b"\1" * 32)
        scene.ward.match(scene.file)
        if how == "kill":

            def act(scene: Scene = scene, number: int = number) -> None:
                with watched(kill_at(number)):
                    scene.ward.take(scene.match)

            ended = in_child(act) == 0
        else:
            failing = FailAt(number, errno.ENOSPC)
            with contextlib.suppress(StateError, AuditError), watched(failing):
                scene.ward.take(scene.match)
            ended = not failing.fired
        assert scene.is_sealed()
        assert scene.ward.item(scene.match).hold is not None
        assert scene.ward.take(scene.match).taken
        scene.check_taken()
        assert scene.ward.item(scene.match).hold is not None
        assert not [name for name in scene.ward.names() if name.startswith(".")]
        if ended:
            break
    assert number > 10


def test_a_copy_is_made_again_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    scene.ward.hold(scene.match)
    scene.ward.sealer = Sealer(b"\1" * 32)
    scene.ward.match(scene.file)
    monkeypatch.setattr("hashclient.quarantine.store.exchange", lambda *_: False)
    assert scene.ward.take(scene.match).detail == "quarantined"
    scene.check_taken()
    assert scene.ward.item(scene.match).hold is not None


def nothing(*_arguments: object, **_more: object) -> None:
    """Report success of a rename, and change no name."""


def both(directory: int, name: str, other: str) -> None:
    """Give a file another name, and keep its old name as well."""
    os.link(name, other, src_dir_fd=directory, dst_dir_fd=directory)


@pytest.mark.parametrize(
    ("name", "lie"),
    [("os.unlink", nothing), ("hashclient.quarantine.safe_rename.move_aside", both)],
)
def test_a_file_system_that_only_says_that_it_removes_a_name_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lie: Callable[..., None]
) -> None:
    """Examples are a FUSE server, and two joined directories that both have the file."""
    scene = Scene(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(name, lie)
        taken = scene.ward.take(scene.match)
    assert (taken.taken, taken.sealed, taken.attention) == (False, True, True)
    assert "its file system has kept a name" in taken.detail
    assert scene.ward.get(scene.match).in_place
    assert [path.name for path in scene.share.iterdir() if path.read_bytes() == CONTENT] == [
        scene.file.name
    ]
    assert scene.ward.take(scene.match).taken
    scene.check_taken()


@pytest.mark.parametrize("keeps", [False, True])
def test_a_quarantine_whose_folders_are_not_renamed_removes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    scene = Scene(tmp_path)

    def rename(folder: Path, name: Path) -> None:
        """Keep the folder's temporary name; the new name leads to it or to another folder."""
        name.symlink_to(folder) if keeps else name.mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(StateError, match="does not rename folders"):
            scene.ward.take(scene.match)
    assert scene.file.read_bytes() == CONTENT
    assert scene.ward.get(scene.match).in_place


def test_an_exchange_of_folders_that_did_not_happen_is_no_new_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    scene.ward.take(scene.match)
    before = scene.ward.item(scene.match)
    other = tmp_path / "other.key"
    write_identity(other, scene.ward.now)
    public = other.read_text().split("public key: ")[1].split()[0]
    monkeypatch.setattr("hashclient.quarantine.store.exchange", lambda *_: True)
    with scene.ward.record() as record, pytest.raises(StateError, match="does not rename folders"):
        scene.ward.open().reseal(
            scene.match.id, load_identities(scene.ward.key), [public], record, reason="test"
        )
    assert scene.ward.item(scene.match) == before
    assert scene.is_sealed()


def test_a_copy_under_a_lost_seal_key_stays_where_its_file_is_gone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    scene.ward.sealer = Sealer(b"\1" * 32)
    scene.ward.match(scene.file)
    scene.file.unlink()
    taken = scene.ward.take(scene.match)
    assert (taken.taken, taken.sealed) == (False, True)
    assert taken.detail == "sealed, but not there any more"
    assert scene.is_sealed()


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_match_withdrawn_during_an_interrupted_act_is_restored(
    tmp_path: Path, is_removed: bool
) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    if is_removed:
        scene.file.unlink()
    scene.ward.withdraw()
    scene.ward.restore(scene.match)
    assert scene.file.read_bytes() == CONTENT
    now = scene.ward.get(scene.match)
    assert (now.state, now.in_place) == (MatchState.RESTORED, True)


@pytest.mark.parametrize("aside", [CONTENT, INNOCENT])
def test_a_kill_while_a_name_is_aside_and_taken_again(tmp_path: Path, aside: bytes) -> None:
    scene = Scene(tmp_path)
    fail_removal(scene)
    scene.file.rename(scene.private)
    scene.private.write_bytes(aside)
    scene.file.write_bytes(b"a third")
    taken = scene.ward.take(scene.match)
    assert taken.attention
    assert taken.taken == (aside == CONTENT)
    assert scene.private.exists() == (aside != CONTENT)
    assert scene.file.read_bytes() == b"a third"


# --- restoring and destroying -------------------------------------------------------------


def take_and_withdraw(scene: Scene) -> None:
    scene.ward.take(scene.match)
    scene.ward.withdraw()


def take_and_acknowledge(scene: Scene) -> None:
    scene.ward.take(scene.match)
    scene.ward.change(scene.match, MatchState.ACKNOWLEDGED)
    scene.ward.now += timedelta(days=2)


@pytest.mark.slow
@pytest.mark.parametrize("tombstone", [None, "gone"])
@pytest.mark.parametrize("named", [False, True])
def test_a_kill_while_a_file_is_given_back_loses_nothing(
    fast: Path, tombstone: str | None, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, scene in scenes(fast, take_and_withdraw, tombstone=tombstone):

        def restore(number: int = number, scene: Scene = scene) -> None:
            if named:
                monkeypatch.setattr(os, "O_TMPFILE", os.O_RDONLY | os.O_DIRECTORY)
            with watched(kill_at(number)):
                scene.ward.restore(scene.match)

        died = in_child(restore) != 0
        assert scene.is_in_place() or scene.is_sealed()
        if scene.match.id in scene.ward.names():
            scene.ward.restore(scene.match)
        assert scene.file.read_bytes() == CONTENT
        assert scene.ward.get(scene.match).state is MatchState.RESTORED
        names = {p.name for p in scene.share.iterdir()} - {f"{scene.private.name}.new"}
        assert names == {"file.bin"}
        assert not {n for n in scene.ward.names() if not n.startswith(".tmp-")}
        if not died:
            break


@pytest.mark.slow
def test_a_kill_while_many_files_are_given_back_loses_none(fast: Path) -> None:
    others: list[Match] = []

    def prepare(scene: Scene) -> None:
        take_and_withdraw(scene)
        for number in range(2):
            path = scene.share / f"other-{number}"
            path.write_bytes(b"%d" % number + CONTENT)
            others.append(scene.ward.match(path, entry=f"o-{number}"))
            scene.ward.take(others[-1])
            scene.ward.withdraw(f"o-{number}")

    def restore(ward: Ward, ids: list[str]) -> None:
        with ward.record() as record:
            keys = load_identities(ward.key)
            for _, outcome in ward.open("bob").restore_all(ids, keys, record, reason="back"):
                assert not isinstance(outcome, HashclientError), outcome

    deaths = 0
    for number, scene in scenes(fast, prepare, tombstone="gone"):
        ward, files = scene.ward, {m.id: Path(m.path) for m in (scene.match, *others)}
        whole = {scene.match.id: CONTENT}
        whole |= {m.id: b"%d" % n + CONTENT for n, m in enumerate(others)}

        def killed(number: int = number, ward: Ward = ward, ids: list[str] = [*files]) -> None:  # noqa: B006
            with watched(kill_at(number)):
                restore(ward, ids)

        died = in_child(killed) != 0
        sealed = ward.names() & files.keys()
        for match in (scene.match, *others):
            if match.id in sealed:
                assert ward.opened(match) == whole[match.id]
            else:
                assert files[match.id].read_bytes() == whole[match.id]
        restore(ward, [match_id for match_id in files if match_id in sealed])
        for match in (scene.match, *others):
            assert files[match.id].read_bytes() == whole[match.id]
            assert ward.get(match).state is MatchState.RESTORED
        assert {p.name for p in scene.share.iterdir()} == {p.name for p in files.values()}
        assert not {n for n in ward.names() if not n.startswith(".tmp-")}
        deaths += died
        if not died:
            break
    assert deaths > of_changes(20)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_while_a_file_is_given_back_loses_nothing(fast: Path, code: int) -> None:
    for number, scene in scenes(fast, take_and_withdraw, tombstone="gone"):
        fail = FailAt(number, code)
        with watched(fail), contextlib.suppress(HashclientError):
            scene.ward.restore(scene.match)
        assert scene.is_in_place() or scene.is_sealed()
        if scene.match.id in scene.ward.names():
            scene.ward.restore(scene.match)
        assert scene.file.read_bytes() == CONTENT
        assert {p.name for p in scene.share.iterdir()} == {"file.bin"}
        if not fail.fired:
            break


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("named", [False, True])
def test_no_plain_text_stays_where_giving_back_fails(
    fast: Path, named: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished file is removed at once, whatever its name."""
    if named:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_RDONLY | os.O_DIRECTORY)
    failures = 0
    for number, scene in scenes(fast, take_and_withdraw):
        left = number

        def act(name: str, argument: object, scene: Scene = scene) -> None:
            nonlocal left
            left -= 1
            # The removal of leftovers must not fail, because the tests rely on it.
            if left == 0 and (name, argument) != ("unlink", f"{scene.private.name}.new"):
                raise error

        with watched(act):
            try:
                scene.ward.restore(scene.match)
            except (HashclientError, KeyboardInterrupt):
                failures += 1
        names = {p.name for p in scene.share.iterdir()}
        assert names <= {"file.bin"}
        assert names or scene.is_sealed()
        if left > 0:
            break
    assert failures > of_changes(10)


def test_after_a_kill_the_destruction_of_an_item_is_finished(fast: Path) -> None:
    for number, scene in scenes(fast, take_and_acknowledge, keep_days=1.0):

        def purge(number: int = number, scene: Scene = scene) -> None:
            with watched(kill_at(number)):
                scene.ward.purge(scene.match)

        died = in_child(purge) != 0
        events = scene.ward.events()
        if not scene.ward.evidence(scene.match).exists():
            assert "purging" in events
        if scene.match.id in scene.ward.names():
            assert scene.ward.purge(scene.match).done is True
        assert scene.ward.get(scene.match).state is MatchState.PURGED
        assert scene.ward.events()[-1] == "purged"
        with scene.ward.record() as record:
            assert [s.event for s in record.story(scene.match.id)].count("purged") == 1
        if not died:
            break


def test_an_item_is_destroyed_only_after_it_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, keep_days=0.0)
    scene.ward.take(scene.match)
    scene.ward.change(scene.match, MatchState.ACKNOWLEDGED)

    def append(*_arguments: object, **_more: object) -> None:
        raise AuditError("cannot write the audit log")

    monkeypatch.setattr(scene.ward.audit, "append", append)
    with pytest.raises(AuditError):
        scene.ward.purge(scene.match)
    assert scene.is_sealed()
    assert scene.ward.get(scene.match).state is MatchState.ACKNOWLEDGED


# --- real file systems -------------------------------------------------------------------


@contextlib.contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """Mount a file system on `path`, which is made; skip the test if mounting is not allowed."""
    path.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, path], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@root_only
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreseen: bool
) -> None:
    # Removing the check of free space simulates a disk that another program fills after the check.
    if not foreseen:
        monkeypatch.setattr(isolate, "check_space", lambda _room, _size: None)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=5m", "none") as small:
        scene = Scene(small)
        big = os.urandom(1 << 20)
        scene.file.write_bytes(big)
        match = scene.ward.match(scene.file, entry="e-2")
        filler = small / "filler"
        for left_kib in (1_024, 500, 64, 0):
            space = os.statvfs(small)
            with filler.open("ab") as stream, contextlib.suppress(OSError):
                stream.write(bytes(max(0, space.f_bavail * space.f_frsize - left_kib * 1024)))
            with pytest.raises(StateError, match="No space left"):
                scene.ward.take(match)
            assert scene.file.read_bytes() == big
            assert scene.ward.names() == set()
        filler.unlink()
        assert scene.ward.take(match).taken
        assert scene.ward.opened(match) == big


@root_only
def test_a_read_only_file_system_keeps_the_file_and_the_copy(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with mounted(scene.share, "--bind", str(scene.share)):
        subprocess.run(["mount", "-o", "remount,bind,ro", scene.share], check=True)
        taken = scene.ward.take(scene.match)
        assert (taken.taken, taken.sealed) == (False, True)
        assert taken.detail == "sealed, but still in place: read-only file system"
        scene.check_safe()
    assert scene.ward.take(scene.match).taken
    scene.check_taken()


@root_only
def test_another_file_system_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    scene = Scene(tmp_path / "one")
    with mounted(tmp_path / "one" / "other", "-t", "tmpfs", "-o", "size=8m", "none") as other:
        path = other / "file.bin"
        path.write_bytes(CONTENT)
        match = scene.ward.match(path, entry="e-2")
        assert scene.ward.take(match).taken
        scene.ward.withdraw("e-2")
        scene.ward.restore(match)
        assert path.read_bytes() == CONTENT


@root_only
def test_a_file_that_something_is_mounted_on_is_not_removed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    done = subprocess.run(["mount", "--bind", scene.file, scene.file], check=False)
    if done.returncode != 0:
        pytest.skip("cannot mount")
    try:
        taken = scene.ward.take(scene.match)
    finally:
        subprocess.run(["umount", scene.file], check=True)
    assert taken.detail == "sealed, but still in place: something is mounted on it"
    assert scene.ward.take(scene.match).taken


@pytest.mark.skipif(not IS_ROOT or shutil.which("chattr") is None, reason="only root has chattr")
def test_an_immutable_file_stays_and_is_sealed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    if subprocess.run(["chattr", "+i", scene.file], check=False).returncode != 0:
        pytest.skip("this file system has no such attribute")
    try:
        taken = scene.ward.take(scene.match)
    finally:
        subprocess.run(["chattr", "-i", scene.file], check=True)
    assert taken.detail == (
        "sealed, but still in place: the file is immutable (`chattr -i` makes it mutable)"
    )
    # `chattr` has changed the times of the file, but not its content.
    assert scene.ward.take(scene.match).detail == "quarantined"
    scene.check_taken()
