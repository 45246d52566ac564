"""Objects in buckets: held by their version, deleted as exactly that version.

1. The item is one version, or the content with one ETag: each range is read on the condition that
   version or ETag is the same.
2. The object is deleted by its version, so other versions of the key stay. If a store keeps no
   versions, the object is deleted on the condition that its ETag is still the same. But not every
   store obeys this condition. So this condition is only used with Amazon, and only if the
   configuration allows it.
3. If neither is possible, the object is not deleted, and only a sealed copy is made.
4. If the configuration requests a legal hold, the object gets the hold and stays.

An object leaves no tombstone. Restoring makes a file.
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
from hashclient.objects.interface import Seen, Store
from hashclient.objects.s3 import S3
from hashclient.objects.stores import open_store
from hashclient.quarantine.isolators.interface import Held, Removed, Sight, Spot
from hashclient.quarantine.item import Item, Origin

#: Bytes that are requested at a time.
RANGE_BYTES = 4 << 20
#: The name in S3 of a version that was stored while versions were off.
NO_VERSION = "null"

ON_HOLD = "put on legal hold and left in place, as configured"
NO_WAY = "still in place: its store keeps no versions, and cannot delete exactly this content"
OTHER = "another version was stored meanwhile, and was not changed"
GONE = "somebody else had removed it"

_ERRNO = {Trouble.GONE: errno.ENOENT, Trouble.DENIED: errno.EACCES, Trouble.CHANGED: errno.EAGAIN}


@contextlib.contextmanager
def _errors(uri: ObjectUri) -> Iterator[None]:
    """Translate a failure of the store into an error of the system."""
    try:
        yield
    except StoreError as error:
        number = _ERRNO.get(error.trouble, errno.EIO)
        raise OSError(number, error.reason, uri.text) from None


class HeldObject:
    """A version of an object, as it was when it was opened."""

    def __init__(self, spot: ObjectSpot, seen: Seen) -> None:
        """Nothing is read yet."""
        self.spot = spot
        self.seen = seen
        #: The end of the requested bytes, and the bytes that were not returned yet.
        self._at = 0
        self._part = memoryview(b"")

    @property
    def size(self) -> int:
        """The length of the object in bytes."""
        return self.seen.size

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes; none at the end.

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
        """Read from the beginning again."""
        self._at = 0
        self._part = memoryview(b"")

    def is_seen(self) -> bool:
        """Return True: the version was read, and a version never changes."""
        return True

    def is_unchanged(self) -> bool:
        """Return whether this version is still the object in its place."""
        return self.spot.now() in (None, self.seen)


class ObjectSpot:
    """The name of an object, or of a version of the object."""

    def __init__(self, uri: ObjectUri, store: Store, config: ObjectsConfig) -> None:
        """No request is made yet."""
        self.uri = uri
        self.store = store
        self._config = config

    def now(self) -> Seen | None:
        """Return the object at the spot; None if no object is there.

        Raises:
            OSError: the store cannot be asked.
        """
        try:
            with _errors(self.uri):
                return self.store.head(self.uri.key, self.uri.version)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def hold(self) -> Iterator[HeldObject]:
        """Hold the object there.

        Raises:
            OSError: the object is missing, or the request fails.
        """
        seen = self.now()
        if seen is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.uri.text)
        yield HeldObject(self, seen)

    def origin(self, held: Held) -> Origin:
        """Return the attributes of a restored file: it is private to the present user."""
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
        """Delete the version that is open, or put it on hold."""
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
        version = seen.version if seen.version != NO_VERSION else None
        if self._config.isolate == "hold":
            named = {} if version is None else {"VersionId": version}
            s3.call("put_object_legal_hold", Key=key, LegalHold={"Status": "ON"}, **named)
            return Removed(done=False, why=ON_HOLD, is_meant=True)
        if version is not None:
            s3.call("delete_object", Key=key, VersionId=version)
        elif seen.etag is not None and (s3.is_amazon or self._config.conditional_delete):
            s3.call("delete_object", Key=key, IfMatch=seen.etag)
        else:
            return Removed(done=False, why=NO_WAY)
        return Removed(done=True)

    def settle(self, match_id: str, is_proven: Callable[[Held], bool]) -> str | None:
        """Do nothing: an object is deleted in one step."""

    def look(self, item: Item, seen: Held | None) -> Sight:
        """Return the object in the place.

        Raises:
            OSError: the store cannot be asked.
        """
        return Sight.NOTHING if self.now() is None else Sight.OTHER

    def leave_tombstone(self, item: Item) -> str | None:
        """Do nothing: nothing is left in a bucket."""

    def names(self) -> None:
        """A deletion is durable once the store has answered."""


class Objects:
    """Objects by their URIs; `configured` are the tables of buckets."""

    def __init__(self, configured: Mapping[str, ObjectsConfig]) -> None:
        """No store is opened yet."""
        self._configured = configured
        self._stores: dict[str, Store] = {}

    @contextlib.contextmanager
    def open(self, locator: str, seen: SeenFile | None) -> Iterator[Spot]:
        """Open the bucket of an object, whose URI says which version was read.

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
        """Say whether the object is there."""
        try:
            now = self._spot(item.file).now()
        except OSError as error:
            return [f"its bucket cannot be looked at: {error.strerror}"]
        except UsageError as error:
            return [f"its bucket cannot be looked at: {error.message}"]
        return [] if now is None else ["an object is at its URI"]
