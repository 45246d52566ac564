"""What a hostile provider, or somebody between it and us, can serve: one test an attack.

Each attack ends in the exit code it deserves and in a message that says what is wrong; the lists on
disk stay as they were, byte for byte, and still scan with the old generation.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    SuccinctRoles,
    TargetFile,
)

from fixtures import hostile
from fixtures.client import Client, content, csv, digests_of
from fixtures.hostile import Behaviour, Connection, HostileServer, Request, reply
from fixtures.simulator import Simulator, endless, status, truncated
from fixtures.tls import Authority, server_context
from hashclient.cli import main as command
from hashclient.errors import ExitCode, HashclientError
from hashclient.hashlist import add_schema, checksum_of, encode_segment, entry_hashes
from hashclient.provider_keys import Keys

#: Generation 1 lists entries 0-9, 2 adds 10-14, 3 withdraws 0 and 1.
OLD, NEW = set(range(15)), set(range(2, 15))
ALL = range(20)
G2 = "g000002-add-000.parquet"


@dataclass
class World:
    """A provider with three generations, what it served at each, and a client at generation 2."""

    simulator: Simulator
    served: dict[int, dict[str, bytes]]
    template: Path
    root: bytes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    simulator = Simulator(tmp_path_factory.mktemp("provider") / "repo")
    served: dict[int, dict[str, bytes]] = {}
    simulator.publish(csv(range(10)), list_keys=Keys(2, 2))
    served[1] = dict(simulator.files)
    simulator.publish(csv(range(10, 15)))
    served[2] = dict(simulator.files)
    client = Client(tmp_path_factory.mktemp("client") / "state", simulator, simulator.root)
    client.fetch()
    simulator.withdraw("e-0", "e-1")
    served[3] = dict(simulator.files)
    return World(simulator, served, client.settings.state_dir, simulator.root)


@pytest.fixture
def simulator(world: World) -> Simulator:
    """The provider, honest and at generation 2."""
    world.simulator.files = dict(world.served[2])
    world.simulator.faults.clear()
    world.simulator.requests.clear()
    return world.simulator


@pytest.fixture
def client(world: World, simulator: Simulator, tmp_path: Path) -> Client:
    """A client that has generation 2."""
    state = tmp_path / "state"
    shutil.copytree(world.template, state, symlinks=True)
    return Client(state, simulator, world.root)


def refused(client: Client, code: ExitCode, message: str) -> HashclientError:
    """Fetch; check that it fails as it should and that nothing of the lists has changed."""
    before = client.list_files()
    with pytest.raises(HashclientError) as caught:
        client.fetch()
    error = caught.value
    assert error.exit_code is code, error.message
    assert re.search(message, error.message), error.message
    assert error.message.isprintable() and len(error.message) < 600
    for number in ALL:
        assert not any(digest.hex() in error.message for digest in digests_of(number).values())
    assert client.list_files() == before
    assert client.leftovers() == set()
    assert client.numbers(ALL) == OLD
    return error


def test_the_honest_provider_is_followed(client: Client, world: World) -> None:
    world.simulator.files = dict(world.served[3])
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.withdrawn) == (2, 3, 2)
    assert client.numbers(ALL) == NEW
    assert client.leftovers() == set()


# Going back, and standing still


def test_timestamp_rolled_back(client: Client, world: World) -> None:
    world.simulator.files = dict(world.served[1])
    refused(client, ExitCode.UNVERIFIED, "timestamp version")


def test_snapshot_rolled_back(client: Client, simulator: Simulator) -> None:
    old = simulator.metadata("snapshot").signed.version - 1
    simulator.edit("timestamp", lambda s: setattr(s, "snapshot_meta", MetaFile(old)))
    refused(client, ExitCode.UNVERIFIED, "snapshot version")


def test_list_metadata_rolled_back(client: Client, simulator: Simulator) -> None:
    simulator.edit("snapshot", lambda s: s.meta.update({"baseline.json": MetaFile(1)}))
    refused(client, ExitCode.UNVERIFIED, "baseline.json version")


def test_generation_rolled_back_by_the_lists_own_keys(client: Client, simulator: Simulator) -> None:
    def back(document: dict[str, Any]) -> None:
        document["generation"] = 1
        document["segments"].pop()
        document["entries"] = 10

    simulator.edit_index(back)
    refused(client, ExitCode.UNVERIFIED, "generation 1 is older than 2")


def test_fast_forwarded_list_is_cured_by_new_snapshot_keys(tmp_path: Path) -> None:
    """A thief with the online keys uses up the numbers; new keys undo it, see docs/provider.md."""
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(5)))
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    simulator.edit_index(lambda document: document.update(generation=2**53 - 1))
    for role in ("baseline", "snapshot", "timestamp"):
        simulator.edit(role, lambda signed: setattr(signed, "version", 1_000_000))
    assert client.fetch()[0].generation == 2**53 - 1
    simulator.withdraw("e-2")
    with pytest.raises(HashclientError, match="version"):
        client.fetch()
    for role in ("snapshot", "timestamp", "baseline"):
        simulator.rotate(role)
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (2**53 - 1, 2, None)
    second = index_document(simulator)
    assert client.numbers(ALL) == {0, 1, 3, 4}
    assert client.leftovers() == set()
    # From here on, generations rise again, and nothing else is taken.
    simulator.publish(csv(range(5, 7)))
    assert client.fetch()[0].generation == 3
    simulator.edit_index(lambda document: document.update(second))
    with pytest.raises(HashclientError, match="generation 2 is older than 3"):
        client.fetch()
    assert client.numbers(ALL) == {0, 1, 3, 4, 5, 6}


def test_new_keys_of_other_roles_make_no_client_forget_a_generation(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(5)))
    first = index_document(simulator)
    simulator.withdraw("e-2")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    for role in ("root", "targets", "timestamp", "baseline"):
        simulator.rotate(role)
    simulator.edit_index(lambda document: document.update(first))
    with pytest.raises(HashclientError, match="generation 1 is older than 2"):
        client.fetch()


def index_document(simulator: Simulator) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(simulator.files[simulator.target_path("index.json")])
    return document


def test_generation_published_again_with_other_entries(
    client: Client, simulator: Simulator
) -> None:
    simulator.edit_index(lambda document: document.update(checksum="0" * 16))
    refused(client, ExitCode.UNVERIFIED, "generation 2 was published again with other entries")


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "baseline"])
def test_frozen_metadata_is_stale_and_says_since_when(
    client: Client, simulator: Simulator, role: str
) -> None:
    simulator.expire(role, client.now - timedelta(days=12, hours=3))
    error = refused(
        client, ExitCode.STALE, r"expired since \d{4}-\d\d-\d\d \d\d:\d\d UTC \(12 days\)"
    )
    assert "clock" in (error.hint or "")


def test_clock_set_back_is_refused(client: Client) -> None:
    client.now -= timedelta(days=3)
    error = refused_without_scan(client, ExitCode.STALE, "the clock shows")
    assert "clock" in (error.hint or "")
    # The time of the last check persists: a scan cannot tell what has expired either.
    assert client.open().stale


def test_clock_that_is_a_little_behind_is_tolerated(client: Client) -> None:
    client.now -= timedelta(minutes=3)
    assert client.fetch()[0].generation == 2


def refused_without_scan(client: Client, code: ExitCode, message: str) -> HashclientError:
    before = client.list_files()
    with pytest.raises(HashclientError, match=message) as caught:
        client.fetch()
    assert caught.value.exit_code is code
    assert client.list_files() == before
    return caught.value


# Mixing


@pytest.mark.parametrize("role", ["snapshot", "targets", "baseline"])
def test_old_file_under_a_new_name(client: Client, world: World, role: str) -> None:
    simulator = world.simulator
    old = Simulator.metadata(simulator, role).to_bytes()
    simulator.edit(role)
    simulator.files[simulator._path(role)] = old
    refused(client, ExitCode.UNVERIFIED, "hash|length|version|signed")


def test_mixed_generations(client: Client, world: World) -> None:
    mixed = dict(world.served[3])
    name = next(
        n for n in world.served[2] if n.endswith("snapshot.json") and n not in world.served[1]
    )
    new = next(
        n for n in world.served[3] if n.endswith("snapshot.json") and n not in world.served[2]
    )
    mixed[new] = mixed[name]
    world.simulator.files = mixed
    refused(client, ExitCode.UNVERIFIED, "hash|length|version")


def test_segment_replaced_by_another_of_the_same_length(client: Client, world: World) -> None:
    simulator = world.simulator
    simulator.files = dict(world.served[3])
    simulator.tamper("targets/*g000003*", lambda data: bytes(len(data)))
    refused(client, ExitCode.UNVERIFIED, "hash .* does not match")


def test_index_of_another_list(client: Client, simulator: Simulator) -> None:
    simulator.edit_index(lambda document: document.update(list="other"))
    refused(client, ExitCode.UNVERIFIED, "is the index of list other")


# Signatures


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "baseline"])
def test_too_few_signatures(client: Client, simulator: Simulator, role: str) -> None:
    simulator.edit(role, signers=simulator.signers(role)[1:])
    refused(client, ExitCode.UNVERIFIED, "was signed by [01]/[12] keys")


def test_one_signature_twice(client: Client, simulator: Simulator) -> None:
    def double(document: dict[str, Any]) -> None:
        document["signatures"] = [document["signatures"][0]] * 2

    simulator.edit("baseline", raw=double)
    refused(client, ExitCode.UNVERIFIED, "Failed to deserialize")


def test_one_signature_under_two_key_ids(client: Client, simulator: Simulator) -> None:
    def double(document: dict[str, Any]) -> None:
        first, second = document["signatures"]
        second["sig"] = first["sig"]

    simulator.edit("baseline", raw=double)
    refused(client, ExitCode.UNVERIFIED, "was signed by 1/2 keys")


def test_signatures_of_strangers_do_not_count(client: Client, simulator: Simulator) -> None:
    strangers = [CryptoSigner.generate_ed25519() for _ in range(2)]
    simulator.edit("baseline", signers=strangers)
    refused(client, ExitCode.UNVERIFIED, "was signed by 0/2 keys")


def test_signature_of_an_unknown_kind_beside_good_ones_is_no_harm(
    client: Client, simulator: Simulator
) -> None:
    simulator.edit(
        "timestamp", raw=lambda d: d["signatures"].append({"keyid": "ab" * 32, "sig": "00"})
    )
    assert client.fetch()[0].error is None


def new_root_key(signer: CryptoSigner) -> Callable[[Any], None]:
    def change(root: Any) -> None:
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        root.add_key(signer.public_key, "root")

    return change


def test_root_signed_by_new_keys_only(client: Client, simulator: Simulator) -> None:
    thief = CryptoSigner.generate_ed25519()
    simulator.edit("root", new_root_key(thief), signers=[thief])
    refused(client, ExitCode.UNVERIFIED, "root was signed by 0/1 keys")


def test_root_signed_by_old_keys_only(client: Client, simulator: Simulator) -> None:
    simulator.edit("root", new_root_key(CryptoSigner.generate_ed25519()))
    refused(client, ExitCode.UNVERIFIED, "root was signed by 0/1 keys")


def test_root_that_skips_a_version(client: Client, simulator: Simulator) -> None:
    simulator.edit("root", lambda root: setattr(root, "version", 3))
    simulator.files["metadata/2.root.json"] = simulator.files.pop("metadata/3.root.json")
    refused(client, ExitCode.UNVERIFIED, "root version")


def test_tampered_bytes_of_every_file(client: Client, world: World) -> None:
    """A flipped bit anywhere in what a fetch reads is found, whichever file it is in."""
    honest = world.served[3]
    world.simulator.files = dict(honest)
    asked = [p for p in honest if "000003" in p or "timestamp" in p or re.search(r"/[456]\.", p)]
    asked.append(world.simulator.target_path("index.json"))
    state = client.settings.state_dir
    for path in asked:
        middle = len(honest[path]) // 2
        changed = bytearray(honest[path])
        changed[middle] ^= 0x10
        world.simulator.files = {**honest, path: bytes(changed)}
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(state / "trust/main/metadata")
        refused(client, ExitCode.UNVERIFIED, "main|baseline|segment")


# Proper rotation


@pytest.mark.parametrize("role", ["root", "snapshot", "timestamp", "targets", "baseline"])
def test_proper_rotation_is_followed_and_persists(tmp_path: Path, role: str) -> None:
    simulator = Simulator(tmp_path / "repo", root_keys=Keys(2, 2))
    pinned = simulator.root
    simulator.publish(csv(range(3)))
    client = Client(tmp_path / "state", simulator, pinned)
    client.fetch()
    for _ in range(3):
        simulator.rotate(role)
    simulator.publish(csv(range(3, 5)))
    assert client.fetch()[0].generation == 2
    simulator.requests.clear()
    # It persists: roots that were followed are not asked for again.
    assert client.fetch()[0].changed is False
    assert simulator.requests == [
        f"metadata/{expected_root(client)}.root.json",
        "metadata/timestamp.json",
    ]
    assert client.numbers(ALL) == {0, 1, 2, 3, 4}


def expected_root(client: Client) -> int:
    history = client.settings.trust_dir("main") / "metadata" / "root_history"
    return max(int(path.name.split(".")[0]) for path in history.iterdir()) + 1


# Delegations


def roles_of(signed: Any) -> dict[str, DelegatedRole]:
    roles: dict[str, DelegatedRole] = signed.delegations.roles
    return roles


def test_list_vanishes_from_the_delegations(client: Client, simulator: Simulator) -> None:
    simulator.edit("targets", lambda s: roles_of(s).clear())
    error = refused(client, ExitCode.UNVERIFIED, "does not offer list baseline")
    assert "it offers: none" in (error.hint or "")


def test_list_vanishes_from_the_snapshot(client: Client, simulator: Simulator) -> None:
    simulator.edit("snapshot", lambda s: s.meta.pop("baseline.json"))
    refused(client, ExitCode.UNVERIFIED, "baseline")


def test_list_of_another_provider_is_none_of_ours(client: Client, simulator: Simulator) -> None:
    """What vanishes at one provider says nothing of a list that came from another."""
    folder = client.settings.lists_dir / "other"
    shutil.copytree(client.settings.lists_dir / "baseline", folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest.update(list="other", provider="elsewhere")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert [f.list_name for f in client.fetch()] == ["baseline"]


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ["lists/baseline/*"]},
        {"paths": ["lists/other/*", "lists/baseline/*"]},
        {"paths": ["lists/*/*"]},
        {"paths": ["*"]},
        {"paths": []},
        {"paths": None, "path_hash_prefixes": ["0"]},
        {"terminating": False},
        {"name": "../other"},
        {"name": "Other"},
        {"name": "a\x1b[2J"},
        {"name": "a\n"},
    ],
)
def test_delegation_that_is_not_for_one_list_alone(
    client: Client, simulator: Simulator, change: dict[str, Any]
) -> None:
    def add(signed: Any) -> None:
        role = DelegatedRole("other", [], 1, terminating=True, paths=["lists/other/*"])
        for name, value in change.items():
            setattr(role, name, value)
        roles_of(signed)[role.name] = role

    simulator.edit("targets", add)
    refused(client, ExitCode.UNVERIFIED, "delegation .* is not for the files of the list|malformed")


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets"])
def test_delegation_with_the_name_of_a_top_level_role(
    client: Client, simulator: Simulator, name: str
) -> None:
    role = DelegatedRole(name, [], 1, terminating=True, paths=[f"lists/{name}/*"])
    simulator.edit("targets", lambda s: roles_of(s).update({name: role}))
    refused(client, ExitCode.UNVERIFIED, "Failed to deserialize")


def test_list_called_like_our_own_files_touches_none_of_them(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)), list_name="pinned-root")
    simulator.publish(csv(range(3)), list_name="root_history")
    client = Client(tmp_path / "state", simulator, simulator.root)
    for _ in range(2):
        assert [f.list_name for f in client.fetch()] == ["pinned-root", "root_history"]


def test_top_level_role_signs_a_file_itself(client: Client, simulator: Simulator) -> None:
    target = TargetFile.from_data("lists/baseline/index.json", b"{}", ["sha256"])
    simulator.edit("targets", lambda s: s.targets.update({target.path: target}))
    refused(client, ExitCode.UNVERIFIED, "top-level role signs files")


def test_hash_bins(client: Client, simulator: Simulator) -> None:
    def change(signed: Any) -> None:
        signed.delegations = Delegations(
            signed.delegations.keys, None, SuccinctRoles([], 1, 4, "b")
        )

    simulator.edit("targets", change)
    refused(client, ExitCode.UNVERIFIED, "hash bins are not supported")


def test_list_role_that_delegates_on(client: Client, simulator: Simulator) -> None:
    other = deepcopy(simulator.metadata("targets").signed.delegations)
    simulator.edit("baseline", lambda s: setattr(s, "delegations", other))
    refused(client, ExitCode.UNVERIFIED, "its role delegates to others")


# Names


BAD_NAMES = [
    "..",
    "../index.json",
    "%2e%2e",
    "a/../b",
    "a\0b",
    "a?b",
    "a#b",
    "a\\b",
    "/etc/passwd",
    "https://other.invalid/x",
    "a..b",
    "",
    "A",
    "a" * 65,
    "\u202e",
    "\n",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_traversal_name_in_the_index(client: Client, simulator: Simulator, name: str) -> None:
    simulator.edit_index(lambda document: document["segments"][1].update(name=name))
    target = TargetFile.from_data(f"lists/baseline/{name}", b"", ["sha256"])
    simulator.edit("baseline", lambda s: s.targets.update({target.path: target}))
    simulator.requests.clear()
    refused(client, ExitCode.UNVERIFIED, "name is not allowed or not unique")
    assert [r for r in simulator.requests if r.startswith("targets/")] == [
        simulator.target_path("index.json")
    ]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_in_targets_metadata_that_nobody_asks_for_are_no_harm(
    client: Client, simulator: Simulator, name: str
) -> None:
    for path in (name or "x", f"lists/baseline/{name}"):
        target = TargetFile.from_data(path, b"x", ["sha256"])

        def add(signed: Any, target: TargetFile = target) -> None:
            signed.targets[target.path] = target

        simulator.edit("baseline", add)
    simulator.requests.clear()
    assert client.fetch()[0].changed is False
    assert not any(r.startswith("targets/") for r in simulator.requests)


@pytest.mark.parametrize("digest", ["../../x", "..", "%2e%2e/x", "", "a" * 63, "A" * 64, "é" * 64])
def test_signed_hash_that_would_lead_elsewhere(
    client: Client, simulator: Simulator, digest: str
) -> None:
    def change(signed: Any) -> None:
        signed.targets["lists/baseline/index.json"].hashes["sha256"] = digest

    simulator.edit("baseline", change)
    simulator.requests.clear()
    refused(client, ExitCode.UNVERIFIED, "index.json is signed without a SHA-256")
    assert not any(r.startswith("targets/") for r in simulator.requests)


def test_file_signed_by_sha512_alone(client: Client, simulator: Simulator) -> None:
    def change(signed: Any) -> None:
        path = "lists/baseline/index.json"
        signed.targets[path] = TargetFile.from_data(path, b"{}", ["sha512"])

    simulator.edit("baseline", change)
    refused(client, ExitCode.UNVERIFIED, "signed without a SHA-256")


def test_segment_that_the_lists_keys_do_not_vouch_for(client: Client, world: World) -> None:
    simulator = world.simulator
    simulator.files = dict(world.served[3])
    simulator.edit(
        "baseline", lambda s: s.targets.pop("lists/baseline/g000003-withdraw-000.parquet")
    )
    refused(client, ExitCode.UNVERIFIED, "do not vouch for g000003-withdraw-000.parquet")


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
    "segments as an object": (with_field(segments={}), "not valid"),
    "unknown key": (with_field(**{"\x1b[2Jextra": 1}), "unknown field"),
    "newer format": (with_field(format="hashclient-list/2"), "has format hashclient-list/2"),
    "format that floods a terminal": (with_field(format="\x1b]0;x\x07" * 5000), "has format"),
    "checksum too short": (with_field(checksum="0" * 15), "malformed checksum"),
    "checksum not hexadecimal": (with_field(checksum="Z" * 16), "malformed checksum"),
    "count that is wrong": (with_field(entries=14), "14 live entries"),
    "unknown kind": (with_segment(kind="replace"), "not valid"),
    "segment of nothing": (with_segment(entries=0), "entry count 0"),
    "segment of less than nothing": (with_segment(entries=-1), "entry count -1"),
    "segment too large": (with_segment(entries=4_000_001), "entry count 4000001"),
    "segment of a later generation": (with_segment(first=3), "out of range"),
    "segments out of order": (with_segment(first=1), "out of order"),
    "segment that ends later": (with_segment(last=3), "out of range"),
    "segment named twice": (with_segment(name="g000001-add-000.parquet"), "not unique"),
    "empty": (lambda _: b"", "not valid"),
    "array": (lambda _: b"[]", "not valid"),
    "not UTF-8": (lambda _: b"\xff\xfe{}", "not valid"),
    "byte order mark": (lambda _: b"\xef\xbb\xbf{}", "not valid"),
    "deep array": (lambda _: b"[" * 100_000, "not valid"),
    "deep object": (lambda _: b'{"a":' * 100_000, "not valid"),
    "too large": (lambda _: b" " * ((4 << 20) + 1), "signed with 4194305 bytes"),
}


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
    """Change an index into generation 3 with `segments` besides."""

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
    """The schema of an `add` segment with some types replaced and everything nullable."""
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
    "id missing": (parquet(row(), schema=without("entry_id")), "columns and types"),
    "column missing": (parquet(row(), schema=without("added")), "columns and types"),
    "column too many": (
        parquet(row(), schema=loose_schema().append(pa.field("more", pa.int64()))),
        "columns and types",
    ),
    "digest too narrow": (
        parquet(row(md5=b"x" * 15), schema=loose_schema(md5=FIXED_15)),
        "columns and types",
    ),
    "digest of any width": (
        parquet(row(), schema=loose_schema(md5=pa.binary())),
        "columns and types",
    ),
    "digest as text": (
        parquet(row(md5="ab" * 16), schema=loose_schema(md5=pa.string())),
        "columns and types",
    ),
    "size too narrow": (parquet(row(), schema=loose_schema(size=pa.int32())), "columns and types"),
    "size as a float": (
        parquet(row(), schema=loose_schema(size=pa.float64())),
        "columns and types",
    ),
    "size as an unsigned number": (
        parquet(row(size=2**63), schema=loose_schema(size=pa.uint64())),
        "not a valid Parquet file",
    ),
    "id as a number": (
        parquet(row(entry_id=1), schema=loose_schema(entry_id=pa.int64())),
        "columns and types",
    ),
    "id nested": (
        parquet(row(entry_id=["x"]), schema=loose_schema(entry_id=pa.list_(pa.string()))),
        "columns and types",
    ),
    "digest as a decimal": (
        parquet(row(md5=None), schema=loose_schema(md5=pa.decimal128(38))),
        "columns and types|not a valid|without a digest",
    ),
    "id null": (parquet(row(entry_id=None)), "without an id"),
    "category null": (parquet(row(category=None)), "without a category"),
    "no digest": (parquet(row(md5=None, sha1=None, sha256=None)), "without a digest"),
    "id empty": (parquet(row(entry_id="")), "empty or too long"),
    "id too long": (parquet(row(entry_id="a" * 65)), "empty or too long"),
    "id with a space": (parquet(row(entry_id="a b")), "not allowed"),
    "id with an escape": (parquet(row(entry_id="a\x1b[2J")), "not allowed"),
    "id not ASCII": (parquet(row(entry_id="é")), "not allowed"),
    "id not UTF-8": (
        parquet(row(entry_id=b"\xff"), schema=loose_schema(entry_id=pa.binary())),
        "not a valid Parquet file",
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


def test_segment_that_asks_for_any_amount_of_memory(
    client: Client, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long id in a dictionary, and 300,000 rows that name it: 16 KB that stand for 30 GB."""
    monkeypatch.setattr("hashclient.hashlist.MAX_DECODING_BYTES", 256 << 20)
    count = 300_000
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), ["a" * 100_000])
    fields = {f.name: pa.nulls(count, f.type) for f in add_schema()} | {"entry_id": ids}
    out = io.BytesIO()
    pq.write_table(pa.table(fields), out, compression="zstd", use_dictionary=["entry_id"])
    assert len(out.getvalue()) < 20_000
    simulator.replace_target("g3", out.getvalue())
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


