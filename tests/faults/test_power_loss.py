"""A power loss: data that were not synced may be lost, and no later step needs these data.

No machine is switched off. The tests record each change of the disk, and at each important moment
they compute what a disk that honours syncs could still lose.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.client import Client
from fixtures.crash import Unsynced, watched
from fixtures.desk import A, Desk, desk_and_service
from fixtures.quarantine import CONTENT, Ward
from fixtures.reporting_service import Fault
from fixtures.simulator import URL, Simulator
from hashclient.audit.log import AuditLog, Event
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.quarantine.safe_rename import PRIVATE_NAME
from hashclient.system.layout import MANIFEST_NAME, RESTORED_NAME
from hashclient.trust.tuf import Trust
from tests.attack_world import Generations

#: Files that may be lost: a program makes its lock file again, and SQLite syncs its database
#: itself, which the tests do not see.
UNIMPORTANT = ("lock", "matches.db")


class Moment:
    """An `Act` that notes which files are volatile and which removed names remain."""

    def __init__(self, root: Path, when: Callable[[str, str], bool]) -> None:
        """`when` gets the call and its path or name, as `fixtures.crash.Recorder` notes them."""
        self.disk = Unsynced(root)
        self._when = when
        self.volatile: list[set[str]] = []
        self.lingering: list[set[str]] = []

    def __call__(self, name: str, argument: object) -> None:
        """Compute what may be lost if this is the chosen change."""
        path = str(argument)
        if isinstance(argument, int):
            path = str(Path(f"/proc/self/fd/{argument}").readlink())
        if self._when(name, path):
            self.volatile.append(self.now())
            self.lingering.append(self.back())
        self.disk(name, argument)

    def now(self) -> set[str]:
        """Return the volatile paths, except for unimportant files."""
        return {p for p in self.disk.volatile() if not p.endswith(UNIMPORTANT)}

    def back(self) -> set[str]:
        """Return the removed paths that may reappear, except for temporary files."""
        return {p for p in self.disk.lingering() if "/.tmp-" not in p}


def is_manifest(name: str, path: str) -> bool:
    """Return whether this change makes another generation current."""
    if name != "replace" or "/lists/" not in path or "/.tmp-" not in path:
        return False
    data = Path(path).read_bytes()
    # The content is that of the note of progress.
    return b'"index_hash"' in data and b'"partial"' not in data


def writes_to_log(name: str, path: str) -> bool:
    """Return whether something is written to the audit log."""
    return name == "write" and path.endswith("/log.jsonl")


# --- fetching ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False], ids=["first fetch", "update"])
def test_a_generation_is_switched_to_and_logged_once_it_is_on_the_disk(
    world: Generations, client: Client, simulator: Simulator, tmp_path: Path, is_first: bool
) -> None:
    if is_first:
        client = Client(tmp_path / "new" / "state", simulator, world.root)
    else:
        simulator.files = dict(world.served[3])
    switch, log = Moment(tmp_path, is_manifest), Moment(tmp_path, writes_to_log)

    def act(name: str, argument: object) -> None:
        switch(name, argument)
        log(name, argument)

    with watched(act):
        client.fetch()
    state = client.settings.state_dir.relative_to(tmp_path).as_posix()
    # Only the metadata of the list's own role may be synced late. The files that it signs were
    # verified, and the synced snapshot says which version may come next.
    late = f"{state}/trust/main/metadata/"
    (before,) = switch.volatile
    assert {p for p in before if not p.startswith((late + "baseline", f"{state}/lists/"))} == set()
    # The manifest does not name the runs that were merged, which are removed afterwards.
    (manifest,) = (
        p
        for p in before
        if p.startswith(f"{state}/lists/") and ("/.tmp-" in p or (tmp_path / p).exists())
    )
    assert "/.tmp-" in manifest
    (told,) = log.volatile
    audit = {f"{state}/audit/log.jsonl"} if is_first else set()
    assert {p for p in told if not p.startswith(late + "baseline")} == audit
    # At the end, all files and the directories that were made are synced.
    assert log.now() == set()
    assert (client.settings.layout.lists / "baseline" / MANIFEST_NAME).exists()


def test_metadata_is_on_the_disk_once_it_is_trusted(world: Generations, tmp_path: Path) -> None:
    """If a power loss undid a refresh, the provider or a thief could offer older metadata."""
    directory = tmp_path / "trust"
    disk = Unsynced(tmp_path)
    with watched(disk):
        trust = Trust(
            directory, URL, world.simulator, world.root, name="main", now=datetime.now(UTC)
        )
        trust.refresh()
    roles = {"root.json", "timestamp.json", "snapshot.json", "targets.json"}
    assert {p.name for p in directory.iterdir()} == roles | {"root_history"}
    assert disk.volatile() == set()


# --- the audit log -----------------------------------------------------------------------


def writes_public_key(name: str, path: str) -> bool:
    """Return whether the call gives `key.pub` its name."""
    return name == "replace" and b"PUBLIC KEY" in Path(path).read_bytes()


@pytest.mark.parametrize("key_is_there", [False, True])
def test_the_log_is_on_the_disk_before_its_public_key_says_that_there_was_one(
    tmp_path: Path, key_is_there: bool
) -> None:
    directory = tmp_path / "state" / "audit"
    log = AuditLog(directory, clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))
    if key_is_there:  # the key of a command that was killed before it wrote a record
        log.append([Event("match", {})])
        for name in ("log.jsonl", "key.pub"):
            (directory / name).unlink()
    moment = Moment(tmp_path, writes_public_key)
    with watched(moment):
        log.append([Event("match", {})])
    (before,) = moment.volatile
    assert [Path(p).name.startswith(".tmp-") for p in before] == [True]
    assert moment.now() == set()


def test_a_durable_record_is_on_the_disk(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))
    disk = Unsynced(tmp_path)
    with watched(disk):
        log.append([Event("match", {})])
        log.append([Event("match", {})])
        assert disk.volatile() == {"audit/log.jsonl"}
        log.append([Event("match", {})], durable=True)
        assert disk.volatile() == set()


def test_a_closed_file_has_its_name_for_good_before_the_next_takes_that_of_the_log(
    tmp_path: Path,
) -> None:
    """In another order, a disk could keep only the second change and lose the file's name."""
    log = AuditLog(tmp_path / "audit", clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))
    log.append([Event("match", {})])
    moment = Moment(tmp_path, lambda name, path: name == "rename" and path.endswith("/.tmp-log"))
    with watched(moment):
        assert log.rotate() is not None
    assert moment.volatile == [set()]
    assert moment.now() == set()


