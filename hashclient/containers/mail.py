"""A mail: every part of it, decoded, and files that stand uuencoded in its text.

The mail is read once, forwards, in blocks; only uuencoded files and files attached as text are held
in memory. Broken MIME is read as clients read it: where they disagree, all readings are listed, and
undecidable parts are unread. A file that was attached as text is listed with its own line ends, and
with those of other systems, since clients write their own. A message within a message, or a
`winmail.dat`, is a container of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from hashclient.containers.forward import in_pieces
from hashclient.containers.interface import Data, Member, Stream, Unlisted, Why
from hashclient.containers.mailmarks import BYTE_ORDER_MARK, begins_as_mail
from hashclient.containers.mimedecode import GoesOnError, UuFile, UuFinder, base64, quoted_printable
from hashclient.containers.mimeheaders import Collector, Fields
from hashclient.containers.mimelines import Lines

#: The kind of a member that is a message, whatever its first bytes are.
MESSAGE = "message"
#: Depth of multiparts in multiparts; messages in messages are containers in containers.
MAX_DEPTH = 100
#: Bytes of a file that was attached as text, to list it with other line ends.
MAX_TEXT_BYTES = 8 << 20
#: A text with colons is mail only if one of its first fields is a field of mail.
_MAX_UNTOLD_BYTES = 1 << 20

_BASE64, _QUOTED = b"base64", b"quoted-printable"
#: Encodings that no client undoes, or that are found in the text.
_FOREIGN = frozenset(
    (b"x-yenc", b"x-yencode", b"mac-binhex40", b"binhex", b"binhex40", b"x-binhex")
)
#: All other kinds of `message/` are messages, to some clients at least.
_NO_MESSAGES = frozenset(
    (
        b"message/delivery-status",
        b"message/global-delivery-status",
        b"message/disposition-notification",
        b"message/feedback-report",
        b"message/external-body",
        b"message/partial",
    )
)
_PARTIAL = frozenset((b"message/partial", b"multipart/partial"))
_SMIME = frozenset((b"application/pkcs7-mime", b"application/x-pkcs7-mime"))
_BINHEX = b"application/mac-binhex40"


class Message:
    """A message, whatever it begins with: its mailbox or outer message says that it is one."""

    name = MESSAGE
    seeks = False

    def sniff(self, head: bytes, tail: bytes) -> bool:
        """Return False: this kind is opened by its name only."""
        return False

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the parts one by one, each to be read before the next is asked for."""
        return _Walk(Lines(data)).members(None)


