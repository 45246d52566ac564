"""Why an input was not read, in words.

`reason_of` gives the reasons of the system. Reasons of this program are constants here, or beside
the one place that uses them. `docs/exit-codes.md` has the table of them all.
"""

from __future__ import annotations

import errno

CHANGED = "changed while being read"
MOVED = "was moved, and names kept changing while it was looked for"
SPARSE = "sparse: more than 99 % of it is hole; --sparse reads it"
ENDLESS = "goes on for too long, and has no size that can be relied on"
WORKER_DIED = "the worker process that was checking it died"
NOT_THERE = "no such file or directory"


def reason_of(error: OSError) -> str:
    """Return why an input was not read, in the words of the system."""
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return NOT_THERE
    return (error.strerror or str(error)).lower()


WORKER_FAILED = "the worker that was checking it failed"
CLUSTER_GONE = "the cluster could not be reached any more"
