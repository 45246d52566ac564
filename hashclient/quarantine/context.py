"""Adds other files to the item of a match, for example a chat or the data of an account.

A sealed copy of each added file is stored in the folder of the item, and is shown, sealed to other
keys and destroyed together with the item. When the item is restored, the sealed copies of added
files are removed without being restored, because the added files themselves were never removed from
their directories.
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

#: The highest number of files that can be added to an item.
MOST = 1000


def add_context(
    room: Room, match_id: str, paths: Sequence[Path], matches: Matches, mark: Mark
) -> Item:
    """Seal copies of files to the recipients of an item, and return the item.

    1. The item exists and is not being restored or destroyed.
    2. Each file is sealed into the folder of the item, written to the disk and read back. A copy
       that a killed process has left in the folder is replaced if the document of the item does not
       name the copy.
    3. The addition is logged, and then written to the document of the item and the history of the
       match.

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
    """Return the paths of the sealed copies of the files that were added to an item."""
    folder = room.folder(item.id)
    return [context_path(folder, number) for number in range(1, len(item.context) + 1)]


def keep_context(room: Room, item: Item, folder: Path) -> None:
    """Make hard links in `folder` to the sealed copies of the files that were added to an item.

    Raises:
        StateError: the folder cannot be written.
    """
    with room.errors("cannot write to the quarantine", folder):
        for path in context_paths(room, item):
            os.link(path, folder / path.name)
