"""The counters of a daemon over HTTP: one path serves them, and no request stops the parent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from hashclient.containers.unopened import NAMES
from hashclient.core.errors import StateError
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.metrics import MAX_REQUEST_BYTES, Exposition, render
from hashclient.daemon.options import TcpAddress
from hashclient.system.exposition import CONTENT_TYPE


@pytest.fixture
def counts() -> Counts:
    made = Counts(2)
    made.row(0).add(Count.MATCH, 3)
    made.row(1).add(Count.MATCH, 4)
    return made


@pytest.fixture(params=["127.0.0.1", "::1"])
def exposition(request: pytest.FixtureRequest, counts: Counts) -> Iterator[Exposition]:
    if ":" in request.param and not socket.has_ipv6:
        pytest.skip("no IPv6")
    with Exposition(TcpAddress(request.param, 0), counts) as made:
        yield made


def ask(exposition: Exposition, *pieces: bytes) -> bytes:
    """Yield the pieces of the answer to a request until the server has sent the last piece."""
    address = exposition.address
    found = bytearray()
    with socket.create_connection((address.host, address.port), 10) as client:

        def send() -> None:
            # The server may close the connection before it has read everything.
            with contextlib.suppress(OSError):
                for piece in pieces:
                    client.sendall(piece)
                client.shutdown(socket.SHUT_WR)
                while part := client.recv(4096):
                    found.extend(part)

        thread = threading.Thread(target=send)
        thread.start()
        exposition.answer()
        thread.join()
    return bytes(found)


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        *((b"/metrics", True), (b"/metrics?name=x", True)),
        *((b"/", False), (b"/metrics/", False), (b"/?/metrics", False)),
    ],
)
def test_one_path_has_the_counts(
    exposition: Exposition, counts: Counts, path: bytes, is_there: bool
) -> None:
    head, _, body = ask(exposition, b"GET " + path + b" HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    assert status.split()[1] == ("200" if is_there else "404")
    assert (body == render(counts).encode()) == is_there
    assert f"Content-Length: {len(body)}" in fields
    assert f"Content-Type: {CONTENT_TYPE}" in fields


def test_the_counts_of_all_processes_are_one_sum(counts: Counts) -> None:
    (line,) = (line for line in render(counts).splitlines() if '"match"' in line)
    assert float(line.split()[-1]) == 7


def test_files_of_kinds_that_are_not_opened_are_counted_by_kind(counts: Counts) -> None:
    each = {name: number for number, name in enumerate(NAMES, 1)}
    assert counts.not_opened() == {}
    for number in (0, 1):
        counts.row(number).add_not_opened(each)
    assert counts.not_opened() == {name: 2 * number for name, number in each.items()}
    assert counts.total(Count.MATCH) == 7


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"nonsense\r\n\r\n"],
        [b"GET /metrics HTTP/1.1\r\n"],
        [b"GET /" + b"x" * (2 * MAX_REQUEST_BYTES)],
    ],
)
def test_a_request_that_is_none_is_over_and_the_next_one_is_answered(
    exposition: Exposition, pieces: list[bytes]
) -> None:
    answer = ask(exposition, *pieces)
    assert b"hashclient" not in answer or pieces[0].startswith(b"GET /metrics")
    assert b" 200 " in ask(exposition, b"GET /metrics ", b"HTTP/1.1\r\n", b"\r\n")


def test_a_port_in_use_is_an_error_of_ours(exposition: Exposition, counts: Counts) -> None:
    with pytest.raises(StateError):
        Exposition(exposition.address, counts)
