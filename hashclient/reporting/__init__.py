"""Reports: what was found, handed over to whom it has to go, once and provably.

`Outbox` keeps reports on disk, each in a folder of its own, from being prepared to being
acknowledged or retracted; a scan prepares them, `report submit` sends them. For other parts of the
program these are the interfaces:

* `Outbox(settings, audit, now=…).prepare(matches, record, destination, by=…) -> Report` makes a
  report of matches, to be sent later; it uses no network. `record` is the open record of matches.
* `Outbox(…).prepare_wanted(destination, record, by=…, most=…)` does so with what scans have wanted.
* `state.load_all(directory) -> list[Report]` gives all reports, the oldest first, for `status`.

Importing this loads nothing heavy: what seals, sends and validates is loaded when it is used.
"""

from __future__ import annotations

from hashclient.reporting.outbox import Outbox
from hashclient.reporting.report import Report, State

__all__ = ["Outbox", "Report", "State"]
