"""Downloads, verifies and stores the notices of a provider in each fetch.

A fetch of notices takes these steps:

1. The role of notices is verified (`trust`), and an older version is refused.
2. Signed notices that are not on this machine are downloaded, verified and parsed.
3. New notices are logged.
4. All notices are written in one step.

If a notice breaks a rule, the remaining notices are still accepted, and the reason is stored
instead of the notice. After any failure in this module, lists are still fetched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec

from hashclient.audit.log import Event
from hashclient.core.errors import HashclientError, UnreachableError, VerificationError
from hashclient.fetch.places import log_refusal
from hashclient.notices.document import MAX_NOTICE_BYTES, Notice, parse_notice
from hashclient.notices.lifecycle import Kept, Standing, merged, standings
from hashclient.notices.store import (
    Book,
    DamagedBookError,
    Refused,
    changing,
    load_book,
    write_book,
)
from hashclient.session import Session
from hashclient.system.files import is_there
from hashclient.system.log import Log
from hashclient.system.text import for_programs, printable
from hashclient.trust.additions import SignedNotices
from hashclient.trust.tuf import Trust

_log = Log("notices")
#: The time limit for all notices from one address, as a multiple of the timeout of a request. The
#: limit for one address is less than the limit for all addresses, so that there is time for the
#: next address.
PATIENCE = 2


class FetchedNotices(msgspec.Struct, frozen=True):
    """The result of a fetch for the notices of one provider.

    `arrived`: new notices with their state. `ended`: earlier notices that were in force until this
    fetch. `refused`: notices that were refused or could not be downloaded. `error`: the error that
    concerns all notices, or the error of a single notice with the highest exit code.
    """

    provider: str
    arrived: tuple[Standing, ...] = ()
    ended: tuple[Standing, ...] = ()
    refused: tuple[Refused, ...] = ()
    error: HashclientError | None = None


#: A function called with the result for notices, if the provider has notices.
OnNotices = Callable[[FetchedNotices], None]


def fetch_notices(
    session: Session,
    trust: Trust,
    provider: str,
    origin: str,
    on_notices: OnNotices,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Fetch the notices of `provider`, after `trust.refresh`; call `on_notices` with the result.

    The log names `origin` as the source of notices that are refused. When the time limit is
    reached, the remaining notices are left to another address or to the next fetch, because lists
    are waiting.

    Refused notices are logged, and are part of the result.

    Raises:
        AuditError: the audit log cannot be written.
    """
    fetched = _fetch(session, trust, provider, origin, monotonic)
    if fetched is not None:
        on_notices(fetched)


def _fetch(
    session: Session, trust: Trust, provider: str, origin: str, monotonic: Callable[[], float]
) -> FetchedNotices | None:
    ends = monotonic() + PATIENCE * session.settings.provider(provider).timeout_s
    layout = session.settings.layout
    try:
        signed = trust.notices()  # step 1 of a fetch of notices
        before = _book(session, provider)
        if signed is None:
            path = layout.notices_of(provider)
            # A damaged file of notices shows that notices were fetched before.
            if before is None and not is_there(path):
                return None
            raise VerificationError(
                f"provider {provider}: its role of notices has vanished",
                hint="nothing was changed; tell the provider; if the provider does not publish "
                f"notices any more, remove {printable(path)}",
            )
        epoch = trust.epoch()
        if before is not None and before.epoch == epoch and signed.version < before.version:
            raise VerificationError(
                f"provider {provider}: version {signed.version} of its notices is older than"
                f" {before.version}, which is here",
                hint="nothing was changed; tell the provider",
            )
        here = {one.notice.id: one.digest for one in before.notices} if before else {}
        come = _download(session, trust, signed, here, lambda: monotonic() > ends)
        for error in come.errors:
            log_refusal(session.audit, provider, None, error, origin)
        with changing(layout):
            # Somebody may have acknowledged a notice during the download, so the file of notices is
            # read again.
            before = _book(session, provider)
            kept = before.notices if before else ()
            return _keep(session, provider, signed, epoch, kept, come)
    except HashclientError as error:
        log_refusal(session.audit, provider, None, error, origin)
        return FetchedNotices(provider, error=error)


