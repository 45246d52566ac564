"""Fetching from all providers in turn, under one lock, with the failures on the way.

After a provider that fails, the others are still fetched. The error of a list is in the result of
the list; the error of a provider is raised after the others were tried.

The places of one provider are asked in order until all lists are fetched: 1 a place is asked for
the metadata, for notices, and for all lists that are left; 2 a failure that may be the fault of the
place (unreachable, not authorised, wrong signature, expired) is logged and reported, and the next
place is asked for the rest; also for lists that the place refuses to this client, which are not
offered only if all places refuse them; 3 this ends when all is fetched, when there is no other
place, or when places have failed for too long. Signed data that are refused are not asked for
again: they are the same at each place. Each place has its own transport and its own credential, so
that no place gets the credential of another place.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from hashclient.config.settings import Settings
from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    DeliveryError,
    HashclientError,
    StaleError,
    StateError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from hashclient.fetch.denied import note_denied
from hashclient.fetch.fetcher import AS_USUAL, NO_LIST, ClockError, Fetcher, How, manifests_here
from hashclient.fetch.notices import FetchedNotices
from hashclient.fetch.places import Place, TimedSource, addresses, copy_at, log_refusal
from hashclient.fetch.switch import Fetched
from hashclient.index.blinding import Sealer
from hashclient.index.open_lists import UNCONFIGURED_HINT, delegated_lists, denied_lists
from hashclient.index.reader import lists_on_disk
from hashclient.session import Session
from hashclient.system.files import make_private_dir
from hashclient.system.layout import DENIED_NAME, TARGETS_NAME
from hashclient.system.text import first_of, printable

#: All places together may fail for this many times the timeout of a request; then no further place
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
    """Yield the result for every list of provider `name`, or for the lists in `only`.

    `how.on_failure` is called with the error of each place after which another is asked.
    `how.on_notices` is called once, at the end, with the result for notices of all places, if any.
    The caller holds the writers' lock.

    Raises:
        HashclientError: as `Fetcher.fetch`; if several places fail, the last of the worst failures.
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
        """The error of the notices, if another place may have no error."""
        error = self.so_far.error if self.so_far else None
        return error if error is not None and _is_of_place(error) else None

    def failed_s(self, started: float) -> float:
        """Return how many seconds the notices of the last place took, from `started`.

        0 if another place would have the same error: then the place was not at fault.
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
        # If one of the two places has succeeded, the result has no failure.
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
    # How many places have refused a list that was never here.
    refusals: Counter[str] = Counter()
    folder = session.settings.layout.provider(name)
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
                    refusals[fetched.list_name] += fetched.is_denied
                    if refusals[fetched.list_name] == len(places):
                        note_denied(folder, [fetched.list_name])
                    elif fetched.error is None or not _is_of_place(fetched.error):
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
            pass  # only notices failed
        elif worst is None or failed.exit_code >= worst.exit_code:
            worst = failed
        # 2
        if others := places[number:]:
            faults = [entry.error for entry in held.values() if not entry.is_denied]
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
                        hint="check the network; `timeout_s` sets the time for each address",
                    )
                )
                break
            left = frozenset({NO_LIST} if has_lists else held) or left
    denied = denied_lists(folder / DENIED_NAME)
    for entry in held.values():
        if not (entry.is_denied and entry.list_name in denied):
            failure = worst or entry.error
            yield _worse(entry, msgspec.structs.replace(entry, error=failure, is_denied=False))
    if worst is not None and not held:
        raise worst


def _is_of_place(error: HashclientError) -> bool:
    """Return whether another place may succeed after a place failed with `error`."""
    return isinstance(error, _OF_PLACE) and not isinstance(error, ClockError)


def _worse(one: Fetched | None, other: Fetched) -> Fetched:
    """Return the refusal with the higher exit code, or the later one if both codes are equal."""
    if one is None or one.error is None or other.error is None:
        return other
    return one if one.error.exit_code > other.error.exit_code else other


def _passed_over(place: Place, error: HashclientError) -> HashclientError:
    """Return `error` with the name of the place, for a message that the next place is used."""
    kinds = (*_OF_PLACE, ConfigError, VerificationError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), type(error))
    return kind(f"{place.name} is passed over: {error.message}", hint=error.hint)


def fetch_all(
    session: Session,
    only: Collection[str] = (),
    provider: str | None = None,
    how: How = AS_USUAL,
    *,
    copy: Path | None = None,
    wait_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[Fetched]:
    """Yield the result for every list, or for the lists in `only`, of one or all providers.

    With `copy`, the path of a bundle or a directory, the copy is read and no network is used.
    `wait_s` and `on_wait` are as for `writing`. `how.received` is not used: bytes are counted here.
    `how.on_failure` is called with three kinds of errors: an error of an address, if the next
    address is asked; an error of one of several providers; and an error of a list whose provider is
    not in the configuration.

    Raises:
        HashclientError: as `fetch_in_turn`; with several providers, the error of the highest exit
            code is raised after the others were tried.
        UsageError: no provider offers a list in `only`; or it is unknown which of several providers
        `copy` is from.
    """
    settings = session.settings
    received = Received()
    how = msgspec.structs.replace(how, received=received.count)
    places = _places(settings, provider, copy, received)
    make_private_dir(settings.state_dir)
    worst: HashclientError | None = None
    unknown = set(only)
    with session.writing(wait_s=wait_s, on_wait=on_wait):
        sealer = session.sealer(create=not lists_on_disk(settings.layout.lists))
        if not only and provider is None and copy is None:
            for abandoned in _without_provider(settings, sealer):
                how.on_failure(abandoned)
        for name, where in places.items():
            try:
                for fetched in fetch_in_turn(session, name, where, only, how):
                    unknown.discard(fetched.list_name)
                    yield fetched
            except HashclientError as error:
                if len(places) == 1:
                    raise
                # The worst failure is raised after the other providers were tried; each failure is
                # reported once.
                if worst is None:
                    worst = error
                else:
                    lesser, worst = sorted((worst, error), key=lambda e: e.exit_code)
                    how.on_failure(lesser)
    if worst is not None:
        raise worst
    if unknown:
        raise UsageError(
            f"no list to fetch is called {printable(min(unknown))}",
            hint="; ".join(_offer(settings, name) for name in places),
        )


def _offer(settings: Settings, provider: str) -> str:
    """Return which lists a provider offers, whose metadata was verified just now."""
    names = delegated_lists(settings.layout.metadata(provider) / TARGETS_NAME)
    return f"provider {provider} offers: {first_of(sorted(names or ())) or 'none'}"


def _without_provider(settings: Settings, sealer: Sealer) -> Iterator[StateError]:
    """Yield an error for each list in use that cannot be fetched: its provider is not configured.

    Raises:
        StateError: a list may not be read.
    """
    for manifest in manifests_here(settings.layout.lists, sealer):
        if manifest.provider not in settings.config.providers:
            yield StateError(
                f"list {manifest.list} is in use but not kept up to date: provider"
                f" {printable(manifest.provider)} is not configured",
                hint=UNCONFIGURED_HINT,
            )


def _places(
    settings: Settings, provider: str | None, copy: Path | None, received: Received
) -> dict[str, list[Place]]:
    """Return the places of each provider, in the order of the names of the providers."""
    names = [provider] if provider else sorted(settings.providers())
    if copy is not None:
        if len(names) > 1:
            raise UsageError(
                "there are several providers: say which one has exported this",
                hint=f"name it with --provider: {', '.join(names)}",
            )
        settings.provider(names[0])
        return {names[0]: [copy_at(copy)]}
    # A provider without an address is left out if others have addresses: people bring its lists.
    reached = [name for name in names if settings.provider(name).addresses] or names
    return {name: addresses(name, settings.provider(name), received.add) for name in reached}


class Received:
    """Counts received bytes, in several threads at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, count: int) -> None:
        """Count `count` bytes more, or less if they were dropped."""
        with self._lock:
            self._count += count

    def count(self) -> int:
        """Return how many bytes were received."""
        return self._count
