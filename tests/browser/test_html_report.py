"""The HTML report in a real browser: it loads no other file, and its table works.

These tests need Debian's chromium and the package playwright; they use axe-core if
axe-playwright-python is installed. The pages are opened from files, as a reader would open them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Handled, Hit, MatchRef
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats.html import HtmlFormatter
from hashclient.formats.registry import Context
from tests.contract.test_formats import AWFUL_PATHS
from tests.outcomes import handled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="needs chromium and the package playwright",
)

#: Within a container the browser cannot use its sandbox or a GPU. The test needs no network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROWS = 5_000
PAGE_ROWS = 100


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


STATES = (MatchState.FOUND, MatchState.HELD, MatchState.QUARANTINED)


def hits(name: str = "synthetic") -> tuple[Hit, ...]:
    return (Hit("baseline", "e-1", name, 3, (Algorithm.MD5,), complete=True),)


def mixed() -> list[Handled]:
    """Return outcomes of all kinds, with states and sizes that do not sort like text."""
    failed = (Acted(Action.QUARANTINE, done=False, detail="not quarantined: the disk is full"),)
    found = [
        handled(
            Kind.MATCH,
            f"/srv/{n % 3}/file{n}",
            10 ** (n % 7),
            hits=hits(),
            record=MatchRef(f"{n:010}", STATES[n % 3], NOW, NOW),
            acted=failed if n == 4 else (),
        )
        for n in range(12)
    ]
    found += [handled(Kind.CONFLICT, "/srv/conflict", 5, hits=hits())]
    found += [handled(Kind.UNREAD, f"/srv/unread{n}", reason="gone") for n in range(3)]
    return [*found, handled(Kind.SKIPPED, "/srv/pipe", reason="named pipe")]


def awful() -> list[Handled]:
    found = []
    for raw in AWFUL_PATHS:
        words = os.fsdecode(raw)
        found.append(handled(Kind.UNREAD, words, reason=words))
        acted = (Acted(Action.REPORT, done=False, detail=words),)
        found.append(handled(Kind.MATCH, words, 5, hits=hits(), acted=acted))
    return found


def write(path: Path, found: list[Handled]) -> Path:
    written = HtmlFormatter(Context("scan", NOW))
    states = (
        ListState("baseline", 3, NOW, fresh=True),
        ListState("local", 1, NOW, fresh=False),
        ListState("old", 1, NOW, fresh=False, in_grace=True),
    )
    summary = Summary(lists=states)
    for outcome in found:
        written.outcome(outcome)
        summary.add(outcome.outcome)
    path.write_text(written.end(summary), encoding="utf-8")
    return path


class Opened:
    """A page in the browser, with its console messages and requests in `noise`."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.page: Page = browser.new_page(**options)
        self.noise: list[str] = []
        self.page.on("console", lambda message: self.noise.append(message.text))
        self.page.on("pageerror", lambda error: self.noise.append(str(error)))
        self.page.on("dialog", lambda dialog: self.noise.append(dialog.message))
        self.page.on("request", lambda request: self.noise.append(request.url))
        self.page.goto(path.as_uri())
        # The browser has requested only the page itself.
        assert self.noise == [path.as_uri()]
        self.noise.clear()

    def column(self, number: int) -> list[str]:
        """Return the texts of a column in the visible rows."""
        cells = self.page.locator(f"#files-table tbody tr:visible td:nth-child({number})")
        return cells.all_inner_texts()

    def sort(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def said(self) -> str:
        return self.page.locator("#shown").inner_text()

    def close(self) -> None:
        self.page.close()
        assert self.noise == []


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    page = Opened(browser, write(tmp_path / "mixed.html", mixed()))
    yield page
    page.close()


@pytest.mark.slow
def test_columns_sort_both_ways(opened: Opened) -> None:
    header = opened.page.locator("#files-table th")
    assert header.nth(0).get_attribute("aria-sort") == "ascending"
    opened.sort("File")
    names = [f"/srv/{n % 3}/file{n}" for n in range(12)]
    by_folder = sorted(names, key=lambda name: (name[5], int(name[11:])))
    files = [text.split("\n")[0] for text in opened.column(2)]
    assert files[:12] == by_folder
    assert header.nth(1).get_attribute("aria-sort") == "ascending"
    assert header.nth(0).get_attribute("aria-sort") is None
    opened.sort("File")
    assert [text.split("\n")[0] for text in opened.column(2)] == files[::-1]
    assert header.nth(1).get_attribute("aria-sort") == "descending"
    opened.sort("Size")
    sizes = opened.column(3)
    assert sizes[:4] == ["1 B", "1 B", "5 B", "10 B"]
    assert sizes[-5:] == ["1.0 MB", "", "", "", ""]
    opened.sort("Size")
    assert opened.column(3)[0] == "1.0 MB"
    assert opened.column(3)[-4:] == [""] * 4
    opened.sort("Outcome")
    assert opened.column(1)[0] == "match"
    opened.sort("Outcome")
    assert opened.column(1)[0] == "skipped"


@pytest.mark.slow
def test_a_filter_shows_what_fits_and_says_so(opened: Opened) -> None:
    page = opened.page
    assert opened.said() == "17 in the table"
    page.get_by_label("Outcome").select_option("unread")
    assert opened.column(1) == ["unread"] * 3
    assert opened.said() == "3 of 17 in the table"
    page.get_by_label("Outcome").select_option("")
    page.get_by_label("State").select_option("quarantined")
    assert all(text.startswith("quarantined") for text in opened.column(5))
    page.get_by_label("State").select_option("")
    page.get_by_label("Search").fill("DISK full")
    assert len(opened.column(1)) == 1
    page.get_by_label("Search").fill("no such words")
    assert opened.column(1) == []
    assert opened.said() == "0 of 17 in the table"


@pytest.mark.slow
def test_all_works_from_the_keyboard(opened: Opened) -> None:
    page = opened.page
    reached = []
    links = page.locator("nav a").all_inner_texts()
    for _ in range(len(links) + 8):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.innerText")
        )
    assert reached == [
        *links,
        "filter-text",
        "filter-outcome",
        "filter-state",
        *("Outcome", "File", "Size", "Entry", "Record"),
    ]
    page.keyboard.press("Enter")
    assert page.locator("#files-table th").nth(4).get_attribute("aria-sort") == "ascending"


