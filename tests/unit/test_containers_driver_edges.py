"""The driver at the edges of its limits: what is read and asked, and which rows are written."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from fixtures import archives
from fixtures.ole import ole_of
from fixtures.others import program_of, seven_zip_of
from fixtures.unopened import disk
from hashclient.containers import driver, libarchive
from hashclient.containers import limits as limits_module
from hashclient.containers.driver import Driver, Spool, Tee
from hashclient.containers.interface import (
    HEAD_BYTES,
    ISO_HEAD_BYTES,
    NEVER,
    Data,
    Expander,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)
from hashclient.containers.limits import Budget, LimitError, Limits
from hashclient.containers.protocol import MAX_NAME_BYTES, Job, Row
from hashclient.containers.registry import Registry
from hashclient.containers.sniffing import ReadAt
from hashclient.core.model import Mail

X, LUKS = b"a listed file", b"LUKS\xba\xbe" + bytes(600)
SHA1, SHA256, BOTH = 2, 4, 6
DAMAGED = NotReadError(Why.DAMAGED, "it is damaged")


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def pieces_of(pieces: Iterable[bytes], error: Exception | None = None) -> Iterator[bytes]:
    yield from pieces
    if error is not None:
        raise error


# A member that is read once


def tee_of(
    *pieces: bytes, mask: int = SHA256, most: int = 99, limits: Limits = Limits(),  # noqa: B008
    error: Exception | None = None,
) -> Tee:  # fmt: skip
    return Tee(pieces_of(pieces, error), mask, Budget(limits, 0), most)


@pytest.mark.parametrize("peeked", [0, 1, 4])
@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("size", [0, 9, 10, 11, 30])
def test_a_member_is_kept_up_to_a_limit_and_then_its_end_alone(
    size: int, step: int, peeked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TAIL_BYTES", 5)
    data = bytes(range(size))
    tee = tee_of(*(data[at : at + step] for at in range(0, size, step)), most=10)
    assert tee.peek(peeked) == data[:peeked]
    tee.keep()
    tee.drain()
    kept = tee.spooled()
    assert (kept is None) is (size > 10)
    if kept is not None:
        assert (kept.size, kept.read_at(0, 99), kept.read_at(3, 4)) == (size, data, data[3:7])
    assert (tee.tail, tee.length, tee.digests()) == (data[-5:], size, sha256(data))
    assert not tee.hides_archive


@pytest.mark.parametrize("step", [1, 100, 511, 512, 513, 2_000])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1_500])
def test_the_last_bytes_of_a_member_are_remembered(size: int, step: int) -> None:
    data = bytes(number % 251 for number in range(size))
    tee = tee_of(*(data[at : at + step] for at in range(0, size, step)))
    tee.drain()
    assert data.endswith(tee.end) and len(tee.end) >= min(size, 512)


def test_after_an_error_no_more_bytes_are_given() -> None:
    tee = tee_of(b"ab", b"", b"c", error=DAMAGED)
    assert [tee.read(1), tee.read(9), tee.read(9), tee.read(9), tee.read(9)] == [
        *(b"a", b"b", b"c", b"", b"")
    ]
    assert (tee.error, tee.length, tee.digests()) == (DAMAGED, 3, sha256(b"abc"))
    assert tee_of(b"abc", mask=0).digests() == b""
    both = tee_of(b"abc", mask=BOTH)
    both.drain()
    assert both.digests() == hashlib.sha1(b"abc").digest() + sha256(b"abc")
    few = tee_of(b"ab", b"cd", limits=Limits(bytes_out=3))
    with pytest.raises(LimitError, match="more than 3 bytes come out"):
        few.drain()


# A container


class Sink:
    """Keeps what the driver writes; members of the sizes in `wanted` are read."""

    def __init__(self, wanted: Iterable[int] = ()) -> None:
        self.wanted = frozenset(wanted)
        self.asked: list[list[int]] = []
        self.containers: list[tuple[int, bytes]] = []
        self.rows: list[Row] = []

    def ask(self, sizes: Sequence[int]) -> bytes:
        self.asked.append(list(sizes))
        return bytes(SHA256 * (size in self.wanted) for size in sizes)

    def container(self, parent: int, name: bytes, mail: Mail | None = None) -> int:
        assert mail is None
        self.containers.append((parent, name))
        return len(self.containers)

    def row(self, row: Row) -> None:
        self.rows.append(row)


class Given:
    """An expander whose members a test gives."""

    name = "given"

    def __init__(self, found: Iterable[list[Member] | Unlisted], *, seeks: bool) -> None:
        self._found = found
        self.seeks = seeks

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        yield from self._found


class WithGiven(Registry):
    """The registry of all kinds, and of one more that only the file itself has."""

    def __init__(self, given: Given, most: int | None) -> None:
        super().__init__()
        self._given, self._limit = given, most

    def most_members(self, name: str) -> int | None:
        return self._limit if name == "given" else super().most_members(name)

    def pick(
        self, head: bytes, tail: bytes, size: int = 0, read_at: ReadAt | None = None
    ) -> list[Expander]:
        if head == b"given":
            return [self._given]
        return super().pick(head, tail, size, read_at)


def drive(
    *found: list[Member] | Unlisted, wanted: Iterable[int] = (), seeks: bool = True,
    limits: Limits = Limits(), one_mask: int | None = None, forced: bool = False,  # noqa: B008
    verify_sizes: bool = False, most: int | None = None,
) -> Sink:  # fmt: skip
    sink, registry = Sink(wanted), WithGiven(Given(found, seeks=seeks), most)
    job = Job(5, BOTH, one_mask, forced)
    one = Driver(registry, limits, job, sink, verify_sizes=verify_sizes)
    one.run(lambda: Spool(bytearray(b"given")))
    return sink


def member(
    *pieces: bytes, name: bytes = b"m", size: int | None = None, is_exact: bool = False,
    error: Exception | None = None, head: Callable[[int], bytes] | None = None, kind: str = "",
    offset: int = 0, is_again: bool = False,
) -> Member:  # fmt: skip
    return Member(
        *(name, size),
        is_exact=is_exact,
        chunks=lambda: pieces_of(pieces, error),
        offset=offset,
        kind=kind,
        head=head,
        is_again=is_again,
    )


def refuse(_count: int = 0) -> bytes:
    raise AssertionError("this member must not be read")


def read_row(data: bytes, name: bytes = b"m", container: int = 0) -> Row:
    return Row(container, name, len(data), SHA256, sha256(data))


def unread_row(detail: str = "it is damaged", name: bytes = b"m", why: str = "damaged") -> Row:
    return Row(0, name, None, why=why, detail=detail)


SIZED = [member(X, size=len(X), is_exact=True), member(X, size=9), member(X)]


@pytest.mark.parametrize(
    ("members", "options", "asked", "masks"),
    [
        (SIZED, {}, [[13, 9, -1]], [SHA256, 0, SHA256]),
        (SIZED, {"verify_sizes": True}, [[13, -1, -1]], [SHA256] * 3),
        (SIZED[:1], {}, [[13]], [SHA256]),
        (SIZED[1:2], {}, [[9]], [0]),
        (SIZED[:1], {"seeks": False}, [], [BOTH]),
        (SIZED[:2], {"seeks": False}, [[13, 9]], [SHA256, 0]),
        (SIZED, {"one_mask": SHA1}, [], [SHA1] * 3),
        (SIZED, {"one_mask": 0}, [], [0] * 3),
        (SIZED, {"one_mask": SHA1, "forced": True}, [], [BOTH] * 3),
        (SIZED, {"forced": True}, [], [BOTH] * 3),
        (SIZED[:0], {}, [], []),
    ],
)
def test_a_directory_is_asked_about_at_once_where_the_answer_depends_on_sizes(
    members: list[Member], options: dict[str, bool], asked: list[list[int]], masks: list[int]
) -> None:
    sink = drive(members, wanted=(13, -1), **options)  # type: ignore[arg-type]
    assert (sink.asked, [row.mask for row in sink.rows]) == (asked, masks)
    assert all(row.ruled_out is not bool(row.mask) for row in sink.rows)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_long_directory_is_asked_about_in_parts(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "ASK_AT_ONCE", 2)
    members = [member(bytes(number), size=number + 1) for number in range(count)]
    sink = drive(members, wanted=(2, 4, 5))
    assert [size for asked in sink.asked for size in asked] == list(range(1, count + 1))
    assert [len(asked) for asked in sink.asked] == [2] * (count // 2) + [1] * (count % 2)
    assert [bool(row.mask) for row in sink.rows] == [n + 1 in (2, 4, 5) for n in range(count)]


LONG = b"n" * (MAX_NAME_BYTES + 1)
OUT = Row(0, b"m", 9, ruled_out=True)


@pytest.mark.parametrize(
    ("found", "rows"),
    [
        ([member(X)], [read_row(X)]),
        ([member(b"a ", b"listed", b" file")], [read_row(b"a listed file")]),
        ([member()], [read_row(b"")]),
        ([member(X, error=DAMAGED)], [read_row(X), unread_row()]),
        ([member(error=DAMAGED)], [unread_row()]),
        ([member(X, error=ValueError())], [unread_row("cannot be parsed: ValueError")]),
        ([member(X, error=MemoryError())], [unread_row("more than 64 MiB of memory", why="limit")]),
        ([member(X, size=9)], [OUT]),
        ([member(X, size=9, is_exact=True)], [Row(0, b"m", 9, ruled_out=True, exact=True)]),
        ([member(X, size=9, error=DAMAGED)], [unread_row()]),
        ([member(size=0, is_exact=True, error=DAMAGED)], [
            Row(0, b"m", 0, ruled_out=True, exact=True),
        ]),
        ([member(size=0, error=DAMAGED)], [unread_row()]),
        ([member(size=0)], [Row(0, b"m", 0, ruled_out=True)]),
        ([member(X, name=b"", offset=7)], [read_row(X, b"@7")]),
        ([member(X, name=b"", size=9, offset=7)], [Row(0, b"@7", 9, ruled_out=True)]),
        ([member(X, name=b"")], [read_row(X, b"")]),
        ([member(X, offset=7)], [read_row(X)]),
        ([member(X, name=LONG)], [read_row(X, LONG[:-1])]),
        ([member(X, name=LONG[1:], error=DAMAGED)], [
            read_row(X, LONG[1:]), unread_row(name=LONG[1:]),
        ]),
        (Unlisted(b"u", Why.ENCRYPTED, "it is"), [unread_row("it is", b"u", "encrypted")]),
        (Unlisted(LONG, Why.DAMAGED, "it is"), [unread_row("it is", LONG[1:])]),
        (Unlisted(b"u", Why.NOT_OPENED, "luks"), [Row(0, b"", None, not_opened="luks")]),
    ],
)  # fmt: skip
def test_a_member_has_a_row_for_its_result(found: list[Member] | Unlisted, rows: list[Row]) -> None:
    sink = drive(found, [member(b"behind", name=b"b")], wanted=(-1,), limits=Limits(memory_mib=64))
    assert sink.rows == [*rows, read_row(b"behind", b"b")]
    assert not sink.containers


KOLY = b"x" * 99 + b"koly".ljust(512, b"\0")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(LUKS, "luks"), (KOLY, "dmg"), (KOLY + b"x", ""), (gzip.compress(X) + KOLY, "")],
)
def test_a_member_of_a_kind_that_is_not_opened_is_a_container_of_it(
    content: bytes, kind: str
) -> None:
    sink = drive([member(content[:100], content[100:])], wanted=(-1,))
    assert read_row(content) in sink.rows
    counted = [
        (sink.containers[row.container - 1], row.name) for row in sink.rows if row.not_opened
    ]
    assert [row.not_opened for row in sink.rows if row.not_opened] == [kind] * bool(kind)
    assert counted == [((0, b"m"), b"")] * bool(kind)


def test_a_member_of_such_a_kind_is_counted_even_if_it_is_ruled_out() -> None:
    sink = drive([member(LUKS, size=9, head=lambda count: LUKS[:count])])
    assert sink.containers == [(0, b"m")]
    assert sink.rows == [OUT, Row(1, b"", None, not_opened="luks")]


def test_members_of_such_kinds_count_as_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker takes no more containers than this from one file, opened or not."""
    monkeypatch.setattr(limits_module, "MAX_CONTAINERS", 3)
    sink = drive([member(LUKS, name=b"%d" % number) for number in range(4)])
    assert sink.containers == [(0, b"0"), (0, b"1")]  # the file itself is the third container
    assert sink.rows[-1] == Row(0, b"", None, why="limit", detail="more than 3 containers")


