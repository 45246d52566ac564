"""When the inventory may believe a file: changes without a new time, media that look alike.

The file systems are real, so only root can run these tests. Times are real, and days are set.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hashclient.core.kinds import Algorithm
from hashclient.scan.cache import cache
from hashclient.scan.check import judging, reading
from hashclient.scan.sources import finding_again
from hashclient.system import filesystems, identity
from hashclient.system.identity import Facts, Identities, Identity
from hashclient.system.leases import is_unwritable, keeps_out
from tests.disks import Map, disk, make_image, mounted, needs_mounts, tool
from tests.kit import Run, call, csv_of, is_python_for_all, make_state, write_tree

LISTED = b"listed"
BENIGN = b"benign"
DAYS = cache.REREAD_DAYS
#: The number of an account that does not exist.
NOBODY = 65_534

pytestmark = needs_mounts


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state whose entry has no size, so that every file is read."""
    rows = csv_of({"e-1": LISTED}, algorithms=(Algorithm.SHA1,), sized=False)
    state = make_state(tmp_path_factory.mktemp("site"), {"base": rows})
    provider = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'
    (state / "config.toml").write_text(provider)
    return state


@pytest.fixture
def state(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FRESH_NS", "FRESH_PROVEN_NS", "COARSE_NS"):
        monkeypatch.setattr(cache, name, 0)
    return Path(shutil.copytree(template, tmp_path / "state"))


@pytest.fixture
def set_day(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_day(day: int) -> None:
        for module in (cache, judging):
            monkeypatch.setattr(module, "today", lambda: day)

    return set_day


def scan(state: Path, tree: Path, *args: object) -> Run:
    settle(tree)
    return call("--state-dir", state, "scan", "--format", "jsonl", "--jobs", "1", *args, tree)


def settle(tree: Path) -> None:
    """Wait for the next tick of the file system's clock, so that each change gets another time."""
    probe = tree.parent / "probe"
    probe.write_bytes(b"")
    first = probe.stat().st_ctime_ns
    while time.clock_gettime_ns(finding_again._COARSE_CLOCK) <= first:
        pass


def rests_on(result: Run) -> tuple[int, int, int]:
    """Return the numbers of files that were read, known unchanged, and only believed unchanged."""
    summary = result.summary
    return summary["files_read"], summary["known_unchanged"], summary["believed_unchanged"]


def times(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def codes_of_days(
    state: Path, tree: Path, set_day: Callable[[int], None], first: int
) -> list[int | None]:
    """Scan each day until all believed files have been read again, and return the exit codes."""
    codes: list[int | None] = []
    for day in range(first, first + DAYS + 1):
        set_day(day)
        codes.append(scan(state, tree).code)
    return codes


# Writers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "btrfs", "xfs", "tmpfs"])
def test_a_store_through_a_map_made_before_is_seen(state: Path, tmp_path: Path, kind: str) -> None:
    with disk(tmp_path, kind) as tree:
        path = tree / "f"
        path.write_bytes(BENIGN)
        stored = Map(path)
        stored.store(BENIGN)
        before = times(path)
        assert scan(state, tree).code == 0
        stored.store(LISTED)
        os.sync()
        assert times(path) == before
        assert scan(state, tree).code == 10
        stored.close()
        assert times(path) == before
        assert scan(state, tree).code == 10


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_store_through_a_map_made_later_shows(state: Path, tmp_path: Path, kind: str) -> None:
    with disk(tmp_path, kind) as tree:
        path = tree / "f"
        path.write_bytes(BENIGN)
        assert rests_on(scan(state, tree)) == (1, 0, 0)
        stored = Map(path)
        assert stored.read() == BENIGN
        assert rests_on(scan(state, tree)) == (0, 1, 0)
        stored.store(LISTED)
        assert scan(state, tree).code == 10
        stored.close()


def test_a_map_of_memory_that_is_made_later_is_seen(state: Path, tmp_path: Path) -> None:
    """If a map is read first, its page becomes writable, and a store sets no time."""
    with disk(tmp_path, "tmpfs") as tree:
        path = tree / "f"
        path.write_bytes(BENIGN)
        assert rests_on(scan(state, tree)) == (1, 0, 0)
        before, stored = times(path), Map(path)
        assert stored.read() == BENIGN
        stored.store(LISTED)
        assert times(path) == before
        assert scan(state, tree).code == 10
        stored.close()


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "xfs"])
def test_a_file_that_is_open_for_writing_is_not_remembered(
    state: Path, tmp_path: Path, kind: str
) -> None:
    with disk(tmp_path, kind) as tree:
        path = tree / "f"
        path.write_bytes(BENIGN)
        fd = os.open(path, os.O_WRONLY)
        for _ in range(2):
            assert rests_on(scan(state, tree)) == (1, 0, 0)
        os.close(fd)
        assert rests_on(scan(state, tree)) == (1, 0, 0)
        assert rests_on(scan(state, tree)) == (0, 1, int(kind == "xfs"))


def test_a_file_that_is_opened_while_it_is_read_is_not_remembered_as_it_was(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write ends the lease before the record is made, so the next scan finds another mtime."""
    maps: list[Map] = []

    read = os.readv

    def watched(fd: int, buffers: list[memoryview]) -> int:
        if not maps:
            maps.append(Map(tree / "f"))
            maps[0].store(BENIGN)
        return read(fd, buffers)

    # No lease is kept while a long file is read; with this limit, the file counts as long.
    monkeypatch.setattr(reading, "HELD_BYTES", 0)
    with disk(tmp_path, "ext4") as tree:
        (tree / "f").write_bytes(BENIGN)
        settle(tree)
        monkeypatch.setattr(os, "readv", watched)
        assert rests_on(scan(state, tree)) == (1, 0, 0)
        before = times(tree / "f")
        maps[0].store(LISTED)
        assert times(tree / "f") == before
        assert scan(state, tree).code == 10
        maps[0].close()


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_proven_file_does_not_age(
    state: Path, tmp_path: Path, kind: str, set_day: Callable[[int], None]
) -> None:
    with disk(tmp_path, kind) as tree:
        (tree / "f").write_bytes(BENIGN)
        set_day(1000)
        assert rests_on(scan(state, tree)) == (1, 0, 0)
        set_day(9000)
        result = call("--state-dir", state, "scan", tree)
    assert "1 known unchanged\n" in result.out + result.err


# Believed files


@pytest.mark.slow
def test_believed_files_are_counted_and_read_again_within_days(
    state: Path, tmp_path: Path, set_day: Callable[[int], None]
) -> None:
    with disk(tmp_path, "xfs") as tree:
        for number in range(DAYS):
            (tree / f"f{number}").write_bytes(BENIGN)
        set_day(1000)
        assert rests_on(scan(state, tree)) == (DAYS, 0, 0)
        assert rests_on(scan(state, tree)) == (0, DAYS, DAYS)
        shares = []
        for day in range(1001, 1001 + 3 * DAYS):
            set_day(day)
            read, known, believed = rests_on(scan(state, tree))
            assert read + known == DAYS and known == believed
            shares.append(read)
        # Each file is read once in `DAYS` days, and the reads are spread over the days.
        assert shares == shares[:DAYS] * 3
        assert sum(shares[:DAYS]) == DAYS
        assert max(shares) < DAYS / 2
        assert rests_on(scan(state, tree, "--no-inventory")) == (DAYS, 0, 0)
    assert "believed unchanged" not in call("--state-dir", state, "status").out


def test_status_and_metrics_count_what_the_last_scan_believed(state: Path, tmp_path: Path) -> None:
    with disk(tmp_path, "xfs") as tree:
        write_tree(tree, {"f": BENIGN, "g": LISTED})
        scan(state, tree)
        text = call("--state-dir", state, "scan", tree)
        assert "; 2 known unchanged, 2 of them believed unchanged\n" in text.out + text.err
    said = "exit code 10, 2 files believed unchanged\n"
    assert said in call("--state-dir", state, "status").out
    document = json.loads(call("--state-dir", state, "status", "--format", "json").out)
    assert document["last_scan"]["believed_unchanged"] == 2
    metrics = call("--state-dir", state, "status", "--format", "prometheus").out
    assert "\nhashclient_last_scan_believed_unchanged 2.0\n" in metrics
    stats = call("--state-dir", state, "inventory", "stats", "--format", "json")
    assert json.loads(stats.out)["believed"] == 2


@pytest.mark.parametrize(("days", "code"), [(0, 10), (3650, 0)])
def test_for_how_long_is_a_matter_of_the_configuration(
    state: Path, tmp_path: Path, set_day: Callable[[int], None], days: int, code: int
) -> None:
    with (state / "config.toml").open("a") as config:
        config.write(f"\n[inventory]\nreread_days = {days}\n")
    with disk(tmp_path, "xfs") as tree:
        write_tree(tree, {"a": BENIGN, "b": LISTED})
        set_day(1000)
        assert scan(state, tree / "a").code == 0
        exchange(tree)
        assert scan(state, tree / "a").code == code


def exchange(tree: Path) -> None:
    """Exchange the contents of `a` and `b` on xfs, which keeps their times."""
    a, b = (os.open(tree / name, os.O_RDWR) for name in ("a", "b"))
    for fd in (a, b):
        os.fdatasync(fd)
    try:
        buffer = ctypes.create_string_buffer(136)
        inode, count = ctypes.c_uint64(os.fstat(a).st_ino), ctypes.c_int32()
        places = (ctypes.addressof(inode), 1, ctypes.addressof(buffer), ctypes.addressof(count))
        fcntl.ioctl(a, 0xC0205866, struct.pack("=QiIQQ", *places[:2], 0, *places[2:]))
        length = os.fstat(a).st_size
        request = struct.pack("=qqqqq16x", 0, a, b, 0, length) + buffer.raw
        fcntl.ioctl(a, 0xC0C0586D, bytearray(request))
    except OSError as error:
        pytest.skip(f"no exchange of extents here: {error.strerror}")
    finally:
        os.close(a)
        os.close(b)


def test_contents_that_are_exchanged_on_xfs_are_read_within_days(
    state: Path, tmp_path: Path, set_day: Callable[[int], None]
) -> None:
    with disk(tmp_path, "xfs") as tree:
        write_tree(tree, {"a": BENIGN, "b": LISTED})
        set_day(1000)
        assert scan(state, tree / "a").code == 0
        before = times(tree / "a")
        exchange(tree)
        assert (tree / "a").read_bytes() == LISTED
        assert times(tree / "a") == before
        assert 10 in codes_of_days(state, tree / "a", set_day, 1000)


@pytest.mark.slow
def test_a_map_through_overlay_proves_nothing(
    state: Path, tmp_path: Path, set_day: Callable[[int], None]
) -> None:
    """The scanned file has no writer, because the map belongs to the file in the lower layer."""
    with disk(tmp_path, "ext4") as below:
        layers = [below / name for name in ("lower", "upper", "work")]
        for layer in layers:
            layer.mkdir()
        names = zip(("lowerdir", "upperdir", "workdir"), layers, strict=True)
        options = ",".join(f"{name}={layer}" for name, layer in names)
        with mounted("-t", "overlay", "-o", options, "overlay", tmp_path / "o") as tree:
            (tree / "f").write_bytes(BENIGN)
            stored = Map(tree / "f")
            stored.store(BENIGN)
            set_day(1000)
            before = times(tree / "f")
            assert scan(state, tree).code == 0
            fd = os.open(tree / "f", os.O_RDONLY)
            assert is_unwritable(fd) and not keeps_out(fd)
            os.close(fd)
            stored.store(LISTED)
            assert times(tree / "f") == before
            assert rests_on(scan(state, tree)) == (0, 1, 1)
            assert 10 in codes_of_days(state, tree, set_day, 1000)
            stored.close()


def as_nobody(work: Callable[[], object]) -> object:
    """Call a function in a process of another account without capabilities; return its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return json.loads(told)


def test_another_s_file_without_the_capability_is_believed(
    state: Path, tmp_path: Path, set_day: Callable[[int], None]
) -> None:
    """The kernel grants an account a lease only for its own files, so others are believed."""
    with tempfile.TemporaryDirectory() as name, disk(tmp_path, "ext4") as tree:
        Path(name).chmod(0o755)
        theirs = Path(shutil.copytree(state, Path(name, "state")))
        where = Path(name, "m")
        where.mkdir()
        subprocess.run(["mount", "--bind", tree, where], check=True)
        try:
            write_tree(where, {"roots": BENIGN, "own": BENIGN})
            for path in (theirs, *theirs.rglob("*"), where / "own"):
                os.chown(path, NOBODY, NOBODY)
            settle(tree)
            command = ("--state-dir", theirs, "scan", "--format", "jsonl", "--jobs", "1", where)
            set_day(1000)

            def scanned() -> object:
                result = call(*command)
                return result.code, rests_on(result)

            (where / "lost+found").rmdir()
            assert as_nobody(scanned) == [0, [2, 0, 0]]
            assert as_nobody(scanned) == [0, [0, 2, 1]]
        finally:
            subprocess.run(["umount", where], check=True)


def test_the_capability_of_the_unit_is_enough(tmp_path: Path) -> None:
    """The account that scans has only CAP_LEASE, besides permission to read."""
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv")
    if not is_python_for_all():
        pytest.skip("another account cannot run this Python")
    with disk(tmp_path, "ext4") as tree:
        path = write_tree(tree, {"f": BENIGN}) / "f"
        fd = os.open(path, os.O_RDONLY)
        code = "import sys\nfrom hashclient.system.leases import is_unwritable\n"
        code += "print(is_unwritable(int(sys.argv[1])))"
        told = []
        for capability in ("+lease", "-lease"):
            who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
            caps = ["--inh-caps", f"-all,{capability}", "--ambient-caps", f"-all,{capability}"]
            done = subprocess.run(
                ["setpriv", *who, *caps, sys.executable, "-c", code, str(fd)],
                pass_fds=[fd],
                capture_output=True,
                text=True,
                check=False,
            )
            told.append(done.stdout.strip() or done.stderr)
        os.close(fd)
    assert told == ["True", "None"]


# The identity of file systems


def test_media_in_turn_on_one_device_are_distinguished(state: Path, tmp_path: Path) -> None:
    """The media are distinguished even if both have the same UUID and each status is the same."""
    where, statuses = tmp_path / "m", []
    done = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no loop device here")
    device = done.stdout.strip()
    for content, code in ((BENIGN, 0), (LISTED, 10)):
        source = write_tree(tmp_path / content.decode(), {"f": content})
        uuid = "5f1c6f3e-9d1b-4b7e-8a55-0a3a6d2f4c11"
        image = make_image(tmp_path / "image", "ext4", "-U", uuid, "-d", source)
        for field in ("mtime", "ctime"):
            tool("debugfs", "-w", "-R", f"set_inode_field f {field} @1500000000", image)
            tool("debugfs", "-w", "-R", f"set_inode_field f {field}_extra 0", image)
        with mounted("-o", f"loop={device},ro", image, where):
            status = (where / "f").stat()
            statuses.append((status.st_dev, status.st_ino, status.st_ctime_ns))
            result = scan(state, where)
        assert (result.code, rests_on(result)[1]) == (code, 0)
    assert len(set(statuses)) == 1


class BuiltIn(Facts):
    """Facts of this machine, except that every disk counts as built in and not as removable."""

    def disk_name(self, path: Path) -> bytes | None:
        return b""


def identity_at(path: Path, facts: Facts | None = None) -> Identity | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return Identities(facts).of(fd, os.fstat(fd).st_dev)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "xfs"])
def test_a_disk_that_is_built_in_is_known_when_it_is_mounted_again(
    tmp_path: Path, kind: str
) -> None:
    image = make_image(tmp_path / "image", kind)
    found: dict[bool, list[Identity | None]] = {True: [], False: []}
    for _ in range(2):
        with mounted("-o", "loop", image, tmp_path / "m") as tree:
            found[False].append(identity_at(tree))
            found[True].append(identity_at(tree, BuiltIn()))
    one, other = found[True]
    assert one is not None and other is not None and one.number == other.number
    assert (one.proves, one.is_local) == (kind != "xfs", True)
    # Without built-in disks, each mount of the loop device gets a new identity.
    loops = found[False]
    assert None not in loops and len({one, *loops}) == 3


