"""The clients that may fetch lists, and the hashes of their bearer tokens.

A token is `hc1.<id>.<secret>`: the id selects the stored hashes, the secret is 256 random bits. A
fast hash of the token is safe, because 256 random bits cannot be guessed and the id acts as a salt.
The file of clients has two hashes of each token. `hashclient provider serve` compares the SHA-256
of the token. nginx compares the MD5 of the whole header, because nginx can compute no other hash
without extra modules (`serverconfig`). MD5 is safe for this purpose, because nobody can find an
input for a given MD5, although it is easy to make two inputs with the same MD5.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES

from hashclient.core.errors import StateError, UsageError
from hashclient.core.model import is_name
from hashclient.lists.feedback import KEY_PATTERN
from hashclient.provider.keys import Clock
from hashclient.system.files import MAX_STATE_BYTES, read_regular, state_error, write_atomic
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt, printable
from hashclient.trust.additions import NOTICES

FORMAT = "hashclient-clients/1"
MAX_CLIENTS = 10_000
_SECRET_BYTES = 32
_ID_BYTES = 8

TOKEN_PATTERN = r"hc1\.([0-9a-f]{16})\.[A-Za-z0-9_-]{43}"  # noqa: S105 - what tokens look like
_HEADER = re.compile(rb"Bearer " + TOKEN_PATTERN.encode())
_HEX = re.compile(r"[0-9a-f]+")
_OF_LIST = re.compile(
    r"/targets/lists/(?P<folder>[^/]+)/.*|/metadata/[0-9]+\.(?P<role>.+)\.json", re.ASCII
)


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record of a token: its id (16 hexadecimal digits), two hashes, and two times.

    `sha256` is the hash of the token, in hexadecimal; `header_md5` is the hash of `Bearer <token>`,
    in base64url.
    """

    id: str
    sha256: str
    header_md5: str
    made: datetime
    expires: datetime


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client and its tokens; it has two tokens while a new token replaces an old token.

    `feedback_key` is the public key that verifies the client's feedback, in hexadecimal. The client
    may fetch the `lists`, or all lists if `lists` is None.
    """

    name: str
    added: datetime
    tokens: tuple[Token, ...] = ()
    #: When the client was revoked; a revoked client has no tokens.
    revoked: datetime | None = None
    feedback_key: str | None = None
    lists: tuple[str, ...] | None = None

    def may(self, path: str) -> bool:
        """Return whether the client may read a path below the server's root."""
        return self.lists is None or (wanted := list_at(path)) is None or wanted in self.lists

    def expires(self) -> datetime | None:
        """Return the time until which the client may fetch."""
        return max((token.expires for token in self.tokens), default=None)

    def valid_tokens(self, now: datetime) -> tuple[Token, ...]:
        """Return the tokens that have not expired."""
        return tuple(token for token in self.tokens if token.expires > now)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    clients: tuple[Client, ...]


