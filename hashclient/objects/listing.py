"""The objects in a bucket, page by page, as columns: no Python object is made for a single row.

1. A URI names one object and all objects below it, as a path names a file or a folder; with a slash
   at its end, only the objects below.
2. obstore lists, at a tenth of the cost of botocore. It fails at a key that is no path to it, and
   returns other keys without the slash at their beginning. So botocore lists a bucket of S3 that
   has such keys, from the last key that obstore gave; in other stores `exact` does.
3. Keys come in the order of their bytes. If a key goes back, the store repeats itself: the listing
   ends then, incomplete.

Limits: directory buckets of S3 have no order. obstore drops a slash at the end of a key: `scan` of
S3 looks for both keys. In other stores it may also drop one at the beginning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from hashclient.core.objecturi import ObjectUri
from hashclient.errors import UsageError
from hashclient.objects.clients import is_plain
from hashclient.objects.failures import StoreError, Trouble, of_obstore
from hashclient.objects.s3 import S3
from hashclient.objects.stores import Store

#: Objects a page: as many as a store gives at a time.
PAGE_OBJECTS = 1_000
#: So many pages are joined into one.
TOGETHER = 4
#: So many pages may be empty: after many deletions, say.
MAX_EMPTY = 1_000
REPEATED = "the store repeats keys that it has listed"
UNNAMABLE = "a key comes next that its client cannot name"

#: One object a row, its ETag with or without quotes; `note` says why it cannot be read, if that is
#: known already.
SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(), nullable=False),
        pa.field("size", pa.uint64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("version", pa.string()),
        pa.field("note", pa.string()),
    ]
)


class ListingEndedError(Exception):
    """A listing ended before its end; the text says why."""


def page_of(rows: Sequence[tuple[str, int, str | None, str | None, str | None]]) -> Any:
    """Return a page of rows, each as `SCHEMA` has it; keys are decoded with surrogateescape."""
    keys, *columns = zip(*rows, strict=True) if rows else ((),) * len(SCHEMA)
    arrays = [pa.array([os.fsencode(key) for key in keys], pa.binary())]
    for values, field in zip(columns, list(SCHEMA)[1:], strict=True):
        arrays.append(pa.array(values, field.type))
    return pa.record_batch(arrays, schema=SCHEMA)


def list_pages(
    store: Store, uri: ObjectUri, *, after: str | None = None, all_versions: bool = False
) -> Iterator[Any]:
    """Yield pages of the objects that `uri` names, in the order of keys; only those behind `after`.

    With `all_versions`, each version of an object is a row, except marks of deletion.

    Raises:
        ListingEndedError: it ended before its end, or could not begin.
        UsageError: the store has no list of versions.
    """
    if all_versions and store.scheme != "s3":
        raise UsageError(
            f"versions are listed of S3 only: {uri.text}", hint="leave out --all-versions"
        )
    try:
        if uri.version is not None:
            yield _page_of_one(store, uri)
            return
        if all_versions and store.s3 is not None:
            yield from _together(_pages_of_s3(store.s3, uri, after, all_versions=True))
            return
        if uri.key and not uri.key.endswith("/") and (after is None or after < uri.key):
            page = _page_of_one(store, uri)
            if page.num_rows:
                yield page
        # obstore goes on behind another key than a given one that is no path to it.
        is_exact = after is not None and not is_plain(after)
        if store.scheme == "s3" and (is_exact or _has_leading_slash(store, uri)) and store.s3:
            yield from _together(_pages_of_s3(store.s3, uri, after))
            return
        yield from _together(_pages(store, uri, after))
    except StoreError as error:
        raise ListingEndedError(error.reason) from None


def _together(pages: Iterator[Any]) -> Iterator[Any]:
    """Yield the first page, and then several joined into one, which costs less.

    An error that ends the pages early is raised after all earlier pages.
    """
    waiting: list[Any] = []
    try:
        for number, page in enumerate(pages):
            waiting.append(page)
            if number == 0 or len(waiting) == TOGETHER:
                yield pa.concat_batches(waiting)
                waiting.clear()
    except (StoreError, ListingEndedError):
        if waiting:
            yield pa.concat_batches(waiting)
        raise
    if waiting:
        yield pa.concat_batches(waiting)


def _page_of_one(store: Store, uri: ObjectUri) -> Any:
    """Return a page with the object that `uri` names; an empty page if there is none."""
    try:
        seen = store.head(uri)
    except StoreError as error:
        if error.trouble is Trouble.DENIED:  # it may be there
            return page_of([(uri.key, 0, None, uri.version, error.reason)])
        if error.trouble is Trouble.GONE:
            return page_of([])
        if error.trouble is Trouble.NAME and store.scheme != "s3":
            return page_of([(uri.key, 0, None, uri.version, error.reason)])
        raise
    # The latest version may change until it is read: the ETag shows that.
    return page_of([(uri.key, seen.size, seen.etag, uri.version, None)])


def _prefix_of(uri: ObjectUri) -> str:
    return uri.key if not uri.key or uri.key.endswith("/") else uri.key + "/"


def _has_leading_slash(store: Store, uri: ObjectUri) -> bool:
    """Return whether obstore would leave out the beginning of some key."""
    return uri.key.startswith("/") if uri.key else store.has_leading_slash()


def _pages(store: Store, uri: ObjectUri, after: str | None) -> Iterator[Any]:
    """Yield pages as obstore lists them, and the rest with exact keys where it cannot.

    obstore drops the keys of a page in which it fails: they are listed again. It also drops a slash
    at the beginning of a key, which then comes elsewhere in the order: it cannot be said behind
    which key the listing goes on. So where there are such keys all are listed again, or the listing
    ends if some of them were returned.
    """
    is_other = store.scheme != "s3"
    if uri.key.startswith("/") or (is_other and after is not None and not is_plain(after)):
        yield from _exact_pages(store, uri, after)
        return
    if is_other and after is not None and not uri.key:
        slashes = _any_leading_slash(store)
        if slashes:
            yield from _exact_pages(store, uri, None)
            return
        if slashes is None:
            after = None
    first = None
    try:
        for chunk in _chunks(store, uri, after):
            begin = chunk.column("key")[0].as_py()
            if first is not None and (begin == first if store.scheme == "az" else begin <= first):
                raise ListingEndedError(REPEATED)
            first, after = begin, os.fsdecode(chunk.column("key")[-1].as_py())
            yield chunk
    except (StoreError, ListingEndedError) as error:
        if store.s3 is not None:
            yield from _pages_of_s3(store.s3, uri, after)
        elif isinstance(error, StoreError) and error.trouble is Trouble.NAME:
            if first is not None and not uri.key and _any_leading_slash(store) is not False:
                raise ListingEndedError(UNNAMABLE) from None
            yield from _exact_pages(store, uri, after)
        else:
            raise


def _any_leading_slash(store: Store) -> bool | None:
    """Return whether a key of a store of Google or Azure begins with a slash; None if unknown."""
    from hashclient.objects.exact import PageError, exact_rows

    try:
        for rows in exact_rows(store.scheme, store.bucket, store.endpoint, "", None):
            for key, *_ in rows:
                if key.startswith("/"):
                    return True
                if key > "0":  # all others come before
                    return False
    except (PageError, StoreError):
        return None
    return False


def _exact_pages(store: Store, uri: ObjectUri, after: str | None) -> Iterator[Any]:
    """Yield pages of a store of Google or Azure whose keys obstore cannot name.

    Raises:
        StoreError: the store failed.
        ListingEndedError: it repeats itself, or a key cannot be listed at all.
    """
    from hashclient.objects.exact import PageError, exact_rows

    first, empty = None, 0
    try:
        for rows in exact_rows(store.scheme, store.bucket, store.endpoint, _prefix_of(uri), after):
            if not rows:
                empty += 1
                if empty > MAX_EMPTY:
                    raise ListingEndedError(REPEATED)
                continue
            begin = os.fsencode(rows[0][0])
            if first is not None and (begin == first if store.scheme == "az" else begin <= first):
                raise ListingEndedError(REPEATED)
            first = begin
            yield page_of([(*row, None, None) for row in rows])
    except PageError:
        raise ListingEndedError(UNNAMABLE) from None


def _chunks(store: Store, uri: ObjectUri, after: str | None) -> Iterator[Any]:
    """Yield pages of obstore's listing.

    Raises:
        StoreError: the store failed, or there is a key that obstore cannot name.
    """
    import obstore
    from obstore.exceptions import BaseError

    prefix = _prefix_of(uri)
    try:
        stream = obstore.list(
            store.store,
            prefix or None,
            offset=after,
            chunk_size=PAGE_OBJECTS,
            return_arrow=True,
        )
        for chunk in stream:
            batch = pa.record_batch(chunk)
            if batch.num_rows:
                columns = [
                    batch.column("path").cast(pa.binary()),
                    batch.column("size"),
                    batch.column("e_tag").cast(pa.string()),
                    batch.column("version").cast(pa.string()),
                    pa.nulls(batch.num_rows, pa.string()),
                ]
                yield pa.record_batch(columns, schema=SCHEMA)
    except (BaseError, OSError, ValueError) as error:
        raise of_obstore(error) from None


def _pages_of_s3(
    s3: S3, uri: ObjectUri, after: str | None, *, all_versions: bool = False
) -> Iterator[Any]:
    """Yield pages of botocore's listing, which has every key exactly.

    Raises:
        StoreError: the store failed.
        ListingEndedError: it repeats itself.
    """
    # The prefix `a` would also match `ab`: so list the keys below, and ask for the object itself.
    prefix = _prefix_of(uri)
    last = None if after is None else os.fsencode(after)
    if prefix != uri.key and all_versions and (last is None or last < os.fsencode(uri.key)):
        for rows in _versions(s3, uri.key, None):
            own = [row for row in rows if row[0] == uri.key]
            if own:
                yield page_of(own)
            if len(own) < len(rows):
                break
    empty = 0
    rows_of = _versions(s3, prefix, after) if all_versions else _objects(s3, prefix, after)
    for rows in rows_of:
        if not rows:
            empty += 1
            if empty > MAX_EMPTY:
                raise ListingEndedError(REPEATED)
            continue
        begin, end = os.fsencode(rows[0][0]), os.fsencode(rows[-1][0])
        # The versions of one key may fill more than a page.
        if last is not None and (begin < last or (begin == last and not all_versions)):
            raise ListingEndedError(REPEATED)
        last = end
        yield page_of(rows)


def _objects(s3: S3, prefix: str, after: str | None) -> Iterator[list[Any]]:
    more: dict[str, Any] = {} if after is None else {"StartAfter": after}
    while True:
        got = s3.call("list_objects_v2", Prefix=prefix, **more)
        yield [(o["Key"], o["Size"], o.get("ETag"), None, None) for o in got.get("Contents", ())]
        if not got.get("IsTruncated"):
            return
        more = {"ContinuationToken": got["NextContinuationToken"]}


def _versions(s3: S3, prefix: str, after: str | None) -> Iterator[list[Any]]:
    more: dict[str, Any] = {} if after is None else {"KeyMarker": after}
    marker = None
    while True:
        got = s3.call("list_object_versions", Prefix=prefix, **more)
        yield [
            (o["Key"], o["Size"], o.get("ETag"), o.get("VersionId"), None)
            for o in got.get("Versions", ())
        ]
        if not got.get("IsTruncated"):
            return
        more = {"KeyMarker": got["NextKeyMarker"]}
        if got.get("NextVersionIdMarker"):
            more["VersionIdMarker"] = got["NextVersionIdMarker"]
        if more == marker:
            raise ListingEndedError(REPEATED)
        marker = more
