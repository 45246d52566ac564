"""A row that declares a kind: the values that a row has if it names no others."""

from __future__ import annotations

import zlib

from hashclient.containers import meaning, sniffing
from hashclient.containers.interface import NEVER
from hashclient.containers.kind import End, Kind, Mark, Sure
from hashclient.containers.kinds import KINDS
from hashclient.containers.registry import Registry

ROW = Kind("x", (Mark(3, (b"AB", b"C")),), "tar:Tar")


def test_the_number_of_a_short_row_stays_the_same() -> None:
    """Records of earlier scans contain this number."""
    places, rest = (b"", b"", 0), ("MARK", True, False, False)
    text = repr(("x", 1, True, [(3, (b"AB", b"C"), False, b"", "")], [], places, rest))
    assert meaning.number_of(ROW) == zlib.crc32(text.encode())
    text = repr(("x", 1, False, [], [], places, rest))
    assert meaning.number_of(Kind("x")) == zlib.crc32(text.encode())


def test_each_value_that_changes_what_is_found_changes_the_number() -> None:
    marks, end = ROW.marks, End(b"end")
    rows = [
        ROW,
        Kind("y", marks, "tar:Tar"),
        Kind("x", marks),
        Kind("x", (), "tar:Tar"),
        Kind("x", (Mark(4, (b"AB", b"C")),), "tar:Tar"),
        Kind("x", (Mark(3, (b"AB",)),), "tar:Tar"),
        Kind("x", (Mark(3, (b"AB", b"C"), reaches=True),), "tar:Tar"),
        Kind("x", (Mark(3, (b"AB", b"C"), pattern=b"...AB"),), "tar:Tar"),
        Kind("x", (Mark(3, (b"AB", b"C"), differs="data[5]"),), "tar:Tar"),
        Kind("x", marks, "tar:Tar", version=2),
        Kind("x", marks, "tar:Tar", has_readings=True),
        Kind("x", marks, "tar:Tar", sure=Sure.VERIFIED),
        Kind("x", marks, "tar:Tar", sure=Sure.GUESS),
        Kind("x", marks, "tar:Tar", hides_end=False),
        Kind("x", marks, "tar:Tar", is_front=True),
        Kind("x", marks, "tar:Tar", ends=(end,)),
        Kind("x", marks, "tar:Tar", in_tail=b"in"),
        Kind("x", marks, "tar:Tar", in_programs=b"in"),
        Kind("x", marks, "tar:Tar", in_programs_at=2),
    ]
    assert len({meaning.number_of(row) for row in rows}) == len(rows)
    for row in (
        Kind("x", marks, "zip:Zip"),
        Kind("x", marks, "tar:Tar", most_members=2),
        Kind("x", marks, "tar:Tar", whole=bool),
    ):
        assert meaning.number_of(row) == meaning.number_of(ROW)


def test_a_short_row_is_a_kind_that_is_opened_and_hides_what_is_behind() -> None:
    found = (ROW,)
    assert sniffing.is_kind(found) and sniffing.is_opened(found) and not sniffing.is_front(found)
    assert sniffing.not_opened((Kind("x"),)) == "x"
    assert sniffing.not_opened((Kind("x"),), is_other=True) == ""
    registry = Registry(kinds=[*KINDS, ROW])
    assert registry.most_members("x") is None and not registry.has_readings("x")
    assert [one.name for one in registry.named("x")] == ["tar"]
    assert not registry.named(NEVER) and not registry.named("")


def test_rows_are_different_even_if_they_say_the_same() -> None:
    """Tables have a row as a key, and a second row with equal values is another kind."""
    same = Kind("x", ROW.marks, "tar:Tar")
    assert same != ROW and len({ROW, same}) == 2
