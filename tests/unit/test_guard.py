"""The poison guard: the empty file, known good files, and their index."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fixtures.client import digests_of
from hashclient.core.errors import ExitCode, HashclientError, VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.fetch.guard import Inspection, open_guard, verify_guard
from hashclient.index.blinding import Sealer
from hashclient.index.reader import RunSet
from hashclient.index.run import DamagedError, Run
from hashclient.index.writer import IndexWriter
from hashclient.lists.importers import nsrl as nsrl_importer
from hashclient.lists.wire import NO_SIZE, AddBatch
from hashclient.system.layout import SOURCES_NAME

SEALER = Sealer(bytes(32))
EMPTY = {a: hashlib.new(a.label).digest() for a in Algorithm}

Entry = dict[Algorithm, bytes]


def batch(*entries: Entry) -> AddBatch:
    """Return a batch of the entries `e-0`, `e-1` and so on."""
    digests = {}
    masks = np.zeros(len(entries), np.uint8)
    for algorithm in Algorithm:
        rows = np.array([n for n, e in enumerate(entries) if algorithm in e], np.uint32)
        if len(rows):
            raw = b"".join(entries[n][algorithm] for n in rows)
            values = np.frombuffer(raw, np.uint8).reshape(-1, algorithm.digest_bytes)
            digests[algorithm] = (values, rows)
            masks[rows] |= np.uint8(algorithm)
    ids = np.array([b"e-%d" % n for n in range(len(entries))])
    count = len(entries)
    sizes, codes = np.full(count, NO_SIZE), np.zeros(count, np.uint8)
    return AddBatch(ids, masks, sizes, ("synthetic",), codes, digests)


def refused(
    directory: Path, files: Sequence[Path], *entries: Entry, withdrawn: Sequence[int] = ()
) -> str | None:
    """Return why the guard refuses a list of entries, or None if it accepts the list."""
    inspection = Inspection(open_guard(directory, [str(path) for path in files], SEALER))
    error: VerificationError | None = None
    with tempfile.TemporaryDirectory() as folder:
        writer = IndexWriter(Path(folder), SEALER, None)
        inspection.add(batch(*entries))
        writer.add(batch(*entries))
        if withdrawn:
            writer.withdraw(np.array([b"e-%d" % n for n in withdrawn]))
        runs = RunSet([Run(Path(folder) / run.name) for run in writer.finish()])
        try:
            inspection.judge(runs)
        except VerificationError as caught:
            error = caught
    assert error is None or not inspection.is_clean
    if error is None:
        return None
    text = f"{error.message} {error.hint}".lower()
    for entry in entries:
        assert not any(digest.hex() in text for digest in entry.values())
    return error.message


def only(entry: Entry, *algorithms: Algorithm) -> Entry:
    return {a: entry[a] for a in algorithms}


@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_empty_file_is_refused_by_any_of_its_digests(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    poison = digests_of(1) | only(EMPTY, algorithm)
    message = refused(tmp_path, [], digests_of(0), poison, digests_of(2))
    assert message == "the list holds the empty file: e-1"
    alone = only(EMPTY, algorithm)
    assert refused(tmp_path, [], alone) == "the list holds the empty file: e-0"


def test_a_digest_that_only_begins_like_that_of_the_empty_file_passes(tmp_path: Path) -> None:
    close = {a: digest[:-1] + bytes([digest[-1] ^ 1]) for a, digest in EMPTY.items()}
    assert refused(tmp_path, [], close, digests_of(1)) is None
    assert not (tmp_path / "known-good").exists()


def test_an_entry_that_is_withdrawn_again_does_not_poison_a_list(tmp_path: Path) -> None:
    good = md5sum(tmp_path / "good", 4, 5)
    entries = [EMPTY, digests_of(1), digests_of(4), EMPTY, digests_of(5)]
    state = tmp_path / "state"
    assert refused(state, [good], *entries, withdrawn=[0]) == "the list holds the empty file: e-3"
    known = "the list holds files that are known to be good: "
    assert refused(state, [good], *entries, withdrawn=[0, 3]) == f"{known}e-2, e-4"
    assert refused(state, [good], *entries, withdrawn=[0, 3, 2]) == f"{known}e-4"
    assert refused(state, [good], *entries, withdrawn=[0, 3, 2, 4]) is None


def test_a_poisoned_entry_is_still_found_after_the_next_batch(tmp_path: Path) -> None:
    guard = open_guard(tmp_path / "state", [str(md5sum(tmp_path / "good", 4, 5))], SEALER)
    for poisoned in (EMPTY, digests_of(4)):
        inspection = Inspection(guard)
        writer = IndexWriter(tmp_path, SEALER, None)
        for number, entry in enumerate((poisoned, digests_of(1), digests_of(2))):
            part = batch(entry)
            part = msgspec.structs.replace(part, ids=np.array([b"e-%d" % number]))
            inspection.add(part)
            writer.add(part)
            assert not inspection.is_clean
        runs = RunSet([Run(tmp_path / run.name) for run in writer.finish()])
        with pytest.raises(VerificationError, match=r": e-0$"):
            inspection.judge(runs)
    # If batches are refused for different reasons, the message names all reasons.
    inspection = Inspection(guard)
    writer = IndexWriter(tmp_path, SEALER, None)
    for number in (4, 5):
        part = msgspec.structs.replace(batch(digests_of(number)), ids=np.array([b"e-%d" % number]))
        inspection.add(part)
        writer.add(part)
    runs = RunSet([Run(tmp_path / run.name) for run in writer.finish()])
    with pytest.raises(VerificationError, match=r"known to be good: e-4, e-5$"):
        inspection.judge(runs)


def test_a_message_names_some_of_many(tmp_path: Path) -> None:
    message = refused(tmp_path, [], *[EMPTY] * 7)
    assert message == "the list holds the empty file: e-0, e-1, e-2, e-3, e-4 and 2 more"


def md5sum(path: Path, *numbers: int) -> Path:
    path.write_text("".join(f"{digests_of(n)[Algorithm.MD5].hex()}  f{n}\n" for n in numbers))
    return path


def hashdeep(path: Path, *numbers: int) -> Path:
    head = "%%%% HASHDEEP-1.0\n%%%% size,md5,sha256,filename\n## comment\n"
    rows = (
        f"6,{d[Algorithm.MD5].hex()},{d[Algorithm.SHA256].hex()},/f\n"
        for d in map(digests_of, numbers)
    )
    path.write_text(head + "".join(rows))
    return path


def csv(path: Path, *numbers: int) -> Path:
    rows = (f"{digests_of(n)[Algorithm.SHA1].hex()}\n" for n in numbers)
    path.write_text("sha1\n" + "".join(rows))
    return path


def nsrl(path: Path, *numbers: int) -> Path:
    """Make a database in the NSRL's RDSv3 format, with invented files."""
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE FILE (sha256 VARCHAR, sha1 VARCHAR, md5 VARCHAR, crc32 VARCHAR,"
            " file_name VARCHAR, file_size INTEGER, package_id INTEGER)"
        )
        for digests in [*map(digests_of, numbers), EMPTY]:
            sha256, sha1, md5 = (digests[a].hex().upper() for a in reversed(Algorithm))
            # In the NSRL, many packages contain the same file.
            for package in range(2):
                row = (sha256, sha1, md5, "", "f", 1, package)
                db.execute("INSERT INTO FILE VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        db.execute(
            "INSERT INTO FILE VALUES (?, NULL, '', '', 'g', 2, 9)",
            (digests_of(99)[Algorithm.SHA256].hex(),),
        )
    db.close()
    return path


