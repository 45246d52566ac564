"""Nobody reads the output, or the disk is full: each command says so in one sentence."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import UNMEASURED, Run, arguments, checked, csv_of, environment, make_state

LISTED = b"dummy content that is on the list"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    (directory / "listed").write_bytes(LISTED)
    (directory / "clean").write_bytes(b"nobody listed this")
    made = make_state(directory, {"base": csv_of({"e-1": LISTED})})
    (made / "config.toml").write_text('[providers.main]\nurl = "u"\nroot_sha256 = "0"\n')
    run_into(os.open(os.devnull, os.O_WRONLY), made, "scan", directory / "listed")
    return made


@pytest.fixture(params=["nobody reads it", "a full disk"])
def broken(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """A descriptor to which writing fails, and the reason of the failure."""
    if request.param == "a full disk":
        why = "cannot write the output: No space left on device"
        fd = os.open("/dev/full", os.O_WRONLY)
    else:
        why = "nobody reads the output any more, so the command ended early"
        reader, fd = os.pipe()
        os.close(reader)
    yield fd, why
    os.close(fd)


def run_into(stdout: int, state: Path, *args: object, **variables: str) -> Run:
    done = subprocess.run(
        arguments("--state-dir", state, *args),
        env=environment(**UNMEASURED, **variables),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return checked(Run(done.returncode, "", done.stderr))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        *("--help", "--version", "status", "matches", "audit show", "audit checkpoint", "demo"),
        *("scan DIR/clean", "scan --format html DIR/clean", "scan DIR/listed"),
        "lookup --show-all 00000000000000000000000000000000",
        *("quarantine keygen --output DIR/KEY", "provider init DIR/REPO"),
    ],
)
def test_every_command_ends_with_one_sentence_and_the_code_of_the_cause(
    state: Path, tmp_path: Path, broken: tuple[int, str], words: str
) -> None:
    fd, why = broken
    words = words.replace("DIR/KEY", f"{tmp_path}/key").replace("DIR/REPO", f"{tmp_path}/repo")
    result = run_into(fd, state, *words.replace("DIR", str(state.parent)).split())
    found = "listed" in words
    assert result.code == (11 if found else 3 if "nobody" in why else 8)
    kind = "warning" if found else "error"
    assert result.err.count(f"hashclient: {kind}: {why}\n") == 1


@pytest.mark.slow
def test_so_does_the_script_for_completion(state: Path, broken: tuple[int, str]) -> None:
    done = subprocess.run(
        arguments(),
        env=environment(**UNMEASURED, _HASHCLIENT_COMPLETE="bash_source"),
        stdout=broken[0],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (3 if "nobody" in broken[1] else 8)
    assert done.stderr == f"hashclient: error: {broken[1]}\n"
