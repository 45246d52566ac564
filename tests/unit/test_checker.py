"""Checking files in one process: digests, verdicts, and files that change during a check."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import time
import zipfile
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from hashclient.config.settings import Config, Settings
from hashclient.config.tables import ContainersConfig
from hashclient.containers.limits import Limits, Options
from hashclient.core import digests as core_digests
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Hit, Outcome, Seen
from hashclient.index import matcher as judging
from hashclient.index.matcher import Columns, Judge
from hashclient.index.open_lists import OpenLists, open_lists
from hashclient.lists.wire import Uint64
from hashclient.scan.cache.inside import MEMBER, Inside
from hashclient.scan.cache.memory import InventoryPlace, Memory
from hashclient.scan.cache.records import PLAIN, RECORD, SLOT, Records
from hashclient.scan.check import checker as module
from hashclient.scan.check import judging as judging_module
from hashclient.scan.check import members as members_module
from hashclient.scan.check import reading
from hashclient.scan.check.checker import DEFER_BYTES, DIRECTORIES, TASK_BYTES, Checker
from hashclient.scan.check.members import Members, container_options
from hashclient.scan.check.reading import ATTEMPTS, DIRECTORY
from hashclient.scan.cluster.known import Received
from hashclient.scan.cluster.messages import Known
from hashclient.scan.sources import finding_again
from hashclient.scan.values.work import CHANGED, ENDLESS, SPARSE, Group, Identity, Result, Task
from hashclient.system.identity import Identities
from tests.kit import csv_of, descriptors_left, digests_of, make_state, remember_at_once, write_tree

ALL = tuple(Algorithm)


def lists_of(directory: Path, **lists: bytes) -> OpenLists:
    state = make_state(directory, lists)
    settings = Settings(state, state / "config.toml", None, Config())
    return open_lists(settings, {}, datetime.now(UTC))


def checker(lists: OpenLists, **kwargs: Any) -> Checker:
    return Checker(lists.judge(), **kwargs)


def check(lists: OpenLists, tree: Path, *names: str, follow: bool = False, **kwargs: Any) -> Result:
    return checker(lists, **kwargs).check([Group(str(tree), list(names), follow)])


def kinds(result: Result) -> dict[str, tuple[Kind, str | None]]:
    return {Path(o.path).name: (o.kind, o.reason) for o in result.outcomes}


@pytest.fixture
def read_algorithms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Algorithm, ...]]:
    """A list to which each computation of digests appends its algorithms."""
    calls: list[tuple[Algorithm, ...]] = []
    original = core_digests.digests_of

    def recorded(algorithms: tuple[Algorithm, ...], data: memoryview) -> list[bytes]:
        calls.append(algorithms)
        return original(algorithms, data)

    monkeypatch.setattr(core_digests, "digests_of", recorded)
    monkeypatch.setattr(reading, "digests_of", recorded)
    return calls


def during_reading(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Call `act` after each read of bytes, with the number of reads so far."""
    original, count = os.readv, 0

    def watched(fd: int, buffers: list[memoryview]) -> int:
        nonlocal count
        result = original(fd, buffers)
        count += 1
        act(count)
        return result

    monkeypatch.setattr(os, "readv", watched)


def seen_in(tree: Path, name: str) -> Seen:
    """Return the device, inode and directory of the file with this name."""
    directory, file = tree.stat(), (tree / name).stat()
    return Seen(directory.st_dev, directory.st_ino, file.st_dev, file.st_ino)


def test_files_are_judged_and_counted(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"listed", "b": b"other", "c": b"", "d": b"LISTED"})
    result = check(lists, tree, "a", "b", "c", "d")
    (match,) = result.outcomes
    digests = {a: bytes.fromhex(d) for a, d in zip(ALL, digests_of(b"listed"), strict=True)}
    assert match == Outcome(
        Kind.MATCH,
        f"{tree}/a",
        6,
        hits=(Hit("base", "e-1", "synthetic", 1, ALL, complete=True),),
        digests=digests,
        tags={a: lists.sealer.tags_of(a, [d]).tobytes() for a, d in digests.items()},
        seen=seen_in(tree, "a"),
    )
    assert result.clean == 3
    # Two files have the size of the entry; the one that matches was read twice.
    assert (result.files_read, result.bytes_read) == (2, 18)