class Eml(Message):
    """A mail in a file of its own."""

    name = "eml"

    def sniff(self, head: bytes, tail: bytes) -> bool:
        """Recognise lines that are all header fields, some of mail as far as they are there."""
        return begins_as_mail(head)

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the parts one by one; none where the header turns out to be of no mail."""
        return _Walk(Lines(data)).members(_MAX_UNTOLD_BYTES)


class _Level:
    """A multipart that is open."""

    def __init__(self, fields: Fields) -> None:
        self.is_digest = fields.kind == b"multipart/digest"
        self.is_met = False
        self.is_blank = True


class _Walk:
    """One mail that is being read."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._levels: list[_Level] = []
        self._stack: list[frozenset[bytes]] = []
        self._number = 0

    def members(self, most: int | None) -> Iterator[list[Member] | Unlisted]:
        """Yield all parts. With `most`, it must be a mail: its header says so within that."""
        lines = self._lines
        start = lines.peek(512)
        if start.startswith(BYTE_ORDER_MARK):
            start = start.removeprefix(BYTE_ORDER_MARK)
            lines.skip(len(BYTE_ORDER_MARK))
        lines.skip(len(start) - len(start.lstrip(b"\r\n")))
        if b"\r" in start and b"\n" not in start:
            yield from self._old_mac(start, most)
            return
        collector = lines.header(self._stack, most)
        if most is not None and not collector.is_mail:
            return
        yield from self._entity(collector.fields())
        while lines.hit is not None:
            hit = lines.hit
            for level in reversed(range(hit.level + 1, len(self._levels))):
                yield from self._close(level)
            self._levels[hit.level].is_met = True
            if hit.is_last:
                # A client may read on after it, so its boundary still counts.
                yield from self._aside(self._levels[hit.level])
                continue
            fields = lines.header(self._stack).fields()
            if not fields.kind and self._levels[hit.level].is_digest:
                yield from self._leaf(fields, is_message=True)
            else:
                yield from self._entity(fields)
        for level in reversed(range(len(self._levels))):
            yield from self._close(level)

    def _old_mac(self, start: bytes, most: int | None) -> Iterator[list[Member] | Unlisted]:
        collector = Collector()
        for line in start.split(b"\r"):
            collector.add(line)
        if most is None or collector.is_mail:
            yield Unlisted(b"", Why.UNSUPPORTED, "mail: lines that end with a carriage return")

    def _close(self, level: int) -> Iterator[Unlisted]:
        closed = self._levels.pop()
        self._stack.pop()
        if not closed.is_met and not closed.is_blank:
            yield Unlisted(
                self._next_name(b""), Why.DAMAGED, "mail: a multipart without its boundary"
            )

    def _next_name(self, name: bytes) -> bytes:
        self._number += 1
        return name or b"part-%d" % self._number

    def _entity(self, fields: Fields) -> Iterator[list[Member] | Unlisted]:
        """Yield the body after a header, up to the next boundary."""
        why: tuple[Why, str] | None = None
        if fields.is_disputed:
            why = Why.DAMAGED, "mail: fields that contradict each other"
        elif fields.kind == b"multipart/encrypted":
            why = Why.ENCRYPTED, "mail: encrypted"
        elif fields.kind in _PARTIAL:
            why = Why.UNSUPPORTED, "mail: one part of a message in several"
        elif fields.kind in _SMIME and fields.smime not in (b"certs-only", b"signed-receipt"):
            is_open = fields.smime in (b"signed-data", b"compressed-data")
            why = (Why.UNSUPPORTED if is_open else Why.ENCRYPTED), "mail: S/MIME"
        elif fields.kind == _BINHEX or any(name in _FOREIGN for name in fields.encodings):
            why = Why.UNSUPPORTED, "mail: an encoding that is not known"
        if why is not None:
            yield Unlisted(self._next_name(fields.name), *why)
        if not fields.is_multipart:
            is_message = fields.kind.startswith(b"message/") and fields.kind not in _NO_MESSAGES
            yield from self._leaf(fields, is_message=is_message)
            return
        if len(self._levels) >= MAX_DEPTH:
            yield Unlisted(
                self._next_name(b""), Why.LIMIT, "mail: too many multiparts in each other"
            )
            yield from self._leaf(fields, is_message=False)
            return
        if any(encoding in (_BASE64, _QUOTED) for encoding in fields.encodings):
            yield Unlisted(self._next_name(b""), Why.DAMAGED, "mail: a multipart that is encoded")
        level = _Level(fields)
        self._levels.append(level)
        self._stack.append(fields.boundaries)
        yield from self._aside(level)

    def _aside(self, level: _Level) -> Iterator[list[Member] | Unlisted]:
        """Skip the text before the first and after the last part; files uuencoded in it count."""
        finder = UuFinder()
        for piece in finder.watch(self._lines.body(self._stack)):
            level.is_blank = level.is_blank and not piece.strip()
        yield from self._uu_files(finder.files)

    def _leaf(self, fields: Fields, *, is_message: bool) -> Iterator[list[Member] | Unlisted]:
        """Yield one part that is no multipart, and the files uuencoded in it."""
        body = self._lines.body(self._stack)
        encoding = fields.encodings[0] if fields.encodings else b""
        finder = UuFinder()
        kept = _Kept()
        pieces: Iterable[bytes] = body
        if encoding == _BASE64:
            pieces = base64(body)
        else:
            pieces = finder.watch(quoted_printable(body) if encoding == _QUOTED else body)
            if fields.name:
                pieces = kept.watch(pieces)
        name = self._next_name(fields.name)
        once = iter(pieces)
        chunks = partial(iter, once)
        kind = MESSAGE if is_message else ""
        position = self._lines.position
        yield [Member(name, None, is_exact=False, chunks=chunks, offset=position, kind=kind)]
        try:
            for _ in once:  # what was not asked for
                pass
        except GoesOnError as error:
            yield Unlisted(name, error.why, error.detail)
        for _ in body:  # behind an error
            pass
        for text in kept.other_texts():
            yield [_held(name, text)]
        yield from self._uu_files(finder.files)

    def _uu_files(self, files: list[UuFile]) -> Iterator[list[Member] | Unlisted]:
        for file in files:
            if file.error is not None:
                yield Unlisted(file.name, file.error.why, file.error.detail)
            else:
                yield [_held(file.name, file.data)]


class _Kept:
    """Keeps the bytes that pass by, up to a limit."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._left = MAX_TEXT_BYTES

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces as they are."""
        for piece in pieces:
            self._left -= len(piece)
            if self._left >= 0:
                self._pieces.append(piece)
            else:
                self._pieces.clear()
            yield piece

    def other_texts(self) -> list[bytes]:
        """Return the text with the line ends of other systems, where it has any."""
        text = b"".join(self._pieces)
        plain = text.replace(b"\r\n", b"\n")
        return [other for other in (plain, plain.replace(b"\n", b"\r\n")) if other != text]


def _held(name: bytes, content: bytes) -> Member:
    chunks = partial(in_pieces, content)
    return Member(name, len(content), is_exact=True, chunks=chunks)
