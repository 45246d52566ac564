"""The writer's side of the index: its refusals, and files that readers do not see.

`tests/property/test_index_property.py` tests that the resulting index answers correctly.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hashclient.core.errors import StateError, VerificationError
from hashclient.core.kinds import Algorithm
from hashclient.index import runwriter
from hashclient.index import writer as index_writer
from hashclient.index.manifest import (
    load_manifest,
    verify_runs,
)
from hashclient.index.reader import Index, RunSet, open_manifest
from hashclient.index.run import DamagedError, Run
from hashclient.index.writer import InconsistentError, IndexWriter, sweep
from hashclient.lists.wire import (
    NO_SIZE,
    AddBatch,
    Strings,
    Uint64,
    checksum_of,
    entry_hashes,
)
from tests.kit.manifests import SEALER, finished

TIME = datetime(2024, 1, 1, tzinfo=UTC)


def batch(*ids: str, category: str = "c", sizes: list[int] | None = None) -> AddBatch:
    """Return entries that have an MD5 made from the id."""
    raw = [i.encode() for i in ids]
    digests = np.frombuffer(b"".join(i.ljust(16, b"\x01")[:16] for i in raw), np.uint8)
    return AddBatch(
        ids=np.array(raw),
        masks=np.full(len(ids), Algorithm.MD5, np.uint8),
        sizes=np.full(len(ids), NO_SIZE) if sizes is None else np.array(sizes, np.uint64),
        categories=(category,),
        category_codes=np.zeros(len(ids), np.uint8),
        digests={Algorithm.MD5: (digests.reshape(-1, 16), np.arange(len(ids), dtype=np.uint32))},
    )


def ids(*names: str) -> Strings:
    return np.array([n.encode() for n in names])


@pytest.fixture
def writer(tmp_path: Path) -> IndexWriter:
    return IndexWriter(tmp_path, SEALER, None)


def test_an_id_is_added_once(writer: IndexWriter) -> None:
    writer.add(batch("a", "b"))
    writer.flush()
    writer.add(batch("c", "b"))
    with pytest.raises(InconsistentError, match="an entry that it has already: b"):
        writer.flush()


def test_an_id_is_added_once_in_a_batch(writer: IndexWriter) -> None:
    writer.add(batch("a", "b", "a"))
    with pytest.raises(InconsistentError, match="adds an entry twice: a"):
        writer.flush()


def test_an_id_is_added_once_over_waiting_batches(writer: IndexWriter) -> None:
    writer.add(batch("a", "b"))
    writer.add(batch("c", "a"))
    with pytest.raises(InconsistentError, match="adds an entry twice: a"):
        writer.finish()


def test_different_ids_may_share_a_hash(
    writer: IndexWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that share a 64-bit hash are candidates, whose ids are then compared."""

    def same(of: Strings) -> Uint64:
        return np.full(len(of), 7, np.uint64)

    for module in (index_writer, runwriter):
        monkeypatch.setattr(module, "entry_hashes", same)
    writer.add(batch("a", "b", "c"))
    writer.flush()
    writer.withdraw(ids("b"))
    assert writer.entries == 2
    with pytest.raises(InconsistentError, match="does not have: b"):
        writer.withdraw(ids("b"))
    writer.add(batch("b"))
    writer.flush()
    writer.add(batch("d", "e", "d"))
    with pytest.raises(InconsistentError, match="twice: d"):
        writer.flush()


def test_only_what_is_listed_can_be_withdrawn(writer: IndexWriter) -> None:
    writer.add(batch("a", "b"))
    with pytest.raises(InconsistentError, match="does not have: x"):
        writer.withdraw(ids("a", "x"))
    with pytest.raises(InconsistentError, match="withdraws an entry twice"):
        writer.withdraw(ids("a", "a"))


def test_an_entry_cannot_be_withdrawn_from_an_empty_list(writer: IndexWriter) -> None:
    with pytest.raises(InconsistentError, match="does not have: a"):
        writer.withdraw(ids("a"))


def test_withdrawn_and_added_again(writer: IndexWriter) -> None:
    writer.add(batch("a", "b", sizes=[5, 6]))
    writer.withdraw(ids("a"))
    writer.add(batch("a"))
    writer.withdraw(ids("b"))
    (run,) = writer.finish()
    assert (run.entries, writer.entries, writer.with_size) == (1, 1, 0)
    assert writer.with_digest == {Algorithm.MD5: 1, Algorithm.SHA1: 0, Algorithm.SHA256: 0}
    assert writer.checksum == checksum_of(entry_hashes(ids("a")))


