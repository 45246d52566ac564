"""Encodings and header fields of a mail, at the edges where a reader decides differently."""

from __future__ import annotations

import binascii

import pytest

from hashclient.containers import mimedecode, mimeheaders
from hashclient.containers.mimedecode import (
    Base64,
    QuotedPrintable,
    UuFinder,
    base64_in_pieces,
    base64_to_padding,
    base64_without_padding,
    quoted_printable_stripped,
)
from hashclient.containers.mimeheaders import Collector, Fields


@pytest.mark.parametrize(
    ("pieces", "found", "is_disputed"),
    [
        ([], b"", False),
        ([b""], b"", False),
        ([b"YWJj"], b"abc", False),
        ([b"YW", b"Jj"], b"abc", False),
        ([b"YWI="], b"ab", False),
        ([b"YQ=="], b"a", False),
        ([b"YQ=", b"="], b"a", False),
        ([b"YQ=", b"\n="], b"a", False),
        ([b"YWI"], b"ab", True),
        ([b"YQ"], b"a", True),
        ([b"Y"], b"", True),
        ([b"YWJjY"], b"abc", True),
        ([b"YWJj="], b"abc", False),
        ([b"YWJj=YWJj"], b"abcabc", True),
        ([b"YWJj===="], b"abc", False),
        ([b"YWI=", b"YWJj"], b"ab", True),
        ([b"YWI=", b"\n-\n"], b"ab", False),
        ([b"YWI=\n-"], b"ab", False),
        ([b"YWI=a"], b"ab", True),
        ([b"YWI=\n", b"\n", b"x", b"\n"], b"ab", True),
        ([b"YQ=I"], b"a\x02", True),
        # Padding at the end changes nothing about padding that was in a wrong place.
        ([b"Y=WI="], b"ab", True),
        ([b"YWJj=YWJjYQ=="], b"abcabca", True),
        ([b"YWJj=", b"YWJj", b"YQ=="], b"abcabca", True),
        ([b"=YWJj"], b"abc", True),
        ([b"Y=WJj"], b"abc", True),
        ([b"YWJjYQ==YWJj"], b"abca", True),
        ([b"Y!W\nJ*j"], b"abc", False),
    ],
)
def test_base64_ends_at_its_padding(
    pieces: list[bytes], found: bytes, *, is_disputed: bool
) -> None:
    decoder = Base64()
    assert b"".join(decoder.decode(pieces)) == found
    assert decoder.is_disputed is is_disputed


@pytest.mark.parametrize(
    ("text", "in_pieces", "to_padding", "without"),
    [
        (b"YWJj", b"abc", b"abc", b"abc"),
        (b"YWI=YWJj", b"ababc", b"ab", b"ab\x18\x58\x98"),
        (b"YWJj=YWJj", b"abcabc", b"abc", b"abcabc"),
        (b"YQ==YWJj", b"aabc", b"a", b"a\x06\x16\x26"),
        (b"YWI", b"", b"ab", b"ab"),
        (b"Y=WI=", b"X", b"", b"ab"),
        (b"YWJjYQ==", b"abca", b"abca", b"abca"),
        (b"====", b"", b"", b""),
    ],
)  # fmt: skip
def test_padding_means_something_else_to_each_program(
    text: bytes, in_pieces: bytes, to_padding: bytes, without: bytes
) -> None:
    for step in (1, 2, 3, 99):
        pieces = [text[at : at + step] for at in range(0, len(text), step)]
        assert b"".join(base64_in_pieces(pieces)) == in_pieces
        assert b"".join(base64_to_padding(pieces)) == to_padding
        assert b"".join(base64_without_padding(pieces)) == without


