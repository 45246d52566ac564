"""What is inside of streams and open files: containers are opened in threads, one in each.

Each thread that opens one needs a process of its own to open it in; these stay, for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Protocol

import msgspec

from hashclient.config import Config
from hashclient.configfile.tables import AcceptRule
from hashclient.containers.limits import Options as ContainerOptions
from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.lists import InUse
from hashclient.scan.accept import accepting
from hashclient.scan.members import Members, container_options

if TYPE_CHECKING:
    from hashclient.daemon.uploads import Upload

#: An input is answered by the worst of what is in it.
_BY_WORST = (Kind.MATCH, Kind.CONFLICT, Kind.UNREAD)


def opening(config: Config, most_s: float, noticed: Callable[[str], None]) -> ContainerOptions:
    """Return how containers are opened, none of them for longer than `most_s` seconds.

    `noticed` is called with what the kernel lacks to do that safely.
    """
    options = container_options(config.containers, noticed)
    limits = msgspec.structs.replace(
        options.limits, time_s=min(options.limits.time_s, max(1, int(most_s)))
    )
    return msgspec.structs.replace(options, limits=limits)


class Openers:
    """Opens containers; one of them is at work in a thread at a time."""

    def __init__(
        self,
        options: ContainerOptions,
        rules: Sequence[AcceptRule],
        today: Callable[[], date],
    ) -> None:
        """Open as `options` say; `rules` tell what may be unread until when."""
        self._options = options
        self._rules = rules
        self._today = today
        self._idle: list[tuple[InUse, Members]] = []

    def take(self, lists: InUse) -> Members:
        """Return what opens containers and judges with these lists; give it back to `put_back`."""
        while self._idle:
            known, members = self._idle.pop()
            if known is lists:
                return members
            members.close()
        return self.new(lists)

    def put_back(self, lists: InUse, members: Members) -> None:
        """Take back what is not needed any more."""
        self._idle.append((lists, members))

    def new(self, lists: InUse) -> Members:
        """Return one that the caller closes."""
        return Members(lists.judge, self._options)

    def accepted(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return what counts of outcomes: not what is clean, or accepted."""
        if not outcomes:
            return []
        accept = accepting(self._rules, self._today())
        return [o for o in map(accept, outcomes) if o.kind in _BY_WORST]

    def open(self, upload: Upload, fd: int | None, size: int) -> list[Outcome]:
        """Return what counts of what is inside of a stream, or of an open file."""
        members = self.take(upload.lists)
        try:
            if upload.kept is not None:
                opened = members.open_kept(upload.kept, upload.name)
            else:
                assert fd is not None
                opened = members.open(fd, size, upload.name, lambda: True)
        except BaseException:
            members.close()
            raise
        self.put_back(upload.lists, members)
        return self.accepted(opened.outcomes)

    def close(self) -> None:
        """End the processes that open containers."""
        while self._idle:
            self._idle.pop()[1].close()


class Office(Protocol):
    """Who has the clients: `Worker` is the one there is."""

    openers: Openers | None

    def looked_inside(self, upload: Upload) -> None:
        """Take a stream of which it is known what is in it."""
        ...

    def release(self, upload: Upload) -> None:
        """Forget a stream that never comes to its end."""
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

    def drop(self) -> None:
        """Let it go."""
        if not self._is_over:
            self._office.release(self._upload)


def worst(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the outcome that an input is answered by; None where it is clean."""
    for kind in _BY_WORST:
        for outcome in outcomes:
            if outcome.kind is kind:
                return outcome
    return None