@pytest.mark.slow
def test_without_a_script_the_page_is_whole(browser: Browser, tmp_path: Path) -> None:
    page = Opened(browser, write(tmp_path / "plain.html", mixed()), java_script_enabled=False)
    assert len(page.column(1)) == len(mixed())
    assert page.page.locator("button:visible, input:visible, select:visible").count() == 0
    page.close()


@pytest.mark.slow
def test_no_content_of_a_path_is_run(browser: Browser, tmp_path: Path) -> None:
    found = awful()
    page = Opened(browser, write(tmp_path / "awful.html", found), viewport=None)
    assert len(page.column(1)) == len(found)
    assert page.page.locator("img, iframe, object, embed, link, base").count() == 0
    assert page.page.locator("script").count() == page.page.locator("style").count() == 1
    # A long name is wrapped, so that the page is not wider than the window.
    assert page.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.close()


@pytest.mark.slow
def test_the_policy_stops_what_would_be_added(opened: Opened) -> None:
    opened.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken over'";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/x.png";
            document.body.append(image);
        }"""
    )
    assert opened.page.title() != "taken over"
    complaints = [line.split(" ")[:2] for line in opened.noise if "Content Security" in line]
    assert sorted(complaints) == [["Executing", "inline"], ["Loading", "the"]]
    opened.noise.clear()


@pytest.mark.slow
def test_thousands_of_rows_come_in_pages_and_stay_quick(browser: Browser, tmp_path: Path) -> None:
    found = [handled(Kind.MATCH, f"/srv/{n:05}", n, hits=hits()) for n in range(ROWS)]
    opened = Opened(browser, write(tmp_path / "large.html", found))
    page = opened.page
    assert len(opened.column(1)) == PAGE_ROWS
    assert page.locator("#page-number").inner_text() == "Page 1 of 50"
    page.get_by_role("button", name="Next").click()
    assert opened.column(2)[0] == "/srv/00100"
    opened.sort("File")
    assert page.locator("#page-number").inner_text() == "Page 1 of 50"
    opened.sort("File")
    assert opened.column(2)[0] == f"/srv/{ROWS - 1:05}"
    page.get_by_label("Search").fill("/srv/0012")
    assert opened.said() == f"10 of {ROWS:,} in the table"
    assert page.locator("#pager").is_hidden()
    took_ms = page.evaluate(
        """() => {
            const start = performance.now();
            const search = document.getElementById("filter-text");
            search.value = "";
            search.dispatchEvent(new Event("input"));
            document.body.offsetHeight;
            return performance.now() - start;
        }"""
    )
    # Sorting and filtering the table takes some 30 ms. Three seconds would mean a slow algorithm.
    assert took_ms < 3_000
    opened.close()


@pytest.mark.slow
def test_print_has_every_row_that_is_wanted_and_no_control(
    browser: Browser, tmp_path: Path
) -> None:
    found = [handled(Kind.MATCH, f"/srv/{n:05}", n, hits=hits()) for n in range(PAGE_ROWS * 2 + 1)]
    opened = Opened(browser, write(tmp_path / "print.html", found))
    page = opened.page
    page.emulate_media(media="print")
    assert len(opened.column(1)) == len(found)
    assert page.locator("#pager, .controls").filter(visible=True).count() == 0
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="screen")
    page.get_by_label("Search").fill("/srv/0000")
    page.emulate_media(media="print")
    assert len(opened.column(1)) == 10
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
@pytest.mark.parametrize("found", [mixed(), awful()], ids=["mixed", "awful"])
def test_the_page_is_accessible(
    browser: Browser, tmp_path: Path, found: list[Handled], width: int, scheme: str
) -> None:
    if importlib.util.find_spec("axe_playwright_python") is None:
        pytest.skip("needs axe-playwright-python")
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    size = {"width": width, "height": 900}
    path = write(tmp_path / "page.html", found)
    opened = Opened(browser, path, viewport=size, color_scheme=scheme)
    opened.page.evaluate(axe)
    results = opened.page.evaluate("axe.run()")
    for finding in (*results["violations"], *results["incomplete"]):
        assert [node["html"] for node in finding["nodes"]] == [], finding["help"]
    assert len(results["passes"]) > 20
    assert opened.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    opened.close()
