"""The interfaces between a connection and its process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hashclient.core.model import Outcome
from hashclient.daemon.doors import Peer
from hashclient.daemon.protocol import Command
from hashclient.daemon.uploads import Upload

if TYPE_CHECKING:
    import asyncio

    from hashclient.daemon.counts import Row
    from hashclient.daemon.options import Options

#: The name of a stream in answers.
STREAM = "stream"
#: The beginning and the end of a reply.
Form = tuple[bytes, bytes]


class Client(Protocol):
    """A client; `Connection` implements it."""

    #: Who it is.
    peer: Peer
    is_closed: bool
    #: When something was read or written, in seconds as `time.monotonic` gives them.
    last: float

    @property
    def waits_for_client(self) -> bool:
        """Whether the daemon is waiting for the client."""
        ...

    @property
    def is_silent(self) -> bool:
        """Whether no request is open, and no answer is left to send."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether there is room for more answers."""
        ...

    def is_slow(self, now: float) -> bool:
        """Return whether the rest of its command comes very slowly."""
        ...

    def look(self, now: float) -> bool:
        """Note how fast it sends, once a second; return whether a command takes too long."""
        ...

    def file_ended(self) -> None:
        """Note that an open file which it has handed over is answered."""
        ...

    def stream_took(self, now: float) -> float:
        """Return the age of the present stream in seconds; 0 without one."""
        ...

    def answer(self, form: Form, lines: list[str], *, last: bool = True) -> None:
        """Send lines in answer to a command; with `last`, it is answered."""
        ...

    def writable(self) -> None:
        """Send waiting answers, as far as there is room."""
        ...

    def give_up(self, reason: str) -> None:
        """Dismiss a client whose stream takes too long."""
        ...

    def close_if_gone(self) -> None:
        """Close if the client has closed."""
        ...

    def close(self) -> None:
        """Close; later answers are dropped."""
        ...


class Host(Protocol):
    """The owner of the connections; `Worker` implements it."""

    options: Options
    counts: Row
    #: The read buffer of all connections; its bytes are handled before the next connection reads.
    buffer: memoryview
    loop: asyncio.AbstractEventLoop

    def clean_answer(self, data: memoryview) -> bytes | None:
        """Return and count the answer to an ordinary stream without a match; None for others."""
        ...

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` after this many seconds."""
        ...

    def upload(self, name: str, peer: Peer, answered: Callable[[Outcome | None], None]) -> Upload:
        """Begin a stream that came from `peer`."""
        ...

    def ended(self, upload: Upload, client: Client) -> None:
        """Accept a client's stream that has ended."""
        ...

    def release(self, upload: Upload) -> None:
        """Drop a stream that never ends."""
        ...

    def answers(self, upload: Upload, outcome: Outcome | None) -> list[str]:
        """Return the answer to a stream; the outcome None means clean."""
        ...

    def without_verdict(self, word: str, reason: str) -> list[str]:
        """Return the answer to an input that the daemon did not read, for its own reasons."""
        ...

    def say(self, command: Command | None, peer: Peer) -> str:
        """Return the answer to a command of `peer` about the daemon itself."""
        ...

    def check_path(self, connection: Client, command: Command, path: str, form: Form) -> None:
        """Check the file or tree at a path, and answer."""
        ...

    def check_descriptor(self, connection: Client, fd: int, form: Form) -> None:
        """Check the file that a descriptor is, and answer."""
        ...

    def hold_file(self, peer: Peer) -> bool:
        """Count one more open file of a user; return False if the user may have no more."""
        ...

    def let_go_of_files(self, peer: Peer, count: int) -> None:
        """Count so many open files less."""
        ...

    def flush(self, connection: Client) -> None:
        """Let a connection send its answers soon."""
        ...

    def has_room(self, connection: Client) -> None:
        """Go on with work that waited for room in a connection's answers."""
        ...

    def closed(self, connection: Client) -> None:
        """Note that a connection is closed."""
        ...
