"""Lines, headers and bodies of a mail: where each ends, with pieces of any length."""

from __future__ import annotations

import re
from functools import partial

import pytest

from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import HEAD_BYTES
from hashclient.containers.mimelines import Boundaries, Hit, Lines
from tests.opened import Once

STEPS = 1, 2, 3, 5, 1 << 20


def test_a_line_ends_with_a_line_feed_or_a_return() -> None:
    ends = (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\r\r\r\n", b"\r\r\r\r\n", b"\n\r")
    data = b"".join(b"a" * n + end for end in ends for n in range(4))
    wanted = re.findall(rb"[^\r\n]*(?:\r{0,3}\n|\r)", data)
    for last in (b"", b"x", b"x\r", b"x\r\r", b"x\n"):
        for step in STEPS:
            source = Lines(Once(data + last, step))
            found = list(iter(source.line, b""))
            assert b"".join(found) == data + last
            assert found[: len(wanted)] == wanted
            assert len(found) == len(wanted) + len(re.findall(rb"x?\r|x?\n|x\Z", last))


@pytest.mark.parametrize("most", [1, 10, 4096])
def test_a_long_line_comes_in_pieces(most: int) -> None:
    for length in range(max(0, most - 3), most + 9):
        data = b"x" * length + b"\r\nnext\n"
        for step in STEPS[2:]:
            found = list(iter(partial(Lines(Once(data, step)).line, most), b""))
            assert b"".join(found) == data
            assert found[-1] == b"next\n"
            assert all(len(piece) >= most for piece in found[:-2])
            assert len(found) == 2 or length + 2 > most


def header(
    text: bytes, step: int, most: int | None = None, stack: tuple[Boundaries, ...] = ()
) -> tuple[object, ...]:
    source = Lines(Once(text, step))
    found = source.header(stack, most)
    kind = found.fields().kind
    states = found.is_mail, found.has_end, found.has_passed, source.is_old, source.is_behind_text
    return source.take(len(text)), kind, found.fields().rest, *states


TYPE = b"Content-Type: a/b\n"
#: The result for a header: what follows it, its type, and the lines that may begin a body. The
#: flags say whether the header is of mail, has an end, has other lines, has lines of an old Mac,
#: and follows other text.
Seen = tuple[bytes, bytes, bytes, bool, bool, bool, bool, bool]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (b"", (b"", b"", b"", False, True, False, False, False)),
        (b"\nx", (b"x", b"", b"", False, True, False, False, False)),
        (TYPE[:-1], (b"", b"a/b", b"", True, True, False, False, False)),
        (TYPE + b"\nx", (b"x", b"a/b", b"", True, True, False, False, False)),
        (TYPE + b"\r\nx", (b"x", b"a/b", b"", True, True, False, False, False)),
        (TYPE + b" ; n=1\n\nx", (b"x", b"a/b", b"", True, True, False, False, False)),
        (TYPE + b">From x\nFrom x\n\ny", (b"y", b"a/b", b"", True, True, False, False, False)),
        # A line that is no field begins the body, unless further fields and an empty line follow.
        (TYPE + b"odd\n\nx", (b"odd\n\nx", b"a/b", b"", True, False, False, False, False)),
        (TYPE + b"odd\nX: y\n\nz",
         (b"z", b"a/b", b"odd\nX: y\n\n", True, True, True, False, False)),
        (TYPE + b"odd\n--x\nX: y\n\nz",
         (b"odd\n--x\nX: y\n\nz", b"a/b", b"", True, False, False, False, False)),
        (TYPE + b"odd\nodder\nX: y\n\nz",
         (b"z", b"a/b", b"odd\nodder\nX: y\n\n", True, True, True, False, False)),
        (TYPE + b"odd\nodder\nX: y\nodd3\n\nz",
         (b"odd3\n\nz", b"a/b", b"odd\nodder\nX: y\n", True, False, True, False, False)),
        (TYPE + b"odd\r\n\r\nX: y\n", (b"odd\r\n\r\nX: y\n", b"a/b", b"", True, False, False, False,
         False)),
        # On an old Mac, returns end lines; in other files, a lone return is a line that is no
        # field.
        (b"Content-Type: a/b\rX: y\r\rz\r", (b"z\r", b"a/b", b"", True, True, False, True, False)),
        (TYPE + b"\rx", (b"x", b"a/b", b"", True, False, False, False, False)),
        (TYPE + b"\rX: y\n\nz", (b"z", b"a/b", b"\rX: y\n\n", True, True, True, False, False)),
    ],
)  # fmt: skip
def test_a_header_ends_at_an_empty_line_or_at_the_body(text: bytes, seen: Seen) -> None:
    for step in STEPS:
        assert header(text, step) == seen


