"""The outbox of alerts on the disk: one file, which is replaced as a whole, under a lock.

The file contains the position up to which the log and the matches were read. The alert and the new
position are written together, so a kill loses no alert. If the file is damaged or lost, reading
begins again with the events of the last day.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from hashclient.alerts.alert import Alert, Kind, noticed
from hashclient.core.model import Time
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    state_error,
    sweep_temporary,
    write_atomic,
    writer_lock,
)
from hashclient.system.layout import ROOM_LOCK_NAME, Layout
from hashclient.system.versions import format_of, is_newer, newer

BOOK_FORMAT = "hashclient-alerts/1"
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far events were read: record number in the log, row and step of the matches, and time."""

    seq: _Number
    row: _Number
    step: _Number
    time: Time


class Receiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a receiver: failed attempts since the last success, and the next attempt."""

    attempts: int = 0
    next_attempt: Time | None = None
    problem: str | None = None
    reached: Time | None = None


class Late(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An alert for addresses of mail that were refused for now, while other addresses have it."""

    alert: Alert
    addresses: tuple[str, ...]
    since: Time
    attempts: int
    next_attempt: Time


class Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The waiting alerts, when each subject was last named in an alert, and the receivers by name.

    `place`: how far events were read, or None. `looked`: when the whole state was last examined.
    `late`: alerts that are sent again to some addresses.
    """

    format: Literal["hashclient-alerts/1"] = "hashclient-alerts/1"
    place: Place | None = None
    looked: Time | None = None
    waiting: tuple[Alert, ...] = ()
    said: dict[Kind, dict[str, Time]] = {}
    receivers: dict[str, Receiver] = {}
    late: tuple[Late, ...] = ()

    def receiver(self, name: str) -> Receiver:
        """Return the state of a receiver, or a new state if none is stored."""
        return self.receivers.get(name, Receiver())


def load_book(layout: Layout, now: datetime) -> Book:
    """Return the outbox that was written last, or a new outbox.

    If the outbox is damaged, the new outbox contains an alert about the damage.

    Raises:
        StateError: the outbox cannot be read, or a newer version of this program wrote it.
    """
    try:
        document = read_regular(layout.alerts, MAX_STATE_BYTES)
    except FileNotFoundError:
        return Book()
    except OSError as error:
        raise state_error("cannot read alerts", layout.alerts, error) from error
    try:
        return msgspec.json.decode(document, type=Book)
    except (ValueError, RecursionError):
        if is_newer(format_of(document), BOOK_FORMAT):
            raise newer(layout.alerts) from None
        damaged = Alert.new(Kind.DAMAGED, now)
        return Book(waiting=(damaged.joined(noticed(Kind.DAMAGED, "alerts"), now),))


@contextlib.contextmanager
def book_lock(layout: Layout, wait_s: float) -> Iterator[None]:
    """Lock the outbox during the block.

    Raises:
        LockedError: another process keeps the lock for longer than `wait_s`.
        StateError: the outbox cannot be locked.
    """
    directory = make_private_dir(layout.alerts.parent)
    with writer_lock(
        directory / ROOM_LOCK_NAME,
        wait_s=wait_s,
        busy="another command is sending alerts",
        hint="that command, or the next command, sends the waiting alerts",
    ):
        yield


def save_book(layout: Layout, book: Book) -> Book:
    """Write the outbox and return it; the caller must have the lock.

    Raises:
        StateError: the outbox cannot be written; the earlier outbox is unchanged.
    """
    sweep_temporary(layout.alerts.parent)
    write_atomic(layout.alerts, msgspec.json.format(msgspec.json.encode(book), indent=1) + b"\n")
    return book
