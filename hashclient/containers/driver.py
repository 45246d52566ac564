"""Reads a container: computes digests of its members, and opens members that are containers.

The driver runs in the sandboxed process. The driver enforces the limits, asks the worker once per
directory of an archive which members need digests, reads each member once, and sends the results to
the worker. The driver has no list, so the worker decides which members match. A member that cannot
be read gets a row with the reason, and the driver continues with the next member. If an error
occurs within a member, the digest of the bytes before the error is reported as well, because many
programs extract these bytes, and some of them show no error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from hashclient.containers.forward import Anywhere, Buffered
from hashclient.containers.interface import (
    HEAD_BYTES,
    ISO_HEAD_BYTES,
    TAIL_BYTES,
    Data,
    Expander,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)
from hashclient.containers.limits import Budget, LimitError, Limits
from hashclient.containers.mailfacts import mail_facts
from hashclient.containers.protocol import MAX_NAME_BYTES, NO_CLAIM, Job, Row
from hashclient.containers.sniffing import (
    InProgram,
    ReadAt,
    is_front,
    kind_by_end,
    look,
    not_opened,
    wants_all_head,
    wants_more_head,
)
from hashclient.containers.unopened import END_MARK_BYTES
from hashclient.core.digests import Digester
from hashclient.core.kinds import Algorithm
from hashclient.core.model import Mail

#: The most sizes in one request for masks.
ASK_AT_ONCE = 100_000


class Registry(Protocol):
    """Returns the expanders of kinds; the class `registry.Registry` implements this protocol."""

    def named(self, kind: str) -> list[Expander]:
        """Return the expander of a kind in a list.

        The list is empty if the kind has no expander.
        """
        ...

    def most_members(self, name: str) -> int | None:
        """Return how many members one container of a kind may have; None means no limit."""
        ...

    def has_readings(self, name: str) -> bool:
        """Return whether members of a kind are read in several ways."""
        ...

    def pick(
        self, head: bytes, tail: bytes, size: int = 0, read_at: ReadAt | None = None
    ) -> list[Expander]:
        """Return the expanders for bytes with the beginning `head` and the end `tail`.

        The most suitable expander comes first.
        """
        ...


class Sink(Protocol):
    """Receives the results of the driver."""

    def ask(self, sizes: Sequence[int]) -> bytes:
        """Return for each size the mask of the algorithms to compute for a member of this size."""
        ...

    def container(self, parent: int, name: bytes, mail: Mail | None = None) -> int:
        """Return a number for a new container in `parent`.

        `mail` describes a container that is a mail.
        """
        ...

    def row(self, row: Row) -> None:
        """Take the row of one member."""
        ...


class Spool(Anywhere):
    """The bytes of a nested container, which are in memory and can be read at any offset."""

    def __init__(self, content: bytearray) -> None:
        self._content = memoryview(content)
        self.size = len(content)

    def read_at(self, offset: int, count: int) -> bytes:
        """Return the bytes at `offset`; see `Data.read_at`."""
        return bytes(self._content[offset : offset + count])


class Tee(Buffered):
    """A member that is read only once: this read also computes the digests and finds its members.

    Each byte is added to the digests when the driver or an expander reads the byte. After an error,
    `read` returns no more bytes, and the error is kept in `error`.
    """

    def __init__(
        self, chunks: Iterator[bytes], mask: int, budget: Budget, spool_bytes: int
    ) -> None:
        super().__init__()
        self._chunks = chunks
        self._digester = Digester(Algorithm.in_mask(mask)) if mask else None
        self._budget = budget
        self._spool_bytes = spool_bytes
        self._tail = b""
        self._spool: bytearray | None = None
        self._watching: InProgram | None = None
        self.length = 0
        self.error: NotReadError | None = None
        #: The last bytes that were read: at least `END_MARK_BYTES`, or all bytes of a shorter
        #: member.
        self.end = b""

    def read(self, count: int) -> bytes:
        """Return the next bytes; see `Stream.read`."""
        return self.some(count)

    def keep(self) -> None:
        """Keep all bytes in memory, up to `spool_bytes`.

        `keep` must be called before any byte is read; a call of `peek` before is permitted.
        """
        self._spool = bytearray(self._buffer)
        self._watching = InProgram(self._buffer)
        self._watching.watch(self._buffer)
        if len(self._spool) > self._spool_bytes:
            self._spool = None

    def drain(self) -> None:
        """Read to the end of the member."""
        self._buffer = b""
        self._at = 0
        while self._block():
            pass

    def spooled(self) -> Spool | None:
        """Return the kept bytes; return None if they exceed the limit."""
        return None if self._spool is None else Spool(self._spool)

    @property
    def hides_archive(self) -> bool:
        """Whether the bytes exceed the limit and are a program that may contain an archive."""
        return self._spool is None and self._watching is not None and self._watching.has_found()

    @property
    def tail(self) -> bytes:
        """The last bytes of the member, as far as they were kept."""
        if self._spool is not None:
            return bytes(self._spool[-TAIL_BYTES:])
        return self._tail

    def digests(self) -> bytes:
        """Return the digests of all bytes that were read, concatenated."""
        return b"" if self._digester is None else b"".join(self._digester.finish())

    def _block(self) -> bytes:
        try:
            chunk = next(filter(None, self._chunks), b"")
        except NotReadError as error:
            self.error, chunk = error, b""
        if not chunk:
            return b""
        self._budget.take(len(chunk))
        self.length += len(chunk)
        if self._watching is not None:
            self._watching.watch(chunk)
        is_long = len(chunk) >= END_MARK_BYTES
        self.end = chunk if is_long else (self.end + chunk)[-END_MARK_BYTES:]
        if self._digester is not None:
            self._digester.update(memoryview(chunk))
        if self._spool is not None:
            if len(self._spool) + len(chunk) <= self._spool_bytes:
                self._spool += chunk
                return chunk
            self._tail = bytes(self._spool[-TAIL_BYTES:])
            self._spool = None
        if self._tail:
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        return chunk


class Driver:
    """Opens one file, and all containers in this file."""

    def __init__(
        self, registry: Registry, limits: Limits, job: Job, sink: Sink, *, verify_sizes: bool
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._job = job
        self._sink = sink
        self._verify_sizes = verify_sizes
        self._budget = Budget(limits, job.size)
        #: `_opened`: digests of the alternative readings that were opened; `_open_readings`: how
        #: many alternative readings, nested in each other, are being read now.
        self._opened: set[bytes] = set()
        self._open_readings = 0

    @property
    def bytes_out(self) -> int:
        """The number of bytes that were decoded from all containers so far."""
        return self._budget.bytes_out

    @property
    def steps(self) -> int:
        """A number that grows with the progress; see `Budget.steps`."""
        return self._budget.steps

    def run(self, open_data: Callable[[], Data]) -> None:
        """Open the file that `open_data` returns, and pass its members to the sink."""
        data = open_data()
        try:
            head = data.read_at(0, ISO_HEAD_BYTES)
            tail = data.read_at(max(0, data.size - TAIL_BYTES), TAIL_BYTES)
            found = self._registry.pick(head, tail, data.size, data.read_at)
            for expander in found:
                self._expand(expander, open_data(), 0, 1, found)
            is_other = self._is_other(found)
            kind = not_opened(look(head), is_other=is_other)
            if kind or (not is_other and (kind := kind_by_end(tail))):
                self._not_opened(0, kind)
        except NotReadError as error:
            self._unread(0, b"", error.why, error.detail)

    def _expand(
        self,
        expander: Expander,
        data: Data | Stream,
        container: int,
        depth: int,
        among: Sequence[Expander],
    ) -> None:
        """Read one container; an error that ends the container early is reported as a row.

        `among` are all expanders that read the container, including `expander`.

        Raises:
            LimitError: a limit for the whole file is exceeded.
        """

        def work() -> None:
            self._budget.enter(depth)
            left = self._registry.most_members(expander.name)
            once = self._open_readings > 0 and self._registry.has_readings(expander.name)
            for found in expander.members(data):
                if left is not None:
                    left -= 1 if isinstance(found, Unlisted) else len(found)
                    if left < 0:
                        raise NotReadError(Why.LIMIT, f"{expander.name}: too many members")
                if isinstance(found, Unlisted):
                    self._budget.member()
                    if found.why is Why.NOT_OPENED:
                        self._not_opened(container, found.detail)
                    else:
                        self._unread(container, found.name, found.why, found.detail)
                    continue
                for member, mask in zip(found, self._masks(found, expander), strict=True):
                    self._budget.member()
                    if not mask and member.head is not None and self._is_plain(member, member.head):
                        self._rule_out(member, container)
                        continue
                    self._guarded(
                        container,
                        _name(member),
                        lambda m=member, w=mask: self._member(  # type: ignore[misc]
                            m, w, container, depth, once=once, among=among
                        ),
                    )

        self._guarded(container, b"", work)

    def _is_plain(self, member: Member, head_of: Callable[[int], bytes]) -> bool:
        """Return whether the first bytes show that a member has no container in or behind it.

        If the first bytes cannot be read, or the size of the member is not known, return False, and
        the member is read completely.
        """
        if member.kind or member.size is None:
            return False
        count = ISO_HEAD_BYTES if wants_more_head(member.size) else HEAD_BYTES
        try:
            head = head_of(count)
            if wants_all_head(head):
                head = head_of(ISO_HEAD_BYTES)
        except LimitError:
            raise
        except Exception:  # noqa: BLE001 - the complete read will report the error
            return False
        self._budget.take(len(head))
        return not look(head)

    def _guarded(self, container: int, name: bytes, work: Callable[[], None]) -> None:
        """Call `work`; an exception is reported as a row.

        Raises:
            LimitError: a limit for the whole file is exceeded.
        """
        try:
            work()
        except LimitError:
            raise
        except NotReadError as error:
            self._unread(container, name, error.why, error.detail)
        except MemoryError:
            self._unread(container, name, Why.LIMIT, self._memory_text())
        except Exception as error:  # noqa: BLE001 - whatever an expander raises
            # Hostile bytes can cause unexpected exceptions in an expander; the contents are
            # reported as unread.
            self._unread(container, name, Why.DAMAGED, f"cannot be parsed: {type(error).__name__}")

    def _memory_text(self) -> str:
        return f"more than {self._limits.memory_mib} MiB of memory"

    def _masks(self, members: Sequence[Member], expander: Expander) -> bytes:
        """Return, for each member of one directory, the mask of the algorithms to compute."""
        job = self._job
        if job.forced or job.one_mask is not None:
            mask = job.any_mask if job.one_mask is None or job.forced else job.one_mask
            return bytes([mask]) * len(members)
        if len(members) == 1 and not expander.seeks:
            # If the expander reads a stream, all digests of the member are computed without asking
            # the worker, because one request for each member would cost more than the digests.
            return bytes([job.any_mask])
        sizes = [
            NO_CLAIM if m.size is None or (self._verify_sizes and not m.is_exact) else m.size
            for m in members
        ]
        return b"".join(
            self._sink.ask(sizes[first : first + ASK_AT_ONCE])
            for first in range(0, len(sizes), ASK_AT_ONCE)
        )

    def _member(
        self,
        member: Member,
        mask: int,
        container: int,
        depth: int,
        *,
        once: bool,
        among: Sequence[Expander],
    ) -> None:
        """Read one member as far as necessary, and open it if it is a container.

        `once`: the member is within an alternative reading, and its bytes are not opened if the
        same bytes were already opened. A mailbox is also read as a single mail, whose text may be
        the rest of the mailbox. Such a text is opened only as a mailbox, because each message would
        otherwise be read again for each message before it.
        """
        once |= member.is_again
        name = _name(member)
        if not mask and member.size == 0 and member.is_exact:
            self._rule_out(member, container)
            return
        tee = Tee(member.chunks(), mask, self._budget, self._limits.spool_bytes)
        more = mask or member.size is None or wants_more_head(member.size)
        head = tee.peek(ISO_HEAD_BYTES if more else HEAD_BYTES)
        found: list[Expander] = []
        if wants_all_head(head):
            head = tee.peek(ISO_HEAD_BYTES)
        seen = look(head)
        if member.kind:
            found = self._registry.named(member.kind)
            # A mail client may save a message as a file, which may be an archive.
            if found and seen and not self._is_other(found):
                picked = self._registry.pick(head, b"")
                found += [one for one in picked if not self._registry.has_readings(one.name)]
        elif seen:
            found = self._registry.pick(head, b"")
        if found == among and all(self._registry.has_readings(one.name) for one in found):
            found = found[:1]
        if len(found) == 1 and not (found[0].seeks or once):
            inner = self._sink.container(container, name, mail_facts(head))
            self._expand(found[0], tee, inner, depth + 1, found)
        elif found or is_front(seen):
            self._open_whole(tee, head, found, (container, name), depth + 1, once=once)
        is_other = self._is_other(found)
        kind = not_opened(seen, is_other=is_other)
        if mask:
            tee.drain()
            if tee.length or tee.error is None:
                self._sink.row(Row(container, name, tee.length, mask, tee.digests()))
            kind = kind or ("" if is_other else kind_by_end(tee.end))
        elif tee.error is None:
            self._rule_out(member, container)
        if kind:
            self._budget.enter(depth)  # the worker limits all containers, opened or not
            self._not_opened(self._sink.container(container, name), kind)
        if tee.error is not None:
            raise tee.error

    def _is_other(self, found: Sequence[Expander]) -> bool:
        """Return whether the kind of a file is known although a kind that is not opened also fits.

        The first or last bytes of a mail or a form do not show that the file is nothing else.
        """
        return not all(self._registry.has_readings(one.name) for one in found)

    def _open_whole(
        self,
        tee: Tee,
        head: bytes,
        found: list[Expander],
        place: tuple[int, bytes],
        depth: int,
        *,
        once: bool,
    ) -> None:
        """Open a member that must be completely in memory, or whose last bytes must be examined.

        With `once`, nothing is opened if the same bytes were already opened by the same expanders.
        """
        tee.keep()
        tee.drain()
        if not found or is_front(look(head)):
            # The member exceeds the memory limit, so only its last bytes were kept.
            whole = tee.spooled()
            read_at = _nothing_at if whole is None else whole.read_at
            picked = self._registry.pick(head, tee.tail, tee.length, read_at)
            found = [*found, *(one for one in picked if one not in found)]
        if not (found or tee.hides_archive) or (once and not self._is_new(tee, found)):
            return
        inner = self._sink.container(*place, mail_facts(head))
        if tee.spooled() is None:
            detail = f"more than {self._limits.spool_bytes >> 20} MiB of memory"
            self._unread(inner, b"", Why.LIMIT, detail)
            return
        self._open_readings += once
        try:
            for expander in found:
                kept = tee.spooled()
                assert kept is not None
                self._expand(expander, kept, inner, depth, found)
        finally:
            self._open_readings -= once

    def _is_new(self, tee: Tee, found: list[Expander]) -> bool:
        """Record the digest of a member and the expanders that open the member.

        Return False if the same expanders have already opened the same bytes.
        """
        whole = tee.spooled()
        if whole is None:
            return True
        digest = hashlib.sha256(",".join(one.name for one in found).encode() + b"\0")
        digest.update(whole.read_at(0, whole.size))
        seen = len(self._opened)
        self._opened.add(digest.digest())
        return len(self._opened) > seen

    def _rule_out(self, member: Member, container: int) -> None:
        self._sink.row(
            Row(
                container,
                _name(member),
                member.size,
                ruled_out=True,
                exact=member.is_exact,
            )
        )

    def _not_opened(self, container: int, kind: str) -> None:
        """Report that a file or member is of a kind that contains other files but is not opened."""
        self._sink.row(Row(container, b"", None, not_opened=kind))

    def _unread(self, container: int, name: bytes, why: Why, detail: str) -> None:
        self._sink.row(Row(container, name[:MAX_NAME_BYTES], None, why=str(why), detail=detail))


def _nothing_at(_offset: int, _count: int) -> bytes:
    """Return no bytes: used for a member whose bytes were not kept in memory."""
    return b""


def _name(member: Member) -> bytes:
    """Return the name of a member; if it has no name, return its offset as text."""
    return member.name[:MAX_NAME_BYTES] or (b"@%d" % member.offset if member.offset else b"")
