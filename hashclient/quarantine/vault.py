"""The quarantine: isolated files that matched, sealed to an officer's public key.

The rest of the program uses `Quarantine`. The quarantine has a lock of its own, for one act at a
time, so a scan can isolate files during a fetch. Each match has a folder, named by the match's id;
see `item`:

* `Quarantine(session)`
* `.take(match, matches, reason=…) -> Taken`: seal the file and remove it from its place;
  `.take_all(wanted, …)` does this for many files, which wait for the disk together.
* `.unfinished() -> frozenset[str]`: ids of items that are sealed but not yet noted as taken.
* `.restore(id, identities, matches, reason=…, to=…, force=…) -> Restored`: put the file back;
  `.restore_all(ids, …)` does this for many files, which wait for the disk together.
* `.reseal(id, identities, recipients, matches, reason=…) -> Resealed`: seal the file to other keys.
* `.add_context(id, paths, matches, reason=…) -> Item`: seal copies of files that belong to an item.
* `.hold(id, matches, reason=…)` and `.release(…)`: forbid and allow its removal.
* `.due(id, matches)` and `.purge(id, matches, reason=…, …)`: destroy the items that are due.
* `.verify(matches)`: check everything that is here.
* `item_ids(directory)`, `load_item(directory, id) -> Item` and `evidence_path(directory, id)`: the
  items, for lists and reports; `directory` is `Settings.quarantine_dir`.

A sealed copy is opened only with an identity from the caller. Only `restore` writes content, to the
given place; nothing shows content. Removal is not secure erasure.
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
    """Return the result of the only item, or raise its failure."""
    ((_, outcome),) = outcomes
    if isinstance(outcome, HashclientError):
        try:
            raise outcome
        finally:
            del outcome  # a cycle: the error has this frame
    return outcome


class Quarantine:
    """The quarantine of one state directory; nothing is made or read before the first act."""

    def __init__(
        self,
        session: Session,
        *,
        on_bytes: Callable[[int], None] = lambda _count: None,
        isolator: Isolator | None = None,
    ) -> None:
        """Call `on_bytes` with the number of bytes after each part is sealed, opened or checked.

        `isolator` is for the kind of place of the matches; the default is for files and objects.
        """
        self._room = Room(
            session, on_bytes, isolator or Everywhere(session.settings.config.objects)
        )

    def take(
        self, match: Match, matches: Matches, *, reason: str, seen: Seen | None = None
    ) -> Taken:
        """Seal the file of a match and remove it from its place, or finish an interrupted act.

        `seen` is the file that was read; by default, it is the file on record.

        Raises:
            UsageError: the match is withdrawn or ended, or its record does not say which file was
                read.
            ConfigError: no recipients are configured, or a recipient cannot be used.
            StateError: the sealed copy cannot be written, or the file cannot be proven; then the
                file is in place. Or the record cannot be written; the next act goes on there.
            AuditError: the audit log cannot be written; nothing was removed after that.
        """
        return _only(self.take_all([(match.id, seen)], matches, reason=reason))

    def take_all(
        self, wanted: Iterable[tuple[str, Seen | None]], matches: Matches, *, reason: str
    ) -> Iterator[tuple[str, Taken | HashclientError]]:
        """Isolate the files of matches, many together, as `take`; yield each id with its result.

        `wanted` are ids, each with the file that was read, or None for the file on record.

        Raises:
            LockedError, StateError: the quarantine cannot isolate any other match either.
        """
        return isolate.take(self._room, wanted, matches, self._room.mark(reason))

    def unfinished(self) -> frozenset[str]:
        """Return the ids of undamaged items whose isolation is not finished.

        Raises:
            StateError: the quarantine cannot be read at all.
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
        """Open a sealed copy, put the file back where it was or at `to`, and remove the copy.

        `identities` come from `load_identities`. With `force`, the match need not be withdrawn.

        Raises:
            UsageError: no item has this id, the item is on hold or not withdrawn, or the place is
                taken or not writable.
            AuthorisationError: no identity opens the copy.
            StateError: the sealed copy is damaged, or the restored file cannot be written.
            AuditError: the audit log cannot be written; the copy is kept.
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
        """Restore items, many together, as `restore`; yield each id with its result or failure.

        `to` is allowed for one item only.

        Raises:
            LockedError, StateError: the quarantine cannot restore any other item either.
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
        """Seal the item of a match again, to the public keys `recipients` alone.

        `identities` come from `load_identities` and open the present copy.

        Raises:
            UsageError: no item has this id, or the item is being destroyed.
            ConfigError: no recipients are given, or a recipient is not a public key.
            AuthorisationError: no identity opens the copy.
            StateError: the sealed copy is damaged, or the new copy cannot be written or put in its
                place; the present item is complete.
            AuditError: the audit log cannot be written; nothing was changed.
        """
        mark = self._room.mark(reason)
        return reseal.reseal(self._room, match_id, identities, recipients, matches, mark)

    def add_context(
        self, match_id: str, paths: Sequence[Path], matches: Matches, *, reason: str
    ) -> Item:
        """Seal copies of files that belong to an item, to the item's recipients; return the item.

        Raises:
            UsageError: no item has this id, or a file cannot be read.
            ConfigError: a recipient of the item is not a public key.
            StateError, AuditError: the quarantine cannot be written; nothing was added.
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
        """Forbid destroying or restoring an item, for good or `until` a time; return it.

        `by` is the person or body that requests the hold; the default is the operator.

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
        """Record again items that the record of matches has lost; yield these items.

        Raises:
            StateError: an item is damaged, or the record cannot be written.
            AuditError: the audit log cannot be written.
        """
        reason = "the record of matches was lost"
        yield from retention.recover(self._room, matches, self._room.mark(reason))

    def due(self, match_id: str, matches: Matches) -> Due:
        """Return when an item may be destroyed, or why it may not.

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
        """Destroy one item if it is due.

        An item that is not due is destroyed with the `order` of an authority; with `force`, only if
        it was not reported or `keep_days` have passed. An item on hold is never destroyed.

        Raises:
            UsageError: no item has this id.
            StateError, AuditError: the quarantine cannot be written; the next purge destroys the
                rest.
        """
        mark = self._room.mark(reason)
        return retention.purge(
            self._room, match_id, matches, mark, force=force, order=order, dry_run=dry_run
        )

    def verify(self, matches: Matches) -> Iterator[Finding]:
        """Check every item and all other files in the quarantine; yield a finding for each.

        Raises:
            StateError: the quarantine or the record of matches cannot be read at all.
        """
        return verify.verify(self._room, matches)
