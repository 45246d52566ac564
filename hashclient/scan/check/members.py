"""Members of containers, which are judged like files.

`Members` gets each file that may be a container. A separate, confined process opens the file and
computes the digests of its members (`containers.cage`). This module turns the digests into tags,
looks up the tags, and makes outcomes of the members. The container itself is checked as a file by
the caller.
"""

from __future__ import annotations

import contextlib
import functools
import os
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hashclient.config.tables import ContainersConfig
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.limits import Limits, Options
from hashclient.containers.sandbox import kernel_locks
from hashclient.core.digests import digest_fd
from hashclient.core.kinds import Algorithm, Kind, mask_of
from hashclient.core.model import Hit, Mail, Outcome, Outer, Seen
from hashclient.core.objecturi import is_object_uri
from hashclient.core.verdict import add_by_kind
from hashclient.index.matcher import Judge, verdict
from hashclient.lists.wire import NO_SIZE, Uint64
from hashclient.scan.cache.inside import MAX_KNOWN, MEMBER, NOT_OPENED, Inside, not_opened_rows
from hashclient.scan.cache.records import SLOT
from hashclient.scan.check.judging import columns_of, listed_rows
from hashclient.scan.values.work import CHANGED, Result, reason_of
from hashclient.system.descriptors import NO_ROOM, read_at
from hashclient.system.text import MAX_EXCERPT_CHARS

if TYPE_CHECKING:
    from hashclient.containers.cage import Cage, Chain, Found, Starting
    from hashclient.containers.protocol import Job
    from hashclient.scan.check.kept import Kept

#: The most unread members of one file that have an outcome, and the most members that match or are
#: in conflict; more outcomes could fill the memory.
MAX_KEPT = 10_000
#: The number of members that are looked up together.
ROWS_AT_ONCE = 4_096

_ALL = mask_of(Algorithm)
_DIGEST_AT = [
    {
        algorithm: sum(a.digest_bytes for a in Algorithm.in_mask(mask) if a < algorithm)
        for algorithm in Algorithm.in_mask(mask)
    }
    for mask in range(8)
]


def container_options(
    config: ContainersConfig,
    noticed: Callable[[str], None],
    passwords: Sequence[bytes] = (),
    *,
    verify_sizes: bool = False,
) -> Options:
    """Return the options for opening containers.

    `noticed` is called with the features of the sandbox that the kernel lacks.
    """
    requires = config.sandbox == "require"
    if missing := kernel_locks().missing:
        end = "none is opened" if requires else "the process that opens them is less confined"
        noticed(f"containers: this kernel has no {missing}: {end}")
    limits = Limits(
        config.depth,
        config.members,
        config.bytes_out,
        config.ratio,
        config.time_s,
        config.memory_mib,
    )
    refuses = config.not_opened == "unread"
    return Options(limits, requires, verify_sizes, tuple(passwords), refuses)


_no_sizes = functools.partial(array, "Q")


