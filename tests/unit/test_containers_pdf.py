"""PDF: embedded files and whole pictures are members, whatever the file stores them in."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from fixtures import pdfs
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.pdf import Pdf
from tests.opened import Whole, opened

pikepdf = pytest.importorskip("pikepdf", reason="the extra `documents` is not installed")

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 30 + b"\xff\xd9"
IMAGE = b"/Type /XObject /Subtype /Image /Width 8 /Height 8"
DCT = IMAGE + b" /Filter /DCTDecode"


def spec(words: bytes) -> bytes:
    return b"<< /Type /Filespec /F (a.bin) %s >>" % words


EMBEDDED = {
    "as-an-attachment": pdfs.pdf_of({"a.bin": JPEG}),
    "without-a-type": pdfs.file_of({4: pdfs.deflated(JPEG), 5: spec(b"/EF << /F 4 0 R >>")}),
    "without-a-name-for-it": pdfs.file_of({4: pdfs.deflated(JPEG, b"/Type /EmbeddedFile")}),
    "of-an-annotation": pdfs.file_of(
        {
            4: pdfs.stream(JPEG),
            5: b"<< /Type /Page /Annots [<< /FS %s >>] >>" % spec(b"/EF << /UF 4 0 R >>"),
        }
    ),
    "in-a-dictionary-elsewhere": pdfs.file_of(
        {4: pdfs.stream(JPEG), 5: spec(b"/EF 6 0 R"), 6: b"<< /F 4 0 R >>"}
    ),
    "that-belongs-to-another": pdfs.file_of(
        {4: pdfs.stream(JPEG), 5: spec(b"/RF << /F [(a) 4 0 R] >>")}
    ),
    "beside-odd-words": pdfs.file_of(
        {
            4: pdfs.stream(JPEG, b"/Filter [] /#b9x /#fe"),
            5: b"<< /#b9 << /\xff 1 /FS %s >> >>" % spec(b"/#b9 1 /EF << /\xb9 4 0 R >>"),
            6: pdfs.stream(b"x", b"/Filter [/#b9x]"),
        }
    ),
    "by-an-escaped-word": pdfs.file_of({4: pdfs.stream(JPEG), 5: spec(b"/#45F << /F 4 0 R >>")}),
    "named-in-a-stream-of-objects": pdfs.file_of(
        {4: pdfs.stream(JPEG), 6: pdfs.packed({5: spec(b"/EF << /F 4 0 R >>")})}, inside={6: [5]}
    ),
}
PICTURES = {
    "jpeg": pdfs.file_of({4: pdfs.stream(JPEG, DCT)}),
    "jpeg-2000": pdfs.file_of({4: pdfs.stream(JPEG, IMAGE + b" /Filter /JPXDecode")}),
    "by-a-short-word": pdfs.file_of({4: pdfs.stream(JPEG, IMAGE + b" /Filter /DCT")}),
    "in-a-list-of-filters": pdfs.file_of({4: pdfs.stream(JPEG, IMAGE + b" /Filter [/DCTDecode]")}),
    "compressed-again": pdfs.file_of(
        {
            4: pdfs.stream(
                zlib.compress(JPEG).hex().encode() + b">",
                IMAGE + b" /Filter [/ASCIIHexDecode /FlateDecode /DCTDecode]"
                b" /DecodeParms [null null << /ColorTransform 0 >>]",
            )
        }
    ),
    "of-no-page-and-no-type": pdfs.file_of({4: pdfs.stream(JPEG, b"/Filter /DCTDecode")}),
}
ROWS = {**EMBEDDED, **PICTURES}


@pytest.mark.parametrize("name", ROWS)
def test_embedded_files_and_whole_pictures_are_members(name: str) -> None:
    found = opened(Pdf(), ROWS[name])
    assert found.contents == [JPEG] and not found.unread
    named = name in EMBEDDED and name != "without-a-name-for-it"
    assert found.names == ([b"a.bin"] if named else [b"object 4"])


@pytest.mark.parametrize("type_", [b"/Type /XRef", b"/Type /ObjStm"])
def test_a_stream_is_a_member_whatever_type_it_claims(type_: bytes) -> None:
    named = {4: pdfs.stream(JPEG, type_), 5: spec(b"/EF << /F 4 0 R >>")}
    for objects in (named, {4: pdfs.stream(JPEG, type_ + b" /Filter /DCTDecode")}):
        found = opened(Pdf(), pdfs.file_of(objects))
        assert found.contents == [JPEG] and not found.unread


#: `JPEG` in rows of 61 bytes, each of which states its differences from the row before it.
IN_ROWS = b"".join(
    b"\2" + bytes((a - b) & 255 for a, b in zip(JPEG[at : at + 61], before, strict=True))
    for at in range(0, len(JPEG), 61)
    for before in [JPEG[at - 61 : at] if at else bytes(61)]
)


@pytest.mark.parametrize(
    ("words", "content"),
    [
        (b"/F /DCT", JPEG),
        (b"/F [/Fl /DCT]", zlib.compress(JPEG)),
        (b"/F 7 0 R", JPEG),
        (b"/Filter 7 0 R", JPEG),
        (b"/Filter [/FlateDecode 7 0 R]", zlib.compress(JPEG)),
        (b"/Filter [/DCTDecode /Crypt]", JPEG),
        (
            b"/Filter [/FlateDecode /DCT /Crypt] /DecodeParms [null null << /Name /Identity >>]",
            zlib.compress(JPEG),
        ),
        (b"/Type /EmbeddedFile /F /FlateDecode", zlib.compress(JPEG)),
        (
            b"/Type /EmbeddedFile /F /Fl /DP << /Predictor 12 /Columns 61 >>",
            zlib.compress(IN_ROWS),
        ),
        (b"/Type /EmbeddedFile /F << /F (another file) >>", JPEG),
    ],
)
def test_filters_are_read_wherever_programs_look_for_them(words: bytes, content: bytes) -> None:
    data = pdfs.file_of({4: pdfs.stream(content, words), 7: b"/DCTDecode"})
    found = opened(Pdf(), data)
    assert found.contents == [JPEG] and not found.unread


def test_a_name_in_unicode_comes_first_and_one_of_odd_bytes_is_shown() -> None:
    names = {b"/UF (\xfe\xff\0b\0.\0c) /F (a.bin)": b"b.c", b"/F (\xfe\xff\0b\xd8)": b""}
    for words, name in names.items():
        words = b"<< %s /EF << /F 4 0 R >> >>" % words
        found = opened(Pdf(), pdfs.file_of({4: pdfs.stream(JPEG), 5: words}))
        assert found.contents == [JPEG] and (found.names == [name] or not name)


class Failing(Whole):
    """A file that cannot be read from a given offset on."""

    def __init__(self, data: bytes, end: int) -> None:
        super().__init__(data)
        self.end = end

    def read_at(self, offset: int, count: int) -> bytes:
        if offset + count > self.end and offset < self.size - 400:
            raise NotReadError(Why.LIMIT, "benign")
        return super().read_at(offset, count)


@pytest.mark.parametrize("at", [0, 40, 5_000, 60_000])
def test_an_error_of_reading_is_not_passed_over(at: int) -> None:
    data = pdfs.file_of({4: pdfs.stream(JPEG * 10, DCT), 5: pdfs.stream(JPEG, DCT)})
    assert Why.LIMIT in opened(Pdf(), Failing(data, at)).reasons


def test_parts_of_pages_are_no_members() -> None:
    pixels = IMAGE + b" /ColorSpace /DeviceGray /BitsPerComponent 8"
    data = pdfs.file_of({4: pdfs.deflated(b"BT ET"), 5: pdfs.deflated(bytes(64), pixels)})
    found = opened(Pdf(), data)
    assert not found.members and not found.unread


@pytest.mark.parametrize("revision", [2, 3, 4, 6])
def test_a_file_that_asks_for_no_password_is_read_and_another_one_is_named(
    revision: int, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_bytes(ROWS["as-an-attachment"])
    with pikepdf.open(tmp_path / "plain") as plain:
        for path, user in (("open", ""), ("closed", "geheim")):
            how = pikepdf.Encryption(
                owner="owner", user=user, R=revision, aes=revision > 3, metadata=revision > 3
            )
            plain.save(tmp_path / path, encryption=how)
    assert opened(Pdf(), (tmp_path / "open").read_bytes()).contents == [JPEG]
    closed = (tmp_path / "closed").read_bytes()
    assert opened(Pdf(), closed).reasons == {Why.ENCRYPTED}
    assert opened(Pdf((b"other", b"geheim")), closed).contents == [JPEG]


@pytest.mark.parametrize("name", ROWS)
def test_a_file_that_has_to_be_repaired_gives_each_stream(name: str) -> None:
    data = ROWS[name]
    at = data.rindex(b"startxref")
    for damaged in (data[:at], data[:at] + b"startxref\n7\n%%EOF\n", b"%PDF-1.4\njunk\n" + data):
        assert JPEG in opened(Pdf(), damaged).contents


@pytest.mark.parametrize("words", [b"/EF << /F 4 0R >>", b"/EF#00 << /F 4 0 R >>"])
def test_so_does_one_with_a_word_that_pikepdf_does_not_understand(words: bytes) -> None:
    """pdfdetach understands these words."""
    assert JPEG in opened(Pdf(), pdfs.file_of({4: pdfs.stream(JPEG), 5: spec(words)})).contents


def test_a_stream_whose_length_is_wrong_is_given_with_and_without_the_end_of_the_line() -> None:
    for length in (0, 10, 1 << 40):
        data = pdfs.file_of({4: pdfs.stream(JPEG, DCT, length=length)})
        for end in (b"\n", b"\r\n", b"\r"):
            written = data.replace(JPEG + b"\n", JPEG + end)
            assert opened(Pdf(), written).contents == [JPEG + end, JPEG, (JPEG + end)[:length]]


def test_so_is_one_beside_a_stream_of_objects() -> None:
    objects = {4: pdfs.stream(JPEG, DCT, length=10), 6: pdfs.packed({5: b"<< >>"})}
    found = opened(Pdf(), pdfs.file_of(objects, inside={6: [5]}))
    assert found.contents == [JPEG + b"\n", JPEG, JPEG[:10]]
    assert found.unread == [(b"object 6", Why.DAMAGED)]


def test_a_file_that_is_cut_in_or_behind_its_first_stream_is_unread() -> None:
    whole = b"%PDF-1.4\n4 0 obj\n" + pdfs.stream(JPEG, DCT)
    begin = whole.index(JPEG)
    for end in (begin, begin + 1, begin + len(JPEG), *range(len(whole) - 10, len(whole) + 1)):
        assert opened(Pdf(), whole[:end]).reasons == {Why.DAMAGED}


@pytest.mark.sampled
@pytest.mark.parametrize("name", ROWS)
def test_a_file_that_is_cut_behind_the_beginning_of_a_stream_gives_it_or_is_unread(
    name: str,
) -> None:
    data = ROWS[name]
    begin, last = data.index(b"stream\n") + 7, data.rindex(b"endstream")
    for end in [*range(begin, last, 500), *range(last - 200, len(data))]:
        found = opened(Pdf(), data[:end])
        assert JPEG in found.contents or Why.DAMAGED in found.reasons, end


def test_a_stream_whose_last_word_is_wrong_is_given_as_long_as_it_says() -> None:
    last = pdfs.stream(JPEG[::-1], DCT)
    for end in (b"endstreem", b"", b"x endstream"):
        odd = pdfs.stream(JPEG, DCT).replace(b"endstream", end)
        for objects in ({4: odd}, {4: odd, 5: last}, {4: last, 5: odd}):
            assert JPEG in opened(Pdf(), pdfs.file_of(objects)).contents


def test_a_stream_behind_other_words_is_unread() -> None:
    """pdfdetach skips the words to the end of the line."""
    for words in (b" x", b"%x", b"\0"):
        odd = pdfs.stream(JPEG, DCT).replace(b"stream\n", b"stream%s\n" % words, 1)
        assert opened(Pdf(), pdfs.file_of({4: odd})).reasons == {Why.DAMAGED}
    for blanks in (b" ", b"\t", b" \r"):
        odd = pdfs.stream(JPEG, DCT).replace(b"stream\n", b"stream%s\n" % blanks, 1)
        assert opened(Pdf(), pdfs.file_of({4: odd})).contents == [JPEG]


def test_what_is_no_pdf_behind_the_mark_is_clean_and_one_past_repair_is_unread() -> None:
    assert not opened(Pdf(), b"%PDF-1.4\n" + bytes(range(256)) * 9000).unread
    assert opened(Pdf(), b"%PDF-1.4\nstream\nx\nendstream\n").reasons == {Why.DAMAGED}
    window = b"%PDF-1.4\n".ljust((1 << 20) - 4) + b"endstream"
    assert opened(Pdf(), window).reasons == {Why.DAMAGED}


def test_streams_that_cannot_be_read_are_named_and_those_beside_them_are_read() -> None:
    embedded = b"/Type /EmbeddedFile"
    cut = zlib.compress(JPEG * 9)[:-40]
    data = pdfs.file_of(
        {
            4: pdfs.stream(JPEG, DCT),
            5: pdfs.stream(b"x", embedded + b" /Filter /Foreign"),
            6: pdfs.stream(b"no deflate", embedded + b" /Filter /FlateDecode"),
            7: pdfs.stream(cut, embedded + b" /Filter /FlateDecode"),
            8: pdfs.stream(JPEG[::-1], embedded),
        }
    )
    found = opened(Pdf(), data)
    assert found.contents == [JPEG, JPEG[::-1]]
    assert found.unread == [
        (b"object 5", Why.UNSUPPORTED),
        (b"object 6", Why.DAMAGED),
        (b"object 7", Why.DAMAGED),
    ]


def test_a_stream_of_objects_that_is_cut_is_named() -> None:
    objects = {number: spec(b"/EF << /F 4 0 R >>") for number in range(5, 90)}
    whole = {4: pdfs.stream(JPEG), 90: pdfs.packed(objects)}
    assert opened(Pdf(), pdfs.file_of(whole, inside={90: objects})).contents == [JPEG]
    cut = whole | {90: pdfs.packed(objects, cut=30)}
    found = opened(Pdf(), pdfs.file_of(cut, inside={90: objects}))
    assert (b"object 90", Why.DAMAGED) in found.unread


def test_the_same_bytes_in_many_streams_are_given_a_few_times_only() -> None:
    nested = b"x" * 100_000
    for number in range(9, 400):
        nested = b"%d 0 obj\n%s\nendobj\n" % (number, pdfs.stream(nested, b"/Type /EmbeddedFile"))
    # Without a cross-reference table, an object that lies within another object counts, too.
    found = opened(Pdf(), b"%PDF-1.4\n" + nested + pdfs.file_of({})[9:])
    # pikepdf reads 8 MiB in all, because a file that is shorter than 1 MiB counts as 1 MiB; about a
    # quarter of these bytes is read to find objects.
    assert 6_000_000 < sum(map(len, found.contents)) < 6_900_000
    assert Why.LIMIT in found.reasons


@pytest.mark.sampled
@pytest.mark.parametrize("name", ROWS)
def test_every_cut_and_changed_byte_ends_without_another_error(name: str) -> None:
    data = ROWS[name]
    begin = data.index(JPEG[:40]) if JPEG[:40] in data else 9
    for at in [*range(9, begin, 7), *range(len(data) - 200, len(data), 3)]:
        opened(Pdf(), data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        opened(Pdf(), data[:at])


@pytest.mark.skipif(shutil.which("pdfdetach") is None, reason="pdfdetach is not here")
@pytest.mark.parametrize("name", EMBEDDED)
def test_what_pdfdetach_extracts_is_a_member(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(ROWS[name])
    subprocess.run(
        ["pdfdetach", "-saveall", "a.pdf"], check=False, cwd=tmp_path, capture_output=True
    )
    extracted = [path.read_bytes() for path in tmp_path.iterdir() if path.name != "a.pdf"]
    assert set(extracted) <= set(opened(Pdf(), ROWS[name]).contents)
    assert name != "as-an-attachment" or extracted == [JPEG]


@pytest.mark.parametrize("mark", [b"endstream", b"stream\r", b"stream\n"])
def test_a_file_that_cannot_be_repaired_is_damaged_if_a_stream_is_anywhere_in_it(
    mark: bytes,
) -> None:
    window = 1 << 20
    near = (window - len(mark), window - 3, window, window + 1)
    for at in (9, *near, window * 3 // 2, 2 * window):
        begin = b"%PDF-1.4\n".ljust(at, b"x")
        assert opened(Pdf(), begin + mark + b"x" * 9).reasons == {Why.DAMAGED}, at
        assert opened(Pdf(), begin + mark[:-1]).reasons == set(), at
