"""Writes files so that they are complete after a crash, and locks files.

`write_atomic` writes a temporary file, calls fsync for it, renames it, and calls fsync for its
directory. If the process is killed at any time, the path leads to the old or to the new file. The
names of temporary files begin with `TEMP_PREFIX`; the next writer removes temporary files that a
killed process has left.

Locks on files exclude other processes; the kernel releases the locks of a process when the process
ends for any reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from hashclient.core.errors import ConfigError, LockedError, StateError
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.system.beneath import Directory


TEMP_PREFIX = ".tmp-"
#: The device number of /dev/null on Linux.
_DEV_NULL = os.makedev(1, 3)
_PIECE_BYTES = 1 << 16
#: Longest configuration, key or secret file that is read, in bytes.
MAX_TEXT_BYTES = 1 << 20
#: Longest file of the state directory that is read into memory as a whole, in bytes.
MAX_STATE_BYTES = 1 << 28


def fsync_dir(path: Path) -> None:
    """Make changes of names in the directory `path` durable."""
    fsync(path, os.O_DIRECTORY)


def fsync(path: Path, flags: int = 0) -> None:
    """Make the content of a file, or the names in a directory, durable.

    Raises:
        OSError: fsync fails.
    """
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_durable(paths: Iterable[Path], *directories: Path) -> None:
    """Make files durable, then their names and all names in `directories`.

    fsync is called for all files at the same time, which takes little longer than one call.

    Raises:
        StateError: at least one file or directory cannot be made durable.
    """
    from hashclient.system.background import together  # imported here: rarely needed

    files = list(paths)
    for group in (files, list({*directories, *(path.parent for path in files)})):
        together(_sync, group)


def _sync(path: Path) -> None:
    with state_errors("cannot sync", path):
        fsync(path)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o600, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends without an error.

    Without `durable`, the caller must call fsync for the file and its directory.

    Raises:
        StateError: the disk is full, read-only or fails; `path` is then unchanged.
    """
    from hashclient.system.beneath import Directory  # imported here: rarely needed

    with state_errors("cannot write", path):
        directory = Directory.given(path.parent)
    with directory, file_in(directory, path.name, mode, durable=durable) as stream:
        yield stream


@contextlib.contextmanager
def file_in(
    directory: Directory, name: str, mode: int, *, durable: bool = True
) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `name` in an open directory, as `atomic_file` does.

    Raises:
        StateError: as `atomic_file`.
    """
    temporary: str | None = None
    try:
        temporary = f"{TEMP_PREFIX}{os.urandom(8).hex()}"
        with os.fdopen(directory.create(temporary, mode), "wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        directory.rename(temporary, name)
        temporary = None
        if durable:
            directory.sync()
    except OSError as error:
        raise state_error("cannot write", Path(directory.path_of(name)), error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                directory.unlink(temporary)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace the file `path` by a file with the content `data`; `durable` is as in `atomic_file`.

    Raises:
        StateError: as `atomic_file`.
    """
    with atomic_file(path, mode=mode, durable=durable) as stream:
        stream.write(data)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a descriptor, with several system calls if necessary.

    Raises:
        OSError: `data` cannot be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def is_there(path: Path) -> bool:
    """Return whether the file `path` of the state directory exists.

    Raises:
        StateError: the status of the file cannot be read, for example because this process may not
            enter a parent directory.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise state_error("cannot look for", path, error) from error
    return True


def require_state_dir(state_dir: Path) -> None:
    """Refuse a missing state directory, because its absence does not mean that it has no records.

    Raises:
        StateError: the state directory is missing, or cannot be looked for.
    """
    if not is_there(state_dir):
        raise StateError(
            f"no state directory: {printable(state_dir)}",
            hint="check --state-dir; `hashclient init` makes the directory",
        )


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file that is at most `max_bytes` bytes long.

    Pipes and devices are refused, because reading a pipe could block for ever, and a device has no
    end. The device `/dev/null` is accepted and counts as an empty file.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is longer than `max_bytes`.
    """
    with open_at_once(path) as stream:
        status = os.fstat(stream.fileno())
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEV_NULL:
            return b""
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        data = read_bounded(stream, status.st_size, max_bytes)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"longer than {max_bytes:,} bytes", os.fspath(path))
    return data


