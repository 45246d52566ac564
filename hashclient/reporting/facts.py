"""Facts about the source of a file: the account, IP address, time, URL and message.

No log, output, metric, alert or document of this program contains facts about the source, because
these facts are personal data. The facts are sealed to the recipients of a package, or sent to a
service. A program can add facts by the API of hashclient; added facts are stored sealed until the
match ends. If no facts were added, the command in `[report.facts]` returns the facts when a report
is sent.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from hashclient.audit.log import Event
from hashclient.core.agefile import Chunks
from hashclient.core.errors import AuthorisationError, StateError, UnreachableError, UsageError
from hashclient.core.match import Match
from hashclient.core.model import Time
from hashclient.matches.store import Matches
from hashclient.packages.document import Evidence, facts_name
from hashclient.quarantine.age import parse_recipients
from hashclient.quarantine.evidence import unsealed
from hashclient.quarantine.sealing import seal_stream
from hashclient.session import Session
from hashclient.system.command import run_command
from hashclient.system.files import (
    MAX_STATE_BYTES,
    make_private_dir,
    read_regular,
    state_error,
    write_atomic,
)
from hashclient.system.strictjson import parse_json
from hashclient.system.text import path_fields, printable
from hashclient.system.versions import newer_or

#: The time limit of the command in `[report.facts]` in seconds, and the limit of its output in
#: bytes.
LIMIT_S = 10.0
MAX_BYTES = 1 << 16
#: After `MOST_FAILURES` failures without a success, the command in `[report.facts]` is not run
#: again by the same process.
MOST_FAILURES = 5
#: The name of the event in the audit log after facts were added; the event does not contain the
#: facts.
ADDED = "facts-added"
ADDED_FORMAT: Final = "hashclient-facts/1"

_Text = Annotated[
    str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]{1,500}\Z")
]
_Url = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,2000}\Z")]


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The facts about the source of one file; an unknown fact is None.

    `address` is the IP address from which the file was uploaded. `uploaded` is the time of the
    upload.
    """

    account: _Text | None = None
    address: _Text | None = None
    uploaded: Time | None = None
    url: _Url | None = None
    message_id: _Text | None = None

    def __bool__(self) -> bool:
        """Return whether at least one fact is known."""
        return self != Facts()

    def texts(self) -> dict[str, str]:
        """Return the known facts as texts, by name."""
        known: dict[str, str] = msgspec.to_builtins(self)
        return known


