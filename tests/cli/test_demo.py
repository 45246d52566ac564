"""`demo`: it ends with the documented exit code, and leaves files only with `--keep`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hashclient.cli.app import App
from hashclient.cli.demo import _Demo
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import ExitCode, HashclientError
from tests.kit import ROOT, call, run


@pytest.mark.slow
def test_every_step_ends_as_expected(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    # The commands of the demo must ignore settings in the caller's environment.
    result = run("demo", "--keep", kept, env={"HASHCLIENT_SCAN_EXCLUDE": "*", "LC_ALL": "C"})
    assert (result.code, result.err) == (0, "")
    assert "\nEvery step ended as expected.\n" in result.out
    ends = [int(code) for code in re.findall(r"^\[exit (\d+)\]$", result.out, re.MULTILINE)]
    assert {0, 4, 5, 6, 10} == set(ends)
    # One of the commands is the server, which has no exit code.
    assert len(ends) == result.out.count("\n$ ") - 1
    assert "list baseline: generation 2: 1 added, 4 live" in result.out
    assert "1 row was not meant, and left out" in result.out
    again = run("--state-dir", kept / "state", "scan", kept / "files")
    assert again.code == 0  # two files are in quarantine, and the third is no longer listed


def test_it_works_in_no_directory_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = call("demo", "--keep", tmp_path)
    assert result.code == 2
    assert "not empty" in result.err and "hint: " in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_it_works_in_no_directory_that_others_may_write_to(tmp_path: Path) -> None:
    """`demo` runs a program that it has written into the directory."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    result = call("demo", "--keep", theirs)
    assert result.code == 2
    assert "directory could be changed by everybody" in result.err and "hint: " in result.err
    assert list(theirs.iterdir()) == []


def test_a_step_that_ends_otherwise_ends_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    app = App(lambda: Settings(tmp_path, tmp_path / "config.toml", None, Config()), 0)
    with pytest.raises(HashclientError, match="should have ended with exit code 0"):
        _Demo(app, tmp_path)._step("status", ExitCode.OK)
    said = capsys.readouterr().out
    assert said.startswith("$ hashclient status\n") and said.endswith("\n[exit 2]\n")