def refuse_irregular(path: Path) -> None:
    """Refuse `path` if it exists and is not a regular file, because a pipe would block its reader.

    Raises:
        OSError: the path is not a regular file, or its status cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def read_bounded(stream: IO[bytes], size: int, max_bytes: int) -> bytes:
    """Read a file of `size` bytes to its end, or until more than `max_bytes` bytes were read.

    A file may contain more bytes than its status says. The file is read in pieces, because a single
    read of `max_bytes` bytes would allocate `max_bytes` bytes of memory.
    """
    data = stream.read(min(size, max_bytes) + 1)
    while len(data) <= max_bytes and (more := stream.read(_PIECE_BYTES)):
        data += more
    return data


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        OSError: the path cannot be opened, or is not a regular file.
    """
    stream = open_at_once(path)
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def open_at_once(path: Path) -> IO[bytes]:
    """Open a file for reading without blocking, even if it is a pipe without a writer."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags), "rb")


def make_private_dir(path: Path, *, durable: bool = True) -> Path:
    """Make the directory `path` and missing parents with mode 0700; return `path`.

    The parents of new directories are made durable, because a power loss could otherwise remove a
    new directory with durable files in it. Without `durable`, the caller must call fsync for the
    parents.

    Raises:
        StateError: the directory cannot be made.
    """
    return _make_dir(path, 0o700, durable=durable)


def make_public_dir(path: Path) -> Path:
    """Make the directory `path` and missing parents with mode 0755; return `path`.

    The mode is set explicitly, because a plain `mkdir` under the umask 000 would let every user
    write to the directory.

    Raises:
        StateError: the directory cannot be made.
    """
    return _make_dir(path, 0o755, durable=True)


def _make_dir(path: Path, mode: int, *, durable: bool) -> Path:
    with state_errors("cannot make directory", path):
        for directory in (*reversed(path.parents), path):
            if not directory.is_dir():
                directory.mkdir(mode=mode, exist_ok=True)
                if not durable:
                    continue
                try:
                    fsync_dir(directory.parent)
                except PermissionError:  # this process may write to the directory, but not read it
                    os.sync()
    return path


def sweep_temporary(directory: Path) -> None:
    """Remove temporary files that killed processes have left; the caller holds the lock."""
    for leftover in directory.glob(f"{TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def user_path(text: str) -> Path:
    """Return the path that a user has typed; a `~` at its beginning is expanded.

    Raises:
        ConfigError: the text contains a null byte, or the home directory is not known.
    """
    if "\0" in text:
        raise ConfigError(f"not a path: {printable(text)}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"no home directory is known: {printable(text)}",
            hint="set HOME, or give the directory with --state-dir",
        ) from error


def state_error(what: str, path: Path, error: OSError) -> StateError:
    """Translate an `OSError` on a file of the state directory into a `StateError`."""
    return StateError(
        f"{what}: {printable(path)}: {error.strerror or error}", hint=hint_of(error.errno)
    )


@contextlib.contextmanager
def state_errors(what: str, path: Path) -> Iterator[None]:
    """Translate an `OSError` in the block into a `StateError`, as `state_error` does.

    Raises:
        StateError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise state_error(what, path, error) from error


@contextlib.contextmanager
def temporary_file_errors() -> Iterator[None]:
    """Translate an `OSError` in the block, which makes and writes temporary files.

    Raises:
        StateError: the block raised an `OSError`, for example because the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise StateError(
            f"cannot write a temporary file: {printable(error.strerror or str(error))}",
            hint="free some space, or name another directory in TMPDIR",
        ) from error


@contextlib.contextmanager
def translated(path: Path, translate: Callable[[Path, OSError], Exception]) -> Iterator[None]:
    """If the block raises an `OSError`, raise the exception that `translate` returns for it."""
    try:
        yield
    except OSError as error:
        raise translate(path, error) from error


def hint_of(number: int | None) -> str | None:
    """Return a hint for the user about an `errno` on a state file; None for other errors."""
    hints = {
        errno.ENOSPC: "free some space; nothing was lost, the old state is still in place",
        errno.EDQUOT: "the disk quota is used up; the old state is still in place",
        errno.EROFS: "the file system is read-only; use another --state-dir",
        errno.EACCES: "check the owner and the permissions of the state directory",
        errno.EPERM: "check the owner and the permissions of the state directory",
        errno.ENOENT: "run `hashclient init` first, or check --state-dir",
    }
    return hints.get(number or 0)


#: The first and the longest pause between two tries to lock a file, in seconds.
FIRST_PAUSE_S = 0.001
LAST_PAUSE_S = 0.02


def acquire(
    fd: int,
    *,
    shared: bool = False,
    wait_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
) -> bool:
    """Take the exclusive lock or, with `shared`, the shared lock on an open file.

    Return False if other processes keep the file locked for `wait_s` seconds. Closing the file
    unlocks it. `on_wait` is called once when the wait begins.

    Raises:
        OSError: the file cannot be locked, for example because its file system has no locks.
    """
    deadline = time.monotonic() + wait_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            on_wait()
            on_wait = _nothing
        else:
            return True
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


def _nothing() -> None:
    pass


def release(fd: int) -> None:
    """Unlock an open file without closing it.

    Raises:
        OSError: the file cannot be unlocked.
    """
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def writer_lock(
    path: Path,
    *,
    wait_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
    busy: str | None = None,
    hint: str | None = None,
    directory: int | None = None,
) -> Iterator[None]:
    """Hold the exclusive lock on the file `path` during the block.

    A missing file is made; a symbolic link is refused.

    `directory` is the descriptor of the directory in which the lock file is opened, or None.

    `on_wait` is as for `acquire`. `busy` and `hint` are the message and the hint of the
    `LockedError`; the defaults fit the lock of a state directory.

    Raises:
        LockedError: another process holds the lock for longer than `wait_s` seconds.
        StateError: the lock file cannot be opened or locked.
    """
    with state_errors("cannot open lock", path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path if directory is None else path.name, flags, 0o600, dir_fd=directory)
    try:
        with state_errors("cannot lock", path):
            held = acquire(fd, wait_s=wait_s, on_wait=on_wait)
        if not held:
            where = printable(path.parent)
            raise LockedError(
                busy or f"another hashclient is writing to this state: {where}",
                hint=hint
                or "wait until it has finished, as `fetch --wait` does, or use another --state-dir",
            )
        yield
    finally:
        os.close(fd)