class _Added(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file with the added facts about a match.

    `sealed` is the JSON of `Facts`, encrypted in the age format. `recipients` are the public keys
    to which it is encrypted.
    """

    format: Literal["hashclient-facts/1"]
    recipients: tuple[str, ...]
    sealed: bytes


class Asked(msgspec.Struct):
    """The answers of the command in `[report.facts]`, by match id, and its latest failures.

    `failures` is the number of failures since the last success.
    """

    answers: dict[str, Facts] = {}
    failures: int = 0
    failure: UnreachableError | None = None


def parse_facts(values: Any) -> Facts:
    """Return the facts in a decoded JSON object.

    Raises:
        UsageError: a key or value is not valid; the message names the key, but contains no value.
    """
    if not isinstance(values, dict):
        raise UsageError("the facts are no JSON object")
    if values.keys() - {*Facts.__struct_fields__}:
        raise UsageError(
            "the facts have an unknown key", hint=f"known: {', '.join(Facts.__struct_fields__)}"
        )
    for name, value in values.items():
        try:
            msgspec.convert({name: value}, Facts)
            if name == "address" and value is not None:
                ipaddress.ip_address(value)
        except (ValueError, UnicodeError):
            raise UsageError(f"the facts have a wrong {name}") from None
    return msgspec.convert(values, Facts)


def keep_facts(session: Session, record: Matches, match_id: str, facts: Facts) -> None:
    """Store facts about a match, sealed to all possible recipients of its report.

    Facts that were added earlier are replaced.

    Raises:
        UsageError: no match has this id.
        ConfigError: no public key to which facts could be sealed is configured.
        AuditError, StateError: the facts cannot be logged or written.
    """
    match = record.get(match_id)
    config = session.settings.config
    others = (getattr(table, "recipients", ()) for table in config.report.to.values())
    keys = tuple(dict.fromkeys(itertools.chain(config.quarantine.recipients, *others)))
    added = _Added(ADDED_FORMAT, keys, _seal(facts, keys))
    session.audit.append([Event(ADDED, {"id": match.id, "by": session.operator})], durable=True)
    path = session.settings.layout.facts_of(match.id)
    make_private_dir(path.parent)
    write_atomic(path, msgspec.json.encode(added) + b"\n")


def facts_known(session: Session, match: Match, asked: Asked) -> bool:
    """Return whether facts about the source of a match are known, without opening sealed facts.

    Raises:
        StateError: the added facts are damaged.
        UsageError, UnreachableError: the command in `[report.facts]` has failed.
    """
    return _added(session, match.id) is not None or _ask(session, match, asked) is not None


def plain_facts(
    session: Session, identities: Sequence[Any], match: Match, asked: Asked
) -> Facts | None:
    """Return the facts about the source of a match in plain form; None if no fact is known.

    Raises:
        AuthorisationError: no secret key in `identities` can open the added facts.
        StateError: the added facts are damaged.
        UsageError, UnreachableError: the command in `[report.facts]` has failed.
    """
    added = _added(session, match.id)
    if added is None:
        return _ask(session, match, asked)
    if not identities:
        raise AuthorisationError(
            "the facts about its source are sealed",
            hint="`hashclient report submit REPORT --identity FILE` with the officer's key",
        )
    return _parse(b"".join(unsealed(iter((added.sealed,)), identities)))


def seal_facts(
    session: Session, recipients: Sequence[str], match: Match, asked: Asked, directory: Path
) -> Evidence | None:
    """Write the sealed facts about a match into `directory`, for a package for `recipients`.

    For a package without recipients, the facts are sealed to the recipients of the quarantine.
    Return None if no fact is known.

    Raises:
        ConfigError: no public key to which facts could be sealed is configured.
        StateError: the added facts are damaged, or the sealed facts cannot be written.
        UsageError, UnreachableError: the command in `[report.facts]` has failed.
    """
    added = _added(session, match.id)
    if added is not None:
        keys, sealed = added.recipients, added.sealed
    elif (facts := _ask(session, match, asked)) is not None:
        keys = tuple(recipients or session.settings.config.quarantine.recipients)
        sealed = _seal(facts, keys)
    else:
        return None
    name = facts_name(match.id)
    write_atomic(make_private_dir(directory) / Path(name).name, sealed)
    return Evidence(name, hashlib.sha256(sealed).hexdigest(), len(sealed), keys)


def _seal(facts: Facts, recipients: Sequence[str]) -> bytes:
    plain, sealed = msgspec.json.encode(facts), list[bytes]()
    seal_stream(Chunks(iter((plain,))).read, sealed.append, parse_recipients(recipients))
    return b"".join(sealed)


def _added(session: Session, match_id: str) -> _Added | None:
    path = session.settings.layout.facts_of(match_id)
    try:
        data = read_regular(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise state_error("cannot read", path, error) from error
    try:
        return msgspec.json.decode(data, type=_Added)
    except (ValueError, RecursionError) as error:
        damaged = StateError(
            f"damaged: {printable(path)}", hint="remove it, and add the facts again"
        )
        raise newer_or(damaged, path, data, ADDED_FORMAT) from error


def _ask(session: Session, match: Match, asked: Asked) -> Facts | None:
    """Return the facts that the command in `[report.facts]` returns about a match, or None."""
    config = session.settings.config.report.facts
    if config is None:
        return None
    if match.id in asked.answers:
        return asked.answers[match.id] or None
    if asked.failure is not None and asked.failures >= MOST_FAILURES:
        raise asked.failure
    given = msgspec.json.encode({"id": match.id, **path_fields(match.path)})
    try:
        output = run_command(
            config.command, given, session.environ, LIMIT_S, of="report.facts", most_bytes=MAX_BYTES
        )
    except UnreachableError as error:
        asked.failures, asked.failure = asked.failures + 1, error
        raise
    asked.failures = 0
    asked.answers[match.id] = facts = _parse(output)
    return facts or None


def _parse(text: bytes) -> Facts:
    try:
        values = parse_json(text)
    except (ValueError, RecursionError):
        raise UsageError("the facts are no JSON") from None
    return parse_facts(values)
