"""Decisions of a person about recorded matches: release a held match, or except a match.

The log is written first, so a killed process cannot leave a match that is released or excepted but
not logged. If the process is killed before the actions on a released match, the next scan that
finds the file does the actions, because the release is in the record.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from hashclient.audit.log import Event
from hashclient.core.kinds import Kind, MatchState
from hashclient.core.match import RELEASED, STREAM_PREFIX, Match, members_of
from hashclient.core.model import Handled, Outcome, Recorded
from hashclient.core.objecturi import is_object_uri
from hashclient.decisions.interface import Rule
from hashclient.matches.store import Matches
from hashclient.scan.run.actions import Responder
from hashclient.session import Session
from hashclient.system.files import is_there
from hashclient.system.text import path_fields

#: The number of matches that are released in one transaction.
AT_ONCE = 512
_EXCEPTABLE = (MatchState.FOUND, MatchState.HELD)


def except_open(session: Session, rule: Rule) -> int:
    """Record the exceptions of `rule` for open matches without an action; return their number.

    Raises:
        AuditError, StateError: the log or the record of matches cannot be written.
    """
    if not is_there(session.settings.layout.matches):
        return 0
    with Matches(session.settings.state_dir, create=False) as matches:
        chosen = [m for m in matches.find(_EXCEPTABLE) if rule(_outcome(m, matches)).exceptions]
    return sum(
        len(_except(session, chosen[start : start + AT_ONCE], rule))
        for start in range(0, len(chosen), AT_ONCE)
    )


def _except(session: Session, batch: Sequence[Match], rule: Rule) -> list[Match]:
    """Record which open matches without an action `rule` excepts; return these matches."""
    now = session.now()
    with Matches(session.settings.state_dir) as matches, matches.batch():
        known = [matches.look_up(match.id) for match in batch]
        still = [m for m in known if m is not None and m.state in _EXCEPTABLE and m.in_place]
        ruled = [(m, rule(_outcome(m, matches)).exceptions) for m in still]
        events = [
            Event("excepted", {"id": m.id, **path_fields(m.path), "exceptions": by})
            for m, by in ruled
            if by
        ]
        if events:
            session.audit.append(events, durable=True, sign_each=True)
        for match, by in ruled:
            if by:
                matches.change(match.id, MatchState.EXCEPTED, now, {"exceptions": by})
    return [match for match, by in ruled if by]


def release(
    session: Session,
    responder: Responder,
    chosen: Iterable[Match],
    reason: str,
    rule: Rule,
) -> Iterator[Handled]:
    """Release matches and act on them by the policy; yield each match with its results.

    A match that is not held any more, or that `rule` excepts, is skipped.

    Raises:
        AuditError, StateError: the log or the record of matches cannot be written; no more actions
        are done then.
    """
    rest = iter(chosen)
    while batch := list(itertools.islice(rest, AT_ONCE)):
        _except(session, batch, rule)
        with Matches(session.settings.state_dir) as matches:
            found = _release(session, matches, batch, reason, session.now())
        yield from responder.respond_all(found)


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
    """Return the outcome of the scan that found a match, made from the record of the match."""
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
