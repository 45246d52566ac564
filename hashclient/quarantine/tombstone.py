"""Tombstones: a text file in place of an isolated file, if the configuration sets a text."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime

from hashclient.quarantine.item import Item
from hashclient.quarantine.safe_rename import (
    NEW_NAME,
    PRIVATE_NAME,
    Place,
    Removal,
    open_file,
    reason_of,
    remove_exactly,
)
from hashclient.system.beneath import rename_noreplace
from hashclient.system.files import write_all

_MODE = 0o644


def tombstone_text(template: str | None, match_id: str, time: datetime) -> str | None:
    """Return the text of a tombstone: `template` with `{id}` and `{time}` replaced."""
    if template is None:
        return None
    # `str.format` is not used, because the template may contain other braces.
    stamp = time.astimezone(UTC).isoformat(timespec="seconds")
    text = template.replace("{id}", match_id).replace("{time}", stamp)
    return text if text.endswith("\n") else text + "\n"


def put_tombstone(place: Place, item: Item) -> str | None:
    """Write the tombstone of an item, if it has a tombstone; return a message on failure."""
    if item.tombstone is None:
        return None
    name = NEW_NAME.format(item.id)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with contextlib.suppress(FileNotFoundError):  # a killed operation may have left a file
            os.unlink(name, dir_fd=place.fd)
        fd = os.open(name, flags, 0o600, dir_fd=place.fd)
        try:
            write_all(fd, item.tombstone.encode())
            with contextlib.suppress(OSError):  # only root can change the owner of a file
                os.fchown(fd, item.origin.uid, item.origin.gid)
            os.fchmod(fd, _MODE)
            os.fsync(fd)
            rename_noreplace(place.fd, name, place.name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=place.fd)
            raise
        finally:
            os.close(fd)
        place.sync()
    except OSError as error:
        return f"the tombstone could not be left: {reason_of(error)}"
    return None


def has_tombstone(place: Place, item: Item) -> bool:
    """Return whether the file at a place contains exactly the text of the tombstone of an item."""
    if item.tombstone is None:
        return False
    with contextlib.suppress(OSError), open_file(place) as (fd, _):
        return _is_tombstone(fd, item)
    return False


def remove_tombstone(place: Place, item: Item) -> bool:
    """Remove the tombstone of an item; return False if another file is at the place.

    Raises:
        OSError: the tombstone cannot be removed.
    """
    with open_file(place) as (fd, status):
        private = PRIVATE_NAME.format(item.id)
        return (
            _is_tombstone(fd, item)
            and remove_exactly(place, private, fd, status) is Removal.REMOVED
        )


def _is_tombstone(fd: int, item: Item) -> bool:
    if item.tombstone is None:
        return False
    text = item.tombstone.encode()
    return os.pread(fd, len(text) + 1, 0) == text
