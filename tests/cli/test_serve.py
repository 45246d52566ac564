"""`hashclient serve`: each request of a client of clamd gets the right answer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fixtures.archives import zip_of
from hashclient.matches.verify import verify_matches
from tests.clamd import Daemon, everything, instream, open_for_reading, serving
from tests.kit import (
    Site,
    arguments,
    call,
    csv_of,
    edit_manifest,
    environment,
    make_state,
    run,
    wait_until,
    write_tree,
)

LISTED = b"listed one"
LONG = bytes(range(256)) * (3 << 13)
FOUND = b"stream: Hashclient.base.e-1 FOUND\0"
CLEAN = b"stream: OK\0"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = {"e-1": LISTED, "e-long": LONG}
    return make_state(tmp_path_factory.mktemp("site"), {"base": csv_of(entries)})


@pytest.fixture(scope="module")
def daemon(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    options = ("--metrics", "127.0.0.1:0", "--paths", "any")  # some client programs need a TCP port
    with serving(state, tmp_path_factory.mktemp("run"), *options) as daemon:
        yield daemon


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "t", {"a": b"benign", "sub/b": LISTED, "sub/c": LONG})


def matches(state: Path) -> list[Any]:
    result = run("--state-dir", state, "matches", "--format", "jsonl")
    return [line for line in result.lines if line["type"] == "match"]


FORMS = [(b"z", b"\0"), (b"n", b"\n"), (b"", b"\n")]


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize(("prefix", "end"), FORMS, ids=["z", "n", "bare"])
def test_it_answers_as_it_is_asked(daemon: Daemon, prefix: bytes, end: bytes, tcp: bool) -> None:
    assert daemon.ask(prefix + b"PING" + end, tcp=tcp) == b"PONG" + end
    assert daemon.ask(prefix + b"NONSENSE" + end, tcp=tcp) == b"UNKNOWN COMMAND" + end
    version = daemon.ask(prefix + b"VERSION" + end, tcp=tcp)
    assert version.startswith(b"hashclient ")
    assert b"/base:1/" in version
    commands = daemon.ask(prefix + b"VERSIONCOMMANDS" + end, tcp=tcp)
    assert b"| COMMANDS: " in commands
    assert b"INSTREAM" in commands
    assert daemon.ask(prefix + b"STATS" + end, tcp=tcp).endswith(b"\nEND" + end)


def test_an_old_command_needs_no_end(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(b"PING")
        assert everything(sock) == b"PONG\n"


@pytest.mark.parametrize("data", [b"", b"benign", LISTED + b".", LONG[:-1], LONG + b"."])
def test_an_unlisted_stream_is_clean(daemon: Daemon, data: bytes) -> None:
    assert daemon.ask(instream(*([data] if data else []))) == CLEAN


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_listed_stream_is_found_however_it_comes(daemon: Daemon, step: int, tcp: bool) -> None:
    chunks = [LISTED[n : n + step] for n in range(0, len(LISTED), step)]
    assert daemon.ask(instream(*chunks), tcp=tcp) == FOUND


def test_a_long_stream_is_found_in_one_chunk_and_in_many(daemon: Daemon) -> None:
    found = b"stream: Hashclient.base.e-long FOUND\0"
    assert daemon.ask(instream(LONG)) == found
    assert daemon.ask(instream(*(LONG[n : n + 4096] for n in range(0, len(LONG), 4096)))) == found


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_one_byte_at_a_time(daemon: Daemon, tree: Path, tcp: bool) -> None:
    archive = zip_of({"x": LISTED})
    asked = instream(LISTED) + b"zPING\0" + instream(b"be", b"nign") + instream(archive)
    asked += b"nSCAN %s\n" % os.fsencode(tree / "sub/b")
    data = b"zIDSESSION\0" + asked + b"zEND\0"
    answers = daemon.ask(*(data[n : n + 1] for n in range(len(data))), tcp=tcp)
    lines = sorted(answers.replace(b"\n", b"\0").split(b"\0")[:-1])
    found = b"Hashclient.base.e-1 FOUND"
    path = os.fsencode(tree / "sub/b")
    assert lines == [
        b"1: stream: " + found,
        b"2: PONG",
        b"3: stream: OK",
        b"4: stream: " + found,
        b"5: %s: %s" % (path, found),
    ]


@pytest.mark.slow
def test_a_match_is_recorded_by_the_door_that_it_came_through(
    daemon: Daemon, state: Path, tree: Path
) -> None:
    """The record has the socket and the client; a repeated match stays one record."""
    fds = [open_for_reading(tree / "sub/b") for _ in range(2)]
    for fd in fds:
        assert daemon.ask(instream(LISTED)) == FOUND
        assert daemon.ask(instream(LISTED), tcp=True) == FOUND
        assert daemon.ask_descriptor(fd).endswith(b": Hashclient.base.e-1 FOUND\0")
    for fd in fds:
        os.close(fd)
    host, port = daemon.tcp
    doors = {
        f"serve:unix:{daemon.unix},uid={os.getuid()}",
        f"serve:{host}:{port},from=127.0.0.1",
    }
    streams = [m for m in matches(state) if m["entry"] == "e-1" and ":" in m["path"]]
    assert sorted(m["path"] for m in streams) == sorted(doors)
    logged = (state / "audit" / "log.jsonl").read_text()
    assert all(m["id"] in logged and f'"path":"{m["path"]}"' in logged for m in streams)
    verify_matches(state)
    shown = run("--state-dir", state, "matches", "show", streams[0]["id"]).out
    assert "the content came as a stream" in shown


def test_many_commands_in_a_session(daemon: Daemon) -> None:
    data = b"zIDSESSION\0" + instream(b"x") + instream(LISTED) + b"zPING\0" + instream(b"yz")
    answers = daemon.ask(data + b"zEND\0").split(b"\0")
    assert sorted(answers) == [
        b"",
        b"1: stream: OK",
        b"2: stream: Hashclient.base.e-1 FOUND",
        b"3: PONG",
        b"4: stream: OK",
    ]


@pytest.mark.slow
def test_all_that_is_listed_in_one_turn_is_answered_and_recorded(tmp_path: Path) -> None:
    listed = {f"e-{number}": b"listed %d" % number for number in range(5)}
    state = make_state(tmp_path, {"base": csv_of(listed)})
    data = b"".join(instream(content) + instream(b"benign") for content in listed.values())
    with serving(state, tmp_path / "run", "--jobs", 1) as daemon:
        answers = daemon.ask(b"zIDSESSION\0" + data + b"zEND\0").split(b"\0")
    assert sorted(answer.partition(b": ")[2] for answer in answers[:-1]) == [
        *(f"stream: Hashclient.base.{entry} FOUND".encode() for entry in listed),
        *[b"stream: OK"] * len(listed),
    ]
    assert sorted(match["entry"] for match in matches(state)) == list(listed)


def test_a_session_of_very_many_commands(daemon: Daemon) -> None:
    count = 500
    with daemon.connect() as sock:
        sock.sendall(b"nIDSESSION\n")
        for _ in range(count):
            sock.sendall(instream(b"benign", prefix=b"n") + instream(LISTED, prefix=b"n"))
        sock.sendall(b"nEND\n")
        lines = everything(sock).splitlines()
    numbers = sorted(int(line.partition(b":")[0]) for line in lines)
    assert numbers == list(range(1, 2 * count + 1))
    assert sum(line.endswith(b"FOUND") for line in lines) == count


@pytest.mark.parametrize("command", [b"SCAN", b"CONTSCAN", b"MULTISCAN", b"ALLMATCHSCAN"])
def test_paths(daemon: Daemon, tree: Path, command: bytes) -> None:
    def ask(path: object) -> list[bytes]:
        return daemon.ask(b"n" + command + b" " + os.fsencode(str(path)) + b"\n").splitlines()

    assert ask(tree / "a") == [os.fsencode(tree / "a") + b": OK"]
    found = [
        os.fsencode(tree / "sub/b") + b": Hashclient.base.e-1 FOUND",
        os.fsencode(tree / "sub/c") + b": Hashclient.base.e-long FOUND",
    ]
    assert ask(tree / "sub/b") == found[:1]
    lines = sorted(ask(tree))
    assert lines == found if command != b"SCAN" else lines in ([found[0]], [found[1]])
    (line,) = ask(tree / "none")
    assert line.endswith(b": Heuristics.Limits.Exceeded.Hashclient.Unread FOUND")
    (line,) = ask("relative")
    assert line.endswith(b" FOUND")


def test_a_clean_tree_is_one_line(daemon: Daemon, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "clean", {"a": b"1", "b/c": b"22"})
    (tree / "link").symlink_to("a")
    assert daemon.ask(b"nCONTSCAN %s\n" % os.fsencode(tree)) == os.fsencode(tree) + b": OK\n"


def test_descriptors(daemon: Daemon, tree: Path) -> None:
    for form in (b"z", b"n"):
        for name, answer in (("a", b": OK"), ("sub/b", b": Hashclient.base.e-1 FOUND")):
            fd = open_for_reading(tree / name)
            os.lseek(fd, 3, os.SEEK_SET)
            said = daemon.ask_descriptor(fd, form)
            assert said[:-1].endswith(answer)
            # The daemon does not change the position in the client's open file.
            assert os.lseek(fd, 0, os.SEEK_CUR) == 3
            os.close(fd)


def test_descriptors_of_what_is_no_file_have_no_verdict(daemon: Daemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ours, theirs = socket.socketpair()
    fds = [open_for_reading(tmp_path), open_for_reading(tmp_path / "fifo"), theirs.fileno()]
    for fd in fds:
        assert b"Hashclient.Unread FOUND" in daemon.ask_descriptor(fd)
    os.close(fds[0])
    os.close(fds[1])
    ours.close()
    theirs.close()


def test_a_descriptor_that_does_not_come_is_said(daemon: Daemon) -> None:
    assert b"No file descriptor received. ERROR" in daemon.ask(b"zFILDES\0x")


def test_a_stream_that_is_cut_short_is_never_answered(daemon: Daemon) -> None:
    data = instream(LISTED)
    for length in range(len(b"zINSTREAM\0"), len(data)):
        with daemon.connect() as sock:
            sock.sendall(data[:length])
            sock.shutdown(socket.SHUT_WR)
            assert everything(sock) == b""


@pytest.mark.slow
def test_nobody_at_a_port_may_stop_it_or_have_it_open_its_lists(
    state: Path, tmp_path: Path
) -> None:
    with serving(state, tmp_path / "run") as daemon:
        for command in (b"zSHUTDOWN\0", b"zRELOAD\0"):
            assert daemon.ask(command, tcp=True) == b"COMMAND UNAVAILABLE\0"
        assert daemon.ask(b"zSHUTDOWN\0") == b"OK\0"
        assert daemon.process.wait(60) == 0
        assert not Path(daemon.unix).exists()


@pytest.mark.slow
def test_it_ends_well_and_logs_that_it_was_there(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run") as daemon:
        sock = daemon.connect()
        sock.sendall(b"zIDSESSION\0")
        assert daemon.stop() == 0
        sock.close()
        assert daemon.process.stderr is not None
        assert daemon.process.stderr.read() == b""
    log = (state / "audit" / "log.jsonl").read_text()
    assert log.count('"serve-end"') >= 2
    assert run("--state-dir", state, "audit", "verify").code == 0


@pytest.mark.slow
def test_a_second_daemon_at_the_same_socket_is_refused(daemon: Daemon, state: Path) -> None:
    result = run("--state-dir", state, "serve", "--bind", f"unix:{daemon.unix}")
    assert result.code == 8
    assert f"cannot listen at unix:{daemon.unix}: another daemon is there\n" in result.err
    assert daemon.ask(b"zPING\0") == b"PONG\0"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--bind", "--metrics"])
def test_a_port_in_use_is_said_in_the_same_words(
    state: Path, tmp_path: Path, daemon: Daemon, option: str
) -> None:
    port = daemon.addresses[1]
    free = () if option == "--bind" else ("--bind", "127.0.0.1:0")
    result = run("--state-dir", state, "serve", *free, option, port)
    what = port if option == "--bind" else f"{port} for metrics"
    assert result.code == 8
    assert f"error: cannot listen at {what}: address already in use\n" in result.err
    assert "(" not in result.err and "another daemon may use this port" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0, 0o077])
def test_all_may_enter_a_directory_that_is_made_for_a_socket(
    state: Path, tmp_path: Path, umask: int
) -> None:
    """The group and the mode of the socket decide who may use it; nobody else may replace it."""
    bind = ("--bind", f"unix:{tmp_path}/new/deep/c.sock", "--socket-mode", "666")
    with serving(state, tmp_path / "run", *bind, preexec_fn=lambda: os.umask(umask)):
        modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "new").rglob("*")}
    assert modes == {"deep": 0o755, "c.sock": 0o666, "c.sock.lock": 0o600}


def test_a_place_where_no_socket_can_be_is_said_of_the_socket(state: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in ("/proc/x/c.sock", f"{tmp_path}/link/c.sock", f"{tmp_path}/file", "/proc/c.sock"):
        result = call("--state-dir", state, "serve", "--bind", f"unix:{place}")
        assert result.code == 8, place
        assert f"error: cannot listen at unix:{place}: " in result.err
        assert "--bind" in result.err and "init" not in result.err
        assert "--state-dir" not in result.err and "state directory" not in result.err
    assert {p.name for p in tmp_path.iterdir()} == {"file", "file.lock", "link"}


@pytest.mark.slow
def test_the_socket_of_a_killed_daemon_is_taken_over(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run") as daemon:
        workers = daemon.workers()
        daemon.process.kill()
        daemon.process.wait(60)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), workers[0])
        assert Path(daemon.unix).exists()
    with serving(state, tmp_path / "run") as daemon:
        assert daemon.ask(b"zPING\0") == b"PONG\0"


@pytest.mark.slow
def test_an_interrupt_ends_no_process_by_itself(state: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal; the parent process waits for the end of all."""
    with serving(state, tmp_path / "run", "--jobs", 1) as daemon:
        workers = daemon.workers()
        os.kill(workers[0], signal.SIGINT)
        assert daemon.ask(instream(LISTED)) == FOUND
        assert daemon.workers() == workers


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run") as daemon:
        before = daemon.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: len(set(daemon.workers()) - set(before)) == len(before), daemon.process.pid
        )
        assert daemon.ask(instream(LISTED)) == FOUND


