"""PDF at the edges of its objects: names, filters, lengths, and what a repaired file gives."""

from __future__ import annotations

import io
import zlib

import pytest

from fixtures import pdfs
from hashclient.containers import pdf
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.pdf import Pdf
from tests.opened import Whole, opened

pikepdf = pytest.importorskip("pikepdf", reason="the extra `documents` is not installed")

A, B = b"benign A " * 9, b"benign B " * 9
FILE = b"<< /EF << /F 4 0 R >> %s >>"


def test_bytes_are_read_at_the_place_to_which_the_reader_moves() -> None:
    source = pdf._Source(Whole(b"0123456789"))
    assert source.readable() and source.seekable() and source.tell() == 0
    for offset, whence, at in (
        (3, io.SEEK_SET, 3), (2, io.SEEK_CUR, 5), (-1, io.SEEK_CUR, 4), (-4, io.SEEK_END, 6),
        (0, io.SEEK_END, 10), (5, io.SEEK_END, 15), (-99, io.SEEK_CUR, 0), (-1, io.SEEK_SET, 0),
        (1, io.SEEK_END, 11),
    ):  # fmt: skip
        assert source.seek(offset, whence) == source.tell() == at
        buffer = bytearray(b"xxxx")
        piece = b"0123456789"[at : at + 4]
        assert source.readinto(buffer) == len(piece)
        assert buffer == piece + b"xxxx"[len(piece) :]
        assert source.tell() == at + len(piece)
        source.seek(at)
    assert source.given == sum(map(len, (b"3456", b"5678", b"4567", b"6789", b"0123", b"0123")))
    source.check()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (b"/Mac (m)", b"m"),
        (b"/Unix (x) /Mac (m)", b"x"),
        (b"/DOS (d) /Unix (x)", b"d"),
        (b"/F (f) /DOS (d)", b"f"),
        (b"/F (f) /UF (u)", b"u"),
        (b"/UF () /F (f)", b"f"),
        (b"/UF /name /F (f)", b"f"),
        (b"/UF 7 /F 8", b"object 4"),
        (b"/V (v)", b"object 4"),
        (b"/UF <feff65e5>", "\u65e5".encode()),
    ],
)
def test_an_embedded_file_has_the_first_name_that_is_there(words: bytes, name: bytes) -> None:
    found = opened(Pdf(), pdfs.file_of({4: pdfs.stream(A), 5: FILE % words}))
    assert found.members == [(name, A)] and not found.unread


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ({5: b"<< /EF << /F 4 0 R /UF 4 0 R >> >>"}, [A]),
        ({5: b"<< /RF << /F [(n) 4 0 R (m) 6 0 R] >> >>"}, [A, B]),
        ({5: b"<< /EF << /F 6 0 R >> /RF << /F 4 0 R >> >>"}, [A, B]),
        ({5: b"<< /EF [4 0 R] >>"}, []),
        ({5: b"<< /EF 4 0 R >>"}, []),
        ({5: b"<< /EF << /F (text) /X [7 null] >> >>"}, []),
        ({5: b"<< /XF << /F 4 0 R >> >>"}, []),
        ({5: b"[[<< /A << /EF << /F 4 0 R >> >> >>]]"}, [A]),
        ({5: b"[7 << /A [<< /EF << /F 4 0 R >> >>] >>]"}, [A]),
        ({5: b"<< /A 7 0 R >>", 7: b"<< /EF << /F 4 0 R >> >>"}, [A]),
        ({5: b"(/EF 4 0 R)"}, []),
    ],
)
def test_dictionaries_of_files_name_streams(objects: dict[int, bytes], found: list[bytes]) -> None:
    whole = {4: pdfs.stream(A), 6: pdfs.stream(B), **objects}
    out = opened(Pdf(), pdfs.file_of(whole))
    assert out.contents == found and not out.unread


