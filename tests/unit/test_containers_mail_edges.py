"""Mail at the edges of its limits, and parts that several readings find but list once."""

from __future__ import annotations

import base64
import binascii

import pytest

from fixtures.mails import base64_part, multipart, raw, uuencoded
from hashclient.containers import mail, mailreadings
from hashclient.containers.interface import NEVER, Why
from hashclient.containers.mail import MESSAGE, Eml, Message
from tests.opened import Once, Opened, opened

A = bytes(range(256))
UU = uuencoded("u", A)


def look(data: bytes) -> Opened:
    out = opened(Eml(), data)
    once = opened(Eml(), Once(data, 7))
    assert (out.members, out.unread) == (once.members, once.unread)
    return out


def nested(depth: int) -> bytes:
    """Return a mail of nested multiparts, with an attachment in the innermost multipart."""
    body = base64_part("a", A)
    for number in range(depth):
        end = f"\n--{number}x--\n"
        body = f"Content-Type: multipart/mixed; boundary={number}x\n\n--{number}x\n{body}{end}"
    return b"MIME-Version: 1.0\n" + body.encode()


@pytest.mark.parametrize("most", [1, 2, 5])
def test_multiparts_are_in_each_other_up_to_a_limit(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "MAX_DEPTH", most)
    for depth in range(1, most + 1):
        out = look(nested(depth))
        assert A in out.contents and not out.unread
    assert look(nested(most + 1)).reasons == {Why.LIMIT}


@pytest.mark.parametrize(
    ("text", "most", "is_mail", "is_unread"),
    [
        (b"a: b\n" * 9 + b"Subject: s\n\nx", 44, False, False),
        (b"a: b\n" * 120 + b"Received: s\n\nx", 599, True, True),
        (b"a: b\n" * 120 + b"Received: s\n\nx", 600, True, False),
        (b"a: b\r" * 120 + b"Received: s\r\rx", 599, True, True),
        (b"a: b\r\n" * 120 + b"Subject: s\r\nTo: t\r\n\r\nx", 599, True, True),
        (b"a: b\n" * 120 + b"\nReceived: s\n\nx", 599, False, False),
        (b"a: b\r\n" * 120 + b"\r\nReceived: s\r\n\r\nx", 599, False, False),
        (b"a: b\n" * 60_000 + b"Received: s\n\nx", 599, True, True),
        (b"a: b\n" * 120 + b"c: " + b"d" * 300_000 + b"\nReceived: s\n\nx", 599, True, True),
        (b"a: b\n" * 120, 599, False, False),
        (b"Received: s\n" + b"a: b\n" * 90 + b"\nx", 20, True, False),
    ],
)
def test_fields_of_mail_behind_many_others_are_found_but_the_header_is_not_trusted(
    text: bytes, most: int, *, is_mail: bool, is_unread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "_MAX_UNTOLD_BYTES", most)
    out = look(text)
    assert (b"x" in out.contents) is is_mail
    assert out.reasons == ({Why.LIMIT} if is_unread else set())


@pytest.mark.slow
def test_a_field_before_those_of_mail_may_be_of_any_length() -> None:
    for count in (1 << 20, 3 << 20):
        out = look(b"X-A: " + b"y" * count + b"\nReceived: s\n\nx")
        assert out.contents[0] == b"x" and not out.unread


@pytest.mark.parametrize(
    ("count", "reasons", "is_found"),
    [(8186, set(), True), (8187, {Why.LIMIT}, True), (9000, {Why.LIMIT}, False)],
)
def test_a_boundary_that_is_longer_than_any_line_looked_at_is_unread(
    count: int, reasons: set[Why], *, is_found: bool
) -> None:
    """A part behind a very long boundary may have no field by which the search could find it."""
    boundary = b"b" * count
    part = b"--" + boundary + b"\n\nx\n"
    head = b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=" + boundary
    out = look(head + b"\n\n" + part + b"--" + boundary + b"--\n")
    assert out.reasons == reasons and (b"x" in out.contents) is is_found


