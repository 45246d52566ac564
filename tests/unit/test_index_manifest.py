"""The manifest: any change of its bytes on the disk is found."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator, status
from hashclient.core.errors import StateError, UnreachableError
from hashclient.index.blinding import NO_MAC, Sealer, authenticate, verify_document
from hashclient.index.manifest import (
    MANIFEST_FORMAT,
    OtherKeyError,
    load_manifest,
    read_manifest,
    write_manifest,
)
from hashclient.index.run import DamagedError
from tests.kit import edit_manifest

ALL = range(40)
KEY = bytes(range(32))


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(20)))
    simulator.publish(csv(range(20, 30)))
    return simulator


@pytest.fixture
def client(tmp_path: Path, simulator: Simulator) -> Client:
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    simulator.requests.clear()
    return client


@pytest.fixture
def folder(client: Client) -> Path:
    return client.settings.layout.lists / "baseline"


@pytest.fixture
def sealer(client: Client) -> Sealer:
    return client.session.sealer()


# The code


def test_the_code_is_an_hmac_under_a_key_of_its_own() -> None:
    """This test computes the authentication code with the library instead of the program's code."""
    document = b'{"mac": "' + NO_MAC.encode() + b'", "x": 1}'
    root = hmac.digest(KEY, b"hashclient seal 1: mac\x01", "sha256")
    key = hmac.digest(root, b"hashclient seal 1: some-format/1\x01", "sha256")
    code = hmac.digest(key, document, "sha256").hex()
    made = authenticate(document, "some-format/1", Sealer(KEY))
    assert made == document.replace(NO_MAC.encode(), code.encode())
    verify_document(made, code, "some-format/1", Sealer(KEY))


@pytest.mark.parametrize(
    ("mac", "format_", "key"),
    [
        (None, "some-format/2", KEY),
        (None, "some-format/1", bytes(32)),
        ("", "some-format/1", KEY),
        ("0" * 63, "some-format/1", KEY),
        ("0" * 64, "some-format/1", KEY),
        ("é" * 32, "some-format/1", KEY),
    ],
)
def test_no_other_code_passes(mac: str | None, format_: str, key: bytes) -> None:
    """Refused are a code of another format, a code under another key, and a missing code."""
    document = json.dumps({"mac": NO_MAC, "x": 1}).encode()
    made = authenticate(document, "some-format/1", Sealer(KEY))
    given = json.loads(made)["mac"] if mac is None else mac
    with pytest.raises(ValueError, match="code"):
        verify_document(made, given, format_, Sealer(key))


# Changes by a disk


@pytest.mark.slow
def test_a_manifest_that_changed_in_any_byte_is_found(
    folder: Path, tmp_path: Path, sealer: Sealer
) -> None:
    """For example, the year 2026 becomes 9026, or the generation 1 becomes 9."""
    data = (folder / "manifest.json").read_bytes()
    assert load_manifest(folder, sealer) is not None
    path = tmp_path / "manifest.json"
    for position, byte in enumerate(data):
        digits = {ord("9")} if chr(byte).isdigit() else set()
        for other in {byte ^ 1 << position % 8, *digits} - {byte}:
            path.write_bytes(data[:position] + bytes([other]) + data[position + 1 :])
            with pytest.raises(StateError) as caught:
                load_manifest(tmp_path, sealer)
            # If a byte of the key's id changes, the manifest seems to have another key; other
            # changes are damage.
            assert isinstance(caught.value, (DamagedError, OtherKeyError)), (position, other)


@pytest.mark.slow
def test_a_manifest_that_was_cut_or_goes_on_is_found(
    folder: Path, tmp_path: Path, sealer: Sealer
) -> None:
    data = (folder / "manifest.json").read_bytes()
    for changed in (
        *(data[:length] for length in range(0, len(data), 7)),
        data + b" ",
        data + b"{}",
    ):
        (tmp_path / "manifest.json").write_bytes(changed)
        with pytest.raises(DamagedError):
            load_manifest(tmp_path, sealer)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "changes",
    [
        {"expires": "9026-01-01T00:00:00Z"},
        {"generation": 9},
        {"mac": ""},
        {"mac": NO_MAC},
        {"format": "hashclient-index/1"},
        {"format": "hashclient-index/3"},
        {"rotten": None, "entries": 29},
    ],
    ids=json.dumps,
)
def test_a_change_without_the_key_is_damage(
    client: Client, folder: Path, changes: dict[str, Any]
) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    with pytest.raises(DamagedError, match="manifest is damaged") as caught:
        client.open()
    assert "hashclient fetch" in (caught.value.hint or "")
    client.fetch()
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


