"""Asking a daemon by clamd's protocol: objects a CPU second, ours and clamd's.

CPU seconds are those of the daemon's processes, as /proc counts them; the client is another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import HASHCLIENT

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Door:
    """A daemon that listens at a socket; `pid` is its first process."""

    socket: Path
    pid: int

    def cpu_seconds(self) -> float:
        """Return user and system seconds of all its processes."""
        return sum(_seconds(pid) for pid in _family(self.pid))

    def rss_bytes(self) -> int:
        """Return the memory of all its processes that no other shares, in bytes."""
        total = 0
        for pid in _family(self.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    total += int(line.split()[1]) << 10
        return total

    def ask(self, size: int, count: int, ahead: int) -> tuple[float, float]:
        """Ask about `count` different objects of `size` bytes, `ahead` at a time, in one session.

        Return objects a CPU second of the daemon, and the seconds below which 99 of 100 rounds are.
        """
        body = os.urandom(size - 8)
        before, rounds = self.cpu_seconds(), []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.socket))
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


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextlib.contextmanager
def our_door(work: Path, state: Path) -> Iterator[Door]:
    """Yield `hashclient serve` on a state directory."""
    where = work / "ours.sock"
    words = [*HASHCLIENT, "-q", "--state-dir", str(state), "serve", "--format", "json"]
    with subprocess.Popen([*words, "--bind", f"unix:{where}"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            json.loads(process.stdout.readline())
            yield Door(where, process.pid)
        finally:
            process.terminate()


@contextlib.contextmanager
def clamd_door(work: Path, entries: int = 1000) -> Iterator[Door | None]:
    """Yield a clamd with so many SHA-256 signatures and no cache; None where there is no clamd."""
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
