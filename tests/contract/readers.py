"""A reader for each report format, which gets the reported outcomes back from the text.

A reader also checks the requirements of its format in every document that a test writes: the JSON
schema of `jsonl`, the SARIF schema, the field table of ECS, well-formed HTML.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import jsonschema

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Action, Kind
from hashclient.core.model import Handled
from hashclient.core.verdict import Summary
from hashclient.formats.csv import COLUMNS, DIGEST_COLUMNS
from hashclient.formats.fields import done_word, failure_text
from tests.kit import ROOT, bytes_path

DATA = ROOT / "tests" / "data"
JSONL_SCHEMA = json.loads((ROOT / "docs" / "jsonl.schema.json").read_text())
JSONL = jsonschema.Draft202012Validator(JSONL_SCHEMA)
SARIF = jsonschema.Draft202012Validator(json.loads((DATA / "sarif-schema-2.1.0.json").read_text()))
ECS_FIELDS = json.loads((DATA / "ecs-fields-9.4.0.json").read_text())

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """The run in a report: how complete it is, and which inputs were answered without reading."""

    #: The signal that ended the run early.
    interrupted_by: str | None
    failure: str | None
    #: Names of missing lists, or `all of` and a provider whose lists are unknown.
    missing: frozenset[str]
    #: The lists that could not decide about the input: the name of a list, and the algorithms that
    #: the input lacks.
    gaps: frozenset[tuple[str, str]]
    gaps_accepted: bool
    ruled_out_by_size: int
    known_unchanged: int
    believed_unchanged: int


@dataclass(frozen=True)
class Report:
    """The content of a report: its files in the order of their fields, and the run."""

    files: Sequence[Fields]
    counts: Fields = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    exit_code: int | None = None
    run: Run | None = None


def expected(handled: Handled) -> Fields:
    """Return the fields that a reader should find for an outcome."""
    outcome, recorded = handled.outcome, handled.record
    return {
        "kind": str(outcome.kind),
        "path": os.fsencode(outcome.place),
        "size": outcome.size,
        "reason": outcome.reason,
        "id": None if recorded is None else recorded.id,
        "state": None if recorded is None else str(recorded.state),
        "in_place": None if recorded is None else recorded.in_place,
        "hits": [
            {
                "list": hit.list_name,
                "entry": hit.entry,
                "category": hit.category,
                "generation": hit.generation,
                "algorithms": [a.label for a in hit.algorithms],
                "complete": hit.complete,
            }
            for hit in outcome.hits
        ],
        "actions": [(str(a.action), done_word(a), a.detail) for a in handled.acted],
    }


def expected_counts(summary: Summary) -> Fields:
    """Return the counts that a reader should find for a summary."""
    return {str(kind): summary.counts[kind] for kind in Kind}


def expected_run(summary: Summary) -> Run:
    """Return the facts about a run that a reader should find in the output of its summary."""
    signals = {None: None, ExitCode.INTERRUPTED: "SIGINT", ExitCode.TERMINATED: "SIGTERM"}
    return Run(
        interrupted_by=signals[summary.stopped],
        failure=failure_text(summary),
        missing=frozenset(m.name or f"all of {m.provider}" for m in summary.missing),
        gaps=frozenset(
            (gap.list_name, " ".join(a.label for a in gap.algorithms)) for gap in summary.gaps
        ),
        gaps_accepted=bool(summary.gaps) and summary.gaps_accepted,
        ruled_out_by_size=summary.ruled_out_by_size,
        known_unchanged=summary.known_unchanged,
        believed_unchanged=summary.believed_unchanged,
    )


_NUMBER = r"(\d[\d,]*)"


def run_in_words(sentences: Iterable[str], rests_on: str) -> Run:
    """Read the sentences about a run in the formats for people."""
    by = failure = None
    missing, gaps, accepted = set(), set(), False
    for sentence in sentences:
        if found := re.fullmatch(r"interrupted by (SIG\w+): .*", sentence):
            by = found[1]
        elif found := re.fullmatch(r"failed: (.*)", sentence):
            failure = found[1]
        elif found := re.fullmatch(r"list (\S+) is missing: .*", sentence):
            missing.add(found[1])
        elif found := re.fullmatch(r"the lists of provider (\S+) are missing: .*", sentence):
            missing.add(f"all of {found[1]}")
        elif found := re.fullmatch(
            rf"(\S+): {_NUMBER} of {_NUMBER} entries ha\w+ (?:no|neither) (.*?);"
            rf" {_NUMBER} inputs? (.*)",
            sentence,
        ):
            gaps.add((found[1], " ".join(re.findall("md5|sha1|sha256", found[4]))))
            accepted = accepted or found[6].endswith("since gaps are accepted")
    rests = {what: int(n.replace(",", "")) for n, what in re.findall(_RESTS_ON, rests_on)}
    return Run(
        by,
        failure,
        frozenset(missing),
        frozenset(gaps),
        accepted,
        rests.get("ruled out by size", 0),
        rests.get("known unchanged", 0),
        rests.get("of them believed unchanged", 0),
    )


_RESTS_ON = rf"{_NUMBER} (ruled out by size|known unchanged|of them believed unchanged)"


def run_in_fields(summary: Fields) -> Run:
    """Read the fields about a run in the formats for programs."""
    assert summary["interrupted"] is ("interrupted_by" in summary)
    return Run(
        summary.get("interrupted_by"),
        summary.get("failure"),
        frozenset(m["name"] or f"all of {m['provider']}" for m in summary["missing_lists"]),
        frozenset((gap["list"], " ".join(gap["algorithms"])) for gap in summary["gaps"]),
        bool(summary["gaps"]) and summary["gaps_accepted"],
        summary["ruled_out_by_size"],
        summary["known_unchanged"],
        summary["believed_unchanged"],
    )


def unprintable(shown: str) -> bytes:
    """Return the bytes of a path from the text that `printable` made of it."""
    parts = re.split(r"(\\\\|\\x[0-9a-f]{2})", shown)
    for number, part in enumerate(parts):
        assert number % 2 or "\\" not in part, shown
    return b"".join(
        b"\\" if part == "\\\\" else bytes.fromhex(part[2:]) if number % 2 else part.encode()
        for number, part in enumerate(parts)
    )


# text ----------------------------------------------------------------------------------------

_HIT = re.compile(
    r"(?P<list>\S+) (?P<entry>\S+) \((?P<category>\S+); (?P<algorithms>[a-z0-9, ]+?)"
    r" agrees?(?P<others>, others do not)?\)"
)


def read_text(text: str) -> Report:
    """Read the format for people; paths must not contain two spaces in a row."""
    files = []
    lines = text.splitlines()
    while lines and re.match(
        r"(clean|match|conflict|skipped|unread|accepted|excepted|found|quarantined) ", lines[0]
    ):
        line = lines.pop(0)
        word = line.split(" ")[0]
        # The first word is padded: a state in lines of `matches`, a kind in lines of a run.
        is_state = word in ("found", "quarantined")
        shown, *more = line[14 if is_state else 10 :].split("  ")
        match_id = None
        if more and more[0].startswith("["):
            match_id = more.pop(0)[1:-1].removesuffix(", isolated")
        words = [part for part in more if "=" not in part and not part.startswith(("-> ", "on "))]
        hits = [_hit_of(m) for m in _HIT.finditer(words[0] if words else "")]
        reason = next((text for text in words[bool(hits) :]), None)
        files.append(
            {
                "kind": "match" if is_state else word,
                "path": unprintable(shown),
                "reason": reason,
                "id": match_id,
                "hits": hits,
            }
        )
    if not lines:
        return Report(files)
    one = {"matches": "match", "conflicts": "conflict"}
    counts = {
        one.get(kind, kind): int(n.replace(",", ""))
        for n, kind in re.findall(r"(\d[\d,]*) (\w+)", lines[0])
    }
    counts.setdefault("accepted", 0)
    counts.setdefault("excepted", 0)
    counts.pop("inputs", None)
    counts.pop("input", None)
    lists = frozenset(re.findall(r"^list (\S+),", text, re.MULTILINE))
    code = int(lines[-1].split(":")[0].removeprefix("exit "))
    read = next((line for line in lines if line.startswith("read ")), "")
    return Report(files, counts, lists, code, run_in_words(lines[:-1], read))


def _hit_of(match: re.Match[str]) -> Fields:
    return {
        "list": match["list"],
        "entry": match["entry"],
        "category": match["category"],
        "algorithms": match["algorithms"].split(", "),
        "complete": match["others"] is None,
    }


# jsonl ---------------------------------------------------------------------------------------


def read_jsonl(text: str) -> Report:
    """Read lines of JSON, each of which must be valid by the published schema."""
    assert text.isascii()
    documents = [json.loads(line) for line in text.splitlines()]
    for document in documents:
        JSONL.validate(document)
        assert next(iter(document)) == "type"
    if not documents or documents[-1]["type"] != "summary":
        return Report([_json_file(d) for d in documents])
    summary = documents.pop()
    assert summary["inputs"] == sum(summary[kind] for kind in Kind)
    files = [_json_file(d) for d in documents]
    return Report(files, *_json_summary(summary), run_in_fields(summary))


def _json_file(document: Fields) -> Fields:
    hits = [document, *document.get("more", [])] if "list" in document else []
    return {
        "kind": document["type"],
        "path": bytes_path(document),
        "size": document["size"],
        "reason": document.get("reason"),
        "id": document.get("id"),
        "state": document.get("state"),
        "in_place": document.get("in_place"),
        "hits": _json_hits(hits),
        "actions": _json_actions(document.get("actions", [])),
    }


def _json_hits(hits: Iterable[Fields]) -> list[Fields]:
    names = ("list", "entry", "category", "generation", "algorithms")
    return [{n: hit[n] for n in names} | {"complete": hit.get("complete", True)} for hit in hits]


def _json_actions(actions: Iterable[Fields]) -> list[Any]:
    done = {True: "yes", False: "no", None: "planned"}
    return [(a["action"], done[a["done"]], a["detail"]) for a in actions]


def _flat_actions(fields: Fields) -> list[Any]:
    """Return the actions in a format with one field for each action, and one for all details."""
    done = [(name, fields[name]) for name in map(str, Action) if fields.get(name)]
    details = fields["actions"].split("; ") if done else []
    return [(*pair, detail) for pair, detail in zip(done, details, strict=True)]


def _json_summary(summary: Fields) -> tuple[Fields, frozenset[str], int]:
    lists = frozenset(state["name"] for state in summary["lists"])
    return {str(kind): summary[kind] for kind in Kind}, lists, summary["exit_code"]


_YES_NO = {"yes": True, "no": False, "": None}

# csv -----------------------------------------------------------------------------------------


#: A character that begins a formula in a spreadsheet, also in its full-width form.
FORMULA = re.compile("[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")


def read_csv(text: str) -> Report:
    """Read rows, and combine the rows of one file."""
    rows = list(csv.reader(io.StringIO(text), strict=True))
    header = tuple(rows.pop(0))
    assert header in (COLUMNS, COLUMNS + DIGEST_COLUMNS)
    assert all(len(row) == len(header) for row in rows)
    assert not any(FORMULA.match(cell) for row in rows for cell in row)
    files: list[dict[str, Any]] = []
    tables = [dict(zip(header, row, strict=True)) for row in rows]
    about = [cells for cells in tables if cells["kind"] not in set(Kind)]
    of_files = tables[: len(tables) - len(about)]
    assert {cells["kind"] for cells in of_files} <= set(Kind)
    for cells in of_files:
        exact = cells["path_b64"].removeprefix("'")
        file = {
            "kind": cells["kind"],
            "path": base64.b64decode(exact, validate=True) if exact else cells["path"].encode(),
            "size": int(cells["size"]) if cells["size"] else None,
            "reason": cells["reason"] or None,
            "id": cells["id"] or None,
            "state": cells["state"] or None,
            "in_place": _YES_NO[cells["in_place"]],
            "hits": [],
            "actions": _flat_actions(cells),
        }
        if not cells["list"] or not files or file != {**files[-1], "hits": []}:
            files.append(file)
        if cells["list"]:
            files[-1]["hits"].append(
                {
                    "list": cells["list"],
                    "entry": cells["entry"],
                    "category": cells["category"],
                    "generation": int(cells["generation"]),
                    "algorithms": cells["algorithms"].split(),
                    "complete": {"yes": True, "no": False}[cells["complete"]],
                }
            )
    return Report(files, *_csv_run(about))


def _csv_run(rows: list[dict[str, str]]) -> tuple[Fields, frozenset[str], int | None, Run | None]:
    """Read the rows about the run, which are the last rows; the very last one has the exit code."""
    if not rows:
        return {}, frozenset(), None, None
    end = rows.pop()
    assert end["kind"] == "summary"
    known = [*("missing", "stale", "gap", "held", "interrupted", "failed")]
    known += ["skips", "exceptions", "not-opened", "run"]
    order = [known.index(cells["kind"]) for cells in rows]
    assert order == sorted(order)
    for cells in rows:
        assert cells["reason"] and not cells["path"] and not cells["id"]
    sentences = [
        f"failed: {cells['reason']}" if cells["kind"] == "failed" else cells["reason"]
        for cells in rows
    ]
    run = run_in_words(sentences, end["reason"])
    named = {name for name in run.missing if not name.startswith("all of ")}
    assert named == {c["list"] for c in rows if c["kind"] == "missing"} - {""}
    assert run.gaps == {
        (cells["list"], cells["algorithms"]) for cells in rows if cells["kind"] == "gap"
    }
    code = re.match(r"exit (\d+): ", end["reason"])
    assert code is not None
    return {}, frozenset(), int(code[1]), run


# sarif ---------------------------------------------------------------------------------------


def read_sarif(text: str) -> Report:
    """Read a document that is valid by the schema, and meets the extra rules of code hosts."""
    assert text.isascii()
    document = json.loads(text)
    SARIF.validate(document)
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    files = []
    for result in run["results"]:
        rule = driver["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        properties = result["properties"]
        _check_location(result, _holder(properties), has_region=True)
        files.append(
            {
                "kind": "conflict"
                if rule["id"].endswith("/conflict")
                else "excepted"
                if result.get("suppressions")
                else "match",
                "path": bytes_path(properties),
                "size": properties["size"],
                "reason": properties.get("reason"),
                "id": properties.get("id"),
                "state": properties.get("state"),
                "in_place": properties.get("in_place"),
                "hits": _json_hits(properties["hits"]),
                "actions": _json_actions(properties["actions"]),
            }
        )
    (invocation,) = run["invocations"]
    for notification in invocation["toolExecutionNotifications"]:
        descriptor = driver["notifications"][notification["descriptor"]["index"]]
        assert descriptor["id"] == notification["descriptor"]["id"]
        assert descriptor["defaultConfiguration"]["level"] == notification["level"]
        if descriptor["id"] in ("unread", "skipped", "accepted"):
            assert notification["locations"]
            properties = notification["properties"]
            _check_location(notification, _holder(properties), has_region=False)
            files.append(
                {
                    "kind": descriptor["id"],
                    "path": bytes_path(properties),
                    "size": properties["size"],
                    "reason": properties["reason"],
                    "id": None,
                    "state": None,
                    "in_place": None,
                    "hits": [],
                    "actions": [],
                }
            )
    if "properties" not in run:
        assert "exitCode" not in invocation
        return Report(files)
    assert invocation["exitCode"] == run["properties"]["exit_code"]
    about = run_in_fields(run["properties"])
    # The notifications alone must also say whether the run is complete.
    said = {n["descriptor"]["id"] for n in invocation["toolExecutionNotifications"]}
    assert ("stopped" in said) == (about.interrupted_by is not None)
    assert ("failed" in said) == (about.failure is not None)
    assert ("missing" in said, "gap" in said) == (bool(about.missing), bool(about.gaps))
    assert invocation["executionSuccessful"] is not bool(
        said & {"stopped", "failed", "missing"},
    )
    return Report(files, *_json_summary(run["properties"]), about)


def _holder(properties: Fields) -> bytes:
    """Return the path of the file of an outcome; for a member, the path of its container."""
    if "container" not in properties:
        return bytes_path(properties)
    encoded = properties.get("container_b64")
    return base64.b64decode(encoded) if encoded else os.fsencode(properties["container"])


def _check_location(owner: Fields, path: bytes, *, has_region: bool) -> None:
    (location,) = owner["locations"]
    physical = location["physicalLocation"]
    assert ("region" in physical) == has_region
    uri = urllib.parse.urlsplit(physical["artifactLocation"]["uri"])
    assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", uri.path)
    is_absolute = path.startswith(b"/")
    assert (uri.scheme, uri.netloc) == ("file" if is_absolute else "", "")
    assert uri.path.startswith("/") == is_absolute
    kept = [part for part in path.split(b"/") if part not in (b"", b".")]
    read = urllib.parse.unquote_to_bytes(uri.path)
    assert [part for part in read.split(b"/") if part not in (b"", b".")] == kept


# ecs -----------------------------------------------------------------------------------------


def read_ecs(text: str) -> Report:
    """Read events with ECS's own fields and types, and combine the events of one file."""
    assert text.isascii()
    files: list[dict[str, Any]] = []
    lists, missing, gaps = set(), set(), set()
    run: Fields | None = None
    for line in text.splitlines():
        event = json.loads(line)
        check_ecs(event)
        action = event["event"]["action"]
        if action == "summary":
            run = event
        elif action == "list":
            lists.add(event["rule"]["ruleset"])
        elif action == "missing":
            assert event["event"]["outcome"] == "failure"
            rule, labels = event.get("rule", {}), event.get("labels", {})
            missing.add(rule.get("ruleset") or f"all of {labels['provider']}")
        elif action == "gap":
            gaps.add((event["rule"]["ruleset"], event["labels"]["algorithms"]))
        else:
            file = _ecs_file(event)
            if "rule" not in event or not files or file != {**files[-1], "hits": []}:
                files.append(file)
            if "rule" in event:
                files[-1]["hits"].append(_ecs_hit(event))
    if run is None:
        return Report(files)
    counts = {str(kind): run["hashclient"][kind] for kind in Kind}
    labels = run["labels"]
    assert (labels["interrupted"] == "yes") == ("interrupted_by" in labels)
    about = Run(
        labels.get("interrupted_by"),
        labels.get("failure"),
        frozenset(missing),
        frozenset(gaps),
        labels.get("gaps_accepted") == "yes",
        run["hashclient"]["ruled_out_by_size"],
        run["hashclient"]["known_unchanged"],
        run["hashclient"]["believed_unchanged"],
    )
    return Report(files, counts, frozenset(lists), run["process"]["exit_code"], about)


