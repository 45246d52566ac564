"""The only module that uses Dask: a connection to a scheduler, or to a local cluster.

Dask pickles what it sends, and runs what it receives. This module is the only place where
hashclient uses pickle. TLS with certificates on both sides limits the risk if other users can
connect to the cluster. This module turns off the logging and storing of data by Dask, as far as a
client can. This module replaces the exceptions of Dask by exceptions of hashclient.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import socket
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hashclient.core.errors import ConfigError, StateError, UnreachableError, UsageError
from hashclient.scan.cluster.address import LocalCluster, Scheduler
from hashclient.system.log import Log
from hashclient.system.process import is_debugged

_log = Log("cluster")

CONNECT_S = 10.0
_MUTE = logging.CRITICAL + 1
#: The seconds in which the scheduler must answer a request, for example for the results of batches.
ANSWER_S = 60.0
#: The seconds in which a call to workers must return; the workers stop earlier.
CALL_S = 150.0
#: The seconds for the calls to workers at the end of a scan, which need no answer.
GOODBYE_S = 2.0

#: Settings that turn off parts of Dask that take time in each process, or that show other users
#: what runs in the process. With a scheduler and two idle workers, the settings reduce the CPU time
#: from 66 to 10 ms a second.
QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.log-length": 100,
    # By default, Dask drops a worker whose restart takes longer than 15 seconds.
    "distributed.deploy.lost-worker-timeout": "600s",
}
#: The number of workers that may die during a batch before the batch fails; the batch fails when a
#: third worker dies.
_ALLOWED_FAILURES = 2
#: All errors that Dask may raise; the class of an error does not show whether the scheduler still
#: runs.
_GONE = (Exception, asyncio.CancelledError)


class GoneError(Exception):
    """The scheduler does not answer any more."""


class Connection:
    """The calls of a scan to a cluster; only one thread may use a connection."""

    def __init__(self, client: Any, *, shares_state: bool) -> None:
        """Use a client of Dask; with `shares_state`, workers use the client's state directory."""
        import distributed as untyped

        distributed: Any = untyped
        self._client: Any = client
        self.shares_state = shares_state
        #: The futures of the calls that have no answer yet, by key.
        self._asked: dict[str, Any] = {}
        #: The queue of calls that have succeeded or failed. Callbacks of futures are not used,
        #: because they would leave a thread behind.
        self._done: Any = distributed.as_completed(
            loop=client.loop, with_results=True, raise_errors=False
        )

    @property
    def is_up(self) -> bool:
        """Whether the client of Dask had a connection to the scheduler a moment ago."""
        return bool(self._client.status == "running")

    def workers(self) -> dict[str, int]:
        """Return the address of each worker, with the number of batches that it runs at a time.

        Raises:
            GoneError: the scheduler does not answer.
        """
        with _told():
            info: Mapping[str, Any] = self._sync(self._client.scheduler.identity, n_workers=-1)
            return {address: int(one["nthreads"]) for address, one in info["workers"].items()}

    def call(
        self, function: Callable[..., Any], *args: object, workers: Collection[str]
    ) -> dict[str, Any]:
        """Call a function in the process of each of `workers`; return the answers by address.

        An answer may be an exception: the worker has died, or has no such function.

        Raises:
            GoneError: the scheduler does not answer.
        """
        if not workers:
            return {}
        with _told():
            answers: dict[str, Any] = self._client.run(
                function,
                *args,
                workers=list(workers),
                on_error="return",
                callback_timeout=CALL_S,
            )
            return answers

    def submit(self, function: Callable[..., bytes], *args: object, key: str, resource: str) -> Any:
        """Let any worker that has `resource` call a function; return the future of the call.

        Raises:
            GoneError: the scheduler does not answer.
        """
        with _told():
            future = self._client.submit(
                function, *args, key=key, pure=False, resources={resource: 1}
            )
            self._asked[key] = future
            self._done.add(future)
            return future

    def ended(self, timeout_s: float) -> dict[str, bytes | None]:
        """Wait for the answer of a call; return all new answers by the keys of their calls.

        An answer is None if no worker could compute it. If an answer is lost with its worker,
        another worker computes the answer again, and a later call returns this answer.

        Raises:
            GoneError: the scheduler has ended, or has forgotten the calls.
        """
        found: dict[str, bytes | None] = {}
        try:
            future, answer = self._done.queue.get(timeout=timeout_s)
            while True:
                if self._asked.pop(future.key, None) is not None:
                    if isinstance(answer, BaseException):  # another program cancelled the call
                        raise GoneError
                    found[future.key] = answer if isinstance(answer, bytes) else None
                future, answer = self._done.queue.get_nowait()
        except queue.Empty:
            pass
        # If an answer was lost and could not be computed again, Dask may put nothing into the
        # queue.
        for key in [] if found else [k for k, f in self._asked.items() if f.status == "error"]:
            del self._asked[key]
            found[key] = None
        return found

    def stuck(self) -> set[str]:
        """Return the keys of calls that no worker can run at the moment.

        Raises:
            GoneError: the scheduler does not answer.
        """
        if not self._asked:
            return set()
        with _told():
            ask = self._client.scheduler.get_task_status
            states: Mapping[str, str] = self._sync(ask, keys=list(self._asked))
            return {key for key, state in states.items() if state == "no-worker"}

    def abandon(self, futures: Collection[Any]) -> None:
        """Cancel calls whose answers are not needed any more.

        Raises:
            GoneError: the scheduler does not answer.
        """
        for future in futures:
            self._asked.pop(future.key, None)
        with _told():
            self._cancel(futures, ANSWER_S)

    def goodbye(
        self, futures: Collection[Any], function: Callable[..., Any], *args: object
    ) -> None:
        """Cancel unfinished calls, and call a function in all workers; wait only `GOODBYE_S`."""
        if not self.is_up:
            return
        with contextlib.suppress(*_GONE):
            self._cancel(futures, GOODBYE_S)
            self._client.run(function, *args, on_error="ignore", callback_timeout=GOODBYE_S)

    def _cancel(self, futures: Collection[Any], limit_s: float) -> None:
        cancel = self._client.cancel
        self._sync(cancel, list(futures), force=True, asynchronous=True, limit_s=limit_s)

    def _sync(self, function: Any, *args: Any, limit_s: float = ANSWER_S, **named: Any) -> Any:
        """Run a function in the thread of Dask; wait at most `limit_s` seconds for its result."""
        from distributed import utils as untyped

        utils: Any = untyped
        return utils.sync(self._client.loop, function, *args, callback_timeout=limit_s, **named)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except _GONE as error:
        _log.info("the cluster does not answer: %s", type(error).__name__)
        raise GoneError from error


