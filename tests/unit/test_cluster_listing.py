"""A worker lists a batch of directories: when the batch ends, and what is left to other workers."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.containers.limits import Options
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cluster import listing as module
from hashclient.scan.cluster import worker
from hashclient.scan.cluster.known import Received, Shared
from hashclient.scan.cluster.listing import ClusterTrees, Errand
from hashclient.scan.cluster.messages import PROTOCOL, Known, Listed, Spec, paths_of
from hashclient.scan.cluster.worker import Work
from hashclient.scan.executors.wire import Names, group_of, unpack_outcomes
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import MOVED, Start
from hashclient.system.identity import Identities, Identity, boot_id
from tests.kit import csv_of, write_tree
from tests.unit.test_checker import lists_of


def test_how_much_a_worker_lists_at_a_time() -> None:
    assert (module.LIST_NAMES, module.LIST_S, module.WIDE_NAMES) == (40_000, 0.5, 50_000)


def root(path: Path) -> Start:
    return Start(os.fsencode(path), verified=True, is_root=True)


def errand(**how: Any) -> Errand:
    return Errand("/", how.pop("points", frozenset()), how.pop("exclude", ()), **how)


@pytest.mark.parametrize(
    ("most", "given", "listed", "rest"),
    [
        # A directory that was begun is listed to its end; the next directories are handed back.
        (99, 2, ["a/1", "a/2", "a/in/3", "b/4"], []),
        (5, 2, ["a/1", "a/2", "a/in/3", "b/4"], []),
        (3, 2, ["a/1", "a/2", "a/in/3"], ["b"]),
        (2, 2, ["a/1", "a/2"], ["a/in", "b"]),
        (1, 2, ["a/1", "a/2"], ["a/in", "b"]),
        (0, 2, [], ["a", "b"]),
    ],
)
def test_what_does_not_fit_is_left_to_others(
    tmp_path: Path, most: int, given: int, listed: list[str], rest: list[str]
) -> None:
    tree = write_tree(tmp_path, {"a/1": b"", "a/2": b"", "a/in/3": b"", "b/4": b""})
    starts = [Start(os.fsencode(tree / name)) for name in "ab"[:given]]
    found = errand(most_names=most).run(starts)
    assert sorted(paths_of(found.groups)) == [f"{tree}/{name}" for name in listed]
    assert [os.fsdecode(start.path) for start in found.rest] == [f"{tree}/{n}" for n in rest]
    assert found.outcomes == []


def test_a_task_of_listing_ends_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []

    def allow(most_s: float) -> object:
        seconds.append(most_s)
        return SimpleNamespace(is_spent=True)

    monkeypatch.setattr(module, "Allowance", allow)
    starts = [Start(b"/a"), Start(b"/b", inode=5, above=6)]
    found = errand().run(starts)
    assert (found.groups, found.rest, seconds) == ([], starts, [0.5])


class Numbered(Identities):
    """Identities that have the same number for every file system, or None for every one."""

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self.number = number

    def of(self, fd: int, device: int) -> Identity | None:
        assert os.fstat(fd).st_dev == device
        return None if self.number is None else Identity(self.number)


@pytest.mark.parametrize("number", [77, None, 0])
def test_inodes_are_sent_if_the_file_system_is_the_same_everywhere(
    tmp_path: Path, number: int | None
) -> None:
    tree = write_tree(tmp_path, {"a": b"", "d/x": b""})
    identities = None if number == 0 else Numbered(number)
    listing: Listed = errand(identities=identities, most_names=1).run([root(tree)])
    (group,), (rest,) = listing.groups, listing.rest
    found = group_of(group)
    if number:
        assert (group.file_system, [*found.inodes]) == (77, [(tree / "a").stat().st_ino])
        assert found.identity == (None, tree.stat().st_ino)
        assert (rest.inode, rest.above) == ((tree / "d").stat().st_ino, tree.stat().st_ino)
    else:
        assert (group.file_system, [*found.inodes], found.identity) == (0, [], None)
        assert (rest.inode, rest.above) == (0, 0)


@pytest.mark.parametrize("number", [77, None])
def test_a_wide_directory_goes_back_with_what_is_the_same_everywhere(
    tmp_path: Path, number: int | None
) -> None:
    """A directory below a given one is found again by its inodes if all machines have these."""
    tree = write_tree(tmp_path, {"n": b"", "w/1": b"", "w/2": b"", "w/in/x": b""})
    found = errand(identities=Numbered(number), wide_names=2).run([root(tree)])
    w = tree / "w"
    inode, above = (w.stat().st_ino, tree.stat().st_ino) if number else (0, 0)
    assert found.rest == [Start(os.fsencode(w), is_wide=True, inode=inode, above=above)]
    assert list(paths_of(found.groups)) == [f"{tree}/n"]
    given = errand(wide_names=1).run([root(w)]).rest
    assert given == [Start(os.fsencode(w), verified=True, is_root=True, is_wide=True)]


@pytest.mark.parametrize(("most", "rest"), [(1, 2), (2, 2), (3, 1), (4, 0)])
def test_only_files_count_for_the_end_of_a_batch(tmp_path: Path, most: int, rest: int) -> None:
    tree = write_tree(tmp_path, {"1": b"", "2": b"", "a/x": b"", "b/y": b""})
    found = errand(most_names=most).run([root(tree)])
    assert len(found.rest) == rest
    assert {start.path for start in found.rest} <= {os.fsencode(tree / name) for name in "ab"}


@pytest.mark.parametrize("objection", [None, "the file system is not mounted"])
def test_a_tree_whose_file_system_is_missing_is_unread_and_listed(
    tmp_path: Path, objection: str | None
) -> None:
    tree = write_tree(tmp_path / "t", {"x": b""})
    looked: list[bool] = []

    def look(fd: int, *, given: bool) -> str | None:
        assert os.fstat(fd).st_ino == tree.stat().st_ino
        looked.append(given)
        return objection

    mounts: Any = SimpleNamespace(look=look, watched=lambda path, _fd: {f"{path}/m"})
    made = ClusterTrees([str(tree), str(tmp_path / "gone")], ScanOptions(), mounts)
    assert made.begin() == [str(tree)]
    assert (looked, made.points) == ([True], {f"{tree}/m"})
    gone = Outcome(Kind.UNREAD, f"{tmp_path}/gone", reason="no such file or directory")
    unread = Outcome(Kind.UNREAD, str(tree), reason=objection)
    assert list(made.batches()) == [*([unread] if objection else []), gone]
    assert made.coverage.has_failed(str(tree)) is bool(objection)
    assert made.starts == [root(tree)]


def test_a_tree_that_cannot_be_opened_is_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    made = trees(tmp_path)
    monkeypatch.setattr(module, "open_directory", fail)
    assert made.begin() == [str(tmp_path)]
    unread = Outcome(Kind.UNREAD, str(tmp_path), reason="permission denied")
    assert (list(made.batches()), made.starts) == ([unread], [])
    assert made.coverage.has_failed(str(tmp_path))


def trees(*paths: Path, **options: Any) -> ClusterTrees:
    return ClusterTrees([str(path) for path in paths], ScanOptions(**options))


def test_the_paths_of_a_scan_are_looked_at_by_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client examines the directory of each path, so that workers can compare theirs."""
    tree = write_tree(tmp_path, {"t/x": b"", "f": b"", "d/g": b""})
    os.mkfifo(tree / "pipe")
    monkeypatch.chdir(tree)
    made = ClusterTrees(
        [f"{tree}/t", "f", f"{tree}/d/g", f"{tree}/gone", f"{tree}/pipe"], ScanOptions()
    )
    assert made.begin() == [f"{tree}/t", ".", f"{tree}/d"]
    assert made.starts == [root(tree / "t")]
    files = [item for item in made.batches() if not isinstance(item, Outcome)]
    assert [(g.directory, g.names, g.follow) for (g,) in files] == [
        ("", ["f"], True),
        (f"{tree}/d", ["g"], True),
    ]
    told = {item.path: item.kind for item in made.batches() if isinstance(item, Outcome)}
    assert told == {f"{tree}/gone": Kind.UNREAD, f"{tree}/pipe": Kind.SKIPPED}
    assert [named for named, _ in made.coverage.roots] == [f"{tree}/t"]
    assert made.points == set()


