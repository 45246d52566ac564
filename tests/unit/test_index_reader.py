"""The reader's side of the index: which files it opens or refuses, and answers at limits."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from fixtures.client import Client, content, csv, digests_of
from fixtures.prefixtable import Table, table_of
from fixtures.simulator import Simulator
from hashclient.core.errors import StateError
from hashclient.core.kinds import Algorithm
from hashclient.index import reader as index_module
from hashclient.index.blinding import Sealer, load_sealer
from hashclient.index.manifest import (
    Manifest,
    OtherKeyError,
    RunRef,
    load_manifest,
    verify_runs,
    write_manifest,
)
from hashclient.index.reader import Index, RunSet, lists_on_disk, open_index, open_manifest
from hashclient.index.run import RUN_MAGIC, DamagedError, Run, aligned, mask_set

NUMBERS = range(12)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Client:
    directory = tmp_path_factory.mktemp("index")
    simulator = Simulator(directory / "repo")
    simulator.publish(csv(NUMBERS))
    client = Client(directory / "state", simulator, simulator.root)
    client.fetch()
    return client


@pytest.fixture
def directory(built: Client) -> Path:
    return built.settings.layout.lists / "baseline"


@pytest.fixture
def sealer(built: Client) -> Sealer:
    return load_sealer(built.settings.state_dir, None, {})


@pytest.fixture
def index(directory: Path, sealer: Sealer) -> Index:
    index = open_index(directory, sealer)
    assert index is not None
    return index


def the_run(directory: Path) -> Path:
    (path,) = directory.glob("run-*")
    return path


def copy_with(path: Path, target: Path, data: bytes) -> Path:
    target.mkdir()
    (target / path.name).write_bytes(data)
    return target / path.name


# Opening


def test_no_manifest_is_no_index(sealer: Sealer, tmp_path: Path) -> None:
    assert load_manifest(tmp_path, sealer) is None
    assert open_index(tmp_path, sealer) is None
    assert open_index(tmp_path / "nowhere", sealer) is None


def test_a_manifest_that_cannot_be_read(sealer: Sealer, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(StateError, match="cannot read"):
        load_manifest(tmp_path, sealer)


def test_a_run_that_is_gone_for_good_is_damage(
    index: Index, sealer: Sealer, tmp_path: Path
) -> None:
    write_manifest(tmp_path, index.manifest, sealer)
    with pytest.raises(DamagedError, match="are missing"):
        open_index(tmp_path, sealer)
    with pytest.raises(FileNotFoundError):
        open_manifest(tmp_path, index.manifest)


def test_a_switch_between_manifest_and_run_is_followed(
    index: Index,
    sealer: Sealer,
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fetch removes a run after the reader has read the manifest that names the run."""
    old = msgspec.structs.replace(index.manifest, runs=(RunRef("run-00000000", 1, 1),))
    write_manifest(tmp_path, old, sealer)
    (tmp_path / the_run(directory).name).write_bytes(the_run(directory).read_bytes())
    opened = index_module.open_manifest

    def switch(folder: Path, manifest: Manifest) -> Index:
        write_manifest(tmp_path, index.manifest, sealer)
        return opened(folder, manifest)

    monkeypatch.setattr(index_module, "open_manifest", switch)
    found = open_index(tmp_path, sealer)
    assert found is not None and found.manifest == index.manifest


def test_a_run_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "run-1").mkdir()
    with pytest.raises(StateError, match="not a regular file"):
        Run(tmp_path / "run-1")
    with pytest.raises(StateError, match="not a regular file"):
        verify_runs(tmp_path, [RunRef("run-1", 1, 1)])


def test_the_run_of_another_list_is_refused(tmp_path: Path) -> None:
    """The run of the other list has the same name and length, and differs only in the list's id."""
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)), "one")
    simulator.publish(csv(range(3, 6)), "two")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    one, two = (the_run(client.settings.layout.lists / name) for name in ("one", "two"))
    assert (one.name, one.stat().st_size) == (two.name, two.stat().st_size)
    one.write_bytes(two.read_bytes())
    assert [entry.name for entry in client.open().unusable] == ["one"]
    client.fetch()
    assert client.numbers(range(6)) == set(range(6))


@pytest.mark.parametrize("length", [0, 8, 15])
def test_a_run_without_a_header(directory: Path, tmp_path: Path, length: int) -> None:
    path = copy_with(the_run(directory), tmp_path / "x", the_run(directory).read_bytes()[:length])
    with pytest.raises(DamagedError):
        Run(path)


