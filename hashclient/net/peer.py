"""How messages call the server of a transport."""

from __future__ import annotations

import msgspec


class Peer(msgspec.Struct, frozen=True):
    """The name of a server in messages, and the text that hints end with after a failure."""

    name: str
    kept: str


PROVIDER = Peer("provider", "lists that are here stay in use")
#: A provider before `init` has pinned it: this machine has no list of the provider yet.
NEW_PROVIDER = Peer("provider", "nothing was pinned")
EXPORTER = Peer("server of the exceptions", "exceptions that are here stay in use")
REPORTING_SERVICE = Peer(
    "reporting service",
    "the report waits in the outbox; `hashclient report submit` tries again",
)
ALERT_RECEIVER = Peer(
    "receiver of alerts",
    "the alert waits in the outbox; the next run, or `hashclient alerts send`, tries again",
)
