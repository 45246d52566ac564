"""The isolator for files: opens a file through no symbolic link, and removes exactly that file.

The module `safe_rename` removes the name of a file. This module also finds processes that have the
file open after its name was removed, because these processes can still read the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from hashclient.core.model import Seen
from hashclient.quarantine.attributes import read_origin
from hashclient.quarantine.isolators.interface import (
    Held,
    Names,
    Removed,
    Sight,
    Spot,
    UnclearError,
    hold_if_there,
)
from hashclient.quarantine.item import Item, Origin
from hashclient.quarantine.safe_rename import (
    PRIVATE_NAME,
    Place,
    Removal,
    is_unchanged,
    open_file,
    open_place,
    put_back,
    reason_of,
    remove_exactly,
)
from hashclient.quarantine.tombstone import has_tombstone, put_tombstone
from hashclient.system.encryption import shows_all_names
from hashclient.system.text import printable

#: The highest number of processes with the file open that are named in a message.
_MOST_NAMED = 5
#: The name for a process that has the file open according to the kernel, but that `/proc` does not
#: show.
UNSEEN = "a program that is not visible from here"

#: The message if the path of the file leads to another directory, because a file system was mounted
#: or unmounted, or because a program has exchanged directories.
OTHER_DIRECTORY = "its directory has changed: is a file system not mounted?"

#: The messages if the file was not removed; `{}` is the path to which another file was moved.
REMOVALS = {
    Removal.OTHER: "another file is in its place now, and was not changed",
    Removal.CHANGED: "the file has changed meanwhile, and is still in place",
    Removal.STRANDED: "another file was in its place; this file is now {}",
}


class HeldFile:
    """A regular file, open as `fd`, and its status when it was opened."""

    def __init__(self, place: Place, fd: int, status: os.stat_result, seen: Seen | None) -> None:
        """The caller closes `fd`; `seen` is the file that the scan has read."""
        self.place = place
        self.fd = fd
        self.status = status
        self._seen = seen

    @property
    def size(self) -> int:
        """The length of the file in bytes when it was opened."""
        return self.status.st_size

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes of the file, and no bytes at its end.

        Raises:
            OSError: the file cannot be read.
        """
        return os.read(self.fd, count)

    def rewind(self) -> None:
        """Let the next `read` begin at the start of the file."""
        os.lseek(self.fd, 0, os.SEEK_SET)

    def is_unchanged(self) -> bool:
        """Return whether the status of the file has not changed since it was opened."""
        return is_unchanged(self.status, os.fstat(self.fd))

    def is_seen(self) -> bool:
        """Return whether the open file is the file that the scan has read, by its inode."""
        return self._seen is not None and self._seen.is_file(self.status)


class FileSpot:
    """A name in an open directory, under which the scan has read the file `seen`."""

    def __init__(self, place: Place, seen: Seen | None) -> None:
        """The caller closes the directory of `place`."""
        self.place = place
        self._seen = seen

    @contextlib.contextmanager
    def hold(self) -> Iterator[HeldFile]:
        """Open the regular file with the name of this spot.

        Raises:
            OSError: the file cannot be opened, or is not a regular file.
        """
        with open_file(self.place) as (fd, status):
            yield HeldFile(self.place, fd, status, self._seen)

    def origin(self, held: Held) -> Origin:
        """Return the attributes of the file, and the inodes of the file and its directory."""
        file = _file(held)
        return read_origin(file.fd, file.status, self.place.directory_inode())

    def remove(self, held: Held, match_id: str) -> Removed:
        """Remove the name if it still belongs to the file, as `remove_exactly` does."""
        file = _file(held)
        private = PRIVATE_NAME.format(match_id)
        try:
            removal = remove_exactly(self.place, private, file.fd, file.status)
        except FileNotFoundError:
            if os.fstat(file.fd).st_nlink:
                return Removed(done=False, why="it was moved away meanwhile")
            return Removed(done=True, remains=("somebody else had removed it",))
        except OSError as error:
            return Removed(done=False, why=f"still in place: {reason_of(error, self.place)}")
        if removal is Removal.CHANGED and self.place.status() is None:
            if not os.fstat(file.fd).st_nlink:  # the removal of the last name has changed the ctime
                return Removed(done=True, remains=("somebody else had removed it",))
            return Removed(done=False, why="it was moved away meanwhile")
        if removal is not Removal.REMOVED:
            # The private name has a suffix if the usual private name was taken.
            aside = printable(self.place.at(private).path) + "*"
            return Removed(done=False, why=REMOVALS[removal].format(aside))
        return Removed(done=True, remains=_remains(file.fd))

    def settle(self, match_id: str, is_proven: Callable[[Held], bool]) -> str | None:
        """Rename the file that a killed process has left under the private name to its old name.

        If another file has the old name, remove the file under the private name, if it is the
        sealed file; otherwise return a message.

        Raises:
            OSError: the state of the file cannot be found out.
        """
        place, hidden = self.place, self.place.at(PRIVATE_NAME.format(match_id))
        if hidden.status() is None or put_back(hidden, place.name):
            return None
        # Another file has the old name. The file under the private name was left by a killed
        # operation, or another user has made it on purpose.
        with hold_if_there(FileSpot(hidden, self._seen)) as held:
            if held is None or not is_proven(held):
                return REMOVALS[Removal.STRANDED].format(printable(hidden.path))
            os.unlink(hidden.name, dir_fd=hidden.fd)
            place.try_sync()
        return None

    def look(self, item: Item, seen: Held | None) -> Sight:
        """Return what is at the path now: no file, the tombstone, or another file.

        Raises:
            UnclearError: a missing name proves nothing, because the path leads to another
                directory, the directory is encrypted and locked, or another program is exchanging
                files.
            OSError: the status cannot be read.
        """
        now = self.place.status()
        if now is None:
            if self.place.identity() != (item.origin.device, item.origin.directory_inode):
                raise UnclearError(OTHER_DIRECTORY)
            if not shows_all_names(self.place.fd):
                raise UnclearError("its directory is encrypted, and locked")
            return Sight.NOTHING
        is_seen = seen is not None and os.path.samestat(_file(seen).status, now)
        if stat.S_ISREG(now.st_mode) and not is_seen:
            # A file that another program has moved away for a moment must not count as removed.
            raise UnclearError("the file at its path is being exchanged just now")
        return Sight.TOMBSTONE if has_tombstone(self.place, item) else Sight.OTHER

    def leave_tombstone(self, item: Item) -> str | None:
        """Write the tombstone of an item, if it has a tombstone; return a message on failure."""
        return put_tombstone(self.place, item)

    def names(self) -> Names:
        """Return a `Names` for the directory; its method `sync` ignores a failure."""
        return Names(self.place.identity(), self.place.try_sync)