def test_where_another_file_system_begins_its_tree_decides(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"a/m/x": b"", "a/b/m/y": b"", "ab/m/z": b""})
    made = trees(tree / "a", tree / "a/b", tree / "ab")
    made.begin()
    asked: list[tuple[str, str]] = []

    class Frontier:
        def __init__(self, tree: str) -> None:
            self.tree = tree

        def cross(self, path: str, fd: int, status: os.stat_result) -> tuple[bool, object]:
            assert (os.fstat(fd).st_ino, status.st_ino) == (Path(path).stat().st_ino,) * 2
            asked.append((self.tree, path))
            if path.endswith("/b/m"):
                return True, Outcome(Kind.UNREAD, path, reason="not mounted")
            return True, None

    made._frontiers = {path: Frontier(path) for path in made._frontiers}  # type: ignore[misc]
    found = [made.cross(f"{tree}/{path}") for path in ("a/m", "a/b/m", "ab/m")]
    assert asked == [
        (f"{tree}/a", f"{tree}/a/m"),
        (f"{tree}/a/b", f"{tree}/a/b/m"),
        (f"{tree}/ab", f"{tree}/ab/m"),
    ]
    outcome = Outcome(Kind.UNREAD, f"{tree}/a/b/m", reason="not mounted")
    assert found == [(True, None), (True, outcome), (True, None)]
    assert made.coverage.has_failed(f"{tree}/a/b/m")
    assert not made.coverage.has_failed(f"{tree}/a/m")
    goes_on, gone = made.cross(f"{tree}/a/gone")
    assert not goes_on and gone is not None
    assert (gone.kind, gone.reason) == (Kind.UNREAD, "no such file or directory")
    assert made.coverage.has_failed(f"{tree}/a/gone")