def test_list_that_never_adds_up(client: Client, world: World) -> None:
    simulator = world.simulator
    simulator.files = dict(world.served[3])
    simulator.edit_index(lambda document: document.update(checksum="0123456789abcdef"))
    refused(client, ExitCode.UNVERIFIED, "do not add up")
    # What it was built from is not kept: the next generation is a matter of its own.
    assert not (client.settings.lists_dir / "baseline" / "staging.json").exists()


def test_bad_segment_after_good_ones_leaves_nothing(client: Client, simulator: Simulator) -> None:
    """The good ones were written already; they go again."""
    out = io.BytesIO()
    pq.write_table(pa.table({"entry_id": ["e-4"]}), out)
    simulator.replace_target("g3-a", parquet(row()))
    simulator.replace_target("g3-b", out.getvalue())
    simulator.replace_target("g3-c", b"nothing")
    simulator.edit_index(
        extend(segment("g3-a", 1), segment("g3-b", 1, "withdraw"), segment("g3-c", 1))
    )
    refused(client, ExitCode.UNVERIFIED, "segment g3-c is not a valid Parquet file")


def test_delta_that_does_not_add_up_is_built_anew(client: Client, simulator: Simulator) -> None:
    """The provider has put something else into a generation that we have: the base counts."""
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


