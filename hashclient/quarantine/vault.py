"""The quarantine: files that matched, sealed to somebody else's key and taken away.

`Quarantine` is what the rest of the program uses. Its acts serialise on a lock of their own, so a
scan can take files away while others fetch. What it holds is described by `item`, one folder a
match under the match's id:

* `Quarantine(session)`
* `.take(match, matches, reason=…) -> Taken`: seal the file and remove it from its place.
* `.unfinished() -> frozenset[str]`: ids of what was sealed, and not yet noted as taken.
* `.restore(id, identities, matches, reason=…, to=…, force=…) -> Restored`: put it back.
* `.reseal(id, identities, recipients, matches, reason=…) -> Resealed`: seal it to other keys.
* `.hold(id, matches, reason=…)` and `.release(…)`: forbid and allow that it goes.
* `.due(id, matches)` and `.purge(id, matches, reason=…, …)`: destroy what is due.
* `.verify(matches)`: check everything that is here.
* `item_ids(directory)`, `load_item(directory, id) -> Item` and `evidence_path(directory, id)`: what
  is here, for lists and reports; `directory` is `Settings.quarantine_dir`.

Nothing here ever opens a sealed copy without an identity that the caller gives, and nothing here
shows or writes content but `restore`, to the place it is given. Removal is not secure erasure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hashclient.core.match import Match
from hashclient.errors import StateError, UsageError
from hashclient.matches.store import Matches
from hashclient.quarantine import isolate, reseal, restore, retention, verify
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


class Quarantine:
    """The quarantine of one state directory; nothing is made or read before the first act."""

    def __init__(
        self,
        session: Session,
        *,
        on_bytes: Callable[[int], None] = lambda _count: None,
        isolator: Isolator | None = None,
    ) -> None:
        """`on_bytes` is called with how many bytes were sealed, opened or checked, as they are.

        `isolator` is for the kind of places that matches are in; files and objects by default.
        """
        self._room = Room(
            session, on_bytes, isolator or Everywhere(session.settings.config.objects)
        )

    def take(self, match: Match, matches: Matches, *, reason: str) -> Taken:
        """Seal the file of a match and remove it from its place; also finish what was interrupted.

        Raises:
            UsageError: the match is withdrawn, or its story has ended.
            ConfigError: there are no recipients to seal to, or one is not usable.
            StateError: the sealed copy cannot be written, or what proves the file is missing; the
                file is in place. Or the record cannot be written; the next act goes on there.
            AuditError: the audit log cannot be written; nothing was removed since.
        """
        return isolate.take(self._room, match.id, matches, self._room.mark(reason))

    def unfinished(self) -> frozenset[str]:
        """Return the ids of items whose taking was not finished; what is damaged is left out.

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
        """Open a sealed copy, put the file back where it was or at `to`, and drop the copy.

        `identities` come from `load_identities`. With `force`, also what is not withdrawn.

        Raises:
            UsageError: there is no such item, it is on hold or not withdrawn, or the place is taken
                or cannot be written to.
            AuthorisationError: none of the identities opens it.
            StateError: the sealed copy is damaged, or what is restored cannot be written.
            AuditError: the audit log cannot be written; the copy is kept.
        """
        mark = self._room.mark(reason)
        return restore.restore(
            self._room, match_id, identities, matches, mark, to=to, allow_standing=force
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
        """Seal what is kept of a match again, to `recipients` alone: public keys.

        `identities` come from `load_identities` and open it as it is.

        Raises:
            UsageError: there is no such item, or it is being destroyed.
            ConfigError: there are no recipients, or one is not a public key.
            AuthorisationError: none of the identities opens it.
            StateError: the sealed copy is damaged, or the new one cannot be written or put in its
                place; what is there is whole.
            AuditError: the audit log cannot be written; nothing was changed.
        """
        mark = self._room.mark(reason)
        return reseal.reseal(self._room, match_id, identities, recipients, matches, mark)

    def hold(self, match_id: str, matches: Matches, *, reason: str) -> Item:
        """Forbid that an item is destroyed or given back; return what it is now.

        Raises:
            UsageError: there is no such item.
            StateError, AuditError: it cannot be written.
        """
        return retention.hold(self._room, match_id, matches, self._room.mark(reason))

    def release(self, match_id: str, matches: Matches, *, reason: str) -> Item:
        """End a hold; return what the item is now.

        Raises:
            UsageError: there is no such item, or it is not on hold.
            StateError, AuditError: it cannot be written.
        """
        return retention.release(self._room, match_id, matches, self._room.mark(reason))

    def recover(self, matches: Matches) -> Iterator[Item]:
        """Record again what is here and not in the record of matches, which was lost; yield it.

        Raises:
            StateError: an item is damaged, or the record cannot be written.
            AuditError: the audit log cannot be written.
        """
        reason = "the record of matches was lost"
        yield from retention.recover(self._room, matches, self._room.mark(reason))

    def due(self, match_id: str, matches: Matches) -> Due:
        """Tell when an item may be destroyed, or why it may not.

        Raises:
            UsageError: there is no such item.
            StateError: it cannot be read.
        """
        return retention.due(self._room, self._room.load(match_id), matches)

    def purge(
        self,
        match_id: str,
        matches: Matches,
        *,
        reason: str,
        force: bool = False,
        dry_run: bool = False,
    ) -> Purged:
        """Destroy one item if it is due, or with `force` unless it is on hold.

        Raises:
            UsageError: there is no such item.
            StateError, AuditError: it cannot be written; whatever is left is dealt with next time.
        """
        mark = self._room.mark(reason)
        return retention.purge(self._room, match_id, matches, mark, force=force, dry_run=dry_run)

    def verify(self, matches: Matches) -> Iterator[Finding]:
        """Check every item and everything else in the quarantine; yield a finding for each.

        Raises:
            StateError: the quarantine or the record of matches cannot be read at all.
        """
        return verify.verify(self._room, matches)
