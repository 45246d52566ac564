"""Checks of the answers of workers against the batches that the workers got.

The client trusts a worker, but the machine or the memory of a worker may fail. An answer that makes
no sense must not end the scan, and an answer must not be about files of another batch. A worker may
return a part of its batch, but not the whole batch for ever. A batch is lost if its answer makes no
sense, is about other files, or hands back what a worker always does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.core.objecturi import ObjectUri
from hashclient.scan.cache.inside import MEMBER
from hashclient.scan.cache.records import RECORD
from hashclient.scan.cluster.messages import (
    INODE,
    SIGN,
    Answer,
    Listed,
    Lost,
    ReadObjects,
    ToCheck,
    ToList,
    ToRead,
)
from hashclient.scan.executors.wire import Checked, Names, WireOutcome
from hashclient.scan.values.work import WORKER_FAILED, Block

#: Records and logs can only contain numbers below this number.
_TOO_LARGE = 1 << 63
#: The kinds of outcomes that a worker may return; only the client makes outcomes excepted or
#: accepted.
_KINDS = frozenset({Kind.CLEAN, Kind.MATCH, Kind.CONFLICT, Kind.SKIPPED, Kind.UNREAD})


def verified(batch: ToCheck | ToList, answer: Answer) -> Answer:
    """Return the answer to a batch of files or directories; `Lost` if the answer is not valid."""
    try:
        if isinstance(answer, Checked):
            _verify_checked(answer)
            _verify_files(batch, answer)
        elif isinstance(answer, Listed):
            _verify_listed(batch, answer)
        elif isinstance(answer, Lost):
            _need(answer.reason.isprintable())
    except ValueError:
        return Lost(WORKER_FAILED)
    return answer


def is_about(batch: ToRead, read: ReadObjects) -> bool:
    """Return whether the answer to a batch of objects has a valid result for each object."""
    bucket = ObjectUri("s3", batch.bucket).bucket_text
    try:
        for (checked, _, _), wanted in zip(read.results, batch.wanted, strict=True):
            _verify_checked(checked)
            uri = os.fsencode(wanted.uri(bucket))
            for outcome in checked.outcomes:
                # The URI of an outcome may also name the version that was read.
                _need(outcome.path.startswith(uri) and outcome.path[len(uri) :][:1] in (b"", b"?"))
    except ValueError:
        return False
    return True


def _verify_checked(checked: Checked) -> None:
    """Check the numbers and records in a result.

    Raises:
        ValueError: the result makes no sense.
    """
    counts = checked.counts
    numbers = [getattr(counts, name) for name in counts.__struct_fields__ if name != "not_opened"]
    _need_numbers([checked.clean, *numbers, *counts.not_opened.values()])
    _need(math.isfinite(checked.taken_s))
    _need_blocks(checked.seen)
    for number, records in checked.learned:
        _need_numbers([number])
        _need(records and not len(records) % RECORD.itemsize)
    for number, record, members in checked.containers:
        _need_numbers([number])
        _need(len(record) == RECORD.itemsize and not len(members) % MEMBER.itemsize)
    _verify_outcomes(checked.outcomes)


def _verify_files(batch: ToCheck | ToList, checked: Checked) -> None:
    """Check that a result is about files in the directories of its batch."""
    if not isinstance(batch, ToCheck):
        raise ValueError
    directories = {group.directory.rstrip(b"/") for group in batch.groups}
    for outcome in checked.outcomes:
        _need(outcome.path.rpartition(b"/")[0].rstrip(b"/") in directories)
    back, given = [*checked.deferred, *checked.large], sum(group.count for group in batch.groups)
    for group in back:
        _verify_names(group)
        _need(group.directory.rstrip(b"/") in directories)
    # A worker checks a file that is alone in its batch, however long that takes.
    _need(sum(group.count for group in back) <= (given if given > 1 else 0))


def _verify_listed(batch: ToCheck | ToList, listed: Listed) -> None:
    """Check that a listing is about the directories of its batch, which may have new names."""
    if not isinstance(batch, ToList):
        raise ValueError
    paths = [one.path if one.verified else os.path.split(one.path)[0] for one in batch.starts]
    above = tuple(path.rstrip(b"/") + b"/" if path else b"" for path in paths)
    levels = [1 if one.verified else 2 for one in batch.starts]
    for group in listed.groups:
        _verify_names(group)
    found = [group.directory for group in listed.groups]
    found += [start.path for start in listed.rest] + [one.path for one in listed.outcomes]
    for path in found:
        _need(b"\0" not in path and (path.rstrip(b"/") + b"/").startswith(above))
    # A worker lists at least the first directory of its batch. So it returns directories below the
    # directories of the batch, the later directories of the batch, and wide ones, which the client
    # lists. Where a directory of the batch is on another file system, the worker does not list it,
    # and the client verifies it.
    later, back = {one.path for one in batch.starts[1:]}, 0
    for start in (one for one in listed.rest if not one.is_wide):
        path = start.path.rstrip(b"/") + b"/"
        if not any(
            path.startswith(prefix)
            and path[len(prefix) :].count(b"/") >= (1 if start.is_border else level)
            for prefix, level in zip(above, levels, strict=True)
        ):
            _need(start.path in later)
            back += 1
    _need(back < len(batch.starts))
    _verify_outcomes(listed.outcomes)


def _verify_names(names: Names) -> None:
    _need(names.names.count(b"\0") == names.count - 1 and b"\0" not in names.directory)
    _need(len(names.inodes) in (0, names.count * INODE.itemsize))
    _need(len(names.signs) in (0, names.count * SIGN.itemsize))
    _need_numbers([names.file_system])


def _verify_outcomes(outcomes: Iterable[WireOutcome]) -> None:
    for one in outcomes:
        outcome: Outcome = one.rest
        _need(outcome.kind in _KINDS and b"\0" not in one.path)
        _need(outcome.reason is None or outcome.reason.isprintable())
        _need_numbers([outcome.size or 0, *(hit.generation for hit in outcome.hits)])
        if outcome.outer is not None:
            _need_numbers([outcome.outer.size, outcome.outer.members])


def _need_blocks(blocks: Iterable[Block]) -> None:
    for block in blocks:
        _need_numbers(block)


def _need_numbers(numbers: Iterable[int]) -> None:
    _need(all(0 <= number < _TOO_LARGE for number in numbers))


def _need(condition: object) -> None:
    if not condition:
        raise ValueError
