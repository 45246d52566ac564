"""Restores files: decrypts and checks sealed copies, writes files, and removes the items.

A new file gets its name when it is complete, and never replaces another file. The sealed copy is
removed last. Several items take each step together, because making many files durable together
takes little longer than making one file durable.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.core.objecturi import is_object_uri
from hashclient.matches.store import Matches
from hashclient.quarantine import age
from hashclient.quarantine.attributes import give_back, give_times_back
from hashclient.quarantine.isolators.interface import Names
from hashclient.quarantine.item import Item, Mark, Restoration, load_item, load_notes
from hashclient.quarantine.safe_rename import (
    NEW_NAME,
    PRIVATE_NAME,
    Place,
    open_file,
    open_named,
    open_place,
    reason_of,
)
from hashclient.quarantine.sealing import (
    Digester,
    is_what_matched,
    sha256_on_disk,
    sha256_synced,
    sync_to_read,
)
from hashclient.quarantine.store import AT_ONCE_BYTES, Room, Wait, at_once
from hashclient.quarantine.tombstone import has_tombstone, remove_tombstone
from hashclient.system.background import beside
from hashclient.system.beneath import rename_noreplace, sync_directory
from hashclient.system.files import state_error, write_all
from hashclient.system.strangers import stranger_on
from hashclient.system.text import log_path_fields, path_fields, path_of, printable

#: The attributes that must be equal if the file at the path was restored by an interrupted
#: operation.
_SAME = ("st_size", "st_mode", "st_uid", "st_gid", "st_mtime_ns")
#: How many groups of items are restored before the lock of the quarantine is released for other
#: operations.
_IN_A_ROW = 4
#: The errors of open(2) with O_TMPFILE on a file system that has no files without names.
_NEEDS_NAME = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


class Restored(msgspec.Struct, frozen=True):
    """The path of a restored file, and the attributes that could not be set (`missing`)."""

    path: str
    missing: tuple[str, ...]


#: The steps of an operation: a generator that yields changes that must be durable before the next
#: step, and returns the item after the operation.
_Steps = Generator[Wait, None, tuple[Item, Restored]]
#: The result or the exception of each operation, by id; None while the operation runs.
_Outcomes = dict[str, Restored | HashclientError | None]


def restore(
    room: Room,
    match_ids: Iterable[str],
    identities: Sequence[Any],
    matches: Matches,
    mark: Mark,
    *,
    to: Path | None,
    allow_standing: bool,
) -> Iterator[tuple[str, Restored | HashclientError]]:
    """Decrypt sealed copies to the original paths; yield each id with its result or exception.

    1. The item must not be on hold, and its match must be withdrawn, or `allow_standing` is set.
    2. The directory of the path must exist, and no file may have the path. The path must not
       contain a symbolic link. The directory must be the directory from which the file was taken;
       another directory is allowed only if no other user may change the path to it. For a place
       that the user has just named, the rules of `open_named` apply.
    3. The intent to open the sealed copy is logged, and the sealed copy is decrypted into a file
       without a name or with an unused name.
    4. The SHA-256 of the sealed copy and the size of the plain content are checked. The tags of the
       plain content are checked if the seal key has not changed.
    5. The file gets its attributes, is made durable, and is read back from the disk. The file gets
       set-id bits and capabilities only in the directory from which it was taken, or if no other
       user may change the path to the directory. Reading the file back does not change its times,
       so the times need not be set again.
    6. The tombstone is removed, and the file gets its name, durably and without replacing a file.
       After the rename, the name must belong to the restored file.
    7. The restoration is written to the audit log, then to `restored.json`, then to the record of
       matches.
    8. The folder of the item is removed.

    Up to `AT_ONCE` operations take steps together, in two halves: while the changes of one half are
    made durable, the other half takes its next step. For each half, one write logs the intents
    (step 3) and one write logs the restorations (step 7). For all operations, one write changes
    `restored.json`, and one transaction changes the record of matches. Folders are removed while
    the next items are restored.

    Raises:
        LockedError, StateError: the quarantine cannot be locked, read or written.
    """

    def begin(item: Item) -> _Steps:
        return _steps(room, item, identities, mark, to)

    left = deque(match_ids)
    while left:
        outcomes: _Outcomes = {}
        restored: list[Item] = []
        with room.locked():
            for _ in range(_IN_A_ROW):
                if not left:
                    break
                restored = _restore_some(
                    room, left, outcomes, restored, begin, matches, allow_standing=allow_standing
                )
            outcomes |= _together(room, restored, room.drop_noted)
        yield from ((i, outcome) for i, outcome in outcomes.items() if outcome is not None)


def _restore_some(
    room: Room,
    left: deque[str],
    outcomes: _Outcomes,
    before: Sequence[Item],
    begin: Callable[[Item], _Steps],
    matches: Matches,
    *,
    allow_standing: bool,
) -> list[Item]:
    """Take the first ids from `left`, and restore their items; return the restored items.

    The folders of the returned items must still be removed. The folders of the items `before` are
    removed meanwhile. The results are added to `outcomes`.
    """
    restored: list[Item] = []
    acts: dict[str, _Steps] = {}
    size, most = 0, at_once()
    known = matches.look_up_all([*itertools.islice(left, most)])
    notes = load_notes(room.directory)
    for _ in range(most):
        # A repeated id is left for the next call, because the item is removed before the next call.
        if not left or left[0] in outcomes or size >= AT_ONCE_BYTES:
            break
        match_id = left.popleft()
        outcomes[match_id] = None
        try:
            item = load_item(room.directory, match_id, notes)
            if item.restored is not None:
                restored.append(item)
                done = item.restored
                path = path_of(done.path, done.path_b64) if done.path else item.file
                outcomes[match_id] = Restored(path, ())
                continue
            _check(item, known.get(match_id), room.now(), allow_standing=allow_standing)  # 1
        except HashclientError as error:
            outcomes[match_id] = error
            continue
        size += item.size
        acts[match_id] = begin(item)
    results: dict[str, tuple[Item, Restored] | HashclientError | OSError] = {}
    beside(
        (lambda: outcomes.update(_together(room, before, room.drop_noted))) if before else None,
        lambda: results.update(room.run(acts, matches)),
    )
    for match_id, result in results.items():
        if isinstance(result, HashclientError):
            outcomes[match_id] = result
        elif isinstance(result, OSError):
            raise result
        else:
            item, outcomes[match_id] = result
            restored.append(item)
    failed = _together(room, restored, lambda items: room.note_restored(items, matches))  # 7
    outcomes |= failed
    return [item for item in restored if item.id not in failed]


def _together(
    room: Room, items: Sequence[Item], do: Callable[[Sequence[Item]], None]
) -> dict[str, HashclientError]:
    """Call `do` with all items (steps 7 and 8 of `restore`); return the exceptions by id.

    If the call with all items fails, `do` is called with each item separately.
    """
    if not items:
        return {}
    try:
        do(items)
    except HashclientError as error:
        if len(items) == 1:
            return {items[0].id: error}
        failed: dict[str, HashclientError] = {}
        for item in items:
            if room.folder(item.id).exists():
                failed |= _together(room, [item], do)
        return failed
    return {}


def _steps(
    room: Room, item: Item, identities: Sequence[Any], mark: Mark, to: Path | None
) -> _Steps:
    """Take the steps 2 to 7 of `restore` with one item; yield the changes to make durable.

    Raises:
        HashclientError: the item cannot be restored.
    """
    if to is None and is_object_uri(item.file):
        raise UsageError(
            f"{item.id} came from a bucket: {printable(item.file)}",
            hint="give it back as a file, with --output, and put it there with your own tools",
        )
    path = item.file if to is None else str(to.absolute())
    try:
        with open_place(path) if to is None else open_named(to.absolute()) as place:
            _check_directory(item, place, is_named=to is not None)  # 2
            missing = yield from _put(room, item, place, identities, mark)
    except OSError as error:
        raise UsageError(
            f"cannot restore to {printable(path)}: {reason_of(error)}",
            hint="make its directory, or choose another place with --output",
        ) from error
    elsewhere = {} if path == item.file else path_fields(path)
    done = Restoration(mark.by, mark.reason, mark.time, in_place=not elsewhere, **elsewhere)
    return msgspec.structs.replace(item, restored=done), Restored(path, tuple(missing))


def _check(item: Item, match: Match | None, now: datetime, *, allow_standing: bool) -> None:
    if (hold := item.held(now)) is not None:
        raise UsageError(
            f"{item.id} is on hold, by {printable(hold.by)}: {printable(hold.reason)}",
            hint="restoring removes the sealed copy; `hashclient quarantine release` ends the hold",
        )
    if allow_standing or (match is not None and match.state is MatchState.WITHDRAWN):
        return
    state = "not in the record" if match is None else str(match.state)
    raise UsageError(
        f"match {item.id} is not withdrawn: it is {state}",
        hint="to restore it anyway, give --force and a reason",
    )


def _check_directory(item: Item, place: Place, *, is_named: bool) -> None:
    """Refuse a directory that other users may have put at the path of the original directory.

    Raises:
        UsageError: the directory is refused.
        OSError: owners and modes of the components of the path cannot be read.
    """
    if is_named or item.origin.seen.is_directory(os.fstat(place.fd)):
        return
    stranger = stranger_on(place.directory)
    if stranger is not None:
        raise UsageError(
            f"cannot restore to {printable(place.path)}: its directory is another one now, and"
            f" {stranger.who} may write to {printable(stranger.path)}",
            hint="look at this directory, then name the place with --output",
        )


def _put(
    room: Room, item: Item, place: Place, identities: Sequence[Any], mark: Mark
) -> Generator[Wait, None, list[str]]:
    """Restore the file (steps 2 to 7 of `restore`); return attributes that could not be set.

    Raises:
        OSError: the directory of the place cannot be read or written.
        HashclientError: another file has the name, or the sealed copy cannot be opened.
    """
    to = log_path_fields(place.path)
    before = place.status()
    if before is not None and before.st_size != item.size and not has_tombstone(place, item):
        raise _is_taken(place)
    with _new_file(place, item.id) as (fd, name):  # 3
        yield Wait(room.event("restoring", item, mark, to=to))
        plain = _decrypt(room, item, fd, place, identities)  # 4
        is_origin = item.origin.seen.is_directory(os.fstat(place.fd))
        with_powers = is_origin or stranger_on(place.directory) is None
        missing = give_back(fd, item.origin, with_powers=with_powers)  # 5
        with _errors(place):
            give_times_back(fd, item.origin)
        yield Wait(syncs=(lambda: _sync(place, fd, sync_to_read),))
        with _errors(place):
            found = sha256_synced(fd)
        if found != (plain, item.size):
            raise StateError(f"the restored file does not read back: {printable(place.path)}")
        if has_tombstone(place, item) and not remove_tombstone(place, item):  # 6
            raise _is_taken(place)
        if before is None or not _is_there(place, fd, plain):
            try:
                _give_name(place, fd, name)
            except FileExistsError as error:
                raise _is_taken(place) from error
            named = place.status()
            if named is None or not os.path.samestat(named, os.fstat(fd)):
                raise StateError(
                    f"somebody has moved the restored file away: {printable(place.path)}",
                    hint="the sealed copy is kept; choose another place with --output",
                )
        hidden = place.at(PRIVATE_NAME.format(item.id))
        if has_tombstone(hidden, item):  # a killed operation has renamed the tombstone
            os.unlink(hidden.name, dir_fd=hidden.fd)
        yield Wait(
            room.event("restored", item, mark, to=to, missing=missing),
            names=Names(place.identity(), lambda: _sync(place, place.fd, sync_directory)),
        )
    return missing


def _sync(place: Place, fd: int, sync: Callable[[int], object]) -> None:
    """Make a file, or the names in a directory, durable by calling `sync`."""
    with _errors(place):
        sync(fd)


@contextlib.contextmanager
def _errors(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise state_error("cannot write", Path(place.path), error) from error


def _is_taken(place: Place) -> UsageError:
    return UsageError(
        f"something else is there: {printable(place.path)}",
        hint="choose another place with --output",
    )


@contextlib.contextmanager
def _new_file(place: Place, match_id: str) -> Iterator[tuple[int, str | None]]:
    """Open a new file with mode 0600 in the directory of a place; yield its descriptor and name."""
    flags, name = os.O_RDWR | os.O_CLOEXEC | os.O_NOATIME, None
    try:
        fd = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=place.fd)
    except OSError as error:
        if error.errno not in _NEEDS_NAME:
            raise
        name = NEW_NAME.format(match_id)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place.fd)
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o600, dir_fd=place.fd)
    try:
        yield fd, name
    finally:
        os.close(fd)
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=place.fd)


def _give_name(place: Place, fd: int, name: str | None) -> None:
    if name is None:
        os.link(f"/proc/self/fd/{fd}", place.name, dst_dir_fd=place.fd, follow_symlinks=True)
    else:
        rename_noreplace(place.fd, name, place.name)


def _decrypt(room: Room, item: Item, fd: int, place: Place, identities: Sequence[Any]) -> str:
    """Decrypt the sealed copy into the file `fd`; return the SHA-256 of the file, hexadecimal.

    Raises:
        AuthorisationError: no secret key in `identities` can open the copy.
        StateError: the sealed copy is damaged, or the file cannot be written.
    """
    path = room.evidence(item.id)
    tags = item.tags_by_algorithm() if room.can_prove(item.key_id) else {}
    plain, sealed, proofs = hashlib.sha256(), hashlib.sha256(), Digester(tags)

    def source(count: int) -> bytes:
        data = os.read(evidence, count)
        sealed.update(data)
        room.on_bytes(len(data))
        return data

    def sink(data: bytes) -> None:
        plain.update(data)
        proofs.update(data)
        with _errors(place):
            write_all(fd, data)

    with room.errors("cannot read", path):
        evidence = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            age.unseal(source, sink, identities)
        finally:
            os.close(evidence)
    if (
        sealed.hexdigest() != item.evidence_sha256
        or proofs.count != item.size
        or (tags and not is_what_matched(proofs, item.size, tags, room.sealer))
    ):
        raise StateError(
            f"the sealed copy is not the file that was sealed: {printable(path)}",
            hint="`hashclient quarantine verify` says more; nothing was restored",
        )
    return plain.hexdigest()


def _is_there(place: Place, fd: int, sha256: str) -> bool:
    """Return whether an interrupted operation has already restored the file that is open as `fd`.

    If the result is True, the file at the place is durable. A file with the same content and
    another owner, mode or time was not restored by an operation.
    """
    expected = os.fstat(fd)
    try:
        with open_file(place) as (found, status):
            if not all(getattr(status, name) == getattr(expected, name) for name in _SAME):
                return False
            os.fsync(found)
            return sha256_on_disk(found) == (sha256, expected.st_size)
    except OSError:
        return False