@pytest.mark.slow
def test_any_damage_to_the_header_is_found_or_harmless(directory: Path, tmp_path: Path) -> None:
    data = the_run(directory).read_bytes()
    end = 16 + int.from_bytes(data[8:16], "little")
    chance = random.Random(1)
    path = copy_with(the_run(directory), tmp_path / "x", data)
    refused = 0
    for _ in range(1500):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 4))):
            changed[chance.randrange(end)] = chance.choice(b'0123456789[]{}",:.-e\x00\xff"<u48S|')
        path.write_bytes(changed)
        try:
            Run(path)
        except DamagedError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    "header",
    [
        [],
        None,
        {"count": 1},
        {"sections": 5},
        {"sections": [[None, "|u1", 0, 1]]},
        {"unsized_masks": 1.7},
        {"sized_masks": 128},
        {"sections": [["masks", "|u1", 0, 1 << 70]]},
        {"sections": [["masks", "|u1", 1 << 70, 1]]},
        {"sections": [["masks", "|u1", -1, 1]]},
        {"sections": [["masks", "|u1", 0, -1]]},
        {"sections": [["masks", "|u1", 0.5, 1]]},
        {"sections": [["masks", "|O", 0, 1]]},
        {"sections": [["masks", "|S0", 0, 1]]},
        {"sections": [["masks", "nonsense", 0, 1]]},
        {"count": 13},
        {"count": "12"},
    ],
    ids=json.dumps,
)
def test_a_header_that_says_nonsense(directory: Path, tmp_path: Path, header: object) -> None:
    data = the_run(directory).read_bytes()
    end = 16 + int.from_bytes(data[8:16], "little")
    good = json.loads(data[16:end])
    document = {**good, **header} if isinstance(header, dict) else header
    encoded = json.dumps(document).encode()
    changed = data[:8] + len(encoded).to_bytes(8, "little") + encoded + bytes(64) + data[end:]
    with pytest.raises(DamagedError):
        Run(copy_with(the_run(directory), tmp_path / "x", changed))


def test_more_sizes_than_entries_are_damage(directory: Path, tmp_path: Path) -> None:
    data = the_run(directory).read_bytes()
    end = 16 + int.from_bytes(data[8:16], "little")
    header = json.loads(data[16:end])
    (section,) = [s for s in header["sections"] if s[0] == "sizes"]
    section[3] = header["count"] + 1
    encoded = json.dumps(header, separators=(",", ":")).encode()
    changed = data[:8] + len(encoded).to_bytes(8, "little") + encoded + data[end:]
    with pytest.raises(DamagedError):
        Run(copy_with(the_run(directory), tmp_path / "x", changed))


def test_a_run_of_another_version_says_so(directory: Path, tmp_path: Path) -> None:
    data = the_run(directory).read_bytes()
    with pytest.raises(DamagedError, match="of another version") as caught:
        Run(copy_with(the_run(directory), tmp_path / "x", data[:6] + b"\1" + data[7:]))
    assert "hashclient fetch" in (caught.value.hint or "")


def test_a_deep_header_is_damage(directory: Path, tmp_path: Path) -> None:
    data = the_run(directory).read_bytes()
    encoded = b"[" * 100_000
    changed = data[:8] + len(encoded).to_bytes(8, "little") + encoded + bytes(64)
    with pytest.raises(DamagedError):
        Run(copy_with(the_run(directory), tmp_path / "x", changed))


def test_lists_are_found_by_their_manifests(built: Client, tmp_path: Path) -> None:
    assert lists_on_disk(built.settings.layout.lists) == ["baseline"]
    assert lists_on_disk(tmp_path / "nowhere") == []
    (tmp_path / "half").mkdir()
    assert lists_on_disk(tmp_path) == []


# Judging the state of the lists


def test_the_key_of_an_index_is_checked(directory: Path) -> None:
    with pytest.raises(OtherKeyError, match="another key"):
        open_index(directory, Sealer(bytes(32)))


# Answers


def test_sizes_that_no_entry_can_have(index: Index) -> None:
    """The run stores sizes in four bytes. A larger size must not be truncated to four bytes."""
    size = len(content(2))
    sized = index.masks_of_size(size)
    unsized = index.masks_of_size(size + 1000)
    assert sized & ~unsized
    for wraps in (size + 2**32, size + 2**63, 2**64 - 1):
        assert index.masks_of_size(wraps) == unsized


def test_many_digests_at_once_in_any_order(built: Client, index: Index) -> None:
    sealer = load_sealer(built.settings.state_dir, None, {})
    order = [5, 99, 0, 11, 5, 3, 98]
    tags = sealer.tags_of(Algorithm.MD5, [digests_of(n)[Algorithm.MD5] for n in order])
    found = index.find(Algorithm.MD5, tags)
    ids = {
        (int(q), bytes(index.runs[r].ids[row]).decode())
        for q, r, row in zip(found.queries, found.runs, found.rows, strict=True)
    }
    assert ids == {(0, "e-5"), (2, "e-0"), (3, "e-11"), (4, "e-5"), (5, "e-3")}
    none = index.find(Algorithm.MD5, np.zeros((0, 2), np.uint64))
    assert len(none.queries) == 0


