"""The file of file systems that scans have seen: what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hashclient.core.errors import StateError
from hashclient.scan.sources import remembered as module
from hashclient.scan.sources.remembered import (
    DamagedMountsError,
    Record,
    add,
    below,
    by_path,
    forget_all,
    load,
)
from hashclient.system.layout import MOUNTS_NAME

HASH = "0123456789abcdef" * 2
DAY = 20_000


def record(path: str, *, point: str | None = None, day: int = DAY) -> Record:
    text, raw = path.encode(errors="replace").decode(), path
    at = len(path if point is None else point)
    b64 = None if text == raw else "/w=="
    return Record(text, at, "ext4", (HASH,), HASH, day, b64)


def keep(state: Path, *records: Record) -> None:
    add(state, {one.real_path: one for one in records})


def test_the_limits_of_the_file() -> None:
    assert (module.MAX_RECORDS, module.MAX_PATH_BYTES, module.LOCK_WAIT_S) == (4_096, 4_096, 10.0)
    assert module.FORMAT == "hashclient-mounts/1"


def test_records_are_kept_by_path_and_replaced(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert load(state) == []
    keep(state, record("/b"), record("/a/c"))
    keep(state, record("/a"), record("/b", day=DAY + 1))
    assert load(state) == [record("/a"), record("/a/c"), record("/b", day=DAY + 1)]
    forget_all(state, ["/a", "/none"])
    assert [one.path for one in load(state)] == ["/a/c", "/b"]
    written = json.loads((state / MOUNTS_NAME).read_text())
    assert written["format"] == "hashclient-mounts/1"
    assert [sorted(one) for one in written["mounts"]] == [
        ["inner", "kind", "names", "path", "point_bytes", "seen_day"]
    ] * 2
    assert (state / MOUNTS_NAME).stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_mount_point_is_the_directory_itself() -> None:
    assert record("/a").is_point and record("/a").point == "/a"
    inner = record("/a/ü/x", point="/a")
    assert (inner.is_point, inner.point, inner.real_path) == (False, "/a", "/a/ü/x")
    # The length of the path is measured in bytes.
    wide = Record("/ü", 3, "ext4", (), HASH, DAY)
    assert wide.is_point and wide.point == "/ü"
    assert not Record("/ü", 2, "ext4", (), HASH, DAY).is_point


def test_of_too_many_records_mount_points_stay_and_then_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    given = [
        record("/p/old", day=1),
        record("/x/new", point="/x", day=9),
        record("/p/new", day=8),
        record("/x/old", point="/x", day=2),
        record("/x/mid", point="/x", day=5),
    ]
    keep(tmp_path, *given[:3])
    assert len(load(tmp_path)) == 3
    keep(tmp_path, *given[3:])
    assert [one.path for one in load(tmp_path)] == ["/p/new", "/p/old", "/x/new"]
    keep(tmp_path, record("/q", day=3))
    assert [one.path for one in load(tmp_path)] == ["/p/new", "/p/old", "/q"]


def written(state: Path, **changes: Any) -> None:
    """Write a file with one record in which the given fields are changed."""
    about = {"path": "/a", "point_bytes": 2, "kind": "ext4", "names": [HASH], "inner": HASH}
    about = {**about, "seen_day": DAY, **changes}
    about = {name: value for name, value in about.items() if value is not None}
    document = {"format": "hashclient-mounts/1", "mounts": [about]}
    (state / MOUNTS_NAME).write_text(json.dumps(document))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"point_bytes": 1},
        {"point_bytes": 4_096},
        {"seen_day": 0},
        {"seen_day": 2_900_000},
        {"names": []},
        {"names": [HASH, HASH]},
        {"path_b64": "L/8="},
    ],
)
def test_fields_within_their_bounds_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    written(tmp_path, **changes)
    (one,) = load(tmp_path)
    assert one.real_path == ("/\udcff" if "path_b64" in changes else "/a")


@pytest.mark.parametrize(
    "changes",
    [
        {"point_bytes": 0},
        {"point_bytes": 4_097},
        {"point_bytes": "2"},
        {"seen_day": -1},
        {"seen_day": 2_900_001},
        {"names": ["0" * 31]},
        {"names": ["0" * 33]},
        {"names": ["A" * 32]},
        {"names": [HASH + "\n"]},
        {"inner": "g" * 32},
        {"path": "a"},
        {"path_b64": "eA=="},
        {"path_b64": "no base64!"},
        {"more": 1},
        {"kind": None},
    ],
)
def test_other_content_is_damage_and_is_replaced(tmp_path: Path, changes: dict[str, Any]) -> None:
    written(tmp_path, **changes)
    for read in (by_path, load):
        with pytest.raises(DamagedMountsError, match="is damaged") as failed:
            read(tmp_path)
        assert "scan again" in str(failed.value.hint)
    with pytest.raises(DamagedMountsError):
        forget_all(tmp_path, ["/a"])
    keep(tmp_path, record("/b"))
    assert [one.path for one in load(tmp_path)] == ["/b"]


@pytest.mark.parametrize("more", ['"mounts": []', '"mounts": {}, "more": 1'])
def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path, more: str) -> None:
    path = tmp_path / MOUNTS_NAME
    content = f'{{"format": "hashclient-mounts/2", {more}}}'
    path.write_text(content)
    for use in (lambda: load(tmp_path), lambda: keep(tmp_path, record("/b"))):
        with pytest.raises(StateError, match="a newer hashclient has written this file") as failed:
            use()
        assert not isinstance(failed.value, DamagedMountsError)
    assert path.read_text() == content


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / MOUNTS_NAME).mkdir()
    with pytest.raises(StateError, match="cannot read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("roots", "found"),
    [
        ([], []),
        (["/a"], ["/a", "/a/b"]),
        (["/a/"], ["/a", "/a/b"]),
        (["/a/b"], ["/a/b"]),
        (["/"], ["/a", "/a/b", "/ab", "/b"]),
        (["/b", "/ab"], ["/ab", "/b"]),
        (["/c"], []),
    ],
)
def test_paths_below_roots_are_found(roots: list[str], found: list[str]) -> None:
    assert below(["/b", "/a/b", "/ab", "/a"], roots) == found
