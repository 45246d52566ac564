"""The class `Quarantine`: files that matched, sealed to the public key of an officer.

The rest of the program uses the quarantine only by the class `Quarantine`. The quarantine has its
own lock, so a scan can isolate files during a fetch. Each isolated file is in a folder that has the
id of the match as its name, see the module `item`. The methods and functions are:

* `Quarantine(session)`
* `.take(match, matches, reason=…) -> Taken`: seal a file and remove it from its path;
  `.take_all(wanted, …)` seals and removes many files, which are made durable together.
* `.unfinished() -> frozenset[str]`: ids of items whose files are sealed but not removed.
* `.restore(id, identities, matches, reason=…, to=…, force=…) -> Restored`: restore a file to its
  path; `.restore_all(ids, …)` restores many files, which are made durable together.
* `.reseal(id, identities, recipients, matches, reason=…) -> Resealed`: seal an item to other keys.
* `.add_context(id, paths, matches, reason=…) -> Item`: seal copies of files that belong to an item.
* `.hold(id, matches, reason=…)` and `.release(…)`: forbid and allow the removal of an item.
* `.due(id, matches)` and `.purge(id, matches, reason=…, …)`: destroy an item that is due.
* `.verify(matches)`: check all items and files in the quarantine.
* `item_ids(directory)`, `load_item(directory, id) -> Item` and `evidence_path(directory, id)`: the
  items in a quarantine directory, for lists and reports.

A sealed copy is opened only with a secret key that the caller passes (`identities`). Only `restore`
writes plain content, and only to the path of the restored file. Limit: a removed file is not
securely erased from the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.core.match import Match
from hashclient.core.model import Seen
from hashclient.matches.store import Matches
from hashclient.quarantine import context, isolate, reseal, restore, retention, verify
from hashclient.quarantine.age import load_identities, write_identity
from hashclient.quarantine.isolate import Taken
from hashclient.quarantine.isolators.everywhere import Everywhere
from hashclient.quarantine.isolators.interface import Isolator
from hashclient.quarantine.item import Item, Mark, Stage, evidence_path, item_ids, load_item
from hashclient.quarantine.reseal import Resealed
from hashclient.quarantine.restore import Restored
from hashclient.quarantine.retention import Due, Purged
from hashclient.quarantine.store import Room
from hashclient.quarantine.verify import Finding
from hashclient.session import Session

__all__ = [
    "Due",
    "Finding",
    "Item",
    "Mark",
    "Purged",
    "Quarantine",
    "Resealed",
    "Restored",
    "Stage",
    "Taken",
    "evidence_path",
    "item_ids",
    "load_identities",
    "load_item",
    "write_identity",
]

_Out = TypeVar("_Out")


def _only(outcomes: Iterator[tuple[str, _Out | HashclientError]]) -> _Out:
    """Return the result of the only item in `outcomes`, or raise its exception."""
    ((_, outcome),) = outcomes
    if isinstance(outcome, HashclientError):
        try:
            raise outcome
        finally:
            del outcome  # the exception refers to this frame: avoid a cycle
    return outcome


class Quarantine:
    """The quarantine of one state directory; no file is made or read before the first operation."""

    def __init__(
        self,
        session: Session,
        *,
        on_bytes: Callable[[int], None] = lambda _count: None,
        isolator: Isolator | None = None,
    ) -> None:
        """Call `on_bytes` with the number of bytes of each sealed, opened or checked piece.

        `isolator` accesses the places of matches; the default is for files and objects.
        """
        self._room = Room(
            session, on_bytes, isolator or Everywhere(session.settings.config.objects)
        )

    def take(
        self, match: Match, matches: Matches, *, reason: str, seen: Seen | None = None
    ) -> Taken:
        """Seal the file of a match and remove it, or finish an interrupted operation.

        `seen` is the file that the scan has read; by default, the file in the record of matches.

        Raises:
            UsageError: the match is withdrawn or ended, or the record does not contain the file
                that was read.
            ConfigError: no recipients are configured, or a recipient cannot be used.
            StateError: the sealed copy cannot be written, or the file is not the file that matched;
                the file was not removed. Or the record of matches cannot be written, and the next
                operation finishes this operation.
            AuditError: the audit log cannot be written; no file was removed after the failure.
        """
        return _only(self.take_all([(match.id, seen)], matches, reason=reason))

    def take_all(
        self, wanted: Iterable[tuple[str, Seen | None]], matches: Matches, *, reason: str
    ) -> Iterator[tuple[str, Taken | HashclientError]]:
        """Isolate the files of many matches, as `take` does; yield each id with its result.

        `wanted` are pairs: the id of a match, and the file that the scan has read. The file is None
        if it must be looked up in the record of matches.

        Raises:
            LockedError, StateError: the quarantine cannot be locked or written, so no other file is
                isolated.
        """
        return isolate.take(self._room, wanted, matches, self._room.mark(reason))

    def unfinished(self) -> frozenset[str]:
        """Return the ids of undamaged items whose files are sealed but not removed.

        Raises:
            StateError: the directory of the quarantine cannot be read.
        """
        found = []
        for match_id in item_ids(self._room.directory):
            with contextlib.suppress(UsageError, StateError):
                item = self._room.load(match_id)
                if item.stage is Stage.SEALED and item.restored is None:
                    found.append(match_id)
        return frozenset(found)

    def restore(
        self,
        match_id: str,
        identities: Sequence[Any],
        matches: Matches,
        *,
        reason: str,
        to: Path | None = None,
        force: bool = False,
    ) -> Restored:
        """Decrypt a sealed copy, put the file back at its path or at `to`, and remove the copy.

        `identities` are results of `load_identities`. With `force`, the match need not be
        withdrawn.

        Raises:
            UsageError: no item has this id, the item is on hold, its match is not withdrawn, or a
                file exists at the path or cannot be made.
            AuthorisationError: no secret key in `identities` can open the copy.
            StateError: the sealed copy is damaged, or the restored file cannot be written.
            AuditError: the audit log cannot be written; the sealed copy is kept.
        """
        return _only(
            self.restore_all([match_id], identities, matches, reason=reason, to=to, force=force)
        )

    def restore_all(
        self,
        match_ids: Iterable[str],
        identities: Sequence[Any],
        matches: Matches,
        *,
        reason: str,
        to: Path | None = None,
        force: bool = False,
    ) -> Iterator[tuple[str, Restored | HashclientError]]:
        """Restore many items together, as `restore` does; yield ids with results or exceptions.

        `to` is allowed for one item only.

        Raises:
            LockedError, StateError: the quarantine cannot be locked or written, so no other file is
                restored.
        """
        mark = self._room.mark(reason)
        return restore.restore(
            self._room, match_ids, identities, matches, mark, to=to, allow_standing=force
        )

    def reseal(
        self,
        match_id: str,
        identities: Sequence[Any],
        recipients: Sequence[str],
        matches: Matches,
        *,
        reason: str,
    ) -> Resealed:
        """Seal the item of a match to the public keys `recipients` only.

        `identities` are results of `load_identities` that can open the present copy.

        Raises:
            UsageError: no item has this id, or the item is being destroyed.
            ConfigError: no recipients are given, or a recipient is not a public key.
            AuthorisationError: no secret key in `identities` can open the copy.
            StateError: the sealed copy is damaged, or the new copy cannot be written or cannot
                replace the present copy; the present item is complete.
            AuditError: the audit log cannot be written; the item was not changed.
        """
        mark = self._room.mark(reason)
        return reseal.reseal(self._room, match_id, identities, recipients, matches, mark)

    def add_context(
        self, match_id: str, paths: Sequence[Path], matches: Matches, *, reason: str
    ) -> Item:
        """Add files to an item: seal copies to the recipients of the item, and return the item.

        Raises:
            UsageError: no item has this id, or a file cannot be read.
            ConfigError: a recipient of the item is not a public key.
            StateError, AuditError: the quarantine or the audit log cannot be written; no file was
                added.
        """
        mark = self._room.mark(reason)
        return context.add_context(self._room, match_id, paths, matches, mark)

    def hold(
        self,
        match_id: str,
        matches: Matches,
        *,
        reason: str,
        until: datetime | None = None,
        by: str | None = None,
    ) -> Item:
        """Forbid destroying or restoring an item, for ever or `until` a time; return the item.

        `by` is the person or authority that requests the hold; the default is the operator.

        Raises:
            UsageError: no item has this id.
            StateError, AuditError: the hold cannot be written.
        """
        mark = self._room.mark(reason)
        if by is not None:
            mark = Mark.of(by, reason, mark.time)
        return retention.hold(self._room, match_id, matches, mark, until)

    def release(self, match_id: str, matches: Matches, *, reason: str) -> Item:
        """End a hold; return the changed item.

        Raises:
            UsageError: no item has this id, or the item is not on hold.
            StateError, AuditError: the end of the hold cannot be written.
        """
        return retention.release(self._room, match_id, matches, self._room.mark(reason))

    def recover(self, matches: Matches) -> Iterator[Item]:
        """Record the matches of items again if the record of matches lacks them; yield the items.

        Raises:
            StateError: an item is damaged, or the record cannot be written.
            AuditError: the audit log cannot be written.
        """
        reason = "the record of matches was lost"
        yield from retention.recover(self._room, matches, self._room.mark(reason))

    def due(self, match_id: str, matches: Matches) -> Due:
        """Return when an item is due for destruction, or why it is not due.

        Raises:
            UsageError: no item has this id.
            StateError: the item cannot be read.
        """
        return retention.due(self._room, self._room.load(match_id), matches)

    def purge(
        self,
        match_id: str,
        matches: Matches,
        *,
        reason: str,
        force: bool = False,
        order: str | None = None,
        dry_run: bool = False,
    ) -> Purged:
        """Destroy one item if it is due for destruction.

        An item that is not due is destroyed if `order` is the order of an authority, or with
        `force` if the item was not reported or `keep_days` have passed. An item on hold is never
        destroyed.

        Raises:
            UsageError: no item has this id.
            StateError, AuditError: the quarantine or the audit log cannot be written; the next
                purge destroys the rest of the item.
        """
        mark = self._room.mark(reason)
        return retention.purge(
            self._room, match_id, matches, mark, force=force, order=order, dry_run=dry_run
        )

    def verify(self, matches: Matches) -> Iterator[Finding]:
        """Check all items and other files in the quarantine; yield a finding for each of them.

        Raises:
            StateError: the quarantine or the record of matches cannot be read.
        """
        return verify.verify(self._room, matches)
