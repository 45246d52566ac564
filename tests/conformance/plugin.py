"""A pytest plugin that runs the suite's commands by `client`, in processes that have it loaded.

The suite puts the names of its tests into addresses. Some names have brackets, which no address of
a provider may contain, so this plugin replaces the names by hashes. If the suite sets a clock with
`faketime`, the command is started as the suite does it.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from typing import Any

from tuf_conformance._internal.client_runner import (  # type: ignore[import-not-found]
    ClientRunner,
)

from tests.conformance import client

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([client.__name__, "hashclient.cli.fetch"])


def _init(self: Any, client_cmd: str, server: Any, test_name: str) -> None:
    _real_init(self, client_cmd, server, hashlib.sha256(test_name.encode()).hexdigest()[:16])


def _run(self: Any, cmd: list[str]) -> Any:
    if cmd[0] == "faketime":
        return _real_run(self, cmd)
    process = _FORKS.Process(target=client.main, args=(cmd[len(self._cmd) :],))
    process.start()
    while process.exitcode is None:
        self._server.handle_request()
        process.join(0.005)
    return process.exitcode


_real_init, _real_run = ClientRunner.__init__, ClientRunner._run
ClientRunner.__init__, ClientRunner._run = _init, _run
