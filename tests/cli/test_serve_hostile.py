"""A daemon with hostile clients or a removed state answers rightly and does not stop."""

from __future__ import annotations

import array
import contextlib
import fcntl
import functools
import os
import resource
import shutil
import signal
import socket
import termios
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clamd import Daemon, everything, instream, open_for_reading, serving
from tests.kit import Site, csv_of, edit_manifest, make_state, run, wait_until, write_tree

LISTED = b"listed one"
FOUND = b"stream: Hashclient.base.e-1 FOUND\0"
CLEAN = b"stream: OK\0"
STALE = b"Heuristics.Limits.Exceeded.Hashclient.Stale FOUND"
MISSING = b"stream: Heuristics.Limits.Exceeded.Hashclient.Missing FOUND\0"
NO_DESCRIPTOR = b"FD[-1]: No file descriptor received. ERROR"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})


@pytest.fixture
def daemon(state: Path, tmp_path: Path) -> Iterator[Daemon]:
    options = ("--jobs", 1, "--metrics", "127.0.0.1:0", "--paths", "any")
    with serving(state, tmp_path / "run", *options) as daemon:
        yield daemon


def send_descriptors(sock: socket.socket, data: bytes, *paths: Path) -> None:
    """Send bytes together with open files."""
    fds = [open_for_reading(path) for path in paths]
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    for fd in fds:
        os.close(fd)


def value(daemon: Daemon, line: str) -> float:
    """Return a value of the metrics."""
    with urllib.request.urlopen(daemon.metrics) as answer:
        text = answer.read().decode()
    (found,) = [each for each in text.splitlines() if each.startswith(f"{line} ")]
    return float(found.rpartition(" ")[2])


def is_found(daemon: Daemon, data: bytes) -> bool:
    """Return whether the daemon finds the listed content in a stream."""
    return b" FOUND" in daemon.ask(instream(data))


def descriptors_of(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.slow
def test_a_descriptor_counts_for_the_command_that_it_came_with(
    daemon: Daemon, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"benign", "b": LISTED})
    (pid,) = daemon.workers()
    with daemon.connect() as sock:
        sock.sendall(b"zIDSESSION\0zPING\0")
        assert sock.recv(100) == b"1: PONG\0"
        before = descriptors_of(pid)
        # The descriptor is sent with another command, with other descriptors, before the command,
        # or within a stream.
        send_descriptors(sock, b"zPING\0", tree / "a")
        assert sock.recv(100) == b"2: PONG\0"
        sock.sendall(b"zFILDES\0x")
        assert sock.recv(100) == b"3: " + NO_DESCRIPTOR + b"\0"
        sock.sendall(b"zFILDES\0")
        send_descriptors(sock, b"x", tree / "a", tree / "b")
        assert sock.recv(100) == b"4: " + NO_DESCRIPTOR + b"\0"
        sock.sendall(b"zFILDES\0")
        send_descriptors(sock, b"x", tree / "a", *[tree / "b"] * 5)
        assert sock.recv(100) == b"5: " + NO_DESCRIPTOR + b"\0"
        send_descriptors(sock, b"zFILDES\0xzPING\0", tree / "a")
        answers = sock.recv(100)
        assert answers == b"6: " + NO_DESCRIPTOR + b"\x007: PONG\0"
        sock.sendall(b"zINSTREAM\0" + (2).to_bytes(4, "big"))
        send_descriptors(sock, b"x", tree / "a")
        send_descriptors(sock, b"x" + bytes(4), tree / "a")
        assert sock.recv(100) == b"8: stream: OK\0"
        sock.sendall(b"zFILDES\0")
        send_descriptors(sock, b"x", tree / "b")
        assert sock.recv(100).endswith(b": Hashclient.base.e-1 FOUND\0")
        assert descriptors_of(pid) == before


@pytest.mark.slow
def test_a_client_that_announces_a_descriptor_and_sends_none_is_closed(
    state: Path, tmp_path: Path
) -> None:
    with serving(state, tmp_path / "run", "--idle", "1s") as daemon, daemon.connect() as sock:
        sock.sendall(b"zFILDES\0")
        assert everything(sock) == b""


