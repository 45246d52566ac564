"""Checks paths that a client names, and open files that it hands over as descriptors.

Both are read in threads, in pieces. Matches at paths are recorded apart from those of streams,
since isolating a file may take long.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from hashclient.containers.sniffing import has_behind, look
from hashclient.core.counts import add_by_kind
from hashclient.core.digests import CHUNK_BYTES
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.answers import OK, answer, unknown
from hashclient.daemon.ledger import Ledger
from hashclient.daemon.lists import InUse
from hashclient.daemon.named import Named
from hashclient.daemon.openers import Openers, Ourselves, worst
from hashclient.daemon.protocol import Command
from hashclient.daemon.uploads import Upload
from hashclient.scan.checker import Checker
from hashclient.scan.executors.inline import Inline
from hashclient.scan.executors.interface import Result
from hashclient.scan.members import Members
from hashclient.scan.reading import SPARSE_BYTES, SPARSE_SHARE, same_content
from hashclient.scan.reasons import CHANGED, ENDLESS, SPARSE, reason_of
from hashclient.scan.sources.files import kind_of
from hashclient.system.rights import Rights, acting_as

if TYPE_CHECKING:
    from hashclient.daemon.doors import Peer
    from hashclient.daemon.host import Client, Form
    from hashclient.daemon.options import Options
    from hashclient.daemon.turns import Job

#: The reason for a client whose rights the kernel cannot apply.
NOT_YOURS = "this client may not ask about paths"
#: Bytes of an open file that are read in one piece.
PIECE_BYTES = 32 << 20


class Office(Protocol):
    """The owner of the clients; `Worker` implements it."""

    options: Options
    is_stopping: bool

    @property
    def lists(self) -> InUse:
        """The lists as they are now."""
        ...

    def count(self, outcome: Outcome | None, lists: InUse) -> None:
        """Count an input by its verdict; None means clean."""
        ...

    def count_not_opened(self, kinds: Mapping[str, int]) -> None:
        """Count files of kinds that are not opened."""
        ...

    def may_name(self, peer: Peer) -> Rights | None:
        """Return the rights with which paths of `peer` are opened; None for those of the daemon.

        Raises:
            PermissionError: it may name none.
        """
        ...

    openers: Openers | None

    def open_container(self, job: Job, upload: Upload, client: Client) -> None:
        """Open a container for a client, in turn."""
        ...

    def looked_inside(self, upload: Upload) -> None:
        """Take a stream of which it is known what is in it."""
        ...

    def release(self, upload: Upload) -> None:
        """Forget a stream that never comes to its end."""
        ...


class _DroppedError(Exception):
    """The client does not wait for this any more."""


def check_path(
    lists: InUse,
    named: Named,
    on_bytes: Callable[[int], None] | None = None,
    members: Members | None = None,
    not_opened: dict[str, int] | None = None,
) -> Iterator[list[Outcome]]:
    """Check what stands at a path; yield outcomes that are not clean, as they come.

    Links below it are not followed. Other files than regular ones have no content to check and are
    passed over, unless the path itself names one. `on_bytes` is called from time to time while a
    file is read. `members` opens containers; files of kinds that are not opened are added to
    `not_opened`.
    """
    checker = Checker(lists.judge, on_bytes=on_bytes, members=members)
    for item in Inline().run(named.batches(), lambda _: checker):
        outcomes = item.outcomes if isinstance(item, Result) else []
        if isinstance(item, Outcome):
            outcomes = [item]
        elif isinstance(item, Result) and not_opened is not None:
            add_by_kind(not_opened, item.not_opened)
        yield [named.real(o) for o in outcomes if o.kind not in {Kind.CLEAN, Kind.SKIPPED}]


class PathJob:
    """A path that a client has named."""

    def __init__(
        self,
        office: Office,
        records: PathRecords,
        connection: Client,
        command: Command,
        path: str,
        form: Form,
    ) -> None:
        self._office = office
        self._records = records
        self._connection = connection
        self._path = path
        self._form = form
        self._every = command is Command.ALLMATCHSCAN
        self._first_only = command is Command.SCAN
        self._lists = office.lists
        self._is_clean = True
        #: Gives a piece that has the rights of the client its own rights back for a block.
        self._ourselves: Ourselves = contextlib.nullcontext
        #: Files of kinds that are not opened, since the last answer.
        self._not_opened: dict[str, int] = {}
        #: The file or tree at the path, once it is open; and what is found there.
        self._named: Named | None = None
        self._found: Iterator[list[Outcome]] | None = None

    def piece(self) -> Callable[[], bool]:
        """Check the next piece."""
        rule = self._office.options.no_verdict
        try:
            if not self._path.startswith("/"):
                raise PermissionError(errno.EINVAL, "not an absolute path")
            rights = self._office.may_name(self._connection.peer)
        except PermissionError as error:
            text = unknown("Path", str(error.strerror), rule)
            return lambda: self._reply([f"{self._shown(self._path)}: {text}"], [], last=True)
        if rights is None:
            outcomes = self._next(contextlib.nullcontext)
        else:
            with acting_as(rights) as ourselves:
                outcomes = self._next(ourselves)
        if outcomes is None:
            lines = []
            if self._is_clean:
                said = answer(None, self._lists.doubt, rule)
                lines = [f"{self._shown(self._path)}: {text}" for text in said]
            clean = [None] if self._is_clean else []
            return lambda: self._reply(lines, clean, last=True)
        if self._not_opened:
            self._records.leave(self._not_opened, self._lists)
        found = [o for o in outcomes if o.kind in (Kind.MATCH, Kind.CONFLICT)]
        if found:
            self._records.add(found, self._lists, each=self._connection.peer.is_trusted)
        if outcomes:
            self._is_clean = False
        # Those first that a client must not miss.
        lines = self._lines(found + [o for o in outcomes if o not in found])
        if self._first_only and found:
            return lambda: self._reply(lines[:1], outcomes, last=True)
        return lambda: self._reply(lines, outcomes, last=False)

    def _next(self, ourselves: Ourselves) -> list[Outcome] | None:
        """Return the next outcomes that are not clean; None at the end."""
        try:
            if self._found is None:
                self._named = Named(self._path)
                self._found = self._check(self._named)
        except OSError as error:
            self._found = iter(())
            return [Outcome(Kind.UNREAD, self._path, reason=reason_of(error))]
        self._ourselves = ourselves
        door = self._connection.peer.door
        found = next(self._found, None)
        return found and [msgspec.structs.replace(outcome, door=door) for outcome in found]

    def _as_ourselves(self) -> contextlib.AbstractContextManager[None]:
        """Have the rights of this process in a block, in the present piece."""
        return self._ourselves()

    def _check(self, named: Named) -> Iterator[list[Outcome]]:
        openers = self._office.openers
        if openers is None:
            yield from check_path(self._lists, named, self._on_bytes)
            return
        with openers.own(self._lists, self) as members:
            members.ourselves = self._as_ourselves
            for found in check_path(self._lists, named, self._on_bytes, members, self._not_opened):
                yield openers.accepted(found)

    def _lines(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Return answers about files, each by its own path: no client knows those of members."""
        by_path: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            by_path.setdefault(outcome.path, []).append(outcome)
        doubt, rule = self._lists.doubt, self._office.options.no_verdict
        lines = []
        for path, of_file in by_path.items():
            chosen = of_file if self._every else [worst(of_file)]
            said = dict.fromkeys(
                text
                for outcome in chosen
                for text in answer(outcome, doubt, rule, every=self._every)
            )
            if len(said) > 1:
                said.pop(OK, None)
            given = path if self._named is None else self._named.as_given(path)
            lines += [f"{self._shown(given)}: {text}" for text in said]
        return lines

    def stop(self) -> None:
        """Give up a container that is being opened; reading ends by itself."""
        if self._office.openers is not None:
            self._office.openers.stop(self)

    def drop(self) -> None:
        """Stop checking."""
        if isinstance(self._found, Generator):
            self._found.close()
        self._found = iter(())
        if self._named is not None:
            self._named.close()

    def _reply(self, lines: list[str], outcomes: Sequence[Outcome | None], *, last: bool) -> bool:
        for outcome in outcomes:
            self._office.count(outcome, self._lists)
        self._office.count_not_opened(self._not_opened)
        self._not_opened.clear()
        self._connection.answer(self._form, lines, last=last)
        return not last

    def _shown(self, path: str) -> str:
        """Return a path escaped for an answer, so that a file name cannot end the line."""
        return path.replace(self._form[1].decode(), "_")

    def _on_bytes(self, _: int) -> None:
        if self._connection.is_closed or self._office.is_stopping:
            raise _DroppedError


