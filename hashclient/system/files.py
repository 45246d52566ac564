"""Files that are whole after a crash, the writers' lock, and secrets with safe permissions.

Every write of state goes through `write_atomic`: temporary file, fsync, rename, fsync of the
directory. A kill at any instant leaves the old file or the new one. Leftover temporary files
start with `TEMP_PREFIX` and are swept by the next writer.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from hashclient.errors import ConfigError, LockedError, StateError

if TYPE_CHECKING:
    import sqlite3

TEMP_PREFIX = ".tmp-"
#: The device /dev/null, on any Linux.
_DEV_NULL = os.makedev(1, 3)
_PIECE_BYTES = 1 << 16
#: Longest file that people write for us and that is read whole: a configuration, a key, a secret.
MAX_TEXT_BYTES = 1 << 20
#: And longest file of our own state.
MAX_STATE_BYTES = 1 << 28
#: How long a writer of a database waits for another; their transactions take milliseconds.
BUSY_TIMEOUT_S = 10.0
#: Between two looks at a lock that somebody else holds.
LOCK_POLL_S = 0.05
#: What a log repeats of a path. The system's calls take 4,096 bytes, trees can be deeper.
MAX_LOGGED_PATH_CHARS = 1 << 14
#: What a message repeats of a text that somebody else wrote.
MAX_EXCERPT_CHARS = 200


def fsync_dir(path: Path) -> None:
    """Make renames in directory `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    Raises:
        StateError: the disk is full, read-only or fails; `path` is then unchanged.
    """
    import tempfile  # brings much, and most starts write no file

    temporary: Path | None = None
    try:
        fd, name = tempfile.mkstemp(prefix=TEMP_PREFIX, dir=path.parent)
        temporary = Path(name)
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        temporary = None
        fsync_dir(path.parent)
    except OSError as error:
        raise state_error("cannot write", path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`, whole or not at all.

    Raises:
        StateError: as `atomic_file`.
    """
    with atomic_file(path, mode=mode) as stream:
        stream.write(data)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, with one system call unless it takes less than that.

    Raises:
        OSError: it cannot be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def is_there(path: Path) -> bool:
    """Tell whether something of the state is at `path`.

    Raises:
        StateError: that cannot be told: a directory on the way may not be entered, say.
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

    A pipe could keep us waiting for ever and a device has no end, so neither is read; but for the
    one that people name to say "nothing".

    Raises:
        OSError: it cannot be read, is no regular file, or is longer.
    """
    with _open_at_once(path) as stream:
        status = os.fstat(stream.fileno())
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEV_NULL:
            return b""
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        data = _read_bounded(stream, status.st_size, max_bytes)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"longer than {max_bytes:,} bytes", os.fspath(path))
    return data


def _read_bounded(stream: IO[bytes], size: int, max_bytes: int) -> bytes:
    """Read a file of `size` bytes to its end, or beyond `max_bytes`.

    A file may have more than its size says, and memory for more than there is would be taken at
    once if all that it may have were asked for.
    """
    data = stream.read(min(size, max_bytes) + 1)
    while len(data) <= max_bytes and (more := stream.read(_PIECE_BYTES)):
        data += more
    return data


def _open_at_once(path: Path) -> IO[bytes]:
    """Open a file for reading without waiting: for whoever writes to a pipe, say."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags), "rb")


def make_private_dir(path: Path) -> Path:
    """Create directory `path`, and parents it lacks, for their owner only; return it.

    What is made is on the disk afterwards: a name that a power loss takes away takes along whatever
    was synced below it.

    Raises:
        StateError: it cannot be made.
    """
    return _make_dir(path, 0o700)


def make_public_dir(path: Path) -> Path:
    """Create directory `path`, and parents it lacks, for all to read and its owner to write to.

    Whatever the umask: with 000 a plain `mkdir` makes what everybody may write to.

    Raises:
        StateError: it cannot be made.
    """
    return _make_dir(path, 0o755)


def _make_dir(path: Path, mode: int) -> Path:
    try:
        for directory in (*reversed(path.parents), path):
            if not directory.is_dir():
                directory.mkdir(mode=mode, exist_ok=True)
                try:
                    fsync_dir(directory.parent)
                except PermissionError:  # it may be written to, but not read
                    os.sync()
    except OSError as error:
        raise state_error("cannot make directory", path, error) from error
    return path


