"""Changed bytes in an index: how they are found, reported and repaired."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import Site, csv_of, digests_of, edit_manifest, write_tree

FILES = {"a": b"one", "b": b"two", "c": b"three"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        made.publish(csv_of({f"e-{name}": data for name, data in FILES.items()}))
        assert made.call(*made.init_arguments()).code == 0
        assert made.call("fetch").code == 0
        yield made


def flip_last_bytes(run: Path) -> None:
    """Change the last section of a run, which has rows and tags, without changing its length."""
    data = bytearray(run.read_bytes())
    for position in range(len(data) // 2, len(data)):
        data[position] ^= 0x55
    run.write_bytes(data)


@pytest.mark.slow
def test_rot_is_found_and_mended(site: Site, tmp_path: Path) -> None:
    assert site.call("status", "--verify").code == 0
    (run,) = (site.state / "lists/baseline").glob("run-*")
    flip_last_bytes(run)
    found = site.call("status", "--verify", "--format", "json")
    assert found.code == 8
    (status,) = json.loads(found.out)["lists"]
    assert "damaged" in status["problem"]
    assert "fetch --rebuild" in status["problem"]
    assert not status["usable"]
    rebuilt = site.call("fetch", "--rebuild")
    assert (rebuilt.code, "built again" in rebuilt.out) == (0, True)
    assert site.call("status", "--verify").code == 0
    tree = write_tree(tmp_path / "tree", FILES)
    assert site.call("scan", "--no-inventory", tree).code == 10


def test_a_rebuild_still_refuses_what_goes_back(site: Site) -> None:
    again = site.call("fetch", "--rebuild", "--format", "json")
    (fetched,) = json.loads(again.out)["lists"]
    assert (again.code, fetched["changed"], fetched["added"]) == (0, False, None)


def check_all_say_so(site: Site, tree: Path, problem: str) -> None:
    """Check that no command calls an input clean."""
    for args in (("scan", tree), ("lookup", *digests_of(b"four")), ("status",)):
        result = site.call(*args)
        assert result.code == 8, args
        assert problem in result.err + result.out
        assert "hashclient fetch" in result.err + result.out
    metrics = site.call("status", "--format", "prometheus").out
    assert 'hashclient_list_usable{list="baseline"} 0.0\n' in metrics


def check_mended(site: Site, tree: Path) -> None:
    assert site.call("status", "--verify").code == 0
    assert site.call("scan", "--no-inventory", tree).code == 10


@pytest.mark.parametrize("mend", [("--rebuild",), ()])
def test_a_fetch_that_finds_rot_says_so_and_so_does_everybody(
    site: Site, tmp_path: Path, mend: tuple[str, ...]
) -> None:
    folder = site.state / "lists/baseline"
    tree = write_tree(tmp_path / "tree", FILES)
    (run,) = folder.glob("run-*")
    flip_last_bytes(run)
    # A fetch does not notice the damage, because the index can be opened.
    assert site.call("fetch").code == 0
    (folder / "checks.json").unlink()
    edit_manifest(site.state, "baseline", verified_at="2020-01-01T00:00:00Z")
    found = site.call("fetch")
    assert found.code == 8
    assert "index file is damaged" in found.err
    assert "fetch --rebuild" in found.err
    refused = site.call("audit", "show", "--event", "refused", "--format", "jsonl").lines
    assert "index file is damaged" in refused[-1]["data"]["reason"]
    check_all_say_so(site, tree, "index file is damaged")
    mended = site.call("fetch", *mend)
    assert (mended.code, "built again" in mended.out) == (0, True)
    check_mended(site, tree)


@pytest.mark.parametrize("mend", [("--rebuild",), ()])
def test_a_manifest_with_another_code_is_a_damaged_list(
    site: Site, tmp_path: Path, mend: tuple[str, ...]
) -> None:
    path = site.state / "lists/baseline/manifest.json"
    tree = write_tree(tmp_path / "tree", FILES)
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"expires": "9026-01-01T00:00:00Z"}))
    check_all_say_so(site, tree, "manifest is damaged")
    assert site.call("fetch", *mend).code == 0
    check_mended(site, tree)
    assert "9026-" not in site.call("status").out


def test_overdue_verification_is_a_warning_and_no_failure(site: Site) -> None:
    since = "2020-01-01T00:00:00Z"
    edit_manifest(site.state, "baseline", oldest_verified=since)
    text = site.call("status")
    assert text.code == 0
    assert "  verified    all of it since 2020-01-01 00:00 UTC" in text.out
    assert "  warning     parts of the index were not compared" in text.out
    (entry,) = json.loads(site.call("status", "--format", "json").out)["lists"]
    assert entry["verified_since"].startswith("2020-01-01T00:00:00")
    assert len(entry["warnings"]) == 1 and entry["fresh"]
    metrics = site.call("status", "--format", "prometheus").out
    assert 'hashclient_list_verified_timestamp_seconds{list="baseline"} 1.5778368e+09\n' in metrics