@pytest.mark.slow
def test_a_new_generation_is_used_by_who_asks_next(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        site.publish(csv_of({"e-1": LISTED}), "base")
        assert site.call(*site.init_arguments()).code == 0
        assert site.call("fetch").code == 0
        with serving(site.state, tmp_path / "run") as daemon:
            assert daemon.ask(instream(b"new")) == CLEAN
            with daemon.connect() as slow:
                slow.sendall(b"zIDSESSION\0zINSTREAM\0" + (3).to_bytes(4, "big") + b"n")
                site.publish(csv_of({"e-2": b"new"}), "base")
                assert site.call("fetch").code == 0
                assert daemon.ask(b"zRELOAD\0") == b"RELOADING\0"
                wait_until(
                    lambda: (
                        daemon.ask(instream(b"new")) != CLEAN
                        and daemon.ask(instream(b"new")) != CLEAN
                    ),
                    daemon.process.pid,
                )
                assert daemon.ask(instream(b"new")) == b"stream: Hashclient.base.e-2 FOUND\0"
                # A stream that began before the fetch is judged with the former generation.
                slow.sendall(b"ew" + bytes(4) + b"zEND\0")
                assert everything(slow) == b"1: stream: OK\0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("found", b"stream: Heuristics.Limits.Exceeded.Hashclient.Stale FOUND\0"),
        ("error", b"stream: lists are stale. ERROR\0"),
        ("ok", CLEAN),
    ],
)
def test_a_stale_list_calls_nothing_clean(tmp_path: Path, rule: str, answer: bytes) -> None:
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    edit_manifest(state, "base", expires="2020-01-01T00:00:00Z")
    with serving(state, tmp_path / "run", "--no-verdict", rule) as daemon:
        assert daemon.warnings == [
            "list base is stale since 2020-01-01 00:00 UTC: nothing is answered as clean"
        ]
        assert daemon.ask(instream(b"benign")) == answer
        assert daemon.ask(instream(b"benign", b"!")) == answer
        assert daemon.ask(instream(LISTED)) == FOUND


