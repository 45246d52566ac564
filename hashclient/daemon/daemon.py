"""The parent process of the daemon: opens sockets, and starts the processes that serve clients.

The parent process listens, starts `jobs` processes that serve clients, and restarts a process that
has ended. The parent process reads nothing from clients. After SIGHUP, or after the command RELOAD
of a trusted client, the parent sends SIGHUP to all processes, which open their lists again. A
second daemon at the same socket is refused.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from hashclient.core.errors import HashclientError, StateError
from hashclient.daemon.checks import STOP
from hashclient.daemon.counts import Count, Counts, Row
from hashclient.daemon.lists import Ageing, Lists
from hashclient.daemon.options import Address, Options, TcpAddress, UnixAddress
from hashclient.daemon.sockets import listen, name_of, notify, passed_sockets
from hashclient.daemon.worker import Worker
from hashclient.session import Session
from hashclient.system.beside import Beside
from hashclient.system.log import Log
from hashclient.system.process import forget_exit_codes
from hashclient.system.wakeup import wait, woken_by

if TYPE_CHECKING:
    from hashclient.daemon.metrics import Exposition

_log = Log("daemon")

#: The shortest time in seconds between two starts of a process that was killed by a signal.
RESTART_S = 0.2
#: A process that exits within `EARLY_S` seconds has ended early. More than `MAX_EARLY_DEATHS` early
#: ends, one after the other, stop the daemon.
EARLY_S = 2.0
MAX_EARLY_DEATHS = 16
#: The shortest time in seconds between two requested reloads of the lists.
RELOAD_S = 1.0
#: Seconds between two rounds of the loop in `_watch`.
WATCH_S = 0.5
#: Seconds that processes have to end before they are killed.
STOP_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, STOP)
_DEAD_HINT = "`hashclient status` shows whether the lists can be used; -v shows more"


class Daemon:
    """The daemon for one state directory."""

    def __init__(
        self,
        session: Session,
        addresses: Sequence[Address],
        options: Options,
        *,
        jobs: int,
        metrics: TcpAddress | None,
        beside: Sequence[Beside],
        mode: int,
        warn: Callable[[str, str | None], object],
    ) -> None:
        """Store the arguments; `run` listens at `addresses`, or at the sockets that systemd passes.

        `beside` are commands that run at intervals. `mode` is the mode of a socket in the file
        system. `metrics` is the address for Prometheus. `warn` is called with a warning and a hint
        if a list is not fetched any more.
        """
        self._session = session
        self._addresses = addresses
        self._options = options
        self._jobs = jobs
        self._beside = beside
        self._mode = mode
        self._metrics = metrics
        self._counts = Counts(jobs)
        #: The process of each row of the counters, and the time of its start.
        self._processes: dict[int, tuple[BaseProcess, float]] = {}
        self._early_deaths = 0
        self._stopping = self._reloading = False
        #: The listening sockets and their names.
        self._listeners: list[tuple[socket.socket, str]] = []
        self._exposition: Exposition | None = None
        self._ageing = Ageing(session, warn)

    def run(self, on_ready: Callable[[list[str], list[str]], None]) -> None:
        """Serve until SIGTERM or SIGINT; call `on_ready` with addresses and warnings about lists.

        Raises:
            StateError: the daemon cannot listen, or its processes end soon after each start.
        """
        handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT, STOP), self._on_stop)
        handlers |= {signal.SIGHUP: self._on_reload, signal.SIGCHLD: lambda: None}
        with contextlib.ExitStack() as stack:
            # The lists are opened once in the parent, so that an error is reported before a client
            # is served.
            Lists(self._session)
            self._listen(stack)
            names = [name for _, name in self._listeners]
            if self._metrics is not None:
                # Imported here because the module imports an HTTP server, which most daemons do not
                # need.
                from hashclient.daemon.metrics import Exposition

                self._exposition = stack.enter_context(Exposition(self._metrics, self._counts))
                names.append(f"http://{self._exposition.address}/metrics")
            woken = stack.enter_context(woken_by(handlers))
            try:
                for row in range(self._jobs):
                    self._start(row)
                self._wait_until_ready(woken)
                on_ready(names, self._ageing.look())
                notify(os.environ, "READY=1")
                self._watch(woken)
            finally:
                notify(os.environ, "STOPPING=1")
                self._end()

    def _listen(self, stack: contextlib.ExitStack) -> None:
        """Listen at the sockets that systemd passes, or else at the addresses."""
        for sock in passed_sockets(os.environ):
            self._listeners.append((stack.enter_context(sock), name_of(sock)))
        for address in [] if self._listeners else self._addresses:
            sock = stack.enter_context(listen(address, self._mode, stack))
            is_unix = isinstance(address, UnixAddress)
            self._listeners.append((sock, str(address) if is_unix else name_of(sock)))
        for sock, _ in self._listeners:
            sock.setblocking(False)  # noqa: FBT003 - the socket's own word

    def _start(self, row: int) -> None:
        # Forking is safe because the parent has only one thread.
        process = multiprocessing.get_context("fork").Process(
            target=_work,
            args=(
                *(self._session, self._listeners, self._options),
                *(self._counts.row(row), os.getpid()),
            ),
            daemon=True,
        )
        # Signals are blocked until the new process has its own handlers, because a signal would
        # call the handlers of the parent in the new process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        except OSError as error:
            raise StateError(
                f"cannot start a process: {error.strerror}",
                hint="try fewer --jobs, or raise the limits of processes and memory",
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes[row] = (process, time.monotonic())

    def _wait_until_ready(self, woken: int) -> None:
        """Wait until each process of the daemon serves clients."""
        while self._counts.total(Count.STARTED) < self._jobs and not self._stopping:
            if any(process.exitcode is not None for process, _ in self._processes.values()):
                raise StateError("the daemon could not start", hint=_DEAD_HINT)
            wait(woken, [], 0.005)

    def _watch(self, woken: int) -> None:
        """Restart ended processes, and run regular work, until the daemon must stop."""
        reload_at = 0.0
        others = [] if self._exposition is None else [self._exposition.fileno()]
        while not self._stopping:
            if self._reloading and time.monotonic() >= reload_at:
                # The request is reset before the signal is sent, so a request that comes during the
                # reload causes another reload.
                self._reloading = False
                reload_at = time.monotonic() + RELOAD_S
                self._signal_all(signal.SIGHUP)
            self._restart_dead()
            self._ageing.look()
            for command in self._beside:
                command.look()
            dead = any(p.exitcode is not None for p, _ in self._processes.values())
            if wait(woken, others, RESTART_S if dead else WATCH_S) and self._exposition:
                self._exposition.answer()

    def _restart_dead(self) -> None:
        """Restart ended processes; give up after too many early ends.

        Raises:
            StateError: more than `MAX_EARLY_DEATHS` processes exited soon after their start.
        """
        for row, (process, started) in list(self._processes.items()):
            code = process.exitcode
            if code is None or self._stopping:
                continue
            lived_s = time.monotonic() - started
            if lived_s >= EARLY_S:
                self._early_deaths = 0
            elif code < 0:
                # The process was killed by a signal, perhaps because of a bug in a library, so the
                # restart is delayed.
                if lived_s < RESTART_S:
                    continue
            else:
                self._early_deaths += 1
                if self._early_deaths > MAX_EARLY_DEATHS:
                    raise StateError(
                        f"the processes of the daemon keep ending (exit code {code})",
                        hint=_DEAD_HINT,
                    )
            _log.info("process %d has ended: %d", process.pid, code)
            try:
                self._start(row)
            except StateError as error:  # a later attempt to start the process may succeed
                _log.info("%s", error.message)

    def _signal_all(self, number: signal.Signals) -> None:
        for process, _ in self._processes.values():
            # the id of a process that has ended may belong to another program
            if process.exitcode is None:
                os.kill(process.pid or 0, number)

    def _end(self) -> None:
        """Terminate all processes; kill processes that do not end within `STOP_S` seconds."""
        self._stopping = True
        self._signal_all(signal.SIGTERM)
        until = time.monotonic() + STOP_S
        for process, _ in self._processes.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        for command in self._beside:
            command.end(until - time.monotonic())

    def _on_stop(self) -> None:
        self._stopping = True

    def _on_reload(self) -> None:
        self._reloading = True


def _work(
    session: Session,
    listeners: list[tuple[socket.socket, str]],
    options: Options,
    counts: Row,
    parent: int,
) -> None:
    """Serve clients; this is the main function of a process of the daemon.

    Raises:
        SystemExit: the process cannot serve clients; the exit code shows the error.
    """
    signal.set_wakeup_fd(-1)
    for number in (*_SIGNALS, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forget_exit_codes()
    counts.add(Count.OPEN, -counts.of(Count.OPEN))  # a former process may have left it above 0
    try:
        worker = Worker(session, listeners, options, counts, parent)
    except HashclientError as error:
        _log.info("a process cannot serve: %s", error.message)
        raise SystemExit(int(error.exit_code)) from None
    counts.add(Count.STARTED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    worker.run()
