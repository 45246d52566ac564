"""Actions on matches, by the policy or the command line: isolate the file, prepare a report.

The module `policy` decides which actions are wanted. This module acts on one match after the other,
before the match is shown. A match of a list that has expired does not isolate a file, because the
provider may have withdrawn the entry: a person decides about the match. A report is only prepared
and not sent, because a scan uses no network. Before a report is prepared, the record of matches
notes that the report is wanted, so that a killed process loses no report.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.kinds import Action, Kind, MatchState
from hashclient.core.match import Match
from hashclient.core.model import Acted, Handled, MatchRef, Outcome, Recorded
from hashclient.core.staleness import ListState
from hashclient.decisions.brake import Brake
from hashclient.decisions.policy import Policy, check_policy
from hashclient.decisions.review import ReviewPolicy
from hashclient.matches.rows import place_of
from hashclient.matches.store import Matches
from hashclient.session import Session
from hashclient.system.files import is_there
from hashclient.system.strangers import way_of
from hashclient.system.text import counted, printable

if TYPE_CHECKING:
    from hashclient.quarantine.vault import Quarantine, Taken
    from hashclient.reporting.report import Report

#: The most matches in one report; more matches are divided among several reports.
REPORT_MATCHES = 1000
#: If a file is isolated later than this after its match was recorded, the brake (`decisions.brake`)
#: counts the isolation at the time of the isolation, and not at the time of the record.
LATE = timedelta(minutes=10)


class Responder:
    """Does the actions on the matches of one scan."""

    def __init__(
        self,
        session: Session,
        lists: Sequence[ListState],
        *,
        quarantine_all: bool = False,
        only_tell: bool = False,
    ) -> None:
        """Act in `session` on hits of `lists`.

        `quarantine_all` isolates the file of every match, with any policy. With `only_tell`, no
        action is done, and outcomes name the actions that would be done.

        Raises:
            ConfigError: files must be isolated, but the recipients for their encryption are missing
                or unusable; or a rule names an unknown list.
        """
        settings = session.settings
        rules = settings.config.policy
        check_policy(settings)
        if quarantine_all or any(Action.QUARANTINE in rule.actions for rule in rules):
            from hashclient.quarantine.age import parse_recipients

            parse_recipients(settings.config.quarantine.recipients)
        self._session = session
        self._settings = settings
        self._rules = Policy(rules)
        self._policy = Policy(rules, quarantine_all=quarantine_all)
        #: The brake, which decides for each match, when it is recorded, whether it waits for a
        #: person.
        self.decision = Brake(settings.config.brake, self._policy, only_tell=only_tell)
        self._takes_containers = settings.config.quarantine.isolate_containers
        self._only_tell = only_tell
        self._usable = {state.name for state in lists if not state.stale}
        self._quarantine: Quarantine | None = None
        #: What `want_reports` has noted: by the id of a match, whether a report must be made.
        self._noted: dict[str, bool] = {}
        #: The outcomes of the current batch that have not been acted upon yet.
        self._batch: deque[Recorded] = deque()
        #: `_taking`: the ids of the matches whose files were isolated last, or are being isolated.
        #: `_taken`: by the id of a match, the result of an isolation that no outcome has yet.
        self._taking: frozenset[str] = frozenset()
        self._taken: dict[str, Taken | HashclientError] = {}
        #: The records of the matches in `_taken`, as they are after the isolation.
        self._refs: dict[str, MatchRef] = {}
        #: `_last_id`: the id of the match that was acted upon last in this batch. `_acted`: the
        #: result of each action on the match `_last_id`. `_since`: the record of the match
        #: `_last_id` after the actions. Members of one container have one match, so one action
        #: counts for all successive members.
        self._last_id: str | None = None
        self._acted: dict[Action, Acted] = {}
        self._since: MatchRef | None = None
        #: The exit code of the worst failure of an action, or None if no action failed.
        self.failed: ExitCode | None = None

    def leave(self, ready: deque[Recorded]) -> Iterator[Handled]:
        """Remove the held matches at the front of `ready`, which wait for a person, and yield them.

        All held matches at the front are yielded before the next action, because very many matches
        may be held.
        """
        while ready and (record := ready[0].record) is not None and self._is_held(record):
            outcome = ready.popleft().outcome
            yield Handled(outcome, record, _held(self._policy.actions_for(outcome)))

    def respond_all(self, batch: Sequence[Recorded]) -> Iterator[Handled]:
        """Act on outcomes that were recorded together, one after the other; see `respond`."""
        self.want_reports(batch)
        return map(self.respond, batch)

    def respond(self, recorded: Recorded, *, ended: bool = False) -> Handled:
        """Act on one outcome; return the outcome with the results of the actions.

        If the run has `ended`, no more files are isolated.
        """
        outcome, record = recorded.outcome, recorded.record
        while self._batch and self._batch.popleft() is not recorded:
            pass
        wanted = self._policy.actions_for(outcome)
        if record is not None and self._is_held(record):
            return Handled(outcome, record, _held(wanted))
        if record is not None and record.id in self.decision.would_hold:
            return Handled(outcome, record, _held(wanted, "it would be held"))
        # The report is noted as wanted before the file is removed, because no later scan finds the
        # file.
        acted = {
            action: self._act(recorded, action, ended=ended)
            for action in (Action.REPORT, Action.QUARANTINE)
            if action in wanted
        }
        if self._only_tell and outcome.kind is Kind.MATCH and not acted:
            only = msgspec.structs.replace(outcome, reason="would only be recorded")
            return Handled(only, record)
        in_order = tuple(acted[action] for action in Action if action in acted)
        # To note that a report is wanted does not change the record of the match.
        if record is not None and any(a.done and a.action is not Action.REPORT for a in in_order):
            if self._since is None:
                self._since = self._refs.pop(record.id, record)
            record = self._since
        return Handled(outcome, record, in_order)

    def want_reports(self, found: Iterable[Recorded]) -> None:
        """Begin a batch: note the reports that its outcomes want, and wait for the disk only once.

        When `respond` gets the first outcome of the batch whose file must be isolated, the files of
        the batch are isolated together. If a note cannot be written, `respond` tries again for each
        outcome, and shows the failure.
        """
        self._noted.clear()
        self._taken.clear()
        self._refs.clear()
        self._last_id = None
        self._batch = deque(found)
        ids = dict.fromkeys(
            recorded.record.id
            for recorded in self._batch
            if recorded.record is not None
            and not recorded.record.held
            and self._is_to_be_reported(recorded.outcome)
        )
        if not ids or self._only_tell:
            return
        now, noted = self._session.now(), {}
        with contextlib.suppress(HashclientError):
            with Matches(self._settings.state_dir) as matches, matches.batch():
                for match_id in ids:
                    noted[match_id] = matches.want_report(match_id, self._destination, now)
            self._noted = noted

    def _is_held(self, record: MatchRef) -> bool:
        return record.held or (self._only_tell and record.state is MatchState.HELD)

    def _may_take(self, outcome: Outcome) -> bool:
        """Return whether the hits of lists that are not stale are enough to isolate the file."""
        hits = tuple(h for h in outcome.hits if h.complete and h.list_name in self._usable)
        return Action.QUARANTINE in self._policy.actions_for(
            msgspec.structs.replace(outcome, hits=hits)
        )

    def _act(self, recorded: Recorded, action: Action, *, ended: bool) -> Acted:
        outcome, record = recorded.outcome, recorded.record
        if action is Action.QUARANTINE and not self._may_take(outcome):
            return self._not_done(action, "not quarantined: its list is stale", ExitCode.STALE)
        if action is Action.QUARANTINE and outcome.is_stream:
            detail = "not quarantined: it came as a stream, and there is no file"
            return self._not_done(action, detail, ExitCode.INCOMPLETE)
        if action is Action.QUARANTINE and outcome.members and not self._takes_containers:
            detail = "not quarantined: it is in a container, and isolate_containers is off"
            return self._not_done(action, detail, ExitCode.INCOMPLETE)
        if self._only_tell:
            to = f" to {self._destination}" if action is Action.REPORT else ""
            with_it = _with_it(outcome) if action is Action.QUARANTINE else ""
            return Acted(action, done=None, detail=f"would be {_PARTICIPLES[action]}{to}{with_it}")
        if record is None:
            detail = f"not {_PARTICIPLES[action]}: it could not be recorded"
            return self._not_done(action, detail, ExitCode.STATE)
        if ended and action is Action.QUARANTINE and record.id not in self._taken:
            detail = "not quarantined: the scan was ended"
            if record.id in self._taking:
                detail = f"interrupted: `hashclient quarantine add {record.id}` finishes it"
            return Acted(action, done=False, detail=detail)
        if record.id != self._last_id:
            self._last_id, self._acted, self._since = record.id, {}, None
        if action not in self._acted:
            self._acted[action] = self._do(recorded, record, action)
        return self._acted[action]

    def _do(self, recorded: Recorded, record: MatchRef, action: Action) -> Acted:
        outcome = recorded.outcome
        try:
            if action is Action.REPORT:
                return Acted(action, done=True, detail=self._report(record))
            if record.id not in self._taken:
                with Matches(self._settings.state_dir) as matches:
                    if (
                        refused := _refused_for_a_link(outcome, matches.get(record.id))
                    ) is not None:
                        return self._not_done(action, refused, ExitCode.INCOMPLETE)
                    self._take_from(recorded, record, matches)
            taken = self._taken.pop(record.id)
            if isinstance(taken, HashclientError):
                raise taken
        except HashclientError as error:
            detail = f"not {_PARTICIPLES[action]}: {error.message}"
            return self._not_done(action, detail, error.exit_code)
        if taken.attention or not taken.sealed:
            self._note(ExitCode.INCOMPLETE)
        with_it = _with_it(outcome) if taken.taken else ""
        return Acted(action, done=taken.taken, detail=taken.detail + with_it)

    def _take_from(self, first: Recorded, record: MatchRef, matches: Matches) -> None:
        """Isolate the file of a match, and the files of the following matches in the batch.

        A match that wants a report is not isolated before its turn if the note of the report is
        missing, because the note must be written first. A file that was isolated ahead of its turn
        is left out, because its first result has not been shown yet.
        """
        from hashclient.quarantine.store import AT_ONCE

        reason = self._reason(first.outcome)
        wanted = {record.id: first.outcome}
        for recorded in self._batch:
            outcome, later = recorded.outcome, recorded.record
            if len(wanted) == AT_ONCE:
                break
            if (
                later is not None
                and self._reason(outcome) == reason
                and not later.held
                and later.id not in wanted
                and later.id not in self._taken
                and self._may_isolate(outcome)
                and (later.id in self._noted or not self._is_to_be_reported(outcome))
            ):
                wanted[later.id] = outcome
        for match_id, match in matches.look_up_all([*wanted]).items():
            if match_id != record.id and _refused_for_a_link(wanted[match_id], match) is not None:
                del wanted[match_id]
        now = self._session.now()
        if now - record.last_seen > LATE:
            matches.use(tuple(wanted), now, now - LATE)
        self._taking = frozenset(wanted)
        seen = [(match_id, outcome.seen) for match_id, outcome in wanted.items()]
        self._taken |= self._open_quarantine().take_all(seen, matches, reason=reason)
        self._refs |= {i: match.ref for i, match in matches.look_up_all([*wanted]).items()}

    def _reason(self, outcome: Outcome) -> str:
        by_rule = Action.QUARANTINE in self._rules.actions_for(outcome)
        return "policy" if by_rule else "scan --quarantine"

    def _is_to_be_reported(self, outcome: Outcome) -> bool:
        return Action.REPORT in self._policy.actions_for(outcome)

    def _may_isolate(self, outcome: Outcome) -> bool:
        """Return whether an outcome asks for isolation; the machine's state is not examined."""
        is_alone = self._takes_containers or not outcome.members
        return is_alone and not outcome.is_stream and self._may_take(outcome)

    def _report(self, record: MatchRef) -> str:
        """Note that a report is wanted, unless a note or report exists; return a text about it."""
        wanted = self._noted.pop(record.id, None)
        if wanted is None:
            with Matches(self._settings.state_dir) as matches:
                wanted = matches.want_report(record.id, self._destination, self._session.now())
        if wanted:
            is_chosen = ReviewPolicy(self._settings.config.report).is_chosen(record.id)
            after = " after a review" if is_chosen else ""
            return f"to be reported to {self._destination}{after}"
        is_reported = record.state in (MatchState.REPORTED, MatchState.ACKNOWLEDGED)
        return f"{record.state} already" if is_reported else "in a report already"

    def end(self) -> Iterator[Report]:
        """Prepare the reports that are wanted, including the reports that killed runs wanted.

        Raises:
            HashclientError: a report cannot be prepared, and is still wanted; the other reports
                were prepared.
        """
        if self._only_tell:
            return
        failures = []
        for made in prepare_wanted(self._session):
            if isinstance(made, HashclientError):
                failures.append(made)
            else:
                yield made
        if failures:
            raise max(failures, key=lambda error: error.exit_code)

    @property
    def _destination(self) -> str:
        name = self._settings.config.report.destination()
        assert name is not None, "the configuration was checked"
        return name

    def _open_quarantine(self) -> Quarantine:
        # `Quarantine` is imported here, because most scans have no match, and need no quarantine.
        from hashclient.quarantine.vault import Quarantine

        if self._quarantine is None:
            self._quarantine = Quarantine(self._session)
        return self._quarantine

    def _not_done(self, action: Action, detail: str, code: ExitCode) -> Acted:
        self._note(code)
        return Acted(action, done=False, detail=detail)

    def _note(self, code: ExitCode) -> None:
        self.failed = max(code, self.failed or code)


