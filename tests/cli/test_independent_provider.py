"""A provider written from docs/format.md only, and the real client: the document suffices."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from fixtures.tls import Authority, server_context
from tests.independent import IndependentProvider, Writer, by_polars, by_pyarrow, row_of
from tests.kit import Run, call

TOKEN = "independent-7f3a9c"
WRITERS = [
    pytest.param(by_pyarrow, id="pyarrow"),
    pytest.param(
        by_polars,
        id="polars",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("polars") is None, reason="Polars is not installed"
        ),
    ),
]


class Files(http.server.SimpleHTTPRequestHandler):
    """A server of static files that requires a token."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Serve a file."""
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class World:
    """The provider behind HTTPS on loopback, the contents for its lists, and a client's state."""

    def __init__(self, directory: Path, writer: Writer) -> None:
        self.directory = directory
        self.provider = IndependentProvider(directory / "public", writer)
        self.share = directory / "share"
        self.share.mkdir()
        for number in range(8):
            (self.share / f"file-{number}").write_bytes(f"content {number}".encode())
        self.rows = [row_of(f"e-{n}", f"content {n}".encode()) for n in range(8)]
        self.authority = Authority(directory)
        handler = functools.partial(Files, directory=str(self.provider.public))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = server_context(self.authority.issue("server"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def call(self, *args: object) -> Run:
        """Run a command of the client."""
        return call("--state-dir", self.directory / "state", *args)

    def init(self) -> Run:
        """Pin the first root."""
        token = self.directory / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        url = f"https://127.0.0.1:{self.server.server_address[1]}"
        root = self.provider.metadata / "1.root.json"
        return self.call(
            *("init", url, "--root", root, "--ca", self.authority.ca, "--token-file", token)
        )

    def found(self) -> set[int]:
        """Publish and fetch the lists, and return the numbers of the contents that a scan finds."""
        self.provider.publish()
        fetched = self.call("fetch")
        assert (fetched.code, fetched.err) == (0, ""), fetched.err
        scanned = self.call("scan", "--format", "jsonl", self.share)
        assert scanned.code == 10, scanned.err  # a match was found, and no list has a problem
        return {int(p.rpartition("-")[2]) for p, k in scanned.outcomes.items() if k == "match"}


@pytest.fixture(params=WRITERS)
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, request.param)
    yield made
    made.close()


@pytest.mark.slow
def test_a_provider_written_from_the_document_works(world: World) -> None:
    provider, rows = world.provider, world.rows
    provider.add_list("baseline")
    provider.change("baseline", added=rows[:3])
    provider.publish()
    pinned = world.init()
    assert pinned.code == 0, pinned.err
    assert world.found() == {0, 1, 2}
    # The second list has another kind of key, entries that lack some digests, and a withdrawal.
    provider.add_list("other", CryptoSigner.generate_ecdsa())
    provider.change("other", added=[(*rows[3][:2], None, None, None, "x", None)])
    provider.change("baseline", ["e-1"], [(rows[4][0], None, None, *rows[4][3:])])
    assert world.found() == {0, 2, 3, 4}
    # An entry is changed by a withdrawal and an addition under its id in one generation.
    provider.change("baseline", ["e-0"], [("e-0", *rows[5][1:])])
    assert world.found() == {2, 3, 4, 5}
    provider.consolidate("baseline")
    assert world.found() == {2, 3, 4, 5}
    # All keys are replaced, and another generation follows.
    for role in ("root", "targets", "snapshot", "timestamp", "baseline", "other"):
        provider.rotate(role, CryptoSigner.generate_ecdsa())
    assert world.found() == {2, 3, 4, 5}
    provider.rotate("root", CryptoSigner.generate_rsa(size=3072))
    provider.change("baseline", added=[rows[6]])
    assert world.found() == {2, 3, 4, 5, 6}
    sent = datetime.now(UTC).replace(microsecond=0)
    provider.notify(
        {
            "format": "hashclient-notice/1",
            "id": "n-1",
            "sender": "lists@example.org",
            "sent": sent.isoformat(),
            "status": "Actual",
            "type": "Alert",
            "references": [],
            "language": "en",
            "event": "correction",
            "urgency": "Immediate",
            "severity": "Severe",
            "certainty": "Observed",
            "expires": (sent + timedelta(days=9)).isoformat(),
            "headline": "A headline of the independent provider",
            "description": "",
            "instruction": "",
            "contact": "",
            "lists": ["baseline"],
        }
    )
    provider.end("other")
    provider.publish()
    fetched = world.call("fetch", "--format", "json")
    assert fetched.code == 0, fetched.err
    assert "A headline of the independent provider" in world.call("notices").out
    assert world.found() == {2, 4, 5, 6}
    status = json.loads(world.call("status", "--format", "json").out)
    assert [(one["name"], one["entries"]) for one in status["lists"]] == [("baseline", 4)]
