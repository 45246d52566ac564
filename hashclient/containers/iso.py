"""The expander of optical disk images.

An image may have several directory trees; each operating system shows one of these trees.

libarchive reads the tree of Rock Ridge or, if there is no Rock Ridge, the tree of Joliet or ISO
9660. This module compares the offsets of files in the trees, and also reads another tree if it has
files at other offsets. The module `udf` reads trees of UDF. A tree of HFS is not read, and is
reported as unread. An image that states another block length than 2,048 bytes is read with blocks
of 2,048 bytes, because most programs ignore the stated length, and is also reported as unread. An
image with several trees of the same kind is reported as unread, too.

For libarchive, two files with the same number are one file, and fields of Rock Ridge may change the
kind or the length of a file, or hide a directory. Most programs ignore these fields. Therefore this
module itself also reads each file that has such a field or the number of another file. The images
from which a machine starts (El Torito) are in no tree, and are read by this module as well.

Limit: if a file has different names in several trees, only one of these names is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import cast

import msgspec

from hashclient.containers import udf
from hashclient.containers.forward import Joined, pieces_of
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.libarchive import Libarchive

_SECTOR = 2048
_FIRST_SECTOR, _MAX_VOLUMES = 16, 64
_START, _PRIMARY, _SUPPLEMENTARY, _LAST = 0, 1, 2, 255
_JOLIET = (b"%/@", b"%/C", b"%/E")
_ROOT_AT, _ESCAPE_AT = 156, 88
_BLOCK_AT, _USUAL_BLOCK = 128, _SECTOR.to_bytes(2, "little")
_IS_DIRECTORY, _GOES_ON = 0x02, 0x80
_RECORD_BYTES, _RECORD_NAME_AT = 34, 33
#: `_ODD`: matches fields of Rock Ridge after which libarchive may read a file or directory in
#: another way than other programs; the groups are the kinds in a field `PX`. `_SERIAL`: the number
#: of the file in a field `PX`.
_ODD = re.compile(rb"(?:C[EL]|RE|ZF).\x01|PX.\x01.(.)", re.DOTALL)
_SERIAL = re.compile(rb"PX[\x2c-\xff]\x01.{32}(.{4})", re.DOTALL)
_KIND_BITS, _FILE_BITS, _DIRECTORY_BITS = 0xF0, 0x80, 0x40
#: `_EL_TORITO`: the mark of a volume descriptor that leads to the list of the images from which a
#: machine starts. `_FLOPPIES`: the lengths of images of floppy disks, by the kind in the list; the
#: length of any other image is in the list, in units of 512 bytes.
_EL_TORITO, _EL_TORITO_AT, _LIST_AT = b"EL TORITO SPECIFICATION", 7, 71
_FLOPPIES = {1: 1200 << 10, 2: 1440 << 10, 3: 2880 << 10}
_ENTRY_BYTES, _GOES_ON_BEHIND, _MOST_ENTRIES = 32, 0x20, 1_000
_MORE_ENTRIES, _LAST_ENTRIES = 0x90, 0x91
#: The longest directory, in bytes: enough for a million files.
_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_DIRECTORIES = 100_000
#: All directories together may be longer than the image by at most this factor; in a valid image,
#: no two directories share bytes.
_READ_AGAIN = 4
#: `_HFS_AT`, `_HFS_MARKS`: the offset and the magic bytes of HFS and HFS+; `_MAP_AT`, `_MAP_MARK`:
#: the offset and the magic bytes of a partition map.
_HFS_AT, _HFS_MARKS = 1024, (b"BD", b"H+", b"HX")
_MAP_AT, _MAP_MARK, _MAX_PARTITIONS = 512, b"PM", 64
_HFS_PARTITION = b"Apple_HFS"

#: The offset and the length of a file, in bytes.
Place = tuple[int, int]


class DiskImage(Libarchive):
    """The expander of images of ISO 9660 or UDF."""

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the members of the usual tree, and of other trees that have other files."""
        data = cast(Data, data)
        roots = dict(_roots(data))
        usual: set[Place] = set()
        if roots:
            is_usual = all(volume[_BLOCK_AT:][:2] == _USUAL_BLOCK for volume in _volumes(data))
            tree = data if is_usual else _with_tidied(data)
            odd: set[Place] = set()
            trees: dict[int, set[Place]] = {}
            failed: NotReadError | None = None
            try:
                trees = {kind: _files(data, root, odd) for kind, root in roots.items()}
            except NotReadError as error:
                failed = error
            try:
                for found in self._usual(tree):
                    if isinstance(found, Unlisted) or not (odd or failed):
                        yield found
                    else:
                        yield [_unsure(one) for one in found]
            except NotReadError as error:
                yield Unlisted(b"", error.why, error.detail)
            if failed is not None:
                raise failed
            if not is_usual:
                text = "an image of a disk: blocks of another length"
                yield Unlisted(b"", Why.UNSUPPORTED, text)
            if len({(kind, _place(root)) for kind, root in _roots(data)}) > len(roots):
                # Operating systems differ about which of two trees of the same kind they show.
                text = "an image of a disk: several trees of one kind"
                yield Unlisted(b"", Why.UNSUPPORTED, text)
            for place in sorted(odd):
                yield from _alone(data, place)
            usual = trees.get(_PRIMARY, set())
            joliet = trees.get(_SUPPLEMENTARY, usual)
            if usual != joliet:
                has_names = _has_rock_ridge(data, roots.get(_PRIMARY))
                other = b"!rockridge" if has_names else b"!joliet"
                yield from self.with_options(tree, b"iso9660:" + other)
                usual = usual | joliet
            for number, place in enumerate(_starters(data), 1):
                yield from _alone(data, place, b"[BOOT]/%d" % number)
        yield from udf.members(data, usual)
        if _has_hfs(data, usual):
            yield Unlisted(b"", Why.UNSUPPORTED, "a tree of HFS in an image of a disk")

    def _usual(self, data: Data) -> Iterator[list[Member] | Unlisted]:
        """Yield the members of the usual tree.

        If libarchive refuses the image, read the image with new volume descriptors.
        """
        is_begun = False
        try:
            for found in super().members(data):
                is_begun = True
                yield found
        except NotReadError:
            if is_begun:
                raise
            yield from super().members(_with_tidied(data))