def test_one_weak_field_makes_a_mail_if_it_is_the_first_line_of_all() -> None:
    for text, is_mail in ((b"Subject: s\n\n", True), (b"X: y\nSubject: s\n\n", False)):
        assert header(text, 3)[3] is is_mail
    source = Lines(Once(b"X: y\n\nSubject: s\n\n"))
    assert not source.header(()).is_mail and not source.header(()).is_mail


def test_a_boundary_ends_a_header_without_an_empty_line() -> None:
    outer = (Boundaries([b"x"]),)
    own = b"Content-Type: a/b; boundary=y\n"
    for line in (b"--x\n", b"--x--\n", b"--y\n"):
        for step in STEPS:
            rest, _, _, is_mail, has_end, *_ = header(own + line + b"Z: z\n\n", step, None, outer)
            assert (rest, is_mail, has_end) == (line + b"Z: z\n\n", True, True)
    for step in STEPS:
        assert header(own + b"--z\n\n", step, None, outer)[0] == b"--z\n\n"
        assert header(b"--x\n", step, None, outer)[:2] == (b"--x\n", b"")


@pytest.mark.parametrize(
    ("front", "is_found", "is_behind"),
    [
        (b"", True, False),
        (b"odd\n", True, True),
        (b"\n\nodd\n\n", True, True),
        (b"o" * (HEAD_BYTES - 1) + b"\n", True, True),
        (b"o" * HEAD_BYTES + b"\n", True, False),  # a long line before the header
        (b"odd\n" * (HEAD_BYTES // 4), True, True),
        (b"\n" * HEAD_BYTES, True, False),
        (b"\n" * (HEAD_BYTES + 1), False, False),
    ],
)
def test_lines_before_a_header_are_skipped_among_the_first_bytes(
    front: bytes, *, is_found: bool, is_behind: bool
) -> None:
    text = front + b"Subject: s\n" + TYPE + b"\nbody"
    for step in STEPS[2:]:
        rest, kind, *_, is_behind_text = header(text, step, 1 << 20)
        assert (rest == b"body", kind == b"a/b") == (is_found, is_found)
        assert is_behind_text is is_behind


def test_a_field_of_mail_is_found_on_both_sides_of_the_limit() -> None:
    """The last line that is read is the line that crosses the limit; later lines are searched."""
    for count in (9, 10, 11, 40):
        for field, is_found in ((TYPE, True), (b"Y: z\n", False)):
            text = b"X: y\n" * count + field + b"\n"
            for step in STEPS[2:]:
                assert header(text, step, 50)[3] is is_found
    text = TYPE + b"X: y\n" * 40 + b"\nz"
    assert header(text, 5, 50)[:2] == (b"z", b"a/b")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("shift", range(12))
def test_a_line_end_on_the_border_of_two_searched_pieces_is_one_line_end(
    end: bytes, shift: int
) -> None:
    begin = (b"X: y" + end) * 10  # longer than 50 bytes, so the search begins behind these lines
    long = b"X: ".ljust(PIECE_BYTES - shift, b"y") + end
    assert header(begin + long + b"X: y" + end + TYPE, PIECE_BYTES, 50)[3] is True
    assert header(begin + long + end + TYPE, PIECE_BYTES, 50)[3] is False


def test_fields_are_looked_for_within_a_line_of_any_length_that_counts() -> None:
    for length, is_found in ((100, True), (65_533, True), (65_534, False)):
        text = TYPE + b"odd\n" + b"o" * length + b"\nX: y\n\nz"
        rest, _, passed, *_ = header(text, 1 << 20)
        assert (rest == b"z", bool(passed)) == (is_found, is_found)


ALL = {"is_aside": True, "is_whole": True}
#: The result for a body: its bytes, the boundary that ends it, and what follows. The flags say
#: whether a line resembles a boundary, and whether the last return may belong to the body.
Body = tuple[bytes, Hit | None, bytes, bool, bool]


def body(
    text: bytes, step: int, *names: bytes, is_old: bool = False, is_loose: bool = False,
    is_aside: bool = False, is_whole: bool = False, guesses: bool = True,
) -> Body:  # fmt: skip
    source = Lines(Once(text, step), is_loose=is_loose, is_old=is_old)
    stack = [Boundaries([name]) for name in names]
    pieces = list(source.body(stack, is_aside=is_aside, is_whole=is_whole, guesses=guesses))
    assert all(pieces)
    rest = source.take(len(text))
    is_maybe = source.may_end_with_return
    return b"".join(pieces), source.hit, rest, source.is_doubtful, is_maybe


X, LAST, FIELD = Hit(0, is_last=False), Hit(0, is_last=True), Hit(0, is_last=False, is_field=True)
PART = b"--y\nContent-Type: t\n\n"
MANY = b"X: y\n" * 15
#: A line so long that the colon of the next field is one byte behind the searched bytes.
LONG = b"--y\nX:" + b"x" * ((16 << 10) - 15) + b"\n"
SHORTER = LONG.replace(b"x", b"", 1)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (b"", (b"", None, b"", False, False)),
        (b"a", (b"a", None, b"", False, False)),
        (b"--x", (b"", X, b"", False, False)),
        (b"--x\nb", (b"", X, b"b", False, False)),
        (b"a\n--x\nb", (b"a", X, b"b", False, False)),
        (b"a\n\n--x\nb", (b"a\n", X, b"b", False, False)),
        (b"a\n--x", (b"a", X, b"", False, False)),
        (b"a\r\n--x\r\nb", (b"a", X, b"b", False, False)),
        (b"a\r\n--x\nb", (b"a", X, b"b", False, True)),
        (b"\r\n--x\nb", (b"", X, b"b", False, True)),
        (b"\n--x\r\nb", (b"", X, b"b", False, False)),
        (b"a\n--x--\nb", (b"a", LAST, b"b", False, False)),
        (b"a\n--x \t\r\nb", (b"a", X, b"b", False, False)),
        (b"a\n--x-- \nb", (b"a", LAST, b"b", False, False)),
        (b"a\r--x\nb", (b"a\r--x\nb", None, b"", False, False)),
        (b"a\n --x\nb", (b"a\n --x\nb", None, b"", False, False)),
        (b"a\n-x\nb", (b"a\n-x\nb", None, b"", False, False)),
        (b"a--x\nb", (b"a--x\nb", None, b"", False, False)),
        (b"a\n--y\nb\n", (b"a\n--y\nb\n", None, b"", False, False)),
        (b"a\n--y\nb\n--x\n", (b"a\n--y\nb", X, b"", False, False)),
        (b"a\n--\n--x\n", (b"a\n--", X, b"", False, False)),
        # A line that resembles a boundary begins a part only if fields of a part follow it.
        (b"a\n--xy\nb", (b"a\n--xy\nb", None, b"", True, False)),
        (b"a\n--X\nb", (b"a\n--X\nb", None, b"", True, False)),
        (b"a\n--X--\n--x\n", (b"a\n--X--", X, b"", True, False)),
        (b"a\n" + PART, (b"a\n" + PART, None, b"", True, False)),
        (b"a\n--y\nContent-Foo: t\n\n", (b"a\n--y\nContent-Foo: t\n\n", None, b"", False, False)),
        (b"a\n--y\n\n" + TYPE, (b"a\n--y\n\n" + TYPE, None, b"", False, False)),
        (b"--y\n" + MANY + TYPE, (b"--y\n" + MANY + TYPE, None, b"", True, False)),
        (b"--y\nX: y\n" + MANY + TYPE, (b"--y\nX: y\n" + MANY + TYPE, None, b"", False, False)),
        (b"--y\nX: y\n z\n" + TYPE, (b"--y\nX: y\n z\n" + TYPE, None, b"", True, False)),
        (b"--y\nX: y\n\tz\n" + TYPE, (b"--y\nX: y\n\tz\n" + TYPE, None, b"", True, False)),
        (b"--y\r\n\rX: y\n" + TYPE, (b"--y\r\n\rX: y\n" + TYPE, None, b"", True, False)),
        (SHORTER + TYPE, (SHORTER + TYPE, None, b"", True, False)),
        (LONG + TYPE, (LONG + TYPE, None, b"", False, False)),
        (b"--y\nContent-Type:", (b"--y\nContent-Type:", None, b"", True, False)),
        # At the beginning of a body, one field is not enough to begin a part.
        (b"a\n" + TYPE + b"\nb", (b"a\n" + TYPE + b"\nb", None, b"", False, False)),
    ],
)  # fmt: skip
def test_a_body_ends_at_the_line_of_a_boundary(text: bytes, seen: Body) -> None:
    for step in STEPS if len(text) < 999 else STEPS[3:]:
        assert body(text, step, b"x") == seen