def test_delta_that_cannot_be_applied_is_built_anew(client: Client, simulator: Simulator) -> None:
    """The delta withdraws what our base never had."""
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


# Unsigned bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"signed": {"_type": "timestamp"}, "signatures": []}',
        b'{"signed": {"_type": "\\u001b[2J\\ud800"}, "signatures": []}',
        b"[" * 10_000,
        b'{"a":' * 3_000,
        b"\xff\xfe",
        b'{"signed": 1e999}',
        b'{"signed": ' + b"9" * 5000 + b"}",
        b"<html>login</html>",
    ],
)
@pytest.mark.parametrize("path", ["metadata/timestamp.json", "metadata/2.root.json"])
def test_metadata_that_is_none(
    client: Client, simulator: Simulator, path: str, data: bytes
) -> None:
    simulator.files[path] = data
    refused(client, ExitCode.UNVERIFIED, "provider main")


# Network, as far as trust is concerned


@pytest.mark.parametrize("pattern", ["metadata/timestamp.json", "*.snapshot.json", "targets/*"])
def test_endless_body(client: Client, world: World, pattern: str) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = endless
    refused(client, ExitCode.UNVERIFIED, "longer than")


@pytest.mark.parametrize("pattern", ["metadata/timestamp.json", "*.snapshot.json", "targets/*"])
def test_truncated_body(client: Client, world: World, pattern: str) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = truncated
    refused(client, ExitCode.UNREACHABLE, "cut short")


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize(
    "pattern", ["*", "metadata/timestamp.json", "*.snapshot.json", "targets/*"]
)
def test_revoked_credential(client: Client, world: World, pattern: str, code: int) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = status(code)
    refused(client, ExitCode.UNAUTHORISED, str(code))


