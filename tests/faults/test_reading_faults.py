"""Files that fail on reading, and false sizes: real FUSE, sysfs, and a rotten block.

A file that was not read to its end is unread; unreliable sizes are not used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fixtures import archives
from fixtures.faulty_fs import File, mounted, why_not
from hashclient.core.digests import LONGER, SHORTER
from hashclient.core.kinds import Algorithm
from hashclient.scan.cache import cache
from tests.kit import Run, call, csv_of, make_state, write_tree

#: More bytes than one read of a FUSE server returns, and fewer than the buffer's size.
LONG = bytes(range(256)) * 800
LISTED = {"e-1": b"listed", "e-2": LONG, "e-3": LONG[:102_400]}
#: The number of a user; the tests run as root.
STRANGER = 4321

needs_fuse = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state whose entries have sizes, so that most files need not be read."""
    return make_state(tmp_path_factory.mktemp("sized"), {"base": csv_of(LISTED)})


@pytest.fixture(scope="module")
def unsized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state whose entries have no sizes, so that every file is read."""
    rows = csv_of(LISTED, algorithms=(Algorithm.SHA1,), sized=False)
    return make_state(tmp_path_factory.mktemp("unsized"), {"base": rows})


@pytest.fixture(params=["sized", "unsized"])
def state(request: pytest.FixtureRequest, sized: Path, unsized: Path) -> Path:
    return sized if request.param == "sized" else unsized


def scan(state: Path, *args: object, use_inventory: bool = False) -> Run:
    options = [] if use_inventory else ["--no-inventory"]
    return call("--state-dir", state, "scan", "--format", "jsonl", "--show-all", *options, *args)


def found(result: Run) -> dict[str, str]:
    """Return the outcome of each input by its name: its kind, or the reason why it is unread."""
    return {Path(line["path"]).name: line.get("reason", line["type"]) for line in result.lines[:-1]}


@contextlib.contextmanager
def fuse(directory: Path, files: Mapping[str, File], user_id: int = 0) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    with mounted(directory, files, user_id=user_id) as where:
        yield where


# The end of a file


@pytest.mark.slow
@needs_fuse
@pytest.mark.parametrize("user_id", [0, STRANGER])
def test_a_short_read_is_not_the_end_of_a_file(state: Path, tmp_path: Path, user_id: int) -> None:
    files = {"f": File(LONG, gives=65_536), "g": File(LONG[:-1] + b"!", gives=1000)}
    with fuse(tmp_path / "m", files, user_id) as tree:
        result = scan(state, tree)
    assert found(result) == {"f": "match", "g": "clean"}
    assert result.code == 10


@pytest.mark.slow
@needs_fuse
@pytest.mark.parametrize("gives", [1, 500])
def test_a_container_is_known_however_few_bytes_come_at_a_time(
    state: Path, tmp_path: Path, gives: int
) -> None:
    """The container is recognised by its first bytes and by bytes at its end."""
    small = archives.zip_of({"a": b"listed"})
    kinds = {"gz": archives.gzip_of(b"listed"), "zip": small}
    if gives > 1:
        front = b"\xff\xd8\xff" + bytes(9_000)
        kinds |= {"tar": archives.tar_of({"a": b"listed"}), "behind": front + small}
    with fuse(tmp_path / "m", {n: File(d, gives=gives) for n, d in kinds.items()}) as tree:
        result = scan(state, tree)
    opened = {Path(line["container"]).name for line in result.lines[:-1] if "container" in line}
    assert opened == set(kinds)


@pytest.mark.sampled
@needs_fuse
@pytest.mark.parametrize("user_id", [0, STRANGER])
def test_a_file_that_fails_on_the_way_is_unread(state: Path, tmp_path: Path, user_id: int) -> None:
    """The bytes before the failure may be an entry's content, but they decide nothing."""
    places = (0, 1, 65_536, 102_400, len(LONG) - 1)
    files = {str(n): File(LONG, fails_at=n) for n in places}
    with fuse(tmp_path / "m", files, user_id) as tree:
        result = scan(state, tree)
    assert found(result) == dict.fromkeys(files, "input/output error")
    assert (result.code, result.summary["files_read"]) == (3, 0)


@needs_fuse
def test_a_file_that_ends_before_its_size_is_unread(state: Path, tmp_path: Path) -> None:
    """The file does not agree with its status, so nothing is known about it."""
    files = {
        f"{n}-{gives}": File(LONG, fails_at=n, error=0, gives=gives)
        for n in (0, 1, 102_400, len(LONG) - 1)
        for gives in (None, 65_536)
    }
    with fuse(tmp_path / "m", files) as tree:
        result = scan(state, tree)
    assert found(result) == dict.fromkeys(files, SHORTER)
    assert (result.code, result.summary["files_read"]) == (3, 0)


@needs_fuse
def test_a_file_that_goes_on_beyond_its_size_is_unread(state: Path, tmp_path: Path) -> None:
    """The claimed size covers only the listed content, but the file has more bytes."""
    sizes = (None, 102_400, 65_536, 1000)
    files = {str(gives): File(LONG, claims=102_400, gives=gives) for gives in sizes}
    with fuse(tmp_path / "m", files) as tree:
        result = scan(state, tree)
    assert found(result) == dict.fromkeys(files, LONGER)
    assert (result.code, result.summary["files_read"]) == (3, 0)


