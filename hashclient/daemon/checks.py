"""The checks of one daemon process, which reads, judges, records and answers inputs of clients.

The event loop in one thread does the quick work; other threads read paths and descriptors, and open
containers. Streams that end at about the same time are judged and recorded together before the
clients are answered.

The daemon does not answer that an input without a verdict is clean, unless the operator has set the
option `no_verdict` to `ok`. Clients treat any name before `FOUND` as a virus, but some clients
treat names that begin with `Heuristics.Limits.Exceeded` as content that could not be checked. The
daemon answers about an input without a verdict with a name that begins with
`Heuristics.Limits.Exceeded`, unless the operator has chosen the answer `ERROR` or `OK`.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import signal
import time
from collections.abc import Sequence

from hashclient.core.digests import CHUNK_BYTES, KEPT_BYTES, digest_of
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.version import __version__
from hashclient.daemon.client import Client, Form
from hashclient.daemon.counts import Count, Row
from hashclient.daemon.ledger import Ledger, Records
from hashclient.daemon.lists import InUse, Lists
from hashclient.daemon.openers import Openers
from hashclient.daemon.options import NoVerdict, Options, Paths
from hashclient.daemon.protocol import Command, no_verdict, signature
from hashclient.daemon.turns import Job, Turns, begun
from hashclient.daemon.uploads import Upload, judge
from hashclient.daemon.users import Peer, Share
from hashclient.scan.check.kept import MEMORY_BYTES, Spool, may_be_container
from hashclient.scan.values.work import reason_of
from hashclient.session import Session
from hashclient.system.rights import Rights, can_act_as_others

#: The name of a stream in answers to clients.
STREAM = "stream"
#: A process sends this signal to its parent to stop the daemon.
STOP = signal.SIGUSR1
#: All streams together may keep a limited number of bytes in memory. A new stream may keep at most
#: 1/`KEPT_SHARE` of the bytes that the other streams leave free. If the bytes of a stream are kept,
#: its digests are computed when the stream has ended, and only if they are needed.
KEPT_SHARE = 8
#: The number of threads that read paths, and of threads that read descriptors.
READERS = 8
#: The number of threads that open containers of at most `SMALL_BYTES`, and of threads that open
#: larger containers. Each thread that opens containers has a process.
OPENERS = 8
OPENERS_OF_LARGE = 4
SMALL_BYTES = 8 << 20
#: The reason in the answer to a client whose user id and groups cannot be used to open files.
NOT_YOURS = "this client may not ask about paths"

_KINDS = {
    Kind.MATCH: Count.MATCH,
    Kind.CONFLICT: Count.CONFLICT,
    Kind.UNREAD: Count.UNREAD,
    Kind.EXCEPTED: Count.EXCEPTED,
}


class Checks:
    """The checks of one process of the daemon."""

    def __init__(
        self,
        session: Session,
        options: Options,
        counts: Row,
        arguments: Sequence[str],
        parent: int,
        most_files: int,
    ) -> None:
        """Open the lists, and log the start of the daemon; `parent` is the id of its parent.

        All clients together may pass `most_files` open files at a time.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        self.options = options
        self.counts = counts
        self.loop = asyncio.new_event_loop()
        #: The read buffer of all connections; a connection handles its bytes before another
        #: connection reads.
        self.buffer = memoryview(bytearray(CHUNK_BYTES))
        self.is_stopping = False
        self._parent = parent
        self._lists = Lists(session, exceptions=options.exceptions)
        percent = options.user_share
        self.open_files = Share(most_files, percent)
        self._kept = Share(options.kept_bytes, 100)
        self._spooled = Share(MEMORY_BYTES + options.spool_bytes, percent)
        self._spool = Spool(session.settings.layout.spool, options.spool_bytes)
        ledger = functools.partial(Ledger, session, counts, arguments, self.lists, act=options.act)
        streams = ledger()
        streams.use(self.lists)
        self.records = Records(self.loop, streams, ledger(), self._answer)
        turns = functools.partial(Turns, self.loop, percent=percent)
        self.paths = turns(READERS, "path")
        self.files = turns(READERS, "descriptor")
        #: Containers have their own threads, because opening a container may take long and other
        #: files must not wait. Small containers do not wait for large containers.
        self._openings = turns(OPENERS, "container")
        self._large = turns(OPENERS_OF_LARGE, "large container")
        self._turns = (self.paths, self.files, self._openings, self._large)
        self.openers: Openers | None = None
        if options.containers is not None:
            self.openers = Openers(options.containers, session)
        #: Streams that have ended and that the next call of `_judge` judges together.
        self._ended: list[Upload] = []

    @property
    def lists(self) -> InUse:
        """The lists that are in use now."""
        return self._lists.now

    def refresh(self, *, force: bool = False) -> None:
        """Open the lists again if they have changed on the disk, or in any case with `force`."""
        if self._lists.refresh(force=force):
            self.counts.add(Count.RELOADS)
        self.records.use(self.lists)

    def end(self) -> None:
        """Record the judged inputs, and end all threads and processes of the checks."""
        self.records.end_streams()
        if self.openers is not None:
            self.openers.stop()
        for turns in self._turns:
            turns.close()
        self.records.of_paths.end()
        if self.openers is not None:
            self.openers.close()
        self.loop.close()

    def resume(self, client: Client) -> None:
        """Continue the waiting jobs of a client that has read enough of its answers."""
        for turns in self._turns:
            turns.resume(client)

    def closed(self, client: Client) -> None:
        """Drop the jobs of a client that has closed its connection."""
        for turns in self._turns:
            turns.drop(client)
        if self.openers is not None:
            self.openers.stop(client)

    def upload(self, name: str, client: Client, form: Form, fd: int | None = None) -> Upload:
        """Return the `Upload` for a new stream of a client, or for the open file `fd`."""
        kept = min(KEPT_BYTES, self._kept.left // KEPT_SHARE)
        if kept:
            self._kept.take(client.peer, kept)
        spooled = None
        if self.openers is not None and fd is None:
            spooled = self._spool.keep(self._spooled.room_of(client.peer))
        return Upload(
            *(self.lists, name, client, form, time.monotonic()),
            kept_bytes=kept,
            kept=spooled,
            fd=fd,
        )

    def release(self, upload: Upload) -> None:
        """Free the kept bytes of a stream, or close an open file."""
        if upload.kept_bytes:
            self._kept.give_back(upload.client.peer, upload.kept_bytes)
            upload.kept_bytes = 0
        upload.let_go()

    def clean_answer(self, data: memoryview) -> bytes | None:
        """Count a stream without a match and return its answer; return None for other streams."""
        if self.openers is not None and may_be_container(data):
            return None
        lists = self._lists.now
        may_be_listed = lists.may_be_listed
        for algorithm in lists.judge.plan(len(data)):
            if may_be_listed(algorithm, digest_of(algorithm, data)):
                return None
        doubt = lists.doubt
        self.counts.clean(Count.CLEAN if doubt is None else Count.NO_VERDICT, len(data))
        return _without_match(doubt, self.options.no_verdict)

    def ended(self, upload: Upload) -> None:
        """Judge a stream that has ended; first open it if it may be a container."""
        if self.openers is not None and (upload.opens or upload.may_be_container()):
            is_large = upload.digester.length > SMALL_BYTES
            turns = self._large if is_large else self._openings
            turns.add(upload.client, self._open(self.openers, upload))
        else:
            self._judge_soon(upload)

    @begun
    def _open(self, openers: Openers, upload: Upload) -> Job:
        """Open a container."""
        try:
            yield None
            try:
                openers.open(upload, upload.client)
            except OSError as error:
                reason = reason_of(error)
                yield lambda: self.unread(upload, reason)
            else:
                yield lambda: self._judge_soon(upload)
        finally:
            self.release(upload)

    def _judge_soon(self, upload: Upload) -> None:
        """Let `_judge` judge a stream whose members are already judged."""
        self.release(upload)
        if upload.not_opened:
            self.counts.add_not_opened(upload.not_opened)
            self.records.leave(upload.not_opened, upload.lists)
        if upload.is_surely_clean():
            self._judged([upload], 0.0)
            return
        if not self._ended:
            self.loop.call_soon(self._judge)
        self._ended.append(upload)

    def _judge(self) -> None:
        """Judge the streams in `_ended`."""
        uploads, self._ended = self._ended, []
        started = time.monotonic()
        judge(uploads)
        self._judged(uploads, time.monotonic() - started)

    def _judged(self, uploads: Sequence[Upload], took: float) -> None:
        """Count judged streams; answer clean streams, and record the other streams."""
        for upload in uploads:
            self.counts.add(Count.BYTES, upload.digester.length)
            self.counts.timed(took)
        self._answer([upload for upload in uploads if upload.outcome is None])
        self.records.add([upload for upload in uploads if upload.outcome is not None])

    def unread(self, upload: Upload, reason: str) -> None:
        """Tell a client that a stream or an open file cannot be read."""
        upload.outcome = Outcome(Kind.UNREAD, upload.door, reason=reason, is_stream=True)
        self._answer([upload])

    def _answer(self, uploads: Sequence[Upload]) -> None:
        for upload in uploads:
            self.count(upload.outcome, upload.lists)
            self._say(upload)

    def _say(self, upload: Upload) -> None:
        """Answer a client about a stream or an open file.

        The answer depends on the lists that were in use when the stream began, even if more
        complete lists are in use by now.
        """
        said = answer(upload.outcome, upload.lists.doubt, self.options.no_verdict)
        if upload.is_file:
            upload.client.files.end()
        upload.client.answer(upload.form, [f"{upload.name}: {text}" for text in said])

    def count(self, outcome: Outcome | None, lists: InUse) -> None:
        """Count an input by its outcome; None means clean."""
        if outcome is not None:
            self.counts.add(_KINDS[outcome.kind])
        else:
            self.counts.add(Count.CLEAN if lists.doubt is None else Count.NO_VERDICT)

    def without_verdict(self, word: str, reason: str) -> str:
        """Return the answer about an input that the daemon refuses to read, and count the input."""
        self.counts.add(Count.UNREAD)
        return unknown(word, reason.rstrip("."), self.options.no_verdict)

    def rights_for(self, peer: Peer, path: str) -> Rights | None:
        """Return the user and group ids for opening a path of `peer`; None for the daemon's ids.

        Raises:
            PermissionError: the path is not absolute, or this process cannot open files with the
            ids of the client.
        """
        if not path.startswith("/"):
            raise PermissionError(errno.EINVAL, "not an absolute path")
        if self.options.paths is Paths.ANY or peer.is_trusted:
            return None
        if peer.rights is None or not can_act_as_others():
            raise PermissionError(errno.EPERM, NOT_YOURS)
        return peer.rights

    def say(self, command: Command | None, peer: Peer) -> str:
        """Return the answer to a command of `peer` that checks no content."""
        version = f"hashclient {__version__}/{self.lists.generations}/{time.ctime()}"
        match command:
            case Command.PING:
                return "PONG"
            case Command.VERSION:
                return version
            case Command.VERSIONCOMMANDS:
                words = " ".join(c.value.decode() for c in Command)
                return f"{version}| COMMANDS: {words}"
            case Command.STATS:
                return self._stats()
            case Command.RELOAD if peer.is_trusted:
                os.kill(self._parent, signal.SIGHUP)
                return "RELOADING"
            case Command.SHUTDOWN if peer.is_trusted:
                self.loop.call_soon(os.kill, self._parent, STOP)
                return OK
            case Command.RELOAD | Command.SHUTDOWN:
                return "COMMAND UNAVAILABLE"
        return "UNKNOWN COMMAND"

    def _stats(self) -> str:
        """Return the answer to the command STATS, in clamd's form for monitoring programs."""
        return (
            "POOLS: 1\n\nSTATE: VALID PRIMARY\n"
            f"THREADS: live {self.counts.of(Count.OPEN)}  idle 0 max"
            f" {self.options.max_connections} idle-timeout {self.options.idle_s:.0f}\n"
            f"QUEUE: {len(self._ended)} items\n\tSTATS 0.000000\n\n"
            "MEMSTATS: heap N/A mmap N/A used N/A free N/A releasable N/A pools 1 pools_used N/A"
            " pools_total N/A\nEND"
        )


OK = "OK"


@functools.cache
def _without_match(doubt: str | None, rule: NoVerdict) -> bytes:
    """Return the reply about a stream without a match; `doubt` is as for `answer`."""
    return f"{STREAM}: {answer(None, doubt, rule)[0]}".encode()


def answer(
    outcome: Outcome | None, doubt: str | None, rule: NoVerdict, *, every: bool = False
) -> list[str]:
    """Return the reply about an input, without its name; with `every`, a line for each entry.

    `outcome` is None for a clean input. `doubt` is None, or one word that says why an input without
    a match may still be listed.
    """
    kind = Kind.CLEAN if outcome is None else outcome.kind
    if outcome is not None and kind is Kind.MATCH:
        names = [signature(hit.list_name, hit.entry) for hit in outcome.hits if hit.complete]
        return [f"{name} FOUND" for name in (names if every else names[:1])]
    if outcome is not None and kind is Kind.CONFLICT:
        return [unknown("Conflict", "entries of a list agree in part only", rule)]
    if outcome is not None and kind not in (Kind.CLEAN, Kind.EXCEPTED):
        return [unknown("Unread", outcome.reason or "it was not read", rule)]
    if doubt is not None:
        return [unknown(doubt, f"lists are {doubt.lower()}", rule)]
    return [OK]


def unknown(word: str, reason: str, rule: NoVerdict) -> str:
    """Return the reply that the operator has chosen by `rule` for inputs without a verdict."""
    if rule is NoVerdict.FOUND:
        return f"{no_verdict(word)} FOUND"
    if rule is NoVerdict.ERROR:
        # Colons are replaced because clients read all text before the last colon as the name of the
        # input.
        return f"{reason.replace(': ', ', ')}. ERROR"
    return OK
