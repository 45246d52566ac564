"""The lines of `status`: the values of each row begin at the column of their heading."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from hashclient.cli.status import _lines
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import ExitCode
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.core.model import HeldEntry, Hit
from hashclient.status.status import Status

NOW = datetime(2026, 1, 31, tzinfo=UTC)
HIT = Hit("base", "e-1", "dummy", 1, (), complete=True)
MATCH = Match("m1", "/srv/a", 1, MatchState.WITHDRAWN, True, "k", {}, NOW, NOW, (HIT,))
SETTINGS = Settings(Path("/state"), Path("/state/config.toml"), None, Config())


def test_withdrawn_matches_and_held_ones_stand_below_their_own_headings() -> None:
    held = HeldEntry("base", "e-2", matched=5, isolated=1, reported=1, held=3)
    status = Status([], {}, ExitCode.OK, withdrawn=[(MATCH, HIT)], held=(held,))
    assert list(_lines(SETTINGS, status, NOW)) == [
        "held, waiting for a person:",
        f"  {held.text}",
        "entries withdrawn since they matched 1 path:",
        "  /srv/a  [m1]  base e-1",
    ]


def test_what_is_not_known_has_no_row() -> None:
    assert list(_lines(SETTINGS, Status([], {}, ExitCode.OK), NOW)) == []
    status = Status([], {}, ExitCode.OK, matches={MatchState.FOUND: 0})
    assert list(_lines(SETTINGS, status, NOW)) == ["matches       none"]
