"""What is asked of one object, and what it came to: values between those who sort and who read."""

from __future__ import annotations

import msgspec

from hashclient.core.objecturi import key_text, version_text
from hashclient.index.matcher import Plan
from hashclient.scan.executors.interface import Result

#: What an outcome rests on, besides `read`.
READ = "read"
BY_SIZE = "size"
KNOWN = "known"


#: What a cache may know of an object: a mask, tags, and what is inside.
Record = tuple[int, bytes, bytes]


class Wanted(msgspec.Struct, gc=False):
    """An object that is to be read, or to be looked at for being a container.

    `plan` are the algorithms to compute, none where its size or its ETag has decided. With `looks`,
    what is in it counts. `claimed` is the MD5 that its ETag is said to be, where that is trusted
    and to be checked. `settled` says how it is counted where it need not be read: as `BY_SIZE`, or
    by what the store says. `page` is the number of the page that it was listed on.
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
        """Whether its ETag stands for its bytes; a weak one stands for something like them."""
        return self.etag is not None and not self.etag.startswith("W/")

    def uri(self, bucket: str, version: str | None = None) -> str:
        """Return its URI, with the version that was read where that is known."""
        return f"{bucket}/{key_text(self.key)}{version_text(version or self.version)}"


class Checked(msgspec.Struct):
    """What an object came to; `record` is what the cache may know of it: a mask, and tags.

    With `contradicted`, its ETag is not the MD5 that it was taken for. With `by_store`, it is clean
    by what its store says, and not counted yet.
    """

    result: Result
    wanted: Wanted
    record: Record | None = None
    contradicted: bool = False
    by_store: bool = False
