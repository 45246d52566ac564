"""Lists for other implementations: files in `tests/vectors/wire` and their expected results.

A client of this project fetches each of these lists. Run as a program, with the project on the
path, this file writes the lists again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.core.errors import VerificationError
from hashclient.lists.wire import (
    FORMAT,
    add_schema,
    checksum_of,
    encode_segment,
    entry_hashes,
    withdraw_schema,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "wire"
INDEX, EXPECT = "index.json", "expect.json"
LIST = "baseline"

Row = dict[str, Any]
Files = dict[str, bytes]


def entry(number: int, **changes: Any) -> Row:
    """Return the row of a synthetic entry."""
    data = f"vector {number}".encode()
    digests = {name: hashlib.new(name, data).digest() for name in ("md5", "sha1", "sha256")}
    row = {"entry_id": f"v-{number}", **digests, "size": len(data), "category": "synthetic"}
    return {**row, "added": datetime(2026, 1, number + 1, tzinfo=UTC)} | changes


def adding(*rows: Row) -> bytes:
    return encode_segment(pa.Table.from_pylist(list(rows), add_schema()))


def withdrawing(*ids: str) -> bytes:
    return encode_segment(pa.Table.from_pylist([{"entry_id": i} for i in ids], withdraw_schema()))


def listing(
    live: Sequence[str], *segments: tuple[bytes, str, int, int, int], **changes: Any
) -> Files:
    """Return the files of a list from the bytes, kind, rows and generations of its segments."""
    files, named = {}, []
    for number, (data, kind, rows, first, last) in enumerate(segments):
        name = f"g{last:06}-{kind}-{number:03}.parquet"
        files[name] = data
        named.append({"name": name, "kind": kind, "entries": rows, "first": first, "last": last})
    hashes = entry_hashes(np.array([i.encode() for i in live])) if live else np.zeros(0, np.uint64)
    document = {
        "format": FORMAT,
        "list": LIST,
        "generation": max(last for *_, last in segments),
        "published_at": "2026-02-01T09:00:00Z",
        "entries": len(live),
        "checksum": f"{checksum_of(hashes):016x}",
        "segments": named,
    }
    files[INDEX] = json.dumps(document | changes, indent=1).encode() + b"\n"
    return files


ONE = (adding(entry(0), entry(1)), "add", 2, 1, 1)
TWO = (adding(entry(2), entry(3)), "add", 2, 2, 2)
BOTH = ("v-0", "v-1")


def edited(files: Files, change: Callable[[bytes], bytes]) -> Files:
    return files | {INDEX: change(files[INDEX])}


#: Lists that a client accepts, by the name of the vector.
GOOD: Mapping[str, Callable[[], Files]] = {
    "one-segment": lambda: listing(BOTH, ONE),
    "two-generations": lambda: listing((*BOTH, "v-2", "v-3"), ONE, TWO),
    "withdrawn": lambda: listing(("v-1",), ONE, (withdrawing("v-0"), "withdraw", 1, 2, 2)),
    "withdrawn-and-added-again": lambda: listing(
        BOTH,
        ONE,
        (withdrawing("v-0"), "withdraw", 1, 2, 2),
        (adding(entry(0, category="other")), "add", 1, 3, 3),
    ),
    "consolidated": lambda: listing(
        (*BOTH, "v-2"), (adding(*map(entry, range(3))), "add", 3, 1, 7)
    ),
    "without-sizes": lambda: listing(
        BOTH, (adding(entry(0, size=None), entry(1, size=None, added=None)), "add", 2, 1, 1)
    ),
    "digests-of-one-kind-each": lambda: listing(
        ("v-0", "v-1", "v-2"),
        (
            adding(
                entry(0, sha1=None, sha256=None),
                entry(1, md5=None, sha256=None),
                entry(2, md5=None, sha1=None),
            ),
            *("add", 3, 1, 1),
        ),
    ),
    "empty-after-a-withdrawal": lambda: listing((), ONE, (withdrawing(*BOTH), "withdraw", 2, 2, 2)),
    "the-longest-names": lambda: listing(
        ("v" * 64,), (adding(entry(0, entry_id="v" * 64, category="c" * 31)), "add", 1, 1, 1)
    ),
}
#: Lists that a client refuses, by the name of the vector.
BAD: Mapping[str, Callable[[], Files]] = {
    "another-format": lambda: listing(BOTH, ONE, format="hashclient-list/2"),
    "another-list": lambda: listing(BOTH, ONE, list="other"),
    "a-key-twice": lambda: edited(
        listing(BOTH, ONE), lambda text: text.replace(b"{", b'{"entries": 2, ', 1)
    ),
    "one-key-more": lambda: listing(BOTH, ONE, more=1),
    "count-that-does-not-add-up": lambda: listing(BOTH, ONE, entries=3),
    "checksum-of-other-entries": lambda: listing(BOTH, ONE, checksum=f"{1:016x}"),
    "segment-from-the-future": lambda: listing(BOTH, (ONE[0], "add", 2, 1, 2), generation=1),
    "rows-that-are-not-there": lambda: listing(("v-0", "v-1", "v-2"), (ONE[0], "add", 3, 1, 1)),
    "added-twice": lambda: listing((*BOTH, "v-0"), ONE, (adding(entry(0)), "add", 1, 2, 2)),
    "withdrawn-though-it-is-not-there": lambda: listing(
        ("v-1",), ONE, (withdrawing("v-9"), "withdraw", 1, 2, 2)
    ),
    "without-a-digest": lambda: listing(
        ("v-0",), (adding(entry(0, md5=None, sha1=None, sha256=None)), "add", 1, 1, 1)
    ),
    "negative-size": lambda: listing(("v-0",), (adding(entry(0, size=-1)), "add", 1, 1, 1)),
    "id-with-a-slash": lambda: listing(
        ("v/0",), (adding(entry(0, entry_id="v/0")), "add", 1, 1, 1)
    ),
    "id-like-a-digest": lambda: listing(
        ("0" * 40,), (adding(entry(0, entry_id="0" * 40)), "add", 1, 1, 1)
    ),
    "category-in-capitals": lambda: listing(
        ("v-0",), (adding(entry(0, category="Synthetic")), "add", 1, 1, 1)
    ),
    "digest-of-the-empty-file": lambda: listing(
        ("v-0",), (adding(entry(0, md5=hashlib.md5(b"").digest())), "add", 1, 1, 1)
    ),
    "cut-short": lambda: listing(BOTH, (ONE[0][:-9], "add", 2, 1, 1)),
    "microseconds": lambda: listing(
        ("v-0",),
        (
            encode_segment(
                pa.Table.from_pylist([entry(0)], add_schema()).cast(
                    pa.schema(
                        [
                            field.with_type(pa.timestamp("us", "UTC"))
                            if field.name == "added"
                            else field
                            for field in add_schema()
                        ]
                    )
                )
            ),
            *("add", 1, 1, 1),
        ),
    ),
}
CASES = {**GOOD, **BAD}


def files_of(directory: Path) -> Files:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != EXPECT}


def expectation(files: Files, directory: Path) -> dict[str, Any]:
    """Return the expected result of a client for a list of these files."""
    simulator = Simulator(directory / "provider")
    simulator.publish(b"entry_id,md5,category\nv,00112233445566778899aabbccddeeff,x\n", LIST)
    for name, data in files.items():
        simulator.replace_target(name, data, LIST)
    client = Client(directory / "state", simulator, simulator.root)
    try:
        client.fetch()
    except VerificationError:
        return {"expect": "refused"}
    manifest = client.manifest(LIST)
    assert manifest is not None
    return {
        "expect": "taken",
        "generation": manifest.generation,
        "entries": manifest.entries,
        "with_digest": {str(k): v for k, v in sorted(manifest.with_digest.items())},
        "with_size": manifest.with_size,
    }


@pytest.mark.sampled
@pytest.mark.parametrize("name", CASES)
def test_a_client_gives_the_expected_result_for_each_vector(name: str, tmp_path: Path) -> None:
    expected = json.loads((VECTORS / name / EXPECT).read_text())
    assert expectation(files_of(VECTORS / name), tmp_path) == expected
    assert (expected["expect"] == "taken") == (name in GOOD)


@pytest.mark.parametrize("name", CASES)
def test_the_index_is_what_is_written(name: str) -> None:
    assert CASES[name]()[INDEX] == (VECTORS / name / INDEX).read_bytes()


def test_there_are_no_others() -> None:
    assert {path.name for path in VECTORS.iterdir()} == {*CASES, "README.md"}


def main() -> None:
    """Write all vectors of lists again."""
    for name, make in CASES.items():
        shutil.rmtree(VECTORS / name, ignore_errors=True)
        (VECTORS / name).mkdir(parents=True)
        files = make()
        for file_name, data in files.items():
            (VECTORS / name / file_name).write_bytes(data)
        with tempfile.TemporaryDirectory() as temporary:
            expected = expectation(files, Path(temporary))
        (VECTORS / name / EXPECT).write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
