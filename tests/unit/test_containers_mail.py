"""Mail: every part as clients decode it, even from broken MIME; other texts have no parts."""

from __future__ import annotations

import binascii
import random
import re
import time
from email import message_from_bytes
from pathlib import Path

import pytest

from fixtures import mails
from fixtures.mails import BOUNDARY, base64_part, mail_of, multipart, raw, uuencoded
from hashclient.containers import mimedecode
from hashclient.containers.interface import NEVER, Unlisted, Why
from hashclient.containers.mail import MAX_DEPTH, MESSAGE, Eml, Message
from hashclient.containers.mailreadings import MAX_AGAIN_BYTES
from hashclient.containers.mbox import Mbox
from hashclient.containers.mimeheaders import Collector
from hashclient.containers.mimelines import Boundaries, Lines, match
from tests.opened import MAX_PIECE_BYTES, Once, Opened, each, has_mark, opened, sniffs

A, B = b"benign AA " * 99 + b"1", bytes(range(256)) * 9
TEXT = "Content-Type: text/plain\n\nbenign text"


def look(data: bytes) -> Opened:
    assert sniffs(Eml(), data)
    out = opened(Eml(), data)
    once = opened(Eml(), Once(data, 333))
    assert (out.members, out.unread) == (once.members, once.unread)
    inner = opened(Message(), data)
    assert set(out.members) <= set(inner.members) and out.unread == inner.unread
    return out


def texts(text: bytes, *, is_cut: bool = False) -> list[bytes]:
    """Return the listed contents for a text: the text itself, and the text with other line ends.

    With `is_cut`, also the text with the line end before the boundary.
    """
    plain = text.replace(b"\r\n", b"\n")
    ways = (plain, plain + b"\n") if is_cut else (plain,)
    others = [each for way in ways for each in (way, way.replace(b"\n", b"\r\n"))]
    return list(dict.fromkeys([text, *others]))


def test_python_agrees_with_it() -> None:
    chance = random.Random(1)
    for number in range(20):
        contents = {f"{n} \xe4.bin": chance.randbytes(chance.randrange(4000)) for n in range(3)}
        data = mail_of(contents, text="line\n" * number).as_bytes()
        for made in (data, data.replace(b"\n", b"\r\n")):
            parts = [p for p in message_from_bytes(made).walk() if not p.is_multipart()]
            out = look(made)
            text, *attached = [bytes(part.get_payload(decode=True) or b"") for part in parts]
            assert out.contents == [*texts(text), *attached]
            assert attached == list(contents.values())
            assert not out.unread
            assert out.names[-3:] == [name.encode() for name in contents]


def test_a_mail_without_parts_is_its_text() -> None:
    assert look(raw("X: y", "text\n")).contents == texts(b"text\n")
    encoded = raw("Content-Transfer-Encoding: BASE64", binascii.b2a_base64(A))
    assert look(encoded).contents == [A]
    quoted = raw("Content-Transfer-Encoding: quoted-printable", "a=3Db=\n c=E4\n")
    assert look(quoted).contents == texts(b"a=b c\xe4\n")


def test_a_message_in_a_message_is_a_member_of_that_kind() -> None:
    inner = mail_of({"inner.bin": B})
    data = mail_of({"a.bin": A}, inner=[inner]).as_bytes()
    out = look(data)
    assert A in out.contents
    forwarded = out.listed[-1]
    assert forwarded.kind == MESSAGE
    assert B in opened(Message(), out.contents[-1]).contents
    bare = f"Content-Type: multipart/mixed; boundary=x\n\n--x\n{base64_part('b', B)}\n--x--\n"
    for header in ("Content-Type: message/rfc822", ""):
        kind = "mixed" if header else "digest"
        out = look(multipart(f"{header}\n\n{bare}" if header else f"\n{bare}", kind=kind))
        assert [member.kind for member in out.listed] == [MESSAGE]
        assert (
            not sniffs(Eml(), b"\n" + b"no header")
            and B in opened(Message(), out.contents[0]).contents
        )
    encoded = (
        "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
        + binascii.b2a_base64(inner.as_bytes()).decode()
    )
    assert B in opened(Message(), look(multipart(encoded)).contents[0]).contents


@pytest.mark.parametrize("encodings", [["base64"], ["quoted-printable"], ["base64", "8bit"]])
def test_a_message_is_also_read_without_the_encoding_that_its_header_names(
    encodings: list[str],
) -> None:
    """Programs that follow RFC 2046, 5.2.1, ignore the encoding of a message."""
    fields = "".join(f"Content-Transfer-Encoding: {each}\n" for each in encodings)
    inner = raw(f"Subject: =3D\nContent-Type: multipart/mixed; boundary=x\n\n--x\n{TEXT}", "")
    out = look(multipart(f"{fields}Content-Type: message/rfc822\n\n{inner.decode()}"))
    found = [
        content for content, member in zip(out.contents, out.listed, strict=True) if member.kind
    ]
    assert any(inner.strip() in content for content in found)
    long = "x" * (MAX_AGAIN_BYTES + 1)
    assert look(multipart(f"{fields}Content-Type: message/rfc822\n\n{long}")).reasons == {Why.LIMIT}


# Encodings


@pytest.mark.parametrize(
    "encoding",
    [
        *("base64", "Base64", ' "base64"', "base64 ", "(c) base64", "base64; x", "\n base64"),
        *("(a (b) c) base64", "(a (b (c)) d)base64", "base64 (c)", "8bit base64", "base64 x"),
        *("7bit, base64", "=?us-ascii?q?base64?=", "base64 quoted-printable", "x\n base64"),
    ],
)
def test_an_encoding_is_known_however_it_is_written(encoding: str) -> None:
    assert A in look(multipart(TEXT, base64_part("a", A, encoding))).contents
    part = base64_part("a", A).replace("Transfer-Encoding:", f"Transfer-Encoding ({encoding}):")
    if not {"(", "\n"} & set(encoding):
        assert look(multipart(TEXT, part)).contents[1] == A


