"""Many signatures at once.

A signature takes 30 microseconds, more than all other work to record a match, and OpenSSL
lets other threads run meanwhile. So a large batch is signed by as many threads as there are
processors. The threads have ended when this returns: a process with threads should not fork.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hashclient.audit.record import sign_hash
from hashclient.errors import StateError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: To start a thread takes as long as some signatures.
_MANY = 64
_MOST_THREADS = 8


def sign_all(hashes: Sequence[str], key: Ed25519PrivateKey) -> list[str]:
    """Return the signatures of the records with these hashes, in their order."""
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    if len(hashes) < _MANY or threads < 2:
        return [sign_hash(record_hash, key) for record_hash in hashes]
    from hashclient.system.background import Task

    def sign(first: int) -> list[str]:
        return [sign_hash(record_hash, key) for record_hash in hashes[first::threads]]

    tasks: dict[int, Task[list[str]]] = {}
    try:
        for first in range(1, threads):
            tasks[first] = Task(lambda first=first: sign(first), "sign")  # type: ignore[misc]
    except StateError:
        pass  # if no other thread can start, this one signs
    signatures = [""] * len(hashes)
    for first in range(threads):
        signatures[first::threads] = tasks[first].result() if first in tasks else sign(first)
    return signatures