# --- quarantine --------------------------------------------------------------------------


def taken_scene(tmp_path: Path, **config: object) -> tuple[Ward, Path, Match]:
    """Return a quarantine, a file that matched, and the match."""
    ward = Ward(tmp_path, **config)
    file = tmp_path / "share" / "file.bin"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    return ward, file, ward.match(file)


@pytest.mark.parametrize("tombstone", [None, "gone"])
def test_a_sealed_copy_is_on_the_disk_before_the_file_goes(
    tmp_path: Path, tombstone: str | None
) -> None:
    ward, file, match = taken_scene(tmp_path, tombstone=tombstone)
    private = PRIVATE_NAME.format(match.id)
    moment = Moment(tmp_path, lambda name, path: name == "unlink" and path == private)
    with watched(moment):
        assert ward.take(match).detail == "quarantined"
    # Only the name that is removed next is volatile.
    assert moment.volatile == [{f"share/{private}"}]
    assert moment.now() == set()
    assert moment.back() == set()
    assert file.exists() == (tombstone is not None)


def test_an_act_that_goes_on_syncs_the_place_where_nothing_is_left(tmp_path: Path) -> None:
    """The old name of the file that was moved aside must not reappear, although it was reused."""
    ward, file, match = taken_scene(tmp_path)

    def stop(name: str, argument: object) -> None:
        if name == "rename" and argument == file.name:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with watched(stop):
        assert not ward.take(match).taken
    file.rename(file.with_name(PRIVATE_NAME.format(match.id)))
    file.write_bytes(b"a third")
    disk = Unsynced(tmp_path)
    with watched(disk):
        assert ward.take(match).taken
    assert disk.lingering() == set()


