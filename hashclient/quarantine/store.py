"""The class `Room`: the folders, lock and records that all operations of the quarantine use.

An operation is for example the isolation, restoration or purge of an item. Only one process at a
time changes the quarantine. A folder with an id as its name is always complete. A folder that a
killed process has left has a temporary name, and the next operation removes this folder.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import resource
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hashclient.audit.log import Event
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.index.blinding import Sealer
from hashclient.matches.store import Matches
from hashclient.matches.tables import unknown_match
from hashclient.quarantine.isolators.interface import Isolator, Names
from hashclient.quarantine.item import (
    Item,
    Mark,
    Note,
    encode_item,
    evidence_path,
    folder_path,
    load_item,
    load_notes,
    save_notes,
)
from hashclient.session import Session
from hashclient.system import files
from hashclient.system.background import beside, together
from hashclient.system.beneath import exchange
from hashclient.system.files import writer_lock
from hashclient.system.layout import EVIDENCE_NAME, ITEM_NAME, ROOM_LOCK_NAME
from hashclient.system.text import log_path_fields, printable

#: Seconds that an operation waits for the lock of another process. Sealing a very large file may
#: take longer than the wait.
LOCK_WAIT_S = 60.0

#: The highest number of operations that take steps together, each with two open files; and the
#: highest total size of their files in bytes.
AT_ONCE = 128
AT_ONCE_BYTES = 1 << 26
#: The number of threads for steps that wait for a network. Other steps run in one thread, because
#: several threads would compete for Python's global lock at every system call, which takes as much
#: time as the steps themselves.
_SLOW_THREADS = 16
#: The temporary name of a new document of an item, until it replaces the present document.
_NEW_ITEM_NAME = files.TEMP_PREFIX + ITEM_NAME
#: How many free descriptors each operation needs: two, and some more while the file is sealed.
_DESCRIPTORS_EACH = 8

#: Flags that open a folder whose content is removed; a symbolic link is not followed.
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_Out = TypeVar("_Out")
#: A change of the record of matches: a match, the detail for its history, and whether the file is
#: at its path afterwards.
Change = tuple[Match, Mapping[str, Any], bool]


def at_once() -> int:
    """Return how many operations may take steps together, by the number of free descriptors."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return AT_ONCE
    try:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names
    except OSError:
        return 1
    return max(1, min(AT_ONCE, (most - used) // _DESCRIPTORS_EACH))


class Wait(msgspec.Struct, frozen=True):
    """What must be durable before an operation takes its next step, and the `event` to log.

    Each function in `syncs` makes a file durable; these functions are called at the same time.
    `is_named` says whether a folder has got its final name, so that the directory of the quarantine
    must be made durable. `names` are changed names in another directory, which is made durable by
    one call of fsync for all operations. `change` is called with the recorded match, without its
    hits; it returns the change to the state `QUARANTINED`, or None, or raises an exception to end
    the operation.
    """

    event: Event | None = None
    syncs: tuple[Callable[[], None], ...] = ()
    is_named: bool = False
    names: Names | None = None
    change: Callable[[Match], Change | None] | None = None


class Room:
    """The quarantine of one state directory, as the modules of the package `quarantine` use it."""

    def __init__(
        self,
        session: Session,
        on_bytes: Callable[[int], None],
        isolator: Isolator,
    ) -> None:
        """Store the arguments; no file is made or read before the first operation."""
        self.isolator = isolator
        self.session = session
        self.config = session.settings.config.quarantine
        self.directory = session.settings.layout.quarantine
        self.now = session.now
        self._on_bytes = on_bytes
        self._counting = threading.Lock()
        self._swept = False
        #: Folders that must not be removed, because the folders that replace them may not be
        #: durable.
        self._unsure: set[Path] = set()

    @functools.cached_property
    def sealer(self) -> Sealer:
        """The sealer, which compares digests with tags; it is made when it is first needed.

        Raises:
            StateError, ConfigError: the seal key is missing or malformed.
        """
        return self.session.sealer()

    def on_bytes(self, count: int) -> None:
        """Report a number of bytes that were sealed, opened or checked, from any thread."""
        with self._counting:
            self._on_bytes(count)

    def mark(self, reason: str) -> Mark:
        """Return a `Mark` with the operator, the present time and `reason`."""
        return Mark.of(self.session.operator, reason, self.now())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the quarantine during the block; a missing directory of the quarantine is made.

        Raises:
            LockedError: another process holds the lock for longer than `LOCK_WAIT_S` seconds.
            StateError: the directory cannot be made.
        """
        files.make_private_dir(self.directory)
        with writer_lock(self.directory / ROOM_LOCK_NAME, wait_s=LOCK_WAIT_S):
            if not self._swept:
                with self.errors("cannot read the quarantine", self.directory):
                    names = os.listdir(self.directory)  # noqa: PTH208 - names
                    leftover = [n for n in names if n.startswith(files.TEMP_PREFIX)]
                    if leftover:  # an exchange of two folders may not be durable yet
                        files.fsync_dir(self.directory)
                for name in leftover:
                    remove_folder(self.directory / name)
                    with contextlib.suppress(OSError):  # a file, not a folder
                        os.unlink(self.directory / name)  # noqa: PTH108 - beside a folder
                self._swept = True
            yield

    @contextlib.contextmanager
    def errors(self, what: str, path: Path) -> Iterator[None]:
        """Translate an `OSError` on a file of the quarantine into a `StateError`."""
        try:
            yield
        except OSError as error:
            raise files.state_error(what, path, error) from error

    def load(self, match_id: str) -> Item:
        """Return the item of a match.

        Raises:
            UsageError: no item has this id.
            StateError: the item cannot be read or is damaged.
        """
        return load_item(self.directory, match_id)

    def find(self, match_id: str, matches: Matches) -> Item | None:
        """Return an item for an operation on it, or None; the caller holds the lock.

        If the restoration of the item was interrupted after the file was restored, the item is
        removed, and None is returned.

        Raises:
            StateError: the item cannot be read or is damaged.
        """
        if not self.folder(match_id).exists():
            return None
        item = self.load(match_id)
        if item.restored is None:
            return item
        self.drop_restored([item], matches)
        return None

    def need(self, match_id: str, matches: Matches) -> Item:
        """Return an item for an operation on it; the caller holds the lock.

        Raises:
            UsageError: no item has this id.
            StateError: the item cannot be read or is damaged.
        """
        return self.find(match_id, matches) or self.load(match_id)

    def need_kept(self, match_id: str, matches: Matches) -> tuple[Item, Match | None]:
        """Return an item that is not being destroyed, and its match, which may be None.

        Raises:
            UsageError: no item has this id, or the item is being destroyed.
            StateError: the item cannot be read or is damaged.
        """
        item, match = self.need(match_id, matches), matches.look_up(match_id)
        if match is not None and match.state is MatchState.PURGED:
            raise UsageError(
                f"{match_id} is being destroyed",
                hint="`hashclient quarantine purge` finishes the destruction",
            )
        return item, match

    def drop_restored(self, items: Sequence[Item], matches: Matches) -> None:
        """Record that items were restored, as `note_restored` does, and remove the items.

        Raises:
            StateError: the quarantine cannot be written.
        """
        self.note_restored(items, matches)
        self.drop_noted(items)

    def note_restored(self, items: Sequence[Item], matches: Matches) -> None:
        """Record in `restored.json` and in the record of matches that items were restored.

        Raises:
            StateError: the quarantine cannot be written.
        """
        marks = {item.id: item.restored for item in items if item.restored is not None}
        old = load_notes(self.directory)
        notes = {i: note for i, note in old.items() if self.folder(i).exists()}
        notes |= {i.id: Note(i.evidence_sha256, marks[i.id]) for i in items if i.id in marks}
        if notes != old:
            save_notes(self.directory, notes)
        with matches.batch():
            known = matches.look_up_all([*marks])
            # The match is not changed if a scan has found the restored file again meanwhile.
            changes = [
                (match, {"by": mark.by, "reason": mark.reason}, mark.in_place)
                for match_id, mark in marks.items()
                if (match := known.get(match_id)) is not None
                and (
                    match.state is MatchState.WITHDRAWN
                    or (match.state is not MatchState.RESTORED and not match.in_place)
                )
            ]
            matches.change_all(changes, MatchState.RESTORED, self.now())

    def drop_noted(self, items: Sequence[Item]) -> None:
        """Remove the folders of restored items, and then the notes about these items.

        Raises:
            StateError: the quarantine cannot be written.
        """
        dropped = {item.id for item in items}
        self.drop(*dropped)
        notes = load_notes(self.directory)
        save_notes(self.directory, {i: note for i, note in notes.items() if i not in dropped})

    def folder(self, match_id: str) -> Path:
        """Return the path of the folder of an item."""
        return folder_path(self.directory, match_id)

    def evidence(self, match_id: str) -> Path:
        """Return the path of the sealed copy of an item."""
        return evidence_path(self.directory, match_id)

    def save(self, item: Item) -> None:
        """Replace the document of an item in one step, durably.

        Raises:
            StateError: the document cannot be written.
        """
        for wait in self.saving(item):
            for sync in wait.syncs:
                sync()

    def saving(self, item: Item) -> Iterator[Wait]:
        """Replace the document of an item as `save` does, as steps of an operation.

        Raises:
            StateError: the document cannot be written.
        """
        folder = self.folder(item.id)
        new = folder / _NEW_ITEM_NAME  # a file that a killed process has left is overwritten
        yield Wait(syncs=(self.write(new, encode_item(item)),))
        with self.errors("cannot write to the quarantine", folder):
            os.replace(new, folder / ITEM_NAME)  # noqa: PTH105 - thousands of names
        yield Wait(syncs=(self.syncing(folder),))

    def write(self, path: Path, data: bytes) -> Callable[[], None]:
        """Write a file of an item; return a function that makes the file durable.

        Raises:
            StateError: the file cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.errors("cannot write", path):
            fd = os.open(path, flags, 0o600)
            try:
                files.write_all(fd, data)
            finally:
                os.close(fd)
        return self.syncing(path)

    def syncing(self, path: Path) -> Callable[[], None]:
        """Return a function that makes a file, or the names in a folder, durable."""

        def sync() -> None:
            with self.errors("cannot write", path):
                files.fsync(path)

        return sync

    @contextlib.contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Make a folder with a temporary name; remove the folder with this name after the block.

        `admit` and `exchange` give the folder the id of an item as its name. If the folder has been
        exchanged with the folder of an old item, the old folder has the temporary name and is
        removed.
        """
        with self.errors("cannot write to the quarantine", self.directory):
            folder = Path(tempfile.mkdtemp(prefix=files.TEMP_PREFIX, dir=self.directory))
        try:
            yield folder
        finally:
            if folder not in self._unsure:
                remove_folder(folder)

    def admit(self, folder: Path, item: Item, *, replaces: bool = False) -> None:
        """Rename a new folder, which is complete and durable, to the id of its item.

        Without `replaces`, the caller makes the name durable by a `Wait`. With `replaces`, the
        folder replaces the present item with this id durably.

        Raises:
            StateError: the quarantine cannot be written.
        """
        with self.errors("cannot write to the quarantine", self.directory):
            if not replaces or not self._exchange(folder, item.id):
                if replaces:
                    self.drop(item.id)
                before = folder.stat()
                folder.rename(self.folder(item.id))
                self._verify_moved(folder, before, item.id)
            if replaces:
                files.fsync_dir(self.directory)

    def run(
        self,
        acts: Mapping[str, Generator[Wait, None, _Out]],
        matches: Matches,
        *,
        is_slow: bool = False,
    ) -> dict[str, _Out | HashclientError | OSError]:
        """Take the steps of operations together; return the results or exceptions by id.

        The operations are divided into two halves. While each operation of one half takes its next
        step, threads make the changes of the other half durable. After each step, the halves are
        exchanged. `is_slow` says whether the steps wait for a network, so that they are taken in
        several threads. If a change cannot be written, all operations that wait for this change
        fail.
        """
        results: dict[str, _Out | HashclientError | OSError] = {}
        first, waits = (len(acts) + 1) // 2, dict[str, Wait]()
        ready = dict(itertools.islice(acts.items(), first))
        waiting = dict(itertools.islice(acts.items(), first, None))

        def go_on() -> None:
            turns = [*ready.values()]
            done = together(_next, turns, threads=_SLOW_THREADS) if is_slow else map(_next, turns)
            steps.update(zip(ready, done, strict=True))

        def write() -> None:
            failed.update(self._make_durable(waits))

        with contextlib.ExitStack() as stack:
            for act in acts.values():
                stack.callback(_close, act)
            while ready or waiting:
                steps: dict[str, Wait | _Out | HashclientError | OSError] = {}
                failed: dict[str, HashclientError] = {}
                beside(write if waits else None, go_on)
                failed |= self._note({i: w for i, w in waits.items() if i not in failed}, matches)
                results |= failed
                results |= {i: step for i, step in steps.items() if not isinstance(step, Wait)}
                waits = {i: step for i, step in steps.items() if isinstance(step, Wait)}
                left = {i: act for i, act in waiting.items() if i not in failed}
                ready, waiting = left, {i: ready[i] for i in waits}
        return results

    def _make_durable(self, waits: Mapping[str, Wait]) -> dict[str, HashclientError]:
        """Make the changes of operations durable; return the exceptions by id."""
        failed = _sync_files(waits)
        failed |= _sync_all({i: wait for i, wait in waits.items() if i not in failed})
        try:
            if any(wait.is_named for wait in waits.values()):
                with self.errors("cannot write to the quarantine", self.directory):
                    files.fsync_dir(self.directory)
        except HashclientError as error:
            return dict.fromkeys(waits, error) | failed
        return failed

    def _note(self, waits: Mapping[str, Wait], matches: Matches) -> dict[str, HashclientError]:
        """Change the record of matches, and write the audit log; return the exceptions by id."""
        failed: dict[str, HashclientError] = {}
        try:
            failed |= self._change_all({i: w.change for i, w in waits.items() if w.change}, matches)
            if events := [w.event for i, w in waits.items() if w.event and i not in failed]:
                self.session.audit.append(events, durable=True)
        except HashclientError as error:
            return failed | dict.fromkeys(waits, error)
        return failed

    def _change_all(
        self, asked: Mapping[str, Callable[[Match], Change | None]], matches: Matches
    ) -> dict[str, HashclientError]:
        """Change the record of matches; return the exceptions by id.

        All changes are made in one transaction. If the transaction fails, each change is made in
        its own transaction.
        """
        failed: dict[str, HashclientError] = {}
        try:
            if asked:
                with matches.batch():
                    known = matches.look_up_all([*asked])
                    if missing := asked.keys() - known.keys():
                        raise unknown_match(min(missing))
                    changes = [change for i, ask in asked.items() if (change := ask(known[i]))]
                    matches.change_all(changes, MatchState.QUARANTINED, self.now())
        except HashclientError as error:
            if len(asked) == 1:
                return dict.fromkeys(asked, error)
            for match_id, ask in asked.items():
                failed |= self._change_all({match_id: ask}, matches)
        return failed

    def exchange(self, folder: Path, item: Item) -> None:
        """Replace the folder of an item by a new folder in one step, durably.

        The document of `item` is written to the new folder first. After the exchange, the path
        `folder` leads to the replaced folder.

        Raises:
            StateError: the quarantine cannot be written, or its file system cannot exchange folders
                in one step.
        """
        files.write_atomic(folder / ITEM_NAME, encode_item(item))
        with self.errors("cannot write to the quarantine", self.directory):
            if not self._exchange(folder, item.id):
                raise StateError(
                    "the file system of the quarantine cannot exchange two folders in one step:"
                    f" {printable(self.directory)}",
                    hint="nothing was changed; move the state directory to a local file system,"
                    " such as ext4, xfs or btrfs",
                )
            self._unsure.add(folder)
            files.fsync_dir(self.directory)
            self._unsure.discard(folder)

    def _exchange(self, folder: Path, match_id: str) -> bool:
        """Exchange the names of a folder and of the folder of an item in one step, if possible."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            before = folder.stat()
            if not exchange(fd, folder.name, self.folder(match_id).name):
                return False
        finally:
            os.close(fd)
        self._verify_moved(folder, before, match_id)
        return True

    def _verify_moved(self, folder: Path, before: os.stat_result, match_id: str) -> None:
        """Check that a folder was renamed to the id of an item; after a failure, keep the folder.

        Without the check, the last copy of a file could be removed on a file system that reports
        success without renaming.

        Raises:
            OSError: the folder does not have the new name, or has both names.
        """
        new, old = self.folder(match_id).stat(), folder.stat() if folder.exists() else None
        if not os.path.samestat(new, before) or (old and os.path.samestat(old, before)):
            self._unsure.add(folder)
            raise OSError(errno.EIO, "the file system does not rename folders")

    def drop(self, *match_ids: str) -> None:
        """Remove the folders of items; each folder disappears from the quarantine in one step.

        The folders are first moved into one temporary folder. If the process is killed, the next
        operation removes the temporary folder.

        Raises:
            StateError: a folder cannot be removed.
        """
        with self.errors("cannot remove from the quarantine", self.directory):
            doomed = Path(tempfile.mkdtemp(prefix=files.TEMP_PREFIX, dir=self.directory))
        for match_id in match_ids:
            folder = self.folder(match_id)
            with self.errors("cannot remove from the quarantine", folder):
                os.rename(folder, f"{doomed}/{match_id}")  # noqa: PTH104 - thousands of names
        with self.errors("cannot remove from the quarantine", self.directory):
            files.fsync_dir(self.directory)
        together(_remove_item, [f"{doomed}/{match_id}" for match_id in match_ids])
        remove_folder(doomed)

    def event(self, name: str, item: Item, mark: Mark, **data: Any) -> Event:
        """Return the event for the audit log about an operation on an item."""
        fields = {
            "id": item.id,
            **log_path_fields(item.file),
            "by": mark.by,
            "reason": mark.reason,
        }
        return Event(name, fields | data)

    def log(self, name: str, item: Item, mark: Mark, **data: Any) -> None:
        """Write the event of an operation on an item to the audit log, durably.

        Raises:
            AuditError: the operation cannot be logged.
        """
        self.session.audit.append([self.event(name, item, mark, **data)], durable=True)

    def can_prove(self, key_id: str) -> bool:
        """Return whether the key `key_id`, for example of tags, is the present seal key.

        Raises:
            ConfigError: the seal key that the configuration names is missing or malformed.
        """
        with contextlib.suppress(StateError):
            return self.sealer.key_id == key_id
        return False


def _sync_files(waits: Mapping[str, Wait]) -> dict[str, HashclientError]:
    """Call the functions in `syncs` of each operation; return the exceptions by id."""
    whose = [i for i, wait in waits.items() for _ in wait.syncs]
    errors = together(_try, [sync for wait in waits.values() for sync in wait.syncs])
    return {i: error for i, error in zip(whose, errors, strict=True) if error is not None}


def _try(sync: Callable[[], None]) -> HashclientError | None:
    try:
        sync()
    except HashclientError as error:
        return error
    return None


def _sync_all(waits: Mapping[str, Wait]) -> dict[str, HashclientError]:
    """Sync each directory in which operations have changed names; return the exceptions by id."""
    changed = {w.names.directory: w.names for w in waits.values() if w.names is not None}
    errors = dict(
        zip(changed, together(_try, [names.sync for names in changed.values()]), strict=True)
    )
    return {
        i: error
        for i, wait in waits.items()
        if wait.names is not None and (error := errors[wait.names.directory]) is not None
    }


def _next(act: Generator[Wait, None, _Out]) -> Wait | _Out | HashclientError | OSError:
    """Let an operation take its next step; return its `Wait`, its result or its exception."""
    try:
        return next(act)
    except StopIteration as end:
        result: _Out = end.value
        return result
    except (HashclientError, OSError) as error:
        return error


def _close(act: Generator[Wait, None, Any]) -> None:
    """Close the generator of an operation, unless a thread still runs it after a second Ctrl-C."""
    with contextlib.suppress(ValueError):
        act.close()


def _remove_item(folder: str) -> None:
    """Remove the folder of an item, quickly if it contains only the usual two files."""
    with contextlib.suppress(OSError):
        os.unlink(f"{folder}/{ITEM_NAME}")  # noqa: PTH108 - thousands of names
        os.unlink(f"{folder}/{EVIDENCE_NAME}")  # noqa: PTH108
        os.rmdir(folder)  # noqa: PTH106
        return
    remove_folder(folder)


def remove_folder(folder: Path | str, at: int | None = None) -> None:
    """Remove a folder with all files and folders in it, as far as possible.

    A relative path begins at the open directory `at`. No symbolic link is followed, because the
    target of a symbolic link is outside of the quarantine.
    """
    with contextlib.suppress(OSError):
        fd = os.open(folder, _FOLDER_FLAGS, dir_fd=at)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        remove_folder(entry.name, fd)
                    else:
                        with contextlib.suppress(OSError):
                            os.unlink(entry.name, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(folder, dir_fd=at)
