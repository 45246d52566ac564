"""The isolator for objects in buckets: reads and deletes exactly one version of an object.

1. Exactly one version of the object, or the content with one ETag, is isolated. Each range of bytes
   is requested on the condition that the version or the ETag is the same.
2. The version of the object is deleted, so other versions of the key stay. If a bucket keeps no
   versions, the object is deleted on the condition that its ETag is still the same. Not every store
   obeys a condition on the ETag, so the condition is only used with Amazon, or if the configuration
   allows it.
3. If neither a version nor a condition on the ETag can be used, the object is not deleted, and only
   a sealed copy is made.
4. If the configuration requests a legal hold, the object is put on legal hold and is not deleted.

No tombstone is written in place of an object. An object is restored as a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping

from hashclient.config.tables import ObjectsConfig
from hashclient.core.errors import UsageError
from hashclient.core.model import Seen as SeenFile
from hashclient.core.objecturi import ObjectUri, parse_uri
from hashclient.objects.failures import CHANGED, StoreError, Trouble
from hashclient.objects.interface import NO_VERSION, Seen, Store
from hashclient.objects.s3 import S3
from hashclient.objects.stores import open_store
from hashclient.quarantine.isolators.interface import Held, Removed, Sight, Spot
from hashclient.quarantine.item import Item, Origin

#: The highest number of bytes in one request.
RANGE_BYTES = 4 << 20

ON_HOLD = "put on legal hold and left in place, as configured"
NO_WAY = "still in place: its store keeps no versions, and cannot delete exactly this content"
OTHER = "another version was stored meanwhile, and was not changed"
GONE = "somebody else had removed it"

_ERRNO = {Trouble.GONE: errno.ENOENT, Trouble.DENIED: errno.EACCES, Trouble.CHANGED: errno.EAGAIN}


@contextlib.contextmanager
def _errors(uri: ObjectUri) -> Iterator[None]:
    """Translate a `StoreError` in the block into an `OSError`."""
    try:
        yield
    except StoreError as error:
        number = _ERRNO.get(error.trouble, errno.EIO)
        raise OSError(number, error.reason, uri.text) from None


class HeldObject:
    """One version of an object, with its metadata when it was opened."""

    def __init__(self, spot: ObjectSpot, seen: Seen) -> None:
        """Begin at the start of the object; nothing is requested yet."""
        self.spot = spot
        self.seen = seen
        #: `_at` is the offset of the next request; `_part` are received bytes that `read` has not
        #: returned yet.
        self._at = 0
        self._part = memoryview(b"")

    @property
    def size(self) -> int:
        """The length of the object in bytes."""
        return self.seen.size

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes of the object, and no bytes at its end.

        Raises:
            OSError: the object cannot be read, or was replaced.
        """
        if not self._part and self._at < self.size:
            self._part = memoryview(self._range(self._at))
            self._at += len(self._part)
        data = bytes(self._part[:count])
        self._part = self._part[count:]
        return data

    def _range(self, start: int) -> bytearray:
        found = bytearray()
        stop = min(start + RANGE_BYTES, self.size)
        uri = self.spot.uri
        with _errors(uri):
            seen = self.spot.store.read(
                uri.key,
                None if stop - start == self.size else (start, stop),
                found.extend,
                etag=self.seen.etag,
                version=self.seen.version,
            )
            if len(found) != stop - start or seen.size != self.size:
                raise StoreError(Trouble.CHANGED, CHANGED)
        return found

    def rewind(self) -> None:
        """Let the next `read` begin at the start of the object."""
        self._at = 0
        self._part = memoryview(b"")

    def is_seen(self) -> bool:
        """Return True, because the locator names the version that was read, which never changes."""
        return True

    def is_unchanged(self) -> bool:
        """Return whether the URI still leads to this version or to no object."""
        return self.spot.now() in (None, self.seen)


