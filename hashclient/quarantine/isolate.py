"""Taking a file away: sealed first, proven to be the one that matched, and only then removed.

Whatever ends an act, the file is in its place or its sealed copy is complete. An act on a match
that was interrupted is finished by the next one on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.errors import StateError, UsageError
from hashclient.matches.store import Matches
from hashclient.quarantine import age
from hashclient.quarantine.attributes import read_origin
from hashclient.quarantine.inuse import open_elsewhere
from hashclient.quarantine.item import Item, ItemHit, Mark, Stage
from hashclient.quarantine.safe_rename import (
    GONE,
    PRIVATE_NAME,
    Place,
    Removal,
    is_unchanged,
    open_file,
    open_place,
    put_back,
    reason_of,
    remove_exactly,
)
from hashclient.quarantine.sealing import (
    check_space,
    digest_all,
    is_what_matched,
    seal,
    verify_evidence,
)
from hashclient.quarantine.store import Room
from hashclient.quarantine.tombstone import has_tombstone, put_tombstone, tombstone_text
from hashclient.system.text import path_fields, printable

#: Of the processes that hold a file open, so many are named.
_MOST_NAMED = 5

_CHANGED = "changed: it is not the file that matched any more"


class Taken(msgspec.Struct, frozen=True):
    """What became of the file of a match.

    `sealed` says whether there is a complete sealed copy, `taken` whether the file is away from its
    place besides. `detail` says it for people. `attention` is set where somebody should look.
    """

    taken: bool
    sealed: bool
    detail: str
    attention: bool = False


class _Act(msgspec.Struct, frozen=True):
    """What the steps of one act share."""

    room: Room
    match: Match
    matches: Matches
    mark: Mark

    @property
    def private(self) -> str:
        return PRIVATE_NAME.format(self.match.id)


def take(room: Room, match_id: str, matches: Matches, mark: Mark) -> Taken:
    """Seal the file of a match and remove it from its place.

    1. It stands to reason: the match is where it was found, not withdrawn, its story has not ended,
       and there are recipients to seal to.
    2. The path is opened without following a link at any of its components.
    3. What is there is a regular file of the right size.
    4. It is read once, to be sealed into a new folder and digested at the same time.
    5. It is the file that matched: the sealed digests are those of the record, and nothing about it
       has changed meanwhile.
    6. The sealed copy is on the disk: it was synced, and reads back as what was written.
    7. The folder gets its document and then its name, durably.
    8. That it is sealed is logged.
    9. The name of the file is removed, if it is still that of the file that was sealed.
    10. A tombstone is put in its place, where one is configured.
    11. The record, the log and last the document say that it is removed.

    Raises:
        UsageError, ConfigError, StateError, AuditError: as `Quarantine.take` says.
    """
    with room.locked():
        match = matches.get(match_id)
        act = _Act(room, match, matches, mark)
        item = room.find(match_id, matches)
        if item is not None and not match.in_place:
            if item.stage is not Stage.REMOVED:
                _record(act, item, [])
            return Taken(taken=True, sealed=True, detail="in quarantine already")
        # What another seal key made proves nothing. The file is sealed anew, if it is there.
        can_resume = item is not None and room.can_prove(item.key_id)
        recipients = _check(act, item if can_resume else None)  # 1
        try:
            with open_place(match.path) as place:  # 2
                if item is not None and can_resume:
                    return _resume(act, item, place)
                with open_file(place) as (fd, before):  # 3
                    sealed = _seal(act, place, fd, before, recipients, item)
                    if isinstance(sealed, Taken):
                        return sealed
                    return _remove(act, sealed, fd, before, place)
        except OSError as error:
            item = room.find(match_id, matches)
            if item is None:
                return _not_sealed(reason_of(error))
            why = reason_of(error)
            return _left(act, item, why if why == GONE else f"still in place: {why}")


def _not_sealed(why: str) -> Taken:
    return Taken(taken=False, sealed=False, detail=f"not quarantined: {why}", attention=True)


def _check(act: _Act, item: Item | None) -> list[Any]:
    """Refuse what is not to be taken (step 1), and return the recipients."""
    match = act.match
    if match.is_stream:
        raise UsageError(
            f"match {match.id} came as a stream: there is no file to take away",
            hint="look for it where it came from; `hashclient matches close` ends its story",
        )
    try:
        act.room.sealer  # noqa: B018 - read now: it may be missing
    except StateError as error:
        raise StateError(
            f"without the seal key it cannot be proven which file matched: {error.message}",
            hint=error.hint,
        ) from error
    if match.ended is MatchState.WITHDRAWN:
        raise UsageError(
            f"match {match.id} is withdrawn: the provider does not stand by its entry any more",
            hint="`hashclient matches close` ends its story",
        )
    if match.ended or not match.in_place:
        raise UsageError(
            f"match {match.id} is not open: it is {match.state}",
            hint="when a scan finds the file again, it is",
        )
    key_id = match.key_id if item is None else item.key_id
    if not match.tags or not act.room.can_prove(key_id):
        raise StateError(
            f"match {match.id} was sealed with another key, so the file cannot be proven",
            hint="scan the file again",
        )
    return age.parse_recipients(act.room.config.recipients if item is None else item.recipients)


def _seal(
    act: _Act,
    place: Place,
    fd: int,
    before: os.stat_result,
    recipients: Sequence[Any],
    replaced: Item | None,
) -> Item | Taken:
    """Make a sealed copy (steps 3 to 8); return the item that it is, or why there is none.

    It takes the place of `replaced`, if that is given.
    """
    room, match = act.room, act.match
    if match.size not in (None, before.st_size):  # 3
        return _not_sealed(_CHANGED)
    check_space(room, before.st_size)
    with room.new_folder() as folder:
        read, sealed = seal(room, fd, before.st_size, match.tags, folder, recipients)  # 4, 6
        if not is_unchanged(before, os.fstat(fd)) or not is_what_matched(  # 5
            read, before.st_size, match.tags, room.sealer
        ):
            return _not_sealed(_CHANGED)
        config = room.config
        where = path_fields(match.path)
        item = Item(
            id=match.id,
            stage=Stage.SEALED,
            path=where["path"],
            path_b64=where.get("path_b64"),
            size=before.st_size,
            origin=read_origin(fd, before, place.directory_inode()),
            evidence_sha256=sealed.sha256,
            evidence_bytes=sealed.length,
            recipients=config.recipients,
            taken=act.mark,
            hits=tuple(ItemHit.of(hit) for hit in match.hits),
            tags={a.label: tag.hex() for a, tag in match.tags.items()},
            key_id=match.key_id,
            tombstone=tombstone_text(config.tombstone, match.id, act.mark.time),
            hold=None if replaced is None else replaced.hold,
        )
        # One that is replaced may go: the file is in its place, is open, and was proven just now.
        room.admit(folder, item, replaces=replaced is not None)  # 7
    _log_sealed(act, item)  # 8
    return item


def _log_sealed(act: _Act, item: Item) -> None:
    act.room.log(
        "quarantine-sealed",
        item,
        act.mark,
        size=item.size,
        hits=[msgspec.to_builtins(hit) for hit in item.hits],
        recipients=list(item.recipients),
        evidence_sha256=item.evidence_sha256,
        evidence_bytes=item.evidence_bytes,
    )


def _resume(act: _Act, item: Item, place: Place) -> Taken:
    """Finish what an earlier act on the match has begun, after a look at what there is now.

    Raises:
        OSError: what there is cannot be found out.
    """
    verify_evidence(act.room, item)
    _log_sealed(act, item)  # 8
    hidden = place.at(act.private)
    is_stranded = False
    if hidden.status() is not None and not put_back(hidden, place.name):
        # That act was killed while the name was aside, and somebody has taken it since. Or this is
        # somebody's who wants to be in the way.
        with _prove(act, item, hidden) as found:
            if not found.is_proven:
                is_stranded = True
            else:
                os.unlink(hidden.name, dir_fd=hidden.fd)
                place.try_sync()
    with _prove(act, item, place) as found:
        if found.is_proven and found.status is not None:
            return _remove(act, item, found.fd, found.status, place)
    if is_stranded:
        return _left(act, item, _REMOVALS[Removal.STRANDED].format(printable(hidden.path)))
    now = place.status()
    if now is None:
        if place.identity() != (item.origin.device, item.origin.directory_inode):
            return _left(act, item, "its directory is another one now: is something not mounted?")
        return _finish(act, item, place, [])
    if stat.S_ISREG(now.st_mode) and not found.is_of(now):
        # Whoever moves the file away for a moment must not have it taken for gone.
        return _left(act, item, "what is at its path is being exchanged just now")
    if has_tombstone(place, item):
        return _finish(act, item, None, [])
    item = msgspec.structs.replace(item, tombstone=None)
    return _finish(act, item, None, ["something else is at its path now, and was left alone"])


class _Found(msgspec.Struct, frozen=True):
    """The regular file at a place, open as `fd`, and whether it is the one that was sealed.

    Where there is none, `fd` and `status` mean nothing.
    """

    is_proven: bool = False
    fd: int = -1
    status: os.stat_result | None = None

    def is_of(self, status: os.stat_result) -> bool:
        return self.status is not None and os.path.samestat(self.status, status)


@contextlib.contextmanager
def _prove(act: _Act, item: Item, place: Place) -> Iterator[_Found]:
    """Open what is at a place; yield whether it is the file that was sealed.

    Raises:
        OSError: it cannot be read, or somebody has changed it meanwhile: nobody knows what it is.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd, before = stack.enter_context(open_file(place))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EISDIR):
                raise
            yield _Found()
            return
        tags = item.tags_by_algorithm()
        digester = digest_all(fd, tags, item.size)
        after = os.fstat(fd)
        if not is_unchanged(before, after):
            raise OSError(errno.EAGAIN, "changed while it was read", place.path)
        proven = is_what_matched(digester, item.size, tags, act.room.sealer)
        yield _Found(proven, fd, after)


