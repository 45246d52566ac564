"""Many packages side by side: matches of the same entry, from any reporter."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hashclient.audit.record import Identity, Record
from hashclient.cli.package_lines import package_lines
from hashclient.packages.answer import Answer, Request
from hashclient.packages.chain import Custody
from hashclient.packages.document import (
    FORMAT,
    Document,
    Entry,
    Provider,
    ReportedMatch,
    Reporter,
    Tool,
)
from hashclient.packages.index import COLUMNS, Checked, SameEntries, rows
from hashclient.packages.verify import Verified
from tests.kit import call

NOW = datetime(2026, 1, 31, tzinfo=UTC)
OLD, NEW = "a" * 64, "b" * 64
URL, MIRROR = "https://lists.example.org/v1", "https://mirror.example.org/v1"


@contextlib.contextmanager
def soon() -> Iterator[None]:
    """Check that the block takes seconds and not minutes."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 10


def entry(name: str, provider: Provider | None, list_name: str = "baseline") -> Entry:
    return Entry(list_name, name, "synthetic", 3, ("sha256",), provider, None)


def checked(report: str, *entries: Entry, path: str = "/srv/a") -> Checked:
    match = ReportedMatch(
        "bbbbbbbbbb",
        path,
        1,
        NOW,
        NOW,
        "found",
        viewed=False,
        in_place=True,
        entries=entries,
        evidence=None,
        story=(),
    )
    reporter = Reporter("=Example", "host-1", None, None)
    document = Document(FORMAT, report, NOW, reporter, Tool("hashclient", "1"), (match,))
    last = Record(9, NOW, "report-packaged", {}, "", "", None)
    custody = Custody(Identity("c" * 32, "d" * 64), last, 8)
    return Checked(Path(report), Verified(document, custody, 0, "d" * 64))


def also(*packages: Checked) -> list[str]:
    return [row["also_in"] for row in rows(packages)]


def test_an_entry_is_the_same_where_the_root_or_the_address_is() -> None:
    first = checked("r-1", entry("e-1", Provider(OLD, URL)))
    assert also(first, checked("r-2", entry("e-1", Provider(OLD, MIRROR)))) == ["r-2", "r-1"]
    assert also(first, checked("r-2", entry("e-1", Provider(NEW, URL)))) == ["r-2", "r-1"]
    assert also(first, checked("r-2", entry("e-1", Provider(OLD, None)))) == ["r-2", "r-1"]


def test_what_a_third_report_shows_to_be_one_provider_is_one() -> None:
    first = checked("r-1", entry("e-1", Provider(OLD, URL)))
    second = checked("r-2", entry("e-1", Provider(NEW, MIRROR)))
    assert also(first, second) == ["", ""]
    link = checked("r-3", entry("e-9", Provider(NEW, URL)))
    for packages in ((first, second, link), (link, second, first), (second, link, first)):
        found = dict(zip((p.path.name for p in packages), also(*packages), strict=True))
        assert found == {"r-1": "r-2", "r-2": "r-1", "r-3": ""}


def test_many_roots_of_one_address_take_little_time() -> None:
    """Each root is a link of a chain; a walk over the chain for each entry would take minutes."""
    entries = [entry("e-1", Provider(f"{number:064x}", URL)) for number in range(10_000)]
    packages = [checked("r-1", *entries), checked("r-2", entries[5_000])]
    with soon():
        assert set(also(*packages)) == {"r-1", "r-2"}


@pytest.mark.slow
def test_an_answer_about_many_matches_takes_little_time() -> None:
    ids = [f"{number:010}" for number in range(70_000)]
    to_keep = Request("keep", tuple(ids[20_000:]), NOW, "file 1")
    signed_by = ("0" * 32, "1" * 64, None)
    answer = Answer(
        *("hashclient-answer/1", "0" * 32, NOW, "Police", "r-1", *signed_by),
        *(tuple(ids[:50_000]), (), (to_keep,), "2" * 64),
    )
    with soon():
        said = {r["match"]: r["reason"] for r in rows([Checked(Path("answer"), answer)])}
        assert len(list(package_lines([Checked(Path("answer"), answer)], "table"))) > 8
    asked = "keep until 2026-01-31T00:00:00Z"
    assert (said[ids[0]], said[ids[-1]]) == ("accepted", asked)
    assert said[ids[20_000]] == f"accepted, {asked}"


@pytest.mark.parametrize(
    "other",
    [
        entry("e-2", Provider(OLD, URL)),
        entry("e-1", Provider(OLD, URL), "other"),
        entry("e-1", Provider(NEW, MIRROR)),
        entry("e-1", None),
    ],
)
def test_another_entry_is_another(other: Entry) -> None:
    assert also(checked("r-1", entry("e-1", Provider(OLD, URL))), checked("r-2", other)) == ["", ""]


def test_entries_of_unknown_providers_are_never_the_same() -> None:
    one, other = checked("r-1", entry("e-1", None)), checked("r-2", entry("e-1", None))
    assert also(one, other) == ["", ""]
    assert SameEntries([one]).also_in("r-1", entry("e-1", None)) == []


def test_a_package_without_matches_or_entries_has_a_row() -> None:
    assert [row["result"] for row in rows([checked("r-1")])] == ["verifies"]


def test_no_cell_is_a_formula_and_no_line_has_a_control_character() -> None:
    packages = [checked("r-1", entry("=e", Provider(OLD, URL)), path="/srv/\x1b[2J\n=x")]
    for output_format in ("table", "csv", "jsonl"):
        lines = list(package_lines(packages, output_format))
        assert all(line.isprintable() for line in lines)
    header, row = csv.reader(io.StringIO("\n".join(package_lines(packages, "csv"))))
    assert tuple(header) == COLUMNS
    cells = dict(zip(header, row, strict=True))
    assert (cells["entry"], cells["organisation"]) == ("'=e", "'=Example")


def test_one_that_does_not_verify_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"{}")
    (tmp_path / "b").mkdir()
    found = call("report", "verify", tmp_path / "a", tmp_path / "b", "--format", "jsonl")
    assert found.code == 6
    assert [line["result"] for line in found.lines] == ["refused", "refused"]
    assert f"{tmp_path}/a: " in found.err and f"{tmp_path}/b: no package" in found.err