class ObjectSpot:
    """The URI of an object, or of one version of an object."""

    def __init__(self, uri: ObjectUri, store: Store, config: ObjectsConfig) -> None:
        """Store the arguments; no request is made yet."""
        self.uri = uri
        self.store = store
        self._config = config

    def now(self) -> Seen | None:
        """Return the metadata of the object at the URI; None if the object does not exist.

        Raises:
            OSError: the request fails.
        """
        try:
            with _errors(self.uri):
                return self.store.head(self.uri.key, self.uri.version)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def hold(self) -> Iterator[HeldObject]:
        """Open the object at the URI.

        Raises:
            OSError: the object is missing, or the request fails.
        """
        seen = self.now()
        if seen is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.uri.text)
        yield HeldObject(self, seen)

    def origin(self, held: Held) -> Origin:
        """Return the attributes that a file restored from the object gets; the mode is 0600."""
        return Origin(
            device=0,
            inode=0,
            directory_inode=0,
            links=1,
            mode=0o600,
            uid=os.getuid(),
            gid=os.getgid(),
            atime_ns=0,
            mtime_ns=0,
            xattrs={},
        )

    def remove(self, held: Held, match_id: str) -> Removed:
        """Delete the open version of the object, or put it on legal hold."""
        assert isinstance(held, HeldObject), "the spot has held this object itself"
        try:
            now = self.now()
            if now is None:
                return Removed(done=True, remains=(GONE,))
            if now != held.seen:
                return Removed(done=False, why=OTHER)
            with _errors(self.uri):
                return self._remove(held.seen)
        except FileNotFoundError:
            return Removed(done=True, remains=(GONE,))
        except BlockingIOError:
            return Removed(done=False, why=OTHER)
        except OSError as error:
            return Removed(done=False, why=f"still in place: {error.strerror}")

    def _remove(self, seen: Seen) -> Removed:
        s3, key = self.store, self.uri.key
        if not isinstance(s3, S3):
            return Removed(done=False, why=NO_WAY)
        named = {} if seen.version is None else {"VersionId": seen.version}
        if self._config.isolate == "hold":
            s3.call("put_object_legal_hold", Key=key, LegalHold={"Status": "ON"}, **named)
            return Removed(done=False, why=ON_HOLD, is_meant=True)
        # The version `null` cannot change while the bucket keeps versions. A deletion without the
        # version would only hide it then.
        is_fixed = seen.version != NO_VERSION or s3.keeps_versions
        if named and is_fixed:
            s3.call("delete_object", Key=key, **named)
        elif seen.etag is not None and (s3.is_amazon or self._config.conditional_delete):
            s3.call("delete_object", Key=key, IfMatch=seen.etag)
        else:
            return Removed(done=False, why=NO_WAY)
        return Removed(done=True)

    def settle(self, match_id: str, is_proven: Callable[[Held], bool]) -> str | None:
        """Do nothing, because an object is deleted in one step."""

    def look(self, item: Item, seen: Held | None) -> Sight:
        """Return whether an object is at the URI.

        Raises:
            OSError: the request fails.
        """
        return Sight.NOTHING if self.now() is None else Sight.OTHER

    def leave_tombstone(self, item: Item) -> str | None:
        """Do nothing, because no tombstone is written to a bucket."""

    def names(self) -> None:
        """Return None, because a deletion is durable when the store has answered."""


class Objects:
    """The isolator for objects, whose locators are URIs."""

    def __init__(self, configured: Mapping[str, ObjectsConfig]) -> None:
        """`configured` are the settings for objects from the configuration, by bucket."""
        self._configured = configured
        self._stores: dict[str, Store] = {}

    @contextlib.contextmanager
    def open(self, locator: str, seen: SeenFile | None) -> Iterator[Spot]:
        """Open the bucket of an object; the URI names the version that the scan has read.

        Raises:
            OSError: the bucket cannot be opened.
        """
        yield self._spot(locator)

    def _spot(self, locator: str) -> ObjectSpot:
        uri = parse_uri(locator)
        store = self._stores.setdefault(uri.bucket_text, open_store(uri))
        config = self._configured.get(uri.bucket_text, ObjectsConfig())
        return ObjectSpot(uri, store, config)

    def whereabouts(self, item: Item) -> list[str]:
        """Return a message if an object is at the URI of an item."""
        try:
            now = self._spot(item.file).now()
        except OSError as error:
            return [f"its bucket cannot be looked at: {error.strerror}"]
        except UsageError as error:
            return [f"its bucket cannot be looked at: {error.message}"]
        return [] if now is None else ["an object is at its URI"]
