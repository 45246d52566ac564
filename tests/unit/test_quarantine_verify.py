"""Checking the quarantine: damaged, missing and unknown files are found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.quarantine import Ward


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
