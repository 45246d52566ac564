"""A schema in a separate process: it gives the same verdicts, and hostile schemas do no harm."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fixtures.desk import Desk
from fixtures.reporting_service import SCHEMA, ReportingService
from hashclient.core.errors import ConfigError, VerificationError
from hashclient.reporting.destinations.cybertipline.cybertipline import CyberTipline
from hashclient.reporting.destinations.cybertipline.sandbox import ConfinedSchema
from hashclient.reporting.destinations.registry import load
from hashclient.reporting.report import State
from hashclient.reporting.submit import Sender

PATTERN = b"""\
<xs:simpleType>
  <xs:restriction base="xs:string"><xs:pattern value="%s"/></xs:restriction>
</xs:simpleType>
"""
HEAD = b'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="report">'
FOOT = b"</xs:element></xs:schema>"
#: A regular expression that takes practically for ever on many "a" and another letter.
ENDLESS = HEAD + PATTERN % b"(a+)+" + FOOT
#: A schema that takes practically for ever to check any report.
ENDLESS_FOR_REPORTS = b"".join(
    (
        HEAD,
        b'<xs:complexType><xs:sequence><xs:element name="incidentSummary"/>',
        b'<xs:element name="reporter"/><xs:element name="additionalInfo">',
        PATTERN % b"((.|\\s)+)+#",
        b"</xs:element></xs:sequence></xs:complexType>",
        FOOT,
    )
)


@pytest.mark.slow
def test_documents_are_checked_one_after_another() -> None:
    with ConfinedSchema(ENDLESS) as schema:
        schema.validate(b"<report>aaa</report>")
        with pytest.raises(ConfigError, match=r"does not fit the schema .*: /report: ") as caught:
            schema.validate(b"<report>b</report>")
        assert "incident_type" in (caught.value.hint or "")
        schema.validate(b"<report>a</report>")
        process = schema._process
    assert process.returncode is not None


@pytest.mark.slow
def test_a_schema_that_is_none() -> None:
    with pytest.raises(VerificationError, match="cannot be used"):
        ConfinedSchema(SCHEMA[:-100])


@pytest.mark.slow
def test_an_endless_validation_is_ended() -> None:
    with ConfinedSchema(ENDLESS) as schema:
        schema.limit_s = 0.2
        with pytest.raises(VerificationError, match="takes too much time"):
            schema.validate(b"<report>" + b"a" * 100 + b"b</report>")
        process = schema._process
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_process_that_dies() -> None:
    with ConfinedSchema(SCHEMA) as schema:
        os.kill(schema._process.pid, signal.SIGKILL)
        with pytest.raises(VerificationError, match="breaks the process that reads it"):
            schema.validate(b"<report/>")


@pytest.mark.slow
def test_a_hostile_schema_keeps_no_other_report_back(tmp_path: Path) -> None:
    def impatient(text: bytes) -> ConfinedSchema:
        schema = ConfinedSchema(text)
        schema.limit_s = 0.2
        return schema

    def load_impatient(kind: str) -> Any:
        if kind == "cybertipline":
            return functools.partial(CyberTipline, read_schema=impatient)
        return load(kind)

    with ReportingService(tmp_path) as service:
        service.schema = ENDLESS_FOR_REPORTS
        desk = Desk(tmp_path / "desk", f"[report.to.hotline]\n{service.table()}")
        first = desk.prepare(desk.find("a", b"x"), to="hotline")
        second = desk.prepare(desk.find("b", b"y"))
        with desk.record() as record:
            sender = Sender(desk.outbox, record, load=load_impatient)
            sent = {s.report.id: s for s in sender.send_due()}
    assert isinstance(sent[first.id].error, VerificationError)
    assert sent[second.id].report.state is State.SUBMITTED
    assert service.reports == {}
