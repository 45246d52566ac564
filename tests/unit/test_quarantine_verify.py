"""`quarantine verify` finds damaged, missing and unknown files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.quarantine import Ward
from hashclient.core.kinds import MatchState
from hashclient.quarantine import verify
from hashclient.quarantine.item import Item, load_item
from hashclient.quarantine.verify import Finding
from hashclient.system.layout import ITEM_NAME, RESTORED_NAME


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: damage(folder / "evidence.age"), "evidence.age was altered"),
        (lambda folder: (folder / "evidence.age").unlink(), "evidence.age is missing"),
        (lambda folder: os.truncate(folder / "evidence.age", 9), "has 9 bytes instead of"),
        (lambda folder: (folder / "evidence.age").chmod(0o644), "others can read it"),
        (lambda folder: folder.chmod(0o750), "others can read it"),
        (lambda folder: (folder / "item.json").unlink(), "item.json: it is missing"),
        (lambda folder: damage(folder / "item.json"), "damaged"),
        (lambda folder: edit(folder / "item.json", size=1), "does not hold 1 bytes"),
        (lambda folder: edit(folder / "item.json", recipients=[]), "for 1 recipients instead"),
        (lambda folder: edit(folder / "item.json", format="x/2"), "unknown format"),
        (shutil.rmtree, "its sealed copy is not here"),
    ],
    ids=[
        *("altered", "missing", "truncated", "readable", "open folder", "no document"),
        *("broken document", "wrong size", "recipients", "format", "folder gone"),
    ],
)
def test_damage_is_found(ward: Ward, file: Path, spoil: Callable[[Path], None], why: str) -> None:
    other = file.with_name("other")
    other.write_bytes(b"other")
    first, second = ward.match(file), ward.match(other, entry="e-2")
    for match in (first, second):
        ward.take(match)
    spoil(ward.evidence(first).parent)
    findings = ward.verify()
    assert not findings[first.id].ok
    assert why in findings[first.id].detail
    assert findings[second.id].ok


def test_the_bytes_that_are_read_are_counted(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    with ward.record() as record:
        ward.open().add_context(match.id, [ward.key], record, reason="with it")
        counted: list[int] = []
        (finding,) = ward.open(on_bytes=counted.append).verify(record)
    item = ward.item(match)
    assert finding.ok
    assert sum(counted) == item.evidence_bytes + item.context[0].evidence_bytes


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_item_that_goes_while_it_is_looked_at_is_no_damage(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Another command restores or purges the item; its match is then over."""
    match = ward.match(file)
    ward.take(match)
    ward.change(match, MatchState.PURGED)

    def going(*given: Any) -> Item:
        item = load_item(*given) if when == "after" else None
        shutil.rmtree(ward.evidence(match).parent)
        return item or load_item(*given)

    monkeypatch.setattr(verify, "load_item", going)
    assert ward.verify() == {}


def test_a_document_that_goes_while_it_is_looked_at_is_named(
    ward: Ward, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    ward.take(match)

    def going(*given: Any) -> Item:
        item = load_item(*given)
        ward.evidence(match).with_name("item.json").unlink()
        return item

    monkeypatch.setattr(verify, "load_item", going)
    (finding,) = ward.verify().values()
    said = "item.json cannot be read: not there any more"
    assert (finding.ok, finding.detail) == (False, said)


def test_unknown_files_are_reported(ward: Ward, file: Path) -> None:
    ward.take(ward.match(file))
    (ward.settings.layout.quarantine / "notes.txt").write_text("mine")
    assert not ward.verify()["notes.txt"].ok


def test_an_empty_quarantine_is_well(ward: Ward) -> None:
    assert ward.verify() == {}
    assert not ward.settings.layout.quarantine.exists()


def test_a_match_whose_file_was_never_taken_is_not_missing(ward: Ward, file: Path) -> None:
    ward.match(file)
    assert ward.verify() == {}


@pytest.mark.parametrize(
    ("state", "is_missing"),
    [
        *((MatchState.QUARANTINED, True), (MatchState.REPORTED, True)),
        *((MatchState.ACKNOWLEDGED, True), (MatchState.WITHDRAWN, True), (MatchState.HELD, True)),
        *((MatchState.RESTORED, False), (MatchState.CLOSED, False), (MatchState.PURGED, False)),
        (MatchState.GONE, False),
    ],
)
def test_a_copy_is_missing_if_its_match_is_neither_in_place_nor_over(
    ward: Ward, file: Path, state: MatchState, is_missing: bool
) -> None:
    match = ward.match(file)
    with ward.record() as record:
        record.change(match.id, state, ward.now, {}, in_place=False)
        reached = record.get(match.id).state
    said = f"missing: the match is {reached}, and its sealed copy is not here"
    found = ward.verify()
    assert found == ({match.id: Finding(match.id, ok=False, detail=said)} if is_missing else {})
    with ward.record() as record:
        record.change(match.id, state, ward.now, {}, in_place=True)
    assert ward.verify() == {}


def test_nobody_else_may_read_any_part(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    with ward.record() as record:
        ward.open().add_context(match.id, [ward.key], record, reason="with it")
    folder = ward.evidence(match).parent
    for path in (folder, *folder.iterdir()):
        before = path.stat().st_mode
        for others in (0o40, 0o20, 0o10, 0o4, 0o2, 0o1):
            path.chmod(before | others)
            (finding,) = ward.verify().values()
            assert (finding.ok, finding.detail) == (False, f"others can read it: chmod go= {path}")
        path.chmod(before)
    (finding,) = ward.verify().values()
    assert (finding.ok, finding.attention, finding.detail) == (True, False, "whole")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (damage, "evidence.1.age was altered"),
        (Path.unlink, "evidence.1.age is missing"),
        (lambda path: os.truncate(path, 9), "evidence.1.age has 9 bytes instead of"),
        (lambda path: (path.unlink(), path.symlink_to("item.json")), "evidence.1.age cannot be"),
        (lambda path: (path.unlink(), path.mkdir(mode=0o700)), "evidence.1.age cannot be read:"),
        (make_pipe, "evidence.1.age cannot be read:"),
    ],
)
def test_files_that_belong_to_an_item_are_checked(
    ward: Ward, file: Path, spoil: Callable[[Path], object], why: str
) -> None:
    match = ward.match(file)
    ward.take(match)
    with ward.record() as record:
        ward.open().add_context(match.id, [ward.key], record, reason="with it")
    spoil(ward.evidence(match).with_name("evidence.1.age"))
    (finding,) = ward.verify().values()
    assert not finding.ok and finding.detail.startswith(why)