def test_an_earlier_kernel_says_the_uuid_of_xfs_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path, "xfs") as tree:
        fd = os.open(tree, os.O_RDONLY)
        said = identity._asked_uuid(fd, filesystems.XFS)
        monkeypatch.setattr(identity, "_GET_UUID", 0)
        assert identity._asked_uuid(fd, filesystems.XFS) == said and any(said)
        assert identity._asked_uuid(fd, filesystems.EXT) == b""
        os.close(fd)


def test_a_snapshot_is_another_file_system_than_its_source(tmp_path: Path) -> None:
    """A snapshot of a built-in disk is also distinguished, whichever snapshot is in its place."""
    with disk(tmp_path, "btrfs") as top:
        tool("btrfs", "subvolume", "create", top / "sub")
        tool("btrfs", "subvolume", "snapshot", top / "sub", top / "one")
        first = [identity_at(top / name, BuiltIn()) for name in ("", "sub", "one")]
        tool("btrfs", "subvolume", "delete", top / "one")
        tool("btrfs", "subvolume", "snapshot", top / "sub", top / "one")
        second = [identity_at(top / name, BuiltIn()) for name in ("", "sub", "one")]
    assert None not in first and len(set(first)) == 3
    assert second[:2] == first[:2]
    assert second[2] not in first