@pytest.mark.slow
def test_very_many_commands_at_once_keep_nobody_from_being_served(
    daemon: Daemon, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {f"{n}/{m}": b"x" for n in range(40) for m in range(40)})
    (tree / "0/listed").write_bytes(LISTED)
    with contextlib.ExitStack() as stack:
        greedy = [stack.enter_context(daemon.connect()) for _ in range(12)]
        for sock in greedy:
            sock.sendall(b"zIDSESSION\0" + b"zCONTSCAN %s\0" % os.fsencode(tree) * 300)
        fd = open_for_reading(tree / "0/listed")
        assert daemon.ask_descriptor(fd).endswith(b"Hashclient.base.e-1 FOUND\0")
        os.close(fd)
        path = os.fsencode(tree / "0/listed")
        assert daemon.ask(b"zSCAN %s\0" % path) == path + b": Hashclient.base.e-1 FOUND\0"
        # The daemon has done only a little of the requested work so far.
        for sock in greedy:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                assert sock.recv(1 << 20).count(b"\0") < 300


@pytest.mark.slow
def test_a_client_that_reads_no_answers_waits_and_misses_none(
    daemon: Daemon, tmp_path: Path
) -> None:
    names = {f"{n // 100}/{n:04}{'x' * 200}": LISTED for n in range(3000)}
    tree = write_tree(tmp_path / "t", names)
    with daemon.connect() as slow:
        slow.sendall(b"zCONTSCAN %s\0" % os.fsencode(tree))
        for _ in range(3):
            assert daemon.ask(instream(LISTED)) == FOUND
        answers = everything(slow).split(b"\0")
    assert len(answers) == len(names) + 1


@pytest.mark.slow
def test_many_tiny_chunks_are_read_right(daemon: Daemon) -> None:
    data = b"zIDSESSION\0" + instream(*[b"x"] * 9000) + instream(*[b"%c" % c for c in LISTED])
    with daemon.connect() as sock:
        sock.sendall(data * 3 + b"zEND\0")
        answers = sorted(everything(sock).split(b"\0"))
    assert [a for a in answers if a.endswith(b"FOUND")] != []
    assert sum(a.endswith(b": OK") for a in answers) == 3
    assert sum(a.endswith(b"e-1 FOUND") for a in answers) == 3


@pytest.mark.slow
def test_no_file_is_read_for_a_client_that_has_gone(daemon: Daemon, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {f"{n}/{m}": b"x" for n in range(40) for m in range(40)})
    with daemon.connect() as sock:
        sock.sendall(b"zIDSESSION\0" + b"zCONTSCAN %s\0" % os.fsencode(tree) * 5000)
        wait_until(
            lambda: value(daemon, "hashclient_serve_open_connections") == 1, daemon.process.pid
        )
    wait_until(lambda: value(daemon, "hashclient_serve_open_connections") == 0, daemon.process.pid)
    assert daemon.ask(b"zPING\0") == b"PONG\0"


@pytest.mark.slow
def test_a_client_that_shut_down_its_sending_side_gets_the_answer(
    daemon: Daemon, tmp_path: Path
) -> None:
    path = write_tree(tmp_path / "t", {"b": LISTED}) / "b"
    for command in (b"zSCAN %s\0", b"nCONTSCAN %s\n", b"SCAN %s"):
        with daemon.connect() as sock:
            sock.sendall(command % os.fsencode(path))
            sock.shutdown(socket.SHUT_WR)
            assert b": Hashclient.base.e-1 FOUND" in everything(sock)
    for command in (b"INSTREAM", b"FILDES", b"zINSTREAM\0", b"zFILDES\0", b"zPIN"):
        with daemon.connect() as sock:
            sock.sendall(command)
            sock.shutdown(socket.SHUT_WR)
            assert everything(sock) == b""


def is_taken(sock: socket.socket) -> bool:
    """Return whether the daemon has read all bytes that were sent to it."""
    left = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, left)
    return left[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tcp", "first", "second"),
    [(True, b"", b"SCAN "), (False, b"SCAN ", b""), (False, b"nIDSESSION\n", b"SCAN ")],
    ids=["tcp", "in pieces", "in a session"],
)
def test_a_path_that_comes_slowly_is_not_cut(
    daemon: Daemon, tmp_path: Path, tcp: bool, first: bytes, second: bytes
) -> None:
    """An unterminated path counts as complete only if one write to a local socket sent it."""
    tree = write_tree(tmp_path / "t", {"clean": b"benign", "clean.b": LISTED})
    with daemon.connect(tcp=tcp) as sock:
        sock.sendall(first)
        wait_until(lambda: is_taken(sock), daemon.process.pid)
        sock.settimeout(0.3)
        sock.sendall(second + os.fsencode(tree / "clean"))
        with pytest.raises(TimeoutError):
            sock.recv(100)
        sock.settimeout(60)
        sock.sendall(b".b\n" + (b"nEND\n" if first.startswith(b"n") else b""))
        assert everything(sock).endswith(b"clean.b: Hashclient.base.e-1 FOUND\n")