def test_a_list_of_which_nothing_is_left(writer: IndexWriter, tmp_path: Path) -> None:
    writer.add(batch("a", "b"))
    writer.withdraw(ids("b", "a"))
    (ref,) = writer.finish()
    assert (ref.entries, writer.entries, writer.checksum) == (0, 0, 0)
    assert Run(tmp_path / ref.name, length=ref.length).count == 0


def test_a_list_of_nothing_has_no_runs(writer: IndexWriter) -> None:
    assert writer.finish() == ()


def test_more_categories_than_a_byte_can_number(writer: IndexWriter) -> None:
    for n in range(256):
        writer.add(batch(f"e-{n}", category=f"c{n}"))
    with pytest.raises(VerificationError, match="more than 255 categories"):
        writer.flush()


def test_sizes_take_four_bytes_where_they_fit(writer: IndexWriter, tmp_path: Path) -> None:
    writer.add(batch("a", "b", sizes=[2**32 - 1, 0]))
    writer.flush()
    writer.add(batch("c", sizes=[2**32]))
    writer.flush()
    small, large = (Run(path) for path in sorted(tmp_path.glob("run-*")))
    assert small.sizes.dtype == np.dtype("<u4") and small.sizes.tolist() == [0, 2**32 - 1]
    assert large.sizes.dtype == np.dtype("<u8") and large.sizes.tolist() == [2**32]


def test_readers_see_no_change_before_the_manifest(writer: IndexWriter, tmp_path: Path) -> None:
    writer.add(batch("a"))
    writer.finish()
    assert load_manifest(tmp_path, SEALER) is None


def test_the_name_of_an_orphan_is_not_used_again(writer: IndexWriter, tmp_path: Path) -> None:
    (tmp_path / "run-00000007").write_bytes(b"left by a kill")
    (tmp_path / "run-notes").touch()
    later = IndexWriter(tmp_path, SEALER, None)
    later.add(batch("a"))
    (ref,) = later.finish()
    assert ref.name == "run-00000008"
    sweep(tmp_path, frozenset({ref.name}))
    assert {path.name for path in tmp_path.iterdir()} == {ref.name}


def test_a_run_that_cannot_be_written(tmp_path: Path) -> None:
    writer = IndexWriter(tmp_path / "nowhere", SEALER, None)
    writer.add(batch("a"))
    with pytest.raises(StateError, match="cannot write"):
        writer.flush()


def test_no_digest_is_in_a_run(writer: IndexWriter, tmp_path: Path) -> None:
    writer.add(batch("a-digest-of-sixteen"))
    writer.flush()
    (run,) = tmp_path.glob("run-*")
    data = run.read_bytes()
    # The id is in the file once, in plain text. The MD5 begins with the same bytes and is not in
    # the file.
    assert data.count(b"a-digest-of-sixt") == 1
    assert run.stat().st_mode & 0o777 == 0o600


# Merging


def garble_rows(path: Path, section: str) -> None:
    """Replace the row numbers of a run's keys on the disk by numbers that the run does not have."""
    rows = Run(path).section(section)
    assert rows is not None and len(rows)
    data = path.read_bytes()
    assert data.count(rows.tobytes()) > 0
    # The file is changed in place, so a process that has mapped it sees the change.
    with path.open("r+b") as stream:
        stream.write(data.replace(rows.tobytes(), b"\xfe" * rows.nbytes))


@pytest.mark.parametrize("section", ["id.row", "md5.row"])
def test_a_run_that_cannot_be_merged_is_damage_and_not_left_out(
    writer: IndexWriter, tmp_path: Path, section: str
) -> None:
    """A written run is damaged on the disk so that its row numbers point to no entry."""
    writer.add(batch(*(f"a{n}" for n in range(9))))
    writer.flush()
    writer.add(batch(*(f"b{n}" for n in range(9))))
    writer.flush()
    garble_rows(tmp_path / "run-00000001", section)
    with pytest.raises(DamagedError, match="index file is damaged: run-00000001"):
        writer.finish()


def test_runs_that_lack_an_entry_that_was_written_are_damage(writer: IndexWriter) -> None:
    writer.add(batch("a", "b"))
    writer.flush()
    writer.add(batch("c"))
    writer.entries += 1  # pretend that a further entry was written
    with pytest.raises(DamagedError, match="index has 3 entries where 4 were written"):
        writer.finish()


