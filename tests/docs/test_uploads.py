"""The recipes for web applications run as they are written, on real servers."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, TIMEOUT_S, free_port, marked_blocks
from tests.kit import State, environment

pytestmark = [pytest.mark.docs, pytest.mark.slow]

PAGE = DOCS / "uploads.md"
LISTED = b"a file that is listed" * 5_000

SERVERS = {
    "asgi": ("uvicorn", "uploads:app", "--workers", "2", "--log-level", "error", "--port"),
    "wsgi": ("gunicorn", "uploads:application", "--workers", "2", "--threads", "8", "--bind"),
}


@pytest.fixture(scope="module", params=SERVERS)
def interface(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def state(interface: str, tmp_path_factory: pytest.TempPathFactory) -> State:
    """Return a separate state for each server, because uploads may have the same names."""
    return State(tmp_path_factory.mktemp(f"state-{interface}"), {"base": {"e-1": LISTED}})


@pytest.fixture(scope="module")
def served(
    interface: str, state: State, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """Return the port of a server with the recipe, and the session of its processes."""
    module, *words = SERVERS[interface]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"no {module}")
    folder = tmp_path_factory.mktemp(interface)
    (text,) = marked_blocks(PAGE, interface)
    (folder / "uploads.py").write_text(text.replace("/var/lib/hashclient", str(state.path)))
    port = free_port()
    where = str(port) if interface == "asgi" else f"127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", module, *words, where],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as server:
        try:
            _wait_for(server, port)
            yield port, server.pid
        finally:
            server.terminate()
            _, said = server.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in said


@pytest.fixture
def port(served: tuple[int, int]) -> int:
    return served[0]


def _wait_for(server: subprocess.Popen[str], port: int) -> None:
    while server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
    pytest.fail(f"the server has ended: {server.stderr and server.stderr.read()}")


def put(port: int, body: bytes | Iterable[bytes], **headers: str) -> int:
    """Send an upload, and return the status of the answer."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, TIMEOUT_S)) as to:
        is_chunked = not isinstance(body, bytes) and not headers
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        to.request("PUT", "/", body, names, encode_chunked=is_chunked)
        return to.getresponse().status


def test_an_upload_is_answered_by_its_verdict(state: State, port: int) -> None:
    assert put(port, b"clean") == put(port, b"") == 204
    assert put(port, LISTED) == 403
    assert put(port, iter([LISTED[:9], LISTED[9:]])) == 403  # the upload is sent in chunks
    assert {found["type"] for found in state.call("matches", "--format", "jsonl").lines} == {
        "match"
    }


def test_an_upload_that_breaks_off_is_neither_a_match_nor_clean(state: State, port: int) -> None:
    """The received bytes are listed content, but the announced upload is longer: no verdict."""
    before = state.call("matches", "--format", "jsonl").lines
    for head in (f"Content-Length: {len(LISTED) + 1}", "Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as client:
            size = f"{len(LISTED):x}\r\n".encode() if "chunked" in head else b""
            client.sendall(f"PUT / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n".encode() + size + LISTED)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                answer = b"".join(iter(functools.partial(client.recv, 4096), b""))
                assert not answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 403"))
    assert state.call("matches", "--format", "jsonl").lines == before
    assert put(port, b"clean") == 204


@pytest.mark.parametrize("mebibytes", [64, pytest.param(5 << 10, marks=pytest.mark.deep)])
def test_a_large_upload_needs_no_more_memory(served: tuple[int, int], mebibytes: int) -> None:
    port, session = served

    def chunks() -> Iterator[bytes]:
        for _ in range(mebibytes):
            yield bytes(1 << 20)

    assert put(port, b"clean") == 204
    before = _most_memory(session)
    assert put(port, chunks()) == 204
    assert _most_memory(session) - before < 48 << 20


def _most_memory(session: int) -> int:
    """Return the resident bytes of all processes of a session, each at its peak."""
    peaks = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if os.getsid(int(status.parent.name)) == session:
                (peak,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
                peaks += int(peak) << 10
    return peaks
