"""A notice on the wire: one small JSON document with the terms of the Common Alerting Protocol 1.2.

A notice is plain text of limited length for people; nothing in a notice is executed, opened or
followed. A notice may contain characters that change the direction of text, which Arabic and Hebrew
need; the code that shows a notice escapes these characters. `docs/format.md` specifies notices;
`lifecycle` has the states of a notice on a client.

`to_cap` writes a notice as a CAP 1.2 message (OASIS, 1 July 2010) in XML, for systems that forward
alerts, such as control rooms and ticket systems. The CAP message has no signature; the notice was
verified when it was fetched. The CAP message is ASCII: any other character is written as a number,
which means the same in XML, cannot confuse a terminal, and does not depend on an encoding.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec

from hashclient.core.errors import VerificationError
from hashclient.core.model import Time, is_name
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt
from hashclient.system.versions import require_format

FORMAT: Literal["hashclient-notice/1"] = "hashclient-notice/1"
MAX_NOTICE_BYTES = 1 << 14
MAX_REFERENCES = 32
MAX_LISTS = 32
MAX_LANGUAGE_CHARS = 35
#: The first and the last year of times in notices; years with four digits are supported by every
#: calendar and time zone.
FIRST_YEAR, LAST_YEAR = 2000, 9998


class Type(enum.StrEnum):
    """The type: a new notice (`ALERT`), a replacement (`UPDATE`) or an end (`CANCEL`)."""

    ALERT = "Alert"
    UPDATE = "Update"
    CANCEL = "Cancel"


class Status(enum.StrEnum):
    """Whether a notice is real. A notice that is an exercise or a test requires no action."""

    ACTUAL = "Actual"
    EXERCISE = "Exercise"
    TEST = "Test"


class Severity(enum.StrEnum):
    """The severity of a notice, the worst first."""

    EXTREME = "Extreme"
    SEVERE = "Severe"
    MODERATE = "Moderate"
    MINOR = "Minor"
    UNKNOWN = "Unknown"


class Urgency(enum.StrEnum):
    """When people should act on a notice."""

    IMMEDIATE = "Immediate"
    EXPECTED = "Expected"
    FUTURE = "Future"
    PAST = "Past"
    UNKNOWN = "Unknown"


class Certainty(enum.StrEnum):
    """How sure the provider is of a notice."""

    OBSERVED = "Observed"
    LIKELY = "Likely"
    POSSIBLE = "Possible"
    UNLIKELY = "Unlikely"
    UNKNOWN = "Unknown"


#: A pattern for a sender, without spaces, commas, `<` and `&`, which CAP forbids because a
#: reference is three values with commas between them.
_SENDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._:/+-]{0,79}", re.ASCII)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}", re.ASCII)
#: A pattern for control characters, surrogates, and the two other characters that XML does not
#: allow.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_CONTROL_BUT_NEWLINE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
#: A pattern for text that may be a digest, because digests are allowed in sealed lists only, never
#: in messages.
_DIGEST = re.compile("[0-9A-Fa-f]{32}")

#: The texts of a notice, with the largest number of characters of each.
LINES = {"event": 80, "headline": 160, "contact": 200}
PARAGRAPHS = {"description": 2_000, "instruction": 1_000}
#: The names of the texts that may be empty.
OPTIONAL = frozenset({"contact", "description", "instruction"})


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An earlier notice, named by the three fields that identify a message in CAP."""

    sender: str
    id: str
    sent: Time