def sweep_temporary(directory: Path) -> None:
    """Remove what killed writers left in `directory`; call it only with the lock held."""
    for leftover in directory.glob(f"{TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def open_database(path: Path, mode: Literal["ro", "rw", "rwc"]) -> sqlite3.Connection:
    """Open an SQLite file whose transactions the caller begins and ends; `rwc` makes it, private.

    Raises:
        OSError, sqlite3.Error: it cannot be opened.
    """
    import sqlite3  # most commands need none

    if mode == "rwc":
        make_private_dir(path.parent)
        # SQLite makes files with the umask; this one is for its owner only.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


@contextlib.contextmanager
def writer_lock(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the exclusive lock file `path`; the kernel frees it on a kill.

    Raises:
        LockedError: another process holds it, for longer than `wait_s`.
        StateError: it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise state_error("cannot open lock", path, error) from error
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise state_error("cannot lock", path, error) from error
                if time.monotonic() >= deadline:
                    raise LockedError(
                        f"another hashclient is writing to this state: {printable(path.parent)}",
                        hint="wait until it has finished, or use another --state-dir",
                    ) from error
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


def read_secret(path: Path, what: str, *, forbidden: int = 0o077) -> bytes:
    """Read a secret file that only its owner can read.

    `what` names the secret in messages, for example `token file`; `forbidden` are the permission
    bits that must be unset.

    Raises:
        ConfigError: it does not exist, cannot be read or others can read it.
    """
    try:
        with _open_at_once(path) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{what} is not a regular file: {printable(path)}")
            if status.st_mode & forbidden:
                raise ConfigError(
                    f"{what} can be read by others: {printable(path)}",
                    hint=f"chmod 600 {printable(path)}",
                )
            secret = _read_bounded(stream, status.st_size, MAX_TEXT_BYTES)
    except OSError as error:
        raise ConfigError(
            f"cannot read {what}: {printable(path)}: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
    if len(secret) > MAX_TEXT_BYTES:
        raise ConfigError(f"{what} is longer than {MAX_TEXT_BYTES:,} bytes: {printable(path)}")
    return secret


def user_path(text: str) -> Path:
    """Return the path that a user wrote, which may begin with `~`.

    Raises:
        ConfigError: it cannot be a path, or the home directory is not known.
    """
    if "\0" in text:
        raise ConfigError(f"not a path: {printable(text)}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"no home directory is known: {printable(text)}",
            hint="set HOME, or say where things are with --state-dir",
        ) from error


def state_error(what: str, path: Path, error: OSError) -> StateError:
    """Translate an operating system's error on a state file into ours."""
    hints = {
        errno.ENOSPC: "free some space; nothing was lost, the old state is still in place",
        errno.EDQUOT: "the disk quota is used up; the old state is still in place",
        errno.EROFS: "the file system is read-only; use another --state-dir",
        errno.EACCES: "check the owner and the permissions of the state directory",
        errno.EPERM: "check the owner and the permissions of the state directory",
        errno.ENOENT: "run `hashclient init` first, or check --state-dir",
    }
    return StateError(
        f"{what}: {printable(path)}: {error.strerror or error}", hint=hints.get(error.errno or 0)
    )


def printable(path: str | os.PathLike[str]) -> str:
    """Return `path` in a form that is safe on a terminal, whatever its bytes.

    Control characters and bytes that are not UTF-8 are shown as `\\xNN`, backslashes doubled.
    """
    text = os.fspath(path)
    if text.isprintable() and "\\" not in text:
        return text
    shown = []
    for char in text:
        if char == "\\":
            shown.append("\\\\")
        elif char.isprintable():
            shown.append(char)
        else:
            # Bytes that were no UTF-8 come back as they were; text from elsewhere can hold other
            # lone surrogates, which stand for no byte.
            errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
            shown.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))
    return "".join(shown)


def path_fields(path: str) -> dict[str, str]:
    """Return the fields that give `path` (decoded with surrogateescape) without loss, for JSON.

    `path` is its text; `path_b64` holds its bytes when they are not UTF-8.
    """
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode()}
    except UnicodeDecodeError:
        encoded = base64.b64encode(raw).decode()
        return {"path": raw.decode(errors="replace"), "path_b64": encoded}


def log_path_fields(path: str) -> dict[str, str]:
    """Return the fields that give `path` where room is limited: of a very long one, its beginning.

    Whoever can make files can make their paths as long as they like.
    """
    if len(path) <= MAX_LOGGED_PATH_CHARS:
        return path_fields(path)
    return {"path": os.fsencode(path[:MAX_LOGGED_PATH_CHARS]).decode(errors="replace") + "…"}


def excerpt(text: object) -> str:
    """Return the beginning of a foreign text, such as a library's message, safe on a terminal."""
    whole = str(text)
    return printable(whole[:MAX_EXCERPT_CHARS]) + ("…" if len(whole) > MAX_EXCERPT_CHARS else "")
