"""The expander of PDF files: embedded files, and pictures whose stream is a complete image file.

pikepdf reads a PDF if the extra `documents` is installed; without this extra, PDF files are counted
and not opened. A stream is an embedded file if a dictionary of files (`EF`, `RF`) refers to it, or
if it has the type of an embedded file. A picture in JPEG or JPEG 2000 is stored as the original
file, which may be compressed again; this compression is decoded. All other streams are parts of
pages, and are no members. If a PDF file is damaged and pikepdf repairs it, every stream is a
member, because the reference that shows the purpose of a stream may be lost. If the table of
objects lacks an object that is in the file, the file is read again with a new table, because some
programs make a new table if they need such an object. A truncated PDF file is also reported as
unread. A PDF file that cannot be repaired is reported as unread, unless it has no stream at all.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator, Iterator
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, cast

from hashclient.containers.forward import Joined, in_pieces
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why

# pikepdf is imported with this module, because no file can be opened in the sandbox.
try:
    _pdf: Any = import_module("pikepdf")
except ImportError:
    _pdf = None
_PICTURES = frozenset((b"/DCTDecode", b"/DCT", b"/JPXDecode"))
_NO_FILES = frozenset((b"/CCITTFaxDecode", b"/CCF", b"/JBIG2Decode"))
#: The filter that says how a stream is encrypted; it does not change the format of the bytes.
_CRYPT = b"/Crypt"
#: Types of streams that are parts of the file itself, unless a dictionary of files refers to them.
_OF_THE_FILE = "/ObjStm", "/XRef"
#: `_FILES`: the keys whose values are dictionaries of embedded files (`/EF`) and of related files
#: (`/RF`); `_MARKS`: the same keys as bytes.
_FILES = "/EF", "/RF"
_MARKS = tuple(name.encode() for name in _FILES)
_FILE_NAMES = "/UF", "/F", "/DOS", "/Unix", "/Mac"
#: Matches the beginning or the end of a stream; a truncated file may contain only one of them.
_STREAM = re.compile(rb"endstream|stream[\r\n]")
_MARK_BYTES = 9
#: `_OBJECT` matches the word that begins an object that is not `null`; it begins with this word,
#: for which `re` searches fast. Two numbers are within `_OBJECT_BYTES` bytes before the word, and
#: `_NUMBER` matches the end of the first one. `_NO_TABLE`: an end of a file that makes pikepdf
#: search the file for objects.
_OBJECT, _OBJECT_BYTES = re.compile(rb"obj(?<=[\s\0]obj)(?!\s*+(?:null|endobj))"), 600
_NUMBER = re.compile(rb"\d{1,9}\Z")
_NO_TABLE = b"\nstartxref\n0\n%%EOF\n"
#: Texts in warnings of pikepdf.
_REPAIRED, _OTHER_LENGTH, _NO_MEMORY = "reconstruct", "recovered stream length", "bad_alloc"
#: Texts in warnings of pikepdf about a word that it does not understand, which may be a reference.
_UNCLEAR = "while reading object", "on reading object", "in name token"
_WITH_TABLE = "startxref was more than"  # pikepdf has used the table after all
#: Texts in warnings of pikepdf about a stream or an object without an end, which pikepdf treats as
#: empty, about a dictionary without its last value, whose stream pikepdf does not see, and about a
#: stream that begins behind other words than `stream`, which programs skip.
_LOST = (
    *("unable to recover stream data", "EOF", "dictionary ended prematurely"),
    "not followed by proper line terminator",
)
_WINDOW_BYTES = 1 << 20
#: The factor by which all read members together may be longer than the file; in a valid file, no
#: two streams share bytes.
_GIVEN = 8


class _Source(io.RawIOBase):
    """The file from which pikepdf reads; an error is kept, because pikepdf may ignore it."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._at = 0
        self.error: Exception | None = None
        self.given = 0

    def readable(self) -> bool:
        """Return True, because the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True, because the file can be read at any position."""
        return True

    def tell(self) -> int:
        """Return the position in the file."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the file, and return it."""
        begin = (0, self._at, self._data.size)[whence]
        self._at = max(begin + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read bytes into `buffer`, and return how many bytes were read."""
        try:
            piece = self._data.read_at(self._at, len(buffer))
        except Exception as error:
            self.error = error
            raise
        buffer[: len(piece)] = piece
        self._at += len(piece)
        self.given += len(piece)
        return len(piece)

    def check(self) -> None:
        """Raise the error that occurred in an earlier read and that pikepdf has ignored."""
        if self.error is not None:
            raise self.error


class _Part(NamedTuple):
    """A stream that is a member: its name, and the number and generation of its object."""

    name: bytes
    number: tuple[int, int]


class Pdf:
    """The expander of PDF files.

    An encrypted file is opened if it needs no password, or if a known password fits.
    """

    name = "pdf"
    seeks = True

    def __init__(self, passwords: tuple[bytes, ...] = ()) -> None:
        """`passwords` are tried on encrypted files."""
        self._passwords = (b"", *passwords)

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the files and pictures, each in a batch of its own."""
        data = cast(Data, data)
        if _pdf is None:
            raise NotReadError(Why.MISSING, "no pikepdf: install the extra `documents`")
        if (yield from self._members(data)):
            again = Joined(b"", data, 0, data.size, _NO_TABLE)
            yield from self._members(again, is_again=True)

    def _members(
        self, data: Data, *, is_again: bool = False
    ) -> Generator[list[Member] | Unlisted, None, bool]:
        """Yield the members; return whether the table of objects lacks an object of the file.

        `is_again`: the file has an end that makes pikepdf search the file for objects. Pieces of
        other files within streams then look like damaged objects, which are not reported.
        """
        source = _Source(data)
        opened = self._opened(source)
        if opened is None:
            if not is_again and _has_stream(data):
                raise NotReadError(Why.DAMAGED, "pdf: it cannot be repaired")
            return False
        with opened:
            file = _File(opened, source, is_again=is_again)
            yield from () if is_again else file.unread
            most = source.given + _GIVEN * max(data.size, _WINDOW_BYTES)
            for part in file.parts:
                if source.given > most:
                    raise NotReadError(Why.LIMIT, "pdf: the same bytes are in many streams")
                yield from file.members(part)
            if is_again or not file.lacks(data):
                return False
            if file.is_rebuilt or file.is_unclear:
                yield Unlisted(b"", Why.DAMAGED, "pdf: an object that is damaged")
            return not file.is_rebuilt

    def _opened(self, source: _Source) -> Any:
        """Return the opened file; return None if it cannot be repaired.

        Raises:
            NotReadError: the file is encrypted, or its bytes cannot be read.
        """
        for password in self._passwords:
            try:
                return _pdf.open(source, password=password, suppress_warnings=True)
            except _pdf.PasswordError:
                continue
            except _pdf.PdfError:
                source.check()
                return None
        raise NotReadError(Why.ENCRYPTED, "pdf: it is encrypted")


class _File:
    """The objects of one PDF file.

    pikepdf reports each warning only once, and continues after a warning.
    """

    def __init__(self, opened: Any, source: _Source, *, is_again: bool) -> None:
        """Find the streams that are members (`parts`) and the unreadable objects (`unread`)."""
        self._opened = opened
        self._source = source
        self._is_again = is_again
        before = opened.get_warnings()
        #: `is_rebuilt`: whether pikepdf has searched the file for objects. `is_unclear`: whether
        #: it has not understood a part of an object.
        self.is_rebuilt = _says(before, _REPAIRED) and not _says(before, _WITH_TABLE)
        wanted = _pdf.Dictionary | _pdf.Array | _pdf.Stream
        objects = [found for found in opened.objects if isinstance(found, wanted)]
        self._numbers = {found.objgen[0] for found in objects}
        # All earlier warnings of pikepdf are fetched here. Otherwise they would be taken for
        # warnings about the stream that is read next.
        warnings = opened.get_warnings()
        self.is_unclear = any(_says(before + warnings, word) for word in _UNCLEAR)
        is_repaired = (_says(before, _REPAIRED) or self.is_unclear) and not is_again
        self._is_odd = is_repaired or _says(before + warnings, _OTHER_LENGTH)
        streams: dict[tuple[int, int], bool] = {}
        names: dict[tuple[int, int], bytes] = {}
        self.unread: list[Unlisted] = []
        if any(_says(before + warnings, word) for word in _LOST):
            self.unread.append(
                Unlisted(b"", Why.DAMAGED, "pdf: a part of it is cut off or begins in doubt")
            )
        for found in objects:
            if any(mark in found.unparse(resolved=True) for mark in _MARKS):
                names.update(_named(found))
            if not isinstance(found, _pdf.Stream):
                continue
            _write_in_full(found)
            kind = found.get("/Type")
            if kind == "/ObjStm":
                # If a stream that contains objects is damaged, pikepdf leaves out these objects,
                # and only reports a warning.
                _, error = self._content(found)
                if error is None and warnings:
                    error = _damaged()
                if error is not None:
                    self.unread.append(Unlisted(_name(found.objgen), error.why, error.detail))
            last = _last(_filters(found))
            is_file = kind == "/EmbeddedFile" or last in _PICTURES
            may_be_file = is_repaired and kind not in _OF_THE_FILE and last not in _NO_FILES
            streams[found.objgen] = is_file or may_be_file
        source.check()
        if _says(warnings + opened.get_warnings(), _NO_MEMORY):
            raise MemoryError
        self.parts = [
            _Part(names.get(number, b"") or _name(number), number)
            for number, is_file in streams.items()
            if is_file or number in names
        ]

    def lacks(self, data: Data) -> bool:
        """Return whether an object begins in the file that pikepdf has not found or not parsed."""
        return any(
            one[0] not in self._numbers and self._opened.get_object(one) is None
            for one in _begun(data)
        )

    def members(self, part: _Part) -> Iterator[list[Member]]:
        """Yield one stream as a member.

        If the length of the stream is uncertain, yield a member for each possible length. If the
        file is read again, the stream was probably a member before.
        """
        chunks = partial(self._chunks, part.number)
        yield [Member(part.name, None, is_exact=False, chunks=chunks, is_again=self._is_again)]
        for cut in (_without_line_end, _as_said) if self._is_odd else ():
            chunks = partial(self._chunks, part.number, cut)
            yield [Member(part.name, None, is_exact=False, chunks=chunks, is_again=True)]

    def _chunks(
        self, number: tuple[int, int], cut: Callable[[Any, bytes], bytes] | None = None
    ) -> Iterator[bytes]:
        """Yield the bytes of a stream or, if `cut` is given, what `cut` returns for them."""
        stream = self._opened.get_object(number)
        content, error = self._content(stream)
        yield from in_pieces(cut(stream, content) if cut else content)
        if error is not None and cut is None:
            raise error

    def _content(self, stream: Any) -> tuple[bytes, NotReadError | None]:
        """Return the bytes of a stream, and the error if some of the bytes are missing.

        Raises:
            MemoryError: the stream has too many bytes.
        """
        filters = _filters(stream)
        content, error = b"", None
        try:
            if _last(filters) in _PICTURES:
                content = _picture(stream, filters)
            else:
                content = stream.read_bytes()
        except (_pdf.PdfError, _pdf.DataDecodingError) as fault:
            if _NO_MEMORY in str(fault):
                # The warnings about this stream are discarded, because they would otherwise be
                # taken for warnings about the next stream.
                self._opened.get_warnings()
                raise MemoryError from fault
            error = NotReadError(Why.UNSUPPORTED, "pdf: compressed by an unknown method")
        has_warnings = bool(self._opened.get_warnings())
        self._source.check()
        if has_warnings:
            error = _damaged()
        return content, error


def _without_line_end(_stream: Any, content: bytes) -> bytes:
    """Return the bytes of a stream without the line end before `endstream`."""
    if content.endswith((b"\n", b"\r")):
        return content[: -2 if content.endswith(b"\r\n") else -1]
    return content


def _as_said(stream: Any, content: bytes) -> bytes:
    """Return the bytes of a stream up to its `/Length`."""
    length = stream.get("/Length")
    if isinstance(length, int) and length >= 0 and stream.read_raw_bytes() == content:
        return content[:length]
    return content


def _picture(stream: Any, filters: list[bytes]) -> bytes:
    """Return the image file (JPEG or JPEG 2000) in a picture, whose other filters are decoded."""
    if len(filters) == 1:
        return bytes(stream.read_raw_bytes())
    # The filter of the image format is removed from the stream's dictionary, because pikepdf
    # decodes all filters or none.
    place = len(filters) - 1 - filters[::-1].index(_last(filters))
    for key in ("/Filter", "/DecodeParms"):
        if isinstance(values := stream.get(key), _pdf.Array):
            stream[key] = _pdf.Array([one for n, one in enumerate(values) if n != place])
    return bytes(stream.read_bytes())


def pdf(_name: str, passwords: tuple[bytes, ...]) -> Pdf:
    """Return the expander of PDF files."""
    return Pdf(passwords)


def _windows(data: Data, before: int) -> Iterator[bytes]:
    """Yield the bytes in long pieces, each with the last `before` bytes of the piece before it."""
    for at in range(0, data.size, _WINDOW_BYTES):
        begin = max(at - before, 0)
        yield data.read_at(begin, at - begin + _WINDOW_BYTES)


def _has_stream(data: Data) -> bool:
    return any(map(_STREAM.search, _windows(data, _MARK_BYTES)))


def _begun(data: Data) -> Iterator[tuple[int, int]]:
    """Yield the numbers of all objects that begin in a file, as their first bytes state them."""
    for window in _windows(data, _OBJECT_BYTES):
        for word in _OBJECT.finditer(window):
            before = window[max(word.start() - _OBJECT_BYTES, 0) : word.start()]
            first, second = (b"", b"", *before.replace(b"\0", b" ").rsplit(None, 2))[-2:]
            if (number := _NUMBER.search(first)) and second.isdigit() and len(second) < 10:
                yield int(number[0]), int(second)


def _damaged() -> NotReadError:
    return NotReadError(Why.DAMAGED, "pdf: a stream that is damaged")


def _says(warnings: list[Any], word: str) -> bool:
    return any(word in str(warning) for warning in warnings)


def _name(number: tuple[int, int]) -> bytes:
    return b"object %d" % number[0]


def _filters(stream: Any) -> list[bytes]:
    """Return the names of the filters of a stream, in the order in which they are decoded."""
    filters = stream.get("/Filter")
    named = filters if isinstance(filters, _pdf.Array) else [filters]
    # The name of a filter in a hostile file may contain any bytes, and may be an object of its own.
    return [one.unparse(resolved=True) if isinstance(one, _pdf.Name) else b"" for one in named]


def _last(filters: list[bytes]) -> bytes:
    """Return the last filter, except `/Crypt`; no bytes if there is none."""
    return next((one for one in reversed(filters) if one != _CRYPT), b"")


def _write_in_full(stream: Any) -> None:
    """Replace the short keys `/F` and `/DP` of a stream by the full keys, which pikepdf reads.

    Only pictures within the text of a page may have short keys, but programs accept them in every
    stream. In other streams, `/F` may also name another file, which is no name of a filter.
    """
    if "/Filter" not in stream and isinstance(stream.get("/F"), _pdf.Name | _pdf.Array):
        stream.Filter = stream.F
    if "/DecodeParms" not in stream and "/DP" in stream:
        stream.DecodeParms = stream.DP


def _named(found: Any) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield the object number and the name of each embedded file to which an object refers."""
    todo = [found]
    while todo:
        one = todo.pop()
        if isinstance(one, _pdf.Array):
            todo += filter(_is_inside, one)
            continue
        for files in map(one.get, _FILES):
            if isinstance(files, _pdf.Dictionary):
                name = next(filter(None, (_text(one.get(key)) for key in _FILE_NAMES)), b"")
                yield from ((number, name) for number in _numbers(files))
        todo += filter(_is_inside, one.values())


def _is_inside(value: Any) -> bool:
    return isinstance(value, _pdf.Dictionary | _pdf.Array) and not value.is_indirect


def _numbers(files: Any) -> Iterator[tuple[int, int]]:
    """Yield the object numbers of all streams in a dictionary of files.

    The values of a dictionary of files are streams or lists of streams.
    """
    for value in files.values():
        for one in value if isinstance(value, _pdf.Array) else [value]:
            if isinstance(one, _pdf.Stream):
                yield one.objgen


def _text(value: Any) -> bytes:
    if not isinstance(value, _pdf.String):
        return b""
    try:
        return str(value).encode("utf-8", "replace")
    except UnicodeError:
        return bytes(value)
