"""A notice as a message of the Common Alerting Protocol 1.2 (OASIS, 1 July 2010), in XML.

For systems that pass alerts on, such as control rooms and ticket systems. The message has no
signature; the notice was verified when it was fetched. The text is ASCII: any other character is
written as a number, which means the same in XML, cannot confuse a terminal, and does not depend on
an encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from hashclient.notices.document import Notice

NAMESPACE = "urn:oasis:names:tc:emergency:cap:1.2"
#: CAP's class of the subject: law enforcement and private security.
CATEGORY = "Security"


def to_cap(notice: Notice, provider: str) -> str:
    """Return the message, with its XML declaration and a newline at its end."""
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
    # CAP asks who may get the message: those who have a credential of the provider.
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
    """Return a time in the form of CAP: UTC is `-00:00`, and `Z` is not allowed (3.3.2)."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S}-00:00"


def _element(name: str, text: str, depth: int) -> str:
    return f"{' ' * depth}<{name}>{''.join(map(_escaped, text))}</{name}>"


def _escaped(char: str) -> str:
    if char in "&<>" or not (" " <= char <= "~" or char == "\n"):
        return f"&#x{ord(char):x};"
    return char
