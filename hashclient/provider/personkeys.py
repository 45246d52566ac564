"""Keys of people who sign apart, and passphrases of key files; a file is whole at any instant."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import SSlibKey

from hashclient.errors import UsageError
from hashclient.provider.keyfiles import (
    Passphrases,
    load_private,
    private_bytes,
    private_of,
    public_bytes,
)
from hashclient.system.outputs import remove_new, replaced_file, write_new


def make_pair(output: Path, public: Path, passphrase: bytes | None) -> str:
    """Write a new private key and its public one into new files; return the key's id.

    Raises:
        UsageError: a file exists, or cannot be written; then there is neither.
    """
    key = Ed25519PrivateKey.generate()
    made = write_new(output, private_bytes(key, passphrase))
    try:
        write_new(public, public_bytes(key.public_key()), mode=0o644)
    except BaseException:
        with contextlib.suppress(OSError, UsageError):
            remove_new(output, made)
        raise
    return SSlibKey.from_crypto(key.public_key()).keyid


def change_passphrase(
    path: Path, passphrases: Passphrases, wanted: Callable[[], bytes | None]
) -> None:
    """Put the private key in `path` under the passphrase that `wanted` gives, or under none.

    Raises:
        StateError: it cannot be read, opened or written; the file is as it was then.
        UsageError: others may have led us to it, as for `replaced_file`.
    """
    signer, _ = load_private(path, passphrases)
    data = private_bytes(private_of(signer), wanted())
    with replaced_file(path) as stream:
        stream.write(data)