def test_a_wide_directory_is_listed_by_the_client_and_nothing_below(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"a": b"", "x.iso": b"", "d/in": b""})
    made = trees(tree, exclude=("*.iso",))
    items = list(made.list_wide(Start(os.fsencode(tree))))
    assert [group_of(one).names for one in items if isinstance(one, Names)] == [["a"]]
    assert [one.path for one in items if isinstance(one, Start)] == [os.fsencode(tree / "d")]
    assert [one.path for one in items if isinstance(one, Outcome)] == [f"{tree}/x.iso"]
    (gone,) = made.list_wide(Start(os.fsencode(tree / "gone")))
    assert isinstance(gone, Outcome)
    assert made.coverage.has_failed(f"{tree}/gone")


def test_outcomes_of_a_listing_come_with_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x")
    found = errand().run([root(tmp_path), Start(b"/nowhere/x")])
    told = {one.path: one.kind for one in unpack_outcomes(found.outcomes)}
    assert told == {f"{tmp_path}/link": Kind.SKIPPED, "/nowhere/x": Kind.UNREAD}
    assert (found.groups, found.rest) == ([], [])


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": b"listed"}))


def work(lists: OpenLists, state: Path, **how: Any) -> Work:
    spec = Spec(PROTOCOL, "1", "run", "key", (), how.pop("base", b"/"), **how)
    return Work(spec, lists, state)


