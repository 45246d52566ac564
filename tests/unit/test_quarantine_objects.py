"""Objects in buckets: which ranges are requested, and how each object is deleted or kept."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.config.tables import ObjectsConfig
from hashclient.core.errors import UsageError
from hashclient.core.objecturi import parse_uri
from hashclient.objects.failures import StoreError, Trouble
from hashclient.objects.interface import Seen, Sink, Store
from hashclient.objects.s3 import S3
from hashclient.quarantine.isolators import objects
from hashclient.quarantine.isolators.everywhere import Everywhere
from hashclient.quarantine.isolators.files import FileSpot
from hashclient.quarantine.isolators.interface import Removed, Sight
from hashclient.quarantine.isolators.objects import (
    GONE,
    NO_WAY,
    ON_HOLD,
    OTHER,
    Objects,
    ObjectSpot,
)
from hashclient.quarantine.item import Item

URI = "s3://bu/a/key"
DATA = b"0123456789"
SEEN = Seen(len(DATA), '"e"', "v")
AMAZON, LIKE_S3 = "https://s3.eu-central-1.amazonaws.com", "https://store.example.org"


class Kept(Store):
    """A bucket in memory with one object, which fails with `trouble` and notes requests."""

    trouble: Trouble | None = None

    def __init__(self, seen: Seen | None = SEEN, data: bytes = DATA) -> None:
        super().__init__("gs", "bu")
        self.seen, self.data = seen, data
        self.asked: list[Any] = []

    def _open(self) -> Any:
        raise AssertionError

    @property
    def namespace(self) -> str:
        return ""

    def head(self, key: str, version: str | None) -> Seen:
        self.asked.append((key, version))
        if self.trouble is not None or self.seen is None:
            raise StoreError(self.trouble or Trouble.GONE, "so it is")
        return self.seen

    def read(
        self,
        key: str,
        span: tuple[int, int] | None,
        sink: Sink,
        *,
        etag: str | None = None,
        version: str | None = None,
    ) -> Seen:
        self.asked.append((key, span, etag, version))
        if self.trouble is not None or self.seen is None:
            raise StoreError(self.trouble or Trouble.GONE, "so it is")
        sink(memoryview(self.data[slice(*(span or (None,)))]))
        return self.seen

    def put(self, key: str, data: bytes) -> None:
        raise AssertionError


class KeptS3(S3):
    """A bucket of S3 in memory that notes the operations on it."""

    versioning = "Suspended"

    def __init__(self, seen: Seen | None = SEEN, endpoint: str = AMAZON) -> None:
        super().__init__("bu")
        self._client = SimpleNamespace(meta=SimpleNamespace(endpoint_url=endpoint))
        self.seen = seen
        self.called: list[tuple[str, dict[str, Any]]] = []
        self.trouble: Trouble | None = None

    def head(self, key: str, version: str | None) -> Seen:
        if self.seen is None:
            raise StoreError(Trouble.GONE, "no object")
        return self.seen

    def call(self, operation: str, **arguments: Any) -> Any:
        if operation == "get_bucket_versioning":
            return {"Status": self.versioning}
        self.called.append((operation, arguments))
        if self.trouble is not None:
            raise StoreError(self.trouble, "so it is")
        return {}


def spot_of(store: Store, uri: str = URI, **config: Any) -> ObjectSpot:
    return ObjectSpot(parse_uri(uri), store, ObjectsConfig(**config))


@pytest.mark.parametrize(
    ("size", "spans"),
    [
        *((0, []), (1, [None]), (4, [None]), (5, [(0, 4), (4, 5)])),
        *((8, [(0, 4), (4, 8)]), (9, [(0, 4), (4, 8), (8, 9)])),
    ],
)
def test_an_object_is_read_in_ranges_of_its_version(
    monkeypatch: pytest.MonkeyPatch, size: int, spans: list[tuple[int, int] | None]
) -> None:
    monkeypatch.setattr(objects, "RANGE_BYTES", 4)
    store = Kept(Seen(size, '"e"', "v"), DATA[:size])
    with spot_of(store, URI + "?versionId=v").hold() as held:
        for _ in range(2):
            parts = list(iter(lambda: held.read(3), b""))
            assert b"".join(parts) == DATA[:size] and held.read(3) == b""
            assert all(len(part) <= 3 for part in parts)
            held.rewind()
        assert held.size == size and held.is_seen()
        assert held.read(0) == b"" and held.read(2) == DATA[:size][:2]
        held.rewind()  # the position is in the middle of a range
        assert held.read(3) == DATA[:size][:3]
    asked = [("a/key", span, '"e"', "v") for span in spans]
    assert store.asked[: 1 + 2 * len(spans)] == [("a/key", "v"), *asked, *asked]


def test_a_range_has_4_mib() -> None:
    assert objects.RANGE_BYTES == 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("seen", "data"),
    [(SEEN, DATA[:-1]), (SEEN, DATA + b"!"), (Seen(11, '"e"', "v"), DATA), (SEEN, b"")],
)
def test_an_object_of_another_length_is_not_the_one_that_was_opened(
    seen: Seen, data: bytes
) -> None:
    store = Kept()
    with spot_of(store).hold() as held:
        store.seen, store.data = seen, data
        with pytest.raises(BlockingIOError, match="changed after it was listed"):
            held.read(1)


@pytest.mark.parametrize(
    ("trouble", "number"),
    [
        *((Trouble.GONE, errno.ENOENT), (Trouble.DENIED, errno.EACCES)),
        *((Trouble.CHANGED, errno.EAGAIN), (Trouble.NAME, errno.EIO), (Trouble.OTHER, errno.EIO)),
    ],
)
def test_a_failure_of_a_store_is_an_error_of_the_system(trouble: Trouble, number: int) -> None:
    store = Kept()
    spot = spot_of(store)
    with spot.hold() as held:
        store.trouble = trouble
        with pytest.raises(OSError, match="so it is") as failed:
            held.read(1)
    assert (failed.value.errno, failed.value.filename) == (number, URI)
    if trouble is Trouble.GONE:
        assert spot.now() is None
        return
    for ask in (spot.now, held.is_unchanged, lambda: spot.look(ANY, None)):
        with pytest.raises(OSError, match="so it is") as failed:
            ask()
        assert (failed.value.errno, failed.value.filename) == (number, URI)


def test_a_missing_object_is_not_held() -> None:
    with pytest.raises(FileNotFoundError) as missing, spot_of(Kept(None)).hold():
        pass
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, URI)
    assert missing.value.strerror == os.strerror(errno.ENOENT)


@pytest.mark.parametrize(
    ("now", "is_unchanged"),
    [
        *((SEEN, True), (None, True), (Seen(9, '"e"', "v"), False)),
        *(
            (Seen(10, '"f"', "v"), False),
            (Seen(10, '"e"', "w"), False),
            (Seen(10, None, "v"), False),
        ),
    ],
)
def test_an_object_has_changed_if_another_one_has_its_name(
    now: Seen | None, is_unchanged: bool
) -> None:
    store = KeptS3()
    spot = spot_of(store)
    with spot.hold() as held:
        store.seen = now
        assert held.is_unchanged() is is_unchanged
        removed = spot.remove(held, "bcdfgh2345")
    if now is None:
        assert removed == Removed(done=True, remains=(GONE,))
    elif not is_unchanged:
        assert removed == Removed(done=False, why=OTHER)
    assert bool(store.called) == (now == SEEN)
    assert spot.look(ANY, None) is (Sight.NOTHING if now is None else Sight.OTHER)


ANY: Any = None
DELETED = Removed(done=True)
HELD = Removed(done=False, why=ON_HOLD, is_meant=True)
LEFT = Removed(done=False, why=NO_WAY)
ON = {"Key": "a/key", "LegalHold": {"Status": "ON"}}
NULL, NONE = Seen(10, '"e"', "null"), Seen(10, '"e"', None)
NO_ETAG = Seen(10, None, None)
OF_V, OF_NULL = {"VersionId": "v"}, {"VersionId": "null"}


@pytest.mark.parametrize(
    ("endpoint", "config", "seen", "removed", "called"),
    [
        (AMAZON, {}, SEEN, DELETED, ("delete_object", {"Key": "a/key", "VersionId": "v"})),
        (LIKE_S3, {}, SEEN, DELETED, ("delete_object", {"Key": "a/key", "VersionId": "v"})),
        (AMAZON, {}, NULL, DELETED, ("delete_object", {"Key": "a/key", "IfMatch": '"e"'})),
        (AMAZON, {}, NONE, DELETED, ("delete_object", {"Key": "a/key", "IfMatch": '"e"'})),
        (AMAZON, {}, NO_ETAG, LEFT, None),
        (LIKE_S3, {}, NULL, LEFT, None),
        (LIKE_S3, {}, NONE, LEFT, None),
        (
            *(LIKE_S3, {"conditional_delete": True}, NONE, DELETED),
            ("delete_object", {"Key": "a/key", "IfMatch": '"e"'}),
        ),
        (LIKE_S3, {"conditional_delete": True}, NO_ETAG, LEFT, None),
        *(
            (endpoint, {"isolate": "hold"}, seen, HELD, ("put_object_legal_hold", ON | more))
            for endpoint in (AMAZON, LIKE_S3)
            for seen, more in ((SEEN, OF_V), (NULL, OF_NULL), (NO_ETAG, {}))
        ),
    ],
)
def test_only_the_version_that_was_read_is_deleted(
    endpoint: str,
    config: dict[str, Any],
    seen: Seen,
    removed: Removed,
    called: tuple[str, dict[str, Any]] | None,
) -> None:
    store = KeptS3(seen, endpoint)
    spot = spot_of(store, **config)
    with spot.hold() as held:
        assert spot.remove(held, "bcdfgh2345") == removed
    assert store.called == ([] if called is None else [called])


@pytest.mark.parametrize("endpoint", [AMAZON, LIKE_S3])
def test_an_object_that_is_older_than_the_versions_of_its_bucket_is_not_only_hidden(
    endpoint: str,
) -> None:
    store = KeptS3(NULL, endpoint)
    store.versioning = "Enabled"
    spot = spot_of(store)
    with spot.hold() as held:
        assert spot.remove(held, "bcdfgh2345") == DELETED
    assert store.called == [("delete_object", {"Key": "a/key", "VersionId": "null"})]


@pytest.mark.parametrize("config", [{}, {"isolate": "hold"}, {"conditional_delete": True}])
def test_other_stores_only_keep_the_object(config: dict[str, Any]) -> None:
    spot = spot_of(Kept(), "gs://bu/a/key", **config)
    with spot.hold() as held:
        removed = spot.remove(held, "bcdfgh2345")
    assert removed == Removed(done=False, why=NO_WAY)
    assert removed.why.startswith("still in place: ")


@pytest.mark.parametrize(
    ("trouble", "removed"),
    [
        (Trouble.GONE, Removed(done=True, remains=(GONE,))),
        (Trouble.CHANGED, Removed(done=False, why=OTHER)),
        (Trouble.DENIED, Removed(done=False, why="still in place: so it is")),
        (Trouble.NAME, Removed(done=False, why="still in place: so it is")),
        (Trouble.OTHER, Removed(done=False, why="still in place: so it is")),
    ],
)
def test_a_failure_to_delete_says_what_is_there(trouble: Trouble, removed: Removed) -> None:
    store = KeptS3()
    spot = spot_of(store)
    with spot.hold() as held:
        store.trouble = trouble
        assert spot.remove(held, "bcdfgh2345") == removed


def test_a_restored_object_is_private_to_the_user_who_restores_it() -> None:
    spot = spot_of(Kept())
    with spot.hold() as held:
        origin = spot.origin(held)
    assert (origin.device, origin.inode, origin.directory_inode, origin.links) == (0, 0, 0, 1)
    assert (origin.mode, origin.uid, origin.gid) == (0o600, os.getuid(), os.getgid())
    assert (origin.atime_ns, origin.mtime_ns, origin.xattrs) == (0, 0, {})


def test_a_deletion_has_one_step_and_leaves_nothing() -> None:
    spot = spot_of(Kept())
    steps: list[Callable[[], object]] = [
        lambda: spot.settle("bcdfgh2345", lambda _: True),
        lambda: spot.leave_tombstone(ANY),
        spot.names,
    ]
    assert [step() for step in steps] == [None, None, None]


def test_each_bucket_is_opened_once_with_its_own_settings() -> None:
    configured = {"s3://bu": ObjectsConfig(isolate="hold")}
    isolator = Objects(configured)
    found = []
    for locator in ("s3://bu/a?versionId=v", "s3://bu/b", "gs://bu/a", "s3://other/a"):
        with isolator.open(locator, None) as spot:
            assert isinstance(spot, ObjectSpot)
            found.append(spot)
    one, same, google, other = found
    assert one.store is same.store
    assert len({id(spot.store) for spot in found}) == 3
    assert (one.uri, same.uri) == (parse_uri("s3://bu/a?versionId=v"), parse_uri("s3://bu/b"))
    assert (google.store.text, other.store.text) == ("gs://bu", "s3://other")
    assert [spot._config.isolate for spot in found] == ["hold", "hold", "delete", "delete"]


@pytest.mark.parametrize(
    ("store", "said"),
    [(Kept(), ["an object is at its URI"]), (Kept(None), [])],
)
def test_an_officer_is_told_whether_an_object_is_there(
    monkeypatch: pytest.MonkeyPatch, store: Store, said: list[str]
) -> None:
    monkeypatch.setattr(objects, "open_store", lambda _: store)
    item: Item = SimpleNamespace(file=URI)  # type: ignore[assignment]
    assert Objects({}).whereabouts(item) == said


@pytest.mark.parametrize(
    "error", [StoreError(Trouble.DENIED, "so it is"), UsageError("so it is", hint="none")]
)
def test_an_officer_is_told_that_a_bucket_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def head(*_: object) -> Seen:
        raise error

    store = Kept()
    monkeypatch.setattr(store, "head", head)
    monkeypatch.setattr(objects, "open_store", lambda _: store)
    item: Item = SimpleNamespace(file=URI)  # type: ignore[assignment]
    assert Objects({}).whereabouts(item) == ["its bucket cannot be looked at: so it is"]


def test_files_and_objects_have_their_own_isolators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Kept()
    monkeypatch.setattr(objects, "open_store", lambda _: store)
    everywhere = Everywhere({"s3://bu": ObjectsConfig(isolate="hold")})
    (tmp_path / "f").touch()
    with everywhere.open(str(tmp_path / "f"), None) as file:
        assert isinstance(file, FileSpot)
    # The libraries for objects are large, and most machines have no objects.
    assert vars(everywhere)["_objects"] is None
    spots = []
    for _ in range(2):
        with everywhere.open(URI, None) as spot:
            assert isinstance(spot, ObjectSpot) and spot._config.isolate == "hold"
            spots.append(spot)
        assert vars(everywhere)["_objects"] is not None
    assert spots[0].store is spots[1].store is store
    item: Item = SimpleNamespace(file=URI)  # type: ignore[assignment]
    assert everywhere.whereabouts(item) == ["an object is at its URI"]