@pytest.mark.parametrize("window", [1, 9, 1 << 20])
@pytest.mark.parametrize(
    "begin", [b"9 0 obj", b"\t9\t0\r\nobj", b"9" + b" " * 255 + b"0" + b"\n" * 255 + b"obj"]
)
def test_an_object_that_the_table_lacks_is_read(
    begin: bytes, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pdfdetach makes a new table if the table of a file lacks an object that it needs."""
    monkeypatch.setattr(pdf, "_WINDOW_BYTES", window)
    hidden = b"%s\n%s\nendobj\n" % (begin, pdfs.stream(A))
    data = pdfs.file_of({4: pdfs.stream(B), 5: b"<< /EF << /F 4 0 R /UF 9 0 R >> >>"})
    found = opened(Pdf(), data + hidden)
    assert set(found.contents) == {A, B} and not found.unread
    assert [one.is_again for one in found.listed] == [False, True, True]
    for other in (hidden.replace(b"9", b"4"), hidden.replace(b"obj", b"obi"), b" obj 0 obj"):
        assert opened(Pdf(), data + other).contents == [B]


def test_an_object_that_pikepdf_does_not_understand_is_unread() -> None:
    """pdfdetach reads an object with a fault in its dictionary, which pikepdf takes for null."""
    others = (b"null", False), (b"\n null", False), (b"7", False)
    without = b"<< /Length >> >>\nstream\n%s\nendstream" % A
    for other, is_lost in ((pdfs.stream(A, b"/A [ /B"), True), (without, True), *others):
        data = pdfs.file_of({4: pdfs.stream(B), 5: other})
        repaired = data[: data.rindex(b"startxref")] + b"startxref\n7\n%%EOF\n"
        assert bool(opened(Pdf(), data).unread) is is_lost
        found = opened(Pdf(), repaired)
        assert set(found.contents) == {B} and bool(found.unread) is is_lost


DATA = pdfs.file_of(
    {
        4: pdfs.stream(A),
        5: pdfs.stream(B, b"/Filter /DCTDecode"),
        6: pdfs.stream(b"1", b"/Filter /CCITTFaxDecode"),
        7: pdfs.stream(b"2", b"/Filter /CCF"),
        8: pdfs.stream(b"3", b"/Filter /JBIG2Decode"),
        9: pdfs.stream(zlib.compress(b"4"), b"/Filter [/FlateDecode]"),
        10: pdfs.packed({11: b"<< /A 1 >>"}),
    },
    inside={10: [11]},
)


def test_only_a_repaired_file_gives_streams_that_no_file_names() -> None:
    whole = opened(Pdf(), DATA)
    assert whole.members == [(b"object 5", B)] and not whole.unread
    repaired = opened(Pdf(), DATA[: DATA.rindex(b"startxref")])
    names = [b"object %d" % number for number in (4, 4, 4, 5, 5, 5, 9, 9, 9)]
    assert repaired.names == names
    # Each stream is listed with three possible lengths.
    assert [one.is_again for one in repaired.listed] == [False, True, True] * 3
    assert set(repaired.contents) == {A, B, b"4"}


def test_a_picture_is_whole_only_if_its_filter_is_the_last() -> None:
    for filters, contents in ((b"/FlateDecode /DCTDecode", [A]), (b"/DCTDecode /FlateDecode", [])):
        data = pdfs.file_of({4: pdfs.stream(zlib.compress(A), b"/Filter [%s]" % filters)})
        found = opened(Pdf(), data)
        assert found.contents == contents and not found.unread


@pytest.mark.parametrize(
    ("filters", "content"),
    [
        (b"/Filter [/FlateDecode /DCTDecode]", zlib.compress(A)),
        (b"/Filter [/FlateDecode /JPXDecode] /DecodeParms null", zlib.compress(A)),
        (b"/Filter [/FlateDecode /DCTDecode] /DecodeParms [null null]", zlib.compress(A)),
        (b"/Filter [/ASCIIHexDecode /FlateDecode /DCT]", zlib.compress(A).hex().encode() + b">"),
        (b"/Filter [/DCTDecode] /DecodeParms [<< /ColorTransform 1 >>]", A),
        (b"/Filter /JPXDecode /DecodeParms << /ColorTransform 1 >>", A),
    ],
)
def test_filters_before_that_of_a_picture_are_decoded(filters: bytes, content: bytes) -> None:
    found = opened(Pdf(), pdfs.file_of({4: pdfs.stream(content, filters)}))
    assert found.contents == [A] and not found.unread


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        (b"a\n", b"a"), (b"a\r", b"a"), (b"a\r\n", b"a"), (b"a\n\r", b"a\n"), (b"a", b"a"),
        (b"", b""), (b"\r\n", b""), (b"a\n\n", b"a\n"),
    ],
)  # fmt: skip
def test_one_line_end_before_the_end_of_a_stream_may_not_belong_to_it(
    content: bytes, cut: bytes
) -> None:
    assert pdf._without_line_end(None, content) == cut


class Said:
    """A stream that states its length."""

    def __init__(self, length: object, raw: bytes = A) -> None:
        self._length, self._raw = length, raw

    def get(self, key: str) -> object:
        assert key == "/Length"
        return self._length

    def read_raw_bytes(self) -> bytes:
        return self._raw


@pytest.mark.parametrize(
    ("length", "content"),
    [(0, b""), (1, A[:1]), (len(A), A), (len(A) + 9, A), (-1, A), (None, A), ("1", A)],
)
def test_a_stream_may_be_as_long_as_it_says(length: object, content: bytes) -> None:
    assert pdf._as_said(Said(length), A) == content
    # The length is that of the bytes before they were decoded.
    for raw in (zlib.compress(A), b"a"):
        assert pdf._as_said(Said(length, raw), A) == A


def test_without_the_library_a_file_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pdf.seeks
    monkeypatch.setattr(pdf, "_pdf", None)
    with pytest.raises(NotReadError, match="install the extra `documents`") as caught:
        list(Pdf().members(Whole(DATA)))
    assert caught.value.why is Why.MISSING


def test_members_together_are_as_long_as_a_multiple_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is shorter than a window counts as long as a window."""
    monkeypatch.setattr(pdf, "_WINDOW_BYTES", 1)
    objects = {number: pdfs.stream(A, b"/Filter /DCTDecode") for number in range(4, 9)}
    data = pdfs.file_of(objects)
    assert opened(Pdf(), data).contents == [A] * 5
    monkeypatch.setattr(pdf, "_GIVEN", 0)
    found = opened(Pdf(), data)
    assert found.reasons == {Why.LIMIT} and found.contents == [A]
    monkeypatch.setattr(pdf, "_WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(pdf, "_GIVEN", 1)
    assert opened(Pdf(), data).contents == [A] * 5
