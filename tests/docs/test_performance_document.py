"""Measurements in docs/performance.md: each names its commit, and can be renewed by itself."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import document
from bench.measure import Row
from tests.docs.blocks import DOCS

ORDER = ("start", "fetch", "lookup")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- begin: figures -->\n<!-- end: figures -->\nafter\n")
    monkeypatch.setattr(document, "machine", lambda: "a machine")
    return path


def renew(
    page: Path, monkeypatch: pytest.MonkeyPatch, commit: str, scale: float, *names: str
) -> None:
    monkeypatch.setattr(document, "commit", lambda: commit)
    for name in names:
        row = Row(f"what {name} costs", "2 s", "1 s", "a peer", 2.0, 1.5)
        document.write_figures(page, scale, {name: [row]}, ORDER)


def test_rows_of_one_scenario_are_renewed_and_others_stay_as_they_were_measured(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew(page, monkeypatch, "aaaaaaa", 1, "lookup", "start")
    renew(page, monkeypatch, "bbbbbbb", 0.1, "fetch", "start")
    text = page.read_text()
    rows = re.findall(
        r"^\| `([a-z]+)` \| what .* \| 2\.00 \| 1\.5, missed \| (.*) \|$", text, re.MULTILINE
    )
    assert rows == [
        ("start", "`bbbbbbb`, 0.1"),
        ("fetch", "`bbbbbbb`, 0.1"),
        ("lookup", "`aaaaaaa`, 1"),
    ]
    today = f"on {datetime.now(UTC):%Y-%m-%d}"
    assert re.findall(r"^- (`.*)$", text, re.MULTILINE) == [
        f"`aaaaaaa`, 1: {today}, a machine",
        f"`bbbbbbb`, 0.1: {today}, a machine",
    ]
    assert (
        "\nOf 3 goals, 3 are **missed**:\n\n- what start costs, against a peer: 2.00 instead of"
        in text
    )
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    # The page drops a commit that no row names, and a scenario that no longer exists.
    renew(page, monkeypatch, "ccccccc", 1, "lookup")
    assert "aaaaaaa" not in page.read_text()
    document.write_figures(page, 1, {}, ORDER[:2])
    assert "`lookup`" not in page.read_text() and "ccccccc" not in page.read_text()


def test_each_row_of_the_page_is_of_a_scenario_in_it_and_says_what_it_was_measured_at() -> None:
    text = (DOCS / "performance.md").read_text()
    scenarios = re.findall(r"^\| `([a-z0-9-]+)` \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    figures = text.partition("<!-- begin: figures -->")[2].partition("<!-- end: figures -->")[0]
    measured = set(re.findall(r"^- (`[^`]+`, [0-9.]+): ", figures, re.MULTILINE))
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .* \| (`[^`]+`, [0-9.]+) \|$", figures, re.MULTILINE)
    assert rows and {name for name, _ in rows} <= set(scenarios)
    # The sentence about missed goals agrees with the rows.
    table = [line for line in figures.splitlines() if line.startswith("| `")]
    assert "\n".join(document.missed(table)) in figures
    assert {where for _, where in rows} == measured
