"""Exceptions on disk: the rulings about one entry are found without decoding all other rulings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hashclient.core.errors import StateError
from hashclient.decisions.rulings import Book, Entry, Ruling, load_book, write_book
from hashclient.index.blinding import Sealer
from hashclient.system.layout import Layout

SEALER = Sealer(bytes(32))
NOW = datetime(2026, 1, 2, tzinfo=UTC)
#: Ids and names that look like syntax of the file or like the beginning of another id.
NAMES = ("a", "a-1", "a,", 'a"', '["a","a",', "\\", "]", "{}", "z" * 300, "é")


def ruling(number: int, *entries: tuple[str, str], reason: str = "ticket 4711") -> Ruling:
    return Ruling(
        id=f"x-{number}",
        entries=tuple(Entry(*entry, f"{number:032x}") for entry in entries),
        reason=reason,
        by="alice",
        made_at=NOW,
        until=NOW + timedelta(days=30),
    )


def kept(tmp_path: Path, made: list[Ruling]) -> Book:
    write_book(Layout(tmp_path), made, SEALER, NOW)
    return load_book(Layout(tmp_path), SEALER)


def some() -> Iterator[Ruling]:
    names = [(of, entry) for of in ("base", "base-2") for entry in NAMES]
    for number, name in enumerate(names):
        yield ruling(number, name, reason=f'["{name[0]}","{name[1]}",')
    yield ruling(100, names[3], names[7], names[3])
    yield ruling(101, *names)


def test_the_rulings_about_an_entry_are_those_that_name_it(tmp_path: Path) -> None:
    made = list(some())
    book, whole = kept(tmp_path, made), kept(tmp_path, made)
    assert book.rulings == tuple(made)
    for number in range(5000):  # after 4,000 look-ups, all are decoded
        assert not whole.about("another", f"{number}")
    asked = [(of, entry) for of in ("base", "base-2", "other") for entry in (*NAMES, "b", "")]
    for name in asked:
        wanted = [r for r in made if name in [(e.list, e.id) for e in r.entries]]
        found = book.about(*name)
        assert sorted(found, key=made.index) == wanted
        assert sorted(whole.about(*name), key=made.index) == wanted
        assert len(found) >= 2 or name[1] not in NAMES or name[0] == "other"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_book_of_few_rulings_has_what_it_was_given(tmp_path: Path, number: int) -> None:
    made = [ruling(i, ("base", f"e-{i}")) for i in range(number)]
    book = kept(tmp_path, made)
    assert (book.is_empty, book.rulings) == (not made, tuple(made))
    assert [book.about("base", f"e-{i}") for i in range(number)] == [[r] for r in made]
    assert book.about("base", "another") == []


def test_of_many_rulings_only_those_about_the_entry_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = kept(tmp_path, [ruling(i, ("base", f"e-{i}")) for i in range(1000)])
    decoded = []
    decode = msgspec.json.decode

    def noted(line: bytes, **how: Any) -> Any:
        decoded.append(line)
        return decode(line, **how)

    monkeypatch.setattr("msgspec.json.decode", noted)
    (found,) = book.about("base", "e-417")
    assert (found.id, len(decoded)) == ("x-417", 1)
    assert not book.is_empty and len(decoded) == 1


@pytest.mark.slow
def test_each_changed_byte_of_the_file_is_noticed(tmp_path: Path) -> None:
    kept(tmp_path, [ruling(1, ("base", "e-1")), ruling(2, ("base", "e-2"))])
    path = Layout(tmp_path).exceptions
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(StateError):
            load_book(Layout(tmp_path), SEALER)
    for cut in (0, 1, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(StateError):
            load_book(Layout(tmp_path), SEALER)
    path.write_bytes(data)
    assert len(load_book(Layout(tmp_path), SEALER).rulings) == 2


def test_exceptions_from_before_the_first_release_are_refused_by_name(tmp_path: Path) -> None:
    kept(tmp_path, [])
    path = Layout(tmp_path).exceptions
    path.write_bytes(path.read_bytes().replace(b"exceptions/2", b"exceptions/1"))
    with pytest.raises(
        StateError, match="before the first release, in the format hashclient-exceptions/1"
    ):
        load_book(Layout(tmp_path), SEALER)
