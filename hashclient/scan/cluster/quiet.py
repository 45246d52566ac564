"""What a worker of a cluster on this machine does first: Dask calls `dask_setup` by its name.

Ctrl-C goes to all processes of a terminal, and the client decides what it means. What goes wrong in
a worker is told by the client; only who looks for a bug wants to see more.
"""

from __future__ import annotations

import os
import signal

from hashclient.system.process import is_debugged


def dask_setup(worker: object) -> None:  # noqa: ARG001 - Dask hands it over
    """Leave Ctrl-C to the client, and say nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not is_debugged():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