def test_all_files_of_a_task_that_hit_are_judged_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matching files are read again for further digests, and each directory is examined once."""
    contents = {f"{folder}/{n}": f"{folder}{n}".encode() for folder in "ab" for n in range(3)}
    entries = {f"e-{name[0]}{name[-1]}": content for name, content in contents.items()}
    lists = lists_of(tmp_path, base=csv_of(entries), more=csv_of({"e-1": contents["a/1"]}))
    tree = write_tree(tmp_path / "t", contents)
    looks: list[int] = []
    opened: list[str] = []
    open_listed = finding_again.open_listed

    class Noting(Judge):
        def hits_by_row(self, columns: Columns, sizes: Uint64) -> dict[int, tuple[Hit, ...]]:
            looks.append(len(sizes))
            return super().hits_by_row(columns, sizes)

    def opens(path: str, identity: Identity | None) -> tuple[int, os.stat_result]:
        opened.append(path)
        return open_listed(path, identity)

    monkeypatch.setattr(judging_module, "open_listed", opens)
    groups = [Group(str(tree / folder), ["0", "1", "2"], follow=False) for folder in "ab"]
    result = Checker(Noting(lists.indexes, lists.sealer)).check(groups)
    assert looks == [6]
    assert opened == [group.directory for group in groups]
    assert [o.path for o in result.outcomes] == [f"{tree}/{name}" for name in contents]
    found = [[(hit.list_name, hit.entry) for hit in o.hits] for o in result.outcomes]
    assert found[1] == [("base", "e-a1"), ("more", "e-1")]
    assert [of_file for n, of_file in enumerate(found) if n != 1] == [
        [("base", entry)] for entry in entries if entry != "e-a1"
    ]
    assert all(hit.complete and hit.algorithms == ALL for o in result.outcomes for hit in o.hits)
    assert (result.clean, result.files_read) == (0, 6)


def test_after_a_task_that_matched_no_file_is_read_twice(
    tmp_path: Path, read_algorithms: list[tuple[Algorithm, ...]]
) -> None:
    """After a match, all digests of the next files are computed at once: they may match, too."""
    contents = {name: b"content of " + name.encode() for name in ("a", "b", "c", "d")}
    listed = {f"e-{name}": data for name, data in contents.items() if name != "d"}
    lists = lists_of(tmp_path, base=csv_of(listed))
    tree = write_tree(tmp_path / "t", contents)
    one = checker(lists)
    tasks = (["a"], ["b", "c", "d"], ["d"], ["a"])
    results = [one.check([Group(str(tree), names, follow=False)]) for names in tasks]
    readings = [len(read_algorithms)]
    assert [r.bytes_read for r in results] == [24, 36, 12, 24]
    assert [(r.files_read, r.clean) for r in results] == [(1, 0), (3, 1), (1, 1), (1, 0)]
    assert readings == [2 + 3 + 1 + 2]
    first, again = results[0].outcomes + results[3].outcomes
    assert first == again
    for outcome, name in zip(results[1].outcomes, "bc", strict=True):
        assert outcome == check(lists, tree, name).outcomes[0]


def test_the_outcome_of_a_file_does_not_depend_on_files_before_it(tmp_path: Path) -> None:
    """Computing more digests than the plan of a size needs does not change an outcome."""
    md5, sha1, sha256 = digests_of(b"listed")
    other = digests_of(b"something else")[0]
    # The entries e-2 and e-3 have the SHA-1 and SHA-256 of `listed`, but another MD5. They would
    # conflict if these digests were looked up.
    rows = f"entry_id,md5,sha1,sha256,category\ne-1,{md5},,,synthetic\n"
    rows += f"e-2,{other},{sha1},,synthetic\ne-3,{other},,{sha256},synthetic\n"
    lists = lists_of(tmp_path, base=rows.encode())
    tree = write_tree(tmp_path / "t", {"a": b"listed", "b": b"clean!"})
    one = checker(lists, keep_clean=True)
    groups = [[Group(str(tree), [name], follow=False)] for name in ("a", "a", "b", "b")]
    first, second, third, fourth = (one.check(group).outcomes[0] for group in groups)
    assert first == second and [hit.entry for hit in first.hits] == ["e-1"]
    assert set(first.digests) == set(first.tags) == {Algorithm.MD5}
    assert third == fourth and set(third.digests) == {Algorithm.MD5}


def test_clean_files_are_named_when_asked_for(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"b": b"other", "d": b"LISTED"})
    result = check(lists, tree, "b", "d", keep_clean=True)
    assert result.clean == 2
    assert [(o.kind, o.path, o.size) for o in result.outcomes] == [
        (Kind.CLEAN, f"{tree}/b", 5),
        (Kind.CLEAN, f"{tree}/d", 6),
    ]
    # The first file has no digest because no entry has its size.
    assert [bool(o.digests) for o in result.outcomes] == [False, True]


def test_a_size_that_is_on_no_list_is_not_read(
    tmp_path: Path, read_algorithms: list[tuple[Algorithm, ...]]
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"longer than that", "b": b"abcdef"})
    assert check(lists, tree, "a", "b").clean == 2
    assert read_algorithms == [(Algorithm.SHA1,)]


@pytest.mark.parametrize(
    ("listed", "computed"),
    [
        (ALL, [(Algorithm.SHA1,), (Algorithm.MD5, Algorithm.SHA256)]),
        ((Algorithm.MD5,), [(Algorithm.MD5,)]),
        ((Algorithm.MD5, Algorithm.SHA256), [(Algorithm.SHA256,), (Algorithm.MD5,)]),
    ],
)
def test_the_cheapest_algorithm_first_and_the_others_on_a_hit(
    tmp_path: Path,
    read_algorithms: list[tuple[Algorithm, ...]],
    listed: tuple[Algorithm, ...],
    computed: list[tuple[Algorithm, ...]],
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, algorithms=listed, sized=False))
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    (outcome,) = check(lists, tree, "a").outcomes
    assert outcome.kind is Kind.MATCH
    assert outcome.hits[0].algorithms == listed
    assert read_algorithms == computed


def test_entries_without_a_common_algorithm_need_several(
    tmp_path: Path, read_algorithms: list[tuple[Algorithm, ...]]
) -> None:
    one = csv_of({"e-1": b"one"}, algorithms=(Algorithm.MD5,))
    two = csv_of({"e-2": b"two"}, algorithms=(Algorithm.SHA256,), sized=False)
    lists = lists_of(tmp_path, one=one, two=two)
    tree = write_tree(tmp_path / "t", {"a": b"xyz", "b": b"four"})
    check(lists, tree, "a", "b")
    assert read_algorithms == [(Algorithm.MD5, Algorithm.SHA256), (Algorithm.SHA256,)]


def test_digests_that_disagree_are_a_conflict(tmp_path: Path) -> None:
    md5, sha1, _ = digests_of(b"listed")
    lists = lists_of(tmp_path, base=f"entry_id,md5,sha1\ne-1,{'0' * 31}1,{sha1}\n".encode())
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    (outcome,) = check(lists, tree, "a").outcomes
    assert outcome.kind is Kind.CONFLICT
    assert outcome.hits == (Hit("base", "e-1", "base", 1, (Algorithm.SHA1,), complete=False),)
    assert outcome.digests[Algorithm.MD5].hex() == md5


def test_a_match_is_worth_more_than_a_conflict(tmp_path: Path) -> None:
    md5, sha1, _ = digests_of(b"listed")
    rows = f"entry_id,md5,sha1\nbad,{'0' * 31}1,{sha1}\ngood,{md5},{sha1}\n"
    lists = lists_of(tmp_path, base=rows.encode())
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    (outcome,) = check(lists, tree, "a").outcomes
    assert outcome.kind is Kind.MATCH
    assert [(hit.entry, hit.complete) for hit in outcome.hits] == [("good", True), ("bad", False)]


def test_several_lists_are_one_question(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, a=csv_of({"x": b"listed"}), b=csv_of({"y": b"listed", "z": b"z"}))
    tree = write_tree(tmp_path / "t", {"f": b"listed", "g": b"z"})
    result = check(lists, tree, "f", "g")
    assert [[(h.list_name, h.entry) for h in o.hits] for o in result.outcomes] == [
        [("a", "x"), ("b", "y")],
        [("b", "z")],
    ]


def test_a_file_that_cannot_be_opened_is_unread_and_the_others_are_not(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    os.mkfifo(tree / "pipe")
    (tree / "dir").mkdir()
    (tree / "link").symlink_to("a")
    result = check(lists, tree, "gone", "pipe", "dir", "link", "a")
    assert kinds(result) == {
        "gone": (Kind.UNREAD, "no such file or directory"),
        "pipe": (Kind.SKIPPED, "named pipe"),
        "dir": (Kind.UNREAD, DIRECTORY),
        "link": (Kind.UNREAD, "too many levels of symbolic links"),
        "a": (Kind.MATCH, None),
    }
    assert kinds(check(lists, tree, "link", follow=True)) == {"link": (Kind.MATCH, None)}


def test_special_files_are_recognised_before_they_are_opened_when_sizes_matter(
    tmp_path: Path,
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t" / "pipe")
    (tmp_path / "t" / "dir").mkdir()
    (tmp_path / "t" / "link").symlink_to("nowhere")
    assert kinds(check(lists, tmp_path / "t", "dir", "pipe", "link", "gone")) == {
        "dir": (Kind.UNREAD, DIRECTORY),
        "pipe": (Kind.SKIPPED, "named pipe"),
        "link": (Kind.SKIPPED, "symbolic link"),
        "gone": (Kind.UNREAD, "no such file or directory"),
    }


def test_a_directory_that_has_gone_leaves_its_files_unread(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    result = check(lists, tmp_path / "nope", "a", "b")
    assert set(kinds(result)) == {"a", "b"}
    assert {reason for _, reason in kinds(result).values()} == {"no such file or directory"}


def test_a_file_that_grows_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed!"}, sized=False))
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    during_reading(monkeypatch, lambda n: n == 1 and (tree / "a").write_bytes(b"listed!"))
    (outcome,) = check(lists, tree, "a").outcomes
    assert (outcome.kind, outcome.size) == (Kind.MATCH, 7)


def test_a_file_that_grows_within_one_tick_of_the_clock_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a file system stores whole seconds, only the size shows that the file has grown."""
    short, long = b"0123456789", b"0123456789abcdefghij"
    md5, _, _ = digests_of(short)
    *_, sha256 = digests_of(long)
    rows = f"entry_id,md5,sha256,size\ne-1,{md5},,{len(short)}\ne-2,,{sha256},{len(long)}\n"
    lists = lists_of(tmp_path, base=rows.encode())
    tree = write_tree(tmp_path / "tree", {"a": short})
    original = os.fstat
    statuses = 0

    def fstat(fd: int) -> Any:
        nonlocal statuses
        status = original(fd)
        statuses += 1
        if statuses == 1:
            (tree / "a").write_bytes(long)
        values = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        times = {name: values[name] // 10**9 * 10**9 for name in ("st_mtime_ns", "st_ctime_ns")}
        return SimpleNamespace(**values | times)

    monkeypatch.setattr(os, "fstat", fstat)
    assert kinds(check(lists, tree, "a")) == {"a": (Kind.MATCH, None)}


def test_a_file_that_never_rests_is_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"a": b"1"})
    reads: list[int] = []

    def grow(number: int) -> None:
        reads.append(number)
        (tree / "a").write_bytes(b"x" * (number + 1))

    during_reading(monkeypatch, grow)
    result = check(lists, tree, "a")
    assert kinds(result) == {"a": (Kind.UNREAD, CHANGED)}
    assert len(reads) == ATTEMPTS
    assert result.clean == result.files_read == 0


