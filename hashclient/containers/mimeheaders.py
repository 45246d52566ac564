"""Header fields of a mail, or of a part of one: read as the most generous client reads them.

Where clients disagree (two boundaries, two encodings) all readings are returned, and the caller
reports the dispute.
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header
from urllib.parse import unquote_to_bytes

import msgspec

from hashclient.containers.mailmarks import FIELD, MailMarks

#: Bytes of a field that are kept; the fields that matter are shorter.
MAX_FIELD_BYTES = 64 << 10
MAX_BOUNDARIES = 16
MAX_REPEATED = 16
_MAX_NAME_BYTES = 1024

_KEPT = frozenset((b"content-type", b"content-transfer-encoding", b"content-disposition"))

#: The value of a parameter, behind its name: its number and mark of encoding, quoted or bare.
_VALUE = rb"""(?:\*([0-9]{1,3}))?(\*)?\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))"""
_BOUNDARY = re.compile(rb"boundary" + _VALUE, re.IGNORECASE | re.DOTALL)
_NAME = re.compile(rb"\b(?:file)?name" + _VALUE, re.IGNORECASE | re.DOTALL)
_TYPE = re.compile(rb"""\s*"?([!#-.0-9:<-~]+)\s*/\s*([!#-.0-9:<-~]+)""")
_SMIME_TYPE = re.compile(rb"""smime-type\s*=\s*"?([a-z-]+)""", re.IGNORECASE)
_WORD = re.compile(rb"[a-z0-9][a-z0-9-]*")
_COMMENT = re.compile(rb"\([^()]*\)")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Fields(msgspec.Struct, frozen=True):
    """The statements of a header about the body after it.

    `kind` is the media type, in lower case, empty where none is given; `encodings` are all that are
    named; `is_disputed` says that fields contradict each other.
    """

    kind: bytes
    boundaries: frozenset[bytes]
    encodings: tuple[bytes, ...]
    name: bytes
    smime: bytes
    is_disputed: bool

    @property
    def is_multipart(self) -> bool:
        """Whether a client may look for parts: also with a boundary but without a readable type."""
        return self.kind.startswith(b"multipart/") or (not self.kind and bool(self.boundaries))


class Collector:
    """Takes the lines of one header; keeps the fields that matter, and counts those of mail."""

    def __init__(self) -> None:
        """No line was seen."""
        self._fields: dict[bytes, list[bytearray]] = {name: [] for name in _KEPT}
        self._current: bytearray | None = None
        self._marks = MailMarks()
        #: Whether it holds lines that end the header for some clients only.
        self.is_broken = False

    @property
    def is_mail(self) -> bool:
        """Whether the fields are those of mail, and not of any text with colons."""
        return self._marks.is_mail

    def add(self, line: bytes) -> bool:
        """Take a line; return False where it neither is a field nor continues one."""
        if line[:1] in (b" ", b"\t"):
            if self._current is not None and len(self._current) < MAX_FIELD_BYTES:
                self._current += b" " + line.strip()
            return True
        found = FIELD.match(line)
        if found is None:
            self._current = None
            return False
        name = found[1].lower()
        self._current = None
        self._marks.add(name)
        if name in _KEPT:
            self._current = bytearray(line[found.end() :].strip()[:MAX_FIELD_BYTES])
            kept = self._fields[name]
            # Some clients take the first, some the last.
            del kept[MAX_REPEATED:]
            kept.append(self._current)
        return True

    def boundaries(self) -> frozenset[bytes]:
        """Return the boundaries named so far: they end a header whose last line is missing."""
        return _boundaries(self._values(b"content-type"))

    def _values(self, name: bytes) -> list[bytes]:
        return [bytes(value) for value in self._fields[name]]

    def fields(self) -> Fields:
        """Return the statements of the fields."""
        types = self._values(b"content-type")
        kinds = [_kind(value) for value in types]
        encodings = tuple(dict.fromkeys(map(_encoding, self._values(b"content-transfer-encoding"))))
        # Clients that take the first of two find other parts than clients that take the last.
        kind = next((kind for kind in kinds if kind.startswith(b"multipart/")), b"")
        smime = next((m[1].lower() for value in types if (m := _SMIME_TYPE.search(value))), b"")
        return Fields(
            kind=kind or (kinds[0] if kinds else b""),
            boundaries=_boundaries(types),
            encodings=encodings,
            name=_name([*self._values(b"content-disposition"), *types]),
            smime=smime,
            is_disputed=self.is_broken
            or len(set(kinds)) > 1
            or len(encodings) > 1
            or len(types) > MAX_REPEATED,
        )


def is_kept(line: bytes) -> bool:
    """Return whether a line is a field that says what the body is."""
    found = FIELD.match(line)
    return found is not None and found[1].lower() in _KEPT


def _kind(value: bytes) -> bytes:
    found = _TYPE.match(_COMMENT.sub(b"", value))
    return b"" if found is None else found[1].lower() + b"/" + found[2].lower()


def _encoding(value: bytes) -> bytes:
    found = _WORD.search(_COMMENT.sub(b"", value).lower())
    return b"" if found is None else found[0]


def _parameters(pattern: re.Pattern[bytes], value: bytes) -> tuple[list[bytes], bytes]:
    """Return all values of a parameter, and what its numbered pieces make together."""
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
                whole.append(quoted)  # some take backslashes as they stand
    return whole, b"".join(pieces[number] for number in sorted(pieces))


def _boundaries(types: list[bytes]) -> frozenset[bytes]:
    found: dict[bytes, None] = {}
    for value in types:
        for text in dict.fromkeys((value, _COMMENT.sub(b"", value))):
            whole, pieces = _parameters(_BOUNDARY, text)
            for boundary in (*whole, pieces):
                found[boundary.rstrip()] = None
    found.pop(b"", None)
    return frozenset(list(found)[:MAX_BOUNDARIES])


def _name(values: list[bytes]) -> bytes:
    for value in values:
        whole, pieces = _parameters(_NAME, value)
        name = pieces or (whole[0] if whole else b"")
        if name:
            return _decoded(name[:_MAX_NAME_BYTES])
    return b""


def _decoded(name: bytes) -> bytes:
    """Return a name without the encoding of words, which many programs use in parameters, too."""
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
