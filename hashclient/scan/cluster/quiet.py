"""The first step of a worker of a local cluster: Dask calls `dask_setup` by name.

A terminal sends Ctrl-C to all its processes, and the client decides what Ctrl-C does. The client
reports failures of a worker; the error output of a worker is shown only for debugging.
"""

from __future__ import annotations

import os
import signal

from hashclient.system.process import is_debugged


def dask_setup(worker: object) -> None:  # noqa: ARG001 - Dask passes it
    """Ignore Ctrl-C, which the client handles, and silence the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not is_debugged():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
