"""A report that is fetched from a store: the client gets the whole report, or an error."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashclient.core.objecturi import parse_uri
from hashclient.objects import report
from hashclient.objects.interface import Seen, Sink
from hashclient.objects.listing import ListingEndedError
from hashclient.objects.others import Other

ROWS = b"key,size\n" + b"".join(b"k%d,1\n" % number for number in range(100))
NAME = "s3://reports/rows.csv"


class Cutting(Other):
    """A store whose answers to range requests have lengths that nobody requested."""

    def __init__(self, more: int) -> None:
        super().__init__("gs", "reports")
        self._more = more

    def head(self, key: str, version: str | None) -> Seen:
        return Seen(len(ROWS), '"e"', None)

    def read(
        self, key: str, span: tuple[int, int] | None, sink: Sink, **_wanted: str | None
    ) -> Seen:
        start, stop = span or (0, len(ROWS))
        sink(memoryview(ROWS + ROWS)[start : stop + self._more])
        return self.head(key, None)


@pytest.mark.parametrize("range_bytes", [100, 1 << 20])
@pytest.mark.parametrize("more", [0, -6, -1, 6])
def test_a_report_of_which_a_store_gives_more_or_less_ends(
    monkeypatch: pytest.MonkeyPatch, range_bytes: int, more: int
) -> None:
    def make_file() -> int:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())

    monkeypatch.setattr(report, "_RANGE_BYTES", range_bytes)
    monkeypatch.setattr(report, "open_store", lambda _: Cutting(more))
    found = report.Report(NAME, parse_uri("s3://bucket/"), make_file=make_file)
    pages: list[Any] = []
    if more:
        with pytest.raises(ListingEndedError, match="damaged"):
            pages.extend(found.pages(all_versions=False))
        assert pages == []
    else:
        pages.extend(found.pages(all_versions=False))
        assert sum(page.num_rows for page in pages) == 100


@pytest.mark.parametrize("is_text", [False, True])
def test_a_row_is_left_out_only_if_the_report_says_that_it_is_no_current_object(
    tmp_path: Path, is_text: bool
) -> None:
    said: dict[str, list[Any]] = {
        "key": ["current", "earlier", "unknown", "marker"],
        "is_latest": [True, False, None, True],
        "is_delete_marker": [False, False, None, True],
    }
    path = tmp_path / "rows"
    if is_text:
        said["is_latest"] = ["True", "FALSE", "", "1"]
        said["is_delete_marker"] = ["false", "", "no", "TRUE"]
        rows = zip(*said.values(), strict=True)
        path.write_text("\n".join([",".join([*said, "size"]), *(",".join(r) + ",1" for r in rows)]))
    else:
        pq.write_table(pa.table(said | {"size": [1] * 4}), path)
    found = report.Report(str(path), parse_uri("s3://bucket/"), make_file=os.getpid)
    keys = [key for page in found.pages(all_versions=False) for key in page["key"].to_pylist()]
    assert keys == [b"current", b"unknown"]
