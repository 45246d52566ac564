"""Completion of arguments in a shell: ids of matches, reports, notices; names of lists, roles.

It reads the state that the words before the cursor name. On an error it offers nothing and prints
no message.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import click

from hashclient.errors import HashclientError
from hashclient.system.files import user_path

Complete = Callable[[click.Context, click.Parameter, str], list[str]]
#: The most words offered; nobody reads more.
MOST = 200
_TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")


def _offering(names: Callable[[click.Context], list[str]]) -> Complete:
    """Return the completions for click: the `names` that begin with the word at the cursor."""

    def complete(context: click.Context, _parameter: click.Parameter, word: str) -> list[str]:
        with contextlib.suppress(HashclientError, OSError):
            return [name for name in names(context) if name.startswith(word)][:MOST]
        return []

    return complete


def _state_dir(context: click.Context) -> Path:
    from hashclient.config import resolve_settings

    given = context.find_root().params

    def path(name: str) -> Path | None:
        return user_path(given[name]) if given.get(name) else None

    return resolve_settings(
        state_dir=path("state_dir"),
        config_path=path("config_path"),
        seal_key_file=None,
        environ=os.environ,
        complete=False,
        config_must_exist=False,
        allow_shared=True,
    ).state_dir


def _matches(context: click.Context) -> list[str]:
    from hashclient.matches.store import Matches

    with Matches(_state_dir(context), create=False) as matches:
        return [match.id for match in matches.find()]


def _reports(context: click.Context) -> list[str]:
    from hashclient.system.layout import Layout

    return sorted(path.name for path in Layout(_state_dir(context)).reports.iterdir())


def _exceptions(context: click.Context) -> list[str]:
    from hashclient.decisions.rulings import load_book
    from hashclient.index.blinding import load_sealer
    from hashclient.system.layout import Layout

    directory = _state_dir(context)
    sealer = load_sealer(directory, None, os.environ)
    return [ruling.id for ruling in load_book(Layout(directory), sealer).rulings]


def _notices(context: click.Context) -> list[str]:
    from hashclient.notices.store import load_book, providers_with_notices
    from hashclient.system.layout import Layout

    layout = Layout(_state_dir(context))
    books = [load_book(layout, name) for name in providers_with_notices(layout)]
    return sorted(one.notice.id for book in books if book for one in book.notices)


def _lists(context: click.Context) -> list[str]:
    from hashclient.index.reader import list_folders
    from hashclient.system.layout import Layout

    return list_folders(Layout(_state_dir(context)).lists)


def _lists_of_repository(context: click.Context) -> list[str]:
    # After an option whose value is missing, click has not parsed the words yet.
    given = context.params.get("directory") or next(iter(context.args), ".")
    lists = Path(given, "public", "targets", "lists")
    return sorted(path.name for path in lists.iterdir())


def _roles(context: click.Context) -> list[str]:
    with contextlib.suppress(OSError):
        return [*_TOP_LEVEL, *_lists_of_repository(context)]
    return list(_TOP_LEVEL)


MATCHES = _offering(_matches)
REPORTS = _offering(_reports)
EXCEPTIONS = _offering(_exceptions)
NOTICES = _offering(_notices)
LISTS = _offering(_lists)
LISTS_OF_REPOSITORY = _offering(_lists_of_repository)
ROLES = _offering(_roles)