@contextlib.contextmanager
def connected(
    where: LocalCluster | Scheduler, environment: Mapping[str, str]
) -> Iterator[Connection]:
    """Connect to a scheduler, or start a local cluster; its workers get `environment`, too.

    Raises:
        UsageError: Dask is not installed.
        UnreachableError: the scheduler does not answer.
        ConfigError: a certificate cannot be used.
        StateError: the machine has too little memory, or too few processes, for the workers.
    """
    try:
        import dask
        import distributed as untyped
    except ImportError as error:
        raise UsageError(
            "a cluster needs Dask, which is not installed",
            hint="`pip install '.[cluster]'` in a checkout installs what it needs",
        ) from error
    distributed: Any = untyped
    with contextlib.ExitStack() as stack:
        warned = stack.enter_context(warnings.catch_warnings(record=True))
        stack.callback(_pass_on, warned)
        stack.enter_context(_hushed())
        stack.enter_context(dask.config.set(QUIET))
        if isinstance(where, LocalCluster):
            stack.enter_context(
                dask.config.set({"distributed.scheduler.allowed-failures": _ALLOWED_FAILURES})
            )
            address: Any = stack.enter_context(_started(distributed, where, environment))
            security = address.security
        else:
            address, security = where.url, _security(distributed, where)
        try:
            if isinstance(where, Scheduler):
                # Dask would try to connect for long, even if the connection is refused at once.
                socket.create_connection((where.host.strip("[]"), where.port), CONNECT_S).close()
            client = _client_class(distributed)(
                address, security=security, timeout=CONNECT_S, set_as_default=False
            )
        # the program at this address need not be a scheduler, and may have sent anything
        except _GONE as error:
            raise UnreachableError(
                f"the scheduler cannot be reached: {getattr(where, 'url', 'local cluster')}",
                hint="is it running, and are the certificates of the same authority?",
            ) from error
        stack.callback(_close, client)
        yield Connection(client, shares_state=isinstance(where, LocalCluster))


