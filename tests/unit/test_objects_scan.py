"""A scan of a bucket in one process: which objects are listed, read, opened and known."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from fixtures.buckets import Site, reached_site
from hashclient.config.settings import Config, Settings
from hashclient.containers.limits import Options
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import ObjectUri, parse_uri
from hashclient.index.open_lists import OpenLists
from hashclient.objects.failures import StoreError, Trouble
from hashclient.objects.interface import Seen
from hashclient.objects.listing import list_pages
from hashclient.objects.others import Other
from hashclient.objects.s3 import S3
from hashclient.scan.cache.memory import InventoryPlace, Memory
from hashclient.scan.check import kept
from hashclient.scan.check.kept import Spool
from hashclient.scan.check.members import Members
from hashclient.scan.objects.objects import Objects, Request, Tools
from hashclient.scan.objects.threads import Work
from hashclient.scan.run.start import objects_of
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import Result
from hashclient.session import Session
from tests.kit import csv_of
from tests.unit.test_checker import lists_of, zipped

LISTED = b"listed"


site = pytest.fixture(reached_site, scope="module")


@pytest.fixture
def lists(tmp_path: Path) -> OpenLists:
    return lists_of(tmp_path, base=csv_of({"e-1": LISTED}))


def scan(
    objects: Objects | None, lists: OpenLists, *, opens: bool = False, learnt: Memory | None = None
) -> tuple[Result, dict[str, Kind]]:
    """Return the counts of a scan and the reasons of its outcomes, by path and member."""
    assert objects is not None
    total, found = Result(), dict[str, Kind]()
    with contextlib.ExitStack() as stack:

        def members() -> Members | None:
            if not opens:
                return None
            return stack.enter_context(contextlib.closing(Members(lists.judge(), Options())))

        for item in objects.check(lists.judge(), members, keep_clean=False):
            outcomes: list[Outcome] = [item] if isinstance(item, Outcome) else []
            if isinstance(item, Result):
                outcomes = item.outcomes
                total.clean += item.clean
                total.files_read += item.files_read
                total.known_unchanged += item.known_unchanged
                if learnt is not None:
                    learnt.learn(item)
            found |= {"!".join((one.path, *one.members)): one.kind for one in outcomes}
    return total, found


def objects_at(directory: Path, *uris: str, **how: Any) -> Objects | None:
    """Return the scan of objects as the command `scan` makes it."""
    state = directory / "state"
    settings = Settings(state, state / "config.toml", None, Config())
    return objects_of(Session(settings), [*map(parse_uri, uris)], ScanOptions(), "key", **how)


@pytest.mark.sampled
@pytest.mark.parametrize("opens", [False, True])
def test_listed_objects_are_found_and_members_only_where_containers_are_opened(
    site: Site, lists: OpenLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    """A container is kept until it is opened, on the disk if the memory is in use."""
    monkeypatch.setattr(kept, "MEMORY_BYTES", 0)
    archive = zipped(LISTED, b"benign")
    bucket = site.bucket(a=LISTED, b=b"LISTED", c=b"of another size", z=archive)
    total, found = scan(objects_at(tmp_path, bucket.uri), lists, opens=opens)
    inside = {f"{bucket.uri}/z!0": Kind.MATCH} if opens else {}
    assert found == {f"{bucket.uri}/a": Kind.MATCH, **inside}
    assert total.clean == (4 if opens else 3)


@pytest.mark.slow
def test_a_container_whose_members_are_known_is_not_read_again(
    site: Site, lists: OpenLists, tmp_path: Path
) -> None:
    """If a new list has a member, the container is opened again to name this member."""
    bucket = site.bucket(benign=zipped(b"benign"), other=zipped(LISTED))
    memory = Memory(InventoryPlace(tmp_path / "state", "key"))
    counts, reads = [], []
    for _ in range(2):
        site.requests.clear()
        objects = objects_at(tmp_path, bucket.uri)
        total, found = scan(objects, lists, opens=True, learnt=memory)
        memory.flush()
        memory.close()
        assert found == {f"{bucket.uri}/other!0": Kind.MATCH}
        counts.append((total.clean, total.known_unchanged))
        reads.append(set(bucket.reads()))
    assert counts == [(3, 0), (3, 2)]
    assert reads == [{"benign", "other"}, {"other"}]


def test_all_reads_of_an_object_are_of_the_version_that_was_read_first(
    site: Site, lists: OpenLists, tmp_path: Path
) -> None:
    """A listing of the latest objects does not name versions, but the answer to a read does."""
    bucket = site.bucket()
    bucket.keep_versions()
    version = bucket.put("a", LISTED)
    site.requests.clear()
    _, found = scan(objects_at(tmp_path, bucket.uri), lists)
    assert version is not None
    assert found == {f"{bucket.uri}/a?versionId={version}": Kind.MATCH}
    asked = [f"versionId={version}" in query for _, path, query in site.requests if "/a" in path]
    assert asked == [False, True]
    # If the user names an object with its version, every read asks for this version.
    bucket.put("a", b"LISTED")
    site.requests.clear()
    _, again = scan(objects_at(tmp_path, f"{bucket.uri}/a?versionId={version}"), lists)
    assert again == found
    assert all(version in query for _, path, query in site.requests if "/a" in path)


def test_a_bucket_says_whether_new_objects_get_versions_of_their_own(site: Site) -> None:
    bucket = site.bucket()
    found = [S3(bucket.name).keeps_versions]
    for status in ("Enabled", "Suspended"):
        site.client.put_bucket_versioning(
            Bucket=bucket.name, VersioningConfiguration={"Status": status}
        )
        found.append(S3(bucket.name).keeps_versions)
    assert found == [False, True, False]


class Elsewhere:
    """Other machines, which cannot reach any bucket."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def bucket(self, uri: ObjectUri, after: str | None, namespace: str) -> Work:
        self.asked.append((uri.text, after))
        raise StoreError(Trouble.OTHER, "not there")

    def close(self) -> None: ...