def test_withdrawals_of_merged_runs_from_a_remaining_run_are_kept(
    writer: IndexWriter, tmp_path: Path
) -> None:
    many = [f"a{n}" for n in range(100)]
    writer.add(batch(*many))
    writer.withdraw(ids("a7", "a8"))
    writer.add(batch("b", "c"))
    writer.withdraw(ids("a9", "b"))
    first, second = (Run(tmp_path / ref.name) for ref in writer.finish())
    assert (first.count, second.count) == (100, 1)
    found = first.ids[second.dead_sections()[first.name]].tolist()
    assert sorted(found) == [b"a7", b"a8", b"a9"]
    assert list(second.dead_sections()) == [first.name]
    wanted = ids("a7", "a8", "a9", "b", "c", "a6")
    left = RunSet([first, second]).find_ids(wanted, entry_hashes(wanted)).queries
    assert sorted(wanted[left].tolist()) == [b"a6", b"c"]
    assert writer.entries == 98


def opened(writer: IndexWriter, directory: Path) -> Index:
    """Finish a generation and open the index, like the next fetch."""
    return open_manifest(directory, finished(writer, TIME))


def test_bytes_that_changed_and_fit_are_not_merged(writer: IndexWriter, tmp_path: Path) -> None:
    """Any second word of a tag is valid, so only the digest shows that the word has changed."""
    writer.add(batch("a", "b"))
    base = opened(writer, tmp_path)
    low = base.runs[0].section("md5.lo")
    assert low is not None
    path = tmp_path / base.manifest.runs[0].name
    data = path.read_bytes()
    assert data.count(low.tobytes()) == 1
    with path.open("r+b") as stream:
        stream.write(data.replace(low.tobytes(), bytes(low.nbytes)))
    later = IndexWriter(tmp_path, SEALER, base)
    later.add(batch("c"))
    with pytest.raises(DamagedError, match=r"index file is damaged: .*/run-00000001$"):
        later.finish()


def test_a_manifest_that_leaves_entries_out_is_damage(writer: IndexWriter, tmp_path: Path) -> None:
    writer.add(batch(*(f"a{n}" for n in range(20))))
    writer.withdraw(ids("a1", "a2"))
    index = opened(writer, tmp_path)
    assert (len(index.runs), index.live_entries) == (2, 18)
    large, small = index.manifest.runs
    for runs, left in (((large,), 20), ((small,), 0), ((), 0), ((large, large, small), 38)):
        changed = msgspec.structs.replace(index.manifest, runs=runs)
        with pytest.raises(DamagedError, match=f"index has {left} entries, its manifest says 18"):
            open_manifest(tmp_path, changed)


def test_the_digest_of_a_run_that_stays_is_the_one_of_its_writing(
    writer: IndexWriter, tmp_path: Path
) -> None:
    """If the disk changed a run, the next manifest must not contain the digest of changed bytes."""
    writer.add(batch(*(f"a{n}" for n in range(40))))
    base = opened(writer, tmp_path)
    (kept,) = base.manifest.runs
    low = base.runs[0].section("md5.lo")
    assert low is not None
    path = tmp_path / kept.name
    data = path.read_bytes()
    with path.open("r+b") as stream:
        stream.write(data.replace(low.tobytes(), bytes(low.nbytes)))
    later = IndexWriter(tmp_path, SEALER, base)
    later.add(batch("b"))
    manifest = opened(later, tmp_path).manifest
    assert manifest.runs[0] == kept
    verify_runs(tmp_path, manifest.runs[1:])
    with pytest.raises(DamagedError, match="damaged"):
        verify_runs(tmp_path, manifest.runs)


def test_totals_go_on_from_one_generation_to_the_next(writer: IndexWriter, tmp_path: Path) -> None:
    many = [f"a{n}" for n in range(30)]
    writer.add(batch(*many, sizes=list(range(30))))
    base = opened(writer, tmp_path)
    later = IndexWriter(tmp_path, SEALER, base)
    later.add(batch("b", "c"))
    later.withdraw(ids("a1", "b"))
    manifest = opened(later, tmp_path).manifest
    assert (manifest.entries, manifest.with_size) == (30, 29)
    assert manifest.with_digest == {"md5": 30, "sha1": 0, "sha256": 0}
    left = ids("c", *(i for i in many if i != "a1"))
    assert manifest.checksum == f"{checksum_of(entry_hashes(left)):016x}"


def test_the_checksum_stays_one_of_64_bits(writer: IndexWriter) -> None:
    names = [f"e-{n}" for n in range(16)]
    assert sum(int(h) for h in entry_hashes(ids(*names))) >= 2**64
    for name in names:
        writer.add(batch(name))
    assert writer.checksum == checksum_of(entry_hashes(ids(*names)))
