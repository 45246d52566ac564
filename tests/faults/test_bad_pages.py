"""Pages of an index that cannot be read: commands end with a message; a rebuild repairs it.

Some files are truncated behind the map by a hook in the process under test. Other indexes are on a
real btrfs file system whose disk has a bad block. btrfs sees by its checksums that the block has
changed, and answers with EIO for a read and SIGBUS for a map, as with a failing disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from fixtures.client import Client
from hashclient.system.layout import STAGING_NAME
from hashclient.system.process import BAD_PAGE
from tests.attack_world import ALL, NEW, Generations
from tests.kit import (
    Run,
    Site,
    checked,
    csv_of,
    digests_of,
    edit_manifest,
    environment,
    make_state,
    run,
    write_tree,
)

LISTED = b"a file that is listed"
#: Enough entries for a run of many pages. The digests are random, so that the test finds each on
#: the disk.
ENTRIES = {f"e-{n}": b"%d" % n for n in range(3_000)} | {"e-x": LISTED}

#: A script that runs the command and truncates the index when `cut` says so.
HOOKED = """
import os, sys
from hashclient.index import matcher
from hashclient.scan.check import checker
from hashclient.scan.sources import interface, walk
from hashclient.cli.main import main

walk.TASK_NAMES = interface.TASK_NAMES = 1
run, when, *argv = sys.argv[1:]
checking, looking, lookups = checker.Checker.check, matcher.Judge.hits_by_row, []

def check_and_cut(self, task, **options):
    if when == "task" and any("cut" in group.names for group in task):
        os.truncate(run, 0)
    return checking(self, task, **options)

def look_up_and_cut(self, columns, sizes):
    lookups.append(0)
    if when == f"lookup {len(lookups)}":
        os.truncate(run, 0)
    if when == f"memory {len(lookups)}":
        raise MemoryError
    return looking(self, columns, sizes)

