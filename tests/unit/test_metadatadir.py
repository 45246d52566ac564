"""The metadata directory: which files are read, and which files are removed before."""

from __future__ import annotations

import os
from collections.abc import Iterable
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
        (".tmp-abc", EMPTY, False),
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


def test_metadata_beyond_the_limit_is_not_read(made: MetadataDir) -> None:
    path = made.path / "notices.json"
    path.write_bytes(bytes(8 << 20))
    assert len(made.read_bytes("notices")) == 8 << 20
    with path.open("ab") as file:
        file.write(b"1")
    with pytest.raises(OSError, match="longer than 8,388,608 bytes"):
        made.read_bytes("notices")


def test_each_file_is_synced_once_for_each_content(
    made: MetadataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[set[str]] = []
    folders = []

    def note(paths: Iterable[Path], *names: Path) -> None:
        synced.append({path.name for path in paths})
        folders.append(names)

    monkeypatch.setattr(module, "make_durable", note)
    (made.path / "root.json").write_bytes(EMPTY)
    (made.path / "root_history" / "1.root.json").write_bytes(EMPTY)
    made.make_durable()
    made.make_durable()
    os.utime(made.path / "root.json", ns=(1, 2))
    made.make_durable()
    (made.path / "more.json").write_bytes(EMPTY)
    made.make_durable()
    # Another file, which has the same time, has replaced the file.
    (made.path / "new").write_bytes(EMPTY)
    os.utime(made.path / "new", ns=(1, 2))
    (made.path / "new").rename(made.path / "root.json")
    made.make_durable()
    first = [{"root.json", "1.root.json"}, set(), {"root.json"}, {"more.json"}]
    assert synced == [*first, {"root.json"}]
    assert set(folders) == {(made.path, made.path / "root_history")}
    monkeypatch.undo()
    (made.path / "root_history" / "1.root.json").unlink()
    (made.path / "root_history").rmdir()
    with pytest.raises(StateError, match="cannot sync"):
        made.make_durable()
