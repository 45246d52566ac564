"""VICS: the JSON of Project VIC (1.3 and 2.0) and of CAID (1.2), as lists of media or as cases.

The schema of VICS is not public; `docs/import.md` describes which fields this importer reads. A
document names its data model first, and has an array `value` of media, or of cases with arrays
`Media`. `vicsbatch` decodes many media at once.

A category in a document is a number whose meaning differs between countries. The categories of CAID
include legal files, and nobody has judged files in category 0 yet, so the user must say which rows
to use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hashclient.core.errors import UsageError
from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.jsonscan import Scanner
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.importers.vicsbatch import Fields, Many, Media

_FIRST = re.compile(rb'\{\s*(?:"@?odata\.|$)')
_MODEL = re.compile(
    r"https?://[^\s\"]{1,200}/ProjectVic/DataModels/"
    r"(?:(?P<old>1\.[23])\.xml|2\.0\.xml/[A-Za-z]{1,32}/\$metadata)#(?P<of>Media|Cases)",
    re.IGNORECASE,
)
_CAID = "1.2"


class Vics:
    """Reads the media in lists and in cases of VICS."""

    name = "VICS"
    has_columns = True

    def sniff(self, head: bytes, reading: Reading) -> bool:
        """Return whether a first line begins like an OData document, or is only a bracket."""
        return _FIRST.match(head) is not None

    def read(self, file: ImportFile) -> Iterator[DigestBatch]:
        """Read the file in batches; see `Importer`.

        The line number in an error is the number of a medium.
        """
        scanner = Scanner(file)
        of, is_caid = _data_model(scanner)
        reading = file.reading
        if is_caid and not (reading.where or reading.categories or reading.all_rows):
            raise file.choose_rows("a CAID list mixes classes of files", "Category = 1")
        media = Media(file, Fields(file))
        many = Many(scanner, media)
        has_value = False
        while scanner.take(","):
            if scanner.key() != "value":
                scanner.value()
                continue
            if has_value:
                raise scanner.bad("an object that has the same key twice")
            has_value = True
            if of == "media":
                yield from _array_of_media(scanner, media, many)
            else:
                yield from _cases(scanner, media, many)
        scanner.need("}")
        scanner.end()
        if not has_value:
            raise scanner.bad("no array called value")
        if (batch := media.batch()).count:
            yield batch
        media.check()


def _data_model(scanner: Scanner) -> tuple[str, bool]:
    """Read the data model that begins a document; return its type, and whether it is CAID."""
    scanner.need("{")
    key = scanner.key() if scanner.peek() == '"' else ""
    value: Any = scanner.value() if key in ("odata.metadata", "@odata.context") else None
    model = _MODEL.fullmatch(value) if isinstance(value, str) else None
    if model is None or (key == "odata.metadata") != (model["old"] is not None):
        raise UsageError(
            f"{scanner.file.name}: not a data model that is known",
            hint="known are VICS 1.3 and 2.0 and CAID (1.2), of Media or Cases; the document has to"
            " begin with it, as odata.metadata or @odata.context",
        )
    return model["of"].lower(), model["old"] == _CAID


def _cases(scanner: Scanner, media: Media, many: Many) -> Iterator[DigestBatch]:
    for _ in scanner.items():
        scanner.need("{")
        has_media = False
        if not scanner.take("}"):
            while True:
                if scanner.key() != "Media":
                    scanner.value()
                elif has_media:
                    raise scanner.bad("an object that has the same key twice")
                else:
                    has_media = True
                    yield from _array_of_media(scanner, media, many)
                if not scanner.take(","):
                    break
            scanner.need("}")


def _array_of_media(scanner: Scanner, media: Media, many: Many) -> Iterator[DigestBatch]:
    for _ in scanner.items():
        if not many.take():
            media.add(scanner.value(), scanner.number)
            scanner.number += 1
            many.learn()
        if media.is_full and (batch := media.batch()).count:
            yield batch
