"""Reads files that contain a secret, and removes secret keys from messages."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from hashclient.core.errors import ConfigError
from hashclient.system.files import MAX_TEXT_BYTES, open_at_once, read_bounded
from hashclient.system.text import printable

#: The environment variable in which systemd passes the directory of a unit's credentials.
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
#: A regular expression for a secret key of age, or for a private key in PEM up to its last line.
#: Line breaks may be escaped, and the key may be cut or mistyped. A key of age matches only if it
#: contains a part in Bech32. A key in PEM matches only if it contains the beginning or the end of
#: the first line of PEM. Therefore the name of a file, for example `age-secret-key-2026.txt`, does
#: not match.
_SHAPES = (
    r"AGE-SECRET-KEY-(?:PQ-)?1(?=[0-9]*[A-Z])(?:[02-9AC-HJ-NP-Z]{6}|[0-9A-Z]{40})[0-9A-Z]*"
    r"|(?:-----BEGIN [0-9A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
    r"|PRIVATE KEY(?: BLOCK)?-----(?=[\r\n\\]))"
    r".*?(?:-----END [0-9A-Z ]*-----|\Z)"
)


@functools.cache
def _secret_key() -> re.Pattern[str]:
    """Return the compiled pattern `_SHAPES`; compiling takes a millisecond and is rarely needed."""
    return re.compile(_SHAPES, re.IGNORECASE | re.DOTALL)


def holds_secret_key(text: str) -> bool:
    """Return whether `text` contains a secret key, or the beginning of a secret key."""
    return bool(secret_keys(text))


def secret_keys(text: str) -> list[str]:
    """Return the secret keys in `text`, unchanged."""
    return _secret_key().findall(text) if _may_hold(text) else []


def without_secret_keys(text: str) -> str:
    """Return `text` with each secret key replaced by `(a secret key)`, for a message."""
    return _secret_key().sub("(a secret key)", text) if _may_hold(text) else text


def _may_hold(text: str) -> bool:
    return "key" in text.lower()


def forbidden_bits(path: Path, environ: Mapping[str, str]) -> int:
    """Return the permission bits that must not be set on the secret file `path`."""
    # systemd lets the user of a unit read its credentials by an access control list, whose mask
    # appears as the permission bits of the group. Other users may not enter the directory of the
    # credentials.
    return 0o007 if str(path.parent) == environ.get(CREDENTIALS_DIRECTORY) else 0o077


def read_secret(path: Path, what: str, *, forbidden: int = 0o077) -> bytes:
    """Read a file with a secret; refuse it if users other than its owner may read it.

    `what` names the secret in messages, for example `token file`; `forbidden` are the permission
    bits that must not be set.

    Raises:
        ConfigError: the file does not exist, cannot be read, or can be read by other users.
    """
    try:
        with open_at_once(path) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{what} is not a regular file: {printable(path)}")
            if status.st_mode & forbidden:
                raise ConfigError(
                    f"{what} can be read by others: {printable(path)}",
                    hint=f"chmod 600 {printable(path)}",
                )
            secret = read_bounded(stream, status.st_size, MAX_TEXT_BYTES)
    except OSError as error:
        raise ConfigError(
            f"cannot read {what}: {printable(path)}: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
    if len(secret) > MAX_TEXT_BYTES:
        raise ConfigError(f"{what} is longer than {MAX_TEXT_BYTES:,} bytes: {printable(path)}")
    return secret
