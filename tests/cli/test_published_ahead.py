"""A list that was published "in the future" is used with a warning, and does not count as new."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.client import csv
from tests.kit import Site, edit_manifest

AHEAD = "list baseline: its published_at is in the future: 2099-01-01 10:00 UTC"
HINT = "hint: check this machine's clock; if it is right, tell the provider\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as site:
        site.publish(csv(range(3)))
        assert site.call(*site.init_arguments()).code == 0
        yield site


def publish_at(site: Site, moment: datetime) -> None:
    """Publish metadata that names another time, and sign all other metadata at the present time."""
    clock = site.repository.files._clock
    site.repository.files._clock = lambda: moment
    site.publish(csv(range(3, 5)))
    site.repository.files._clock = clock


@pytest.mark.slow
def test_a_list_that_is_published_in_the_future_is_reported(site: Site) -> None:
    publish_at(site, datetime(2099, 1, 1, 10, tzinfo=UTC))
    for _ in range(2):  # the warning is repeated when nothing is new
        fetched = site.call("--quiet", "fetch")
        assert (fetched.code, fetched.err) == (0, f"hashclient: warning: {AHEAD}\n")
    fetched = site.call("fetch", "--format", "json")
    assert (fetched.code, AHEAD in fetched.err, HINT in fetched.err) == (0, True, True)
    assert json.loads(fetched.out)["lists"][0]["published_at"] == "2099-01-01T10:00:00Z"
    status = site.call("status")
    assert status.code == 0
    assert "published 2099-01-01 10:00 UTC" in status.out
    assert "age         published in the future: check this machine's clock" in status.out


@pytest.mark.slow
def test_a_scan_that_fetches_reports_it_too(site: Site, tmp_path: Path) -> None:
    publish_at(site, datetime(2099, 1, 1, 10, tzinfo=UTC))
    (tmp_path / "file").write_bytes(b"benign")
    scanned = site.call("scan", "--fetch", tmp_path / "file")
    assert scanned.code == 0 and AHEAD in scanned.err


@pytest.mark.slow
def test_a_clock_that_is_a_little_ahead_is_nothing_to_tell(site: Site) -> None:
    publish_at(site, datetime.now(UTC) + timedelta(minutes=3))
    fetched = site.call("--quiet", "fetch")
    assert (fetched.code, fetched.err) == (0, "")
    status = site.call("status")
    assert "age         less than two minutes" in status.out


@pytest.mark.slow
def test_another_zone_is_shown_in_utc(site: Site) -> None:
    """A manifest of an earlier version may have a time in another time zone."""
    assert site.call("fetch").code == 0
    edit_manifest(site.state, "baseline", published_at="2026-01-01T01:30:00+02:00")
    assert "published 2025-12-31 23:30 UTC" in site.call("status").out
    edit_manifest(site.state, "baseline", published_at="0001-01-01T00:00:00+14:00")
    for output in ("text", "json", "prometheus"):
        assert site.call("status", "--format", output).code == 0
