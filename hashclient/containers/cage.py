"""The worker's side of the container process: starts this process, sends jobs, and replaces it.

The container process is started as a new program, and not forked, so that it does not inherit keys
and lists in the worker's memory. The container process inherits one end of a socket pair and no
other open file. If the container process dies while it opens a file, this file is reported as
unread, and the worker continues with a new process. The worker checks all values in the messages of
the container process, and uses the messages only for the file that the worker has sent.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.limits import MAX_CONTAINERS, Options
from hashclient.containers.mailfacts import is_plain
from hashclient.containers.protocol import (
    MAX_NAME_BYTES,
    Ask,
    BrokenError,
    Channel,
    Done,
    Job,
    Masks,
    Ready,
    Row,
    Rows,
    Setup,
    decode_to_worker,
)
from hashclient.containers.sandbox import Locks
from hashclient.containers.unopened import NAMES
from hashclient.core.kinds import Algorithm
from hashclient.core.model import Mail
from hashclient.system.descriptors import NO_ROOM
from hashclient.system.log import Log
from hashclient.system.process import is_debugged

_log = Log("containers")

#: Seconds within which a new process must be sandboxed; a machine that lacks memory is slow.
START_S = 60.0
#: The most processes in a row that may end before they have opened a file; afterwards, no process
#: is started.
MAX_VAIN_STARTS = 4
#: The names of nested containers, the outermost container first.
Chain = tuple[bytes, ...]

#: Calls a function that starts the process, in a thread that lives as long as the process is
#: needed, because the kernel kills the process when the thread that started it ends.
Starting = Callable[[Callable[[], subprocess.Popen[bytes]]], subprocess.Popen[bytes]]

_DIED = "the process that opened it has died"
_LATE = "it takes more than {} seconds"
_BOOT = (
    "import sys; sys.path[:] = sys.argv[2:];"
    " from hashclient.containers.child import main; main(int(sys.argv[1]))"
)
_DIGEST_BYTES = [sum(a.digest_bytes for a in Algorithm.in_mask(mask)) for mask in range(8)]


class Found(msgspec.Struct, frozen=True, gc=False):
    """A member: its containers' names (outermost first), its `Row`, and its outermost mail."""

    chain: Chain
    row: Row
    mail: Mail | None = None