FORMATS = {
    md5sum: (Algorithm.MD5,),
    hashdeep: (Algorithm.MD5, Algorithm.SHA256),
    csv: (Algorithm.SHA1,),
    nsrl: tuple(Algorithm),
}


@pytest.mark.sampled
@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_known_good_files_come_in_many_formats(tmp_path: Path, make: object) -> None:
    assert callable(make)
    path = make(tmp_path / "good", 3, 4)
    state = tmp_path / "state"
    assert refused(state, [path], digests_of(1), digests_of(2)) is None
    for algorithm in Algorithm:
        message = refused(state, [path], digests_of(1), only(digests_of(4), algorithm))
        if algorithm in FORMATS[make]:
            assert message == "the list holds files that are known to be good: e-1"
        else:
            assert message is None


def test_a_database_may_lack_digests_in_some_rows(tmp_path: Path) -> None:
    path = nsrl(tmp_path / "good", 3)
    state = tmp_path / "state"
    assert refused(state, [path], only(digests_of(99), Algorithm.SHA256)) is not None
    assert refused(state, [path], only(digests_of(99), Algorithm.SHA1, Algorithm.MD5)) is None


def test_several_files_count_together(tmp_path: Path) -> None:
    files = [md5sum(tmp_path / "one", 1), csv(tmp_path / "two", 2), nsrl(tmp_path / "three", 3)]
    state = tmp_path / "state"
    found = [n for n in range(6) if refused(state, files, digests_of(n)) is not None]
    assert found == [1, 2, 3]
    message = refused(state, files, *map(digests_of, range(6)))
    assert message is not None and message.startswith("the list holds files that are known")


