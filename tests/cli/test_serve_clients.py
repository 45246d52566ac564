"""Programs of others that ask a clamd ask this daemon; each is skipped where it is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clamd import Daemon, serving
from tests.kit import csv_of, edit_manifest, make_state, write_tree

LISTED = b"listed one"
CLAMDSCAN = shutil.which("clamdscan")
FOUND, CLEAN, ERROR = 1, 0, 2

pytestmark = pytest.mark.skipif(CLAMDSCAN is None, reason="there is no clamdscan")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_state(tmp_path_factory.mktemp("site"), {"base": csv_of({"e-1": LISTED})})


@pytest.fixture(scope="module")
def daemon(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(state, tmp_path_factory.mktemp("run")) as daemon:
        yield daemon


def clamdscan(directory: Path, configuration: str, *words: object) -> tuple[int, str]:
    """Run clamdscan; return its exit code and what it prints."""
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


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(mode) or "contscan")
def test_clamdscan(daemon: Daemon, tmp_path: Path, mode: list[str]) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"benign", "b": LISTED, "c": b""})
    configuration = f"LocalSocket {daemon.unix}\n"
    code, out = clamdscan(tmp_path, configuration, *mode, tree / "a", tree / "c")
    assert code == CLEAN
    code, out = clamdscan(tmp_path, configuration, *mode, tree / "a", tree / "b")
    assert (code, f"{tree / 'b'}: Hashclient.base.e-1 FOUND" in out) == (FOUND, True)
    assert f"{tree / 'a'}: OK" in out


def test_clamdscan_over_tcp(daemon: Daemon, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"b": LISTED})
    host, port = daemon.tcp
    configuration = f"TCPAddr {host}\nTCPSocket {port}\n"
    code, out = clamdscan(tmp_path, configuration, "--stream", tree / "b")
    assert (code, "Hashclient.base.e-1 FOUND" in out) == (FOUND, True)


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