BOTH = "Content-Type: multipart/mixed; boundary=x\nContent-Type: text/plain"


def test_a_part_that_may_be_a_multipart_is_read_in_both_ways_if_it_can_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = f"--x\n{base64_part('a', A)}\n--x--\n"
    for most, is_kept in ((len(body), True), (len(body) - 1, False)):
        monkeypatch.setattr(mail, "MAX_AGAIN_BYTES", most)
        out = look(raw(BOTH, body))
        assert A in out.contents
        assert (body.encode() in out.contents) is is_kept
        assert out.reasons == (set() if is_kept else {Why.LIMIT})


def test_a_file_in_a_text_is_listed_once() -> None:
    """Files in a message within the mail are listed when this inner message is opened."""
    inner = f"Subject: s\n\n{UU}"
    for header, count in (
        ("Content-Type: text/plain", 1),
        ("Content-Type: message/rfc822", 0),
        ("Content-Type: text/plain\nContent-Transfer-Encoding: 7bit", 1),
    ):
        out = look(multipart(f"{header}\n\n{inner}", "\nlast"))
        assert out.contents.count(A) == count, header
    encoded = binascii.b2a_base64(UU.encode()).decode()
    part = f"Content-Transfer-Encoding: base64\n\n{encoded}"
    out = look(multipart(part))
    assert out.contents[0] == UU.encode() and A not in out.contents


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("Content-Type: multipart/encrypted; boundary=x", Why.ENCRYPTED),
        ("Content-Type: message/partial; number=1; total=2", Why.UNSUPPORTED),
        ("Content-Type: message/partial; number=1; total=1", None),
        ("Content-Type: application/pkcs7-mime", Why.ENCRYPTED),
        ("Content-Type: application/x-pkcs7-mime; smime-type=enveloped-data", Why.ENCRYPTED),
        ("Content-Type: application/pkcs7-mime; smime-type=signed-data", Why.UNSUPPORTED),
        ("Content-Type: application/pkcs7-mime; smime-type=compressed-data", Why.UNSUPPORTED),
        ("Content-Type: application/pkcs7-mime; smime-type=certs-only", None),
        ("Content-Type: application/pkcs7-mime; smime-type=signed-receipt", None),
        ("Content-Type: application/pkcs7-mime; SMIME-Type=Certs-Only", None),
        ("Content-Type: application/pkcs7-signature", None),
        *((f"Content-Transfer-Encoding: {encoding}", Why.UNSUPPORTED) for encoding in (
            "x-binhex", "binhex", "BinHex40", "mac-binhex40", "x-yenc", "x-yencode",
        )),
        ("Content-Transfer-Encoding: x-unknown", None),
        ("Content-Type: application/mac-binhex40", Why.UNSUPPORTED),
    ],
)  # fmt: skip
def test_what_nobody_can_open_is_unread_with_its_reason(fields: str, why: Why | None) -> None:
    assert look(raw(fields, "body\n")).reasons == (set() if why is None else {why})


@pytest.mark.parametrize(
    ("kind", "is_message"),
    [
        ("message/rfc822", True),
        ("message/global", True),
        ("message/delivery-status", False),
        ("message/disposition-notification", False),
        ("message/feedback-report", False),
        ("message/external-body", False),
        ("message/global-delivery-status", False),
        ("text/rfc822", False),
    ],
)
def test_a_part_is_a_message_by_its_kind(kind: str, *, is_message: bool) -> None:
    out = look(multipart(f"Content-Type: {kind}\n\nSubject: s\n\nbody"))
    assert {member.kind for member in out.listed} == ({MESSAGE} if is_message else {""})
    both = look(multipart(f"Content-Type: {kind}\nContent-Type: a/b\n\nSubject: s\n\nbody"))
    assert {member.kind for member in both.listed} == ({MESSAGE, ""} if is_message else {""})


