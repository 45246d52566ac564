"""The format of a notice: accepted and refused notices, at each limit."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from fixtures.notices import SENT, make_notice
from hashclient.core.errors import VerificationError
from hashclient.notices.document import (
    LINES,
    MAX_LISTS,
    MAX_NOTICE_BYTES,
    MAX_REFERENCES,
    PARAGRAPHS,
    Type,
    encode_notice,
    find_fault,
    parse_notice,
)

#: Texts with characters that are invisible or reorder text on a terminal: bidi controls, zero
#: width, and a line separator of Unicode. A notice may contain such texts, and programs escape the
#: characters.
TRICKS = "gpj.exe \u202e\u2066\u2069 \u200b \u2028 end"


def document(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(encode_notice(make_notice()))
    return value | changes


def parse(value: object, notice_id: str = "n-1") -> object:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_notice(data, notice_id)


def reference(**changes: Any) -> dict[str, Any]:
    return {"sender": "a@b", "id": "n-0", "sent": "2026-04-01T00:00:00Z"} | changes


def test_a_written_notice_is_read_back() -> None:
    first = make_notice()
    update = make_notice("n-2", type=Type.UPDATE, refers_to=["n-0"], headline=TRICKS)
    assert parse_notice(encode_notice(first), "n-1") == first
    assert parse_notice(encode_notice(update), "n-2") == update


def test_a_time_in_another_zone_is_the_same_time() -> None:
    value = document(sent="2026-05-01T14:00:00+02:00")
    assert parse_notice(json.dumps(value).encode(), "n-1").sent == SENT


def test_a_text_of_any_language_may_be_in_it() -> None:
    for text in ("تحذير: تحقق مرة أخرى", "Prüfen Sie erneut", "再確認してください", "🔴", TRICKS):
        parse(document(headline=text, description=f"{text}\n{text}"))


BAD_TEXTS = ["a\x00b", "a\x1b[31mb", "a\x07", "a\rb", "a\tb", "a\x7f", "a\x9b31m", "a\ufffeb"]
LIKE_A_DIGEST = "see d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "hashclient-notice/2"}, "this client reads hashclient-notice/1"),
        ({"format": 1}, "not valid"),
        ({"id": "n-2"}, "calls itself n-2"),
        ({"more": 1}, "not valid"),
        ({"type": "Alarm"}, "not valid"),
        ({"type": "alert"}, "not valid"),
        ({"severity": "Bad"}, "not valid"),
        ({"status": "System"}, "not valid"),
        ({"status": "Draft"}, "not valid"),
        ({"sent": "2026-05-01T12:00:00"}, "not valid"),
        ({"sent": "2026-05-01T12:00:00.5Z"}, "whole seconds"),
        ({"sent": 1}, "not valid"),
        ({"sent": "0001-01-01T00:00:00+14:00"}, "out of range"),
        ({"sent": "1999-12-31T23:59:59Z"}, "years 2000 to 9998"),
        ({"expires": "9999-01-01T00:00:00Z"}, "years 2000 to 9998"),
        ({"type": "Update", "references": [reference(sent="0999-01-01T00:00:00Z")]}, "years 2000"),
        ({"expires": "2026-05-01T12:00:00Z"}, "expires before"),
        ({"sender": "a b"}, "sender"),
        ({"sender": "a,b"}, "sender"),
        ({"sender": ""}, "sender"),
        ({"sender": "a" * 81}, "sender"),
        ({"language": "english please"}, "language"),
        ({"language": "en-" + "a" * 33}, "language"),
        ({"headline": ""}, "headline is empty"),
        ({"headline": " "}, "headline is empty"),
        ({"event": ""}, "event is empty"),
        ({"headline": "a\nb"}, "headline has a control character"),
        ({"lists": ["../x"]}, "name of a list"),
        ({"lists": ["a", "a"]}, "one twice"),
        ({"lists": ["d41d8cd98f00b204e9800998ecf8427e"]}, "name of a list"),
        ({"d41d8cd98f00b204e9800998ecf8427e": 1}, "not valid"),
        ({"severity": "d41d8cd98f00b204e9800998ecf8427e"}, "not valid"),
        ({"format": "d41d8cd98f00b204e9800998ecf8427e"}, "has format …"),
        ({"id": "d41d8cd98f00b204e9800998ecf8427e"}, "calls itself …"),
        ({"lists": [f"l{n}" for n in range(MAX_LISTS + 1)]}, "more than 32 lists"),
        ({"references": [reference()]}, "an Alert has no references"),
        ({"type": "Update"}, "an Update or a Cancel has some"),
        ({"type": "Cancel"}, "an Update or a Cancel has some"),
        ({"type": "Update", "references": [reference(), reference()]}, "twice"),
        ({"type": "Update", "references": [reference(id="../x")]}, "id of a reference"),
        ({"type": "Update", "references": [reference(sender="a b")]}, "sender of a reference"),
        ({"type": "Update", "references": [reference(id="n-1")]}, "not sent before"),
        ({"type": "Update", "references": [reference(sent=SENT.isoformat())]}, "not sent before"),
        ({"type": "Update", "references": [reference(more=1)]}, "not valid"),
        (
            {
                "type": "Update",
                "references": [reference(id=f"n-{n + 9}") for n in range(MAX_REFERENCES + 1)],
            },
            "33 references",
        ),
        ({"description": LIKE_A_DIGEST}, "may be a digest"),
        ({"contact": LIKE_A_DIGEST.upper()}, "may be a digest"),
        ({"sender": "D41D8CD98F00B204E9800998ECF8427E"}, "sender"),
    ],
)
def test_a_notice_that_breaks_the_format_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        parse(document(**changes))
    assert caught.value.message.isprintable() and len(caught.value.message) < 400
    assert "d41d8cd9" not in caught.value.message.lower()


@pytest.mark.parametrize("name", [*LINES, *PARAGRAPHS])
@pytest.mark.parametrize("text", BAD_TEXTS, ids=ascii)
def test_no_control_character_is_in_a_text(name: str, text: str) -> None:
    with pytest.raises(VerificationError, match=f"{name} has a control character"):
        parse(document(**{name: text}))


@pytest.mark.parametrize(("name", "most"), [*LINES.items(), *PARAGRAPHS.items()])
def test_a_text_has_a_bound(name: str, most: int) -> None:
    parse(document(**{name: "x" * most}))
    with pytest.raises(VerificationError, match=f"{name} has {most + 1:,} characters"):
        parse(document(**{name: "x" * (most + 1)}))


def test_a_document_has_a_bound() -> None:
    data = json.dumps(document()).encode()
    parse(data + b" " * (MAX_NOTICE_BYTES - len(data)))
    with pytest.raises(VerificationError, match="too large"):
        parse(data + b" " * (MAX_NOTICE_BYTES - len(data) + 1))


@pytest.mark.parametrize("key", [*document()])
def test_each_key_has_to_be_there(key: str) -> None:
    value = document()
    del value[key]
    with pytest.raises(VerificationError, match="not valid"):
        parse(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 5_000,
        b"\xff",
        json.dumps(document()).encode("utf-16"),
        json.dumps(document()).replace("{", '{"id": "n-1", ', 1).encode(),
        json.dumps(document(headline="half \ud800")).encode(),
        json.dumps(document()).replace('"n-1"', "NaN").encode(),
    ],
)
def test_json_that_is_not_one_thing_to_every_parser_is_refused(data: bytes) -> None:
    with pytest.raises(VerificationError, match="not valid"):
        parse(data)


def test_the_widest_notice_that_is_allowed_fits() -> None:
    """A notice with all texts at their limits, in characters of three bytes, fits a document."""
    texts = {name: "警" * most for name, most in {**LINES, **PARAGRAPHS}.items()}
    lists = tuple(f"{n:02}" + "x" * 60 for n in range(MAX_LISTS))
    notice = make_notice(lists=lists, **texts)
    assert len(encode_notice(notice)) < MAX_NOTICE_BYTES
    assert parse_notice(encode_notice(notice), "n-1") == notice


def test_half_a_character_is_none() -> None:
    """Python passes an argument that is not UTF-8 as lone surrogates."""
    assert find_fault(make_notice(headline="a\udcff")) == "headline has a control character"


def test_the_end_of_time_is_a_time() -> None:
    end = datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert parse_notice(encode_notice(make_notice(expires=end)), "n-1").expires == end