class Clients:
    """The clients of a repository. A writer locks the repository before reading the clients."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Store `path`, the path of the file of clients, which need not exist yet."""
        self._path = path
        self._clock = clock

    def all(self) -> tuple[Client, ...]:
        """Return all clients, sorted by name, including revoked clients.

        Raises:
            StateError: the file cannot be read, is damaged, or was written by a newer version of
                hashclient.
        """
        try:
            data = read_regular(self._path, MAX_STATE_BYTES)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise state_error("cannot read", self._path, error) from error
        return _parse(data, self._path)

    def with_added(
        self,
        name: str,
        valid: timedelta,
        lists: tuple[str, ...] | None = None,
        key: str | None = None,
    ) -> tuple[str, tuple[Client, ...]]:
        """Return a token for a new or a revoked client, and all clients including this client.

        The client may fetch the `lists`, or all lists if `lists` is None. `key` is only checked
        here: `with_key` stores it.

        Raises:
            UsageError: a client with this name exists, the name is not allowed, or `key` is not a
                key or is the key of another client.
            StateError: the file cannot be read.
        """
        if not is_name(name):
            raise UsageError(
                f"not a name for a client: {printable(name)}",
                hint="lower-case letters, digits, `.`, `_` and `-`, at most 64",
            )
        clients = {client.name: client for client in self.all()}
        if name in clients and clients[name].revoked is None:
            raise UsageError(
                f"there is a client of that name: {name}",
                hint="`hashclient provider client rotate` gives it a new token",
            )
        if len(clients) >= MAX_CLIENTS:
            raise UsageError(f"more than {MAX_CLIENTS:,} clients")
        if key is not None:
            _check_key(clients, name, key)
        text, token = self._new_token(valid)
        added = clients[name].added if name in clients else token.made
        key = clients[name].feedback_key if name in clients else None
        return text, _with(clients, Client(name, added, (token,), None, key, lists))

    def with_rotated(
        self, name: str, valid: timedelta, overlap: timedelta
    ) -> tuple[str, tuple[Client, ...]]:
        """Return a new token for a client, and all clients; old tokens expire after `overlap`.

        Raises:
            UsageError: no client has this name, or the client was revoked.
            StateError: see `with_added`.
        """
        clients = {client.name: client for client in self.all()}
        client = _existing(clients, name)
        text, token = self._new_token(valid)
        end = token.made + overlap
        before = [
            msgspec.structs.replace(old, expires=min(old.expires, end))
            for old in client.valid_tokens(token.made)
            if end > token.made
        ]
        changed = msgspec.structs.replace(client, tokens=(*before, token))
        return text, _with(clients, changed)

    def with_revoked(self, name: str) -> tuple[Client, ...]:
        """Return all clients, after revoking the client `name` and removing its tokens.

        The caller stores the clients with `write`.

        Raises:
            UsageError: no client has this name, or the client was revoked.
            StateError: see `with_added`.
        """
        clients = {client.name: client for client in self.all()}
        client = _existing(clients, name)
        now = self._clock().replace(microsecond=0)
        changed = msgspec.structs.replace(client, tokens=(), revoked=now)
        return _with(clients, changed)

    def with_lists(self, name: str, lists: tuple[str, ...] | None) -> tuple[Client, ...]:
        """Return all clients, after allowing the client `name` the `lists`, or all lists.

        The caller stores the clients with `write`.

        Raises:
            UsageError: no client has this name, or the client was revoked.
            StateError: see `with_added`.
        """
        clients = {client.name: client for client in self.all()}
        return _with(clients, msgspec.structs.replace(_existing(clients, name), lists=lists))

    def with_key(self, name: str, key: str) -> tuple[Client, ...]:
        """Return all clients, after setting `key` as the `feedback_key` of the client `name`.

        The caller stores the clients with `write`.

        Raises:
            UsageError: no client has this name, the client was revoked, `key` is not a key, or
                `key` is the key of another client.
            StateError: see `with_added`.
        """
        clients = {client.name: client for client in self.all()}
        client = _existing(clients, name)
        _check_key(clients, name, key)
        return _with(clients, msgspec.structs.replace(client, feedback_key=key))

    def _new_token(self, valid: timedelta) -> tuple[str, Token]:
        now = self._clock().replace(microsecond=0)
        token_id = secrets.token_hex(_ID_BYTES)
        text = f"hc1.{token_id}.{secrets.token_urlsafe(_SECRET_BYTES)}"
        md5 = hashlib.md5(f"Bearer {text}".encode(), usedforsecurity=False).digest()
        return text, Token(
            token_id,
            hashlib.sha256(text.encode()).hexdigest(),
            base64.urlsafe_b64encode(md5).decode().rstrip("="),
            now,
            now + valid,
        )

    def write(self, clients: tuple[Client, ...]) -> None:
        """Replace all recorded clients by `clients`.

        Raises:
            StateError: the file cannot be written.
        """
        data = msgspec.json.format(msgspec.json.encode(_File(FORMAT, clients)), indent=1) + b"\n"
        write_atomic(self._path, data)