class Opened(msgspec.Struct):
    """The outcomes of the members of one file, before they are counted in a result."""

    clean: int = 0
    read: int = 0
    members: int = 0
    outcomes: list[Outcome] = msgspec.field(default_factory=list)
    #: The numbers of outcomes that are not clean: of unread members, and of other members. Each is
    #: limited alone, so that unread members before a match do not hide it.
    kept_unread: int = 0
    kept: int = 0
    #: Whether a digest that could change the verdict on a member is missing.
    lacks: bool = False
    #: The number of outcomes that are omitted, because they exceed `MAX_KEPT`.
    left_out: int = 0
    #: `columns`: the record of the members that were read, for a cache, in parts; no part is added
    #: after `MAX_KNOWN` members. `exact_sizes`, `claimed_sizes`: the sizes of the members that were
    #: not read; only claimed sizes can be wrong.
    columns: list[Inside] = msgspec.field(default_factory=list)
    exact_sizes: array[int] = msgspec.field(default_factory=_no_sizes)
    claimed_sizes: array[int] = msgspec.field(default_factory=_no_sizes)
    #: The mail that contains each match, by the index of the match in `outcomes`.
    mails: dict[int, Mail] = msgspec.field(default_factory=dict)
    #: The number of files of each kind that is not opened.
    not_opened: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def is_container(self) -> bool:
        """Whether the file has a member, or is of a kind that is not opened."""
        return self.members > 0 or bool(self.not_opened)

    def keep(self, outcome: Outcome) -> None:
        """Add an outcome that is not clean, unless `MAX_KEPT` of its sort were added already."""
        is_unread = outcome.kind is Kind.UNREAD
        if (self.kept_unread if is_unread else self.kept) >= MAX_KEPT:
            self.left_out += 1
            self.read -= not is_unread
            return
        self.kept_unread += is_unread
        self.kept += not is_unread
        self.outcomes.append(outcome)

    def known(self) -> bytes | None:
        """Return the record for a cache; None if the record would be incomplete or too large."""
        sizes = self.exact_sizes + self.claimed_sizes
        count = sum(map(len, self.columns)) + len(sizes)
        rows = count + sum(self.not_opened.values())
        if self.left_out or count != self.members or not 0 < rows <= MAX_KNOWN:
            return None
        unread = np.zeros(len(sizes), MEMBER)
        unread["size"], unread["exact"][: len(self.exact_sizes)] = sizes, 1
        parts = [*self.columns, unread, not_opened_rows(self.not_opened)]
        return b"".join(part.tobytes() for part in parts)

    def leave(self, kind: str, path: str, members: tuple[str, ...], *, refuses: bool) -> None:
        """Count a container that is not opened; `refuses` makes its content unread."""
        add_by_kind(self.not_opened, {kind: 1})
        if refuses:
            self.members += 1
            self.keep(_unread(path, members, Why.NOT_OPENED, kind))

    def add_to(self, result: Result, seen: Seen | None = None) -> None:
        """Add the counts and outcomes to the result of a task.

        `seen` is the identity of the file; None if the container is no file.
        """
        result.clean += self.clean
        result.members += self.members
        result.members_read += self.read
        add_by_kind(result.not_opened, self.not_opened)
        result.ruled_out_by_size += len(self.exact_sizes)
        result.ruled_out_by_claim += len(self.claimed_sizes)
        result.outcomes += [
            msgspec.structs.replace(outcome, seen=seen) if seen and outcome.hits else outcome
            for outcome in self.outcomes
        ]


