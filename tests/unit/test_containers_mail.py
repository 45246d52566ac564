"""Mail: every part as clients decode it, however its MIME is broken; other texts are left alone."""

from __future__ import annotations

import binascii
import random
import time
from email import message_from_bytes
from pathlib import Path

import pytest

from fixtures import mails
from fixtures.mails import BOUNDARY, base64_part, mail_of, multipart, raw, uuencoded
from hashclient.containers import mimedecode
from hashclient.containers.interface import Unlisted, Why
from hashclient.containers.mail import MAX_DEPTH, MESSAGE, Eml, Message
from hashclient.containers.mimelines import match
from tests.opened import MAX_PIECE_BYTES, Once, Opened, Whole, each, opened, sniffs

A, B = b"benign AA " * 99 + b"1", bytes(range(256)) * 9
TEXT = "Content-Type: text/plain\n\nbenign text"


def look(data: bytes) -> Opened:
    assert sniffs(Eml(), data)
    out = opened(Eml(), data)
    once = opened(Message(), Once(data, 333))
    assert (out.members, out.unread) == (once.members, once.unread)
    return out


def test_python_agrees_with_it() -> None:
    chance = random.Random(1)
    for number in range(20):
        contents = {f"{n} \xe4.bin": chance.randbytes(chance.randrange(4000)) for n in range(3)}
        data = mail_of(contents, text="line\n" * number).as_bytes()
        for made in (data, data.replace(b"\n", b"\r\n")):
            parts = [p for p in message_from_bytes(made).walk() if not p.is_multipart()]
            out = look(made)
            assert out.contents == [part.get_payload(decode=True) for part in parts]
            assert out.contents[1:] == list(contents.values())
            assert not out.unread
            assert out.names[1:] == [name.encode() for name in contents]


def test_a_mail_without_parts_is_its_text() -> None:
    assert look(raw("X: y", "text\n")).contents == [b"text\n"]
    encoded = raw("Content-Transfer-Encoding: BASE64", binascii.b2a_base64(A))
    assert look(encoded).contents == [A]
    quoted = raw("Content-Transfer-Encoding: quoted-printable", "a=3Db=\n c=E4\n")
    assert look(quoted).contents == [b"a=b c\xe4\n"]


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


# Encodings


@pytest.mark.parametrize(
    "encoding", ["base64", "Base64", ' "base64"', "base64 ", "(c) base64", "base64; x", "\n base64"]
)
def test_an_encoding_is_known_however_it_is_written(encoding: str) -> None:
    assert look(multipart(TEXT, base64_part("a", A, encoding))).contents[1] == A


def test_base64_is_decoded_as_clients_do() -> None:
    good = binascii.b2a_base64(A).decode().rstrip("\n=")
    header = "Content-Transfer-Encoding: base64\n\n"
    for body in (
        good,  # no padding
        "\n".join(good[n : n + 5] for n in range(0, len(good), 5)),
        "!" + good.replace("b", "*b-"),
        "=" + good + "==",
        good[:2] + "=" + good[2:] + "==",  # too little to end it
        good + "==\n\n_____\nlist mailing list\nhttps://list.example.org/\n",
    ):
        out = look(multipart(header + body))
        assert out.contents == [A] and not out.unread
    assert look(multipart(header + "QUJD\nQUI")).contents == [b"ABCAB"]
    assert look(multipart(header + "QUJDR")).contents == [b"ABC"]


def test_base64_that_goes_on_behind_its_end_is_unread() -> None:
    body = binascii.b2a_base64(b"x").decode() + binascii.b2a_base64(A).decode()
    out = look(multipart("Content-Transfer-Encoding: base64\n\n" + body, base64_part("b", B)))
    assert out.contents == [B] and out.unread == [(b"part-1", Why.DAMAGED)]
    end = binascii.b2a_base64(b"x").decode()
    for more in (
        "QU\nJDQUJ\nD\n",
        "____\n" + "QUJD" * 19 + "\n",
        "word\n" * 400 + "QUJD" * 9 + "\n",
    ):
        data = multipart("Content-Transfer-Encoding: base64\n\n" + end + more)
        assert look(data).unread == [(b"part-1", Why.DAMAGED)]
    data = multipart("Content-Transfer-Encoding: base64\n\n" + body)
    found = list(each(Eml(), Whole(data)))
    assert isinstance(found[-1], Unlisted)  # though nobody read it


def test_a_file_that_was_attached_as_text_counts_with_line_ends_of_both_kinds() -> None:
    part = "Content-Type: text/plain\nContent-Disposition: attachment; filename=a\n\none\ntwo\n"
    one, other = b"one\ntwo\n", b"one\r\ntwo\r\n"
    for data in (multipart(part), multipart(part).replace(b"\n", b"\r\n")):
        assert sorted(look(data).members) == [(b"a", one), (b"a", other)]
    mixed = multipart(part.replace("one\n", "one\r\n"))
    assert look(mixed).contents == [b"one\r\ntwo\n", one, other]
    assert len(look(multipart(TEXT)).members) == 1


