"""The records of objects in the inventory, where a bucket takes the place of a file system.

The record of an object contains a hash of the object's key, version and ETag in place of an inode
and times. So an object with a new ETag or length is not known, and the record reveals nothing of
the content of a bucket. The inventory contains only tags of content that was read, never digests
that a store reports. The record of an object with a version is proven, because a version cannot
change. The record of an object without a version, or with the version `null` of S3, is believed
until the record is due, if the ETag is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from struct import Struct

import numpy as np

from hashclient.core.errors import StateError
from hashclient.scan.cache.cache import today
from hashclient.scan.cache.inside import MEMBER, Inside
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cache.records import RECORD, Records, are_due, of_inodes
from hashclient.scan.objects.wanted import Wanted
from hashclient.scan.values.work import Block, Result

#: The struct of a record as bytes, and the struct of the three words of a hash.
_FIELDS, _WORDS = Struct("<QQQQB48sHBB"), Struct("<QQQ")
#: The fields of a record that identify its object: they contain the hash and the length.
_NAME = ["ino", "size", "mtime", "ctime"]


def number_of(namespace: str) -> int:
    """Return a number of 63 bits for a bucket, in place of the number of a file system."""
    name = b"bucket " + namespace.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def _record(one: Wanted, mask: int = 0, tags: bytes = bytes(48), begin: int = 0) -> bytes:
    """Return the record of an object as bytes, by default without tags."""
    parts = (one.key, one.version or "", one.etag or "")
    text = "\0".join([f"{len(part)} {part}" for part in parts])
    raw = text.encode("utf-8", "surrogateescape")
    inode, mtime, ctime = _WORDS.unpack(hashlib.blake2b(raw, digest_size=24).digest())
    day = 0 if one.is_fixed else today()
    return _FIELDS.pack(inode, one.size, mtime, ctime, mask, tags, day, begin, 0)


def learn(
    result: Result, number: int, wanted: Wanted, found: tuple[int, bytes, int], inside: bytes
) -> None:
    """Add to a result the record of an object that was read.

    `number` identifies the bucket. `found` are the mask of the record, the tags, and the first byte
    of the object; `inside` are the members of a container, as bytes.
    """
    if wanted.has_name and inside:
        result.containers.append((number, _record(wanted), inside))
    if wanted.has_name and found[0]:
        result.learned.append((number, _record(wanted, *found)))


class ObjectMemory:
    """The records of objects in the inventory; only one thread may use a value of this class."""

    def __init__(self, place: InventoryPlace, reread_days: int) -> None:
        """Keep the arguments; a believed record is due after `reread_days`."""
        self._place: InventoryPlace | None = place
        self._reread_days = reread_days

    def find(
        self, namespace: str, objects: Sequence[Wanted]
    ) -> tuple[Records, dict[int, Inside], list[Block]] | None:
        """Return the records of objects, the members of containers, and the blocks not seen today.

        The members of a container are found by the index of the object in `objects`. A record with
        mask 0 says that its object is not known. A result of None says that no object is known.
        """
        try:
            reader = None if self._place is None else self._place.reader()
            if reader is None:
                return None
            asked = np.frombuffer(b"".join(map(_record, objects)), RECORD)
            try:
                number, inodes = number_of(namespace), np.sort(asked["ino"])
                stored, old = reader.records_at(number, inodes)
                containers = reader.containers_at(number, inodes.tolist())
            finally:
                reader.close()
        except StateError:
            self._place = None  # the writer will make a new inventory, or report why it cannot
            return None
        known, is_same = of_inodes(stored, asked["ino"]), np.array([o.has_name for o in objects])
        for name in _NAME:
            is_same &= known[name] == asked[name]
        known["mask"][~is_same] = 0
        insides = {}
        places = {inode: place for place, inode in enumerate(asked["ino"].tolist())}
        for raw, members in containers:
            (record,) = np.frombuffer(raw, RECORD)
            place = places[int(record["ino"])]
            is_one = objects[place].has_name and record[_NAME] == asked[place][_NAME]
            if is_one and not are_due(np.frombuffer(raw, RECORD), today(), self._reread_days)[0]:
                insides[place] = np.frombuffer(members, MEMBER)
        return known, insides, old