def test_files_of_known_good_digests_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "nothing").write_bytes(b"")
    assert refused(tmp_path / "state", [tmp_path / "nothing"], digests_of(1)) is None


def test_no_digest_is_left_in_the_index(tmp_path: Path) -> None:
    state = tmp_path / "state"
    refused(state, [nsrl(tmp_path / "good", *range(20))], digests_of(50))
    data = b"".join(path.read_bytes() for path in (state / "known-good").iterdir())
    assert len(data) > 20 * 64
    for number in range(20):
        for digest in digests_of(number).values():
            assert digest[:16] not in data and digest.hex().encode() not in data.lower()


def built(directory: Path) -> set[int]:
    return {path.stat().st_ino for path in (directory / "known-good").glob("run-*")}


def test_the_index_is_built_again_only_when_something_changed(tmp_path: Path) -> None:
    path, state = md5sum(tmp_path / "good", 1, 2), tmp_path / "state"
    assert refused(state, [path], digests_of(1)) is not None
    before = built(state)
    assert len(before) == 1
    assert refused(state, [path], digests_of(1)) is not None
    assert built(state) == before
    # The new file has the same length and modification time as the old file.
    status = path.stat()
    md5sum(path, 1, 3)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert refused(state, [path], digests_of(2)) is None
    assert refused(state, [path], digests_of(3)) is not None
    assert not built(state) & before and len(built(state)) == 1
    other = csv(tmp_path / "other", 7)
    assert refused(state, [path, other], digests_of(7)) is not None
    assert refused(state, [other], digests_of(1)) is None


def test_another_key_builds_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = md5sum(tmp_path / "good", 1), tmp_path / "state"
    assert refused(state, [path], digests_of(1)) is not None
    monkeypatch.setattr(f"{__name__}.SEALER", Sealer(bytes(31) + b"x"))
    assert refused(state, [path], digests_of(1)) is not None
    assert refused(state, [path], digests_of(2)) is None


@pytest.mark.sampled
@pytest.mark.parametrize("damage", ["garbled", "cut", "removed", "sources garbled"])
def test_a_damaged_index_is_built_again(tmp_path: Path, damage: str) -> None:
    path, state = md5sum(tmp_path / "good", 1), tmp_path / "state"
    assert refused(state, [path], digests_of(1)) is not None
    (run,) = (state / "known-good").glob("run-*")
    if damage == "garbled":
        run.write_bytes(os.urandom(run.stat().st_size))
    elif damage == "cut":
        os.truncate(run, 20)
    elif damage == "removed":
        run.unlink()
    else:
        (state / "known-good" / SOURCES_NAME).write_bytes(b'{"files": 1}')
    assert refused(state, [path], digests_of(1)) is not None
    assert refused(state, [path], digests_of(2)) is None