@pytest.mark.parametrize(
    ("text", "found", "stripped", "is_disputed"),
    [
        (b"a=3Db", b"a=b", b"a=b", False),
        (b"a=3db", b"a=b", b"a=b", False),
        (b"a=\nb", b"ab", b"ab", False),
        (b"a=\r\nb", b"ab", b"ab", False),
        (b"a \nb", b"a \nb", b"a\nb", True),
        (b"a\t \r\nb", b"a\t \r\nb", b"a\r\nb", True),
        (b"a b\n", b"a b\n", b"a b\n", False),
        (b"a ", b"a ", b"a", True),
        (b"a=4", b"a=4", b"a=4", True),
        (b"a=G1", b"a=G1", b"a=G1", True),
        (b"a=1G", b"a=1G", b"a=1G", True),
        (b"a=", b"a", b"a=", True),
        (b"a= \nb", b"a", b"ab", True),
    ],
)
def test_quoted_printable_is_read_in_two_ways(
    text: bytes, found: bytes, stripped: bytes, *, is_disputed: bool
) -> None:
    for step in (1, 2, 99):
        pieces = [text[at : at + step] for at in range(0, len(text), step)]
        decoder = QuotedPrintable()
        assert b"".join(decoder.decode(pieces))[: len(found)] == found
        assert decoder.is_disputed is is_disputed
        assert b"".join(quoted_printable_stripped(pieces)) == stripped


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 65_540])
def test_a_long_line_is_not_cut_within_an_escape(length: int) -> None:
    for place in range(length - 5, length + 1):
        text = (b"a" * place + b"=41=3D" + b"b" * 20)[: length + 20]
        wanted = binascii.a2b_qp(text)
        pieces = text[:length], text[length:]
        assert b"".join(QuotedPrintable().decode(pieces)) == wanted
        assert b"".join(quoted_printable_stripped(pieces)) == wanted


def uu(content: bytes, step: int = 45) -> bytes:
    return b"".join(binascii.b2a_uu(content[at : at + step]) for at in range(0, len(content), step))


ONE, TWO = bytes(range(60)), b"benign" * 9
BEGIN, END = b"begin 644 n\n", b"`\nend\n"


def files(text: bytes, step: int = 1 << 20, *, is_old: bool = False) -> list[tuple[bytes, object]]:
    finder = UuFinder(is_old=is_old)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    assert list(finder.watch(pieces)) == pieces
    return [(one.name, one.error.why if one.error else one.data) for one in finder.files]


