"""Rules for every source of inputs: it names each input once, in batches, and opens none.

`objects.listing` lists buckets with columns and another interface, so this module adapts it to the
interface of the other sources.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.buckets import Answer, Request, Site, blobs, is_listing, listing
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.objects.listing import TOGETHER
from hashclient.objects.others import PAGE_OBJECTS
from hashclient.scan.sources import interface
from hashclient.scan.sources import names as module
from hashclient.scan.sources import trees as trees_module
from hashclient.scan.sources.interface import Several, Source
from hashclient.scan.sources.listing import Lister
from hashclient.scan.sources.names import MAX_NAME_BYTES, Names
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import TASK_NAMES, Group, Task, join
from tests.kit import ROOT, environment, open_files, write_tree

Make = Callable[[list[str]], Source]


OPENED: list[int] = []


def opened(data: bytes) -> int:
    """Return a descriptor from which `data` can be read."""
    fd = os.memfd_create("names")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    OPENED.append(fd)
    return fd


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """Close the descriptors of a test, because a source leaves this to its caller."""
    yield
    while OPENED:
        os.close(OPENED.pop())


def _names(paths: list[str], *, null: bool) -> Source:
    end = b"\0" if null else b"\n"
    return Names(opened(b"".join(os.fsencode(p) + end for p in paths)), "names", null=null)


class Waiting(Lister):
    """A lister that treats each step as slow, and uses threads from the beginning."""

    is_slow = property(lambda _: True, lambda _, __: None)
    may_thread = property(lambda _: True, lambda _, __: None)


class SlowTrees(Trees):
    """Trees that are listed ahead, as on slow storage."""

    def batches(self) -> Iterator[Task | Outcome]:
        with mock.patch.object(trees_module, "Lister", Waiting):
            yield from super().batches()


#: A script that lists a bucket, one page for each line of its input.
LIST = """
import json, os, sys
from hashclient.core.objecturi import parse_uri
from hashclient.objects.listing import list_pages
from hashclient.objects.stores import open_store
uri = parse_uri(sys.argv[1])
pages = list_pages(open_store(uri), uri)
for _ in sys.stdin:
    page = next(pages, None)
    keys = None if page is None else [os.fsdecode(k) for k in page.column("key").to_pylist()]
    print(json.dumps(keys), flush=True)
