"""If the system cannot start another thread, the command reports this and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.client import csv
from hashclient.system import background
from tests.kit import NoThread, Site


def test_a_fetch_and_a_lookup_without_room_for_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    site.publish(csv(range(3)))
    with site:
        assert site.call(*site.init_arguments()).code == 0
        with monkeypatch.context() as patch:
            patch.setattr(background, "Thread", NoThread)
            result = site.call("fetch")
        assert result.code == 8
        assert "cannot start a thread\nhint: raise the limit" in result.err
        assert not (site.state / "lists" / "baseline" / "manifest.json").exists()
        assert site.call("fetch").code == 0
        with monkeypatch.context() as patch:
            patch.setattr(background, "Thread", NoThread)
            result = site.call("lookup", "ab" * 16)
        assert result.code == 8
        assert "cannot start a thread\nhint: raise the limit" in result.err