N = [(b"n", ONE)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", []),
        (BEGIN, []),
        (BEGIN + END, []),
        (BEGIN + uu(ONE) + END, N),
        (b"text\n" + BEGIN + uu(ONE) + END + b"text\n", N),
        (b"text " + BEGIN + uu(ONE) + END, []),
        (BEGIN + uu(ONE), N),
        ((BEGIN + uu(ONE))[:-1], N),
        (BEGIN + uu(ONE) + b"end\n", N),
        (BEGIN + uu(ONE) + b"END of it\n", N),
        (BEGIN + uu(ONE) + b"====\n", N),
        (BEGIN + uu(ONE) + END + BEGIN + uu(TWO) + END, [*N, (b"n", TWO)]),
        (BEGIN + uu(ONE) + BEGIN + uu(TWO) + END, [*N, (b"n", TWO)]),
        (BEGIN + BEGIN + uu(ONE) + END, N),
        (BEGIN + uu(ONE).replace(b"\n", b"\n\n") + END, N),
        ((BEGIN + uu(ONE) + END).replace(b"\n", b"\r\n"), N),
        ((BEGIN + uu(ONE) + END).replace(b"\n", b"\r\r\n"), N),
        (BEGIN + uu(ONE) + b"BEGIN 644 m\n" + uu(TWO) + END, [*N, (b"m", TWO)]),
        # A further line of data follows the empty line of uuencode, or follows a line of text.
        (BEGIN + uu(ONE) + b"`\n" + uu(b"x") + b"end\n", [(b"n", ONE + b"x"), *N]),
        (BEGIN + uu(ONE) + b"a text\n" + uu(b"x") + b"end\n", [*N, (b"n", ONE + b"x")]),
        # Lines whose length is not the one that they state.
        (BEGIN + uu(ONE) + b"!!!!!!!!!\n" + END, [(b"n", ONE + b"\4"), *N]),
        (BEGIN + uu(ONE)[:31] + uu(ONE)[61:] + END,
         [(b"n", binascii.a2b_uu(uu(ONE)[:31]) + ONE[45:]), (b"n", ONE[45:])]),
        # Names and modes in the first line of uuencode.
        (b"begin 644 a b \n" + uu(ONE) + END, [(b"a b", ONE)]),
        (b"begin 644\n" + uu(ONE) + END, [(b"", ONE)]),
        (b"begin  x\t n\n" + uu(ONE) + END, N),
        (b"begin " + b"m" * 400 + b" n\n" + uu(ONE) + END, N),
        (b"begin " + b"m" * 401 + b" n\n" + uu(ONE) + END, []),
        (b"begin\n" + uu(ONE) + END, []),
        (b"BEGIN 644 n\n" + uu(ONE) + END, N),
        (b"begin-base64 644 n\n" + binascii.b2a_base64(ONE) + b"====\n", N),
        (b"begin 644 " + b"n" * 4096 + b"\n" + uu(ONE) + END, [(b"n" * 4096, ONE)]),
        (b"begin 644 " + b"n" * 4097 + b"\n" + uu(ONE) + END, []),
    ],
)  # fmt: skip
def test_a_uuencoded_file_begins_and_ends_with_a_line(
    text: bytes, found: list[tuple[bytes, bytes]]
) -> None:
    for step in (1, 2, 7, 1 << 20)[len(text) // 1000 :]:
        assert files(text, step) == found
    old = text.replace(b"\r\n", b"\n").replace(b"\n", b"\r")
    assert files(old, is_old=True) == found
    assert files(old) == []


def test_uuencoded_files_of_one_part_are_kept_up_to_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = b"".join(BEGIN + uu(bytes([n]) * 60) + END for n in range(4))
    monkeypatch.setattr(mimedecode, "_MAX_UU_FILES", 4)
    assert [data for _, data in files(whole)] == [bytes([n]) * 60 for n in range(4)]
    monkeypatch.setattr(mimedecode, "_MAX_UU_FILES", 3)
    assert [data for _, data in files(whole)][3:] == ["limit"]
    monkeypatch.setattr(mimedecode, "_MAX_UU_FILES", 2)
    assert [data for _, data in files(whole)][2:] == ["limit"]
    monkeypatch.setattr(mimedecode, "_MAX_UU_FILES", 9)
    monkeypatch.setattr(mimedecode, "MAX_UU_BYTES", 240)
    assert [data for _, data in files(whole)] == [bytes([n]) * 60 for n in range(4)]
    monkeypatch.setattr(mimedecode, "MAX_UU_BYTES", 239)
    assert [data for _, data in files(whole)][3:] == ["limit"]


def test_a_file_ends_at_a_line_that_is_too_long() -> None:
    for length, count in ((65_000, 1), (65_536, 1), (65_600, 1)):
        text = BEGIN + uu(ONE) + b"x" * length + b"\n" + uu(TWO) + END
        assert [data for _, data in files(text, 4096)][:count] == [ONE]


# Fields


def fields(*lines: bytes) -> Fields:
    collector = Collector()
    for line in lines:
        collector.add(line + b"\n")
    return collector.fields()


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        (b"text/plain", (b"text/plain",)),
        (b" TEXT / Plain ; a=b", (b"text/plain",)),
        (b'"text/plain"', (b"text/plain",)),
        (b"(comment) text/(other)plain", (b"text/plain",)),
        (b"text", (b"",)),
        (b"", (b"",)),
        (b"multipart/mixed; boundary=x", (b"multipart/mixed",)),
        (b'multipart/mixed; boundary="x y"; a=b', (b"multipart/mixed",)),
        (b"multipart/mixed; boundary=x;", (b"multipart/mixed", b"")),
        (b"multipart/mixed (comment); boundary=x", (b"multipart/mixed", b"")),
        (b"(" * 50 + b")" * 50 + b"a/b", (b"a/b",)),
        (b"(" * 51 + b")" * 51 + b"a/b", (b"()a/b",)),
    ],
)
def test_a_type_has_two_words(value: bytes, kinds: tuple[bytes, ...]) -> None:
    assert fields(b"Content-Type: " + value).kinds == kinds