"""


class Bucket:
    """A bucket whose keys are paths. Another process lists it, because obstore starts threads."""

    arguments = ()
    #: One more than the number of objects that fit into a batch.
    MOST = PAGE_OBJECTS * TOGETHER + 1

    def __init__(self, site: Site, scheme: str, paths: list[str]) -> None:
        self.site = site
        self.scheme = scheme
        self._uri = f"{scheme}://a-bucket/"
        self.pages_asked = 0
        keys = sorted(os.fsencode(path.removeprefix("/")) for path in paths)
        self._keys = [os.fsdecode(key) for key in keys]
        site.answer = self._blobs if scheme == "az" else self._listing

    def _listing(self, request: Request) -> Answer:
        query = parse_qs(request[2])
        keys = self._keys
        self.pages_asked += is_listing(request)
        if not is_listing(request):
            keys = [key for key in keys if key.startswith("/")][:1]
        elif "start-after" in query:
            keys = [key for key in keys if key > query["start-after"][0]]
        begin = int(query.get("continuation-token", ["0"])[0])
        end = begin + PAGE_OBJECTS
        more = str(end) if end < len(keys) else None
        return listing([(key, 1, "0") for key in keys[begin:end]], more=more)

    def _blobs(self, request: Request) -> Answer:
        self.pages_asked += 1
        begin = int(parse_qs(request[2]).get("marker", ["0"])[0])
        end = begin + PAGE_OBJECTS
        more = str(end) if end < len(self._keys) else ""
        return blobs([(key, 1, "0") for key in self._keys[begin:end]], more=more)

    def batches(self) -> Iterator[Task | Outcome]:
        env = environment(
            **self.site.environment,
            GOOGLE_BASE_URL=self.site.url,
            GOOGLE_SKIP_SIGNATURE="true",
            AZURE_STORAGE_ENDPOINT=self.site.url,
            AZURE_STORAGE_ACCOUNT_NAME="account",
            AZURE_SKIP_SIGNATURE="true",
        )
        words = [sys.executable, "-c", LIST, self._uri]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            words, env=env, cwd=ROOT, stdin=pipe, stdout=pipe, text=True
        ) as lister:
            assert lister.stdin is not None
            assert lister.stdout is not None
            while True:
                lister.stdin.write("\n")
                lister.stdin.flush()
                keys = json.loads(lister.stdout.readline())
                if keys is None:
                    return
                yield [Group("/", keys, follow=False)]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    SITES.append(site)
    yield site
    SITES.clear()
    site.close()


#: The server of buckets, once it is started.
SITES: list[Site] = []

MAKERS: dict[str, Make] = {
    "trees": lambda paths: Trees(paths, ScanOptions()),
    "trees-ahead": lambda paths: SlowTrees(paths, ScanOptions()),
    "names": lambda paths: _names(paths, null=False),
    "names-null": lambda paths: _names(paths, null=True),
    "several": lambda paths: Several(
        [Trees(paths[::2], ScanOptions()), _names(paths[1::2], null=True)]
    ),
    "s3": lambda paths: Bucket(SITES[0], "s3", paths),
    "gs": lambda paths: Bucket(SITES[0], "gs", paths),
    "az": lambda paths: Bucket(SITES[0], "az", paths),
}
each_source = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def named(items: Iterator[Task | Outcome]) -> tuple[list[str], list[Outcome]]:
    files: list[str] = []
    outcomes: list[Outcome] = []
    for item in items:
        if isinstance(item, Outcome):
            outcomes.append(item)
        else:
            files += [join(group.directory, name) for group in item for name in group.names]
    return files, outcomes


@pytest.mark.sampled
@each_source
def test_each_input_is_named_once_in_batches_of_a_useful_size(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    # With this limit, no batch ends early by its time, even on a busy machine.
    monkeypatch.setattr(interface, "TASK_S", 600.0)
    names = [f"{n % 7}/{n}" for n in range(3 * TASK_NAMES)] + ["a b", "ü", "\udcff", "x\\y"]
    tree = write_tree(tmp_path / "t", dict.fromkeys(names, b""))
    paths = [f"{tree}/{name}" for name in names]
    source = make(paths)
    if isinstance(source, Bucket):  # a key consists of characters, and a path of bytes
        paths = [path for path in paths if path.isprintable()]
        source = make(paths)
    batches = list(source.batches())
    source.close()
    files, outcomes = named(iter(batches))
    assert (sorted(files), outcomes) == (sorted(paths), [])
    sizes = [sum(len(g.names) for g in b) for b in batches if not isinstance(b, Outcome)]
    assert max(sizes) < (source.MOST if isinstance(source, Bucket) else 2 * TASK_NAMES)
    assert len(sizes) <= 10


@pytest.mark.sampled
@each_source
@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_the_last_inputs_are_named_wherever_a_batch_is_full(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, site: Site
) -> None:
    monkeypatch.setattr(interface, "TASK_S", seconds)
    half = TASK_NAMES // 2 + 1
    tree = write_tree(tmp_path / "t", {f"{n // half}/{n}": b"" for n in range(2 * half)})
    paths = [f"{tree}/{n // half}/{n}" for n in range(2 * half)]
    files, outcomes = named(make(paths).batches())
    assert (sorted(files), outcomes) == (sorted(paths), [])


@pytest.mark.sampled
@each_source
def test_listing_goes_no_further_than_it_is_asked_to(
    make: Make, tmp_path: Path, site: Site
) -> None:
    """A caller that stops in the middle leaves no directory open."""
    tree = write_tree(tmp_path / "t", {f"{n}": b"" for n in range(3 * TASK_NAMES)})
    source = make([f"{tree}/{n}" for n in range(3 * TASK_NAMES)])
    before = open_files()
    items = source.batches()
    assert not isinstance(next(items), Outcome)
    if isinstance(source, Bucket):  # the server has open files in this process
        assert source.pages_asked == 1
        return
    del items
    assert open_files() == before


def of(data: bytes, *, null: bool = False, exclude: tuple[str, ...] = ()) -> Names:
    return Names(opened(data), "-", null=null, exclude=exclude)


def reasons(outcomes: list[Outcome]) -> dict[str, tuple[Kind, str | None]]:
    return {o.path: (o.kind, o.reason) for o in outcomes}


def test_names_are_taken_byte_for_byte() -> None:
    files, outcomes = named(of(b"a\n./b\n/c/d\n\n e \n#f\n\xff\xfe\nlast").batches())
    assert files == ["a", "./b", "/c/d", " e ", "#f", "\udcff\udcfe", "last"]
    assert outcomes == []
    files, outcomes = named(of(b"a\nb\0c\r\0\0d", null=True).batches())
    assert (files, outcomes) == (["a\nb", "c\r", "d"], [])


def test_a_name_that_may_mean_two_files_is_unread() -> None:
    long = b"x" * (MAX_NAME_BYTES + 1)
    files, outcomes = named(of(b"a\r\nb\0c\n" + long + b"\nd/\ne\n", exclude=("e",)).batches())
    assert files == []
    assert reasons(outcomes) == {
        "a\r": (Kind.UNREAD, module.CR_AT_END),
        "b␀c": (Kind.UNREAD, module.NUL_IN_LINE),
        "x" * 256 + "…": (Kind.UNREAD, module.TOO_LONG),
        "d/": (Kind.UNREAD, module.DIRECTORY),
        "e": (Kind.SKIPPED, "excluded"),
    }


def test_of_a_name_without_end_only_the_beginning_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    data = b"a\n" + b"x" * (5 * MAX_NAME_BYTES) + b"\nb\n" + b"y" * 999 + b"\nc"
    files, outcomes = named(of(data).batches())
    assert files == ["a", "b", "y" * 999, "c"]
    assert [o.reason for o in outcomes] == [module.TOO_LONG]


@pytest.mark.slow
def test_a_list_that_fails_on_the_way_is_unread_and_hides_nothing(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    files, outcomes = named(Names(directory, "list").batches())
    assert files == []
    assert reasons(outcomes) == {"list": (Kind.UNREAD, "list of names: is a directory")}
    listed = tmp_path / "list"
    listed.write_bytes(b"a/1\n" * 200_000)
    items = Names(os.open(listed, os.O_RDONLY), "list").batches()
    next(items)
    with listed.open("r+b") as stream:
        stream.truncate(400_000)
    files, outcomes = named(items)
    assert reasons(outcomes) == {"list": (Kind.UNREAD, f"list of names: {module.CUT_SHORT}")}
    assert len(files) >= 100_000 - 2 * TASK_NAMES


def test_a_pipe_that_has_nothing_yet_is_not_at_its_end() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    writer = subprocess.Popen(["sh", "-c", "sleep 0.2; echo late"], stdout=theirs)
    os.close(theirs)
    assert named(Names(ours, "-").batches()) == (["late"], [])
    assert writer.wait() == 0


name = st.binary(min_size=1, max_size=8).filter(lambda raw: b"\0" not in raw and raw[-1:] != b"/")


@given(st.lists(name, max_size=30), st.integers(1, 9))
def test_any_names_come_back_however_they_are_cut(listed: list[bytes], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk)
        files, outcomes = named(of(b"\0".join(listed), null=True).batches())
    expected = [join(*os.path.split(os.fsdecode(raw))) for raw in listed]
    assert (files, outcomes) == (expected, [])


FLAT = """
import os, sys
from hashclient.scan.sources.names import Names
count = 0
for item in Names(0, "-", null=True).batches():
    count += sum(len(group.names) for group in item)
print(count)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_names() -> None:
    """The test lists a million names with no more memory than at the beginning."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, 64 << 20))

    done = subprocess.run(
        [sys.executable, "-c", FLAT],
        input=b"".join(b"a/directory/of/some/depth/%d\0" % n for n in range(1_000_000)),
        env=environment(OPENBLAS_NUM_THREADS="1"),
        capture_output=True,
        preexec_fn=limit,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"1000000\n"
