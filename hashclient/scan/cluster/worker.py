"""The work of a cluster's worker for a scan: Dask calls these functions by name.

A worker has its own lists and its own key, as any client has; the client sends neither. Before its
first batch, the worker is prepared (`prepare`): it opens its lists, and checks that its lists, its
key and its paths are the same as the client's. Afterwards the worker reports to the scheduler that
it has the resource of this scan. A failure is returned as an answer, because Dask would log an
exception with its arguments.

One process serves several scans, and Dask only calls functions. So this module keeps the open lists
of each scan under the name of the scan. Each thread has its own checker.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from msgspec.msgpack import decode
from msgspec.structs import replace

from hashclient.config.settings import Settings, resolve_settings
from hashclient.containers import meaning
from hashclient.core.errors import HashclientError, StateError
from hashclient.core.model import Outcome
from hashclient.core.version import __version__
from hashclient.index.matcher import Judge
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache.memory import InventoryPlace, Memory
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.members import Members
from hashclient.scan.cluster.known import Received, as_before, identities_beside, is_beside
from hashclient.scan.cluster.listing import Errand
from hashclient.scan.cluster.messages import (
    PROTOCOL,
    Known,
    Lost,
    Probe,
    Setup,
    Spec,
    ToCheck,
    ToList,
    problem_with_lists,
)
from hashclient.scan.cluster.named import only_same, without_mounted
from hashclient.scan.cluster.probes import problem_with
from hashclient.scan.executors.interface import Checks, single_tasks
from hashclient.scan.executors.wire import Checked, Failed, encode, group_of, pack_result
from hashclient.scan.values.work import (
    TASK_NAMES,
    WORKER_FAILED,
    Group,
    Result,
    Task,
    divided,
    join,
)
from hashclient.session import Session
from hashclient.system.filesystems import mount_points
from hashclient.system.identity import Identities, mount_namespace
from hashclient.system.leases import can_lease
from hashclient.system.log import Log
from hashclient.system.process import collect_rarely
from hashclient.system.processors import Allowance
from hashclient.system.text import printable

#: The seconds after which a batch ends; the rest of the batch is returned, so that no worker is
#: busy much longer than others.
BATCH_MOST_S = 2.0
#: A file of at least this many bytes becomes a batch of its own.
LARGE_BYTES = 256 << 20
#: The most scans that one process keeps ready; if there are more, the least recently used scan is
#: closed.
MOST_RUNS = 16
#: The seconds in which a worker must open its lists and find the probes.
PREPARE_S = 120.0
#: The libraries that a worker needs for buckets.
OBJECT_LIBRARIES = ("botocore", "obstore")
#: An amount of the resource that batches never use up: the resource only shows which workers may
#: get batches, and not how many batches.
PLENTY = 1e9
_log = Log("cluster")
T = TypeVar("T")

_runs: dict[str, Work] = {}
_lock = threading.Lock()


class Stopped(Exception):  # noqa: N818 - this is no error: the scan has ended
    """The scan has ended while a large file was read."""


class Work:
    """The open lists and checkers of a process for one scan."""

    def __init__(self, spec: Spec, lists: OpenLists, state_dir: Path) -> None:
        """Use `lists`, which are open; everything else is opened when a thread first needs it."""
        self.spec = spec
        self._lists = replace(lists, also=spec.also)
        self.state_dir = state_dir
        self._of_thread = threading.local()
        self._opened: list[Members] = []
        self._kept: dict[Hashable, Any] = {}
        self._lock = threading.Lock()
        self.is_over = False
        self.used = time.monotonic()
        self.base = os.fsdecode(spec.base)
        self.points = frozenset(map(os.fsdecode, spec.points))
        #: Whether the client is on this machine.
        self.is_beside = is_beside(spec.boot)
        #: The paths at which a listed file may be another file than on other machines.
        self.mounted: frozenset[str] = frozenset()
        if not spec.namespace or spec.namespace != mount_namespace():
            self.mounted = self.points | mount_points()

    def judge(self) -> Judge:
        """Return the judge, which looks up tags in the lists."""
        return self._lists.judge(all_digests=self.spec.all_digests)

    def members(self) -> Members | None:
        """Return a new opener of containers; None if containers are not opened."""
        spec = self.spec
        if spec.containers is None:
            return None
        made = Members(self.judge(), spec.containers, keep_clean=spec.keep_clean)
        self._opened.append(made)
        return made

    def opened(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the object that is kept under `key`; call `make` if no object is kept yet."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]

    def checker(self, known: Sequence[Known] = ()) -> Checks:
        """Return the checker of this thread, for a batch with these records."""
        of_thread = self._of_thread
        found: Checks | None = getattr(of_thread, "checker", None)
        if found is None:
            of_thread.sent = Received(self.spec.reread_days) if self.spec.gets_known else None
            found = of_thread.checker = self._make(of_thread.sent)
        if of_thread.sent is not None:
            of_thread.sent.take(known)
        return found

    def errand(self) -> Errand:
        """Return the `Errand` that lists a batch of directories."""
        return Errand(
            self.base,
            self.points,
            [os.fsdecode(p) for p in self.spec.exclude],
            identities=self.identities(),
        )

    def identities(self) -> Identities:
        """Return the identities under which the client remembers file systems."""
        return identities_beside(self.spec.boot)

    def close(self) -> None:
        """Close the openers of containers; an unfinished batch ends as soon as possible."""
        self.is_over = True
        for members in self._opened:
            members.close()

    def _make(self, sent: Received | None) -> Checker:
        spec = self.spec
        memory = Memory()
        if spec.asks_inventory:
            place = InventoryPlace(self.state_dir, self._lists.sealer.key_id, spec.reread_days)
            memory = Memory(place)
        return Checker(
            self.judge(),
            cache=memory.open() if sent is None else sent,
            learn=spec.learn,
            file_systems=self.identities(),
            keep_clean=spec.keep_clean,
            sparse=spec.sparse,
            on_bytes=self._on_bytes,
            members=self.members(),
            is_elsewhere=True,
        )

    def _on_bytes(self, _: int) -> None:
        if self.is_over:
            raise Stopped


async def prepare(payload: bytes, resource: str, dask_worker: Any) -> bytes:
    """Make this process ready for a scan, if it finds the files and lists of the client.

    Return empty bytes if the process is ready; otherwise return a message, and a hint in the second
    line.
    """
    # Only the main thread, which runs this function, can test leases; other threads check batches.
    can_lease()
    try:
        problem = await asyncio.wait_for(asyncio.to_thread(_prepare, payload), PREPARE_S)
    except TimeoutError:
        problem = f"not ready after {PREPARE_S:.0f} seconds", "see whether a file system hangs"
    except HashclientError as error:
        problem = error.message, error.hint
    except Exception as error:  # noqa: BLE001 - Dask would log the arguments
        problem = f"{type(error).__name__} while it was made ready", None
    if problem is None:
        await dask_worker.set_resources(**{resource: PLENTY})
        return b""
    message, hint = problem
    return f"{message}\n{hint or ''}".encode(errors="replace")


async def look_at(run: str, payload: bytes) -> bytes:
    """Look for the probes of the client; return for each its problem, or None if it is found."""
    work = _runs.get(run)
    if work is None:
        return encode(None)
    probes, base = decode(payload, type=list[Probe]), work.base

    def look() -> list[str | None]:
        return [problem_with(probe, base) for probe in probes]

    try:
        return encode(await asyncio.wait_for(asyncio.to_thread(look), PREPARE_S))
    except TimeoutError:
        return encode(["not looked at in time"] * len(probes))


async def forget(run: str, resource: str, dask_worker: Any) -> None:
    """Close everything that this process has open for a scan that has ended."""
    with _lock:
        work = _runs.pop(run, None)
    if work is not None:
        await asyncio.to_thread(work.close)
        await dask_worker.set_resources(**{resource: 0})


def _prepare(payload: bytes) -> tuple[str, str | None] | None:
    """Open the lists and look for the probes; return a problem and a hint, or None.

    Raises:
        HashclientError: the lists cannot be used.
    """
    setup = decode(payload, type=Setup)
    spec = setup.spec
    if (spec.protocol, spec.version) != (PROTOCOL, __version__):
        text = f"it has hashclient {__version__}, and the client {spec.version}"
        return text, "install the same version everywhere"
    if spec.objects and (missing := [name for name in OBJECT_LIBRARIES if not find_spec(name)]):
        hint = "`pip install '.[objects]'` in a checkout, for every worker"
        return f"it cannot read buckets: {missing[0]} is not installed", hint
    # A container that a worker does not open seems to be clean, and the client would remember this
    # for later scans.
    if spec.reads not in (0, meaning.READS):
        hint = "install hashclient with the same extras, such as `documents`, for every worker"
        return "it opens other kinds of containers than the client", hint
    with _lock:
        work = _runs.get(spec.run)
    if work is None:
        settings = own_settings(os.environ)
        session = Session(settings)
        lists = session.open_lists()
        problem = problem_with_lists(spec, lists)
        if problem is not None:
            return problem
        work = Work(spec, lists, settings.state_dir)
    for probe in setup.probes:
        wrong = problem_with(probe, work.base)
        if wrong is not None:
            path = printable(os.fsdecode(probe.directory))
            return f"{path}: {wrong}", "every machine must have the same files at the same path"
    with _lock:
        _runs[spec.run] = work
        dropped = sorted(_runs.values(), key=lambda w: w.used)[: max(0, len(_runs) - MOST_RUNS)]
        for old in dropped:
            del _runs[old.spec.run]
    for old in dropped:
        old.close()
    # The present objects live long, so the garbage collector need not search them again. Garbage is
    # collected before the objects are frozen, because garbage that is frozen (`gc.freeze`) is never
    # freed.
    gc.collect()
    gc.freeze()
    collect_rarely()
    return None


def own_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings of this machine, by its environment.

    Raises:
        ConfigError: the configuration is wrong.
    """
    state_dir, config, key_file = (
        Path(value) if (value := environ.get(f"HASHCLIENT_{name}")) else None
        for name in ("STATE_DIR", "CONFIG", "SEAL_KEY_FILE")
    )
    return resolve_settings(
        state_dir=state_dir,
        config_path=config,
        seal_key_file=key_file,
        environ=environ,
    )