def _remove(act: _Act, item: Item, fd: int, status: os.stat_result, place: Place) -> Taken:
    """Remove the file that was sealed from its place (step 9), and go on to the end."""
    try:
        removal = remove_exactly(place, act.private, fd, status)
    except FileNotFoundError:
        if os.fstat(fd).st_nlink:
            return _left(act, item, "it was moved away meanwhile")
        return _finish(act, item, place, ["somebody else had removed it"])
    except OSError as error:
        return _left(act, item, f"still in place: {reason_of(error, place)}")
    if removal is not Removal.REMOVED:
        # It has a longer name where somebody had taken that one.
        aside = printable(place.at(act.private).path) + "*"
        return _left(act, item, _REMOVALS[removal].format(aside))
    return _finish(act, item, place, _remains(fd))


_REMOVALS = {
    Removal.OTHER: "another file was put in its place meanwhile, and left alone",
    Removal.CHANGED: "it was changed meanwhile, and is still in place",
    Removal.STRANDED: "another file was put in its place meanwhile; that one is now {}",
}


def _remains(fd: int) -> list[str]:
    """Return where the file open as `fd`, which has lost its name, still is."""
    remains = []
    if links := os.fstat(fd).st_nlink:
        names = "other name of it remains" if links == 1 else "other names of it remain"
        remains.append(f"{links} {names}")
    if processes := open_elsewhere(fd):
        named = ", ".join(processes[:_MOST_NAMED])
        more = len(processes) - _MOST_NAMED
        remains.append(f"still open in {named}" + (f" and {more} more" if more > 0 else ""))
    return remains