class PathRecords:
    """The records of matches at paths, for several threads."""

    def __init__(self, make: Callable[[InUse], Ledger]) -> None:
        """Keep `make`, which begins a ledger at the first match."""
        self._make = make
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None

    def add(self, found: Sequence[Outcome], lists: InUse, *, each: bool) -> None:
        """Record matches and conflicts, and act on them; see `Ledger.add`."""
        with self._lock:
            self._for(lists).add(found, each=each)

    def leave(self, kinds: Mapping[str, int], lists: InUse) -> None:
        """Note files of kinds that are not opened."""
        with self._lock:
            self._for(lists).leave(kinds)

    def _for(self, lists: InUse) -> Ledger:
        """Return the ledger, at these lists."""
        if self._ledger is None:
            self._ledger = self._make(lists)
        self._ledger.use(lists)
        return self._ledger

    def prepare_reports(self) -> None:
        """Prepare reports of matches, and write counts, from time to time."""
        with self._lock:
            if self._ledger is not None:
                self._ledger.keep_counts()
        if self._ledger is not None:
            self._ledger.prepare_reports()

    def end(self) -> None:
        """Log the end."""
        with self._lock:
            if self._ledger is not None:
                self._ledger.end()


class _OpenFile:
    """A job for an open file that a client has handed over, which is closed at its end."""

    def __init__(self, office: Office, fd: int, upload: Upload) -> None:
        self._office = office
        self._fd = fd
        self._upload = upload
        self._is_over = False

    def drop(self) -> None:
        """Close it."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1
            if not self._is_over:
                self._office.release(self._upload)


class DescriptorJob(_OpenFile):
    """An open file that a client has handed over; it is read from its beginning.

    Its offset is left alone, since the client has the same.
    """

    def __init__(self, office: Office, client: Client, fd: int, upload: Upload) -> None:
        super().__init__(office, fd, upload)
        self._client = client
        self._at = 0
        self._before: os.stat_result | None = None
        self._deadline = time.monotonic() + office.options.stream_s
        self._opens = False

    def piece(self) -> Callable[[], bool]:
        """Read the next piece; another job opens a file that may be a container."""
        try:
            failed = self._read()
        except OSError as error:
            failed = self._unread(reason_of(error))
        if failed is not None:
            return lambda: self._end(failed)
        return self._go_on

    def _go_on(self) -> bool:
        if not self._is_over:
            return True
        if not self._opens:
            return self._end(None)
        assert self._before is not None
        job = DescriptorOpeningJob(self._office, self._fd, self._before, self._upload)
        self._fd = -1
        self._office.open_container(job, self._upload, self._client)
        return False

    def _read(self) -> Outcome | None:
        fd = self._fd
        before = self._before
        if before is None:
            before = self._before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                return self._unread(kind_of(before.st_mode))
            if before.st_size > SPARSE_BYTES:
                if before.st_blocks * 512 * SPARSE_SHARE < before.st_size:
                    return self._unread(SPARSE)
        buffer = memoryview(bytearray(CHUNK_BYTES))
        until = self._at + PIECE_BYTES
        while self._at < until:
            count = os.preadv(fd, [buffer], self._at)
            if not self._at:
                head = buffer[:count]
                self._opens = self._office.openers is not None and bool(look(head))
            if not count:
                self._is_over = True
                after = os.fstat(fd)
                if not same_content(before, after) or before.st_size not in (0, self._at):
                    return self._unread(CHANGED)
                if self._office.openers is not None and not self._opens:
                    self._opens = has_behind(
                        b"", self._at, lambda offset, count: os.pread(fd, count, offset)
                    )
                return None
            self._upload.update(buffer[:count])
            self._at += count
            if time.monotonic() > self._deadline:
                return self._unread(ENDLESS)
        return None

    def _end(self, failed: Outcome | None) -> bool:
        _read_to_the_end(self._office, self._upload, failed)
        return False

    def stop(self) -> None:
        """Do nothing: a piece does not take long."""

    def _unread(self, reason: str) -> Outcome:
        return Outcome(Kind.UNREAD, self._upload.door, reason=reason, is_stream=True)


class DescriptorOpeningJob(_OpenFile):
    """An open file that was read to its end and may be a container."""

    def __init__(self, office: Office, fd: int, before: os.stat_result, upload: Upload) -> None:
        """`before` is its status before it was read."""
        super().__init__(office, fd, upload)
        self._before = before

    def piece(self) -> Callable[[], bool]:
        """Open it."""
        assert self._office.openers is not None
        fd, upload = self._fd, self._upload
        failed = None
        try:
            at = os.lseek(fd, 0, os.SEEK_CUR)  # the client shares the offset
            upload.inside = self._office.openers.open(upload, fd, upload.digester.length)
            os.lseek(fd, at, os.SEEK_SET)
            if not same_content(self._before, os.fstat(fd)):
                failed = CHANGED
        except OSError as error:
            failed = reason_of(error)

        def ended() -> bool:
            self._is_over = True
            unread = None
            if failed is not None:
                unread = Outcome(Kind.UNREAD, upload.door, reason=failed, is_stream=True)
            _read_to_the_end(self._office, upload, unread)
            return False

        return ended

    def stop(self) -> None:
        """Give it up."""
        assert self._office.openers is not None
        self._office.openers.stop(self._upload)


def _read_to_the_end(office: Office, upload: Upload, failed: Outcome | None) -> None:
    """Have an open file judged, or say that it is unread."""
    if failed is None:
        office.looked_inside(upload)
        return
    office.release(upload)
    office.count(failed, upload.lists)
    upload.answered(failed)