@pytest.mark.parametrize(
    ("encoding", "is_disputed"),
    [
        *(("base64", False), (' "Base64"; ', False), ("base64 x", True), ("base64 (c)", True)),
        *(
            ("x base64", True),
            ("quoted-printable, base64", True),
            ("base64 quoted-printable", True),
        ),
    ],
)
def test_an_encoding_with_something_beside_it_is_none_to_some(
    encoding: str, is_disputed: bool
) -> None:
    part = base64_part("a", A, encoding)
    plain = part.partition("\n\n")[2].rstrip("\n").encode()
    contents = look(multipart(TEXT, part)).contents
    assert A in contents
    assert any(content.rstrip(b"\n") == plain for content in contents) == is_disputed


def test_a_part_without_an_encoding_may_have_that_of_its_multipart() -> None:
    """The field of a multipart also counts for parts of inner multiparts, unless they have one."""
    mixed = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary={}\n"
    encoded = "Content-Transfer-Encoding: base64\n"
    part = base64_part("a", A).replace(encoded, "")
    inner = f"{mixed.format('y')}\n--y\n{part}\n--y--\n"
    for outer, inside, is_found in (
        (encoded, part, True),
        (encoded, inner, True),
        ("", part, True),
        (encoded, "Content-Transfer-Encoding: 7bit\n" + part, False),
    ):
        out = look(raw(mixed.format("x") + outer, f"--x\n{inside}\n--x--\n"))
        assert (A in out.contents, out.unread) == (is_found, [])


@pytest.mark.parametrize("mark", ["\xa0", " ", ";", "\t"])
def test_a_field_that_matters_counts_with_another_character_than_a_colon(mark: str) -> None:
    part = base64_part("a", A).replace("Transfer-Encoding:", f"Transfer-Encoding{mark}")
    assert A in look(multipart(TEXT, part)).contents
    header = f"MIME-Version: 1.0\nContent-Type{mark} multipart/mixed; boundary=x\nSubject: s"
    assert A in look(raw(header, f"--x\n{base64_part('a', A)}\n--x--\n")).contents


@pytest.mark.parametrize(
    "header",
    [
        "kContent-Transfer-Encoding: x base64",
        "Content-Transfer-Encoding: base6)4",
        "Content-Transfer-Encoding: base64\n: x\n\t",
    ],
)
def test_base64_counts_whatever_the_header_says(header: str) -> None:
    """Base64 is decoded although the header is odd, because some mail clients decode it."""
    body = base64_part("a", A).partition("\n\n")[2]
    gap = "\n" if header.endswith("\t") else "\n\n"
    out = look(multipart(TEXT, f"X: y\n{header}{gap}{body}"))
    assert A in out.contents and not out.unread


def test_quoted_printable_counts_in_each_way_that_programs_read_it() -> None:
    """Some programs keep blanks at ends of lines, and an invalid escape is read in several ways."""
    for body, readings in (
        ("one  \ntwo\t\n", (b"one  \ntwo\t\n", b"one\ntwo\n")),
        ("one=  \ntwo\n", (b"onetwo\n",)),
        ("one==\ntwo\n", (b"one=two\n",)),
        ("abc=", (b"abc", b"abc=")),
        ("abc \t", (b"abc \t", b"abc")),
    ):
        out = look(raw("Content-Transfer-Encoding: quoted-printable", body))
        assert set(readings) <= set(out.contents) and not out.unread


def test_base64_is_decoded_as_clients_do() -> None:
    good = binascii.b2a_base64(A).decode().rstrip("\n=")
    header = "Content-Transfer-Encoding: base64\n\n"
    for body in (
        good,  # the padding of the base64 is missing
        "\n".join(good[n : n + 5] for n in range(0, len(good), 5)),
        "!" + good.replace("b", "*b-"),
        "=" + good + "==",
        good[:2] + "=" + good[2:] + "==",  # the padding is too short to end the data
    ):
        out = look(multipart(header + body))
        assert out.contents[0] == A and not out.unread
    # Some programs drop the last characters if their padding is missing.
    assert set(look(multipart(header + "QUJD\nQUI")).contents) == {b"ABCAB", b"ABC"}
    assert set(look(multipart(header + "QUJDR")).contents) == {b"ABC"}


def test_base64_that_goes_on_behind_its_end_counts_in_each_way_that_programs_read_it() -> None:
    """Most programs stop at the padding, some start again behind it, and some ignore it."""
    header = "Content-Transfer-Encoding: base64\n\n"
    lines = [binascii.b2a_base64(A[at : at + 40]).decode() for at in range(0, len(A), 40)]
    for body, readings in (
        ("eA==\n" + binascii.b2a_base64(A).decode(), (b"x", b"x" + A)),
        ("".join(lines), (A[:40], A)),
        ("QQ==QQ==", (b"A", b"AA", b"A\x04\x10")),
        # Some programs accept any letter in place of the missing padding.
        ("QQ=\na text\n", (b"A",)),
        (binascii.b2a_base64(A).decode() + "\n_____\nlist mailing list\n", (A,)),
    ):
        out = look(multipart(header + body, base64_part("b", B)))
        assert not out.unread and set(readings) <= set(out.contents) and out.contents[-1] == B
    # Programs read the part in only one way.
    assert look(multipart(header + "QQ==\n--\n")).contents == [b"A"]


