"""Measures imports of other organisations' files, beside ijson, and the memory of imports.

The VICS files are synthetic and written piece by piece, with random digests, and with repeating
random bytes in place of perceptual hashes. Each reader is a process of its own, which reads the
digests, sizes and categories of a list from the same file:

    python -m bench.importing ours FILE
    python -m bench.importing ijson FILE
"""

from __future__ import annotations

import base64
import importlib.util
import random
import resource
import sys
from binascii import unhexlify
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from bench.measure import Row, bytes_row, run, time_row

MAX_BYTES = 110e6
#: The number of records that are written at once.
_PIECE = 10_000
_LIKENESSES = 1_000
_MORE = (
    ',"DateUpdated":"2026-01-07T02:31:49.8300Z","Series":"","VictimIdentified":false'
    ',"OffenderIdentified":"False","IsDistributed":true,"IsPrecategorized":"True"'
    ',"AlternativeHashes":[{"HashName":"PhotoDNA","HashValue":"%s"}]'
)


def import_rows(work: Path, count: int) -> Iterator[Row]:
    """Compare our importer with ijson's C backend on `count` media; measure the other formats."""
    path = work / "import"
    for what, more in (("lean media", ""), ("media", _MORE)):
        with path.open("wb") as out:
            write_vics(out, count, more)
        try:
            yield from _beside_ijson(f"import {count:,} {what}", path, count)
        finally:
            path.unlink()
    for kind, write in (("ICSE CSV", write_icse), ("NCMEC XML", write_ncmec)):
        peaks = []
        for number in (count // 100, count // 10):
            with path.open("wb") as out:
                write(out, number)
            try:
                peaks.append(_cost("ours", path)[1])
            finally:
                path.unlink()
        name = f"import {count // 10:,} of {kind}: memory"
        yield bytes_row(name, peaks[1], peaks[0] + 20e6, "a tenth of them, and 20 MB")


def _beside_ijson(name: str, path: Path, count: int) -> Iterator[Row]:
    ours, theirs = [], []
    for _ in range(2 if count < 5_000_000 else 1):
        ours.append(_cost("ours", path))
        if importlib.util.find_spec("ijson") is not None:
            theirs.append(_cost("ijson", path)[0])
    if theirs:
        # With fewer records, the start of the program would be a large part of the measured time.
        target = 1.0 if count >= 1_000_000 else None
        yield time_row(f"{name}: CPU", min(ours)[0], min(theirs), "ijson, yajl2_c", target)
    yield bytes_row(f"{name}: memory", max(peak for _, peak in ours), MAX_BYTES, "110 MB")


def _cost(which: str, path: Path) -> tuple[float, int]:
    """Return the processor seconds and the peak memory in bytes of a reader."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = run(_reader(which, path), repeat=1).rss_bytes
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def _reader(which: str, path: Path) -> list[str | Path]:
    return [sys.executable, "-m", "bench.importing", which, path]


def write_vics(out: BinaryIO, count: int, more: str) -> None:
    """Write a VICS 2.0 document of `count` media; `more` adds fields that lists don't need."""
    from fixtures.exports import VICS_20

    out.write(b'{"@odata.context":"%bMedia","value":[' % VICS_20.encode())
    fields = ("MediaID", "Category", "MD5", "SHA1", "MediaSize")
    form = ",".join(f'"{field}":%s' for field in fields)
    for start, rows in _pieces(count):
        media = (
            f"{{{form}{more}}}"
            % (n, n % 3 + 1, f'"{md5}"', f'"{sha1}"', size, *[like][: bool(more)])
            for n, (md5, sha1, size, like) in enumerate(rows, start)
        )
        out.write((("," if start else "") + ",".join(media)).encode())
    out.write(b"]}\n")


def write_icse(out: BinaryIO, count: int) -> None:
    """Write an export of the ICSE database with `count` rows."""
    from fixtures.exports import ICSE_HEADER

    out.write(f"{ICSE_HEADER}\r\n".encode())
    for start, rows in _pieces(count):
        lines = (
            f"{md5};{sha1};{like};{n};True;False;False;;3;True;image;True\r\n"
            for n, (md5, sha1, _, like) in enumerate(rows, start)
        )
        out.write("".join(lines).encode())


def write_ncmec(out: BinaryIO, count: int) -> None:
    """Write an answer of NCMEC's hash sharing API with `count` images."""
    from fixtures.exports import NCMEC

    out.write(f'<?xml version="1.0"?>\n<queryResult xmlns="{NCMEC}"><images>\n'.encode())
    for start, rows in _pieces(count):
        images = (
            f'<image><member id="42">A member</member><timestamp>2026-01-07T09:00:00Z</timestamp>'
            f"<id>i{n}</id><classification>A1</classification><fingerprints><md5>{md5}</md5>"
            f"<sha1>{sha1}</sha1><pdna>{like}</pdna></fingerprints></image>\n"
            for n, (md5, sha1, _, like) in enumerate(rows, start)
        )
        out.write("".join(images).encode())
    out.write(b"</images></queryResult>\n")


def _pieces(count: int) -> Iterator[tuple[int, Iterator[tuple[str, str, int, str]]]]:
    """Yield the first number and the rows of each piece: MD5, SHA-1, size, perceptual hash."""
    chance = random.Random(count)
    likes = [base64.b64encode(chance.randbytes(144)).decode() for _ in range(_LIKENESSES)]

    def rows(number: int) -> Iterator[tuple[str, str, int, str]]:
        text = chance.randbytes(36 * number).hex().upper()
        for row in range(number):
            at = 72 * row
            size = 1 + row * 7919 % (1 << 24)
            yield text[at : at + 32], text[at + 32 : at + 72], size, likes[row % _LIKENESSES]

    for start in range(0, count, _PIECE):
        yield start, rows(min(_PIECE, count - start))


def read_ours(path: Path) -> int:
    """Read a file with our importers; return the number of its rows."""
    from hashclient.lists.importers.importfile import Reading
    from hashclient.lists.importers.registry import read_digests

    with path.open("rb") as stream:
        return sum(b.count for b in read_digests(stream, path.name, Reading(all_rows=True)))


def read_ijson(path: Path) -> int:
    """Read a VICS file with ijson, and convert its media to the same rows as our importer."""
    import ijson.backends.yajl2_c as ijson  # type: ignore[import-not-found]

    count = 0
    with path.open("rb") as stream:
        for medium in ijson.items(stream, "value.item"):
            md5, sha1 = unhexlify(medium["MD5"]), unhexlify(medium["SHA1"])
            entry = md5, sha1, medium["MediaSize"], medium["Category"]
            count += len(entry) > 0
    return count


READERS: dict[str, Callable[[Path], int]] = {"ours": read_ours, "ijson": read_ijson}

if __name__ == "__main__":
    print(READERS[sys.argv[1]](Path(sys.argv[2])))