# The first bytes of a member


@pytest.mark.parametrize(
    ("size", "begin", "asked"),
    [
        (1, b"text", [HEAD_BYTES]),
        (ISO_HEAD_BYTES - 1, b"text", [HEAD_BYTES]),
        (ISO_HEAD_BYTES, b"text", [ISO_HEAD_BYTES]),
        (9, b"\x60\xeatext", [HEAD_BYTES, ISO_HEAD_BYTES]),
        (ISO_HEAD_BYTES, b"\x60\xeatext", [ISO_HEAD_BYTES] * 2),
    ],
)
def test_of_a_member_that_is_ruled_out_the_first_bytes_are_read(
    size: int, begin: bytes, asked: list[int]
) -> None:
    counts: list[int] = []

    def head(count: int) -> bytes:
        counts.append(count)
        return begin

    sink = drive([member(size=size, head=head, error=AssertionError())])
    assert sink.rows == [Row(0, b"m", size, ruled_out=True)]
    assert counts == asked


def test_first_bytes_that_fail_or_say_nothing_let_the_member_be_read() -> None:
    def fail(count: int) -> bytes:
        raise ValueError(count)

    def stop(_count: int) -> bytes:
        raise LimitError("enough")

    after = [member(b"behind", name=b"b")]
    for one, rows in (
        (member(X, size=9, head=fail), [OUT]),
        (member(X, size=9, head=fail, error=DAMAGED), [unread_row()]),
        (member(error=DAMAGED, head=refuse), [unread_row()]),
        (member(X, size=9, head=refuse, kind=NEVER), [OUT]),
    ):
        assert drive([one], after, wanted=(5,)).rows[:-1] == rows
    sink = drive([member(X, size=9, head=stop)], after)
    assert sink.rows == [unread_row("enough", b"", "limit")]


