"""Reading files that hold a secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hashclient.errors import ConfigError
from hashclient.system.files import MAX_TEXT_BYTES, open_at_once, read_bounded
from hashclient.system.text import printable


def read_secret(path: Path, what: str, *, forbidden: int = 0o077) -> bytes:
    """Read a secret file, which only its owner may be able to read.

    `what` names the secret in messages, for example `token file`; `forbidden` are the permission
    bits that must be unset.

    Raises:
        ConfigError: it does not exist, cannot be read or others can read it.
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