def _left(act: _Act, item: Item, why: str) -> Taken:
    """Say that a file was sealed but not removed; the next act on it tries again."""
    act.room.log("quarantine-incomplete", item, act.mark, detail=why)
    return Taken(taken=False, sealed=True, detail=f"sealed, but {why}", attention=True)


def _finish(act: _Act, item: Item, place: Place | None, remains: list[str]) -> Taken:
    """Leave the tombstone, if there is a `place` for it, and write down that the file is gone."""
    if place is not None and (failure := put_tombstone(place, item)):  # 10
        remains = [*remains, failure]
    _record(act, item, remains)  # 11
    detail = "; ".join(["quarantined", *remains])
    return Taken(taken=True, sealed=True, detail=detail, attention=bool(remains))


def _record(act: _Act, item: Item, remains: list[str]) -> None:
    """Write down that the file is gone.

    The document is the last, since what the next act does rests on it.
    """
    mark = act.mark
    if act.match.in_place:
        detail = {"by": mark.by, "reason": mark.reason}
        now = act.room.now()
        act.matches.change(item.id, MatchState.QUARANTINED, now, detail, in_place=False)
    act.room.log("quarantined", item, mark, remains=remains)
    act.room.save(msgspec.structs.replace(item, stage=Stage.REMOVED))