@pytest.mark.slow
def test_a_part_that_is_too_large_to_be_read_in_every_way_is_unread() -> None:
    large = binascii.b2a_base64(bytes(MAX_AGAIN_BYTES * 3 // 4 + 1)).decode()
    header = "Content-Transfer-Encoding: base64\n\n"
    assert not look(multipart(header + large)).unread
    for data in (
        multipart(header + "eA==\n" + large),
        multipart("Content-Transfer-Encoding: 7bit\n" + header + large),
        multipart(header + large + f"\n--{BOUNDARY}x\n\n"),
        multipart("odd line\n" + header + large),
        multipart("Content-Type: message/rfc822\nContent-Type: x/y\n" + header + large),
        multipart("Content-Transfer-Encoding: quoted-printable\n\na \n" + large),
    ):
        assert look(data).unread == [(b"part-1", Why.LIMIT)]
    unmet = raw("Content-Type: multipart/mixed; boundary=x", large)
    assert look(unmet).reasons == {Why.DAMAGED}


def test_a_file_that_was_attached_as_text_counts_with_line_ends_of_both_kinds() -> None:
    part = "Content-Type: text/plain\nContent-Disposition: attachment; filename=a\n\none\ntwo\n"
    one, other = b"one\ntwo\n", b"one\r\ntwo\r\n"
    # Some programs count the line end before a boundary as a part of the file.
    longer = [one + b"\n", other + b"\r\n"]
    for data in (multipart(part), multipart(part).replace(b"\n", b"\r\n")):
        assert sorted(look(data).contents) == sorted([one, other, *longer])
    mixed = multipart(part.replace("one\n", "one\r\n"))
    assert look(mixed).contents == [b"one\r\ntwo\n", one, other, *longer]
    inline = "Content-Type: text/plain\n\none\ntwo\n"
    assert look(multipart(inline)).contents == [one, other]
    encoded = "Content-Type: text/html\nContent-Transfer-Encoding: base64\n\n"
    encoded += binascii.b2a_base64(other).decode()
    assert look(multipart(encoded)).contents == [other, one]
    assert len(look(multipart(TEXT)).members) == 1
    # The last carriage return may belong to the text, or to the line end before the boundary.
    cut = multipart("\none").replace(b"one\n", b"one\r\n")
    assert look(cut).contents == [b"one", b"one\r"]


def test_quoted_printable_in_lines_that_do_not_end() -> None:
    body = "".join(f"={byte:02X}" for byte in B * 60)
    out = look(raw("Content-Transfer-Encoding: quoted-printable", body))
    assert out.contents[0] == B * 60


def test_encodings_that_nobody_undoes_are_unread_and_their_bytes_listed() -> None:
    out = look(multipart("Content-Transfer-Encoding: mac-binhex40\n\nxx", base64_part("b", B)))
    assert out.contents == [b"xx", B] and out.reasons == {Why.UNSUPPORTED}
    odd = look(multipart("Content-Transfer-Encoding: 8-bit\n\nxx"))
    assert odd.contents == [b"xx"] and not odd.unread


def test_uuencoded_files_in_a_text_are_members() -> None:
    body = "hello\n" + uuencoded("a b.bin", A) + "and\n" + uuencoded("b", B) + "bye\n"
    for header in ("Content-Type: text/plain", "Content-Transfer-Encoding: x-uuencode"):
        for data in (raw(header, body), raw(header, body).replace(b"\n", b"\r\n")):
            out = look(data)
            assert out.members[1:3] == [(b"a b.bin", A), (b"b", B)] and not out.unread
    modern = "begin-base64 644 a\n" + binascii.b2a_base64(A).decode() + "====\n"
    assert look(raw("X: y", modern)).members[1] == (b"a", A)
    assert look(multipart(f"\n{body}", TEXT)).contents[1:3] == [A, B]
    beside = multipart(TEXT).replace(b"--" + BOUNDARY.encode(), uuencoded("p", A).encode() + b"--"
        + BOUNDARY.encode(), 1)  # fmt: skip
    assert A in look(beside).contents


def test_a_text_about_uuencode_is_clean() -> None:
    for text in ("begin 644 x\n\nSee you there\n", "begin 644 x\nbegin 644 y\n", "begin the day\n"):
        out = look(raw("X: y", text))
        assert out.contents == texts(text.encode()) and not out.unread


def test_uuencode_is_found_however_it_is_written() -> None:
    """Each of these forms is read by at least two of ripMIME, MIME-tools and uudecode."""
    usual = uuencoded("a", A)
    encoded = "Content-Type: x/y\nContent-Transfer-Encoding: x-uuencode"
    for text in (
        *(
            usual.replace("644", mode, 1)
            for mode in ("100644", "6", "0", "888", "rw-", "0o644", "0" * 99)
        ),
        *(usual.replace(" ", blank, 2) for blank in ("\t", "  ", " \t")),
        usual.replace(" a\n", "\n", 1),
        usual.replace(" a\n", " \n", 1),
        usual.replace(" a\n", f" {'n' * 1200}\n", 1),
        *(usual.replace("`\nend\n", end) for end in ("", "`\n", "`\nEND\n", "`\nend of it\n")),
        usual.replace("`\nend\n", "A text goes on, in lower case\n"),
        usual.replace("\nM", "\n\nM"),
        usual.replace("`\nend\n", "") + uuencoded("b", B),
        usual.replace("`\nend\n", "`\nTEXT\n#A B\n"),
        usual.replace("\nM", "\nfoot of part 1\n\nSubject: part 2\n\nM", 3),
        usual.replace("begin", "BEGIN"),
        re.sub("(?m)^(M.{60})$", r"\1x", usual),
        re.sub("(?m)^(M.{60})$", r"\1 # more that is behind it", usual),
    ):
        for data in (raw("X: y", text), raw(encoded, text), multipart(f"\n{text}", TEXT)):
            assert A in look(data).contents, text[:40]
            for end in (b"\r\n", b"\n\r"):
                assert A in look(data.replace(b"\n", end)).contents, text[:40]
            assert not look(data).unread


def test_the_line_that_begins_a_file_is_found_over_the_edge_of_a_block() -> None:
    """A mail is read in blocks that end at 4,096 and 20,480 bytes; the first is the header."""
    header = raw("X: y", "")
    for edge in (4096, 20_480):
        for before in range(1, len("\nbegin 644 a\n") + 1):
            front = b"x" * (edge - len(header) - before)
            out = look(header + front + b"\n" + uuencoded("a", A).encode())
            assert (b"a", A) in out.members, (edge, before)


def test_uuencode_that_is_too_much_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    large = random.Random(3).randbytes(700_000)
    assert look(raw("X: y", uuencoded("a", large))).members[1] == (b"a", large)
    monkeypatch.setattr(mimedecode, "MAX_UU_BYTES", 1000)
    out = look(raw("X: y", uuencoded("a", A) + uuencoded("b", B) + uuencoded("c", A)))
    assert out.members[1] == (b"a", A) and out.reasons == {Why.LIMIT}


# Boundaries


@pytest.mark.parametrize(
    "parameter",
    [
        'boundary="b c"',
        'BOUNDARY = "b c"',
        'boundary="b\\ c"',
        'boundary*0="b "; boundary*1=c',
        "boundary*=us-ascii''b%20c",
        "boundary*0*=''b%20; boundary*1=c",
        '(boundary="x") boundary="b c"',
        '(a (nested) comment); boundary="b c"',
        'x="; boundary=no"; boundary="b c"',
        'charset=x;\n\tboundary="b c" ',
    ],
)
def test_a_boundary_is_known_however_it_is_written(parameter: str) -> None:
    body = f"--b c\n{base64_part('a', A)}\n--b c--\n"
    out = look(raw(f"Content-Type: multipart/mixed; {parameter}", body))
    assert A in out.contents and not out.unread


@pytest.mark.parametrize("char", ["-", "1", "z"])
@pytest.mark.parametrize("kept", ["", "\\"])
def test_a_backslash_in_a_boundary_is_one_or_none(char: str, kept: str) -> None:
    line = f"--a{kept}{char}b"
    header = f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="a\\{char}b"'
    assert A in look(raw(header, f"{line}\n{base64_part('a', A)}\n{line}--\n")).contents


@pytest.mark.parametrize("char", [b"-", b"1", b"z"])
def test_a_header_names_a_boundary_with_a_backslash_and_without_it(char: bytes) -> None:
    """No line of the test resembles a boundary, because such a line would separate parts, too."""
    header = Collector()
    assert header.add(b'Content-Type: multipart/mixed; boundary="a\\' + char + b'b"\n')
    assert header.fields().boundaries == {b"a" + char + b"b", b"a\\" + char + b"b"}


def test_of_two_boundaries_both_count() -> None:
    for one, other in ("xy", "yx"):
        header = f"Content-Type: multipart/mixed; boundary={one}; boundary={other}"
        out = look(raw(header, f"--x\n{base64_part('a', A)}\n--x--\n"))
        assert A in out.contents


def test_fields_that_contradict_each_other_count_each() -> None:
    mixed, text = "Content-Type: multipart/mixed; boundary=x", "Content-Type: text/plain"
    body = f"--x\n{base64_part('a', A)}\n--x--\n"
    many = f"{text}\nContent-Disposition: x\n" * 200
    for header in (
        f"{text}\n{mixed}",
        f"{mixed}\n{text}",
        f"{many}{mixed}",
        f"{mixed}\n{many}X: y",
    ):
        out = look(raw(header, body))
        assert out.contents[0] == body.encode() and A in out.contents and not out.unread
    sevens = "Content-Transfer-Encoding: 7bit\nContent-Transfer-Encoding: 8bit\n"
    assert look(raw(f"{sevens}{mixed}", body)).contents == [A]
    both = "Content-Transfer-Encoding: {}\nContent-Transfer-Encoding: {}\n"
    for one, other in (("base64", "7bit"), ("7bit", "base64"), ("quoted-printable", "base64")):
        part = both.format(one, other) + base64_part("a", A, "x-none")
        assert A in look(multipart(part)).contents and not look(multipart(part)).unread
    inner = raw(mixed, body)
    kinds = "Content-Type: x/y\nContent-Type: message/rfc822\n\n"
    out = look(multipart(kinds + inner.decode()))
    assert {member.kind for member in out.listed} == {"", MESSAGE} and inner in out.contents


def test_too_many_fields_that_differ_are_unread() -> None:
    many = "".join(f"Content-Type: x/y{number}\n" for number in range(40))
    assert look(raw(many + "X: y", "text")).reasons == {Why.LIMIT}
    decoys = "; ".join(f"boundary=n{number}" for number in range(300))
    out = look(raw(f"Content-Type: multipart/mixed; {decoys}; boundary=x", "--x\n\nb\n--x--\n"))
    assert out.reasons == {Why.LIMIT}


def test_a_boundary_without_a_type_counts() -> None:
    for kind in ("mixed", "multipart", ""):
        data = raw(f"Content-Type: {kind}; boundary=x", f"--x\n{base64_part('a', A)}\n--x--\n")
        assert A in look(data).contents


@pytest.mark.parametrize("last", ["--", "", "-- ", "--\nepilogue"])
def test_the_end_may_be_missing(last: str) -> None:
    out = look(multipart(TEXT, base64_part("a", A), last=last))
    assert A in out.contents and not out.unread


def test_parts_behind_the_end_count() -> None:
    data = multipart(TEXT, last="--") + f"--{BOUNDARY}\n{base64_part('a', A)}\n".encode()
    assert A in look(data).contents


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_field_of_a_part_begins_one_in_text_before_and_behind_the_parts(end: bytes) -> None:
    """Some programs look only for the field, and some take a line without dashes as a boundary."""
    part = base64_part("a", A).encode()
    for data in (
        multipart(TEXT).replace(b"\n--", b"\n-\n" + part + b"\n--", 1),
        multipart(TEXT) + b"\ntext\n\n -- \n" + part,
        multipart(TEXT) + part.replace(b"Content-Type", b"CONTENT-TYPE"),
    ):
        for edge in range(3):
            out = look(data.replace(b"-\n" + part, b"-\n" * edge + part).replace(b"\n", end))
            assert {b"benign text", A} <= set(out.contents) and not out.unread
    text = b"Content-Type: text/plain\n\nbe\0nign\n" + part
    assert A in look(multipart(TEXT) + text).contents
    before = multipart(TEXT).replace(b"\n\n", b"\n\nContent: a line of text\n", 1)
    assert look(before).contents == look(multipart(TEXT)).contents


def test_a_boundary_may_be_of_dashes_alone_where_fields_of_a_part_follow() -> None:
    body = f"---\n{base64_part('a', A)}\n-----\n"
    assert A in look(raw("Content-Type: text/plain", body)).contents
    ruled = look(raw("Content-Type: text/plain", "text\n---\n\nx: y\n"))
    assert ruled.contents == texts(b"text\n---\n\nx: y\n")


@pytest.mark.parametrize("gap", ["", "\n"])
def test_the_line_before_a_field_of_a_part_may_be_a_boundary(gap: str) -> None:
    """Some programs recognise a boundary by a part of its line."""
    text = "Content-Type: text/plain\n\n"
    data = multipart(f"\n{text}benign{gap}", f"\n{text}another").replace(b"\n--", b"\n-")
    found = look(data + f"\n--{BOUNDARY}\n".encode()).contents
    for content in (f"benign{gap}", f"benign{gap}\n", f"benign{gap}\n-{BOUNDARY}"):
        assert content.encode() in found


def test_parts_between_line_ends_that_are_reversed_are_unread() -> None:
    mail = multipart(TEXT, base64_part("a", A))
    header, _, body = mail.partition(b"\n\n")
    for data in (mail, header + b"\n" + body):
        assert Why.DAMAGED in look(data.replace(b"\n", b"\n\r")).reasons
    single = raw("Content-Type: text/plain", "benign").replace(b"\n", b"\n\r")
    assert not look(single).unread


@pytest.mark.slow
def test_text_before_the_parts_that_is_too_large_to_be_read_again_is_unread() -> None:
    data = multipart(TEXT).replace(b"\n\n", b"\n\n" + b"benign\n" * (MAX_AGAIN_BYTES // 6), 1)
    out = look(data)
    assert out.reasons == {Why.LIMIT} and b"benign text" in out.contents


def test_a_boundary_of_an_outer_part_ends_all_inner_ones() -> None:
    inner = f'Content-Type: multipart/mixed; boundary="in"\n\n--in\n{base64_part("a", A)}'
    out = look(multipart(inner, base64_part("b", B)))
    assert out.contents == [A, B] and not out.unread


def test_lines_that_only_look_like_boundaries_are_bytes() -> None:
    lines = f"--\n-- \n--{BOUNDARY[:-1]}\n--{BOUNDARY}x\n ---{BOUNDARY}\n--in--"
    assert look(multipart(f"\n{lines}", TEXT)).contents[0] == lines.encode()
    stack = [Boundaries((b"ab",)), Boundaries((b"abc",))]
    for line, level, is_last in ((b"--ab", 0, 0), (b"--abc--\r\n", 1, 1)):
        hit = match(stack, line)
        assert hit is not None and (hit.level, hit.is_last) == (level, bool(is_last))
    assert match(stack, b"--abd") is None and match(stack, b"--ab;x") is None


def test_bytes_of_any_length_before_a_boundary_are_kept() -> None:
    for length in (*range(8), *range(2040, 2060), *range(65_520, 65_545)):
        for end in ("\n", "\r\n"):
            body = "x" * length + "\r\n-\n-- "
            data = multipart(f"\n{body}").replace(b"\n--=", end.encode() + b"--=")
            assert look(data).contents[0] == body.encode(), length


def test_a_boundary_is_found_over_the_edge_of_a_block() -> None:
    """The blocks in which a mail is read end at 4,096 and 20,480 bytes."""
    for end in ("\n", "\r\n"):
        data = multipart("\nbody", base64_part("a", A)).decode().replace("\n", end).encode()
        line = f"{end}--{BOUNDARY}{end}".encode()
        at = data.index(line, data.index(b"body"))
        for edge in (4096, 20_480):
            for inside in range(1, len(line)):
                body = b"." * (edge - at - inside)
                out = look(data[:at] + body + data[at:])
                assert out.contents == [b"body" + body, A], (edge, inside)


def test_a_line_that_resembles_a_boundary_counts_in_both_ways() -> None:
    """Some programs compare only the beginning of such a line, and some ignore case."""
    usual = multipart("\nbenign", base64_part("a", A))
    line = f"\n--{BOUNDARY}\nContent-Type".encode()
    for other in (f"{BOUNDARY}x", f"{BOUNDARY} x", f"{BOUNDARY}-x", f"{BOUNDARY}--x"):
        data = usual.replace(line, f"\n--{other}\nContent-Type".encode())
        rest = data.partition(b"\n\nbenign")[2].partition(b"\n--=-=-=--\n")[0]
        out = look(data)
        assert {b"benign" + rest, b"benign", A} <= set(out.contents) and not out.unread, other
    for named, used in (("xYz", "XyZ"), ("XyZ", "xyz")):
        data = multipart(TEXT, base64_part("a", A), boundary=named)
        data = data.replace(f"--{named}\n".encode(), f"--{used}\n".encode())
        assert A in look(data).contents and not look(data).unread
    # The boundary occurs within the base64. One program decodes all of the base64, and another
    # program sees two parts.
    encoded = binascii.b2a_base64(A).decode().strip()
    data = multipart(
        "Content-Transfer-Encoding: base64\n\n" + encoded[:400] + "\n--" + encoded[400:],
        boundary=encoded[400:410],
    )
    assert A in look(data).contents and A[:300] in look(data).contents


@pytest.mark.parametrize(
    "parameter",
    [
        "",
        'boundary=""',
        'boundary="XyZ',
        "boundary:XyZ",
        "(boundary=XyZ)",
        "boundary (a (b) c) = (d (e)) XyZ",
        'boundary="=?us-ascii?q?XyZ?="',
        "; ".join(f"boundary=n{number}" for number in range(200)),
        f'x="{"y" * 100_000}"; boundary=XyZ',
        ";\n".join(f' x{number}="{"y" * 60}"' for number in range(1200)) + ";\n boundary=XyZ",
    ],
)
def test_parts_are_found_where_no_field_names_their_boundary(parameter: str) -> None:
    body = f"--XyZ\n\nbenign\n--XyZ\n{base64_part('a', A)}\n--XyZ--\n"
    for kind in ("multipart/mixed", "text/plain", "x"):
        out = look(raw(f"Content-Type: {kind}; {parameter}", body))
        assert A in out.contents and not out.unread


def test_a_boundary_may_be_folded_and_long() -> None:
    for folded, boundary in (("b\n\tc", "b\tc"), ("b\n c", "b c"), ("b\n c", "bc")):
        body = f"--{boundary}\n\nbenign\n--{boundary}--\n"
        out = look(raw(f'Content-Type: multipart/mixed; boundary="{folded}"', body))
        # Some clients show the whole body as one text.
        assert out.contents == [*texts(body.encode()), b"benign"]
    assert look(multipart("\nbenign", boundary="L" * 3000)).contents == [b"benign"]


def test_a_message_that_was_pasted_into_a_text_is_opened() -> None:
    inner = multipart("\nbenign", base64_part("a", A), boundary="inner").decode()
    for data in (raw("X: y", "It came back:\n\n" + inner), multipart(f"\n{inner}", TEXT)):
        assert A in look(data).contents and not look(data).unread


def test_a_body_begins_at_a_line_that_is_no_field_or_behind_the_next_empty_one() -> None:
    for front in (b"no field\n", b"no field\nAnother: field?\n"):
        data = b"From: a\nTo: b\n" + front + b"\ntext\n"
        assert {front + b"\ntext\n", b"text\n"} <= set(look(data).contents)
        assert not look(data).unread


def test_the_text_of_a_message_in_another_counts_with_the_line_end_before_the_boundary() -> None:
    for encoding in ("8bit", "quoted-printable"):
        data = raw(f"Content-Transfer-Encoding: {encoding}", "text\n")
        both = {*texts(b"text\n"), *texts(b"text\n\n"), *texts(b"text")}
        assert set(opened(Message(), data).contents) == both


def test_the_last_line_end_of_a_multipart_without_an_end_may_be_of_a_boundary() -> None:
    cut = multipart("\ntext").rpartition(b"--=")[0]
    assert cut.endswith(b"text\n") and set(look(cut).contents) == {*texts(b"text\n"), b"text"}


def test_a_multipart_of_no_part_is_one_text() -> None:
    for body in ("text\n--x--\n", "text\n--x--\n\nmore behind the end\n--x-- \n"):
        out = look(raw("Content-Type: multipart/mixed; boundary=x", body))
        assert out.contents == texts(b"text", is_cut=True) and not out.unread
    begun = "--x and more\nContent-Type: a/b\n\nfirst\n--x-- and more\n"
    out = look(raw("Content-Type: multipart/mixed; boundary=x", f"{begun}--x--\n"))
    assert {begun.encode(), b"first"} <= set(out.contents) and not out.unread


def test_behind_an_empty_first_line_all_is_text_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """For some programs, an empty first line ends the header of a mail without fields."""
    for end in (b"\n", b"\r\n", b"\r"):
        data = (end * 2 + b"From: a" + end + b"To: b" + end * 2 + b"text" + end * 2) + end
        out = look(data)
        assert data.removeprefix(end) in out.contents and not out.unread
        assert b"text" in {one.rstrip() for one in out.contents}
    data = b"\nFrom: a\nTo: b\n\ntext\n"
    monkeypatch.setattr("hashclient.containers.mail.MAX_TEXT_BYTES", len(data))
    assert data[1:] in look(data).contents
    assert data[1:] + b"x" not in look(data + b"x").contents


def test_the_text_behind_an_empty_first_line_is_not_opened_again() -> None:
    """The mail is opened already, and a second reading would double the work at each such line."""
    out = look(b"\rFrom: a\n\rTo: b\n\rSubject: c\n\r\n\rtext\n\r")
    again = [each for each in out.listed if each.kind == NEVER]
    assert again and all(b"From: a" in b"".join(each.chunks()) for each in again)
    assert all(b"From: a" not in b"".join(e.chunks()) for e in out.listed if e.kind != NEVER)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("multipart/mixed\n\tboundary=b", "--b"),
        ("multipart/mixed; boundary=b;", "--b"),
        ("multipart/mixed; boundary='b'", "--'b'"),
        ("multipart/mixed (c); boundary=b", "--b"),
        ("multipart/mixed; boundary=a", "--ab"),
        ("multipart/digest; boundary=1;", "--1"),
    ],
)
def test_a_multipart_whose_boundary_some_clients_do_not_take_is_one_text_as_well(
    kind: str, line: str
) -> None:
    body = f"{line}\n{base64_part('a', A)}\n{line}\n\nbenign\n"
    out = look(raw(f"Content-Type: {kind}", body))
    assert A in out.contents and body.encode() in out.contents and not out.unread
    outer = multipart(f"Content-Type: {kind}\n\n{body}", TEXT)
    assert A in look(outer).contents and body.encode() in look(outer).contents


def test_a_large_multipart_whose_boundary_some_clients_do_not_take_is_read_and_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hashclient.containers.mail.MAX_AGAIN_BYTES", 100)
    out = look(raw("Content-Type: multipart/mixed; boundary=b;", f"--b\n{base64_part('a', A)}\n"))
    assert A in out.contents and out.reasons == {Why.LIMIT}


def test_a_body_behind_a_line_that_is_no_field_is_found_whatever_ends_lines() -> None:
    data = multipart(base64_part("a", A * 40).replace("\n\n", "\nX-Odd\n\n", 1))
    for end in (b"\n", b"\r\n", b"\r\r\n"):
        assert A * 40 in look(data.replace(b"\n", end)).contents


def test_several_lines_in_a_header_that_are_none_are_in_the_body_once() -> None:
    begun = b"odd line\nanother one\nSubject: x\na third\n\nbenign\nlast\n"
    for end in (b"", b"by\nmore\n\n"):
        data = b"From: a\nTo: b\n" + begun + end
        assert {*texts(begun + end)} <= {*look(data).contents}
    part = base64_part("a", A)
    data = multipart(TEXT, part).replace(b"MIME-Version", b"odd line\nMIME-Version")
    assert A in look(data).contents and data[data.index(b"odd") :] in look(data).contents


def test_a_header_goes_on_behind_a_line_that_is_none_as_far_as_fields_follow() -> None:
    lines = [
        b"From: a\n",
        b"odd line\n",
        b"Subject: x\n",
        b"another one\n",
        b"text\n",
        b"\n",
        b"end",
    ]
    source = Lines(Once(b"".join(lines), 7))
    header = source.header([])
    assert not header.has_end and header.fields().rest == b"".join(lines[1:3])
    assert source.take(100) == b"".join(lines[3:])


def test_a_header_without_an_empty_line_ends_at_a_boundary() -> None:
    data = multipart("Content-Type: text/plain", base64_part("a", A))
    assert A in look(data).contents
    head = "Content-Type: multipart/mixed; boundary=x\n--x\n" + base64_part("a", A) + "\n--x--\n"
    assert A in look(f"From: a\nSubject: b\n{head}".encode()).contents


def test_a_line_in_a_header_that_is_none_hides_nothing() -> None:
    """Some clients begin the body at a line that is no field, and other clients skip the line."""
    part = base64_part("a", A)
    data = multipart(TEXT, part).replace(b"MIME-Version", b"odd line\nMIME-Version")
    assert A in look(data).contents and not look(data).unread
    begun = b"odd line\nContent-Type: text/plain\n\nbenign"
    data = b"From: a\nTo: b\n" + begun
    both = [*texts(b"benign", is_cut=True), *texts(begun, is_cut=True)]
    assert look(data).contents == both and not look(data).unread
    for quiet in (b">From x y\n", b"From x y\n"):
        data = multipart(TEXT, part).replace(b"MIME-Version", quiet + b"MIME-Version")
        assert A in look(data).contents and not look(data).unread
    joined = multipart(TEXT, part.replace("\n\n", "\n"))
    assert joined.count(b"\n\n") == multipart(TEXT, part).count(b"\n\n") - 1
    assert A in look(joined).contents and not look(joined).unread
    ended = part.replace("\n\n", "\n") + "=\nContent-Type: x/y\n\nrest"
    assert not look(multipart(TEXT, ended)).unread


def test_a_multipart_without_its_boundary_is_one_text_and_unread_if_it_has_fields_of_parts() -> (
    None
):
    out = look(raw("Content-Type: multipart/mixed; boundary=x", base64_part("a", A)))
    assert out.reasons == {Why.DAMAGED}
    for kind in ("mixed", "mixed; boundary=x"):
        out = look(raw(f"Content-Type: multipart/{kind}", "text"))
        assert out.contents == [b"text"] and not out.unread
    # The file itself is no mail, but quotes a mail, for example in test data in XML.
    quoted = b"<mail>\n" + raw("Content-Type: multipart/mixed; boundary=x", base64_part("a", A))
    assert opened(Eml(), quoted).contents and not opened(Eml(), quoted).unread
    # Programs that send a message back cut it in this way.
    assert not look(raw("Content-Type: multipart/mixed; boundary=x", "\n")).unread


def test_a_multipart_that_says_that_it_is_encoded_counts_both_ways() -> None:
    for encoding in ("base64", "quoted-printable"):
        header = f"Content-Type: multipart/mixed; boundary=x\nContent-Transfer-Encoding: {encoding}"
        out = look(raw(header, f"--x\n{base64_part('a', A)}\n--x--\n"))
        assert out.contents == [A] and not out.unread
    header = "Content-Type: multipart/mixed; boundary=x\nContent-Transfer-Encoding: base64"
    assert A in look(raw(header, binascii.b2a_base64(A))).contents


def test_multiparts_too_deep_in_each_other_are_unread() -> None:
    header, body = "Content-Type: multipart/mixed; boundary=b0", ""
    for number in range(1, MAX_DEPTH + 2):
        inner = f"Content-Type: multipart/mixed; boundary=b{number}z\n\n"
        body += f"--b{number - 1}{'z' if number > 1 else ''}\n{inner}"
    assert Why.LIMIT in look(raw(header, body)).reasons


# Unread mail


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("Content-Type: message/partial; id=x; number=1; total=2", Why.UNSUPPORTED),
        ("Content-Type: multipart/encrypted; boundary=x", Why.ENCRYPTED),
        ("Content-Type: application/pkcs7-mime; smime-type=enveloped-data", Why.ENCRYPTED),
        ("Content-Type: application/x-pkcs7-mime; smime-type=signed-data", Why.UNSUPPORTED),
        ("Content-Type: application/mac-binhex40", Why.UNSUPPORTED),
    ],
)
def test_a_mail_that_hides_its_content_is_unread(header: str, why: Why) -> None:
    assert why in look(raw(header, "--x\n\nbody\n--x--\n")).reasons


