"""The wire format: valid files, also at their limits, and files of other writers.

Invalid files are tested in `tests/faults/test_attacks_format.py`, by a fetch.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashclient.core.errors import VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.core.model import is_entry_id
from hashclient.lists import wire
from hashclient.lists.wire import (
    FORMAT,
    NO_SIZE,
    AddBatch,
    ListIndex,
    Segment,
    add_schema,
    checksum_of,
    encode_index,
    encode_segment,
    entry_hashes,
    is_category,
    parse_add_segment,
    parse_index,
    parse_withdraw_segment,
    target_name,
    withdraw_schema,
)

#: The test vectors of `docs/format.md`.
VECTORS = {
    b"a": 0xAEFF7D4B5B72EC99,
    b"2024-00017": 0x8C5DD8E108385D0E,
    b"abcdefgh": 0xDB86925397D67FB0,
    b"abcdefghi": 0xCA7A9B577F16926A,
}
ALL_FOUR = 0xE15E83D77A985BC1


def hash_in_python(entry_id: bytes) -> int:
    """Return the hash of an entry id, computed as docs/format.md describes."""
    h = 0
    padded = entry_id + bytes(-len(entry_id) % 8)
    for start in range(0, len(padded), 8):
        z = h ^ int.from_bytes(padded[start : start + 8], "little")
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        h = z ^ (z >> 31)
    return h


@pytest.mark.parametrize("entry_id", VECTORS)
def test_the_hash_of_an_id_is_the_documented_one(entry_id: bytes) -> None:
    assert hash_in_python(entry_id) == VECTORS[entry_id]
    assert entry_hashes(np.array([entry_id])).tolist() == [VECTORS[entry_id]]
    assert checksum_of(entry_hashes(np.array(list(VECTORS)))) == ALL_FOUR


def test_the_hash_does_not_depend_on_the_ids_beside_it() -> None:
    ids = [b"a", b"e-17", b"12345678", b"123456789", b"x" * 64]
    expected = [hash_in_python(i) for i in ids]
    assert entry_hashes(np.array(ids)).tolist() == expected
    assert [int(entry_hashes(np.array([i]))[0]) for i in ids] == expected
    assert checksum_of(entry_hashes(np.array(ids))) == sum(expected) % 2**64
    assert entry_hashes(np.zeros(0, "S1")).tolist() == []
    assert checksum_of(np.zeros(0, np.uint64)) == 0


def index_of(**fields: Any) -> ListIndex:
    values: dict[str, Any] = {
        "format": FORMAT,
        "list": "baseline",
        "generation": 3,
        "published_at": datetime(2024, 5, 1, 12, tzinfo=UTC),
        "entries": 6,
        "checksum": "0123456789abcdef",
        "segments": (
            Segment("a.parquet", "add", 5, 1, 2),
            Segment("b.parquet", "add", 3, 3, 3),
            Segment("c.parquet", "withdraw", 2, 3, 3),
        ),
    }
    return ListIndex(**{**values, **fields})


def test_an_index_is_read_back() -> None:
    index = index_of()
    assert parse_index(encode_index(index), "baseline") == index
    later = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert parse_index(encode_index(index_of(published_at=later)), "baseline").published_at == later


def test_an_index_without_entries_is_one() -> None:
    empty = index_of(entries=0, segments=(), checksum="0" * 16)
    assert parse_index(encode_index(empty), "baseline") == empty


def test_an_index_at_its_limits_is_read() -> None:
    segments = tuple(Segment(f"s-{n}", "add", 200_000, 1, 2**53 - 1) for n in range(2000))
    index = index_of(segments=segments, entries=400_000_000, generation=2**53 - 1)
    assert parse_index(encode_index(index), "baseline") == index


def test_an_index_that_withdraws_more_than_it_adds_is_refused() -> None:
    segments = (Segment("a", "withdraw", 1, 1, 1),)
    with pytest.raises(VerificationError, match="-1 live entries"):
        parse_index(encode_index(index_of(entries=-1, segments=segments)), "baseline")


def test_an_index_over_its_size_is_not_even_decoded() -> None:
    with pytest.raises(VerificationError, match="too large"):
        parse_index(b"\xff" * (wire.MAX_INDEX_BYTES + 1), "baseline")


def test_names_of_targets() -> None:
    assert target_name("baseline", "index.json") == "lists/baseline/index.json"


ROWS: list[dict[str, Any]] = [
    {
        "entry_id": "e-1",
        "md5": b"\x01" * 16,
        "sha1": b"\x02" * 20,
        "sha256": b"\x03" * 32,
        "size": 0,
        "category": "one",
        "added": datetime(2024, 5, 1, tzinfo=UTC),
    },
    {"entry_id": "Z" * 64, "md5": b"\xff" * 16, "size": 2**63 - 1, "category": "a" * 31},
    {"entry_id": "x:y.z_0-9", "sha256": bytes(32), "category": "one"},
]


def table_of(rows: Iterable[dict[str, Any]], schema: pa.Schema | None = None) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema or add_schema())


def parse_all(data: bytes, count: int) -> AddBatch:
    (batch,) = parse_add_segment(data, Segment("s", "add", count, 1, 1))
    return batch


def check_rows(batch: AddBatch) -> None:
    """Check that `batch` has the values of `ROWS`."""
    assert batch.ids.tolist() == [b"e-1", b"Z" * 64, b"x:y.z_0-9"]
    assert batch.masks.tolist() == [7, 1, 4]
    assert batch.sizes.tolist() == [0, 2**63 - 1, NO_SIZE]
    categories = [batch.categories[code] for code in batch.category_codes]
    assert categories == ["one", "a" * 31, "one"]
    digests = {
        a: dict(zip(rows.tolist(), map(bytes, values), strict=True))
        for a, (values, rows) in batch.digests.items()
    }
    assert digests == {
        Algorithm.MD5: {0: b"\x01" * 16, 1: b"\xff" * 16},
        Algorithm.SHA1: {0: b"\x02" * 20},
        Algorithm.SHA256: {0: b"\x03" * 32, 2: bytes(32)},
    }


def test_a_segment_is_read_back() -> None:
    check_rows(parse_all(encode_segment(table_of(ROWS)), 3))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none"},
        {"compression": "gzip", "data_page_size": 16},
        {"compression": "snappy", "use_dictionary": True, "write_statistics": True},
        {"compression": "lz4", "data_page_version": "2.0"},
        {"row_group_size": 1},
        {"column_encoding": {"entry_id": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
        {"column_encoding": {"md5": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
    ],
    ids=str,
)
def test_other_writers_may_choose_encoding_and_compression(options: dict[str, Any]) -> None:
    out = io.BytesIO()
    pq.write_table(table_of(ROWS), out, **options)
    check_rows(parse_all(out.getvalue(), 3))


def test_a_segment_comes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"entry_id": f"e-{n}", "md5": bytes([n]) * 16, "category": "c"} for n in range(10)]
    monkeypatch.setattr(wire, "BATCH_ROWS", 4)
    data = encode_segment(table_of(rows))
    batches = list(parse_add_segment(data, Segment("s", "add", 10, 1, 1)))
    assert [len(b.ids) for b in batches] == [4, 4, 2]
    assert [i for b in batches for i in b.ids.tolist()] == [b"e-%d" % n for n in range(10)]


def test_255_categories_are_not_too_many() -> None:
    rows = [{"entry_id": f"e-{n}", "md5": b"\x01" * 16, "category": f"c{n}"} for n in range(255)]
    batch = parse_all(encode_segment(table_of(rows)), 255)
    assert [batch.categories[code] for code in batch.category_codes] == [
        f"c{n}" for n in range(255)
    ]


def test_category_that_is_not_utf8_is_refused() -> None:
    """A reader of Parquet assumes that text is valid UTF-8, and does not check it."""
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    table = table_of(ROWS[:1])
    place = table.column_names.index("category")
    table = table.set_column(place, pa.field("category", pa.string(), nullable=False), text)
    with pytest.raises(VerificationError, match=r"not a valid Parquet file: .*UTF8"):
        parse_all(encode_segment(table), 1)


def test_a_withdrawal_is_read_back() -> None:
    table = pa.table([pa.array(["e-1", "z" * 64])], schema=withdraw_schema())
    segment = Segment("s", "withdraw", 2, 1, 1)
    (ids,) = parse_withdraw_segment(encode_segment(table), segment)
    assert ids.tolist() == [b"e-1", b"z" * 64]


def test_a_segment_of_the_other_kind_is_refused() -> None:
    add = encode_segment(table_of(ROWS))
    withdraw = encode_segment(pa.table([pa.array(["e-1"])], schema=withdraw_schema()))
    with pytest.raises(VerificationError, match="does not have: added"):
        list(parse_withdraw_segment(add, Segment("s", "withdraw", 3, 1, 1)))
    with pytest.raises(VerificationError, match="has no column md5: it has entry_id"):
        list(parse_add_segment(withdraw, Segment("s", "add", 1, 1, 1)))


@pytest.mark.parametrize(
    ("entry_id", "allowed"),
    [
        ("a", True),
        ("g" * 64, True),
        ("0" * 31, True),
        ("0" * 32 + "-", True),
        ("A.b_c:d-9", True),
        ("", False),
        ("a" * 65, False),
        ("0" * 32, False),
        ("aB" * 20, False),
        ("f" * 64, False),
        ("a b", False),
        ("a/b", False),
        ("a\0", False),
        ("\n", False),
        ("é", False),
        ("\ud800", False),
    ],
    ids=ascii,
)
def test_entry_ids(entry_id: str, allowed: bool) -> None:
    assert is_entry_id(entry_id) is allowed
    if entry_id.isprintable():
        data = encode_segment(table_of([{**ROWS[0], "entry_id": entry_id}]))
        if allowed:
            assert parse_all(data, 1).ids.tolist() == [entry_id.encode()]
        else:
            with pytest.raises(VerificationError):
                parse_all(data, 1)


def test_categories() -> None:
    assert is_category("a") and is_category("a" * 31) and is_category("0.x_y-z")
    for text in ("", "a" * 32, "A", "a b", "-a", "a..b", "é"):
        assert not is_category(text)