@pytest.fixture
def rotten(tmp_path: Path) -> Iterator[Path]:
    """A btrfs directory with a file `f`, which has the content `LONG` and one rotten block."""
    if os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs root and mkfs.btrfs")
    image, where = tmp_path / "image", tmp_path / "btrfs"
    where.mkdir()
    with image.open("wb") as stream:
        stream.truncate(128 << 20)
    marked = bytearray(LONG)
    marked[102_400:102_416] = mark = b"a rotten block !"
    done = subprocess.run(
        ["mkfs.btrfs", "-q", "--data", "single", "--metadata", "single", image],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0 or mount_loop(image, where) != 0:
        pytest.skip("no btrfs on loop devices here")
    (where / "f").write_bytes(marked)
    (where / "g").write_bytes(b"listed")
    subprocess.run(["umount", where], check=True)
    with image.open("r+b") as stream:
        # The image is read in steps of 1 MiB; the data starts at a block, so no step cuts the
        # searched bytes.
        for start in range(0, 128 << 20, 1 << 20):
            stream.seek(start)
            place = stream.read(1 << 20).find(mark)
            if place >= 0:
                stream.seek(start + place)
                stream.write(b"A")
                break
        else:
            raise AssertionError("the file is not on the disk")
    if mount_loop(image, where) != 0:
        pytest.skip("no btrfs on loop devices here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


def mount_loop(image: Path, where: Path) -> int:
    command: list[str | Path] = ["mount", "-o", "loop", image, where]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_a_rotten_block_leaves_a_file_unread(state: Path, rotten: Path) -> None:
    result = scan(state, rotten)
    assert found(result) == {"f": "input/output error", "g": "match"}
    assert result.code == 11


# Sizes that nothing guarantees


@pytest.mark.slow
@needs_fuse
def test_a_stranger_s_file_is_judged_by_what_comes(sized: Path, tmp_path: Path) -> None:
    claims = (0, 1, 5, 7, 4096, 1 << 20)
    files = {f"f{n}": File(b"listed", claims=n) for n in claims}
    files |= {f"g{n}": File(b"benign", claims=n) for n in claims}
    # A file that claims to have no blocks is not treated as a hole either: it is read.
    files["f-hole"] = File(b"listed", claims=1 << 40, blocks=0)
    with fuse(tmp_path / "m", files, STRANGER) as tree:
        for result in (scan(sized, tree), scan(sized, *(tree / name for name in files))):
            assert found(result) == {n: "match" if n[0] == "f" else "clean" for n in files}
            assert (result.code, result.summary["files_read"]) == (10, len(files))


@needs_fuse
def test_a_size_is_believed_where_the_one_who_scans_has_mounted_it(
    sized: Path, tmp_path: Path
) -> None:
    """Even on a mount of the scanning user, the size 0 may mean that the size is unknown."""
    files = {"a": File(b"benign, long"), "b": File(b"listed"), "zero": File(b"listed", claims=0)}
    with fuse(tmp_path / "m", files) as tree:
        result = scan(sized, tree)
    assert found(result) == {"a": "clean", "b": "match", "zero": "match"}
    assert result.summary["files_read"] == 2


@needs_fuse
def test_a_stranger_s_file_system_may_be_a_single_file(sized: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"benign", "f": b"", "z": b"benign"})
    with mounted(tree / "f", {"": File(b"listed", claims=12345)}, user_id=STRANGER):
        assert found(scan(sized, tree)) == {"a": "clean", "f": "match", "z": "clean"}
        assert found(scan(sized, tree / "f")) == {"f": "match"}


@pytest.mark.sampled
@needs_fuse
@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        # A mount of the scanning user is not trusted for times, because a server can invent them.
        (0, 0, "match"),
        (STRANGER, STRANGER, "match"),
        # Content that was read from another user's mount does not count, and is not remembered.
        (STRANGER, 0, "match"),
        (0, STRANGER, "match"),
    ],
)
def test_facts_from_a_foreign_file_system_do_not_make_a_file_known(
    unsized: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: int,
    then: int,
    expected: str,
) -> None:
    """Device, inode, size and times are equal, but the content differs and was not remembered."""
    for name in ("FRESH_NS", "FRESH_PROVEN_NS"):
        monkeypatch.setattr(cache, name, 0)
    own = Path(shutil.copytree(unsized, tmp_path / "state"))
    devices = set()
    for user_id, content, kind in ((first, b"benign", "clean"), (then, b"listed", expected)):
        with fuse(tmp_path / "m", {"f": File(content)}, user_id) as tree:
            devices.add(tree.stat().st_dev)
            assert found(scan(own, tree, use_inventory=True)) == {"f": kind}
    if len(devices) > 1:
        pytest.skip("another process mounted something meanwhile")


def sysfs_file() -> Path:
    """Return a file of sysfs that has fewer bytes than its size says."""
    for name in ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_seqnum"):
        path = Path(name)
        with contextlib.suppress(OSError):
            if path.stat().st_size != len(path.read_bytes()) > 0:
                return path
    pytest.skip("no such file in sysfs")


def test_files_of_sysfs_are_read_and_judged_by_what_comes(tmp_path: Path) -> None:
    path = sysfs_file()
    state = make_state(tmp_path, {"base": csv_of({"e-1": path.read_bytes(), "e-2": b"other"})})
    result = scan(state, path)
    assert found(result) == {path.name: "match"}
    assert result.code == 10