@pytest.mark.parametrize("code", [404, 500])
@pytest.mark.parametrize("pattern", ["metadata/timestamp.json", "*.snapshot.json", "targets/*"])
def test_file_that_is_not_there(client: Client, world: World, pattern: str, code: int) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = status(code)
    refused(client, ExitCode.UNREACHABLE, str(code))


def test_next_root_that_fails_is_not_taken_for_missing(client: Client, world: World) -> None:
    world.simulator.faults["metadata/2.root.json"] = status(500)
    refused(client, ExitCode.UNREACHABLE, "500")


# The cache


def cache_files(client: Client) -> list[Path]:
    directory = client.settings.trust_dir("main")
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "pinned-root.json")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100])
def test_tampered_cache_heals(client: Client, world: World, data: bytes) -> None:
    world.simulator.files = dict(world.served[3])
    assert len(cache_files(client)) == 6
    for number in range(len(cache_files(client))):
        victim = cache_files(client)[number]
        victim.write_bytes(data)
        assert client.fetch()[0].generation == 3
        assert victim.read_bytes() != data
        assert client.numbers(ALL) == NEW


def test_cached_root_of_a_thief_does_not_count(client: Client, world: World) -> None:
    """The cache is writable; only what follows from the pinned root is believed."""
    thief = CryptoSigner.generate_ed25519()
    metadata = world.simulator.metadata("root")
    new_root_key(thief)(metadata.signed)
    metadata.signed.version = 2
    metadata.sign(thief)
    folder = client.settings.trust_dir("main") / "metadata"
    (folder / "root_history" / "2.root.json").write_bytes(metadata.to_bytes())
    (folder / "root.json").unlink()
    (folder / "root.json").symlink_to("root_history/2.root.json")
    world.simulator.files = dict(world.served[3])
    assert client.fetch()[0].generation == 3
    assert (folder / "root.json").resolve().name == "1.root.json"


