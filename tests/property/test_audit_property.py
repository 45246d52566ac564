"""Any change of an audit log is found, and any record is read back as it was written."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.audit.log import AuditLog, Event, checkpoint, read, verify
from hashclient.core.errors import AuditError
from hashclient.system.text import path_fields
from tests.kit.depth import examples

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


class Sealed(NamedTuple):
    """A log of 12 records in 5 batches, and a checkpoint of its end."""

    directory: Path
    content: bytes
    lines: list[bytes]
    checkpoint: bytes

    def is_found(self, content: bytes, kept: bytes | None = None) -> bool:
        """Return whether `verify` refuses `content` in place of the log."""
        (self.directory / "log.jsonl").write_bytes(content)
        try:
            verify(self.directory, kept)
        except AuditError:
            return True
        return False


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    directory = tmp_path_factory.mktemp("sealed")
    log = AuditLog(directory, clock=lambda: START)
    for size in (1, 3, 1, 4, 2):
        log.append([Event("match", {"path": f"/srv/{number}"}) for number in range(size)])
    content = (directory / "log.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    kept = checkpoint(directory)
    assert len(lines) == 12
    verify(directory, kept)
    return Sealed(directory, content, lines, kept)


where_lines = st.integers(0, 11)


@pytest.mark.slow
@examples(300)
@given(data=st.data())
def test_any_other_byte_is_found(sealed: Sealed, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(sealed.content) - 1))
    flipped = sealed.content[position] ^ data.draw(st.integers(1, 255))
    changed = sealed.content[:position] + bytes([flipped]) + sealed.content[position + 1 :]
    assert sealed.is_found(changed)


@pytest.mark.slow
@given(data=st.data())
def test_any_bytes_put_in_or_taken_out_are_found(sealed: Sealed, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sealed.content) - 1))
    stop = data.draw(st.integers(start, min(start + 40, len(sealed.content) - 1)))
    new = data.draw(st.binary(min_size=0 if stop > start else 1, max_size=40))
    changed = sealed.content[:start] + new + sealed.content[stop:]
    assert changed == sealed.content or sealed.is_found(changed)


@given(kept=st.sets(where_lines))
def test_any_lines_taken_out_are_found(sealed: Sealed, kept: set[int]) -> None:
    """A checkpoint is needed only if nothing but the end is missing, after a signed record."""
    lines = [sealed.lines[index] for index in sorted(kept)]
    changed = b"".join(lines)
    if changed == sealed.content:
        return
    assert sealed.is_found(changed, sealed.checkpoint)
    only_the_end = lines == sealed.lines[: len(lines)] and lines and b'"sig"' in lines[-1]
    assert only_the_end or sealed.is_found(changed)


@given(order=st.permutations(range(12)))
def test_any_other_order_is_found(sealed: Sealed, order: list[int]) -> None:
    changed = b"".join(sealed.lines[index] for index in order)
    assert changed == sealed.content or sealed.is_found(changed)


@given(one=where_lines, other=where_lines)
def test_two_lines_swapped_are_found(sealed: Sealed, one: int, other: int) -> None:
    lines = [*sealed.lines]
    lines[one], lines[other] = lines[other], lines[one]
    assert one == other or sealed.is_found(b"".join(lines))


@given(what=where_lines, before=st.integers(0, 12))
def test_a_doubled_line_is_found(sealed: Sealed, what: int, before: int) -> None:
    lines = [*sealed.lines[:before], sealed.lines[what], *sealed.lines[before:]]
    assert sealed.is_found(b"".join(lines))


@given(data=st.data())
def test_any_end_cut_off_is_found_against_a_checkpoint(sealed: Sealed, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(sealed.content) - 1))
    assert sealed.is_found(sealed.content[:length], sealed.checkpoint)


@given(data=st.data())
def test_any_changed_checkpoint_is_refused(sealed: Sealed, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(sealed.checkpoint) - 2))
    flipped = sealed.checkpoint[position] ^ data.draw(st.integers(1, 255))
    changed = sealed.checkpoint[:position] + bytes([flipped]) + sealed.checkpoint[position + 1 :]
    assert sealed.is_found(sealed.content, changed)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=10,
)
events = st.builds(
    Event,
    st.from_regex(r"[a-z][a-z0-9-]{0,63}", fullmatch=True),
    st.dictionaries(st.text(), json_values, max_size=4),
)


@pytest.mark.slow
@given(batches=st.lists(st.lists(events, min_size=1, max_size=4), min_size=1, max_size=4))
def test_recorded_events_are_read_back(batches: list[list[Event]]) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        log = AuditLog(directory, clock=lambda: START)
        for batch in batches:
            log.append(batch)
        written = [event for batch in batches for event in batch]
        assert verify(directory).records == len(written) + 1
        records = list(read(directory))
        assert [Event(record.event, record.data) for record in records[1:]] == written
        assert list(read(directory, limit=len(records))) == records


@pytest.mark.slow
@given(text=st.text(st.characters(categories=["L", "N", "Cs", "Cc", "Zs"])))
def test_no_text_stops_the_log(text: str) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        AuditLog(directory, clock=lambda: START).append([Event("refused", {text: [text]})])
        assert verify(directory).records == 2


@given(raw=st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_no_path_loses_a_byte(raw: bytes) -> None:
    fields = path_fields(os.fsdecode(raw))
    encoded = fields.get("path_b64")
    assert raw == (fields["path"].encode() if encoded is None else base64.b64decode(encoded))


#: A script that appends batches of the given sizes as soon as all other writers are ready.
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tests.kit.depth import examples
from hashclient.audit.log import AuditLog, Event

directory, name, *sizes = sys.argv[1:]
log = AuditLog(Path(directory), clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))
print("ready", flush=True)
sys.stdin.readline()
for batch, size in enumerate(sizes):
    log.append([Event("match", {"from": name, "batch": batch})] * int(size))
"""


@pytest.mark.slow
@examples(4)
@given(
    writers=st.lists(st.lists(st.integers(1, 40), min_size=5, max_size=30), min_size=4, max_size=4)
)
def test_processes_that_append_at_once_keep_one_chain(writers: list[list[int]]) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name) / "audit"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, directory, str(number), *map(str, sizes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for number, sizes in enumerate(writers)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
        assert verify(directory).records == 1 + sum(map(sum, writers))
        # The records of a batch are contiguous, and the batches of one process are in order.
        expected = {
            str(number): [batch for batch, size in enumerate(sizes) for _ in range(size)]
            for number, sizes in enumerate(writers)
        }
        found: dict[str, list[int]] = {number: [] for number in expected}
        runs: list[tuple[str, int]] = []
        for record in read(directory, event="match"):
            batch = (record.data["from"], record.data["batch"])
            found[batch[0]].append(batch[1])
            if not runs or runs[-1] != batch:
                runs.append(batch)
        assert found == expected
        assert len(runs) == sum(map(len, writers))
