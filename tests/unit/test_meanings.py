"""Records of earlier versions: a scan reads again only files whose kind is new or changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pytest

from hashclient.containers import meaning
from hashclient.containers.kind import Kind, Mark
from hashclient.containers.kinds import KINDS
from hashclient.scan.cache.meanings import Meanings
from hashclient.scan.cache.records import PLAIN, RECORD, Records

TOY = Kind("toy", (Mark(0, (b"TOY!",)),), "toy:Toy")
BY_NAME = {kind.name: kind for kind in KINDS}


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as opened:
        opened.execute("CREATE TABLE files (records BLOB)")
        yield opened


def with_kinds(patch: pytest.MonkeyPatch, *kinds: Kind) -> None:
    """Let the program know only these kinds of containers."""
    patch.setattr(meaning, "NUMBERS", {kind.name: meaning.number_of(kind) for kind in kinds})
    patch.setattr(meaning.touched, "__defaults__", (kinds,))


def plain_records(*files: tuple[int, bytes]) -> Records:
    """Return records of files that are no containers, with these sizes and first bytes."""
    records = np.zeros(len(files), RECORD)
    records["mask"] = PLAIN | 1
    records["size"] = [size for size, _ in files]
    records["begin"] = [begin[0] for _, begin in files]
    return records


def taken(meanings: Meanings, records: Records) -> list[bool]:
    """Apply the table of known kinds to records; return which still say "no container"."""
    records = records.copy()
    meanings.take(records)
    assert set((records["mask"] & 1).tolist()) <= {1}
    return [bool(mask & PLAIN) for mask in records["mask"]]


FILES = plain_records((900, b"T"), (900, b"x"), (3, b"T"))


def test_without_a_change_all_are_known(database: sqlite3.Connection) -> None:
    written = FILES.copy()
    Meanings(database, records="files").give(written)
    for meanings in (Meanings(database, records="files"), Meanings(database)):
        assert taken(meanings, written) == [True] * 3


def test_a_new_kind_touches_what_begins_like_it_and_is_long_enough(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = FILES.copy()
    Meanings(database, records="files").give(written)
    with_kinds(monkeypatch, *KINDS, TOY)
    assert taken(Meanings(database, records="files"), written) == [False, True, True]
    assert taken(Meanings(database), written) == [False, True, True]


@pytest.mark.parametrize(
    ("mark", "least"), [(Mark(0, (b"TOY!",)), 4), (Mark(8, (b"TOY!",)), 12), (Mark(0, (b"T!",)), 2)]
)
def test_a_new_kind_touches_a_file_that_is_just_long_enough(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, mark: Mark, least: int
) -> None:
    written = plain_records(*((least + more, b"T") for more in (-1, 0, 1)))
    Meanings(database, records="files").give(written)
    with_kinds(monkeypatch, *KINDS, msgspec.structs.replace(TOY, marks=(mark,)))
    assert taken(Meanings(database), written) == [True, False, False]


def test_each_record_is_judged_by_its_own_meaning(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three programs wrote the records: of an earlier version, without the toy, and of today."""
    unknown, before, today = (plain_records((900, b"T"), (900, b"x")) for _ in range(3))
    Meanings(database, records="files").give(before)
    with_kinds(monkeypatch, *KINDS, TOY)
    Meanings(database, records="files").give(today)
    mixed = np.concatenate([unknown, before, today])
    assert taken(Meanings(database), mixed) == [False, False, False, True, True, True]


def patterned(**changes: Any) -> tuple[Mark]:
    """Return the mark of the toy with a changed condition."""
    return (msgspec.structs.replace(TOY.marks[0], **changes),)