def test_first_bytes_count_as_bytes_that_come_out() -> None:
    few = [member(size=9, head=lambda _count: bytes(5)) for _ in range(3)]
    for most, count in ((15, 3), (14, 2), (5, 1)):
        sink = drive(few, limits=Limits(bytes_out=most))
        assert [row.ruled_out for row in sink.rows] == [True] * count + [False] * (count < 3)


# Containers in a container


def test_the_container_of_a_member_may_say_its_kind() -> None:
    tar, zip_ = archives.tar_of({"t": X}), archives.zip_of({"z": X})
    for content, kind, names in (
        (tar, "", [b"t"]),
        (tar, "tar", [b"t"]),
        (zip_, "", [b"z"]),
        (zip_, NEVER, []),
        (tar, NEVER, []),
        (zip_, "gzip", []),
    ):
        sink = drive([member(content, kind=kind)], one_mask=SHA256)
        assert [row.name for row in sink.rows if row.container and row.mask] == names
        assert bool(sink.containers) is (kind != NEVER)
        assert read_row(content) in sink.rows


def test_a_container_has_as_many_members_as_its_kind_may_have() -> None:
    one, none = [member(X)], Unlisted(b"u", Why.DAMAGED, "it is damaged")
    too_many = unread_row("given: too many members", b"", "limit")
    cases: list[tuple[list[list[Member] | Unlisted], int]] = [
        ([one, one], 2),
        ([one, one, one], 2),
        ([none, one, one], 2),
        ([one * 2, none], 2),
        ([one, one * 2], 1),
        ([one * 3], 0),
        ([[], one, [], one, []], 2),
    ]
    for found, count in cases:
        rows = drive(*found, most=2, one_mask=SHA256).rows
        is_over = sum(1 if isinstance(part, Unlisted) else len(part) for part in found) > 2
        assert [row == too_many for row in rows] == [False] * count + [True] * is_over
    for part in (one, none):
        rows = drive(part, part, part, limits=Limits(members=2), one_mask=SHA256).rows
        assert rows[-1] == unread_row("more than 2 members", b"", "limit")
        assert len(rows) == 3