def check(run: str, payload: bytes) -> bytes:
    """Check a batch of files."""
    return with_work(
        run,
        lambda work: checked(
            *(work.checker, work.base, payload),
            is_beside=work.is_beside,
            mounted=work.mounted,
        ),
    )


def list_directories(run: str, payload: bytes) -> bytes:
    """List a batch of directories, and the directories below them."""
    return with_work(run, lambda work: work.errand().run(decode(payload, type=ToList).starts))


def with_work(run: str, do: Callable[[Work], Any]) -> bytes:
    """Call `do` with the `Work` of a scan; return its result, or the error, as an answer."""
    work = _runs.get(run)
    if work is None:  # this process has not opened the scan
        return encode(Lost(WORKER_FAILED))
    work.used = time.monotonic()
    return encode(caught(lambda: do(work)))


def caught(do: Callable[[], T]) -> T | Failed | Lost:
    """Call `do`; return its result, or its error, as an answer."""
    try:
        return do()
    except StateError as error:  # an index is damaged
        return Failed(error.message, error.hint)
    except Exception as error:  # noqa: BLE001 - all files of the batch are unread
        _log.info("a batch has failed: %s", type(error).__name__)
        return Lost(WORKER_FAILED)


def checked(
    make: Callable[[Sequence[Known]], Checks],
    base: str | None,
    payload: bytes,
    *,
    is_beside: bool = True,
    mounted: frozenset[str] = frozenset(),
) -> Checked:
    """Check as much of a batch of files as the time allows, and return the rest.

    `make` is called with the client's records, and returns the checker of this thread. Relative
    paths are relative to `base`; without `base`, to the current directory of this process. If this
    process is on another machine than the client (not `is_beside`), outcomes contain no devices.
    Listed files at one of the paths `mounted` are unread.
    """
    allowance = Allowance(BATCH_MOST_S)
    batch = decode(payload, type=ToCheck)
    checker = make(batch.known)
    total, large = Result(), list[Group]()
    groups, others = [], list[Outcome]()
    for names in batch.groups:
        same, found = only_same(names, base)
        if same is not None and not same.signs and mounted:
            same, found = without_mounted(same, base, mounted)
        others += found
        if same is not None:
            groups.append(group_of(same))
    prefix = ""
    if base is not None and groups and not groups[0].directory.startswith("/"):
        prefix = f"{base}/"
        groups = [group._replace(directory=prefix + group.directory) for group in groups]
    is_alone = sum(len(group.names) for group in groups) == 1
    waiting: list[Task] = []
    while groups:
        part, groups = divided(groups, TASK_NAMES)
        waiting.insert(0, part)
    while waiting:
        task = waiting.pop()
        if not is_alone and _is_large(task):
            large += task
            continue
        result = checker.check(task)
        total.add(result)
        waiting += reversed(list(single_tasks(result.deferred)))
        if allowance.is_spent:
            break
    left = [group for task in reversed(waiting) for group in task]
    if not is_beside:
        total.outcomes = list(map(_without_devices, total.outcomes))
    if prefix:  # the client's paths are relative to its current directory
        total.outcomes = [replace(o, path=o.path[len(prefix) :]) for o in total.outcomes]
        left, large = (
            [group._replace(directory=group.directory[len(prefix) :]) for group in groups]
            for groups in (left, large)
        )
    total.outcomes += others
    total.taken_s = allowance.spent_s
    packed = pack_result(total, digests=False)
    packed.deferred = as_before(left, batch.groups)
    packed.large = [one for group in large for one in as_before([group], batch.groups)]
    return packed


def _is_large(task: Task) -> bool:
    """Return whether a task is one file of at least `LARGE_BYTES` bytes."""
    if len(task) != 1 or len(task[0].names) != 1:
        return False
    try:
        status = os.stat(join(task[0].directory, task[0].names[0]))  # noqa: PTH116 - any bytes
        return status.st_size >= LARGE_BYTES
    except OSError:
        return False  # the checker reports the error


def _without_devices(outcome: Outcome) -> Outcome:
    """Return an outcome for another machine, where the file system has another device number."""
    if outcome.seen is None:
        return outcome
    seen = replace(outcome.seen, directory_device=None, device=None)
    return replace(outcome, seen=seen)
