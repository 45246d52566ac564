"""Checks that each item in quarantine is complete, and that no file is missing or left over.

The check changes no file, and needs neither the lock of the quarantine nor a key. Limit: the check
does not show whether the officer still has the secret key. An item that is removed during the check
is ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from hashclient.core import agefile
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.matches.store import Matches
from hashclient.quarantine.item import (
    Belonging,
    Item,
    Note,
    Stage,
    context_path,
    item_ids,
    load_item,
    load_notes,
)
from hashclient.quarantine.safe_rename import reason_of
from hashclient.quarantine.sealing import sha256_on_disk
from hashclient.quarantine.store import Room
from hashclient.system import files
from hashclient.system.layout import ITEM_NAME, RESTORED_NAME, ROOM_LOCK_NAME
from hashclient.system.text import printable

#: The states of a match whose file is in quarantine, unless the file is at its original path.
_KEPT = (
    MatchState.FOUND,
    MatchState.HELD,
    MatchState.QUARANTINED,
    MatchState.REPORTED,
    MatchState.ACKNOWLEDGED,
    MatchState.WITHDRAWN,
)
_NOT_FOR_OTHERS = 0o077


class Finding(msgspec.Struct, frozen=True):
    """A finding about the item or the other file `name` in the quarantine.

    `ok` is False if the item is damaged or missing, or if the file does not belong to the
    quarantine. `attention` is set if an interrupted operation must be finished. `detail` describes
    the finding for people.
    """

    name: str
    ok: bool
    detail: str
    attention: bool = False


def verify(room: Room, matches: Matches) -> Iterator[Finding]:
    """Check every item, and look for leftover files and missing items.

    1. The document of the item is well-formed and contains the id of the item.
    2. Only the owner may read the files of the item.
    3. The sealed copy has the length and the SHA-256 in the document.
    4. The sealed copy is in the age format, with the right number of recipients and the right
       length for the item.
    5. The file was removed from its path; otherwise the finding says where the file is.

    Raises:
        StateError: the quarantine or the record of matches cannot be read.
    """
    try:
        notes = load_notes(room.directory)
    except StateError as error:  # without notes, all other checks are still made
        notes = {}
        yield Finding(RESTORED_NAME, ok=False, detail=error.message)
    ids = item_ids(room.directory)
    for match_id in ids:
        finding = _check(room, match_id, matches, notes)
        if finding is not None:
            yield finding
    known = {ROOM_LOCK_NAME, RESTORED_NAME, *ids}
    if room.directory.is_dir():
        with room.errors("cannot read the quarantine", room.directory):
            names = sorted(set(os.listdir(room.directory)) - known)  # noqa: PTH208
        for name in names:
            shown = printable(name)
            if name.startswith(files.TEMP_PREFIX):
                detail = "left by a killed command, or being written; the next act removes it"
                yield Finding(shown, ok=True, detail=detail)
            else:
                yield Finding(shown, ok=False, detail="does not belong here")
    for match in matches.find(_KEPT):
        if not match.in_place and match.id not in ids and not room.folder(match.id).exists():
            detail = f"missing: the match is {match.state}, and its sealed copy is not here"
            yield Finding(match.id, ok=False, detail=detail)


def _check(
    room: Room, match_id: str, matches: Matches, notes: Mapping[str, Note]
) -> Finding | None:
    try:
        item = load_item(room.directory, match_id, notes)  # 1
        detail = _check_files(room, item)
    except UsageError:  # the item was restored or purged
        return None
    except StateError as error:
        return Finding(match_id, ok=False, detail=error.message)
    if detail is not None:
        return (
            None
            if not room.folder(match_id).exists()
            else Finding(match_id, ok=False, detail=detail)
        )
    unfinished = _unfinished(room, item, matches)  # 5
    if unfinished is not None:
        return Finding(match_id, ok=True, detail=unfinished, attention=True)
    return Finding(match_id, ok=True, detail="whole")


def _check_files(room: Room, item: Item) -> str | None:
    """Return a message about a fault of an item's files (steps 2 to 4 of `verify`), or None."""
    folder = room.folder(item.id)
    sealed: dict[Path, Item | Belonging] = {room.evidence(item.id): item}
    sealed |= {context_path(folder, n): one for n, one in enumerate(item.context, 1)}
    try:
        for path in (folder, folder / ITEM_NAME):  # 2
            if stat.S_IMODE(path.lstat().st_mode) & _NOT_FOR_OTHERS:
                return f"others can read it: chmod go= {printable(path)}"
    except OSError as error:
        return f"{ITEM_NAME} cannot be read: {reason_of(error)}"
    return next(filter(None, (_check_sealed(room, *each) for each in sealed.items())), None)


def _check_sealed(room: Room, path: Path, one: Item | Belonging) -> str | None:
    """Return a message about a fault of a sealed copy (steps 2 to 4 of `verify`), or None."""
    try:
        # Without O_NONBLOCK, the open of a pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_IMODE(os.fstat(fd).st_mode) & _NOT_FOR_OTHERS:  # 2
                return f"others can read it: chmod go= {printable(path)}"
            sha256, length = sha256_on_disk(fd, room.on_bytes)  # 3
            begin = os.pread(fd, agefile.MAX_HEADER_BYTES, 0)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read: {reason_of(error)}"
    if length != one.evidence_bytes:
        return f"{path.name} has {length:,} bytes instead of {one.evidence_bytes:,}"
    if sha256 != one.evidence_sha256:
        return f"{path.name} was altered"
    try:
        header = agefile.parse_header(begin)  # 4
    except HashclientError as error:
        return f"{path.name}: {error.message}"
    if header.recipients != len(one.recipients):
        expected = len(one.recipients)
        return f"{path.name} is for {header.recipients} recipients instead of {expected}"
    if length != agefile.sealed_bytes(header.header_bytes, one.size):
        return f"{path.name} does not hold {one.size:,} bytes"
    return None


def _unfinished(room: Room, item: Item, matches: Matches) -> str | None:
    """Return a message about an interrupted operation on an item, and how to finish it, or None."""
    match = matches.look_up(item.id)
    if item.restored is not None:
        return "restored, but its copy is still here: `hashclient quarantine purge` removes it"
    if match is not None and match.state is MatchState.PURGED:
        return "purged, but its folder is still here: `hashclient quarantine purge` removes it"
    if item.stage is Stage.REMOVED:
        return None
    where = "; ".join(room.isolator.whereabouts(item)) or "nothing is at its place"
    return f"sealed, not removed ({where}): `hashclient quarantine add {item.id}` removes it"