def test_pinned_root_that_was_exchanged_is_refused(client: Client, world: World) -> None:
    path = client.settings.trust_dir("main") / "pinned-root.json"
    path.write_bytes(path.read_bytes() + b" ")
    refused(client, ExitCode.STATE, "pinned root is not the one")
    path.unlink()
    before = client.list_files()
    with pytest.raises(HashclientError, match="cannot read pinned root") as caught:
        client.fetch()
    assert caught.value.exit_code is ExitCode.STATE
    assert client.list_files() == before


# The same through the real command, over HTTPS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


TOKEN = "t0ken-that-must-not-leak"


class Site:
    """A provider on loopback and a state directory that was made by `init` and `fetch`."""

    def __init__(self, directory: Path, simulator: Simulator, authority: Authority) -> None:
        self.simulator = simulator
        self.state = directory / "state"
        self.server = HostileServer(server_context(authority.issue("site")))
        token = directory / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        root = directory / "root.json"
        root.write_bytes(simulator.root)
        (directory / "inputs").mkdir()
        for number in (0, 3, 17):
            (directory / "inputs" / str(number)).write_bytes(content(number))
        self.inputs = str(directory / "inputs")
        self.serve()
        self.run(
            "init",
            self.server.origin,
            "--root",
            str(root),
            "--token-file",
            str(token),
            "--ca",
            str(authority.ca),
        )
        self.run("fetch")

    def serve(self, answer: Callable[[bytes], Behaviour] = reply) -> None:
        """Serve what the simulator would, to those who know the token."""
        self.server._scripts.clear()
        for path, data in self.simulator.files.items():
            self.server.on(f"/{path}", self._guarded(answer(data)))

    @staticmethod
    def _guarded(behaviour: Behaviour) -> Behaviour:
        def behave(connection: Connection, request: Request) -> bool:
            known = request.header("authorization") == f"Bearer {TOKEN}"
            return (behaviour if known else reply(status=401))(connection, request)

        return behave

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command in this process; return exit code, stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command._run(["--state-dir", str(self.state), *arguments])
        assert TOKEN not in out.getvalue() + err.getvalue()
        return code, out.getvalue(), err.getvalue()

    def matches(self) -> set[str]:
        _, out, _ = self.run("scan", self.inputs, "--format", "jsonl")
        lines = [json.loads(line) for line in out.splitlines()]
        return {line["entry"] for line in lines if line["type"] == "match"}


