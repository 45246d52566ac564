"""The counters of a daemon over HTTP: one path serves them, and no request stops the parent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient import __version__
from hashclient.containers.unopened import NAMES
from hashclient.core.errors import StateError
from hashclient.daemon import metrics as module
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
    assert body == (render(counts).encode() if is_there else b"see /metrics\n")
    assert f"Content-Length: {len(body)}" in fields
    assert f"Content-Type: {CONTENT_TYPE}" in fields


def test_the_counts_of_all_processes_are_one_sum(counts: Counts) -> None:
    (line,) = (line for line in render(counts).splitlines() if '"match"' in line)
    assert float(line.split()[-1]) == 7


def test_each_counter_has_its_name(counts: Counts) -> None:
    row = counts.row(1)
    for count in Count:
        row.add(count, 1000 + count)
    row.timed(0.03)
    row.timed(9.0)
    row.add_not_opened({NAMES[0]: 5})
    lines = [line for line in render(counts).splitlines() if not line.startswith("#")]
    found = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    prefix = "hashclient_serve_"
    verdicts = ("clean", "match", "conflict", "unread", "no_verdict")
    names = {f'objects_total{{verdict="{word}"}}': n for n, word in enumerate(verdicts)}
    names['objects_total{verdict="excepted"}'] = 17
    totals = ("bytes", "connections", "", "refused", "idle", "broken", "too_long", "failures")
    names |= {f"{word}_total": n for n, word in enumerate(totals, 5) if word}
    names |= {"reloads_total": 13, "slow_total": 15, "crowded_total": 16, "open_connections": 7}
    for name, number in names.items():
        assert found.pop(prefix + name) == 1000 + number + 7 * (number == 1), name
    assert found.pop(f'{prefix}not_opened_total{{kind="{NAMES[0]}"}}') == 5
    assert found.pop(f'{prefix}info{{version="{__version__}"}}') == 1
    assert found.pop(f"{prefix}answer_seconds_sum") == 9.03
    assert found.pop(f"{prefix}answer_seconds_count") == 2
    buckets = {name.split('"')[1]: value for name, value in found.items()}
    assert [*buckets] == [
        *("0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5"),
        *("1", "2.5", "5", "10", "+Inf"),
    ]
    assert [*buckets.values()] == [0.0] * 5 + [1.0] * 7 + [2.0] * 2


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
    with pytest.raises(StateError) as refused:
        Exposition(exposition.address, counts)
    said = f"cannot listen at {exposition.address} for metrics: address already in use"
    assert refused.value.message == said


class Slow:
    """A socket whose client sends pieces, each some seconds after the one before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *pieces: tuple[float, bytes]) -> None:
        self.now, self.pieces = 100.0, list(pieces)
        self.limits: list[float] = []
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def settimeout(self, seconds: float) -> None:
        self.limits.append(round(seconds, 6))

    def recv(self, count: int) -> bytes:
        seconds, data = self.pieces.pop(0)
        self.now += min(seconds, self.limits[-1])
        if seconds > self.limits[-1]:
            raise TimeoutError
        return data[:count]


END = b"\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "read", "limits"),
    [
        ([(0.0, b"GET" + END)], b"GET" + END, [1.0]),
        ([(0.25, b"GET"), (0.5, b" /" + END)], b"GET /" + END, [1.0, 0.75]),
        ([(0.25, b"GET"), (0.75, b" /"), (0.0, b"x")], b"GET /", [1.0, 0.75]),
        ([(0.25, b"GET"), (0.8, b" /")], b"GET", [1.0, 0.75]),
        ([(0.0, b"GET"), (0.0, b"")], b"GET", [1.0, 1.0]),
        ([(0.0, b"x" * 4096)] * 9, b"x" * 16_384, [1.0] * 4),
    ],
)
def test_a_request_has_a_second_and_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[tuple[float, bytes]],
    read: bytes,
    limits: list[float],
) -> None:
    sock: Any = Slow(monkeypatch, *pieces)
    assert module._request(sock) == read
    assert sock.limits == [*limits, 1.0]  # the answer may take a second, too
