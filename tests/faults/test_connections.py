"""The number of connections of a fetch, counted at a real server: each costs a TLS handshake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.hostile import Behaviour, Connection, Request, head, reply
from fixtures.tls import Authority
from tests.hostile_site import TOKEN, HostileSite


@pytest.fixture
def site(tmp_path: Path) -> Iterator[HostileSite]:
    with HostileSite(tmp_path, Authority(tmp_path)) as site:
        token = site.secret_file(TOKEN)
        assert site.run(*site.init_arguments("--token-file", token)).code == 0
        assert site.run("fetch").code == 0
        yield site


def chunked(body: bytes) -> Behaviour:
    """Answer 404 with a body whose length is not announced."""

    def behave(connection: Connection, _request: Request) -> bool:
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        connection.send(head(404, [("Transfer-Encoding", "chunked")]) + chunk)
        return True

    return behave


PAGE = b"<html>" + b"not here " * 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [reply(status=404), reply(PAGE, status=404), chunked(PAGE), reply(PAGE, status=403)],
    ids=["404 without a body", "404 with a page", "404 in chunks", "403 with a page"],
)
def test_a_fetch_with_nothing_new_takes_one_connection(
    site: HostileSite, answer: Behaviour
) -> None:
    site.server.on("/metadata/2.root.json", answer)
    before, asked = site.server.connections, len(site.server.requests)
    assert site.run("fetch").code == 0
    targets = [request.target for request in site.server.requests[asked:]]
    assert targets == ["/metadata/2.root.json", "/metadata/timestamp.json"]
    assert site.server.connections - before == 1
