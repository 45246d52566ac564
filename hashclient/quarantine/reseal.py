"""Sealing what is kept to other public keys: for an officer who comes, or one who goes.

The sealed copy is opened with an old key, in memory, and what comes out is encrypted again at the
same time, so nothing in plain is ever on a disk. The new copy takes the place of the old one in one
step; whatever ends an act, one of them is there, whole, with the document that belongs to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import msgspec

from hashclient.core.kinds import MatchState
from hashclient.errors import StateError, UsageError
from hashclient.matches.store import Matches
from hashclient.quarantine import age
from hashclient.quarantine.evidence import file_chunks, unsealed
from hashclient.quarantine.item import Item, Mark
from hashclient.quarantine.sealing import Digester, check_space, is_what_matched, write_sealed
from hashclient.quarantine.store import Room
from hashclient.system.text import printable

#: The event of a match's story; it leaves its state as it is.
RESEALED = "resealed"


class Resealed(msgspec.Struct, frozen=True):
    """The item as it is now, and whether it was sealed again or was sealed to these already."""

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
    """Seal what is kept of a match to `recipients`, and to nobody else.

    1. It is here and not about to go, and not sealed to exactly these already. There is room.
    2. That its copy is going to be opened is logged, and for whom.
    3. It is opened in memory and sealed into a new folder, as it comes.
    4. It is the file: the old copy was unchanged, the size is right, and so are the sealed digests,
       where the seal key is still the same.
    5. The new copy is on the disk, and reads back as it was written.
    6. That it is complete, and about to take the place of the old one, is logged.
    7. It takes its place, with its document, in one step, durably.
    8. The old copy is removed, and the story of the match says so.

    A hold does not keep from this: nothing of what is kept is lost.

    Raises:
        UsageError, AuthorisationError, StateError, AuditError: as `Quarantine.reseal` says.
    """
    texts = tuple({age.canonical_recipient(text): text.strip() for text in recipients}.values())
    keys = age.parse_recipients(texts)
    with room.locked():
        item = room.need(match_id, matches)  # 1
        match = matches.look_up(match_id)
        if match is not None and match.state is MatchState.PURGED:
            raise UsageError(
                f"{match_id} is being destroyed",
                hint="`hashclient quarantine purge` finishes that",
            )
        if _same(item.recipients, texts):
            return Resealed(item, done=False)
        check_space(room, item.size)
        room.log("resealing", item, mark, recipients=list(texts))  # 2
        with room.new_folder() as folder:
            with contextlib.closing(_opened(room, item, identities)) as plain:
                written = write_sealed(room, age.Chunks(plain).read, folder, keys)  # 3 to 5
            changed = msgspec.structs.replace(
                item,
                recipients=texts,
                evidence_sha256=written.sha256,
                evidence_bytes=written.length,
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
                hint="who could open it still can: remove the folder, or let the next command on"
                " the quarantine do so",
            )
        return Resealed(changed, done=True)


def _same(recipients: Sequence[str], others: Sequence[str]) -> bool:
    first, second = ({age.canonical_recipient(r) for r in them} for them in (recipients, others))
    return first == second


def _opened(room: Room, item: Item, identities: Sequence[Any]) -> Generator[bytes]:
    """Yield the file of an item out of its sealed copy; it ends only if that is what was sealed.

    Raises:
        AuthorisationError: none of `identities` opens it.
        StateError: the copy is damaged, or cannot be read.
    """
    path = room.evidence(item.id)
    tags = item.tags_by_algorithm() if room.can_prove(item.key_id) else {}
    sealed, plain = hashlib.sha256(), Digester(tags)

    def read() -> Iterator[bytes]:
        for chunk in file_chunks(path):
            sealed.update(chunk)
            yield chunk

    with contextlib.closing(unsealed(read(), identities)) as chunks:
        for chunk in chunks:
            plain.update(chunk)
            room.on_bytes(len(chunk))
            yield chunk
    if (
        sealed.hexdigest() != item.evidence_sha256
        or plain.count != item.size
        or (tags and not is_what_matched(plain, item.size, tags, room.sealer))
    ):
        raise StateError(
            f"the sealed copy is not what was sealed: {printable(path)}",
            hint="`hashclient quarantine verify` says more; it was left as it is",
        )