def prepare_wanted(
    session: Session, *, unreviewed: bool = False
) -> Iterator[Report | HashclientError]:
    """Prepare the reports that scans want and that were not prepared yet, and yield them.

    Reports of matches that wait for a review stay wanted, unless `unreviewed` is set. If a report
    cannot be prepared, the report stays wanted, its error is yielded, and the other reports are
    prepared.
    """
    settings = session.settings
    if not is_there(settings.layout.matches):
        return
    from hashclient.reporting.outbox import Outbox

    outbox = Outbox(session)
    try:
        with Matches(settings.state_dir) as matches:
            for destination in sorted(matches.wanting_report()):
                try:
                    while made := outbox.prepare_wanted(
                        destination, matches, most=REPORT_MATCHES, unreviewed=unreviewed
                    ):
                        yield made
                except HashclientError as error:
                    yield error
    except HashclientError as error:
        yield error


def _refused_for_a_link(outcome: Outcome, match: Match) -> str | None:
    """Return why a file is not isolated, if another user's symbolic link leads to it; else None.

    The symbolic links in the paths of the user are followed. Other users must not be able to choose
    by a symbolic link which files are isolated.
    """
    if match.path == place_of(outcome).path:
        return None
    try:
        real, stranger = way_of(outcome.path)
    except OSError as error:
        return f"not quarantined: the links to it cannot be looked at: {error.strerror}"
    if stranger is not None:
        who = f"{stranger.who} may change {printable(stranger.path)}"
    elif real != match.path:
        who = "links on the way have changed"
    else:
        return None
    return f"not quarantined: a link leads to it, and {who}: scan it by its real path"


def _with_it(outcome: Outcome) -> str:
    """Return a text about the container that is isolated because of one of its members."""
    if outcome.outer is None:
        return ""
    others = outcome.outer.members - 1
    if not others:
        return ": the container, which has no other member"
    return f": the container, with {counted(others, 'other member')}"


_PARTICIPLES = {Action.QUARANTINE: "quarantined", Action.REPORT: "reported"}


@functools.cache
def _held(
    wanted: tuple[Action, ...], how: str = "held, it waits for a person"
) -> tuple[Acted, ...]:
    """Return the results for a held match; the results for the same actions are one object."""
    return tuple(
        Acted(action, done=False, detail=f"not {_PARTICIPLES[action]}: {how}") for action in wanted
    )
