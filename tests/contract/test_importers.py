"""Rules that every importer must keep, for each kind of file."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest

from fixtures import exports
from hashclient.core.errors import ConfigError, UsageError
from hashclient.core.kinds import Algorithm
from hashclient.fetch.guard import Inspection, open_guard
from hashclient.index.blinding import Sealer
from hashclient.lists.importers import importfile
from hashclient.lists.importers.clamav import ClamAv
from hashclient.lists.importers.csv import Csv
from hashclient.lists.importers.hashdeep import Hashdeep
from hashclient.lists.importers.importfile import ImportFile, Reading
from hashclient.lists.importers.interface import Importer
from hashclient.lists.importers.jsonlines import JsonLines
from hashclient.lists.importers.ncmec import Ncmec
from hashclient.lists.importers.nsrl import SQLITE_MAGIC, Nsrl
from hashclient.lists.importers.parquet import Parquet
from hashclient.lists.importers.registry import IMPORTERS, NO_EMPTY_FILE, read_digests
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.importers.sums import Sums
from hashclient.lists.importers.vics import Vics
from hashclient.lists.wire import NO_SIZE, parse_add_segment, parse_index
from hashclient.provider.repository import Repository
from tests.kit import call, csv_of, make_state
from tests.streams import Endless

#: A row of a test: its digest, and its size.
Row = tuple[str, int]
CONTENTS = [b"benign" + b"." * n for n in range(4)]
ROWS: list[Row] = [(hashlib.md5(data).hexdigest(), len(data)) for data in CONTENTS]
Make = Callable[[Path, Sequence[Row]], Path]


def text(path: Path, content: str) -> Path:
    path.write_bytes(os.fsencode(content))
    return path


def bare(path: Path, rows: Sequence[Row]) -> Path:
    return text(path, "".join(f"{digest}\n" for digest, _ in rows))


def sums(path: Path, rows: Sequence[Row]) -> Path:
    return text(path, "".join(f"{digest}  name {size}\n" for digest, size in rows))


def hashdeep(path: Path, rows: Sequence[Row]) -> Path:
    head = "%%%% HASHDEEP-1.0\n%%%% size,md5,filename\n## here\n"
    return text(path, head + "".join(f"{size},{digest},/a,b\n" for digest, size in rows))


def csv(path: Path, rows: Sequence[Row]) -> Path:
    return text(path, "md5,size\n" + "".join(f"{digest},{size}\n" for digest, size in rows))


def clamav(path: Path, rows: Sequence[Row]) -> Path:
    return text(path, "".join(f"{digest}:{size}:Dummy.Test-{size}\n" for digest, size in rows))


def nsrl(path: Path, rows: Sequence[Row]) -> Path:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA page_size = 512")
        db.execute("CREATE TABLE FILE (sha256 VARCHAR, sha1 VARCHAR, md5 VARCHAR)")
        db.executemany("INSERT INTO FILE VALUES ('', NULL, ?)", [(row[0],) for row in rows])
    db.close()
    return path


def exported(write: Callable[[BinaryIO, Iterable[exports.Entry]], None]) -> Make:
    """Return a function that writes a file of rows in the export format of a body."""

    def make(path: Path, rows: Sequence[Row]) -> Path:
        some = [exports.Entry(3 * n, md5, size=size) for n, (md5, size) in enumerate(rows)]
        with path.open("wb") as out:
            write(out, some)
        return path

    return make


def indented(out: BinaryIO, some: Iterable[exports.Entry]) -> None:
    exports.vics(out, some, exports.VICS_13, indent=True)


def packed_with(codec: str, data: bytes) -> bytes:
    return gzip.compress(data) if codec == "gzip" else pa.compress(data, codec, asbytes=True)


#: For the name of each import format: its importer, and a function that makes a file.
SAMPLES: dict[str, tuple[Importer, Make]] = {
    "bare": (Sums(), bare),
    "sums": (Sums(), sums),
    "hashdeep": (Hashdeep(), hashdeep),
    "csv": (Csv(), csv),
    "tsv": (Csv(), exported(exports.tsv)),
    "icse": (Csv(), exported(exports.icse)),
    "nsrl-text": (Csv(), exported(exports.nsrl_text)),
    "jsonl": (JsonLines(), exported(exports.jsonl)),
    "clamav": (ClamAv(), clamav),
    "vics": (Vics(), exported(exports.vics)),
    "vics-indented": (Vics(), exported(indented)),
    "vics-case": (Vics(), exported(exports.vics_case)),
    "caid": (Vics(), exported(exports.caid)),
    "ncmec": (Ncmec(), exported(exports.ncmec)),
    "nsrl": (Nsrl(), nsrl),
    "parquet": (Parquet(), exported(exports.parquet)),
}
#: Formats with one row on each line, formats with one document, and binary formats.
TEXTS = list(SAMPLES)[: list(SAMPLES).index("vics")]
DOCUMENTS = list(SAMPLES)[len(TEXTS) : list(SAMPLES).index("nsrl")]
SIZED = {"hashdeep", "csv", "clamav", "tsv", "nsrl-text", "jsonl", "parquet", *DOCUMENTS} - {
    "ncmec"
}
#: The number of the first row's line.
FIRST = {"hashdeep": 4, "csv": 2, "tsv": 2, "icse": 2, "nsrl-text": 2}
#: Formats that do not say which of their rows should be used.
UNDECIDED = ("icse", "caid")
each = pytest.mark.parametrize("kind", SAMPLES)
each_text = pytest.mark.parametrize("kind", TEXTS)
each_document = pytest.mark.parametrize("kind", DOCUMENTS)


def rows_of(batches: Sequence[DigestBatch]) -> list[Row]:
    """Return the digest and size of each row, and check that each batch is consistent."""
    found = []
    for batch in batches:
        by_row: list[set[str]] = [set() for _ in range(batch.count)]
        for algorithm, (values, rows) in batch.digests.items():
            assert values.shape == (len(rows), algorithm.digest_bytes)
            assert (rows[1:] > rows[:-1]).all()
            for value, row in zip(values, rows, strict=True):
                by_row[row].add(value.tobytes().hex())
        assert len(batch.names) == len(batch.lines) == len(batch.sizes) == batch.count > 0
        for digests, size in zip(by_row, batch.sizes, strict=True):
            (digest,) = digests
            found.append((digest, -1 if size == NO_SIZE else int(size)))
    return found


def everything(**more: Any) -> Reading:
    return Reading(all_rows=True, **more)


def read(path: Path, reading: Reading | None = None) -> list[DigestBatch]:
    with path.open("rb") as stream:
        return list(read_digests(stream, path.name, reading or everything()))


def expected(kind: str, rows: Sequence[Row]) -> list[Row]:
    return [(digest, size if kind in SIZED else -1) for digest, size in rows]


def test_each_importer_there_is_has_a_sample() -> None:
    assert {type(i) for i, _ in SAMPLES.values()} == {type(i) for i in IMPORTERS}
    for importer in IMPORTERS:
        assert importer.name in importfile.FORMATS_HINT


@each
def test_every_row_is_read_with_its_line(kind: str, tmp_path: Path) -> None:
    importer, make = SAMPLES[kind]
    path = make(tmp_path / "file", ROWS)
    batches = read(path)
    assert rows_of(batches) == expected(kind, ROWS)
    lines = [int(line) for batch in batches for line in batch.lines]
    first = FIRST.get(kind, 1)
    assert lines == list(range(first, first + len(ROWS)))
    with path.open("rb") as stream:
        file = ImportFile(stream, "it", everything())
        assert rows_of(list(importer.read(file))) == expected(kind, ROWS)


@each
def test_no_other_importer_takes_its_files(kind: str, tmp_path: Path) -> None:
    wanted, make = SAMPLES[kind]
    with make(tmp_path / "file", ROWS).open("rb") as stream:
        head = ImportFile(stream, "it").head()
    assert [type(i) for i in IMPORTERS if i.sniff(head, Reading())] == [type(wanted)]


@each
def test_upper_case_is_the_same(kind: str, tmp_path: Path) -> None:
    rows = [(digest.upper(), size) for digest, size in ROWS]
    assert rows_of(read(SAMPLES[kind][1](tmp_path / "file", rows))) == expected(kind, ROWS)


@pytest.mark.parametrize("kind", sorted(SIZED))
def test_only_the_empty_file_has_the_size_0(kind: str, tmp_path: Path) -> None:
    """An entry of another file with the size 0 would match no file, and be found by no lookup."""
    reading = everything()
    empty = hashlib.md5(b"").hexdigest()
    path = SAMPLES[kind][1](tmp_path / "file", [(ROWS[0][0], 0), (empty, 0), ROWS[1]])
    assert rows_of(read(path, reading)) == [(ROWS[0][0], -1), (empty, 0), ROWS[1]]
    assert reading.remarks.notes.count(NO_EMPTY_FILE) == 1


@pytest.mark.sampled
@each_text
@pytest.mark.parametrize("end", ["\r", "\r\n", "\r\r\n", "\n\n"], ids=ascii)
@pytest.mark.parametrize("front", ["", "\ufeff", "# note\n\n", "\ufeff \n# md5,sha1\n"], ids=ascii)
def test_any_usual_end_of_lines_and_front(
    kind: str, end: str, front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SAMPLES[kind][1](tmp_path / "file", ROWS)
    text = front + path.read_text("utf-8", "surrogateescape")
    content = os.fsencode(text.replace("\n", end))
    for data in (content, content.removesuffix(end.encode())):
        path.write_bytes(data)
        assert rows_of(read(path)) == expected(kind, ROWS)
    monkeypatch.setattr(importfile, "CHUNK_BYTES", 7)
    assert rows_of(read(path)) == expected(kind, ROWS)


@each
def test_a_file_of_nothing_has_no_rows(kind: str, tmp_path: Path) -> None:
    assert read(SAMPLES[kind][1](tmp_path / "file", [])) == []
    assert read(text(tmp_path / "empty", "")) == []


@each_text
@pytest.mark.parametrize("byte", [b"a", b"\0", b"#", b":", b","], ids=ascii)
def test_a_line_without_end_takes_bounded_memory(kind: str, byte: bytes, tmp_path: Path) -> None:
    content = SAMPLES[kind][1](tmp_path / "file", ROWS).read_bytes()
    for start in (content, content[:-1]):
        stream = Endless(start, byte)
        with pytest.raises(UsageError, match="a line of more than 65536 bytes"):
            list(read_digests(stream, "it", everything()))  # type: ignore[arg-type]  # it has what is used
        assert stream.given <= 2 * importfile.CHUNK_BYTES


@pytest.mark.sampled
@each_text
def test_a_file_without_end_is_read_in_batches(kind: str, tmp_path: Path) -> None:
    content = SAMPLES[kind][1](tmp_path / "file", ROWS).read_bytes()
    stream = Endless(content, content[content.rindex(b"\n", 0, -1) + 1 :])
    batch = next(read_digests(stream, "it", everything()))  # type: ignore[arg-type]  # it has what is used
    assert len(ROWS) < batch.count < 40_000
    assert stream.given <= 2 * importfile.CHUNK_BYTES


def test_a_cell_of_a_database_takes_bounded_memory(tmp_path: Path) -> None:
    path = nsrl(tmp_path / "file", ROWS)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO FILE VALUES (?, '', '')", ("a" * 100_000,))
    db.close()
    with pytest.raises(UsageError, match=r"file: not a database in the NSRL's .* too big"):
        read(path)


@pytest.mark.sampled
@each
def test_a_file_that_is_cut_while_it_is_read_is_refused(kind: str, tmp_path: Path) -> None:
    # The file is so long that its end is not read together with its beginning.
    times = 40_000 if kind in ("bare", "sums", "hashdeep", "csv", "clamav", "nsrl") else 6_000
    path = SAMPLES[kind][1](tmp_path / "file", ROWS * times)
    with path.open("rb") as stream:
        batches = read_digests(stream, "it", everything())
        next(batches)
        # Cut the file at the end of a line near its middle.
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n", 0, len(content) // 2) + 1)
        with pytest.raises(
            UsageError, match=r"it ended .* bytes before its size|it: not (a datab|Parquet)"
        ):
            list(batches)


@each_text
@pytest.mark.parametrize("between", ["\0", "\x0b", "\x85", "\u2028"], ids=ascii)
def test_a_character_that_some_readers_take_for_a_line_end_is_refused(
    kind: str, between: str, tmp_path: Path
) -> None:
    path = SAMPLES[kind][1](tmp_path / "file", ROWS)
    lines = path.read_text("utf-8", "surrogateescape").split("\n")
    line = len(lines) - 2
    text(path, "\n".join([*lines[: line - 1], between.join(lines[line - 1 : line + 1]), ""]))
    with pytest.raises(UsageError, match=rf"^file:{line}: ") as caught:
        read(path)
    assert not any(digest[:10] in caught.value.message for digest, _ in ROWS)


@each_text
def test_rows_that_were_joined_by_a_space_are_refused(kind: str, tmp_path: Path) -> None:
    path = SAMPLES[kind][1](tmp_path / "file", ROWS)
    lines = path.read_text("utf-8", "surrogateescape").split("\n")
    line = len(lines) - 2
    text(path, "\n".join([*lines[: line - 1], " ".join(lines[line - 1 : line + 1]), ""]))
    with pytest.raises(UsageError, match=rf"^file:{line}: "):
        read(path)


@pytest.mark.sampled
@each
@pytest.mark.parametrize(
    "wrong", ["ab" * 15, "ab" * 17, "a" * 31, "ab" * 64, "zz" * 16, "\u0661" * 32], ids=ascii
)
@pytest.mark.parametrize("row", [0, 2])
def test_a_digest_that_is_none_is_named_by_its_line(
    kind: str, wrong: str, row: int, tmp_path: Path
) -> None:
    rows = [*ROWS[:row], (wrong, 9), *ROWS[row:]]
    line = row + FIRST.get(kind, 1)
    with pytest.raises(UsageError, match=rf"^file:{line}: ") as caught:
        read(SAMPLES[kind][1](tmp_path / "file", rows))
    assert wrong not in caught.value.message
    assert not any(digest[:10] in caught.value.message for digest, _ in ROWS)


@each
def test_names_in_messages_are_printable(kind: str, tmp_path: Path) -> None:
    with (
        SAMPLES[kind][1](tmp_path / "file", [("xyz", 1)]).open("rb") as stream,
        pytest.raises(UsageError, match=r"^a\\x1b\[2J:"),
    ):
        list(read_digests(stream, "a\x1b[2J", everything()))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lists = {"base": csv_of({"e-1": CONTENTS[1], "e-9": b"other"})}
    return make_state(tmp_path_factory.mktemp("site"), lists)


@pytest.mark.sampled
@each
def test_publishing_looking_up_and_known_good_lists_read_the_same(
    kind: str, state: Path, tmp_path: Path
) -> None:
    path = SAMPLES[kind][1](tmp_path / "file", ROWS)
    wanted = sorted(digest for digest, _ in ROWS)

    repository = Repository(tmp_path / "repo", clock=lambda: datetime.now(UTC))
    repository.create()
    with path.open("rb") as stream:
        repository.publish("dummies", [("file", stream)], reading=everything())
    folder = repository.directory / "public" / "targets" / "lists" / "dummies"
    (index_path,) = folder.glob("*.index.json")
    (segment_path,) = folder.glob("*.parquet")
    index = parse_index(index_path.read_bytes(), "dummies")
    (published,) = parse_add_segment(segment_path.read_bytes(), index.segments[0])
    assert sorted(d.tobytes().hex() for d in published.digests[Algorithm.MD5][0]) == wanted

    if kind in UNDECIDED:
        with pytest.raises(ConfigError, match="which rows should be used"):
            open_guard(tmp_path / "state", [str(path)], Sealer(bytes(32)))
    else:
        guard = open_guard(tmp_path / "state", [str(path)], Sealer(bytes(32)))
        assert len(guard.known_good_in(published)[Algorithm.MD5]) == len(ROWS)
        inspection = Inspection(guard)
        inspection.add(published)
        assert not inspection.is_clean

    found = call(
        "--state-dir", state, "lookup", "--format", "jsonl", "--show-digests", "--show-all",
        "--from", path,
    )  # fmt: skip
    kinds = {line["digests"]["md5"]: line["type"] for line in found.lines if "digests" in line}
    assert kinds == {digest: "match" if n == 1 else "clean" for n, (digest, _) in enumerate(ROWS)}


# Properties that only ClamAV's files have


def clam(*lines: str) -> list[DigestBatch]:
    return list(
        read_digests(io.BytesIO("".join(f"{line}\n" for line in lines).encode()), "list.hdb")
    )


def test_clamav_has_sizes_names_levels_and_comments() -> None:
    digests = {a: hashlib.new(a.label, b"benign") for a in Algorithm}
    (batch,) = clam(
        "# made up",
        f"{digests[Algorithm.MD5].hexdigest()}:6:Dummy.A-1",
        "",
        f"{digests[Algorithm.SHA1].hexdigest()}:*:Dummy.B_2/x:73",
        f"{digests[Algorithm.SHA256].hexdigest()}:999999999999999999:Dummy:73:255",
    )
    assert batch.names == ["Dummy.A-1", "Dummy.B_2/x", "Dummy"]
    assert batch.lines.tolist() == [2, 4, 5]
    assert batch.sizes.tolist() == [6, int(NO_SIZE), 10**18 - 1]
    for row, (algorithm, digest) in enumerate(digests.items()):
        values, rows = batch.digests[algorithm]
        assert (values.tobytes(), rows.tolist()) == (digest.digest(), [row])


MD5 = ROWS[0][0]


@pytest.mark.parametrize(
    "line",
    [
        *(f"{MD5}:6", f"{MD5}::Name", f"{MD5}:6:", f"{MD5}:-6:Name", f"{MD5}:6:Name:x"),
        *(f"{MD5}:6:Name:1:2:3", f"{MD5}:6:two words", f"{MD5}:{10**18}:Name", f"{MD5}:**:Name"),
        *(f" {MD5}:6:Name", f"{MD5} :6:Name", f"{MD5}", f"{MD5}  name", f"6:{MD5}:Section"),
        *(f"{MD5}:6:Name{MD5}:6:Name", "%%%% HASHDEEP-1.0", "md5,size"),
    ],
)
def test_an_odd_line_of_clamav_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(UsageError, match=r"^list\.hdb:3: not a ClamAV signature") as caught:
        clam(f"{MD5}:6:Name", "# x", line, f"{MD5}:6:Name")
    assert MD5[:10] not in caught.value.message


# Properties that only the NSRL's database has


def test_a_database_is_no_pipe() -> None:
    with pytest.raises(UsageError, match="it: a database cannot be read from a pipe") as caught:
        list(read_digests(io.BytesIO(SQLITE_MAGIC + bytes(100)), "it"))
    assert caught.value.hint == "give the file itself"


def test_a_row_of_a_database_without_a_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^file:2: a row without a digest"):
        read(nsrl(tmp_path / "file", [ROWS[0], ("", 1)]))


def test_another_database_in_its_place_is_not_read(tmp_path: Path) -> None:
    path = nsrl(tmp_path / "file", ROWS)
    with path.open("rb") as stream:
        batches = read_digests(stream, "it")
        nsrl(tmp_path / "other", ROWS[:1]).rename(path)
        with pytest.raises(UsageError, match=r"it: not a database .*: unable to open"):
            list(batches)


# Rows that cannot be used


@each
def test_unusable_rows_are_skipped_up_to_a_bound_and_reported(kind: str, tmp_path: Path) -> None:
    wrong = "zz" * 16
    rows = [ROWS[0], (wrong, 9), ROWS[1], (wrong, 9), *ROWS[2:]]
    path = SAMPLES[kind][1](tmp_path / "file", rows)
    reading = everything(max_bad=2)
    assert rows_of(read(path, reading)) == expected(kind, ROWS)
    first = FIRST.get(kind, 1)
    places = [place for place, _ in reading.remarks.skipped]
    assert places == [f"file:{first + 1}", f"file:{first + 3}"]
    assert not any("zz" in what for _, what in reading.remarks.skipped)
    with pytest.raises(UsageError, match=rf"^file:{first + 3}: .*; more than 1 rows"):
        read(path, everything(max_bad=1))


# In the other formats, the first row names the columns.
@pytest.mark.parametrize("kind", sorted(SAMPLES.keys() - {"bare", "sums", "clamav"}))
def test_a_file_of_rows_that_cannot_be_used_alone_gives_nothing(kind: str, tmp_path: Path) -> None:
    path = SAMPLES[kind][1](tmp_path / "file", [("zz" * 16, 1)] * 3)
    reading = everything(max_bad=3)
    assert read(path, reading) == []
    assert len(reading.remarks.skipped) == 3


# Compressed files


@each
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_files_are_read_as_they_are(kind: str, codec: str, tmp_path: Path) -> None:
    path = SAMPLES[kind][1](tmp_path / "file", ROWS)
    data = path.read_bytes()
    packed = packed_with(codec, data)
    path.write_bytes(packed)
    if kind in ("nsrl", "parquet"):
        with pytest.raises(UsageError, match="cannot be read from a pipe"):
            read(path)
        return
    assert rows_of(read(path)) == expected(kind, ROWS)
    # Several compressed files, concatenated, count as one file.
    half = data.index(b"\n") + 1 if b"\n" in data else len(data) // 2
    path.write_bytes(packed_with(codec, data[:half]) + packed_with(codec, data[half:]))
    assert rows_of(read(path)) == expected(kind, ROWS)
    for broken in (packed[:-3], packed[: len(packed) // 2], packed + b"junk", packed[:-1] + b"?"):
        path.write_bytes(broken)
        with pytest.raises(UsageError, match="cannot be unpacked"):
            read(path)
    path.write_bytes(packed_with(codec, packed))
    with pytest.raises(UsageError, match="compressed twice"):
        read(path)


def test_damaged_compressed_files_keep_no_memory() -> None:
    def private_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()

    def read_damaged(count: int) -> None:
        for _ in range(count):
            with pytest.raises(UsageError, match="cannot be unpacked"):
                list(read_digests(io.BytesIO(b"\x1f\x8b\x01\x00a"), "input"))

    read_damaged(3)
    before = private_bytes()
    read_damaged(30)
    assert private_bytes() - before < 10 * importfile.CHUNK_BYTES


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_gzip_or_zstd_that_expands_without_end_takes_bounded_memory(codec: str) -> None:
    bomb = packed_with(codec, bytes(64 << 20))
    with pytest.raises(UsageError, match="a line of more than"):
        list(read_digests(io.BytesIO(bomb), "it"))


# Formats in one document


@pytest.mark.sampled
@each_document
@pytest.mark.parametrize("byte", [b"a", b" ", b"\n", b'"', b"{", b"<", b"["], ids=ascii)
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_a_document_without_end_takes_bounded_memory(
    kind: str, byte: bytes, share: float, tmp_path: Path
) -> None:
    content = SAMPLES[kind][1](tmp_path / "file", ROWS * 50).read_bytes()
    stream = Endless(content[: int(len(content) * share)], byte)
    with pytest.raises(UsageError, match=r"^it:[0-9]+: "):
        list(read_digests(stream, "it", everything()))  # type: ignore[arg-type]  # what is used


@pytest.mark.slow
@each_document
def test_a_document_that_is_cut_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    content = SAMPLES[kind][1](tmp_path / "file", ROWS).read_bytes().rstrip()
    for end in range(len(content) // 3, len(content), 7):
        with pytest.raises(UsageError) as caught:
            list(read_digests(io.BytesIO(content[:end]), "it", everything()))
        assert not any(digest[:10] in caught.value.message.lower() for digest, _ in ROWS)


@each_document
def test_a_document_in_pieces_of_any_length_is_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SAMPLES[kind][1](tmp_path / "file", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr(importfile, "CHUNK_BYTES", size)
        assert rows_of(read(path)) == expected(kind, ROWS)


@each_document
def test_a_document_that_is_not_utf_8_is_refused(kind: str, tmp_path: Path) -> None:
    content = SAMPLES[kind][1](tmp_path / "file", ROWS).read_bytes()
    text = next(t for t in (b"PhotoDNA", b"A member", b"build") if t in content)
    at = content.rindex(text)
    with pytest.raises(UsageError, match=r"not UTF-8|not whole and well-formed"):
        list(read_digests(io.BytesIO(content[:at] + b"\xff" + content[at:]), "it", everything()))


class Repeating(io.RawIOBase):
    """A stream that repeats one record for ever."""

    def __init__(self, start: bytes, again: bytes) -> None:
        """Begin with `start`, and then repeat `again`."""
        self._rest, self._again = start, again * (1 + (1 << 16) // len(again))
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size:
            self._rest += self._again
        data, self._rest = self._rest[:size], self._rest[size:]
        self.given += size
        return data


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["vics", "caid", "ncmec"])
def test_a_document_that_goes_on_for_ever_is_read_in_flat_memory(kind: str, tmp_path: Path) -> None:
    content = SAMPLES[kind][1](tmp_path / "file", ROWS[:2]).read_bytes()
    if kind == "ncmec":
        begin, end = content.index(b"<image>"), content.index(b"</image>") + len(b"</image>\n")
    else:
        begin = content.index(b"{", content.index(b"["))
        end = content.index(content[begin : begin + 10], begin + 1)
    stream = Repeating(content[:begin], content[begin:end])
    batches = read_digests(stream, "it", everything())  # type: ignore[arg-type]  # what is used
    next(batches)
    tracemalloc.start()
    try:
        assert next(batches).count > 4000
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert stream.given <= 64 * importfile.CHUNK_BYTES
