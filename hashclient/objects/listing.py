"""Lists the objects in a bucket, page by page.

1. A URI names an object and all objects below it, as a path names a file or a folder; a URI with a
   slash at its end names only the objects below it.
2. botocore lists the buckets of S3, and obstore lists the buckets of Google and Azure. The module
   `exact` lists pages of Google and Azure that have a key which obstore cannot name, and buckets
   that have keys which begin with a slash.
3. Keys are listed in the order of their bytes. A key that is out of order means that the store
   repeats keys, and ends the listing.

Limits: directory buckets of S3 are not sorted, so their listing ends early. obstore drops a slash
at the end of a key. If a proxy is set, obstore also drops a slash at the beginning of a key, and
this module cannot confirm that a listing of Google was complete.
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

#: How many pages are joined into one page.
TOGETHER = 4
#: How many empty pages a listing may have, for example after many deletions.
MAX_EMPTY = 1_000
REPEATED = "the store repeats keys that it has listed"
UNNAMABLE = "a key comes next that its client cannot name"


class ListingEndedError(Exception):
    """A listing stopped before its end; the error's text says why."""


def list_pages(
    store: Store, uri: ObjectUri, *, after: str | None = None, all_versions: bool = False
) -> Iterator[Any]:
    """Yield pages of the objects that `uri` names, sorted by key; keys up to `after` are left out.

    With `all_versions`, each version of an object is a row; delete markers are left out.

    Raises:
        ListingEndedError: the listing stopped before its end, or could not begin.
        UsageError: the store cannot list versions.
    """
    if all_versions and store.scheme != "s3":
        raise UsageError(
            f"versions are listed of S3 only: {uri.text}", hint="leave out --all-versions"
        )
    if uri.version is not None:
        pages = _page_of_one(store, uri)
    else:
        pages = _in_order(
            _pages(store, uri, after, all_versions=all_versions),
            store.scheme,
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


def _in_order(pages: Iterator[Any], scheme: str, *, all_versions: bool) -> Iterator[Any]:
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
        # Azure sorts keys differently. With all versions, the versions of one key may fill more
        # than a page.
        is_back = floor is not None and begin < floor and scheme != "az"
        if is_back or (begin == floor and not all_versions):
            raise ListingEndedError(REPEATED)
        # The last key of a page of obstore may lack its slash, so the first key is compared.
        floor = keys[-1].as_py() if scheme == "s3" else begin
        yield page


def _page_of_one(store: Store, uri: ObjectUri) -> Iterator[Any]:
    """Yield a page with the object that `uri` names; yield nothing if the object does not exist."""
    row: list[Any] = [uri.key, 0, None, uri.version, None]
    try:
        seen = store.head(uri.key, uri.version)
        # If the latest version changes before the object is read, the ETag is different.
        row[1:3] = seen.size, seen.etag
    except StoreError as error:
        if error.trouble is Trouble.GONE:
            return
        if error.trouble not in (Trouble.DENIED, Trouble.NAME):
            raise  # any other error ends the listing
        row[4] = error.reason
    yield page_of([tuple(row)])


def _pages(store: Store, uri: ObjectUri, after: str | None, *, all_versions: bool) -> Iterator[Any]:
    """Yield pages of the object that `uri` names, and of the objects below this object."""
    # The prefix `a` would also match the key `ab`, so the keys below `a/` are listed, and the
    # object `a` is requested singly.
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
    """Yield the pages of obstore; if obstore fails at a key, yield the remaining pages of `exact`.

    Raises:
        StoreError: the store failed.
        ListingEndedError: a key can be listed neither by obstore nor by `exact`.
    """
    from hashclient.objects.exact import (
        NoExactListingError,
        exact_pages,
        has_leading_slash,
        has_proxy,
    )

    try:
        is_plain_so_far = after is None or is_plain(after)
        if is_plain_so_far and not (has_leading_slash(store) if not prefix else prefix[0] == "/"):
            confirms = store.scheme == "gs" and not has_proxy()
            highest = os.fsencode(after or prefix.rstrip("/"))
            try:
                for page in listed(store.client, prefix, after):
                    after = os.fsdecode(page.column("key")[-1].as_py())
                    if confirms:
                        highest = max(highest, *page.column("key").to_pylist())
                    yield page
                if confirms:
                    yield from _behind(store, prefix, highest)
                return
            except StoreError as error:  # `exact` lists the keys of the failed page
                if error.trouble is not Trouble.NAME:
                    raise
        yield from exact_pages(store, prefix, after)
    except NoExactListingError:
        raise ListingEndedError(UNNAMABLE) from None


def _behind(store: Other, prefix: str, last: bytes) -> Iterator[Any]:
    """Yield pages of the keys after `last`, the last key of obstore's listing.

    Usually, no key follows.

    obstore takes any XML answer of Google for the last page, but `exact` only accepts pages.

    Raises:
        StoreError, NoExactListingError: see `exact_pages`.
    """
    from hashclient.objects.exact import exact_pages

    for page in exact_pages(store, prefix, os.fsdecode(last)):
        # obstore has already listed keys that end with a slash, but without the slash.
        is_new = [key.rstrip(b"/") > last for key in page.column("key").to_pylist()]
        yield page.filter(pa.array(is_new, pa.bool_()))
