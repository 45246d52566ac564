"""Makes and publishes the status document of this machine.

The document is made from the status and from the newest records of the audit log. Publishing
follows these rules:

1. Only one process publishes at a time, so an older document never replaces a newer document.
2. Each document has its own number, which is stored before the document is made.
3. The document replaces the previous document in one step.
4. The number of failures is reset only after the document was replaced, so a killed publication
   counts as a failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from hashclient.audit.log import Record
from hashclient.audit.reading import head_checkpoint, newest
from hashclient.audit.record import parse_checkpoint
from hashclient.core.errors import ExitCode
from hashclient.core.model import is_name
from hashclient.core.version import __version__
from hashclient.fleet.document import (
    FORMAT,
    MOST_LISTS,
    Brake,
    Command,
    ListState,
    Machine,
    Room,
    Runs,
    StatusDocument,
    encode_status,
)
from hashclient.fleet.places import place_at
from hashclient.session import Session
from hashclient.status.published import keep, load_published
from hashclient.status.status import ListStatus, Status
from hashclient.system.files import make_private_dir, writer_lock
from hashclient.system.layout import PUBLISHED_NAME, ROOM_LOCK_NAME
from hashclient.system.text import printable

#: The period for which runs are counted.
WINDOW = timedelta(hours=24)
#: The largest number of records of the log that are read, beginning with the newest; reading this
#: many takes some tenths of a second.
MOST_RECORDS = 20_000
#: The largest number of kinds in a document; about fifty kinds of containers are not opened.
MOST_KINDS = 100
#: The command of each event that ends a run.
_ENDS: dict[str, Command] = {
    "fetch": "fetch",
    "refused": "fetch",
    "scan-end": "scan",
    "lookup-end": "lookup",
    "serve-end": "serve",
    "watch-look": "watch",
}
_COUNTS = ("inputs", "match", "unread")
_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MACHINE_ID = Path("/etc/machine-id")


def make_document(
    session: Session, status: Status, counter: int, failures: int
) -> tuple[StatusDocument, bytes]:
    """Return document number `counter` of this machine, and the signed bytes of the document.

    `failures`: how often publishing has failed since the last success.

    Raises:
        AuditError: the log cannot be read, or its key is missing.
        StateError: no log exists yet.
    """
    settings, now = session.settings, session.now().astimezone(UTC)
    config = settings.config
    line, key = head_checkpoint(settings.layout.audit)
    records = list(newest(settings.layout.audit, now - WINDOW, MOST_RECORDS))
    since = now - WINDOW if len(records) < MOST_RECORDS else records[-1].time
    lists = sorted(map(_list, status.lists), key=lambda one: (one.state == "fresh", one.name))
    kept = [one for one in lists if is_name(one.name)][:MOST_LISTS]
    last_scan = None if status.audit is None else status.audit.last_scan
    room = os.statvfs(settings.state_dir)
    document = StatusDocument(
        format=FORMAT,
        machine=_machine(parse_checkpoint(line).identity.log_id),
        version=__version__,
        made=now,
        counter=counter,
        interval_s=round(config.fleet.every_hours * 3600),
        exit_code=int(status.exit_code),
        lists=tuple(kept),
        lists_omitted=len(lists) - len(kept),
        providers_unknown=len(status.providers),
        counted_since=min(since, now),
        runs=_runs(records, last_scan),
        matches=None if status.matches is None else dict(status.matches),
        to_review=status.to_review,
        brake=Brake(config.brake.per_entry, config.brake.per_day, len(status.held)),
        not_opened=_not_opened(last_scan),
        notices_open=0 if status.notices is None else len(status.notices.open),
        problems=len(status.problems),
        failed_publications=failures,
        room=Room(room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize),
        checkpoint=line.decode().rstrip("\n"),
    )
    return document, encode_status(document, key)


def _machine(log_id: str) -> Machine:
    name = printable(os.uname().nodename)[:255] or "unnamed"
    system = b""
    with contextlib.suppress(OSError):
        system = _MACHINE_ID.read_bytes()
    # The id of the system must not be published (machine-id(5)), so only a hash of the id with
    # other data is published.
    made_of = b"\0".join((b"hashclient machine v1", log_id.encode(), name.encode(), system))
    return Machine(log_id, name, hashlib.sha256(made_of).hexdigest()[:16])


def _list(entry: ListStatus) -> ListState:
    refused = None if entry.refused is None else int(entry.refused.exit_code)
    manifest = entry.manifest
    if manifest is None or not entry.usable:
        return ListState(entry.name, entry.provider, "unusable", refused=refused)
    stale = entry.exit_code is ExitCode.STALE
    return ListState(
        entry.name,
        manifest.provider,
        "stale" if stale else "fresh" if entry.fresh else "grace",
        manifest.generation,
        manifest.published_at,
        manifest.expires,
        manifest.checked_at,
        refused,
    )


def _runs(records: Iterable[Record], last_scan: Record | None) -> dict[Command, Runs]:
    """Return the runs of each command; `records` are the newest records, the last one first."""
    found: dict[Command, Runs] = {}
    for record in records:
        command, data = _ENDS.get(record.event), record.data
        # An event that is too large for one line has several records, which repeat its counts, so
        # only the first record is counted.
        if command is None or data.get("part", 1) != 1:
            continue
        code = 0 if record.event == "fetch" else _code(data)
        runs = found.setdefault(command, Runs(record.time, code))
        runs.runs += 1
        runs.failed += code not in (ExitCode.OK, ExitCode.MATCH)
        for name in _COUNTS:
            setattr(runs, name, getattr(runs, name) + _number(data, name))
    if last_scan is not None and "scan" not in found:
        found["scan"] = Runs(last_scan.time, _code(last_scan.data))
    return found


def _not_opened(last_scan: Record | None) -> dict[str, int]:
    kinds = {} if last_scan is None else last_scan.data.get("not_opened")
    if not isinstance(kinds, dict):
        return {}
    known = sorted(kind for kind in kinds if _WORD.fullmatch(kind))
    return {kind: _number(kinds, kind) for kind in known[:MOST_KINDS]}


def _code(data: dict[str, Any]) -> int | None:
    """Return the exit code in a record, or None if the record has no valid exit code."""
    value = data.get("exit_code")
    return value if type(value) is int and 0 <= value <= 255 else None


def _number(data: dict[str, Any], name: str) -> int:
    """Return a count in a record.

    An invalid count becomes 0, because somebody else may have written the log.
    """
    value = data.get(name)
    return min(value, 1 << 40) if type(value) is int and value >= 0 else 0


#: The seconds to wait for another process that publishes.
LOCK_WAIT_S = 30.0


def publish(session: Session, status: Status, where: str) -> str:
    """Publish the status in a directory or a bucket; return the place in a form for people.

    `status.published` is updated whether the publication succeeds or fails.

    Raises:
        HashclientError: the status could not be published; an earlier document stays.
    """
    place = place_at(where)
    layout = session.settings.layout
    path = make_private_dir(layout.fleet) / PUBLISHED_NAME
    with writer_lock(layout.fleet / ROOM_LOCK_NAME, wait_s=LOCK_WAIT_S):  # rule 1 of publishing
        before = load_published(layout)
        begun = replace(before, counter=before.counter + 1, failures=before.failures + 1)
        keep(path, begun)  # rule 2 of publishing
        status.published = begun
        document, data = make_document(session, status, begun.counter, before.failures)
        place.write(document.machine.file_name, data)  # rule 3 of publishing
        done = replace(begun, at=document.made, failures=0)
        keep(path, done)  # rule 4 of publishing
        status.published = done
    return place.text
