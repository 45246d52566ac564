"""Parses header fields of a mail or of a part as generously as the most generous mail client.

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

#: The most bytes of the fields that are kept for one header; legitimate fields are shorter.
MAX_FIELD_BYTES = 1 << 20
#: How often the boundaries that the header has named so far are computed again, in one header.
_MAX_LOOKS = 20
MAX_BOUNDARIES = 256
#: The longest line in a body that may be a boundary, in bytes.
MAX_BOUNDARY_LINE_BYTES = 8 << 10
#: The most fields of one name with different values.
MAX_REPEATED = 16
#: The most bytes of a header that are kept because they may begin the body.
MAX_REST_BYTES = 64 << 10
#: The encodings that are decoded here; uuencode is found in the text of a part instead.
BASE64, QUOTED = b"base64", b"quoted-printable"
_MAX_NAME_BYTES = 1024

_KEPT = frozenset((b"content-type", b"content-transfer-encoding", b"content-disposition"))

#: Matches the value of a parameter after its name: the number of its piece, a star if it is
#: encoded, and the quoted or bare text.
_VALUE = rb"""(?:\*([0-9]{1,3}))?(\*)?\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))"""
_BOUNDARY = re.compile(rb"boundary" + _VALUE, re.IGNORECASE | re.DOTALL)
_NAME = re.compile(rb"\b(?:file)?name" + _VALUE, re.IGNORECASE | re.DOTALL)
_TYPE = re.compile(rb"""\s*"?([!#-.0-9:<-~]+)\s*/\s*([!#-.0-9:<-~]+)""")
#: Matches a multipart type whose parameters all mail clients parse alike. A semicolon after the
#: last parameter does not match, because some clients count it as a part of the boundary.
_PLAIN_MULTIPART = re.compile(
    rb"""multipart/[\w.+-]+(?:\s*;\s*[\w.*-]+=(?:"[^"\\\n]*"|[^\s;"'()]+))*""", re.IGNORECASE
)
#: Matches the name of a kept field that is followed by another character than a colon, because some
#: programs compare only the name.
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
    """What a header says about the body that follows it.

    `kind` is the media type in lower case, or empty if the header has no type; `others` are further
    types. `encodings` are all encodings that a client may use; at least one. Some clients begin the
    body within the header; `rest` is the part of the header with which such clients begin the body.
    If `has_end` is false, some clients begin the body after the next empty line. `is_disputed`
    means that the header exceeds a limit, so that some of its fields were not kept.
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
        """All media types that the header may mean."""
        return (self.kind, *self.others)

    @property
    def ways(self) -> tuple[bytes, ...]:
        """The encodings that clients decode.

        The empty encoding means that the bytes stay unchanged.
        """
        known = (each if each in (BASE64, QUOTED) else b"" for each in self.encodings)
        return tuple(dict.fromkeys(known))

    def within(self, outer: Fields) -> Fields:
        """Return the fields of a part of `outer`.

        If the part has no encoding, the encoding of `outer` may apply to the part.
        """
        if self.encodings != (b"",) or not any(outer.ways):
            return self
        return msgspec.structs.replace(self, encodings=(b"", *outer.ways))

    @property
    def is_text(self) -> bool:
        """Whether a client may take the body for text, and write it with its own line ends."""
        return any(not kind or kind.startswith(b"text/") for kind in self.kinds)

    @property
    def no_multiparts(self) -> list[bytes]:
        """The media types by which the body is a single part, if any."""
        return [kind for kind in self.kinds if not kind.startswith(b"multipart/")]

    @property
    def is_multipart(self) -> bool:
        """Whether a client may search for parts; a boundary without a readable type suffices."""
        return self.kind.startswith(b"multipart/") or (not self.kind and bool(self.boundaries))


NO_FIELDS = Fields(
    b"", (), frozenset(), (b"",), b"", b"", b"", has_end=True, is_whole=False, is_disputed=False
)


class Collector:
    """Collects the lines of one header.

    The collector keeps fields that describe the body, and counts fields of mail.
    """

    def __init__(self, *, is_first: bool = True) -> None:
        """Start without a line; with `is_first`, no text precedes the header."""
        self._is_first = is_first
        self._fields: dict[bytes, list[bytearray]] = {name: [] for name in _KEPT}
        self._current: bytearray | None = None
        self._marks = MailMarks()
        #: `_boundaries`: the boundaries named so far; `_is_changed`: whether they must be computed
        #: again; `_looks`: how often they may be computed again.
        self._boundaries = frozenset[bytes]()
        self._is_changed, self._looks = False, _MAX_LOOKS
        self._left = MAX_FIELD_BYTES
        #: Whether the header exceeds a limit.
        self._is_cut = False
        self._rest = bytearray()
        #: Whether a line that is no field was skipped; the lines after this line are added to
        #: `_rest`, too.
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
                # Some clients use the first field of a name, and other clients the last.
                kept[:] = list(map(bytearray, dict.fromkeys(map(bytes, kept))))
                self._is_cut |= len(kept) > MAX_REPEATED
                del kept[MAX_REPEATED:]
            kept.append(self._current)
        return is_field

    def _has_room(self, line: bytes) -> bool:
        """Return whether a line can be kept.

        If a limit excludes the line, clients may read the header differently.
        """
        self._left -= len(line)
        self._is_cut |= self._left < 0
        self._is_changed = True
        return not self._is_cut

    def passed(self, line: bytes) -> None:
        """Add a line that is no field.

        Some clients begin the body at a line that is no field, and others ignore the line.
        """
        self.has_passed = True
        if len(self._rest) < MAX_REST_BYTES:
            self._rest += line
        else:
            self._is_cut = True

    def boundaries(self) -> frozenset[bytes]:
        """Return the boundaries named so far, because a boundary also ends a header."""
        if self._is_changed and self._looks:
            self._boundaries = frozenset(_boundaries(self._values(b"content-type")))
            self._is_changed, self._looks = False, self._looks - 1
        self._is_cut |= self._is_changed
        return self._boundaries

    def _values(self, name: bytes) -> list[bytes]:
        return [bytes(value) for value in self._fields[name]]

    def fields(self) -> Fields:
        """Return what the header says about the body."""
        types = self._values(b"content-type")
        # Clients that use the first of two types find other parts than clients that use the last.
        # If the body begins within the header, a client may miss the type.
        more = [b""] if self._rest and types else []
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
    """Return a field's media type, and the empty type if some clients find no parts by it."""
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
    """Return the encodings that a client may find in a field's value; the first is usual."""
    text = value.lower()
    found = _WORD.search(_without_comments(text))
    first = b"" if found is None else found[0]
    others = [known for known in (BASE64, QUOTED) if known != first and known in text]
    # Some clients ignore an encoding if other text follows it.
    is_plain = first not in (BASE64, QUOTED) or text.strip(b"\"'; \t\r\n") == first
    return [first, *others] if is_plain else [first, *others, b""]


def _parameters(pattern: re.Pattern[bytes], value: bytes) -> tuple[list[bytes], bytes]:
    """Return all values of a parameter, and the value that its numbered pieces have together."""
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

    Many programs use encoded words in parameters.
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