@pytest.fixture
def site(simulator: Simulator, tmp_path: Path, authority: Authority) -> Iterator[Site]:
    site = Site(tmp_path, simulator, authority)
    with site.server:
        assert site.matches() == {"e-0", "e-3"}
        site.server.requests.clear()
        yield site


@pytest.mark.parametrize("attack", ["rollback", "freeze", "signature", "mixed", "format", "vanish"])
def test_attack_on_the_command(site: Site, world: World, attack: str) -> None:
    simulator = site.simulator
    expected, message = 6, "hashclient: error: provider main"
    if attack == "rollback":
        simulator.files = dict(world.served[1])
    elif attack == "freeze":
        simulator.expire("timestamp")
        expected, message = 7, "since 2020-01-01 00:00 UTC"
    elif attack == "signature":
        simulator.edit("snapshot", signers=[])
    elif attack == "mixed":
        simulator.edit("baseline")
        simulator.files[simulator._path("baseline")] = b"{}"
        message = "hashclient: warning: provider main"
    elif attack == "format":
        simulator.replace_target("index.json", b"\xff")
        message = "index of list baseline is not valid"
    else:
        simulator.edit("targets", lambda s: roles_of(s).clear())
        message = "does not offer list baseline"
    site.serve()
    lists = {p: p.read_bytes() for p in sorted((site.state / "lists").rglob("*")) if p.is_file()}
    code, out, err = site.run("fetch")
    assert code == expected and out == ""
    assert message in err and "Traceback" not in err
    assert site.matches() == {"e-0", "e-3"}
    assert lists == {
        p: p.read_bytes() for p in sorted((site.state / "lists").rglob("*")) if p.is_file()
    }