def test_empty_lines_before_a_header_may_end_one_without_fields() -> None:
    """The text after an empty first line is a body, and it is not opened as another mail."""
    for end in (b"\n", b"\r\n"):
        text = b"Subject: s" + end * 2 + b"body" + end
        out = look(end + text)
        assert {b"body\n", b"body\r\n"} <= set(out.contents)
        kinds = {
            member.kind
            for member, content in zip(out.listed, out.contents, strict=True)
            if b"Subj" in content
        }
        assert kinds == {NEVER}
        assert text in out.contents
        assert not [content for content in look(text).contents if b"Subj" in content]


def test_a_mark_of_the_order_of_bytes_is_passed_over() -> None:
    assert look(b"\xef\xbb\xbfSubject: s\n\nbody").contents[0] == b"body"
    assert look(b"\xef\xbb\xbf\r\nSubject: s\nTo: t\n\nbody").contents[0] == b"body"


def test_a_message_within_another_one_may_have_one_line_end_more() -> None:
    data = multipart("Content-Disposition: attachment; filename=a\n\none")
    for reader in (Eml(), Message()):
        assert opened(reader, data).contents == [b"one", b"one\n", b"one\r\n"]
    bare = b"Subject: s\n\none"
    assert opened(Eml(), bare).contents == [b"one", b"one\n", b"one\r\n"]
    assert opened(Eml(), bare + b"\n").contents == [b"one\n", b"one\r\n"]
    assert opened(Message(), bare + b"\n").contents[:2] == [b"one\n", b"one\r\n"]


def test_parts_without_a_name_are_numbered() -> None:
    out = look(multipart("\none", base64_part("named", A), "\ntwo"))
    assert list(dict.fromkeys(out.names)) == [b"part-1", b"named", b"part-3"]


@pytest.mark.parametrize(
    ("encoding", "front", "is_found"),
    [
        (b"", b"", True), (b"", b"odd line!\n", True), (b"x-odd", b"", True),
        (b"x-odd", b"odd line!\n", True), (b"7bit", b"", False), (b"8bit", b"", False),
        (b"binary", b"odd line!\n", False), (b"quoted-printable", b"", False),
        (b"base64", b"", True), (b"base64", b"odd line!\n", True), (b"base64", b"oddl\n", False),
        (b"7bit\nodd\nX: y", b"", True), (b"7bit\nX: y", b"", False),
    ],
)  # fmt: skip
def test_lines_of_base64_at_the_end_are_decoded_unless_the_encoding_is_another_one(
    encoding: bytes, front: bytes, *, is_found: bool
) -> None:
    """The first lines of a text may be a header or a note for some clients."""
    data = b"Subject: s\nContent-Type: application/x; name=a\n"
    data += b"Content-Transfer-Encoding: " + encoding + b"\n" if encoding else b""
    assert (A in look(data + b"\n" + front + base64.encodebytes(A)).contents) is is_found


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 511, 512, 513, 1_025])
def test_empty_lines_before_a_mail_are_passed_over_among_its_first_bytes(count: int) -> None:
    mail = raw("Subject: x\nContent-Type: multipart/mixed; boundary=b", "--b\n\nbenign\n--b--\n")
    is_found = b"benign" in opened(Eml(), b"\n" * count + mail).contents
    assert is_found is (count <= 512)  # as the documents say


@pytest.mark.parametrize("count", [511, 512, 513])
def test_a_mail_behind_other_fields_begins_among_the_first_bytes(count: int) -> None:
    mail = raw("Subject: x\nContent-Type: multipart/mixed; boundary=b", "--b\n\nbenign\n--b--\n")
    is_found = b"benign" in opened(Eml(), b"x: ".ljust(count - 2, b"y") + b"\n\n" + mail).contents
    assert is_found is (count <= 512)


