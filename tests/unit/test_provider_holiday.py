"""`renew --until`: signatures that are valid over a holiday, as far as the root allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Root

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.core.errors import UsageError, VerificationError
from hashclient.provider.drafts import load_draft
from hashclient.provider.keyfiles import load_public, make_pair
from hashclient.provider.keys import Keys, Validity
from hashclient.trust.additions import LONGEST, MAX_DAYS
from tests.kit import call

DAY = timedelta(days=1)


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    made = Simulator(tmp_path / "repo")
    made.publish(csv(range(3)))
    return made


def expiries(simulator: Simulator) -> dict[str, datetime]:
    return {role.name: role.expires for role in simulator.repository.status().roles}


def test_all_that_expires_before_the_end_of_a_holiday_is_signed_until_then(
    simulator: Simulator, tmp_path: Path
) -> None:
    before, until = expiries(simulator), (simulator.now + 40 * DAY).replace(microsecond=0)
    done = simulator.repository.renew(until)
    assert done.signed == ("snapshot", "timestamp")
    after = expiries(simulator)
    assert after["snapshot"] == after["timestamp"] == until
    assert {name: after[name] for name in ("root", "targets", "baseline")} == {
        name: before[name] for name in ("root", "targets", "baseline")
    }
    simulator.serve_published()
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    client.now += 39 * DAY
    client.fetch()
    # After the holiday, the usual validity applies again.
    simulator.now += 39 * DAY
    simulator.repository.renew()
    assert expiries(simulator)["timestamp"] < simulator.now + 8 * DAY


def test_the_root_says_how_far(simulator: Simulator) -> None:
    now = simulator.now
    for wrong, said in ((61 * DAY, "allows 60 days"), (-DAY, "allows 60 days")):
        with pytest.raises(UsageError, match=said):
            simulator.repository.renew(now + wrong)
    simulator.repository.rotate("root", longest=100 * DAY)
    assert "timestamp" in simulator.repository.renew(now + 90 * DAY).signed
    # The list would expire before this date, so its metadata is signed as well.
    simulator.repository.renew(now + 95 * DAY)
    assert expiries(simulator)["baseline"] > now + 94 * DAY


def test_an_old_root_that_says_nothing_allows_nothing(simulator: Simulator) -> None:
    newest = simulator.repository.root_file
    path = simulator.repository.public / "metadata" / "1.root.json"
    document = simulator.metadata("root")
    document.signed.unrecognized_fields.clear()
    for place in (newest, path):
        place.write_bytes(document.to_bytes())
    with pytest.raises(UsageError, match="does not say how long"):
        simulator.repository.renew(simulator.now + DAY)


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_client_refuses_signatures_that_hold_for_longer(
    simulator: Simulator, tmp_path: Path, role: str
) -> None:
    """With longer signatures, a thief of the daily keys could freeze clients for years."""
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    far = (datetime.now(UTC) + 62 * DAY).replace(microsecond=0)
    simulator.edit(role, lambda signed: setattr(signed, "expires", far))
    with pytest.raises(VerificationError, match=f"{role} is signed for more than the 60 days"):
        client.fetch()
    near = far - DAY
    simulator.edit(role, lambda signed: setattr(signed, "expires", near - timedelta(minutes=1)))
    client.fetch()


@pytest.mark.parametrize("nonsense", [0, -1, MAX_DAYS + 1, "60", True, None, [60]])
def test_a_root_with_nonsense_is_refused(
    simulator: Simulator, tmp_path: Path, nonsense: Any
) -> None:
    def spoil(root: Root) -> None:
        root.unrecognized_fields[LONGEST] = nonsense

    client = Client(tmp_path / "state", simulator, simulator.root)
    simulator.edit("root", spoil)
    if nonsense is None:
        client.fetch()
        return
    with pytest.raises(VerificationError, match="is no number of days"):
        client.fetch()


def test_people_sign_a_holiday_and_see_another_bound(simulator: Simulator, tmp_path: Path) -> None:
    keys = []
    for name in ("alice", "bob"):
        make_pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub", None)
        keys.append(load_public(tmp_path / f"{name}.pub"))
    where = tmp_path / "root"
    simulator.repository.rotate("root", Keys(2, 2, tuple(keys)), draft=where, longest=90 * DAY)
    shown = call("provider", "draft", "show", where).out
    assert "the root allows 90 days for snapshot and timestamp\n" in shown
    for path in (simulator.repository.directory / "keys").glob("timestamp-*"):
        path.unlink()
    until = (simulator.now + 30 * DAY).replace(microsecond=0)
    holiday = tmp_path / "holiday"
    assert simulator.repository.draft_renewal(holiday, until) == ["timestamp"]
    assert load_draft(holiday).roles["timestamp"].signed.expires == until


def test_the_commands(tmp_path: Path) -> None:
    repo, entries = tmp_path / "repo", tmp_path / "entries.csv"
    entries.write_bytes(csv(range(3)))
    assert call("provider", "init", repo, "--longest-days", "30").code == 0
    assert call("provider", "publish", repo, "--list", "baseline", entries).code == 0
    now = datetime.now(UTC)
    done = call("provider", "renew", repo, "--until", f"{now + 20 * DAY:%Y-%m-%d}")
    assert (done.code, done.err) == (0, "signed again: timestamp\n")
    refused = call("provider", "renew", repo, "--until", f"{now + 40 * DAY:%Y-%m-%d}")
    assert refused.code == 2
    assert "signatures cannot hold until" in refused.err
    assert "the root allows 30 days" in refused.err
    assert call("provider", "rotate", repo, "timestamp", "--longest-days", "40").code == 2
    assert call("provider", "rotate", repo, "root", "--longest-days", "90").code == 0
    done = call("provider", "renew", repo, "--until", f"{now + 40 * DAY:%Y-%m-%d}")
    assert done.err == "signed again: snapshot, timestamp\n"
    assert Validity().longest == 60 * DAY
