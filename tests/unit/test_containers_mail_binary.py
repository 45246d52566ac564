"""Files in yEnc and BinHex within the text of a mail."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Callable

import pytest

from fixtures.mails import binhex, multipart, raw, uuencoded, yencoded
from hashclient.containers import mimebinary
from hashclient.containers.encoded import Encoded
from hashclient.containers.interface import Why
from hashclient.containers.mail import Eml
from hashclient.containers.mimebinary import BinhexFinder, FileFinder, YencFinder
from hashclient.containers.mimedecode import UuFile
from tests.opened import has_mark, opened, sniffs

A, B = bytes(range(256)) * 9 + b"\x90\x90\x00", random.Random(6).randbytes(5000) + b"a" * 900


def found(text: bytes, step: int = 1 << 20) -> list[UuFile]:
    finder = FileFinder()
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    assert b"".join(finder.watch(pieces)) == text
    return finder.files


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\n\r"])
def test_files_are_found_between_other_lines(step: int, ends: bytes) -> None:
    files = yencoded("a b.bin", A) + b"text\n" + yencoded("b", B) + binhex("c", A, B).encode()
    text = b"front\n\n" + files + b"more\n" + binhex("d", B).encode() + b"behind"
    made = [(file.name, file.data) for file in found(text.replace(b"\n", ends), step)]
    assert made == [(b"a b.bin", A), (b"b", B), (b"c", A), (b"c", B), (b"d", B)]


@pytest.mark.parametrize("make", [yencoded, lambda name, data: binhex(name, data).encode()])
def test_carriage_returns_end_lines_in_an_old_mail(make: Callable[[str, bytes], bytes]) -> None:
    mail = raw("Content-Type: text/plain", "") + b"hello\n" + make("a", A)
    out = opened(Eml(), mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r"))
    assert A in out.contents and not out.unread


@pytest.mark.slow
def test_a_line_that_is_too_long_to_be_kept_leaves_its_file_unread() -> None:
    begin, *lines, end, _ = yencoded("a", A * 100).split(b"\n")
    text = b"\n".join([begin, b"".join(lines), end, b""])
    assert [file.data for file in found(text)] == [A * 100]
    (file,) = found(text, 1 << 12)
    assert file.error is not None and file.error.why is Why.LIMIT
    forks = binhex("a", B * 40).encode()
    one_line = forks[: forks.index(b":")] + forks[forks.index(b":") :].replace(b"\n", b"")
    (file,) = found(one_line, 1 << 12)
    assert file.error is not None and file.error.why is Why.LIMIT


def test_base64_with_a_line_that_is_too_long_is_unread_and_the_next_file_is_found() -> None:
    begin, line = b"begin-base64 644 a\n", base64.b64encode(A * 100)
    behind = b"\n====\n" + begin + base64.b64encode(A) + b"\n====\n"
    cut, *_, whole = found(begin + line[:100] + b"\n" + line + behind, 1 << 12)
    assert cut.error is not None and cut.error.why is Why.LIMIT
    assert (whole.data, whole.error) == (A, None)
    # Text that follows a file does not belong to the file.
    text = uuencoded("a", A).rpartition("end")[0].encode() + b"x" * (80 << 10) + b"\n"
    assert [(file.data, file.error) for file in found(text, 1 << 12)] == [(A, None)]


def test_a_mail_has_them_as_members() -> None:
    body = binhex("c", A)
    for data in (
        raw("Content-Type: application/mac-binhex40", body),
        multipart("Content-Transfer-Encoding: mac-binhex40\n\n" + body),
        multipart("Content-Type: text/plain\n\n" + body),
    ):
        out = opened(Eml(), data)
        assert A in out.contents and not out.unread
    whole = raw("Content-Type: text/plain", "") + b"hello\n" + yencoded("y", B)
    out = opened(Eml(), whole)
    assert B in out.contents and not out.unread


@pytest.mark.parametrize(("begin", "is_whole"), [(1, True), (2, False)])
def test_one_part_of_a_file_in_several_is_unread(begin: int, *, is_whole: bool) -> None:
    (file,) = found(yencoded("a", A, f"=ypart begin={begin} end={len(A)}\n"))
    assert (file.error is None) == is_whole
    assert is_whole or (file.error is not None and file.error.why is Why.UNSUPPORTED)


def test_a_file_that_is_cut_off_is_what_is_here_or_unread() -> None:
    text = yencoded("a", B)
    (file,) = found(text[: text.rindex(b"\n=yend")])
    assert file.data == B
    (cut,) = found(binhex("a", B).encode()[:2000])
    assert cut.error is not None and cut.error.why is Why.DAMAGED


def test_texts_about_these_have_no_file() -> None:
    text = b"a file must be converted with BinHex, as they say\n: no\n=yend\nx =ybegin line=1\n"
    assert not found(text * 3)


@pytest.mark.parametrize(
    "text",
    [
        yencoded("a", A),
        binhex("a", A).encode(),
        binhex("a", A).replace("\n", "\r").encode(),  # the line ends of an old Macintosh
        uuencoded("a", A).encode(),
        uuencoded("a", A).replace("begin", "begin-base64", 1).encode(),
    ],
)
def test_a_text_that_begins_with_such_a_file_is_opened(text: bytes) -> None:
    assert sniffs(Encoded(), text) and has_mark(text)
    if b"base64" not in text:
        assert A in opened(Encoded(), text).contents


def test_a_text_about_these_is_not_opened() -> None:
    for text in (b"begin with the first one\n", b"begin 644\n", b"=ybegi", b"beginning\n"):
        assert not sniffs(Encoded(), text) or not opened(Encoded(), text).members


def in_pieces(finder: YencFinder | BinhexFinder, *pieces: bytes) -> list[tuple[bytes, object]]:
    """Return the files in a text: of each, its name, and its bytes or why it is unread."""
    assert list(finder.watch(pieces)) == list(pieces)
    return [(one.name, one.error.why if one.error else one.data) for one in finder.files]


def yenc(*lines: bytes, begin: bytes = b"=ybegin line=128 size=3 name=n") -> bytes:
    return b"\n".join([begin, *lines, b"=yend size=3", b""])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (yenc(b"abc"), [(b"n", b"789")]),
        (yenc(b"a=\nb=c="), [(b"n", b"78\xf9")]),
        (yenc(b"abc", begin=b"=ybegin size=3"), [(b"", b"789")]),
        (yenc(b"abc", begin=b"=ybegin name= a b \t"), [(b"a b", b"789")]),
        (yenc(b"abc", begin=b"=ybegin name=" + b"n" * 1025), [(b"n" * 1024, b"789")]),
        (yenc(b"=ypart begin=1 end=3", b"abc"), [(b"n", b"789")]),
        (yenc(b"=ypart begin=1 end=2", b"abc"), [(b"n", Why.UNSUPPORTED)]),
        (yenc(b"=ypart begin=1 end=4", b"abc"), [(b"n", Why.UNSUPPORTED)]),
        (yenc(b"=ypart begin=0 end=3", b"abc"), [(b"n", Why.UNSUPPORTED)]),
        (yenc(b"=ypart begin=1", b"abc"), [(b"n", Why.UNSUPPORTED)]),
        (yenc(b"=ypart begin=1 end=3", b"abc", begin=b"=ybegin name=n"),
         [(b"n", Why.UNSUPPORTED)]),
        # The number of the last byte is read among the first 1024 bytes of its line.
        (yenc(b"=ypart begin=1".ljust(1018) + b" end=3x", b"abc"), [(b"n", b"789")]),
        (yenc(b"=ypart begin=1".ljust(1019) + b" end=3x", b"abc"), [(b"n", Why.UNSUPPORTED)]),
        # What one file is does not count for the file behind it.
        (yenc(b"=ypart begin=2 end=3", b"abc") + yenc(b"abc"),
         [(b"n", Why.UNSUPPORTED), (b"n", b"789")]),
        (yenc(b"abc")[:35] + yenc(b"def"), [(b"n", b"789"), (b"n", b":;<")]),
        (b"=ypart begin=1 end=3\nabc\n=yend\n", []),
        (yenc(b""), []),
    ],
)  # fmt: skip
def test_a_file_in_yenc_has_a_name_a_size_and_a_range(
    text: bytes, found: list[tuple[bytes, object]]
) -> None:
    assert in_pieces(YencFinder(is_old=False), text) == found
    assert in_pieces(YencFinder(is_old=False), *(bytes([one]) for one in text)) == found


def hqx(packed: bytes) -> bytes:
    """Return a BinHex text of bytes in which repeated bytes are already shortened."""
    letters = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
    usual = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = base64.b64encode(packed).rstrip(b"=").translate(bytes.maketrans(usual, letters))
    return b"(This file must be converted with BinHex 4.0)\n\n:" + text + b":\n"


def forks(data: bytes, length: int, other: int = 0) -> bytes:
    """Return the bytes of a BinHex file whose forks have these lengths; `data` follows them."""
    return b"\1n" + bytes(11) + struct.pack(">LL", length, other) + b"ss" + data


@pytest.mark.parametrize(
    ("packed", "found"),
    [
        (forks(b"abc", 3), [(b"n", b"abc")]),
        (forks(b"a\x90\5", 5), [(b"n", b"aaaaa")]),
        (forks(b"a\x90\1b", 2), [(b"n", b"ab")]),
        (forks(b"a\x90\0b", 3), [(b"n", b"a\x90b")]),
        (forks(b"a\x90", 2), [(b"n", b"a\x90")]),
        (forks(b"a\x90\0\x90\3", 4), [(b"n", b"a\x90\x90\x90")]),
        (forks(b"abc__de", 3, 2), [(b"n", b"abc"), (b"n", b"de")]),
        (forks(b"abc__d", 3, 2), [(b"n", b"abc"), (b"n", Why.DAMAGED)]),
        (forks(b"ab", 3), [(b"n", Why.DAMAGED)]),
        (forks(b"", 0)[:22], []),
        (forks(b"", 3)[:20], []),
        (b"", []),
    ],
)
def test_a_file_in_binhex_has_two_forks(packed: bytes, found: list[tuple[bytes, object]]) -> None:
    text = hqx(packed)
    assert in_pieces(BinhexFinder(is_old=False), text) == found
    # The first colon may be in a line of its own, and the last one, too.
    for other in (text.replace(b"\n:", b"\n:\n"), text.replace(b":\n", b" \r\n: \n")):
        assert in_pieces(BinhexFinder(is_old=False), other) == found
    assert in_pieces(BinhexFinder(is_old=False), text.replace(b":\n", b": \n") * 2) == found * 2


def test_binhex_that_is_cut_anywhere_is_damaged_or_whole() -> None:
    text = hqx(forks(bytes(range(99)), 99))
    for cut in range(2, 12):
        ((name, why),) = in_pieces(BinhexFinder(is_old=False), text[:-cut])
        assert name == b"n" and (why is Why.DAMAGED or cut == 2)


def test_a_line_of_a_file_has_up_to_64_kib() -> None:
    begin, end = b"=ybegin size=3 name=n\n", b"\n=yend\n" + yenc(b"abc")
    behind = b"\n" + hqx(forks(b"abc", 3))
    mark = hqx(b"").partition(b"::")[0]
    for length, is_read in ((65_536, True), (65_537, False)):
        line = b"x" * length
        (_, content), last = in_pieces(YencFinder(is_old=False), begin + line, end)
        assert content == (b"N" * length if is_read else Why.LIMIT) and last == (b"n", b"789")
        found = in_pieces(BinhexFinder(is_old=False), mark + b":" + line[1:], b":" + behind)
        assert (Why.LIMIT in [why for _, why in found]) is not is_read
        assert found[-1] == (b"n", b"abc")


def test_files_in_a_text_have_16_mib_and_are_1000() -> None:
    lines, rest = divmod(16 << 20, 60_000)
    begin, end = b"=ybegin size=1 name=n\n", b"\n=yend\n"
    text = begin + (b"x" * 60_000 + b"\n") * lines + b"x" * rest
    for more, found in ((b"", 16 << 20), (b"x", Why.LIMIT)):
        ((_, content),) = in_pieces(YencFinder(is_old=False), text + more + end)
        assert (len(content) if isinstance(content, bytes) else content) == found
    packed = b"a\x90\xff" * ((16 << 20) // 255)
    for last, length in ((b"b\x90\1", 16 << 20), (b"b\x90\2", None)):
        unpacked = mimebinary._unpacked(packed + last)
        assert (None if unpacked is None else len(unpacked)) == length
    whole = forks(b"abc", 3)
    assert in_pieces(BinhexFinder(is_old=False), hqx(packed + last) + hqx(whole)) == [
        (b"", Why.LIMIT),
        (b"n", b"abc"),
    ]
    one = (b"n", b"789")
    assert in_pieces(YencFinder(is_old=False), yenc(b"abc") * 1_000) == [one] * 1_000
    many = in_pieces(YencFinder(is_old=False), yenc(b"abc") * 1_002)
    assert many == [*[one] * 1_000, (b"n", Why.LIMIT)]
