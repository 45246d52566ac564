"""Attacks by the metadata of a hostile provider, or by old metadata: one test each.

Each attack ends in the right exit code and in a message that says what is wrong. The lists on disk
do not change by a byte, and scans still use the old generation.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    SuccinctRoles,
    TargetFile,
)

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.core.errors import ExitCode, HashclientError
from hashclient.index.run import DamagedError
from hashclient.provider.keys import Keys
from hashclient.trust.metadatadir import MAX_METADATA_BYTES
from tests.attack_world import ALL, G2, NEW, Generations, new_root_key, refused, roles_of
from tests.kit import edit_manifest


def test_the_honest_provider_is_followed(client: Client, world: Generations) -> None:
    world.simulator.files = dict(world.served[3])
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.withdrawn) == (2, 3, 2)
    assert client.numbers(ALL) == NEW
    assert client.leftovers() == set()


# Older metadata, and metadata that never change


def test_timestamp_rolled_back(client: Client, world: Generations) -> None:
    world.simulator.files = dict(world.served[1])
    refused(client, ExitCode.UNVERIFIED, "timestamp version")


def test_snapshot_rolled_back(client: Client, simulator: Simulator) -> None:
    old = simulator.metadata("snapshot").signed.version - 1
    simulator.edit("timestamp", lambda s: setattr(s, "snapshot_meta", MetaFile(old)))
    refused(client, ExitCode.UNVERIFIED, "snapshot version")


def test_list_metadata_rolled_back(client: Client, simulator: Simulator) -> None:
    simulator.edit("snapshot", lambda s: s.meta.update({"baseline.json": MetaFile(1)}))
    refused(client, ExitCode.UNVERIFIED, "baseline.json version")


def back(document: dict[str, Any]) -> None:
    """Change the index of the second generation into an index of the first generation."""
    document["generation"] = 1
    document["segments"].pop()
    document["entries"] = 10


def test_generation_rolled_back_by_the_lists_own_keys(client: Client, simulator: Simulator) -> None:
    simulator.edit_index(back)
    refused(client, ExitCode.UNVERIFIED, "generation 1 is older than 2")


@pytest.mark.parametrize("damage", ["version", "cut", "gone"])
def test_damage_lets_no_older_generation_in(
    client: Client, simulator: Simulator, damage: str
) -> None:
    """If the index cannot be opened, even by a newer version, its manifest still counts."""
    (run,) = (client.settings.layout.lists / "baseline").glob("run-*")
    data = run.read_bytes()
    run.write_bytes(data[:6] + b"\1" + data[7:] if damage == "version" else data[:-1])
    if damage == "gone":
        run.unlink()
    current = index_document(simulator)
    simulator.edit_index(back)
    with pytest.raises(HashclientError, match="generation 1 is older than 2"):
        client.fetch()
    with pytest.raises(DamagedError):
        client.open()
    simulator.edit_index(lambda document: document.update(current))
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.generation, fetched.added) == (2, 2, None)


@pytest.mark.slow
def test_fast_forwarded_list_is_cured_by_new_snapshot_keys(tmp_path: Path) -> None:
    """A thief signs very high version numbers; new keys repair this (docs/provider.md)."""
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
    # After the repair, the client again refuses generations that are older than its own.
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
    # The time of the last check is stored, so a scan still cannot tell which lists have expired.
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


# Metadata of different versions


@pytest.mark.parametrize("role", ["snapshot", "targets", "baseline"])
def test_old_file_under_a_new_name(client: Client, world: Generations, role: str) -> None:
    simulator = world.simulator
    old = Simulator.metadata(simulator, role).to_bytes()
    simulator.edit(role)
    simulator.files[simulator._path(role)] = old
    refused(client, ExitCode.UNVERIFIED, "hash|length|version|signed")


def test_mixed_generations(client: Client, world: Generations) -> None:
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


def test_segment_replaced_by_another_of_the_same_length(client: Client, world: Generations) -> None:
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
    refused(client, ExitCode.UNVERIFIED, r"baseline\.json is not metadata: Multiple signatures")


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


# A key that occurs twice: Python's parser uses the last value, another parser the first


def twice(key: str, value: str) -> Callable[[bytes], bytes]:
    """Return a change of a document: the first `key` occurs twice, first with `value`."""

    def change(text: bytes) -> bytes:
        assert f'"{key}": '.encode() in text
        return text.replace(f'"{key}": '.encode(), f'"{key}": {value}, "{key}": '.encode(), 1)

    return change


TWICE = {
    "signed": ("signed", "{}"),
    "version": ("version", "1"),
    "a signature": ("sig", '"00"'),
}


@pytest.mark.sampled
@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "baseline"])
@pytest.mark.parametrize("what", TWICE)
def test_a_key_that_stands_twice_in_metadata(
    client: Client, simulator: Simulator, role: str, what: str
) -> None:
    """The signature covers only the last value of a repeated key, so any server can insert one."""
    simulator.edit(role, text=twice(*TWICE[what]))
    refused(client, ExitCode.UNVERIFIED, f"provider main: .*{role}.json: .*the same key twice")


@pytest.mark.parametrize(
    ("role", "key", "value"),
    [
        ("root", "keytype", '"rsa"'),
        ("root", "threshold", "0"),
        ("snapshot", "baseline.json", '{"version": 1}'),
        ("timestamp", "snapshot.json", '{"version": 1}'),
        ("targets", "paths", '["*"]'),
        ("baseline", "lists/baseline/index.json", '{"length": 1, "hashes": {"sha256": "00"}}'),
        ("baseline", "sha256", '"00"'),
        ("baseline", "length", "1"),
    ],
)
def test_a_key_that_stands_twice_deep_in_metadata(
    client: Client, simulator: Simulator, role: str, key: str, value: str
) -> None:
    simulator.edit(role, text=twice(key, value))
    refused(client, ExitCode.UNVERIFIED, f"{role}.json: .*the same key twice")


@pytest.mark.parametrize(
    ("role", "number"), [("root", "NaN"), ("timestamp", "-Infinity"), ("baseline", "1e999")]
)
def test_a_number_that_is_none_in_metadata(
    client: Client, simulator: Simulator, role: str, number: str
) -> None:
    """The test also changes numbers outside of the signed part."""
    simulator.edit(role, text=lambda text: text[:-1] + f', "x": {number}}}'.encode())
    refused(client, ExitCode.UNVERIFIED, f"{role}.json: .*not finite")


def test_a_pinned_root_with_a_key_twice(
    world: Generations, simulator: Simulator, tmp_path: Path
) -> None:
    root = twice("version", "1")(json.dumps(json.loads(world.root)).encode())
    client = Client(tmp_path / "odd", simulator, root)
    with pytest.raises(HashclientError, match=r"provider main: .*the same key twice") as caught:
        client.fetch()
    assert caught.value.exit_code is ExitCode.UNVERIFIED


def test_a_cache_with_a_key_twice_heals(client: Client, world: Generations) -> None:
    world.simulator.files = dict(world.served[3])
    folder = client.settings.layout.provider("main") / "metadata"
    for path in [*folder.glob("*.json"), *folder.glob("root_history/*.json")]:
        if not path.is_symlink():
            before = path.read_bytes()
            path.write_bytes(twice("version", "1")(json.dumps(json.loads(before)).encode()))
            client.fetch()
            assert b'"version": 1, "version"' not in path.read_bytes()
    assert client.numbers(ALL) == NEW


@pytest.mark.parametrize("role", ["snapshot", "baseline"])
def test_metadata_of_a_terabyte(client: Client, simulator: Simulator, role: str) -> None:
    """A stolen key of the timestamp or the snapshot can sign any length."""
    asked = []

    def endless(_url: str, _data: bytes, max_bytes: int) -> bytes:
        asked.append(max_bytes)
        return bytes(min(max_bytes, MAX_METADATA_BYTES) + 1)

    described = MetaFile(simulator.metadata(role).signed.version + 1, 1 << 40)
    if role == "snapshot":
        simulator.edit("timestamp", lambda s: setattr(s, "snapshot_meta", described))
    else:
        simulator.edit("snapshot", lambda s: s.meta.update({f"{role}.json": described}))
    simulator.faults[f"*{described.version}.{role}.json"] = endless
    refused(client, ExitCode.UNVERIFIED, "longer than")
    assert asked == [MAX_METADATA_BYTES]


@pytest.mark.parametrize(
    ("role", "most"),
    [("root", 512_000), ("timestamp", 16_384), ("snapshot", 2_000_000), ("baseline", 5_000_000)],
)
def test_metadata_over_its_size_is_refused(
    client: Client, simulator: Simulator, role: str, most: int
) -> None:
    """The limit applies where no length is signed: to roots and timestamps always."""

    def pad(data: bytes) -> bytes:
        return data + b" " * (most + 1 - len(data))

    simulator.edit(role, text=pad)
    version = simulator.metadata(role).signed.version
    if role == "baseline":
        bare = MetaFile(version)
        simulator.edit("snapshot", lambda s: s.meta.update({"baseline.json": bare}))
    if role == "snapshot":
        bare = MetaFile(version)
        simulator.edit("timestamp", lambda s: setattr(s, "snapshot_meta", bare))
    refused(client, ExitCode.UNVERIFIED, f"longer than {most} bytes")


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


def test_tampered_bytes_of_every_file(client: Client, world: Generations) -> None:
    """A flipped bit in any file that a fetch reads is found."""
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


# A proper change of keys


@pytest.mark.sampled
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
    # New roots are stored: a second fetch does not request them again.
    assert client.fetch()[0].changed is False
    assert simulator.requests == [
        f"metadata/{expected_root(client)}.root.json",
        "metadata/timestamp.json",
    ]
    assert client.numbers(ALL) == {0, 1, 2, 3, 4}


def expected_root(client: Client) -> int:
    history = client.settings.layout.provider("main") / "metadata" / "root_history"
    return max(int(path.name.split(".")[0]) for path in history.iterdir()) + 1


# Delegations


def test_list_vanishes_from_the_delegations(client: Client, simulator: Simulator) -> None:
    simulator.edit("targets", lambda s: roles_of(s).clear())
    error = refused(client, ExitCode.UNVERIFIED, "does not offer list baseline")
    assert "the provider offers: none" in (error.hint or "")


def test_list_vanishes_from_the_snapshot(client: Client, simulator: Simulator) -> None:
    simulator.edit("snapshot", lambda s: s.meta.pop("baseline.json"))
    refused(client, ExitCode.UNVERIFIED, "baseline")


def test_list_of_another_provider_is_none_of_ours(client: Client, simulator: Simulator) -> None:
    """A list that is missing at one provider has no effect on a list of another provider."""
    folder = client.settings.layout.lists / "other"
    shutil.copytree(client.settings.layout.lists / "baseline", folder)
    edit_manifest(client.settings.state_dir, "other", list="other", provider="elsewhere")
    assert [f.list_name for f in client.fetch()] == ["baseline"]


@pytest.mark.sampled
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
        {"terminating": "yes"},
        {"name": 5},
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


@pytest.mark.parametrize("role", ["snapshot", "root", "timestamp", "targets"])
def test_a_key_id_that_is_no_text(client: Client, simulator: Simulator, role: str) -> None:
    """Only ids that belong to a role are used as text, so an odd id beside them is harmless."""
    simulator.edit("root", lambda root: root.roles[role].keyids.append(5))
    if role == "snapshot":
        refused(client, ExitCode.UNVERIFIED, "metadata is malformed")
    else:
        client.fetch()


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets"])
def test_delegation_with_the_name_of_a_top_level_role(
    client: Client, simulator: Simulator, name: str
) -> None:
    role = DelegatedRole(name, [], 1, terminating=True, paths=[f"lists/{name}/*"])
    simulator.edit("targets", lambda s: roles_of(s).update({name: role}))
    refused(client, ExitCode.UNVERIFIED, r"\.targets\.json is not metadata: Delegated roles")


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


@pytest.mark.sampled
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


@pytest.mark.sampled
@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_in_targets_metadata_that_nobody_asks_for_are_no_harm(
    client: Client, simulator: Simulator, name: str
) -> None:
    for path in (name or "x", f"lists/baseline/{name}", f"lists/other/{G2}"):
        target = TargetFile.from_data(path, b"x", ["sha256"])

        def add(signed: Any, target: TargetFile = target) -> None:
            signed.targets[target.path] = target

        simulator.edit("baseline", add)
    simulator.requests.clear()
    assert client.fetch()[0].changed is False
    assert not any(r.startswith("targets/") for r in simulator.requests)


@pytest.mark.sampled
@pytest.mark.parametrize("digest", ["../../x", "..", "%2e%2e/x", "", "a" * 63, "A" * 64, "é" * 64])
def test_signed_hash_that_would_lead_elsewhere(
    client: Client, simulator: Simulator, digest: str
) -> None:
    def change(signed: Any) -> None:
        signed.targets["lists/baseline/index.json"].hashes["sha256"] = digest

    simulator.edit("baseline", change)
    simulator.requests.clear()
    refused(client, ExitCode.UNVERIFIED, "index.json has a malformed sha256")
    assert not any(r.startswith("targets/") for r in simulator.requests)


@pytest.mark.parametrize("digest", ["../../x", "a" * 64, "A" * 128])
def test_signed_sha512_that_would_lead_elsewhere(
    client: Client, simulator: Simulator, digest: str
) -> None:
    """The digest is checked even if the file's address contains another digest."""

    def change(signed: Any) -> None:
        signed.targets["lists/baseline/index.json"].hashes["sha512"] = digest

    simulator.edit("baseline", change)
    simulator.requests.clear()
    refused(client, ExitCode.UNVERIFIED, "index.json has a malformed sha512")
    assert not any(r.startswith("targets/") for r in simulator.requests)


def test_file_signed_by_weak_hashes_alone(client: Client, simulator: Simulator) -> None:
    def change(signed: Any) -> None:
        path = "lists/baseline/index.json"
        signed.targets[path] = TargetFile.from_data(path, b"{}", ["md5", "sha1", "sha3_256"])

    simulator.edit("baseline", change)
    refused(client, ExitCode.UNVERIFIED, "signed without a SHA-256 or SHA-512")


def test_segment_that_the_lists_keys_do_not_vouch_for(client: Client, world: Generations) -> None:
    simulator = world.simulator
    simulator.files = dict(world.served[3])
    simulator.edit(
        "baseline", lambda s: s.targets.pop("lists/baseline/g000003-withdraw-000.parquet")
    )
    refused(client, ExitCode.UNVERIFIED, "do not vouch for g000003-withdraw-000.parquet")
