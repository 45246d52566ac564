"""Reads files of a provider without a network.

The files are in a bundle, or in a copy of the provider's public directory.

This module is a source for `trust`, like the network: it returns the bytes of a file by its
address, and `trust` verifies the bytes in memory. The bytes are not written to the disk before they
are verified. The person who brings the files is not trusted, so symbolic links are not followed,
and only regular files are read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from hashclient.core.errors import DeliveryError, UnreachableError, UsageError, VerificationError
from hashclient.lists.bundle import NAME, Bundle
from hashclient.system.files import open_at_once, read_bounded, translated
from hashclient.system.text import excerpt, printable

#: The beginning of the addresses of offline files.
BASE = "offline:"
_ABOVE_ALL = "metadata"
_HINT = "make the copy again; nothing was changed"
#: The largest number of lists that a hint names.
_SHOWN = 5


class Copy(Protocol):
    """Returns the bytes of files by their addresses; each address begins with `BASE`."""

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Return the bytes of a file, at most `max_bytes`."""


class MissingError(UnreachableError):
    """The requested file is not in the bundle or the directory.

    The status is 404, as on a network, because the search for a newer root ends at a missing file.
    """

    status = 404


@contextlib.contextmanager
def open_copy(path: Path) -> Iterator[Copy]:
    """Yield a source of the files in the bundle, or in the directory, at `path`.

    Raises:
        UsageError: `path` is neither a bundle nor a directory.
        VerificationError: a bundle breaks the format.
        UnreachableError: the bundle or directory cannot be read.
    """
    with _readable(path), contextlib.ExitStack() as stack:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            _require_public(fd, path)
            source: Copy = _Directory(fd, path)
        elif stat.S_ISREG(mode):
            stream = stack.enter_context(open_at_once(path))
            source = _BundleSource(path, stream)
        else:
            raise UsageError(f"neither a file nor a directory: {printable(path)}")
        # The `with` block of the caller may raise an error that has nothing to do with this file.
        opened = stack.pop_all()
    with opened:
        yield source


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"no such file or directory: {printable(path)}",
            hint="give a bundle, which `hashclient provider export` makes, or a copy of the"
            " provider's public/",
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _require_public(fd: int, path: Path) -> None:
    names = set(os.listdir(fd))
    if _ABOVE_ALL not in names:
        inner = path / "public"
        raise UsageError(
            f"not a copy of a provider's `public/`: {printable(path)}: there is no {_ABOVE_ALL}/",
            hint=f"give {printable(inner)}" if inner.name in names else None,
        )


class _Directory:
    """A copy of the public directory of a provider, which a web server would serve."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Return the bytes of a file, as `Copy` says."""
        name = _name_in(url)
        path = self._path / name
        try:
            data = self._read(name, max_bytes)
        except FileNotFoundError as error:
            raise MissingError(f"there is no {printable(path)}", hint=_HINT) from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EINVAL):
                raise DeliveryError(
                    f"not a plain file: {printable(path)}",
                    hint="links are not followed: make a copy without them (`rsync -rL`)",
                ) from error
            raise _unreadable(path, error) from error
        _check_length(data, max_bytes, expected_bytes, printable(path))
        return data

    def _read(self, name: str, max_bytes: int) -> bytes:
        *folders, last = name.split("/")
        with contextlib.ExitStack() as stack:
            fd = self._fd
            for folder in folders:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(folder, flags, dir_fd=fd)
                stack.callback(os.close, fd)
            # Opening a device may have an effect, and opening a pipe may wait, so the kind of the
            # file is checked first.
            if not stat.S_ISREG(os.stat(last, dir_fd=fd, follow_symlinks=False).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            stream = stack.enter_context(os.fdopen(os.open(last, flags, dir_fd=fd), "rb"))
            return read_bounded(stream, os.fstat(stream.fileno()).st_size, max_bytes)


class _BundleSource:
    """The files in a bundle."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        self._shown = f"bundle {printable(path)}"
        with self._named(VerificationError):
            self._bundle = Bundle(stream)

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Return the bytes of a file, as `Copy` says."""
        name = _name_in(url)
        with self._named(DeliveryError), translated(self._path, _unreadable):
            data = self._bundle.read(name, max_bytes)
        if data is None:
            raise MissingError(f"{self._shown}: there is no {name} in it", hint=self._why_missing())
        _check_length(data, max_bytes, expected_bytes, f"{self._shown}: {name}")
        return data

    @contextlib.contextmanager
    def _named(self, kind: type[VerificationError]) -> Iterator[None]:
        """Add the name of the bundle to errors of the block."""
        try:
            yield
        except VerificationError as error:
            raise kind(f"{self._shown}: {error.message}", hint=error.hint) from error

    def _why_missing(self) -> str:
        since = self._bundle.mark.since
        if not since:
            return "have it exported again; nothing was changed"
        shown = [f"{excerpt(name)} since generation {since[name]}" for name in sorted(since)]
        return (
            f"the bundle has only the changes of {', '.join(shown[:_SHOWN])}: ask for a complete "
            "bundle, or for one since the generation that `hashclient status` shows"
        )


def _name_in(url: str) -> str:
    """Return the name of a file from its address.

    Raises:
        VerificationError: the file of a provider may not have this name.
    """
    name = url.removeprefix(f"{BASE}/")
    if name == url or not NAME.fullmatch(name):
        raise VerificationError(f"address refused: {excerpt(url)}")
    return name


def _check_length(data: bytes, max_bytes: int, expected_bytes: int | None, what: str) -> None:
    if len(data) > max_bytes:
        raise DeliveryError(f"{what} has more than the {max_bytes:,} bytes allowed", hint=_HINT)
    if expected_bytes is not None and len(data) != expected_bytes:
        raise DeliveryError(
            f"{what} has {len(data):,} bytes, {expected_bytes:,} are signed", hint=_HINT
        )


def _unreadable(path: Path, error: OSError) -> UnreachableError:
    return UnreachableError(
        f"cannot read {printable(path)}: {(error.strerror or str(error)).lower()}",
        hint="check the medium and the permissions; lists that are here stay in use",
    )