@pytest.mark.parametrize("how", ["replaced", "rewritten", "gone"])
def test_a_file_that_hits_and_then_changes_is_unread(tmp_path: Path, how: str) -> None:
    """The file changes between its first digest and the others, which are of other content."""
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"listed"})

    class Meanwhile(Judge):
        def wanted_by_row(self, columns: Columns, count: int) -> Any:
            if how == "rewritten":
                (tree / "a").write_bytes(b"benign")
            else:
                (tree / "a").unlink()
            if how == "replaced":
                (tree / "a").write_bytes(b"listed")
            return super().wanted_by_row(columns, count)

    result = Checker(Meanwhile(lists.indexes, lists.sealer)).check([Group(str(tree), ["a"], False)])
    expected = "no such file or directory" if how == "gone" else CHANGED
    assert kinds(result) == {"a": (Kind.UNREAD, expected)}


def test_a_file_that_changes_while_the_other_digests_are_computed_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    during_reading(monkeypatch, lambda n: n == 2 and (tree / "a").write_bytes(b"benign"))
    assert kinds(check(lists, tree, "a")) == {"a": (Kind.UNREAD, CHANGED)}


def test_a_file_that_says_it_is_empty_and_is_not_is_read(tmp_path: Path) -> None:
    """Files of proc claim the size 0 but have content, so no size rules them out."""
    name = Path("/proc/sys/kernel/ostype")
    if not name.exists() or name.stat().st_size:
        pytest.skip("no such file in proc")
    data = name.read_bytes()
    lists = lists_of(tmp_path, base=csv_of({"e-1": data, "e-2": b"other"}))
    (outcome,) = check(lists, name.parent, name.name).outcomes
    assert (outcome.kind, outcome.size) == (Kind.MATCH, len(data))


