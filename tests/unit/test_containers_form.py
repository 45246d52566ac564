"""Forms as browsers send them: each part is a member with the bytes that servers read."""

from __future__ import annotations

import base64

import pytest

from fixtures import archives, mails
from hashclient.containers.form import Form
from hashclient.containers.interface import Why
from hashclient.containers.mail import Eml
from tests.opened import Once, Opened, has_mark, opened, sniffs

CONTENT = bytes(range(256)) * 20 + b"\r\n\r\n--x\n--\r"


def part(content: bytes, more: str = "") -> bytes:
    head = f'Content-Disposition: form-data; name="f"; filename="a.bin"\r\n{more}\r\n'
    return head.encode() + content


def form(
    *parts: bytes, boundary: bytes = b"----WebKitFormBoundaryx7", end: bytes = b"--\r\n"
) -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + one + b"\r\n" for one in parts) + (
        b"--" + boundary + end
    )


def look(data: bytes) -> Opened:
    assert has_mark(data) and sniffs(Form(), data)
    out = opened(Form(), data)
    once = opened(Form(), Once(data, 333))
    assert (out.members, out.unread) == (once.members, once.unread)
    return out


@pytest.mark.parametrize("content", [b"", b"x", CONTENT, b"text\n" * 99, CONTENT * 200])
def test_each_part_is_a_member_byte_by_byte(content: bytes) -> None:
    octets = "Content-Type: application/octet-stream\r\n"
    out = look(form(part(content, octets), part(b"a value"), part(content)))
    assert out.members == [(b"f", content), (b"f", b"a value"), (b"f", content)]
    assert not out.unread


def test_fields_come_in_any_order_and_case() -> None:
    data = form(b"content-type: image/png\r\nCONTENT-DISPOSITION: Form-Data; name=x\r\n\r\nABC")
    assert look(data).contents == [b"ABC"]


def test_a_form_without_its_end_has_its_parts() -> None:
    data = form(part(b"ABC"), part(b"DEF"))
    assert look(data[: data.rindex(b"\r\n--")]).contents == [b"ABC", b"DEF"]


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_an_encoding_is_undone_and_not(encoding: str) -> None:
    packed = base64.b64encode(b"decoded it") if encoding == "base64" else b"decoded=20it"
    out = look(form(part(packed, f"Content-Transfer-Encoding: {encoding}\r\n")))
    assert {packed, b"decoded it"} <= set(out.contents)


def test_a_multipart_in_a_part_is_a_file_to_some_and_parts_to_others() -> None:
    inner = form(b"Content-Disposition: file; filename=b\r\n\r\nABC", boundary=b"in")
    out = look(form(part(inner, "Content-Type: multipart/mixed; boundary=in\r\n")))
    assert out.members == [(b"f", inner), (b"b", b"ABC")]


@pytest.mark.parametrize(("count", "reasons"), [(7, set()), (8, {Why.LIMIT})])
def test_multiparts_too_deep_in_each_other_are_unread(count: int, reasons: set[Why]) -> None:
    data = b"ABC"
    for number in range(count):
        named = b"in%d" % number
        data = form(
            part(data, f"Content-Type: multipart/mixed; boundary=in{number - 1}\r\n"),
            boundary=named,
        )
    out = look(data)
    assert out.reasons == reasons and len(out.contents) == count


def test_a_line_that_only_resembles_the_boundary_is_unread() -> None:
    """PHP ends a part at a line that resembles the boundary, and other servers do not."""
    out = look(form(part(b"ABC\r\n--xx-longer\r\nDEF"), boundary=b"xx"))
    assert out.reasons == {Why.DAMAGED}