class Members:
    """Opens containers, and judges their members."""

    def __init__(
        self,
        judge: Judge,
        options: Options,
        *,
        keep_clean: bool = False,
        starting: Starting | None = None,
    ) -> None:
        """Judge with `judge`; the first container starts the process that opens containers.

        With `keep_clean`, clean members have outcomes as well. With `starting`, another thread may
        call `open` later.
        """
        self._starting = starting
        self._judge = judge
        self._options = options
        self._cage: Cage | None = None
        self._keep_clean = keep_clean
        self._is_stopped = False
        #: The number of bytes of members that were read.
        self.bytes_out = 0

    def close(self) -> None:
        """End the process that opens containers, if it runs."""
        if self._cage is not None:
            self._cage.close()

    def stop(self) -> None:
        """Stop another thread that opens a container; the members of the container are unread."""
        self._is_stopped = True
        cage = self._cage
        if cage is not None:
            cage.stop()

    @property
    def has_failed(self) -> bool:
        """Whether the last container was not opened to its end, because the process died."""
        return self._cage is not None and self._cage.has_failed

    @property
    def memory_bytes(self) -> int:
        """The most bytes of a stream that are kept in memory."""
        return self._options.limits.memory_mib << 20

    def open_kept(self, kept: Kept, name: str, content: bytearray | None = None) -> Opened:
        """Open a stream that was kept; outcomes call the stream `name`.

        `content` has the same meaning as in `Kept.finish`.
        """
        fd = kept.finish(content)
        if fd is None and kept.failure is None:
            opened = self.left(kept.not_opened, name) if kept.not_opened else Opened()
        elif fd is None:
            opened = _failed(name, kept.failure or "", str(Why.LIMIT))
        else:
            opened = self.open(fd, kept.length, name, lambda: True)
        opened.outcomes = [msgspec.structs.replace(o, is_stream=True) for o in opened.outcomes]
        return opened

    def left(self, kind: str, name: str) -> Opened:
        """Return the result for the file `name`, which is of a kind that is not opened."""
        opened = Opened()
        opened.leave(kind, name, ("",), refuses=self._options.refuses_unopened)
        return opened

    def open(
        self,
        fd: int,
        size: int,
        path: str,
        is_unchanged: Callable[[], bool],
        *,
        can_wait: bool = False,
    ) -> Opened:
        """Open the container in the open file `fd`, which outcomes call `path`; return its members.

        `is_unchanged` is called after the container was opened, and returns whether the file has
        not changed since it was read.

        Raises:
            OSError: memory or file descriptors for the process that opens the container are
                missing, and `can_wait` is set. If `can_wait` is not set, the members are unread.
        """
        from hashclient.containers.sniffing import kind_alone

        kind = ""
        # An error is ignored, because the process that opens the container reports it.
        with contextlib.suppress(OSError):
            kind = kind_alone(size, functools.partial(read_at, fd))
        if kind:
            opened = self.left(kind, path)
        else:
            opened = self._open(fd, size, path, forced=False, can_wait=can_wait)
        if opened.lacks:
            # Either a hit entry has digests that were not computed, or a size was wrong. So all
            # digests of all members are computed.
            opened = self._open(fd, size, path, forced=True, can_wait=can_wait)
        if not is_unchanged():
            return _failed(path, CHANGED, None)
        if any(outcome.kind is Kind.MATCH for outcome in opened.outcomes):
            self._add_outer(fd, size, opened)
            if not is_unchanged():
                return _failed(path, CHANGED, None)
        return opened

    def are_clean(self, insides: Sequence[Inside]) -> list[bool]:
        """Return for each container whether no member is listed, by its known members.

        `are_clean` returns False for a container that has or may have a listed member, for example
        an unread member whose size an entry has.
        """
        if not insides:
            return []
        # `np.concatenate` is not used, because it joins structured arrays slowly, field by field.
        members = np.frombuffer(b"".join([inside.tobytes() for inside in insides]), MEMBER)
        owners = np.repeat(np.arange(len(insides)), [len(inside) for inside in insides])
        masks = members["mask"]
        sizes, of_size = np.unique(members["size"], return_inverse=True)
        plans = [mask_of(self._judge.plan(int(size))) for size in sizes]
        needed = np.array(plans, np.uint8)[of_size]
        doubtful = needed & ~masks != 0
        if self._options.verify_sizes:
            doubtful |= (masks == 0) & (members["exact"] == 0)
        doubtful[list(listed_rows(self._judge, members, masks))] = True
        doubtful[masks == NOT_OPENED] = self._options.refuses_unopened
        open_ones = set(owners[doubtful].tolist())
        return [number not in open_ones for number in range(len(insides))]

    def _open(self, fd: int, size: int, path: str, *, forced: bool, can_wait: bool) -> Opened:
        opened = Opened()
        waiting: list[Found] = []

        def on_found(found: Sequence[Found]) -> None:
            for one in found:
                self._count(one, path, opened, waiting)
            if len(waiting) >= ROWS_AT_ONCE:
                self._judge_rows(waiting, path, opened, forced=forced)
                waiting.clear()

        try:
            self.bytes_out += self._open_cage().open(fd, size, self._job(size, forced), on_found)
        except NotReadError as error:
            opened.outcomes.append(_unread(path, ("",), str(error.why), error.detail))
            opened.members += 1
        except OSError as error:
            if can_wait or error.errno not in NO_ROOM:
                raise
            return _failed(path, reason_of(error), str(Why.FAILED))
        self._judge_rows(waiting, path, opened, forced=forced)
        if opened.left_out:
            # All omitted members are counted together as one unread input, so that none of them is
            # lost.
            opened.members -= opened.left_out - 1
            text = f"{opened.left_out:,} more are unread or match, and are not named one by one"
            opened.outcomes.append(_unread(path, ("",), str(Why.LIMIT), text))
        return opened

    def _job(self, size: int, forced: bool) -> Job:  # noqa: FBT001 - the value of a field of `Job`
        from hashclient.containers.protocol import Job

        any_mask = mask_of(self._judge.plan(None))
        one_mask = any_mask if self._judge.has_one_plan else None
        return Job(size, _ALL if forced else any_mask, one_mask, forced)

    def _open_cage(self) -> Cage:
        """Return the opener of containers, which is created for the first container."""
        if self._cage is None:
            from hashclient.containers.cage import Cage

            # `masks_of` is not a method, because a reference cycle would keep the lists open until
            # the garbage collector runs.
            masks_of = functools.partial(_masks_of, self._judge)
            self._cage = Cage(self._options, masks_of, self._starting)
        if self._is_stopped:
            self._cage.stop()
        return self._cage

    def _count(self, found: Found, path: str, opened: Opened, waiting: list[Found]) -> None:
        """Count a member that was not read; add a member that was read to `waiting`."""
        row = found.row
        if row.not_opened:
            members = _names(path, found.chain, is_whole=True)
            refuses = self._options.refuses_unopened
            opened.leave(row.not_opened, path, members, refuses=refuses)
            return
        opened.members += 1
        if row.why is not None:
            members = _names(path, found.chain, is_whole=not row.name)
            opened.keep(_unread(path, members, row.why, row.detail))
        elif row.ruled_out:
            opened.clean += 1
            (opened.exact_sizes if row.exact else opened.claimed_sizes).append(row.size or 0)
            if self._keep_clean:
                members = _names(path, found.chain)
                outcome = Outcome(Kind.CLEAN, path, row.size, members=members)
                opened.outcomes.append(outcome)
        else:
            opened.read += 1
            waiting.append(found)

    def _judge_rows(self, found: list[Found], path: str, opened: Opened, *, forced: bool) -> None:
        """Look up all members that were read, together, and judge the members that hit."""
        judge, count = self._judge, len(found)
        column = np.zeros(count, MEMBER)
        column["size"] = [one.row.size or 0 for one in found]
        column["mask"] = [one.row.mask for one in found]
        if opened.members <= MAX_KNOWN:
            opened.columns.append(column)
        for algorithm in Algorithm:
            numbers = [n for n, one in enumerate(found) if one.row.mask & algorithm]
            if numbers:
                digests = [_digest(found[n], algorithm) for n in numbers]
                column["tags"][numbers, SLOT[algorithm]] = judge.sealer.tags_of(algorithm, digests)
        is_hit, wanted = judge.wanted_by_row(columns_of(column), count)
        if not forced:
            plans = [mask_of(judge.plan(one.row.size)) for one in found]
            if np.any((np.array(plans, np.uint8) | wanted) & ~column["mask"]):
                opened.lacks = True
        opened.clean += count - int(np.count_nonzero(is_hit))
        # If digests are missing, no member is judged yet, because all members will be read again to
        # compute these digests.
        hit_rows = [] if opened.lacks else np.flatnonzero(is_hit).tolist()
        hits: dict[int, tuple[Hit, ...]] = {}
        if hit_rows:
            sizes: Uint64 = np.array(
                [NO_SIZE if (size := found[n].row.size) is None else size for n in hit_rows],
                np.uint64,
            )
            by_row = judge.hits_by_row(columns_of(column[hit_rows]), sizes)
            hits = {hit_rows[row]: of_row for row, of_row in by_row.items()}
        for number in range(count) if self._keep_clean else hit_rows:
            self._add_outcome(found[number], path, opened, hits.get(number), column[number])
        opened.clean += sum(number not in hits for number in hit_rows)

    def _add_outcome(
        self,
        found: Found,
        path: str,
        opened: Opened,
        hits: tuple[Hit, ...] | None,
        known: np.void,
    ) -> None:
        """Add the outcome of a member that hits, or of a clean member if `keep_clean` is set."""
        if hits is None and not self._keep_clean:
            return
        in_mask = Algorithm.in_mask(found.row.mask)
        outcome = Outcome(
            verdict(hits or ()),
            path,
            found.row.size,
            hits=hits or (),
            digests={a: _digest(found, a) for a in in_mask},
            tags={a: known["tags"][SLOT[a]].tobytes() for a in in_mask} if hits else {},
            members=_names(path, found.chain),
        )
        if outcome.kind is Kind.CLEAN:
            opened.outcomes.append(outcome)
        else:
            if found.mail is not None:
                opened.mails[len(opened.outcomes)] = found.mail
            opened.keep(outcome)

    def _add_outer(self, fd: int, size: int, opened: Opened) -> None:
        """Add the tags of the container to each match, by which the container is recognized later.

        If the container cannot be read any more, no tags are added: the match stays, but it is
        uncertain which file to isolate.
        """
        from hashclient.containers.mailfacts import MOST_HEADER_BYTES, mail_facts

        plan = tuple(Algorithm)
        tags: dict[Algorithm, bytes] = {}
        mail = None
        with contextlib.suppress(OSError):
            mail = mail_facts(os.pread(fd, MOST_HEADER_BYTES, 0))
            os.lseek(fd, 0, os.SEEK_SET)
            digests, _ = digest_fd(fd, plan, size)
            sealed = self._judge.seal(dict(zip(plan, digests, strict=True)))
            tags = {algorithm: words.tobytes() for algorithm, words in sealed.items()}
        outer = Outer(size, tags, opened.members, mail)
        for place, outcome in enumerate(opened.outcomes):
            if outcome.kind is Kind.MATCH:
                its = msgspec.structs.replace(outer, mail=mail or opened.mails.get(place))
                opened.outcomes[place] = msgspec.structs.replace(outcome, outer=its)