class Cage:
    """Opens containers for one worker, in a process that is started for the first container."""

    def __init__(
        self,
        options: Options,
        masks_of: Callable[[Sequence[int | None]], bytes],
        starting: Starting | None = None,
    ) -> None:
        """`masks_of` returns bit masks of the algorithms to compute for members of given sizes."""
        self.options = options
        self._starting = starting
        self._masks_of = masks_of
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._vain_starts = 0
        self._is_stopped = False
        #: The parts of the sandbox that took effect; None before the first process is started.
        self.locks: Locks | None = None

    def close(self) -> None:
        """Kill the process now; the next call of `open` starts a new process."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Kill the process, from another thread; no other process is started after this call.

        A call of `open` that is running fails soon after this call.
        """
        self._is_stopped = True
        process = self._process
        if process is not None:
            process.kill()

    @property
    def has_failed(self) -> bool:
        """Whether no file was opened completely since the process was last started."""
        return self._vain_starts > 0

    def open(
        self, fd: int, size: int, job: Job, on_found: Callable[[Sequence[Found]], None]
    ) -> int:
        """Open the file `fd` of `size` bytes; `on_found` is called with its members as they arrive.

        Return how many bytes were decoded.

        Raises:
            NotReadError: the file was not read to its end, because the process died or took too
                long; members that were already found are valid.
            OSError: the process cannot be started now, because the system lacks memory or
                descriptors; no member was found.
        """
        deadline = time.monotonic() + self.options.limits.time_s
        channel = self._channel or self._start()
        done: Done | None = None
        try:
            channel.set_timeout(max(0.1, deadline - time.monotonic()))
            channel.send(job, [fd])
            done = self._follow(channel, deadline, on_found)
            self._vain_starts = 0
            return done.bytes_out
        except TimeoutError:
            text = _LATE.format(self.options.limits.time_s)
            raise NotReadError(Why.LIMIT, text) from None
        except (BrokenError, msgspec.MsgspecError) as error:
            why = self._how_it_ended(str(error))
            raise NotReadError(Why.FAILED, why) from error
        finally:
            # The process is killed if the job was interrupted (`done` is None), because late
            # messages of this job would otherwise be taken for messages of the next job.
            if done is None or done.is_tired:
                self.close()

    def _follow(
        self, channel: Channel, deadline: float, on_found: Callable[[Sequence[Found]], None]
    ) -> Done:
        """Handle the messages of the process until the job is done."""
        chains: dict[int, Chain] = {0: ()}
        mails: dict[int, Mail] = {}
        most = self.options.limits.members + 1
        rows = 0
        while True:
            channel.set_timeout(max(0.001, deadline - time.monotonic()))
            message = decode_to_worker(channel.receive())
            if isinstance(message, Rows):
                # A member may have two rows: the second row says that some of its contents are
                # unreadable.
                rows += len(message.rows)
                if rows > 4 * most:
                    raise BrokenError("it says too much")
                for number, parent, name, mail in message.containers:
                    if (
                        number in chains
                        or len(chains) > MAX_CONTAINERS + 1
                        or len(name) > MAX_NAME_BYTES
                        or not (mail is None or is_plain(mail))
                    ):
                        raise BrokenError("it makes no sense")
                    chains[number] = (*self._chain(chains, parent), name)
                    if len(chains[number]) > self.options.limits.depth + 1:
                        raise BrokenError("it makes no sense")
                    # For a mail within a mail, the outermost mail is kept, because it is the mail
                    # in the logs of the mail server.
                    if (outermost := mails.get(parent) or mail) is not None:
                        mails[number] = outermost
                on_found([self._found(chains, mails, row) for row in message.rows])
            elif isinstance(message, Ask):
                sizes = [None if size < 0 else size for size in message.sizes]
                channel.send(Masks(self._masks_of(sizes)))
            elif isinstance(message, Done):
                return message
            else:
                raise BrokenError("it makes no sense")

    def _found(self, chains: dict[int, Chain], mails: dict[int, Mail], row: Row) -> Found:
        """Check a row; return the member in the row, with the names of the member's containers."""
        if not 0 <= row.mask <= 7 or len(row.digests) != _DIGEST_BYTES[row.mask]:
            raise BrokenError("it makes no sense")
        if not 0 <= (row.size or 0) < 2**63 or (row.mask and row.size is None):
            raise BrokenError("it makes no sense")
        if row.not_opened and row.not_opened not in NAMES:
            raise BrokenError("it makes no sense")
        if (row.mask != 0) + row.ruled_out + (row.why is not None) + (row.not_opened != "") != 1:
            raise BrokenError("it makes no sense")
        if len(row.name) > MAX_NAME_BYTES or (row.why is not None and row.why not in set(Why)):
            raise BrokenError("it makes no sense")
        chain = (*self._chain(chains, row.container), row.name)
        return Found(chain, row, mails.get(row.container))

    @staticmethod
    def _chain(chains: dict[int, Chain], number: int) -> Chain:
        chain = chains.get(number)
        if chain is None:
            raise BrokenError("it makes no sense")
        return chain

    def _how_it_ended(self, said: str) -> str:
        """Return a text that says how the process has ended."""
        process = self._process
        if process is None:
            return _DIED
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(1.0)
            _log.info("the process that opens containers has died: %d", code)
            if code < 0:
                with contextlib.suppress(ValueError):
                    return f"{_DIED}: {signal.Signals(-code).name}"
            return _DIED
        _log.info("the process that opens containers sends invalid messages: %s", said)
        return "the process that opened it sent an impossible message"

    def _start(self) -> Channel:
        """Start the process, and wait until its sandbox has taken effect.

        Raises:
            NotReadError: the process cannot be started, or cannot be sandboxed as required.
            OSError: the system lacks descriptors or memory at the moment.
        """
        if self._vain_starts >= MAX_VAIN_STARTS:
            raise NotReadError(Why.FAILED, "the process that opens containers keeps dying")
        self._vain_starts += 1
        try:
            ours, theirs = socket.socketpair()
            self._channel = channel = Channel(ours)
            with theirs:
                start = functools.partial(_spawn, theirs)
                self._process = self._starting(start) if self._starting else start()
            if self._is_stopped:
                raise BrokenError("it was stopped")
            _log.debug("started process %d to open containers", self._process.pid)
            channel.set_timeout(START_S)
            options = self.options
            channel.send(
                Setup(options.limits, os.getpid(), options.verify_sizes, options.passwords)
            )
            ready = decode_to_worker(channel.receive())
            if not isinstance(ready, Ready):
                raise BrokenError("it makes no sense")
        except (OSError, BrokenError, msgspec.MsgspecError) as error:
            self.close()
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                # This failure does not count as a vain start, because the system and not a
                # container has caused the failure; the next container starts a process again.
                self._vain_starts -= 1
                raise
            raise self._not_started(error) from error
        except BaseException:
            self.close()
            raise
        self.locks = ready.locks
        if options.requires_sandbox and not ready.locks.are_whole:
            self.close()
            raise NotReadError(
                Why.FAILED, f"the sandbox is required, and the kernel has no {ready.locks.missing}"
            )
        return channel

    @staticmethod
    def _not_started(error: Exception) -> NotReadError:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return NotReadError(
            Why.FAILED, f"the process that opens containers cannot be started: {text.lower()}"
        )


def _spawn(end: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process with one end of a socket pair, and no other open file of the worker."""
    if not sys.executable:
        raise FileNotFoundError(2, "no python to run")
    # Python ignores environment variables in the new process, so the directories in `sys.path` of
    # the worker are passed as arguments.
    paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100 - keeps links
    for module, depth in ((__file__, 2), (str(msgspec.__file__), 1)):
        home = str(Path(module).absolute().parents[depth])
        if home not in paths:
            paths.append(home)
    environment = {"LC_ALL": "C.UTF-8"}
    if (libraries := os.environ.get("LD_LIBRARY_PATH")) is not None:
        environment["LD_LIBRARY_PATH"] = libraries
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, str(end.fileno()), *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if is_debugged() else subprocess.DEVNULL,
        pass_fds=(end.fileno(),),
        env=environment,
        cwd="/",
    )
