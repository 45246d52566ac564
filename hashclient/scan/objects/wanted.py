"""What a reader must do with one object (`Wanted`), and the result of the reader (`Checked`)."""

from __future__ import annotations

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import key_text, version_text
from hashclient.index.matcher import Plan
from hashclient.objects.interface import NO_VERSION
from hashclient.scan.values.work import Result

#: The possible evidence of an outcome, besides the names in `sorting.EVIDENCE`: `read` says that
#: the content was read, `size` that no entry has the size, and `known` that the object is unchanged
#: since an earlier read.
READ = "read"
BY_SIZE = "size"
KNOWN = "known"


class Wanted(msgspec.Struct, gc=False, array_like=True):
    """An object that must be read, or that may be a container.

    - `plan`: the algorithms of the digests to compute; empty if the size or the ETag has decided.
    - `looks`: whether the members of the object are checked.
    - `is_claimed`: whether the ETag counts as the MD5 of the object, which the read then checks.
    - `settled`: how the object is counted if its content need not be read: `BY_SIZE`, or the name
      of the store's digest.
    - `page`: the number of the page on which the object was listed.
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
    def is_fixed(self) -> bool:
        """Whether the object has a version that no other content of its key can get."""
        return self.version not in (None, NO_VERSION)

    @property
    def has_name(self) -> bool:
        """Whether a version or a strong ETag identifies the exact bytes of the object."""
        return self.is_fixed or (self.etag or "W/")[:2] != "W/"

    def uri(self, bucket: str, version: str | None = None) -> str:
        """Return the URI of the object, with the version that was read, if that is known."""
        return f"{bucket}/{key_text(self.key)}{version_text(version or self.version)}"

    def outcome(
        self, kind: Kind, bucket: str, *, reason: str | None = None, evidence: str | None = None
    ) -> Outcome:
        """Return an outcome that does not depend on the content of the object."""
        path = self.uri(bucket)
        return Outcome(kind, path, self.size, reason=reason, is_object=True, evidence=evidence)


class Checked(msgspec.Struct):
    """The result of the check of one object.

    - `contradicted`: the ETag counted as the MD5 of the object, but the content has another MD5.
    - `by_store`: the object is clean by the digest of its store, and is not counted yet.
    """

    result: Result
    wanted: Wanted
    contradicted: bool = False
    by_store: bool = False
