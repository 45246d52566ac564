"""The metadata directory: which files are read, and which files are removed before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hashclient.core.errors import StateError
from hashclient.trust import metadatadir as module
from hashclient.trust.metadatadir import MAX_METADATA_BYTES, MetadataDir

EMPTY = b"{}"


@pytest.fixture
def made(tmp_path: Path) -> MetadataDir:
    (tmp_path / "m" / "root_history").mkdir(parents=True)
    return MetadataDir(tmp_path / "m")


def test_what_is_written_is_read(made: MetadataDir) -> None:
    made.write("notices", EMPTY)
    (made.path / "root.json").write_bytes(b'{"a": 1}')
    assert (made.read_bytes("notices"), made.read_root()) == (EMPTY, b'{"a": 1}')
    for read in (made.read_bytes, made.read):
        with pytest.raises(FileNotFoundError):
            read("more")


@pytest.mark.parametrize(
    ("name", "content", "stays"),
    [
        ("targets.json", EMPTY, True),
        ("root_history/1.root.json", EMPTY, True),
        ("targets.json", b"{", False),
        ("targets.json", b'{"a": 1, "a": 2}', False),
        ("root_history/1.root.json", b"", False),
        ("targets.json", b"{}" + b" " * (MAX_METADATA_BYTES - 2), True),
        ("targets.json", b"{}" + b" " * (MAX_METADATA_BYTES - 1), False),
        ("tmpabc", EMPTY, False),
        ("tmp-list.json", EMPTY, True),
        ("other", EMPTY, True),
    ],
)
def test_files_that_would_be_refused_are_removed_first(
    made: MetadataDir, name: str, content: bytes, stays: bool
) -> None:
    assert MAX_METADATA_BYTES == 8 << 20
    path = made.path / name
    path.write_bytes(content)
    MetadataDir(made.path)
    assert path.exists() is stays


def test_each_file_is_synced_once_for_each_content(
    made: MetadataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[set[str]] = []
    monkeypatch.setattr(
        module, "make_durable", lambda paths, *_: synced.append({path.name for path in paths})
    )
    (made.path / "root.json").write_bytes(EMPTY)
    (made.path / "root_history" / "1.root.json").write_bytes(EMPTY)
    made.make_durable()
    made.make_durable()
    os.utime(made.path / "root.json", ns=(1, 2))
    made.make_durable()
    (made.path / "more.json").write_bytes(EMPTY)
    made.make_durable()
    assert synced == [{"root.json", "1.root.json"}, set(), {"root.json"}, {"more.json"}]
    monkeypatch.undo()
    (made.path / "root_history" / "1.root.json").unlink()
    (made.path / "root_history").rmdir()
    with pytest.raises(StateError, match="cannot sync"):
        made.make_durable()
