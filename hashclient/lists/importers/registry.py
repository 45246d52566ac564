"""All importers, and a function that reads a file with the importer for its kind.

To add an importer, write a module with a class as in `interface`, add the class to `IMPORTERS`, and
extend `FORMATS_HINT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec
import numpy as np

from hashclient.core.errors import UsageError
from hashclient.lists.empty_file import rows_of_the_empty_file
from hashclient.lists.importers.clamav import ClamAv
from hashclient.lists.importers.csv import Csv
from hashclient.lists.importers.hashdeep import Hashdeep
from hashclient.lists.importers.importfile import ImportFile, Reading, expanded
from hashclient.lists.importers.interface import Importer
from hashclient.lists.importers.jsonlines import JsonLines
from hashclient.lists.importers.ncmec import Ncmec
from hashclient.lists.importers.nsrl import Nsrl
from hashclient.lists.importers.parquet import Parquet
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.importers.sums import Sums
from hashclient.lists.importers.vics import Vics
from hashclient.lists.wire import NO_SIZE

#: All importers, in the order in which they are tried. `Sums` comes before `Csv`, because a line of
#: md5sum may have a file name such as `md5,sha1` and look like a header of CSV.
IMPORTERS: tuple[Importer, ...] = (
    *(Nsrl(), Parquet(), Vics(), JsonLines(), Ncmec(), Hashdeep(), ClamAv(), Sums(), Csv()),
)

NO_EMPTY_FILE = "a size of 0 bytes counts as unknown if the digest is not that of the empty file"


def read_digests(
    stream: BinaryIO, name: str, reading: Reading | None = None
) -> Iterator[DigestBatch]:
    """Read a file of digests of any known kind in batches of about 64,000 rows at most.

    `name` is the name of the file in messages. The first bytes of a file decide its kind, and
    whether it is compressed. A file of no known kind is read with `Sums`, whose error names the
    first line. A file without rows yields no batch. `reading` has the user's choices; without
    `reading`, every row of a file is used, and an unusable row is an error.

    Raises:
        UsageError: a line is in no accepted format, or reading fails; also while iterating.
    """
    file = expanded(ImportFile(stream, name, reading))
    head = file.head()
    chosen = next((i for i in IMPORTERS if i.sniff(head, file.reading)), Sums())
    if (file.reading.where or file.reading.columns) and not chosen.has_columns and head:
        raise UsageError(
            f"{file.name}: a file of this kind has no columns",
            hint="leave out --where and --column, or give a CSV, TSV, JSONL, JSON, XML or Parquet"
            " file whose columns have these names",
        )
    return _without_wrong_sizes(chosen.read(file), file)


def _without_wrong_sizes(batches: Iterator[DigestBatch], file: ImportFile) -> Iterator[DigestBatch]:
    """Yield batches in which only the empty file has the size 0.

    Some programs write 0 for an unknown size, and files of /proc have the size 0. With this size,
    an entry would match no file, and a lookup would find no entry.
    """
    for batch in batches:
        is_wrong = batch.sizes == 0
        if is_wrong.any():
            is_wrong[rows_of_the_empty_file(batch.digests)] = False
        if is_wrong.any():
            file.reading.remarks.note(NO_EMPTY_FILE)
            sizes = np.where(is_wrong, NO_SIZE, batch.sizes)
            yield msgspec.structs.replace(batch, sizes=sizes)
        else:
            yield batch