class Files:
    """The isolator for files of this machine, whose locators are absolute paths."""

    @contextlib.contextmanager
    def open(self, locator: str, seen: Seen | None) -> Iterator[Spot]:
        """Open the directory of a path, through no symbolic link at any of its components.

        Raises:
            OSError: a component is a symbolic link, is missing or is not a directory; or the
                directory is not the directory in which the file `seen` was read.
        """
        with open_place(locator) as place:
            if seen is not None and not seen.is_directory(os.fstat(place.fd)):
                raise OSError(errno.EXDEV, OTHER_DIRECTORY, locator)
            yield FileSpot(place, seen)

    def whereabouts(self, item: Item) -> list[str]:
        """Return messages about the files at the path of an item and under its private name."""
        found = []
        try:
            with open_place(item.file) as place:
                for there in (place, place.at(PRIVATE_NAME.format(item.id))):
                    status = there.status()
                    if status is not None:
                        same = status.st_ino == item.origin.inode
                        what = "the file" if same else "something else"
                        found.append(f"{what} is at {printable(there.path)}")
        except OSError as error:
            found.append(f"its place cannot be looked at: {reason_of(error)}")
        return found


def _file(held: Held) -> HeldFile:
    assert isinstance(held, HeldFile), "the spot has held this file itself"
    return held


def _remains(fd: int) -> tuple[str, ...]:
    """Return messages about other names of a removed file, and processes that have it open."""
    remains = []
    if links := os.fstat(fd).st_nlink:
        names = "other name of it remains" if links == 1 else "other names of it remain"
        remains.append(f"{links} {names}")
    if processes := open_elsewhere(fd):
        named = ", ".join(processes[:_MOST_NAMED])
        more = len(processes) - _MOST_NAMED
        remains.append(f"still open in {named}" + (f" and {more} more" if more > 0 else ""))
    return tuple(remains)


def open_elsewhere(fd: int) -> list[str]:
    """Return the other processes that have the file open, as `name (pid)`, or `UNSEEN`.

    Processes that have the file open can still read the file after its name was removed. A lease
    shows whether any process has the file open; `/proc` shows which processes have the file open,
    as far as this process may see other processes. Processes in another container, or on another
    machine of a network file system, are not found.
    """
    status = os.fstat(fd)
    is_used = None if status.st_nlink else _is_used(fd)
    if is_used is False:  # the usual case: reading /proc, which takes milliseconds, is not needed
        return []
    found = sorted(_holders(status))
    return [UNSEEN] if is_used and not found else found


def _is_used(fd: int) -> bool | None:
    """Return whether another process has a file without a name open, or None if unknown.

    If another process has the file open, the kernel refuses a lease. This function must not be
    called for a file with a name, because a process that opens the file during the lease would have
    to wait, and this process would get a signal.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:  # the file system has no leases, or this user may take no lease
        return None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _holders(status: os.stat_result) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # the process has ended, or belongs to another user
            if _holds(process / "fd", status):
                name = (process / "comm").read_text(errors="replace").strip()
                yield f"{printable(name)} ({process.name})"


def _holds(descriptors: Path, status: os.stat_result) -> bool:
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(OSError):  # the file was closed meanwhile
            target = os.readlink(descriptor)  # noqa: PTH115 - any bytes, and fast
            # `stat` may hang if the server of a file hangs, so it is called only for a descriptor
            # that may be the file.
            may_be = target.startswith("/") and (status.st_nlink or target.endswith(" (deleted)"))
            if may_be and os.path.samestat(descriptor.stat(), status):
                return True
    return False
