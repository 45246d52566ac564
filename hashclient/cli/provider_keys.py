"""`provider key`: makes key pairs for people who sign drafts, and sets passphrases of keys.

A passphrase is read from a file, a variable of the environment, a credential of systemd, or a
prompt. A passphrase is never an argument, because all users of a machine can read the arguments of
a command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.defaults import KEY_PASSPHRASE
from hashclient.core.errors import UsageError
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.provider.keyfiles import Passphrases


#: The name of the credential in systemd's `LoadCredential=`.
CREDENTIAL = "hashclient.key-passphrase"
passphrase_option = click.option(
    "--passphrase-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="File with the passphrase of encrypted keys. [default: ask at the terminal]",
)


@click.group("key", short_help="Make keys for people who sign elsewhere.")
def key() -> None:
    """Make keys for people who sign on another machine, and encrypt key files with a passphrase.

    \b
      hashclient provider key new --output alice.pem --public alice.pub
      hashclient provider key passphrase /srv/lists/keys/root-0123456789abcdef.pem
    """


@key.command("new")
@click.option(
    "--output",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    required=True,
    help="A new file for the private key.",
)
@click.option(
    "--public",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    required=True,
    help="Where to write the public key, for the person who keeps the repository.",
)
@click.option(
    "--passphrase-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="File with the passphrase of the new key. [default: ask at the terminal]",
)
@click.option("--no-passphrase", is_flag=True, help="Do not encrypt the private key.")
@format_option("text", "json")
@pass_app
def new(
    app: App,
    output: Path,
    public: Path,
    passphrase_file: Path | None,
    no_passphrase: bool,
    output_format: str,
) -> None:
    """Make a key pair; a passphrase encrypts the private key.

    For a person who signs on their own machine: the private key never leaves this machine. Give the
    public key to `publish --public-key` for a new list, or to `rotate --public-key`.

    \b
      hashclient provider key new --output alice.pem --public alice.pub
    """
    from hashclient.provider.keyfiles import make_pair

    if no_passphrase and passphrase_file is not None:
        raise UsageError("give either --passphrase-file or --no-passphrase")
    passphrase = None if no_passphrase else new_passphrase(passphrase_file)
    key_id = make_pair(output, public, passphrase)
    document = {"key_id": key_id, "private": output, "public": public}
    app.show(output_format, document, f"key {key_id}")
    app.say(f"the private key is in {printable(output)}: keep it, and a copy in a safe")


@key.command("passphrase")
@click.argument("file", metavar="KEYFILE", type=existing_path(dir_okay=False))
@passphrase_option
@click.option(
    "--new-passphrase-file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="File with the new passphrase. [default: ask at the terminal]",
)
@click.option("--remove", is_flag=True, help="Decrypt the key: afterwards it has no passphrase.")
@pass_app
def change(
    app: App,
    file: Path,
    passphrase_file: Path | None,
    new_passphrase_file: Path | None,
    remove: bool,
) -> None:
    """Encrypt a private key with a passphrase, or with a new passphrase.

    The key file is replaced; other copies of the file do not change. Keys that sign every day
    without a person get their passphrase from --passphrase-file, or have no passphrase.

    \b
      hashclient provider key passphrase /srv/lists/keys/root-0123456789abcdef.pem
      hashclient provider key passphrase key.pem --remove
    """
    from hashclient.provider.keyfiles import change_passphrase

    if remove and new_passphrase_file is not None:
        raise UsageError("give either --new-passphrase-file or --remove")

    def wanted() -> bytes | None:
        return None if remove else new_passphrase(new_passphrase_file)

    change_passphrase(file, passphrases(passphrase_file), wanted)
    done = "has no passphrase" if remove else "has the new passphrase"
    app.say(f"the key {done}: {printable(file)}")


def passphrases(file: Path | None) -> Passphrases:
    """Return a source of passphrases: a file, the environment, a credential, or else a prompt.

    Raises:
        ConfigError: the passphrase file cannot be read, or other users can read it.
    """
    from hashclient.provider.keyfiles import Passphrases

    given = _from_elsewhere(file)

    def ask(name: str) -> bytes | None:
        return given if given is not None else _prompt(f"passphrase of {name}", confirm=False)

    return Passphrases(ask)


def new_passphrase(file: Path | None) -> bytes:
    """Return a new passphrase for a key; a prompt asks for the passphrase twice.

    Raises:
        UsageError: the passphrase is too short or missing.
    """
    from hashclient.provider.keyfiles import check_passphrase

    given = _from_elsewhere(file)
    if given is None:
        given = _prompt("new passphrase", confirm=True)
    if given is None:
        raise UsageError(
            "there is no passphrase, and no terminal to ask for one",
            hint=f"give the passphrase in a file that others cannot read, or in {KEY_PASSPHRASE}",
        )
    check_passphrase(given)
    return given


def _from_elsewhere(file: Path | None) -> bytes | None:
    from hashclient.system.secrets import CREDENTIALS_DIRECTORY, forbidden_bits, read_secret

    if file is not None:
        return _line(
            read_secret(file, "passphrase file", forbidden=forbidden_bits(file, os.environ))
        )
    if (text := os.environ.get(KEY_PASSPHRASE)) is not None:
        return os.fsencode(text)
    directory = os.environ.get(CREDENTIALS_DIRECTORY)
    if directory and (path := Path(directory, CREDENTIAL)).exists():
        return _line(read_secret(path, "credential", forbidden=forbidden_bits(path, os.environ)))
    return None


def _line(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _prompt(text: str, *, confirm: bool) -> bytes | None:
    if not sys.stdin.isatty():
        return None
    given: str = click.prompt(text, hide_input=True, err=True, confirmation_prompt=confirm)
    return os.fsencode(given)