def test_quoted_printable_in_lines_that_do_not_end() -> None:
    body = "".join(f"={byte:02X}" for byte in B * 60)
    out = look(raw("Content-Transfer-Encoding: quoted-printable", body))
    assert out.contents == [B * 60]


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
            assert out.members[1:] == [(b"a b.bin", A), (b"b", B)] and not out.unread
    modern = "begin-base64 644 a\n" + binascii.b2a_base64(A).decode() + "====\n"
    assert look(raw("X: y", modern)).members[1:] == [(b"a", A)]
    assert look(multipart(f"\n{body}", TEXT)).contents[1:3] == [A, B]
    beside = multipart(TEXT).replace(b"--" + BOUNDARY.encode(), uuencoded("p", A).encode() + b"--"
        + BOUNDARY.encode(), 1)  # fmt: skip
    assert A in look(beside).contents


def test_a_text_about_uuencode_is_clean() -> None:
    for text in ("begin 644 x\n\nSee you there\n", "begin 644 x\nbegin 644 y\n", "begin the day\n"):
        out = look(raw("X: y", text))
        assert len(out.members) == 1 and not out.unread


def test_uuencode_that_breaks_or_is_too_much_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = uuencoded("a", A).replace("`\nend\n", "lower case\n")
    assert look(raw("X: y", broken)).unread == [(b"a", Why.DAMAGED)]
    assert look(raw("X: y", uuencoded("a", A).replace("`\nend\n", ""))).members[1] == (b"a", A)
    large = random.Random(3).randbytes(700_000)
    assert look(raw("X: y", uuencoded("a", large))).members[1] == (b"a", large)
    monkeypatch.setattr(mimedecode, "MAX_UU_BYTES", 1000)
    out = look(raw("X: y", uuencoded("a", A) + uuencoded("b", B) + uuencoded("c", A)))
    assert out.members[1:] == [(b"a", A)] and out.reasons == {Why.LIMIT}


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
        'charset=x;\n\tboundary="b c" ',
    ],
)
def test_a_boundary_is_known_however_it_is_written(parameter: str) -> None:
    body = f"--b c\n{base64_part('a', A)}\n--b c--\n"
    out = look(raw(f"Content-Type: multipart/mixed; {parameter}", body))
    assert A in out.contents and not out.unread


def test_of_two_boundaries_both_count() -> None:
    for one, other in ("xy", "yx"):
        header = f"Content-Type: multipart/mixed; boundary={one}; boundary={other}"
        out = look(raw(header, f"--x\n{base64_part('a', A)}\n--x--\n"))
        assert A in out.contents
    twice = "Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=x"
    out = look(raw(twice, f"--x\n{base64_part('a', A)}\n--x--\n"))
    assert A in out.contents and out.reasons == {Why.DAMAGED}


def test_fields_without_end_hide_none_behind_them() -> None:
    many = "Content-Type: text/plain\nContent-Disposition: x\n" * 200
    data = raw(f"{many}Content-Type: multipart/mixed; boundary=x", f"--x\n{base64_part('a', A)}\n")
    assert A in look(data).contents and look(data).unread


def test_a_boundary_without_a_type_counts() -> None:
    for kind in ("mixed", "multipart", ""):
        data = raw(f"Content-Type: {kind}; boundary=x", f"--x\n{base64_part('a', A)}\n--x--\n")
        assert A in look(data).contents


def test_two_encodings_are_unread() -> None:
    part = "Content-Transfer-Encoding: 7bit\n" + base64_part("a", A)
    assert Why.DAMAGED in look(multipart(part)).reasons


@pytest.mark.parametrize("last", ["--", "", "-- ", "--\nepilogue"])
def test_the_end_may_be_missing(last: str) -> None:
    out = look(multipart(TEXT, base64_part("a", A), last=last))
    assert A in out.contents and not out.unread


def test_parts_behind_the_end_count() -> None:
    data = multipart(TEXT, last="--") + f"--{BOUNDARY}\n{base64_part('a', A)}\n".encode()
    assert A in look(data).contents


def test_a_boundary_of_an_outer_part_ends_all_inner_ones() -> None:
    inner = f'Content-Type: multipart/mixed; boundary="in"\n\n--in\n{base64_part("a", A)}'
    out = look(multipart(inner, base64_part("b", B)))
    assert out.contents == [A, B] and not out.unread


def test_lines_that_only_look_like_boundaries_are_bytes() -> None:
    lines = f"--\n-- \n--{BOUNDARY[:-1]}\n--{BOUNDARY}x\n ---{BOUNDARY}\n--in--"
    assert look(multipart(f"\n{lines}", TEXT)).contents[0] == lines.encode()
    stack = [frozenset((b"ab",)), frozenset((b"abc",))]
    for line, level, is_last in ((b"--ab", 0, 0), (b"--abc--\r\n", 1, 1), (b"--ab;x", 0, 0)):
        hit = match(stack, line)
        assert hit is not None and (hit.level, hit.is_last) == (level, bool(is_last))
    assert match(stack, b"--abd") is None