def test_large_files_are_handed_back_unless_they_are_alone(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"small": b"x"})
    with (tree / "large").open("wb") as stream:
        stream.truncate(DEFER_BYTES)
    result = check(lists, tree, "small", "large")
    assert result.deferred == [Group(str(tree), ["large"], follow=False)]
    assert (result.clean, result.files_read) == (1, 1)
    assert check(lists, tree, "large").clean == 1
    again = checker(lists).check([Group(str(tree), ["large"], follow=False)], defer=True)
    assert again.deferred == [Group(str(tree), ["large"], follow=False)]


def test_a_task_that_has_read_enough_hands_the_rest_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TASK_BYTES", 10)
    assert TASK_BYTES > DEFER_BYTES
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"a": b"listed", "b": b"123456", "c": b"x", "d/e": b"y"})
    groups = [
        Group(str(tree), ["a", "b", "c"], follow=False),
        Group(f"{tree}/d", ["e"], follow=True),
    ]
    one = checker(lists)
    # The second task starts with its counts at zero.
    for _ in range(2):
        result = one.check(groups)
        assert kinds(result) == {"a": (Kind.MATCH, None)}
        assert (result.clean, result.bytes_read) == (1, 18)
        assert result.deferred == [Group(str(tree), ["c"], follow=False), groups[1]]


@pytest.mark.parametrize("most", [6, 5])
def test_a_task_that_has_read_enough_does_not_look_at_further_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The next task checks the other directories, however much this task read beyond the limit."""
    monkeypatch.setattr(module, "TASK_BYTES", most)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"a": b"LISTED"})
    task = [Group(str(tree), ["a"], follow=False)]
    task += [Group(f"{tree}/gone", [], follow=False)] * (DIRECTORIES - 1)
    further = [Group(f"{tree}/gone", ["b"], follow=False)] * 2
    result = checker(lists).check([*task, *further])
    assert (result.outcomes, result.deferred) == ([], further)
    assert (result.clean, result.bytes_read) == (1, 6)


def test_the_bytes_and_the_number_of_members_count_for_a_task(tmp_path: Path) -> None:
    assert (TASK_BYTES, module.TASK_MEMBERS, DEFER_BYTES) == (64 << 20, 4_096, 4 << 20)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    with contextlib.closing(Members(lists.judge(), Options())) as members:
        one = checker(lists, members=members)
        one._bytes_before, members.bytes_out = 100, 130
        most = [one._most_bytes(Result(members=count)) for count in (0, 4_095, 4_096, 4_097)]
        assert most == [TASK_BYTES - 30] * 2 + [0] * 2
    assert checker(lists)._most_bytes(Result(members=4_096)) == TASK_BYTES


@pytest.mark.slow
def test_a_task_that_has_found_many_members_hands_the_rest_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members_of: Callable[[OpenLists], Members]
) -> None:
    """All members may match, and all outcomes of one task are in memory together."""
    monkeypatch.setattr(module, "TASK_MEMBERS", 3)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("x", "y"):
            archive.writestr(name, b"listed")
    files = dict.fromkeys(("a.zip", "b.zip", "c.zip", "d/e.zip"), out.getvalue())
    tree = write_tree(tmp_path / "t", files)
    task = [
        Group(str(tree), ["a.zip", "b.zip", "c.zip"], follow=False),
        *(Group(f"{tree}/d", ["e.zip"], follow=True) for _ in range(DIRECTORIES)),
    ]
    one = checker(lists, members=members_of(lists))
    # The second task starts with its counts at zero.
    for _ in range(2):
        result = one.check(task)
        assert [Path(o.path).name for o in result.outcomes] == ["a.zip"] * 2 + ["b.zip"] * 2
        left = [(group.directory, [*group.names]) for group in result.deferred]
        assert left == [(str(tree), ["c.zip"]), *[(f"{tree}/d", ["e.zip"])] * DIRECTORIES]


def test_a_file_that_is_nearly_all_hole_is_unread(tmp_path: Path) -> None:
    """The file is reported at once and is not handed back to be read later."""
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"small": b"x"})
    with (tree / "hole").open("wb") as stream:
        stream.truncate(1 << 40)
        stream.write(b"listed")
    task = [Group(str(tree), ["hole"], follow=False)]
    for found in (check(lists, tree, "hole"), checker(lists).check(task, defer=True)):
        assert kinds(found) == {"hole": (Kind.UNREAD, SPARSE)}
        assert (found.clean, found.files_read, found.bytes_read, found.deferred) == (0, 0, 0, [])
    assert check(lists, tree, "hole", "small", sparse=True).deferred == task


def test_a_file_that_becomes_nearly_all_hole_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file becomes a hole after `stat` and before the reading, and is not read again."""
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"a": b"benign"})
    reads: list[int] = []

    def grow(number: int) -> None:
        reads.append(number)
        os.truncate(tree / "a", 1 << 40)

    during_reading(monkeypatch, grow)
    assert kinds(check(lists, tree, "a")) == {"a": (Kind.UNREAD, SPARSE)}
    assert len(reads) == 1


def pagemap() -> tuple[Path, str]:
    """Return the path of a file of proc that claims to be empty and has 128 TB."""
    path = Path("/proc/self/pagemap")
    if not path.exists() or path.stat().st_size:
        pytest.skip("no such file in proc")
    return path.parent, path.name