def test_a_part_of_a_message_in_several_that_is_alone_is_a_message() -> None:
    inner = multipart(base64_part("a", A))
    for numbers, reasons in (("1; total=1", set()), ("1; total=2", {Why.UNSUPPORTED})):
        out = look(raw(f"Content-Type: message/partial; id=x; number={numbers}", inner))
        assert out.reasons == reasons
        assert [member.kind for member in out.listed] == [MESSAGE] and out.contents == [inner]
    assert A in look(multipart(base64_part("a", A), kind="partial")).contents


# Recognising mail


def test_ordinary_texts_are_no_mail() -> None:
    for text in (
        b"benign text",
        b"Title: x\nfree text\n",
        b"key: value\nother: value\n\nmore\n",
        b"Title\nTo: whom it may concern\n\nHello\n",
        b"std::cout << 1;\n",
        b"http://example.org/\n",
        b"INFO: a line\n" * 3,
        b'{"From": "x"}',
        b"",
    ):
        assert not sniffs(Eml(), text), text
    for text in (b"INFO: a line\n" * 100, b"Name: a\nVersion: 1\n" * 60 + b"\nFrom: a\nTo: b\n"):
        assert not opened(Eml(), text).members and not opened(Eml(), text).unread


@pytest.mark.slow
def test_no_file_of_this_project_is_unread() -> None:
    for path in [*Path(__file__).parents[2].glob("**/*.md"), *Path("/etc").glob("*.conf")]:
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if sniffs(Eml(), data):
            assert not opened(Eml(), data).unread, path