class Doorkeeper:
    """Finds the client that sent a request; reads the file of clients again after a change."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Store `path`, the path of the file of clients; the first request reads the file."""
        self._path = path
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._tokens: dict[str, tuple[Client, Token]] = {}

    def who(self, header: bytes) -> Client | None:
        """Return the client whose token is in `header`; None if no valid token is in `header`.

        Raises:
            StateError: the file of clients cannot be read; the server then refuses the request.
        """
        found = _HEADER.fullmatch(header)
        if found is None:
            return None
        self._refresh()
        client, token = self._tokens.get(found[1].decode(), (None, None))
        digest = hashlib.sha256(header.removeprefix(b"Bearer ")).hexdigest()
        if token is None or not hmac.compare_digest(digest, token.sha256):
            return None
        return client if token.expires > self._clock() else None

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            now = (status.st_ino, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            self._seen, self._tokens = None, {}
            return
        except OSError as error:
            raise state_error("cannot read", self._path, error) from error
        if now != self._seen:
            clients = Clients(self._path, self._clock).all()
            self._tokens = {t.id: (c, t) for c in clients for t in c.tokens}
            self._seen = now


def list_at(path: str) -> str | None:
    """Return the list whose file is at `path` on the server; None for a file for all clients."""
    found = _OF_LIST.fullmatch(path)
    name = found and (found["folder"] or found["role"])
    return None if name in (*TOP_LEVEL_ROLE_NAMES, NOTICES) else name


def _with(clients: dict[str, Client], changed: Client) -> tuple[Client, ...]:
    together = {**clients, changed.name: changed}
    return tuple(together[name] for name in sorted(together))


def _check_key(clients: dict[str, Client], name: str, key: str) -> None:
    """Refuse a text that is not a public key, or is the key of a client other than `name`."""
    if not KEY_PATTERN.fullmatch(key):
        raise UsageError(
            "not a public key: 64 hexadecimal digits are expected",
            hint="`hashclient audit verify` shows it, on the client",
        )
    for other in clients.values():
        if other.feedback_key == key and other.name != name:
            raise UsageError(f"client {other.name} has this key")


def _existing(clients: dict[str, Client], name: str) -> Client:
    if name not in clients:
        raise UsageError(
            f"no such client: {printable(name)}",
            hint="`hashclient provider client list` shows all",
        )
    if clients[name].revoked is not None:
        raise UsageError(
            f"the client was revoked: {name}",
            hint="`hashclient provider client add` lets it in again",
        )
    return clients[name]


def _parse(data: bytes, path: Path) -> tuple[Client, ...]:
    """Read the file of clients.

    Raises:
        StateError: the file is damaged, or was written by a newer version of hashclient.
    """
    try:
        document = parse_json(data)
        version = document.get("format") if isinstance(document, dict) else None
        if isinstance(version, str) and version != FORMAT:
            raise StateError(
                f"format of {printable(path)}: {excerpt(version)}, this one reads {FORMAT}",
                hint="a newer hashclient has written the file; use that version",
            )
        clients = msgspec.convert(document, _File).clients
    except ValueError as error:  # msgspec.ValidationError is a ValueError
        raise _damaged(path) from error
    tokens = [token for client in clients for token in client.tokens]
    times = [t for token in tokens for t in (token.made, token.expires)]
    times += [t for c in clients for t in (c.added, c.revoked) if t is not None]
    keys = [c.feedback_key for c in clients if c.feedback_key is not None]
    well_formed = (
        all(is_name(client.name) and all(map(is_name, client.lists or ())) for client in clients)
        and len({client.name for client in clients}) == len(clients)
        and len({token.id for token in tokens}) == len(tokens)
        and all(len(t.id) == 2 * _ID_BYTES and _HEX.fullmatch(t.id) for t in tokens)
        and all(len(t.sha256) == 64 and _HEX.fullmatch(t.sha256) for t in tokens)
        and all(re.fullmatch(r"[A-Za-z0-9_-]{22}", t.header_md5) for t in tokens)
        and all(time.tzinfo is not None for time in times)
        and all(map(KEY_PATTERN.fullmatch, keys))
        and len(set(keys)) == len(keys)
        and not any(client.tokens for client in clients if client.revoked is not None)
    )
    if not well_formed:
        raise _damaged(path)
    return clients


def _damaged(path: Path) -> StateError:
    return StateError(
        f"damaged: {printable(path)}",
        hint="restore the file from a copy; without this file there are no clients",
    )
