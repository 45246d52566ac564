"""The expander of mail: members are the decoded parts, and files that are encoded in a text.

The mail is read once, forwards, in blocks. If mail clients decode a part in different ways, the
bytes of the part are kept, up to a limit, and are decoded in each way; each result is a member.
Invalid MIME is read as mail clients read it. If it is unclear how mail clients read a part, the
part is reported as unread. A text is listed with its own line ends and with the line ends of other
systems, because a mail client writes the line ends of the system on which it runs. A message within
a message, and a `winmail.dat`, are containers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

import msgspec

from hashclient.containers.forward import in_pieces
from hashclient.containers.interface import HEAD_BYTES, NEVER, Data, Member, Stream, Unlisted, Why
from hashclient.containers.mailmarks import BYTE_ORDER_MARK
from hashclient.containers.mailreadings import (
    MAX_AGAIN_BYTES,
    MAX_TEXT_BYTES,
    Decoding,
    Kept,
    Stored,
    Way,
    first_way,
    other_texts,
    other_ways,
)
from hashclient.containers.mimebinary import FileFinder
from hashclient.containers.mimedecode import UuFile
from hashclient.containers.mimeheaders import BASE64, QUOTED, Collector, Fields
from hashclient.containers.mimelines import Boundaries, Hit, Lines

#: The kind of a member that the container declares as a message; the first bytes of such a member
#: are not examined.
MESSAGE = "message"
#: How deeply multiparts may be nested; a message within a message counts as a nested container
#: instead.
MAX_DEPTH = 100
#: If no header field of mail is in this number of first bytes, the rest of the header is only
#: searched for these fields.
_MAX_UNTOLD_BYTES = 1 << 20

#: Values of `Content-Transfer-Encoding` of parts that may contain an encoded file.
_FOREIGN = frozenset(
    (b"x-yenc", b"x-yencode", b"mac-binhex40", b"binhex", b"binhex40", b"x-binhex")
)
#: Media types `message/…` that contain no message; some mail clients take all other types
#: `message/…` for messages.
_NO_MESSAGES = frozenset(
    (
        b"message/delivery-status",
        b"message/global-delivery-status",
        b"message/disposition-notification",
        b"message/feedback-report",
        b"message/external-body",
    )
)
_KNOWN = frozenset((QUOTED, b"7bit", b"8bit", b"binary"))
_TWO_WAYS = "mail: clients differ about a part of this size"
_PARTIAL = b"message/partial"
_SMIME = frozenset((b"application/pkcs7-mime", b"application/x-pkcs7-mime"))
_NO_SMIME = frozenset((b"certs-only", b"signed-receipt"))
_BINHEX = b"application/mac-binhex40"


class Message:
    """The expander of messages that a mailbox or an outer message declares."""

    name = MESSAGE
    seeks = False

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the parts one by one; the caller reads each part before it takes the next part."""
        return _Walk(Lines(data)).members(None)


class Eml(Message):
    """The expander of a mail in a file of its own."""

    name = "eml"

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the parts one by one; yield no part if the header is not the header of a mail."""
        return _Walk(Lines(data)).members(_MAX_UNTOLD_BYTES)


class _Level:
    """A multipart that is being read; `text`: the text before the first part of the multipart."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.text = Kept()
        self.is_met = self.is_doubtful = False


