"""The tombstone: its text, owner and mode, and that no other file is replaced or removed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from hashclient.quarantine import tombstone
from hashclient.quarantine.item import Item, Mark, Origin, Stage
from hashclient.quarantine.safe_rename import Place, open_place
from hashclient.quarantine.tombstone import (
    has_tombstone,
    put_tombstone,
    remove_tombstone,
    tombstone_text,
)

NOW = datetime(2026, 3, 1, 12, 30, 15, 999_999, tzinfo=UTC)
ID = "bcdfgh2345"
ITEM = Item(
    id=ID,
    stage=Stage.SEALED,
    path="/a/b",
    size=1,
    origin=Origin(1, 2, 3, 1, 0o600, os.getuid(), os.getgid(), 0, 0, {}),
    evidence_sha256="00",
    evidence_bytes=2,
    recipients=(),
    taken=Mark("alice", "found", NOW),
    hits=(),
    tags={},
    key_id="k",
    tombstone="isolated: ä\n",
)
NONE = msgspec.structs.replace(ITEM, tombstone=None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with open_place(str(tmp_path / "f")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (None, None),
        ("", "\n"),
        ("gone", "gone\n"),
        ("gone\n", "gone\n"),
        ("gone\n\n", "gone\n\n"),
        ("{id} at {time}, {id}", f"{ID} at 2026-03-01T12:30:15+00:00, {ID}\n"),
        ("{other} {} {{id}}", f"{{other}} {{}} {{{ID}}}\n"),
    ],
)
def test_a_template_gets_id_and_time(template: str | None, text: str | None) -> None:
    here = NOW.astimezone(timezone(timedelta(hours=5)))
    assert tombstone_text(template, ID, NOW) == text
    assert tombstone_text(template, ID, here) == text


def test_all_may_read_a_tombstone_and_its_owner_is_the_file_s(place: Place) -> None:
    path = Path(place.path)
    old = os.umask(0o077)
    try:
        assert put_tombstone(place, ITEM) is None
    finally:
        os.umask(old)
    assert path.read_text() == "isolated: ä\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["f"]
    if os.getuid() == 0:
        path.unlink()
        origin = msgspec.structs.replace(ITEM.origin, uid=12, gid=34)
        assert put_tombstone(place, msgspec.structs.replace(ITEM, origin=origin)) is None
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_an_item_without_a_tombstone_leaves_none(place: Place) -> None:
    assert put_tombstone(place, NONE) is None
    assert not has_tombstone(place, NONE)
    assert list(Path(place.directory).iterdir()) == []


def test_a_tombstone_takes_the_place_of_no_file(place: Place) -> None:
    path = Path(place.path)
    path.write_text("mine")
    assert put_tombstone(place, ITEM) == "the tombstone could not be left: file exists"
    assert path.read_text() == "mine"
    assert [p.name for p in path.parent.iterdir()] == ["f"]


def test_a_file_of_a_killed_act_is_written_again(place: Place) -> None:
    new = Path(place.directory, f".hashclient-{ID}.new")
    new.write_text("a much longer text than the tombstone")
    assert put_tombstone(place, ITEM) is None
    assert Path(place.path).read_text() == "isolated: ä\n" and not new.exists()


def test_a_tombstone_that_cannot_be_given_away_is_left_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(os, "fchown", refuse)
    assert put_tombstone(place, ITEM) is None
    assert has_tombstone(place, ITEM)


def test_a_disk_that_is_full_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(tombstone, "write_all", fail)
    said = "the tombstone could not be left: no space left on its file system"
    assert put_tombstone(place, ITEM) == said
    assert list(Path(place.directory).iterdir()) == []


def test_a_tombstone_that_may_not_be_durable_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Place) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Place, "sync", fail)
    said = "the tombstone could not be left: input/output error"
    assert put_tombstone(place, ITEM) == said
    assert [p.name for p in Path(place.directory).iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("text", "is_it"),
    [
        *(("isolated: ä\n", True), ("isolated: ä", False), ("isolated: ä\n\n", False)),
        *(("", False), ("isolated: a\n", False)),
    ],
)
def test_only_the_whole_unchanged_text_is_a_tombstone(place: Place, text: str, is_it: bool) -> None:
    path = Path(place.path)
    assert not has_tombstone(place, ITEM)
    path.write_text(text)
    assert has_tombstone(place, ITEM) is is_it
    assert not has_tombstone(place, NONE) and not remove_tombstone(place, NONE)
    assert remove_tombstone(place, ITEM) is is_it
    assert path.exists() is not is_it
    assert not is_it or list(path.parent.iterdir()) == []


def test_what_is_no_file_is_no_tombstone(place: Place) -> None:
    path = Path(place.path)
    with pytest.raises(FileNotFoundError):
        remove_tombstone(place, ITEM)
    Path(place.directory, "text").write_text("isolated: ä\n")
    path.symlink_to("text")
    assert not has_tombstone(place, ITEM)
    with pytest.raises(OSError, match="symbolic"):
        remove_tombstone(place, ITEM)
    assert path.is_symlink()


def test_an_empty_text_is_a_tombstone_too(place: Place) -> None:
    item = msgspec.structs.replace(ITEM, tombstone="")
    assert put_tombstone(place, item) is None
    assert has_tombstone(place, item) and remove_tombstone(place, item)
