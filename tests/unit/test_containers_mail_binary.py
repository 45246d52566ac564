"""Files in yEnc and BinHex within the text of a mail."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

import pytest

from fixtures.mails import binhex, multipart, raw, uuencoded, yencoded
from hashclient.containers.encoded import Encoded
from hashclient.containers.interface import Why
from hashclient.containers.mail import Eml
from hashclient.containers.mimebinary import FileFinder
from hashclient.containers.mimedecode import MAX_UU_BYTES, UuFile
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


def test_too_much_is_a_limit() -> None:
    large = b"=ybegin line=128 size=1 name=a\n" + (b"x" * 60_000 + b"\n") * (
        MAX_UU_BYTES // 60_000 + 1
    )
    bomb = binhex("a", bytes(200) * (MAX_UU_BYTES // 200 + 9)).encode()
    for text in (large, bomb):
        assert {file.error.why for file in found(text) if file.error is not None} == {Why.LIMIT}
    many = yencoded("a", b"x") * 1005
    assert found(many)[-1].error is not None


def test_texts_about_these_have_no_file() -> None:
    text = b"a file must be converted with BinHex, as they say\n: no\n=yend\nx =ybegin line=1\n"
    assert not found(text * 3)


@pytest.mark.parametrize(
    "text",
    [
        yencoded("a", A),
        binhex("a", A).encode(),
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