@pytest.mark.parametrize(
    ("text", "flags", "seen"),
    [
        (b"a\n" + PART, {"guesses": False}, (b"a\n" + PART, None, b"", False, False)),
        (b"a\n--xy\n", {"guesses": False}, (b"a\n--xy\n", None, b"", True, False)),
        (b"a\n--xy\nb", {"is_loose": True}, (b"a", X, b"b", False, False)),
        (b"a\n" + PART, {"is_loose": True}, (b"a", X, PART[4:], False, False)),
        # In a mail of an old Mac, returns end lines.
        (b"a\r--x\rb", {"is_old": True}, (b"a", X, b"b", False, False)),
        (b"a\n--x\nb", {"is_old": True}, (b"a", X, b"b", False, False)),
        (b"a\r--z\r--x", {"is_old": True}, (b"a\r--z", X, b"", False, False)),
        # Text outside of the parts ends at any line that resembles a boundary, and at a field of a
        # part.
        (b"a\n--xy\nb", {"is_aside": True}, (b"a", X, b"b", False, False)),
        (b"a\n" + TYPE, {"is_aside": True}, (b"a", FIELD, TYPE, False, False)),
        (TYPE, {"is_aside": True}, (b"", FIELD, TYPE, False, False)),
        (b"a\n" + TYPE.lower(), {"is_aside": True}, (b"a", FIELD, TYPE.lower(), False, False)),
        (b"a\nContent-X: y\n", {"is_aside": True}, (b"a\nContent-X: y\n", None, b"", False, False)),
        (b"a\r" + TYPE, {"is_aside": True}, (b"a\r" + TYPE, None, b"", False, False)),
        (b"a\r" + TYPE, {"is_aside": True, "is_old": True}, (b"a", FIELD, TYPE, False, False)),
        (b"a\n--y\n\nb", {"is_aside": True}, (b"a", X, b"\nb", False, False)),
        (b"a\n--y\r\n\r\nb", {"is_aside": True}, (b"a", X, b"\r\nb", False, False)),
        (b"a\n--y\nX: y\n\nb", {"is_aside": True}, (b"a", X, b"X: y\n\nb", False, False)),
        (b"--y\n" + b"n" * 511 + b":", {"is_aside": True},
         (b"", X, b"n" * 511 + b":", False, False)),
        (b"--y\n" + b"n" * 512 + b":", {"is_aside": True},
         (b"--y\n" + b"n" * 512 + b":", None, b"", False, False)),
        (b"a\n--y\nodd\n", {"is_aside": True}, (b"a\n--y\nodd\n", None, b"", False, False)),
        (b"a\n-----\n\nb", {"is_aside": True}, (b"a\n-----\n\nb", None, b"", False, False)),
        # If the body is kept as a whole, a line like a boundary does not end it, but sets the flag.
        (b"a\n--xy\nb", ALL, (b"a\n--xy\nb", None, b"", True, False)),
        (b"a\n" + TYPE, ALL, (b"a\n" + TYPE, None, b"", False, False)),
        (b"a\n--y\n\nb", ALL,
         (b"a\n--y\n\nb", None, b"", True, False)),
        (b"a\n" + TYPE, {"is_aside": True, "is_whole": True, "is_loose": True},
         (b"a", FIELD, TYPE, False, False)),
    ],
)  # fmt: skip
def test_what_resembles_a_boundary_ends_what_is_read_loosely(
    text: bytes, flags: dict[str, bool], seen: Body
) -> None:
    for step in STEPS:
        assert body(text, step, b"x", **flags) == seen


