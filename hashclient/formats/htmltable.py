"""Makes the tables and charts of the HTML page: converts values to HTML elements.

A chart is a table, so that a reader who cannot see the chart gets the same content. The bars of a
chart are SVG drawings, because browsers print drawings, and because the policy of the page allows
no style attribute.

The page loads no other file, and its content security policy forbids loading. No text can break the
HTML, because one function makes all elements and always escapes text.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from hashclient.core.kinds import Kind
from hashclient.core.model import Handled, Hit, MissingList
from hashclient.core.staleness import ListState
from hashclient.core.version import __version__
from hashclient.formats.cells import words
from hashclient.formats.fields import EARLY, agreement, done_word
from hashclient.formats.text import human_bytes
from hashclient.system.text import for_people, printable


class Markup(str):
    """Text that is HTML already; every other text is escaped."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | bool | None) -> Markup:
    """Return an element; a child that is not `Markup` is escaped as text.

    An attribute with the value True is written without a value; an attribute with False or None is
    left out. An underscore in the name of an attribute becomes a dash; an underscore at the end, as
    in `class_` and `for_`, is removed.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        key = key.removesuffix("_").replace("_", "-")
        if value is True:
            parts.append(f" {key}")
        elif value not in (None, False):
            parts.append(f' {key}="{text(str(value))}"')
    parts.append(f">{joined(*children)}</{name}>")
    return Markup("".join(parts))


def joined(*parts: str) -> Markup:
    """Join `parts`; parts that are not `Markup` are escaped as text."""
    return Markup("".join(part if isinstance(part, Markup) else text(part) for part in parts))


def text(plain: str) -> Markup:
    """Return `plain` as HTML; characters that a page cannot show are escaped as on a terminal."""
    return Markup(html.escape(words(plain)))


#: The largest number of bars of a chart; one more bar sums up the rest.
MAX_BARS = 8

#: The kinds of outcomes, in the order in which the page shows them.
ORDER = (
    Kind.MATCH,
    Kind.CONFLICT,
    Kind.UNREAD,
    Kind.EXCEPTED,
    Kind.ACCEPTED,
    Kind.SKIPPED,
    Kind.CLEAN,
)


def counts(numbers: Mapping[str, int]) -> Markup:
    """Return numbers with their names, side by side."""
    pairs = [
        element(
            "div",
            element("dt", name),
            element("dd", f"{number:,}"),
            class_=f"{name}{'' if number else ' none'}",
        )
        for name, number in numbers.items()
    ]
    return element("dl", *pairs, class_="counts")


def lists_table(states: Iterable[ListState], missing: Iterable[MissingList]) -> Markup:
    """Return a table of the lists of a run with their freshness, and of the missing lists."""
    rows = []
    for state in states:
        word, tone = ("fresh", "good") if state.fresh else ("stale", "bad")
        if state.in_grace:
            word, tone = "in grace", "warn"
        until = f"{'until' if state.fresh else 'since'} {for_people(state.expires)}"
        until = f"({EARLY})" if state.is_early else until
        rows.append(
            element(
                "tr",
                element("th", state.name, scope="row"),
                element("td", f"{state.generation}", class_="num"),
                element("td", element("span", word, class_=f"tag {tone}"), f" {until}"),
            )
        )
    for one in missing:
        name = f"all of provider {one.provider}" if one.name is None else one.name
        problem = element("td", element("span", "missing", class_="tag bad"), f" {one.problem}")
        rows.append(element("tr", element("th", name, scope="row"), element("td"), problem))
    head = head_of("List", "Generation", "Freshness", numeric={"Generation"})
    return element(
        "table", head, element("tbody", *rows), class_="lists", aria_labelledby="lists-used"
    )


def charts(numbers: Mapping[str, Counter[str]]) -> Markup:
    """Return one chart for each of the named counters."""
    return element("div", *(_chart(name, n) for name, n in numbers.items()), class_="charts")


def _chart(name: str, numbers: Counter[str]) -> Markup:
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    bars = [(_path(label), number) for label, number in ranked[:MAX_BARS]]
    if rest := ranked[MAX_BARS:]:
        text = element("i", f"{len(rest):,} more")
        bars.append((text, sum(number for _, number in rest)))
    longest = max(number for _, number in bars)
    rows = [
        element(
            "tr",
            element("th", label, scope="row"),
            element("td", _bar(number / longest)),
            element("td", f"{number:,}", class_="num"),
        )
        for label, number in bars
    ]
    caption = element("caption", f"By {name}")
    head = head_of(name.capitalize(), "Share", "Files", numeric={"Files"})
    return element("table", caption, head, element("tbody", *rows), class_="chart")


def _bar(share: float) -> Markup:
    rect = element("rect", width=f"{max(share * 100, 0.5):.1f}%", height="100%")
    return element("svg", rect, aria_hidden="true", focusable="false", height="10", width="100%")


def files_table(found: Sequence[Handled]) -> Markup:
    """Return the table of files, with the controls that the script uses."""
    kinds = Counter(str(h.outcome.kind) for h in found)
    states = Counter(str(h.record.state) for h in found if h.record is not None)
    lists = Counter(name for h in found for name in _lists_of(h))
    categories = Counter(name for h in found for name in _categories_of(h))
    head = head_of("Outcome", "File", "Size", "Entry", "Record", numeric={"Size"})
    numbers = {"outcome": kinds, "state": states, "list": lists, "category": categories}
    return sortable(head, map(_row, found), numbers)


def sortable(head: Markup, rows: Iterable[Markup], numbers: Mapping[str, Counter[str]]) -> Markup:
    """Return a table that `page.js` can sort and filter, with its controls.

    `numbers`: for each attribute `data-…` by which rows can be filtered, the number of rows with
    each value of the attribute. The page must have this table in a section whose heading has the id
    `files`.
    """
    body = element("tbody", *(joined(Markup("\n"), row) for row in rows))
    return joined(
        _controls(numbers),
        element("table", head, body, id="files-table", aria_labelledby="files"),
        _pager(),
    )


def _controls(by_name: Mapping[str, Counter[str]]) -> Markup:
    search = Markup('<input type="search" id="filter-text" autocomplete="off">')
    fields = [element("label", element("span", "Search"), search)]
    for name, numbers in by_name.items():
        if len(numbers) > 1:
            options = [element("option", "all", value="")]
            options += [element("option", f"{n} ({numbers[n]:,})", value=n) for n in numbers]
            select = element("select", *options, id=f"filter-{name}")
            fields.append(element("label", element("span", name.capitalize()), select))
    shown = element("p", id="shown", role="status", class_="fine")
    controls = element("div", *fields, class_="controls", role="search", aria_label="Files")
    return element("div", controls, shown, id="controls", hidden=True)


def _pager() -> Markup:
    previous = element("button", "Previous", type="button", id="previous-page")
    following = element("button", "Next", type="button", id="next-page")
    where = element("span", id="page-number")
    return element("nav", previous, where, following, id="pager", aria_label="Pages", hidden=True)


def _row(handled: Handled) -> Markup:
    outcome, ref = handled.outcome, handled.record
    kind = str(outcome.kind)
    file = [_path(outcome.place, class_="path")]
    if outcome.reason is not None:
        file.append(_note(outcome.reason))
    size = Markup("")
    if outcome.size is not None:
        size = element("data", human_bytes(outcome.size), value=str(outcome.size))
    record = []
    if ref is not None:
        record.append(joined(f"{ref.state} ", element("code", ref.id)))
        first, last = (
            element("time", f"{time:%Y-%m-%d}") for time in (ref.first_seen, ref.last_seen)
        )
        if not ref.in_place:
            record.append(_note("isolated"))
        record.append(_note("seen ", first, *(() if first == last else (" to ", last))))
    for acted in handled.acted:
        attributes = {f"data_{acted.action}": done_word(acted)}
        record.append(element("div", acted.detail, class_="note", **attributes))
    rank = str(ORDER.index(outcome.kind))
    return element(
        "tr",
        element("td", element("data", kind, value=rank, class_=f"tag {kind}")),
        element("td", *file),
        element("td", size, class_="num"),
        element("td", *(_entry(hit) for hit in outcome.hits)),
        element("td", *record),
        data_outcome=kind,
        data_state=None if ref is None else str(ref.state),
        data_list=" ".join(_lists_of(handled)) or None,
        data_category=" ".join(_categories_of(handled)) or None,
    )


def _lists_of(handled: Handled) -> list[str]:
    return sorted({hit.list_name for hit in handled.outcome.hits})


def _categories_of(handled: Handled) -> list[str]:
    return sorted({hit.category for hit in handled.outcome.hits})


def _entry(hit: Hit) -> Markup:
    return element(
        "div",
        joined(f"{hit.list_name} ", element("b", hit.entry)),
        _note(f"{hit.category}; {agreement(hit)}"),
    )


def _path(path: str, class_: str | None = None) -> Markup:
    """Return the HTML of a path that may wrap after slashes, and has its own text direction."""
    names = printable(path).split("/")
    parts = [joined(f"{name}/", Markup("<wbr>")) for name in names[:-1]]
    return element("bdi", *parts, names[-1], class_=class_)


def _note(*text: str) -> Markup:
    return element("div", *text, class_="note")


def head_of(*names: str, numeric: Iterable[str] = ()) -> Markup:
    """Return the head of a table; the columns in `numeric` contain numbers."""
    cells = [
        element("th", name, scope="col", class_="num" if name in numeric else None)
        for name in names
    ]
    return element("thead", element("tr", *cells))


def document(title: str, content: Iterable[Markup], script_name: str | None = None) -> str:
    """Return a page that needs no other file; `script_name` names a script of this package."""
    style = _resource("page.css")
    script = "" if script_name is None else _resource(script_name)
    policy = (
        f"default-src 'none'; style-src {_source(style)};"
        + (f" script-src {_source(script)};" if script else "")
        + " base-uri 'none'; form-action 'none'"
    )
    footer = (
        f"Written by hashclient {__version__}. This page holds no content of files and no digests;"
        " it loads nothing and works without a network."
    )
    lines = [
        Markup("<!doctype html>"),
        Markup('<html lang="en">'),
        Markup("<head>"),
        Markup('<meta charset="utf-8">'),
        # The content security policy applies only to the elements after it, so the policy comes
        # before all scripts and styles.
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<meta name="robots" content="noindex">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        element("title", f"{title} · hashclient"),
        Markup(f"<style>{style}</style>"),
        Markup("</head>"),
        Markup("<body>"),
        *content,
        element("footer", element("p", footer)),
        Markup(f"<script>{script}</script>" if script else ""),
        Markup("</body>"),
        Markup("</html>"),
    ]
    return "\n".join(lines)


def _resource(name: str) -> str:
    return resources.files("hashclient.formats").joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """Return the entry of a content security policy for an inline style or script `text`."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
