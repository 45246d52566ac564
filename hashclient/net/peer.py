"""What the other side of a transport is called."""

from __future__ import annotations

import msgspec


class Peer(msgspec.Struct, frozen=True):
    """What messages call the other side, and what hints say is kept while it fails."""

    name: str
    kept: str


PROVIDER = Peer("provider", "hashclient keeps the last list")
REPORTING_SERVICE = Peer(
    "reporting service",
    "the report waits in the outbox; `hashclient report submit` tries again",
)
