"""A cap on memory while bytes are decoded that could ask for any amount of it.

A few kilobytes of Parquet can stand for terabytes: a long value in a dictionary, named by a million
rows; a page of zeros that expands. The library that decodes them has no limit of its own, so the
kernel's is used. It is the whole process's, all threads included, for the time of the block.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

_STATM = Path("/proc/self/statm")
_DATA_FIELD = 5


@contextlib.contextmanager
def memory_cap(more_bytes: int) -> Iterator[None]:
    """Let the process have `more_bytes` more memory of its own than now; mapped files are free.

    An allocation beyond that fails: Python, numpy and Arrow raise MemoryError.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(_STATM.read_text(encoding="ascii").split()[_DATA_FIELD])
    cap = pages * resource.getpagesize() + more_bytes
    for limit in (soft, hard):
        # A limit that somebody has set for us stays.
        if limit != resource.RLIM_INFINITY:
            cap = min(cap, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