@pytest.mark.slow
def test_limits(state: Path, tmp_path: Path) -> None:
    options = ("--max-stream-mib", 1, "--idle", "3s", "--max-connections", 3, "--jobs", 1)
    with serving(state, tmp_path / "run", *options) as daemon:
        too_long = b"stream: Heuristics.Limits.Exceeded.Hashclient.Length FOUND\0"
        assert daemon.ask(b"zINSTREAM\0" + b"\x7f\xff\xff\xff" + b"x", tcp=True) == too_long
        assert daemon.ask(instream(bytes(1 << 20), b"x")) == too_long
        with daemon.connect() as silent:
            silent.sendall(b"zINSTREAM\0\0")
            assert everything(silent) == b""
        several = [daemon.connect() for _ in range(3)]
        for sock in several:
            sock.sendall(b"zIDSESSION\0zPING\0")
            assert sock.recv(100) == b"1: PONG\0"
        with daemon.connect() as one_more:
            assert everything(one_more) == b""
        for sock in several:
            sock.close()
        wait_until(lambda: daemon.ask(b"zPING\0") == b"PONG\0", daemon.process.pid)


def test_many_silent_clients_keep_nobody_from_being_served(daemon: Daemon) -> None:
    silent = [daemon.connect() for _ in range(300)]
    assert daemon.ask(instream(LISTED)) == FOUND
    for sock in silent:
        sock.close()


