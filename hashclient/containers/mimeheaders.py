"""Parses header fields of a mail or of a part; accepts every form that any mail client accepts.

If mail clients disagree (for example about two boundaries, two encodings or two types), all
readings are returned.
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header
from urllib.parse import unquote_to_bytes

import msgspec

from hashclient.containers.mailmarks import FIELD, MailMarks

#: The most bytes of the kept fields of one header; fields of usual mails are shorter.
MAX_FIELD_BYTES = 1 << 20
#: How often the boundaries may be computed again while one header is read.
_MAX_LOOKS = 20
MAX_BOUNDARIES = 256
#: The longest line in a body that may be a boundary, in bytes.
MAX_BOUNDARY_LINE_BYTES = 8 << 10
#: The most fields of the same name and with different values that are kept.
MAX_REPEATED = 16
#: The most bytes of a header that are kept because some mail clients read them as the body.
MAX_REST_BYTES = 64 << 10
#: The encodings of parts that are decoded; uuencoded files are found in the text of a part.
BASE64, QUOTED = b"base64", b"quoted-printable"
_MAX_NAME_BYTES = 1024

_KEPT = frozenset((b"content-type", b"content-transfer-encoding", b"content-disposition"))

#: Matches what follows the name of a parameter (RFC 2231): the number of the piece, a star if the
#: value is encoded, and the value with or without quotes.
_VALUE = rb"""(?:\*([0-9]{1,3}))?(\*)?\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))"""
_BOUNDARY = re.compile(rb"boundary" + _VALUE, re.IGNORECASE | re.DOTALL)
_NAME = re.compile(rb"\b(?:file)?name" + _VALUE, re.IGNORECASE | re.DOTALL)
_TYPE = re.compile(rb"""\s*"?([!#-.0-9:<-~]+)\s*/\s*([!#-.0-9:<-~]+)""")
#: Matches a multipart type with parameters that all mail clients parse in the same way. A semicolon
#: after the last parameter does not match, because some mail clients take it for a part of the
#: boundary.
_PLAIN_MULTIPART = re.compile(
    rb"""multipart/[\w.+-]+(?:\s*;\s*[\w.*-]+=(?:"[^"\\\n]*"|[^\s;"'()]+))*""", re.IGNORECASE
)
#: Matches the name of a field in `_KEPT` without a colon after the name, because some programs
#: compare only the name.
_NO_COLON = re.compile(
    rb"(content-(?:type|transfer-encoding|disposition))[^a-z0-9-]", re.IGNORECASE
)
_SMIME_TYPE = re.compile(rb"""smime-type\s*=\s*"?([a-z-]+)""", re.IGNORECASE)
_WORD = re.compile(rb"[a-z0-9][a-z0-9-]*")
_COMMENT = re.compile(rb"\([^()]*\)")
_MAX_COMMENTS = 50  # how deeply comments may be nested
_FOLD = re.compile(rb"\n[ \t]+")
_IN_PARTS = re.compile(rb"(number|total)\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Fields(msgspec.Struct, frozen=True):
    """The fields of a header that describe the body after the header.

    `kind`: the media type in lower case, or empty if the header has no type. `others`: further
    types, if mail clients may choose another one. `encodings`: the encodings that mail clients may
    use; at least one. `rest`: the lines of the header that some mail clients take for the beginning
    of the body. `has_end`: false if some mail clients begin the body only after the next empty
    line. `is_disputed`: whether some fields were not kept because the header exceeds a limit.
    """

    kind: bytes
    others: tuple[bytes, ...]
    boundaries: frozenset[bytes]
    encodings: tuple[bytes, ...]
    name: bytes
    smime: bytes
    rest: bytes
    has_end: bool
    is_whole: bool
    is_disputed: bool

    @property
    def kinds(self) -> tuple[bytes, ...]:
        """All media types that mail clients may read in the header."""
        return (self.kind, *self.others)

    @property
    def ways(self) -> tuple[bytes, ...]:
        """The encodings in which mail clients may decode the body.

        An empty encoding means that the bytes are not decoded.
        """
        known = (each if each in (BASE64, QUOTED) else b"" for each in self.encodings)
        return tuple(dict.fromkeys(known))

    def within(self, outer: Fields) -> Fields:
        """Return the fields of a part that is within the multipart `outer`.

        If the part has no encoding, the encoding of `outer` may apply to the part.
        """
        if self.encodings != (b"",) or not any(outer.ways):
            return self
        return msgspec.structs.replace(self, encodings=(b"", *outer.ways))

    @property
    def is_text(self) -> bool:
        """Whether a mail client may take the body for text, and save it with other line ends."""
        return any(not kind or kind.startswith(b"text/") for kind in self.kinds)

    @property
    def no_multiparts(self) -> list[bytes]:
        """The media types in the header that are no multipart."""
        return [kind for kind in self.kinds if not kind.startswith(b"multipart/")]

    @property
    def is_multipart(self) -> bool:
        """Whether a mail client may search for parts; a boundary without a type suffices."""
        return self.kind.startswith(b"multipart/") or (not self.kind and bool(self.boundaries))


class Collector:
    """Collects the lines of one header.

    The collector keeps fields that describe the body, and counts fields that usual mails have.
    """

    def __init__(self, *, is_first: bool = True) -> None:
        """Start without a line; with `is_first`, no text precedes the header."""
        self._is_first = is_first
        self._fields: dict[bytes, list[bytearray]] = {name: [] for name in _KEPT}
        self._current: bytearray | None = None
        self._marks = MailMarks()
        #: `_boundaries`: the boundaries in the lines so far; `_is_changed`: whether they must be
        #: computed again; `_looks`: how often they may still be computed again.
        self._boundaries = frozenset[bytes]()
        self._is_changed, self._looks = False, _MAX_LOOKS
        self._left = MAX_FIELD_BYTES
        #: Whether the header exceeds a limit.
        self._is_cut = False
        self._rest = bytearray()
        #: Whether a line was skipped because it is no field; all lines after such a line are also
        #: added to `_rest`.
        self.has_passed = False
        #: Whether an empty line ends the header.
        self.has_end = True
        #: Whether the header has any field.
        self.has_fields = False

    @property
    def is_mail(self) -> bool:
        """Whether the fields show a mail; other text with colons has other fields."""
        return self._marks.is_mail

    def add(self, line: bytes) -> bool:
        """Add a line; return False if the line neither is a field nor continues a field."""
        is_first, self._is_first = self._is_first, False
        if line[:1] in (b" ", b"\t"):
            if self._current is not None and self._has_room(line):
                self._current += b"\n" + line.rstrip()
            return True
        self._current = None
        is_field = (found := FIELD.match(line)) is not None
        if found is None and (found := _NO_COLON.match(line)) is None:
            return False
        name = found[1].lower()
        if is_field:
            self._marks.add(name, is_first=is_first)
            self.has_fields = True
        if name in _KEPT and self._has_room(line):
            self._current = bytearray(line[found.end() :].strip())
            kept = self._fields[name]
            if len(kept) > MAX_REPEATED:
                # All values are kept, because some mail clients use the first field of a name, and
                # others the last field.
                kept[:] = list(map(bytearray, dict.fromkeys(map(bytes, kept))))
                self._is_cut |= len(kept) > MAX_REPEATED
                del kept[MAX_REPEATED:]
            kept.append(self._current)
        return is_field

    def has_marks_in(self, text: bytes) -> bool:
        """Return whether the header is a mail with the lines of `text`, which are not added.

        Such a header is disputed, because lines that are no fields are not noticed in it.
        """
        self._marks.add_lines(text)
        self._is_cut |= self.is_mail
        return self.is_mail

    def _has_room(self, line: bytes) -> bool:
        """Return whether a line can be kept.

        If a line is not kept, the header is marked as disputed, because a mail client may use the
        line.
        """
        self._left -= len(line)
        self._is_cut |= self._left < 0
        self._is_changed = True
        return not self._is_cut

    def passed(self, line: bytes) -> None:
        """Add a line that is no field.

        Some mail clients begin the body at such a line, and other mail clients ignore the line.
        """
        self.has_passed = True
        if len(self._rest) < MAX_REST_BYTES:
            self._rest += line
        else:
            self._is_cut = True

    def boundaries(self) -> frozenset[bytes]:
        """Return the boundaries in the lines so far; a boundary line also ends the header."""
        if self._is_changed and self._looks:
            self._boundaries = frozenset(_boundaries(self._values(b"content-type")))
            self._is_changed, self._looks = False, self._looks - 1
        self._is_cut |= self._is_changed
        return self._boundaries

    def _values(self, name: bytes) -> list[bytes]:
        return [bytes(value) for value in self._fields[name]]

    def fields(self) -> Fields:
        """Return the fields that describe the body."""
        types = self._values(b"content-type")
        # If the header has several types, some mail clients use the first type, and others the last
        # type. If a mail client begins the body within the header, it may not see the type.
        more = [b""] if self._rest else []
        kinds = sorted(
            dict.fromkeys([*(kind for value in types for kind in _kinds(value)), *more]),
            key=lambda kind: not kind.startswith(b"multipart/"),
        )
        encodings = self._values(b"content-transfer-encoding")
        meant = dict.fromkeys(each for value in encodings for each in _encodings(value))
        smime = next((m[1].lower() for value in types if (m := _SMIME_TYPE.search(value))), b"")
        boundaries = _boundaries(types)
        longest = max(map(len, boundaries), default=0) + len(b"----\r\n")
        numbers = [(m[1].lower(), int(m[2])) for value in types for m in _IN_PARTS.finditer(value)]
        return Fields(
            kind=kinds[0] if kinds else b"",
            others=tuple(kinds[1:]),
            boundaries=frozenset(list(boundaries)[:MAX_BOUNDARIES]),
            encodings=tuple(meant) or (b"",),
            name=_name([*self._values(b"content-disposition"), *types]),
            smime=smime,
            rest=bytes(self._rest),
            has_end=self.has_end,
            is_whole=sorted(set(numbers)) == [(b"number", 1), (b"total", 1)],
            is_disputed=(
                self._is_cut
                or len(boundaries) > MAX_BOUNDARIES
                or longest > MAX_BOUNDARY_LINE_BYTES
            ),
        )


def is_kept(line: bytes) -> bool:
    """Return whether a line is a field that describes the body."""
    found = FIELD.match(line)
    return found is not None and found[1].lower() in _KEPT


def _kinds(value: bytes) -> list[bytes]:
    """Return a field's media type, and also an empty type if some mail clients ignore the field."""
    found = _TYPE.match(_without_comments(value))
    kind = b"" if found is None else found[1].lower() + b"/" + found[2].lower()
    is_plain = not kind.startswith(b"multipart/") or _PLAIN_MULTIPART.fullmatch(value)
    return [kind] if is_plain else [kind, b""]


def _without_comments(value: bytes) -> bytes:
    count, most = 1, _MAX_COMMENTS
    while count and most:
        value, count = _COMMENT.subn(b"", value)
        most -= 1
    return value


def _encodings(value: bytes) -> list[bytes]:
    """Return the encodings that mail clients may read in a field; most read the first of them."""
    text = value.lower()
    found = _WORD.search(_without_comments(text))
    first = b"" if found is None else found[0]
    others = [known for known in (BASE64, QUOTED) if known != first and known in text]
    # Some mail clients ignore an encoding if other text follows in the same field.
    is_plain = first not in (BASE64, QUOTED) or text.strip(b"\"'; \t\r\n") == first
    return [first, *others] if is_plain else [first, *others, b""]


def _parameters(pattern: re.Pattern[bytes], value: bytes) -> tuple[list[bytes], bytes]:
    """Return all values of a parameter, and the concatenation of its numbered pieces."""
    whole: list[bytes] = []
    pieces: dict[int, bytes] = {}
    for found in pattern.finditer(value):
        number, is_encoded, quoted, bare = found.groups()
        text = bare if quoted is None else _ESCAPED.sub(rb"\1", quoted)
        if is_encoded:
            if not number or number == b"0":
                text = text.split(b"'", 2)[-1]
            text = unquote_to_bytes(text)
        if number:
            pieces.setdefault(int(number), text)
        else:
            whole.append(text)
            if quoted is not None and quoted != text:
                whole.append(quoted)  # some programs keep backslashes
    return whole, b"".join(pieces[number] for number in sorted(pieces))


def _boundaries(types: list[bytes]) -> dict[bytes, None]:
    found: dict[bytes, None] = {}
    for value in types:
        folded = [value.replace(b"\n", b""), _FOLD.sub(b" ", value), _FOLD.sub(b"", value)]
        for text in dict.fromkeys([*folded, *map(_without_comments, folded)]):
            whole, pieces = _parameters(_BOUNDARY, text)
            for boundary in (*whole, pieces):
                found[boundary.rstrip()] = None
    found.pop(b"", None)
    return found


def _name(values: list[bytes]) -> bytes:
    for value in values:
        whole, pieces = _parameters(_NAME, _FOLD.sub(b" ", value))
        name = pieces or (whole[0] if whole else b"")
        if name:
            return _decoded(name[:_MAX_NAME_BYTES])
    return b""


def _decoded(name: bytes) -> bytes:
    """Return a name with its encoded words decoded.

    Many programs write encoded words (`=?…?=`) in parameters.
    """
    if b"=?" not in name:
        return name
    try:
        parts = decode_header(name.decode("latin-1"))
        text = b""
        for part, charset in parts:
            if isinstance(part, str):
                part = part.encode("latin-1", "replace")
            elif charset is not None:
                part = part.decode(charset, "replace").encode()
            text += part
    except (HeaderParseError, LookupError, ValueError):
        return name
    return text
