"""Converts media of a VICS document to batches, decoding media one by one or many at once.

Python's JSON decoder reads one object after the other, and notices repeated keys. Python's decoder
takes five times as long as a decoder (`msgspec`) that reads only the needed fields, so many media
are decoded at once if the result is the same. The text that is decoded at once ends at the last
place that looks like the border between two media. If the text up to the last place is a valid
array of media, the place is a border between two media, whatever text follows. `msgspec` uses the
last of repeated keys and ignores unknown keys. So `KeyEnds` counts how often a key occurs in the
bytes, at any depth: if a key occurs exactly as often as it was decoded, the key is not repeated.
Media in any other text are decoded with Python's decoder, one by one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from hashclient.core.model import is_entry_id
from hashclient.lists.importers.importfile import OTHER_HASHES, ImportFile
from hashclient.lists.importers.jsonscan import Scanner
from hashclient.lists.importers.rows import DigestBatch, Int64, no_column
from hashclient.lists.importers.table import batch_of, text_of
from hashclient.lists.importers.where import numbered
from hashclient.lists.wire import Uint8, Uint32

if TYPE_CHECKING:
    import pyarrow as pa


#: The largest of the characters that are white space in JSON.
_LAST_BLANK = ord(" ")


class KeyEnds:
    """The places where keys end in a piece of JSON.

    A quote inside a text has a backslash before it, so every key is found. But a text before a
    colon may look like a key, and is counted as a key.
    """

    def __init__(self, data: Uint8) -> None:
        """Find the ends of keys in `data`, which begins with an array of objects."""
        colons = np.flatnonzero(data == ord(":"))
        before = data[colons - 1]
        #: Whether no white space comes before a colon, so that all keys were found.
        self.are_all = not len(before) or int(before.min()) > _LAST_BLANK
        self._data = data
        self._quotes: npt.NDArray[np.int64] = colons[before == ord('"')] - 1
        ends = [data[self._quotes - back].astype(np.uint32) << 8 * back for back in (1, 2, 3)]
        self._last_three: Uint32 = ends[0] | ends[1] | ends[2]

    def may_have(self, name: str) -> bool:
        """Return whether a key ends in the same three bytes as `name`."""
        return bool((self._last_three == _last_three(name)).any())

    def count(self, name: str, expected: int) -> int:
        """Return how often a key occurs.

        If exactly `expected` keys end in the same three bytes as `name`, the result is `expected`.
        """
        found = self._quotes[self._last_three == _last_three(name)]
        key = f'"{name}'.encode()
        # `KeyEnds` finds every key, so if as many keys end in these three bytes as were decoded
        # with this name, all of them are the key `name`.
        for back in range(4, len(key) + 1 if len(found) != expected else 0):
            found = found[self._data[found - back] == key[-back]]
        return len(found)


def _last_three(name: str) -> int:
    key = f'"{name}'.encode()
    return sum(key[-back] << 8 * back for back in (1, 2, 3))


def may_name_sha256(data: Uint8) -> bool:
    """Return whether a text in the JSON ends like a name of SHA-256 and is not all digits."""
    ends = data[4:] == ord('"')
    for back, byte in enumerate(b"652", 1):
        ends &= data[4 - back : -back] == byte
    before = data[:-4][ends]
    return bool(((before == ord("-")) | (before == ord("A")) | (before == ord("a"))).any())


#: The number of media in one batch.
_ROWS = 8192

#: The names of fields in documents, by their lower case, because a user may write them in any case.
_NAMES = {
    name.lower(): name
    for name in (
        *("MediaID", "Category", "MD5", "SHA1", "SHA256", "MediaSize", "DateUpdated", "MimeType"),
        *("VictimIdentified", "OffenderIdentified", "IsDistributed", "IsPrecategorized"),
        *("IsSuspected", "Series", "Tags", "Comments"),
    )
}
_OURS = {"md5": "MD5", "sha1": "SHA1", "sha256": "SHA256", "size": "MediaSize"}
_HASHES, _FILES = "AlternativeHashes", "MediaFiles"
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_.@ -]{0,62}")
_SHA256_NAMES = ("sha256", "sha-256")

_BORDER = re.compile(r'\}[ \t\n\r]*,[ \t\n\r]*\{[ \t\n\r]*"[^"\\]{1,64}"')
#: The number of characters that are decoded at once: few enough to stay in the caches of a
#: processor.
_PIECE_CHARS = 1 << 18
_SMALLEST_PIECE_CHARS = 1 << 12


class Fields:
    """The fields of media that are read, and how each field is used."""

    def __init__(self, file: ImportFile) -> None:
        """Choose the fields from `reading` of the file.

        Raises:
            UsageError: `reading` names a column that the format does not have.
        """
        reading = file.reading
        #: For each name in `COLUMNS`, the name of the field of a medium.
        self.ours: dict[str, str] = dict(_OURS)
        for ours, theirs in reading.columns.items():
            self.ours[ours] = _NAMES.get(theirs.lower(), theirs)
        self.ours.setdefault("category", "Category")
        asked = () if reading.where is None else reading.where.columns()
        #: For each column in `--where`, in lower case, the name of the field of a medium.
        self.asked = {name: _NAMES.get(name, name) for name in asked}
        self.named = {
            *self.asked.values(),
            *(_NAMES.get(t.lower(), t) for t in reading.columns.values()),
        }
        self.all: list[str] = list(dict.fromkeys([*self.ours.values(), *self.asked.values()]))
        for name in self.all:
            if name in (_HASHES, _FILES) or not _FIELD.fullmatch(name):
                raise no_column(name, (), file)
        #: Whether media are also used if they have category 0 or none.
        self.any_category = bool(reading.where or reading.categories or reading.all_rows)


class Media:
    """Collects media until they are taken as a batch."""

    def __init__(self, file: ImportFile, fields: Fields) -> None:
        """Begin without media."""
        self.file, self.fields = file, fields
        self._columns: dict[str, list[Any]] = {name: [] for name in fields.all}
        self._numbers: list[int] = []
        self._unseen = set(fields.named)
        self._any = False

    @property
    def is_full(self) -> bool:
        """Whether enough media for a batch are collected."""
        return len(self._numbers) >= _ROWS

    def add(self, record: Any, number: int) -> None:
        """Add one medium, or count it as unusable.

        Raises:
            UsageError: the medium has no judged category, and the user has not chosen rows like
                this.
        """
        self._any = True
        if not isinstance(record, dict):
            self.file.skip(number, "not an object")
            return
        try:
            values = {name: record.get(name, UNSET) for name in self.fields.all}
            # A cell keeps the type that `msgspec` would return for a usual cell; any other value
            # becomes text.
            cells = {
                name: value if value is UNSET or type(value) is int else text_of(value)
                for name, value in values.items()
            }
            if "PhotoDNA" in record:
                self.file.reading.remarks.note(OTHER_HASHES)
            sha256 = _other_hashes(record.get(_HASHES), self.file)
        except ValueError:
            self.file.skip(number, "a field that is neither text nor a number")
            return
        if sha256 and "SHA256" in cells and not cells["SHA256"]:
            cells["SHA256"] = sha256
        self._unseen -= record.keys()
        for name, cell in cells.items():
            self._columns[name].append(cell)
        self._numbers.append(number)

    def extend(self, columns: Mapping[str, list[Any]], first: int) -> int:
        """Add media, given as one list for each field; `first` is the number of the first medium.

        Return how many media were added.
        """
        count = 0
        for name, column in columns.items():
            count = len(column)
            self._columns[name] += column
            if name in self._unseen and column.count(UNSET) < count:
                self._unseen.remove(name)
        self._numbers += range(first, first + count)
        return count

    def batch(self) -> DigestBatch:
        """Return the rows that were added since the last call, possibly none.

        Raises:
            UsageError: a medium has no judged category, and the user has not chosen rows.
        """
        import pyarrow as pa

        fields, columns = self.fields, self._columns
        numbers: Int64 = np.array(self._numbers, np.int64)
        self._columns, self._numbers = {name: [] for name in fields.all}, []
        arrays = {name: _array(cells) for name, cells in columns.items()}
        texts = {name: array.cast(pa.string()) for name, array in arrays.items()}
        cells = {ours: texts[theirs] for ours, theirs in fields.ours.items()}
        # sizes that are numbers need not be parsed from text
        cells["size"] = arrays[fields.ours["size"]]
        self._see_to_categories(cells["category"], numbers)
        cells["category"] = _renamed(cells["category"], numbered)
        if "entry_id" in cells:
            cells["entry_id"] = _renamed(
                cells["entry_id"], lambda text: text if is_entry_id(text) else None
            )
        return batch_of(cells, numbers, self.file, lambda name: texts[fields.asked[name]])

    def check(self) -> None:
        """Refuse a document if no medium has a field that `reading` names."""
        if self._any and self._unseen:
            raise no_column(min(self._unseen), (), self.file)

    def _see_to_categories(self, given: pa.Array, numbers: Int64) -> None:
        import pyarrow.compute as pc

        # Writers of JSON may write the number 0 as 0.0 or as text, and none as a blank.
        is_judged = pc.match_substring_regex(pc.fill_null(given, ""), r"[\p{L}1-9]")
        wrong = ~is_judged.to_numpy(zero_copy_only=False).astype(np.bool_)
        if not self.fields.any_category and wrong.any():
            raise self.file.choose_rows(
                f"record {numbers[np.argmax(wrong)]} has category 0 or none, which nobody has"
                " judged",
                "Category = 1 OR Category = 2",
            )


class Many:
    """Decodes many media together, if their text is of the usual form."""

    def __init__(self, scanner: Scanner, media: Media) -> None:
        """Store `scanner`, which is about to read the first medium of an array."""
        self._scanner, self._media = scanner, media
        self._border: str | None = None
        #: The number of characters that are decoded together: it is halved at an unusual text, and
        #: then grows again.
        self._piece = _PIECE_CHARS
        #: The position in the document up to which media are decoded one by one.
        self._slow_until = 0
        self._slots = {name: f"f{number}" for number, name in enumerate(media.fields.all)}
        self._lean = msgspec.json.Decoder(_array_type(self._slots, whole=False))
        self._look_inside = False
        self._whole = msgspec.json.Decoder(_array_type(self._slots, whole=True))

    def learn(self) -> None:
        """Learn from the last medium which characters are between two media."""
        scanner = self._scanner
        if self._border is None and scanner.peek() == ",":
            start = scanner.text.rfind("}", 0, scanner.at)
            found = _BORDER.match(scanner.text, start) if start >= 0 else None
            self._border = found[0] if found else None

    def take(self) -> bool:
        """Add all media in the buffered text, except the last medium.

        Return False if the next medium must be decoded on its own.
        """
        scanner = self._scanner
        if self._border is None or scanner.gone + scanner.at < self._slow_until:
            return False
        if len(scanner.text) - scanner.at < _PIECE_CHARS:
            scanner.fill()
        scanner.peek()
        start = scanner.at
        while True:
            cut = scanner.text.rfind(self._border, start, start + self._piece)
            if cut < 0:
                return False
            decoded = self._decoded("[" + scanner.text[start : cut + 1] + "]")
            if decoded is not None:
                break
            # The array of media may end in this piece; the text before the end may be of the usual
            # form.
            if self._piece // 2 < _SMALLEST_PIECE_CHARS:
                self._slow_until = scanner.gone + cut + 1
                return False
            self._piece //= 2
        self._piece = min(2 * self._piece, _PIECE_CHARS)
        scanner.number += self._media.extend(decoded, scanner.number)
        scanner.at = cut + 1
        return True

    def _decoded(self, text: str) -> dict[str, list[Any]] | None:
        """Return the fields of an array of media; None if other parsers may read it differently."""
        # A key may contain escapes, and `KeyEnds` would not find it.
        if "\\" in text and "\\u" in text:
            return None
        data = np.frombuffer(text.encode(), np.uint8)
        keys = KeyEnds(data)
        if not keys.are_all:
            return None
        # Nested values are decoded only if a nested value may be a SHA-256.
        if not self._look_inside and not (keys.may_have(_HASHES) and may_name_sha256(data)):
            columns = self._decoded_by(self._lean, text, keys)
            if columns is not None:
                return columns
            self._look_inside = True
        return self._decoded_by(self._whole, text, keys)

    def _decoded_by(
        self, decoder: msgspec.json.Decoder[Any], text: str, keys: KeyEnds
    ) -> dict[str, list[Any]] | None:
        try:
            records: list[Any] = decoder.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return None
        columns = {n: list(map(attrgetter(slot), records)) for n, slot in self._slots.items()}
        expected = {name: _present(column) for name, column in columns.items()}
        if decoder is self._whole:
            expected = self._inner(records, columns, expected)
        if any(keys.count(name, times) != times for name, times in expected.items()):
            return None
        return columns

    def _inner(
        self, records: list[Any], columns: dict[str, list[Any]], expected: Mapping[str, int]
    ) -> dict[str, int]:
        """Add SHA-256 from other hashes of media to `columns`; return how often each key occurs."""
        files = [f for record in records if record.files for f in record.files]
        counts = {
            name: expected[name] + _present(list(map(attrgetter(slot), files)))
            for name, slot in self._slots.items()
        }
        counts[_HASHES] = _present([record.hashes for record in records])
        counts[_FILES] = _present([record.files for record in records])
        hashes = [h for record in records if record.hashes for h in record.hashes]
        counts["HashName"] = _present([h.name for h in hashes])
        counts["HashValue"] = _present([h.value for h in hashes])
        if "SHA256" in columns:
            column = columns["SHA256"]
            for row, record in enumerate(records):
                for other in record.hashes or ():
                    if str(other.name).lower() in _SHA256_NAMES and other.value:
                        column[row] = column[row] or other.value
        return counts


def _array_type(slots: Mapping[str, str], *, whole: bool) -> Any:
    """Return the type of an array of media, with the fields that are read.

    With `whole`, media also have their other hashes and files.
    """
    names = {slot: name for name, slot in slots.items()}
    cells = [(slot, str | int | bool | float | None | UnsetType, UNSET) for slot in slots.values()]
    if not whole:
        return list[msgspec.defstruct("Medium", cells, rename=names, gc=False)]  # type: ignore[misc]
    text = str | None | UnsetType
    one_hash = msgspec.defstruct(
        "Hash",
        [("name", text, UNSET), ("value", text, UNSET)],
        rename={"name": "HashName", "value": "HashValue"},
        gc=False,
    )
    one_file = msgspec.defstruct("File", cells, rename=names, gc=False)
    hashes, files = list[one_hash], list[one_file]  # type: ignore[valid-type]
    inner = [
        ("hashes", hashes | None | UnsetType, UNSET),
        ("files", files | None | UnsetType, UNSET),
    ]
    names |= {"hashes": _HASHES, "files": _FILES}
    return list[msgspec.defstruct("Medium", [*cells, *inner], rename=names, gc=False)]  # type: ignore[misc]


def _present(column: list[Any]) -> int:
    """Return how many values of a column are present."""
    return len(column) - column.count(UNSET)


def _array(column: Sequence[Any]) -> pa.Array:
    """Return the cells of a column as numbers if all are numbers, or as text with null for ""."""
    import pyarrow as pa

    kinds = set(map(type, column))
    if kinds == {int}:
        with contextlib.suppress(OverflowError):
            return pa.array(column, pa.int64())
    elif kinds == {str}:
        return pa.array([c or None for c in column] if "" in column else column, pa.string())
    elif kinds == {UnsetType}:
        return pa.nulls(len(column), pa.string())
    return pa.array([None if c is UNSET else text_of(c) for c in column], pa.string())


def _other_hashes(given: Any, file: ImportFile) -> str | None:
    """Return the SHA-256 among the other hashes of a medium; hashes of other kinds are ignored.

    Raises:
        ValueError: a name or a value is not text.
    """
    found = None
    for one in given if isinstance(given, list) else ():
        if not isinstance(one, dict):
            continue
        name, value = text_of(one.get("HashName")), text_of(one.get("HashValue"))
        if (name or "").lower() in _SHA256_NAMES:
            found = found or value
        else:
            file.reading.remarks.note(OTHER_HASHES)
    return found


def _renamed(column: pa.Array, name: Callable[[str], str | None]) -> pa.Array:
    """Return a column in which `name` has converted each value, as text."""
    import pyarrow as pa

    encoded = column.dictionary_encode()
    names = [name(str(value)) for value in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices)
