"""OAuth: tokens are fetched and renewed, and sent to nobody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from fixtures import hostile
from fixtures.hostile import HostileServer, Request, reply
from fixtures.tls import Authority, server_context
from hashclient.core.errors import (
    AuthorisationError,
    HashclientError,
    VerificationError,
)
from hashclient.net.client import (
    HttpStatusError,
    OAuth,
    RefusedError,
    Transport,
)
from tests.transports import SECRET, SecretFile, complete_text, opened


def token(value: str, **extra: object) -> hostile.Behaviour:
    return reply(json.dumps({"access_token": value, "token_type": "Bearer", **extra}).encode())


def granting(
    server: HostileServer, secret_file: SecretFile, token_server: HostileServer, **settings: Any
) -> Transport:
    oauth = OAuth(
        f"{token_server.origin}/token",
        "client:1",
        client_secret_file=secret_file(f"{SECRET}+/\n"),
        scope="lists read",
    )
    return opened(server.origin, oauth=oauth, **settings)


def only_for(value: str, body: bytes = b"hello") -> hostile.Behaviour:
    """Answer 401 to any other client."""

    def behave(connection: hostile.Connection, request: Request) -> bool:
        right = request.header("authorization") == f"Bearer {value}"
        return reply(body if right else b"", status=200 if right else 401)(connection, request)

    return behave


@pytest.fixture
def token_server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


def test_a_token_is_fetched_once_and_the_secret_goes_to_its_endpoint_alone(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    token_server.on("/token", token("first"))
    server.on("/x", only_for("first"))
    with granting(server, secret_file, token_server) as transport:
        for _ in range(3):
            assert transport.get(f"{server.origin}/x", 10) == b"hello"
    [asked] = token_server.requests
    assert asked.method == "POST"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["lists read"],
    }
    assert asked.header("content-type") == "application/x-www-form-urlencoded"
    kind, _, encoded = str(asked.header("authorization")).partition(" ")
    assert kind == "Basic"
    assert base64.b64decode(encoded).decode() == f"client%3A1:{SECRET}%2B%2F"
    assert all(r.header("authorization") == "Bearer first" for r in server.requests)


def test_a_token_refused_with_401_is_renewed_once(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    token_server.on("/token", token("first"), token("second"), token("third"))
    server.on("/x", only_for("first"), only_for("second"), only_for("second"), only_for("none"))
    with granting(server, secret_file, token_server) as transport:
        assert transport.get(f"{server.origin}/x", 10) == b"hello"
        assert transport.get(f"{server.origin}/x", 10) == b"hello"
        assert len(token_server.requests) == 2
        with pytest.raises(RefusedError) as caught:
            transport.get(f"{server.origin}/x", 10)
    assert caught.value.status == 401
    assert len(token_server.requests) == 3
    for text in ("first", "second", "third", SECRET):
        assert text not in complete_text(caught.value)


def test_a_403_renews_no_token(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    token_server.on("/token", token("first"))
    server.on("/x", reply(status=403))
    with granting(server, secret_file, token_server) as transport, pytest.raises(RefusedError):
        transport.get(f"{server.origin}/x", 10)
    assert len(token_server.requests) == 1


def test_a_token_is_renewed_before_it_expires(
    server: HostileServer, token_server: HostileServer, secret_file: SecretFile
) -> None:
    clock = [1000.0]
    token_server.on("/token", token("first", expires_in="3600"), token("second", expires_in=60))
    server.on("/x", only_for("first"), only_for("first"), only_for("second"))
    with granting(server, secret_file, token_server, monotonic=lambda: clock[0]) as transport:
        for later in (0, 3569, 3570):
            clock[0] = 1000.0 + later
            assert transport.get(f"{server.origin}/x", 10) == b"hello"
    assert len(token_server.requests) == 2
    # A token is not sent in the last half minute of its life, so none was refused.
    sent = [request.header("authorization") for request in server.requests]
    assert sent == ["Bearer first", "Bearer first", "Bearer second"]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(status=400), RefusedError),
        (reply(status=401), RefusedError),
        (reply(status=404), HttpStatusError),
        (reply(status=503), HttpStatusError),
        (reply(status=302, headers=[("Location", "https://x.invalid/")]), HttpStatusError),
        (reply(b"not json"), AuthorisationError),
        (reply(b"{}"), AuthorisationError),
        (reply(b"[" * 60000), AuthorisationError),
        (reply(b"\xff"), AuthorisationError),
        (reply(b"x" * 70_000), VerificationError),
        (token(f"{SECRET}\r\nX: 1"), AuthorisationError),
        (token(SECRET, token_type="mac"), AuthorisationError),
        (token(SECRET, expires_in="never"), AuthorisationError),
    ],
    ids=[
        "invalid client",
        "refused",
        "no endpoint",
        "busy",
        "redirect",
        "not json",
        "no token",
        "deep nesting",
        "not utf-8",
        "too long",
        "header injection",
        "other type",
        "bad expiry",
    ],
)
def test_a_token_endpoint_without_a_token_is_reported(
    server: HostileServer,
    token_server: HostileServer,
    secret_file: SecretFile,
    answer: hostile.Behaviour,
    error: type[HashclientError],
) -> None:
    token_server.on("/token", answer)
    with granting(server, secret_file, token_server) as transport, pytest.raises(error) as caught:
        transport.get(f"{server.origin}/x", 10)
    assert SECRET not in complete_text(caught.value)
    assert server.connections == 0


def test_the_client_certificate_is_not_shown_to_the_token_endpoint(
    authority: Authority, secret_file: SecretFile
) -> None:
    strict = server_context(authority.issue("strict"), client_ca=authority.ca)
    client = authority.issue("client")
    with HostileServer(strict) as server:
        oauth = OAuth(f"{server.origin}/token", "id", client_secret_file=secret_file(SECRET))
        files = {"client_cert": client.cert, "client_key": client.key}
        with (
            opened(server.origin, oauth=oauth, ca=authority.ca, **files) as transport,
            pytest.raises(AuthorisationError, match="requires a client certificate"),
        ):
            transport.get(f"{server.origin}/x", 10)
        assert server.requests == []
