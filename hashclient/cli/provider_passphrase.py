"""Where passphrases of keys come from: a file, the environment, a credential, or a prompt.

Never the command line: all users of a machine can read that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import existing_path
from hashclient.cli.defaults import KEY_PASSPHRASE
from hashclient.errors import UsageError

if TYPE_CHECKING:
    from hashclient.provider.keyfiles import Passphrases

#: The name of the credential in systemd's `LoadCredential=`.
CREDENTIAL = "hashclient.key-passphrase"

passphrase_option = click.option(
    "--passphrase-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="The passphrase of keys that have one. [default: asked for at the terminal]",
)


def passphrases(file: Path | None) -> Passphrases:
    """Return the passphrases of keys, each from the first of the places above.

    Raises:
        ConfigError: the file cannot be read, or others can read it.
    """
    from hashclient.provider.keyfiles import Passphrases

    given = _from_elsewhere(file)

    def ask(name: str) -> bytes | None:
        return given if given is not None else _prompt(f"passphrase of {name}", confirm=False)

    return Passphrases(ask)


def new_passphrase(file: Path | None) -> bytes:
    """Return a new passphrase for a key; at a terminal, it is typed twice.

    Raises:
        UsageError: it is too short, or there is none.
    """
    from hashclient.provider.keyfiles import check_passphrase

    given = _from_elsewhere(file)
    if given is None:
        given = _prompt("new passphrase", confirm=True)
    if given is None:
        raise UsageError(
            "there is no passphrase, and no terminal to ask at",
            hint=f"give it in a file that others cannot read, or in {KEY_PASSPHRASE}",
        )
    check_passphrase(given)
    return given


def _from_elsewhere(file: Path | None) -> bytes | None:
    from hashclient.system.secrets import read_secret

    if file is not None:
        return _line(read_secret(file, "passphrase file", forbidden=_forbidden(file)))
    if (text := os.environ.get(KEY_PASSPHRASE)) is not None:
        return os.fsencode(text)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and (path := Path(directory, CREDENTIAL)).exists():
        return _line(read_secret(path, "credential", forbidden=_forbidden(path)))
    return None


def _forbidden(path: Path) -> int:
    """Return the bits that a secret must not have: systemd lets its group read a credential."""
    return 0o007 if str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY") else 0o077


def _line(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _prompt(text: str, *, confirm: bool) -> bytes | None:
    if not sys.stdin.isatty():
        return None
    given: str = click.prompt(text, hide_input=True, err=True, confirmation_prompt=confirm)
    return os.fsencode(given)
