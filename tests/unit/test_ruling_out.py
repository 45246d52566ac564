"""Files that need not be read, because their size or a record rules out a match."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hashclient.containers.limits import Options
from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache.inside import MEMBER, Inside, not_opened_rows
from hashclient.scan.cache.interface import Cache
from hashclient.scan.cache.records import PLAIN, SLOT, Records, records_of
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.members import Members
from hashclient.scan.values.work import Block, Group, Result
from hashclient.system.identity import Identity
from tests.kit import csv_of, write_tree
from tests.unit.test_checker import lists_of, zipped
from tests.unit.test_kept import ENCRYPTED

LISTED, LIKE, OTHER = b"listed", b"LISTED", b"of another size"
ARCHIVE = zipped(b"benign")
MD5, SHA1, SHA256 = Algorithm


class Known(Cache):
    """A cache that returns the same record for every file, or fails if the test says so."""

    def __init__(self, mask: int = 0, *, day: int = 0, tags: Mapping[Algorithm, Any] = {}) -> None:
        self.mask, self.day, self.tags = mask, day, tags
        self.inside: tuple[Inside, bool] | None = None
        self.fails = ""
        self.asked = 0

    def find(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> tuple[Records, list[Block]]:
        self.asked += 1
        if self.fails == "find":
            raise StateError("damaged")
        records = records_of(statuses)
        records["mask"], records["read_day"] = self.mask, self.day
        for algorithm, words in self.tags.items():
            records["tags"][:, SLOT[algorithm]] = words
        return records, [(5, 6)]

    def find_inside(
        self, statuses: Sequence[os.stat_result], identities: Mapping[int, Identity | None]
    ) -> dict[int, tuple[Inside, bool]]:
        if self.fails == "find_inside":
            raise StateError("damaged")
        return {} if self.inside is None else dict.fromkeys(range(len(statuses)), self.inside)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": LISTED}))


@pytest.fixture(scope="module")
def members(lists: OpenLists) -> Iterator[Callable[..., Members]]:
    with contextlib.ExitStack() as stack:
        made: dict[bool, Members] = {}

        def of(*, refuses: bool = False) -> Members:
            if refuses not in made:
                one = Members(lists.judge(), Options(refuses_unopened=refuses))
                made[refuses] = stack.enter_context(contextlib.closing(one))
            return made[refuses]

        yield of


def check(lists: OpenLists, directory: Path, content: bytes, **how: Any) -> Result:
    tree = write_tree(directory / "t", {"f": content})
    inodes = how.pop("inodes", None)
    group = Group(str(tree), ["f"], follow=False)
    group = group if inodes is None else group.only(["f"], inodes(tree / "f"))
    return Checker(lists.judge(), **how).check([group])


def counts(result: Result) -> dict[str, int]:
    """Return the counts that are not zero."""
    names = ("clean", "files_read", "ruled_out_by_size", "known_unchanged", "believed_unchanged")
    every = {name: getattr(result, name) for name in (*names, "members")}
    return {name: count for name, count in every.items() if count}


READ = {"clean": 1, "files_read": 1}
BY_SIZE = {"clean": 1, "ruled_out_by_size": 1}
PROVEN = {"clean": 1, "known_unchanged": 1}
BELIEVED = PROVEN | {"believed_unchanged": 1}


def plan_of(lists: OpenLists) -> int:
    return mask_of(lists.judge().plan(len(LISTED)))


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("keep_clean", [False, True])
@pytest.mark.parametrize("day", [0, 5])
@pytest.mark.parametrize("mask", ["none", "plain", "other", "plan", "plan and plain", "all"])
def test_a_file_is_not_read_if_its_record_has_the_digests_that_entries_of_its_size_need(
    lists: OpenLists,
    members: Callable[..., Members],
    tmp_path: Path,
    mask: str,
    day: int,
    keep_clean: bool,
    opens: bool,
) -> None:
    """If members count, the file is examined, unless the record says that it is no container."""
    plan = plan_of(lists)
    every = {"none": 0, "plain": PLAIN, "other": 7 & ~plan, "plan": plan}
    every |= {"plan and plain": plan | PLAIN, "all": 7 | PLAIN}
    known = Known(every[mask], day=day)
    result = check(
        lists,
        tmp_path,
        LIKE,
        cache=known,
        keep_clean=keep_clean,
        members=members() if opens else None,
    )
    is_known = mask in ("plan", "plan and plain", "all")
    assert counts(result) == ((BELIEVED if day else PROVEN) if is_known else READ)
    assert [one.kind for one in result.outcomes] == [Kind.CLEAN] * keep_clean
    assert (result.seen, known.asked) == ([(5, 6)], 1)
    assert all(one.size == len(LIKE) for one in result.outcomes)


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("mask", [0, 7, PLAIN, 7 | PLAIN])
@pytest.mark.parametrize("day", [0, 5])
def test_a_size_that_no_entry_has_rules_out_and_a_record_that_it_is_no_container(
    lists: OpenLists,
    members: Callable[..., Members],
    tmp_path: Path,
    opens: bool,
    mask: int,
    day: int,
) -> None:
    """If members count, the answer about the file depends on the record, and is counted as such."""
    known = Known(mask, day=day)
    result = check(lists, tmp_path, OTHER, cache=known, members=members() if opens else None)
    rests_on_record = opens and mask & PLAIN
    assert counts(result) == ((BELIEVED if day else PROVEN) if rests_on_record else BY_SIZE)
    assert known.asked == opens  # if members do not count, no record is looked up


@pytest.mark.parametrize("day", [0, 5])
@pytest.mark.parametrize("given", ["all", "plan"])
def test_a_known_file_that_is_listed_is_a_match(
    lists: OpenLists, tmp_path: Path, day: int, given: str
) -> None:
    """A file is a match by its recorded tags if all are known; otherwise the file is read."""
    judge, content = lists.judge(), LISTED
    digests = {a: hashlib.new(a.label, content).digest() for a in Algorithm}
    tags = {a: words.reshape(2) for a, words in judge.seal(digests).items()}
    known = Known((7 if given == "all" else plan_of(lists)) | PLAIN, day=day, tags=tags)
    result = check(lists, tmp_path, content, cache=known)
    (match,) = result.outcomes
    assert (match.kind, match.size) == (Kind.MATCH, 6)
    if given == "all":
        expected = {"known_unchanged": 1} | ({"believed_unchanged": 1} if day else {})
        assert counts(result) == expected
    else:
        assert counts(result) == {"files_read": 1}
    assert set(match.tags) == set(Algorithm)


@pytest.mark.parametrize("fails", ["find", "find_inside"])
def test_a_cache_that_cannot_be_read_only_costs_time(
    lists: OpenLists, members: Callable[..., Members], tmp_path: Path, fails: str
) -> None:
    known = Known(7)
    known.fails = fails
    made = Checker(lists.judge(), cache=known, members=members())
    tree = write_tree(tmp_path / "t", {"f": LIKE, "z": ARCHIVE})
    task = [Group(str(tree), ["f", "z"], follow=False)]
    results = [made.check(task) for _ in range(2)]
    for number, result in enumerate(results):
        assert (result.clean, result.members, result.outcomes) == (3, 1, [])
        assert result.files_read == (1 if fails == "find" or number else 0)
    assert known.asked == 1  # after the first failure, no further question is asked


def inside(
    *sizes: int, mask: int = 7, exact: Sequence[int] = (1,), kinds: Mapping[str, int] = {}
) -> Inside:
    rows = np.zeros(len(sizes), MEMBER)
    rows["size"], rows["mask"], rows["exact"] = sizes, mask, exact
    return np.concatenate([rows, not_opened_rows(kinds)])


@pytest.mark.parametrize("believed", [False, True])
@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize(
    ("known", "is_known"),
    [
        (inside(6, 9), True),
        (inside(9, 9, mask=0), True),
        (inside(9, 9, mask=0, exact=[0, 1]), True),  # the archive claims the first size
        (inside(6, 9, mask=0), False),  # an entry has this size, and the tags are unknown
        (inside(9, kinds={"luks": 2}), True),
    ],
)
def test_a_container_is_not_opened_if_its_members_are_known_and_not_listed(
    lists: OpenLists,
    members: Callable[..., Members],
    tmp_path: Path,
    known: Inside,
    is_known: bool,
    believed: bool,
    refuses: bool,
) -> None:
    cache = Known(7, day=5 if believed else 0)
    cache.inside = known, believed
    has_unopened = bool((known["mask"] == 128).any())
    result = check(lists, tmp_path, ARCHIVE, cache=cache, members=members(refuses=refuses))
    if is_known and not (has_unopened and refuses):
        count = 1 if has_unopened else 2
        claimed = int(np.count_nonzero((known["mask"] == 0) & (known["exact"] == 0)))
        # The size of the container itself rules it out.
        assert counts(result) == {
            "clean": 1 + count,
            "members": count,
            "ruled_out_by_size": 1,
            "known_unchanged": count - claimed,
        } | ({"believed_unchanged": count - claimed} if believed else {})
        assert result.ruled_out_by_claim == claimed
        assert result.not_opened == ({"luks": 2} if has_unopened else {})
    else:
        assert (result.clean, result.members, result.known_unchanged) == (2, 1, 0)
        assert result.not_opened == {}
    assert result.outcomes == []


@pytest.mark.parametrize("of", ["its own", "another", "none"])
def test_a_file_that_was_listed_with_another_inode_is_looked_for(
    lists: OpenLists, tmp_path: Path, of: str
) -> None:
    """If another file has taken the name, its size says nothing about the file in the listing."""

    def inodes(path: Path) -> list[int]:
        inode = path.stat().st_ino
        return [{"its own": inode, "another": inode + 999_999, "none": 0}[of]]

    result = check(lists, tmp_path, OTHER, inodes=inodes)
    assert counts(result) == BY_SIZE
    assert bool(result.lost) is (of == "another")


def test_a_kind_that_is_not_opened_is_counted_each_time(
    lists: OpenLists, members: Callable[..., Members], tmp_path: Path
) -> None:
    result = check(lists, tmp_path, ENCRYPTED, cache=Known(7), members=members())
    assert result.not_opened == {"luks": 1}
    assert counts(result) == BY_SIZE
    refused = check(lists, tmp_path, ENCRYPTED, cache=Known(7), members=members(refuses=True))
    assert [one.kind for one in refused.outcomes] == [Kind.UNREAD]