@pytest.mark.parametrize(("more", "reasons"), [(b"", set()), (b"a: b\n", {Why.LIMIT})])
def test_fields_of_mail_are_looked_for_line_by_line_in_1_mib(
    more: bytes, reasons: set[Why]
) -> None:
    """A long line counts as 64 KiB."""
    lines = (b"a: ".ljust(69_999, b"b") + b"\n") * 16
    out = opened(Eml(), lines + more + b"Received: s\n\nx")
    assert out.contents[0] == b"x" and out.reasons == reasons


def test_a_field_of_1_mib_before_those_of_mail_is_one_line() -> None:
    out = opened(Eml(), b"X-A: ".ljust(1 << 20, b"y") + b"\nReceived: s\n\nx")
    assert out.contents == [b"x", b"x\n", b"x\r\n"] and not out.unread


@pytest.mark.parametrize(("depth", "reasons"), [(100, set()), (101, {Why.LIMIT})])
def test_multiparts_are_in_each_other_a_hundred_times(depth: int, reasons: set[Why]) -> None:
    out = opened(Eml(), nested(depth))
    assert out.reasons == reasons and {one.kind for one in out.listed} == {""}


BASE64 = "Content-Transfer-Encoding: base64\n"


@pytest.mark.parametrize(
    ("header", "reasons"),
    [
        (BASE64, set()),
        ("Content-Transfer-Encoding: 7bit\n" + BASE64, {Why.LIMIT}),
        ("odd line\n" + BASE64, {Why.LIMIT}),
        ("X: y\nodd line\n", {Why.LIMIT}),
        ("Content-Type: message/rfc822\nContent-Type: x/y\n", {Why.LIMIT}),
        ("Content-Type: message/rfc822\n" + BASE64, {Why.LIMIT}),
        ("Content-Type: message/rfc822\n", set()),
        (BASE64 + "\neA==", {Why.LIMIT}),
        (BASE64 + "\n--=-=-=x", {Why.LIMIT}),
    ],
)
@pytest.mark.parametrize("length", [100, 400])
def test_a_part_that_is_read_in_several_ways_is_kept_or_unread(
    header: str, reasons: set[Why], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailreadings, "MAX_AGAIN_BYTES", 200)
    out = look(multipart(f"{header}\n{'QUJD' * (length // 4)}", "\nlast"))
    assert out.reasons == (reasons if length > 200 else set())
    assert b"last" in out.contents


@pytest.mark.parametrize(("length", "is_kept"), [(100, True), (101, False)])
def test_text_before_the_parts_is_kept_or_unread(
    length: int, *, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailreadings, "MAX_AGAIN_BYTES", 100)
    header, text = "Content-Type: multipart/mixed; boundary=b", "x" * length
    out = look(raw(header, f"{text}\n--b\n\nbenign\n--b--\n"))
    assert b"benign" in out.contents
    assert out.reasons == (set() if is_kept else {Why.LIMIT})
    # Without a part, the text is all that the multipart has.
    for end in ("", "\n--b--\n"):
        out = look(raw(header, text + end))
        assert (text.encode() in out.contents) is is_kept
        assert out.reasons == (set() if is_kept else {Why.DAMAGED})


LINES, OTHER_LINES = b"one\ntwo\n", b"one\r\ntwo\r\n"


@pytest.mark.parametrize(
    ("header", "contents"),
    [
        ("", [LINES, OTHER_LINES]),
        ("Content-Type: text/plain\n", [LINES, OTHER_LINES]),
        ("Content-Type: text/plain; name=a\n", [LINES, OTHER_LINES]),
        ("Content-Type: text\n", [LINES, OTHER_LINES]),
        ("Content-Type: x/text\n", [LINES]),
        ("Content-Type: x/text\nContent-Type: text/x\n", [LINES, OTHER_LINES]),
    ],
)
def test_text_in_base64_counts_with_other_line_ends(header: str, contents: list[bytes]) -> None:
    """Programs that decode base64 neither add nor remove a line end."""
    part = f"{header}{BASE64}\n{binascii.b2a_base64(LINES).decode()}"
    assert look(multipart(part, "\nlast")).contents == [*contents, b"last"]
    whole = f"Subject: s\nMIME-Version: 1.0\n{part}".encode()
    assert opened(Message(), whole).contents == contents
    cut = multipart(part).rpartition(b"--=-=-=--")[0]
    assert look(cut).contents == contents


