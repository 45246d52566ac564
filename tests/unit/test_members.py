"""Members of containers: which members are kept, counted and named, at every limit."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hashclient.config.tables import ContainersConfig
from hashclient.containers.cage import Found
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.limits import Options
from hashclient.containers.mailfacts import mail_facts
from hashclient.containers.protocol import Row
from hashclient.containers.unopened import NAMES
from hashclient.core.digests import digests_of
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Mail, Outcome, Seen
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.check import members as module
from hashclient.scan.check.kept import Kept
from hashclient.scan.check.members import Members, Opened
from hashclient.scan.values.work import CHANGED, Result
from hashclient.system.text import MAX_EXCERPT_CHARS
from tests.kit import csv_of
from tests.unit.test_checker import lists_of

MATCHES, UNREAD = Outcome(Kind.MATCH, "a"), Outcome(Kind.UNREAD, "a")
CONFLICTS = Outcome(Kind.CONFLICT, "a")
LISTED = b"listed"
#: A kind with files in it that is not opened.
KIND = NAMES[1]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> OpenLists:
    return lists_of(tmp_path_factory.mktemp("lists"), base=csv_of({"e-1": LISTED}))


@contextlib.contextmanager
def opener(lists: OpenLists, **options: Any) -> Iterator[Members]:
    keep_clean = options.pop("keep_clean", False)
    made = Members(lists.judge(), Options(**options), keep_clean=keep_clean)
    with contextlib.closing(made):
        yield made


@contextlib.contextmanager
def file_of(directory: Path, data: bytes) -> Iterator[int]:
    path = directory / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_outcomes_are_kept_up_to_a_limit_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A member that was left out is not counted as read, and unread members leave out no match."""
    assert module.MAX_KEPT == 10_000
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    opened = Opened(read=5)
    for outcome in (UNREAD, UNREAD, UNREAD, MATCHES, CONFLICTS):
        opened.keep(outcome)
    assert (opened.kept_unread, opened.kept, opened.left_out, opened.read) == (2, 2, 1, 5)
    for outcome in (UNREAD, MATCHES, CONFLICTS):
        opened.keep(outcome)
    assert (opened.kept_unread, opened.kept, opened.left_out, opened.read) == (2, 2, 4, 3)
    assert opened.outcomes == [UNREAD, UNREAD, MATCHES, CONFLICTS]
    assert opened.known() is None


@pytest.mark.parametrize(
    ("parts", "exact", "claimed", "kinds", "members", "known"),
    [
        ([], [], [], {}, 0, None),
        ([1], [], [], {}, 1, 1),
        ([], [7], [], {}, 1, 1),
        ([], [], [8], {}, 1, 1),
        ([], [], [], {KIND: 1}, 0, 1),
        ([1], [7], [8], {KIND: 1}, 3, 4),
        ([1, 1], [7], [8], {}, 4, 4),
        ([2], [7], [8], {KIND: 1}, 4, None),  # one member more than the limit of kept members
        ([1], [7], [8], {KIND: 2}, 3, None),
        ([1], [7], [8], {KIND: 3}, 3, None),
        ([1], [], [], {}, 2, None),  # one of the two members is missing
        ([2], [], [], {}, 1, None),
        ([], [], [], {KIND: 5}, 0, None),
    ],
)
def test_the_record_of_a_container_has_all_its_members_or_is_none(
    monkeypatch: pytest.MonkeyPatch,
    parts: list[int],
    exact: list[int],
    claimed: list[int],
    kinds: dict[str, int],
    members: int,
    known: int | None,
) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 4)
    opened = Opened(members=members, not_opened=kinds)
    opened.columns += [np.full(count, 3, MEMBER) for count in parts]
    opened.exact_sizes.extend(exact)
    opened.claimed_sizes.extend(claimed)
    record = opened.known()
    if known is None:
        assert record is None
        return
    rows = np.frombuffer(record or b"", MEMBER)
    assert len(rows) == known
    unread = rows[rows["mask"] == 0]
    assert list(zip(unread["size"].tolist(), unread["exact"].tolist(), strict=True)) == [
        *((size, 1) for size in exact),
        *((size, 0) for size in claimed),
    ]
    assert opened.is_container