def test_a_code_under_another_key_is_damage(client: Client, folder: Path, sealer: Sealer) -> None:
    manifest = load_manifest(folder, sealer)
    assert manifest is not None
    write_manifest(folder, manifest, Sealer(bytes(32)))
    with pytest.raises(DamagedError):
        load_manifest(folder, sealer)
    write_manifest(folder, manifest, sealer)
    loaded = load_manifest(folder, sealer)
    assert loaded is not None
    assert msgspec.structs.replace(loaded, mac="") == msgspec.structs.replace(manifest, mac="")


@pytest.mark.slow
def test_the_note_of_an_unfinished_build_has_an_authentication_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If any bit of the note changes, the build starts from the beginning."""
    from hashclient.fetch import build
    from hashclient.index.writer import Room

    monkeypatch.setattr(Room, "of", lambda _: Room(run_rows=10))
    simulator = Simulator(tmp_path / "repo")
    for start in (0, 10, 20):
        simulator.publish(csv(range(start, start + 10)))
    client = Client(tmp_path / "state", simulator, simulator.root)
    simulator.faults["*g000003*"] = status(500)
    with pytest.raises(UnreachableError):
        client.fetch()
    folder = client.settings.layout.lists / "baseline"
    path, sealer = folder / "staging.json", client.session.sealer()
    data = path.read_bytes()
    assert build._read_staging(folder, sealer) is not None
    for position in range(0, len(data), 5):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert build._read_staging(folder, sealer) is None
    simulator.faults.clear()
    client.fetch()
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


# Other versions, and the expiry


def test_a_manifest_from_before_the_first_release_is_refused_by_its_format_and_built_again(
    client: Client, folder: Path
) -> None:
    """A manifest of an unreleased version has no authentication code, and a SHA-256 of each run."""
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    for run in document["runs"]:
        run["sha256"] = run.pop("root")
    del document["mac"]
    path.write_text(json.dumps(document | {"format": "hashclient-index/1"}))
    with pytest.raises(DamagedError, match="manifest has format hashclient-index/1") as caught:
        client.open()
    assert "hashclient fetch" in (caught.value.hint or "")
    client.fetch()
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


def test_a_list_is_fresh_for_no_longer_than_what_vouches_for_it(
    client: Client, folder: Path, sealer: Sealer
) -> None:
    before = load_manifest(folder, sealer)
    assert before is not None
    edit_manifest(client.settings.state_dir, "baseline", expires="9026-01-01T00:00:00Z")
    (state,) = client.open().states
    assert state.expires == before.expires


def test_without_a_key_nothing_is_found_and_nothing_is_believed(
    client: Client, folder: Path
) -> None:
    (client.settings.state_dir / "seal.key").unlink()
    with pytest.raises(StateError, match="no seal key"):
        client.open()


def test_a_rotten_run_is_damage_until_it_is_built_again(
    client: Client, folder: Path, simulator: Simulator
) -> None:
    document = read_manifest(folder)
    assert document is not None
    edit_manifest(client.settings.state_dir, "baseline", rotten=document.manifest.runs[0].name)
    with pytest.raises(DamagedError, match=r"index file is damaged: .*/run-0000000\d$"):
        client.open()
    (fetched,) = client.fetch()
    assert (fetched.before, fetched.added) == (2, None)
    assert client.numbers(ALL) == set(range(30))
    assert client.leftovers() == set()


def test_times_of_any_kind_come_back(sealer: Sealer, tmp_path: Path, folder: Path) -> None:
    manifest = load_manifest(folder, sealer)
    assert manifest is not None
    zone = timezone(timedelta(hours=-5, minutes=-30))
    for time in (
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, microsecond=1, tzinfo=zone),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
    ):
        written = msgspec.structs.replace(manifest, expires=time)
        write_manifest(tmp_path, written, sealer)
        loaded = load_manifest(tmp_path, sealer)
        assert loaded is not None and loaded.expires == written.expires
        assert loaded.format == MANIFEST_FORMAT
