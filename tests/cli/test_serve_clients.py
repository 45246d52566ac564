"""Programs for clamd work with this daemon; a program that is not installed is skipped."""

from __future__ import annotations

import asyncio
import io
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.archives import STORED, Zip, zip_of
from fixtures.mails import mail_of
from tests.clamd import Daemon, everything, instream, serving
from tests.kit import csv_of, edit_manifest, make_state, write_tree

LISTED = b"listed one"
CLAMDSCAN = shutil.which("clamdscan")
FOUND, CLEAN, ERROR = 1, 0, 2

needs_clamdscan = pytest.mark.skipif(CLAMDSCAN is None, reason="there is no clamdscan")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_state(tmp_path_factory.mktemp("site"), {"base": csv_of({"e-1": LISTED})})


@pytest.fixture(scope="module")
def daemon(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(state, tmp_path_factory.mktemp("run")) as daemon:
        yield daemon


def clamdscan(directory: Path, configuration: str, *words: object) -> tuple[int, str]:
    """Run clamdscan, and return its exit code and its output."""
    (directory / "clamd.conf").write_text(configuration)
    command = [CLAMDSCAN, "--config-file", directory / "clamd.conf", "--no-summary", *words]
    result = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True, timeout=60
    )
    return result.returncode, result.stdout


MODES = [
    [],
    ["--fdpass"],
    ["--stream"],
    ["--multiscan"],
    ["--allmatch"],
    ["--multiscan", "--fdpass"],
]


@needs_clamdscan
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(mode) or "contscan")
def test_clamdscan(daemon: Daemon, tmp_path: Path, mode: list[str]) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"benign", "b": LISTED, "c": b""})
    configuration = f"LocalSocket {daemon.unix}\n"
    code, out = clamdscan(tmp_path, configuration, *mode, tree / "a", tree / "c")
    assert code == CLEAN
    code, out = clamdscan(tmp_path, configuration, *mode, tree / "a", tree / "b")
    assert (code, f"{tree / 'b'}: Hashclient.base.e-1 FOUND" in out) == (FOUND, True)
    assert f"{tree / 'a'}: OK" in out


@needs_clamdscan
def test_clamdscan_over_tcp(daemon: Daemon, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"b": LISTED})
    host, port = daemon.tcp
    configuration = f"TCPAddr {host}\nTCPSocket {port}\n"
    code, out = clamdscan(tmp_path, configuration, "--stream", tree / "b")
    assert (code, "Hashclient.base.e-1 FOUND" in out) == (FOUND, True)


@pytest.mark.slow
@needs_clamdscan
def test_clamdscan_never_takes_for_clean_what_is_not_known(state: Path, tmp_path: Path) -> None:
    stale = shutil.copytree(state, tmp_path / "state")
    edit_manifest(stale, "base", expires="2020-01-01T00:00:00Z")
    path = write_tree(tmp_path / "t", {"a": b"benign"}) / "a"
    with serving(stale, tmp_path / "found") as daemon:
        code, out = clamdscan(tmp_path, f"LocalSocket {daemon.unix}\n", "--stream", path)
        assert (code, "Hashclient.Stale FOUND" in out) == (FOUND, True)
    with serving(stale, tmp_path / "error", "--no-verdict", "error") as daemon:
        code, out = clamdscan(tmp_path, f"LocalSocket {daemon.unix}\n", "--stream", path)
        assert code != CLEAN
        assert "OK" not in out
    assert clamdscan(tmp_path, f"LocalSocket {daemon.unix}\n", "--stream", path)[0] == ERROR


NAME = "Hashclient.base.e-1"
NO_VERDICT = "Heuristics.Limits.Exceeded.Hashclient."
LONG = bytes(3 << 20)
STREAMS = {
    "clean": (b"benign", ("OK", None)),
    "match": (LISTED, ("FOUND", NAME)),
    "archive": (zip_of({"x": LISTED}), ("FOUND", NAME)),
    "mail": (bytes(mail_of({"x": LISTED})), ("FOUND", NAME)),
    "unread": (
        Zip().add(b"secret", b"cannot be read", STORED, flags=1).end(),
        ("FOUND", f"{NO_VERDICT}Unread"),
    ),
    "long": (LONG, ("FOUND", f"{NO_VERDICT}Length")),
}


