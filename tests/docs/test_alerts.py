"""The page on alerts: its commands run as written, and its table agrees with the code."""

from __future__ import annotations

import json
import shlex
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from hashclient.alerts.alert import MEANINGS, Kind
from hashclient.alerts.receivers import parse_secret, receiver_of
from hashclient.config.settings import parse_config
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows
from tests.kit import State
from tests.told import documents, into
from tests.unit.test_alerts import SECRET, vector

pytestmark = pytest.mark.docs

PAGE = DOCS / "operations" / "alerts.md"
TIMES = {timedelta(hours=1): "an hour", timedelta(days=1): "a day", timedelta(days=7): "a week"}


def block(name: str) -> str:
    (text,) = marked_blocks(PAGE, name)
    return text


def test_the_configuration_is_one_with_three_receivers(tmp_path: Path) -> None:
    kept = tmp_path / "secret"
    kept.touch(mode=0o600)
    kept.write_text(SECRET)
    text = block("alerts-config").replace("/etc/hashclient/webhook.secret", str(kept))
    alerts = parse_config(text, "config.toml").alerts
    assert alerts.receivers == ("command", "webhook", "mail")
    for name in alerts.receivers:
        assert callable(receiver_of(name, alerts, {}))


def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    state, inbox = State(tmp_path, {"base": {"e-1": b"listed"}}), tmp_path / "inbox"
    state.configure(f"[alerts]\n{into(inbox)}")
    for line in block("alerts-try").splitlines():
        assert state.call(*shlex.split(line)[1:]).code == 0
    assert [d["kind"] for d in documents(inbox)] == ["test"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_the_secret_is_one(tmp_path: Path) -> None:
    assert run_script(block("alerts-secret"), tmp_path) == (0, "")
    path = tmp_path / "webhook.secret"
    assert len(parse_secret(path.read_text().strip())) == 32
    assert path.stat().st_mode & 0o077 == 0


def test_the_document_is_what_is_sent() -> None:
    sent = vector("matches")["body"]
    assert isinstance(sent, str)
    assert json.loads(block("alerts-document")) == json.loads(sent)


def test_each_kind_is_described_with_its_time() -> None:
    rows = table_rows(PAGE, "## Kinds, and how often")
    assert {row[0].strip("`"): row[2] for row in rows} == {
        str(kind): TIMES.get(MEANINGS[kind].every, "") for kind in Kind
    }
