"""The work on one object, and its result: values that pass between sorting and reading."""

from __future__ import annotations

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import key_text, version_text
from hashclient.index.matcher import Plan
from hashclient.scan.values.work import Result

#: The evidence of an outcome, besides `read`.
READ = "read"
BY_SIZE = "size"
KNOWN = "known"


class Wanted(msgspec.Struct, gc=False, array_like=True):
    """An object that must be read, or that may be a container.

    `plan` are the algorithms to compute, none if its size or its ETag has decided. With `looks`,
    its members count. With `is_claimed`, the object's ETag counts as its MD5, and the read checks
    this. `settled` says how the object is counted if it need not be read: as `BY_SIZE`, or by the
    store's digest. `page` is the number of the page that it was listed on.
    """

    key: str
    size: int
    etag: str | None
    version: str | None
    plan: Plan = ()
    looks: bool = False
    is_claimed: bool = False
    settled: str = READ
    page: int = 0

    @property
    def has_name(self) -> bool:
        """Whether a version or a strong ETag identifies its exact bytes."""
        return self.version is not None or (self.etag or "W/")[:2] != "W/"

    def uri(self, bucket: str, version: str | None = None) -> str:
        """Return the URI of the object, with the version that was read, if known."""
        return f"{bucket}/{key_text(self.key)}{version_text(version or self.version)}"

    def outcome(
        self, kind: Kind, bucket: str, *, reason: str | None = None, evidence: str | None = None
    ) -> Outcome:
        """Return an outcome that does not depend on the object's content."""
        path = self.uri(bucket)
        return Outcome(kind, path, self.size, reason=reason, is_object=True, evidence=evidence)


class Checked(msgspec.Struct):
    """The result for an object.

    With `contradicted`, its ETag is not the MD5 of its content. With `by_store`, the object is
    clean by the store's digest, and not counted yet.
    """

    result: Result
    wanted: Wanted
    contradicted: bool = False
    by_store: bool = False