def _ecs_file(event: Fields) -> dict[str, Any]:
    labels = event.get("labels", {})
    path = {"path": event["file"]["path"]}
    if "path_b64" in labels:
        path["path_b64"] = labels["path_b64"]
    return {
        "kind": event["event"]["action"],
        "path": bytes_path(path),
        "size": event["file"].get("size"),
        "reason": event["event"].get("reason"),
        "id": labels.get("match_id"),
        "state": labels.get("match_state"),
        "in_place": _YES_NO[labels.get("match_in_place", "")],
        "hits": [],
        "actions": _flat_actions(labels),
    }


def _ecs_hit(event: Fields) -> Fields:
    rule, labels = event["rule"], event["labels"]
    return {
        "list": rule["ruleset"],
        "entry": rule["id"],
        "category": rule["category"],
        "generation": int(rule["version"]),
        "algorithms": labels["algorithms"].split(),
        "complete": {"yes": True, "no": False}[labels["complete"]],
    }


_ECS_TYPES: Mapping[str, type] = {
    "keyword": str,
    "match_only_text": str,
    "date": str,
    "long": int,
}


def check_ecs(event: Fields) -> None:
    """Check an event against the table of ECS's fields; other fields are strings or counts."""
    for name in ("@timestamp", "ecs.version"):
        assert name in dict(_leaves(event))
    for name, value in _leaves(event):
        if name.startswith("labels."):
            assert isinstance(value, str) and name.count(".") == 1, name
            continue
        if name.startswith("hashclient."):
            assert type(value) is int, name
            continue
        known = ECS_FIELDS[name]
        assert isinstance(value, list) == known.get("array", False), name
        for item in value if isinstance(value, list) else [value]:
            assert type(item) is _ECS_TYPES[known["type"]], name
            assert "allowed" not in known or item in known["allowed"], name
    about = event["event"]
    allowed = ECS_FIELDS["event.category"]["allowed"]
    # ECS expects `error` for failed events of any category, but lists it only for a few categories.
    types = {*(t for category in about["category"] for t in allowed[category]), "error"}
    assert set(about["type"]) <= types


