"""The options of a daemon, for example addresses, limits, and the answer without a verdict."""

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

#: The number of bytes of streams that all processes of a daemon together may keep in memory; and
#: the lowest limit for one process.
ALL_KEPT_BYTES = 32 << 20
LEAST_ALL_KEPT_BYTES = 4 << 20


class NoVerdict(enum.StrEnum):
    """The kind of answer about an input without a verdict."""

    FOUND = "found"
    ERROR = "error"
    OK = "ok"


class Paths(enum.StrEnum):
    """The paths that a client other than root and the user of the daemon may ask about."""

    OWN = "own"  # only paths that the user of the client may read
    ANY = "any"  # all paths that the daemon may read


class UnixAddress(msgspec.Struct, frozen=True):
    """The address of a Unix socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{printable(self.path)}"


class TcpAddress(msgspec.Struct, frozen=True):
    """A TCP port at an address; port 0 means any free port."""

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
            return self.host == "localhost"  # another host name may resolve to any address


Address = UnixAddress | TcpAddress
#: The characters of a host are those of ASCII that can be printed, because Python raises a
#: `TypeError` for some other names.
_TCP = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[!-9;-Z^-~]+)):(?P<port>[0-9]{1,5})")


def parse_address(text: str) -> Address:
    """Return the address in a text `unix:PATH`, `HOST:PORT` or `[HOST]:PORT`.

    Raises:
        UsageError: the text has another form.
    """
    if text.startswith("unix:") and len(text) > len("unix:") and "\0" not in text:
        path = Path(text.removeprefix("unix:"))
        # sun_path of unix(7) has 108 bytes with the final null byte. The socket is bound by the
        # path `/proc/self/fd/N/NAME`, so the length of the name is limited, too.
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
    """The options of a daemon; the command `serve` sets the defaults.

    - `no_verdict`: the answer about an input without a verdict.
    - `paths`: which paths clients may name.
    - `max_stream_bytes`: the highest length of a stream in bytes.
    - `idle_s`: the seconds after which a silent connection is closed.
    - `command_s`: the seconds in which a command must arrive.
    - `stream_s`: the seconds in which a stream must arrive.
    - `min_rate`: a connection that sends fewer bytes per second may be closed for a new client.
    - `max_connections`: the highest number of connections of each process.
    - `user_share`: the percentage of each limit for all users that one user may use.
    - `kept_bytes`: the bytes of streams that each process may keep in memory, so that not all
      digests must be computed as the bytes arrive.
    - `act`: whether the policy is applied to matches.
    - `exceptions`: whether the exceptions that people have made are applied.
    - `containers`: the options for opening containers; None if containers are not opened.
    - `spool_bytes`: the bytes of disk that streams of each process may use for possible containers.
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
    """Return how many bytes of streams each of `jobs` processes may keep."""
    return max(LEAST_ALL_KEPT_BYTES, ALL_KEPT_BYTES // jobs)
