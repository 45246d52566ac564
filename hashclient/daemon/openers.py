"""Opens containers in streams and open files, in threads, one container in each.

Each thread needs a process of its own that opens the container; processes are kept and used again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from hashclient.config import Config
from hashclient.configfile.tables import AcceptRule
from hashclient.containers.limits import Options as ContainerOptions
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.lists import InUse
from hashclient.scan.accept import accepting
from hashclient.scan.members import Members, Opened, container_options

if TYPE_CHECKING:
    from hashclient.daemon.uploads import Upload

#: The answer to an input is its worst outcome.
_BY_WORST = (Kind.MATCH, Kind.CONFLICT, Kind.UNREAD)


def opening(config: Config, most_s: float, noticed: Callable[[str], None]) -> ContainerOptions:
    """Return how containers are opened, none of them for longer than `most_s` seconds.

    `noticed` is called with the protections that the kernel lacks.
    """
    options = container_options(config.containers, noticed)
    limits = msgspec.structs.replace(
        options.limits, time_s=min(options.limits.time_s, max(1, int(most_s)))
    )
    return msgspec.structs.replace(options, limits=limits)


#: Makes a block in which a thread has the rights of this process.
Ourselves = Callable[[], contextlib.AbstractContextManager[None]]


class OwnMembers(Members):
    """An opener for a thread that has the rights of another user meanwhile."""

    ourselves: Ourselves = contextlib.nullcontext

    def open(self, *args: Any, **options: Any) -> Opened:
        """Open a container as this process: only it may start the one that opens containers."""
        with self.ourselves():
            return super().open(*args, **options)


class Openers:
    """Opens containers, for one thread at a time."""

    def __init__(
        self,
        options: ContainerOptions,
        rules: Sequence[AcceptRule],
        today: Callable[[], date],
    ) -> None:
        """Open with `options`; `rules` say which members may be unread, and until when."""
        self._options = options
        self._rules = rules
        self._today = today
        self._idle: list[tuple[InUse, Members]] = []
        #: By their use.
        self._busy: dict[object, Members] = {}

    def take(self, lists: InUse) -> Members:
        """Return an opener that judges with these lists; return it to `put_back`."""
        while self._idle:
            known, members = self._idle.pop()
            if known is lists:
                return members
            members.close()
        return self.new(lists)

    def put_back(self, lists: InUse, members: Members) -> None:
        """Take an unused opener back, unless its process has died.

        It would give up after some more deaths, and content of clients may be the reason for them.
        """
        if members.has_failed:
            members.close()
        else:
            self._idle.append((lists, members))

    def new(self, lists: InUse) -> Members:
        """Return an opener that the caller closes."""
        return Members(lists.judge, self._options)

    @contextlib.contextmanager
    def own(self, lists: InUse, user: object) -> Iterator[OwnMembers]:
        """Have an opener in the block that `stop` ends by the name of its user."""
        members = self._busy[user] = OwnMembers(lists.judge, self._options)
        try:
            yield members
        finally:
            self._busy.pop(user, None)
            members.close()

    def stop(self, user: object) -> None:
        """Give up the container opened for a user, from the loop's thread; it is unread then."""
        members = self._busy.pop(user, None)
        if members is not None:
            members.stop()

    def stop_all(self) -> None:
        """Give up all that is opened."""
        for user in list(self._busy):
            self.stop(user)

    def accepted(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the outcomes that are neither clean nor accepted."""
        if not outcomes:
            return []
        accept = accepting(self._rules, self._today())
        return [o for o in map(accept, outcomes) if o.kind in _BY_WORST]

    def open(self, upload: Upload, fd: int | None, size: int) -> list[Outcome]:
        """Return those outcomes for the members of a stream or an open file."""
        members = self._busy[upload] = self.take(upload.lists)
        try:
            if upload.kept is not None:
                opened = members.open_kept(upload.kept, upload.door)
                found = opened.outcomes
            else:
                assert fd is not None
                opened = members.open(fd, size, upload.door, lambda: True)
                # An open file has no path that could be recorded.
                found = [msgspec.structs.replace(o, is_stream=True) for o in opened.outcomes]
        except BaseException:
            self._busy.pop(upload, None)
            members.close()
            raise
        if self._busy.pop(upload, None) is None:
            members.close()  # it was stopped
        else:
            self.put_back(upload.lists, members)
        upload.not_opened = opened.not_opened
        return self.accepted(found)

    def close(self) -> None:
        """End the processes that open containers."""
        while self._idle:
            self._idle.pop()[1].close()


class Office(Protocol):
    """The owner of the clients: `Worker` is the one there is."""

    openers: Openers | None

    def looked_inside(self, upload: Upload) -> None:
        """Accept a stream whose members are judged."""
        ...

    def release(self, upload: Upload) -> None:
        """Drop a stream that never ends."""
        ...


class OpeningJob:
    """A stream that may be a container, at its end."""

    def __init__(self, office: Office, upload: Upload) -> None:
        self._office = office
        self._upload = upload
        self._is_over = False

    def piece(self) -> Callable[[], bool]:
        """Open it."""
        assert self._office.openers is not None
        self._upload.inside = self._office.openers.open(self._upload, None, 0)
        return self._done

    def _done(self) -> bool:
        self._is_over = True
        self._office.looked_inside(self._upload)
        return False

    def stop(self) -> None:
        """Give it up."""
        assert self._office.openers is not None
        self._office.openers.stop(self._upload)

    def drop(self) -> None:
        """Drop it."""
        if not self._is_over:
            self._office.release(self._upload)


def worst(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the outcome that decides the answer; None if the input is clean."""
    for kind in _BY_WORST:
        for outcome in outcomes:
            if outcome.kind is kind:
                return outcome
    return None