@pytest.mark.parametrize("named", [False, True])
def test_a_file_that_is_given_back_is_on_the_disk_before_its_copy_goes(
    tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward, file, match = taken_scene(tmp_path, tombstone="gone")
    ward.take(match)
    if named:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_RDONLY | os.O_DIRECTORY)
    folder = ward.evidence(match).parent
    new_note = f"{folder.parent}/.tmp-"
    # First the restoration is noted, then the folder is removed.
    moment = Moment(
        tmp_path,
        lambda name, path: (
            (name == "rename" and path == str(folder))
            or (name == "replace" and path.startswith(new_note))
        ),
    )
    with watched(moment):
        ward.restore(match, force=True)
    assert len(moment.volatile) == 2
    assert not any(path.endswith(RESTORED_NAME) for path in moment.volatile[1])
    for volatile, lingering in zip(moment.volatile, moment.lingering, strict=True):
        assert {p for p in volatile if "/quarantine/" not in p} == set()
        assert lingering <= {f"share/.hashclient-{match.id}.new"}
    assert file.read_bytes() == CONTENT
    assert moment.now() == set()
    assert moment.back() == set()


def test_a_file_from_an_interrupted_restoration_is_synced_by_the_next(tmp_path: Path) -> None:
    ward, file, match = taken_scene(tmp_path)
    ward.take(match)
    disk = Unsynced(tmp_path)

    def interrupt(name: str, argument: object) -> None:
        if name == "fsync" and file.exists():
            raise KeyboardInterrupt
        disk(name, argument)

    with watched(interrupt), pytest.raises(KeyboardInterrupt):
        ward.restore(match, force=True)
    assert file.read_bytes() == CONTENT
    assert {"share/file.bin"} <= disk.volatile()
    with watched(disk):
        ward.restore(match, force=True)
    assert {p for p in disk.volatile() if not p.endswith(UNIMPORTANT)} == set()


def test_a_file_is_synced_before_it_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read before the sync would return bytes from memory instead of bytes from the disk."""
    ward, _, match = taken_scene(tmp_path)
    calls: list[str] = []

    def note(name: str, argument: object) -> None:
        if name in {"fsync", "write"} and Path(f"/proc/self/fd/{argument}").is_file():
            calls.append(name)

    real = os.posix_fadvise

    def drop(*args: int) -> None:
        if args[-1] == os.POSIX_FADV_DONTNEED:
            calls.append("drop")
        real(*args)

    monkeypatch.setattr(os, "posix_fadvise", drop)
    with watched(note):
        ward.take(match)
        ward.restore(match, force=True)
    dropped = [n for n, name in enumerate(calls) if name == "drop"]
    assert len(dropped) == 2
    assert [calls[n - 1] for n in dropped] == ["fsync", "fsync"]


def test_a_purged_file_does_not_come_back(tmp_path: Path) -> None:
    ward, _, match = taken_scene(tmp_path, keep_days=1.0)
    ward.take(match)
    ward.change(match, MatchState.ACKNOWLEDGED)
    ward.now += timedelta(days=2)
    moment = Moment(tmp_path, writes_to_log)
    with watched(moment):
        assert ward.purge(match).done
    assert len(moment.lingering) == 2  # the intent to destroy the item, and the destruction
    assert moment.lingering[1] == set()
    assert moment.back() == set()
    assert not ward.evidence(match).exists()


# --- reports -----------------------------------------------------------------------------


def test_a_report_is_on_the_disk_before_anybody_knows_of_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    moment = Moment(tmp_path, writes_to_log)
    with watched(moment):
        desk.prepare(match)
    assert moment.volatile == [set()]
    assert moment.now() == set()


def test_a_package_is_on_the_disk_before_the_report_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    desk.quarantine(match)
    desk.prepare(match)
    moment = Moment(tmp_path, writes_to_log)
    with watched(moment):
        (sent,) = desk.send_due()
    assert sent.error is None
    assert moment.volatile and set().union(*moment.volatile) == set()
    assert moment.now() == set()


def test_each_request_to_a_service_is_in_the_journal_first(tmp_path: Path) -> None:
    with desk_and_service(tmp_path) as (desk, service):
        match = desk.find("a", A)
        desk.prepare(match, to="hotline")
        disk = Unsynced(desk.settings.state_dir)
        seen: list[set[str]] = []

        def look() -> None:
            seen.append({p for p in disk.volatile() if not p.endswith(UNIMPORTANT)})

        for call in ("submit", "upload", "fileinfo", "finish"):
            service.fail(call, Fault(hook=look))
        with watched(disk):
            (sent,) = desk.send_due()
        assert sent.error is None
        look()
        assert sent.error is None
        assert seen == [set()] * 5
