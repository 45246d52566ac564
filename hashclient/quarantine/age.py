"""Reads and writes keys of the age format, and encrypts and decrypts streams, with pyrage.

This is the only module that uses pyrage, and it translates exceptions of pyrage into exceptions of
hashclient. pyrage rewords exceptions of the streams that it reads and writes, and drops an
exception of its last write, so `_Streams` stores the first exception of a stream. After `seal`, the
caller must compare the length of the output with `agefile.sealed_bytes`; otherwise a truncated
output is noticed only when it is decrypted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hashclient.config.faults import HINT_RECIPIENTS
from hashclient.core.agefile import VERSION_LINE
from hashclient.core.errors import AuthorisationError, ConfigError, StateError
from hashclient.system.outputs import write_new
from hashclient.system.secrets import holds_secret_key, read_secret
from hashclient.system.text import excerpt, printable

_SSH_TYPES = ("ssh-ed25519 ", "ssh-rsa ")
#: A regular expression for public keys. A text that does not match may be a secret that a user has
#: put in the wrong place.
_PUBLIC_SHAPE = re.compile(r"age1[0-9a-z]*|ssh-[0-9a-z-]+ [0-9A-Za-z+/=]*(?: .*)?", re.IGNORECASE)


#: The public key in the examples of the documents. Nobody has the secret key for this public key,
#: so a file that is sealed to it is lost.
EXAMPLE_RECIPIENT = "age1cy9nxhjar8pvxwqyakq8glmsx5tx85ec6wqscy468usc93jarufqdmlsqm"


def parse_recipients(texts: Iterable[str]) -> list[Any]:
    """Return the pyrage recipients for the public keys `texts`, which are age or SSH keys.

    Raises:
        ConfigError: no recipients are given, or a text is not a public key.
    """
    from pyrage import RecipientError, ssh, x25519

    recipients = []
    for text in texts:
        text = text.strip()
        if holds_secret_key(text):
            # The message does not repeat the secret key, so that the key does not get into a log.
            raise ConfigError(
                "a secret key stands where the public key of a recipient belongs",
                hint="a public key begins with age1 or ssh-; make a new pair of keys, because "
                "others may have read this secret key",
            )
        if text == EXAMPLE_RECIPIENT:
            raise ConfigError(
                "the public key of an example in the documents is no recipient: nobody could open"
                " a file that is sealed to it",
                hint="replace it with the public key of an officer",
            )
        kind = ssh if text.startswith(_SSH_TYPES) else x25519
        try:
            recipients.append(kind.Recipient.from_str(text))
        except RecipientError as error:
            if _PUBLIC_SHAPE.fullmatch(text):
                what = f"not an age public key: {excerpt(text)}: {excerpt(error)}"
            else:
                what = "not an age public key: it begins with neither age1 nor ssh-"
                if "\n" in text:
                    what = "not an age public key: it has several lines"
            raise ConfigError(what, hint=HINT_RECIPIENTS) from error
    if not recipients:
        raise ConfigError("no recipients for sealed files are configured", hint=HINT_RECIPIENTS)
    return recipients


def canonical_recipient(text: str) -> str:
    """Return the normal form of a public key, for comparisons of public keys.

    The normal form of an SSH key has no comment at its end. The normal form of an age key is in
    lower case.
    """
    text = text.strip()
    if text.startswith(_SSH_TYPES):
        return " ".join(text.split()[:2])
    return text.lower()


def write_identity(path: Path, now: datetime) -> str:
    """Make a pair of age keys; write the secret key to the new file `path`, return the public key.

    Raises:
        UsageError: `path` exists, or cannot be written.
    """
    from pyrage import x25519

    identity = x25519.Identity.generate()
    public = str(identity.to_public())
    text = f"# created: {now.isoformat(timespec='seconds')}\n# public key: {public}\n{identity}\n"
    write_new(path, text.encode())
    return public


def load_identities(path: Path) -> list[Any]:
    """Read the secret keys in a file of `age-keygen` or `ssh-keygen`.

    Raises:
        ConfigError: the key file cannot be read, can be read by other users, is encrypted, or
            contains no key.
    """
    from pyrage import IdentityError, ssh, x25519

    where = printable(path)
    data = read_secret(path, "identity file")
    text = data.decode("utf-8", "replace").strip()
    if text.startswith((VERSION_LINE.decode(), "-----BEGIN AGE ENCRYPTED FILE-----")):
        raise ConfigError(
            f"identity file is encrypted: {where}",
            hint="decrypt it first, onto a memory file system: `age -d -o /dev/shm/key FILE`",
        )
    try:
        if text.startswith("-----BEGIN "):
            return [ssh.Identity.from_buffer(data)]
        lines = (line.strip() for line in text.splitlines())
        keys = [line for line in lines if line and not line.startswith("#")]
        identities = [x25519.Identity.from_str(key) for key in keys]
    except IdentityError as error:  # the text of the exception contains no part of the key
        raise ConfigError(
            f"not an identity file: {where}: {excerpt(error)}",
            hint="give a file that `hashclient quarantine keygen` or `age-keygen` wrote",
        ) from error
    if not identities:
        raise ConfigError(f"identity file holds no key: {where}", hint=HINT_RECIPIENTS)
    return identities


class _Streams:
    """The input and output streams for pyrage, and the first exception that a stream raised."""

    def __init__(self, source: Callable[[int], bytes], sink: Callable[[bytes], object]) -> None:
        self._source = source
        self._sink = sink
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._source(size)
        except BaseException as error:
            self.error = self.error or error
            raise

    def write(self, data: bytes) -> int:
        try:
            self._sink(data)
        except BaseException as error:
            self.error = self.error or error
            raise
        return len(data)

    def flush(self) -> None:
        """Do nothing, because the stream has no buffer."""


def seal(
    source: Callable[[int], bytes], sink: Callable[[bytes], object], recipients: Sequence[Any]
) -> None:
    """Encrypt the bytes that `source` returns, and pass the age file to `sink`.

    Raises:
        StateError: the bytes cannot be encrypted.
        BaseException: the exception that `source` or `sink` raised.
    """
    import pyrage

    streams = _Streams(source, sink)
    try:
        pyrage.encrypt_io(streams, streams, recipients)
    except (pyrage.EncryptError, OSError, ValueError) as error:
        if streams.error is None:
            raise StateError(f"cannot encrypt: {excerpt(error)}") from error
    if streams.error is not None:
        raise streams.error


def unseal(
    source: Callable[[int], bytes], sink: Callable[[bytes], object], identities: Sequence[Any]
) -> None:
    """Decrypt the age file that `source` returns; pass each authenticated chunk to `sink`.

    Raises:
        AuthorisationError: no secret key in `identities` can decrypt the age file.
        StateError: the input is damaged or not an age file. BaseException: the exception that
            `source` or `sink` raised.
    """
    import pyrage

    streams = _Streams(source, sink)
    try:
        pyrage.decrypt_io(streams, streams, identities)
    except (pyrage.DecryptError, OSError, ValueError) as error:
        if streams.error is None:
            # pyrage has no exception class for a missing key, so the text of the exception is
            # compared.
            if "No matching keys" in str(error):
                raise AuthorisationError(
                    "none of the identities opens the sealed file",
                    hint="`hashclient quarantine show ID` names the public keys it is sealed to",
                ) from error
            raise StateError(f"cannot decrypt: {excerpt(error)}") from error
    if streams.error is not None:
        raise streams.error