def test_a_file_of_proc_without_end_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a task with other files, the endless file is handed back as soon as its length shows."""
    directory, name = pagemap()
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    monkeypatch.setattr(reading, "UNSIZED_BYTES", DEFER_BYTES + 1)
    result = check(lists, directory, name, "comm")
    assert result.deferred == [Group(str(directory), [name], follow=False)]
    assert (kinds(result), result.clean, result.files_read) == ({}, 1, 1)
    assert DEFER_BYTES < result.bytes_read < 2 * DEFER_BYTES
    (deferred,) = result.deferred
    heard: list[int] = []
    result = checker(lists, on_bytes=heard.append).check([deferred])
    assert kinds(result) == {name: (Kind.UNREAD, ENDLESS)}
    assert (result.clean, result.files_read, result.deferred) == (0, 0, [])
    assert DEFER_BYTES <= sum(heard) < result.bytes_read < 2 * DEFER_BYTES


def test_a_file_of_proc_that_takes_too_long_is_unread(tmp_path: Path) -> None:
    directory, name = pagemap()
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    ticks = iter(range(0, 10_000, 25))
    result = check(lists, directory, name, clock=lambda: float(next(ticks)))
    assert kinds(result) == {name: (Kind.UNREAD, ENDLESS)}
    # The clock was read at 25, 50 and 75 seconds, so the next value is 100.
    assert next(ticks) == 100


# Counts of a result: how many files were read, and how many were known from records.


def zipped(*contents: bytes) -> bytes:
    """Return a zip archive with members "0", "1"…"""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for number, content in enumerate(contents):
                archive.writestr(str(number), content)
        return file.getvalue()


def rests_on(result: Result) -> tuple[int, int, int]:
    return result.files_read, result.ruled_out_by_size, result.known_unchanged


@pytest.mark.parametrize("keep_clean", [False, True])
def test_each_file_is_counted_once_by_what_its_answer_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_clean: bool
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    _, sha1, _ = digests_of(b"disputed")
    rows = csv_of({"e-1": b"listed"}) + f"e-2,{'0' * 31}1,{sha1},,8,synthetic\n".encode()
    lists = lists_of(tmp_path, base=rows)
    files = {"match": b"listed", "conflict": b"disputed", "like": b"LISTED", "size": b"another"}
    tree = write_tree(tmp_path / "t", files)
    (tree / "link").symlink_to("match")
    names = [*files, "link", "gone"]
    memory = Memory(InventoryPlace(tmp_path / "state", lists.sealer.key_id))
    for expected in ((3, 1, 0), (0, 1, 3)):
        while time.time_ns() <= max((tree / name).stat().st_ctime_ns for name in files):
            pass
        result = check(lists, tree, *names, keep_clean=keep_clean, cache=memory.open(), learn=True)
        assert rests_on(result) == expected
        assert result.clean == 2
        assert {name: kind for name, (kind, _) in kinds(result).items() if kind != "clean"} == {
            "match": Kind.MATCH,
            "conflict": Kind.CONFLICT,
            "link": Kind.SKIPPED,
            "gone": Kind.UNREAD,
        }
        assert sum(expected) == len(files)
        memory.learn(result)
        memory.flush()
        memory.close()
    # Sizes rule out nothing in this list, but the size of a file is read before the file is opened.
    assert rests_on(check(lists, tree, "size")) == (0, 1, 0)


def test_a_known_container_is_opened_where_its_members_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"zip": zipped(b"benign")})
    memory = Memory(InventoryPlace(tmp_path / "state", lists.sealer.key_id))
    found = []
    with contextlib.closing(Members(lists.judge(), Options(), keep_clean=True)) as members:
        for _ in range(2):
            while time.time_ns() <= (tree / "zip").stat().st_ctime_ns:
                pass
            how: dict[str, Any] = {"members": members, "keep_clean": True, "learn": True}
            result = check(lists, tree, "zip", cache=memory.open(), **how)
            found.append([one.members for one in result.outcomes])
            counts = (result.clean, result.members, result.known_unchanged)
            assert counts == (2, 1, 0)
            memory.learn(result)
            memory.flush()
            memory.close()
    assert list(map(sorted, found)) == [[(), ("0",)]] * 2


@pytest.mark.sampled
@pytest.mark.parametrize("members", [False, True], ids=["files alone", "with members"])
def test_several_directories_are_judged_as_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: bool
) -> None:
    """The cache is asked once for the files of many directories together."""
    remember_at_once(monkeypatch, tmp_path)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed", "e-2": b"twelve bytes"}))
    folders = 2 * DIRECTORIES + 1
    contents = {
        f"{folder:02d}/{name}": content
        for folder in range(folders)
        for name, content in {
            "match": b"listed",
            "like": b"LISTED",
            "size": b"another",
            "zip": zipped(b"twelve bytes" if folder % 5 == 0 else b"benign"),
        }.items()
        if (folder + len(name)) % 3 or folder % 2
    }
    tree = write_tree(tmp_path / "t", contents)
    task = [Group(f"{tree}/gone", ["x"], follow=False)]
    for folder in range(folders):
        names = [name.split("/")[1] for name in contents if name.startswith(f"{folder:02d}/")]
        task.append(Group(f"{tree}/{folder:02d}", [*names, "missing"], follow=False))
    memory = Memory(InventoryPlace(tmp_path / "state", lists.sealer.key_id))

    def result_of(tasks: list[Task]) -> tuple[dict[str, tuple[Kind, str | None]], list[int]]:
        outcomes: dict[str, tuple[Kind, str | None]] = {}
        counts = [0] * 5
        opens = Members(lists.judge(), Options()) if members else None
        with contextlib.closing(opens) if opens else contextlib.nullcontext():
            made = checker(lists, cache=memory.open(), learn=True, members=opens)
            while tasks:
                result = made.check(tasks.pop(0))
                tasks += [[group] for group in result.deferred]
                outcomes |= {
                    o.path + "".join(o.members): (o.kind, o.reason) for o in result.outcomes
                }
                found = (result.clean, result.members, *rests_on(result))
                counts = [a + b for a, b in zip(counts, found, strict=True)]
                memory.learn(result)
        memory.flush()
        memory.close()
        return outcomes, counts

    while time.time_ns() <= max((tree / name).stat().st_ctime_ns for name in contents):
        pass
    first, _ = result_of([task])
    assert sum(kind is Kind.MATCH for kind, _ in first.values()) > folders / 2
    known, of_all = result_of([task])
    alone, of_each = result_of([[group] for group in task])
    assert known == alone == first
    assert of_all == of_each
    assert of_all[-1] > 0


def test_without_descriptors_for_so_many_directories_the_rest_is_handed_back(
    tmp_path: Path,
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    names = [f"{folder:02d}/f" for folder in range(2 * DIRECTORIES)]
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, b"LISTED"))
    task = [Group(f"{tree}/{name[:2]}", ["f"], follow=False) for name in names]
    made = checker(lists)
    with descriptors_left(8):
        assert clean_at_last(made, task) == len(names)


def clean_at_last(made: Checker, task: Task) -> int:
    """Return the number of clean files of a task with handed-back work; none may be unread."""
    result = made.check(task)
    clean = result.clean
    assert result.outcomes == []
    assert result.deferred
    for group in result.deferred:  # each handed-back group is checked as a task
        alone = made.check([group])
        clean += alone.clean
        assert (alone.outcomes, alone.deferred) == ([], [])
    return clean


def test_without_descriptors_to_ask_about_a_file_system_a_file_is_handed_back(
    tmp_path: Path,
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    task = []
    for number in range(8):
        (tmp_path / f"t/{number}").mkdir(parents=True)
        # A link to a file on another file system.
        (tmp_path / f"t/{number}/f").symlink_to("/proc/version")
        task.append(Group(f"{tmp_path}/t/{number}", ["f"], follow=True))
    made = checker(lists)
    with descriptors_left(len(task)):
        assert clean_at_last(made, task) == len(task)


@pytest.fixture
def members_of() -> Iterator[Callable[[OpenLists], Members]]:
    """Openers of containers whose modules are loaded already, because loading uses descriptors."""
    importlib.import_module("hashclient.containers.cage")
    made: list[Members] = []

    def make(lists: OpenLists) -> Members:
        made.append(Members(lists.judge(), Options()))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize("sized", [True, False])
def test_a_container_without_descriptors_to_open_it_is_handed_back(
    tmp_path: Path, members_of: Callable[[OpenLists], Members], sized: bool
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=sized))
    names = [f"{number}/z" for number in range(8)]
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, zipped(b"benign")))
    task = [Group(f"{tree}/{name[0]}", ["z"], follow=False) for name in names]
    made = checker(lists, members=members_of(lists))
    with descriptors_left(12):
        assert clean_at_last(made, task) == 2 * len(names)


@pytest.mark.slow
def test_files_that_are_open_ahead_leave_no_container_unread(
    tmp_path: Path, members_of: Callable[[OpenLists], Members]
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    names = [f"{number:02d}" for number in range(40)]
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, zipped(b"benign")))
    made = checker(lists, members=members_of(lists))
    made._waits.often = True
    with descriptors_left(24):
        result = made.check([Group(str(tree), names, follow=False)])
    assert (result.clean, result.outcomes, result.deferred) == (2 * len(names), [], [])


@pytest.mark.slow
@pytest.mark.parametrize("often", [True, False])
def test_a_container_that_finds_no_room_alone_is_judged_as_a_file_and_later_ones_are_opened(
    tmp_path: Path, members_of: Callable[[OpenLists], Members], often: bool
) -> None:
    archive = zipped(b"benign")
    lists = lists_of(tmp_path, base=csv_of({"e-1": archive, "e-2": b"listed"}, sized=False))
    names = [f"{number}" for number in range(6)]
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, archive))
    made = checker(lists, members=members_of(lists))
    made._waits.often = often
    task = [Group(str(tree), names, follow=False)]
    with descriptors_left(4):
        result = made.check(task)
    assert result.deferred == []
    found = [(o.kind, o.reason, o.members) for o in result.outcomes]
    unread, match = (Kind.UNREAD, "too many open files", ("",)), (Kind.MATCH, None, ())
    assert found == [unread] * len(names) + [match] * len(names)
    result = made.check(task)
    assert [o.kind for o in result.outcomes] == [Kind.MATCH] * len(names)
    assert result.members == len(names)


def test_a_size_that_changes_after_it_was_looked_at_rules_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    original = os.open

    def change(path: Any, *args: Any, **options: Any) -> int:
        if path == "a":
            (tree / "a").write_bytes(b"of another size")
        return original(path, *args, **options)

    monkeypatch.setattr(os, "open", change)
    result = check(lists, tree, "a")
    assert (result.clean, rests_on(result)) == (1, (0, 1, 0))


def before_opening(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Call `act` with 1, 2, 3… each time before the file "a" is opened."""
    original, count = os.open, 0

    def watched(path: Any, *args: Any, **options: Any) -> int:
        nonlocal count
        if path == "a":
            count += 1
            act(count)
        return original(path, *args, **options)

    monkeypatch.setattr(os, "open", watched)


