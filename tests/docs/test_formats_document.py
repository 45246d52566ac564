"""The document of the formats: examples are real output; all limits and fields are in it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Gap, Hit, Invocation, MatchRef, MissingList
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.csv import COLUMNS, DIGEST_COLUMNS
from hashclient.formats.html import MAX_FOLDERS, MAX_ROWS
from hashclient.formats.registry import FORMATS, Context, formatter
from hashclient.formats.sarif import MAX_NOTIFICATIONS, MAX_RESULTS
from tests.docs.blocks import DOCS, marked_blocks, table_rows
from tests.outcomes import handled

pytestmark = pytest.mark.docs

DOCUMENT = DOCS / "formats.md"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HIT = Hit("baseline", "e-1", "synthetic", 3, (Algorithm.MD5, Algorithm.SHA256), complete=True)
FOUND = (
    handled(
        Kind.MATCH,
        "/srv/files/a.txt",
        34,
        hits=(HIT,),
        record=MatchRef("3kdz7wnq2m", MatchState.QUARANTINED, NOW, NOW, in_place=False),
        acted=(Acted(Action.QUARANTINE, done=True, detail="quarantined"),),
    ),
    handled(Kind.UNREAD, "/srv/files/b.txt", reason="permission denied"),
)


def written(name: str) -> str:
    summary = Summary(lists=(ListState("baseline", 3, NOW + timedelta(days=7), fresh=True),))
    summary.files_read, summary.bytes_read, summary.elapsed_s = 1, 34, 0.25
    about = Invocation("host-1", "root", "/root", ("/srv/files",))
    made = formatter(name, Context("scan", NOW, about=about))
    parts = [made.begin()]
    for outcome in FOUND:
        summary.add(outcome.outcome)
        parts.append(made.outcome(outcome))
    parts.append(made.end(summary))
    return "".join(f"{part}\n" for part in parts if part is not None)


def test_failures_of_a_run_are_written() -> None:
    failure = (
        "cannot write the audit log: /var/lib/hashclient/audit/log.jsonl: No space left on device"
    )
    summary = Summary(
        lists=(),
        missing=(
            MissingList("other", "main", "never fetched"),
            MissingList(None, "second", "no list was ever fetched"),
        ),
        gaps=(Gap("baseline", (Algorithm.MD5,), 12, 2_000_000, 37),),
        stopped=ExitCode.TERMINATED,
        failed=ExitCode.AUDIT,
        failure=failure,
        ruled_out_by_size=2,
        known_unchanged=1,
        believed_unchanged=1,
    )
    summary.files_read, summary.bytes_read, summary.elapsed_s = 1, 34, 0.2
    text = formatter("text", Context("scan", NOW)).end(summary)
    assert text is not None
    _, read, *attention, _ = text.splitlines(keepends=True)
    assert block("text-attention") == "".join(attention)
    assert f"`{read.strip()}`" in DOCUMENT.read_text()


def test_every_kind_of_row_of_csv_is_described() -> None:
    document = DOCUMENT.read_text()
    start = document.index("| `kind` | one for each |")
    kinds = re.findall(r"^\| `([\w-]+)` \|", document[start:], re.MULTILINE)
    summary = Summary(
        lists=(ListState("old", 1, NOW, fresh=False),),
        missing=(MissingList("other", "main", "never fetched"),),
        gaps=(Gap("baseline", (Algorithm.MD5,), 12, 13, 1),),
        held=1,
        stopped=ExitCode.INTERRUPTED,
        failed=ExitCode.AUDIT,
        skipped={"socket": 1},
        excepted={"x-1: wrong": 1},
        not_opened={"disk": 1},
    )
    about = Invocation("host-1", "root", "/root")
    text = formatter("csv", Context("lookup", NOW, about=about)).end(summary)
    assert text is not None
    assert [line.split(",")[0] for line in text.splitlines()] == kinds[1:12]


def block(name: str) -> str:
    (text,) = marked_blocks(DOCUMENT, name)
    return text


@pytest.mark.parametrize("name", ["text", "jsonl", "csv"])
def test_an_example_of_lines_is_what_is_written(name: str) -> None:
    assert block(name) == written(name)


def test_the_example_of_sarif_is_its_first_result() -> None:
    (run,) = json.loads(written("sarif"))["runs"]
    assert json.loads(block("sarif")) == run["results"][0]


def test_the_example_of_ecs_is_its_first_event() -> None:
    events = [json.loads(line) for line in written("ecs").splitlines()]
    assert json.loads(block("ecs")) == events[0]
    described = {
        name.strip("`") for row in table_rows(DOCUMENT, "## ecs") for name in row[0].split(", ")
    }
    general = {"ecs.version", "message", "process.name"}
    general |= {f"event.{name}" for name in ("module", "dataset", "category", "type", "duration")}
    for name in {name for event in events for name in leaves(event)} - general:
        group = f"{name.split('.')[0]}.*"
        assert name in described or group in described, name


def leaves(value: dict[str, Any], prefix: str = "") -> set[str]:
    names = set()
    for name, inner in value.items():
        full = f"{prefix}{name}"
        names |= leaves(inner, f"{full}.") if isinstance(inner, dict) else {full}
    return names


def test_every_format_is_in_the_table_in_its_order_and_has_a_section() -> None:
    rows = table_rows(DOCUMENT, "# Formats of output")
    assert [row[0] for row in rows] == [f"[`{name}`](#{name})" for name in FORMATS]
    for name in FORMATS:
        assert f"\n## {name}\n" in DOCUMENT.read_text()


def test_every_column_of_csv_is_described() -> None:
    rows = table_rows(DOCUMENT, "## csv")
    names = [name.strip("`") for row in rows for name in row[0].split(", ")]
    assert tuple(names) == COLUMNS + DIGEST_COLUMNS


def test_the_limits_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text()
    assert f"at most {MAX_RESULTS:,} results" in text
    assert f"{MAX_NOTIFICATIONS:,} notifications" in text
    assert f"at most {MAX_ROWS:,} rows" in text
    assert f"more than {MAX_FOLDERS:,} folders" in text
