"""The wire format with arbitrary input: valid input is read back, other input gives one error."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import VerificationError
from hashclient.core.kinds import Algorithm, mask_of
from hashclient.core.model import is_entry_id
from hashclient.lists.wire import (
    FORMAT,
    NO_SIZE,
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
)
from tests.kit.depth import examples

ENTRY_IDS = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True).filter(is_entry_id)
CATEGORIES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,30}", fullmatch=True).filter(is_category)


def digest(algorithm: Algorithm) -> st.SearchStrategy[bytes | None]:
    width = algorithm.digest_bytes
    return st.none() | st.binary(min_size=width, max_size=width)


ROWS = st.fixed_dictionaries(
    {
        "entry_id": ENTRY_IDS,
        "md5": digest(Algorithm.MD5),
        "sha1": digest(Algorithm.SHA1),
        "sha256": digest(Algorithm.SHA256),
        "size": st.none() | st.integers(0, 2**63 - 1),
        "category": CATEGORIES,
        "added": st.none(),
    }
).filter(lambda row: any(row[a.label] is not None for a in Algorithm))


@pytest.mark.slow
@given(st.lists(ROWS, min_size=1, max_size=20))
def test_any_segment_is_read_back(rows: list[dict[str, Any]]) -> None:
    data = encode_segment(pa.Table.from_pylist(rows, add_schema()))
    (batch,) = parse_add_segment(data, Segment("s", "add", len(rows), 1, 1))
    assert [i.decode() for i in batch.ids.tolist()] == [r["entry_id"] for r in rows]
    assert [batch.categories[c] for c in batch.category_codes] == [r["category"] for r in rows]
    sizes = [None if size == NO_SIZE else int(size) for size in batch.sizes]
    assert sizes == [r["size"] for r in rows]
    masks = [mask_of(a for a in Algorithm if r[a.label] is not None) for r in rows]
    assert batch.masks.tolist() == masks
    for algorithm in Algorithm:
        expected = {n: r[algorithm.label] for n, r in enumerate(rows) if r[algorithm.label]}
        values, where = batch.digests.get(algorithm, (np.zeros((0, 1), np.uint8), np.zeros(0)))
        assert dict(zip(where.tolist(), map(bytes, values), strict=True)) == expected


@given(st.lists(ENTRY_IDS, max_size=10, unique=True), st.randoms(use_true_random=False))
def test_the_checksum_does_not_depend_on_the_order(ids: list[str], random: Any) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)

    def total(of: list[str]) -> int:
        return checksum_of(entry_hashes(np.array([i.encode() for i in of]))) if of else 0

    assert total(ids) == total(shuffled)
    assert total(ids) == sum(total([i]) for i in ids) % 2**64


VALID = encode_index(
    ListIndex(
        FORMAT,
        "x",
        2,
        datetime(2024, 5, 1, tzinfo=UTC),
        3,
        "0123456789abcdef",
        (Segment("a", "add", 4, 1, 1), Segment("b", "withdraw", 1, 2, 2)),
    )
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


def is_one_error_or_valid(data: bytes) -> None:
    """Check that an index is valid, or is refused by one error with a proper message."""
    try:
        index = parse_index(data, "x")
    except VerificationError as error:
        check_message(error)
        return
    assert parse_index(encode_index(index), "x") == index


def check_message(error: VerificationError) -> None:
    assert error.message.isprintable() and len(error.message) < 600


@given(st.binary(max_size=200))
def test_any_bytes_as_an_index(data: bytes) -> None:
    is_one_error_or_valid(data)


@given(JSON)
def test_any_json_as_an_index(document: Any) -> None:
    is_one_error_or_valid(json.dumps(document).encode())


@given(st.data())
def test_a_valid_index_with_one_value_replaced(data: st.DataObject) -> None:
    document = json.loads(VALID)
    target = data.draw(st.sampled_from([document, *document["segments"]]))
    key = data.draw(st.sampled_from([*sorted(target), "more"]))
    target[key] = data.draw(JSON | st.integers(-2, 5) | st.sampled_from(["a", "add", "x"]))
    is_one_error_or_valid(json.dumps(document).encode())


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[float, int, int]]) -> bytes:
    """Change bytes, cut and insert some, at places given as fractions of the length."""
    changed = bytearray(data)
    for place, what, value in edits:
        at = int(place * len(changed))
        if what == 0:
            changed[at : at + 1] = bytes([value])
        elif what == 1:
            del changed[at : at + 1 + value % 8]
        elif what == 2:
            changed[at:at] = bytes([value])
        else:
            del changed[max(at, 8) :]
    return bytes(changed)


@given(EDITS)
def test_a_valid_index_with_some_bytes_changed(edits: list[tuple[float, int, int]]) -> None:
    is_one_error_or_valid(edited(VALID, edits))


def _segments() -> list[bytes]:
    rows = [
        {
            "entry_id": f"e-{n}",
            "md5": bytes([n]) * 16,
            "sha1": None if n % 2 else bytes([n]) * 20,
            "sha256": None,
            "size": n if n % 3 else None,
            "category": "ab"[n % 2],
            "added": None,
        }
        for n in range(30)
    ]
    table = pa.Table.from_pylist(rows, add_schema())
    other = io.BytesIO()
    pq.write_table(table, other, row_group_size=7, compression="none")
    return [encode_segment(table), other.getvalue()]


SEGMENTS = _segments()


@pytest.mark.slow
@given(st.sampled_from(range(len(SEGMENTS))), st.booleans(), EDITS)
@examples(400)
def test_a_segment_with_some_bytes_changed(
    which: int, at_the_end: bool, edits: list[tuple[float, int, int]]
) -> None:
    data = SEGMENTS[which]
    # A reader trusts most values in the footer, so half of the examples change only the end.
    cut = len(data) * 2 // 3 if at_the_end else 0
    data = data[:cut] + edited(data[cut:], edits)
    try:
        batches = list(parse_add_segment(data, Segment("s", "add", 30, 1, 1)))
    except VerificationError as error:
        check_message(error)
        return
    assert sum(len(b.ids) for b in batches) == 30
    assert all(is_entry_id(i.decode()) for b in batches for i in b.ids.tolist())
    assert all(is_category(c) for b in batches for c in b.categories)
