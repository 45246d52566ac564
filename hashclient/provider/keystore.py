"""The private keys of a repository, which are files in the directory `keys/`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key, Signer, SSlibKey

from hashclient.core.errors import StateError
from hashclient.provider.keyfiles import Passphrases, is_encrypted, load_private, private_bytes
from hashclient.system.files import MAX_TEXT_BYTES, make_private_dir, read_regular, write_atomic
from hashclient.system.text import counted, printable


class KeyStore:
    """Ed25519 keys in a private directory; a key has the file `<role>-<start of the id>.pem`.

    The file of a key may be moved to offline storage while the key is not needed for signing.
    """

    def __init__(self, directory: Path, passphrases: Passphrases | None = None) -> None:
        self.directory = directory
        self._passphrases = passphrases or Passphrases()
        #: Names of the files that `generate` has written.
        self.made: set[str] = set()
        #: The passphrase that encrypts new keys; None for no encryption.
        self.passphrase: bytes | None = None

    def _path(self, role: str, keyid: str) -> Path:
        return self.directory / f"{role}-{keyid[:16]}.pem"

    def generate(self, role: str, count: int) -> list[Key]:
        """Make and store `count` new keys for `role`; return the public keys."""
        make_private_dir(self.directory)
        made: list[Key] = []
        if self.passphrase is not None:
            self._passphrases.remember(self.passphrase)
        for _ in range(count):
            private = Ed25519PrivateKey.generate()
            public = SSlibKey.from_crypto(private.public_key())
            path = self._path(role, public.keyid)
            self.made.add(path.name)
            write_atomic(path, private_bytes(private, self.passphrase))
            made.append(public)
        return made

    def signers(self, role: str, keyids: Sequence[str], threshold: int) -> list[Signer]:
        """Return signers for the keys in `keyids` whose files are on this machine.

        Raises:
            StateError: fewer than `threshold` keys are on this machine, or a key is not usable.
        """
        self._require(role, keyids, threshold)
        return self.present(role, keyids)

    def _require(self, role: str, keyids: Sequence[str], threshold: int) -> None:
        paths = [self._path(role, keyid) for keyid in keyids]
        missing = [path.name for path in paths if not path.exists()]
        here = len(paths) - len(missing)
        if here < threshold:
            enough = threshold - here
            choice = f"{enough} of " if enough < len(missing) else ""
            raise StateError(
                f"role {role} needs {counted(threshold, 'signing key')}, {here} here",
                hint=f"put {choice}{', '.join(missing)} back into {printable(self.directory)}",
            )

    def check(self, role: str, keyids: Sequence[str], threshold: int) -> None:
        """Check that enough keys are on this machine, without decrypting encrypted keys.

        Raises:
            StateError: fewer than `threshold` keys are on this machine, or a key is not usable.
        """
        self._require(role, keyids, threshold)
        for keyid in keyids:
            path = self._path(role, keyid)
            if not self._is_closed(path) and path.exists():
                self._load(path, keyid)

    @staticmethod
    def _is_closed(path: Path) -> bool:
        try:
            return is_encrypted(read_regular(path, MAX_TEXT_BYTES))
        except OSError:
            return False

    def present(self, role: str, keyids: Sequence[str]) -> list[Signer]:
        """Return signers for the keys in `keyids` whose files are on this machine.

        Raises:
            StateError: a key is not usable.
        """
        paths = {keyid: self._path(role, keyid) for keyid in keyids}
        return [self._load(path, keyid) for keyid, path in paths.items() if path.exists()]

    def protect_as(self, role: str, keyids: Sequence[str]) -> None:
        """Encrypt new keys with the passphrase that encrypts the keys `keyids` of `role`.

        Nothing changes if the keys `keyids` are not encrypted, or if a passphrase for new keys is
        set already.

        Raises:
            StateError: a key cannot be decrypted.
        """
        for path in [self._path(role, keyid) for keyid in keyids]:
            if self.passphrase is None and self._is_closed(path):
                self.passphrase = load_private(path, self._passphrases)[1]

    def _load(self, path: Path, keyid: str) -> Signer:
        signer, _ = load_private(path, self._passphrases)
        if signer.public_key.keyid != keyid:
            raise StateError(f"not the key that its name says: {printable(path)}")
        return signer

    def discard(self, names: Collection[str]) -> None:
        """Remove the key files `names`, and ignore files that cannot be removed."""
        for name in names:
            with contextlib.suppress(OSError):
                (self.directory / name).unlink()

    def name_of(self, role: str, keyid: str) -> str:
        """Return the name of the file of a key."""
        return self._path(role, keyid).name

    def retire(self, role: str, keep: Collection[str]) -> None:
        """Remove the keys of `role` that are not in `keep`."""
        pattern = re.compile(re.escape(role) + r"-[0-9a-f]{16}\.pem")
        kept = {self._path(role, keyid) for keyid in keep}
        for path in self.directory.iterdir():
            if pattern.fullmatch(path.name) and path not in kept:
                path.unlink()
