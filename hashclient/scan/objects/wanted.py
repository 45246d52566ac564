"""The work on one object, and its result: values that pass between sorting and reading."""

from __future__ import annotations

import msgspec

from hashclient.core.objecturi import key_text, version_text
from hashclient.index.matcher import Plan
from hashclient.scan.executors.interface import Result

#: The evidence of an outcome, besides `read`.
READ = "read"
BY_SIZE = "size"
KNOWN = "known"


#: The record of an object for a cache: a mask, tags, and members.
Record = tuple[int, bytes, bytes]


class Wanted(msgspec.Struct, gc=False):
    """An object that is to be read, or that may be a container.

    `plan` are the algorithms to compute, none where its size or its ETag has decided. With `looks`,
    its members count. `claimed` is the MD5 that its ETag should be, where the ETag is trusted and
    to be checked. `settled` says how it is counted if it need not be read: as `BY_SIZE`, or by the
    store's digest. `page` is the number of the page that it was listed on.
    """

    key: str
    size: int
    etag: str | None
    version: str | None
    plan: Plan = ()
    looks: bool = False
    claimed: bytes | None = None
    settled: str = READ
    page: int = 0

    @property
    def has_strong_etag(self) -> bool:
        """Whether its ETag stands for its exact bytes; a weak one only for similar content."""
        return self.etag is not None and not self.etag.startswith("W/")

    def uri(self, bucket: str, version: str | None = None) -> str:
        """Return its URI, with the version that was read where that is known."""
        return f"{bucket}/{key_text(self.key)}{version_text(version or self.version)}"


class Checked(msgspec.Struct):
    """The result for an object; `record` is its record for the cache.

    With `contradicted`, its ETag is not the MD5 of its content. With `by_store`, it is clean by the
    store's digest, and not counted yet.
    """

    result: Result
    wanted: Wanted
    record: Record | None = None
    contradicted: bool = False
    by_store: bool = False