def test_metrics(daemon: Daemon) -> None:
    def value(line: str) -> float:
        with urllib.request.urlopen(daemon.metrics) as answer:
            text = answer.read().decode()
        (found,) = [each for each in text.splitlines() if each.startswith(f"{line} ")]
        return float(found.rpartition(" ")[2])

    clean = value('hashclient_serve_objects_total{verdict="clean"}')
    match = value('hashclient_serve_objects_total{verdict="match"}')
    daemon.ask(instream(b"benign"))
    daemon.ask(instream(LISTED))
    assert value('hashclient_serve_objects_total{verdict="clean"}') == clean + 1
    assert value('hashclient_serve_objects_total{verdict="match"}') == match + 1
    assert value("hashclient_serve_answer_seconds_count") >= 2
    with urllib.request.urlopen(daemon.metrics) as answer:
        families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
    assert families["hashclient_serve_objects"].type == "counter"
    assert {s.labels["verdict"] for s in families["hashclient_serve_objects"].samples} == {
        "clean",
        "match",
        "conflict",
        "unread",
        "no_verdict",
        "excepted",
    }
    times = families["hashclient_serve_answer_seconds"]
    assert times.type == "histogram"
    buckets = [s.value for s in times.samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == next(s.value for s in times.samples if s.name.endswith("_count"))
    assert all(family.documentation for family in families.values())


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        ("--bind", "0.0.0.0:0"),
        ("--bind", "nonsense"),
        ("--bind", f"unix:/{'x' * 200}"),
        ("--metrics", "0.0.0.0:0"),
        ("--metrics", "unix:/x"),
        ("--socket-mode", "9"),
        ("--idle", "soon"),
    ],
)
def test_invalid_options_are_refused(state: Path, words: tuple[str, ...]) -> None:
    assert run("--state-dir", state, "serve", *words).code == 2