@pytest.mark.parametrize("refuses", [False, True])
def test_a_file_that_is_not_opened_is_counted_and_unread_if_that_is_asked_for(
    lists: OpenLists, refuses: bool
) -> None:
    with opener(lists, refuses_unopened=refuses) as members:
        opened = members.left(KIND, "/a.rar")
    result = Result()
    opened.add_to(result)
    assert result.not_opened == {KIND: 1}
    assert (result.members, len(result.outcomes)) == (int(refuses), int(refuses))
    assert opened.is_container
    assert not Opened().is_container
    for outcome in result.outcomes:
        assert (outcome.kind, outcome.members) == (Kind.UNREAD, ("",))
        assert outcome.obstacle is not None and str(outcome.reason).endswith(f": {KIND}")


def test_only_what_hits_says_which_file_it_was_in(lists: OpenLists) -> None:
    hit = Outcome(Kind.MATCH, "a", hits=(object(),))  # type: ignore[arg-type]
    seen, result = Seen(1, 2, 3, 4), Result(clean=1, members=1, members_read=1)
    opened = Opened(clean=2, members=4, read=1, outcomes=[hit, UNREAD])
    opened.exact_sizes.extend([1, 2, 3])
    opened.claimed_sizes.extend([4, 5])
    opened.add_to(result, seen)
    assert [one.seen for one in result.outcomes] == [seen, None]
    assert (result.clean, result.members, result.members_read) == (3, 5, 2)
    assert (result.ruled_out_by_size, result.ruled_out_by_claim) == (3, 2)
    opened.add_to(other := Result())
    assert [one.seen for one in other.outcomes] == [None, None]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.gz", "a"),
        ("a.tar.gz", "a.tar"),
        *((f"a.{suffix}", "a.tar") for suffix in ("tgz", "TBZ", "tbz2", "txz", "tzst")),
        ("b/a.gz", "a"),
        ("b.c/a", "a"),
        ("b.c/", "content"),
        ("a", "a"),
        (".gz", ".gz"),
        ("b/.gz", ".gz"),
        ("a.", "a"),
        ("", "content"),
        ("tgz", "tgz"),
    ],
)
def test_a_compressed_file_is_named_after_its_container(name: str, stem: str) -> None:
    assert module._stem(name) == stem


@pytest.mark.parametrize(
    ("chain", "is_whole", "names"),
    [
        ([], False, ()),
        ([b"x"], False, ("x",)),
        ([b""], False, ("a.tar",)),
        ([b""], True, ("",)),
        ([b"", b""], True, ("a.tar", "")),
        ([b"", b"", b"m"], False, ("a.tar", "a", "m")),
        ([b"b/c.gz", b""], False, ("b/c.gz", "c")),
        ([b"\xff"], False, ("\udcff",)),
    ],
)
def test_names_lead_from_the_outermost_container_inwards(
    chain: list[bytes], is_whole: bool, names: tuple[str, ...]
) -> None:
    assert module._names("/d/a.tgz", tuple(chain), is_whole=is_whole) == names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("s3://bu/d/a.tgz?versionId=hS.sQW", "a.tar"),
        ("s3://bu/key?versionId=x/y.z", "key"),
        ("/d/a?b.gz", "a?b"),
    ],
)
def test_the_version_of_an_object_is_no_part_of_the_names_of_members(path: str, name: str) -> None:
    assert module._names(path, (b"",)) == (name,)


@pytest.mark.parametrize("why", ["missing", "failed", "limit"])
def test_the_reason_of_an_unread_member_is_short(why: str) -> None:
    outcome = module._unread("/a", ("m",), why, "x" * 9_999)
    assert outcome.obstacle == why
    prefix = "limit: " if why == "limit" else ""
    assert outcome.reason == prefix + "x" * MAX_EXCERPT_CHARS


@pytest.mark.parametrize(
    ("sandbox", "end"),
    [("require", "none is opened"), (None, "the process that opens them is less confined")],
)
@pytest.mark.parametrize("missing", ["", "Landlock"])
def test_a_kernel_that_confines_less_is_told(
    monkeypatch: pytest.MonkeyPatch, missing: str, sandbox: Any, end: str
) -> None:
    monkeypatch.setattr(module, "kernel_locks", lambda: SimpleNamespace(missing=missing))
    noticed: list[str] = []
    config = ContainersConfig() if sandbox is None else ContainersConfig(sandbox=sandbox)
    made = module.container_options(config, noticed.append)
    assert noticed == [f"containers: this kernel has no Landlock: {end}"] * bool(missing)
    assert made == Options(requires_sandbox=sandbox is not None)


