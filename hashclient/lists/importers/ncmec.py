"""XML of NCMEC's hash sharing service, version 2: the service's answer to a query for entries.

No schema of the XML is public, so this module was written from the samples with which public
clients of the service are tested. An entry is an element `image` or `video` with a member, an id, a
classification and fingerprints. Entries that are marked as deleted become no rows; if a deleted
entry is on the list, the provider must withdraw it. The document is not trusted, so this module
refuses document types and entities, and limits the depth of elements and the length of texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from hashclient.core.errors import UsageError
from hashclient.core.model import is_entry_id
from hashclient.lists.importers.importfile import OTHER_HASHES, ImportFile, Reading
from hashclient.lists.importers.rows import DigestBatch, no_column
from hashclient.lists.importers.table import batch_of
from hashclient.system.files import temporary_file_errors

if TYPE_CHECKING:
    import pyarrow as pa

NAMESPACE = "https://hashsharing.ncmec.org/hashsharing/v2"
MAX_DEPTH = 12
MAX_TEXT_CHARS = 64 << 10
#: The longest tag, attribute or comment that the parser may have to keep in memory.
MAX_TOKEN_BYTES = 256 << 10
_PIECE_BYTES = 64 << 10
#: The number of entries in a batch. The number is small because entries need much memory before
#: their texts are decoded.
_ROWS = 4096
#: The largest number of bytes of hashes of ids in memory; more hashes are written to a temporary
#: file.
_MAX_HASHES_BYTES = 4 << 20
#: The number of hashes that are compared at a time.
_COMPARED = 1 << 18

_FIRST = re.compile(rb"<\?xml[\s?]|<(?:\w{1,32}:)?queryResult[\s>]")
_DIGESTS = ("md5", "sha1", "sha256")
#: The fields of an entry that `--where` may name.
COLUMNS = ("type", "member", "id", "timestamp", "classification", *_DIGESTS)
_ENTRIES = {
    ("images", "image"): "image",
    ("images", "deletedImage"): "",
    ("videos", "video"): "video",
    ("videos", "deletedVideo"): "",
}


class Ncmec:
    """Reads entries.

    The id of a row is `member:type:id`, and the category of a row is the classification of the
    entry.
    """

    name = "NCMEC"
    has_columns = True

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a first line begins like an XML document."""
        return _FIRST.match(head) is not None

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`.

        The line number in an error is the number of an entry.
        """
        with closing(_Document(file)) as document:
            for block in file.blocks():
                for start in range(0, len(block), _PIECE_BYTES):
                    document.feed(block[start : start + _PIECE_BYTES])
                    if document.count >= _ROWS and (batch := document.batch()).count:
                        yield batch
            document.finish()
            if document.count and (batch := document.batch()).count:
                yield batch
            document.check()


class _Document:
    """Parses an answer piece by piece, and collects its entries into batches."""

    def __init__(self, file: ImportFile) -> None:
        self._file = file
        self._names = _names(file)
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse_type
        self._parser.EntityDeclHandler = self._refuse_type
        self._fed = 0
        self._at = 0
        self._path: list[str] = []
        self._texts: list[str] = []
        self._length = 0
        self._number = 0
        self._entry: dict[str, str] | None = None
        self._doubled = False
        self._entries: list[dict[str, str]] = []
        self._numbers: list[int] = []
        #: The ids of the entries that are present, and the ids of the deleted entries.
        self._known, self._deleted = _Ids(), _Ids()

    @property
    def count(self) -> int:
        """The number of entries that are collected for the next batch."""
        return len(self._entries)

    def feed(self, piece: bytes) -> None:
        """Parse the next piece of the document.

        Raises:
            UsageError: the document is malformed, or a part of it is too long.
        """
        self._parse(piece, last=False)
        self._fed += len(piece)
        if self._fed - self._at > MAX_TOKEN_BYTES:
            raise self._bad(f"a tag of more than {MAX_TOKEN_BYTES} bytes")

    def finish(self) -> None:
        """Tell the parser that the document has ended.

        Raises:
            UsageError: the document is incomplete.
        """
        self._parse(b"", last=True)

    def batch(self) -> DigestBatch:
        """Return the usable entries that were read since the last call, possibly none."""
        import pyarrow as pa

        entries, numbers = self._entries, np.array(self._numbers, np.int64)
        self._entries, self._numbers = [], []
        self._known.add(entries)

        def column(name: str) -> pa.Array:
            return pa.array([entry.get(name) or None for entry in entries], pa.string())

        cells = {ours: column(theirs) for ours, theirs in self._names.items()}
        return batch_of(cells, numbers, self._file, column)

    def close(self) -> None:
        """Remove the temporary files with the ids of entries."""
        self._known.close()
        self._deleted.close()

    def check(self) -> None:
        """Refuse a document in which an entry is both present and deleted.

        Raises:
            UsageError: an entry is both present and deleted.
        """
        count = self._deleted.count
        if not count:
            return
        self._file.reading.remarks.note(
            f"{self._file.name}: {count:,} entries are marked as deleted and were ignored: if"
            " they are on the list, withdraw them"
        )
        if self._known.has_any_of(self._deleted):
            raise UsageError(
                f"{self._file.name}: an entry is both present and marked as deleted",
                hint="get the answer again; one query gives each entry once",
            )

    def _parse(self, piece: bytes, *, last: bool) -> None:
        try:
            self._parser.Parse(piece, last)
        # The parser raises LookupError if the encoding is unknown.
        except (expat.ExpatError, ValueError, LookupError) as error:
            raise self._bad("not whole and well-formed XML") from error

    def _bad(self, what: str) -> UsageError:
        return self._file.bad(max(self._number, 1), what)

    def _refuse_type(self, *_: object) -> None:
        raise self._bad("a document type or an entity")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._at = self._parser.CurrentByteIndex
        namespace, _, tag = name.rpartition(" ")
        self._path.append(tag)
        self._texts, self._length = [], 0
        depth = len(self._path)
        if depth > MAX_DEPTH:
            raise self._bad("elements that are nested too deeply")
        if depth == 1 and (tag, namespace) != ("queryResult", NAMESPACE):
            raise self._bad("not an answer of NCMEC's hash sharing service (queryResult, v2)")
        if depth == 2 and tag not in ("images", "videos", "paging"):
            raise self._bad("an element other than images, videos and paging")
        if depth == 3 and self._path[1] != "paging":
            self._number += 1
            self._entry, self._doubled = {"tag": tag}, False
        elif depth == 4 and self._entry is not None and tag == "member":
            self._put("member", attributes.get("id", ""))

    def _text(self, text: str) -> None:
        self._at = self._parser.CurrentByteIndex
        self._length += len(text)
        if self._length > MAX_TEXT_CHARS:
            raise self._bad(f"a text of more than {MAX_TEXT_CHARS} characters")
        self._texts.append(text)

    def _end(self, _name: str) -> None:
        self._at = self._parser.CurrentByteIndex
        depth, tag = len(self._path), self._path.pop()
        text = "".join(self._texts).strip()
        self._texts, self._length = [], 0
        if self._entry is None:
            return
        if depth == 3:
            self._add(self._entry)
            self._entry = None
        elif depth == 4 and tag in ("id", "timestamp", "classification"):
            self._put(tag, text)
        elif depth == 5 and self._path[3] == "fingerprints":
            if tag in _DIGESTS:
                self._put(tag, text)
            else:
                self._file.reading.remarks.note(OTHER_HASHES)

    def _put(self, name: str, text: str) -> None:
        assert self._entry is not None
        self._doubled |= name in self._entry
        self._entry[name] = text

    def _add(self, entry: dict[str, str]) -> None:
        kind = _ENTRIES.get((self._path[1], entry["tag"]))
        if kind is None:
            self._file.skip(self._number, "an entry of a kind that is not known")
        elif self._doubled:
            self._file.skip(self._number, "an entry with a repeated element")
        elif not entry.get("id") or not entry.get("member"):
            self._file.skip(self._number, "an entry without an id or a member")
        elif not kind:
            entry["type"] = entry["tag"].removeprefix("deleted").lower()
            self._deleted.add([entry])
        else:
            entry["type"] = kind
            entry_id = _id_of(entry)
            # A text that looks like a digest must not be part of an entry's id.
            is_id = is_entry_id(entry["id"]) and is_entry_id(entry_id)
            entry["entry"] = entry_id if is_id else ""
            self._entries.append(entry)
            self._numbers.append(self._number)


def _id_of(entry: dict[str, str]) -> str:
    return f"{entry['member']}:{entry['type']}:{entry['id']}"


class _Ids:
    """A set of ids of entries, as hashes.

    A large set is in a temporary file, so that memory stays bounded.
    """

    def __init__(self) -> None:
        self._hashes = SpooledTemporaryFile(_MAX_HASHES_BYTES)  # noqa: SIM115 - `close` closes it
        self.count = 0

    def add(self, entries: Sequence[dict[str, str]]) -> None:
        """Add the ids of some entries to the set.

        Raises:
            StateError: the disk has no space for a temporary file.
        """
        hashes = np.array([hash(_id_of(entry)) for entry in entries], np.int64)
        with temporary_file_errors():
            self._hashes.write(hashes.tobytes())
            self._hashes.flush()
        self.count += len(entries)

    def close(self) -> None:
        """Remove the temporary file with the hashes, if there is one."""
        with suppress(OSError):  # closing tries to write what the full disk refused
            self._hashes.close()

    def has_any_of(self, others: _Ids) -> bool:
        """Return whether an id is in both sets.

        The hashes are compared in pieces, so that memory stays bounded.
        """
        parts = 1 + max(self.count, others.count) // _COMPARED
        return any(
            np.intersect1d(self._part(n, parts), others._part(n, parts)).size for n in range(parts)
        )

    def _part(self, number: int, parts: int) -> npt.NDArray[np.int64]:
        found = [np.zeros(0, np.int64)]
        self._hashes.seek(0)
        while data := self._hashes.read(8 * _COMPARED):
            hashes = np.frombuffer(data, np.int64)
            found.append(hashes[hashes % parts == number])
        return np.concatenate(found)


def _names(file: ImportFile) -> dict[str, str]:
    """Return, for each name in `COLUMNS` that NCMEC's entries have, the name of the field."""
    names = {"entry_id": "entry", "category": "classification", "added": "timestamp"}
    names |= {digest: digest for digest in _DIGESTS}
    asked = file.reading.where.columns() if file.reading.where is not None else ()
    for field in (*asked, *map(str.lower, file.reading.columns.values())):
        if field not in COLUMNS:
            raise no_column(field, COLUMNS, file)
    return names | {ours: theirs.lower() for ours, theirs in file.reading.columns.items()}
