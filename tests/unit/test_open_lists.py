"""Which lists are expected, according to the verified metadata of the last fetch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import Client, csv
from fixtures.simulator import Simulator
from hashclient.core.errors import StateError
from hashclient.index import open_lists as index_open_lists
from hashclient.index.open_lists import delegated_lists, expected_lists, open_lists
from hashclient.system.layout import TARGETS_NAME
from tests.kit import edit_manifest


@pytest.fixture
def client(tmp_path: Path) -> Client:
    simulator = Simulator(tmp_path / "repo")
    for name in ("b", "a"):
        simulator.publish(csv(range(3)), name)
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    return client


@pytest.fixture
def targets(client: Client) -> Path:
    return client.settings.layout.metadata("main") / TARGETS_NAME


def test_it_is_what_a_fetch_has_verified(client: Client, targets: Path) -> None:
    assert sorted(delegated_lists(targets) or ()) == ["a", "b"]
    assert [
        (entry.name, entry.provider)
        for entry in expected_lists(client.settings, client.session.sealer())
    ] == [
        ("a", "main"),
        ("b", "main"),
    ]
    assert client.open().missing == ()


def test_no_metadata_is_not_the_same_as_none_delegated(tmp_path: Path) -> None:
    path = tmp_path / TARGETS_NAME
    assert delegated_lists(path) is None
    for signed in ({"_type": "targets"}, {"_type": "targets", "delegations": {"roles": []}}):
        path.write_text(json.dumps({"signed": signed, "signatures": []}))
        assert delegated_lists(path) == ()


@pytest.mark.parametrize(
    "signed",
    [
        None,
        [],
        {},
        {"_type": "snapshot"},
        {"_type": "targets", "delegations": []},
        {"_type": "targets", "delegations": {}},
        {"_type": "targets", "delegations": {"succinct_roles": {"bit_length": 1}}},
        {"_type": "targets", "delegations": {"roles": None}},
        {"_type": "targets", "delegations": {"roles": ["a"]}},
        {"_type": "targets", "delegations": {"roles": [{"name": None}]}},
        {"_type": "targets", "delegations": {"roles": [{"name": "A"}]}},
        {"_type": "targets", "delegations": {"roles": [{"name": "a"}, {"name": "../b"}]}},
    ],
    ids=json.dumps,
)
def test_metadata_that_a_fetch_would_refuse(tmp_path: Path, signed: Any) -> None:
    path = tmp_path / TARGETS_NAME
    path.write_text(json.dumps({"signed": signed}))
    with pytest.raises(StateError, match="metadata is damaged"):
        delegated_lists(path)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b'{"signed":' * 100_000])
def test_metadata_that_is_not_json_is_damaged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / TARGETS_NAME
    path.write_bytes(data)
    with pytest.raises(StateError, match="metadata is damaged"):
        delegated_lists(path)


def test_it_is_bounded(targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = targets.stat().st_size
    monkeypatch.setattr(index_open_lists, "MAX_TARGETS_BYTES", size)
    assert len(delegated_lists(targets) or ()) == 2
    monkeypatch.setattr(index_open_lists, "MAX_TARGETS_BYTES", size - 1)
    with pytest.raises(StateError, match=f"cannot read metadata.* longer than {size - 1:,} b"):
        delegated_lists(targets)


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / TARGETS_NAME
    os.mkfifo(path)
    with pytest.raises(StateError, match="not a regular file"):
        delegated_lists(path)


def test_every_sentence_says_what_it_is_about(client: Client, targets: Path) -> None:
    """A sentence on stderr names its list; in a summary, a separate field has the name."""
    folder = client.settings.layout.lists / "a"
    (folder / "manifest.json").write_bytes(b"{")
    targets.unlink()
    opened = open_lists(client.settings, {}, client.now)
    assert [(m.name, m.provider) for m in opened.missing] == [(None, "main"), ("a", None)]
    texts = [entry.text for entry in opened.unusable]
    assert texts[0].startswith("provider main: its metadata is not here")
    assert texts[1].startswith("list a: manifest is damaged: ")
    assert [m.problem for m in opened.missing] == [text.split(": ", 1)[1] for text in texts]
    assert all("hashclient fetch" in entry.hint for entry in opened.unusable)
    assert [index.manifest.list for index in opened.indexes] == ["b"]


@pytest.mark.parametrize("expires", ["3026-01-01T00:00:00Z", None])
def test_no_list_is_fresh_for_longer_than_what_vouches_for_it(
    client: Client, expires: str | None
) -> None:
    """A changed bit of a manifest on the disk turns the year 2026 into 3026."""
    before = client.manifest("a")
    assert before is not None
    if expires is not None:
        edit_manifest(client.settings.state_dir, "a", expires=expires)
    (state, _) = client.open().states
    assert (state.name, state.fresh, state.expires) == ("a", True, before.expires)
    client.now = before.expires
    (state, _) = client.open().states
    assert state.stale


@pytest.mark.parametrize(
    "damage", [b"{", b"[" * 100_000, b'{"signed": {"_type": "timestamp"}}', None]
)
def test_without_a_timestamp_a_manifest_is_taken_by_its_word(
    client: Client, damage: bytes | None
) -> None:
    before = client.manifest("a")
    assert before is not None
    path = client.settings.layout.metadata("main") / "timestamp.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert not client.open().stale
    client.now = before.expires
    assert client.open().stale
