"""A bundle: what a provider publishes, as one file for clients without a network.

It is a tar archive of the plainest kind (ustar: no extended headers, no links), read without being
unpacked: a file of it is read into memory by its name, and whoever asks for it verifies it. What is
here finds the files and takes nothing on trust but their places. `docs/format.md` has the rules.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from typing import IO

import msgspec

from hashclient.core.model import is_name
from hashclient.errors import VerificationError
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt

FORMAT = "hashclient-bundle/1"
#: The first member: which format this is, and where what is in it begins.
MARK_NAME = "hashclient-bundle.json"
MAX_MARK_BYTES = 1 << 20
#: Far more than a repository of many lists has.
MAX_MEMBERS = 100_000
#: Of zeros at the end, far more than a record of `tar` has.
MAX_REST_BYTES = 1 << 20
_MAX_GENERATION = 2**53 - 1

_BLOCK = tarfile.BLOCKSIZE
#: What may be the name of a member: of plain parts, and none of them `.` or `..`.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
_HINT = "copy it again, or have it exported again; nothing was changed"


class Mark(msgspec.Struct, frozen=True):
    """What a bundle says of itself: `since` has the lists of which it has the later changes only.

    Each with the generation that a client has to have. Nobody signs this: it is for messages.
    """

    format: str = FORMAT
    since: Mapping[str, int] = {}


def write_bundle(stream: IO[bytes], mark: Mark, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a bundle of `members`, names and bytes: the same bytes for the same members.

    Raises:
        ValueError: a name does not fit into the format.
        OSError: it cannot be written.
    """
    _write_member(stream, MARK_NAME, msgspec.json.encode(mark, order="sorted") + b"\n")
    for name, data in members:
        _write_member(stream, name, data)
    stream.write(bytes(2 * _BLOCK))


def _write_member(stream: IO[bytes], name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # without times, owners and whatever else could differ
    info.size = len(data)
    stream.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
    stream.write(data)
    stream.write(bytes(-len(data) % _BLOCK))


class Bundle:
    """The members of a bundle, found once; several threads may read at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Find the members of the bundle in `stream`, a regular file that stays open.

        Raises:
            VerificationError: it is no bundle, of another version, damaged or cut short.
            OSError: it cannot be read.
        """
        self._fd = stream.fileno()
        self._bytes = os.fstat(self._fd).st_size
        self._members: dict[str, tuple[int, int]] = {}
        self._find()
        self.mark = self._read_mark()

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return the bytes of a member, None if there is none of that name.

        Raises:
            VerificationError: it is longer than `max_bytes`, or not there any more.
            OSError: it cannot be read.
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
        # The rest of a record of tar; and it may take no hours to make sure that it is zeros.
        if rest > MAX_REST_BYTES or any(self._read(offset, rest)):
            raise VerificationError("it goes on behind its end", hint=_HINT)

    def _read_mark(self) -> Mark:
        try:
            mark = msgspec.convert(parse_json(self.read(MARK_NAME, MAX_MARK_BYTES) or b""), Mark)
        except ValueError as error:  # msgspec.ValidationError is a ValueError
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
            if not piece:  # it was longer when it was opened
                raise _cut_short()
            data = piece if not data else data + piece
        return data


def _parse_header(header: bytes) -> tuple[str, int]:
    """Return the name and the size that a header gives."""
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise _not_a_bundle() from error
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.linkname:
        raise VerificationError("it has something else than plain files in it", hint=_HINT)
    if not NAME.fullmatch(info.name):
        raise VerificationError(f"it has a file of the name {excerpt(info.name)!r}", hint=_HINT)
    if info.size < 0:
        raise VerificationError(f"{info.name} has less than no bytes", hint=_HINT)
    return info.name, info.size


def _not_a_bundle() -> VerificationError:
    return VerificationError(
        "it is no bundle of hash lists, or is damaged",
        hint="`hashclient provider export` makes one; a directory may be given, too",
    )


def _cut_short() -> VerificationError:
    return VerificationError("it is cut short", hint=_HINT)
