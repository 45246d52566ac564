"""Sealing: equal values get equal tags, under a key that only its owner can read."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hashclient.core.errors import ConfigError, StateError
from hashclient.core.kinds import Algorithm
from hashclient.index.blinding import (
    KEY_BYTES,
    KEY_CREDENTIAL,
    KEY_ENV,
    Sealer,
    load_sealer,
)
from hashclient.system.layout import SEAL_KEY_NAME as KEY_FILE

KEY = bytes(range(KEY_BYTES))
OTHER = bytes(KEY_BYTES)
DIGESTS = {
    a: [hashlib.new(a.label, str(n).encode()).digest() for n in range(20)] for a in Algorithm
}


def written(path: Path, key: bytes = KEY, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(key.hex() + "\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_tag_is_one_block_of_aes_under_a_derived_key(algorithm: Algorithm) -> None:
    purpose = f"hashclient seal 1: tag {algorithm.label}".encode()
    subkey = hmac.digest(KEY, purpose + b"\x01", "sha256")
    encryptor = Cipher(algorithms.AES(subkey), modes.ECB()).encryptor()
    expected = [encryptor.update(digest[:16]) for digest in DIGESTS[algorithm]]
    sealer = Sealer(KEY)
    columns = np.frombuffer(b"".join(DIGESTS[algorithm]), np.uint8).reshape(20, -1)
    for tags in (sealer.tags_of(algorithm, DIGESTS[algorithm]), sealer.tags(algorithm, columns)):
        assert tags.shape == (20, 2)
        assert [row.tobytes() for row in tags] == expected


def test_no_digests_give_no_tags() -> None:
    assert Sealer(KEY).tags_of(Algorithm.MD5, []).shape == (0, 2)
    assert Sealer(KEY).tags(Algorithm.SHA1, np.zeros((0, 20), np.uint8)).shape == (0, 2)


def test_tags_differ_by_algorithm_and_by_key() -> None:
    digest = bytes(16)
    tags = {
        Sealer(key).tags_of(algorithm, [digest]).tobytes()
        for key in (KEY, OTHER)
        for algorithm in Algorithm
    }
    assert len(tags) == 6


def test_the_key_id_names_the_key_and_is_no_part_of_it() -> None:
    assert Sealer(KEY).key_id == Sealer(KEY).key_id != Sealer(OTHER).key_id
    assert Sealer(KEY).key_id not in KEY.hex()


def test_where_the_key_comes_from(tmp_path: Path) -> None:
    """The key is looked up in the environment, the credential, the named file, the default file."""
    keys = [bytes([n]) * KEY_BYTES for n in range(4)]
    state = tmp_path / "state"
    written(state / KEY_FILE, keys[3])
    named = written(tmp_path / "named", keys[2])
    written(tmp_path / "credentials" / KEY_CREDENTIAL, keys[1], mode=0o440)
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}

    def key_id(key_file: Path | None, environ: dict[str, str]) -> str:
        return load_sealer(state, key_file, environ).key_id

    expected = [Sealer(key).key_id for key in keys]
    assert key_id(named, credentials | {KEY_ENV: f" {keys[0].hex().upper()}\n"}) == expected[0]
    assert key_id(named, credentials) == expected[1]
    assert key_id(named, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == expected[2]
    assert key_id(None, {KEY_ENV: ""}) == expected[3]


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with pytest.raises(StateError, match="no seal key") as caught:
        load_sealer(state, None, {})
    assert str(caught.value.hint).startswith("run `hashclient fetch` first")
    first = load_sealer(state, None, {}, create=True)
    path = state / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700
    assert len(bytes.fromhex(path.read_text())) == KEY_BYTES
    assert load_sealer(state, None, {}, create=True).key_id == first.key_id
    assert load_sealer(tmp_path / "other", None, {}, create=True).key_id != first.key_id


@pytest.mark.parametrize("name", ["lists", "matches.db"])
def test_a_key_that_was_there_is_to_be_restored(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StateError, match="no seal key") as caught:
        load_sealer(tmp_path, None, {})
    assert str(caught.value.hint).startswith("restore the key")


def test_a_key_that_was_named_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read seal key file"):
        load_sealer(tmp_path, tmp_path / "nope", {}, create=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 33, "é" * 64, "0" * 63])
def test_a_malformed_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / KEY_FILE
    path.write_text(text)
    path.chmod(0o600)
    for environ, key_file, kind in (
        ({}, None, StateError),
        ({}, path, ConfigError),
        ({KEY_ENV: text or "-"}, None, ConfigError),
    ):
        with pytest.raises(kind, match="64 hexadecimal digits") as caught:
            load_sealer(tmp_path, key_file, environ)
        assert not text or text not in caught.value.message
        assert caught.value.hint


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / KEY_FILE, mode=0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        load_sealer(tmp_path, path, {})
    with pytest.raises(StateError, match="can be read by others"):
        load_sealer(tmp_path, None, {})


def test_a_credential_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / KEY_CREDENTIAL).mkdir()
    with pytest.raises(ConfigError, match="systemd credential"):
        load_sealer(tmp_path, None, {"CREDENTIALS_DIRECTORY": os.fspath(tmp_path)})
