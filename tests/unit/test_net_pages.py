"""The page of an HTTP error: read to its end if that is near, and never shown."""

from __future__ import annotations

import pytest

from fixtures import hostile
from fixtures.hostile import Behaviour, HostileServer, head, reply
from hashclient.core.errors import AuthorisationError, HashclientError, UnreachableError
from hashclient.net import exchange
from hashclient.net.client import HttpStatusError, RefusedError
from tests.transports import complete_text, opened

PAGE = b"<html>not here</html>"
CHUNKED = ("Transfer-Encoding", "chunked")


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 410])
def test_a_connection_outlives_a_refusal(server: HostileServer, status: int) -> None:
    server.on("/x", reply(PAGE, status=status))
    server.on("/y", reply(b"body"))
    with opened(server.origin) as transport:
        for _ in range(3):
            with pytest.raises(HashclientError) as caught:
                transport.get(f"{server.origin}/x", 100)
            assert f": {status} " in caught.value.message
            assert "not here" not in complete_text(caught.value)
        assert transport.get(f"{server.origin}/y", 4) == b"body"
    assert server.connections == 1


def test_a_connection_outlives_a_busy_server(server: HostileServer) -> None:
    server.on("/x", reply(PAGE, status=503), reply(PAGE, status=429), reply(b"body"))
    with opened(server.origin) as transport:
        assert transport.get(f"{server.origin}/x", 4) == b"body"
    assert server.connections == 1


ENDLESS = b"%x\r\n%b\r\n" % (1 << 12, b"x" * (1 << 12))
BAD_PAGES: dict[str, Behaviour] = {
    "that never ends": hostile.endless(head(404, [CHUNKED]), ENDLESS),
    "that is announced as huge": hostile.endless(
        head(404, [("Content-Length", "9" * 12)]), b"x" * 4096
    ),
    "that does not come": hostile.then_stall(head(404, [("Content-Length", "9")])),
    "that drips": hostile.dripped(head(404, [CHUNKED])),
    "that breaks off": hostile.raw(head(404, [("Content-Length", "9")]), b"x"),
    "that is reset": hostile.reset_after(head(404, [("Content-Length", "9")]), b"x"),
    "that breaks HTTP": hostile.raw(head(404, [CHUNKED]), b"zz\r\n"),
    "of two framings": hostile.raw(
        head(404, [CHUNKED, ("Content-Length", "5")]), b"0\r\n\r\n" + head(200)
    ),
    "that nobody announced": hostile.raw(head(404), PAGE),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", BAD_PAGES)
def test_a_page_changes_nothing_of_what_a_status_says(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(exchange, "PAGE_S", 0.1)
    server.on("/x", BAD_PAGES[name])
    server.on("/y", reply(b"body"))
    with opened(server.origin) as transport:
        with pytest.raises(HttpStatusError) as caught:
            transport.get(f"{server.origin}/x", 100)
        assert caught.value.status == 404
        assert transport.get(f"{server.origin}/y", 4) == b"body"
    # The old connection may still deliver bytes of the page, so a new connection is used.
    assert server.connections == 2


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("No required SSL certificate was sent", "requires a client certificate"),
        ("The SSL certificate error", "refuses the client certificate"),
    ],
)
def test_the_page_of_nginx_separates_a_certificate_from_a_bad_request(
    server: HostileServer, page: str, message: str
) -> None:
    body = (
        f"<html>\r\n<head><title>400 {page}</title></head>\r\n<body>\r\n"
        f"<center><h1>400 Bad Request</h1></center>\r\n<center>{page}</center>\r\n"
    )
    server.on("/x", reply(body.encode(), status=400))
    with opened(server.origin) as transport, pytest.raises(RefusedError) as caught:
        transport.get(f"{server.origin}/x", 100)
    assert isinstance(caught.value, AuthorisationError)
    assert caught.value.message == f"the provider {message}: {server.origin}/x: 400 bad request"
    assert "client_cert" in (caught.value.hint or "")


def test_another_bad_request_says_what_it_may_be(server: HostileServer) -> None:
    server.on("/x", reply(b"the SSL is fine", status=400))
    with opened(server.origin) as transport, pytest.raises(HttpStatusError) as caught:
        transport.get(f"{server.origin}/x", 100)
    assert isinstance(caught.value, UnreachableError)
    assert "a client certificate that is missing or not accepted" in (caught.value.hint or "")
