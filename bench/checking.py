"""Checks uploads inside a program: the time of a check at a fixed rate, and the memory of checks.

As a program with a state directory, a rate and a count, this module checks `count` uploads at
`rate` uploads a second on one processor, then checks `count` uploads as fast as it can, and prints
the results as JSON. If other programs use the processor as well, an upload waits for its answer
mostly because of the other programs. So the processor time of a check is measured separately.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.measure import Row, bytes_row, time_row
from hashclient import Client

#: The size of an upload in bytes, the uploads a second, and the number of threads that check.
SIZE, RATE, THREADS = 100_000, 500, 4
_LOAD_S = 10.0
#: The number of checks that suffices to measure the processor time of one check.
_ENOUGH = 2_000


def checking_rows(state: Path, count: int) -> Iterator[Row]:
    """Yield rows with the time of a check, and with the memory that `count` checks add."""
    words = [sys.executable, "-m", "bench.checking", str(state), str(RATE), str(count)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    late_s, ours_s, digest_s, grown = json.loads(done.stdout)
    name = f"{SIZE // 1000} kB"
    yield time_row(f"{name}, {RATE} a second, one core: p99", late_s, 0.005, "5 ms", 1.0)
    name = f"{_ENOUGH:,} times {name}: CPU"
    yield time_row(name, ours_s, digest_s, "hashlib, SHA-256 alone", 2.0)
    yield bytes_row(f"{count:,} checks: more memory", grown, 4e6, "4 MB, of the allocator")


def main() -> None:
    """Check uploads; print the 99th percentile and CPU seconds of a check, and memory in bytes."""
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
        ours_s = _cpu_seconds(lambda: checker.check(body))
        digest_s = _cpu_seconds(lambda: hashlib.sha256(body).digest())
        small = os.urandom(1000)
        for number in range(count // 10):
            checker.check(number.to_bytes(8, "big") + small)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            checker.check(number.to_bytes(8, "big") + small)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([took[int(len(took) * 0.99)], ours_s, digest_s, grown << 10]))


def _cpu_seconds(do: Callable[[], object]) -> float:
    began = time.thread_time()
    for _ in range(_ENOUGH):
        do()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
