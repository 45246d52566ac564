"""The client as other programs use it: complete uses, without a command line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hashclient import (
    Client,
    ConfigError,
    ExitCode,
    Kind,
    ScanOptions,
    StateError,
    UsageError,
)
from hashclient.audit import log as audit_log
from tests.kit import Site, csv_of, digests_of, environment, make_state, write_tree

LISTED = b"a file that is listed"
POLICY = '[[policy]]\nactions = ["report"]\n[report.to.police]\nkind = "package"\n'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})


def test_a_scan_in_this_process_forks_nothing(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forked() -> None:
        raise AssertionError("a process was forked")

    tree = write_tree(tmp_path / "t", {f"d{n}/f": LISTED for n in range(600)})
    monkeypatch.setattr(os, "fork", forked)
    with Client(state).scan(tree, options=ScanOptions(jobs=0)) as run:
        assert sum(handled.record is not None for handled in run) == 600
    assert run.exit_code is ExitCode.MATCH
    assert run.progress.summary is run.summary and not run.is_mount_missing


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_path_that_no_file_can_have_is_refused(state: Path, path: str) -> None:
    with pytest.raises(UsageError, match="no file can have this path"):
        Client(state).scan(path)


def test_a_program_whose_locale_is_not_utf_8_gets_a_hint_how_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ISO 8859-1, the record of matches would have names that no file has."""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(ConfigError, match="names of files are not UTF-8 here") as error:
        Client(tmp_path)
    assert error.value.hint is not None and "-X utf8" in error.value.hint


LOADED = """
import sys
from hashclient import Client, ScanOptions
for _ in range(2):
    list(Client(sys.argv[1]).scan(sys.argv[2], options=ScanOptions(jobs=0)))
print("numpy.ma" in sys.modules)
"""


@pytest.mark.slow
def test_looking_digests_up_and_asking_the_inventory_does_not_load_numpy_ma(
    state: Path, tmp_path: Path
) -> None:
    """`numpy.ma` takes 15 ms in each process that loads it, and some functions of numpy load it."""
    tree = write_tree(tmp_path / "t", {"a": LISTED[::-1], "b": b"x" * len(LISTED), "c": b"x"})
    done = subprocess.run(
        [sys.executable, "-c", LOADED, state, tree],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_the_state_directory_can_be_given_as_text_and_paths_too(
    state: Path, tmp_path: Path
) -> None:
    write_tree(tmp_path, {"a": LISTED, "b": b"clean"})
    for options, kinds in (
        (ScanOptions(show_clean=True), {Kind.MATCH, Kind.CLEAN}),
        (ScanOptions(), {Kind.MATCH}),
    ):
        run = Client(str(state)).scan(str(tmp_path / "a"), tmp_path / "b", options=options)
        assert {handled.outcome.kind for handled in run} == kinds


def test_only_telling_does_nothing(state: Path, tmp_path: Path) -> None:
    with (state / "config.toml").open("a") as config:
        config.write(f'{POLICY}directory = "{tmp_path}"\nrecipients = []\n')
    write_tree(tmp_path, {"a": LISTED})
    (told,) = Client(state).scan(tmp_path / "a", options=ScanOptions(policy_check=True))
    assert [acted.done for acted in told.acted] == [None]
    (recorded,) = Client(state).scan(tmp_path / "a", options=ScanOptions(actions=False))
    assert recorded.acted == ()


def test_a_lookup_of_digests_files_and_a_stream(state: Path, tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    sums.write_text(f"{digests_of(LISTED)[0]}  named\n")
    stream = io.BytesIO(digests_of(b"other")[2].encode())
    run = Client(state).lookup(
        digests_of(LISTED)[2], files=[sums, "-"], stdin=stream, show_clean=True
    )
    kinds = [(handled.outcome.kind, handled.record) for handled in run]
    assert kinds == [(Kind.MATCH, None), (Kind.MATCH, None), (Kind.CLEAN, None)]
    (start,) = audit_log.read(state / "audit", event="lookup-start")
    assert start.data["arguments"] == ["1 digests", str(sums), "-"]


def test_a_file_that_cannot_be_looked_up_is_raised_after_the_others(
    state: Path, tmp_path: Path
) -> None:
    run = Client(state).lookup(digests_of(LISTED)[2], files=[tmp_path / "gone"])
    assert next(run).outcome.kind is Kind.MATCH
    with pytest.raises(UsageError, match=r"cannot read .*gone"):
        next(run)
    assert run.exit_code is ExitCode.MATCH_ATTENTION


def test_an_impossible_scan_or_lookup_is_an_error_at_once(state: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to scan"):
        Client(state).scan()
    with pytest.raises(UsageError, match="nothing to look up"):
        Client(state).lookup()
    with pytest.raises((StateError, ConfigError)):
        Client(tmp_path / "empty").scan(tmp_path)
    (state / "config.toml").write_text("nonsense = 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        Client(state)


@pytest.mark.slow
def test_a_fetch_returns_the_result_for_each_list(tmp_path: Path) -> None:
    drawn: list[tuple[str, int, int]] = []
    with Site(tmp_path) as site:
        site.publish(csv_of({"e-1": LISTED}))
        site.publish(csv_of({"e-2": LISTED}), "other")
        assert site.call(*site.init_arguments()).code == 0
        client = Client(site.state)
        (first,) = client.fetch("other", progress=lambda *now: drawn.append(now))
        assert (first.list_name, first.generation, first.changed) == ("other", 1, True)
        assert {name for name, _, _ in drawn} == {"other"}
        found = {fetched.list_name: fetched.changed for fetched in client.fetch()}
        assert found == {"baseline": True, "other": False}
        with pytest.raises(UsageError, match="no list to fetch is called gone"):
            list(client.fetch("gone"))
    status = client.status(verify=True)
    assert [(entry.name, entry.usable) for entry in status.lists] == [
        ("baseline", True),
        ("other", True),
    ]
    assert status.exit_code is ExitCode.OK
