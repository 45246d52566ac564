"""Content that can be read once: digested as it arrives, and judged with other content.

Content is judged by the lists with which it began. One lookup is for all streams that end at about
the same time, which makes many small streams cheap.
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

#: The answer to an input is its worst outcome.
BY_WORST = (Kind.MATCH, Kind.CONFLICT, Kind.UNREAD, Kind.EXCEPTED)


#: The outcomes that are recorded.
RECORDED = (Kind.MATCH, Kind.CONFLICT, Kind.EXCEPTED)


class Content:
    """A stream, or an open file that a client has passed."""

    def __init__(
        self,
        lists: InUse,
        door: str,
        *,
        kept_bytes: int = 0,
        kept: Spooled | None = None,
        fd: int | None = None,
    ) -> None:
        """Begin; up to `kept_bytes` are held in memory, or all bytes in `kept` or in the file `fd`.

        `door` is the name of its source in records.
        """
        self.lists = lists
        self.door = door
        self.kept_bytes = kept_bytes
        self.digester = StreamDigester(lists.judge.plan(None), kept_bytes)
        #: The stream's place in the spool, as long as it may be a container.
        self.kept = kept
        #: All bytes of the stream, if they are in memory at its end.
        self.whole: memoryview | None = None
        self.fd = fd
        self.is_file = fd is not None
        #: For an open file: its status before it was read, and whether it may be a container.
        self.status: os.stat_result | None = None
        self.opens = False
        #: The outcome of the content; and the worst outcome of the content and its members, which
        #: decides the answer.
        self.own: Outcome | None = None
        self.outcome: Outcome | None = None
        #: The outcomes of its members; and the number of containers in it that are not opened, by
        #: kind.
        self.inside: list[Outcome] = []
        self.not_opened: dict[str, int] = {}

    def update(self, chunk: memoryview) -> None:
        """Take the next bytes."""
        self.digester.update(chunk)
        if self.kept is not None:
            self.kept.update(chunk)

    def may_be_container(self) -> bool:
        """Return, at the end of a stream, whether it must be opened, too."""
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
        """Drop the kept bytes, and close the file."""
        self.whole = None
        if self.kept is not None:
            self.kept.close()
            self.kept = None
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = None

    def is_surely_clean(self) -> bool:
        """Return, in microseconds, whether a stream surely has no match; False if unsure."""
        lists, digester = self.lists, self.digester
        if self.inside:
            return False
        if not lists.judge.plan(digester.length):
            return True  # no entry has this size, and all entries have a size
        return not any(lists.may_be_listed(a, d) for a, d in digester.finish().items())

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes that are not clean, the content's first; call this after `judge`."""
        own = [] if self.own is None else [self.own]
        return [o for o in own + self.inside if o.kind in BY_WORST]

    def recorded(self) -> list[Outcome]:
        """Return the outcomes to record, and the outcome that decides the answer."""
        return [o for o in self.outcomes() if o is self.outcome or o.kind in RECORDED]


class Upload(Content):
    """Content from a client of the daemon, and how it is answered."""

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
        """Begin, as `Content` does; the answer has the name `name` and the form `form`."""
        super().__init__(lists, client.peer.door, kept_bytes=kept_bytes, kept=kept, fd=fd)
        self.name = name
        self.client = client
        self.form = form
        self.began = began


_Content = TypeVar("_Content", bound=Content)


def by_lists(contents: Iterable[_Content]) -> Iterable[list[_Content]]:
    """Return uploads grouped by the lists with which they began."""
    found: dict[InUse, list[_Content]] = {}
    for content in contents:
        found.setdefault(content.lists, []).append(content)
    return found.values()


def judge(contents: Iterable[Content]) -> None:
    """Set the outcome of each content that was read to its end; clean content keeps None."""
    for same in by_lists(contents):
        lists = same[0].lists
        outcomes = judge_streams(lists.judge, [(one.door, one.digester) for one in same])
        for one, outcome in zip(same, outcomes, strict=True):
            one.own = lists.rule(outcome)
            one.outcome = worst([one.own, *one.inside])


def worst(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the outcome that decides the answer; None if the input is clean."""
    wanted = (o for o in outcomes if o.kind in BY_WORST)
    return min(wanted, key=lambda outcome: BY_WORST.index(outcome.kind), default=None)
