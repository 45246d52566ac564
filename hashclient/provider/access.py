"""Adds, changes and revokes clients, while the repository is locked.

Each change is recorded in the log of the repository before the change takes effect. A new token is
written to its file before its hash is stored in the repository: if the command is killed between
these two writes, the server does not accept the token.
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
    """A new token of a client; the token is a secret."""

    client: str
    token: str
    expires: datetime


def all_clients(repository: Repository) -> tuple[Client, ...]:
    """Return all clients of the repository, including revoked clients.

    Raises:
        StateError: the repository does not exist, or the file of clients cannot be read.
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
    """Add a client; write the token of the client into the new file `output`, if given.

    The client may fetch the `lists`; if `lists` is None, the client may fetch all present and later
    lists. `key` is the public key that verifies the client's feedback.

    Raises:
        UsageError: a client with this name exists, the name or the key is not allowed, a list does
            not exist, or `output` exists.
        StateError: the repository does not exist, or a file cannot be read or written.
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
    """Make a new token for a client, as `add_client` does; older tokens expire after `overlap`.

    Raises:
        UsageError: no client has this name, the client was revoked, or `output` exists.
        StateError, AuditError: see `add_client`.
    """
    return _give(
        repository, "client-rotated", name, output, lambda c: c.with_rotated(name, valid, overlap)
    )


def revoke_client(repository: Repository, name: str) -> None:
    """Revoke a client: the server refuses all requests of the client from now on.

    Raises:
        UsageError: no client has this name, or the client was revoked.
        StateError, AuditError: see `add_client`.
    """
    _change(repository, "client-revoked", {"client": name}, lambda c: c.with_revoked(name))


def set_lists(repository: Repository, name: str, lists: tuple[str, ...] | None) -> None:
    """Let a client fetch only the `lists`, or all lists if `lists` is None.

    Raises:
        UsageError: no client has this name, the client was revoked, or a list does not exist.
        StateError, AuditError: see `add_client`.
    """
    _check_lists(repository, lists)
    data = {"client": name, "lists": "all" if lists is None else ", ".join(lists)}
    _change(repository, "client-lists", data, lambda c: c.with_lists(name, lists))


def note_key(repository: Repository, name: str, key: str) -> None:
    """Store the public key that verifies the feedback of a client.

    Raises:
        UsageError: no client has this name, the client was revoked, or the key is not allowed.
        StateError, AuditError: see `add_client`.
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
            # The file of clients may have been replaced already, so the new token may be valid. The
            # file of a valid token is kept.
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