checker.Checker.check = check_and_cut
matcher.Judge.hits_by_row = look_up_and_cut
main(argv)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A list whose entries have no size, so that every file is looked up."""
    return make_state(tmp_path / "site", {"base": csv_of(ENTRIES, sized=False)})


def run_of(state: Path, name: str = "base") -> Path:
    (path,) = (state / "lists" / name).glob("run-*")
    return path


def hooked(state: Path, when: str, *args: object, stdin: bytes = b"") -> Run:
    command = [sys.executable, "-c", HOOKED, str(run_of(state)), when, "--state-dir", str(state)]
    done = subprocess.run(
        [*command, *map(str, args)],
        env=environment(),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return checked(Run(done.returncode, done.stdout.decode(), done.stderr.decode()))


def events(state: Path) -> list[str]:
    lines = (state / "audit/log.jsonl").read_text().splitlines()
    return [json.loads(line).get("event") for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "code"), [(LISTED, 11), (b"clean", 8)])
def test_a_worker_that_cannot_read_the_index_ends_the_scan(
    state: Path, tmp_path: Path, first: bytes, code: int
) -> None:
    """The scan ends at once; earlier outcomes are recorded, and the summary is written."""
    names = [write_tree(tmp_path / "1", {"f": first}), write_tree(tmp_path / "2", {"g": b""})]
    rest = [write_tree(tmp_path / f"r{n}", {"cut": b"x" * n, "f": b""}) for n in range(40)]
    result = hooked(
        state, "task", "scan", "--jobs", "1", "--no-inventory", "--format", "jsonl", *names, *rest
    )
    assert (result.code, result.summary["exit_code"]) == (code, code)
    assert BAD_PAGE in result.err
    assert "fetch --rebuild" in result.err
    assert result.summary["match"] == (1 if first == LISTED else 0)
    assert result.summary["unread"] == 0
    assert result.summary["inputs"] < 40
    assert events(state)[-1] == "scan-end"
    recorded = run("--state-dir", state, "matches", "--format", "jsonl").lines
    assert [line["path"] for line in recorded] == [f"{names[0]}/f"] * (first == LISTED)


@pytest.mark.slow
def test_a_scan_without_workers_ends_in_words(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"cut": b"x"})
    result = hooked(state, "task", "scan", "--no-inventory", tree)
    assert (result.code, result.out) == (8, "")
    assert result.err.startswith(f"hashclient: error: {BAD_PAGE}\nhint: ")


@pytest.mark.sampled
@pytest.mark.parametrize(("first", "code"), [(LISTED, 11), (b"clean", 8)])
def test_a_lookup_ends_in_words_and_hides_no_match(state: Path, first: bytes, code: int) -> None:
    """The digest in the argument is looked up before the digests in the file."""
    given, later = digests_of(first)[2], digests_of(b"other")[2]
    result = hooked(state, "lookup 2", "lookup", given, "--from", "-", stdin=later.encode())
    assert result.code == code
    assert BAD_PAGE in result.err


@pytest.mark.slow
@pytest.mark.parametrize(("first", "code"), [(LISTED, 11), (b"clean", 8)])
def test_memory_that_runs_out_hides_no_match(state: Path, first: bytes, code: int) -> None:
    given, later = digests_of(first)[2], digests_of(b"other")[2]
    result = hooked(
        state,
        "memory 2",
        *("lookup", "--format", "jsonl", given, "--from", "-"),
        stdin=later.encode(),
    )
    assert (result.code, result.summary["exit_code"]) == (code, code)
    assert result.summary["match"] == (1 if first == LISTED else 0)
    assert "there is not enough memory" in result.err


# A real disk with a bad block


class RottenDisk:
    """A btrfs file system on a loop device, whose blocks can be made bad."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "disk"
        self.mount_point = directory / "mounted"
        self.mount_point.mkdir()
        with self._image.open("wb") as stream:
            stream.truncate(120 << 20)
        self._must("mkfs.btrfs", "-q", "-d", "single", "-m", "single", self._image)

    @staticmethod
    def _must(*command: object) -> None:
        done = subprocess.run([str(c) for c in command], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"{command[0]}: {done.stderr.decode().strip()}")

    def mount(self) -> None:
        # Small files need their own data blocks, too.
        self._must("mount", "-o", "loop,max_inline=0", self._image, self.mount_point)

    def unmount(self) -> None:
        subprocess.run(["umount", self.mount_point], check=True)

    def rot(self, path: Path, offset: int = 0) -> None:
        """Damage the blocks of a file from `offset` on, except for blocks that other files use."""
        content = path.read_bytes()
        self.unmount()
        bad = next_place = 0
        with self._image.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as image:
            for start in range(offset, len(content), 4096):
                block = content[start : start + 4096]
                if len(set(block)) > 32:  # the block is random enough to be found in the image
                    # Blocks of a file nearly always follow each other in the image. Search only if
                    # this block does not.
                    if image[next_place : next_place + len(block)] != block:
                        next_place = image.find(block)
                    image[next_place : next_place + 8] = bytes(byte ^ 0xFF for byte in block[:8])
                    bad += 1
                next_place += 4096
        assert bad
        self.mount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[RottenDisk]:
    if os.geteuid() or shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs root and btrfs")
    made = RottenDisk(tmp_path)
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


@contextlib.contextmanager
def site_on(disk: RottenDisk, directory: Path, entries: Mapping[str, bytes]) -> Iterator[Site]:
    with Site(directory) as site:
        site.state = disk.mount_point / "state"
        site.publish(csv_of(entries, sized=False))
        assert site.call(*site.init_arguments()).code == 0
        assert site.call("fetch").code == 0
        yield site


@pytest.mark.slow
@pytest.mark.parametrize("place", ["all", "all but the header"])
def test_a_bad_block_is_said_and_mended(disk: RottenDisk, tmp_path: Path, place: str) -> None:
    tree = write_tree(tmp_path / "tree", {"a": LISTED, "b": b"clean"})
    with site_on(disk, tmp_path / "site", ENTRIES) as site:
        path = run_of(site.state, "baseline")
        disk.rot(path, 0 if place == "all" else 4096)
        before = path.stat().st_ino
        # Each command runs in a process, because the process may die; its message says what helps.
        for args in (["scan", tree], ["lookup", *digests_of(b"clean")]):
            result = site.run(*args)
            assert result.code == 8, args
            assert "fetch --rebuild" in result.err, args
        status = site.call("status", "--verify")
        assert status.code == 8
        assert "list baseline" in status.out  # `status` continues with the parts that it can read
        assert "fetch --rebuild" in status.out
        rebuilt = site.call("fetch", "--rebuild")
        assert (rebuilt.code, "built again" in rebuilt.out) == (0, True)
        assert run_of(site.state, "baseline").stat().st_ino != before
        assert site.call("status", "--verify").code == 0
        assert site.call("scan", tree).code == 10