@pytest.mark.parametrize(
    ("line", "hit"),
    [
        (b"--x", X),
        (b"--x--", LAST),
        (b"--y", Hit(1, is_last=False)),
        (b"--y--", Hit(1, is_last=True)),
        (b"--z", None),
        (b"--x-", None),
        (b"--x----", None),
    ],
)
def test_the_boundary_of_an_outer_multipart_ends_the_inner_one(
    line: bytes, hit: Hit | None
) -> None:
    found = body(b"a\n" + line + b"\nb", 5, b"x", b"y")
    assert found[1] == hit
    assert body(b"a\n--y\nb", 5, b"y", b"y")[1] == Hit(1, is_last=False)


def test_a_boundary_may_be_as_long_as_a_line_that_counts() -> None:
    for length, is_one in ((8188, True), (8190, True), (8191, False)):
        name = b"b" * length
        for step in STEPS[3:]:
            found, hit, *_ = body(b"a\n--" + name + b"\nrest", step, name)
            assert (found == b"a", hit == X) == (is_one, is_one)


def test_a_part_that_began_at_a_field_is_doubtful_at_the_next_one() -> None:
    for step in STEPS:
        source = Lines(Once(b"text\n" + TYPE + b"\none\n" + TYPE + b"\ntwo\n--x--\n", step))
        stack = [Boundaries([b"x"])]
        assert b"".join(source.body(stack, is_aside=True)) == b"text"
        assert source.hit == FIELD
        assert source.header(stack).fields().kind == b"a/b"
        assert b"".join(source.body(stack)) == b"one\n" + TYPE + b"\ntwo"
        assert source.is_at_field and source.is_doubtful and source.hit == LAST