def _masks_of(judge: Judge, sizes: Sequence[int | None]) -> bytes:
    """Return for each size of a member the mask of the algorithms to compute."""
    return bytes([mask_of(judge.plan(size)) for size in sizes])


def _names(path: str, chain: Chain, *, is_whole: bool = False) -> tuple[str, ...]:
    """Return the names of a member; a single compressed file is named after its container."""
    names: list[str] = []
    for number, raw in enumerate(chain, 1):
        name = os.fsdecode(raw)
        if not name and not (is_whole and number == len(chain)):
            # the version of an object is no part of its name
            whole = path.partition("?")[0] if is_object_uri(path) else path
            name = _stem(names[-1] if names else whole)
        names.append(name)
    return tuple(names)


def _stem(name: str) -> str:
    """Return the name of a compressed file without its compression: `a.tar` for `a.tgz`."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    if not dot or not stem:
        return name.rpartition("/")[2] or "content"
    short = {"tgz": ".tar", "tbz": ".tar", "tbz2": ".tar", "txz": ".tar", "tzst": ".tar"}
    return stem + short.get(suffix.lower(), "")


def _digest(found: Found, algorithm: Algorithm) -> bytes:
    start = _DIGEST_AT[found.row.mask][algorithm]
    return found.row.digests[start : start + algorithm.digest_bytes]


def _unread(path: str, members: tuple[str, ...], why: str, detail: str) -> Outcome:
    """Return the outcome of a member that was not read."""
    detail = detail[:MAX_EXCERPT_CHARS]
    reason = detail if why in (Why.MISSING, Why.FAILED) else f"{why}: {detail}"
    return Outcome(Kind.UNREAD, path, reason=reason, members=members, obstacle=why)


def _failed(path: str, reason: str, why: str | None) -> Opened:
    outcome = Outcome(Kind.UNREAD, path, reason=reason, members=("",), obstacle=why)
    return Opened(members=1, outcomes=[outcome])
