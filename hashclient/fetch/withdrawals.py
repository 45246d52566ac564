"""Earlier matches whose entry a new generation of a list withdraws or lists again.

Every fetch does this, so that a kill between the switch and the note loses nothing. The cost
depends on the number of matches, not on the size of the list. The log is written first: a kill
between log and record repeats a line, and loses none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec
import numpy as np

from hashclient.audit.log import AuditLog, Event
from hashclient.core.kinds import MatchState
from hashclient.core.match import LISTED_AGAIN, Match
from hashclient.core.model import Hit, hit_fields
from hashclient.index.blinding import Sealer
from hashclient.index.matcher import Judge
from hashclient.index.reader import Index
from hashclient.lists.wire import entry_hashes
from hashclient.matches.store import Matches
from hashclient.system.text import log_path_fields

#: Records that go to the audit log at a time.
AUDIT_BATCH = 512


class Reached(msgspec.Struct, frozen=True):
    """The earlier matches that a generation changes.

    `withdrawn` are matches, as they are recorded now, each with a hit of an entry that is withdrawn
    now. `listed_again` are withdrawn matches whose file was isolated and is on the list again.
    """

    withdrawn: tuple[tuple[Match, Hit], ...] = ()
    listed_again: tuple[Match, ...] = ()


def reach_back(
    index: Index, sealer: Sealer, matches: Matches, audit: AuditLog, now: datetime
) -> Reached:
    """Note in log and record which `matches` the newest `index` withdraws or lists again.

    Raises:
        AuditError, StateError: log or record cannot be used; the next fetch notes it.
    """
    withdrawn = _withdraw(index, matches, audit, now)
    listed_again = tuple(_list_again(index, sealer, matches, audit, now))
    # Another entry may still match it, or its story may have ended.
    left = {match_id: matches.get(match_id) for match_id in {match.id for match, _ in withdrawn}}
    hits = {match_id: match.by_entry for match_id, match in left.items()}
    affected = [
        (left[match.id], hits[match.id].get((hit.list_name, hit.entry), hit))
        for match, hit in withdrawn
    ]
    return Reached(tuple(affected), listed_again)


def _withdraw(
    index: Index, matches: Matches, audit: AuditLog, now: datetime
) -> list[tuple[Match, Hit]]:
    name, generation = index.manifest.list, index.manifest.generation
    standing = matches.standing(name)
    if not standing:
        return []
    ids = np.array([entry.encode() for entry in standing])
    found = index.find_ids(ids, entry_hashes(ids))
    gone = [standing[i] for i in np.setdiff1d(np.arange(len(ids)), found.queries)]
    return _note(name, gone, generation, matches, audit, now)


def withdraw_list(
    name: str, generation: int, matches: Matches, audit: AuditLog, now: datetime
) -> tuple[tuple[Match, Hit], ...]:
    """Note in log and record that all entries of a list are withdrawn, which has ended.

    `generation` is the last one that was here. Return the matches, as they are recorded now.

    Raises:
        AuditError, StateError: as `reach_back`.
    """
    gone = matches.standing(name)
    affected = _note(name, gone, generation, matches, audit, now)
    return tuple((matches.get(match.id), hit) for match, hit in affected)


def _note(
    name: str,
    gone: Sequence[str],
    generation: int,
    matches: Matches,
    audit: AuditLog,
    now: datetime,
) -> list[tuple[Match, Hit]]:
    affected = matches.of_entries(name, gone)
    _log(
        audit,
        [
            Event(
                "withdrawn",
                {
                    "list": name,
                    "entry": hit.entry,
                    "generation": generation,
                    "id": match.id,
                    **log_path_fields(match.path),
                },
            )
            for match, hit in affected
        ],
    )
    matches.withdraw(name, gone, generation, now)
    return affected


def _list_again(
    index: Index, sealer: Sealer, matches: Matches, audit: AuditLog, now: datetime
) -> Iterator[Match]:
    """Look up withdrawn matches whose file was isolated: no scan reads it any more.

    The tags in the record are compared, so that a corrected entry does not keep a file that it was
    withdrawn for.
    """
    judge = Judge((index,), sealer)
    for match in list(matches.find([MatchState.WITHDRAWN])):
        if match.in_place or match.key_id != sealer.key_id:
            continue
        tags = {a: np.frombuffer(tag, np.uint64) for a, tag in match.tags.items()}
        hits = [hit for hit in judge.hits(tags, match.size) if hit.complete]
        if not hits:
            continue
        _log(audit, [_listed_again(match, hits)])
        yield matches.list_again(match.id, hits, now)


def _listed_again(match: Match, hits: Sequence[Hit]) -> Event:
    entries = [hit_fields(hit, ("list", "entry", "generation")) for hit in hits]
    data = {"id": match.id, **log_path_fields(match.path), "entries": entries}
    return Event(LISTED_AGAIN, data)


def _log(audit: AuditLog, events: list[Event]) -> None:
    for start in range(0, len(events), AUDIT_BATCH):
        audit.append(events[start : start + AUDIT_BATCH], durable=True, sign_each=True)
