"""What a connection and the process that has it ask of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hashclient.core.model import Outcome
from hashclient.daemon.protocol import Command
from hashclient.daemon.uploads import Upload

if TYPE_CHECKING:
    import asyncio

    from hashclient.daemon.counts import Row
    from hashclient.daemon.options import Options

#: What a stream is called.
STREAM = "stream"
#: What a reply begins and ends with.
Form = tuple[bytes, bytes]


class Client(Protocol):
    """Who is connected: `Connection` is the one there is."""

    is_closed: bool
    #: When something was read or written, in seconds as `time.monotonic` gives them.
    last: float

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client that keeps us waiting."""
        ...

    @property
    def is_silent(self) -> bool:
        """Whether nothing is begun, and nothing is left to be said."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether more can be said."""
        ...

    def stream_took(self, now: float) -> float:
        """Return for how many seconds a stream has been coming; 0 without one."""
        ...

    def answer(self, form: Form, lines: list[str], *, last: bool = True) -> None:
        """Send lines in answer to a command; with `last`, it is answered."""
        ...

    def writable(self) -> None:
        """Write what there is to say, as far as there is room."""
        ...

    def give_up(self, reason: str) -> None:
        """Send a client away whose stream takes too long."""
        ...

    def close_if_gone(self) -> None:
        """Close if nobody is there any more."""
        ...

    def close(self) -> None:
        """Close; answers that come later go nowhere."""
        ...


class Host(Protocol):
    """Who has the connections: `Worker` is the one there is."""

    options: Options
    counts: Row
    #: What every connection reads into; it is used up before the next one reads.
    buffer: memoryview
    loop: asyncio.AbstractEventLoop

    def clean_answer(self, data: memoryview) -> bytes | None:
        """Return what is said of most streams that match nothing, and count it; None of others."""
        ...

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` after so many seconds."""
        ...

    def upload(self, name: str, answered: Callable[[Outcome | None], None]) -> Upload:
        """Begin a stream."""
        ...

    def ended(self, upload: Upload, client: Client) -> None:
        """Take a stream that has come to its end, of a client."""
        ...

    def release(self, upload: Upload) -> None:
        """Forget a stream that never comes to its end."""
        ...

    def answers(self, upload: Upload, outcome: Outcome | None) -> list[str]:
        """Return what is said of a stream; None is a clean one."""
        ...

    def without_verdict(self, word: str, reason: str) -> list[str]:
        """Return what is said of an input that was not read for a reason of the daemon's."""
        ...

    def say(self, command: Command | None, *, is_unix: bool) -> str:
        """Return the answer to a command that is about the daemon itself."""
        ...

    def check_path(self, connection: Client, command: Command, path: str, form: Form) -> None:
        """Check what is at a path, and answer."""
        ...

    def check_descriptor(self, connection: Client, fd: int, form: Form) -> None:
        """Check the file that a descriptor is, and answer."""
        ...

    def flush(self, connection: Client) -> None:
        """Let a connection write what it has to say, soon."""
        ...

    def has_room(self, connection: Client) -> None:
        """Go on with what had to wait until a connection could say more."""
        ...

    def closed(self, connection: Client) -> None:
        """Take note that a connection is closed."""
        ...
