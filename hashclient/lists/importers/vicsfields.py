"""The fields of media in a VICS document: which are read, and what a category is called."""

from __future__ import annotations

import re
from typing import Any

from hashclient.lists.importers.categories import category_name, numbered
from hashclient.lists.importers.columns import no_column
from hashclient.lists.importers.importfile import ImportFile
from hashclient.lists.importers.plain import PLAIN_COLUMNS

#: The fields of documents, to find them when a user writes them in another case.
_NAMES = {
    name.lower(): name
    for name in (
        *("MediaID", "Category", "MD5", "SHA1", "SHA256", "MediaSize", "DateUpdated", "MimeType"),
        *("VictimIdentified", "OffenderIdentified", "IsDistributed", "IsPrecategorized"),
        *("IsSuspected", "Series", "Tags", "Comments"),
    )
}
_OURS = {"md5": "MD5", "sha1": "SHA1", "sha256": "SHA256", "size": "MediaSize"}
HASHES, FILES = "AlternativeHashes", "MediaFiles"
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_.@ -]{0,62}")


class Fields:
    """The fields of media that are read, and their use."""

    def __init__(self, file: ImportFile) -> None:
        """Derive the fields from `reading`.

        Raises:
            UsageError: a column is named that cannot be one.
        """
        reading = file.reading
        #: Our columns with their fields.
        self.ours: dict[str, str] = dict(_OURS)
        for ours, theirs in reading.columns.items():
            self.ours[ours] = _NAMES.get(theirs.lower(), theirs)
        self.ours.setdefault("category", "Category")
        asked = () if reading.where is None else reading.where.columns()
        #: Columns of `--where`, in lower case, with their fields.
        self.asked = {name: _NAMES.get(name, name) for name in asked}
        self.named = {
            *self.asked.values(),
            *(_NAMES.get(t.lower(), t) for t in reading.columns.values()),
        }
        self.all: list[str] = list(dict.fromkeys([*self.ours.values(), *self.asked.values()]))
        for name in self.all:
            if name in (HASHES, FILES) or not _FIELD.fullmatch(name):
                raise no_column(name, (), file)
        #: Whether media without a judged category are meant, too.
        self.any_category = bool(reading.where or reading.categories or reading.all_rows)
        #: Whether nothing but plain columns is read, and categories keep their names.
        self.is_plain = not reading.categories and self.ours.keys() <= PLAIN_COLUMNS

    def category_of(self, value: Any) -> str | None:
        """Return the name of a category; None for one that has to be looked at."""
        if type(value) not in (int, str) or value == "":
            return None
        if value in (0, "0") and not self.any_category:
            return None
        return category_name(numbered(str(value)))
