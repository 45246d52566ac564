"""Scans under bad conditions: they lose no outcome, do not block, and leave no file behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hashclient.audit import log
from hashclient.core.kinds import Algorithm
from hashclient.scan.values.work import SPARSE, TASK_NAMES, WORKER_DIED
from tests.kit import (
    Run,
    arguments,
    checked,
    csv_of,
    environment,
    fast_directory,
    make_deep_tree,
    make_state,
    members,
    run,
    started,
    wait_until,
    write_tree,
)

LISTED = b"listed"
#: The size of a file that takes longer to read than the test runs.
ENDLESS_BYTES = 1 << 42


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list whose entry has no size, so that every file has to be read."""
    rows = csv_of({"e-1": LISTED}, algorithms=(Algorithm.SHA1,), sized=False)
    return make_state(tmp_path_factory.mktemp("site"), {"base": rows})


@pytest.fixture
def fast() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def scan(state: Path, *args: object, **kwargs: Any) -> Run:
    return run("--state-dir", state, "scan", "--format", "jsonl", *args, **kwargs)


def reasons(result: Run) -> dict[str, str]:
    return {line["path"]: line["reason"] for line in result.lines if "reason" in line}


def sparse(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


@contextlib.contextmanager
def running(state: Path, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Start a scan in a new session, and check at the end that no process of it is left."""
    options = ("--no-inventory", "--sparse")
    with started("--state-dir", state, "scan", "--format", "jsonl", *options, *args) as process:
        yield process


def workers_reading(session: int, name: str) -> set[int]:
    """Return the processes of a session that have read from a file called `name`.

    A worker that has only opened the file may find that it is large, and hand it back.
    """
    found = set()
    for pid in members(session):
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if link.readlink().name == name:
                        place = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
                        if not place.startswith("pos:\t0\n"):
                            found.add(pid)
    return found


# Files and directories


@pytest.mark.slow
def test_pipes_sockets_and_devices_never_block(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"f": LISTED})
    os.mkfifo(tree / "pipe")
    (tree / "link").symlink_to("pipe")
    (tree / "null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        result = scan(state, "--show-all", "--follow-symlinks", tree, "/dev/zero", "/dev/tty")
    assert result.code == 10
    assert reasons(result) == {
        f"{tree}/pipe": "named pipe",
        f"{tree}/link": "named pipe",
        f"{tree}/null": "character device",
        f"{tree}/socket": "socket",
        "/dev/zero": "character device",
        "/dev/tty": "character device",
    }


@pytest.mark.slow
def test_a_file_that_may_not_be_read_is_unread(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"f": LISTED, "no": LISTED, "dir/f": b"", "names/f": b""})
    (tree / "lost").symlink_to("dir/f")
    modes = {"no": 0, "dir": 0, "names": 0o444}
    for name, mode in modes.items():
        (tree / name).chmod(mode)
    result = scan(state, "--follow-symlinks", tree, unprivileged=True)
    for name in modes:
        (tree / name).chmod(0o755)
    assert result.code == 11
    assert result.outcomes[f"{tree}/f"] == "match"
    assert reasons(result) == dict.fromkeys(
        (f"{tree}/no", f"{tree}/dir", f"{tree}/names/f", f"{tree}/lost"), "permission denied"
    )
    assert result.summary["inputs"] == 5


@pytest.mark.slow
def test_a_state_directory_that_cannot_be_written_still_scans(state: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(state, tmp_path / "state"))
    tree = write_tree(tmp_path / "t", {"f": LISTED, "g": b"clean"})
    directories = [own, *(path for path in own.rglob("*") if path.is_dir())]
    for path in own.rglob("*"):
        if path.is_file():
            path.chmod(0o400)
    for path in directories:
        path.chmod(0o500)
    results = [
        run("--state-dir", own, *args, unprivileged=True)
        for args in (["scan", tree], ["scan", tree / "g"], ["lookup", "0" * 40], ["status"])
    ]
    for path in directories:
        path.chmod(0o700)
    # `status` exits with 2 because no provider is configured.
    assert [result.code for result in results] == [11, 9, 9, 2]
    assert f"match     {tree}/f" in results[0].out
    assert all("audit" in result.err for result in results[:3])


@pytest.mark.slow
def test_a_sparse_file_of_more_than_4_gib_is_read_to_its_end(state: Path, fast: Path) -> None:
    path = sparse(fast / "f", 2**32 + 1)
    result = scan(state, "--show-all", "--no-inventory", "--sparse", path)
    assert result.code == 0
    assert result.summary["bytes_read"] == 2**32 + 1
    assert result.lines[0]["size"] == 2**32 + 1


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_file_of_a_terabyte_of_nothing_stalls_no_scan(
    state: Path, tmp_path: Path, jobs: str
) -> None:
    """The file takes no room on the disk, but reading it would take most of an hour."""
    tree = write_tree(tmp_path / "t", {f"d/{n}": b"clean" for n in range(TASK_NAMES)})
    (tree / "d" / "0").write_bytes(LISTED)
    holes = [sparse(tree / name, size) for name, size in (("a", 1 << 40), ("b/c", 2**30 + 1))]
    # Less than one per cent of the file is data; the rest is a hole.
    with holes[0].open("r+b") as stream:
        stream.write(LISTED)
    result = scan(state, "--jobs", jobs, tree)
    assert result.code == 11
    assert reasons(result) == {str(path): SPARSE for path in holes}
    assert result.outcomes[f"{tree}/d/0"] == "match"
    assert result.summary["clean"] == TASK_NAMES - 1


@pytest.mark.slow
def test_sparse_files_are_read_if_configured(state: Path, fast: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[scan]\nsparse = true\n")
    path = sparse(fast / "f", 2**30 + 1)
    assert scan(state, path).code == 3
    assert run("--config", config, "--state-dir", state, "scan", path).code == 0


@pytest.mark.slow
def test_5000_directories_deep_with_few_descriptors(state: Path, fast: Path) -> None:
    make_deep_tree(fast, 5_000)
    few = (100, 100)
    result = scan(
        state,
        *("--show-all", "--jobs", "2", fast),
        preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few),
    )
    assert result.code == 0
    assert set(result.outcomes.values()) == {"clean"}
    assert len(result.outcomes) == 5_000


@pytest.mark.slow
def test_a_mounted_file_system_is_another_one(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"f": b"clean", "mnt/g": b"hidden"})
    script = 'mount -t tmpfs none "$1" && echo listed > "$1/h" && shift && exec "$@"'
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", f"{tree}/mnt"]
    command = arguments("--state-dir", state, "scan", "--format", "jsonl", "--show-all")
    found = []
    for options in ([], ["--one-file-system"]):
        done = subprocess.run(
            [*namespace, *command, *options, str(tree)],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip("no mount namespaces here")
        found.append(checked(Run(done.returncode, done.stdout, done.stderr)).outcomes)
    assert found[0] == {f"{tree}/f": "clean", f"{tree}/mnt/h": "clean"}
    assert found[1] == {f"{tree}/f": "clean", f"{tree}/mnt": "skipped"}


@pytest.mark.slow
def test_memory_stays_flat(state: Path, fast: Path) -> None:
    """The peak covers all processes of a scan, with ten times the files in one directory."""
    small, large = fast / "small", fast / "large"
    for tree, count in ((small, 2_000), (large, 20_000)):
        tree.mkdir()
        for number in range(count):
            os.close(os.open(f"{tree}/{number}", os.O_CREAT))
    peaks = []
    for tree, count in ((small, 2_000), (large, 20_000)):
        command = arguments("--state-dir", state, "scan", "--no-inventory", "--jobs", "2", tree)
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as one:
            assert one.stdout is not None
            assert one.stdout.readline().startswith(f"{count:,} inputs: {count:,} clean")
            one.stdout.read()
            _, status, usage = os.wait4(one.pid, 0)
            one.returncode = os.waitstatus_to_exitcode(status)
        assert one.returncode == 0
        peaks.append(usage.ru_maxrss)
    assert abs(peaks[1] - peaks[0]) < 4_000  # the difference of the peaks in kB


# Processes


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2", "4"])
def test_a_worker_that_is_killed_loses_its_own_files_only(
    state: Path, tmp_path: Path, jobs: str
) -> None:
    files = 3 * TASK_NAMES
    tree = write_tree(tmp_path / "t", {f"{n}": b"clean" for n in range(files)})
    endless = sparse(tree / "endless", ENDLESS_BYTES)
    with running(state, "--jobs", jobs, tree) as process:
        wait_until(lambda: bool(workers_reading(process.pid, "endless")), process.pid)
        for pid in workers_reading(process.pid, "endless"):
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    result = checked(Run(process.returncode, out, err))
    assert result.code == 3
    assert result.outcomes[str(endless)] == "unread"
    assert set(reasons(result).values()) == {WORKER_DIED}
    assert result.summary["inputs"] == files + 1
    assert result.summary["clean"] >= files - 2 * TASK_NAMES
    assert members(process.pid) == set()


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("number", "found", "code"),
    [
        (signal.SIGINT, b"clean", 130),
        (signal.SIGTERM, b"clean", 143),
        (signal.SIGINT, LISTED, 11),
        (signal.SIGTERM, LISTED, 11),
    ],
)
def test_a_signal_ends_a_scan_with_what_was_found(
    state: Path, tmp_path: Path, number: signal.Signals, found: bytes, code: int
) -> None:
    tree = write_tree(tmp_path / "t", {"f": found})
    endless = sparse(tmp_path / "endless", ENDLESS_BYTES)
    with running(state, "--show-all", "--jobs", "2", tree, endless) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        wait_until(lambda: bool(workers_reading(process.pid, "endless")), process.pid)
        # A terminal sends the signal to all processes of the group, too.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    result = checked(Run(process.returncode, first + out, err))
    assert result.code == code
    assert set(result.outcomes) == {f"{tree}/f"}
    assert result.summary["inputs"] == 1
    assert result.summary["exit_code"] == code
    assert members(process.pid) == set()


@pytest.mark.slow
def test_a_signal_to_a_scan_of_many_processes_that_do_nothing_yet(
    state: Path, tmp_path: Path
) -> None:
    """The workers have just been started, and also end without a message."""
    endless = sparse(tmp_path / "endless", ENDLESS_BYTES)
    with running(state, "--jobs", "32", endless) as process:
        wait_until(lambda: len(members(process.pid)) > 4, process.pid)
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    result = checked(Run(process.returncode, out, err))
    assert result.code == 143
    assert result.summary["inputs"] == 0
    assert members(process.pid) == set()


@pytest.mark.sampled
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.004])
def test_a_signal_after_the_summary_changes_nothing(
    state: Path, tmp_path: Path, number: signal.Signals, delay_s: float
) -> None:
    tree = write_tree(tmp_path / "t", {"f": LISTED})
    with running(state, tree) as process:
        assert process.stdout is not None
        assert any('"type": "summary"' in line for line in process.stdout)
        signal.sigtimedwait([], delay_s)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "interrupted" in err) == (10, False)


@pytest.mark.slow
def test_more_workers_than_there_is_room_for(state: Path, tmp_path: Path) -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    tree = write_tree(tmp_path / "t", {f"{n}/f": LISTED for n in range(TASK_NAMES + 1)})
    before = len(audit_events(state))
    result = scan(state, "--jobs", "40", tree, preexec=few_files)
    assert result.code == 8
    assert "cannot start a worker process: Too many open files" in result.err
    assert "fewer --jobs" in result.err
    assert audit_events(state)[before:] == ["scan-start", "scan-end"]


def audit_events(state: Path) -> list[str]:
    return [record.event for record in log.read(state / "audit")]


@pytest.mark.slow
def test_a_scan_that_is_killed_leaves_no_workers(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {f"{n}/f": b"" for n in range(TASK_NAMES + 1)})
    os.mkfifo(tree / "pipe")
    endless = [sparse(tree / f"endless{n}", 1 << 30) for n in range(2)]
    with running(state, "--jobs", "2", tree, *endless) as process:
        wait_until(lambda: bool(workers_reading(process.pid, "endless0")), process.pid)
        process.kill()
        process.communicate(timeout=60)
        wait_until(lambda: members(process.pid) == set(), process.pid)


# State


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
        return
    changes = {
        "empty": b"",
        "cut": data[:-10],
        "longer": data + b"x",
        "zeros": bytes(len(data)),
        "head": bytes([data[0] ^ 0xFF]) + data[1:],
        "text": data.replace(b"{", b"[", 1),
    }
    path.write_bytes(changes[how])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["empty", "cut", "longer", "zeros", "head", "text", "gone"])
@pytest.mark.parametrize("what", ["manifest.json", "run-*"])
def test_a_damaged_index_is_no_clean_bill(state: Path, tmp_path: Path, what: str, how: str) -> None:
    own = Path(shutil.copytree(state, tmp_path / "state"))
    (path,) = (own / "lists" / "base").glob(what)
    damaged(path, how)
    tree = write_tree(tmp_path / "t", {"f": b"clean"})
    for args in (["scan", tree], ["lookup", "0" * 40]):
        result = run("--state-dir", own, *args)
        assert result.code == 8
        assert "hint: run `hashclient " in result.err
        assert result.out == ""


def test_a_manifest_of_another_format_is_refused(state: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(state, tmp_path / "state"))
    path = own / "lists" / "base" / "manifest.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"format": "hashclient-index/999"}))
    assert scan(own, tmp_path).code == 8