FRONTS = (
    *(b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"X-Long: " + b"x" * 5000 + b"\n"),
    *(
        b" \n",
        b"  \n \t\n",
        b" folded\n",
        b"\tfolded\n",
        b": x\n",
        b"--x\n",
        b"a line\n",
        b"word\n",
    ),
    *(b">From a@b Fri May  1 12:00:00 2026\n", b">From a\n", b">>From a\n", b"from a\n"),
    *(
        b"X A: v\n",
        b"X-A (comment): v\n",
        b"Return-Path(x): <>\n",
        b"S\xfcbject: x\n",
        b"\xff\xfe\n",
    ),
    *(b"HTTP/1.1 200 OK\n", b"#! rnews 1234\n", b"+OK 12 octets\n", b"1234\n", b"\x0c\n", b"\0\n"),
    *(b"one\ntwo\n", b"a line\n\n", b"BABYL OPTIONS:\n", b"X-Long: " + b"x" * 70_000 + b"\n"),
    b"X-Long: " + b"\n ".join([b"y" * 70] * 1500) + b"\n",
    b"".join(b"X-Field-%d: value\n" % number for number in range(6000)),
)


@pytest.mark.parametrize("front", FRONTS, ids=map(repr, range(len(FRONTS))))
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_mail_is_known_behind_anything_that_clients_pass_over(front: bytes, end: bytes) -> None:
    whole = multipart(base64_part("a", A))
    alone = b"Content-Type" + whole.partition(b"Content-Type")[2]
    for mail in (whole, alone, b"X-A: b\n" + alone):
        data = (front + mail).replace(b"\n", end)
        assert has_mark(data) and has_mark(data, is_all=True)
        out = opened(Eml(), data)
        assert sniffs(Eml(), data) and A in out.contents and not out.unread


