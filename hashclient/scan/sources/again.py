"""A second look, at the end of a scan, at directories that other users may write to.

A walk lists one directory after the other. A user who may write to two directories of a tree can
move a file from a directory that is not listed yet to a directory that was listed already. So for
each directory that other users may write to, the walk notes the time of the directory's last
change, and its entries. After all files are checked, the status of each noted directory is read
again. A changed directory is listed again, at one instant. New entries that are older than the scan
are walked and checked. Entries that were listed, but were missing when they were opened (`lost`),
are walked and checked, too. After a change, the pass over the directories begins again. If no
directory has changed since it was listed, all listings together show one instant, and no file was
missed. A directory that changes in each pass is unread.

Limits: a file that was created during the scan is not looked for. A directory that only root and
the user of the scan may write to is not noted. So that the scan of a busy server ends, there are at
most `LOOKS` passes over all directories, or `ROUNDS` passes over a few directories. A user who
moves a file at the right time in each pass can hide the file.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from typing import IO, Protocol

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources.finding_again import (
    GONE,
    MAX_PATH_BYTES,
    TICK_NS,
    MovedError,
    is_same,
    lagging_ns,
    open_directory,
    snapshot,
    with_status,
)
from hashclient.scan.sources.frame import MOST_LISTED, Frame, chunk_of, mark_of
from hashclient.scan.sources.listing import Lister
from hashclient.scan.values.work import Identity, Item, reason_of

#: `LOOKS`: the most passes over all directories if they are many. `ROUNDS`: the most passes over
#: all directories if they are few, and over changed directories.
LOOKS, ROUNDS = 3, 12
#: The bytes of notes that are kept in memory; more notes are written to a file without a name.
MOST_BYTES = 1 << 24
#: If the notes of all directories have at most this many bytes, the directories count as few,
#: because a pass over some hundred directories takes milliseconds.
FEW_BYTES = 1 << 16

#: The beginning of a note:
#:
#: - the device and the inode of the directory; inode 0 says that a later note has replaced this
#:   note;
#: - the time of the directory's last change;
#: - the index of its walk in `_walkers`;
#: - whether a later change may have the same time;
#: - the length of the path in bytes, and the length of the marks in bytes.
#:
#: The path and the marks follow the beginning.
_HEAD = struct.Struct("=QQqI?Iq")
_REPLACED = bytes(16)
#: A note with this number in place of the length of its marks (numbers that identify entries, see
#: `frame.mark_of`) is of a directory with too many entries, and has no marks.
TOO_MANY = -1
#: The types of entries that a pass looks for.
_WANTED = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})


class Walker(Protocol):
    """The walk of a tree, which can continue at the end of the scan."""

    def walk_late(self, frame: Frame, lister: Lister) -> Iterator[Item]:
        """Walk the entries of a directory that are not read yet, and note the directory again."""


class Again:
    """The notes of directories that other users may write to."""

    def __init__(self) -> None:
        """Start without notes."""
        self._walkers: list[Walker] = []
        #: The inodes of listed files that were not found, so that other files were read in their
        #: place.
        self.lost: set[int] = set()
        self._notes: IO[bytes] = io.BytesIO()
        self._most_bytes = MOST_BYTES
        #: The time of the last note of a directory whose next change may not get a later time.
        self._young_ns = 0

    def note(self, walker: Walker, frame: Frame) -> None:
        """Note a directory that was listed to its end.

        Raises:
            OSError: no space is left for the note.
        """
        if not self._walkers or self._walkers[-1] is not walker:
            self._walkers.append(walker)
        changed_ns = frame.status.st_ctime_ns
        # If the directory had the same time of change at its earlier listing, the clock has moved
        # on since, so that a later change has a later time.
        is_young = frame.opened_ns - TICK_NS <= changed_ns != frame.changed_ns
        if is_young:
            self._young_ns = lagging_ns()
        path, number = os.fsencode(frame.path), len(self._walkers) - 1
        marks = b"".join(frame.listed)
        if frame.marks:
            marks += array("Q", frame.marks).tobytes()
        size = len(marks)
        if frame.count > MOST_LISTED:
            marks, size = b"", TOO_MANY
        device, inode = frame.identity
        head = _HEAD.pack(device, inode, changed_ns, number, is_young, len(path), size)
        self._notes.write(head + path + marks)
        if isinstance(self._notes, io.BytesIO) and self._notes.tell() > self._most_bytes:
            self._move_to_file(self._notes)

    def _move_to_file(self, notes: io.BytesIO) -> None:
        import tempfile  # imported here, because the import is slow and few walks need it

        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - `Again.close` closes the file
        # no directory for temporary files can be written to, so the notes stay in memory
        except FileNotFoundError:
            self._most_bytes = sys.maxsize
            return
        file.write(notes.getvalue())
        self._notes = file

    def close(self) -> None:
        """Delete all notes."""
        self._notes.close()

    def found(self, lister: Lister) -> Iterator[Item | None]:
        """Yield items that were moved to directories after their listing.

        A yielded None tells the caller to check all items that were yielded before it requests the
        next item.

        Raises:
            OSError: the notes cannot be read or written.
        """
        for look in range(ROUNDS):
            begin, end, rounds = 0, self._notes.seek(0, os.SEEK_END), 0
            if look >= LOOKS and end > FEW_BYTES:
                return
            while begin < end:
                self._wait()
                yield from self._look(begin, end, lister, is_last=rounds == ROUNDS)
                yield None
                begin, end, rounds = end, self._notes.seek(0, os.SEEK_END), rounds + 1
            if rounds in (0, 1, ROUNDS + 1):
                return

    def _wait(self) -> None:
        """Wait until a change of a directory gets a later time than the directory's listing."""
        while 0 < (left_ns := self._young_ns + TICK_NS - lagging_ns()) <= TICK_NS:
            time.sleep(left_ns / 1e9)

    def _look(self, at: int, end: int, lister: Lister, *, is_last: bool) -> Iterator[Item]:
        """Compare directories with their notes; list changed directories again.

        In the last pass, a changed directory is unread.
        """
        while at < end:
            self._notes.seek(at)
            head = _HEAD.unpack(self._notes.read(_HEAD.size))
            device, inode, changed_ns, number, is_young, path_size, size = head
            here, at = at, at + _HEAD.size + path_size + max(0, size)
            if not inode:
                continue
            path = os.fsdecode(self._notes.read(path_size))
            found: Frame | Outcome | None = None
            try:
                if not is_young and _changed_ns(path, path_size, (device, inode)) == changed_ns:
                    continue
                marks = frozenset(array("Q", self._notes.read(max(0, size))))
                if is_last or size == TOO_MANY:
                    raise MovedError
                found = self._listed_again(path, (device, inode), marks)
            except OSError as error:
                # If a directory is gone, or was moved, its parent directory has changed, too.
                if error.errno not in GONE:
                    found = Outcome(Kind.UNREAD, path, reason=reason_of(error))
            self._notes.seek(here)
            self._notes.write(_REPLACED)
            self._notes.seek(0, os.SEEK_END)
            if isinstance(found, Outcome):
                yield found
            elif found is not None:
                found.changed_ns = changed_ns
                yield from self._walkers[number].walk_late(found, lister)

    def _listed_again(self, path: str, identity: Identity, marks: frozenset[int]) -> Frame:
        """Open and list a directory again; its new and lost entries must still be read.

        Raises:
            OSError: the directory is gone, or cannot be read.
        """
        opened_ns = lagging_ns()
        fd, status = with_status(open_directory(path, follow=True))
        try:
            if not is_same(status, identity):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            entries = snapshot(fd)
        except OSError:
            os.close(fd)
            raise
        new = [
            entry
            for entry in entries
            if entry[1] in _WANTED and (mark_of(entry) not in marks or entry[2] in self.lost)
        ]
        self.lost.difference_update([inode for _, _, inode in new])
        frame = Frame(path, fd, status, opened_ns, iter([chunk_of(new)]), is_shared=True)
        frame.listed.append(array("Q", [inode for _, _, inode in entries]))
        frame.marks += [mark_of(entry) for entry in entries if entry[1] == stat.S_IFDIR]
        return frame


def _changed_ns(path: str, size: int, identity: Identity) -> int | None:
    """Return the time of a directory's last change; None if the path is too long for one call.

    Raises:
        OSError: the directory is missing; with `ESTALE`, another directory is at the path.
    """
    if size > MAX_PATH_BYTES:
        return None
    status = os.stat(path)  # noqa: PTH116 - the path may be any bytes
    if not is_same(status, identity):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return status.st_ctime_ns
