"""Measures the daemons `serve` and clamd with clamd's protocol, and `watch` without changes.

CPU seconds and memory are those of the daemon's processes, as /proc counts them. The client is not
measured, because it runs in another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.measure import (
    Row,
    bytes_row,
    cpu_seconds,
    hashclient,
    seconds_to_first_line,
    time_row,
)
from fixtures.generate import make_tree

#: The cases of clients: the bytes of an object, the number of objects, how many requests a client
#: sends before it reads answers, and how many times as many objects as clamd `serve` must answer in
#: a CPU second.
CASES = ((100_000, 4_000, 1, 10), (1_000, 40_000, 1, 4), (1_000, 80_000, 16, 10))
#: The number of clients at a time when the highest rate is measured, and its seconds.
_CLIENTS = 4
_LOAD_S = 5.0
#: How often each daemon is measured, in alternating order; the result is the median.
_TURNS = 5
_CHUNK_BYTES = 1 << 16
#: Seconds between two measurements of a daemon's memory, and seconds for which an idle watch is
#: measured.
_LOOK_S = 1.0
_IDLE_S = 60.0
#: Seconds without work after which `watch` has checked every file that was written.
_SETTLED_S = 4.0

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Door:
    """A daemon that listens on the Unix socket `where`; `pid` is its first process."""

    where: Path
    pid: int

    def cpu_seconds(self) -> float:
        """Return the user and system seconds of all processes that the daemon has started."""
        return sum(_seconds(pid) for pid in _family(self.pid))

    def pss_bytes(self) -> int:
        """Return the memory of all processes of the daemon; shared pages count once."""
        total = 0
        for pid in _family(self.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
        return total

    def connect(self) -> socket.socket:
        """Connect to the daemon."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.where))
        return sock

    def ask(self, size: int, count: int, ahead: int) -> tuple[float, float]:
        """Ask about `count` different objects of `size` bytes, `ahead` at a time, in one session.

        Return how many objects are answered in a CPU second of the daemon, and the 99th percentile
        of the seconds of a round; a round is `ahead` requests and their answers.
        """
        body = os.urandom(size - 8)
        before, rounds = self.cpu_seconds(), []
        with self.connect() as sock:
            sock.sendall(b"zIDSESSION\0")
            for start in range(0, count, ahead):
                now = min(ahead, count - start)
                began = time.perf_counter()
                sock.sendall(
                    b"".join(
                        b"zINSTREAM\0%b%b%b\0\0\0\0"
                        % (size.to_bytes(4, "big"), (start + n).to_bytes(8, "big"), body)
                        for n in range(now)
                    )
                )
                while now:
                    answers = sock.recv(1 << 16)
                    if b"FOUND" in answers or not answers:
                        raise RuntimeError(f"not all is clean: {answers!r}")
                    now -= answers.count(b"\0")
                rounds.append(time.perf_counter() - began)
        rounds.sort()
        return count / (self.cpu_seconds() - before), rounds[int(len(rounds) * 0.99)]

    def latencies(self, size: int, rate: float | None) -> tuple[float, list[float]]:
        """Ask about objects of `size` bytes with several clients for some seconds.

        Return how many objects were answered a second, and the ascending seconds from the time that
        each request was due to its answer. All clients together send `rate` requests a second; with
        None each client sends as fast as it can.
        """
        took: list[float] = []
        began = time.perf_counter()
        until = began + _LOAD_S

        def client(number: int) -> None:
            body, step = os.urandom(size - 8), 0.0 if rate is None else _CLIENTS / rate
            with self.connect() as sock:
                sock.sendall(b"zIDSESSION\0")
                due = began + step * number / _CLIENTS
                for count in range(1 << 40):
                    if due > until or time.perf_counter() > until + _LOAD_S:
                        return
                    time.sleep(max(0.0, due - time.perf_counter()))
                    begins = due if step else time.perf_counter()
                    different = (count * _CLIENTS + number).to_bytes(8, "big")
                    sock.sendall(
                        b"zINSTREAM\0%b%b%b\0\0\0\0" % (size.to_bytes(4, "big"), different, body)
                    )
                    if not sock.recv(1 << 16).endswith(b": stream: OK\0"):
                        raise RuntimeError("not all is clean")
                    now = time.perf_counter()
                    took.append(now - begins)
                    due = due + step if step else now

        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(client, range(_CLIENTS)))
        return len(took) / (time.perf_counter() - began), sorted(took)

    def streams(self, count: int, size: int) -> tuple[int, int]:
        """Send `count` clean streams of `size` bytes concurrently, a chunk of each in turn.

        Return the daemon's memory before the streams, and its peak during the streams, in bytes.
        """
        before = peak = self.pss_bytes()
        chunk = _CHUNK_BYTES.to_bytes(4, "big") + os.urandom(_CHUNK_BYTES)
        chunks, look_at = max(1, size // _CHUNK_BYTES), time.monotonic() + _LOOK_S
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            for _ in range(count):
                sock = stack.enter_context(self.connect())
                sock.setblocking(False)  # noqa: FBT003 - named so by `socket`
                pieces = _pieces(chunk, chunks)
                selector.register(sock, selectors.EVENT_WRITE, [sock, next(pieces), pieces])
            while selector.get_map():
                for key, events in selector.select():
                    sock, piece, pieces = key.data
                    if events & selectors.EVENT_READ:
                        if sock.recv(100) != b"stream: OK\0":
                            raise RuntimeError("not all is clean")
                        selector.unregister(sock)
                        continue
                    key.data[1] = piece[sock.send(piece) :] or next(pieces, b"")
                    if not key.data[1]:
                        selector.modify(sock, selectors.EVENT_READ, key.data)
                if time.monotonic() >= look_at:
                    peak = max(peak, self.pss_bytes())
                    look_at = time.monotonic() + _LOOK_S
        return before, peak


def _pieces(chunk: bytes, chunks: int) -> Iterator[memoryview]:
    """Yield what a client sends: the command, `chunks` chunks, and the end of the stream."""
    yield memoryview(b"zINSTREAM\0")
    for _ in range(chunks):
        yield memoryview(chunk)
    yield memoryview(bytes(4))


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _seconds(pid: int) -> float:
    """Return the CPU seconds of a process and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _serve(state: Path, where: Path) -> list[str | os.PathLike[str]]:
    return hashclient(state, "serve", "--format", "json", "--bind", f"unix:{where}")


@contextlib.contextmanager
def our_door(work: Path, state: Path) -> Iterator[Door]:
    """Yield a running `hashclient serve` that uses a state directory."""
    where = work / "ours.sock"
    with subprocess.Popen(_serve(state, where), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            json.loads(process.stdout.readline())
            yield Door(where, process.pid)
        finally:
            process.terminate()


@contextlib.contextmanager
def clamd_door(work: Path, entries: int = 1000) -> Iterator[Door | None]:
    """Yield a clamd with `entries` SHA-256 signatures and no cache; None if clamd is missing."""
    program = shutil.which("clamd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    where, database = work / "clamd.sock", work / "clamd"
    shutil.rmtree(database, ignore_errors=True)
    database.mkdir(mode=0o755)
    lines = [f"{os.urandom(32).hex()}:*:Dummy.{number}:73\n" for number in range(entries)]
    (database / "dummy.hsb").write_text("".join(lines))
    (work / "clamd.conf").write_text(
        f"LocalSocket {where}\nDatabaseDirectory {database}\nForeground yes\nDisableCache yes\n"
        f"User {_user()}\nStreamMaxLength 100M\nLogFile {work / 'clamd.log'}\n"
    )
    with subprocess.Popen(
        [program, "--config-file", str(work / "clamd.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            for _ in range(600):
                if where.exists() or process.poll() is not None:
                    break
                time.sleep(0.1)
            yield Door(where, process.pid)
        finally:
            process.terminate()


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def door_rows(work: Path, state: Path, scale: float) -> Iterator[Row]:
    """Compare `serve` with clamd, and with the most time and memory that `serve` may take."""
    ready = min(seconds_to_first_line(_serve(state, work / "ready.sock")) for _ in range(5))
    yield time_row("serve: ready", ready, 0.3, "0.3 s", 1.0)
    with our_door(work, state) as door:
        highest, _ = door.latencies(100_000, None)
        rate, took = door.latencies(100_000, highest / 2)
        name = f"serve: 100,000 bytes, {rate:,.0f} /s, p99"
        yield time_row(name, took[int(len(took) * 0.99)], 0.02, "20 ms at half load", 1.0)
    size = int(100e6 * scale)
    with our_door(work, state) as door:
        before, peak = door.streams(500, size)
        name = f"serve: 500 streams of {size / 1e6:g} MB"
        yield bytes_row(name, peak - before, 64 << 20, "64 MiB more than idle")
    with our_door(work, state) as door, clamd_door(work) as peer:
        if peer is None:
            return
        for size, count, ahead, times in CASES:
            # The daemons are measured in alternating order, because other work of the machine
            # changes the rates, most of all the rate of a client that waits for each answer.
            rates = [
                (door.ask(size, count, ahead)[0], peer.ask(size, count // 8, ahead)[0])
                for _ in range(_TURNS)
            ]
            mine, other = sorted(rates, key=lambda pair: pair[0] / pair[1])[_TURNS // 2]
            name = f"serve: {size:,} bytes, {ahead} at a time"
            figures = (f"{mine:,.0f} /CPU s", f"{other:,.0f} /CPU s")
            yield Row(name, *figures, "clamd, 1,000 signatures", other / mine, 1 / times)


@contextlib.contextmanager
def _watch(tree: Path, state: Path) -> Iterator[Door]:
    """Yield a `hashclient watch` of a tree, once it has checked all files that are there."""
    with subprocess.Popen(
        hashclient(state, "watch", tree), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if b"looked at everything" in line:
                    break
            yield Door(Path(), process.pid)
        finally:
            process.terminate()


def watch_rows(tree: Path, state: Path) -> Iterator[Row]:
    """Yield the CPU seconds and memory of `watch` while nothing changes."""
    with _watch(tree, state) as watch:
        began, before = time.perf_counter(), watch.cpu_seconds()
        time.sleep(_IDLE_S)
        spent, passed = watch.cpu_seconds() - before, time.perf_counter() - began
        yield time_row(f"watch: idle for {passed:.0f} s, CPU", spent, passed / 1000, "0.1 %", 1.0)
        yield bytes_row("watch: idle, memory", watch.pss_bytes(), 60e6, "60 MB")


def written_row(work: Path, state: Path, files: int) -> Row:
    """Compare a watch of newly written files with a scan of as many new files."""
    watched, scanned = work / "watched", work / "scanned"
    for where in (watched, scanned):
        shutil.rmtree(where, ignore_errors=True)
    watched.mkdir()
    with _watch(watched, state) as watch:
        before = watch.cpu_seconds()
        make_tree(watched, files=files, total_bytes=files * 64, seed=files)
        spent = watch.cpu_seconds()
        while True:  # if `watch` does no work for `_SETTLED_S`, it has checked all files
            time.sleep(_SETTLED_S)
            now = watch.cpu_seconds()
            if now - spent < _SETTLED_S / 100:
                break
            spent = now
    make_tree(scanned, files=files, total_bytes=files * 64, seed=files + 1)
    scan = cpu_seconds(hashclient(state, "scan", scanned))
    return time_row(
        f"watch: {files:,} files written, CPU", now - before, scan, "scan of as many new files", 2.0
    )
