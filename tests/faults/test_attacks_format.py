"""Attacks by the content of signed files of a hostile provider: one test each.

Each attack ends in the right exit code and in a message that says what is wrong. The lists on disk
do not change by a byte, and scans still use the old generation.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tuf.api.metadata import (
    TargetFile,
)

from fixtures import hostile_segments
from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.core.errors import ExitCode
from hashclient.lists.wire import add_schema, checksum_of, encode_segment, entry_hashes
from tests.attack_world import ALL, G2, OLD, Generations, refused

# index.json


def with_field(**fields: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda document: json.dumps({**document, **fields}).encode()


def with_segment(**fields: Any) -> Callable[[dict[str, Any]], bytes]:
    def change(document: dict[str, Any]) -> bytes:
        document["segments"][1].update(fields)
        return json.dumps(document).encode()

    return change


def text(change: Callable[[str], str]) -> Callable[[dict[str, Any]], bytes]:
    return lambda document: change(json.dumps(document)).encode()


MakeIndex = Callable[[dict[str, Any]], bytes]

BAD_INDEXES: dict[str, tuple[MakeIndex, str]] = {
    "key twice": (
        text(lambda t: t.replace('"entries"', '"entries": 1, "entries"', 1)),
        "same key twice",
    ),
    "key twice in a segment": (
        text(lambda t: t.replace('"name"', '"name": "x", "name"', 1)),
        "same key twice",
    ),
    "number as text": (with_field(generation="3"), "not valid"),
    "number as a float": (with_field(generation=3.0), "not valid"),
    "number as a flag": (with_field(generation=True), "not valid"),
    "number missing": (with_field(generation=None), "not valid"),
    "generation too high": (with_field(generation=2**53), "has generation"),
    "generation zero": (with_field(generation=0), "has generation"),
    "NaN": (text(lambda t: t.replace('"generation": 2', '"generation": NaN')), "not valid"),
    "number of 5000 digits": (
        text(lambda t: t.replace('"generation": 2', f'"generation": {"9" * 5000}')),
        "not valid",
    ),
    "date as a number": (with_field(published_at=1700000000), "not valid"),
    "date as a word": (with_field(published_at="yesterday"), "not valid"),
    "date without a zone": (with_field(published_at="2024-01-01T00:00:00"), "without a time zone"),
    "date before all others": (
        with_field(published_at="0001-01-01T00:00:00+14:00"),
        "published_at out of range",
    ),
    "date after all others": (
        with_field(published_at="9999-12-31T23:59:59-12:00"),
        "published_at out of range",
    ),
    "date with a leap second": (with_field(published_at="2016-12-31T23:59:60Z"), "not valid"),
    "segments as an object": (with_field(segments={}), "not valid"),
    "unknown key": (with_field(**{"\x1b[2Jextra": 1}), "unknown field"),
    "newer format": (with_field(format="hashclient-list/2"), "has format hashclient-list/2"),
    "newer format with another key": (
        with_field(format="hashclient-list/2", more=1),
        "has format hashclient-list/2",
    ),
    "format that floods a terminal": (with_field(format="\x1b]0;x\x07" * 5000), "has format"),
    "checksum too short": (with_field(checksum="0" * 15), "malformed checksum"),
    "checksum not hexadecimal": (with_field(checksum="Z" * 16), "malformed checksum"),
    "count that is wrong": (with_field(entries=14), "14 live entries"),
    "segment without a name": (
        lambda d: json.dumps(
            {**d, "segments": [{k: v for k, v in d["segments"][0].items() if k != "name"}]}
        ).encode(),
        "missing required field `name`",
    ),
    "segment with another key": (with_segment(more=1), "unknown field `more`"),
    "generation missing": (
        lambda d: json.dumps({k: v for k, v in d.items() if k != "generation"}).encode(),
        "missing required field `generation`",
    ),
    "unknown kind": (with_segment(kind="replace"), "not valid"),
    "segment of nothing": (with_segment(entries=0), "entry count 0"),
    "segment of less than nothing": (with_segment(entries=-1), "entry count -1"),
    "segment too large": (with_segment(entries=4_000_001), "entry count 4000001"),
    "segment of a later generation": (with_segment(first=3), "out of range"),
    "segments out of order": (with_segment(first=1), "out of order"),
    "segment that ends later": (with_segment(last=3), "out of range"),
    "segment named twice": (with_segment(name="g000001-add-000.parquet"), "not unique"),
    "segment with the name of the index": (with_segment(name="index.json"), "not allowed"),
    "another encoding": (lambda d: json.dumps(d).encode("utf-16"), "not valid"),
    "empty": (lambda _: b"", "not valid"),
    "array": (lambda _: b"[]", "not valid"),
    "not UTF-8": (lambda _: b"\xff\xfe{}", "not valid"),
    "byte order mark": (lambda d: b"\xef\xbb\xbf" + json.dumps(d).encode(), "not valid"),
    "deep array": (lambda _: b"[" * 100_000, "not valid"),
    "deep object": (lambda _: b'{"a":' * 100_000, "not valid"),
    "too large": (lambda _: b" " * ((4 << 20) + 1), "signed with 4194305 bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_INDEXES)
def test_index_that_breaks_the_format(client: Client, simulator: Simulator, name: str) -> None:
    make, message = BAD_INDEXES[name]
    document = json.loads(simulator.files[simulator.target_path("index.json")])
    simulator.replace_target("index.json", make(document))
    refused(client, ExitCode.UNVERIFIED, message)


def test_index_that_asks_for_terabytes(client: Client, simulator: Simulator) -> None:
    def grow(document: dict[str, Any]) -> None:
        for n in range(200):
            document["segments"].append(segment(f"big-{n}", 1))
        document["entries"] += 200
        document["generation"] = 3

    def lengths(signed: Any) -> None:
        for n in range(200):
            path = f"lists/baseline/big-{n}"
            signed.targets[path] = TargetFile(500 << 20, {"sha256": "ab" * 32}, path)

    simulator.edit("baseline", lengths)
    simulator.edit_index(grow)
    simulator.requests.clear()
    refused(client, ExitCode.UNVERIFIED, "has 104857600000 bytes to download")
    assert not any("big" in request for request in simulator.requests)


def test_one_segment_of_terabytes(client: Client, simulator: Simulator) -> None:
    simulator.edit_index(extend(segment("big", 1)))
    path = "lists/baseline/big"
    info = TargetFile(513 << 20, {"sha256": "ab" * 32}, path)
    simulator.edit("baseline", lambda s: s.targets.update({path: info}))
    simulator.requests.clear()
    refused(client, ExitCode.UNVERIFIED, "more than 536870912")
    assert not any("big" in request for request in simulator.requests)


def test_index_of_too_many_entries_or_segments(client: Client, simulator: Simulator) -> None:
    many = [segment(f"s-{n}", 4_000_000) for n in range(101)]
    simulator.edit_index(lambda d: d.update(segments=many, entries=404_000_000, generation=3))
    refused(client, ExitCode.UNVERIFIED, "404000000 entries are more than 400000000")
    many = [segment(f"s-{n}", 1) for n in range(2001)]
    simulator.edit_index(lambda d: d.update(segments=many, entries=2001))
    refused(client, ExitCode.UNVERIFIED, "names 2001 segments")


# Segments


def segment(name: str, entries: int, kind: str = "add") -> dict[str, Any]:
    return {"name": name, "kind": kind, "entries": entries, "first": 3, "last": 3}


def extend(*segments: dict[str, Any], checksum: int = 0) -> Callable[[dict[str, Any]], None]:
    """Return a change of an index: generation 3, with `segments` added."""

    def change(document: dict[str, Any]) -> None:
        document["generation"] = 3
        document["segments"] += segments
        for new in segments:
            sign = 1 if new["kind"] == "add" else -1
            document["entries"] += sign * new["entries"]
        total = (int(document["checksum"], 16) + checksum) % 2**64
        document["checksum"] = f"{total:016x}"

    return change


def sum_of(*entry_ids: str) -> int:
    return checksum_of(entry_hashes(np.array([i.encode() for i in entry_ids])))


def row(**fields: Any) -> dict[str, Any]:
    return {
        "entry_id": "x-1",
        "md5": b"\x01" * 16,
        "sha1": b"\x02" * 20,
        "sha256": b"\x03" * 32,
        "size": 5,
        "category": "synthetic",
        "added": None,
        **fields,
    }


def loose_schema(**types: pa.DataType) -> pa.Schema:
    """Return the schema of an `add` segment with some types replaced and all columns nullable."""
    return pa.schema([pa.field(f.name, types.get(f.name, f.type)) for f in add_schema()])


def parquet(*rows: dict[str, Any], schema: pa.Schema | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema or loose_schema()), out, **options)
    return out.getvalue()


def without(name: str) -> pa.Schema:
    return pa.schema([f for f in loose_schema() if f.name != name])


FIXED_15 = pa.binary(15)

BAD_SEGMENTS: dict[str, tuple[bytes, str]] = {
    "no Parquet": (b"PAR1 is what this is not", "not a valid Parquet file"),
    "empty": (b"", "not a valid Parquet file"),
    "cut": (parquet(row())[:-9], "not a valid Parquet file"),
    "id missing": (parquet(row(), schema=without("entry_id")), "has no column entry_id"),
    "column missing": (parquet(row(), schema=without("added")), "has no column added"),
    "column too many": (
        parquet(row(), schema=loose_schema().append(pa.field("more", pa.int64()))),
        "has a column that the format does not have: more",
    ),
    "digest too narrow": (
        parquet(row(md5=b"x" * 15), schema=loose_schema(md5=FIXED_15)),
        r"column md5 is FIXED_LEN_BYTE_ARRAY\(15\) \(no logical type\), expected FIXED_",
    ),
    "digest of any width": (
        parquet(row(), schema=loose_schema(md5=pa.binary())),
        "column md5 is BYTE_ARRAY",
    ),
    "digest as text": (
        parquet(row(md5="ab" * 16), schema=loose_schema(md5=pa.string())),
        r"column md5 is BYTE_ARRAY \(string\), expected",
    ),
    "size too narrow": (parquet(row(), schema=loose_schema(size=pa.int32())), "size is INT32"),
    "size as a float": (
        parquet(row(), schema=loose_schema(size=pa.float64())),
        "column size is DOUBLE",
    ),
    "size as an unsigned number": (
        parquet(row(size=5), schema=loose_schema(size=pa.uint64())),
        "column size is INT64 .unsigned integer of 64 bits., expected INT64",
    ),
    "id as a number": (
        parquet(row(entry_id=1), schema=loose_schema(entry_id=pa.int64())),
        "column entry_id is INT64",
    ),
    "id nested": (
        parquet(row(entry_id=["x"]), schema=loose_schema(entry_id=pa.list_(pa.string()))),
        "has no column entry_id: it has entry_id.list.element, md5",
    ),
    "digest as a decimal": (
        parquet(row(md5=None), schema=loose_schema(md5=pa.decimal128(38))),
        r"column md5 is FIXED_LEN_BYTE_ARRAY\(16\) \(decimal\)",
    ),
    "id null": (parquet(row(entry_id=None)), "without an id"),
    "category null": (parquet(row(category=None)), "without a category"),
    "no digest": (parquet(row(md5=None, sha1=None, sha256=None)), "without a digest"),
    "id empty": (parquet(row(entry_id="")), "empty or too long"),
    "id too long": (parquet(row(entry_id="a" * 65)), "entry_id has a text that is too long"),
    "id with a space": (parquet(row(entry_id="a b")), "not allowed"),
    "id with an escape": (parquet(row(entry_id="a\x1b[2J")), "not allowed"),
    "id not ASCII": (parquet(row(entry_id="é")), "not allowed"),
    "id without a logical type": (
        parquet(row(entry_id=b"x-1"), schema=loose_schema(entry_id=pa.binary())),
        r"column entry_id is BYTE_ARRAY \(no logical type\), expected BYTE_ARRAY \(string\)",
    ),
    "id with a NUL inside": (parquet(row(entry_id="a\0b")), "not allowed"),
    "id with a NUL at its end": (parquet(row(entry_id="a\0"), row(entry_id="bb")), "not allowed"),
    "id that is an MD5": (parquet(row(entry_id="ab" * 16)), "looks like a digest"),
    "id that is a SHA-1": (parquet(row(entry_id="Ab" * 20)), "looks like a digest"),
    "id that is a SHA-256": (parquet(row(entry_id="01" * 32)), "looks like a digest"),
    "id that is an MD5 and a NUL": (parquet(row(entry_id="ab" * 16 + "\0")), "not allowed"),
    "size negative": (parquet(row(size=-1)), "negative size"),
    "category not allowed": (parquet(row(category="A b")), "category that is not allowed"),
    "category too long": (parquet(row(category="a" * 32)), "category that is not allowed"),
    "256 categories": (
        parquet(*(row(entry_id=f"x-{n}", category=f"c{n}") for n in range(256))),
        "256 categories",
    ),
    "id twice": (parquet(row(), row()), "adds an entry twice"),
    "id that is listed": (
        parquet(row(entry_id="e-3")),
        "the list adds an entry (that it has already|twice): e-3",
    ),
    "the empty file": (
        parquet(row(md5=bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e"))),
        "the empty file",
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", BAD_SEGMENTS)
def test_segment_that_breaks_the_format(client: Client, simulator: Simulator, name: str) -> None:
    data, message = BAD_SEGMENTS[name]
    rows, checksum = 1, 0
    with contextlib.suppress(pa.ArrowException, KeyError, TypeError, AttributeError):
        table = pq.read_table(io.BytesIO(data))
        rows = table.num_rows
        checksum = sum_of(*table.column("entry_id").to_pylist())
    simulator.replace_target("g3", data)
    simulator.edit_index(extend(segment("g3", rows), checksum=checksum))
    refused(client, ExitCode.UNVERIFIED, message)


def test_segment_whose_row_count_lies(client: Client, simulator: Simulator) -> None:
    simulator.replace_target("g3", parquet(row()))
    simulator.edit_index(extend(segment("g3", 2)))
    refused(client, ExitCode.UNVERIFIED, "has 1 rows, the index says 2")


def test_segment_that_asks_for_any_amount_of_memory(client: Client, simulator: Simulator) -> None:
    """A dictionary has one long id that 300,000 rows name: 16 KB decode to 30 GB."""
    data, _, count = hostile_segments.dictionary(300_000)
    assert len(data) < 20_000
    simulator.replace_target("g3", data)
    simulator.edit_index(extend(segment("g3", count)))
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    refused(client, ExitCode.UNVERIFIED, "asks for too much memory")
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


def test_more_than_255_categories_over_segments(client: Client, simulator: Simulator) -> None:
    checksum = 0
    for half in range(2):
        checksum += sum_of(*(f"x-{half}-{n}" for n in range(128)))
        rows = (row(entry_id=f"x-{half}-{n}", category=f"c{half}-{n}") for n in range(128))
        simulator.replace_target(f"g3-{half}", parquet(*rows))
    simulator.edit_index(extend(segment("g3-0", 128), segment("g3-1", 128), checksum=checksum))
    refused(client, ExitCode.UNVERIFIED, "more than 255 categories")


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["e-3", "e-3"], "withdraws an entry twice"), (["nobody"], "that it does not have: nobody")],
)
def test_withdrawal_that_cannot_be(
    client: Client, simulator: Simulator, ids: list[str], message: str
) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"entry_id": ids}), out)
    simulator.replace_target("g3", out.getvalue())
    simulator.edit_index(extend(segment("g3", len(ids), "withdraw")))
    refused(client, ExitCode.UNVERIFIED, message)


def test_list_that_never_adds_up(client: Client, world: Generations) -> None:
    simulator = world.simulator
    simulator.files = dict(world.served[3])
    simulator.edit_index(lambda document: document.update(checksum="0123456789abcdef"))
    refused(client, ExitCode.UNVERIFIED, "do not add up")
    # The unfinished build is removed, and the next generation is built from the start.
    assert not (client.settings.layout.lists / "baseline" / "staging.json").exists()


def test_bad_segment_after_good_ones_leaves_nothing(client: Client, simulator: Simulator) -> None:
    """The bad segment comes after valid segments, which were sealed already and are removed."""
    out = io.BytesIO()
    pq.write_table(pa.table({"entry_id": ["e-4"]}), out)
    simulator.replace_target("g3-a", parquet(row()))
    simulator.replace_target("g3-b", out.getvalue())
    simulator.replace_target("g3-c", b"nothing")
    simulator.edit_index(
        extend(segment("g3-a", 1), segment("g3-b", 1, "withdraw"), segment("g3-c", 1))
    )
    refused(client, ExitCode.UNVERIFIED, "segment g3-c is not a valid Parquet file")


def test_delta_that_does_not_add_up_is_built_again(client: Client, simulator: Simulator) -> None:
    """The provider has changed an old generation, so the checksum of the updated list is wrong."""
    table = pq.read_table(io.BytesIO(simulator.files[simulator.target_path(G2)]))
    kept = table.slice(0, 4).cast(add_schema())
    simulator.replace_target("other", encode_segment(kept))
    added = pa.Table.from_pylist([row(entry_id="x-9")], add_schema())
    simulator.replace_target("g3", encode_segment(added))

    def change(document: dict[str, Any]) -> None:
        document["segments"][1].update(name="other", entries=4)
        document["entries"] -= 1
        extend(segment("g3", 1), checksum=sum_of("x-9") - sum_of("e-14"))(document)

    simulator.edit_index(change)
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (2, 3, None)
    assert client.numbers(ALL) == OLD - {14}
    assert client.leftovers() == set()


def test_delta_that_cannot_be_applied_is_built_again(client: Client, simulator: Simulator) -> None:
    """The delta withdraws an entry that the client's base never had."""
    more = pa.Table.from_pylist([row(entry_id="x-8"), row(entry_id="x-9")], add_schema())
    simulator.replace_target("other", encode_segment(more))
    out = io.BytesIO()
    pq.write_table(pa.table({"entry_id": ["x-8"]}), out)
    simulator.replace_target("g3", out.getvalue())
    difference = sum_of("x-9") - sum_of(*(f"e-{n}" for n in range(10, 15)))

    def change(document: dict[str, Any]) -> None:
        document["segments"][1].update(name="other", entries=2)
        document["entries"] -= 3
        extend(segment("g3", 1, "withdraw"), checksum=difference)(document)

    simulator.edit_index(change)
    assert client.fetch()[0].entries == 11
    assert client.numbers(ALL) == set(range(10))
    assert client.leftovers() == set()