@pytest.mark.parametrize("name", [RESTORED_NAME, ITEM_NAME])
def test_a_pipe_in_the_place_of_a_document_is_damage_and_waits_for_no_writer(
    ward: Ward, file: Path, name: str
) -> None:
    match = ward.match(file)
    ward.take(match)
    folder = ward.evidence(match).parent
    path = (folder if name == ITEM_NAME else folder.parent) / name
    make_pipe(path)
    damaged = [found for found in ward.verify().values() if not found.ok]
    assert [found.detail.startswith(f"damaged: {path}: ") for found in damaged] == [True]


def test_a_copy_that_was_always_of_something_else_is_found(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    evidence, document = ward.evidence(match), ward.evidence(match).with_name("item.json")
    for data, why in (
        (b"no age file", "evidence.age: not a file in the age format"),
        (evidence.read_bytes() + b"!", "evidence.age does not hold 140,000 bytes"),
    ):
        evidence.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        edit(document, evidence_sha256=digest, evidence_bytes=len(data))
        (finding,) = ward.verify().values()
        assert (finding.ok, finding.detail) == (False, why)


def test_leftovers_of_a_kill_are_no_damage(ward: Ward, file: Path) -> None:
    directory = ward.settings.layout.quarantine
    ward.take(ward.match(file))
    (directory / ".tmp-x").mkdir()
    (directory / "notes\n").touch()
    (directory / "restored.json").write_text("{")
    found = ward.verify()
    assert len(found) == 4
    assert found[".tmp-x"].ok and not found[".tmp-x"].attention
    said = "left by a killed command, or being written; the next act removes it"
    assert found[".tmp-x"].detail == said
    unknown = found.get("notes\\n") or found[r"notes\x0a"]
    assert (unknown.ok, unknown.detail) == (False, "does not belong here")
    notes = found["restored.json"]
    assert not notes.ok and notes.detail.startswith("damaged: ")


def test_unfinished_acts_need_attention_and_say_what_finishes_them(ward: Ward, file: Path) -> None:
    match = ward.match(file)
    ward.take(match)
    document = ward.evidence(match).with_name("item.json")
    whole = document.read_bytes()

    def detail() -> str:
        (finding,) = ward.verify().values()
        assert finding.ok and finding.attention
        return finding.detail

    add = f"`hashclient quarantine add {match.id}` removes it"
    edit(document, stage="sealed")
    assert detail() == f"sealed, not removed (nothing is at its place): {add}"
    file.touch()
    assert detail().startswith("sealed, not removed (") and detail().endswith(f"{file}): {add}")
    ward.change(match, MatchState.PURGED)
    purge = "its folder is still here: `hashclient quarantine purge` removes it"
    assert detail() == f"purged, but {purge}"
    document.write_bytes(whole)
    assert detail() == f"purged, but {purge}"
    edit(document, restored={"by": "a", "reason": "r", "time": "2026-03-01T00:00:00Z"})
    purge = "its copy is still here: `hashclient quarantine purge` removes it"
    assert detail() == f"restored, but {purge}"
