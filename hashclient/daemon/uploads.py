"""Content that can be read only once: it is digested as it arrives, and judged with other content.

Content is judged with the lists that were in use when the content began to arrive. All streams that
end at about the same time are looked up together, because one lookup of many digests takes little
longer than a lookup of one digest.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from hashclient.core.digests import StreamDigester
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.client import Client, Form
from hashclient.daemon.lists import InUse
from hashclient.scan.check.kept import Spooled
from hashclient.scan.check.streaming import judge_streams

#: The kinds of outcomes from the worst to the best; the worst outcome decides the answer about an
#: input.
BY_WORST = (Kind.MATCH, Kind.CONFLICT, Kind.UNREAD, Kind.EXCEPTED)


#: The kinds of outcomes that are recorded.
RECORDED = (Kind.MATCH, Kind.CONFLICT, Kind.EXCEPTED)


class Content:
    """The content of a stream, or of an open file that a client has passed."""

    def __init__(
        self,
        lists: InUse,
        door: str,
        *,
        kept_bytes: int = 0,
        kept: Spooled | None = None,
        fd: int | None = None,
    ) -> None:
        """Begin to digest content; up to `kept_bytes` bytes are kept in memory.

        `door` is the name of the source of the content in records. `kept` keeps the bytes of a
        stream that may be a container. `fd` is the descriptor of an open file.
        """
        self.lists = lists
        self.door = door
        self.kept_bytes = kept_bytes
        self.digester = StreamDigester(lists.judge.plan(None), kept_bytes)
        #: The bytes of the stream in the spool, as long as the stream may be a container.
        self.kept = kept
        #: All bytes of the stream, if the caller has passed all bytes at once; else None.
        self.whole: memoryview | None = None
        self.fd = fd
        self.is_file = fd is not None
        #: The status of an open file before it was read, and whether the file may be a container.
        self.status: os.stat_result | None = None
        self.opens = False
        #: `own` is the outcome of the content itself. `outcome` is the worst outcome of the content
        #: and its members, which decides the answer.
        self.own: Outcome | None = None
        self.outcome: Outcome | None = None
        #: `inside` are the outcomes of the members of the content. `not_opened` is the number of
        #: containers that are not opened, by kind.
        self.inside: list[Outcome] = []
        self.not_opened: dict[str, int] = {}

    def update(self, chunk: memoryview) -> None:
        """Digest, and perhaps keep, the next bytes."""
        self.digester.update(chunk)
        if self.kept is not None:
            self.kept.update(chunk)

    def may_be_container(self) -> bool:
        """Return, at the end of a stream, whether the stream must be opened as a container."""
        kept = self.kept
        if kept is None:
            return False
        content = self.digester.content if self.whole is None else self.whole
        is_kept = kept.finish(content) is not None
        if is_kept or kept.failure is not None or kept.not_opened:
            return True
        self.let_go()
        return False

    def let_go(self) -> None:
        """Free the kept bytes, and close the file."""
        self.whole = None
        if self.kept is not None:
            self.kept.close()
            self.kept = None
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = None

    def is_surely_clean(self) -> bool:
        """Return True if a quick test shows that a stream has no match; False means "not known"."""
        lists, digester = self.lists, self.digester
        if self.inside:
            return False
        if not lists.judge.plan(digester.length):
            return True  # no entry can have the length of the stream
        return not any(lists.may_be_listed(a, d) for a, d in digester.finish().items())

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of judged content that are not clean, with `own` as the first."""
        own = [] if self.own is None else [self.own]
        return [o for o in own + self.inside if o.kind in BY_WORST]

    def recorded(self) -> list[Outcome]:
        """Return the outcomes that must be recorded, and the outcome that decides the answer."""
        return [o for o in self.outcomes() if o is self.outcome or o.kind in RECORDED]


class Upload(Content):
    """A stream or open file of a client of the daemon, and the form of its answer."""

    def __init__(
        self,
        lists: InUse,
        name: str,
        client: Client,
        form: Form,
        began: float,
        *,
        kept_bytes: int = 0,
        kept: Spooled | None = None,
        fd: int | None = None,
    ) -> None:
        """Begin as `Content` does; `name` is the name of the input in the answer."""
        super().__init__(lists, client.peer.door, kept_bytes=kept_bytes, kept=kept, fd=fd)
        self.name = name
        self.client = client
        self.form = form
        self.began = began


_Content = TypeVar("_Content", bound=Content)


def by_lists(contents: Iterable[_Content]) -> Iterable[list[_Content]]:
    """Group contents by the lists that they are compared with."""
    found: dict[InUse, list[_Content]] = {}
    for content in contents:
        found.setdefault(content.lists, []).append(content)
    return found.values()


def judge(contents: Iterable[Content]) -> None:
    """Set the outcome of each content that was read to its end; None means clean."""
    for same in by_lists(contents):
        lists = same[0].lists
        outcomes = judge_streams(lists.judge, [(one.door, one.digester) for one in same])
        for one, outcome in zip(same, outcomes, strict=True):
            one.own = lists.rule(outcome)
            one.outcome = worst([one.own, *one.inside])


def worst(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the worst outcome, which decides the answer; None if the input is clean."""
    wanted = (o for o in outcomes if o.kind in BY_WORST)
    return min(wanted, key=lambda outcome: BY_WORST.index(outcome.kind), default=None)
