"""`quarantine keygen` makes a key pair; `quarantine add-recipient` adds public keys."""

from __future__ import annotations

from pathlib import Path

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.core.errors import ConfigError
from hashclient.system.text import printable

#: A placeholder for a public key. Before the real key is made, the change of config.toml is tested
#: with the placeholder. Nobody has the secret key of the placeholder, and the placeholder is never
#: written to a file.
_ANY_KEY = "age1" + "q" * 58


@click.command("keygen")
@click.option(
    "--output",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    required=True,
    help="A new file for the secret key.",
)
@click.option(
    "--write-config",
    is_flag=True,
    help="Add the public key to config.toml here, as `add-recipient` does: for a trial on one"
    " machine.",
)
@format_option("text", "json")
@pass_app
def keygen(app: App, output: Path, write_config: bool, output_format: str) -> None:
    """Make a pair of keys, and print the public key.

    The secret key goes into a file. Do this on the machine of the officer who may open quarantined
    files: the secret key must never be on a machine that quarantines. The file has the format of
    age-keygen, and works with the age tool. `add-recipient` adds the public key on each machine
    that quarantines.

    \b
      hashclient quarantine keygen --output officer.key   there
      hashclient quarantine add-recipient age1…           here
    """
    from hashclient.quarantine.vault import write_identity

    if write_config:
        # Errors of config.toml have to be found before a key is made.
        _edited(app, _ANY_KEY)
    public = write_identity(output, app.now())
    if write_config:
        _add(app, public)
    config = f'[quarantine]\nrecipients = ["{public}"]'
    document = {"public_key": public, "identity_file": output, "config": config}
    app.show(output_format, document, public)
    app.say(f"the secret key is in {printable(output)}: keep a copy of it in a safe")
    app.say(
        "hint: a machine that quarantines must not have it: move it to the officer's machine"
        if write_config
        else "hint: it stays on the officer's machine; `quarantine add-recipient` makes the public"
        " key known to each that quarantines"
    )


@click.command("add-recipient")
@click.argument("keys", metavar="KEY…", nargs=-1, required=True)
@pass_app
def add_recipient(app: App, keys: tuple[str, ...]) -> None:
    """Add public keys to the recipients in config.toml.

    The keys go into the table [quarantine]. A KEY is a public key of age or SSH. The owner of a
    matching secret key can open files that are isolated from then on. The rest of the file,
    comments included, stays as it is. A key that is there already is not added again.

    \b
      hashclient quarantine add-recipient age1…
      hashclient quarantine add-recipient "$(cat officer.pub)"

    Exit codes: 2 a KEY is no public key, or you have to edit this file yourself.
    """
    from hashclient.quarantine.age import parse_recipients

    stripped = [key.strip() for key in keys]
    parse_recipients(stripped)
    _add(app, *stripped)


def _add(app: App, *keys: str) -> None:
    """Add public keys to config.toml, under the lock that each writer of config.toml takes."""
    from hashclient.config.edit import write_config_text

    session = app.session_to_edit
    path = session.settings.config_path
    with session.writing():
        before, after = _edited(app, *keys)
        if after != before:
            write_config_text(path, after)
    done = "is there already" if after == before else "added"
    for key in keys:
        app.say(f"{printable(path)}: recipient {done}: {printable(key)}")


def _edited(app: App, *keys: str) -> tuple[str, str]:
    """Return the present text of config.toml, and the text with `keys` added.

    Raises:
        ConfigError: config.toml cannot be read, or has a form that the program cannot edit, so that
            a person has to add the keys.
    """
    from hashclient.config.edit import read_config_text, with_recipient
    from hashclient.config.settings import parse_config

    path = app.session_to_edit.settings.config_path
    before = after = read_config_text(path)
    for key in keys:
        after = with_recipient(after, key, printable(path))
    config = parse_config(after, printable(path), complete=False)
    if not set(keys) <= set(config.quarantine.recipients):
        raise ConfigError(
            f"a table below [since] outranks `recipients` of configuration {printable(path)}",
            hint="add the key there, by hand; nothing was changed",
        )
    return before, after
