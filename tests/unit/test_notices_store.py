"""Notices on the disk: the files are complete and have a version, and damage is found."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.notices import SENT, make_notice
from hashclient.core.errors import LockedError, StateError
from hashclient.notices import store
from hashclient.notices.lifecycle import Acknowledged, Kept
from hashclient.notices.store import (
    Book,
    DamagedBookError,
    Refused,
    are_missing,
    changing,
    load_book,
    providers_with_notices,
    write_book,
)
from hashclient.system.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "state")


def book(provider: str = "main") -> Book:
    acknowledged = Kept(
        make_notice(), "d" * 64, SENT, True, SENT, Acknowledged(SENT, "somebody", "done")
    )
    return Book(provider, 3, "epoch", SENT, SENT, (acknowledged,), (Refused("n-2", "not valid"),))


def write(layout: Layout, value: Book) -> Path:
    with changing(layout):
        write_book(layout, value)
    return layout.notices_of(value.provider)


def test_written_notices_are_read_back(layout: Layout) -> None:
    assert load_book(layout, "main") is None
    assert providers_with_notices(layout) == []
    path = write(layout, book())
    write(layout, book("second"))
    assert load_book(layout, "main") == book()
    assert providers_with_notices(layout) == ["main", "second"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert layout.notices.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_any_byte_that_changes_is_found(layout: Layout) -> None:
    path = write(layout, book())
    data = path.read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        path.write_bytes(changed)
        # A changed version number may look like a newer version, which is refused as well.
        with pytest.raises(StateError, match=r"damaged|newer"):
            load_book(layout, "main")
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DamagedBookError):
            load_book(layout, "main")


def test_notices_of_another_provider_are_not_taken_for_this_one_s(layout: Layout) -> None:
    write(layout, book()).rename(layout.notices_of("second"))
    with pytest.raises(DamagedBookError):
        load_book(layout, "second")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"id":"n-1"', b'"id":"\\u001b[2J"'),
        (b'"lists":["baseline"]', b'"lists":["\\u202e"]'),
        (b'"received":"2026-05-01T12:00:00Z"', b'"received":"2026-05-01T12:00:00"'),
        (b'"id":"n-2"', b'"id":"a\\nb"'),
    ],
)
def test_impossible_content_is_damaged(layout: Layout, old: bytes, new: bytes) -> None:
    path = write(layout, book())
    body = path.read_bytes().partition(b"\n")[2]
    assert old in body
    body = body.replace(old, new)
    head = {"format": store.BOOK_FORMAT, "sha256": hashlib.sha256(body).hexdigest()}
    path.write_bytes(json.dumps(head).encode() + b"\n" + body)
    with pytest.raises(DamagedBookError):
        load_book(layout, "main")


def test_notices_of_a_newer_version_are_refused_and_kept(layout: Layout) -> None:
    path = write(layout, book())
    data = path.read_bytes().replace(b"hashclient-notices/1", b"hashclient-notices/2", 1)
    path.write_bytes(data)
    with pytest.raises(StateError, match="a newer hashclient has written this file"):
        load_book(layout, "main")
    assert path.read_bytes() == data


def test_one_changes_it_at_a_time(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.0)
    with changing(layout):
        leftover = layout.notices / ".tmp-x"
        leftover.write_bytes(b"")
        busy = pytest.raises(LockedError, match="another hashclient is changing notices")
        with busy, changing(layout):
            pass
        assert leftover.exists()
    with changing(layout):
        assert not leftover.exists()


def test_whether_notices_are_missing_is_known_or_an_error(layout: Layout) -> None:
    assert not are_missing(layout, "main")
    metadata = layout.metadata("main")
    metadata.mkdir(parents=True)
    (metadata / "notices.json").write_bytes(b"")
    assert not are_missing(layout, "main")  # the provider has given up its role of notices
    (metadata / "targets.json").write_bytes(b'{"signed":{"hashclient-notices":{}}}')
    assert are_missing(layout, "main")
    write(layout, book())
    assert not are_missing(layout, "main")
    (metadata / "notices.json").unlink()
    (metadata / "notices.json").symlink_to("notices.json")
    with pytest.raises(StateError, match="cannot look for"):
        are_missing(layout, "main")


def test_other_files_are_no_notices(layout: Layout) -> None:
    write(layout, book())
    for name in ("..json", "A.json", "x.txt", "lock"):
        (layout.notices / name).write_bytes(b"")
    assert providers_with_notices(layout) == ["main"]


def test_a_pipe_holds_nobody_up(layout: Layout) -> None:
    path = write(layout, book())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StateError, match="cannot read"):
        load_book(layout, "main")


def test_times_are_aware(layout: Layout) -> None:
    write(layout, book())
    found = load_book(layout, "main")
    assert found is not None
    assert found.expires.utcoffset() == timedelta(0)