@pytest.mark.parametrize("over", [0, 1])
def test_a_container_in_another_is_kept_in_half_of_the_memory(over: int) -> None:
    content = bytes((2 << 20) - 100 + over)
    inner = archives.zip_of({"x": content}, archives.STORED)
    assert len(inner) == (2 << 20) + over
    half = len(inner) // 2
    sink = drive([member(inner[:half], inner[half:])], one_mask=SHA256, limits=Limits(memory_mib=4))
    assert read_row(inner) in sink.rows and sink.containers == [(0, b"m")]
    rest = [row for row in sink.rows if row.container]
    if over:
        assert rest == [Row(1, b"", None, why="limit", detail="more than 2 MiB of memory")]
    else:
        assert rest == [read_row(content, b"x", 1)]


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: archives.zip_of({"": data})])
def test_the_same_bytes_in_several_readings_are_opened_once(
    pack: Callable[[bytes], bytes],
) -> None:
    inner, other = pack(X), pack(X + b"!")
    for are_again, count in (((False, False), 2), ((True, True), 1), ((False, True), 2)):
        sink = drive([member(inner, is_again=one) for one in are_again], one_mask=SHA256)
        assert len(sink.containers) == count
        assert sink.rows.count(read_row(inner)) == 2
    sink = drive([member(one, is_again=True) for one in (inner, other, inner)], one_mask=SHA256)
    assert len(sink.containers) == 2


