"""`hashclient scan --files-from`: the files that another program has listed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from hashclient.scan.check.reading import DIRECTORY
from tests.kit import Run, call, csv_of, from_pipe, make_state, run, write_tree

LISTED = b"listed one"
SCAN = ("scan", "--format", "jsonl", "--show-all")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_state(tmp_path_factory.mktemp("site"), {"base": csv_of({"e-1": LISTED})})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", {"a": b"benign", "b/bad": LISTED, "b/c": b"other"})


def scan(state: Path, *args: object, stdin: bytes = b"", cwd: Path | None = None) -> Run:
    """Run a scan in this process."""
    with contextlib.chdir(cwd or state), from_pipe(stdin):
        return call("--state-dir", state, *SCAN, *args)


@pytest.mark.slow
def test_names_from_a_file_and_from_stdin(state: Path, tree: Path, tmp_path: Path) -> None:
    expected = {"a": "clean", "b/bad": "match", f"{tree}/b/c": "clean"}
    lines = f"a\nb/bad\n{tree}/b/c\n".encode()
    listed = tmp_path / "list"
    listed.write_bytes(lines)
    for result in (
        scan(state, "--files-from", listed, cwd=tree),
        scan(state, "--files-from", "-", cwd=tree, stdin=lines),
        scan(state, "--files-from", "-", "-0", cwd=tree, stdin=lines.replace(b"\n", b"\0")),
        scan(state, "--files-from", "-", "--null", cwd=tree, stdin=lines.replace(b"\n", b"\0")),
    ):
        assert (result.code, result.outcomes) == (10, expected)


def test_a_dash_with_a_directory_is_a_file(state: Path, tree: Path) -> None:
    (tree / "-").write_text("b/bad\n")
    assert scan(state, "--files-from", "./-", cwd=tree).outcomes == {"b/bad": "match"}


def test_paths_and_names_together(state: Path, tree: Path) -> None:
    result = scan(state, "b", "--files-from", "-", cwd=tree, stdin=b"a\n")
    assert result.outcomes == {"b/bad": "match", "b/c": "clean", "a": "clean"}


def test_a_name_from_stdin_gets_the_outcome_of_an_argument(state: Path, tree: Path) -> None:
    (tree / "link").symlink_to("b/bad")
    (tree / "nowhere").symlink_to("gone")
    os.mkfifo(tree / "pipe")
    names = b"link\nnowhere\npipe\ngone\na/x\n" + b"y" * 300 + b"\n"
    result = scan(state, "--files-from", "-", cwd=tree, stdin=names)
    found = {line["path"]: (line["type"], line.get("reason")) for line in result.lines[:-1]}
    assert found == {
        "link": ("match", None),
        "nowhere": ("unread", "no such file or directory"),
        "pipe": ("skipped", "named pipe"),
        "gone": ("unread", "no such file or directory"),
        "a/x": ("unread", "not a directory"),
        "y" * 300: ("unread", "file name too long"),
    }
    assert result.code == 11


def test_a_directory_that_is_named_is_unread(state: Path, tree: Path) -> None:
    result = scan(state, "--files-from", "-", cwd=tree, stdin=b"b\n.\na\n")
    found = {line["path"]: (line["type"], line.get("reason")) for line in result.lines[:-1]}
    assert found == {"b": ("unread", DIRECTORY), ".": ("unread", DIRECTORY), "a": ("clean", None)}
    assert result.code == 3


def test_lines_of_another_system_are_no_other_files(state: Path, tree: Path) -> None:
    result = scan(state, "--files-from", "-", cwd=tree, stdin=b"a\r\nb/bad\r\n")
    assert result.outcomes == {"a\r": "unread", "b/bad\r": "unread"}
    assert result.code == 3


def test_an_excluded_file_is_skipped(state: Path, tree: Path) -> None:
    result = scan(
        state, "--files-from", "-", "--exclude", "b/*", cwd=tree, stdin=b"a\nb/bad\nb/c\n"
    )
    assert result.outcomes == {"a": "clean", "b/bad": "skipped", "b/c": "skipped"}


def test_no_names_are_no_inputs(state: Path) -> None:
    result = scan(state, "--files-from", "-", stdin=b"\n\n")
    assert (result.code, result.summary["inputs"]) == (3, 0)


@pytest.mark.slow
def test_impossible_uses_of_files_from_are_refused(state: Path, tree: Path) -> None:
    for args in (("--files-from", tree / "gone"), ("--null", tree), ()):
        result = call("--state-dir", state, "scan", *args)
        assert result.code == 2
        assert "hint: " in result.err
    listed = tree / "list"
    listed.write_text("a\n")
    result = scan(state, "--files-from", listed, "--output", listed, cwd=tree)
    assert result.code == 2
    assert listed.read_text() == "a\n"


@pytest.mark.slow
def test_many_names_go_to_several_workers(state: Path, tmp_path: Path) -> None:
    files = {f"{n % 9}/{n}": b"x%d" % n for n in range(2000)} | {"z": LISTED}
    tree = write_tree(tmp_path / "many", files)
    stdin = "".join(f"{name}\0" for name in files).encode()
    options = ("--jobs", "2", "--files-from", "-", "-0")
    result = run("--state-dir", state, *SCAN, *options, cwd=tree, stdin=stdin)
    assert result.outcomes == {name: "match" if name == "z" else "clean" for name in files}
    assert result.code == 10


def test_a_name_that_is_not_there_any_more_is_skipped_if_that_is_asked_for(
    state: Path, tree: Path
) -> None:
    names = b"a\ngone\nb/gone/x\n"
    without = scan(state, "--files-from", "-", cwd=tree, stdin=names)
    assert (without.code, without.outcomes["gone"]) == (3, "unread")
    result = scan(state, "--files-from", "-", "--ignore-missing", cwd=tree, stdin=names)
    assert result.outcomes == {"a": "clean", "gone": "skipped", "b/gone/x": "skipped"}
    assert result.code == 0
    assert result.summary["skipped_by_reason"] == {"not there any more": 2}
    alone = scan(state, "--ignore-missing", tree)
    assert (alone.code, "--files-from" in alone.err) == (2, True)


def test_what_is_there_and_cannot_be_read_stays_unread(state: Path, tree: Path) -> None:
    (tree / "directory").mkdir()
    result = scan(
        *(state, "--files-from", "-", "--ignore-missing"), cwd=tree, stdin=b"a\ndirectory\na/x\n"
    )
    assert result.code == 3
    assert result.outcomes == {"a": "clean", "directory": "unread", "a/x": "unread"}


def test_no_names_are_no_failure_if_that_is_allowed(state: Path, tree: Path) -> None:
    for options, code in (((), 3), (("--allow-empty",), 0)):
        assert scan(state, "--files-from", "-", *options, stdin=b"").code == code
        gone = ("--files-from", "-", "--ignore-missing", *options)
        assert scan(state, *gone, cwd=tree, stdin=b"gone\n").code == code
    with from_pipe(b""):
        text = call("--state-dir", state, "scan", "--files-from", "-", "--allow-empty")
    assert (
        "exit 0: there was nothing to check, which was allowed, and the list is fresh" in text.out
    )
    unread = scan(state, "--files-from", "-", "--allow-empty", cwd=tree, stdin=b"gone\n")
    assert unread.code == 3
