"""The provider: a real TUF client accepts its files, and a refused change writes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError

from fixtures.simulator import PlainClient, Simulator
from hashclient.core.errors import (
    LockedError,
    StateError,
    UsageError,
)
from hashclient.core.kinds import Algorithm
from hashclient.lists.wire import (
    AddBatch,
    ListIndex,
    checksum_of,
    entry_hashes,
    parse_add_segment,
    parse_withdraw_segment,
)
from hashclient.provider import changes as provider_changes
from hashclient.provider import entries as provider_entries
from hashclient.provider import keystore, listfiles
from hashclient.provider import roles as provider_roles
from hashclient.provider.keys import Keys, Validity
from hashclient.provider.repository import Repository
from hashclient.system import files as system_files
from hashclient.system.files import writer_lock

MD5 = hashlib.md5(b"benign").hexdigest()
SHA1 = hashlib.sha1(b"benign").hexdigest()
SHA256 = hashlib.sha256(b"benign").hexdigest()

CSV = f"""entry_id,md5,sha1,sha256,size,category,added
a-1,{MD5},{SHA1},{SHA256},6,baseline,2024-05-01
a-2,{MD5},,,,,
,,{SHA1},,7,other,2024-05-01T10:00:00Z
""".encode()

ROLES = ("root", "targets", "snapshot", "timestamp", "baseline")


def live_ids(index: ListIndex, files: dict[str, bytes]) -> list[str]:
    """Replay the segments like a client, and check counts and checksums."""
    live: dict[bytes, None] = {}
    for segment in index.segments:
        data = files[segment.name]
        if segment.kind == "add":
            for batch in parse_add_segment(data, segment):
                live |= dict.fromkeys(batch.ids.tolist())
        else:
            for ids in parse_withdraw_segment(data, segment):
                for entry_id in ids.tolist():
                    del live[entry_id]
    assert index.entries == len(live)
    checksum = checksum_of(entry_hashes(np.array(list(live)))) if live else 0
    assert index.checksum == f"{checksum:016x}"
    return [entry_id.decode() for entry_id in live]


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.*") if p.is_file()
    }


# Creating


def test_a_new_repository_has_the_documented_layout(simulator: Simulator) -> None:
    directory = simulator.repository.directory
    names = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    keys = {name for name in names if name.startswith("keys/")}
    assert names - keys == {
        "lock",
        "log/key.pem",
        "log/key.pub",
        "log/log.jsonl",
        "root.json",
        "public/metadata/1.root.json",
        "public/metadata/1.snapshot.json",
        "public/metadata/1.targets.json",
        "public/metadata/timestamp.json",
    }
    assert sorted(key.split("-")[0] for key in keys) == sorted(f"keys/{r}" for r in ROLES[:4])
    assert {(directory / key).stat().st_mode & 0o777 for key in keys} == {0o600}
    assert (directory / "keys").stat().st_mode & 0o777 == 0o700
    assert (directory / "public/metadata/timestamp.json").stat().st_mode & 0o777 == 0o644
    assert simulator.root == (directory / "public/metadata/1.root.json").read_bytes()


def test_a_repository_is_not_made_over_another(simulator: Simulator) -> None:
    with pytest.raises(UsageError, match="already a repository"):
        simulator.repository.create()


def test_a_repository_is_not_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match=r"directory is not empty: .*\(there is photos\)"):
        Repository(tmp_path, clock=lambda: datetime.now(UTC)).create()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("inside", ["public", "public/metadata", "public/new", "deep/below"])
def test_a_repository_is_not_made_in_another(simulator: Simulator, inside: str) -> None:
    outer = simulator.repository.directory
    before = set(outer.rglob("*"))
    inner = Repository(outer / inside, clock=lambda: datetime.now(UTC))
    with pytest.raises(UsageError, match="in a repository already") as refused:
        inner.create()
    assert str(refused.value).endswith(f" is in {outer.resolve()}")
    with pytest.raises(StateError, match="not a provider's repository") as missing:
        inner.status()
    assert str(outer.resolve()) in str(missing.value.hint)
    assert set(outer.rglob("*")) == before


def test_a_repository_needs_a_directory_that_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot make directory"):
        Repository(tmp_path / "file", clock=lambda: datetime.now(UTC)).create()


@pytest.mark.parametrize(("count", "threshold"), [(1, 2), (1, 0), (17, 1)])
def test_impossible_thresholds_are_refused(count: int, threshold: int) -> None:
    with pytest.raises(UsageError, match=f"threshold of {threshold} with {count} keys"):
        Keys(count, threshold)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("publish", ("baseline", [])),
        ("withdraw", ("baseline", ["a"])),
        ("rotate", ("root",)),
        ("renew", ()),
        ("status", ()),
    ],
)
def test_without_a_repository_nothing_is_made(
    tmp_path: Path, method: str, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(StateError, match="not a provider's repository") as caught:
        methodcaller(method, *arguments)(Repository(tmp_path, clock=lambda: datetime.now(UTC)))
    assert "hashclient provider init" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


# Publishing and withdrawing


def test_a_client_reads_the_published_entries(simulator: Simulator, client: PlainClient) -> None:
    done = simulator.publish(CSV)
    assert (done.generation, done.changed, done.live) == (1, 3, 3)
    index, files = client.fetch()
    assert live_ids(index, files) == ["a-1", "a-2", "1-3"]
    assert [s.name for s in index.segments] == ["g000001-add-000.parquet"]
    (batch,) = _batches(index, files)
    assert batch.masks.tolist() == [7, 1, 2]
    assert batch.sizes.astype(np.int64).tolist() == [6, -1, 7]
    categories = [batch.categories[code] for code in batch.category_codes]
    assert categories == ["baseline", "baseline", "other"]
    for algorithm, digits, rows in (
        (Algorithm.MD5, MD5, [0, 1]),
        (Algorithm.SHA1, SHA1, [0, 2]),
        (Algorithm.SHA256, SHA256, [0]),
    ):
        values, at = batch.digests[algorithm]
        assert at.tolist() == rows
        assert {value.tobytes().hex() for value in values} == {digits}


def _batches(index: ListIndex, files: dict[str, bytes]) -> list[AddBatch]:
    return [b for s in index.segments for b in parse_add_segment(files[s.name], s)]


def test_times_are_published(simulator: Simulator, client: PlainClient) -> None:
    import pyarrow.parquet as pq

    simulator.publish(CSV)
    _, files = client.fetch()
    added = pq.read_table(io.BytesIO(files["g000001-add-000.parquet"])).column("added")
    first, third = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert added.to_pylist() == [first, None, third]


def test_each_change_is_one_generation(simulator: Simulator, client: PlainClient) -> None:
    simulator.publish(CSV)
    assert client.generation() == 1
    assert simulator.publish(f"{SHA256}\n".encode()).live == 4
    assert client.generation() == 2
    assert simulator.withdraw("a-1", "2-1").live == 2
    index, files = client.fetch()
    assert live_ids(index, files) == ["a-2", "1-3"]
    assert [(s.kind, s.first, s.last) for s in index.segments] == [
        ("add", 1, 1),
        ("add", 2, 2),
        ("withdraw", 3, 3),
    ]
    # A withdrawn entry may be published again, and all entries may be withdrawn.
    simulator.publish(f"entry_id,md5\na-1,{MD5}\n".encode())
    assert live_ids(*client.fetch()) == ["a-2", "1-3", "a-1"]
    assert simulator.withdraw("a-1", "a-2", "1-3").live == 0
    assert live_ids(*client.fetch()) == []


def test_lists_have_roles_and_keys_of_their_own(simulator: Simulator, client: PlainClient) -> None:
    simulator.publish(CSV)
    simulator.publish(CSV, "local", list_keys=Keys(3, 2))
    assert client.fetch("local")[0].list == "local"
    assert client.generation() == 1
    delegations = simulator.metadata("targets").signed.delegations.roles
    assert {r.name: (r.paths, r.terminating, r.threshold) for r in delegations.values()} == {
        "baseline": (["lists/baseline/*"], True, 1),
        "local": (["lists/local/*"], True, 2),
    }
    assert not set(delegations["baseline"].keyids) & set(delegations["local"].keyids)
    assert not simulator.metadata("targets").signed.targets


def test_large_publications_are_cut_into_segments(
    simulator: Simulator, client: PlainClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_entries, "SEGMENT_ENTRIES", 10)
    monkeypatch.setattr(provider_changes, "SEGMENT_ENTRIES", 10)
    sources = [(f"{n}", io.BytesIO(f"{MD5}\n".encode() * 12)) for n in range(2)]
    simulator.repository.publish("baseline", sources)
    simulator.repository.withdraw("baseline", [f"1-{n}" for n in range(1, 13)])
    simulator.serve_published()
    index, files = client.fetch()
    assert [(s.name, s.entries) for s in index.segments] == [
        ("g000001-add-000.parquet", 10),
        ("g000001-add-001.parquet", 10),
        ("g000001-add-002.parquet", 4),
        ("g000002-withdraw-000.parquet", 10),
        ("g000002-withdraw-001.parquet", 2),
    ]
    assert live_ids(index, files) == [f"1-{n}" for n in range(13, 25)]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no entries to publish"),
        (f"entry_id,md5\nb,{MD5}\nb/c,{MD5}\n".encode(), "it:3: entry id is not allowed"),
        (f"entry_id,md5\n{'b' * 65},{MD5}\n".encode(), "it:2: entry id is not allowed"),
        (f"entry_id,md5\n{SHA1},{MD5}\n".encode(), "it:2: entry id is not allowed"),
        (f"md5,category\n{MD5},a\n{MD5},A&b\n".encode(), "it:3: category is not allowed"),
        (f"entry_id,md5\nb,{MD5}\n\nb,{MD5}\n".encode(), "it:4: entry id occurs twice: b"),
        (
            f"entry_id,md5\nb,{MD5}\na-2,{MD5}\n".encode(),
            "it:3: entry id is on the list already: a-2",
        ),
        (f"{MD5}\n?\n".encode(), "it:2: not a line of a file of digests"),
        (
            "\n".join(["md5,category", *(f"{MD5},c{n}" for n in range(256))]).encode(),
            "segment g000002-add-000.parquet has 257 categories",
        ),
    ],
)
def test_with_one_bad_entry_nothing_is_written(
    simulator: Simulator, content: bytes, message: str
) -> None:
    simulator.publish(CSV)
    before = tree(simulator.repository.directory)
    sources = [
        ("good", io.BytesIO(f"{MD5}\n".encode() if content else b"")),
        ("it", io.BytesIO(content)),
    ]
    with pytest.raises(UsageError) as caught:
        simulator.repository.publish("baseline", sources)
    assert caught.value.message == message
    assert tree(simulator.repository.directory) == before


@pytest.mark.parametrize(
    ("last", "more"),
    [("", ""), (f"{hashlib.md5().hexdigest()}\n", " (and 1 more)")],
)
def test_the_empty_file_is_not_published(simulator: Simulator, last: str, more: str) -> None:
    simulator.publish(CSV)
    before = tree(simulator.repository.directory)
    content = f"{MD5}\n{SHA1}\n{MD5}\n{hashlib.sha256().hexdigest()}\n{SHA1}\n{last}"
    with pytest.raises(UsageError) as caught:
        simulator.publish(content.encode())
    assert caught.value.message == f"baseline.csv:4: has a digest of the empty file{more}"
    assert caught.value.hint is not None and "clients refuse every list" in caught.value.hint
    assert tree(simulator.repository.directory) == before


def test_no_more_categories_than_clients_take(simulator: Simulator) -> None:
    def rows(numbers: range) -> bytes:
        return "\n".join(["md5,category", *(f"{MD5},c{n}" for n in numbers)]).encode()

    simulator.publish(rows(range(200)))
    before = tree(simulator.repository.directory)
    with pytest.raises(UsageError, match="baseline would have 256 categories"):
        simulator.publish(rows(range(150, 256)))
    assert tree(simulator.repository.directory) == before
    assert simulator.publish(rows(range(150, 255))).live == 305


def test_a_repeated_id_is_found_in_any_segment(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_entries, "SEGMENT_ENTRIES", 2)
    content = "entry_id,md5\n" + "".join(f"{i},{MD5}\n" for i in ("a", "b", "c", "d", "e", "d"))
    with pytest.raises(UsageError, match=r"^baseline\.csv:7: entry id occurs twice: d"):
        simulator.publish(content.encode())


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "targets", "root", "a" * 65])
def test_list_names_are_checked(simulator: Simulator, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a list"):
        simulator.publish(CSV, name)


@pytest.mark.parametrize(
    ("list_name", "ids", "message"),
    [
        ("baseline", ["a-1", "a-9"], "entry is not on list baseline: a-9"),
        ("baseline", ["a-1", "a-1"], "entry id is given twice: a-1"),
        ("baseline", ["a-1", MD5], "not an entry id: number 2 of those given"),
        ("baseline", [], "no entries to withdraw"),
        ("local", ["a-1"], "no such list: local"),
    ],
)
def test_only_what_is_listed_can_be_withdrawn(
    simulator: Simulator, list_name: str, ids: list[str], message: str
) -> None:
    simulator.publish(CSV)
    before = tree(simulator.repository.directory)
    with pytest.raises(UsageError) as caught:
        simulator.repository.withdraw(list_name, ids)
    assert caught.value.message == message
    assert tree(simulator.repository.directory) == before


def test_a_list_does_not_outgrow_the_format(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.publish(CSV)
    monkeypatch.setattr(listfiles, "MAX_LIST_ENTRIES", 3)
    with pytest.raises(UsageError, match="list baseline would have more than 3 entries"):
        simulator.publish(f"{MD5}\n".encode())
    monkeypatch.setattr(listfiles, "MAX_SEGMENTS", 1)
    with pytest.raises(UsageError, match="list baseline would have more than 1 segments") as caught:
        simulator.withdraw("a-1")
    assert "hashclient provider consolidate" in (caught.value.hint or "")


def test_two_writers_do_not_meet(simulator: Simulator) -> None:
    with (
        writer_lock(simulator.repository.directory / "lock"),
        pytest.raises(LockedError, match="another process is changing"),
    ):
        simulator.publish(CSV)


# Keys


@pytest.mark.sampled
@pytest.mark.parametrize("role", ROLES)
def test_clients_follow_rotations(simulator: Simulator, client: PlainClient, role: str) -> None:
    simulator.publish(CSV, list_keys=Keys(2, 2))
    assert client.generation() == 1
    new: set[str] = set()
    for generation in (2, 3):
        old = {signer.public_key.keyid for signer in simulator.signers(role)}
        simulator.rotate(role)
        new = {signer.public_key.keyid for signer in simulator.signers(role)}
        assert len(new) == len(old)
        assert not new & old
        simulator.publish(f"{MD5}\n".encode())
        assert client.generation() == generation
    keys = simulator.repository.directory / "keys"
    assert len([path for path in keys.iterdir() if path.name.startswith(f"{role}-")]) == len(new)


def test_a_client_that_slept_through_many_rotations_follows(
    simulator: Simulator, client: PlainClient
) -> None:
    for role in ROLES[:4] * 2:
        simulator.rotate(role)
    simulator.publish(CSV)
    assert client.generation() == 1


@pytest.mark.parametrize("role", ROLES[1:])
def test_a_key_that_was_lost_is_replaced(
    simulator: Simulator, client: PlainClient, role: str
) -> None:
    simulator.publish(CSV)
    assert client.generation() == 1
    for path in (simulator.repository.directory / "keys").glob(f"{role}-*.pem"):
        path.unlink()
    simulator.rotate(role)
    simulator.publish(f"{MD5}\n".encode())
    assert client.generation() == 2


def test_too_few_keys_of_the_root_replace_nothing(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo", root_keys=Keys(3, 2))
    directory = simulator.repository.directory
    keys = sorted((directory / "keys").glob("root-*.pem"))
    for path in keys[:2]:
        path.unlink()
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    for role in ROLES[:4]:
        with pytest.raises(StateError, match="role root needs 2 signing"):
            simulator.rotate(role)
    assert before == {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.sampled
@pytest.mark.parametrize("role", ROLES)
def test_a_rotation_can_change_how_many_have_to_sign(
    simulator: Simulator, client: PlainClient, role: str
) -> None:
    simulator.publish(CSV)
    assert client.generation() == 1
    for number, wanted in enumerate((Keys(3, 2), Keys(1, 1)), 2):
        simulator.repository.rotate(role, wanted)
        simulator.serve_published()
        (state,) = (r for r in simulator.repository.status().roles if r.name == role)
        assert (state.keys, state.threshold) == (wanted.count, wanted.threshold)
        assert len(simulator.metadata(role).signatures) >= wanted.threshold
        simulator.publish(f"{MD5}\n".encode())
        assert client.generation() == number


def test_roles_that_expire_soon_are_named(simulator: Simulator) -> None:
    simulator.publish(CSV)
    repository = simulator.repository
    assert repository.expiring() == []
    simulator.now += timedelta(days=6)
    assert [role for role, *_ in repository.expiring()] == ["timestamp"]
    simulator.now += timedelta(days=20)
    assert [role for role, *_ in repository.expiring()] == ["snapshot", "timestamp"]
    repository.renew()
    assert repository.expiring() == []


def test_rotations_cure_a_list_that_was_pushed_ahead(
    simulator: Simulator, client: PlainClient
) -> None:
    simulator.publish(CSV)
    simulator.edit("baseline", lambda signed: setattr(signed, "version", 1_000_000))
    assert client.generation() == 1
    # Clients do not fetch the next version, because the attack's timestamp names the same version.
    for _ in range(2):
        simulator.publish(f"{MD5}\n".encode())
    with pytest.raises(RepositoryError):
        client.fetch()
    simulator.rotate("snapshot")
    simulator.rotate("timestamp")
    assert client.generation() == 3


def test_leftover_files_of_a_killed_writer_are_deleted(simulator: Simulator) -> None:
    directory = simulator.repository.directory
    folders = [directory, directory / "keys", directory / "public/metadata"]
    leftovers = [folder / f"{system_files.TEMP_PREFIX}1" for folder in folders]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    simulator.renew()
    assert not any(leftover.exists() for leftover in leftovers)


def test_unknown_roles_are_not_rotated(simulator: Simulator) -> None:
    with pytest.raises(UsageError, match="no such role: baseline") as caught:
        simulator.rotate("baseline")
    assert caught.value.hint == "roles: root, targets, snapshot, timestamp"


def test_the_threshold_of_keys_has_to_be_here(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo", root_keys=Keys(3, 2))
    client = PlainClient(tmp_path / "client", simulator)
    keys = sorted((tmp_path / "repo/keys").glob("root-*.pem"))
    keys[0].rename(tmp_path / "offline-0.pem")
    simulator.rotate("timestamp")  # two of three keys sign
    simulator.publish(CSV)
    assert client.generation() == 1
    keys[1].rename(tmp_path / "offline-1.pem")
    for role in ("root", "timestamp"):
        before = tree(simulator.repository.directory)
        with pytest.raises(StateError, match="role root needs 2 signing") as caught:
            simulator.rotate(role)
        assert keys[1].name in (caught.value.hint or "")
        assert tree(simulator.repository.directory) == before
    simulator.publish(f"{MD5}\n".encode())  # a publication needs no key of the root
    assert client.generation() == 2


def _wrong_key(path: Path) -> None:
    path.write_bytes(CryptoSigner.generate_ed25519().private_bytes)


def _elliptic_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (methodcaller("chmod", 0o644), "signing key can be read by others"),
        (methodcaller("write_bytes", b"?"), "not an Ed25519 key"),
        (_elliptic_key, "not an Ed25519 key"),
        (_wrong_key, "not the key that its name says"),
        (methodcaller("unlink"), "role timestamp needs 1 signing key"),
    ],
)
def test_a_bad_key_file_is_found_before_anything_is_published(
    simulator: Simulator, damage: Callable[[Path], None], message: str
) -> None:
    (path,) = (simulator.repository.directory / "keys").glob("timestamp-*.pem")
    timestamp = simulator.repository.public / "metadata/timestamp.json"
    before = timestamp.read_bytes()
    damage(path)
    with pytest.raises(StateError, match=message):
        simulator.renew()
    assert timestamp.read_bytes() == before


# Expiry


def test_renewal_signs_what_is_past_half_of_its_validity(
    simulator: Simulator, client: PlainClient
) -> None:
    simulator.publish(CSV)
    assert simulator.repository.renew().signed == ("timestamp",)
    for days, signed in (
        (16, ("snapshot", "timestamp")),
        (30, ("snapshot", "timestamp", "baseline")),
        (140, ROLES),
    ):
        simulator.now += timedelta(days=days)
        renewed = simulator.repository.renew()
        assert (renewed.signed, renewed.skipped) == (signed, ())
    simulator.serve_published()
    assert client.generation() == 1


def test_renewal_names_what_is_due_but_has_its_key_elsewhere(simulator: Simulator) -> None:
    for path in (simulator.repository.directory / "keys").glob("root-*.pem"):
        path.unlink()
    simulator.now += timedelta(days=200)
    renewed = simulator.repository.renew()
    assert renewed.skipped == ("root",)
    assert renewed.signed == ("targets", "snapshot", "timestamp")


def test_an_expired_repository_is_renewed(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=4000)
    simulator = Simulator(tmp_path / "repo", now=long_ago)
    client = PlainClient(tmp_path / "client", simulator)
    simulator.publish(CSV)
    with pytest.raises(RepositoryError, match="expired"):
        client.fetch()
    simulator.now = datetime.now(UTC)
    simulator.renew()
    assert client.generation() == 1


def test_status_shows_roles_and_lists(simulator: Simulator) -> None:
    simulator.publish(CSV, list_keys=Keys(2, 1))
    found = simulator.repository.status()
    assert found.root_sha256 == hashlib.sha256(simulator.root).hexdigest()
    assert [(r.name, r.version, r.keys, r.threshold) for r in found.roles] == [
        ("root", 1, 1, 1),
        ("targets", 2, 1, 1),
        ("snapshot", 2, 1, 1),
        ("timestamp", 2, 1, 1),
        ("baseline", 1, 2, 1),
    ]
    now = simulator.now.replace(microsecond=0)
    assert [r.expires - now for r in found.roles] == [
        timedelta(days=days) for days in (365, 365, 30, 7, 90)
    ]
    (baseline,) = found.lists
    assert (baseline.name, baseline.generation, baseline.live, baseline.segments) == (
        "baseline",
        1,
        3,
        1,
    )
    assert baseline.published_at == now


def test_the_validity_of_each_role_can_be_set() -> None:
    validity = Validity(lists=timedelta(days=1))
    assert (validity.of("baseline"), validity.of("root")) == (
        timedelta(days=1),
        timedelta(days=365),
    )


# Crashes and damage


class Killed(BaseException):
    """Stands for a kill of the provider's command."""