def test_provider_that_is_honest_again_is_followed(site: Site, world: World) -> None:
    site.simulator.files = dict(world.served[1])
    site.serve()
    assert site.run("fetch")[0] == 6
    site.simulator.files = dict(world.served[3])
    site.serve()
    assert site.run("fetch")[0] == 0
    assert site.matches() == {"e-3"}


def test_refusals_are_in_the_audit_log(site: Site) -> None:
    site.simulator.edit("snapshot", signers=[])
    site.serve()
    assert site.run("fetch")[0] == 6
    log = "".join(p.read_text() for p in (site.state / "audit").iterdir() if p.is_file())
    assert '"refused"' in log and "snapshot was signed by 0/1 keys" in log
    assert site.run("audit", "verify")[0] == 0


@pytest.mark.parametrize("code", [401, 403])
def test_wrong_credential_on_the_command(site: Site, code: int) -> None:
    site.serve(lambda _: reply(status=code))
    for path in ("/metadata/2.root.json", "/metadata/timestamp.json"):
        site.server.on(path, reply(status=code))
    exit_code, _, err = site.run("fetch")
    assert exit_code == 5 and str(code) in err
    assert site.matches() == {"e-0", "e-3"}


def test_redirect_on_the_command(site: Site) -> None:
    with HostileServer() as other:
        elsewhere = [("Location", f"{other.origin}/x")]
        site.serve(lambda _: reply(status=302, headers=elsewhere))
        assert site.run("fetch")[0] == 4
        assert other.requests == []
    assert site.matches() == {"e-0", "e-3"}