@pytest.mark.parametrize("mask", range(1, 8))
def test_each_digest_is_cut_out_of_the_joined_ones(mask: int) -> None:
    algorithms = Algorithm.in_mask(mask)
    parts = [bytes([a]) * a.digest_bytes for a in algorithms]
    found = Found((b"m",), Row(0, b"m", 1, mask, b"".join(parts)))
    assert [module._digest(found, a) for a in algorithms] == parts


def test_a_stream_that_could_not_be_kept_is_unread_and_another_has_no_members(
    lists: OpenLists,
) -> None:
    with opener(lists, refuses_unopened=True) as members:
        assert members.memory_bytes == members._options.limits.memory_mib * 1024 * 1024
        assert not members.has_failed
        for failure, not_opened, expected in (
            (None, "", []),
            ("no room", "", [(Kind.UNREAD, "no room", "limit")]),
            (None, KIND, [(Kind.UNREAD, f"not-opened: {KIND}", "not-opened")]),
        ):
            with contextlib.closing(Kept(9)) as kept:
                kept.failure, kept.not_opened = failure, not_opened
                opened = members.open_kept(kept, "stdin")
            found = [(one.kind, one.reason, one.obstacle) for one in opened.outcomes]
            assert found == expected
            assert all(one.is_stream for one in opened.outcomes)
            assert opened.members == len(expected)


def found_of(data: bytes, *, mask: int = 7, mail: Mail | None = None, **row: Any) -> Found:
    digests = b"".join(digests_of(Algorithm.in_mask(mask), memoryview(data)))
    name = row.pop("name", data)
    return Found((name,), Row(0, name, row.pop("size", len(data)), mask, digests, **row), mail)


class Cage:
    """Replaces the process that opens containers: it finds the members that a test has set."""

    has_failed = False

    def __init__(self, *found: Found) -> None:
        self.found = found
        self.jobs: list[Any] = []

    def open(self, _fd: int, _size: int, job: Any, on_found: Any) -> int:
        self.jobs.append(job)
        for one in self.found:
            on_found([one])
        return 100

    def close(self) -> None: ...


def opened_by(members: Members, cage: Cage, fd: int, **how: Any) -> Opened:
    members._cage = cage  # type: ignore[assignment]
    return members.open(fd, 8, "/d/a.zip", how.pop("is_unchanged", lambda: True), **how)


@pytest.mark.parametrize("keep_clean", [False, True])
def test_members_are_counted_once_by_what_their_answer_rests_on(
    lists: OpenLists, tmp_path: Path, keep_clean: bool
) -> None:
    mail = Mail("id", "sender")
    found = [
        found_of(LISTED, mail=mail),
        found_of(b"LISTED"),
        found_of(b"exact", ruled_out=True, exact=True),
        found_of(b"claimed", ruled_out=True),
        found_of(b"", ruled_out=True, size=None),
        found_of(b"why", why="limit", detail="too many"),
        found_of(b"rest", why="failed", detail="broken", name=b""),
    ]
    with file_of(tmp_path, b"no mail!") as fd, opener(lists, keep_clean=keep_clean) as members:
        opened = opened_by(members, cage := Cage(*found), fd)
        assert len(cage.jobs) == 1
        assert members.bytes_out == 100
        opened_by(members, cage, fd)
        assert members.bytes_out == 200
    assert (opened.members, opened.read, opened.clean) == (7, 2, 4)
    assert ([*opened.exact_sizes], [*opened.claimed_sizes]) == ([5], [7, 0])
    told = {one.members: (one.kind, one.size) for one in opened.outcomes}
    clean = {"exact": 5, "claimed": 7, "a": None, "LISTED": 6} if keep_clean else {}
    assert told == {
        ("listed",): (Kind.MATCH, 6),
        ("why",): (Kind.UNREAD, None),
        ("",): (Kind.UNREAD, None),
    } | {(name,): (Kind.CLEAN, size) for name, size in clean.items()}
    (match,) = [one for one in opened.outcomes if one.kind is Kind.MATCH]
    assert match.outer is not None
    assert (match.outer.size, match.outer.members, match.mail) == (8, 7, mail)
    assert set(match.outer.tags) == set(match.tags) == set(match.digests) == set(Algorithm)
    others = [one for one in opened.outcomes if one.kind is not Kind.MATCH]
    assert not any(one.outer or one.tags for one in others)