def test_a_worker_does_what_the_client_says(
    lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def make(_judge: object, **how: Any) -> object:
        made.append(how)
        return how

    monkeypatch.setattr(worker, "Checker", make)
    places: list[tuple[Any, ...]] = []

    def place(*given: Any) -> InventoryPlace:
        places.append(given)
        return InventoryPlace(*given)

    monkeypatch.setattr(worker, "InventoryPlace", place)
    common = {"cache": None, "learn": False, "keep_clean": False, "sparse": False}
    common["is_elsewhere"] = True
    for how, expected in (
        ({}, {}),
        ({"learn": True}, {"learn": True}),
        ({"keep_clean": True, "sparse": True}, {"keep_clean": True, "sparse": True}),
        ({"asks_inventory": True, "reread_days": 3}, {}),
    ):
        one = work(lists, tmp_path, **how)
        one.checker()
        found = made.pop()
        assert found.pop("members") is None
        assert found.pop("on_bytes") == one._on_bytes
        assert type(found.pop("file_systems")) is Shared
        assert found == common | expected
        one.checker()
        # The second call in the same thread returned the first checker.
        assert made == []
    assert places == [(tmp_path, lists.sealer.key_id, 3)]
    sent = work(lists, tmp_path, gets_known=True, reread_days=5, boot=boot_id())
    sent.checker([Known(7, b"", [])])
    cache = made.pop()["cache"]
    assert isinstance(cache, Received)
    assert (cache._reread_days, [*cache._known]) == (5, [7])
    sent.checker()
    assert [*cache._known] == []
    assert type(sent.identities()) is Identities
    assert (sent.is_beside, work(lists, tmp_path).is_beside) == (True, False)


def test_the_parts_of_a_scan_on_a_worker_end_together(lists: OpenLists, tmp_path: Path) -> None:
    one = work(lists, tmp_path, containers=Options(), keep_clean=True)
    first, second = one.members(), one.members()
    assert first is not None and second is not None and first is not second
    assert first._keep_clean
    one._on_bytes(5)
    one.close()
    assert one.is_over
    with pytest.raises(worker.Stopped):
        one._on_bytes(5)
    assert work(lists, tmp_path).members() is None


def test_what_is_open_in_a_process_is_opened_once(lists: OpenLists, tmp_path: Path) -> None:
    one, made = work(lists, tmp_path), list[int]()

    def make() -> int:
        made.append(len(made))
        return made[-1]

    assert [one.opened(key, make) for key in ("a", "b", "a", ("a",))] == [0, 1, 0, 2]


def test_a_worker_lists_what_the_client_names(lists: OpenLists, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"t/a": b"", "t/x.iso": b"", "t/m/y": b""})
    one = work(
        lists,
        tmp_path,
        base=os.fsencode(tree),
        points=(b"t/m",),
        exclude=(b"*.iso",),
    )
    found = one.errand().run([Start(b"t", verified=True, is_root=True)])
    assert list(paths_of(found.groups)) == ["t/a"]
    assert [(start.path, start.is_border) for start in found.rest] == [(b"t/m", True)]
    assert [outcome.path for outcome in unpack_outcomes(found.outcomes)] == ["t/x.iso"]


def test_in_the_whole_system_a_border_is_in_the_tree_of_the_root() -> None:
    made = trees(Path("/"))
    assert made.begin() == ["/"]
    assert made.starts == [root(Path("/"))]
    assert made.cross("/proc") == (True, None)
    one = trees(Path("/"), one_file_system=True)
    one.begin()
    if Path("/").stat().st_dev != Path("/proc").stat().st_dev:
        assert one.cross("/proc")[0] is False


@pytest.mark.parametrize(("more", "reasons"), [(0, []), (1, [MOVED])])
def test_a_wide_directory_that_was_exchanged_is_unread_and_the_other_is_listed(
    tmp_path: Path, more: int, reasons: list[str]
) -> None:
    tree = write_tree(tmp_path, {"a": b""})
    made = trees(tree)
    items = list(made.list_wide(Start(os.fsencode(tree), inode=tree.stat().st_ino + more)))
    assert [group_of(one).names for one in items if isinstance(one, Names)] == [["a"]]
    assert [one.reason for one in items if isinstance(one, Outcome)] == reasons
    assert made.coverage.has_failed(str(tree)) is bool(reasons)