class _Walk:
    """Reads one mail, or reads a part of a mail again."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._levels: list[_Level] = []
        self._stack: list[Boundaries] = []
        self._number = 0
        self._is_inner = False

    def members(self, most: int | None) -> Iterator[list[Member] | Unlisted]:
        """Yield all parts.

        With `most`, parts are only yielded if the text begins with the header of a mail; after
        `most` bytes, the header is only searched for fields of mail.
        """
        self._is_inner = most is None
        lines = self._lines
        start = lines.peek(HEAD_BYTES)
        if start.startswith(BYTE_ORDER_MARK):
            start = start.removeprefix(BYTE_ORDER_MARK)
            lines.skip(len(BYTE_ORDER_MARK))
        whole = lines.peek(MAX_TEXT_BYTES + 1) if start[:1] in (b"\r", b"\n") else b""
        lines.skip(len(start) - len(start.lstrip(b"\r\n")))
        collector = lines.header(self._stack, most)
        while most is not None and not collector.is_mail:
            # Some programs also find a header that follows other text, so the search continues
            # behind each text that is no header. The search ends after `HEAD_BYTES`, or if a very
            # long line prevents any progress.
            begin = lines.position
            if begin > HEAD_BYTES or not lines.peek(1):
                return
            collector = lines.header(self._stack, most)
            if lines.position == begin:
                return
        yield from self._entity(collector.fields())
        yield from self.parts()
        if 0 < len(whole) <= MAX_TEXT_BYTES:
            # If the first line of a mail is empty, some programs take all other lines for the text
            # of the mail. Therefore this text is listed as well. The text is not opened as a mail
            # again, because the number of members would double with each nested mail.
            name, text = self._next_name(b""), whole.removeprefix(b"\r").removeprefix(b"\n")
            yield from ([_held(name, each, NEVER)] for each in (text, *other_texts([text])))

    def parts(self) -> Iterator[list[Member] | Unlisted]:
        """Yield all parts that follow the boundary in `_lines.hit`."""
        lines = self._lines
        while lines.hit is not None:
            hit = lines.hit
            for number in reversed(range(hit.level + 1, len(self._levels))):
                yield from self._close(number)
            level = self._levels[hit.level]
            if not level.is_met:
                yield from self._before(level, is_part=not hit.is_last)
            level.is_met, level.text = True, Kept()
            if hit.is_last:
                # The boundary is kept in the stack, because a mail client may still look for it
                # after the last boundary line.
                yield from self._aside(level)
                continue
            fields = lines.header(self._stack).fields().within(level.fields)
            is_digest = b"multipart/digest" in level.fields.kinds
            yield from self._entity(fields, kind=MESSAGE if is_digest and not fields.kind else "")
        for number in reversed(range(len(self._levels))):
            yield from self._close(number)

    def parts_behind_text(self) -> Iterator[list[Member] | Unlisted]:
        """Yield all parts that follow the next boundary."""
        for _ in self._lines.body(self._stack, is_aside=True):
            pass
        yield from self.parts()

    def _close(self, number: int) -> Iterator[list[Member] | Unlisted]:
        level = self._levels.pop()
        self._stack.pop()
        if not level.is_met:
            yield from self._before(level, is_part=False)

    def _before(self, level: _Level, *, is_part: bool) -> Iterator[list[Member] | Unlisted]:
        """Yield the text before the first boundary in the ways in which some mail clients read it.

        Some mail clients find parts in the text before the first boundary.

        If no part follows the first boundary, the multipart consists only of this text.
        """
        if not is_part:
            yield from self._as_one(level)
        elif level.text.is_too_much:
            yield Unlisted(self._next_name(level.fields.name), Why.LIMIT, _TWO_WAYS)
        if level.is_doubtful or level.text.has_parts:
            yield from read_again(self._again(level.text).parts_behind_text())

    def _as_one(self, level: _Level) -> Iterator[list[Member] | Unlisted]:
        """Yield a multipart as a single text, because some mail clients find no parts in it."""
        name = self._next_name(level.fields.name)
        is_lost = level.text.has_parts and not (level.is_doubtful or self._lines.is_behind_text)
        if level.text.is_too_much or is_lost:
            yield Unlisted(name, Why.DAMAGED, "mail: a multipart without its boundary")
        # If no part begins at a boundary, the line end before the boundary belongs to the text.
        texts = partial(other_texts, is_cut=self._lines.hit is not None)
        for encoding in level.fields.ways:
            yield from self._read(name, level.text, encoding, texts)

    def _next_name(self, name: bytes) -> bytes:
        self._number += 1
        return name or b"part-%d" % self._number

    def _entity(self, fields: Fields, kind: str = "") -> Iterator[list[Member] | Unlisted]:
        """Yield the members in the body that follows a header, up to the next boundary."""
        why: tuple[Why, str] | None = None
        if fields.is_disputed:
            why = Why.LIMIT, "mail: too many fields, or too long ones"
        elif fields.kind == b"multipart/encrypted":
            why = Why.ENCRYPTED, "mail: encrypted"
        elif _PARTIAL in fields.kinds and not fields.is_whole:
            why = Why.UNSUPPORTED, "mail: one part of a message in several"
        elif any(each in _SMIME for each in fields.kinds) and fields.smime not in _NO_SMIME:
            is_open = fields.smime in (b"signed-data", b"compressed-data")
            why = (Why.UNSUPPORTED if is_open else Why.ENCRYPTED), "mail: S/MIME"
        elif fields.is_multipart and self._lines.is_reversed:
            why = Why.DAMAGED, "mail: a carriage return behind each line end"
        if why is not None:
            yield Unlisted(self._next_name(fields.name), *why)
        is_one = not fields.is_multipart or bool(fields.kind and fields.no_multiparts)
        if is_one and fields.is_multipart and not self._is_near_end():
            # The part is too long to be read in both ways, so it is read as most mail clients read
            # it.
            yield Unlisted(self._next_name(fields.name), Why.LIMIT, _TWO_WAYS)
            is_one = False
        if is_one:
            yield from self.leaf(fields, kind)
        elif len(self._levels) >= MAX_DEPTH:
            yield Unlisted(
                self._next_name(b""), Why.LIMIT, "mail: too many multiparts in each other"
            )
            yield from self.leaf(fields, kind)
        else:
            yield from self.multipart(fields)

    def _is_near_end(self) -> bool:
        """Return whether the rest of the mail is short enough to be kept and read again."""
        return not self._lines.has_more_than(MAX_AGAIN_BYTES)

    def multipart(self, fields: Fields) -> Iterator[list[Member] | Unlisted]:
        """Begin a multipart.

        Files that are encoded in the text before the first part of the multipart are yielded.
        """
        self._levels.append(_Level(fields))
        self._stack.append(Boundaries(fields.boundaries))
        yield from self._aside(self._levels[-1])

    def _aside(self, level: _Level) -> Iterator[list[Member] | Unlisted]:
        """Skip the text before or after the parts.

        The files that are encoded in the skipped text are yielded.
        """
        finder = FileFinder(is_old=self._lines.is_old)
        text = self._lines.body(self._stack, is_aside=True, is_whole=not level.is_met)
        for _ in finder.watch(text if level.is_met else level.text.watch(text)):
            pass
        level.is_doubtful = self._lines.is_doubtful
        yield from files_as_members(finder.files)

    def leaf(self, fields: Fields, kind: str = "") -> Iterator[list[Member] | Unlisted]:
        """Yield the members of a part that at least one mail client takes for a single part."""
        messages = [
            each.startswith(b"message/") and each not in _NO_MESSAGES
            for each in fields.no_multiparts
        ]
        if messages and all(messages):
            kind = MESSAGE
        lines = self._lines
        name = self._next_name(fields.name)
        first, *others = fields.ways
        kept, decoding, finder = Kept(), Decoding(first), FileFinder(is_old=lines.is_old)
        pieces = decoding.decode(kept.watch(lines.body(self._stack, guesses=not kind)))
        once = finder.watch(pieces) if first != BASE64 and not kind else pieces
        yield [Member(name, None, is_exact=False, chunks=partial(iter, once), kind=kind)]
        for _ in once:  # read the bytes of the part that the caller has not read
            pass
        yield from files_as_members(finder.files)
        is_foreign = _BINHEX in fields.kinds or any(each in _FOREIGN for each in fields.encodings)
        if is_foreign and not finder.files:
            yield Unlisted(name, Why.UNSUPPORTED, "mail: an encoding that is not known")
        is_doubtful = lines.is_doubtful
        # `is_cut`: whether the part may have lost the line end of its last line. At the end of a
        # mail, this is so if the part has no last line end, and in a message within another
        # message or in a mailbox, where the line end counts as a part of what follows. Some
        # programs keep the line end before a boundary if the part is an attachment.
        is_cut = self._is_inner or not kept.has_last_end
        is_cut = bool(fields.name) if lines.hit is not None else is_cut
        # `is_open`: whether the last line end may belong to no part of the mail. If a multipart has
        # no end, a boundary may be missing after the line end. The last line end of an inner
        # message may belong to the outer message or to the mailbox.
        is_open = lines.hit is None and (bool(self._stack) or self._is_inner)
        # If the next part begins at a field and not at a boundary, the boundary may be missing as
        # well.
        ends_at_field = lines.hit is not None and lines.hit.is_field
        is_open |= ends_at_field
        is_both = any(messages) and not all(messages)
        has_parts = fields.kind != b"" and fields.is_multipart and bool(fields.no_multiparts)
        if kept.is_too_much:
            is_read_again = bool(fields.rest or decoding.is_disputed or others or (kind and first))
            if is_doubtful or is_both or is_read_again or not fields.has_end:
                yield Unlisted(name, Why.LIMIT, _TWO_WAYS)
            return
        ways: list[tuple[Way, str]] = []
        if decoding.is_disputed:
            ways += [(way, kind) for way in other_ways(first)]
        if is_both or kind:
            # A message must not be encoded (RFC 2046, 5.2.1), so some programs ignore its encoding.
            encodings = dict.fromkeys([*fields.ways, b""])
            ways += [(first_way(each), MESSAGE) for each in encodings if is_both or each != first]
        if lines.may_end_with_return and not first:
            ways.append((lambda pieces: chain(pieces, (b"\r",)), kind))
        for way, which in ways:
            yield [_read_by(name, way, kept, which)]
        if not kind and (first != BASE64 or fields.is_text):
            decoded = first_way(first)(kept)
            is_text = first != BASE64
            for text in other_texts(
                decoded, is_cut=is_cut and is_text, is_open=is_open and is_text
            ):
                yield [_held(name, text)]
        texts = partial(other_texts, is_cut=is_cut, is_open=is_open)
        for encoding in others:
            yield from self._read(name, kept, encoding, texts)
        bodies = [kept.behind(fields.rest)] if fields.rest else []
        if not fields.has_end and (behind := kept.behind_empty_line()) is not None:
            bodies.append(behind)
        if ends_at_field:
            # Some mail clients compare only the beginning of a boundary line, and drop a line that
            # begins like a boundary.
            bodies.append(kept.without_last_line())
        for body in bodies:
            for encoding in fields.ways:
                yield from self._read(name, body, encoding, texts)
        is_known = BASE64 in fields.ways
        if is_known or fields.rest or not _KNOWN.issuperset(fields.encodings):
            encoded = kept.behind(fields.rest).base64_at_end(is_known=is_known)
            if encoded is not None:
                yield from self._read(name, encoded, BASE64, texts)
        if is_doubtful:
            again = self._again(kept)
            yield from read_again(again.leaf(msgspec.structs.replace(fields, rest=b""), kind))
            yield from read_again(again.parts())
        if has_parts:
            again = self._again(kept)
            yield from read_again(again.multipart(msgspec.structs.replace(fields, others=())))
            yield from read_again(again.parts())

    def _read(
        self,
        name: bytes,
        kept: Kept,
        encoding: bytes,
        texts: Callable[[Iterable[bytes]], list[bytes]],
    ) -> Iterator[list[Member] | Unlisted]:
        """Yield a decoded part, the files that are encoded in it, and its variants (`texts`)."""
        ways = [first_way(encoding), *other_ways(encoding)]
        for way in ways:
            yield [_read_by(name, way, kept)]
        if encoding != BASE64:
            finder = FileFinder(is_old=self._lines.is_old)
            for _ in finder.watch(ways[0](kept)):
                pass
            yield from read_again(files_as_members(finder.files))
            yield from ([_held(name, text)] for text in texts(ways[0](kept)))

    def _again(self, kept: Kept) -> _Walk:
        """Return a `_Walk` that reads a kept part and ends a part at each line like a boundary."""
        made = _Walk(Lines(Stored(kept), is_loose=True, is_old=self._lines.is_old))
        made._lines.hit = Hit(0, is_last=False, is_field=self._lines.is_at_field)
        made._stack = [boundaries.copy() for boundaries in self._stack] or [Boundaries()]
        made._levels = [_Level(Collector().fields()) for _ in made._stack]
        for level in made._levels:
            level.is_met = True
        return made


def files_as_members(files: list[UuFile]) -> Iterator[list[Member] | Unlisted]:
    """Yield the encoded files that were found in a text, as members."""
    for file in files:
        if file.error is not None:
            yield Unlisted(file.name, file.error.why, file.error.detail)
        else:
            chunks = partial(in_pieces, file.data)
            yield [Member(file.name, len(file.data), is_exact=True, chunks=chunks)]


def _read_by(name: bytes, way: Way, kept: Kept, kind: str = "") -> Member:
    return Member(name, None, is_exact=False, chunks=partial(way, kept), kind=kind, is_again=True)


def _held(name: bytes, content: bytes, kind: str = "") -> Member:
    chunks = partial(in_pieces, content)
    return Member(name, len(content), is_exact=True, chunks=chunks, kind=kind, is_again=True)


def read_again(
    found: Iterator[list[Member] | Unlisted],
) -> Iterator[list[Member] | Unlisted]:
    """Yield members again, flagged as alternative readings of bytes that were read before."""
    for one in found:
        if isinstance(one, Unlisted):
            yield one
        else:
            yield [msgspec.structs.replace(member, is_again=True) for member in one]
