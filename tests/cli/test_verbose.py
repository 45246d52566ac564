"""The output of `-v`: internal steps, and never a digest or a credential."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from hashclient.system.log import Log
from tests.kit import ROOT, Site, csv_of, digests_of, environment, make_state, run, write_tree

LISTED = {f"hc-{n}": b"benign dummy %d" % n for n in range(5)}


@pytest.mark.slow
def test_messages_for_logging_have_no_digest_and_no_credential(tmp_path: Path) -> None:
    files = write_tree(tmp_path / "files", {**LISTED, "clean": b"nobody lists this"})
    with Site(tmp_path) as site:
        site.publish(csv_of(LISTED))
        logged = {}
        logged["init"] = site.run("-vv", *site.init_arguments()).err
        logged["fetch"] = site.run("-vv", "fetch").err
        site.publish(csv_of({"hc-9": b"one more"}))
        logged["update"] = site.run("-vv", "fetch").err
        scan = site.run("-vv", "scan", "--jobs", 2, files)
        assert scan.code == 10
        logged["scan"] = scan.err
        digests = [d for data in LISTED.values() for d in digests_of(data)]
        found = site.run("-vv", "lookup", *digests)
        assert found.code == 10
        logged["lookup"] = found.err
        secrets = [site.token, (site.state / "seal.key").read_text().strip()]

    assert "hashclient.net: got timestamp.json: " in logged["fetch"]
    assert "hashclient.net: got index.json: " in logged["fetch"]
    assert "hashclient.fetch: provider main: metadata is verified, lists: 1" in logged["fetch"]
    assert "hashclient.fetch: list baseline: segment 1 of 1 is built" in logged["fetch"]
    assert "hashclient.state: bringing the state to version" in logged["init"]
    assert "hashclient.index: merging 2 runs of 6 entries" in logged["update"]
    assert "hashclient.lists: list baseline: generation 2, 6 entries in 1 runs" in logged["scan"]
    assert "hashclient.scan: recorded 5 matches" in logged["scan"]
    assert "hashclient.lists: list baseline" in logged["lookup"]
    everything = "".join(logged.values()).lower()
    for secret in [*secrets, *digests]:
        assert secret.lower() not in everything


@pytest.mark.slow
def test_how_much_is_shown(tmp_path: Path) -> None:
    state = make_state(tmp_path, {"baseline": csv_of(LISTED)})
    files = write_tree(tmp_path / "files", LISTED)
    lines = [
        run(*flags, "--state-dir", state, "scan", files).err.splitlines()
        for flags in ([], ["-q"], ["-v"], ["-vv"])
    ]
    assert [[line for line in some if line.startswith("hashclient.")] for some in lines[:2]] == [
        *([], [])
    ]
    assert "hashclient.scan: recorded 5 matches" in lines[2]
    assert set(lines[2]) - {""} <= set(lines[3])


@pytest.mark.slow
def test_a_list_that_cannot_be_used_is_logged(tmp_path: Path) -> None:
    state = make_state(tmp_path, {"baseline": csv_of(LISTED), "other": csv_of(LISTED)})
    (state / "lists" / "other" / "manifest.json").write_text("{")
    shown = run("-v", "--state-dir", state, "scan", tmp_path / "state").err
    assert "hashclient.lists: cannot be used: list other: manifest is damaged" in shown


@pytest.mark.slow
def test_a_start_does_not_load_what_nobody_listens_to(tmp_path: Path) -> None:
    state = make_state(tmp_path, {"baseline": csv_of(LISTED)})
    for args in (["--version"], ["--state-dir", str(state), "scan", str(ROOT / "LICENSE")]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "hashclient", *args],
            env=environment(),
            capture_output=True,
            check=True,
            text=True,
        )
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "hashclient" in loaded
        assert "logging" not in loaded


def test_a_listener_gets_it(caplog: pytest.LogCaptureFixture) -> None:
    log = Log("part")
    with caplog.at_level(logging.INFO, "hashclient"):
        log.info("%d of %d", 1, 2)
        log.debug("a detail")
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("hashclient.part", "INFO", "1 of 2")
    ]


def test_without_a_listener_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "logging")
    Log("part").info("%d", "no number")
    assert "logging" not in sys.modules