def test_a_mailbox_is_known_by_any_first_line() -> None:
    alone = b"Content-Type" + multipart(base64_part("a", A)).partition(b"Content-Type")[2]
    for line in (b"From a@b\n", b"From \n", b"From x y z\n", b"From a@b Fri May  1 12:00 2026\n"):
        assert has_mark(line + alone)
        assert A in opened(Message(), opened(Mbox(), line + alone).contents[0]).contents


def test_one_field_of_mail_is_enough_where_a_file_begins_with_it() -> None:
    data = b"Subject: benign\n\ntext\n"
    assert has_mark(data) and look(data).contents == texts(b"text\n")
    for other in (b"a line\n" + data, b"Title: x\n" + data):
        assert not has_mark(other, is_all=True) and not opened(Eml(), other).members


@pytest.mark.parametrize("field", ["Content-Type: x/y", "Content-Disposition: inline", "X: y"])
def test_a_part_alone_is_mail(field: str) -> None:
    part = base64_part("a", A).partition("Content-Type")[2].partition("\n")[2]
    assert look(f"{field}\n{part}".encode()).contents == [A]


def test_a_carriage_return_alone_ends_lines_of_headers_and_where_it_does_those_of_bodies() -> None:
    mail = multipart("\none\ntwo", base64_part("a", A), "\n" + uuencoded("u", B))
    old = mail.replace(b"\n", b"\r")
    header, _, body = mail.partition(b"\n\n")
    for data in (
        old,
        *(
            header.replace(b"\n", b"\r") + b"\r\r" + body.replace(b"\n", end)
            for end in (b"\n", b"\r\n")
        ),
        mail.replace(b"\n", b"\r\r\n"),
        multipart("\none", base64_part("a", A).replace("\n", "\r"), "\n" + uuencoded("u", B)),
        raw("X: y\r", "").strip().replace(b"\n", b"\r") + b"\r\r" + B,
    ):
        assert not look(data).unread
        for content in (A, B):
            assert content in look(data).contents or data.endswith(B), data[:99]
    single = raw("X: y", "").strip() + b"\r" + base64_part("a", A).replace("\n", "\r").encode()
    assert look(single).contents == [A]


