"""Seals the items in quarantine to other public keys, for example when an officer leaves.

The sealed copy is decrypted with an old key in memory and encrypted again at the same time, so
plain bytes are never written to a disk. The new copy replaces the old copy in one step. If the
process is killed at any time, the folder of the item contains either the old or the new copy with
its document.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core import agefile
from hashclient.core.errors import StateError
from hashclient.core.match import RESEALED
from hashclient.matches.store import Matches
from hashclient.quarantine import age
from hashclient.quarantine.evidence import file_chunks, unsealed
from hashclient.quarantine.item import Item, Mark, context_path
from hashclient.quarantine.sealing import (
    Digester,
    Written,
    check_space,
    is_what_matched,
    write_sealed,
)
from hashclient.quarantine.store import Room
from hashclient.system.layout import EVIDENCE_NAME
from hashclient.system.text import printable


class Resealed(msgspec.Struct, frozen=True):
    """The item after the call; `done` is False if the item already had the new recipients."""

    item: Item
    done: bool


def reseal(
    room: Room,
    match_id: str,
    identities: Sequence[Any],
    recipients: Sequence[str],
    matches: Matches,
    mark: Mark,
) -> Resealed:
    """Seal the item of a match to the public keys `recipients` only.

    1. The item must exist, must not be being destroyed, and must have other recipients. The disk
       must have space for the new copy.
    2. The intent to open the sealed copy is logged with the new recipients.
    3. The sealed copy is decrypted in memory and encrypted into a new folder at the same time.
    4. The SHA-256 of the old copy and the size of the plain content are checked. The tags of the
       plain content are checked if the seal key has not changed.
    5. The new copy is written to the disk, read back from the disk, and compared with the written
       bytes.
    6. An event in the audit log says that the new copy is complete and will now replace the old
       copy.
    7. The new folder replaces the old folder in one step, durably.
    8. The old folder is removed, and the history of the match records the change of recipients.

    An item on hold can be sealed to other keys, too, because no content is lost.

    Raises:
        UsageError, AuthorisationError, StateError, AuditError: as for `Quarantine.reseal`.
    """
    texts = tuple({age.canonical_recipient(text): text.strip() for text in recipients}.values())
    keys = age.parse_recipients(texts)
    with room.locked():
        item, match = room.need_kept(match_id, matches)  # 1
        if all(_same(r, texts) for r in (item.recipients, *(c.recipients for c in item.context))):
            return Resealed(item, done=False)
        check_space(room, item.size + sum(one.size for one in item.context))
        room.log("resealing", item, mark, recipients=list(texts))  # 2
        with room.new_folder() as folder:
            opened = _opened(room, item, identities)
            written = _write(room, opened, folder / EVIDENCE_NAME, keys)  # 3 to 5
            context = []
            for number, one in enumerate(item.context, 1):
                old = context_path(room.folder(item.id), number)
                opened = _plain(room, old, one.evidence_sha256, one.size, Digester(()), identities)
                again = _write(room, opened, folder / old.name, keys)
                context.append(
                    msgspec.structs.replace(
                        one,
                        recipients=texts,
                        evidence_sha256=again.sha256,
                        evidence_bytes=again.length,
                    )
                )
            changed = msgspec.structs.replace(
                item,
                recipients=texts,
                evidence_sha256=written.sha256,
                evidence_bytes=written.length,
                context=tuple(context),
            )
            # 6
            room.log(
                "resealed",
                item,
                mark,
                recipients=list(texts),
                before=list(item.recipients),
                evidence_sha256=written.sha256,
                evidence_bytes=written.length,
            )
            room.exchange(folder, changed)  # 7
        if match is not None:  # 8
            matches.note(match_id, RESEALED, room.now(), {"by": mark.by, "reason": mark.reason})
        if os.path.lexists(folder):
            raise StateError(
                f"{match_id} is sealed again, but the old copy cannot be removed:"
                f" {printable(folder)}",
                hint="its recipients still can open it: remove the folder, or let the next command"
                " on the quarantine do so",
            )
        return Resealed(changed, done=True)


def _same(recipients: Sequence[str], others: Sequence[str]) -> bool:
    first, second = ({age.canonical_recipient(r) for r in them} for them in (recipients, others))
    return first == second


def _opened(room: Room, item: Item, identities: Sequence[Any]) -> Generator[bytes]:
    """Yield the plain bytes of an item's file; at the end, check that they are the sealed bytes.

    Raises:
        AuthorisationError: no secret key in `identities` can open the copy.
        StateError: the copy is damaged, or cannot be read.
    """
    path = room.evidence(item.id)
    tags = item.tags_by_algorithm() if room.can_prove(item.key_id) else {}
    plain = Digester(tags)
    yield from _plain(room, path, item.evidence_sha256, item.size, plain, identities)
    if tags and not is_what_matched(plain, item.size, tags, room.sealer):
        raise _not_sealed(path)


def _plain(
    room: Room, path: Path, sha256: str, size: int, plain: Digester, identities: Sequence[Any]
) -> Generator[bytes]:
    """Yield the plain bytes of the sealed copy `path`, and update `plain` with these bytes.

    Raises:
        AuthorisationError: no secret key in `identities` can open the copy.
        StateError: the copy is damaged, or cannot be read.
    """
    sealed = hashlib.sha256()

    def read() -> Iterator[bytes]:
        for chunk in file_chunks(path):
            sealed.update(chunk)
            yield chunk

    with contextlib.closing(unsealed(read(), identities)) as chunks:
        for chunk in chunks:
            plain.update(chunk)
            room.on_bytes(len(chunk))
            yield chunk
    if sealed.hexdigest() != sha256 or plain.count != size:
        raise _not_sealed(path)


def _write(room: Room, plain: Generator[bytes], path: Path, keys: Sequence[Any]) -> Written:
    with contextlib.closing(plain):
        return write_sealed(room, agefile.Chunks(plain).read, path, keys)


def _not_sealed(path: Path) -> StateError:
    return StateError(
        f"the sealed copy is not the file that was sealed: {printable(path)}",
        hint="`hashclient quarantine verify` says more; it was left as it is",
    )
