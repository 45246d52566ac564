"""States of every version: recognised, refused if newer, and described in a table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hashclient.alerts.book import BOOK_FORMAT
from hashclient.audit import record
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import LockedError, StateError
from hashclient.core.version import __version__
from hashclient.decisions import rulings
from hashclient.fetch.build import _Staging
from hashclient.fetch.guard import _Sources
from hashclient.fetch.known_listed import _Document as _KnownListed
from hashclient.fleet import known
from hashclient.index import checks, run
from hashclient.index.manifest import MANIFEST_FORMAT, read_manifest
from hashclient.matches import tables
from hashclient.migrations import version
from hashclient.migrations.migrate import STEPS, check_state, writing
from hashclient.migrations.version import Version, read_version, write_version
from hashclient.notices import store
from hashclient.packages import document
from hashclient.quarantine import item
from hashclient.reporting import facts, report
from hashclient.scan.cache import cache
from hashclient.scan.sources import remembered
from hashclient.session import Session
from hashclient.status import published
from hashclient.system.files import writer_lock
from hashclient.system.layout import Layout
from hashclient.system.versions import is_newer
from tests.docs.blocks import DOCS, table_rows

ID = "bcdfghjkmn"


def used(layout: Layout) -> Session:
    return Session(Settings(layout.root, layout.root / "config.toml", None, Config()))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "state")


def test_the_document_has_each_format_with_the_version_that_the_modules_write() -> None:
    rows = table_rows(DOCS / "operations/upgrading.md", "## Which version has each file?")
    assert all(all(row) for row in rows)
    versions = {files: version for files, version, *_ in rows}
    assert versions == {
        "`state.json`": f"{version.FORMAT}/{version.CURRENT}",
        "`lists/*/manifest.json`": MANIFEST_FORMAT,
        "`lists/*/run-*`, `known-good/run-*`": str(run.RUN_MAGIC[6]),
        "`lists/*/checks.json`": checks.CHECKS_FORMAT,
        "`lists/*/staging.json`": _Staging.__struct_defaults__[-1],
        "`known-good/sources.json`": _Sources.__struct_defaults__[-1],
        "`known-good/listed.json`": _KnownListed.__struct_defaults__[-1],
        "`alerts/outbox.json`": BOOK_FORMAT,
        "`trust/*/`": "1",
        "`trust/*/denied.json`": "1",
        "`matches.db`": str(tables._VERSION),
        "`inventory.db`": str(cache._VERSION),
        "`decisions/exceptions.json`": rulings.RULINGS_FORMAT,
        "`mounts.json`": remembered.FORMAT,
        "`fleet/published.json`": published.Published.__struct_defaults__[0],
        "`fleet/known.json`": known.Known.__struct_defaults__[0],
        "`notices/*.json`": store.BOOK_FORMAT,
        "`audit/log.jsonl`": record.FORMAT,
        "`audit/log-*.jsonl`, and a `log.jsonl` after them": record.SEGMENT_FORMAT,
        "`quarantine/*/item.json`": item.FORMAT,
        "`quarantine/restored.json`": item.NOTES_FORMAT,
        "`quarantine/*/evidence.age`": "1",
        "`facts/*.json`": facts.ADDED_FORMAT,
        "`reports/*/report.json`": report.Report.__struct_defaults__[0],
        "`reports/*/document.json`": document.FORMAT,
        "`seal.key`, `audit/key.*`": "1",
    }


def test_the_steps_lead_to_today_one_by_one() -> None:
    assert [step.version for step in STEPS] == list(range(version.FIRST, version.CURRENT + 1))
    needed = [step.version for step in STEPS if not step.readable]
    assert max(needed, default=0) == version.READABLE
    # No step needs a later version than the version that wrote the state.
    assert all(step.needs <= __version__ for step in STEPS)


def test_a_state_that_is_not_there_is_left_so(layout: Layout) -> None:
    check_state(layout)
    assert read_version(layout) == Version()
    assert not layout.root.exists()


def test_state_without_a_version_is_0_until_somebody_writes(layout: Layout) -> None:
    layout.root.mkdir()
    check_state(layout)
    assert list(layout.root.iterdir()) == []
    with writing(layout):
        assert read_version(layout) == Version(version.CURRENT, STEPS[-1].needs)
    document = json.loads(layout.state.read_bytes())
    assert document["format"] == f"hashclient-state/{version.CURRENT}"
    assert (document["needs"], document["written_by"]) == ("1.0.0", __version__)
    assert layout.state.stat().st_mode & 0o777 == 0o600
    before = layout.state.stat()
    with writing(layout):  # no step is due, so nothing is written
        assert layout.state.stat() == before


def test_a_newer_state_is_refused_with_the_version_that_it_needs(layout: Layout) -> None:
    layout.root.mkdir()
    write_version(layout, Version(version.CURRENT + 1, "7.3.0"))
    settings = Settings(layout.root, layout.root / "config.toml", None, Config())
    for use in (lambda: check_state(layout), lambda: Session(settings), writing(layout).__enter__):
        with pytest.raises(StateError, match=r"needs hashclient 7\.3\.0 or later") as caught:
            use()
        assert "nothing was changed" in (caught.value.hint or "")
    assert {path.name for path in layout.root.iterdir()} <= {"state.json", "lock"}


@pytest.mark.parametrize("number", [1, version.FIRST - 1])
def test_a_state_from_before_the_first_release_is_refused_by_name(
    layout: Layout, number: int
) -> None:
    layout.root.mkdir()
    write_version(layout, Version(number, "0.1.0"))
    settings = Settings(layout.root, layout.root / "config.toml", None, Config())
    for use in (lambda: check_state(layout), lambda: Session(settings), writing(layout).__enter__):
        with pytest.raises(
            StateError, match=f"hashclient-state/{number}, which is not read"
        ) as caught:
            use()
        assert "move it away to begin a new one" in (caught.value.hint or "")
    assert read_version(layout) == Version(number, "0.1.0")


def test_a_version_may_say_more_than_is_known(layout: Layout) -> None:
    layout.root.mkdir()
    text = '{"format": "hashclient-state/1", "needs": "0.1.0", "written_by": "0.9", "more": [1]}'
    layout.state.write_text(text)
    assert read_version(layout) == Version(1, "0.1.0")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", "null", '{"format": "hashclient-state/1"}', "[" * 100_000),
        '{"format": "hashclient-state/x", "needs": "1", "written_by": "1"}',
        '{"format": "hashclient-state/01", "needs": "1", "written_by": "1"}',
        '{"format": "hashclient-index/1", "needs": "1", "written_by": "1"}',
    ],
)
def test_a_damaged_version_is_an_error(layout: Layout, text: str) -> None:
    layout.root.mkdir()
    layout.state.write_text(text)
    with pytest.raises(StateError, match="version of the state is damaged"):
        check_state(layout)


def test_a_pipe_in_place_of_the_version_holds_nobody_up(layout: Layout) -> None:
    layout.root.mkdir()
    os.mkfifo(layout.state)
    with pytest.raises(StateError, match="not a regular file"):
        check_state(layout)


def test_a_version_that_may_not_be_read_is_an_error(layout: Layout) -> None:
    layout.state.mkdir(parents=True)
    with pytest.raises(StateError, match="cannot read the version"):
        check_state(layout)


def test_a_writer_holds_the_lock(layout: Layout) -> None:
    with writing(layout), pytest.raises(LockedError), writer_lock(layout.lock):
        pass


@pytest.mark.parametrize(
    ("format_", "newer"),
    [
        *(("a/2", False), ("a/3", True), ("a/10", True), ("a/1", False), ("b/3", False)),
        *(("a/", False), ("a", False), ("", False), ("a/3x", False), ("a/" + "9" * 5000, False)),
    ],
)
def test_which_versions_are_newer(format_: str, newer: bool) -> None:
    assert is_newer(format_, "a/2") is newer


@pytest.mark.parametrize("text", ['{"format": "hashclient-index/3"}', '{"format":'])
def test_a_newer_manifest_is_distinguished_from_a_damaged_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StateError) as caught:
        read_manifest(tmp_path)
    assert ("newer hashclient" in caught.value.message) is ("3" in text)
    assert isinstance(caught.value, run.DamagedError) is ("3" not in text)


@pytest.mark.parametrize(
    ("name", "format_", "read"),
    [
        ("fleet/published.json", "hashclient-published", published.load_published),
        ("fleet/known.json", "hashclient-fleet", lambda at: known.changing(at).__enter__()),
        ("facts/bcdfghjkmn.json", "hashclient-facts", lambda at: facts._added(used(at), ID)),
        (
            "reports/r-bcdfghjkmn/report.json",
            "hashclient-outbox",
            lambda at: report.load(at.reports, f"r-{ID}"),
        ),
        (
            "quarantine/bcdfghjkmn/item.json",
            "hashclient-quarantine-item",
            lambda at: item.load_item(at.quarantine, ID),
        ),
        (
            "quarantine/restored.json",
            "hashclient-quarantine-restored",
            lambda at: item.load_notes(at.quarantine),
        ),
    ],
)
def test_a_newer_file_with_other_fields_is_not_called_damaged(
    layout: Layout, name: str, format_: str, read: Callable[[Layout], object]
) -> None:
    path = layout.root / name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": f"{format_}/2", "more": 1}))
    with pytest.raises(StateError, match="a newer hashclient has written this file"):
        read(layout)