def test_a_file_that_cannot_be_read_is_unread() -> None:
    class Broken(Spool):
        def read_at(self, offset: int, count: int) -> bytes:
            raise DAMAGED

    sink = Sink()
    Driver(Registry(), Limits(), Job(5, BOTH, None, forced=False), sink, verify_sizes=False).run(
        lambda: Broken(bytearray(b"given"))
    )
    assert sink.rows == [unread_row(name=b"")]


def test_a_member_of_exactly_the_limit_is_kept_even_if_all_of_it_was_looked_at() -> None:
    for most, is_kept in ((3, True), (2, False)):
        tee = tee_of(b"abc", most=most)
        assert tee.peek(1) == b"a"
        tee.keep()
        tee.drain()
        assert (tee.spooled() is not None) is is_kept


def test_the_end_of_a_long_file_is_searched_behind_128_kib() -> None:
    picture, archive = b"\xff\xd8\xff\xe0" + bytes(200_000), archives.zip_of({"z": X})
    for more, names in ((0, [b"z"]), (1, [])):
        data, sink = picture + archive + bytes((128 << 10) + more), Sink()
        one = Driver(
            Registry(), Limits(), Job(len(data), BOTH, SHA256, forced=False), sink,
            verify_sizes=False,
        )  # fmt: skip
        one.run(lambda data=data: Spool(bytearray(data)))  # type: ignore[misc]
        assert [row.name for row in sink.rows] == names


IMAGE = b"x" * 32_769 + b"CD001" + bytes(9_000)


@pytest.mark.parametrize(
    ("size", "mask", "is_found"),
    [
        (None, 0, True),
        (len(IMAGE), 0, True),
        (ISO_HEAD_BYTES, 0, True),
        (9, SHA256, True),
        (9, 0, False),  # a member with this number of bytes is no image
    ],
)
def test_the_mark_of_an_image_is_looked_for_in_each_member_that_may_have_it(
    size: int | None, mask: int, *, is_found: bool
) -> None:
    pieces = [IMAGE[at : at + 400] for at in range(0, len(IMAGE), 400)]
    sink = drive([member(*pieces, size=size)], one_mask=mask)
    assert sink.containers == [(0, b"m")] * is_found


HYBRID = disk()[:32_769] + b"CD001" + bytes(9_000)


@pytest.mark.parametrize(
    ("data", "kinds"),
    [(LUKS, ["luks"]), (disk(), ["disk"]), (HYBRID, []), (KOLY, ["dmg"]), (b"text", [])],
)
def test_a_file_of_a_kind_that_is_not_opened_has_a_row_for_its_kind(
    data: bytes, kinds: list[str]
) -> None:
    """An image of a disk may also begin like a disk with partitions."""
    sink = Sink()
    job = Job(len(data), BOTH, None, forced=False)
    one = Driver(Registry(), Limits(), job, sink, verify_sizes=False)
    one.run(lambda: Spool(bytearray(data)))
    assert [row for row in sink.rows if row.not_opened] == [
        Row(0, b"", None, not_opened=kind) for kind in kinds
    ]
    inner = drive([member(data)], wanted=(-1,))
    assert [row.not_opened for row in inner.rows if row.not_opened] == kinds


def test_a_document_in_another_container_hides_no_zip_behind_it() -> None:
    inner = ole_of({"a": b"in the document"}) + archives.zip_of({"z": X})
    sink = drive([member(inner)], one_mask=SHA256)
    names = [row.name for row in sink.rows if row.container == 1 and row.mask]
    assert names == [b"a", b"z"] and read_row(X, b"z", 1) in sink.rows
    assert sink.containers == [(0, b"m")] and read_row(inner) in sink.rows


@pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")
def test_an_archive_in_a_program_in_another_container_is_opened() -> None:
    for inner in (
        program_of(seven_zip_of({"z": X}) + bytes(2_000)),
        program_of(b"", bytes(50) + seven_zip_of({"z": X})),
    ):
        sink = drive([member(inner[:900], inner[900:])], one_mask=SHA256)
        assert read_row(X, b"z", 1) in sink.rows and read_row(inner) in sink.rows
        assert not any(row.why for row in sink.rows)
