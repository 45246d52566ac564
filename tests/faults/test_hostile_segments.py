"""Segments that would need much memory or time are refused before they do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from fixtures import hostile_segments
from fixtures.hostile_segments import SEGMENTS
from hashclient.core.errors import VerificationError
from hashclient.lists import bounds
from hashclient.lists.wire import Segment, add_schema, encode_segment, parse_withdraw_segment
from tests.kit.run import ROOT

#: Limits for a segment that breaks the format, far above the normal values.
MAX_SECONDS = 10
MAX_MIB = 300
#: Segments that take less than a second to make.
QUICK = (
    *("some-row-groups", "growing-ids", "claims-a-large-page", "claims-a-long-list"),
    *("long-footer", "nested"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_hostile_segment_is_refused(name: str) -> None:
    make, reason = SEGMENTS[name]
    assert re.search(reason, hostile_segments.decode(*make()) or "")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_hostile_segment_takes_little_memory_and_time(name: str, tmp_path: Path) -> None:
    make, reason = SEGMENTS[name]
    data, kind, entries = make()
    path = tmp_path / "segment"
    path.write_bytes(data)
    words = ["-m", "fixtures.hostile_segments", str(path), kind, str(entries)]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    result = json.loads(done.stdout)
    assert re.search(reason, result["reason"])
    assert result["seconds"] < MAX_SECONDS
    assert result["mib"] < MAX_MIB


@pytest.mark.slow
def test_a_header_that_is_cut_or_changed_anywhere_is_never_more_than_refused() -> None:
    """Each byte of page headers and footer is changed in three ways: refused, or the same rows."""
    data, kind, entries = hostile_segments.row_groups(3)
    assert hostile_segments.decode(data, kind, entries) is None
    for place in range(len(data)):
        for value in (0, 0xFF, data[place] ^ 0x10):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            hostile_segments.decode(changed, kind, entries)
        hostile_segments.decode(data[:place], kind, entries)


@pytest.mark.slow
def test_a_footer_that_contradicts_itself_is_never_more_than_refused() -> None:
    """With a contradictory footer, pyarrow may end the process when asked about some columns."""
    row = {"entry_id": "e-1", "md5": bytes(16), "category": "a"}
    data = encode_segment(pa.Table.from_pylist([row], add_schema()))
    assert hostile_segments.decode(data, "add", 1) is None
    for place in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data) - 8):
        # One byte of the footer becomes the Thrift header of an integer field.
        changed = data[:place] + b"\x14" + data[place + 1 :]
        hostile_segments.decode(changed, "add", 1)


def test_pages_are_counted_over_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _, entries = hostile_segments.row_groups(3)
    monkeypatch.setattr(bounds, "MAX_PAGES", 6)
    segment = Segment("s", "withdraw", entries, 1, 1)
    assert sum(len(ids) for ids in parse_withdraw_segment(data, segment)) == 3
    monkeypatch.setattr(bounds, "MAX_PAGES", 5)
    with pytest.raises(VerificationError, match="more than 5 pages"):
        list(parse_withdraw_segment(data, segment))


def test_pages_are_added_up_over_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"entry_id": "e-1", "md5": bytes(16), "category": "a"}
    data = encode_segment(pa.Table.from_pylist([row], add_schema()))
    assert hostile_segments.decode(data, "add", 1) is None
    # The digest's page is the longest: 16 bytes, and some bytes that mark it as not null.
    monkeypatch.setattr(bounds, "MAX_DECODED_BYTES", 30)
    reason = hostile_segments.decode(data, "add", 1)
    assert reason == "segment s has pages of more than 30 bytes together"