def test_a_part_that_has_two_readings_and_is_too_large_to_keep_is_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the large part is unread, and the parts behind it are read."""
    monkeypatch.setattr("hashclient.containers.mailreadings.MAX_AGAIN_BYTES", 5_000)
    large = bytes(5_001)
    assert not look(form(part(large))).unread
    for field in ("Content-Transfer-Encoding: base64", "Content-Type: multipart/x; boundary=y"):
        out = look(form(part(large, f"{field}\r\n"), part(b"ABC")))
        assert out.unread == [(b"f", Why.LIMIT)] and out.contents == [large, b"ABC"]


def test_other_texts_with_dashes_are_no_forms() -> None:
    for text in (
        b"--- a/file\n+++ b/file\n",
        b"-- sql\nselect 1;\n",
        b"--\r\nContent-Disposition: form-data",
        b"--x\r\n\r\nContent-Disposition: form-data\r\n",
        archives.zip_of({"a": b"b"}),
    ):
        assert not sniffs(Form(), text)


@pytest.mark.parametrize(
    ("fields", "content", "is_unread"),
    [
        ("odd line\r\n", b"ABC", True),
        ("odd line\r\nX: y\r\n", b"ABC", True),
        ("".join(f"Content-Type: a/{n}\r\n" for n in range(18)), b"ABC", True),
        ("".join(f"Content-Type: a/{n}\r\n" for n in range(17)), b"ABC", False),
        ("", b"--y\r\nContent-Type: a/b\r\n\r\nABC\r\n--y--", False),
    ],
)
def test_a_part_whose_header_or_end_is_unclear_is_unread(
    fields: str, content: bytes, *, is_unread: bool
) -> None:
    out = look(form(part(content, fields), part(b"another")))
    assert out.unread == [(b"f", Why.DAMAGED)] * is_unread
    assert out.contents[-1] == b"another"


def test_a_return_before_the_boundary_may_belong_to_the_part() -> None:
    out = look(form(part(b"ABC"), end=b"--\n"))
    assert out.contents == [b"ABC", b"ABC\r"] and not out.unread
    assert [one.is_again for one in out.listed] == [False, True]


def test_other_readings_of_a_part_are_marked() -> None:
    inner = form(part(b"DEF"), boundary=b"in")
    out = look(
        form(
            part(b"QUJD", "Content-Transfer-Encoding: base64\r\n"),
            part(inner, "Content-Type: multipart/mixed; boundary=in\r\n"),
        )
    )
    first = [one.is_again for one, content in zip(out.listed, out.contents, strict=True)
             if content in (b"QUJD", inner)]  # fmt: skip
    assert first == [False, False] and not out.listed[0].is_again
    assert all(
        one.is_again
        for one, content in zip(out.listed, out.contents, strict=True)
        if content in (b"ABC", b"DEF")
    )
    assert {b"ABC", b"DEF"} <= set(out.contents)


def test_parts_without_a_name_are_numbered_and_those_behind_the_end_count() -> None:
    bare = b"Content-Disposition: form-data\r\n\r\n"
    data = form(bare + b"A", part(b"B"), bare + b"C") + form(bare + b"D")
    out = opened(Form(), data)
    assert out.members == [(b"part-1", b"A"), (b"f", b"B"), (b"part-3", b"C"), (b"part-4", b"D")]
    assert not out.unread


USUAL = "Content-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=x\r\n"


@pytest.mark.parametrize(
    ("more", "is_mail"),
    [
        ("", False),
        ("Content-Length: 3\r\nContent-ID: <x>\r\nContent-Transfer-Encoding: binary\r\n", False),
        ("Content-Transfer-Encoding: base64\r\n", True),
        ("Content-Type: multipart/mixed; boundary=y\r\n", True),
        ("Content-Type: message/rfc822\r\n", True),
        ("Content-Type (c): text/plain\r\n", True),
        ("Subject: x\r\n", True),
        ("MIME-Version: 1.0\r\n", True),
        (" more\r\n", True),
    ],
)
def test_a_form_with_other_fields_is_a_mail_as_well(more: str, *, is_mail: bool) -> None:
    data = form(f"{USUAL}{more}\r\nABC".encode())
    assert (sniffs(Form(), data), sniffs(Eml(), data)) == (True, is_mail)


def test_a_file_that_is_encoded_in_a_text_is_a_member() -> None:
    """ripMIME and MIME::Parser take a form for a mail, and decode the file."""
    text = f"a text\n\n{mails.uuencoded('x', CONTENT)}\n".encode()
    out = look(form(part(text)) + b"\r\n" + mails.uuencoded("y", b"behind").encode())
    assert out.members == [(b"f", text), (b"x", CONTENT), (b"y", b"behind")]
