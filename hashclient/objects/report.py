"""Reads the names of objects from a report: an S3 Inventory, or a table of keys and sizes.

1. An S3 Inventory is given by its `manifest.json`, which names the bucket, the columns, and the
   files of the report with their MD5s. Each file of the inventory is downloaded into a file without
   a name, compared with its MD5, and read in batches of rows. The format of an inventory is
   Parquet, or CSV with keys that are escaped as in a URL.
2. Any other report is one Parquet or CSV file, which is given by a path or a URI. A report in one
   file has the columns `key` and `size`, and possibly `etag` and `version`; its keys are not
   escaped.
3. Versions that the report marks as earlier ones are left out, unless all versions are wanted;
   delete markers are left out.

A report may describe an earlier state of the bucket. If an object has changed since the report was
made, the read of the object detects this, and the object counts as unread.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from hashclient.core.errors import UsageError
from hashclient.core.objecturi import ObjectUri, is_object_uri, parse_uri
from hashclient.objects.failures import StoreError
from hashclient.objects.interface import Store
from hashclient.objects.listing import ListingEndedError
from hashclient.objects.pages import page_of_columns
from hashclient.objects.s3 import S3
from hashclient.objects.stores import open_store
from hashclient.system.files import open_at_once, read_regular, refuse_irregular
from hashclient.system.text import printable

#: Matches the key or the path of the manifest of an S3 Inventory.
_MANIFEST = re.compile(r"(?:.*/)?manifest\.json", re.DOTALL)
MAX_MANIFEST_BYTES = 16 << 20
MAX_TABLE_BYTES = 1 << 40
#: The number of rows of a report that are read together.
ROWS = 50_000
_RANGE_BYTES = 16 << 20
_BLOCK_BYTES = 4 << 20

NO_SIZE = "the report does not say how long it is"
DAMAGED = "the report cannot be read: {}"

#: By the lower-case name of a column in a report: what the column contains. Columns with other
#: names are ignored.
_COLUMNS = {
    "key": "key",
    "size": "size",
    **dict.fromkeys(("etag", "e_tag"), "etag"),
    **dict.fromkeys(("versionid", "version_id", "version"), "version"),
    **dict.fromkeys(("islatest", "is_latest"), "latest"),
    **dict.fromkeys(("isdeletemarker", "is_delete_marker"), "marker"),
    "bucket": "bucket",
}


class _File(msgspec.Struct, frozen=True):
    key: str
    size: int
    md5: str = msgspec.field(name="MD5checksum")


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    source_bucket: str
    destination_bucket: str
    file_format: str
    file_schema: str
    files: tuple[_File, ...]


class Report:
    """A report of the objects in one bucket."""

    def __init__(self, where: str, uri: ObjectUri | None, *, make_file: Callable[[], int]) -> None:
        """Read the manifest at `where`, or remember `where` as the place of a table.

        `where` is a path or a URI. `uri` is the bucket that a table describes. `make_file` returns
        the descriptor of a new empty file.

        Raises:
            UsageError: the report cannot be read, or its bucket is unknown.
        """
        self._where = where
        self._make_file = make_file
        self._manifest: _Manifest | None = None
        if _MANIFEST.fullmatch(where):
            self._manifest = self._read_manifest()
            found = parse_uri(f"s3://{self._manifest.source_bucket}/")
            if uri is not None and uri != found:
                raise UsageError(
                    f"the report is of {found.bucket_text}, not of {uri.text}",
                    hint="leave the URI out",
                )
            self.uri = found
        elif uri is None or uri.key or uri.version is not None:
            raise UsageError(
                f"the bucket of the report is unknown: {printable(where)}",
                hint="give the bucket besides, as s3://BUCKET/",
            )
        else:
            self.uri = uri

    def _read_manifest(self) -> _Manifest:
        try:
            if is_object_uri(self._where):
                uri = parse_uri(self._where)
                found = bytearray()
                _fetch(open_store(uri), uri.key, uri.version, MAX_MANIFEST_BYTES, found.extend)
                data = bytes(found)
            else:
                data = read_regular(Path(self._where), MAX_MANIFEST_BYTES)
            return msgspec.json.decode(data, type=_Manifest)
        except StoreError as error:
            raise _unusable(self._where, error.reason) from None
        except OSError as error:
            raise _unusable(self._where, (error.strerror or "it fails").lower()) from error
        except (ValueError, RecursionError) as error:
            raise _unusable(self._where, "it is no manifest of S3 Inventory") from error

    def pages(self, *, all_versions: bool) -> Iterator[Any]:
        """Yield the objects of the report, as pages with the columns of `pages.SCHEMA`.

        Raises:
            ListingEndedError: the report cannot be read to its end.
        """
        try:
            for batch, escaped in self._batches():
                page = self._page(batch, escaped=escaped, all_versions=all_versions)
                if page.num_rows:
                    yield page
        except StoreError as error:
            raise ListingEndedError(DAMAGED.format(error.reason)) from None
        except (OSError, ValueError, pa.ArrowException) as error:
            # The text of an Arrow error is not passed on, because it may contain any part of the
            # file.
            known = error.strerror if isinstance(error, OSError) and error.strerror else "damaged"
            raise ListingEndedError(DAMAGED.format(known.lower())) from None

    def _batches(self) -> Iterator[tuple[Any, bool]]:
        manifest = self._manifest
        if manifest is None:
            yield from ((batch, False) for batch in self._table())
            return
        arn = manifest.destination_bucket.rpartition(":")[2]
        store = S3(arn)
        names = [name.strip() for name in manifest.file_schema.split(",")]
        for file in manifest.files:
            fd = self._make_file()
            try:
                self._fetch_file(store, file, fd)
                source = pa.memory_map(f"/proc/self/fd/{fd}")
                if manifest.file_format.lower() == "parquet":
                    yield from ((batch, False) for batch in _parquet(source))
                elif manifest.file_format.lower() == "csv":
                    stream = pa.input_stream(source, compression="gzip")
                    yield from ((batch, True) for batch in _csv(stream, names))
                else:
                    raise ListingEndedError(DAMAGED.format("it is neither Parquet nor CSV"))
            finally:
                os.close(fd)

    def _fetch_file(self, store: Store, file: _File, fd: int) -> None:
        md5 = hashlib.md5(usedforsecurity=False)

        def sink(chunk: memoryview) -> None:
            md5.update(chunk)
            while chunk:
                chunk = chunk[os.write(fd, chunk) :]

        _fetch(store, file.key, None, file.size, sink)
        if md5.hexdigest() != file.md5.lower():
            raise ListingEndedError(DAMAGED.format("a file of it differs from its manifest"))

    def _table(self) -> Iterator[Any]:
        """Yield the batches of a table, which is a local file or an object."""
        with self._open_table() as stream:
            is_parquet = stream.read(4) == b"PAR1"
            stream.seek(0)
            if is_parquet:
                yield from _parquet(pa.PythonFile(stream))
            else:
                packed = "gzip" if self._where.endswith(".gz") else None
                yield from _csv(pa.input_stream(stream, compression=packed), None)

    def _open_table(self) -> IO[bytes]:
        if not is_object_uri(self._where):
            path = Path(self._where)
            refuse_irregular(path)
            return open_at_once(path)
        uri = parse_uri(self._where)
        stream = os.fdopen(self._make_file(), "w+b")
        try:
            _fetch(open_store(uri), uri.key, uri.version, MAX_TABLE_BYTES, stream.write)
            stream.seek(0)
        except BaseException:
            stream.close()
            raise
        return stream

    def _page(self, batch: Any, *, escaped: bool, all_versions: bool) -> Any:
        names = (_COLUMNS.get(name.lower()) for name in batch.schema.names)
        columns = {name: c for name, c in zip(names, batch.columns, strict=True) if name}
        if "bucket" in columns:
            of_bucket = pc.equal(columns["bucket"].cast(pa.string()), self.uri.bucket)
            if not pc.all(pc.fill_null(of_bucket, fill_value=False)).as_py():
                raise ListingEndedError(DAMAGED.format("it has rows of another bucket"))
        rows = pa.record_batch(list(columns.values()), names=list(columns))
        if "marker" in columns:
            rows = rows.filter(pc.invert(_are(rows.column("marker"), "true")))
        if "latest" in columns and not all_versions:
            rows = rows.filter(pc.invert(_are(rows.column("latest"), "false")))
        keys = rows.column("key").cast(pa.binary())
        if keys.null_count:
            raise ListingEndedError(DAMAGED.format("it has rows without a key"))
        sizes = _sizes(rows.column("size"))
        texts: dict[str, Any] = {
            n: _texts(rows.column(n)) for n in ("etag", "version") if n in columns
        }
        if sizes.null_count:
            texts["note"] = pc.if_else(pc.is_null(sizes), NO_SIZE, pa.scalar(None, pa.string()))
        keys = _unescaped(keys) if escaped else keys
        return page_of_columns(rows.num_rows, key=keys, size=pc.fill_null(sizes, 0), **texts)


def _unusable(where: str, why: str) -> UsageError:
    return UsageError(
        f"cannot read the report {printable(where)}: {why}",
        hint="give the manifest.json of an S3 Inventory, or a table with columns key and size",
    )


def _fetch(
    store: Store, key: str, version: str | None, most: int, sink: Callable[[memoryview], Any]
) -> None:
    """Pass all bytes of an object to `sink`; an object with more than `most` bytes is refused.

    Raises:
        StoreError: the object cannot be read.
        ValueError: the object is longer than `most`, or a range has a wrong length.
    """
    count = 0

    def counted(chunk: memoryview) -> None:
        nonlocal count
        count += len(chunk)
        sink(chunk)

    seen = store.head(key, version)
    if seen.size > most:
        raise ValueError("too long")
    for start in range(0, seen.size, _RANGE_BYTES):
        stop = min(start + _RANGE_BYTES, seen.size)
        store.read(
            key,
            None if stop - start == seen.size else (start, stop),
            counted,
            etag=seen.etag,
            version=seen.version,
        )
        if count != stop:
            raise ValueError("another length")


def _parquet(source: Any) -> Iterator[Any]:
    import pyarrow.parquet as pq  # imported late to save memory

    with pq.ParquetFile(source) as file:
        _refuse_other(file.schema_arrow.names)
        columns = [name for name in file.schema_arrow.names if name.lower() in _COLUMNS]
        yield from file.iter_batches(batch_size=ROWS, columns=columns)


def _csv(stream: Any, names: list[str] | None) -> Iterator[Any]:
    import pyarrow.csv

    reading = pyarrow.csv.ReadOptions(column_names=names, block_size=_BLOCK_BYTES)
    converting = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names or sorted(_COLUMNS), pa.string()),
        strings_can_be_null=False,
        include_columns=None if names is None else [n for n in names if n.lower() in _COLUMNS],
    )
    with pyarrow.csv.open_csv(stream, reading, convert_options=converting) as reader:
        _refuse_other(reader.schema.names)
        yield from reader


def _refuse_other(names: Sequence[str]) -> None:
    """Refuse a table that has no column `key` or no column `size`, even if the table has no rows.

    Raises:
        ListingEndedError: the table has no column `key` or no column `size`.
    """
    if not {"key", "size"} <= {_COLUMNS.get(name.lower()) for name in names}:
        raise ListingEndedError(DAMAGED.format("it has no columns key and size"))


def _are(column: Any, word: str) -> Any:
    """Return for each value of a column whether it is `word`: a boolean, or text as in a CSV file.

    A row that says neither `true` nor `false` is checked: it may be an object.
    """
    column = pc.equal(pc.utf8_lower(column.cast(pa.string())), word)
    return pc.fill_null(column, fill_value=False)


def _sizes(column: Any) -> Any:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    return column.cast(pa.uint64())


def _texts(column: Any) -> Any:
    """Return a column as strings; empty strings are replaced by nulls."""
    column = column.cast(pa.string())
    is_empty = pc.equal(pc.binary_length(column), 0)
    return pc.if_else(is_empty, pa.scalar(None, pa.string()), column)


def _unescaped(keys: Any) -> Any:
    """Return the decoded keys of a CSV inventory, in which keys are escaped as in a URL."""
    if not pc.any(pc.match_substring_regex(keys, "[%+]")).as_py():
        return keys
    plain = [unquote_to_bytes(key.replace(b"+", b" ")) for key in keys.to_pylist()]
    return pa.array(plain, pa.binary())
