"""Migrates the state in one step for each version, so that a kill at any time loses nothing.

A step changes files in place, under the writers' lock:

1. All files that the step may change are copied into a folder, which gets its final name when it is
   complete.
2. The version says that a migration has begun.
3. The function `change` of the step changes the files.
4. The new version is written, and the migration has succeeded.
5. The backup of the files is removed.

A command that finds an unfinished migration restores the backup, and does the step again.

Every command calls `check_state` before anything else. To change a format, raise the version of the
format and of the state, add a `Step`, and change the table in `docs/operations/upgrading.md`. Keep
a state directory of the release before the change for the tests.

SQLite copies databases, because scans, which take no lock, may write to a database while it is
copied.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from hashclient.core.errors import HashclientError, StateError
from hashclient.migrations.version import (
    CURRENT,
    FIRST,
    READABLE,
    Version,
    read_version,
    refuse_foreign,
    write_version,
)
from hashclient.system.files import (
    MAX_STATE_BYTES,
    atomic_file,
    fsync_dir,
    make_private_dir,
    open_at_once,
    read_regular,
    state_error,
    state_errors,
    write_atomic,
    writer_lock,
)
from hashclient.system.layout import Layout
from hashclient.system.log import Log
from hashclient.system.sqlite import copy_database
from hashclient.system.text import printable

_log = Log("state")

_PIECE_BYTES = 1 << 20
_DATABASE_SUFFIX = ".db"
_LIST_NAME = "files.json"


class Step(msgspec.Struct, frozen=True):
    """A step: the version of the state after it, and the lowest hashclient that reads this version.

    `files`: returns the files that `change` may change or create. `change`: migrates the files; it
    must not change the audit log, the keys and sealed files. `readable`: whether this hashclient
    can read the state before and after the step, so that commands that only read need not wait for
    the step.
    """

    version: int
    needs: str
    files: Callable[[Layout], Iterable[Path]]
    change: Callable[[Layout], None]
    readable: bool = False


#: The steps in order; the version of the last step is `version.CURRENT`. The first step only writes
#: the version of a new state.
STEPS: tuple[Step, ...] = (Step(FIRST, "1.0.0", lambda _: (), lambda _: None, readable=True),)


class _Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a backup: its version, the files that existed, and the files that did not."""

    version: int
    kept: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files in the backup."""
        return self.kept + self.absent


@contextlib.contextmanager
def writing(
    layout: Layout, *, wait_s: float = 0.0, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Migrate a state directory to the present version, and lock it for writing in the block.

    If another process has the lock, this function waits up to `wait_s` seconds, and calls `on_wait`
    once.

    Raises:
        LockedError: another process keeps the lock for longer than `wait_s` seconds.
        StateError: the version of the state is unknown, or from before the first release; or the
            migration failed.
    """
    make_private_dir(layout.root)
    with writer_lock(layout.lock, wait_s=wait_s, on_wait=on_wait):
        migrate(layout, STEPS)
        yield


def migrate(layout: Layout, steps: Sequence[Step]) -> None:
    """Migrate a state directory by those of `steps` that were not taken yet.

    The caller must have the writers' lock.

    Raises:
        StateError: the version of the state is unknown, or from before the first release; or the
            state cannot be written. The old state is in the backup if the state cannot be written.
    """
    version = read_version(layout)
    refuse_foreign(layout, version, steps[-1].version)
    _drop(layout.new_backup)
    backup = _read_backup(layout)
    if backup is not None and backup.version > version.number and version.migrating:
        _log.info("undoing a migration that was begun: %d files", len(backup.kept))
        _restore(layout, backup)
        version = msgspec.structs.replace(version, migrating=False)
        write_version(layout, version)
    _discard_backup(layout)
    for step in steps:
        if step.version > version.number:
            version = _take(layout, step, version)


def _take(layout: Layout, step: Step, before: Version) -> Version:
    """Take one step, and return the version after the step."""
    _log.info("bringing the state to version %d", step.version)
    files = sorted(set(step.files(layout)))
    if files:
        _back_up(layout, step, files)
        write_version(layout, msgspec.structs.replace(before, migrating=True))
        try:
            step.change(layout)
        except HashclientError as error:
            again = error.hint or "run the command again"
            error.hint = f"{again}; the old files are kept in {printable(layout.backup)}"
            raise
    after = Version(step.version, step.needs, exceptions=before.exceptions)
    write_version(layout, after)
    _discard_backup(layout)
    return after


def _back_up(layout: Layout, step: Step, files: Sequence[Path]) -> None:
    folder = layout.new_backup
    kept, absent = [], []
    for path in files:
        name = path.relative_to(layout.root).as_posix()
        if not path.exists():
            absent.append(name)
            continue
        copy = folder / "files" / name
        make_private_dir(copy.parent)
        _copy(path, copy)
        kept.append(name)
    make_private_dir(folder)
    document = msgspec.json.encode(_Backup(step.version, tuple(kept), tuple(absent)))
    write_atomic(folder / _LIST_NAME, document)
    _rename(folder, layout.backup)


def _restore(layout: Layout, backup: _Backup) -> None:
    for name in backup.kept:
        _copy(layout.backup / "files" / name, layout.root / name)
    for name in backup.absent:
        path = layout.root / name
        with state_errors("cannot remove", path):
            path.unlink(missing_ok=True)


def _read_backup(layout: Layout) -> _Backup | None:
    path = layout.backup / _LIST_NAME
    try:
        backup = msgspec.json.decode(read_regular(path, MAX_STATE_BYTES), type=_Backup)
        if any(n.startswith("/") or ".." in n.split("/") or "\0" in n for n in backup.names):
            raise ValueError("a path that leads elsewhere")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise state_error("cannot read", path, error) from error
    except ValueError as error:
        raise StateError(
            f"the backup of an unfinished migration is damaged: {printable(path)}",
            hint="restore the state directory from a backup of your own",
        ) from error
    return backup


def _discard_backup(layout: Layout) -> None:
    """Remove the backup: first rename its folder, then remove the files in the folder."""
    if layout.backup.exists():
        _rename(layout.backup, layout.new_backup)
        _drop(layout.new_backup)


def _rename(source: Path, target: Path) -> None:
    with state_errors("cannot rename", source):
        source.rename(target)
        fsync_dir(target.parent)


def _drop(folder: Path) -> None:
    import shutil  # the import takes long, and most commands migrate nothing

    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise state_error("cannot remove", folder, error) from error


def _copy(source: Path, target: Path) -> None:
    """Copy a file; of a database, copy all committed changes."""
    if source.suffix == _DATABASE_SUFFIX:
        copy_database(source, target)
        return
    with (
        state_errors("cannot copy", source),
        open_at_once(source) as stream,
        atomic_file(target) as copy,
    ):
        os.fchmod(copy.fileno(), os.fstat(stream.fileno()).st_mode & 0o777)
        while piece := stream.read(_PIECE_BYTES):
            copy.write(piece)


def check_state(layout: Layout) -> None:
    """Check that this hashclient can use a state directory, which may be missing.

    If this hashclient cannot read the present version of the state, the state is migrated.

    Raises:
        StateError: the state needs a later hashclient, or is from before the first release; or the
            migration failed.
        LockedError: another process is writing to the state, which has to be migrated first.
    """
    version = read_version(layout)
    refuse_foreign(layout, version, CURRENT)
    if version.migrating or (version.number < READABLE and layout.root.is_dir()):
        with writing(layout):
            pass
