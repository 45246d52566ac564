"""Opens containers in several threads, with one opener for each thread.

An opener is an object with a child process that opens containers; unused openers are used again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import msgspec

from hashclient.config.settings import Config
from hashclient.containers.limits import Options as ContainerOptions
from hashclient.containers.protocol import BrokenError
from hashclient.core.model import Outcome
from hashclient.daemon.lists import InUse
from hashclient.daemon.uploads import BY_WORST, Content
from hashclient.scan.check.members import Members, Opened, container_options
from hashclient.scan.check.reading import same_content
from hashclient.scan.run.accept import accepting
from hashclient.session import Session
from hashclient.system.rights import Ourselves


def opening(config: Config, most_s: float, noticed: Callable[[str], None]) -> ContainerOptions:
    """Return the options for opening containers, with a limit of `most_s` seconds for each.

    `noticed` is called with a message about protections that the kernel cannot apply to the child
    process.
    """
    options = container_options(config.containers, noticed)
    limits = msgspec.structs.replace(
        options.limits, time_s=min(options.limits.time_s, max(1, int(most_s)))
    )
    return msgspec.structs.replace(options, limits=limits)


class Opener(Members):
    """Opens containers for one thread at a time, which may have the user id of another user."""

    #: A function that returns a context manager; in its block, the thread has the user id of this
    #: process.
    ourselves: Ourselves = contextlib.nullcontext

    def open(self, *args: Any, **options: Any) -> Opened:
        """Open a container with the user id of this process, which may start a child process."""
        with self.ourselves():
            return super().open(*args, **options)


class Openers:
    """Opens containers, each for an owner, for example a client; `stop` stops the opening."""

    def __init__(self, options: ContainerOptions, session: Session) -> None:
        """Store the arguments; rules in the configuration of `session` accept unread members."""
        self._options = options
        self._session = session
        #: The thread that starts child processes of openers. One lasting thread is used, because
        #: the kernel ends a child process of an opener together with the thread that has started
        #: the child process.
        self._starter = ThreadPoolExecutor(1, "hashclient-opener")
        self._idle: list[tuple[InUse, Opener]] = []
        #: The openers in use, each with its owner.
        self._busy: dict[Opener, object] = {}

    @contextlib.contextmanager
    def taken(self, lists: InUse, whose: object) -> Iterator[Opener]:
        """Yield an opener that judges members with `lists`, for the owner `whose`.

        The opener is used again unless its child process has died. An opener whose child process
        has died is replaced, because hostile content can let the child process die, and an opener
        refuses to work after several deaths.
        """
        opener = self._take(lists)
        self._busy[opener] = whose
        may_go_on = False
        try:
            yield opener
            may_go_on = not opener.has_failed
        finally:
            opener.ourselves = contextlib.nullcontext
            is_stopped = self._busy.pop(opener, None) is None
            if may_go_on and not is_stopped:
                self._idle.append((lists, opener))
            else:
                opener.close()

    def _take(self, lists: InUse) -> Opener:
        while self._idle:
            known, opener = self._idle.pop()
            if known is lists:
                return opener
            opener.close()
        starting = functools.partial(_started, self._starter)
        return Opener(lists.judge, self._options, starting=starting)

    def stop(self, whose: object = None) -> None:
        """Stop opening containers of one owner, or of all owners; their outcome is unread."""
        for opener, user in list(self._busy.items()):
            if whose in (None, user) and self._busy.pop(opener, None) is not None:
                opener.stop()

    def accepted(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return outcomes that are not clean and not accepted by a rule of the configuration."""
        if not outcomes:
            return []
        rules = self._session.settings.config.accept
        accept = accepting(rules, self._session.now().date())
        return [o for o in map(accept, outcomes) if o.kind in BY_WORST]

    def open(self, content: Content, whose: object) -> None:
        """Open the container in a stream or open file, and store the outcomes of its members.

        Raises:
            OSError: the open file cannot be read.
        """
        with self.taken(content.lists, whose) as opener:
            if content.kept is not None:
                opened = opener.open_kept(content.kept, content.door)
            else:
                opened = _open_file(opener, content)
        content.not_opened = opened.not_opened
        # The outcomes are marked as outcomes of a stream, because an open file has no path.
        found = [msgspec.structs.replace(o, is_stream=True) for o in opened.outcomes]
        content.inside = [content.lists.rule(outcome) for outcome in self.accepted(found)]

    def close(self) -> None:
        """End the unused openers and their processes."""
        while self._idle:
            self._idle.pop()[1].close()
        self._starter.shutdown()


def _started(starter: Executor, start: Callable[[], subprocess.Popen[bytes]]) -> Any:
    try:
        return starter.submit(start).result()
    except RuntimeError as error:  # no thread can be started, or `starter` is closed
        raise BrokenError(str(error)) from error


def _open_file(opener: Opener, content: Content) -> Opened:
    """Open the container in an open file, and restore the file offset, which the client shares."""
    fd, before = content.fd, content.status
    assert fd is not None and before is not None
    at = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        return opener.open(
            *(fd, content.digester.length, content.door),
            lambda: same_content(before, os.fstat(fd)),
        )
    finally:
        os.lseek(fd, at, os.SEEK_SET)
