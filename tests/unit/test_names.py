"""Lists of file names from another program: separators, limits of length, and block ends."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.scan.sources import names as module
from hashclient.scan.sources.names import (
    CR_AT_END,
    CUT_SHORT,
    DIRECTORY,
    NUL_IN_LINE,
    TOO_LONG,
    Names,
)
from hashclient.scan.values.work import TASK_NAMES, Group, join


def read(
    data: bytes, *, null: bool = False, exclude: tuple[str, ...] = (), is_pipe: bool = False
) -> tuple[list[str], dict[str, str | None], list[Group]]:
    """Return the names of files, the reasons of all other inputs, and the groups."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        fd = file.fileno()
        if is_pipe:
            fd, end = os.pipe()
            os.write(end, data)
            os.close(end)
        source = Names(fd, "-", null=null, exclude=exclude)
        assert source.arguments == ["--files-from -"]
        items = list(source.batches())
        if is_pipe:
            os.close(fd)
    told = {item.path: item.reason for item in items if isinstance(item, Outcome)}
    groups = [group for item in items if not isinstance(item, Outcome) for group in item]
    assert all(group.follow and group.is_named for group in groups)
    return [join(group.directory, n) for group in groups for n in group.names], told, groups


@pytest.mark.parametrize("is_pipe", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1 << 18])
@pytest.mark.parametrize("null", [False, True])
def test_names_are_the_same_wherever_the_blocks_end(
    monkeypatch: pytest.MonkeyPatch, chunk: int, null: bool, is_pipe: bool
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    end = b"\0" if null else b"\n"
    for data, expected in (
        (b"", []),
        (end, []),
        (b"a", ["a"]),
        (b"a" + end, ["a"]),
        (end + b"a" + end + end + b"bc" + end, ["a", "bc"]),
        (end.join([b"d/a", b"d/b", b"e/a", b"/x", b"y"]), ["d/a", "d/b", "e/a", "/x", "y"]),
        (b"a b\t\xff" + end + b" c", ["a b\t\udcff", " c"]),
    ):
        found, told, _ = read(data, null=null, is_pipe=is_pipe)
        assert (found, told) == (expected, {}), data


@pytest.mark.parametrize(
    ("null", "data", "found", "told"),
    [
        (False, b"a\r\nb\n", ["b"], {"a\r": CR_AT_END}),
        (True, b"a\r\0b\0", ["a\r", "b"], {}),
        (False, b"a\rb\n", ["a\rb"], {}),
        (False, b"a\0b\nc\n", ["c"], {"a␀b": NUL_IN_LINE}),
        (True, b"a\nb\0", ["a\nb"], {}),
        (False, b"a/\nb\n", ["b"], {"a/": DIRECTORY}),
        (True, b"/\0", [], {"/": DIRECTORY}),
        (
            False,
            b"x.tmp\nd/y.tmp\nz.txt\n",
            ["z.txt"],
            {"x.tmp": "excluded", "d/y.tmp": "excluded"},
        ),
    ],
)
def test_a_name_that_no_file_can_be_meant_by_is_unread(
    null: bool, data: bytes, found: list[str], told: dict[str, str]
) -> None:
    names, others, _ = read(data, null=null, exclude=("*.tmp",))
    assert (names, others) == (found, told)


@pytest.mark.parametrize("chunk", [7, 11, 1 << 18])
@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("length", [19, 20, 21, 22, 50])
def test_a_name_may_have_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch, length: int, end: bytes, chunk: int
) -> None:
    """A name that is too long is unread and shown cut; the next names are read."""
    assert (module.MAX_NAME_BYTES, module._SHOWN_BYTES) == (1 << 16, 256)
    monkeypatch.setattr(module, "MAX_NAME_BYTES", 20)
    monkeypatch.setattr(module, "_SHOWN_BYTES", 5)
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    name = "x" * length
    found, told, _ = read(b"a\n" + name.encode() + (end and end + b"b" + end))
    after = ["b"] if end else []
    assert found == (["a", name, *after] if length <= 20 else ["a", *after])
    assert told == ({} if length <= 20 else {"xxxxx…": TOO_LONG})


@pytest.mark.parametrize("count", [1, TASK_NAMES, TASK_NAMES + 1, 2 * TASK_NAMES + 1])
def test_names_of_one_directory_come_together_up_to_a_task(count: int) -> None:
    names = [f"d/{n}" for n in range(count)]
    found, _, groups = read("".join(f"{name}\n" for name in names).encode())
    assert found == names
    assert [len(group.names) for group in groups] == [
        min(TASK_NAMES, count - at) for at in range(0, count, TASK_NAMES)
    ]


def test_a_directory_is_identified_before_its_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is identified if others may write to its directory; missing files are not."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "own").mkdir()
    for name in ("shared/a", "own/a"):
        (tmp_path / name).touch()
    (tmp_path / "shared").chmod(0o777)
    monkeypatch.chdir(tmp_path)
    _, _, groups = read(b"own/a\nshared/a\nshared/gone\nnone/a\nhere")
    assert [group.directory for group in groups] == ["own", "shared", "none", ""]
    inode = (tmp_path / "shared/a").stat().st_ino
    assert [[*group.inodes] for group in groups] == [[], [inode, 0], [], []]
    identities = [group.identity and group.identity[1] for group in groups]
    directories = [(tmp_path / name).stat().st_ino for name in ("own", "shared", ".")]
    assert identities == [*directories[:2], None, directories[2]]


@pytest.mark.parametrize(("missing", "start"), [(0, 0), (1, 0), (0, 2), (3, 2)])
def test_a_list_that_is_shorter_than_it_was_is_unread(
    monkeypatch: pytest.MonkeyPatch, missing: int, start: int
) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"a\nb\n" + b"x" * missing)
        file.flush()
        os.lseek(file.fileno(), start, os.SEEK_SET)
        reads = iter([b"a\nb\n"[start:], b""])
        assert module._bytes_ahead(file.fileno()) == 4 + missing - start
        monkeypatch.setattr(module, "read_some", lambda *_: next(reads))
        items = list(Names(file.fileno(), "list").batches())
        os.lseek(file.fileno(), 99, os.SEEK_SET)
        assert module._bytes_ahead(file.fileno()) == 0
    told = [(one.path, one.kind, one.reason) for one in items if isinstance(one, Outcome)]
    reason = f"list of names: {CUT_SHORT}"
    assert told == ([("list", Kind.UNREAD, reason)] if missing else [])
    assert len(items) - len(told) == 1


def test_a_list_that_cannot_be_read_on_is_unread_after_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = iter([b"a\nb"])

    def fail(*_: object) -> bytes:
        for block in blocks:
            return block
        raise OSError(errno.EIO, "Broken")

    monkeypatch.setattr(module, "read_some", fail)
    found, told, _ = read(b"")
    assert (found, told) == (["a"], {"-": "list of names: broken"})
