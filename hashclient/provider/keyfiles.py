"""Reads and writes Ed25519 keys in PEM files; a passphrase may encrypt a private key.

An encrypted key has the form PKCS#8 that OpenSSL writes (PBES2: AES-256-CBC under PBKDF2). The
passphrase has to be long, because the 2,048 rounds of PBKDF2 hardly slow down somebody who has
stolen the file. A key that was made with `openssl pkcs8 -topk8 -scrypt` can be read, too. The
caller passes a `Passphrases`, which asks for passphrases; a passphrase is never an argument of a
command, because other users can see arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from hashclient.core.errors import ConfigError, StateError, UsageError
from hashclient.core.model import is_name
from hashclient.system.files import MAX_TEXT_BYTES, read_regular
from hashclient.system.outputs import remove_new, replaced_file, write_new
from hashclient.system.secrets import read_secret
from hashclient.system.text import printable

#: Limits of a new passphrase, in bytes. Six random words from a list of 7,776 words are longer than
#: the minimum.
MIN_PASSPHRASE_BYTES = 16
MAX_PASSPHRASE_BYTES = 1023

#: The field of a key in root and targets that names the person who has the private key.
NAME_FIELD = "hashclient-name"

_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


class Passphrases:
    """The passphrases of one command; a passphrase is asked for once and tried for later keys."""

    def __init__(self, ask: Callable[[str], bytes | None] = lambda _: None) -> None:
        """Store `ask`, which gets the name of a key file and returns a passphrase or None."""
        self._ask = ask
        self._known: list[bytes] = []

    def remember(self, passphrase: bytes) -> None:
        """Store a passphrase, so that `open` also tries the passphrase for later keys."""
        self._known.append(passphrase)

    def open(self, path: Path, data: bytes) -> tuple[Ed25519PrivateKey, bytes]:
        """Decrypt the private key `data` of the file `path`; return the key and its passphrase.

        Raises:
            StateError: no passphrase is known, the passphrase is wrong, or the key is damaged.
        """
        for known in self._known:
            if (key := _decrypted(data, known)) is not None:
                return key, known
        given = self._ask(path.name)
        if given is None:
            raise StateError(
                f"the key is encrypted with a passphrase: {printable(path)}",
                hint="give the passphrase with --passphrase-file, in HASHCLIENT_KEY_PASSPHRASE, "
                "or at a terminal",
            )
        if (key := _decrypted(data, given)) is None:
            raise StateError(
                f"wrong passphrase, or a damaged key: {printable(path)}",
                hint="nothing was changed; try again",
            )
        self._known.append(given)
        return key, given


def load_private(path: Path, passphrases: Passphrases) -> tuple[CryptoSigner, bytes | None]:
    """Read a private key; return the key, and its passphrase or None.

    Raises:
        StateError: the file cannot be read, can be read by other users, is not an Ed25519 key, or
            cannot be decrypted.
    """
    try:
        data = read_secret(path, "signing key")
    except ConfigError as error:
        raise StateError(error.message, hint=error.hint) from error
    if is_encrypted(data):
        private, passphrase = passphrases.open(path, data)
        return CryptoSigner(private, SSlibKey.from_crypto(private.public_key())), passphrase
    try:
        plain = load_pem_private_key(data, None)
        if not isinstance(plain, Ed25519PrivateKey):
            raise TypeError
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StateError(f"not an Ed25519 key: {printable(path)}") from error
    return CryptoSigner(plain, SSlibKey.from_crypto(plain.public_key())), None


def is_encrypted(data: bytes) -> bool:
    """Return whether a key file is encrypted with a passphrase."""
    return data.lstrip().startswith(_ENCRYPTED)


def private_bytes(key: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    """Return a private key as PEM, encrypted with `passphrase` unless `passphrase` is None."""
    how: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def load_public(path: Path) -> SSlibKey:
    """Read a public key, and store its file name in a field of the key, which is signed later.

    Raises:
        UsageError: the file cannot be read, or is not a public Ed25519 key.
    """
    try:
        key = load_pem_public_key(read_regular(path, MAX_TEXT_BYTES))
        if not isinstance(key, Ed25519PublicKey):
            raise TypeError
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"not a public Ed25519 key: {printable(path)}",
            hint="`hashclient provider key new` makes a pair",
        ) from error
    found = SSlibKey.from_crypto(key)
    if is_name(path.stem):
        found.unrecognized_fields[NAME_FIELD] = path.stem
    return found


def name_of(key: Key) -> str | None:
    """Return the name of the person in the field `NAME_FIELD` of a key, or None."""
    name = key.unrecognized_fields.get(NAME_FIELD)
    return name if isinstance(name, str) and is_name(name) else None


def make_pair(output: Path, public: Path, passphrase: bytes | None) -> str:
    """Write a new private key and its public key into new files; return the key's id.

    Raises:
        UsageError: a file exists already, or cannot be written; no new file is left.
    """
    key = Ed25519PrivateKey.generate()
    made = write_new(output, private_bytes(key, passphrase))
    try:
        data = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_new(public, data, mode=0o644)
    except BaseException:
        with contextlib.suppress(OSError, UsageError):
            remove_new(output, made)
        raise
    return SSlibKey.from_crypto(key.public_key()).keyid


def change_passphrase(
    path: Path, passphrases: Passphrases, wanted: Callable[[], bytes | None]
) -> None:
    """Encrypt the key in `path` with the passphrase that `wanted` returns; None decrypts it.

    Raises:
        StateError: the key cannot be read, decrypted or written; the file is unchanged.
        UsageError: another user may have exchanged the file at `path`, see `replaced_file`.
    """
    signer, _ = load_private(path, passphrases)
    key = load_pem_private_key(signer.private_bytes, None)
    assert isinstance(key, Ed25519PrivateKey)
    data = private_bytes(key, wanted())
    with replaced_file(path) as stream:
        stream.write(data)


def check_passphrase(passphrase: bytes) -> None:
    """Check a new passphrase for a key.

    Raises:
        UsageError: the passphrase is too short or too long.
    """
    if not MIN_PASSPHRASE_BYTES <= len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise UsageError(
            f"a passphrase has {MIN_PASSPHRASE_BYTES} to {MAX_PASSPHRASE_BYTES:,} bytes",
            hint="six random words make a good passphrase",
        )


def _decrypted(data: bytes, passphrase: bytes) -> Ed25519PrivateKey | None:
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None
