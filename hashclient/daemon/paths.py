"""What a client names instead of sending it: paths that the daemon can read, and descriptors.

Both are read in threads, since a disk may take its time; everybody else is answered meanwhile.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator

from hashclient.core.digests import CHUNK_BYTES
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.lists import InUse
from hashclient.daemon.uploads import Upload
from hashclient.scan.checker import Checker
from hashclient.scan.executors.inline import Inline
from hashclient.scan.executors.interface import Result
from hashclient.scan.reading import same_content
from hashclient.scan.reasons import CHANGED, ENDLESS, reason_of
from hashclient.scan.sources.files import Trees, WalkOptions, kind_of


def check_path(lists: InUse, path: str) -> Iterator[list[Outcome]]:
    """Check the file or the tree at `path`; yield what is not clean, as it is found.

    Links below it are not followed, and no file is skipped for what it is: what is no regular file
    has no content to check, unless `path` itself is one.
    """
    options = WalkOptions((), one_file_system=False, follow_symlinks=False)
    checker = Checker(lists.judge)
    for item in Inline().run(Trees([path], options).batches(), lambda _: checker):
        outcomes = item.outcomes if isinstance(item, Result) else []
        if isinstance(item, Outcome):
            outcomes = [item]
        found = [_told(outcome, path) for outcome in outcomes if outcome.kind is not Kind.CLEAN]
        yield [outcome for outcome in found if outcome is not None]


def _told(outcome: Outcome, path: str) -> Outcome | None:
    """Return an outcome as it counts here: what was asked for by name is never skipped."""
    if outcome.kind is not Kind.SKIPPED:
        return outcome
    if outcome.path != path:
        return None
    return Outcome(Kind.UNREAD, path, reason=outcome.reason)


def read_descriptor(fd: int, upload: Upload, deadline: float) -> Outcome | None:
    """Digest the regular file that `fd` is, from its beginning; its offset is left alone.

    Return an outcome if it cannot be read to its end.
    """
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            return _unread(upload, kind_of(before.st_mode))
        buffer = memoryview(bytearray(CHUNK_BYTES))
        at = 0
        while count := os.preadv(fd, [buffer], at):
            upload.digester.update(buffer[:count])
            at += count
            if time.monotonic() > deadline:
                return _unread(upload, ENDLESS)
        after = os.fstat(fd)
    except OSError as error:
        return _unread(upload, reason_of(error))
    if not same_content(before, after) or (before.st_size and at != before.st_size):
        return _unread(upload, CHANGED)
    return None


def _unread(upload: Upload, reason: str) -> Outcome:
    return Outcome(Kind.UNREAD, upload.name, reason=reason, is_stream=True)


Tell = Callable[[list[Outcome]], None]
