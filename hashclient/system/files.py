"""Files that are complete after a crash.

Every write of state goes through `write_atomic`: temporary file, fsync, rename, fsync of the
directory. A kill at any instant leaves the old or the new file. Leftover temporary files start with
`TEMP_PREFIX` and are swept by the next writer.

Locks on files are between processes: the kernel frees them when a process ends for any reason.
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
#: The device /dev/null, on any Linux.
_DEV_NULL = os.makedev(1, 3)
_PIECE_BYTES = 1 << 16
#: Longest file written by people that is read whole: a configuration, a key, a secret.
MAX_TEXT_BYTES = 1 << 20
#: Longest file of our own state that is read whole.
MAX_STATE_BYTES = 1 << 28


def fsync_dir(path: Path) -> None:
    """Make renames in directory `path` durable."""
    fsync(path, os.O_DIRECTORY)


def fsync(path: Path, flags: int = 0) -> None:
    """Make the bytes of a file durable, or the names in a directory.

    Raises:
        OSError: the file or directory cannot be synced.
    """
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_durable(paths: Iterable[Path], *directories: Path) -> None:
    """Make files durable, and then their names and the names in `directories`.

    All files wait for the disk together, which takes little longer than waiting for a single file.

    Raises:
        StateError: at least one file or directory cannot be synced.
    """
    from hashclient.system.background import together  # most commands write few files

    files = list(paths)
    for group in (files, list({*directories, *(path.parent for path in files)})):
        together(_sync, group)


def _sync(path: Path) -> None:
    with state_errors("cannot sync", path):
        fsync(path)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o600, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends without an error.

    Without `durable`, the caller has to sync the file.

    Raises:
        StateError: the disk is full, read-only or fails; `path` is then unchanged.
    """
    from hashclient.system.beneath import Directory  # most commands write no file

    with state_errors("cannot write", path):
        directory = Directory.given(path.parent)
    with directory, file_in(directory, path.name, mode, durable=durable) as stream:
        yield stream


@contextlib.contextmanager
def file_in(
    directory: Directory, name: str, mode: int, *, durable: bool = True
) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `name` in a held directory, as `atomic_file`.

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
    """Replace `path` by `data`, whole or not at all; `durable` is as in `atomic_file`.

    Raises:
        StateError: as `atomic_file`.
    """
    with atomic_file(path, mode=mode, durable=durable) as stream:
        stream.write(data)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, with one system call if the kernel takes all at once.

    Raises:
        OSError: `data` cannot be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def is_there(path: Path) -> bool:
    """Return whether `path` exists in the state directory.

    Raises:
        StateError: the path cannot be looked up, for example because a parent directory may not be
            entered.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise state_error("cannot look for", path, error) from error
    return True


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read all of a file that is at most `max_bytes` long.

    Pipes and devices are refused, since a pipe could block for ever and a device has no end. Only
    `/dev/null` is read, which people name to say "nothing".

    Raises:
        OSError: the file cannot be read, is no regular file, or is longer.
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
    """Refuse `path` unless it is a regular file or missing: a pipe would block its reader.

    Raises:
        OSError: the path is not a regular file, or its status cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def read_bounded(stream: IO[bytes], size: int, max_bytes: int) -> bytes:
    """Read a file of `size` bytes to its end, or beyond `max_bytes`.

    A file may be longer than its size says. A single read of `max_bytes` would allocate all that
    memory at once, so the file is read in steps.
    """
    data = stream.read(min(size, max_bytes) + 1)
    while len(data) <= max_bytes and (more := stream.read(_PIECE_BYTES)):
        data += more
    return data


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        OSError: the path cannot be opened, or is no regular file: a pipe could block for ever.
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
    """Create directory `path` and missing parents, for the owner only; return `path`.

    New directories are synced: if a power loss removed their names, synced files below them would
    be lost, too. Without `durable`, the caller has to sync the directories.

    Raises:
        StateError: the directory cannot be made.
    """
    return _make_dir(path, 0o700, durable=durable)


def make_public_dir(path: Path) -> Path:
    """Create directory `path` and missing parents: readable for all, writable for the owner.

    The umask does not matter: with 000 a plain `mkdir` would let everybody write to it.

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
                except PermissionError:  # a directory with write but no read permission
                    os.sync()
    return path


def sweep_temporary(directory: Path) -> None:
    """Remove temporary files of killed writers in `directory`; hold the lock for this call."""
    for leftover in directory.glob(f"{TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def user_path(text: str) -> Path:
    """Return the path for a text from a user, which may begin with `~`.

    Raises:
        ConfigError: the text has not the form of a path, or the home directory is not known.
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
    """Translate an error of the system on a state file into an error of ours."""
    return StateError(
        f"{what}: {printable(path)}: {error.strerror or error}", hint=hint_of(error.errno)
    )


@contextlib.contextmanager
def state_errors(what: str, path: Path) -> Iterator[None]:
    """Translate an error of the system in the block, as `state_error` does.

    Raises:
        StateError: an error of the system has happened.
    """
    try:
        yield
    except OSError as error:
        raise state_error(what, path, error) from error


@contextlib.contextmanager
def translated(path: Path, translate: Callable[[Path, OSError], Exception]) -> Iterator[None]:
    """Raise the exception that `translate` returns, for an error of the system in the block."""
    try:
        yield
    except OSError as error:
        raise translate(path, error) from error


def hint_of(number: int | None) -> str | None:
    """Return a hint for an error of the system on a state file; None for unknown errors."""
    hints = {
        errno.ENOSPC: "free some space; nothing was lost, the old state is still in place",
        errno.EDQUOT: "the disk quota is used up; the old state is still in place",
        errno.EROFS: "the file system is read-only; use another --state-dir",
        errno.EACCES: "check the owner and the permissions of the state directory",
        errno.EPERM: "check the owner and the permissions of the state directory",
        errno.ENOENT: "run `hashclient init` first, or check --state-dir",
    }
    return hints.get(number or 0)


#: Seconds between two tries to get a lock that is held: at first, and later.
FIRST_PAUSE_S = 0.001
LAST_PAUSE_S = 0.02


def acquire(
    fd: int,
    *,
    shared: bool = False,
    wait_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
) -> bool:
    """Lock an open file for this process alone or, with `shared`, for all readers.

    Return False if other processes keep the file locked for `wait_s` seconds. Closing the file
    unlocks it. `on_wait` is called once when the wait begins.

    Raises:
        OSError: the file cannot be locked; not every file system has locks.
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
    """Unlock an open file that stays open.

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
    """Hold the lock file `path` alone; a missing file is made, and a link refused.

    With `directory`, the name is looked up in this open directory.

    `on_wait` is as for `acquire`. `busy` and `hint` are the message and hint when another process
    holds the lock; the defaults are for a state directory.

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
