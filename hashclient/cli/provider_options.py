"""Options, warnings and the opened repository for the commands of a provider."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path
from hashclient.cli.options import LISTS_OF_REPOSITORY, together
from hashclient.core.errors import UsageError
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.provider.keyfiles import Passphrases
    from hashclient.provider.keys import Keys
    from hashclient.provider.repository import Repository
    from hashclient.provider.results import Published

repo_argument = click.argument("directory", metavar="REPO", type=existing_path(file_okay=False))
list_option = click.option(
    "--list",
    "list_name",
    metavar="NAME",
    required=True,
    shell_complete=LISTS_OF_REPOSITORY,
    help="The list.",
)


longest_option = click.option(
    "--longest-days",
    type=click.IntRange(7, 366),
    metavar="N",
    help="The longest validity of snapshot and timestamp, in days, as a limit in the root. "
    "[default: 60, or as before]",
)
draft_option = click.option(
    "--draft",
    type=existing_path(),
    metavar="DIR",
    help="Do not publish: write the change into the new directory DIR, for people to sign.",
)
public_key_option = click.option(
    "--public-key",
    "public_keys",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    multiple=True,
    help="The public key of a person who signs elsewhere, a file from `key new`. Can be given "
    "several times.",
)


def keys_wanted(count: int | None, threshold: int | None, public: tuple[Path, ...]) -> Keys:
    """Return the keys that the options describe.

    Raises:
        UsageError: the numbers contradict each other, or a key cannot be read or is given twice.
    """
    from hashclient.provider.keyfiles import load_public
    from hashclient.provider.keys import Keys

    if not public:
        return Keys(count or 1, threshold or 1)
    if count not in (None, 1, len(public)):
        raise UsageError(
            "--keys makes keys here, --public-key is for keys of people: give one of the two"
        )
    keys = tuple(load_public(path) for path in public)
    if len({key.keyid for key in keys}) < len(keys):
        raise UsageError("a key is given twice with --public-key")
    return Keys(len(keys), threshold or 1, keys)


def key_options(whose: str) -> Callable[[Any], Any]:
    """Return a decorator that adds the options `--keys` and `--threshold`."""

    def number(flag: str, text: str) -> Callable[[Any], Any]:
        kind = click.IntRange(1, 16)
        return click.option(flag, type=kind, metavar="N", default=1, show_default=True, help=text)

    return together(
        number("--keys", f"How many keys to make for {whose}."),
        number("--threshold", "How many of the keys have to sign."),
    )


def warn_expiring(app: App, repository: Repository) -> bool:
    """Warn of roles that expire soon; return whether a role has expired."""
    expired = False
    renew = f"hashclient provider renew {shlex.quote(str(repository.directory))}"
    for role, at, wanting in repository.expiring():
        left = at - app.now()
        is_over = left.total_seconds() <= 0
        expired = expired or is_over
        when = "has expired" if is_over else f"expires in {counted(left.days, 'day')}"
        app.warn(
            f"role {role} {when}: {for_people(at)}",
            hint=f"run `{renew}`"
            if wanting is None
            else f"{wanting} and run `{renew}`, or `{renew} --draft DIR` for people to sign",
        )
    return expired


def warn_closed(app: App, repository: Repository) -> None:
    """Warn if a web server under another user account cannot read the published files."""
    if closed := repository.closed():
        more = f" and {len(closed) - 1:,} more" if len(closed) > 1 else ""
        app.warn(
            f"a web server with another account cannot read: {printable(closed[0])}{more}",
            "; ".join(_opening(repository, closed)),
        )


def _opening(repository: Repository, closed: Sequence[Path]) -> Iterator[str]:
    """Yield hints that say how the web server can be allowed to read the `closed` folders."""
    own = repository.directory.resolve()
    if above := [folder for folder in closed if folder in own.parents]:
        names = " ".join(shlex.quote(str(folder)) for folder in above)
        yield f"chmod a+x {names}, or copy public/ to another place for the web server"
    if own in closed:
        yield f"chmod a+x {shlex.quote(str(repository.directory))}"
    if len(closed) > len(above) + (own in closed):
        yield f"chmod -R a+rX {shlex.quote(str(repository.public))}"


def repository_at(app: App, directory: Path, passphrases: Passphrases | None = None) -> Repository:
    """Return the repository in a directory; `passphrases` decrypt the keys of the repository."""
    from hashclient.provider.repository import Repository
    from hashclient.session import current_operator

    for part in ("", "keys", "log", "public/metadata", "public/targets"):
        app.refuse_shared(directory / part, "repository")
    return Repository(
        directory, clock=app.now, operator=current_operator(), passphrases=passphrases
    )


def change_text(
    done: Published,
    what: str,
    more: Mapping[str, Any] = MappingProxyType({}),
    *,
    with_withdrawn: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Return the result of a change of a list as JSON, including `more`, and as text.

    `what` says what happened to the entries, for example `added`. If `what` begins with `would be`,
    the text also has the number of entries of each category.
    """
    document = {
        "list": done.list_name,
        "generation": done.generation,
        what.removeprefix("would be "): done.changed,
        "live": done.live,
        **more,
    }
    withdrawn = f" {done.withdrawn} withdrawn," if with_withdrawn else ""
    first = f"list {done.list_name}: generation {done.generation}: {done.changed} {what},"
    text = [f"{first}{withdrawn} {done.live} live"]
    if what.startswith("would be "):
        text += [
            f"  added in category {name}: {count:,}" for name, count in done.categories.items()
        ]
    return document, text


def read_root(app: App, path: Path) -> bytes:
    """Return the bytes of a root.json file.

    Raises:
        UsageError: the file cannot be read.
    """
    from hashclient.system.files import MAX_STATE_BYTES, read_regular

    app.refuse_shared(path, "root.json")
    try:
        return read_regular(path, MAX_STATE_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {error.strerror or error}") from error


def say_draft(app: App, draft: Path | None) -> None:
    """Print that a draft was written, and what the next step is."""
    if draft is not None and not draft.exists():
        app.say("nothing would change: there is no draft")
    elif draft is not None:
        where = f"{shlex.quote(str(draft))} --root ROOT.JSON"
        app.say(f"nothing is published; the draft is in {printable(draft)}")
        app.say(
            f"hint: each person looks at the draft with `hashclient provider draft show {where}`, "
            f"and signs it with `hashclient provider draft sign {where} --key FILE --draft-digest "
            "DIGEST`"
        )


def conclude(app: App, repository: Repository, draft: Path | None) -> None:
    """If `draft` is given, print the next step for the draft; warn of roles that expire soon."""
    say_draft(app, draft)
    warn_expiring(app, repository)