def opened_as_well(lists: OpenLists, task: Task) -> list[Result]:
    """Return the results, with members, of a task and of the files that it hands back."""
    results: list[Result] = []
    with contextlib.closing(Members(lists.judge(), Options())) as members:
        made, tasks = checker(lists, members=members), [task]
        while tasks and len(results) < 9:
            results.append(made.check(tasks.pop(0)))
            tasks += [[group] for group in results[-1].deferred]
    assert not tasks
    return results


@pytest.mark.sampled
@pytest.mark.parametrize("before", [b"LISTED", b"of another size", None])
@pytest.mark.parametrize("size", [0, DEFER_BYTES])
def test_a_container_that_is_there_only_after_the_look_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None, size: int
) -> None:
    """The size of a container is not in the list, but its members may still match."""
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    after = zipped(b"listed", os.urandom(size))
    tree = write_tree(tmp_path / "t", {"a": before or after, "b": b"benign text"})
    before_opening(monkeypatch, lambda n: n == 1 and (tree / "a").write_bytes(after))
    results = opened_as_well(lists, [Group(str(tree), ["a", "b"], follow=False)])
    (found,) = [outcome for result in results for outcome in result.outcomes]
    assert (found.kind, found.members) == (Kind.MATCH, ("0",))
    # Both files, and the member that does not match, are clean.
    assert sum(result.clean for result in results) == 3


