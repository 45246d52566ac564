"""Files with columns: ICSE, NSRL, and tables whose columns the user has named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fixtures import exports
from hashclient.core.errors import UsageError
from hashclient.core.kinds import Algorithm
from hashclient.lists.importers.importfile import OTHER_HASHES, Reading, parse_columns
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch
from hashclient.lists.importers.where import (
    CategoryMap,
    category_name,
    load_category_map,
    parse_where,
)
from hashclient.lists.wire import NO_SIZE

MD5, SHA1, SHA256 = "ab" * 16, "cd" * 20, "ef" * 32


def read(content: bytes | str, reading: Reading | None = None) -> list[DigestBatch]:
    data = content.encode() if isinstance(content, str) else content
    return list(read_digests(io.BytesIO(data), "it", reading))


def digests_of(batches: list[DigestBatch]) -> list[str]:
    return [v.tobytes().hex() for b in batches for v in b.digests[Algorithm.MD5][0]]


def icse(count: int = 50) -> tuple[bytes, list[exports.Entry]]:
    out = io.BytesIO()
    some = list(exports.entries(count, seed=7))
    exports.icse(out, some)
    return out.getvalue(), some


# ICSE


def test_icse_asks_which_rows_are_meant() -> None:
    content, _ = icse()
    with pytest.raises(
        UsageError, match=r"a column Baseline .* which rows should be used"
    ) as caught:
        read(content)
    assert "--where, such as 'Baseline = true'" in (caught.value.hint or "")


def test_icse_rows_are_chosen_and_have_their_ids() -> None:
    content, some = icse()
    reading = Reading(where=parse_where("Baseline = true AND Number of submissions >= 5"))
    (batch,) = read(content, reading)
    wanted = [e for e in some if e.baseline and e.submissions >= 5]
    assert digests_of([batch]) == [e.md5 for e in wanted]
    assert batch.entry_ids == [str(500_000 + e.number) for e in wanted]
    assert batch.categories is None
    assert batch.lines.tolist() == [e.number + 2 for e in wanted]
    assert reading.remarks.not_meant == len(some) - len(wanted)
    assert reading.remarks.notes == [OTHER_HASHES]


def test_icse_categories_may_be_any_column() -> None:
    content, _ = icse(2)
    reading = Reading(all_rows=True, columns={"category": "Media Type", "entry_id": "md5"})
    (batch,) = read(content, reading)
    assert batch.categories == ["image", "image"]


def test_a_column_baseline_asks_in_every_table(tmp_path: Path) -> None:
    rows = [{"md5": MD5, "baseline": "true"}, {"md5": MD5, "Baseline": "no"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / "x"
    pq.write_table(pa.table({"md5": [MD5, MD5], "Baseline": ["true", "no"]}), path)
    for content in (f"md5,Baseline\n{MD5},true\n{MD5},no\n", lines, path):
        for reading, count in (
            (Reading(where=parse_where("baseline = true")), 1),
            (Reading(where=parse_where("all")), 2),
            (Reading(all_rows=True), 2),
        ):
            assert sum(b.count for b in opened(content, reading)) == count
        with pytest.raises(UsageError, match="which rows should be used"):
            opened(content, Reading())


def opened(content: str | Path, reading: Reading) -> list[DigestBatch]:
    if isinstance(content, str):
        return read(content, reading)
    with content.open("rb") as stream:
        return list(read_digests(stream, "it", reading))


@pytest.mark.parametrize("cell", ["perhaps", "2"])
def test_a_cell_that_says_neither_yes_nor_no_is_no_no(cell: str) -> None:
    content = f"md5,baseline\n{MD5},true\n{MD5},{cell}\n"
    with pytest.raises(UsageError, match="it:3: column baseline has no value to compare"):
        read(content, Reading(where=parse_where("Baseline = true")))


# Columns


def test_columns_are_called_as_somebody_says() -> None:
    content = f"HASH_MD5\tbytes\tnote\n{MD5}\t5\tx\n"
    reading = Reading(columns={"md5": "hash_md5", "size": "Bytes"})
    (batch,) = read(content, reading)
    assert (digests_of([batch]), batch.sizes.tolist()) == ([MD5], [5])
    (batch,) = read(json.dumps({"HASH_MD5": MD5, "Bytes": 5}), reading)
    assert (digests_of([batch]), batch.sizes.tolist()) == ([MD5], [5])
    # A column that the user assigns takes precedence over a column named after the digest.
    (batch,) = read(f"md5,other\n{'00' * 16},{MD5}\n", Reading(columns={"md5": "other"}))
    assert digests_of([batch]) == [MD5]


@pytest.mark.parametrize("content", [f"md5,a\n{MD5},1\n", json.dumps({"md5": MD5, "a": 1})])
def test_a_missing_column_is_reported(content: str) -> None:
    for reading in (
        Reading(columns={"size": "b"}),
        Reading(where=parse_where("b = 1")),
    ):
        with pytest.raises(UsageError, match="it: there is no column b"):
            read(content, reading)


@pytest.mark.parametrize("content", [MD5, f"{MD5}  name\n", f"{MD5}:5:Name\n"])
def test_a_file_without_columns_cannot_be_chosen_from(content: str) -> None:
    for reading in (Reading(columns={"md5": "a"}), Reading(where=parse_where("a = 1"))):
        with pytest.raises(UsageError, match="it: a file of this kind has no columns"):
            read(content, reading)


@pytest.mark.parametrize("text", ["md5", "md5=", "=x", "crc=x", "md5 x"])
def test_an_option_that_names_no_column_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--column"):
        parse_columns((text,))
    with pytest.raises(UsageError, match="given twice for md5"):
        parse_columns(("md5=a", "MD5=b"))
    with pytest.raises(UsageError, match="names the column A twice"):
        parse_columns(("md5=a", "entry_id=A"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_any_usual_delimiter(delimiter: str) -> None:
    header, row = delimiter.join(["sha-256", "size", "md5"]), delimiter.join([SHA256, "3", MD5])
    (batch,) = read(f"{header}\n{row}\n")
    assert set(batch.digests) == {Algorithm.MD5, Algorithm.SHA256}
    assert batch.sizes.tolist() == [3]


def test_a_row_with_other_cells_than_the_header_is_skipped_by_its_line() -> None:
    reading = Reading(max_bad=2)
    content = f"md5,size\n{MD5},1\n\n{MD5},1,2\n{MD5},2\n{MD5}\n{MD5},3\n"
    (batch,) = read(content, reading)
    assert (batch.lines.tolist(), batch.sizes.tolist()) == ([2, 5, 7], [1, 2, 3])
    assert [place for place, _ in reading.remarks.skipped] == ["it:4", "it:6"]


def test_a_table_of_rows_with_other_cells_alone_gives_nothing() -> None:
    reading = Reading(max_bad=2, where=parse_where("size >= 1"))
    assert read(f"md5,size\n{MD5}\n{MD5},1,2\n", reading) == []
    assert len(reading.remarks.skipped) == 2


# JSONL and Parquet


@pytest.mark.parametrize(
    "line",
    [
        *("[]", "5", "{", '{"md5":NaN}', f'{{"md5":"{MD5}","md5":"{MD5}"}}', "{" * 100_000),
        *(f'{{"md5":"{MD5}","MD5":"{MD5}"}}', f'{{"md5":["{MD5}"]}}', '{"md5":"\\ud800"}'),
        *(f'{{"sha1":"{SHA1}","sha-1":"{SHA1}"}}', "{}", f'{{"md5":"{MD5}","size":-1}}'),
    ],
    ids=range(12),
)
def test_a_line_that_means_two_things_is_refused(line: str) -> None:
    content = f'{{"md5":"{MD5}"}}\n{line}\n'[: 60_000 + 100]
    with pytest.raises(UsageError, match=r"^it:2: ") as caught:
        read(content)
    assert MD5[:10] not in caught.value.message


def test_objects_need_not_have_the_same_keys() -> None:
    rows = [{"md5": MD5}, {"SHA-1": SHA1, "x": [1]}, {"sha1": SHA1, "Size": "7", "md5": None}]
    (batch,) = read("".join(json.dumps(row) + "\n" for row in rows))
    assert batch.lines.tolist() == [1, 2, 3]
    assert batch.digests[Algorithm.SHA1][1].tolist() == [1, 2]
    assert batch.sizes.tolist() == [int(NO_SIZE), int(NO_SIZE), 7]


def test_parquet_has_digests_as_text_or_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    raw = pa.array([bytes.fromhex(MD5), None, bytes(16)], pa.binary(16))
    table = pa.table(
        {
            "MD5": raw,
            "sha1": pa.array([None, SHA1, ""], pa.large_string()),
            "size": pa.array([1, None, 3], pa.int32()),
            "category": pa.array(["A b", None, "A b"]).dictionary_encode(),
            "added": pa.array([0, None, 1000], pa.timestamp("ms", "UTC")),
        }
    )
    pq.write_table(table.slice(0, 3), path)
    (batch,) = opened(path, Reading())
    values, rows = batch.digests[Algorithm.MD5]
    assert [v.tobytes().hex() for v in values] == [MD5, "00" * 16]
    assert rows.tolist() == [0, 2]
    assert batch.digests[Algorithm.SHA1][1].tolist() == [1]
    assert batch.sizes.tolist() == [1, int(NO_SIZE), 3]
    assert batch.categories == ["a-b", None, "a-b"]
    assert batch.added is not None
    assert [str(t) for t in batch.added][::2] == [
        "1970-01-01T00:00:00.000",
        "1970-01-01T00:00:01.000",
    ]


def test_times_of_parquet_in_a_time_zone_are_converted_to_utc(tmp_path: Path) -> None:
    path = tmp_path / "x"
    added = pa.array([0], pa.timestamp("us", "Asia/Kolkata"))
    pq.write_table(pa.table({"md5": [MD5], "added": added}), path)
    (batch,) = opened(path, Reading())
    assert batch.added is not None and str(batch.added[0]) == "1970-01-01T00:00:00.000"


@pytest.mark.parametrize(
    "columns",
    [
        {"md5": [[MD5]]},
        {"md5": [5.5]},
        {"md5": [MD5], "MD5": [MD5]},
        {"name": [MD5]},
        {"md5": pa.array([bytes(20)], pa.binary(20))},
        {"md5": ["x" * 100_000]},
        {"md5": pa.array([MD5.encode()[:-1] + b"\xff"], pa.binary())},
    ],
)  # fmt: skip
def test_parquet_of_something_else_is_refused(columns: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x"
    pq.write_table(
        pa.Table.from_arrays([pa.array(c) for c in columns.values()], list(columns)), path
    )
    with pytest.raises(UsageError, match=r"^it:") as caught:
        opened(path, Reading())
    assert MD5[:10] not in caught.value.message


def test_parquet_that_expands_without_end_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 16_000), pa.array(["a" * (1 << 20)]))
    pq.write_table(pa.table({"md5": long}), path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UsageError, match=r"^it:"):
        opened(path, Reading())


# Categories


def test_names_of_categories_are_normalised() -> None:
    content = f"md5,category\n{MD5},Category 1\n{MD5},  BAD\tthings \n{MD5},\n{MD5},1\n"
    (batch,) = read(content)
    assert batch.categories == ["category-1", "bad-things", None, "1"]
    # `publish` later refuses this name, but the import keeps it.
    assert category_name("Catégorie +") == "catégorie-+"


def test_a_map_names_categories_and_leaves_rows_out(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('"Category 1" = "one"\n2 = "two"\n"Category 0" = false\n')
    reading = Reading(categories=load_category_map(path), max_bad=1)
    cells = ["category 1", "2", "CATEGORY  0", "", "Category 2", "else"]
    content = "md5,category\n" + "".join(f"{MD5},{cell}\n" for cell in cells)
    (batch,) = read(content, reading)
    assert batch.categories == ["one", "two", None, "two"]
    assert batch.lines.tolist() == [2, 3, 5, 6]
    assert reading.remarks.not_meant == 1
    assert reading.remarks.skipped == [
        ("it:7", "a category that the map of categories does not name")
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x", "not a map"),
        ("", "is empty"),
        ("a = 5", "a: not the name"),
        ("a = true", "a: not the name"),
        ('a = "B c"', "a: not the name"),
        ("[a]", "a: not the name"),
        ('"Category 1" = "a"\n"category-1" = "b"', "occurs twice"),
        ('1 = "a"\n"category 01" = "b"', None),
    ],
)
def test_a_map_is_one_table_of_names(text: str, what: str | None, tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    if what is None:
        assert isinstance(load_category_map(path), CategoryMap)
        return
    with pytest.raises(UsageError, match=what):
        load_category_map(path)
    with pytest.raises(UsageError, match="cannot read the map"):
        load_category_map(tmp_path / "nothing")
