"""The wheel: the same tree gives the same wheel; its man pages and completion work."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hashclient.cli.main import COMMANDS
from tests.kit import ROOT, UNMEASURED

DATA = "share/man/man1/", "share/man/man5/", "share/bash-completion/", "share/zsh/", "share/fish/"


def tool(*args: str | Path, **variables: str) -> str:
    """Run a command that has to succeed, and return its output."""
    done = subprocess.run(
        args,
        cwd=ROOT,
        env={**os.environ, **UNMEASURED, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(directory: Path, **variables: str) -> Path:
    tool(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, **variables)
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install into an empty prefix, and ignore the packages that this Python has."""
    prefix = tmp_path_factory.mktemp("prefix")
    options = ("--no-deps", "--no-index", "--ignore-installed", "--no-compile", "--quiet")
    tool(sys.executable, "-m", "pip", "install", *options, "--prefix", prefix, wheel)
    return prefix


@pytest.mark.slow
def test_pages_and_completion_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name.partition(".data/data/")[2] for name in archive.namelist()]
        modes = {info.external_attr >> 16 & 0o777 for info in archive.infolist()}
    data = [name for name in names if name]
    pages = {f"share/man/man1/hashclient-{name}.1" for name in COMMANDS}
    assert pages < set(data)
    assert "share/man/man5/hashclient-config.5" in data
    assert len(data) == len(pages) + 5
    assert all(name.startswith(DATA) for name in data)
    assert modes <= {0o644, 0o664}


@pytest.mark.slow
def test_the_same_tree_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again")
    assert (
        hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()
    )
    dated = build(tmp_path / "dated", SOURCE_DATE_EPOCH="1769860800")
    with zipfile.ZipFile(dated) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/hashclient.1"))
        assert ".TH HASHCLIENT 1 2026-01-31 " in archive.read(name).decode()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man")
def test_man_finds_the_pages(prefix: Path) -> None:
    variables = {"MANPATH": str(prefix / "share" / "man"), "MANPAGER": "cat", "MANWIDTH": "80"}
    text = tool("man", "hashclient-scan", **variables, LC_ALL="C.UTF-8")
    assert "hashclient scan [OPTIONS] [PATH…]" in text
    assert "--one-file-system" in text


def installed(prefix: Path) -> dict[str, str]:
    """Return the environment variables for the installed command, and its directory of code."""
    (packages,) = prefix.glob("lib/python*/site-packages")
    return {"PATH": f"{prefix / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(packages)}


def complete(prefix: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of `words`, with the installed script and command."""
    script = prefix / "share" / "bash-completion" / "completions" / "hashclient"
    program = """
    source "$1"; shift
    line=$(complete -p hashclient); line=${line##*-F }
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
    ${line%% *} hashclient "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    return tool(
        "bash", "-c", program, "bash", script, "hashclient", *words, **installed(prefix)
    ).split()


@pytest.mark.slow
def test_bash_completes(prefix: Path) -> None:
    assert complete(prefix, "sc") == ["scan"]
    assert complete(prefix, "scan", "--one") == ["--one-file-system"]
    assert complete(prefix, "audit", "") == ["checkpoint", "rotate", "show", "summary", "verify"]
    assert complete(prefix, "status", "--format", "p") == ["prometheus"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes(prefix: Path) -> None:
    script = prefix / "share" / "fish" / "vendor_completions.d" / "hashclient.fish"
    program = "source $argv[1]; complete --do-complete 'hashclient sc'"
    home = str(prefix / "home")
    offered = tool("fish", "--no-config", "-c", program, script, HOME=home, **installed(prefix))
    assert offered.startswith("scan\t")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_can_read_its_script(prefix: Path) -> None:
    tool("zsh", "--no-rcs", "-n", prefix / "share" / "zsh" / "site-functions" / "_hashclient")


def test_an_editable_install_needs_none_of_it(tmp_path: Path) -> None:
    """pip asks the build backend for this install, which must be quick and generates no file."""
    program = "import sys; from hatchling.build import build_editable as b; print(b(sys.argv[1]))"
    name = tool(sys.executable, "-c", program, tmp_path).split()[-1]
    with zipfile.ZipFile(tmp_path / name) as archive:
        assert not [n for n in archive.namelist() if ".data/" in n]
