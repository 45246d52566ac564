"""Deletes old matches and old records of the inventory, so that the state directory stays bounded.

Matches that ended long ago, and records of files that no scan has met for a long time, are deleted
after the times that the configuration sets. Each call of `tidy` does a limited part of the work,
and the next call continues.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from hashclient.core.errors import ConfigError, HashclientError, StateError
from hashclient.session import Session
from hashclient.system.files import is_there, state_errors

#: The largest number of matches that are deleted at a time; one record of the audit log names all
#: of them.
MOST_MATCHES = 1_000
#: The time in seconds that one call of `prune_inventory` may take.
INVENTORY_S = 2.0


def tidy(session: Session, on_failure: Callable[[HashclientError], None]) -> None:
    """Do a part of the work that is due.

    If a part fails, the failure is reported, and the other parts are still done.
    """
    for part in (prune_facts, prune_matches, prune_inventory):
        try:
            part(session)
        except HashclientError as error:
            on_failure(error)


def prune_facts(session: Session) -> int:
    """Remove the facts about uploads that were added to matches which have ended.

    Return the number of removed files. Facts about a file in quarantine are kept, because a match
    that the record of matches has lost can be recorded again. Facts about an excepted match are
    kept as long as its entry is listed, because an exception ends.

    Raises:
        StateError: the facts cannot be read or removed.
    """
    settings = session.settings
    directory = settings.layout.facts
    if not is_there(directory) or not is_there(settings.layout.matches):
        return 0
    from hashclient.core.kinds import SETTLED, MatchState
    from hashclient.matches.store import Matches
    from hashclient.quarantine.item import item_ids

    count = 0
    with (
        state_errors("cannot remove", directory),
        Matches(settings.state_dir, create=False) as record,
    ):
        here = {*item_ids(settings.layout.quarantine)}
        for path in directory.glob("*.json"):
            match = record.look_up(path.stem)
            if match is None:
                is_over = path.stem not in here
            else:
                waits = match.state is MatchState.EXCEPTED and match.standing
                is_over = match.state in SETTLED and not waits
            if is_over:
                path.unlink(missing_ok=True)
                count += 1
    return count


def prune_matches(session: Session) -> int:
    """Delete matches that were settled longer ago than `[keep]` allows; return their number.

    A match is kept if its file is in quarantine, or if its report is not acknowledged or retracted.
    The deletion is logged before the matches are deleted.

    Raises:
        StateError, AuditError: the matches cannot be read, or the deletion cannot be logged or
            done.
    """
    settings = session.settings
    days = settings.config.keep.matches_days
    if days is None or not is_there(settings.layout.matches):
        return 0
    from hashclient.audit.log import Event
    from hashclient.matches.pruning import Pruner
    from hashclient.quarantine.item import item_ids
    from hashclient.reporting.outbox import Outbox
    from hashclient.reporting.report import State

    kept = {*item_ids(settings.layout.quarantine)}
    for report in Outbox(session).reports():
        if report.is_retracting or report.state not in (State.ACKNOWLEDGED, State.RETRACTED):
            kept.update(report.matches)
    before = session.now() - timedelta(days=days)
    with Pruner(settings.state_dir) as record:
        going = record.prunable(before, kept, MOST_MATCHES)
        if not going:
            return 0
        data = {"matches": going, "before": before.isoformat(timespec="seconds")}
        event = Event("matches-pruned", {**data, "by": session.operator})
        session.audit.append([event], durable=True)
        count = record.prune(going)
        record.compact()
        return count


def prune_inventory(session: Session) -> int:
    """Delete records of files that no scan has met for longer than `[keep]` allows.

    Return the number of deleted records.

    Raises:
        StateError: the inventory cannot be written.
    """
    settings = session.settings
    days = settings.config.keep.inventory_days
    if not is_there(settings.layout.inventory):
        return 0
    from hashclient.scan.cache.cache import Inventory

    try:
        key_id = session.sealer().key_id
        # a scan makes a new inventory if the seal key has changed
        inventory = Inventory(settings.state_dir, key_id)
        inventory.close()
    except (StateError, ConfigError):
        return 0  # ignored, because other commands report this error
    reread_days = settings.config.inventory.reread_days
    inventory = Inventory(settings.state_dir, key_id, write=True, reread_days=reread_days)
    try:
        return inventory.prune_in_turn(days, INVENTORY_S)
    finally:
        inventory.close()
