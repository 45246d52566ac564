"""Fetches lists from all providers, one after the other, under one lock, and reports failures.

If a provider fails, the remaining providers are still fetched. The error of a list is part of the
result for the list; the error of a provider is raised after all providers were tried.

The places of one provider are asked in order:

1. A place is asked for the metadata, for notices, and for all lists that are missing.
2. If the failure may be the fault of the place (unreachable, not authorised, wrong signature,
   expired), it is logged and reported, and the next place is asked for the missing lists. A list
   that all places refuse to this client is treated as not offered.
3. The loop ends when no list is missing, when all places were asked, or when places have failed for
   too long.

Signed data that are refused are not requested from another place, because each place has the same
signed data. Each place has its own transport and its own credential, so that no place receives the
credential of another place.
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

#: The time for which all places together may fail, as a multiple of the timeout of a request; after
#: this time no further place is asked.
PATIENCE = 8

#: The errors that may be the fault of a place.
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
    """Yield the result for each list of provider `name`, or for each list in `only`.

    `how.on_failure` is called with the error of a place if another place is asked next.
    `how.on_notices` is called once, at the end, with the joined result for notices, if a place has
    notices. The caller must have the writers' lock.

    Raises:
        HashclientError: `Fetcher.fetch` has failed; if several places fail, the error is the last
            with the highest exit code.
    """
    notices = _Notices(monotonic)
    try:
        asked = msgspec.structs.replace(how, on_notices=notices)
        yield from _in_turn(session, name, places, frozenset(only), asked, notices, monotonic)
    finally:
        if notices.so_far is not None:
            how.on_notices(notices.so_far)


class _Notices:
    """Joins the results for notices of all places."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._received_at = 0.0
        self.so_far: FetchedNotices | None = None

    def __call__(self, fetched: FetchedNotices) -> None:
        self._received_at = self._monotonic()
        self.so_far = fetched if self.so_far is None else _both(self.so_far, fetched)

    @property
    def fault(self) -> HashclientError | None:
        """The error of the notices, if it may be the fault of the place."""
        error = self.so_far.error if self.so_far else None
        return error if error is not None and _is_of_place(error) else None

    def failed_s(self, started: float) -> float:
        """Return the seconds that the notices of the last place took since `started`.

        The result is 0 if another place would have the same error, because the place was not at
        fault.
        """
        return 0.0 if self.fault is None else max(0.0, self._received_at - started)


def _both(one: FetchedNotices, other: FetchedNotices) -> FetchedNotices:
    """Join the results of two places; `other` was asked after `one`."""
    ended = {standing.notice.id: standing for standing in (*one.ended, *other.ended)}
    arrived = [ended.pop(s.notice.id, s) for s in one.arrived]
    return msgspec.structs.replace(
        other,
        arrived=(*arrived, *other.arrived),
        ended=tuple(ended.values()),
        # If one of the two places has succeeded, the joined result has no error.
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
    # `held`: lists that no place has delivered so far, with their errors.
    held: dict[str, Fetched] = {}
    # The number of places that have refused a list which was never on this machine.
    refusals: Counter[str] = Counter()
    folder = session.settings.layout.provider(name)
    worst: HashclientError | None = None
    # Whether all lists were delivered, so that only notices are missing.
    has_lists = False
    for number, place in enumerate(places, 1):
        timed: TimedSource | None = None
        failed: HashclientError | None = None
        started = monotonic()
        # Step 1: one place of the provider is asked.
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
            # The credential may be missing for this place only, so the next place is tried.
            is_unset = timed is None and isinstance(error, ConfigError) and len(places) > 1
            # After the place is open, the fetcher logs refusals.
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
            pass  # the lists were delivered, and only notices failed
        elif worst is None or failed.exit_code >= worst.exit_code:
            worst = failed
        # Step 2: the failure of the place is reported, and the next place is chosen.
        if others := places[number:]:
            faults = [entry.error for entry in held.values() if not entry.is_denied]
            faults.append(notices.fault)
            for fault in [failed] if failed else faults:
                if fault is not None:
                    how.on_failure(_passed_over(place, fault))
            # Step 3: the loop ends if the places have failed for too long.
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
    """Return whether another place may succeed after one place failed with `error`."""
    return isinstance(error, _OF_PLACE) and not isinstance(error, ClockError)


def _worse(one: Fetched | None, other: Fetched) -> Fetched:
    """Return the refusal with the higher exit code, or `other` if the codes are equal."""
    if one is None or one.error is None or other.error is None:
        return other
    return one if one.error.exit_code > other.error.exit_code else other


def _passed_over(place: Place, error: HashclientError) -> HashclientError:
    """Return `error` with a message which says that the next place is asked instead of `place`."""
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
    """Yield the result for each list, or for the lists in `only`, of one or all providers.

    With `copy`, the path of a bundle or a directory, the copy is read and no network is used.
    `writing` explains `wait_s` and `on_wait`. `how.received` is replaced, because this function
    counts bytes itself. `how.on_failure` is called with three kinds of errors:

    - the error of an address, if the next address is asked;
    - the error of one of several providers;
    - an error for each list whose provider is not in the configuration.

    Raises:
        HashclientError: `fetch_in_turn` has failed; with several providers, the error of the
            highest exit code is raised after all providers were tried.
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
                # With several providers, the error with the highest exit code is raised at the end,
                # and every other error is reported once.
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
    """Return a sentence about the lists that a provider offers.

    The metadata of the provider must be verified already.
    """
    names = delegated_lists(settings.layout.metadata(provider) / TARGETS_NAME)
    return f"provider {provider} offers: {first_of(sorted(names or ())) or 'none'}"


def _without_provider(settings: Settings, sealer: Sealer) -> Iterator[StateError]:
    """Yield an error for each list in use whose provider is not in the configuration.

    A list cannot be fetched if its provider is not configured.

    Raises:
        StateError: this user may not read a list.
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
    """Return the places of each provider, ordered by the names of the providers."""
    names = [provider] if provider else sorted(settings.providers())
    if copy is not None:
        if len(names) > 1:
            raise UsageError(
                "there are several providers: say which one has exported this",
                hint=f"name it with --provider: {', '.join(names)}",
            )
        settings.provider(names[0])
        return {names[0]: [copy_at(copy)]}
    # If some providers have addresses, a provider without an address is left out, because people
    # bring its lists on a medium.
    reached = [name for name in names if settings.provider(name).addresses] or names
    return {name: addresses(name, settings.provider(name), received.add) for name in reached}


class Received:
    """Counts received bytes; several threads may use it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, count: int) -> None:
        """Add `count` bytes; a negative `count` means bytes that were dropped."""
        with self._lock:
            self._count += count

    def count(self) -> int:
        """Return the number of received bytes."""
        return self._count
