"""The notices in a status: open notices, and notices that are damaged or missing.

The verified metadata on the disk shows which providers have published notices. So `status` shows if
nobody has fetched the notices, or if somebody has removed their file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from hashclient.config.settings import Settings
from hashclient.core.errors import ExitCode, HashclientError, StateError
from hashclient.notices.document import Severity
from hashclient.notices.lifecycle import Standing, State, counts, is_alarming, standings
from hashclient.notices.store import (
    Book,
    are_missing,
    has_role,
    load_book,
    providers_with_notices,
)
from hashclient.system.text import for_people


class NoticesStatus(msgspec.Struct, frozen=True):
    """The open notices, their numbers by provider and severity, and problems with notices.

    `alarming`: the number of open notices because of which `status` ends with 3, as the
    configuration requires. `exit_code`: the highest exit code that the notices require.
    """

    open: tuple[Standing, ...]
    counts: Mapping[str, Mapping[Severity, int]]
    acknowledged: int
    alarming: int
    problems: tuple[str, ...]
    exit_code: ExitCode


def read_notices(settings: Settings, now: datetime) -> NoticesStatus | None:
    """Read the notices on this machine, or return None if no provider has published notices.

    Raises:
        StateError: the folder of notices cannot be read.
    """
    alert_from = settings.config.notices.alert_from
    least = None if alert_from is None else Severity(alert_from.capitalize())
    names = set(providers_with_notices(settings.layout))
    expected = {name for name in settings.config.providers if has_role(settings.layout, name)}
    if not names | expected:
        return None
    found: list[Standing] = []
    by_provider: dict[str, Mapping[Severity, int]] = {}
    problems: list[str] = []
    code = ExitCode.OK
    alarming = 0
    for name in sorted(names | expected):
        try:
            book = load_book(settings.layout, name)
        except StateError as error:
            problems.append(text_of(error))
            code = max(code, error.exit_code)
            continue
        if book is None:
            problems.append(f"notices of provider {name} are not here; run `hashclient fetch`")
            if are_missing(settings.layout, name):
                # Either the notices are lost, or the last fetch was done by an older version of
                # this program, which does not know notices.
                code = max(code, ExitCode.STATE)
            alarming += least is not None
            continue
        of_provider = standings(name, book.notices, now)
        found += of_provider
        by_provider[name] = counts(of_provider)
        alarming += sum(is_alarming(standing, least) for standing in of_provider)
        # A notice that was refused counts as a notice of the highest severity.
        alarming += len(book.refused) if least is not None else 0
        problems += _refused(book)
        if (stale := _stale(book, now, settings.grace(name))) is not None:
            problems.append(stale)
            code = max(code, ExitCode.STALE)
    if alarming:
        code = max(code, ExitCode.INCOMPLETE)
    found.sort(key=lambda s: (list(Severity).index(s.notice.severity), s.name))
    return NoticesStatus(
        tuple(s for s in found if s.state is State.OPEN),
        by_provider,
        sum(s.state is State.ACKNOWLEDGED for s in found),
        alarming,
        tuple(problems),
        code,
    )


def text_of(error: HashclientError) -> str:
    """Return an error as a problem in a status: what is wrong, and what to do."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _refused(book: Book) -> Iterator[str]:
    if book.refused:
        first, more = book.refused[0], len(book.refused) - 1
        others = f", and {more:,} more" if more else ""
        yield f"notice {book.provider}/{first.id} is not here: {first.reason}{others}"


def _stale(book: Book, now: datetime, grace: timedelta) -> str | None:
    if now - grace >= book.expires:
        return (
            f"notices of provider {book.provider} are STALE: their signatures expired on"
            f" {for_people(book.expires)}; run `hashclient fetch`"
        )
    return None
