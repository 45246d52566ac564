"""Earlier matches whose entry a new generation of a list withdraws or lists again.

Every fetch does this, so that a kill between the switch and the note loses nothing. The cost
depends on the number of matches, not on the size of the list. The log is written first: a kill
between log and record repeats a line, and loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from hashclient.audit.log import Event
from hashclient.core.kinds import MatchState
from hashclient.core.match import LISTED_AGAIN, Match
from hashclient.core.model import Hit, hit_fields
from hashclient.index.matcher import Judge
from hashclient.index.reader import Index
from hashclient.lists.wire import entry_hashes
from hashclient.matches.store import Matches
from hashclient.session import Session
from hashclient.system.files import is_there
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


def reach_back(session: Session, newest: Callable[[], Index]) -> Reached:
    """Note in log and record which matches the `newest` index withdraws or lists again.

    Raises:
        AuditError, StateError: log or record cannot be used; the next fetch notes it.
    """
    if not is_there(session.settings.layout.matches):
        return Reached()
    with Matches(session.settings.state_dir) as matches:
        index = newest()
        withdrawn = _withdraw(session, matches, index)
        listed_again = tuple(_list_again(session, matches, index))
        ids = {match.id for match, _ in withdrawn}
        # Another entry may still match it, or its story may have ended.
        left = {match_id: matches.get(match_id) for match_id in ids}
    hits = {match_id: match.by_entry for match_id, match in left.items()}
    affected = [
        (left[match.id], hits[match.id].get((hit.list_name, hit.entry), hit))
        for match, hit in withdrawn
    ]
    return Reached(tuple(affected), listed_again)


def _withdraw(session: Session, matches: Matches, index: Index) -> list[tuple[Match, Hit]]:
    manifest = index.manifest
    standing = matches.standing(manifest.list)
    if not standing:
        return []
    ids = np.array([entry.encode() for entry in standing])
    found = index.find_ids(ids, entry_hashes(ids))
    gone = [standing[i] for i in np.setdiff1d(np.arange(len(ids)), found.queries)]
    return _note(session, matches, manifest.list, gone, manifest.generation)


def withdraw_list(session: Session, name: str, generation: int) -> tuple[tuple[Match, Hit], ...]:
    """Note in log and record that all entries of a list are withdrawn, which has ended.

    `generation` is the last one that was here. Return the matches, as they are recorded now.

    Raises:
        AuditError, StateError: as `reach_back`.
    """
    if not is_there(session.settings.layout.matches):
        return ()
    with Matches(session.settings.state_dir) as matches:
        affected = _note(session, matches, name, matches.standing(name), generation)
        return tuple((matches.get(match.id), hit) for match, hit in affected)


def _note(
    session: Session, matches: Matches, name: str, gone: Sequence[str], generation: int
) -> list[tuple[Match, Hit]]:
    affected = matches.of_entries(name, gone)
    of = {"list": name, "generation": generation}
    events = [
        Event(
            "withdrawn",
            {**of, "entry": hit.entry, "id": match.id, **log_path_fields(match.path)},
        )
        for match, hit in affected
    ]
    for start in range(0, len(events), AUDIT_BATCH):
        part = events[start : start + AUDIT_BATCH]
        session.audit.append(part, durable=True, sign_each=True)
    matches.withdraw(name, gone, generation, session.now())
    return affected


def _list_again(session: Session, matches: Matches, index: Index) -> Iterator[Match]:
    """Look up withdrawn matches whose file was isolated: no scan reads it any more.

    The tags in the record are compared, so that a corrected entry does not keep a file that it was
    withdrawn for.
    """
    sealer = session.sealer()
    judge = Judge((index,), sealer)
    for match in list(matches.find([MatchState.WITHDRAWN])):
        if match.in_place or match.key_id != sealer.key_id:
            continue
        tags = {a: np.frombuffer(tag, np.uint64) for a, tag in match.tags.items()}
        hits = [hit for hit in judge.hits(tags, match.size) if hit.complete]
        if not hits:
            continue
        entries = [hit_fields(hit, ("list", "entry", "generation")) for hit in hits]
        data = {"id": match.id, **log_path_fields(match.path), "entries": entries}
        session.audit.append([Event(LISTED_AGAIN, data)], durable=True, sign_each=True)
        yield matches.list_again(match.id, hits, session.now())
