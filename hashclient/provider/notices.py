"""Publishes, replaces and cancels notices of a provider, in a role that has its own keys.

The first notice creates the role. A notice is removed from the role some time after the expiry of
the notice, so that the role does not grow. Cancelled and replaced notices are also kept until their
removal, so that a client that was offline receives them. The texts of notices are checked by the
rules of the clients (`hashclient.notices.document`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Metadata, TargetFile, Targets

from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.notices.document import (
    FORMAT,
    LINES,
    MAX_NOTICE_BYTES,
    Certainty,
    Notice,
    Severity,
    Status,
    Type,
    Urgency,
    encode_notice,
    find_fault,
    parse_notice,
)
from hashclient.notices.lifecycle import Kept, Standing, State, merged, standings
from hashclient.provider.drafting import check_public, require_ready
from hashclient.provider.keys import Keys
from hashclient.provider.listfiles import ListFiles
from hashclient.provider.repository import Repository
from hashclient.provider.roles import Roles
from hashclient.system.text import printable
from hashclient.trust.additions import MAX_NOTICES, NOTICES

#: The default values of the fields of a new notice.
DEFAULTS: Mapping[str, Any] = {
    "status": Status.ACTUAL,
    "language": "en",
    "urgency": Urgency.UNKNOWN,
    "certainty": Certainty.OBSERVED,
    "description": "",
    "instruction": "",
    "contact": "",
    "lists": (),
}
DEFAULT_LIFE = timedelta(days=30)
#: The time from the expiry of a notice to its removal from the role. A client that fetches less
#: often does not see the removal in time, but the notice itself contains its expiry.
REMOVED_AFTER = timedelta(days=30)

_ONE_KEY = Keys()


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a notice that the user sets; a field that is None was not set."""

    id: str | None = None
    sender: str | None = None
    status: Status | None = None
    language: str | None = None
    event: str | None = None
    urgency: Urgency | None = None
    severity: Severity | None = None
    certainty: Certainty | None = None
    expires: datetime | None = None
    headline: str | None = None
    description: str | None = None
    instruction: str | None = None
    contact: str | None = None
    lists: tuple[str, ...] | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that are not None, by name."""
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}


class NoticeBoard:
    """Changes the notices in one repository."""

    def __init__(self, repository: Repository) -> None:
        """Store the repository; nothing is read yet."""
        self.repository = repository

    def publish(
        self, said: Said, now: datetime, *, keys: Keys = _ONE_KEY, draft: Path | None = None
    ) -> Notice:
        """Publish a new notice. The first notice creates the role of notices, with `keys`.

        If `draft` is given, the change is written as a draft into this new directory instead of
        being published.

        Raises:
            UsageError: the notice breaks a rule of the format, or its id was used before.
            StateError: the repository does not exist, a key is missing, or a file cannot be
                written; the old state is still published.
        """
        with self.repository.changing_roles() as roles:
            check_public(keys, draft, is_new=roles.notices is None)
            return self._publish(roles, Type.ALERT, said.given(), (), now, draft, keys)

    def update(
        self, ids: Sequence[str], said: Said, now: datetime, *, draft: Path | None = None
    ) -> Notice:
        """Replace the notices `ids`; the new notice copies fields that `said` lacks from the first.

        Raises:
            UsageError: see `publish`; also if a notice in `ids` is not published, or has ended.
            StateError: see `publish`.
        """
        with self.repository.changing_roles() as roles:
            old = self._earlier(roles, ids, now)
            values = _inherited(old[0]) | said.given()
            return self._publish(roles, Type.UPDATE, values, old, now, draft)

    def cancel(
        self, ids: Sequence[str], said: Said, now: datetime, *, draft: Path | None = None
    ) -> Notice:
        """Cancel the notices `ids` by a new notice; `said` may contain the reason.

        Raises:
            UsageError: see `update`.
            StateError: see `publish`.
        """
        with self.repository.changing_roles() as roles:
            old = self._earlier(roles, ids, now)
            values = _inherited(old[0])
            # A notice of type Cancel has to be published for as long as the notices that it
            # cancels.
            values["expires"] = max(notice.expires for notice in old)
            values["headline"] = f"Cancelled: {values['headline']}"[: LINES["headline"]]
            values |= {"description": "", "instruction": ""} | said.given()
            return self._publish(roles, Type.CANCEL, values, old, now, draft)

    def standing(self, now: datetime) -> list[Standing]:
        """Return the published notices with their states, the newest notice first.

        Raises:
            StateError: the repository does not exist or is corrupt.
        """
        return self._standing(self.repository.load(), now)

    def _publish(
        self,
        roles: Roles,
        type_: Type,
        values: dict[str, Any],
        old: Sequence[Notice],
        now: datetime,
        draft: Path | None,
        keys: Keys = _ONE_KEY,
    ) -> Notice:
        if NOTICES in roles.lists:
            raise UsageError(
                f"there is a list called {NOTICES}, as the role of notices would be",
                hint="publish the list under another name, in a repository of its own",
            )
        is_new = roles.notices is None
        require_ready(roles, draft, "targets" if is_new else NOTICES)
        known = [standing.notice for standing in self._standing(roles, now)]
        sent = now.replace(microsecond=0)
        # The time of the new notice has to be after the time of each notice that the new notice
        # refers to, even if the clock of the machine that published the earlier notice was ahead.
        sent = max([sent, *(notice.sent + timedelta(seconds=1) for notice in old)])
        if "sender" not in values:
            if not known:
                raise UsageError(
                    "the first notice needs a --sender",
                    hint="a name that only you have, such as lists@example.org",
                )
            values["sender"] = known[0].sender
        # The severity is required, because clients treat an unknown severity as the highest
        # severity.
        for name in ("event", "headline", "severity"):
            if name not in values:
                raise UsageError(f"a notice needs --{name}")
        notice_id = values.pop("id", None) or _free_id(sent, {notice.id for notice in known})
        if notice_id in {notice.id for notice in known}:
            raise UsageError(
                f"a notice has this id already: {printable(notice_id)}",
                hint="an id is never used again; `update` replaces a notice",
            )
        values = {"expires": sent + DEFAULT_LIFE, **DEFAULTS, **values}
        notice = Notice(
            format=FORMAT,
            id=notice_id,
            sent=sent,
            type=type_,
            references=tuple(notice.reference for notice in old),
            **values,
        )
        notice = msgspec.structs.replace(notice, expires=notice.expires.replace(microsecond=0))
        fault = find_fault(notice)
        encoded = b"" if fault else encode_notice(notice)
        if len(encoded) > MAX_NOTICE_BYTES:
            fault = f"it is too large: {len(encoded):,} bytes, more than {MAX_NOTICE_BYTES:,}"
        if fault is not None:
            raise UsageError(f"not a notice: {fault}", hint="docs/notices.md has the rules")
        role = roles.notices or roles.add_notices(keys)
        _drop_expired(role, known, now)
        if len(role.signed.targets) >= MAX_NOTICES:
            raise UsageError(
                f"there are {MAX_NOTICES:,} notices, the most that are allowed",
                hint="expired ones are removed after a time: give them an earlier --expires",
            )
        change = _Addition(notice.id, encoded)
        changed = {NOTICES, *(["targets"] if is_new else [])}
        data = {"notice": notice.id, "type": type_.value}
        self.repository.put(roles, changed, draft, "notice-published", data, change)
        if draft is None:
            self.repository.files.remove_unreferenced(role, NOTICES)
        return notice

    def _earlier(self, roles: Roles, ids: Sequence[str], now: datetime) -> list[Notice]:
        found = {standing.notice.id: standing for standing in self._standing(roles, now)}
        chosen = []
        for notice_id in ids:
            standing = found.get(notice_id)
            if standing is None:
                raise UsageError(
                    f"no such notice: {printable(notice_id)}",
                    hint="`hashclient provider notice list` shows those that are published",
                )
            if standing.state is not State.OPEN:
                by = f" by {standing.by}" if standing.by else ""
                raise UsageError(f"notice {notice_id} has ended: {standing.state}{by}")
            chosen.append(standing.notice)
        return chosen

    def _standing(self, roles: Roles, now: datetime) -> list[Standing]:
        if roles.notices is None:
            return []
        kept = []
        for path, target in roles.notices.signed.targets.items():
            notice_id = path.removeprefix(f"{NOTICES}/").removesuffix(".json")
            try:
                notice = parse_notice(self.repository.files.read(target), notice_id)
            except VerificationError as error:
                raise StateError(f"corrupt repository: {error.message}") from error
            kept.append(Kept(notice, target.hashes["sha256"], notice.sent))
        ids = {one.notice.id for one in kept}
        return standings("", merged((), kept, ids, now), now)


class _Addition(msgspec.Struct, frozen=True):
    """A change that adds a notice to the role of notices, which exists already."""

    notice_id: str
    data: bytes

    def write(self, files: ListFiles, roles: Roles) -> None:
        """Write the notice, and add its name to the role.

        Raises:
            StateError: the notice cannot be written.
        """
        assert roles.notices is not None
        target = TargetFile.from_data(f"{NOTICES}/{self.notice_id}.json", self.data, ["sha256"])
        roles.notices.signed.targets[target.path] = target
        files.write_target(target, self.data)


def _inherited(notice: Notice) -> dict[str, Any]:
    """Return the fields that a new notice copies from the earlier `notice`."""
    own = {"format", "id", "sent", "type", "references"}
    return {k: v for k, v in msgspec.structs.asdict(notice).items() if k not in own}


def _free_id(sent: datetime, taken: Collection[str]) -> str:
    first = f"n-{sent:%Y%m%dt%H%M%S}"
    choices = (first if number == 1 else f"{first}-{number}" for number in range(1, 2 + len(taken)))
    return next(choice for choice in choices if choice not in taken)


def _drop_expired(role: Metadata[Targets], known: Sequence[Notice], now: datetime) -> None:
    for notice in known:
        if now - notice.expires > REMOVED_AFTER:
            del role.signed.targets[f"{NOTICES}/{notice.id}.json"]