@pytest.mark.parametrize("inner", [None, Mail("<c@d>", "c@example.org")])
def test_a_match_in_a_mail_says_which_mail_it_was(
    lists: OpenLists, tmp_path: Path, inner: Mail | None
) -> None:
    """The mail that is the file itself is named, whatever mail it contains."""
    head = b"Message-ID: <a@b.example>\r\nFrom: a@b.example\r\nTo: c@d.example\r\n\r\nx\r\n"
    with file_of(tmp_path, head) as fd, opener(lists) as members:
        opened = opened_by(members, Cage(found_of(LISTED, mail=inner)), fd)
    (match,) = opened.outcomes
    assert mail_facts(head) is not None
    assert match.mail == mail_facts(head)


def test_a_match_stays_if_its_container_cannot_be_read_any_more(
    lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(module, "digest_fd", fail)
    mail = Mail("id", "sender")
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        (match,) = opened_by(members, Cage(found_of(LISTED, mail=mail)), fd).outcomes
    assert (match.kind, match.mail) == (Kind.MATCH, mail)
    assert match.outer is not None
    assert (match.outer.size, match.outer.tags, match.outer.members) == (8, {}, 1)


def test_members_that_lack_a_digest_are_read_again_with_all(
    lists: OpenLists, tmp_path: Path
) -> None:
    """A member that matches one digest is opened again for all digests, other members are not."""
    for found, jobs, forced in (
        (found_of(LISTED, mask=2), 2, True),
        (found_of(b"LISTED", mask=2), 1, False),
        (found_of(b"other size", mask=1), 1, False),
        (found_of(LISTED, mask=7), 1, False),
    ):
        with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
            opened_by(members, cage := Cage(found), fd)
        assert len(cage.jobs) == jobs
        assert cage.jobs[-1].forced is forced
        plan = mask_of(lists.judge().plan(None))
        assert cage.jobs[-1].any_mask == (7 if forced else plan)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_members_that_are_looked_up_in_parts_are_all_found(
    lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", rows)
    found = [found_of(data) for data in (LISTED, b"LISTED", LISTED, b"12345", LISTED)]
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        opened = opened_by(members, Cage(*found), fd)
    assert (opened.members, opened.read, opened.clean, opened.kept) == (5, 5, 2, 3)
    assert sum(map(len, opened.columns)) == 5
    assert [len(part) for part in opened.columns if len(part)] == [
        *[rows] * (5 // rows),
        *([5 % rows] if 5 % rows else []),
    ]


@pytest.mark.parametrize("more", [0, 1, 3])
def test_members_beyond_the_limit_are_one_unread_input(
    lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    found = [found_of(LISTED)] * (2 + more)
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        opened = opened_by(members, Cage(*found), fd)
    assert opened.members == len(opened.outcomes) == (3 if more else 2)
    assert opened.read == 2
    if more:
        assert str(opened.outcomes[-1].reason).startswith(f"limit: {more} more are unread or match")
        assert opened.outcomes[-1].members == ("",)


@pytest.mark.parametrize("changes_at", [1, 2, None])
def test_a_file_that_changes_while_it_is_opened_is_unread(
    lists: OpenLists, tmp_path: Path, changes_at: int | None
) -> None:
    """The container may change while its members are found, or while its tags are computed."""
    looks = iter(range(1, 9))
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        cage = Cage(found_of(LISTED))
        opened = opened_by(members, cage, fd, is_unchanged=lambda: next(looks) != changes_at)
    (outcome,) = opened.outcomes
    expected = (Kind.MATCH, None) if changes_at is None else (Kind.UNREAD, CHANGED)
    assert (outcome.kind, outcome.reason) == expected
    assert opened.members == 1
    assert next(looks) == (changes_at or 2) + 1


class Failing(Cage):
    """A container process that reports members and then raises `error`."""

    def __init__(self, error: Exception, *found: Found) -> None:
        super().__init__(*found)
        self.error = error
        self.done: list[str] = []

    def open(self, _fd: int, _size: int, job: Any, on_found: Any) -> int:
        super().open(_fd, _size, job, on_found)
        raise self.error

    def stop(self) -> None:
        self.done.append("stop")

    def close(self) -> None:
        self.done.append("close")


@pytest.mark.parametrize("why", list(Why))
def test_a_container_that_is_not_read_to_its_end_has_one_unread_member_more(
    lists: OpenLists, tmp_path: Path, why: Why
) -> None:
    error = NotReadError(why, "so it is")
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        opened = opened_by(members, Failing(error, found_of(b"benign"), found_of(LISTED)), fd)
    match, unread = sorted(opened.outcomes, key=lambda one: one.kind)
    assert (match.kind, match.members) == (Kind.MATCH, ("listed",))
    said = "so it is" if why in (Why.MISSING, Why.FAILED) else f"{why}: so it is"
    assert (unread.kind, unread.members, unread.reason, unread.obstacle) == (
        *(Kind.UNREAD, ("",)),
        *(said, why),
    )
    assert (opened.members, opened.read, opened.clean, opened.known()) == (3, 2, 1, None)


@pytest.mark.parametrize("can_wait", [False, True])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_a_container_without_room_for_its_process_waits_or_is_unread(
    lists: OpenLists, tmp_path: Path, code: int, can_wait: bool
) -> None:
    cage = Failing(OSError(code, "So It Is"))
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        if can_wait or code == errno.EIO:
            with pytest.raises(OSError, match="So It Is"):
                opened_by(members, cage, fd, can_wait=can_wait)
            return
        opened = opened_by(members, cage, fd, can_wait=can_wait)
    (unread,) = opened.outcomes
    assert (unread.reason, unread.obstacle, unread.members) == ("so it is", "failed", ("",))
    assert (opened.members, opened.kept) == (1, 0)


def test_opening_is_ended_by_another_thread_at_any_time(lists: OpenLists, tmp_path: Path) -> None:
    cage = Failing(NotReadError(Why.FAILED, "stopped"))
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        members.stop()  # no process has been started yet
        failed = [members.has_failed]
        opened_by(members, cage, fd)
        assert cage.done == ["stop"]  # the new process is stopped
        members.stop()
        assert cage.done == ["stop"] * 2
        cage.has_failed = True
        failed.append(members.has_failed)
    assert failed == [False, True]
    assert cage.done == ["stop", "stop", "close"]


@pytest.mark.parametrize("refuses", [False, True])
def test_a_file_of_a_kind_that_is_not_opened_starts_no_process(
    lists: OpenLists, tmp_path: Path, refuses: bool
) -> None:
    data = b"LUKS\xba\xbe" + bytes(600)
    with (
        file_of(tmp_path, data) as fd,
        opener(lists, refuses_unopened=refuses) as members,
    ):
        opened = members.open(fd, len(data), "/d/a", lambda: True)
        assert members._cage is None
        changed = members.open(fd, len(data), "/d/a", lambda: False)
    assert opened.not_opened == {"luks": 1}
    assert [one.obstacle for one in opened.outcomes] == ["not-opened"] * refuses
    assert [one.reason for one in changed.outcomes] == [CHANGED]


@pytest.mark.parametrize(("most", "is_kept"), [(2, True), (1, False)])
def test_of_very_many_members_no_tags_are_kept(
    lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, is_kept: bool
) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", most)
    with file_of(tmp_path, b"no mail!") as fd, opener(lists) as members:
        opened = opened_by(members, Cage(found_of(b"benign"), found_of(b"BENIGN")), fd)
    assert (sum(map(len, opened.columns)), opened.known() is not None) == (
        (2, True) if is_kept else (0, False)
    )


def test_a_job_names_the_digests_that_entries_need(lists: OpenLists, tmp_path: Path) -> None:
    judge = lists.judge()
    plan = mask_of(judge.plan(None))
    with opener(lists) as members:
        for forced in (False, True):
            job = members._job(99, forced)
            assert (job.size, job.any_mask, job.forced) == (99, 7 if forced else plan, forced)
            assert job.one_mask == (plan if judge.has_one_plan else None)
    assert module._masks_of(judge, [6, 7, None]) == bytes(
        [mask_of(judge.plan(size)) for size in (6, 7, None)]
    )