class _Come(msgspec.Struct):
    """The results of a download: new notices, notices that were refused, and failures."""

    arrived: list[Kept] = msgspec.field(default_factory=list)
    refused: list[Refused] = msgspec.field(default_factory=list)
    errors: list[HashclientError] = msgspec.field(default_factory=list)

    @property
    def error(self) -> HashclientError | None:
        """The failure with the highest exit code; if several have this code, the first of them."""
        return max(self.errors, key=lambda error: error.exit_code, default=None)


def _book(session: Session, provider: str) -> Book | None:
    try:
        return load_book(session.settings.layout, provider)
    except DamagedBookError as error:
        _log.info("begun again: %s", error.message)
        return None


def _download(
    session: Session,
    trust: Trust,
    signed: SignedNotices,
    here: Mapping[str, str],
    is_late: Callable[[], bool],
) -> _Come:
    """Download signed notices that are not `here` (by id and digest), until `is_late`."""
    come = _Come()
    goes_on = True
    for notice_id, info in sorted(signed.targets.items()):
        digest = trust.hash_of(info)
        if here.get(notice_id) == digest:
            continue
        if not goes_on:
            come.refused.append(Refused(notice_id, "it was not fetched"))
            continue
        try:
            if notice_id in here:
                raise VerificationError(
                    f"notice {notice_id} was published again with another content",
                    hint="the earlier notice stays; tell the provider",
                )
            if is_late():
                raise UnreachableError(
                    f"notice {notice_id}: there was no time left for it",
                    hint="the next fetch goes on",
                )
            notice = parse_notice(trust.download(info, MAX_NOTICE_BYTES), notice_id)
            come.arrived.append(Kept(notice, digest, session.now()))
        except HashclientError as error:
            if not error.message.startswith("notice "):
                error.message = f"notice {notice_id}: {error.message}"
            come.refused.append(Refused(notice_id, error.message))
            come.errors.append(error)
            # Without a network or a credential, the next download would fail in the same way, so
            # the loop does not continue.
            is_missing = getattr(error, "status", None) == HTTPStatus.NOT_FOUND
            goes_on = isinstance(error, VerificationError) or is_missing
    return come


def _keep(
    session: Session,
    provider: str,
    signed: SignedNotices,
    epoch: str,
    before: tuple[Kept, ...],
    come: _Come,
) -> FetchedNotices:
    now = session.now()
    stood = {s.notice.id for s in standings(provider, before, now) if s.stands}
    # A notice that is now signed with another content keeps the content that it had before.
    other = {r.id for r in come.refused} & {one.notice.id for one in before}
    gone = {one.notice.id for one in before if one.notice.id in other and not one.signed}
    kept = merged(before, come.arrived, signed.targets.keys() - gone, now)
    found = standings(provider, kept, now)
    new = {one.notice.id for one in come.arrived}
    arrived = tuple(s for s in found if s.notice.id in new)
    # Step 3 of a fetch of notices: new notices are logged.
    session.audit.append([_arrival(s) for s in arrived], durable=True)
    book = Book(provider, signed.version, epoch, signed.expires, now, kept, tuple(come.refused))
    write_book(session.settings.layout, book)  # step 4 of a fetch of notices
    ended = tuple(s for s in found if s.notice.id in stood and not s.stands)
    return FetchedNotices(provider, arrived, ended, book.refused, come.error)


def _arrival(standing: Standing) -> Event:
    notice: Notice = standing.notice
    data = {
        "provider": standing.provider,
        "notice": notice.id,
        "type": str(notice.type),
        "status": str(notice.status),
        "severity": str(notice.severity),
        "sent": for_programs(notice.sent),
        "expires": for_programs(notice.expires),
        "references": [reference.id for reference in notice.references],
        "document": standing.kept.digest,
    }
    return Event("notice-received", data)
