"""Changes of clients: under the repository's lock, and in its log before they count.

A new token is written to a file of its own before the repository knows its hash: if the command is
killed in between, the token in the file does not count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from hashclient.core.errors import StateError, UsageError
from hashclient.provider.changes import require_list
from hashclient.provider.clients import Client, Clients, Token
from hashclient.provider.repository import Repository
from hashclient.system.outputs import remove_new, write_new
from hashclient.system.text import for_programs


class Given(msgspec.Struct, frozen=True):
    """A token that a client was given; it is a secret."""

    client: str
    token: str
    expires: datetime


def all_clients(repository: Repository) -> tuple[Client, ...]:
    """Return all clients, including revoked clients.

    Raises:
        StateError: no repository is there, or the file of clients cannot be read.
    """
    repository.require()
    return Clients(repository.clients_file, repository.clock).all()


def add_client(
    repository: Repository,
    name: str,
    valid: timedelta,
    output: Path | None,
    lists: tuple[str, ...] | None = None,
    key: str | None = None,
) -> Given:
    """Add a client; write its token into the new file `output`, if given.

    The client may fetch the `lists`; with None, it may fetch all present and later lists. `key`
    signs the client's feedback.

    Raises:
        UsageError: a client has that name, the name or the key is not allowed, a list does not
            exist, or `output` exists.
        StateError: no repository is there, or a file cannot be read or written.
        AuditError: the change cannot be recorded; nothing was changed.
    """
    _check_lists(repository, lists)
    given = _give(
        repository, "client-added", name, output, lambda c: c.with_added(name, valid, lists, key)
    )
    if key is not None:
        note_key(repository, name, key)
    return given


def rotate_client(
    repository: Repository, name: str, valid: timedelta, overlap: timedelta, output: Path | None
) -> Given:
    """Give a client a new token, as `add_client`; older tokens expire after `overlap`.

    Raises:
        UsageError: no client has this name, the client was revoked, or `output` exists.
        StateError, AuditError: as `add_client`.
    """
    return _give(
        repository, "client-rotated", name, output, lambda c: c.with_rotated(name, valid, overlap)
    )


def revoke_client(repository: Repository, name: str) -> None:
    """Revoke a client: it may not fetch any more.

    Raises:
        UsageError: no client has this name, or the client was revoked.
        StateError, AuditError: as `add_client`.
    """
    _change(repository, "client-revoked", {"client": name}, lambda c: c.with_revoked(name))


def set_lists(repository: Repository, name: str, lists: tuple[str, ...] | None) -> None:
    """Let a client fetch only these lists, or all lists.

    Raises:
        UsageError: no client has this name, the client was revoked, or a list does not exist.
        StateError, AuditError: as `add_client`.
    """
    _check_lists(repository, lists)
    data = {"client": name, "lists": "all" if lists is None else ", ".join(lists)}
    _change(repository, "client-lists", data, lambda c: c.with_lists(name, lists))


def note_key(repository: Repository, name: str, key: str) -> None:
    """Note the key that signs the feedback of a client.

    Raises:
        UsageError: no client has this name, the client was revoked, or the key is not allowed.
        StateError, AuditError: as `add_client`.
    """
    data = {"client": name, "key": key}
    _change(repository, "client-key", data, lambda c: c.with_key(name, key))


def _change(
    repository: Repository,
    event: str,
    data: dict[str, str],
    change: Callable[[Clients], tuple[Client, ...]],
) -> None:
    repository.require()
    with repository.changing():
        clients = Clients(repository.clients_file, repository.clock)
        changed = change(clients)
        repository.log.announce(event, lambda: data)
        clients.write(changed)


def _give(
    repository: Repository,
    event: str,
    name: str,
    output: Path | None,
    change: Callable[[Clients], tuple[str, tuple[Client, ...]]],
) -> Given:
    repository.require()
    with repository.changing():
        clients = Clients(repository.clients_file, repository.clock)
        token, changed = change(clients)
        (client,) = (client for client in changed if client.name == name)
        newest = client.tokens[-1]
        made = None if output is None else write_new(output, token.encode() + b"\n")
        try:
            data = {"client": name, "token": newest.id, "expires": for_programs(newest.expires)}
            repository.log.announce(event, lambda: data)
            clients.write(changed)
        except BaseException:
            # The rename may have been done already, so the token may be valid: its file stays.
            if output is not None and made is not None and not _may_count(clients, newest):
                with contextlib.suppress(OSError, UsageError):
                    remove_new(output, made)
            raise
        return Given(name, token, newest.expires)


def _check_lists(repository: Repository, lists: tuple[str, ...] | None) -> None:
    roles = repository.load()
    for name in lists or ():
        require_list(roles, name)


def _may_count(clients: Clients, token: Token) -> bool:
    try:
        return any(token in client.tokens for client in clients.all())
    except StateError:
        return True