@pytest.fixture(scope="module")
def narrow(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a low limit for streams; it answers ERROR for content without a verdict."""
    options = ("--max-stream-mib", 1, "--no-verdict", "error")
    with serving(state, tmp_path_factory.mktemp("run"), *options) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def short(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a low limit for streams."""
    directory = tmp_path_factory.mktemp("run")
    with serving(state, directory, "--max-stream-mib", 1) as daemon:
        yield daemon


@pytest.mark.sampled
@pytest.mark.parametrize("what", STREAMS)
def test_clamd_of_python(short: Daemon, what: str) -> None:
    clamd = pytest.importorskip("clamd")
    data, said = STREAMS[what]
    for client in (clamd.ClamdUnixSocket(short.unix), clamd.ClamdNetworkSocket(*short.tcp)):
        assert client.ping() == "PONG"
        assert client.instream(io.BytesIO(data)) == {"stream": said}


@pytest.mark.slow
def test_clamd_of_python_with_paths(short: Daemon, tmp_path: Path) -> None:
    clamd = pytest.importorskip("clamd")
    tree = write_tree(tmp_path / "t", {name: data for name, (data, _) in STREAMS.items()})
    client = clamd.ClamdUnixSocket(short.unix)
    found = {what: said for what, (_, said) in STREAMS.items() if what not in ("clean", "long")}
    assert client.contscan(str(tree)) == {str(tree / what): said for what, said in found.items()}
    for what, said in found.items():
        assert client.scan(str(tree / what)) == {str(tree / what): said}
    assert client.scan(str(tree / "long")) == {str(tree / "long"): ("OK", None)}


@pytest.mark.slow
def test_clamd_of_python_learns_which_input_an_error_is_about(narrow: Daemon) -> None:
    clamd = pytest.importorskip("clamd")
    data, _ = STREAMS["unread"]
    said = clamd.ClamdUnixSocket(narrow.unix).instream(io.BytesIO(data))
    assert said == {"stream": ("ERROR", "encrypted, zip, encrypted.")}


@pytest.mark.sampled
@pytest.mark.parametrize("what", STREAMS)
def test_aioclamd(short: Daemon, what: str) -> None:
    aioclamd = pytest.importorskip("aioclamd")
    data, said = STREAMS[what]
    client = aioclamd.ClamdAsyncClient(*short.tcp)
    assert asyncio.run(client.ping()) == "PONG"
    assert asyncio.run(client.instream(io.BytesIO(data))) == {"stream": said}


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_a_client_that_sends_too_much_gets_the_answer(short: Daemon, tcp: bool) -> None:
    """A client may send all bytes before it reads, so the daemon must not close early."""
    with short.connect(tcp=tcp) as sock:
        sock.sendall(instream(*[LONG[:1024]] * 3072))
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == f"stream: {NO_VERDICT}Length FOUND\0".encode()


@pytest.mark.slow
@pytest.mark.parametrize("command", [b"SCAN", b"MULTISCAN"])
def test_clamscan_of_node_with_a_path(short: Daemon, tmp_path: Path, command: bytes) -> None:
    """The client sends a path without a terminator and waits."""
    tree = write_tree(tmp_path / "t", {"a": b"benign", "b": LISTED})
    for name, said in {"a": "OK", "b": f"{NAME} FOUND"}.items():
        with short.connect() as sock:
            sock.sendall(command + b" " + bytes(tree / name))
            assert everything(sock) == f"{tree / name}: {said}\n".encode()


@pytest.mark.slow
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_clamscan_of_node(short: Daemon, tcp: bool) -> None:
    """The client sends PING without a terminator and waits, and streams in chunks of 64 KiB."""
    with short.connect(tcp=tcp) as sock:
        sock.sendall(b"PING")
        assert sock.recv(100) == b"PONG\n"
    assert short.ask(b"nVERSION\n", tcp=tcp).startswith(b"hashclient ")
    for data, (verdict, name) in list(STREAMS.values())[:-1]:
        said = verdict if name is None else f"{name} {verdict}"
        assert short.ask(instream(data), tcp=tcp) == f"stream: {said}\0".encode()
