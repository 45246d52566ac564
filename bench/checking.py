"""Checking uploads in a program: how long one takes at a fixed rate, and whether memory grows.

Run as a program with a state directory, a rate and a count, it checks that many uploads a second on
one processor, then so many as fast as it can, and prints both results as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.measure import Row, bytes_row, time_row
from hashclient import Client

#: Bytes of an upload, uploads a second, and threads that check them.
SIZE, RATE, THREADS = 100_000, 500, 4
_LOAD_S = 10.0


def checking_rows(state: Path, count: int) -> Iterator[Row]:
    """Yield what an upload takes, and how much memory `count` of them add."""
    words = [sys.executable, "-m", "bench.checking", str(state), str(RATE), str(count)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    late_s, grown = json.loads(done.stdout)
    name = f"{SIZE // 1000} kB, {RATE} a second, one core"
    yield time_row(f"{name}: p99", late_s, 0.005, "5 ms", 1.0)
    yield bytes_row(f"{count:,} checks: more memory", grown, 4e6, "4 MB, of the allocator")


def main() -> None:
    """Check uploads, and print the 99th percentile in seconds, and the bytes that were added."""
    state, rate, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with Client(state).checker() as checker, ThreadPoolExecutor(THREADS) as pool:
        body = os.urandom(SIZE - 8)

        def check(number: int, due: float) -> float:
            if not checker.check(number.to_bytes(8, "big") + body).may_pass:
                raise RuntimeError("not all is clean")
            return time.perf_counter() - due

        began, waiting = time.perf_counter(), []
        for number in range(int(rate * _LOAD_S)):
            due = began + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            waiting.append(pool.submit(check, number, due))
        took = sorted(done.result() for done in waiting)
        small = os.urandom(1000)
        for number in range(count // 10):
            checker.check(number.to_bytes(8, "big") + small)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            checker.check(number.to_bytes(8, "big") + small)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([took[int(len(took) * 0.99)], grown << 10]))


if __name__ == "__main__":
    main()
