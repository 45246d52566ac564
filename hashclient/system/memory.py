"""A cap on memory while untrusted bytes are decoded.

A few kilobytes of Parquet can decode to terabytes: a long value in a dictionary that a million rows
refer to, or a compressed page of zeros. The library that decodes Parquet has no limit of its own,
so the kernel's limit is used. It applies to the whole process, all threads included, during the
block.
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
    """Limit the process to `more_bytes` more private memory than now; mapped files do not count.

    A larger allocation fails: Python, numpy and Arrow raise MemoryError.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(_STATM.read_text(encoding="ascii").split()[_DATA_FIELD])
    cap = pages * resource.getpagesize() + more_bytes
    for limit in (soft, hard):
        # A lower limit that was set from outside stays.
        if limit != resource.RLIM_INFINITY:
            cap = min(cap, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