def test_a_return_at_the_end_of_base64_is_no_byte_of_the_file() -> None:
    data = multipart(base64_part("a", A)).replace(b"=\n\n--=", b"=\r\n--=")
    assert data.count(b"\r") == 1
    assert look(data).contents == [A]


def test_a_file_in_a_part_with_two_encodings_is_found_whatever_ends_lines() -> None:
    both = "Content-Transfer-Encoding: base64\nContent-Transfer-Encoding: 7bit"
    for end in (b"\n", b"\r\n", b"\r"):
        assert A in look(raw(both, UU).replace(b"\n", end)).contents, end


def test_parts_behind_a_line_that_resembles_a_boundary_are_found_whatever_ends_lines() -> None:
    data = multipart("\nbenign", base64_part("a", A))
    data = data.replace(b"--=-=-=\nContent", b"--=-=-=x\nContent")
    for end in (b"\n", b"\r\n", b"\r"):
        assert {A, b"benign"} <= set(look(data.replace(b"\n", end)).contents), end


def test_members_in_memory_have_an_exact_size_and_other_readings_are_marked() -> None:
    out = look(multipart(f"\n{UU}"))
    assert [(one.size, one.is_again) for one in out.listed] == [
        (None, False), (len(A), False), (len(UU) + UU.count("\n"), True),
    ]  # fmt: skip
    assert [one.is_exact for one in out.listed] == [False, True, True]
    out = look(raw("Content-Transfer-Encoding: 8bit\nContent-Transfer-Encoding: base64", "QQ=="))
    assert [one.is_again for one in out.listed] == [False, *[True] * (len(out.listed) - 1)]
    assert b"A" in out.contents


def test_a_part_of_a_digest_is_a_message_unless_it_has_a_type() -> None:
    for header, kind in (("", MESSAGE), ("X: y\n", MESSAGE), ("Content-Type: text/plain\n", "")):
        out = look(multipart(f"{header}\nbenign", kind="digest"))
        assert {one.kind for one in out.listed} == {kind}


def test_the_text_behind_an_empty_first_line_is_listed_up_to_8_mib(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = b"\nFrom: a\nTo: b\n\ntext\n"
    for most, is_listed in ((len(data), True), (len(data) - 1, False)):
        monkeypatch.setattr(mail, "MAX_TEXT_BYTES", most)
        assert (NEVER in {one.kind for one in look(data).listed}) is is_listed


def test_another_encoding_has_each_of_its_readings_and_other_line_ends() -> None:
    both = "Content-Transfer-Encoding: 8bit\nContent-Transfer-Encoding: quoted-printable"
    out = look(raw(both, "a=3D \nb\n"))
    assert {b"a= \nb\n", b"a=\nb\n", b"a= \r\nb\r\n"} <= set(out.contents) and not out.unread


def test_quoted_printable_of_any_type_may_be_a_text_with_a_file() -> None:
    header = "Content-Type: x/y\nContent-Transfer-Encoding: quoted-printable\n"
    assert look(multipart(f"{header}\none\ntwo\n")).contents == [LINES, OTHER_LINES]
    assert A in look(multipart(f"{header}\n{UU.replace('=', '=3D')}")).contents


def test_a_message_with_two_encodings_is_a_message_in_both() -> None:
    inner = raw("X: y", "benign")
    both = "Content-Transfer-Encoding: 8bit\nContent-Transfer-Encoding: base64\n"
    encoded = binascii.b2a_base64(inner).decode()
    out = look(multipart(f"{both}Content-Type: message/rfc822\n\n{encoded}"))
    kinds = {one.kind for one, content in zip(out.listed, out.contents, strict=True)
             if content == inner}  # fmt: skip
    assert MESSAGE in kinds