@pytest.mark.slow
def test_a_name_cannot_end_the_line_that_it_stands_in(daemon: Daemon, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"x\n/t: OK\n": LISTED})
    lines = daemon.ask(b"nCONTSCAN %s\n" % os.fsencode(tree)).splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(b": Hashclient.base.e-1 FOUND")


@pytest.mark.slow
def test_a_silent_client_is_closed_for_a_new_one(state: Path, tmp_path: Path) -> None:
    with (
        serving(state, tmp_path / "run", "--jobs", 1, "--max-connections", 3) as daemon,
        contextlib.ExitStack() as stack,
    ):
        silent = [stack.enter_context(daemon.connect()) for _ in range(3)]
        wait_until(lambda: daemon.ask(instream(LISTED)) == FOUND, daemon.process.pid)
        assert everything(silent[0]) == b""


@pytest.mark.deep
def test_ten_thousand_silent_clients_delay_nobody(state: Path, tmp_path: Path) -> None:
    count = 10_000
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < count + 100:
        pytest.skip("so many descriptors are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, before[1]))
    try:
        with (
            serving(state, tmp_path / "run", "--metrics", "127.0.0.1:0") as daemon,
            contextlib.ExitStack() as stack,
        ):
            for number in range(count):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                # Without a time limit, `connect` waits until the daemon accepts.
                sock.connect(daemon.unix)
                with contextlib.suppress(OSError):
                    sock.sendall((b"zINSTREAM\0", b"zIDSESSION\0", b"PIN", b"")[number % 4])
            wait_until(lambda: daemon.ask(instream(LISTED)) == FOUND, daemon.process.pid)
            fd = open_for_reading(write_tree(tmp_path / "t", {"x": LISTED}) / "x")

            def found() -> bool:
                try:
                    return daemon.ask_descriptor(fd).endswith(b"e-1 FOUND\0")
                except ConnectionError:  # the daemon has closed the further connection
                    return False

            wait_until(found, daemon.process.pid)
            os.close(fd)
            assert value(daemon, "hashclient_serve_open_connections") > 4000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
def test_connections_leave_descriptors_for_what_has_to_be_recorded(
    state: Path, tmp_path: Path
) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))

    with (
        serving(state, tmp_path / "run", "--jobs", 1, preexec_fn=few) as daemon,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(200):
            stack.enter_context(daemon.connect())
        wait_until(lambda: daemon.ask(instream(LISTED)) == FOUND, daemon.process.pid)
    assert "e-1" in run("--state-dir", state, "matches", "--format", "jsonl").out


@pytest.mark.slow
def test_a_request_begun_with_a_stale_list_is_never_clean(state: Path, tmp_path: Path) -> None:
    path = state / "lists/base/manifest.json"
    fresh = path.read_bytes()
    edit_manifest(state, "base", expires="2020-01-01T00:00:00Z")
    with serving(state, tmp_path / "run", "--jobs", 1) as daemon, daemon.connect() as slow:
        slow.sendall(b"zINSTREAM\0" + (3).to_bytes(4, "big") + b"a")
        assert STALE in daemon.ask(instream(b"abc"))
        path.write_bytes(fresh)
        assert daemon.ask(b"zRELOAD\0") == b"RELOADING\0"
        wait_until(lambda: daemon.ask(instream(b"abc")) == CLEAN, daemon.process.pid)
        slow.sendall(b"bc" + bytes(4))
        assert STALE in everything(slow)


@pytest.mark.slow
def test_without_its_state_nothing_is_clean(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run", "--jobs", 1) as daemon:
        assert daemon.ask(instream(b"benign")) == CLEAN
        state.rename(tmp_path / "elsewhere")
        wait_until(lambda: daemon.ask(instream(b"benign")) == MISSING, daemon.process.pid)
        assert daemon.ask(instream(LISTED)) == FOUND
        shutil.rmtree(state, ignore_errors=True)  # the daemon may have begun a record in this path
        (tmp_path / "elsewhere").rename(state)
        wait_until(lambda: daemon.ask(instream(b"benign")) == CLEAN, daemon.process.pid)


@pytest.mark.slow
def test_with_another_seal_key_nothing_is_clean(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run", "--jobs", 1) as daemon:
        (key,) = state.glob("seal*key*")
        key.write_text("11" * 32 + "\n")
        assert daemon.ask(b"zRELOAD\0") == b"RELOADING\0"
        wait_until(lambda: daemon.ask(instream(b"benign")) == MISSING, daemon.process.pid)
        assert daemon.ask(instream(LISTED)) == FOUND


@pytest.mark.slow
def test_an_index_that_cannot_be_read_ends_the_daemon_and_nothing_is_clean(
    state: Path, tmp_path: Path
) -> None:
    with serving(state, tmp_path / "run", "--jobs", 1) as daemon:
        assert daemon.ask(instream(b"benign")) == CLEAN
        for path in (state / "lists/base").glob("*"):
            if path.name != "manifest.json":
                os.truncate(path, 0)
        (pid,) = daemon.workers()
        assert daemon.ask(instream(b"x" * len(LISTED))) in (b"", MISSING)
        with contextlib.suppress(OSError):
            assert daemon.ask(instream(b"x" * len(LISTED))) in (b"", MISSING)
        assert daemon.process.wait(60) == 8
        assert daemon.process.stderr is not None
        said = daemon.process.stderr.read()
        assert b"index file cannot be read" in said
        assert b"Traceback" not in said
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_storm_of_reloads_neither_stops_it_nor_fills_the_log(daemon: Daemon, state: Path) -> None:
    for _ in range(5):
        with daemon.connect() as sock:
            sock.sendall(b"zIDSESSION\0" + b"zRELOAD\0" * 200 + b"zEND\0")
            assert everything(sock).count(b"RELOADING\0") == 200
        assert daemon.ask(instream(LISTED)) == FOUND
    assert (state / "audit" / "log.jsonl").read_text().count('"serve-start"') == 1
    assert value(daemon, "hashclient_serve_reloads_total") < 20


@pytest.mark.slow
def test_new_lists_under_load_make_no_error_and_no_wrong_verdict(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        site.publish(csv_of({"e-1": LISTED}), "base")
        assert site.call(*site.init_arguments()).code == 0
        assert site.call("fetch").code == 0
        with serving(site.state, tmp_path / "run") as daemon:
            wrong: list[bytes] = []
            asked, over = [0], threading.Event()

            def ask() -> None:
                while not over.is_set():
                    asked[0] += 1
                    for data, right in ((LISTED, FOUND), (b"benign" + LISTED, CLEAN)):
                        if (said := daemon.ask(instream(data))) != right:
                            wrong.append(said)

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            try:
                for number in range(2, 5):
                    new = b"new %d" % number
                    site.publish(csv_of({f"e-{number}": new}), "base")
                    assert site.call("fetch").code == 0
                    assert daemon.ask(b"zRELOAD\0") == b"RELOADING\0"
                    wait_until(functools.partial(is_found, daemon, new), daemon.process.pid)
            finally:
                over.set()
                for thread in threads:
                    thread.join()
            assert (wrong, asked[0] > 3) == ([], True)


@pytest.mark.slow
def test_a_slow_request_for_metrics_does_not_delay_the_daemon(daemon: Daemon) -> None:
    host, port = daemon.metrics.removeprefix("http://").removesuffix("/metrics").split(":")
    with contextlib.ExitStack() as stack:
        for sent in (b"", b"GET", b"GET /metrics HTTP/1.0\r\nX: "):
            sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            sock.sendall(sent)
        before = daemon.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: bool(set(daemon.workers()) - set(before)), daemon.process.pid)
        assert daemon.ask(instream(LISTED)) == FOUND
        assert value(daemon, "hashclient_serve_failures_total") == 0
    assert daemon.stop() == 0
    assert daemon.process.stderr is not None
    assert daemon.process.stderr.read() == b""
