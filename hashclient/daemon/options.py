"""The options of a daemon: addresses, time limits, and the answer without a verdict."""

from __future__ import annotations

import enum
import ipaddress
import os
import re
from pathlib import Path

import msgspec

from hashclient.containers.limits import Options as ContainerOptions
from hashclient.core.errors import UsageError
from hashclient.system.text import printable

#: Bytes kept of all streams of a daemon together; and the least for the streams of one process.
ALL_KEPT_BYTES = 32 << 20
LEAST_ALL_KEPT_BYTES = 4 << 20


class NoVerdict(enum.StrEnum):
    """The answer to an input that cannot be judged."""

    FOUND = "found"
    ERROR = "error"
    OK = "ok"


class Paths(enum.StrEnum):
    """The paths that a client other than root and the user of the daemon may ask about."""

    OWN = "own"  # paths that the client could read itself
    ANY = "any"  # paths that the daemon may read


class UnixAddress(msgspec.Struct, frozen=True):
    """A socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{printable(self.path)}"


class TcpAddress(msgspec.Struct, frozen=True):
    """A port at an address; 0 means any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"  # another name may mean any address


Address = UnixAddress | TcpAddress
_TCP = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})")


def parse_address(text: str) -> Address:
    """Read `unix:PATH`, `HOST:PORT` or `[HOST]:PORT`.

    Raises:
        UsageError: the text has another form.
    """
    if text.startswith("unix:") and len(text) > len("unix:"):
        path = Path(text.removeprefix("unix:"))
        # sun_path of unix(7), and its NUL; the name, after the path of an open directory.
        if len(os.fsencode(path)) > 107 or len(os.fsencode(path.name)) > 80:
            raise UsageError(
                f"path of a socket is too long: {printable(path)}",
                hint="the system allows 107 bytes, and 80 of them for the name",
            )
        return UnixAddress(path)
    found = _TCP.fullmatch(text)
    if found is None or int(found["port"]) > 65_535:
        raise UsageError(
            f"not an address to listen at: {printable(text)}",
            hint="unix:PATH, or HOST:PORT, such as 127.0.0.1:3310",
        )
    return TcpAddress(found["six"] or found["host"], int(found["port"]))


class Options(msgspec.Struct, frozen=True):
    """How the daemon answers; `paths` says which paths clients may name. `serve` has the defaults.

    `max_stream_bytes` limits a stream, `idle_s` the wait for a silent client, `command_s` the time
    in which a command comes, and `stream_s` the time of one stream. A stream that comes more slowly
    than `min_rate` bytes a second is closed when others wait. One user may use `user_share` percent
    of each limit for all users. `max_connections` and `kept_bytes` apply to each process: so many
    bytes of all its streams are kept that not all digests must be computed as the bytes arrive.
    Containers are opened by the options in `containers`; for containers, the streams of one process
    may use `spool_bytes` of disk. Without `exceptions`, inputs that people have excepted are
    matches.
    """

    no_verdict: NoVerdict
    paths: Paths
    max_stream_bytes: int
    idle_s: float
    command_s: float
    stream_s: float
    min_rate: int
    max_connections: int
    user_share: int
    kept_bytes: int
    act: bool
    exceptions: bool
    containers: ContainerOptions | None
    spool_bytes: int


def kept_bytes(jobs: int) -> int:
    """Return how many bytes of its streams each of so many processes may keep."""
    return max(LEAST_ALL_KEPT_BYTES, ALL_KEPT_BYTES // jobs)
