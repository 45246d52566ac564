"""The format for a person: one HTML page, which needs no other file, to read, print and keep.

The page is complete without its script, which only adds sorting, a filter and pages to the table.
The page loads no other file, and its content security policy forbids loading. The page has no
content of files and no digests, even if the user requests digests. Counts and charts include all
outcomes; the number of rows of the table is limited, to bound the memory, and matches come first.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Kind, MatchState
from hashclient.core.match import PROGRESS
from hashclient.core.model import Handled
from hashclient.core.verdict import Summary
from hashclient.formats.cells import words
from hashclient.formats.conclusion import conclusion
from hashclient.formats.fields import (
    NO_NAME,
    excepted_text,
    inside_text,
    not_opened_text,
    remarks,
    rests_on,
    skipped_text,
)
from hashclient.formats.htmltable import (
    ORDER,
    Markup,
    charts,
    counts,
    document,
    element,
    files_table,
    joined,
    lists_table,
)
from hashclient.formats.text import human_bytes
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.formats.registry import Context


#: The first advice about each file that matches.
HANDS_OFF = "Do not open, copy or send a file that matches, and do not delete it by hand"


def contents(sections: Sequence[tuple[str, str]]) -> Markup:
    """Return a navigation with links to `sections`, given as pairs of id and title."""
    links = [
        element("li", element("a", title, href=f"#{section_id}")) for section_id, title in sections
    ]
    return element("nav", element("ul", *links), class_="contents", aria_label="On this page")


def about_run(context: Context, summary: Summary | None) -> Markup | None:
    """Return where, by whom, when and for which paths a command was called, or None if unknown."""
    about = context.about
    if about is None:
        return None
    paths = [element("li", element("code", printable(path) or NO_NAME)) for path in about.paths]
    if about.omitted:
        paths.append(element("li", f"and {about.omitted:,} more"))
    where = "a directory that is gone" if about.directory is None else printable(about.directory)
    left_out = excepted = None
    if summary is not None:
        left_out, excepted = skipped_text(summary), excepted_text(summary)
    rows = {
        "Paths": element("ul", *paths) if paths else None,
        "Host": element("code", words(about.host)),
        "Directory": element("code", where),
        "User": element("code", words(about.user)),
        "Began": element("span", for_people(context.now)),
        "Took": None if summary is None else element("span", f"{summary.elapsed_s:,.1f} s"),
        "Left out": None if left_out is None else element("span", left_out),
        "Excepted": None if excepted is None else element("span", excepted),
    }
    pairs = (
        element("div", element("dt", name), element("dd", value))
        for name, value in rows.items()
        if value is not None
    )
    return element("dl", *pairs, class_="run")


def next_steps(
    context: Context, summary: Summary | None, matches: int, conflicts: int
) -> Iterator[Markup]:
    """Yield what the reader of the page should do next, the most urgent first."""
    if matches:
        yield joined(
            element("strong", HANDS_OFF), ": follow your procedure for such files and for reports."
        )
        yield joined(
            _command("quarantine add ID"),
            " isolates a file, sealed; the ids are in the column Record. ",
            _command("report prepare --all"),
            " prepares a report. ",
            _command("matches close ID --reason TEXT"),
            " closes a match that was handled by other means.",
        )
    if conflicts:
        yield joined(
            "Do not open a file that conflicts either: the entry is wrong, or the file was made to"
            " look like it. Ask the provider of the list."
        )
    if summary is None or context.command == "matches":
        return
    if summary.counts[Kind.UNREAD]:
        yield joined("Remove the reasons why inputs could not be read, and scan again.")
    if summary.missing or any(state.stale for state in summary.lists):
        yield joined("Run ", _command("fetch"), ", then scan again.")
    if summary.stopped is not None or summary.failed is not None:
        yield joined("Scan again: this run is not whole.")


def _command(words_of: str) -> Markup:
    return element("code", f"hashclient {words_of}")


#: The largest number of rows of the table. A browser needs about a second to show this many rows,
#: and the page has some megabytes.
MAX_ROWS = 10_000
#: The largest number of folders that are counted separately.
MAX_FOLDERS = 10_000
ELSEWHERE = "other folders"

_HEADLINES = {
    ExitCode.OK: "Nothing found",
    ExitCode.INCOMPLETE: "No match, but not everything was checked",
    ExitCode.STALE: "No match, but a list is out of date",
    ExitCode.INTERRUPTED: "Interrupted: no match so far",
    ExitCode.TERMINATED: "Terminated: no match so far",
}
#: The first words of a remark on the page, by the subject of the remark.
_BEFORE = {"gap": "list ", "held": "held: ", "failed": "failed: "}


class HtmlFormatter:
    """Collects the content of the page, and returns the page at the end."""

    def __init__(self, context: Context) -> None:
        """Write the outcomes in the form that `context` requires, but without digests."""
        self._context = context
        self._rows: dict[Kind, list[Handled]] = {kind: [] for kind in ORDER}
        self._found: Counter[Kind] = Counter()
        self._states: Counter[MatchState] = Counter()
        self._lists: Counter[str] = Counter()
        self._categories: Counter[str] = Counter()
        self._folders: Counter[str] = Counter()
        self._actions_failed = 0
        #: The number of recorded matches that are open.
        self._open = 0

    def begin(self) -> None:
        """Return nothing, because the first lines of the page depend on all outcomes."""

    def outcome(self, handled: Handled) -> None:
        """Count an outcome, and keep it if the table has space for it."""
        outcome = handled.outcome
        kind = outcome.kind
        self._found[kind] += 1
        if len(self._rows[kind]) < MAX_ROWS:
            self._rows[kind].append(handled)
        if handled.record is not None:
            self._states[handled.record.state] += 1
            self._open += handled.record.state in PROGRESS
        self._actions_failed += sum(acted.done is False for acted in handled.acted)
        if kind is Kind.MATCH:
            self._lists.update({hit.list_name for hit in outcome.hits})
            self._categories.update({hit.category for hit in outcome.hits})
            folder = posixpath.dirname(outcome.path) or "."
            full = len(self._folders) >= MAX_FOLDERS and folder not in self._folders
            self._folders[ELSEWHERE if full else folder] += 1

    def end(self, summary: Summary | None) -> str:
        """Return the whole page."""
        return document(self._title(summary), self._page(summary), "page.js")

    def _title(self, summary: Summary | None) -> str:
        if summary is None:
            return f"{counted(self._found.total(), 'match')} on record"
        if self._context.command == "matches":
            return "The matches could not be listed"
        if number := summary.counts[Kind.MATCH]:
            early = ""
            if summary.stopped is not None:
                early = ", and the run was interrupted"
            elif summary.failed is not None:
                early = ", and the run failed"
            elif summary.missing:
                early = ", and not every list could be used"
            return f"{number:,} {'file matches' if number == 1 else 'files match'}{early}"
        if summary.failed is not None and summary.stopped is None and not summary.inputs:
            return "The run failed: nothing was checked"
        if not summary.inputs and summary.exit_code is ExitCode.INCOMPLETE:
            return "There was nothing to check"
        if summary.failed is None and summary.exit_code is ExitCode.STATE:
            return "No match, but a list is missing"
        return _HEADLINES.get(summary.exit_code, "No match, but the run failed")

    def _page(self, summary: Summary | None) -> Iterator[Markup]:
        yield self._verdict(summary)
        sections = list(self._sections(summary))
        yield contents([(section.id, section.title) for section in sections])
        yield Markup("<main>")
        yield from (section.markup for section in sections)
        yield Markup("</main>")

    def _sections(self, summary: Summary | None) -> Iterator[_Section]:
        if summary is not None:
            attention = list(self._attention(summary))
            if attention:
                items = [element("li", item) for item in attention]
                yield _Section("Needs attention", element("ul", *items), class_="attention")
        if summary is None or self._context.command != "matches":
            yield self._next(summary)
        if (about := about_run(self._context, summary)) is not None:
            title = "What was scanned" if self._context.command == "scan" else "About this page"
            yield _Section(title, about)
        if summary is None or self._context.command != "matches":
            yield self._numbers(summary)
        if summary is not None and (summary.lists or summary.missing):
            yield _Section("Lists used", lists_table(summary.lists, summary.missing))
        if self._found[Kind.MATCH]:
            numbers = {"list": self._lists, "category": self._categories, "folder": self._folders}
            yield _Section("Where the matches are", charts(numbers))
        yield self._files()

    def _next(self, summary: Summary | None) -> _Section:
        open_matches = self._open
        if summary is not None:
            open_matches = max(open_matches, summary.counts[Kind.MATCH])
        steps = list(next_steps(self._context, summary, open_matches, self._found[Kind.CONFLICT]))
        if not steps:
            return _Section("What to do next", element("p", "Nothing is to be done."))
        items = [element("li", step) for step in steps]
        return _Section("What to do next", element("ol", *items), class_="next")

    def _verdict(self, summary: Summary | None) -> Markup:
        now = self._context.now
        when = element("time", for_people(now), datetime=f"{now:%Y-%m-%dT%H:%M:%SZ}")
        about = [element("p", f"hashclient {self._context.command}, ", when, class_="about")]
        title = element("h1", self._title(summary))
        if summary is None:
            return element("header", *about, title, class_="plain")
        code = summary.exit_code
        tone = "good" if code is ExitCode.OK else "bad" if summary.counts[Kind.MATCH] else "warn"
        meaning = element("p", f"Exit code {int(code)}: {conclusion(summary)}.", class_="meaning")
        return element("header", *about, title, meaning, class_=tone)

    def _attention(self, summary: Summary) -> Iterator[str]:
        if number := summary.counts[Kind.CONFLICT]:
            noun = "file conflicts" if number == 1 else "files conflict"
            yield f"{number:,} {noun} with an entry: some of its digests agree, others do not."
        if number := summary.counts[Kind.UNREAD]:
            yield f"{counted(number, 'input')} could not be read: the content is unknown."
        if not summary.inputs and summary.stopped is None and summary.failed is None:
            yield "There were no inputs: nothing was checked."
        if self._actions_failed:
            yield f"Actions that could not be done: {self._actions_failed:,}."
        for remark in remarks(summary):
            yield f"{_capital(_BEFORE.get(remark.subject, '') + remark.text)}."

    def _numbers(self, summary: Summary | None) -> _Section:
        if summary is None:
            shown = {str(state): self._states[state] for state in MatchState}
            return _Section("By state", counts(shown))
        shown = {str(kind): summary.counts[kind] for kind in ORDER}
        read = (
            f"{counted(summary.inputs, 'input')} in all; {counted(summary.files_read, 'file')},"
            f" {human_bytes(summary.bytes_read)}, read in {summary.elapsed_s:,.1f} s."
        )
        if text := rests_on(summary):
            read += f" The answer is not only based on reading, but also on this: {text}."
        if inside := inside_text(summary):
            read += f" {_capital(inside)}."
        if kinds := not_opened_text(summary):
            read += f" {_capital(kinds)}."
        return _Section("What was checked", counts(shown), element("p", read, class_="fine"))

    def _files(self) -> _Section:
        rows: list[Handled] = []
        for kind in ORDER:
            found = sorted(self._rows[kind], key=lambda handled: handled.outcome.place)
            rows += found[: MAX_ROWS - len(rows)]
        if not rows:
            return _Section("Files", element("p", "There is nothing to list."))
        total = self._found.total()
        notes = []
        if total > len(rows):
            text = (
                f"The table has the first {len(rows):,} of {total:,}: matches before conflicts, and"
                " these before the rest. Counts and charts are of all. The formats jsonl and csv"
                " have no such limit."
            )
            notes.append(element("p", text, class_="fine"))
        return _Section("Files", *notes, files_table(rows), class_="files")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Section:
    """A section of the page, whose heading has an id."""

    def __init__(self, title: str, *content: Markup, class_: str | None = None) -> None:
        self.title = title
        self.id = title.lower().replace(" ", "-")
        heading = element("h2", title, id=self.id)
        self.markup = element("section", heading, *content, class_=class_, aria_labelledby=self.id)
