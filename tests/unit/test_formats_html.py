"""The format html: the texts of the page, its tables, its security policy and its caps."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Action, Algorithm, Kind, MatchState
from hashclient.core.model import Acted, Handled, Hit, Invocation, MatchRef, MissingList
from hashclient.core.staleness import ListState
from hashclient.core.verdict import Summary
from hashclient.formats import html
from hashclient.formats.conclusion import conclusion
from hashclient.formats.html import ELSEWHERE, HtmlFormatter
from hashclient.formats.htmltable import MAX_BARS, Markup, element, joined
from hashclient.formats.registry import Context
from tests.contract.readers import content, parse_html, read_html
from tests.outcomes import handled

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FRESH = (ListState("baseline", 3, NOW, fresh=True),)
MISSING = (MissingList("other", "main", "never fetched"), MissingList(None, "second", "nothing"))


def match(path: str, *places: str) -> Handled:
    """Return a match with one hit for each of `places`, which have the form `list/category`."""
    named = (place.split("/") for place in places or ("baseline/synthetic",))
    hits = (Hit(where, "e-1", name, 3, (Algorithm.MD5,), complete=True) for where, name in named)
    return handled(Kind.MATCH, path, 5, hits=tuple(hits))


def page(
    found: Iterable[Handled], summary: Summary | None = None, command: str = "scan"
) -> ET.Element:
    return parse_html(source(found, summary, command))


def source(found: Iterable[Handled], summary: Summary | None = None, command: str = "scan") -> str:
    written = HtmlFormatter(Context(command, NOW))
    for outcome in found:
        written.outcome(outcome)
    return written.end(summary)


def summary_of(*kinds: Kind, lists: tuple[ListState, ...] = FRESH, **more: Any) -> Summary:
    summary = Summary(lists=lists, **more)
    for kind in kinds:
        summary.counts[kind] += 1
    return summary


def heading(tree: ET.Element) -> str:
    (title,) = tree.iter("h1")
    return content(title)


def section(tree: ET.Element, name: str) -> ET.Element | None:
    return tree.find(f".//section[@aria-labelledby='{name}']")


def chart(tree: ET.Element, name: str) -> list[tuple[str, int]]:
    (table,) = (
        table
        for table in tree.iterfind(".//table[@class='chart']")
        if content(table[0]) == f"By {name}"
    )
    rows = table.iterfind("tbody/tr")
    return [(content(row[0]), int(content(row[2]).replace(",", ""))) for row in rows]


@pytest.mark.parametrize(
    ("summary", "title", "tone"),
    [
        (summary_of(Kind.CLEAN), "Nothing found", "good"),
        (summary_of(Kind.MATCH), "1 file matches", "bad"),
        (summary_of(Kind.MATCH, Kind.MATCH, Kind.UNREAD), "2 files match", "bad"),
        (
            summary_of(Kind.CLEAN, Kind.UNREAD),
            "No match, but not everything was checked",
            "warn",
        ),
        (summary_of(), "There was nothing to check", "warn"),
        (
            summary_of(Kind.CLEAN, lists=(ListState("old", 1, NOW, fresh=False),)),
            "No match, but a list is out of date",
            "warn",
        ),
        (Summary(lists=(), stopped=ExitCode.INTERRUPTED), "Interrupted: no match so far", "warn"),
        (Summary(lists=(), stopped=ExitCode.TERMINATED), "Terminated: no match so far", "warn"),
        (Summary(lists=(), failed=ExitCode.AUDIT), "The run failed: nothing was checked", "warn"),
        (
            summary_of(Kind.CLEAN, failed=ExitCode.AUDIT),
            "No match, but the run failed",
            "warn",
        ),
        (summary_of(Kind.CLEAN, missing=MISSING), "No match, but a list is missing", "warn"),
        (
            summary_of(Kind.MATCH, stopped=ExitCode.TERMINATED, missing=MISSING),
            "1 file matches, and the run was interrupted",
            "bad",
        ),
        (
            summary_of(Kind.MATCH, failed=ExitCode.AUDIT),
            "1 file matches, and the run failed",
            "bad",
        ),
        (
            summary_of(Kind.MATCH, missing=MISSING),
            "1 file matches, and not every list could be used",
            "bad",
        ),
    ],
)
def test_the_verdict_comes_first_in_words(summary: Summary, title: str, tone: str) -> None:
    tree = page([], summary)
    assert heading(tree) == title
    (header,) = tree.iter("header")
    assert header.get("class") == tone
    code = summary.exit_code
    assert content(header[-1]) == f"Exit code {int(code)}: {conclusion(summary)}."
    assert content(header[0]) == "hashclient scan, 2026-01-02 03:04 UTC"


def test_the_record_is_no_verdict() -> None:
    recorded = MatchRef("3kdz7wnq2m", MatchState.REPORTED, NOW - timedelta(days=3), NOW)
    found = [
        handled(Kind.MATCH, path, 5, hits=match(path).outcome.hits, record=recorded)
        for path in "ab"
    ]
    tree = page(found, command="matches")
    assert heading(tree) == "2 matches on record"
    assert "Exit code" not in content(tree)
    states = {content(pair[0]): content(pair[1]) for pair in tree.iterfind(".//dl/div")}
    assert states == {str(s): "2" if s is MatchState.REPORTED else "0" for s in MatchState}
    assert "seen 2025-12-30 to 2026-01-02" in content(tree)
    assert heading(page([], command="matches")) == "0 matches on record"
    assert heading(page(found[:1], command="matches")) == "1 match on record"


def test_all_that_needs_attention_is_said_above() -> None:
    lists = (
        *FRESH,
        ListState("local", 1, NOW, fresh=False),
        ListState("old", 1, NOW, fresh=False, in_grace=True),
    )
    summary = summary_of(Kind.MATCH, Kind.CONFLICT, Kind.UNREAD, Kind.UNREAD, lists=lists)
    summary.stopped, summary.failed = ExitCode.INTERRUPTED, ExitCode.AUDIT
    failed = Acted(Action.QUARANTINE, done=False, detail="not quarantined: the disk is full")
    found = [handled(Kind.MATCH, "a", 5, hits=match("a").outcome.hits, acted=(failed,))]
    attention = section(page(found, summary), "needs-attention")
    assert attention is not None
    assert [content(item) for item in attention.iter("li")] == [
        "1 file conflicts with an entry: some of its digests agree, others do not.",
        "2 inputs could not be read: the content is unknown.",
        "Actions that could not be done: 1.",
        "List local expired 2026-01-02 03:04 UTC.",
        "List old expired 2026-01-02 03:04 UTC, in its grace period.",
        "Interrupted by SIGINT: the remaining inputs were not checked.",
        f"Failed: exit code 9: {ExitCode.AUDIT.meaning}.",
    ]
    assert section(page([], summary_of(Kind.CLEAN)), "needs-attention") is None


def test_lists_and_work() -> None:
    lists = (*FRESH, ListState("local", 1, NOW, fresh=False))
    summary = summary_of(Kind.CLEAN, lists=lists)
    summary.files_read, summary.bytes_read, summary.elapsed_s = 1, 2_000, 1234.56
    tree = page([], summary)
    rows = [[content(c) for c in row] for row in tree.iterfind(".//table[@class='lists']/tbody/tr")]
    assert rows == [
        ["baseline", "3", "fresh until 2026-01-02 03:04 UTC"],
        ["local", "1", "stale since 2026-01-02 03:04 UTC"],
    ]
    assert "1 input in all; 1 file, 2.0 kB, read in 1,234.6 s." in content(tree)
    assert "also on this" not in content(tree)
    summary.ruled_out_by_size, summary.missing = 7, MISSING
    tree = page([], summary)
    assert (
        "The answer is not only based on reading, but also on this: 7 ruled out by size."
        in content(tree)
    )
    rows = [[content(c) for c in row] for row in tree.iterfind(".//table[@class='lists']/tbody/tr")]
    assert rows[2:] == [
        ["other", "", "missing never fetched"],
        ["all of provider second", "", "missing nothing"],
    ]
    assert section(page([], Summary(lists=())), "lists-used") is None


def test_charts_count_files_by_list_category_and_folder() -> None:
    found = [
        match("/srv/a/1", "baseline/one", "baseline/two", "local/two"),
        match("/srv/a/2", "baseline/one"),
        match("b", "local/two"),
        handled(Kind.CONFLICT, "/srv/c/1", 5, hits=match("x").outcome.hits),
    ]
    tree = page(found, summary_of(Kind.MATCH))
    assert chart(tree, "list") == [("baseline", 2), ("local", 2)]
    assert chart(tree, "category") == [("one", 2), ("two", 2)]
    assert chart(tree, "folder") == [("/srv/a", 2), (".", 1)]
    assert section(page([found[3]], summary_of(Kind.CONFLICT)), "where-the-matches-are") is None


def test_a_chart_sums_up_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MAX_FOLDERS", MAX_BARS + 2)
    found = [match(f"d{n:02}/{m}") for n in range(MAX_BARS + 4) for m in range(1 + (n == 3))]
    bars = chart(page(found, summary_of(Kind.MATCH)), "folder")
    assert bars[:2] == [("d03", 2), (ELSEWHERE, 2)]
    assert bars[-1] == ("3 more", 3)
    assert len(bars) == MAX_BARS + 1
    assert sum(number for _, number in bars) == len(found)


def test_the_table_has_matches_first_and_each_kind_by_path() -> None:
    found = [
        handled(Kind.UNREAD, "b", reason="gone"),
        match("z"),
        handled(Kind.CLEAN, "a", 1),
        handled(Kind.UNREAD, "a", reason="gone"),
        match("y"),
        handled(Kind.SKIPPED, "c", reason="named pipe"),
        handled(Kind.CONFLICT, "d", 5, hits=match("d").outcome.hits),
    ]
    files = read_html(source(found, summary_of(Kind.MATCH))).files
    assert [(file["kind"], file["path"]) for file in files] == [
        ("match", b"y"),
        ("match", b"z"),
        ("conflict", b"d"),
        ("unread", b"a"),
        ("unread", b"b"),
        ("skipped", b"c"),
        ("clean", b"a"),
    ]


def test_the_table_is_capped_the_counts_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MAX_ROWS", 3)
    found = [handled(Kind.UNREAD, f"u{n}", reason="gone") for n in range(5)]
    found += [match(f"m{n}") for n in range(2)]
    summary = summary_of(*(found_one.outcome.kind for found_one in found))
    text = source(found, summary)
    report = read_html(text)
    assert [file["path"] for file in report.files] == [b"m0", b"m1", b"u0"]
    assert report.counts["unread"] == 5
    assert "The table has the first 3 of 7: matches before conflicts" in text
    monkeypatch.undo()
    assert "The table has the first" not in source(found, summary)


def test_the_filters_offer_what_is_there() -> None:
    def options(tree: ET.Element, name: str) -> list[str]:
        return [content(o) for o in tree.iterfind(f".//select[@id='filter-{name}']/option")]

    recorded = [
        handled(
            Kind.MATCH, "a", 5, hits=match("a").outcome.hits, record=MatchRef("x" * 10, s, NOW, NOW)
        )
        for s in (MatchState.FOUND, MatchState.FOUND, MatchState.QUARANTINED)
    ]
    tree = page([*recorded, handled(Kind.UNREAD, "b", reason="gone")], summary_of(Kind.MATCH))
    assert options(tree, "outcome") == ["all", "match (3)", "unread (1)"]
    assert options(tree, "state") == ["all", "found (2)", "quarantined (1)"]
    tree = page([match("a")], summary_of(Kind.MATCH))
    assert options(tree, "outcome") == options(tree, "state") == []


def test_without_its_script_a_page_shows_no_control() -> None:
    tree = page([match("a")], summary_of(Kind.MATCH))
    controls, pager = (tree.find(f".//*[@id='{name}']") for name in ("controls", "pager"))
    assert controls is not None and "hidden" in controls.attrib
    assert pager is not None and "hidden" in pager.attrib
    within = {*controls.iter(), *pager.iter()}
    inputs = [e for tag in ("button", "input", "select") for e in tree.iter(tag)]
    assert inputs and set(inputs) <= within


def test_the_policy_allows_the_page_its_own_style_and_script_only() -> None:
    text = source([match("a")], summary_of(Kind.MATCH))
    tree = parse_html(text)
    (policy,) = (
        e.get("content", "")
        for e in tree.iter("meta")
        if e.get("http-equiv") == "Content-Security-Policy"
    )
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives == {
        "default-src": "'none'",
        "style-src": hash_of("style", text),
        "script-src": hash_of("script", text),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # The security policy precedes everything that it restricts, and the page loads nothing from
    # outside.
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert not re.search(r"https?:|@import|url\(|fetch\(|innerHTML|eval\(", text)


def hash_of(tag: str, text: str) -> str:
    (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256(inner.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def test_the_page_names_its_language_and_its_parts() -> None:
    tree = page([match("a")], summary_of(Kind.MATCH))
    assert tree.get("lang") == "en"
    for tag in ("header", "main", "footer", "title", "h1"):
        assert len(list(tree.iter(tag))) == 1
    for table in tree.iter("table"):
        assert table.get("aria-labelledby") or table.find("caption") is not None
        assert all(cell.get("scope") for cell in table.iter("th"))
    assert all(drawing.get("aria-hidden") == "true" for drawing in tree.iter("svg"))


def test_text_is_escaped_and_markup_is_not() -> None:
    made = element("p", '<b>"&\n', Markup("<wbr>"), title='"<', hidden=True, lang=None, id=False)
    assert made == '<p title="&quot;&lt;" hidden>&lt;b&gt;&quot;&amp;\\x0a<wbr></p>'
    assert joined("<", made) == f"&lt;{made}"
    assert element("label", for_="a", data_b_c="d") == '<label for="a" data-b-c="d"></label>'


ABOUT = Invocation("host-1", "root", "/root", ("/srv/files", "/srv/<b>"), 3)


def with_about(found: Iterable[Handled], summary: Summary | None, command: str) -> ET.Element:
    written = HtmlFormatter(Context(command, NOW, about=ABOUT))
    for outcome in found:
        written.outcome(outcome)
    return parse_html(written.end(summary))


def test_the_scanned_paths_are_named_also_where_all_is_clean() -> None:
    tree = with_about([], summary_of(Kind.CLEAN), "scan")
    part = section(tree, "what-was-scanned")
    assert part is not None
    for word in ("/srv/files", "/srv/<b>", "and 3 more", "host-1", "/root", "root", "0.0 s"):
        assert word in content(part)
    following = section(tree, "what-to-do-next")
    assert following is not None and "Nothing is to be done." in content(following)
    assert section(page([], summary_of(Kind.CLEAN)), "what-was-scanned") is None


@pytest.mark.parametrize(
    ("summary", "found", "said"),
    [
        (summary_of(Kind.MATCH), [match("/a")], ["Do not open, copy or send", "quarantine add ID"]),
        (summary_of(Kind.UNREAD), [], ["Remove the reasons"]),
        (summary_of(Kind.CLEAN, missing=MISSING), [], ["hashclient fetch"]),
        (summary_of(Kind.CLEAN, stopped=ExitCode.TERMINATED), [], ["not whole"]),
        (None, [], ["Nothing is to be done."]),
    ],
)
def test_the_next_steps_follow_from_the_outcomes(
    summary: Summary | None, found: list[Handled], said: list[str]
) -> None:
    part = section(page(found, summary, "scan" if summary else "matches"), "what-to-do-next")
    assert part is not None
    for words in said:
        assert words in content(part)
    assert ("Do not open" in content(part)) == bool(found)


def test_every_section_has_a_link_at_the_top() -> None:
    tree = with_about([match("/a")], summary_of(Kind.MATCH, Kind.UNREAD), "scan")
    (nav,) = (e for e in tree.iter("nav") if e.get("class") == "contents")
    targets = [link.get("href", "") for link in nav.iter("a")]
    headings = [heading.get("id") for heading in tree.iter("h2")]
    assert targets == [f"#{name}" for name in headings]
    assert len(targets) == 7


def test_rows_can_be_chosen_by_list_and_category() -> None:
    found = [match("/a", "one/x", "two/y"), match("/b", "one/y")]
    tree = page(found, summary_of(Kind.MATCH, Kind.MATCH))
    rows = tree.findall(".//table[@id='files-table']/tbody/tr")
    assert [row.get("data-list") for row in rows] == ["one two", "one"]
    assert [row.get("data-category") for row in rows] == ["x y", "y"]
    options = {
        select.get("id"): [content(option) for option in select] for select in tree.iter("select")
    }
    assert options["filter-list"] == ["all", "one (2)", "two (1)"]
    assert options["filter-category"] == ["all", "x (1)", "y (2)"]
