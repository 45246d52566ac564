"""Checking in this process: a little work takes less time than starting processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from hashclient.core.model import Outcome
from hashclient.scan.executors.interface import Executor, MakeChecker, single_tasks
from hashclient.scan.values.work import Advance, Result, Task


class Inline(Executor):
    """Runs batches one after the other.

    A batch is lost only with this process: an exception of a checker ends the run. Signals come
    between the reads of a file, as in workers.
    """

    def __init__(self, *, hand_back: bool = False) -> None:
        """With `hand_back`, results keep their deferred work: another executor goes on with it."""
        self._hand_back = hand_back

    def run(
        self, work: Iterator[Task | Outcome], make_checker: MakeChecker
    ) -> Iterator[Result | Outcome | Advance]:
        """Yield the results of `work`, in its order; see `Executor`."""
        checker = None
        waiting: deque[Task] = deque()
        while True:
            item = waiting.popleft() if waiting else next(work, None)
            if item is None:
                return
            if isinstance(item, Outcome):
                yield item
                continue
            checker = checker or make_checker(None)
            result = checker.check(item, defer=self._hand_back)
            if not self._hand_back:
                waiting.extend(single_tasks(result.deferred))
                result.deferred = []
            yield result