@pytest.mark.slow
def test_without_a_list_it_does_not_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    result = run("--state-dir", state, "serve", "--bind", f"unix:{tmp_path / 's'}")
    assert result.code == 8
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_systemd_passes_sockets_and_is_notified(state: Path, tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(60)
    # LISTEN_PID must be the number of the process, which only the shell that becomes it knows.
    script = 'export LISTEN_FDS=1 LISTEN_PID=$$ NOTIFY_SOCKET="$0"; exec "$@"'
    words = arguments("--state-dir", state, "serve", "--jobs", 1, "--format", "json")
    with subprocess.Popen(
        ["sh", "-c", script, str(tmp_path / "notify"), *words],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.dup2(listener.fileno(), 3),  # noqa: PLW1509 - there are no threads
        close_fds=False,
    ) as process:
        try:
            assert told.recv(100) == b"READY=1"
            assert process.stdout is not None
            host, port = listener.getsockname()
            assert json.loads(process.stdout.readline())["addresses"] == [f"{host}:{port}"]
            with socket.create_connection((host, port), timeout=60) as sock:
                sock.sendall(b"zPING\0")
                assert everything(sock) == b"PONG\0"
            process.send_signal(signal.SIGTERM)
            assert told.recv(100) == b"STOPPING=1"
            assert process.wait(60) == 0
        finally:
            process.kill()
    listener.close()
    told.close()


@pytest.mark.slow
def test_the_socket_has_the_given_mode(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run", "--socket-mode", "600") as daemon:
        assert Path(daemon.unix).stat().st_mode & 0o777 == 0o600