def test_truncated_body_on_the_command(
    site: Site, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashclient._deadline.Limits.attempts", 1, raising=False)
    site.simulator.files = dict(world.served[3])
    site.serve(
        lambda data: hostile.raw(
            hostile.head(200, [("Content-Length", str(len(data)))]) + data[: len(data) // 2]
        )
    )
    code, _, err = site.run("fetch")
    assert code == 4 and "hashclient: error: " in err
    assert site.matches() == {"e-0", "e-3"}


def test_compressed_body_on_the_command(site: Site) -> None:
    site.serve(lambda data: reply(data, headers=[("Content-Encoding", "gzip")]))
    assert site.run("fetch")[0] == 6


def test_nothing_new_costs_two_small_requests(site: Site, world: World) -> None:
    code, out, _ = site.run("fetch")
    assert code == 0 and "nothing new, generation 2" in out
    assert [r.target for r in site.server.requests] == [
        "/metadata/2.root.json",
        "/metadata/timestamp.json",
    ]
    site.server.requests.clear()
    site.simulator.files = dict(world.served[3])
    site.serve()
    code, out, _ = site.run("fetch")
    assert code == 0 and "0 added, 2 withdrawn" in out
    metadata = [r.target for r in site.server.requests if r.target.startswith("/metadata/")]
    assert len(metadata) == 4
    targets = [r.target for r in site.server.requests if r.target.startswith("/targets/")]
    assert [t.split(".", 1)[1] for t in targets] == [
        "index.json",
        "g000003-withdraw-000.parquet",
    ]
    assert site.matches() == {"e-3"}