def _client_class(distributed: Any) -> Any:
    """Return a class of Dask clients that give up if a scheduler accepts but does not answer."""

    class Client(distributed.Client):  # type: ignore[misc]
        def start(self, **how: Any) -> None:
            try:
                super().start(callback_timeout=2 * CONNECT_S, **how)
            except BaseException:
                _close(self)
                raise

        def __del__(self) -> None:
            """Do nothing: every client is closed already.

            Dask would close the client, for which it needs a lock; a collection of garbage in a
            thread that holds this lock would never end.
            """

    return Client


@contextlib.contextmanager
def _started(
    distributed: Any, where: LocalCluster, environment: Mapping[str, str]
) -> Iterator[Any]:
    """Start workers on this machine; end the workers after the `with` block."""
    try:
        cluster = distributed.LocalCluster(
            n_workers=where.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # the dashboard is off
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,  # Dask must not write data to the disk when memory is short
            # Other users of this machine can connect to the port, but they have no certificate.
            security=distributed.Security.temporary(),
            silence_logs=_MUTE,
            env=dict(environment),
            preload=["hashclient.scan.cluster.quiet"],
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise StateError(
            "a local cluster cannot be started",
            hint="try fewer workers, or raise the limits of processes and open files",
        ) from error
    try:
        yield cluster
    finally:
        with contextlib.suppress(*_GONE):
            cluster.close(timeout=CONNECT_S)


def _security(distributed: Any, where: Scheduler) -> Any:
    if where.tls is None:
        return None
    security = distributed.Security(
        tls_ca_file=os.fspath(where.tls.ca),
        tls_client_cert=os.fspath(where.tls.cert),
        tls_client_key=os.fspath(where.tls.key),
        require_encryption=True,
    )
    try:
        security.get_connection_args("client")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "certificates of the cluster cannot be used: no PEM, or key and certificate differ",
            hint="check ca, cert and key in [cluster] of config.toml",
        ) from error
    return security


def _close(client: Any) -> None:
    with contextlib.suppress(*_GONE):
        client.close(timeout=GOODBYE_S)


def _pass_on(warned: Sequence[warnings.WarningMessage]) -> None:
    """Log the warnings of Dask, for example about different versions."""
    for warning in warned:
        _log.info("Dask warns: %s", warning.message)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Turn off the log of Dask, except for debugging."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    loggers = [logging.getLogger(name) for name in {"distributed", *names}]
    before = [logger.level for logger in loggers]
    try:
        for logger in () if is_debugged() else loggers:
            logger.setLevel(_MUTE)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def environment_of(state_dir: Path, config: Path | None, key_file: Path | None) -> dict[str, str]:
    """Return the environment by which local workers find the client's state directory."""
    found = {"HASHCLIENT_STATE_DIR": state_dir, "HASHCLIENT_SEAL_KEY_FILE": key_file}
    if config is not None and config.is_file():
        found["HASHCLIENT_CONFIG"] = config
    return {name: os.fspath(path) for name, path in found.items() if path is not None}