class Notice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A notice. All times are in UTC and in whole seconds.

    `lists`: the names of the lists to which the notice refers, possibly none. `references`: the
    notices that an `UPDATE` replaces or a `CANCEL` ends; an `ALERT` has none.
    """

    format: Literal["hashclient-notice/1"]
    id: str
    sender: str
    sent: Time
    status: Status
    type: Type
    references: tuple[Reference, ...]
    language: str
    event: str
    urgency: Urgency
    severity: Severity
    certainty: Certainty
    expires: Time
    headline: str
    description: str
    instruction: str
    contact: str
    lists: tuple[str, ...]

    @property
    def reference(self) -> Reference:
        """The reference with which another notice can name this notice."""
        return Reference(self.sender, self.id, self.sent)


def parse_notice(data: bytes, notice_id: str) -> Notice:
    """Parse and validate the notice that is signed as `notice_id`.

    Raises:
        VerificationError: a rule of the format is broken.
    """
    what = f"notice {notice_id}"
    if len(data) > MAX_NOTICE_BYTES:
        raise VerificationError(f"{what} is too large: {len(data):,} bytes")
    try:
        document = parse_json(data)
        require_format(document, FORMAT, what, _repeated)
        notice = _in_utc(msgspec.convert(document, Notice))
    except ValueError as error:  # `parse_json` and `msgspec.convert` raise subclasses of ValueError
        raise VerificationError(f"{what} is not valid: {_repeated(error)}") from error
    except OverflowError as error:
        raise VerificationError(f"{what} is not valid: a time is out of range") from error
    if notice.id != notice_id:
        raise VerificationError(f"{what} calls itself {_repeated(notice.id)}")
    if (fault := find_fault(notice)) is not None:
        raise VerificationError(f"{what} is not valid: {fault}")
    return notice


def _repeated(text: object) -> str:
    """Return a key or a value of a notice for a message, without text that may be a digest."""
    return excerpt(_DIGEST.sub("…", str(text)))


def encode_notice(notice: Notice) -> bytes:
    """Return the bytes of a notice, which `parse_notice` can parse."""
    return msgspec.json.format(msgspec.json.encode(notice), indent=1) + b"\n"


def find_fault(notice: Notice) -> str | None:
    """Return the fault of a notice whose values have the right types, or None.

    The text that describes the fault does not contain the wrong value.
    """
    if not is_name(notice.id) or _DIGEST.search(notice.id):
        return "id is not allowed"
    if not _SENDER.fullmatch(notice.sender) or _DIGEST.search(notice.sender):
        return "sender is not allowed"
    if len(notice.language) > MAX_LANGUAGE_CHARS or not _LANGUAGE.fullmatch(notice.language):
        return "language is no tag of a language"
    times = [notice.sent, notice.expires, *(r.sent for r in notice.references)]
    if any(time.microsecond for time in times):
        return "a time is not in whole seconds"
    if not all(FIRST_YEAR <= time.year <= LAST_YEAR for time in times):
        return f"a time is not of the years {FIRST_YEAR} to {LAST_YEAR}"
    if notice.expires <= notice.sent:
        return "it expires before it is sent"
    return _fault_of_references(notice) or _fault_of_texts(notice) or _fault_of_lists(notice)


def _fault_of_references(notice: Notice) -> str | None:
    references = notice.references
    if (notice.type is Type.ALERT) != (not references):
        return "an Alert has no references, and an Update or a Cancel has some"
    if len(references) > MAX_REFERENCES:
        return f"it has {len(references)} references, more than {MAX_REFERENCES}"
    if len({reference.id for reference in references}) != len(references):
        return "it refers to one notice twice"
    for reference in references:
        if not is_name(reference.id) or _DIGEST.search(reference.id):
            return "id of a reference is not allowed"
        if not _SENDER.fullmatch(reference.sender) or _DIGEST.search(reference.sender):
            return "sender of a reference is not allowed"
        if reference.id == notice.id or reference.sent >= notice.sent:
            return "it refers to a notice that was not sent before it"
    return None


def _fault_of_texts(notice: Notice) -> str | None:
    for texts, control in ((LINES, _CONTROL), (PARAGRAPHS, _CONTROL_BUT_NEWLINE)):
        for name, most in texts.items():
            text: str = getattr(notice, name)
            if len(text) > most:
                return f"{name} has {len(text):,} characters, more than {most:,}"
            if name not in OPTIONAL and not text.strip():
                return f"{name} is empty"
            if control.search(text):
                return f"{name} has a control character"
            if _DIGEST.search(text):
                return f"{name} contains what may be a digest"
    return None


def _fault_of_lists(notice: Notice) -> str | None:
    if len(notice.lists) > MAX_LISTS or len(set(notice.lists)) != len(notice.lists):
        return f"it names more than {MAX_LISTS} lists, or one twice"
    if not all(is_name(name) and not _DIGEST.search(name) for name in notice.lists):
        return "name of a list is not allowed"
    return None


def _in_utc(notice: Notice) -> Notice:
    return msgspec.structs.replace(
        notice,
        sent=notice.sent.astimezone(UTC),
        expires=notice.expires.astimezone(UTC),
        references=tuple(
            msgspec.structs.replace(r, sent=r.sent.astimezone(UTC)) for r in notice.references
        ),
    )


NAMESPACE = "urn:oasis:names:tc:emergency:cap:1.2"
#: The category of all notices in CAP, which stands for law enforcement and private security.
CATEGORY = "Security"


def to_cap(notice: Notice, provider: str) -> str:
    """Return a notice as a CAP message, with an XML declaration, and a newline at its end."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<alert xmlns="{NAMESPACE}">']
    lines += [_element(name, text, 1) for name, text in _head(notice, provider)]
    lines.append(" <info>")
    lines += [_element(name, text, 2) for name, text in _info(notice)]
    for name in notice.lists:
        lines.append("  <parameter>")
        lines += [_element("valueName", "hash-list", 3), _element("value", name, 3)]
        lines.append("  </parameter>")
    lines += [" </info>", "</alert>", ""]
    return "\n".join(lines)


def _head(notice: Notice, provider: str) -> Iterator[tuple[str, str]]:
    yield "identifier", notice.id
    yield "sender", notice.sender
    yield "sent", _time(notice.sent)
    yield "status", notice.status
    yield "msgType", notice.type
    # CAP requires a description of the readers, which are all clients with a credential of the
    # provider.
    yield "scope", "Restricted"
    yield "restriction", f"For clients of the hash lists of {provider}"
    if notice.references:
        yield (
            "references",
            " ".join(f"{r.sender},{r.id},{_time(r.sent)}" for r in notice.references),
        )


def _info(notice: Notice) -> Iterator[tuple[str, str]]:
    yield "language", notice.language
    yield "category", CATEGORY
    yield "event", notice.event
    yield "urgency", notice.urgency
    yield "severity", notice.severity
    yield "certainty", notice.certainty
    yield "expires", _time(notice.expires)
    yield "headline", notice.headline
    optional = ("description", "instruction", "contact")
    yield from ((name, text) for name in optional if (text := getattr(notice, name)))


def _time(time: datetime) -> str:
    """Return a time in the form of CAP, where UTC is `-00:00` and `Z` is not allowed (3.3.2)."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S}-00:00"


def _element(name: str, text: str, depth: int) -> str:
    return f"{' ' * depth}<{name}>{''.join(map(_escaped, text))}</{name}>"


def _escaped(char: str) -> str:
    if char in "&<>" or not (" " <= char <= "~" or char == "\n"):
        return f"&#x{ord(char):x};"
    return char