def test_a_large_container_that_no_size_makes_read_is_opened_when_it_is_alone(
    tmp_path: Path,
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": zipped(b"listed", bytes(DEFER_BYTES)), "b": b"text"})
    with contextlib.closing(Members(lists.judge(), Options())) as members:
        one = checker(lists, members=members)
        both = one.check([Group(str(tree), ["a", "b"], follow=False)])
        assert ([group.names for group in both.deferred], both.clean) == ([["a"]], 1)
        (outcome,) = one.check(both.deferred).outcomes
    assert (outcome.kind, outcome.members) == (Kind.MATCH, ("0",))


def test_a_kind_that_only_its_end_shows_is_counted_unless_it_is_opened(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    end = b"koly".ljust(512, b"\0")
    files = {"image": bytes(2_000) + end, "archive": zipped(b"listed") + end, "text": b"x" * 2_000}
    tree = write_tree(tmp_path / "t", files)
    for name, counted, kinds in (("image", 1, []), ("archive", 0, [Kind.MATCH]), ("text", 0, [])):
        results = opened_as_well(lists, [Group(str(tree), [name], follow=False)])
        assert sum(sum(result.not_opened.values()) for result in results) == counted, name
        assert [o.kind for result in results for o in result.outcomes] == kinds, name


def test_containers_are_opened_as_they_are_configured() -> None:
    noticed: list[str] = []
    assert container_options(ContainersConfig(), noticed.append) == Options()
    numbers = {"depth": 2, "members": 3, "bytes_out": 4, "ratio": 5, "time_s": 6, "memory_mib": 77}
    config = ContainersConfig(**numbers, sandbox="require", not_opened="unread")
    made = container_options(config, noticed.append, (b"word",), verify_sizes=True)
    assert made == Options(Limits(**numbers), True, True, (b"word",), True)


@pytest.mark.parametrize("verify_sizes", [False, True])
def test_known_members_are_clean_if_nothing_that_a_list_asks_for_is_missing(
    tmp_path: Path, verify_sizes: bool
) -> None:
    """The size that a container claims for a member counts only if the size was verified."""
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    opens = Members(lists.judge(), Options(verify_sizes=verify_sizes))
    sha1 = mask_of([Algorithm.SHA1])

    def member(size: int, mask: int = 0, exact: int = 0, content: bytes = b"") -> Inside:
        one = np.zeros(1, MEMBER)
        one["size"], one["mask"], one["exact"] = size, mask, exact
        if content:
            digest = bytes.fromhex(digests_of(content)[1])
            one["tags"][0, SLOT[Algorithm.SHA1]] = lists.sealer.tags_of(Algorithm.SHA1, [digest])
        return one

    found = {
        "claimed": member(7),
        "exact": member(7, exact=1),
        "read": member(7, sha1, content=b"benign!"),
        "of the size, and read": member(6, sha1, content=b"LISTED"),
        "of the size, and not read": member(6, exact=1),
        "of the size, by another digest": member(6, mask_of([Algorithm.MD5])),
        "listed": member(6, sha1, content=b"listed"),
    }
    clean = {"exact", "read", "of the size, and read"} | (set() if verify_sizes else {"claimed"})
    assert opens.are_clean([]) == []
    assert opens.are_clean([*found.values()]) == [name in clean for name in found]
    # A container has the verdict of its worst member.
    both = [np.concatenate([one, other]) for one in found.values() for other in found.values()]
    expected = [one in clean and other in clean for one in found for other in found]
    assert opens.are_clean(both) == expected


def test_members_that_are_not_named_one_by_one_count_as_one_that_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members_of: Callable[[OpenLists], Members]
) -> None:
    monkeypatch.setattr(members_module, "MAX_KEPT", 2)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    archives = {f"{n}": zipped(b"benign", *[b"listed"] * n) for n in range(1, 7)}
    tree = write_tree(tmp_path / "t", archives)
    made = checker(lists, members=members_of(lists))
    for count in range(1, 7):
        result = made.check([Group(str(tree), [str(count)], follow=False)])
        more = [f"limit: {count - 2} more are unread or match, and are not named one by one"]
        told = [o.reason for o in result.outcomes if o.kind is Kind.UNREAD]
        assert told == (more if count > 2 else [])
        assert sum(o.kind is Kind.MATCH for o in result.outcomes) == min(count, 2)
        # The file and one of its members are clean.
        assert (result.clean, result.members) == (2, 1 + len(result.outcomes))


def test_content_that_is_unread_says_why_in_one_word_and_in_more(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": zipped(b"listed", b"other")[:-30]})
    results = opened_as_well(lists, [Group(str(tree), ["a"], follow=False)])
    unread = [o for result in results for o in result.outcomes if o.kind is Kind.UNREAD]
    assert unread
    for outcome in unread:
        assert outcome.obstacle == "damaged"
        assert outcome.reason is not None and outcome.reason.startswith("damaged: ")


def test_a_container_whose_times_change_all_the_time_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": zipped(b"listed")})
    before_opening(monkeypatch, lambda n: os.utime(tree / "a", (n, n)))
    (result,) = opened_as_well(lists, [Group(str(tree), ["a"], follow=False)])
    assert kinds(result) == {"a": (Kind.MATCH, None)}


@pytest.mark.parametrize("size", [6, DEFER_BYTES])
def test_a_size_that_changes_again_while_somebody_looks_rules_out_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"of another size" + bytes(size)})
    original = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        (tree / "a").write_bytes(b"listed")
        return original(fd, count, offset)

    inodes = array("Q", [(tree / "a").stat().st_ino])
    monkeypatch.setattr(os, "pread", pread)
    (result,) = opened_as_well(lists, [Group(str(tree), ["a"], False, None, inodes)])
    assert kinds(result) == {"a": (Kind.UNREAD, CHANGED)}
    assert rests_on(result) == (0, 0, 0)


