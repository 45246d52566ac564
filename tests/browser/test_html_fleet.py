"""The page of `fleet show` in a browser: sorted, filtered, and complete without its script."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fixtures.fleet import NO_MATCHES, NOW, Box, edited
from hashclient.core.kinds import MatchState
from hashclient.fleet.places import Found
from hashclient.fleet.show import exit_code, judge
from hashclient.fleet.writing import page
from tests.browser.test_html_report import Opened, browser, pytestmark

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser", "pytestmark"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of forty machines, four of them with problems, and one file of no machine."""
    boxes = [Box(number) for number in range(40)]
    files = dict(box.file() for box in boxes)
    files |= [boxes[3].file(matches={**NO_MATCHES, MatchState.FOUND: 12})]
    files |= [boxes[4].file(matches={**NO_MATCHES, MatchState.FOUND: 7})]
    files |= [boxes[5].file(made=NOW - timedelta(days=2))]
    files["<b>bold</b>.jsonl"] = edited(boxes[6].file()[1], exit_code=0)
    del files[boxes[6].machine().file_name]
    found = [Found(name, data) for name, data in files.items()]
    rows = judge(found, {box.public: box.name for box in boxes}, {}, NOW)
    path = tmp_path_factory.mktemp("page") / "fleet.html"
    path.write_text(page(rows, exit_code(rows), NOW), encoding="utf-8")
    return path


@pytest.mark.slow
def test_it_is_sorted_and_filtered(browser: Browser, path: Path) -> None:
    opened = Opened(browser, path)
    assert opened.page.locator("h1").inner_text() == "36 of 40 machines well"
    assert opened.column(1)[:5] == ["forged", "missing", "silent", "match", "match"]
    assert len(opened.column(1)) == 41
    opened.page.get_by_label("State").select_option("match")
    assert opened.said() == "2 of 41 in the table"
    opened.sort("Open")
    assert opened.column(3) == ["7", "12"]
    opened.sort("Open")
    assert opened.column(3) == ["12", "7"]
    opened.page.get_by_label("State").select_option("")
    opened.page.get_by_label("Search").fill("web-5")
    assert opened.column(1) == ["silent"]
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_whole_without_its_script(browser: Browser, path: Path, scheme: str) -> None:
    opened = Opened(browser, path, java_script_enabled=False, color_scheme=scheme)
    assert len(opened.column(1)) == 41
    assert "<b>bold</b>.jsonl" in opened.column(2)[0]
    assert not opened.page.locator("#controls").is_visible()
    opened.close()
