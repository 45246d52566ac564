"""Streams from clients: digested as they arrive, and judged together with others.

A stream keeps the lists that it began with. One lookup serves all streams that end at about the
same time, which makes many small streams cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hashclient.core.algorithms import Algorithm
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.lists import InUse
from hashclient.index.matcher import Place
from hashclient.scan.reading import StreamDigester
from hashclient.scan.spool import Spooled
from hashclient.scan.streaming import judge_hit


class Upload:
    """One stream: its state, and the function for its answer.

    `name` is its name in answers; `door` is its name in the records: where it came from.
    `answered` is called with the outcome once it is recorded, or with None if it is clean.
    `reserved_bytes` is how much of it may be kept. The worst outcome of its members counts.
    """

    __slots__ = (
        *("answered", "began", "digester", "door", "inside", "kept", "lists", "name"),
        *("not_opened", "reserved_bytes"),
    )

    def __init__(
        self,
        lists: InUse,
        name: str,
        door: str,
        answered: Callable[[Outcome | None], None],
        began: float,
        kept_bytes: int,
        kept: Spooled | None = None,
    ) -> None:
        self.lists = lists
        self.name = name
        self.door = door
        self.answered = answered
        self.began = began
        self.reserved_bytes = kept_bytes
        self.digester = StreamDigester(lists.judge.plan(None), kept_bytes)
        #: Its place in the spool, as long as it may be a container; and the outcomes of its
        #: members.
        self.kept = kept
        self.inside: list[Outcome] = []
        #: Of it and its members, those of kinds that are not opened.
        self.not_opened: dict[str, int] = {}

    def update(self, chunk: memoryview) -> None:
        """Take the next bytes."""
        self.digester.update(chunk)
        if self.kept is not None:
            self.kept.update(chunk)

    def may_be_container(self) -> bool:
        """Tell, at the end of a stream, whether it must be opened, too."""
        kept = self.kept
        if kept is None:
            return False
        is_kept = kept.finish(self.digester.content) is not None
        if is_kept or kept.failure is not None or kept.not_opened:
            return True
        self.let_go()
        return False

    def let_go(self) -> None:
        """Drop its kept bytes."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    def is_surely_clean(self) -> bool:
        """Tell in a few microseconds that a stream has no match; False if this is not sure."""
        lists, digester = self.lists, self.digester
        if self.inside:
            return False
        if not lists.judge.plan(digester.length):
            return True  # no entry has this size, and all entries have a size
        may_be_listed = lists.may_be_listed
        for algorithm, digest in digester.finish().items():
            if may_be_listed(algorithm, digest):
                return False
        return True


def judge(uploads: Sequence[Upload]) -> list[Outcome | None]:
    """Return the outcome of each upload that was read to its end; None if it is clean."""
    outcomes: list[Outcome | None] = [None] * len(uploads)
    by_lists: dict[int, list[int]] = {}
    for number, upload in enumerate(uploads):
        by_lists.setdefault(id(upload.lists), []).append(number)
    for numbers in by_lists.values():
        _judge(uploads, numbers, outcomes)
    return outcomes


def _judge(
    uploads: Sequence[Upload], numbers: Sequence[int], outcomes: list[Outcome | None]
) -> None:
    """Judge uploads with the same lists."""
    ask = uploads[numbers[0]].lists.judge
    digests = [uploads[n].digester.finish() for n in numbers]
    places: dict[int, list[Place]] = {}
    for algorithm in Algorithm:
        rows = [row for row, known in enumerate(digests) if algorithm in known]
        if rows:
            tags = ask.sealer.tags_of(algorithm, [digests[row][algorithm] for row in rows])
            for query, found in ask.find(algorithm, tags).items():
                places.setdefault(rows[query], []).extend(found)
    for row, found in places.items():
        upload = uploads[numbers[row]]
        outcome = judge_hit(ask, upload.door, upload.digester, digests[row], found)
        if outcome.kind is not Kind.CLEAN:
            outcomes[numbers[row]] = outcome
