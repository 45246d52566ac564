"""The notices on this machine: one file a provider, replaced as a whole.

The first line of a file has its format and the SHA-256 of the rest. The SHA-256 finds a bad disk: a
changed bit could turn an extreme notice into a minor notice, or acknowledge it. The SHA-256 does
not stop a person who may write to the state directory. Writers hold one lock for all files; readers
take none.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.errors import StateError
from hashclient.core.model import is_name
from hashclient.notices.lifecycle import Kept, Time
from hashclient.system.files import (
    MAX_STATE_BYTES,
    is_there,
    make_private_dir,
    read_regular,
    state_error,
    sweep_temporary,
    write_atomic,
    writer_lock,
)
from hashclient.system.layout import TARGETS_NAME, Layout
from hashclient.system.text import printable
from hashclient.system.versions import format_of, is_newer, newer

BOOK_FORMAT = "hashclient-notices/1"
#: The lock is held for no longer than it takes to write a file.
LOCK_WAIT_S = 10.0
_SUFFIX = ".json"
#: The metadata of the role, in the folder of the other metadata.
ROLE_NAME = "notices.json"


#: Metadata without these bytes has no notices: it is not decoded.
_MARK = b'"hashclient-notices"'
#: The same limit as `trust` has for metadata.
_MAX_TARGETS_BYTES = 8 << 20


class _Signed(msgspec.Struct, frozen=True):
    notices: Any = msgspec.field(name="hashclient-notices", default=None)


class _Targets(msgspec.Struct, frozen=True):
    signed: _Signed


class Refused(msgspec.Struct, frozen=True):
    """A signed notice that is refused: `reason` says why."""

    id: str
    reason: str


class Book(msgspec.Struct, frozen=True):
    """The kept notices of one provider.

    `version` and `epoch` come from the role's metadata at its last verification, at `checked_at`;
    `expires` is the earliest expiry of the metadata.
    """

    provider: str
    version: int
    epoch: str
    expires: Time
    checked_at: Time
    notices: tuple[Kept, ...] = ()
    refused: tuple[Refused, ...] = ()


class DamagedBookError(StateError):
    """The file differs from the written bytes. The next fetch writes it again."""


class _Head(msgspec.Struct, frozen=True):
    format: str
    sha256: str


def load_book(layout: Layout, provider: str) -> Book | None:
    """Return the notices of a provider on this machine; None without notices.

    Raises:
        DamagedBookError: the file differs from the written bytes.
        StateError: the file cannot be read, or a newer version of this program wrote it.
    """
    path = layout.notices_of(provider)
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise state_error("cannot read", path, error) from error
    return parse_book(data, provider, path)


def parse_book(data: bytes, provider: str, path: Path) -> Book:
    """Parse the bytes of a file; `path` names it in messages.

    Raises:
        DamagedBookError, StateError: as `load_book`.
    """
    line, _, body = data.partition(b"\n")
    try:
        if is_newer(format_of(line), BOOK_FORMAT):
            raise newer(path)
        head = msgspec.json.decode(line, type=_Head)
        if head.format != BOOK_FORMAT or head.sha256 != hashlib.sha256(body).hexdigest():
            raise ValueError("not what was written")
        book = msgspec.json.decode(body, type=Book)
        if book.provider != provider:
            raise ValueError("of another provider")
        if not all(map(is_name, _names(book))):
            raise ValueError("a name is not allowed")
    except (ValueError, RecursionError) as error:
        raise DamagedBookError(
            f"the file of notices is damaged: {printable(path)}",
            hint="run `hashclient fetch`; the audit log has all acknowledgements",
        ) from error
    return book


def _names(book: Book) -> Iterator[str]:
    """Yield the names in a book. The names are shown without escapes, so they must be valid."""
    for one in book.notices:
        yield one.notice.id
        yield from one.notice.lists
        yield from (reference.id for reference in one.notice.references)
        if one.ended is not None:
            yield one.ended.by
    yield from (refused.id for refused in book.refused)


def encode_book(book: Book) -> bytes:
    """Return the bytes of a file; `parse_book` gives `book` back."""
    body = msgspec.json.encode(book) + b"\n"
    head = msgspec.json.encode(_Head(BOOK_FORMAT, hashlib.sha256(body).hexdigest()))
    return head + b"\n" + body


def write_book(layout: Layout, book: Book) -> None:
    """Replace the kept notices of a provider. The caller holds the lock.

    Raises:
        StateError: the file cannot be written.
    """
    write_atomic(layout.notices_of(book.provider), encode_book(book))


def providers_with_notices(layout: Layout) -> list[str]:
    """Return the names of the providers that have notices on this machine, in order.

    Raises:
        StateError: the folder cannot be read.
    """
    try:
        names = [path.stem for path in layout.notices.iterdir() if path.suffix == _SUFFIX]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise state_error("cannot read", layout.notices, error) from error
    return sorted(filter(is_name, names))


def are_missing(layout: Layout, provider: str) -> bool:
    """Return whether notices of a provider were fetched, and their file is missing.

    Raises:
        StateError: the metadata cannot be read.
    """
    role = layout.metadata(provider) / ROLE_NAME
    return (
        is_there(role) and not is_there(layout.notices_of(provider)) and has_role(layout, provider)
    )


def has_role(layout: Layout, provider: str) -> bool:
    """Return whether the last verified metadata of a provider has a role of notices."""
    try:
        data = read_regular(layout.metadata(provider) / TARGETS_NAME, _MAX_TARGETS_BYTES)
        if _MARK not in data:
            return False
        return msgspec.json.decode(data, type=_Targets).signed.notices is not None
    except (OSError, ValueError, RecursionError):
        return False  # the lists report this error


@contextlib.contextmanager
def changing(layout: Layout) -> Iterator[None]:
    """Hold the lock of the kept notices.

    Raises:
        LockedError: another process holds the lock for long.
        StateError: the lock file cannot be made.
    """
    make_private_dir(layout.notices)
    with writer_lock(
        layout.notices_lock,
        wait_s=LOCK_WAIT_S,
        busy=f"another hashclient is changing notices: {printable(layout.notices)}",
        hint="try again",
    ):
        sweep_temporary(layout.notices)
        yield
