"""Many signatures at once: each record gets its own signature, with threads and without."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hashclient.audit import log as audit_log
from hashclient.audit.log import AuditLog, Event
from hashclient.system import background


class NoThread(threading.Thread):
    """Replaces `Thread` on a system that cannot start another thread."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


@pytest.mark.sampled
@pytest.mark.parametrize("count", [1, 63, 64, 65, 500])
@pytest.mark.parametrize("processors", [1, 2, 64])
@pytest.mark.parametrize("room", [True, False])
def test_each_record_of_a_batch_has_its_own_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, processors: int, *, room: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processors)))
    if not room:
        monkeypatch.setattr(background, "Thread", NoThread)
    log = AuditLog(tmp_path / "audit", clock=lambda: datetime(2026, 5, 1, tzinfo=UTC))
    log.append([Event("match", {"n": n}) for n in range(count)], sign_each=True)
    report = audit_log.verify(tmp_path / "audit")
    assert report.records == count + 1
    assert all(record.sig for record in audit_log.read(tmp_path / "audit"))
    # All threads have ended, because a process with threads should not fork.
    assert not [t for t in threading.enumerate() if t.name.startswith("hashclient-sign")]
