"""Releases held matches: a person has said that they are to be acted upon.

The log is written first, so a kill cannot leave a match released but not logged. After a kill the
next scan that finds the file acts upon it, since the record has the release.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime

from hashclient.audit.log import Event
from hashclient.core.kinds import Kind, MatchState
from hashclient.core.match import RELEASED, STREAM_PREFIX, Match, members_of
from hashclient.core.model import Handled, Outcome, Recorded
from hashclient.core.objecturi import is_object_uri
from hashclient.matches.store import Matches
from hashclient.scan.actions import Responder
from hashclient.session import Session
from hashclient.system.text import path_fields

#: How many matches are released by one change of the record.
AT_ONCE = 512


def release(
    session: Session, responder: Responder, chosen: Iterable[Match], reason: str
) -> Iterator[Handled]:
    """Release matches and act on them as the policy says; yield each with what was done.

    A match that is not held any more is passed over.

    Raises:
        AuditError, StateError: log or record cannot be written; nothing is done after that.
    """
    rest = iter(chosen)
    while batch := list(itertools.islice(rest, AT_ONCE)):
        with Matches(session.settings.state_dir) as matches:
            found = _release(session, matches, batch, reason, session.now())
        responder.want_reports(found)
        for recorded in found:
            yield responder.respond(recorded)


def _release(
    session: Session, matches: Matches, batch: list[Match], reason: str, now: datetime
) -> list[Recorded]:
    detail = {"by": session.operator, "reason": reason}
    with matches.batch():
        known = [matches.look_up(match.id) for match in batch]
        held = [m for m in known if m is not None and m.state is MatchState.HELD]
        events = [Event(RELEASED, {"id": m.id, **path_fields(m.path), **detail}) for m in held]
        session.audit.append(events, durable=True, sign_each=True)
        for match in held:
            matches.release(match, now, session.operator, reason)
        return [Recorded(_outcome(match, matches), matches.get(match.id).ref) for match in held]


def _outcome(match: Match, matches: Matches) -> Outcome:
    """Return a recorded match as the scan had it that found it."""
    members = members_of(matches.story(match.id))
    return Outcome(
        Kind.MATCH,
        match.path.removeprefix(STREAM_PREFIX),
        match.size,
        hits=match.standing,
        tags=match.tags,
        is_stream=match.is_stream,
        is_object=is_object_uri(match.path),
        members=members[0] if members else (),
        seen=match.seen,
    )