def _leaves(value: Fields, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


# html ----------------------------------------------------------------------------------------

_VOID = frozenset({"input", "meta", "wbr"})


class _TreeBuilder(HTMLParser):
    """Builds the tree of a page, and refuses elements that are not closed in the right order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._builder = ET.TreeBuilder()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), tag
        self._builder.start(tag, {name: value or "" for name, value in attrs})
        self._open.append(tag)
        if tag in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self._builder.data(data)

    def tree(self) -> ET.Element:
        self.close()
        assert not self._open
        root = self._builder.close()
        assert root is not None
        return root


def parse_html(text: str) -> ET.Element:
    """Return the tree of a well-formed page that loads no file and runs only its own script."""
    assert text.startswith("<!doctype html>\n")
    parser = _TreeBuilder()
    parser.feed(text)
    tree = parser.tree()
    ids = [e.get("id") for e in tree.iter() if e.get("id") is not None]
    assert len(ids) == len(set(ids))
    assert len(list(tree.iter("script"))) == len(list(tree.iter("style"))) == 1
    for element in tree.iter():
        assert not {"src", "style", "action", "srcdoc"} & set(element.attrib)
        if "href" in element.attrib:  # the link leads to a place in the page
            assert element.tag == "a"
            assert element.get("href", "").removeprefix("#") in ids
            assert element.get("href", "").startswith("#")
        assert not any(name.startswith("on") for name in element.attrib)
        if "aria-labelledby" in element.attrib:
            assert element.get("aria-labelledby") in ids
    return tree


def content(element: ET.Element) -> str:
    """Return the text of an element and of all elements in it."""
    return "".join(element.itertext())


def read_html(text: str) -> Report:
    """Read the tables of a page."""
    tree = parse_html(text)
    files = [_html_file(row) for row in tree.iterfind(".//table[@id='files-table']/tbody/tr")]
    code = re.search(r"Exit code (\d+):", content(tree))
    if code is None:
        return Report(files)
    counts = {
        content(pair[0]): int(content(pair[1]).replace(",", ""))
        for pair in tree.iterfind(".//dl[@class='counts']/div")
    }
    rows = tree.findall(".//table[@class='lists']/tbody/tr")
    used = [row for row in rows if not content(row[2]).startswith("missing ")]
    lists = frozenset(content(row[0]) for row in used)
    items = [
        content(e).removesuffix(".") for e in tree.iterfind(".//section[@class='attention']//li")
    ]
    sentences = [item[:1].lower() + item[1:] for item in items]
    # A gap begins with the name of its list.
    sentences = [re.sub(r"^list (?=\S+: )", "", sentence) for sentence in sentences]
    about = run_in_words(sentences, "".join(map(content, tree.iterfind(".//p[@class='fine']"))))
    assert len(about.missing) == len(rows) - len(used)
    return Report(files, counts, lists, int(code[1]), about)


def _html_file(row: ET.Element) -> Fields:
    outcome, file, size, entries, record = row
    actions = [
        (name, note.get(f"data-{name}"), content(note))
        for note in record.iterfind("div[@class='note']")
        for name in map(str, Action)
        if f"data-{name}" in note.attrib
    ]
    reason = file.find("div[@class='note']")
    number, code = size.find("data"), record.find("code")
    path = file.find("bdi")
    assert path is not None
    assert content(outcome) == row.get("data-outcome")
    assert record.text is None or record.text.strip() == row.get("data-state")
    return {
        "kind": content(outcome),
        "path": unprintable(content(path)),
        "size": None if number is None else int(number.get("value", "")),
        "reason": None if reason is None else content(reason),
        "id": None if code is None else content(code),
        "state": row.get("data-state"),
        "in_place": None if code is None else "isolated" not in content(record),
        "hits": [_html_hit(entry) for entry in entries],
        "actions": actions,
    }


def _html_hit(entry: ET.Element) -> Fields:
    name, note = entry
    shown = f"{(entry.text or '').strip()} {content(name)} ({content(note)})"
    match = _HIT.fullmatch(shown)
    assert match is not None, shown
    return _hit_of(match)