@pytest.mark.parametrize("members", [False, True], ids=["files alone", "with members"])
def test_where_members_count_no_file_is_looked_at_before_it_is_opened(
    tmp_path: Path,
    members_of: Callable[[OpenLists], Members],
    monkeypatch: pytest.MonkeyPatch,
    members: bool,
) -> None:
    """Each file is opened whatever its size. Only the named path may be another kind of file."""
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"listed", "b": b"benign text"})
    original, looked = os.stat, list[Any]()

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        looked.append(path)
        return original(path, *args, **options)

    opens = members_of(lists) if members else None
    inodes = array("Q", [(tree / name).stat().st_ino for name in "ab"])
    monkeypatch.setattr(os, "stat", stat)
    for listed in (inodes, array("Q")):
        result = checker(lists, members=opens).check(
            [Group(str(tree), ["a", "b"], False, None, listed)]
        )
        assert (kinds(result), rests_on(result)) == ({"a": (Kind.MATCH, None)}, (1, 1, 0))
        assert ("b" in looked) == (not members or not listed)
        looked.clear()


def test_a_file_that_is_read_and_then_lost_counts_as_unread_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"listed"})
    during_reading(monkeypatch, lambda n: n == 2 and (tree / "a").write_bytes(b"benign"))
    result = check(lists, tree, "a")
    assert kinds(result) == {"a": (Kind.UNREAD, CHANGED)}
    assert rests_on(result) == (0, 0, 0)
    assert result.bytes_read == 12


def test_progress_within_large_files_is_reported(tmp_path: Path) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}, sized=False))
    tree = write_tree(tmp_path / "t", {"a": bytes(2_000_000)})
    heard: list[int] = []
    check(lists, tree, "a", on_bytes=heard.append)
    assert sum(heard) == 2_000_000


def test_plans_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PLANS_KEPT", 4)
    judge = lists_of(tmp_path, base=csv_of({"e-1": b"listed"})).judge()
    for size in range(20):
        assert judge.plan(size) == ((Algorithm.SHA1,) if size == 6 else ())
        assert len(judge._plans) <= 4


def test_a_file_that_cannot_be_opened_is_judged_by_its_size_whatever_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed one", "e-2": b"listed two"}))
    names = {"one": b"listed one", "two": b"listed two", "short": b"x", "alike": b"harmless!!"}
    tree = write_tree(tmp_path / "t", names)
    real = os.open

    def open_or_refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if path in {"short", "alike"}:
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_or_refuse)
    for before in ([], ["one", "two"]):
        one = checker(lists)
        if before:
            one.check([Group(str(tree), before, follow=False)])
        result = one.check([Group(str(tree), ["one", "short", "alike"], follow=False)])
        assert kinds(result) == {
            "one": (Kind.MATCH, None),
            "alike": (Kind.UNREAD, "permission denied"),
        }
        assert (result.clean, result.ruled_out_by_size, result.deferred) == (1, 1, [])


@pytest.mark.sampled
@pytest.mark.parametrize("follow", [False, True])
def test_a_match_says_which_file_it_is(
    tmp_path: Path,
    members_of: Callable[[OpenLists], Members],
    monkeypatch: pytest.MonkeyPatch,
    follow: bool,
) -> None:
    """A known file is identified, too. No directory is named if a link may have led to the file."""
    remember_at_once(monkeypatch, tmp_path)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"listed", "z": zipped(b"listed")})
    memory = Memory(InventoryPlace(tmp_path / "state", lists.sealer.key_id))
    for _ in range(2):
        made = checker(lists, cache=memory.open(), learn=True, members=members_of(lists))
        result = made.check([Group(str(tree), ["a", "z"], follow=follow)])
        memory.learn(result)
        memory.flush()
        memory.close()
        assert {Path(outcome.path).name for outcome in result.outcomes} == {"a", "z"}
        for outcome in result.outcomes:
            seen = seen_in(tree, Path(outcome.path).name)
            if follow:
                seen = replace(seen, directory_device=None, directory_inode=None)
            assert outcome.seen == seen
            assert seen.is_directory(tree.stat())
            assert not seen.is_file(tree.stat())


@pytest.mark.parametrize("more", [(), (Algorithm.MD5,)])
def test_a_known_file_that_is_read_in_part_keeps_what_was_known_of_its_beginning(
    tmp_path: Path,
    members_of: Callable[[OpenLists], Members],
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[Algorithm, ...],
) -> None:
    """A file is read again if a later version knows a kind of container with its first bytes."""
    remember_at_once(monkeypatch, tmp_path)
    lists = lists_of(tmp_path, base=csv_of({"e-1": b"listed"}))
    tree = write_tree(tmp_path / "t", {"a": b"LISTED", "b": b"listed", "c": b"sliced"})
    task = [Group(str(tree), ["a", "b", "c"], follow=False)]
    identities = Identities()

    def records_after(*known: Known) -> Records:
        sent = Received(14)
        sent.take(known)
        made = checker(
            lists, cache=sent, learn=True, members=members_of(lists), file_systems=identities
        )
        (learned,) = made.check(task).learned
        numbers.append(learned[0])
        return np.sort(np.frombuffer(learned[1], RECORD), order="ino")

    numbers: list[int] = []
    first = records_after()
    assert sorted(first["begin"].tolist()) == sorted(b"Lls")
    known = first.copy()
    known["mask"] = PLAIN | mask_of((Algorithm.SHA1, *more))
    (again,) = records_after(Known(numbers[0], known.tobytes(), []))
    (before,) = first[first["ino"] == (tree / "b").stat().st_ino]
    assert again == before
    assert again["begin"] == ord("l")