@pytest.mark.parametrize(
    ("changed", "still"),
    [
        (msgspec.structs.replace(TOY, version=2), [False, True, True]),
        (msgspec.structs.replace(TOY, marks=(Mark(0, (b"xyz",)),)), [True, False, True]),
        (msgspec.structs.replace(TOY, marks=(Mark(800, (b"TOY!",)),)), [False, False, True]),
        (msgspec.structs.replace(TOY, marks=patterned(pattern=b"TOY!.")), [False, True, True]),
        (
            msgspec.structs.replace(TOY, marks=patterned(differs="data[3] != 33")),
            [False, True, True],
        ),
        (msgspec.structs.replace(TOY, in_tail=b"!YOT"), [False, False, True]),
        (msgspec.structs.replace(TOY, in_programs_at=2), [False, True, True]),
        (msgspec.structs.replace(TOY, most_members=9), [True, True, True]),
        (msgspec.structs.replace(TOY, has_readings=True), [False, True, True]),
    ],
)
def test_a_change_of_a_row_touches_what_the_row_says(
    database: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    changed: Kind,
    still: list[bool],
) -> None:
    with_kinds(monkeypatch, *KINDS, TOY)
    written = FILES.copy()
    Meanings(database, records="files").give(written)
    with_kinds(monkeypatch, *KINDS, changed)
    assert taken(Meanings(database, records="files"), written) == still


@pytest.mark.parametrize("begin", [b"M", b"\x7f", b"Z", b"F"])
def test_a_kind_in_programs_touches_programs(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """Programs begin with `MZ`, or with a byte and `ELF`."""
    with_kinds(monkeypatch, *KINDS, TOY)
    written = plain_records((900, begin), (3, begin))
    Meanings(database, records="files").give(written)
    with_kinds(monkeypatch, *KINDS, msgspec.structs.replace(TOY, in_programs=b"TOY!"))
    is_other = begin in (b"Z", b"F")
    assert taken(Meanings(database, records="files"), written) == [is_other, True]


def test_a_kind_that_is_gone_touches_nothing(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        with_kinds(before, *KINDS, TOY)
        written = FILES.copy()
        Meanings(database, records="files").give(written)
    assert taken(Meanings(database, records="files"), written) == [True] * 3


@pytest.mark.sampled
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_touches_a_file_of_its_own_beginning(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    for mark in kind.marks:
        for literal in mark.literals if not mark.at else ():
            record = plain_records((len(literal), literal))
            others = [other for other in KINDS if other is not kind]
            with monkeypatch.context() as before:
                with_kinds(before, *others)
                Meanings(database, records="files").give(record)
            assert taken(Meanings(database, records="files"), record) == [False]


@pytest.mark.parametrize("writes", [False, True])
def test_records_of_a_later_version_count_for_an_earlier_one(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    """The records are of a later version, which knows one more kind and has a higher number."""
    of_today = Meanings(database, records="files").number
    with monkeypatch.context() as later:
        with_kinds(later, *KINDS, TOY)
        written = FILES.copy()
        Meanings(database, records="files").give(written)
    meanings = Meanings(database, records="files") if writes else Meanings(database)
    assert set(written["meaning"].tolist()) == {of_today + 1} == {meanings.number + 1}
    assert taken(meanings, written) == [True] * 3


def test_records_from_before_there_were_meanings_are_looked_at_again(
    database: sqlite3.Connection,
) -> None:
    # A database of an earlier version has no table of known kinds.
    assert taken(Meanings(database), FILES) == [False] * 3
    assert taken(Meanings(database, records="files"), FILES) == [False] * 3


def test_a_number_that_is_not_in_the_table_or_damaged_there_says_nothing(
    database: sqlite3.Connection,
) -> None:
    written = FILES.copy()
    meanings = Meanings(database, records="files")
    meanings.give(written)
    database.execute("UPDATE meanings SET kinds = replace(kinds, 'zip', 'zap')")
    assert taken(Meanings(database), written) == [False] * 3
    other = written.copy()
    other["meaning"] = 77
    assert taken(meanings, other) == [False] * 3


@pytest.mark.slow
def test_where_no_number_is_left_all_is_read_again(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("INSERT INTO files VALUES (x'00')")
    for version in range(256):
        with_kinds(monkeypatch, msgspec.structs.replace(TOY, version=version))
        assert Meanings(database, records="files").number == version % 255 + 1
        count = database.execute("SELECT count(*) FROM files").fetchone()
        assert count == (int(version < 255),)