@pytest.mark.parametrize(
    ("value", "boundaries"),
    [
        (b"boundary=x", {b"x"}),
        (b"BOUNDARY = x", {b"x"}),
        (b'boundary="x y"', {b"x y"}),
        (b'boundary="x y "', {b"x y"}),
        (b'boundary="x\\"y"', {b'x"y', b'x\\"y'}),
        (b"boundary=x; boundary=y", {b"x", b"y"}),
        (b"boundary=", set()),
        (b'boundary=""', set()),
        (b"boundary*=us-ascii'en'x%20y", {b"x y"}),
        (b"boundary*0=a; boundary*1=b", {b"ab"}),
        (b"boundary*1=b; boundary*0=a; boundary*0=c", {b"ab"}),
        (b"boundary*0*=''a%41; boundary*1*='b%42", {b"aA'bB"}),
        (b"boundary*=''x'y", {b"x'y"}),
        (b"boundary*10=c; boundary*9=b", {b"bc"}),
        (b"boundary*1000=c", set()),
        (b"boundary=x(c)", {b"x(c)", b"x"}),
    ],
)
def test_a_boundary_is_read_as_any_program_reads_it(value: bytes, boundaries: set[bytes]) -> None:
    assert fields(b"Content-Type: multipart/mixed; " + value).boundaries == boundaries


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"filename=a.txt", b"a.txt"),
        (b'filename="a b"', b"a b"),
        (b"name=a", b"a"),
        (b"xname=a", b""),
        (b"filename*=utf-8''%e2%82%ac", "\u20ac".encode()),
        (b"filename*0=a; filename*1=b; filename=c", b"ab"),
        (b"filename=a; filename=b", b"a"),
        (b'filename="a =?utf-8?q?=C3=A9?= b"', "a \xe9 b".encode()),
        (b'filename="=?utf-8?q?=FF?="', "\ufffd".encode()),
        (b'filename="=?idna?q?=FF?="', b"=?idna?q?=FF?="),
        (b'filename="=?utf-8?b?A?="', b"=?utf-8?b?A?="),
        (b'filename="=?utf-8?q?=C3=A9?="', "\xe9".encode()),
        (b'filename="=?latin-1?q?=E9?="', "\xe9".encode()),
        (b'filename="=?none?q?=E9?="', b"=?none?q?=E9?="),
        (b'filename="a=?b"', b"a=?b"),
        (b"filename=" + b"n" * 1025, b"n" * 1024),
    ],
)
def test_a_name_is_that_of_a_file(value: bytes, name: bytes) -> None:
    line = b"Content-Disposition: attachment; " + value
    assert fields(line).name == name
    assert fields(b"Content-Type: a/b; name=other", line).name == (name or b"other")


@pytest.mark.parametrize(
    ("value", "encodings", "ways"),
    [
        (b"base64", (b"base64",), (b"base64",)),
        (b"BASE64;", (b"base64",), (b"base64",)),
        (b"7bit", (b"7bit",), (b"",)),
        (b"x-base64", (b"x-base64", b"base64"), (b"", b"base64")),
        (b"base64 x", (b"base64", b""), (b"base64", b"")),
        (b"(c) base64", (b"base64", b""), (b"base64", b"")),
        (b"base64 quoted-printable", (b"base64", b"quoted-printable", b""),
         (b"base64", b"quoted-printable", b"")),
        (b"", (b"",), (b"",)),
    ],
)  # fmt: skip
def test_an_encoding_is_the_first_word_and_any_that_is_known(
    value: bytes, encodings: tuple[bytes, ...], ways: tuple[bytes, ...]
) -> None:
    found = fields(b"Content-Transfer-Encoding: " + value)
    assert (found.encodings, found.ways) == (encodings, ways)


@pytest.mark.parametrize(
    ("value", "is_whole"),
    [
        (b"number=1; total=1", True),
        (b'NUMBER="1"; Total = "1"', True),
        (b"number=1", False),
        (b"total=1", False),
        (b"number=1; total=2", False),
        (b"number=2; total=1", False),
        (b"number=1; total=1; total=2", False),
        (b"number=01; total=1", True),
    ],
)
def test_a_part_of_a_message_may_be_all_of_it(value: bytes, *, is_whole: bool) -> None:
    assert fields(b"Content-Type: message/partial; " + value).is_whole is is_whole


def test_fields_are_kept_up_to_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, lines, least in (
        ("MAX_REPEATED", [b"Content-Type: a/%d" % n for n in range(4)], 3),
        ("MAX_BOUNDARIES", [b"Content-Type: multipart/a; boundary=%d" % n for n in range(4)], 4),
        ("MAX_FIELD_BYTES", [b"Content-Type: a/b", b" ; x=y"], 25),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(mimeheaders, limit, least)
            assert not fields(*lines).is_disputed, limit
            patch.setattr(mimeheaders, limit, least - 1)
            assert fields(*lines).is_disputed, limit


def test_fields_that_repeat_each_other_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimeheaders, "MAX_REPEATED", 2)
    found = fields(*[b"Content-Type: a/b"] * 9, b"Content-Type: c/d")
    assert not found.is_disputed and found.kinds == (b"a/b", b"c/d")