def run_of(directory: Path, keys: npt.NDArray[np.uint64], table: Table | None = None) -> Run:
    """Write a run with `keys` as the first words of MD5 tags, and their prefix table."""
    bits, starts = table or table_of(keys)
    end = aligned(keys.nbytes)
    header = {
        "count": 0,
        "categories": [],
        "sized_masks": 0,
        "unsized_masks": 0,
        "sections": [
            ("masks", "|u1", 0, 0),
            ("categories", "|u1", 0, 0),
            ("sizes", "<u4", 0, 0),
            ("ids", "|S1", 0, 0),
            ("md5.hi", "<u8", 0, len(keys)),
            ("md5.lo", "<u8", 0, len(keys)),
            ("md5.row", "<u4", 0, len(keys)),
            ("md5.bits", "<u8", end, len(bits)),
            ("md5.starts", "<u4", end + bits.nbytes, len(starts)),
        ],
    }
    encoded = json.dumps(header).encode()
    start = b"".join([RUN_MAGIC, len(encoded).to_bytes(8, "little"), encoded])
    path = directory / "run-00000001"
    path.write_bytes(
        start.ljust(aligned(len(start)), b"\0")
        + keys.tobytes().ljust(end, b"\0")
        + bits.tobytes()
        + starts.tobytes()
    )
    return Run(path)


def test_keys_that_begin_alike_are_searched(tmp_path: Path) -> None:
    keys = np.arange(2**63, 2**63 + 1000, dtype=np.uint64)
    run = run_of(tmp_path, keys)
    queries, positions = run.find("md5", keys[::-5] + np.uint64(3))
    assert queries.tolist() == list(range(1, 200))
    assert positions.tolist() == list(range(997, 6, -5))
    assert len(run.find("sha1", keys)[0]) == 0


@pytest.mark.parametrize(("low", "high"), [(0, 2**64), (2**63, 2**63 + 1000)])
def test_a_table_that_does_not_fit_its_keys_is_damage(tmp_path: Path, low: int, high: int) -> None:
    keys = np.sort(np.random.default_rng(1).integers(low, high, 1000, np.uint64))
    bits, starts = table_of(keys)
    for garbled in (np.flip(starts), starts + np.uint32(1000), starts * np.uint32(0)):
        run = run_of(tmp_path, keys, (bits, garbled))
        with pytest.raises(DamagedError, match="damaged"):
            run.find("md5", keys)
    for wrong in ((bits[:-1], starts), (bits, starts[:-1]), (bits[:0], starts[:0])):
        with pytest.raises(DamagedError, match="damaged"):
            run_of(tmp_path, keys, wrong)


def test_keys_that_begin_alike_and_are_out_of_order_are_damage(tmp_path: Path) -> None:
    keys = np.arange(2**63, 2**63 + 1000, dtype=np.uint64)
    shuffle = np.random.default_rng(1).permutation
    run = run_of(tmp_path, shuffle(np.repeat(keys, 2)), table_of(np.repeat(keys, 2)))
    with pytest.raises(DamagedError, match="damaged"):
        run.find("md5", shuffle(keys))


def test_a_row_that_a_run_does_not_have_is_damage(directory: Path, tmp_path: Path) -> None:
    """Each row in the table must be an entry: the number after the last row is refused, too."""
    data = the_run(directory).read_bytes()
    whole = Run(the_run(directory))
    rows = whole.section("md5.row")
    assert rows is not None and whole.count == len(NUMBERS)
    every = np.arange(len(rows))
    assert sorted(whole.rows_at("md5", every).tolist()) == sorted(rows.tolist())
    for row in (whole.count, 2**32 - 1):
        garbled = np.where(rows == whole.count - 1, np.uint32(row), rows).astype("<u4")
        changed = data.replace(rows.tobytes(), garbled.tobytes())
        assert changed != data
        run = Run(copy_with(the_run(directory), tmp_path / str(row), changed))
        with pytest.raises(DamagedError, match="damaged"):
            run.rows_at("md5", every)
        high, low = run.section("md5.hi"), run.section("md5.lo")
        assert high is not None and low is not None
        tags = np.stack([high, low], axis=1).astype(np.uint64)
        with pytest.raises(DamagedError, match="damaged"):
            RunSet([run]).find(Algorithm.MD5, tags)
        assert len(run.rows_at("md5", np.zeros(0, np.intp))) == 0


def test_a_set_of_masks() -> None:
    assert mask_set(np.array([], np.uint8)) == 0
    assert mask_set(np.array([1, 7, 7, 3], np.uint8)) == 0b1000101


def test_an_open_index_outlives_its_files(directory: Path, tmp_path: Path, sealer: Sealer) -> None:
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = open_index(tmp_path, sealer)
    assert index is not None
    for path in tmp_path.iterdir():
        path.unlink()
    tags = sealer.tags_of(Algorithm.MD5, [digests_of(4)[Algorithm.MD5]])
    assert len(index.find(Algorithm.MD5, tags).queries) == 1