def _with_tidied(data: Data) -> Data:
    """Return the image with new volume descriptors, which contain only the necessary fields."""
    head = data.read_at(0, _FIRST_SECTOR * _SECTOR)
    for kind, root in dict(_roots(data)).items():
        escape = b"%/E" if kind == _SUPPLEMENTARY else b""
        fields = bytes([kind]) + b"CD001\1" + bytes(73) + _both(data.size // _SECTOR, 4) + escape
        fields = fields.ljust(120, b"\0") + _both(1, 2) * 2 + _both(_SECTOR, 2)
        # The offsets of the path tables are copied because libarchive requires them, although it
        # does not read the tables.
        fields += bytes(8) + root[2:6] + bytes(4) + root[2:6][::-1] + bytes(4)
        fields += bytes([_RECORD_BYTES, 0]) + root[2:32] + b"\1\0"
        head += (fields.ljust(881, b"\0") + b"\1").ljust(_SECTOR, b"\0")
    head += (bytes([_LAST]) + b"CD001\1").ljust(_SECTOR, b"\0")
    return Joined(head, data, len(head), data.size - len(head))


def _both(number: int, width: int) -> bytes:
    """Return a number in both byte orders, one after the other."""
    return number.to_bytes(width, "little") + number.to_bytes(width, "big")


def _roots(data: Data) -> Iterator[tuple[int, bytes]]:
    """Yield the kind of each ISO 9660 tree (primary or supplementary), and its root record."""
    for volume in _volumes(data):
        yield volume[0], volume[_ROOT_AT : _ROOT_AT + _RECORD_BYTES]


def _volumes(data: Data) -> Iterator[bytes]:
    """Yield the volume descriptors that have a tree.

    Raises:
        NotReadError: the image has too many descriptors.
    """
    for volume in _descriptors(data):
        is_joliet = volume[0] == _SUPPLEMENTARY and volume[_ESCAPE_AT:][:3] in _JOLIET
        if volume[0] == _PRIMARY or is_joliet:
            yield volume


def _descriptors(data: Data) -> Iterator[bytes]:
    """Yield all volume descriptors before the last one.

    Raises:
        NotReadError: the image has too many descriptors.
    """
    for number in range(_MAX_VOLUMES + 1):
        volume = data.read_at((_FIRST_SECTOR + number) * _SECTOR, _SECTOR)
        if volume[1:6] != b"CD001" or volume[0] == _LAST:
            return
        if number == _MAX_VOLUMES:
            raise NotReadError(Why.LIMIT, "an image of a disk: too many descriptors")
        yield volume


def _starters(data: Data) -> Iterator[Place]:
    """Yield the places of the images from which a machine starts.

    Raises:
        NotReadError: the image lists too many of these images.
    """
    for volume in _descriptors(data):
        if volume[0] != _START or not volume.startswith(_EL_TORITO, _EL_TORITO_AT):
            continue
        # The first entry describes the list itself.
        at = _number(volume, _LIST_AT, 4) * _SECTOR + _ENTRY_BYTES
        count, is_last, goes_on = 1, False, 0
        for _ in range(_MOST_ENTRIES):
            entry = data.read_at(at, _ENTRY_BYTES)
            at += _ENTRY_BYTES
            if len(entry) < _ENTRY_BYTES:
                break
            if goes_on:
                goes_on = entry[1] & _GOES_ON_BEHIND
            elif count:
                count, goes_on = count - 1, entry[1] & _GOES_ON_BEHIND
                start = _number(entry, 8, 4) * _SECTOR
                size = _FLOPPIES.get(entry[1] & 15, _number(entry, 6, 2) * 512)
                if (size := min(size, data.size - start)) > 0:
                    yield start, size
            elif is_last or entry[0] not in (_MORE_ENTRIES, _LAST_ENTRIES):
                break
            else:
                is_last, count = entry[0] == _LAST_ENTRIES, _number(entry, 2, 2)
        else:
            raise NotReadError(Why.LIMIT, "an image of a disk: too many images to start from")


def _unsure(member: Member) -> Member:
    """Return a member whose length may differ from the length in fields of Rock Ridge."""
    return msgspec.structs.replace(member, size=None, is_exact=False)


def _alone(data: Data, place: Place, name: bytes = b"") -> Iterator[list[Member] | Unlisted]:
    """Yield the file at a place."""
    start, size = place
    if size:
        chunks = partial(_chunks, data, start, size)
        yield [Member(name, size, is_exact=True, chunks=chunks, offset=start)]
    else:
        text = "an image of a disk: a file whose parts lie apart"
        yield Unlisted(name, Why.UNSUPPORTED, text)


def _chunks(data: Data, start: int, size: int) -> Iterator[bytes]:
    yield from pieces_of(data, start, size)
    if start + size > data.size:
        raise NotReadError(Why.DAMAGED, "an image of a disk: a file that is cut off")


def _number(block: bytes, at: int, count: int) -> int:
    return int.from_bytes(block[at : at + count], "little")


def _place(record: bytes) -> Place:
    # The length of the extended attributes is added to the offset, because the attributes precede
    # the bytes of the file.
    start = int.from_bytes(record[2:6], "little") + record[1]
    return start * _SECTOR, int.from_bytes(record[10:14], "little")


def _files(data: Data, root: bytes, odd: set[Place]) -> set[Place]:
    """Return the offset and length of each file in the tree below `root`.

    Files that libarchive may read in another way than other programs are added to `odd`.

    Raises:
        NotReadError: the tree has too many directories, a directory has too many bytes, or many
            directories share bytes.
    """
    files: set[Place] = set()
    bytes_left = _READ_AGAIN * data.size
    numbers: dict[int, Place] = {}
    seen = {_place(root)}
    left = [(_place(root), False)]
    while left:
        (start, size), is_below = left.pop()
        size = max(min(size, data.size - start), 0)
        if size > _MAX_DIRECTORY_BYTES:
            raise NotReadError(Why.LIMIT, "an image of a disk: a directory of too many bytes")
        bytes_left -= size
        if bytes_left < 0:
            raise NotReadError(Why.LIMIT, "an image of a disk: directories with the same bytes")
        before: Place | None = None
        is_odd = False
        for record in _records(data, start, size):
            place = _place(record)
            is_odd = is_below or _is_odd(record) or (is_odd and before is not None)
            if record[25] & _IS_DIRECTORY:
                if place not in seen:
                    seen.add(place)
                    left.append((place, is_odd))
                continue
            if before is not None:  # the file of the previous record continues in this record
                if place[1] and place[0] != before[0] + before[1]:
                    # If the parts are not adjacent, the file has no single place. An impossible
                    # place is added, so that the trees count as different.
                    files.add((-1 - _place(root)[0], 0))
                    if is_odd:
                        odd.add((-1, 0))
                        is_odd = False
                place = before[0], before[1] + place[1]
            before = place if record[25] & _GOES_ON else None
            if place[1] and before is None:
                files.add(place)
                # libarchive takes the offset for the number of a file without a number.
                serial = _SERIAL.search(record, _RECORD_NAME_AT)
                number = _number(serial[1], 0, 4) if serial else place[0] // _SECTOR
                first = numbers.setdefault(number, place)
                if is_odd or first != place:
                    odd |= {first, place}
        if before is not None:  # the last part of the file is missing
            files.add(before)
        if len(seen) > _MAX_DIRECTORIES:
            raise NotReadError(Why.LIMIT, "an image of a disk: too many directories")
    return files


def _records(data: Data, start: int, size: int) -> Iterator[bytes]:
    """Yield the records of a directory, without those of the directory itself and its parent."""
    for offset in range(0, size, _SECTOR):
        sector = data.read_at(start + offset, _SECTOR)
        at = 0
        while at + _RECORD_BYTES <= len(sector) and sector[at] >= _RECORD_BYTES:
            record = sector[at : at + sector[at]]
            if record[32:34] not in (b"\1\0", b"\1\1"):
                yield record
            at += sector[at]


def _is_odd(record: bytes) -> bool:
    """Return whether libarchive may read the file or directory of a record in another way."""
    kind = _DIRECTORY_BITS if record[25] & _IS_DIRECTORY else _FILE_BITS
    found = _ODD.findall(record, _RECORD_NAME_AT + record[_RECORD_NAME_AT - 1])
    return len(found) > 1 or any(not one or one[0] & _KIND_BITS != kind for one in found)


def _has_rock_ridge(data: Data, root: bytes | None) -> bool:
    """Return whether the first record of the root directory states that Rock Ridge is used."""
    return root is not None and b"SP\7\1\xbe\xef" in data.read_at(_place(root)[0], 256)


def _has_hfs(data: Data, files: set[Place]) -> bool:
    """Return whether the image has a tree of HFS: for the whole image, or in a partition."""
    if data.read_at(_HFS_AT, 2) in _HFS_MARKS:
        return True
    for number in range(_MAX_PARTITIONS):
        entry = data.read_at(_MAP_AT * (1 + number), _MAP_AT)
        if not entry.startswith(_MAP_MARK):
            return False
        start = int.from_bytes(entry[8:12], "big") * _MAP_AT
        if entry[48:].startswith(_HFS_PARTITION) and data.read_at(start + _HFS_AT, 2) in _HFS_MARKS:
            return not any(place <= start < place + size for place, size in files)
    return True  # a tree of HFS may be in a later partition