def test_lines_that_may_begin_the_body_are_kept_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit, is_cut in ((5, False), (4, True)):
        monkeypatch.setattr(mimeheaders, "MAX_REST_BYTES", limit)
        collector = Collector()
        collector.passed(b"odd\n")
        collector.passed(b"odder\n")
        found = collector.fields()
        assert collector.has_passed
        assert (found.rest, found.is_disputed) == (b"odd\n" + b"odder\n" * (not is_cut), is_cut)


def test_boundaries_are_looked_for_up_to_a_limit() -> None:
    for count, is_disputed in ((20, False), (21, True)):
        collector = Collector()
        for number in range(count):
            collector.add(b" ;a=b\n" if number else b"Content-Type: multipart/a; boundary=x\n")
            # The limit of searches does not count a second call of `boundaries` without a change.
            assert collector.boundaries() == collector.boundaries() == {b"x"}
        assert collector.fields().is_disputed is is_disputed


@pytest.mark.parametrize(("mode", "count"), [(b"644", 4096), (b"m" * 400, 4096)])
def test_a_long_line_that_begins_a_file_may_arrive_in_pieces(mode: bytes, count: int) -> None:
    begin = b"begin-base64 " + mode + b" " + b"n" * count
    text = begin + b"\n" + binascii.b2a_base64(ONE) + b"====\n"
    assert files(text, len(begin)) == files(text, len(begin) - 1) == [(b"n" * count, ONE)]


def test_a_line_of_a_file_has_up_to_65536_bytes_with_the_line_end_before_it() -> None:
    begin, content = b"begin-base64 644 n\n", bytes(49_149)
    line = binascii.b2a_base64(content, newline=False)
    for more, found in ((3, content), (4, "limit")):
        finder = UuFinder()
        assert list(finder.watch([begin + line + b"!" * more, b"\n====\n"]))
        (one,) = finder.files
        assert (one.error.why if one.error else one.data) == found


def test_uuencoded_files_of_one_part_have_16_mib_and_are_1000() -> None:
    line = binascii.b2a_base64(bytes(49_152))
    begin, count = b"begin-base64 644 n\n", (16 << 20) // 49_152
    for more, found in ((0, None), (1, "limit")):
        last = binascii.b2a_base64(bytes((16 << 20) - 49_152 * count + more))
        finder = UuFinder()
        finder._take(begin + line * count + last + b"====\n")
        (one,) = finder.files
        assert (one.error.why if one.error else None) == found
        assert len(one.data) == (0 if found else 16 << 20)
    each = BEGIN + uu(b"x") + b"end\n"
    assert files(each * 1_000) == [(b"n", b"x")] * 1_000
    assert files(each * 1_002) == [(b"n", b"x")] * 1_000 + [(b"n", "limit")]


def test_fields_of_a_header_are_kept_up_to_these_numbers() -> None:
    for count, is_disputed in ((17, False), (18, True)):
        assert fields(*[b"Content-Type: a/%d" % n for n in range(count)]).is_disputed is is_disputed
    repeated = [b"Content-Type: a/%d" % (n % 16) for n in range(40)]
    assert not fields(*repeated).is_disputed
    for count, is_disputed in ((256, False), (257, True)):
        names = b"; ".join(b"boundary=%d" % n for n in range(count))
        found = fields(b"Content-Type: multipart/mixed; " + names)
        assert (found.is_disputed, len(found.boundaries)) == (is_disputed, 256)
    for length, is_disputed in ((1 << 20, False), ((1 << 20) + 1, True)):
        line = b"Content-Disposition: a; x=".ljust(length - 1, b"y")
        assert fields(line).is_disputed is is_disputed
    collector = Collector()
    for line, is_disputed in ((b"x" * 65_535, False), (b"y", False), (b"z", True)):
        collector.passed(line)
        assert collector.fields().is_disputed is is_disputed


@pytest.mark.parametrize(("count", "found"), [(4_599, N), (4_600, [])])
def test_a_line_that_begins_a_file_is_awaited_in_4600_bytes(
    count: int, found: list[tuple[bytes, bytes]]
) -> None:
    finder = UuFinder()
    assert list(finder.watch([b"begin".ljust(count), b" 644 n\n" + uu(ONE) + END]))
    assert [(one.name, one.data) for one in finder.files] == found


def test_a_header_that_follows_no_text_is_mail_by_one_weak_field() -> None:
    for collector, is_mail in ((Collector(), True), (Collector(is_first=False), False)):
        assert collector.add(b"Subject: x\n")
        assert collector.is_mail is is_mail