@pytest.mark.slow
def test_a_fetch_finds_a_bad_block_and_the_next_mends(disk: RottenDisk, tmp_path: Path) -> None:
    """The fetch reads without a map, so the bad block only makes the list unusable."""
    tree = write_tree(tmp_path / "tree", {"a": LISTED})
    with site_on(disk, tmp_path / "site", ENTRIES) as site:
        path = run_of(site.state, "baseline")
        disk.rot(path, 4096)
        (path.parent / "checks.json").unlink()
        edit_manifest(site.state, "baseline", verified_at="2020-01-01T00:00:00Z")
        found = site.run("fetch")
        assert found.code == 8
        assert "cannot read index file" in found.err and "fetch --rebuild" in found.err
        scanned = site.run("scan", tree)
        # No scan reads the bad page again.
        assert (scanned.code, BAD_PAGE in scanned.err) == (8, False)
        assert site.run("fetch").code == 0
        assert site.call("status", "--verify").code == 0
        assert site.call("scan", tree).code == 10


@pytest.mark.slow
def test_a_bad_block_of_a_manifest_is_said_and_mended(disk: RottenDisk, tmp_path: Path) -> None:
    with site_on(disk, tmp_path / "site", ENTRIES) as site:
        path = site.state / "lists/baseline/manifest.json"
        disk.rot(path)
        with pytest.raises(OSError, match="Input/output error"):
            path.read_bytes()
        scanned = site.call("scan", write_tree(tmp_path / "tree", {"a": LISTED}))
        assert scanned.code == 8
        assert "run `hashclient fetch`" in scanned.err + scanned.out
        assert site.call("fetch").code == 0
        assert site.call("scan", tmp_path / "tree").code == 10


@pytest.mark.slow
def test_a_bad_block_among_known_good_files_is_mended(disk: RottenDisk, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text("".join(f"{digests_of(b'good %d' % n)[2]}  f\n" for n in range(1_000)))
    with Site(tmp_path / "site") as site:
        site.state = disk.mount_point / "state"
        site.publish(csv_of(ENTRIES))
        assert site.call(*site.init_arguments("--known-good", good)).code == 0
        assert site.call("fetch").code == 0
        (path,) = (site.state / "known-good").glob("run-*")
        disk.rot(path)
        found = site.call("status", "--verify")
        assert found.code == 8
        assert "fetch --rebuild" in found.out
        assert site.call("fetch", "--rebuild").code == 0
        assert site.call("status", "--verify").code == 0


def test_a_rebuild_goes_on_from_nothing(world: Generations, client: Client) -> None:
    """The unreadable files may also belong to an unfinished build."""
    world.simulator.files = dict(world.served[3])
    directory = client.settings.layout.lists / "baseline"
    manifest = client.manifest()
    assert manifest is not None
    index = world.simulator.files[world.simulator.target_path("index.json")]
    index_hash = hashlib.sha256(index).hexdigest()
    partial = msgspec.structs.replace(manifest, index_hash=index_hash)
    staging = {"segments": 1, "fresh": True, "partial": msgspec.to_builtins(partial)}
    (directory / STAGING_NAME).write_bytes(msgspec.json.encode(staging))
    old = {f"{directory / run.name}" for run in manifest.runs}
    opened: list[str] = []

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and hearing:
            opened.append(str(arguments[0]))

    hearing = True
    sys.addaudithook(hear)
    try:
        (fetched,) = client.fetch(rebuild=True)
    finally:
        hearing = False
    assert fetched.generation == 3
    assert f"{directory}/manifest.json" in opened
    assert not old & set(opened)
    assert client.numbers(ALL) == NEW
