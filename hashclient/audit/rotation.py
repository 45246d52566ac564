"""Closes the current file of the audit log, so that the next records are written to a new file.

The closed file keeps its records, and gets a new name that contains its number. The last record of
the closed file says that the file is closed, and the first record of the next file contains the
number and the hash of this last record. So the chain of hashes continues from file to file. The log
is locked during the whole rotation.

If the process is killed at any step, the log on the disk can still be verified. The closed file
keeps the name of the log until the new file gets this name, and the next writer continues the
rotation.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hashclient.audit.file import first_record, is_current, lock, read_tail
from hashclient.audit.record import (
    CLOSED,
    SEGMENT,
    Record,
    broken,
    encode_body,
    encode_record,
    format_time,
    parse_head,
    segment_data,
)
from hashclient.core.errors import AuditError
from hashclient.system.files import (
    TEMP_PREFIX,
    fsync_dir,
    open_at_once,
    refuse_irregular,
    sweep_temporary,
    write_all,
)
from hashclient.system.layout import CLOSED_LOG_NAME, LOG_NAME
from hashclient.system.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PIECE_BYTES = 1 << 20
#: The error numbers that file systems without hard links return.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})


class Rotated(msgspec.Struct, frozen=True):
    """A closed file: its number, its path, and its last record."""

    number: int
    path: Path
    last: Record


class NoLinksError(Exception):
    """The file system has no hard links, so the log stays in one file."""


def rotate(
    directory: Path,
    fd: int,
    key: Ed25519PrivateKey,
    now: Callable[[], datetime],
    append: Callable[[int, list[str]], None],
) -> tuple[Rotated, int]:
    """Close the file of the log, open and locked as `fd`; return the next file, open and locked.

    `append` durably writes bodies of records to the end of a file, as one signed batch.

    1. The file system must have hard links, and no other file may have the name for the closed
       file.
    2. The record that closes the file is written durably, unless a rotation that was killed has
       written it already.
    3. The next file is created under a temporary name, with a first record that names the closing
       record.
    4. The closed file durably gets its new name in addition to the name of the log.
    5. The next file durably takes over the name of the log.

    Raises:
        NoLinksError: hard links are not possible; nothing was changed.
        AuditError: another file has the name for the closed file, or the log is broken.
        OSError: a file cannot be written; the next writer of the log continues the rotation.
    """
    path = directory / LOG_NAME
    head = parse_head(first_record(fd), "line 1")
    closed_path = directory / CLOSED_LOG_NAME.format(head.number)
    sweep_temporary(directory)
    temporary = directory / f"{TEMP_PREFIX}log"
    new = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _probe(temporary)  # step 1 of `rotate`
        _like(new, fd)
        if os.path.lexists(closed_path) and not _is_it(fd, closed_path):
            raise AuditError(
                "another file has the name of a closed file of the audit log: "
                f"{printable(closed_path)}",
                hint="look at the file, then move it away",
            )
        last = read_tail(fd, os.fstat(fd).st_size).last
        if last is None or last.event != CLOSED:  # step 2 of `rotate`
            append(fd, [encode_body(CLOSED, {"segment": head.number})])
            last = read_tail(fd, os.fstat(fd).st_size).last
        if last is None or last.sig is None or last.event != CLOSED:
            broken("its end", "it does not close its file")
        os.fsync(fd)
        body = encode_body(SEGMENT, segment_data(head.number + 1, head.genesis, last))
        line, _ = encode_record(last.seq + 1, format_time(now()), body, last.hash, key)
        lock(new, 0)  # step 3 of `rotate`
        write_all(new, line)
        os.fsync(new)
        if not os.path.lexists(closed_path):  # step 4 of `rotate`
            os.link(path, closed_path)
        # without this fsync, a power failure could remove the hard link and keep the rename
        fsync_dir(directory)
        os.rename(temporary, path)  # noqa: PTH104 - step 5 of `rotate`
        fsync_dir(directory)
    except BaseException:
        os.close(new)
        raise
    return Rotated(head.number, closed_path, last), new


def _like(new: int, fd: int) -> None:
    """Give the file open as `new` the owner and mode of `fd`, as root may have created it."""
    status, mine = os.fstat(fd), os.fstat(new)
    if (status.st_uid, status.st_gid) != (mine.st_uid, mine.st_gid):
        with contextlib.suppress(PermissionError):  # this process may not set this group
            os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))


def _is_it(fd: int, path: Path) -> bool:
    """Return whether the file at `path` is the open file `fd`, or a copy of it.

    A killed rotation may have left one file with two names, which a restored backup turns into two
    files.
    """
    if is_current(fd, path):
        return True
    refuse_irregular(path)
    with open_at_once(path) as other:
        size = os.fstat(fd).st_size
        if os.fstat(other.fileno()).st_size != size:
            return False
        places = range(0, size, _PIECE_BYTES)
        return all(os.pread(fd, _PIECE_BYTES, at) == other.read(_PIECE_BYTES) for at in places)


def _probe(path: Path) -> None:
    """Check that a file can have a hard link.

    Raises:
        NoLinksError: the file cannot have a hard link.
    """
    other = path.with_name(f"{path.name}-2")
    try:
        os.link(path, other)
        other.unlink()
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.unlink(missing_ok=True)
        raise NoLinksError from error
