"""Other files that belong to a match, for example a chat or the data of an account.

A sealed copy of each file belongs to the item: it is shown, sealed again, kept and destroyed with
the item. The files themselves stay in their places, so restoring the item drops the copies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hashclient.core.errors import StateError, UsageError
from hashclient.core.match import CONTEXT_ADDED
from hashclient.matches.store import Matches
from hashclient.quarantine import age
from hashclient.quarantine.item import Belonging, Item, Mark, context_path
from hashclient.quarantine.safe_rename import reason_of
from hashclient.quarantine.sealing import check_space, write_sealed
from hashclient.quarantine.store import Room
from hashclient.system.files import fsync_dir, open_regular
from hashclient.system.text import path_fields, printable

#: How many files belong to an item at most.
MOST = 1000


def add_context(
    room: Room, match_id: str, paths: Sequence[Path], matches: Matches, mark: Mark
) -> Item:
    """Seal copies of files to the recipients of an item, and return the item.

    1. The item is here and is not being restored or destroyed.
    2. A copy of each file is sealed into the folder of the item, durably, and read back. Copies
       that a kill has left in the folder without a line in the document are replaced.
    3. The addition is logged, and then written into the document and the history of the match.

    Raises:
        UsageError: no item has this id, or a file cannot be read.
        ConfigError, StateError, AuditError: as for `Quarantine.add_context`.
    """
    with room.locked():
        item, match = room.need_kept(match_id, matches)  # 1
        if len(item.context) + len(paths) > MOST:
            raise UsageError(f"more than {MOST} files belong to {match_id}")
        added = [
            _seal(room, item, number, path, mark)  # 2
            for number, path in enumerate(paths, len(item.context) + 1)
        ]
        with room.errors("cannot write to the quarantine", room.folder(match_id)):
            fsync_dir(room.folder(match_id))
        described = [{"path": one.path, "evidence_sha256": one.evidence_sha256} for one in added]
        room.log("context-added", item, mark, context=described)  # 3
        item = msgspec.structs.replace(item, context=(*item.context, *added))
        room.save(item)
        if match is not None:
            detail = {"by": mark.by, "reason": mark.reason, "files": len(added)}
            matches.note(match_id, CONTEXT_ADDED, room.now(), detail)
        return item


def _seal(room: Room, item: Item, number: int, path: Path, mark: Mark) -> Belonging:
    target = context_path(room.folder(item.id), number)
    whole = os.path.realpath(path)
    left = 0

    def read(count: int) -> bytes:
        nonlocal left
        data = stream.read(min(count, left))
        left -= len(data)
        return data

    try:
        with open_regular(path) as stream:
            left = size = os.fstat(stream.fileno()).st_size
            check_space(room, size)
            with room.errors("cannot write to the quarantine", target):
                target.unlink(missing_ok=True)
            written = write_sealed(room, read, target, age.parse_recipients(item.recipients))
            if left or stream.read(1):
                raise StateError(
                    f"changed while it was read: {printable(path)}", hint="try it again"
                )
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {reason_of(error)}") from error
    where = path_fields(whole)
    return Belonging(
        where["path"],
        where.get("path_b64"),
        size,
        written.sha256,
        written.length,
        item.recipients,
        mark,
    )


def context_paths(room: Room, item: Item) -> list[Path]:
    """Return the paths of the sealed copies that belong to an item."""
    folder = room.folder(item.id)
    return [context_path(folder, number) for number in range(1, len(item.context) + 1)]


def keep_context(room: Room, item: Item, folder: Path) -> None:
    """Give a new folder of an item the copies that belong to it and are in the present folder.

    Raises:
        StateError: the folder cannot be written.
    """
    with room.errors("cannot write to the quarantine", folder):
        for path in context_paths(room, item):
            os.link(path, folder / path.name)
