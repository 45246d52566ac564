"""The data of a part of a mail that are kept so that the part can be read in other ways."""

from __future__ import annotations

import pytest

from hashclient.containers.mailreadings import Kept, Stored, other_texts

LINE = b"YmVuaWduIGJlbmlnbiBiZW5pZ24gYmVu"  # 32 characters, the shortest line that counts as base64


def kept(text: bytes, step: int) -> Kept:
    """Return a `Kept` of a text in pieces of `step` bytes, the first one empty."""
    return Kept([b"", *(text[at : at + step] for at in range(0, len(text), step))])


@pytest.mark.parametrize(
    ("text", "is_known", "found"),
    [
        (b"", False, None),
        (LINE, False, LINE),
        (LINE[1:], False, None),
        (LINE[:16] + b"\n" + LINE[:15], False, LINE[:16] + b"\n" + LINE[:15]),
        (LINE[:15] + b"\n" + LINE[:15], False, None),
        (LINE + b"\r\n" + LINE + b"==\r\n\r\n", False, LINE + b"\r\n" + LINE + b"=="),
        (b"two words\n" + LINE + b"\n" + LINE, False, LINE + b"\n" + LINE),
        (b"two words\n\n" + LINE, False, LINE),
        (b"two words\n" + LINE[1:], False, None),
        (LINE + b"\ntwo words", False, None),
        (LINE + b"\n\n" + LINE, False, LINE),
        (LINE + b"===", False, LINE + b"==="),
        (LINE + b"=a", False, None),
        (b"\n " + LINE, False, LINE),
        # The part is known as base64, so its text is kept only behind lines of other text.
        (LINE, True, None),
        (b"\n \n" + LINE + b"\ntwo words\n" + LINE, True, None),
        (b"two words\n" + LINE, True, LINE),
        (b"two words\nabc\n" + LINE, True, b"abc\n" + LINE),
    ],
)
def test_base64_at_the_end_of_a_text_is_all_lines_of_it(
    text: bytes, is_known: bool, found: bytes | None
) -> None:
    for pieces in (Kept([text]), Kept([b"", text]), Kept([text, b""])):
        end = pieces.base64_at_end(is_known=is_known)
        assert (None if end is None else b"".join(end)) == found


@pytest.mark.parametrize(
    ("text", "behind"),
    [
        (b"a\nb\n", None),
        (b"a\n\nb\n\nc", b"b\n\nc"),
        (b"a\r\n\r\nb\r\nc", b"b\nc"),
        (b"a\r\n\nb", b"b"),
        (b"\n\n", b""),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 99])
def test_behind_an_empty_line_is_what_follows_the_first_one(
    text: bytes, behind: bytes | None, step: int
) -> None:
    found = kept(text, step).behind_empty_line()
    assert (None if found is None else b"".join(found)) == behind


@pytest.mark.parametrize(
    ("text", "has_parts"),
    [
        (b"content-type: x", True),
        (b"a\nCONTENT-Type \t: x", True),
        (b"a\rcontent-disposition:", True),
        (b"a content-type: x", False),
        (b"content-type x:", False),
        (b"content-abc: x", False),
        (b"content-abcd: x", True),
        (b"content-" + b"a" * 30 + b":", True),
        (b"content-" + b"a" * 31 + b":", False),
    ],
)
@pytest.mark.parametrize("step", [1, 99])
def test_a_line_that_begins_with_a_field_of_a_part_shows_that_there_may_be_parts(
    text: bytes, has_parts: bool, step: int
) -> None:
    assert kept(text, step).has_parts == has_parts


@pytest.mark.parametrize(
    ("pieces", "has_end"),
    [
        ([], False),
        ([b"a"], False),
        ([b"a\n"], True),
        ([b"a\n", b"b"], False),
        ([b"a", b"\n"], True),
    ],
)
def test_the_last_line_has_an_end_or_none(pieces: list[bytes], has_end: bool) -> None:
    assert Kept(pieces).has_last_end == has_end


def test_as_much_is_kept_as_fits_or_nothing() -> None:
    large = bytes((16 << 20) - 1)
    for more, left in ((b"a", [b"first", large, b"a"]), (b"ab", [])):
        keeps = Kept([b"first"])  # bytes that were kept already do not count towards the limit
        assert list(keeps.watch([large, more])) == [large, more]
        assert keeps.is_too_much == (not left)
        assert list(keeps) == left
        assert list(keeps.watch([b"", b"c"])) == [b"", b"c"]
        assert keeps.is_too_much and not list(keeps)


def test_bytes_that_are_put_before_what_is_kept_come_first() -> None:
    before = Kept([b"b", b"c"])
    assert list(before.behind(b"a")) == [b"a", b"b", b"c"]
    assert list(before) == [b"b", b"c"]


@pytest.mark.parametrize("count", [1, 2, 3, 99])
def test_what_was_kept_is_a_stream(count: int) -> None:
    stream = Stored(Kept([b"abc", b"de", b"f"]))
    found = list(iter(lambda: stream.read(count), b""))
    assert b"".join(found) == b"abcdef"
    assert max(map(len, found)) == min(count, 3)
    assert stream.read(count) == b""


@pytest.mark.parametrize(
    ("text", "is_cut", "is_open", "others"),
    [
        (b"", False, False, []),
        (b"a", False, False, []),
        (b"a\nb", False, False, [b"a\r\nb"]),
        (b"a\r\nb", False, False, [b"a\nb"]),
        (b"a\r\nb\nc", False, False, [b"a\nb\nc", b"a\r\nb\r\nc"]),
        (b"a", True, False, [b"a\n", b"a\r\n"]),
        (b"a\n", True, False, [b"a\r\n", b"a\n\n", b"a\r\n\r\n"]),
        (b"a", False, True, []),
        (b"a\n", False, True, [b"a\r\n", b"a"]),
        (b"a\nb\r\n", False, True, [b"a\nb\n", b"a\r\nb\r\n", b"a\nb", b"a\r\nb"]),
        (b"a\n", True, True, [b"a\r\n", b"a\n\n", b"a\r\n\r\n", b"a"]),
    ],
)
def test_a_text_counts_with_the_line_ends_of_other_systems(
    text: bytes, is_cut: bool, is_open: bool, others: list[bytes]
) -> None:
    given = [text[:1], text[1:]]
    found = other_texts(given, is_cut=is_cut, is_open=is_open)
    expected = set(others) - {text}
    assert set(found) == expected and len(found) == len(expected)


def test_a_text_that_is_too_long_has_no_other_line_ends() -> None:
    text = b"a" * ((8 << 20) - 1)
    assert list(map(len, other_texts([text, b"\n"]))) == [(8 << 20) + 1]
    assert other_texts([text, b"\n", b"a"]) == []


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (b"", b""), (b"a", b""), (b"a\n", b""), (b"a\nb", b"a\n"), (b"a\nb\n", b"a\n"),
        (b"a\r\nb\r\n", b"a\r\n"), (b"a\rb", b"a\r"), (b"a\rb\r", b"a\r"), (b"a\n\n", b"a\n"),
        (b"a\nb\rc", b"a\nb\r"), (b"a\rb\nc", b"a\rb\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 99])
def test_the_last_line_is_left_out_with_or_without_its_end(
    text: bytes, rest: bytes, step: int
) -> None:
    assert b"".join(kept(text, step).without_last_line()) == rest