def test_bytes_of_any_length_before_a_boundary_are_kept() -> None:
    for length in (*range(8), *range(2040, 2060), *range(65_520, 65_545)):
        for end in ("\n", "\r\n"):
            body = "x" * length + "\r\n-\n-- "
            data = multipart(f"\n{body}").replace(b"\n--=", end.encode() + b"--=")
            assert look(data).contents == [body.encode()], length


def test_a_header_without_an_empty_line_ends_at_a_boundary() -> None:
    data = multipart("Content-Type: text/plain", base64_part("a", A))
    assert A in look(data).contents
    head = "Content-Type: multipart/mixed; boundary=x\n--x\n" + base64_part("a", A) + "\n--x--\n"
    assert A in look(f"From: a\nSubject: b\n{head}".encode()).contents


def test_a_line_in_a_header_that_is_none_hides_nothing() -> None:
    """Some clients begin the body there, others pass over it."""
    part = base64_part("a", A)
    data = multipart(TEXT, part).replace(b"MIME-Version", b"odd line\nMIME-Version")
    assert A in look(data).contents and look(data).unread
    for quiet in (b">From x y\n", b"From x y\n"):
        data = multipart(TEXT, part).replace(b"MIME-Version", quiet + b"MIME-Version")
        assert A in look(data).contents and not look(data).unread
    joined = multipart(TEXT, part.replace("\n\n", "\n"))
    assert joined.count(b"\n\n") == multipart(TEXT, part).count(b"\n\n") - 1
    assert A in look(joined).contents and not look(joined).unread
    ended = part.replace("\n\n", "\n") + "=\nContent-Type: x/y\n\nrest"
    assert look(multipart(TEXT, ended)).unread


def test_a_multipart_without_its_boundary_is_unread() -> None:
    out = look(raw("Content-Type: multipart/mixed; boundary=x", base64_part("a", A)))
    assert out.reasons == {Why.DAMAGED}
    assert look(raw("Content-Type: multipart/mixed", "text")).reasons == {Why.DAMAGED}
    # As those who send a message back cut it.
    assert not look(raw("Content-Type: multipart/mixed; boundary=x", "\n")).unread


def test_a_multipart_that_is_encoded_is_unread() -> None:
    header = "Content-Type: multipart/mixed; boundary=x\nContent-Transfer-Encoding: base64"
    assert Why.DAMAGED in look(raw(header, binascii.b2a_base64(A))).reasons


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


def test_lines_that_end_as_on_an_old_mac_are_unread() -> None:
    data = raw("X: y", "body").replace(b"\n", b"\r")
    assert look(data[:512]).reasons == {Why.UNSUPPORTED}


# Recognising mail


def test_ordinary_texts_are_no_mail() -> None:
    for text in (
        b"benign text",
        b"Title: x\nfree text\n",
        b"key: value\nother: value\n\nmore\n",
        b"To: whom it may concern\n\nHello\n",
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


def test_mail_is_known_behind_anything_that_clients_pass_over() -> None:
    data = multipart(base64_part("a", A))
    for front in (b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"X-Long: " + b"x" * 5000 + b"\n"):
        assert A in look(front + data).contents
    many = b"".join(b"X-Field-%d: value\n" % n for n in range(300))
    assert A in look(many + data).contents
    assert A in look(b"Received: from x\n\tby y; date\n" + data).contents


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
        assert look(multipart(part)).names == [name]


def _seconds_of(data: bytes) -> float:
    started = time.process_time()
    opened(Message(), data)
    return time.process_time() - started


@pytest.mark.slow
def test_no_input_takes_long() -> None:
    """Many boundaries, dashes, begins, parameters: time goes by length."""
    header = f"Content-Type: multipart/mixed; boundary={BOUNDARY}"
    spaces = "\nbegin 644 " + " " * 990 + "x"
    for line in ("\n--", "\nbegin 644 x", spaces, f"\n--{BOUNDARY}", "===="):
        seconds = []
        for count in (2000, 16_000):
            data = raw(header, line * count)
            seconds.append(min(_seconds_of(data) for _ in range(3)))
        assert seconds[1] < 0.1 + 24 * seconds[0]
    opened(Message(), raw(header + '; boundary="' * 5000 + "(" * 5000, "x"))


def test_the_generator_makes_what_python_reads() -> None:
    parts = message_from_bytes(multipart(TEXT, base64_part("a", A))).get_payload()
    assert [part.get_payload(decode=True) for part in parts] == [b"benign text", A]  # type: ignore[union-attr]
    assert mails.uuencoded("x", b"abc") == "begin 644 x\n#86)C\n`\nend\n"