def test_a_boundary_that_was_guessed_counts_from_then_on() -> None:
    source = Lines(Once(b"a\n--y\n\nb\n--y--\nc"))
    stack = [Boundaries([b"x"])]
    assert b"".join(source.body(stack, is_aside=True)) == b"a"
    copied = stack[0].copy()
    assert stack[0].is_line(b"y") and copied.is_line(b"y")
    assert not stack[0].begins(b"y") and stack[0].begins(b"Xy")
    assert b"".join(source.body(stack)) == b"\nb"
    assert source.hit == LAST


def test_the_end_of_a_multipart_may_be_guessed_before_its_other_boundaries() -> None:
    source = Lines(Once(b"a\n--y--\n\nb\n--y\nc"))
    stack = [Boundaries([b"x"])]
    assert b"".join(source.body(stack, is_aside=True)) == b"a"
    assert b"".join(source.body(stack)) == b"\nb" and source.hit == X


@pytest.mark.parametrize(
    ("names", "text", "level"),
    [
        ((b"x", b"xy"), b"--xyz\n", 1),
        ((b"xy", b"x"), b"--xyz\n", 1),
        ((b"xy", b"q"), b"--xyz\n", 0),
        ((b"p", b"q"), PART, 1),
    ],
)
def test_a_line_that_resembles_boundaries_ends_the_innermost_multipart(
    names: tuple[bytes, ...], text: bytes, level: int
) -> None:
    assert body(b"a\n" + text, 5, *names, is_loose=True)[1] == Hit(level, is_last=False)


def test_returns_that_end_lines_in_the_header_of_a_part_end_none_in_bodies() -> None:
    text = b"X: y\rY: z\n\nb"
    for stack, is_old in (((), True), ((Boundaries([b"x"]),), False)):
        assert header(text, 3, None, stack)[6] is is_old


@pytest.mark.parametrize(
    ("text", "is_reversed"),
    [
        (b"X: y\n\rZ: y\n\n", True),
        (b"X: y\n\rtext", True),
        (b"\rX: y\n\n", False),
        (b"X: y\nodd\nZ: y\n\n", False),
    ],
)
def test_lines_of_a_header_may_end_with_a_line_feed_and_a_return(
    text: bytes, *, is_reversed: bool
) -> None:
    source = Lines(Once(text, 3))
    source.header(())
    assert source.is_reversed is is_reversed


@pytest.mark.parametrize("end", [b"\n", b"\r"])
@pytest.mark.parametrize("length", [(1 << 20) - 1, 1 << 20, 2 << 20])
def test_a_line_of_any_length_is_one_field(length: int, end: bytes) -> None:
    text = b"X-A: ".ljust(length - 1, b"y") + end + TYPE.replace(b"\n", end) + end + b"z"
    rest, kind, passed, is_mail, has_end, *_ = header(text, 1 << 20)
    assert (rest, kind, passed, is_mail, has_end) == (b"z", b"a/b", b"", True, True)


def test_a_field_within_a_long_line_is_none() -> None:
    """The search for fields reads pieces of 256 KiB, and the second one begins within a line."""
    begin = b"X: y\n" * 11
    for more, is_mail in ((b"", False), (b"\n", True)):
        text = begin + b"X: ".ljust((256 << 10) - len(more), b"y") + more + TYPE
        assert header(text, 1 << 20, 50)[3] is is_mail
