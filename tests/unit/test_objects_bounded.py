"""Answers to botocore that last or grow without end, from a server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from threading import Thread

import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError

from hashclient.objects import bounded
from hashclient.objects.bounded import BoundedSession

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

Serve = Callable[[bytes, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server: it sends some bytes and repeats others for ever."""
    with ExitStack() as stack:

        def start(first: bytes, again: bytes) -> str:
            server = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))

            def answer() -> None:
                with suppress(OSError), closing(server.accept()[0]) as connection:
                    connection.recv(1 << 16)
                    connection.sendall(first)
                    while again:
                        connection.sendall(again)

            thread = Thread(target=answer)
            thread.start()
            stack.callback(thread.join)
            return f"http://127.0.0.1:{server.getsockname()[1]}/"

        yield start


def ask(url: str, *, streams: bool = False) -> bytes:
    """Return the body of an answer as botocore reads it."""
    session, request = BoundedSession(), AWSRequest("GET", url, stream_output=streams).prepare()
    with closing(session), closing((answer := session.send(request)).raw):
        if not streams:
            return bytes(answer.content)
        return b"".join(iter(lambda: answer.raw.read(3), b""))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    "answer", [HEAD + b"Content-Length: 5\r\n\r\nabcde", CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n"]
)
def test_a_body_arrives_whole(serve: Serve, answer: bytes, streams: bool) -> None:
    assert ask(serve(answer, b""), streams=streams) == b"abcde"


@pytest.mark.parametrize("streams", [False, True])
def test_a_body_that_goes_on_for_ever_is_left_after_the_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    monkeypatch.setattr(bounded, "TIMEOUT_S", 0.05)
    with pytest.raises(ReadTimeoutError):
        ask(serve(CHUNKED, b"1\r\na\r\n"), streams=streams)


def test_an_answer_that_is_kept_has_a_bound(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_ANSWER_BYTES", 5)
    assert ask(serve(HEAD + b"\r\nabcde", b"")) == b"abcde"
    with pytest.raises(HTTPClientError, match="too long"):
        ask(serve(HEAD + b"\r\n", b"x" * 6))


@pytest.mark.parametrize("streams", [False, True])
def test_a_body_that_ends_early_is_a_broken_connection(serve: Serve, streams: bool) -> None:
    with pytest.raises(ConnectionClosedError):
        ask(serve(CHUNKED + b"5\r\nab", b""), streams=streams)
