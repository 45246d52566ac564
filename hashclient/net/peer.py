"""The names of the other side of a transport in messages."""

from __future__ import annotations

import msgspec


class Peer(msgspec.Struct, frozen=True):
    """The name of the other side in messages, and what hints say about a failure."""

    name: str
    kept: str


PROVIDER = Peer("provider", "hashclient keeps the last list")
REPORTING_SERVICE = Peer(
    "reporting service",
    "the report waits in the outbox; `hashclient report submit` tries again",
)
