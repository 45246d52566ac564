"""Turns a digest into a tag: without the local key, a tag shows nothing about the digest.

A tag is the AES-256 encryption of a digest's first 16 bytes, under a key that only digests of the
same algorithm use. AES encrypts one block by a permutation, so equal digests have equal tags, and
different digests have different tags unless their first 16 bytes are equal. If an index is stolen,
its tags do not reveal the digests. A thief who has both the index and the key can test guesses. The
layout of an index is in `run`.

The key also authenticates JSON documents of the state directory, with a message authentication code
(MAC) inside the document. The code covers every byte of the document; the digits of the code count
as zeros. So a document is refused if a byte was changed, or if somebody without the key has written
it. (If the key is stored beside the document, a person who can write the document also has the
key.) Each format has its own subkey, so that a document of one format is not valid in another
format.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hashclient.core.errors import ConfigError, StateError
from hashclient.core.kinds import Algorithm
from hashclient.system.files import (
    MAX_TEXT_BYTES,
    is_there,
    make_private_dir,
    read_regular,
    write_atomic,
)
from hashclient.system.layout import Layout
from hashclient.system.secrets import read_secret
from hashclient.system.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

KEY_BYTES = 32
KEY_ENV = "HASHCLIENT_SEAL_KEY"
#: The name of the systemd credential that contains the key: `LoadCredential=hashclient.seal-key:…`.
KEY_CREDENTIAL = "hashclient.seal-key"

Uint8 = npt.NDArray[np.uint8]
Uint64 = npt.NDArray[np.uint64]


class Sealer:
    """Encrypts digests to tags with one seal key."""

    def __init__(self, key: bytes) -> None:
        """Derive the subkeys; `key` has `KEY_BYTES` bytes."""
        self._subkeys = {a: _derive(key, f"tag {a.label}") for a in Algorithm}
        self._ciphers: dict[Algorithm, Any] = {}
        #: The id of the key, which reveals nothing about the key. A search under the wrong key
        #: finds nothing, so if the key had no id, a wrong key would look like "no match".
        self.key_id = _derive(key, "key id")[:8].hex()
        self._mac_key = _derive(key, "mac")

    def tags(self, algorithm: Algorithm, digests: Uint8) -> Uint64:
        """Seal digests, given as bytes (n, width); return their tags as (n, 2) words."""
        block = np.ascontiguousarray(digests[:, :16])
        return self._encrypt(algorithm, block.data.cast("B") if len(block) else b"")

    def tags_of(self, algorithm: Algorithm, digests: list[bytes]) -> Uint64:
        """Seal a list of n digests; return their tags as (n, 2) words."""
        return self._encrypt(algorithm, b"".join([d[:16] for d in digests]))

    def proves(self, digests: Mapping[Algorithm, bytes], tags: Mapping[Algorithm, bytes]) -> bool:
        """Return whether the digests of one input have all `tags`; False if `tags` is empty."""
        return bool(tags) and all(
            a in digests and self.encryptor(a).update(digests[a][:16]) == tag
            for a, tag in tags.items()
        )

    def mac(self, purpose: str, *parts: bytes | memoryview) -> str:
        """Return the HMAC-SHA-256 of a document, given in parts, in hexadecimal.

        `mac` uses a different subkey for each purpose.
        """
        mac = hmac.new(_derive(self._mac_key, purpose), digestmod="sha256")
        for part in parts:
            mac.update(part)
        return mac.hexdigest()

    def encryptor(self, algorithm: Algorithm) -> CipherContext:
        """Return the encryptor that turns 16 bytes of a digest into a tag.

        Only one thread may use the encryptor.
        """
        if algorithm not in self._ciphers:
            # The import of `cryptography` takes a while, and a check of one file seldom needs it.
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

            # The mode ECB is right for tags, because each digest is an independent block, and equal
            # digests must have equal tags.
            key = algorithms.AES(self._subkeys[algorithm])
            self._ciphers[algorithm] = Cipher(key, modes.ECB())  # noqa: S305 - explained above
        encryptor: CipherContext = self._ciphers[algorithm].encryptor()
        return encryptor

    def _encrypt(self, algorithm: Algorithm, blocks: bytes | memoryview) -> Uint64:
        return np.frombuffer(self.encryptor(algorithm).update(blocks), "<u8").reshape(-1, 2)


def _derive(key: bytes, purpose: str) -> bytes:
    """Return a 32-byte subkey: HMAC-SHA-256 as the only block of HKDF-Expand (RFC 5869)."""
    return hmac.digest(key, b"hashclient seal 1: " + purpose.encode() + b"\x01", "sha256")


def load_sealer(
    state_dir: Path, key_file: Path | None, environ: Mapping[str, str], *, create: bool = False
) -> Sealer:
    """Return the sealer of a state directory.

    The key is looked up in this order: in the environment variable `KEY_ENV` (64 hexadecimal
    digits), in the systemd credential `KEY_CREDENTIAL`, in `key_file`, and in the file `seal.key`
    of the state directory. A key file contains 64 hexadecimal digits, and only its owner may be
    able to read it. With `create`, a missing `seal.key` is created.

    Raises:
        ConfigError: a key that the user named is missing, malformed or readable by others.
        StateError: the state directory has no key, or a malformed key.
    """
    if environ.get(KEY_ENV):
        return Sealer(_parse(environ[KEY_ENV].encode(), f"environment variable {KEY_ENV}"))
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and is_there(credential := Path(directory) / KEY_CREDENTIAL):
        # The mode of the credential's file is not checked, because systemd chooses the mode, and
        # lets only the user of the service read credentials.
        try:
            return Sealer(
                _parse(read_regular(credential, MAX_TEXT_BYTES), "the systemd credential")
            )
        except OSError as error:
            raise ConfigError(f"cannot read systemd credential {KEY_CREDENTIAL}") from error
    if key_file is not None:
        return Sealer(_parse(read_secret(key_file, "seal key file"), printable(key_file)))
    layout = Layout(state_dir)
    path = layout.seal_key
    if not is_there(path):
        if not create:
            was_here = is_there(layout.lists) or is_there(layout.matches)
            raise StateError(
                f"no seal key: {printable(path)}",
                hint="restore the key that sealed these lists, or remove the folders in lists/"
                " and run `hashclient fetch`"
                if was_here
                else "run `hashclient fetch` first: it makes the key",
            )
        make_private_dir(state_dir)
        write_atomic(path, os.urandom(KEY_BYTES).hex().encode() + b"\n")
    try:
        return Sealer(_parse(read_secret(path, "seal key"), printable(path)))
    except ConfigError as error:
        raise StateError(error.message, hint=error.hint) from error


def _parse(text: bytes, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"seal key is not {2 * KEY_BYTES} hexadecimal digits: {where}",
            hint="restore the key that sealed the lists here; or make another key with `openssl "
            "rand -hex 32`, and build the lists again with `hashclient fetch --rebuild`",
        )
    return key


#: The digits that replace the code in a document while the code is computed; a code has the same
#: number of digits.
NO_MAC = "0" * 64


def authenticate(document: bytes, format_: str, sealer: Sealer) -> bytes:
    """Return `document` with its code in the place of the first `NO_MAC`."""
    return document.replace(NO_MAC.encode(), sealer.mac(format_, document).encode(), 1)


def verify_document(document: bytes, mac: str, format_: str, sealer: Sealer) -> None:
    """Verify that `mac`, which `document` contains, is the code of `document`.

    Raises:
        ValueError: `mac` is not the code of `document`.
    """
    digits = mac.encode()
    at = document.find(digits)
    if len(digits) != len(NO_MAC) or at < 0:
        raise ValueError("a document without its code")
    # A document may have megabytes, so its parts are not copied.
    parts = memoryview(document)
    expected = sealer.mac(format_, parts[:at], NO_MAC.encode(), parts[at + len(digits) :])
    # The comparison takes constant time, because an attacker who could measure how many digits are
    # right could find the other digits.
    if not hmac.compare_digest(digits, expected.encode()):
        raise ValueError("a code that is not the document's")
