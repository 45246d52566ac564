"""A bucket on a cluster: for keys of any form, workers find the same as one machine."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fixtures.buckets import Bucket, Site
from fixtures.cluster import started
from hashclient.core.kinds import Kind
from hashclient.core.objecturi import ObjectUri
from hashclient.objects.listing import ListingEndedError
from hashclient.objects.pages import SCHEMA, page_of
from hashclient.scan.cluster import buckets, objectwork
from hashclient.scan.cluster.buckets import ClusterBucket
from hashclient.scan.cluster.connection import GoneError
from hashclient.scan.cluster.objectwork import levels_of
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.values.work import CLUSTER_GONE, WORKER_DIED
from tests.kit import ROOT, Run, csv_of, environment, make_state
from tests.kit.cluster import LISTED, SharedCluster

#: A script that runs the command with very small ranges and batches, so that a few keys fill
#: several.
SMALL = """
import sys
from hashclient.objects.pages import SCHEMA, page_of
from hashclient.scan.cluster import buckets, objectwork
buckets.LIST_OBJECTS, buckets.READ_OBJECTS, buckets.PARTS = int(sys.argv.pop(1)), 5, 2
import runpy
sys.argv[0] = "hashclient"
runpy.run_module("hashclient", run_name="__main__", alter_sys=True)
"""
VARYING = {"id", "first_seen", "last_seen", "elapsed_s", "started", "bytes_read"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="module")
def workers(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    """A cluster whose workers have the credentials of the buckets."""
    directory = tmp_path_factory.mktemp("buckets")
    unsized = csv_of({"u-0": b"content 50"}, sized=False)
    state = make_state(directory, {"base": csv_of(LISTED), "unsized": unsized})
    own = {"HASHCLIENT_STATE_DIR": str(state), **site.environment}
    with started(2, own) as cluster:
        yield SharedCluster(cluster, state)


def scan(site: Site, state: Path, most: int, *args: object) -> Run:
    words = ("--state-dir", state, "scan", "--format", "jsonl", "--show-all", *args)
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(most), *map(str, words)],
        env={**environment(), **site.environment},
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    result = Run(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    return result


def told(result: Run) -> list[str]:
    lines = [{n: v for n, v in line.items() if n not in VARYING} for line in result.lines]
    return sorted(map(repr, lines))


def archive(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(name, content)
    return out.getvalue()


def fill(bucket: Bucket) -> None:
    """Write objects into the bucket whose keys lie on both sides of every bound."""
    chance = random.Random(7)
    contents = [*LISTED.values(), b"content 99", b"something else", b""]
    keys = [f"{a}/{b}/{n}" for a in "abc" for b in ("x", "x-1", "y") for n in range(4)]
    # Markers of folders have keys that end in a slash, which obstore drops.
    keys += ["a/", "a-1/", "a-1/k", "b/x/", "photos-1/", "photos/", "photos", "z/", "top", "zz.txt"]
    keys += ["ü/k", "d e/k%20", "only/one/way/down/deep/1", "only/one/way/down/deep/2"]
    for key in keys:
        bucket.put(key, chance.choice(contents))
    bucket.put("c/arch.zip", archive("inner/listed", LISTED["e-2"]))


@pytest.mark.slow
@pytest.mark.parametrize("most", [3, pytest.param(2, marks=pytest.mark.deep), 100_000])
def test_workers_find_in_a_bucket_what_one_machine_finds(
    site: Site, workers: SharedCluster, tmp_path: Path, most: int
) -> None:
    bucket = site.bucket()
    fill(bucket)
    here = scan(site, workers.client_state(tmp_path), most, bucket.uri)
    site.requests.clear()
    there = scan(site, workers.client_state(tmp_path), most, "--executor", workers.url, bucket.uri)
    assert told(there) == told(here)
    assert there.code == here.code
    assert (here.summary["inputs"], here.summary["match"] > 10) == (52, True)
    divided = [request for request in site.requests if "delimiter=%2F" in request[2]]
    assert bool(divided) == (most < 100)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix",
    ["/photos", *(pytest.param(p, marks=pytest.mark.deep) for p in ("/b/", "/b/x", "/nothing"))],
)
def test_a_part_of_a_bucket(
    site: Site, workers: SharedCluster, tmp_path: Path, prefix: str
) -> None:
    bucket = site.bucket()
    fill(bucket)
    uri = bucket.uri + prefix
    here = scan(site, workers.client_state(tmp_path), 2, uri)
    there = scan(site, workers.client_state(tmp_path), 2, "--executor", workers.url, uri)
    assert told(there) == told(here)
    assert there.code == here.code


@pytest.mark.slow
def test_keys_that_obstore_cannot_name(site: Site, workers: SharedCluster, tmp_path: Path) -> None:
    bucket = site.bucket()
    for key in ("/lead", "a", "a//b", "dir/", "up/../x", "x/./y", "z"):
        bucket.put(key, LISTED["e-1"])
    here = scan(site, workers.client_state(tmp_path), 2, bucket.uri)
    there = scan(site, workers.client_state(tmp_path), 2, "--executor", workers.url, bucket.uri)
    assert told(there) == told(here)
    assert here.summary["match"] == 7


@pytest.mark.slow
def test_known_objects_are_not_read_again_and_files_are_checked_too(
    site: Site, workers: SharedCluster, tmp_path: Path
) -> None:
    bucket, state = site.bucket(), workers.client_state(tmp_path)
    for number in range(12):
        bucket.put(f"{number}/k", b"content 99%d" % number)
    (tmp_path / "listed").write_bytes(LISTED["e-1"])
    args = ("--executor", workers.url, bucket.uri, tmp_path / "listed")
    first, second = scan(site, state, 5, *args), scan(site, state, 5, *args)
    assert (first.code, first.summary["inputs"], first.summary["match"]) == (10, 13, 1)
    assert first.summary["files_read"] == 13
    assert second.summary["known_unchanged"] >= 12
    assert second.summary["inputs"] == 13


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_unread(
    site: Site, workers: SharedCluster, tmp_path: Path
) -> None:
    state = workers.client_state(tmp_path)
    here = scan(site, state, 5, "s3://no-such-bucket/")
    there = scan(site, state, 5, "--executor", workers.url, "s3://no-such-bucket/")
    assert told(there) == told(here)
    assert there.code == 3


class _Leaving:
    """Replaces batches on a cluster whose scheduler ends at the second batch."""

    slots = 1

    def __init__(self) -> None:
        self.batches: list[object] = []

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def has_room(self) -> bool:
        return len(self.batches) < 2

    def submit(self, batch: object, _function: object, _payload: bytes) -> None:
        self.batches.append(batch)
        if len(self.batches) == 2:
            raise GoneError

    def ended(self, _: float) -> list[tuple[object, bytes | None]]:
        return []

    def look(self) -> None: ...

    def take_lost(self) -> list[object]:
        return []

    def take_all(self) -> list[object]:
        taken, self.batches = self.batches, []
        return taken


def test_without_a_scheduler_the_listing_ends_and_what_waits_is_unread() -> None:
    bucket = ClusterBucket(_Leaving(), ObjectUri("s3", "bucket"), None, "s3")  # type: ignore[arg-type]
    wanted = [Wanted(f"k{n}", buckets.READ_BYTES, None, None) for n in range(3)]
    for one in wanted[:2]:
        bucket.read(one)
    found = []
    # The results of waiting objects are returned before the error of the listing.
    while isinstance(event := bucket.next(0.0), Checked):
        found.append(event)
        if bucket.backlog == 0:
            break
    with pytest.raises(ListingEndedError, match=CLUSTER_GONE):
        bucket.next(0.0)
    bucket.end_listing()
    assert bucket.is_over
    bucket.read(wanted[2])
    assert bucket.backlog == 1
    event = bucket.next(0.0)
    assert isinstance(event, Checked)
    for checked in (*found, event):
        (outcome,) = checked.result.outcomes
        assert (outcome.kind, outcome.reason) == (Kind.UNREAD, CLUSTER_GONE)
    assert [checked.wanted.key for checked in (*found, event)] == ["k0", "k1", "k2"]
    assert bucket.is_over


def test_a_batch_that_is_lost_is_unread_and_a_range_that_is_lost_ends_the_listing() -> None:
    jobs = _Leaving()
    bucket = ClusterBucket(jobs, ObjectUri("s3", "bucket"), None, "s3")  # type: ignore[arg-type]
    bucket.read(Wanted("k", buckets.READ_BYTES, None, None))
    with pytest.raises(GoneError):
        bucket._hand_out()
    bucket._take([(batch, None) for batch in jobs.take_all()])
    event = bucket.next(0.0)
    assert isinstance(event, Checked)
    assert event.result.outcomes[0].reason == WORKER_DIED
    with pytest.raises(ListingEndedError, match=WORKER_DIED):
        bucket.next(0.0)


def test_an_etag_comes_back_only_where_something_rests_on_it_and_a_note_always() -> None:
    rows: list[tuple[str, int, str, None, str | None]] = [
        ("a", 4, '"e"', None, None),
        ("b", 9, '"f"', None, None),
        ("c", 0, "", None, "permission denied"),
    ]

    def back(containers: object) -> list[tuple[object, ...]]:
        judge = SimpleNamespace(of_sizes=lambda sizes: (sizes == 4, None))
        work = SimpleNamespace(spec=SimpleNamespace(containers=containers), judge=lambda: judge)
        raw = objectwork._stream(work, [page_of([]), page_of(rows)])  # type: ignore[arg-type]
        (page,) = buckets._pages_of(raw)
        assert page.schema == SCHEMA
        return [tuple(row.values()) for row in page.to_pylist()]

    every = [(key.encode(), *rest) for key, *rest in rows]
    assert back(object()) == every
    ruled_out = [(b"b", 9, None, None, None), (b"c", 0, None, None, "permission denied")]
    assert back(None) == [every[0], *ruled_out]


def test_a_range_is_divided_where_its_keys_differ() -> None:
    assert list(levels_of(b"", b"", None)) == [b""]
    assert list(levels_of(b"p", b"p", None)) == [b"p/"]
    assert list(levels_of(b"", b"a/b/c", None)) == [b"", b"a/", b"a/b/"]
    assert list(levels_of(b"", b"a/b/c", b"a/z/")) == [b"a/", b"a/b/"]
    assert list(levels_of(b"p/", b"p/b/c", b"q/")) == [b"p/", b"p/b/"]