def test_a_large_attachment_comes_in_pieces() -> None:
    content = random.Random(2).randbytes(2 << 20)
    data = multipart(TEXT, base64_part("a", content))
    assert len(data) > 2 << 20
    for found in each(Eml(), Once(data, 100_000)):
        assert not isinstance(found, Unlisted)
        pieces = list(found.chunks())
        assert max(map(len, pieces)) <= MAX_PIECE_BYTES
    assert look(data).contents[1] == content


def test_names_are_those_that_clients_show() -> None:
    names = {
        'filename="../a"': b"../a",
        "filename*=utf-8''%e2%82%ac": "\u20ac".encode(),
        'filename="=?utf-8?b?4oKs?="': "\u20ac".encode(),
        'filename*0="a"; filename*1="b"': b"ab",
        'filename="q\\"q"': b'q"q',
        "filename=": b"part-1",
    }
    for parameter, name in names.items():
        part = f"Content-Disposition: attachment; {parameter}\n\nx"
        assert {*look(multipart(part)).names} == {name}


def _seconds_of(data: bytes) -> float:
    started = time.process_time()
    opened(Message(), data)
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"\n", b"\r"], ids=["lines", "old lines"])
def test_no_input_takes_long(end: bytes) -> None:
    """Input with many boundaries, dashes, `begin` lines or parameters takes linear time."""
    header = f"Content-Type: multipart/mixed; boundary={BOUNDARY}"
    spaces = "\nbegin 644 " + " " * 990 + "x"
    field = "\nContent-Type: multipart/x"
    for line in (
        "\n--",
        "\nbegin 644 x",
        spaces,
        f"\n--{BOUNDARY}",
        "====",
        "\nc",
        field,
        field + "\n",
    ):
        seconds = []
        for count in (2000, 16_000):
            data = raw(header, line * count).replace(b"\n", end)
            seconds.append(min(_seconds_of(data) for _ in range(3)))
        assert seconds[1] < 0.1 + 24 * seconds[0], line
    # After a line that is no field, only the next few lines are searched, not all later lines.
    odd = _seconds_of(b"From: x\n" + b"odd\nA: b\n" * 16_000 + b"\nx")
    assert odd < 0.1 + 24 * _seconds_of(b"From: x\n" + b"A: b\nA: b\n" * 16_000 + b"\nx")
    opened(Message(), raw(header + '; boundary="' * 5000 + "(" * 5000, "x"))


def test_the_generator_makes_what_python_reads() -> None:
    parts = message_from_bytes(multipart(TEXT, base64_part("a", A))).get_payload()
    assert [part.get_payload(decode=True) for part in parts] == [b"benign text", A]  # type: ignore[union-attr]
    assert mails.uuencoded("x", b"abc") == "begin 644 x\n#86)C\n`\nend\n"


@pytest.mark.slow
def test_text_in_which_no_header_begins_ends_wherever_its_lines_end() -> None:
    # This is a regression test: a line across the end of the first block was searched again and
    # again.
    long = b"0000c954\\:a\xf3\n" + b"benign " * 70 + b"\n" + b"benign text\n" * 9
    assert not opened(Eml(), long).members
    chance = random.Random(7)
    lines = (b"x: y", b"0\\:a", b"--z", b"", b"benign text", b"From x", b" folded", b"\xff" * 9)
    for _ in range(2000):
        text = b""
        while len(text) < 700:
            fill = chance.choice((b"", b"", b"", b"." * chance.randrange(600)))
            text += chance.choice(lines) + fill + chance.choice((b"\n", b"\r\n", b"\r"))
        for reader in (Eml(), Message(), Mbox()):
            opened(reader, text)
