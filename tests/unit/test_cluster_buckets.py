"""The listing of a bucket by a cluster, whose answers come in any order and at any time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from hashclient.core.kinds import Kind
from hashclient.core.objecturi import parse_uri
from hashclient.objects.listing import ListingEndedError
from hashclient.scan.cluster.buckets import ClusterBucket
from hashclient.scan.cluster.messages import ListedRange, Lost
from hashclient.scan.executors.wire import encode
from hashclient.scan.objects.wanted import Checked, Wanted
from hashclient.scan.values.work import WORKER_DIED


class Batches:
    """Takes batches, and gives the answers that a test has for them."""

    slots, has_room = 4, True

    def __init__(self) -> None:
        self.out: list[Any] = []
        self.answers: list[tuple[Any, bytes | None]] = []

    def __len__(self) -> int:
        return 0

    def submit(self, batch: Any, _do: Callable[..., bytes], _payload: bytes) -> None:
        self.out.append(batch)

    def ended(self, _seconds: float) -> list[tuple[Any, bytes | None]]:
        answers, self.answers = self.answers, []
        return answers

    def look(self) -> None:
        """Nothing is lost."""

    def take_lost(self) -> list[Any]:
        return []


@pytest.mark.parametrize("rest", [b"q", None])
def test_a_range_that_is_listed_after_the_listing_has_ended_is_of_no_use(
    rest: bytes | None,
) -> None:
    jobs = Batches()
    bucket = ClusterBucket(cast(Any, jobs), parse_uri("s3://bucket/"), None, "here")
    assert bucket.next(0) is None
    jobs.answers = [(jobs.out[0], encode(ListedRange(b"", b"a", [b"m"], None)))]
    assert bucket.next(0) is None and bucket.next(0) is None
    first, second = jobs.out[1:]
    bucket.read(Wanted("a", 1, None, None))
    jobs.answers = [(first, encode(Lost(WORKER_DIED)))]
    with pytest.raises(ListingEndedError, match=WORKER_DIED):
        bucket.next(0)
    bucket.end_listing()
    reads = jobs.out[-1]
    jobs.answers = [(second, encode(ListedRange(b"", rest, [], None)))]
    assert bucket.next(0) is None and bucket.backlog == 1
    jobs.answers = [(reads, None)]
    checked = bucket.next(0)
    assert isinstance(checked, Checked) and bucket.is_over
    assert [outcome.kind for outcome in checked.result.outcomes] == [Kind.UNREAD]
