"""Fixtures of the tests of the quarantine, and of the transport and access to a provider."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.hostile import HostileServer
from fixtures.quarantine import CONTENT, Ward
from fixtures.simulator import PlainClient, Simulator
from fixtures.tls import Authority
from tests.transports import SecretFile


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    """A state directory without lists."""
    return Ward(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that holds `CONTENT`."""
    path = tmp_path / "share" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def server() -> Iterator[HostileServer]:
    """A server on loopback whose answers the test sets."""
    with HostileServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that signs the certificates of the tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secret_file(tmp_path: Path) -> SecretFile:
    """Make files that only their owner can read."""
    numbers = itertools.count()

    def write(content: str | bytes) -> Path:
        path = tmp_path / f"secret-{next(numbers)}"
        path.touch(mode=0o600)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """A provider without a network, whose files a test can change."""
    return Simulator(tmp_path / "repo")


@pytest.fixture
def client(tmp_path: Path, simulator: Simulator) -> PlainClient:
    """A client of the simulated provider whose state directory is empty."""
    return PlainClient(tmp_path / "client", simulator)
