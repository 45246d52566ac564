"""The importers there are, and the one way to read a file with them.

To add one: a module with a class as in `interface`, its place here, a clause in `FORMATS_HINT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from hashclient.lists.importers.clamav import ClamAv
from hashclient.lists.importers.csv import Csv
from hashclient.lists.importers.hashdeep import Hashdeep
from hashclient.lists.importers.importfile import ImportFile
from hashclient.lists.importers.interface import DigestBatch, Importer
from hashclient.lists.importers.nsrl import Nsrl
from hashclient.lists.importers.sums import Sums

#: Asked in this order. A sum file comes before CSV: one of its names may be `md5,sha1`.
IMPORTERS: tuple[Importer, ...] = (Nsrl(), Hashdeep(), ClamAv(), Sums(), Csv())


def read_digests(stream: BinaryIO, name: str) -> Iterator[DigestBatch]:
    """Read a file of digests of whatever kind in batches of some 64k rows at most.

    `name` is what messages call the file. Its beginning says which kind it is; one that is of none
    is refused as a sum file is, with the number of the line. A file without rows gives no batch.

    Raises:
        UsageError: a line is in no accepted format, or reading fails; also while iterating.
    """
    file = ImportFile(stream, name)
    head = file.head()
    for importer in IMPORTERS:
        if importer.sniff(head):
            return importer.read(file)
    return Sums().read(file)