def test_rot_in_the_index_is_found_and_mended(tmp_path: Path) -> None:
    path, state = md5sum(tmp_path / "good", 1), tmp_path / "state"
    verify_guard(state)  # the guard has no index yet
    assert refused(state, [path], digests_of(1)) is not None
    verify_guard(state)
    (run,) = (state / "known-good").glob("run-*")
    data = run.read_bytes()
    bits = Run(run).section("md5.bits")
    assert bits is not None
    run.write_bytes(data.replace(bits.tobytes(), bytes(bits.nbytes)))
    with pytest.raises(DamagedError, match="damaged") as caught:
        verify_guard(state)
    assert caught.value.hint == "run `hashclient fetch --rebuild`"
    assert refused(state, [path], digests_of(1)) is None
    open_guard(state, [str(path)], SEALER, verify=True)
    verify_guard(state)
    for run in (state / "known-good").glob("run-*"):
        run.unlink()
    open_guard(state, [str(path)], SEALER, verify=True)
    verify_guard(state)
    assert refused(state, [path], digests_of(1)) is not None


def test_an_index_from_before_the_first_release_is_made_again(tmp_path: Path) -> None:
    path, state = md5sum(tmp_path / "good", 1), tmp_path / "state"
    assert refused(state, [path], digests_of(1)) is not None
    sources = state / "known-good" / "sources.json"
    document = json.loads(sources.read_bytes())
    for run in document["runs"]:
        run["sha256"] = run.pop("root")
    sources.write_text(json.dumps(document | {"format": "hashclient-known-good/1"}))
    (old,) = (state / "known-good").glob("run-*")
    assert refused(state, [path], digests_of(1)) is not None
    assert not old.exists()
    assert json.loads(sources.read_bytes())["format"] == "hashclient-known-good/2"
    verify_guard(state)


@pytest.mark.slow
def test_a_large_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsrl_importer, "ROWS", 7)
    path, state = nsrl(tmp_path / "good", *range(40)), tmp_path / "state"
    found = [n for n in range(60) if refused(state, [path], digests_of(n)) is not None]
    assert found == list(range(40))


def _database(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def _broken(path: Path, how: str) -> None:
    table = "CREATE TABLE FILE (sha256, sha1, md5)"
    if how == "missing":
        return
    if how == "a folder":
        path.mkdir()
    elif how == "text":
        path.write_text("what is this\n")
    elif how == "binary":
        path.write_bytes(os.urandom(500))
    elif how == "a database that is cut":
        nsrl(path, *range(300))
        os.truncate(path, 9000)
    elif how == "only the magic of one":
        path.write_bytes(nsrl_importer.SQLITE_MAGIC + bytes(100))
    elif how == "another table":
        _database(path, "CREATE TABLE METADATA (sha256)")
    elif how == "a digest that is too short":
        _database(path, table, "INSERT INTO FILE VALUES ('', '', 'abcd')")
    elif how == "two digests that make up for each other":
        _database(
            path,
            table,
            f"INSERT INTO FILE VALUES (NULL, NULL, '{'a' * 30}'), ('', '', '{'a' * 34}')",
        )
    elif how == "no hexadecimal digits":
        _database(path, table, f"INSERT INTO FILE VALUES ('', '', '{'x' * 32}')")
    elif how == "a number":
        _database(path, table, "INSERT INTO FILE VALUES (5, '', '')")
    else:
        assert how == "bytes"
        _database(path, table, f"INSERT INTO FILE VALUES (x'{'ab' * 32}', '', '')")


@pytest.mark.sampled
@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "a folder",
        "text",
        "binary",
        "a database that is cut",
        "only the magic of one",
        "another table",
        "a digest that is too short",
        "two digests that make up for each other",
        "no hexadecimal digits",
        "a number",
        "bytes",
    ],
)
def test_a_file_that_is_none_is_a_mistake_in_the_configuration(tmp_path: Path, how: str) -> None:
    path, state = tmp_path / "good", tmp_path / "state"
    _broken(path, how)
    good = md5sum(tmp_path / "other", 1)
    with pytest.raises(HashclientError) as caught:
        open_guard(state, [str(good), str(path)], SEALER)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "good" in caught.value.message
    # The next time, the index of the valid file is used, and no broken index is left.
    assert refused(state, [good], digests_of(1)) is not None