@contextlib.contextmanager
def killed_before_write(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `number` files be written completely, and then kill the process."""
    real, left = system_files.write_atomic, number

    def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        real(path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(provider_roles, "write_atomic", write)
        patch.setattr(keystore, "write_atomic", write)
        patch.setattr(listfiles, "write_atomic", write)
        yield


CHANGES: dict[str, Callable[[Repository], object]] = {
    "first publication": lambda r: r.publish("local", [("it", io.BytesIO(CSV))]),
    "publication": lambda r: r.publish("baseline", [("it", io.BytesIO(f"{MD5}\n".encode()))]),
    "withdrawal": lambda r: r.withdraw("baseline", ["a-1"]),
    "renewal": lambda r: r.renew(),
    **{f"rotation of {role}": methodcaller("rotate", role) for role in ROLES},
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", CHANGES)
def test_a_kill_between_any_two_writes_leaves_a_whole_repository(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    present = datetime.now(UTC)
    # All metadata is valid, but more than half of its validity has passed.
    validity = Validity(*[timedelta(days=8)] * 5)
    simulator = Simulator(tmp_path / "repo", now=present - timedelta(days=5), validity=validity)
    client = PlainClient(tmp_path / "client", simulator)
    simulator.publish(CSV)
    simulator.now = present
    expected = live_ids(*client.fetch())
    for writes in range(20):
        try:
            with killed_before_write(writes, monkeypatch):
                CHANGES[name](simulator.repository)
        except Killed:
            # An old and a new client both see the complete old state.
            simulator.serve_published()
            assert live_ids(*client.fetch()) == expected
            assert live_ids(*PlainClient(tmp_path / f"new-{writes}", simulator).fetch()) == expected
        else:
            break
    assert writes > 2
    simulator.serve_published()
    simulator.publish(f"entry_id,md5\nlast,{MD5}\n".encode())
    assert "last" in live_ids(*client.fetch())


def test_a_killed_creation_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(tmp_path / "repo", clock=lambda: datetime.now(UTC))
    for writes in range(20):
        try:
            with killed_before_write(writes, monkeypatch):
                repository.create()
        except Killed:
            with pytest.raises(StateError, match="not a provider's repository"):
                repository.status()
        else:
            break
    assert [role.version for role in repository.status().roles] == [1, 1, 1, 1]


def test_a_repository_without_its_timestamp_is_not_made_anew(simulator: Simulator) -> None:
    simulator.publish(CSV)
    metadata = simulator.repository.public / "metadata"
    (metadata / "timestamp.json").unlink()
    before = {path: path.read_bytes() for path in metadata.iterdir()}
    with pytest.raises(UsageError, match="a repository without its timestamp"):
        simulator.repository.create()
    assert {path: path.read_bytes() for path in metadata.iterdir()} == before


def _as_another(path: Path) -> None:
    """Replace the metadata at `path` by the metadata of another role."""
    path.write_bytes((path.parent / "1.root.json").read_bytes())


def test_a_copy_of_a_root_beside_it_is_no_root(simulator: Simulator) -> None:
    simulator.publish(CSV)
    metadata = simulator.repository.public / "metadata"
    for name in ("1 (copy).root.json", "\u0661.root.json", "9x.root.json", "01.root.json"):
        (metadata / name).write_bytes(b"{}")
    simulator.repository.withdraw("baseline", ["a-1"])
    assert simulator.repository.status().roles[0].version == 1


@pytest.mark.parametrize(
    ("pattern", "damage", "message"),
    [
        (
            "metadata/timestamp.json",
            methodcaller("write_bytes", b"{"),
            r"corrupt metadata: .*timestamp.json: .+",
        ),
        ("metadata/timestamp.json", _as_another, "timestamp.json: it is for the role root"),
        ("metadata/2.snapshot.json", _as_another, "snapshot.json: it is for the role root"),
        ("metadata/1.baseline.json", _as_another, "baseline.json: it is for the role root"),
        ("metadata/1.root.json", methodcaller("unlink"), "cannot read published metadata"),
        ("metadata/2.snapshot.json", methodcaller("unlink"), "cannot read published metadata"),
        ("targets/lists/baseline/*.index.json", methodcaller("unlink"), "cannot read"),
        ("targets/lists/*/*.index.json", methodcaller("write_bytes", b"{}"), "corrupt repository"),
        ("targets/lists/*/*.parquet", methodcaller("write_bytes", b"?"), "corrupt repository"),
        ("targets/lists/*/*.parquet", methodcaller("unlink"), "cannot read"),
    ],
)
def test_damage_is_named_and_nothing_is_published_over_it(
    simulator: Simulator, pattern: str, damage: Callable[[Path], object], message: str
) -> None:
    simulator.publish(CSV)
    (path,) = simulator.repository.public.glob(pattern)
    damage(path)
    before = tree(simulator.repository.directory)
    with pytest.raises(StateError, match=message):
        simulator.repository.withdraw("baseline", ["a-1"])
    assert tree(simulator.repository.directory) == before


def test_a_targets_role_without_delegations_is_corrupt(simulator: Simulator) -> None:
    simulator.edit("targets", lambda signed: setattr(signed, "delegations", None))
    for path, data in simulator.files.items():
        (simulator.repository.public / path).write_bytes(data)
    with pytest.raises(StateError, match="the targets role has no delegations"):
        simulator.repository.status()


def test_a_target_folder_that_cannot_be_made_is_named(simulator: Simulator) -> None:
    (simulator.repository.public / "targets").write_bytes(b"")
    with pytest.raises(StateError, match="cannot make directory"):
        simulator.publish(CSV)
