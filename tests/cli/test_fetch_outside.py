"""`fetch` updates each list that scans use, or says that it does not update the list."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import Site, csv_of, edit_manifest, write_tree

NOT_NAMED = "although `lists` of provider main does not name it"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A client that names one of two lists in `lists`, and has fetched both lists."""
    with Site(tmp_path) as made:
        for name in ("baseline", "second"):
            made.publish(csv_of({"e-1": name.encode()}), name)
        assert made.call(*made.init_arguments("--list", "baseline")).code == 0
        assert made.call("fetch").code == 0
        first = made.call("fetch", "--list", "second")
        assert (first.code, NOT_NAMED in first.err) == (0, True)
        made.publish(csv_of({"e-2": b"new in second"}), "second")
        yield made


@pytest.mark.slow
def test_a_list_that_is_here_is_fetched_though_lists_does_not_name_it(site: Site) -> None:
    fetched = site.call("fetch")
    assert (fetched.code, fetched.out.count("list ")) == (0, 2)
    assert "list second: generation 1 -> generation 2" in fetched.out
    folder = site.state / "lists" / "second"
    assert fetched.err.count(NOT_NAMED) == 1 and f"remove {folder}" in fetched.err
    lists = json.loads(site.call("fetch", "--format", "json").out)["lists"]
    assert [entry["outside_lists"] for entry in lists] == [False, True]
    shown = site.call("status")
    assert (
        shown.code == 0 and shown.out.count("`lists` of its provider does not name this list") == 1
    )
    # The user gives the list up by removing its folder.
    shutil.rmtree(folder)
    fetched = site.call("fetch")
    assert (fetched.code, fetched.err) == (0, "") and "second" not in fetched.out
    assert "second" not in site.call("status").out


@pytest.mark.slow
def test_a_damaged_list_is_built_again_though_lists_does_not_name_it(site: Site) -> None:
    (site.state / "lists" / "second" / "manifest.json").write_bytes(b"{")
    assert site.call("scan", site.repository.root_file).code == 8
    assert "list second: new -> generation 2" in site.call("fetch").out
    assert site.call("scan", site.repository.root_file).code == 0


@pytest.mark.slow
def test_an_empty_folder_is_expected_to_have_its_list(site: Site) -> None:
    site.publish(csv_of({"e-1": b"third"}), "third")
    (site.state / "lists" / "third").mkdir()
    assert site.call("scan", site.repository.root_file).code == 8
    fetched = site.call("fetch")
    assert fetched.code == 0 and "list third: new -> generation 1" in fetched.out
    # No index of the list existed before, so the message does not call it in use.
    said = f"list third has a folder here, so it is kept up to date {NOT_NAMED}"
    assert said in fetched.err and "in use" not in fetched.err
    assert site.call("scan", site.repository.root_file).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [b"{", None])
@pytest.mark.parametrize("left", ["trust", "damaged trust", "no metadata", "manifest", "another"])
def test_a_damaged_list_of_a_provider_that_was_removed_is_not_replaced(
    site: Site, left: str, damaged: bytes | None
) -> None:
    """The remaining metadata says that the provider offered this list, or could have done so."""
    trust, lists = site.state / "trust", site.state / "lists"
    targets = trust / "removed" / "metadata" / "targets.json"
    if left == "manifest":
        # The provider `removed` of this list has no metadata, but its other list is intact.
        edit_manifest(site.state, "baseline", provider="removed")
    else:
        shutil.copytree(trust / "main", trust / "removed")
    if left == "damaged trust":
        targets.write_bytes(b"{")
    elif left == "no metadata":
        shutil.rmtree(targets.parent)
    elif left == "another":
        targets.write_bytes(targets.read_bytes().replace(b'"second"', b'"others"'))
    manifest = lists / "second" / "manifest.json"
    manifest.unlink()
    if damaged is not None:
        manifest.write_bytes(damaged)
    fetched = site.call("fetch")
    assert ("list second" in fetched.out) == (left == "another")
    scanned = site.call("scan", site.repository.root_file)
    assert scanned.code == 8 and ("list second" in scanned.err) == (left != "another")
    assert "list second: " in site.call("fetch", "--list", "second").out


@pytest.mark.slow
def test_a_list_that_is_here_and_not_offered_any_more_is_refused(
    site: Site, tmp_path: Path
) -> None:
    with Site(tmp_path / "other") as other:
        other.publish(csv_of({"e-1": b"x"}))
        assert other.call(*other.init_arguments("--list", "baseline")).code == 0
        shutil.copytree(site.state / "lists" / "second", other.state / "lists" / "second")
        shutil.copy(site.state / "seal.key", other.state / "seal.key")
        fetched = other.call("fetch")
    assert fetched.code == 6 and "does not offer list second" in fetched.err


@pytest.mark.slow
def test_lists_of_a_provider_that_is_not_configured_are_named(site: Site, tmp_path: Path) -> None:
    config = site.state / "config.toml"
    config.write_text(config.read_text().replace("[providers.main", "[providers.renamed"))
    (site.state / "trust" / "main").rename(site.state / "trust" / "renamed")
    edit_manifest(site.state, "second", expires="2020-01-01T00:00:00Z")
    shutil.rmtree(site.state / "lists" / "baseline")
    fetched = site.call("fetch")
    warning = "list second is in use but not kept up to date: provider main is not configured"
    assert fetched.code == 0 and f"warning: {warning}" in fetched.err
    assert "fetches do not keep the list up to date" in site.call("status").out
    stale = site.call("scan", write_tree(tmp_path / "tree", {"f": b"clean"}))
    assert stale.code == 7
    assert (
        "run `hashclient fetch`" not in stale.err and "does not contain its provider" in stale.err
    )


@pytest.mark.slow
def test_a_stale_list_without_an_address_is_to_be_brought(site: Site, tmp_path: Path) -> None:
    config = site.state / "config.toml"
    config.write_text("\n".join(x for x in config.read_text().split("\n") if x[:3] != "url"))
    edit_manifest(site.state, "second", expires="2020-01-01T00:00:00Z")
    stale = site.call("scan", write_tree(tmp_path / "tree", {"f": b"clean"}))
    assert stale.code == 7 and "`hashclient fetch --provider main --from PATH`" in stale.err


@pytest.mark.slow
def test_a_list_that_is_not_offered_gets_a_hint_of_those_that_are(site: Site) -> None:
    refused = site.call("fetch", "--list", "nosuch")
    assert refused.code == 2 and "hint: provider main offers: baseline, second\n" in refused.err
