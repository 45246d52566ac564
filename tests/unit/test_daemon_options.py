"""The addresses of a daemon and their limits, and how many bytes its processes keep in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hashclient.core.errors import UsageError
from hashclient.daemon.options import (
    NoVerdict,
    Paths,
    TcpAddress,
    UnixAddress,
    kept_bytes,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        *(("127.0.0.1:3310", "127.0.0.1", 3310), ("[::1]:0", "::1", 0), ("a:65535", "a", 65_535)),
        *(("localhost:00001", "localhost", 1), ("[::ffff:1.2.3.4]:5", "::ffff:1.2.3.4", 5)),
    ],
)
def test_a_port_at_an_address(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == TcpAddress(host, port)
    assert str(address) == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a:", ":1", "a:65536", "a:100000", "a:-1", "a:+1", "::1:3", "[::1]", "[::1]3"),
        *("[]:1", "[x::1]:1", "a:b", "unix:", "unix", "a:1 ", "a:1\n", "a:1:2"),
        *("\u00e9..x:1", "\udcff:1", "unix:/a\0b"),
    ],
)
def test_another_text_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="not an address to listen at: ") as refused:
        parse_address(text)
    assert refused.value.hint == "unix:PATH, or HOST:PORT, such as 127.0.0.1:3310"


def path_of(length: int, name: int, letter: str = "x") -> str:
    """Return a path with `count` bytes, of which some belong to its last name."""
    rest = length - name - 2
    return "/" + "d" * rest + "/" + letter * (name // len(letter.encode()))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *(("/run/s", True), ("s", True), ("/run/a b", True), ("unix:s", True)),
        *((path_of(107, 20), True), (path_of(108, 20), False)),
        *((path_of(100, 80), True), (path_of(100, 81), False)),
        *((path_of(107, 20, "\u00e4"), True), (path_of(100, 82, "\u00e4"), False)),
    ],
)
def test_a_socket_has_a_path_that_the_system_can_bind(path: str, allowed: bool) -> None:
    if allowed:
        address = parse_address(f"unix:{path}")
        assert address == UnixAddress(Path(path))
        assert str(address) == f"unix:{path}"
        return
    with pytest.raises(UsageError) as refused:
        parse_address(f"unix:{path}")
    assert refused.value.message == f"path of a socket is too long: {path}"
    assert refused.value.hint == "the system allows 107 bytes, and 80 of them for the name"


def test_words_of_options_are_those_of_the_command_line() -> None:
    assert (" ".join(NoVerdict), " ".join(Paths)) == ("found error ok", "own any")


@pytest.mark.parametrize(
    ("jobs", "mib"), [(1, 32), (2, 16), (7, 32 / 7), (8, 4), (9, 4), (1_000, 4)]
)
def test_all_processes_keep_32_mib_and_each_at_least_four(jobs: int, mib: float) -> None:
    assert kept_bytes(jobs) == int(mib * (1 << 20))
