"""The document of the audit log: the records of a run are as described."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hashclient.audit import log as audit_log
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import AuditError, StateError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import Gap
from hashclient.core.verdict import Summary
from hashclient.scan.run.recorder import RunRecord
from hashclient.session import Session
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows
from tests.kit import csv_of, make_state, write_tree

pytestmark = pytest.mark.docs

DOCUMENT = DOCS / "audit-log.md"


def test_the_keys_of_an_end_are_those_that_are_logged(tmp_path: Path) -> None:
    def now() -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    summary = Summary(lists=(), gaps=(Gap("baseline", (Algorithm.MD5,), 1, 2, 3),))
    summary.opens_containers = True
    summary.asks_stores = True
    session = Session(Settings(tmp_path, tmp_path / "config.toml", None, Config()), now=now)
    failures: list[AuditError | StateError] = []
    record = RunRecord(session, "scan", summary, "key", on_failure=failures.append)
    record.end()
    assert failures == []
    (end,) = audit_log.read(tmp_path / "audit", event="scan-end")
    rows = table_rows(DOCUMENT, "## What a run leaves in it")
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row[0])} == set(end.data)


@pytest.mark.slow
def test_the_commands_for_an_archive_run_as_they_stand(tmp_path: Path) -> None:
    make_state(tmp_path, {"baseline": csv_of({"e-1": b"listed"})})
    write_tree(tmp_path / "files", {"a": b"listed"})
    (block,) = marked_blocks(DOCUMENT, "archive")
    script = f"""
set -e
export HASHCLIENT_STATE_DIR=$PWD/state
hashclient scan files || test $? = 10
{block}
hashclient scan files || test $? = 10
hashclient audit verify
"""
    code, output = run_script(script, tmp_path)
    assert code == 0, output
    assert "archived    file 1: records 1 to" in output
    left, archived = (
        dict(re.findall(r'"(seq|hash)": "?(\w+)', line))
        for line in output.splitlines()
        if '"seq"' in line
    )
    assert left == archived and len(left["hash"]) == 64


@pytest.mark.slow
def test_the_commands_for_a_summary_run_as_they_stand(tmp_path: Path) -> None:
    make_state(tmp_path, {"baseline": csv_of({"e-1": b"listed"})})
    write_tree(tmp_path / "files", {"a": b"listed", "b": b"benign"})
    (block,) = marked_blocks(DOCUMENT, "summary")
    script = f"""
set -e
export HASHCLIENT_STATE_DIR=$PWD/state
hashclient scan files || test $? = 10
{block}
hashclient audit summary --format html >again.html
cmp year.html again.html
hashclient audit summary --format json
! hashclient audit summary --from 2026-02-01 --to 2026-01-01
"""
    code, output = run_script(script, tmp_path)
    assert code == 0, output
    summary = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    assert summary["schema"] == "hashclient-audit-summary/1"
    assert (summary["checked"]["inputs"], summary["matches"]["by_list"]) == (2, {"baseline": 1})
    assert summary["lists"]["baseline"]["age"]["count"] == 1
    assert "checked,inputs,2" in (tmp_path / "year.csv").read_text().splitlines()
    page = (tmp_path / "year.html").read_text()
    assert page.startswith("<!doctype html>") and "<script" not in page
    assert "--from is not before --to" in output
    assert "files/a" not in page + json.dumps(summary)
