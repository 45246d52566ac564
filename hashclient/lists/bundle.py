"""A bundle: a provider's published files in one file, for clients without a network.

A bundle is a plain tar archive (ustar, without extended headers or links). A bundle is never
unpacked: a member is read into memory by its name, and the caller verifies its bytes. This module
trusts the archive only for the positions of members. `docs/format.md` has the rules for bundles.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from typing import IO

import msgspec

from hashclient.core.errors import VerificationError
from hashclient.core.model import is_name
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt

FORMAT = "hashclient-bundle/1"
#: The name of the first member, which contains a `Mark`.
MARK_NAME = "hashclient-bundle.json"
MAX_MARK_BYTES = 1 << 20
#: The largest number of members; a repository of many lists has far fewer members.
MAX_MEMBERS = 100_000
#: The largest number of zero bytes after the end of the archive; `tar` writes far fewer zero bytes.
MAX_REST_BYTES = 1 << 20
_MAX_GENERATION = 2**53 - 1

_BLOCK = tarfile.BLOCKSIZE
#: The names that members may have: parts of letters, digits and `._-`, but not `.` or `..`.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
_HINT = "copy it again, or have it exported again; nothing was changed"


class Mark(msgspec.Struct, frozen=True):
    """The first member of a bundle: the format, and the generations that a client must have.

    `since`: for each list whose first changes are not in the bundle, the generation that a client
    must have before it can use the bundle. `Mark` has no signature, so it is used for messages
    only.
    """

    format: str = FORMAT
    since: Mapping[str, int] = {}


def write_bundle(stream: IO[bytes], mark: Mark, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a bundle of `members`, pairs of name and bytes; equal members make equal bundles.

    Raises:
        ValueError: the format does not allow the name of a member.
        OSError: the bundle cannot be written.
    """
    _write_member(stream, MARK_NAME, msgspec.json.encode(mark, order="sorted") + b"\n")
    for name, data in members:
        _write_member(stream, name, data)
    stream.write(bytes(2 * _BLOCK))


def _write_member(stream: IO[bytes], name: str, data: bytes) -> None:
    # a new `TarInfo` has no time, no owner and no other field that could differ between two exports
    info = tarfile.TarInfo(name)
    info.size = len(data)
    stream.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
    stream.write(data)
    stream.write(bytes(-len(data) % _BLOCK))


class Bundle:
    """The members of a bundle; several threads may read at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Find the members of the bundle in `stream`, which is a regular file and must stay open.

        Raises:
            VerificationError: the file is not a bundle, has another version, or is damaged or cut
                short.
            OSError: the bundle cannot be read.
        """
        self._fd = stream.fileno()
        self._bytes = os.fstat(self._fd).st_size
        self._members: dict[str, tuple[int, int]] = {}
        self._find()
        self.mark = self._read_mark()

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return the bytes of a member, or None if no member has this name.

        Raises:
            VerificationError: the member is longer than `max_bytes`, or the bundle was cut short
                since.
            OSError: the bundle cannot be read.
        """
        if name not in self._members:
            return None
        offset, size = self._members[name]
        if size > max_bytes:
            raise VerificationError(
                f"{name} has {size:,} bytes, more than the {max_bytes:,} allowed", hint=_HINT
            )
        return self._read(offset, size)

    def _find(self) -> None:
        if self._bytes < _BLOCK:
            raise _not_a_bundle()
        offset = 0
        while any(header := self._read(offset, _BLOCK)):
            name, size = _parse_header(header)
            if not self._members and name != MARK_NAME:
                raise _not_a_bundle()
            if name in self._members:
                raise VerificationError(f"it has {name} twice", hint=_HINT)
            if len(self._members) == MAX_MEMBERS:
                raise VerificationError(f"it has more than {MAX_MEMBERS:,} files", hint=_HINT)
            offset += _BLOCK
            self._members[name] = (offset, size)
            offset += size + -size % _BLOCK
            if offset > self._bytes:
                raise _cut_short()
        if not self._members:
            raise _not_a_bundle()
        offset += _BLOCK
        rest = max(self._bytes - offset, _BLOCK)
        # `tar` fills its last record with zeros. The cap `MAX_REST_BYTES` prevents that a huge rest
        # of the file is read.
        if rest > MAX_REST_BYTES or any(self._read(offset, rest)):
            raise VerificationError("it has bytes after its end", hint=_HINT)

    def _read_mark(self) -> Mark:
        try:
            mark = msgspec.convert(parse_json(self.read(MARK_NAME, MAX_MARK_BYTES) or b""), Mark)
        # `parse_json` and `msgspec.convert` raise subclasses of ValueError
        except ValueError as error:
            raise VerificationError(
                f"its {MARK_NAME} is not valid: {excerpt(error)}", hint=_HINT
            ) from error
        if mark.format != FORMAT:
            raise VerificationError(
                f"it has format {excerpt(mark.format)}, this client reads {FORMAT}",
                hint="a newer hashclient may be needed",
            )
        for name, generation in mark.since.items():
            if not is_name(name) or not 0 <= generation <= _MAX_GENERATION:
                raise VerificationError(
                    f"its {MARK_NAME} is not valid: `since` is not of lists and generations",
                    hint=_HINT,
                )
        return mark

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self._bytes:
            raise _cut_short()
        data = b""
        while len(data) < size:
            piece = os.pread(self._fd, size - len(data), offset + len(data))
            if not piece:  # the file has become shorter since it was opened
                raise _cut_short()
            data = piece if not data else data + piece
        return data


def _parse_header(header: bytes) -> tuple[str, int]:
    """Return the name and the size in the header of a member."""
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise _not_a_bundle() from error
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.linkname:
        raise VerificationError("it has other members than plain files", hint=_HINT)
    if not NAME.fullmatch(info.name):
        raise VerificationError(f"it has a file of the name {excerpt(info.name)!r}", hint=_HINT)
    if info.size < 0:
        raise VerificationError(f"{info.name} has a negative size", hint=_HINT)
    return info.name, info.size


def _not_a_bundle() -> VerificationError:
    return VerificationError(
        "it is no bundle of hash lists, or is damaged",
        hint="`hashclient provider export` makes one; a directory may be given, too",
    )


def _cut_short() -> VerificationError:
    return VerificationError("it is cut short", hint=_HINT)
