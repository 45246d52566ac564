"""Lists the objects in a bucket, page by page.

1. A URI names an object and all objects below it, as a path names a file or a folder; a URI with a
   slash at its end names only the objects below it.
2. botocore lists the buckets of S3, and the module `exact` lists the buckets of Google and Azure.
3. Keys are listed in the order of their bytes. If a key is out of order, the store probably repeats
   keys, and the listing ends with an error.

Limits: directory buckets of S3 are not sorted, so their listing ends early. If a proxy is set,
obstore alone lists the buckets of Google and Azure: it drops a slash at the beginning or the end of
a key, takes any answer of Google for the last page, and keeps a page of any length in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from hashclient.core.errors import UsageError
from hashclient.core.objecturi import ObjectUri
from hashclient.objects.failures import StoreError, Trouble
from hashclient.objects.interface import Store
from hashclient.objects.others import Other, listed
from hashclient.objects.pages import page_of
from hashclient.objects.ranges import is_plain
from hashclient.objects.s3 import S3

#: The number of pages that are joined into one page.
TOGETHER = 4
#: The most empty pages in a listing; a store may return empty pages after many deletions.
MAX_EMPTY = 1_000
REPEATED = "the store repeats keys that it has listed"
NO_SUCH_VERSION = "there is no such version"
UNNAMABLE = "a key comes next that its client cannot name"


class ListingEndedError(Exception):
    """A listing stopped before its end; the error's text says why."""


def list_pages(
    store: Store,
    uri: ObjectUri,
    *,
    after: str | None = None,
    all_versions: bool = False,
    alone: bool = False,
) -> Iterator[Any]:
    """Yield pages of the objects that `uri` names, sorted by key; leave out keys up to `after`.

    With `all_versions`, each version of an object is a row; delete markers are left out. With
    `alone`, the objects below the named object are left out.

    Raises:
        ListingEndedError: the listing stopped before its end, or could not begin.
        UsageError: the store cannot list versions.
    """
    if all_versions and store.scheme != "s3":
        raise UsageError(
            f"versions are listed of S3 only: {uri.text}", hint="leave out --all-versions"
        )
    if alone or uri.version is not None:
        pages = _page_of_one(store, uri, must=not alone)
    else:
        pages = _in_order(
            _pages(store, uri, after, all_versions=all_versions),
            store,
            all_versions=all_versions,
        )
    try:
        yield from _together(pages)
    except StoreError as error:
        raise ListingEndedError(error.reason) from None


def _together(pages: Iterator[Any]) -> Iterator[Any]:
    """Yield the first page at once.

    Later pages are joined into larger pages, which are cheaper to process.

    An error that ends the listing early is raised after all pages before the error were yielded.
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


def _in_order(pages: Iterator[Any], store: Store, *, all_versions: bool) -> Iterator[Any]:
    """Yield the pages that have rows, and check the order of keys.

    Raises:
        ListingEndedError: keys are out of order, or too many pages are empty.
    """
    floor, empty = None, 0
    for page in pages:
        if not page.num_rows:
            empty += 1
            if empty > MAX_EMPTY:
                raise ListingEndedError(REPEATED)
            continue
        keys = page.column("key")
        begin = keys[0].as_py()
        # Two pages may have the same key if all versions are listed: the versions of one key may
        # fill more than a page.
        is_back = floor is not None and begin < floor and store.sorts_by_bytes
        if is_back or (begin == floor and not all_versions):
            raise ListingEndedError(REPEATED)
        # The first key of the page is compared, because the last key may lack a slash that obstore
        # has dropped.
        floor = keys[-1].as_py() if store.scheme == "s3" else begin
        yield page


def _page_of_one(store: Store, uri: ObjectUri, *, must: bool = False) -> Iterator[Any]:
    """Yield a page with the object that `uri` names.

    If the object does not exist, yield nothing; with `must`, yield the object as unreadable.
    """
    row: list[Any] = [uri.key, 0, None, uri.version, None]
    try:
        seen = store.head(uri.key, uri.version)
        # If another version becomes the latest before the object is read, the read fails, because
        # the ETag differs.
        row[1:3] = seen.size, seen.etag
    except StoreError as error:
        if error.trouble is Trouble.GONE and not must:
            return
        if error.trouble not in (Trouble.GONE, Trouble.DENIED, Trouble.NAME):
            raise  # any other error ends the listing
        row[4] = NO_SUCH_VERSION if error.trouble is Trouble.GONE else error.reason
    yield page_of([tuple(row)])


def _pages(store: Store, uri: ObjectUri, after: str | None, *, all_versions: bool) -> Iterator[Any]:
    """Yield pages of the object that `uri` names, and of the objects below this object."""
    # For the URI of `a`, the keys with the prefix `a/` are listed, and the object `a` is requested
    # by itself, because the prefix `a` would also match the key `ab`.
    prefix = uri.key if not uri.key or uri.key.endswith("/") else uri.key + "/"
    is_one = prefix != uri.key and (after is None or os.fsencode(after) < os.fsencode(uri.key))
    if not isinstance(store, S3):
        assert isinstance(store, Other)
        if is_one:
            yield from _page_of_one(store, uri)
        yield from _pages_of_other(store, prefix, after)
        return
    if is_one and all_versions:
        for rows in store.versions(uri.key, None):
            own = [row for row in rows if row[0] == uri.key]
            yield page_of(own)
            if len(own) < len(rows):
                break
    elif is_one:
        yield from _page_of_one(store, uri)
    if all_versions:
        yield from map(page_of, store.versions(prefix, after))
    else:
        yield from store.pages(prefix, after)


def _pages_of_other(store: Other, prefix: str, after: str | None) -> Iterator[Any]:
    """Yield pages of Google or Azure: by `exact`, or by obstore alone if a proxy is set.

    Raises:
        StoreError: the store failed.
        ListingEndedError: a proxy is set, and obstore cannot represent a key.
    """
    from hashclient.objects.exact import NoExactListingError, exact_pages, has_proxy

    try:
        if has_proxy() and (after is None or is_plain(after)) and prefix[:1] != "/":
            try:
                yield from listed(store.client, prefix, after)
                return
            except StoreError as error:
                if error.trouble is not Trouble.NAME:
                    raise
        yield from exact_pages(store, prefix, after)
    except NoExactListingError:
        raise ListingEndedError(UNNAMABLE) from None