class Refusing(Other):
    """A store whose credentials are missing."""

    def _open(self) -> Any:
        raise StoreError(Trouble.DENIED, "no credentials")


def test_other_machines_list_no_buckets_of_other_stores(lists: OpenLists, tmp_path: Path) -> None:
    elsewhere, uri = Elsewhere(), parse_uri("az://a-bucket/")
    tools = Tools(Spool(tmp_path, 1 << 20), store=lambda uri: Refusing(uri.scheme, uri.bucket))
    objects = Objects(Request((uri,)), tools)
    objects.check_at(elsewhere)
    _, found = scan(objects, lists)
    assert found == {uri.text: Kind.UNREAD}
    assert elsewhere.asked == []


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["plain", "after a key", "all versions", "a version"])
def test_other_machines_are_asked_for_the_latest_objects_of_a_bucket_alone(
    site: Site, lists: OpenLists, tmp_path: Path, how: str
) -> None:
    """Only the latest objects of a bucket are listed by other machines, if they can list it."""
    bucket, elsewhere = site.bucket(), Elsewhere()
    bucket.keep_versions()
    version = bucket.put("b", LISTED)
    uri = f"{bucket.uri}/b?versionId={version}" if how == "a version" else bucket.uri
    after = "a" if how == "after a key" else None
    objects = objects_at(tmp_path, uri, all_versions=how == "all versions", after=after)
    assert objects is not None
    objects.check_at(elsewhere)
    _, found = scan(objects, lists)
    assert found == {f"{bucket.uri}/b?versionId={version}": Kind.MATCH}
    is_plain = how in ("plain", "after a key")
    assert elsewhere.asked == ([(parse_uri(uri).text, after)] if is_plain else [])


class Empty(Other):
    """A bucket without objects."""

    def head(self, key: str, version: str | None) -> Seen:
        raise StoreError(Trouble.GONE, "vanished after it was listed")


@pytest.mark.parametrize(("alone", "notes"), [(False, ["there is no such version"]), (True, [])])
def test_a_version_that_a_uri_names_is_unread_if_it_does_not_exist(
    alone: bool, notes: list[str]
) -> None:
    """Without it, a scan of other objects besides would call everything clean."""
    uri = parse_uri("gs://bucket/a?versionId=1")
    pages = list_pages(Empty("gs", "bucket"), uri, alone=alone)
    assert [note for page in pages for note in page["note"].to_pylist()] == notes
