"""The notices on this machine: one file for each provider, which is replaced as a whole.

The first line of a file contains its format and the SHA-256 of the rest of the file. The SHA-256
detects faults of the disk: a changed bit could turn an extreme notice into a minor one, or
acknowledge a notice. The SHA-256 does not protect against a person who may write to the state
directory. Writers take one lock for all files, and readers take no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.errors import StateError
from hashclient.core.model import Time, is_name
from hashclient.notices.lifecycle import Kept
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
#: The seconds to wait for the lock, which is needed only while a file is written.
LOCK_WAIT_S = 10.0
_SUFFIX = ".json"
#: The file of the metadata of the role of notices, in the metadata directory of a provider.
ROLE_NAME = "notices.json"


#: The bytes that all metadata with a role of notices contains; metadata without these bytes is not
#: decoded.
_MARK = b'"hashclient-notices"'
#: The largest metadata in bytes, the same as in `trust`.
_MAX_TARGETS_BYTES = 8 << 20


class _Signed(msgspec.Struct, frozen=True):
    notices: Any = msgspec.field(name="hashclient-notices", default=None)


class _Targets(msgspec.Struct, frozen=True):
    signed: _Signed


class Refused(msgspec.Struct, frozen=True):
    """A signed notice that was refused, and the reason."""

    id: str
    reason: str


class Book(msgspec.Struct, frozen=True):
    """The notices of one provider that are kept.

    `version` and `epoch`: taken from the metadata of the role when it was last verified, at
    `checked_at`. `expires`: the earliest expiry of the metadata.
    """

    provider: str
    version: int
    epoch: str
    expires: Time
    checked_at: Time
    notices: tuple[Kept, ...] = ()
    refused: tuple[Refused, ...] = ()


class DamagedBookError(StateError):
    """A file of notices differs from the written bytes. The next fetch writes the file again."""


class _Head(msgspec.Struct, frozen=True):
    format: str
    sha256: str


def load_book(layout: Layout, provider: str) -> Book | None:
    """Return the notices of a provider on this machine, or None if there are none.

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
    """Parse the bytes of a file of notices; `path` is the name of the file in messages.

    Raises:
        DamagedBookError, StateError: the file is damaged, or a newer version of this program wrote
            it.
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
    """Yield the names in the notices of a provider.

    Names are shown without escaping, so they must be valid.
    """
    for one in book.notices:
        yield one.notice.id
        yield from one.notice.lists
        yield from (reference.id for reference in one.notice.references)
        if one.ended is not None:
            yield one.ended.by
    yield from (refused.id for refused in book.refused)


def encode_book(book: Book) -> bytes:
    """Return the bytes of a file of notices, which `parse_book` can parse."""
    body = msgspec.json.encode(book) + b"\n"
    head = msgspec.json.encode(_Head(BOOK_FORMAT, hashlib.sha256(body).hexdigest()))
    return head + b"\n" + body


def write_book(layout: Layout, book: Book) -> None:
    """Replace the file of a provider's notices. The caller must have the lock of `changing`.

    Raises:
        StateError: the file cannot be written.
    """
    write_atomic(layout.notices_of(book.provider), encode_book(book))


def providers_with_notices(layout: Layout) -> list[str]:
    """Return the names of the providers that have notices on this machine, sorted.

    Raises:
        StateError: the folder of notices cannot be read.
    """
    try:
        names = [path.stem for path in layout.notices.iterdir() if path.suffix == _SUFFIX]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise state_error("cannot read", layout.notices, error) from error
    return sorted(filter(is_name, names))


def are_missing(layout: Layout, provider: str) -> bool:
    """Return whether notices of a provider were fetched before, but their file is missing.

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
        return False  # the status of the lists reports this error


@contextlib.contextmanager
def changing(layout: Layout) -> Iterator[None]:
    """Lock all files of notices during the block.

    Raises:
        LockedError: another process keeps the lock for too long.
        StateError: the lock file cannot be created.
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
