"""One provider: its places are asked in order until all lists are fetched.

1 a place is asked for the metadata, for notices, and for all lists that are left; 2 a failure that
may be the fault of the place (unreachable, not authorised, wrong signature, expired) is logged and
reported, and the next place is asked for the rest; 3 this ends when all is fetched, when there
is no other place, or when places have failed for too long. Signed data that are refused are not
asked for again: they are the same at each place. Each place has its own transport and its own
credential, so that no place sees another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from hashclient.errors import (
    AuthorisationError,
    ConfigError,
    DeliveryError,
    HashclientError,
    StaleError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from hashclient.fetch.fetcher import AS_USUAL, NO_LIST, ClockError, Fetcher, How
from hashclient.fetch.notices import FetchedNotices
from hashclient.fetch.places import Place, TimedSource, log_refusal
from hashclient.fetch.switch import Fetched
from hashclient.session import Session

#: All places together may fail for this many times the timeout of one request; then no other place
#: is asked.
PATIENCE = 8

#: Errors that may be the fault of a place; a wrong local clock is not.
_OF_PLACE = (UnreachableError, AuthorisationError, DeliveryError, StaleError)


def fetch_in_turn(
    session: Session,
    name: str,
    places: Sequence[Place],
    only: Collection[str] = (),
    how: How = AS_USUAL,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Fetched]:
    """Yield the result for every list of provider `name`, or for those in `only`.

    `how.on_failure` is called with the error of each place after which another is asked.
    `how.on_notices` is called once, at the end, with the result for notices of all places, if there
    are any. The caller holds the writers' lock.

    Raises:
        HashclientError: as `Fetcher.fetch`; of several places the worst, the last of these.
    """
    notices = _Notices(monotonic)
    try:
        asked = msgspec.structs.replace(how, on_notices=notices)
        yield from _in_turn(session, name, places, frozenset(only), asked, notices, monotonic)
    finally:
        if notices.so_far is not None:
            how.on_notices(notices.so_far)


class _Notices:
    """The results for notices of all places, joined."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._received_at = 0.0
        self.so_far: FetchedNotices | None = None

    def __call__(self, fetched: FetchedNotices) -> None:
        self._received_at = self._monotonic()
        self.so_far = fetched if self.so_far is None else _both(self.so_far, fetched)

    @property
    def fault(self) -> HashclientError | None:
        """Their error, if another place may do better."""
        error = self.so_far.error if self.so_far else None
        return error if error is not None and _is_of_place(error) else None

    def failed_s(self, started: float) -> float:
        """Return how long notices of the last place took, from `started`, in seconds.

        It is 0 unless another place may do better: otherwise the place was not at fault.
        """
        return 0.0 if self.fault is None else max(0.0, self._received_at - started)


def _both(one: FetchedNotices, other: FetchedNotices) -> FetchedNotices:
    """Join the results of two places, the second asked after the first."""
    ended = {standing.notice.id: standing for standing in (*one.ended, *other.ended)}
    arrived = [ended.pop(s.notice.id, s) for s in one.arrived]
    return msgspec.structs.replace(
        other,
        arrived=(*arrived, *other.arrived),
        ended=tuple(ended.values()),
        # If one of the two places succeeded, there is no failure.
        error=other.error
        and max(other.error, one.error or other.error, key=lambda error: error.exit_code),
    )


def _in_turn(
    session: Session,
    name: str,
    places: Sequence[Place],
    left: frozenset[str],
    how: How,
    notices: _Notices,
    monotonic: Callable[[], float],
) -> Iterator[Fetched]:
    patience_s = PATIENCE * session.settings.provider(name).timeout_s
    # Lists that no place has delivered so far, and the worst error of a place as a whole.
    held: dict[str, Fetched] = {}
    worst: HashclientError | None = None
    # Whether only notices are left.
    has_lists = False
    for number, place in enumerate(places, 1):
        timed: TimedSource | None = None
        failed: HashclientError | None = None
        started = monotonic()
        # 1
        try:
            with place.open() as source:
                timed = TimedSource(source, monotonic)
                there = {"base": place.base, "origin": place.name}
                for fetched in Fetcher(session, name, timed, how, **there).fetch(left):
                    before = held.pop(fetched.list_name, None)
                    if fetched.error is None or not _is_of_place(fetched.error):
                        yield fetched
                    else:
                        held[fetched.list_name] = _worse(before, fetched)
        except HashclientError as error:
            # The credential may be missing for only one place.
            is_unset = timed is None and isinstance(error, ConfigError) and len(places) > 1
            # Once the place is open, the fetcher logs refusals.
            if timed is None and (is_unset or not isinstance(error, UsageError)):
                log_refusal(session.audit, name, None, error, place.name)
            if not is_unset and not _is_of_place(error):
                yield from held.values()
                raise
            failed = error
        if failed is None:
            worst = None
            has_lists = not held
            if has_lists and notices.fault is None:
                return
        elif has_lists:
            pass  # the lists did not fail
        elif worst is None or failed.exit_code >= worst.exit_code:
            worst = failed
        # 2
        if others := places[number:]:
            faults = [entry.error for entry in held.values()]
            faults.append(notices.fault)
            for fault in [failed] if failed else faults:
                if fault is not None:
                    how.on_failure(_passed_over(place, fault))
            # 3
            patience_s -= max(timed.failed_s if timed else 0.0, notices.failed_s(started))
            if patience_s < 0:
                how.on_failure(
                    UnreachableError(
                        f"provider {name}: its addresses have failed for too long; not asked:"
                        f" {', '.join(other.name for other in others)}",
                        hint="check the network; `timeout_s` says how long each may take",
                    )
                )
                break
            left = frozenset({NO_LIST} if has_lists else held) or left
    for entry in held.values():
        yield entry if worst is None else _worse(entry, msgspec.structs.replace(entry, error=worst))
    if worst is not None and not held:
        raise worst


def _is_of_place(error: HashclientError) -> bool:
    """Return whether another place may do better than the one that failed with `error`."""
    return isinstance(error, _OF_PLACE) and not isinstance(error, ClockError)


def _worse(one: Fetched | None, other: Fetched) -> Fetched:
    """Return the refusal with the higher exit code, or the later one of equals."""
    if one is None or one.error is None or other.error is None:
        return other
    return one if one.error.exit_code > other.error.exit_code else other


def _passed_over(place: Place, error: HashclientError) -> HashclientError:
    """Return `error` with the name of the place, which is passed over."""
    kinds = (*_OF_PLACE, ConfigError, VerificationError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), type(error))
    return kind(f"{place.name} is passed over: {error.message}", hint=error.hint)