@pytest.mark.slow
def test_a_subvolume_that_gets_the_number_of_another_is_another_one(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of subvolumes are reused after a mount, and snapshots keep earlier times."""
    monkeypatch.setattr(identity, "_disk_name", lambda _: b"")
    image = make_image(tmp_path / "image", "btrfs")

    def known_by(path: Path) -> tuple[int, ...]:
        status = (path / "f").stat()
        number = os.statvfs(path).f_fsid
        return number, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    with mounted("-o", "loop,commit=1", image, tmp_path / "m") as top:
        contents = {top / "kept": LISTED, top / "scanned": BENIGN}
        for path in contents:
            tool("btrfs", "subvolume", "create", path)
        for _ in range(20):  # until both subvolumes have changed within one tick of the clock
            for path, content in contents.items():
                (path / "f").unlink(missing_ok=True)
                # The test does not use `open`, which calls `stat`: a later change would then get a
                # finer time.
                fd = os.open(path / "f", os.O_WRONLY | os.O_CREAT)
                os.write(fd, content)
                os.utime(fd, ns=(0, 0))
                os.close(fd)
            if len({(path / "f").stat().st_ctime_ns for path in contents}) == 1:
                break
        else:
            pytest.skip("the clock of files is too fine here")
        before = known_by(top / "scanned")
        assert scan(state, top / "scanned").code == 0
        assert rests_on(scan(state, top / "scanned")) == (0, 1, 0)
        tool("btrfs", "subvolume", "delete", top / "scanned")
        tool("btrfs", "subvolume", "sync", "-s", "1", top)
    with mounted("-o", "loop", image, tmp_path / "m") as top:
        tool("btrfs", "subvolume", "snapshot", top / "kept", top / "scanned")
        assert known_by(top / "scanned") == before
        assert scan(state, top / "scanned").code == 10


def test_where_mounts_have_no_number_of_their_own_nothing_is_remembered(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.8 has no unique numbers of mounts."""
    monkeypatch.setattr(identity, "_statx", lambda: None)
    with disk(tmp_path, "ext4") as tree:
        (tree / "f").write_bytes(BENIGN)
        assert identity_at(tree) is None
        for _ in range(2):
            assert rests_on(scan(state, tree)) == (1, 0, 0)


def test_a_file_system_that_the_inventory_does_not_use_has_no_name(tmp_path: Path) -> None:
    assert not filesystems.keeps_ctime(0x01021994)
    with disk(tmp_path, "tmpfs") as tree:
        assert identity_at(tree) is None
