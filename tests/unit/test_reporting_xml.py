"""XML of a reporting service: elements in the order of its schema; hostile answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.desk import Desk
from fixtures.reporting_service import SCHEMA
from hashclient.core.errors import ConfigError, UnreachableError, VerificationError
from hashclient.packages.document import Document
from hashclient.reporting.destinations.cybertipline.xml import (
    Schema,
    file_element,
    parse_answer,
    report_element,
    to_bytes,
)

HEAD = b'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">'
NOWHERE = b"http://127.0.0.1:9/x"


def with_facet(name: str, value: str, base: str = "string") -> bytes:
    """Return a schema for a report that consists of one value, restricted by one facet."""
    facet = f'<xs:restriction base="xs:{base}"><xs:{name} value="{value}"/></xs:restriction>'
    element = f'<xs:element name="report"><xs:simpleType>{facet}</xs:simpleType></xs:element>'
    return HEAD + element.encode() + b"</xs:schema>"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    matches = [
        desk.find(b"plain", b"one"),
        desk.find(b'<&">\xff\x01\n\\ .bin', b"two"),
        desk.find("\u202etxt.\U0001f600", b"three"),
    ]
    return desk.outbox.document(desk.prepare(*matches))


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(SCHEMA)


def elements(document: Document) -> list[ET.Element]:
    ids = [match.id for match in document.matches]
    digests = {"MD5": "0" * 32, "SHA1": "1" * 40, "SHA256": "2" * 64}
    return [
        report_element(document, "Synthetic Incident", ids, ()),
        report_element(document, "Synthetic Incident", (), ()),
        report_element(document, "Synthetic Incident", ids[:1], ids[:1]),
        *(file_element(m, "4711", "f1", digests, None) for m in document.matches),
        *(file_element(m, "4711", "f1", {}, ["age1x", "age1y"]) for m in document.matches),
    ]


def test_it_fits_the_schema(document: Document, schema: Schema) -> None:
    for element in elements(document):
        schema.validate(to_bytes(element))


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="xmllint is not installed")
def test_another_validator_agrees(document: Document, tmp_path: Path) -> None:
    (tmp_path / "schema.xsd").write_bytes(SCHEMA)
    paths = []
    for number, element in enumerate(elements(document)):
        paths.append(tmp_path / f"{number}.xml")
        paths[-1].write_bytes(to_bytes(element))
    schema = str(tmp_path / "schema.xsd")
    command = ["xmllint", "--noout", "--nonet", "--schema", schema, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_text_of_a_report(document: Document) -> None:
    text = to_bytes(elements(document)[4]).decode()
    assert "<fileViewedByEsp>false</fileViewedByEsp>" in text
    assert r"<fileName>&lt;&amp;\"&gt;\xff\x01\x0a\\ .bin</fileName>".replace('\\"', '"') in text
    assert '<originalFileHash hashType="SHA1">1111' in text
    sealed = to_bytes(elements(document)[6]).decode()
    assert f"<fileName>{document.matches[0].id}.age</fileName>" in sealed
    assert "originalFileHash" not in sealed and "age1x, age1y" in sealed
    described = to_bytes(elements(document)[1]).decode()
    for match in document.matches:
        assert f"match {match.id}: " in described
    assert "entry e-" in described and "nobody has viewed them" in described


@pytest.mark.parametrize(
    ("incident", "named"), [("Something else", "/report/incidentSummary/incidentType"), ("", "")]
)
def test_an_element_that_does_not_fit_the_schema_is_named(
    document: Document, schema: Schema, incident: str, named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        schema.validate(to_bytes(report_element(document, incident, (), ())))
    assert named in caught.value.message
    assert "incident_type" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no xml",
        b"<html/>",
        b"<a>" * 5000 + b"</a>" * 5000,
        b'<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>' + HEAD + b"&b;</xs:schema>",
        b'<!DOCTYPE x SYSTEM "' + NOWHERE + b'">' + HEAD + b"</xs:schema>",
        HEAD + b'<xs:include schemaLocation="' + NOWHERE + b'"/></xs:schema>',
        HEAD + b'<xs:include schemaLocation="/etc/passwd"/></xs:schema>',
        HEAD + b'<xs:redefine schemaLocation="' + NOWHERE + b'"/></xs:schema>',
        HEAD + b'<xs:element name="report" type="xs:unknown"/></xs:schema>',
        b"/etc/passwd",
        NOWHERE,
        SCHEMA[:-100],
        "\ufeff<é".encode("utf-16"),
        b'<?xml version="1.0" encoding="unheard-of"?>' + HEAD + b"</xs:schema>",
        with_facet("pattern", "(a"),
        with_facet("minInclusive", "999999999999-01-01T00:00:00Z", "dateTime"),
        with_facet("minInclusive", "P99999999999999999999Y", "duration"),
    ],
)
def test_a_hostile_schema(text: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        Schema(text)
    assert caught.value.message.isprintable()
    assert "operators" in (caught.value.hint or "")


def test_a_schema_that_breaks_when_it_is_used() -> None:
    with pytest.raises(VerificationError, match="cannot be used"):
        Schema(with_facet("pattern", "a{99999999999}")).validate(b"<report>a</report>")


def test_no_digest_is_in_messages_about_a_document() -> None:
    digest = "0123456789abcdef" * 4
    with pytest.raises(ConfigError) as caught:
        Schema(with_facet("minInclusive", "1", "integer")).validate(
            f"<report>{digest}</report>".encode()
        )
    assert digest[:8] not in caught.value.message and "…" in caught.value.message


def test_a_schema_without_our_elements(document: Document) -> None:
    other = Schema(HEAD + b'<xs:element name="other" type="xs:string"/></xs:schema>')
    with pytest.raises(ConfigError, match="report"):
        other.validate(to_bytes(elements(document)[0]))


def test_a_schema_may_begin_with_a_mark(document: Document) -> None:
    Schema(b"\xef\xbb\xbf" + SCHEMA).validate(to_bytes(elements(document)[0]))


def test_answers() -> None:
    text = (
        b'<?xml version="1.0"?>\n<n:r xmlns:n="urn:x"> <n:responseCode> 0 </n:responseCode>'
        b"<files><fileId>a</fileId><fileId>b</fileId></files><empty/></n:r>"
    )
    assert parse_answer(text) == {"responseCode": ["0"], "fileId": ["a", "b"], "empty": [""]}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"<a>",
        b"<a>" * 30 + b"</a>" * 30,
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b"\xff\xfe",
        b'<?xml version="1.0" encoding="unheard-of"?><a/>',
        b'<?xml version="1.0" encoding="hex"?><a/>',
    ],
)
def test_hostile_answers(text: bytes) -> None:
    with pytest.raises(UnreachableError):
        parse_answer(text)


@given(st.binary(max_size=200))
def test_any_answer(text: bytes) -> None:
    try:
        parse_answer(b"<a>" + text + b"</a>")
    except UnreachableError:
        pass
