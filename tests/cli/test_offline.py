"""All steps without a network: a list is exported on one machine and fetched on another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.kit import Site, call, csv_of, run, write_tree

LISTED = {"e-1": b"listed one", "e-2": b"listed two"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one list."""
    repo = tmp_path / "repo"
    assert call("provider", "init", repo).code == 0
    publish(repo, LISTED)
    return repo


def publish(repo: Path, contents: dict[str, bytes]) -> None:
    entries = repo.parent / "entries.csv"
    entries.write_bytes(csv_of(contents))
    assert call("provider", "publish", repo, "--list", "baseline", entries).code == 0


@pytest.mark.slow
def test_from_a_provider_to_a_match_without_a_network(repo: Path, tmp_path: Path) -> None:
    bundle, state = tmp_path / "lists.bundle", tmp_path / "state"
    exported = run("provider", "export", repo, "--to", bundle)
    assert (exported.code, exported.err) == (0, "")
    assert exported.out.startswith("list baseline: generation 1, all of it\n")
    shutil.copy(repo / "root.json", tmp_path / "root.json")
    shutil.move(repo, tmp_path / "far-away")
    client = ("--state-dir", state)
    pinned = call(*client, "init", "--root", tmp_path / "root.json", "--from", bundle)
    assert pinned.code == 0, pinned.err
    assert "url" not in (state / "config.toml").read_text()
    fetched = run(*client, "fetch", "--from", bundle)
    assert fetched.code == 0, fetched.err
    assert fetched.out.startswith("list baseline: new -> generation 1, 2 added, 0 withdrawn;")
    assert fetched.out.endswith(f"; from {bundle}\n")
    tree = write_tree(tmp_path / "tree", {"a": LISTED["e-1"], "b": b"unlisted"})
    assert call(*client, "scan", tree).code == 10
    assert f"at {bundle}" in call(*client, "status").out
    log = call(*client, "audit", "show", "--event", "fetch", "--format", "jsonl")
    assert str(bundle) in log.out
    # Without --from there is no source to fetch from, and a message says so.
    nowhere = call(*client, "fetch")
    assert (nowhere.code, "--from" in nowhere.err) == (2, True)
    assert "no address" in call(*client, "status").out


def test_changes_alone_go_on_from_what_is_here(repo: Path, tmp_path: Path) -> None:
    bundle, client = tmp_path / "lists.bundle", ("--state-dir", tmp_path / "state")
    root = repo / "root.json"
    assert call(*client, "init", "--root", root, "--from", repo / "public").code == 0
    assert call(*client, "fetch", "--from", repo / "public").code == 0
    publish(repo, {"e-3": b"listed three"})
    done = call(
        *("provider", "export", repo, "--to", bundle, "--since", "baseline=1", "--format", "json")
    )
    assert json.loads(done.out)["lists"] == [{"list": "baseline", "generation": 2, "since": 1}]
    fetched = call(*client, "fetch", "--from", bundle, "--format", "json")
    (result,) = json.loads(fetched.out)["lists"]
    assert (result["before"], result["generation"], result["added"]) == (1, 2, 1)
    other = ("--state-dir", tmp_path / "other")
    assert call(*other, "init", "--root", root, "--from", bundle).code == 0
    refused = call(*other, "fetch", "--from", bundle)
    assert refused.code == 4 and "since generation 1" in refused.err


def test_a_network_that_comes_later_goes_on(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        site.publish(csv_of(LISTED))
        bundle = tmp_path / "lists.bundle"
        assert call("provider", "export", site.repository.directory, "--to", bundle).code == 0
        offline = site.init_arguments("--from", bundle)
        assert site.call(*offline).code == 0
        assert site.call("fetch", "--from", bundle).code == 0
        assert site.requests == []
        site.publish(csv_of({"e-3": b"listed three"}))
        online = site.call("fetch")
        assert online.out.startswith("list baseline: generation 1 -> generation 2, 1 added")
        assert not [line for line in site.requests if "g000001" in line]
        # The first bundle now has an older generation than the client.
        older = site.call("fetch", "--from", bundle)
        assert older.code == 6
        shown = site.call("status")
        assert (shown.code, "the last update was refused" in shown.out) == (6, True)


@pytest.mark.slow
def test_whose_lists_are_brought_by_hand_keeps_no_other_from_being_fetched(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        site.publish(csv_of(LISTED))
        assert site.call(*site.init_arguments()).code == 0
        other = tmp_path / "other"
        assert call("provider", "init", other).code == 0
        root, public = other / "root.json", other / "public"
        assert site.call("init", "--root", root, "--from", public, "--name", "hand").code == 0
        assert site.call("fetch").code == 0
        alone = site.call("fetch", "--provider", "hand")
        assert (alone.code, "provider hand has no address" in alone.err) == (2, True)


def test_wrong_options_are_refused_at_once(repo: Path, tmp_path: Path) -> None:
    client = ("--state-dir", tmp_path / "state")
    root = repo / "root.json"
    assert call(*client, "init", "--root", root).code == 2
    text = tmp_path / "text"
    text.write_text("hello\n")
    pinned = call(*client, "init", "--root", root, "--from", text)
    assert (pinned.code, "no bundle of hash lists" in pinned.err) == (6, True)
    assert not (tmp_path / "state" / "config.toml").exists()
    for name in ("main", "second"):
        made = call(*client, "init", "--root", root, "--from", repo / "public", "--name", name)
        assert made.code == 0
    for path, code, message in (
        (tmp_path / "nowhere", 2, "no such file or directory"),
        (repo, 2, f"give {repo}/public"),
        (text, 6, "no bundle of hash lists"),
    ):
        done = call(*client, "fetch", "--provider", "main", "--from", path)
        assert (done.code, message in done.err) == (code, True), done.err
    several = call(*client, "fetch", "--from", repo / "public")
    assert (several.code, "--provider: main, second" in several.err) == (2, True)
    for since in ("baseline", "baseline=", "=1", "baseline=-1", "baseline=x", "baseline=9"):
        done = call("provider", "export", repo, "--to", tmp_path / "b", "--since", since)
        assert done.code == 2 and not (tmp_path / "b").exists()
    assert call("provider", "export", tmp_path, "--to", tmp_path / "b").code == 8


def test_an_expired_bundle_is_reported_when_it_is_made(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from hashclient.cli.app import App

    later = datetime.now(UTC) + timedelta(days=8)
    monkeypatch.setattr(App, "now", staticmethod(lambda: later))
    done = call("provider", "export", repo, "--to", tmp_path / "b")
    assert done.code == 0 and "warning: the signatures have expired" in done.err
