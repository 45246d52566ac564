"""Attacks with notices: signed with a wrong key, replayed, reordered, held back, or too many.

After a refusal, lists are still fetched, and earlier notices stay in force.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, TargetFile

from fixtures.client import Client, csv
from fixtures.crash import in_child, kill_at, watched
from fixtures.notices import make_notice
from fixtures.simulator import PlainClient, Simulator, endless, status, truncated
from hashclient.audit.log import read
from hashclient.client.journal import Journal
from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.model import is_name
from hashclient.fetch.notices import FetchedNotices, fetch_notices
from hashclient.notices.document import MAX_NOTICE_BYTES, Notice, Severity, Type, encode_notice
from hashclient.notices.lifecycle import Standing, State
from hashclient.notices.store import load_book, write_book
from hashclient.provider.keys import Keys
from hashclient.provider.notices import NoticeBoard, Said
from hashclient.status.notices import read_notices
from hashclient.trust import additions
from hashclient.trust.additions import FIELD, MAX_NOTICES, NOTICES

HOUR = timedelta(hours=1)
FIRST = Said(
    id="first",
    sender="lists@provider.test",
    event="test",
    severity=Severity.MINOR,
    headline="The first",
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provider with a list and a notice, and a client that has fetched both; tests copy them."""
    directory = tmp_path_factory.mktemp("template")
    simulator = Simulator(directory / "repo")
    simulator.publish(csv(range(3)))
    say(simulator, FIRST)
    client = Client(directory / "state", simulator, simulator.root)
    client.fetch()
    assert states(client) == {"first": State.OPEN}
    return directory


@pytest.fixture
def simulator(template: Path, tmp_path: Path) -> Simulator:
    shutil.copytree(template / "repo", tmp_path / "repo")
    return Simulator(tmp_path / "repo")


@pytest.fixture
def client(template: Path, simulator: Simulator, tmp_path: Path) -> Client:
    shutil.copytree(template / "state", tmp_path / "state")
    return Client(tmp_path / "state", simulator, simulator.root)


def say(simulator: Simulator, draft: Said) -> Notice:
    board = NoticeBoard(simulator.repository)
    notice = board.publish(draft, simulator.now)
    simulator.serve_published()
    return notice


def sign(simulator: Simulator, *notices: Notice, as_id: str | None = None) -> None:
    """Serve notices that the role signs, even notices that the provider's own code would refuse."""
    serve(simulator, {as_id or notice.id: encode_notice(notice) for notice in notices})


def serve(simulator: Simulator, documents: dict[str, bytes]) -> None:
    def change(signed: Any) -> None:
        for notice_id, data in documents.items():
            target = TargetFile.from_data(f"notices/{notice_id}.json", data, ["sha256"])
            signed.targets[target.path] = target
            digest = target.hashes["sha256"]
            simulator.files[f"targets/notices/{digest}.{notice_id}.json"] = data

    simulator.edit(NOTICES, change)


def unsign(simulator: Simulator, notice_id: str) -> None:
    simulator.edit(NOTICES, lambda signed: signed.targets.pop(f"notices/{notice_id}.json"))


def fresh(simulator: Simulator, notice_id: str, **changes: Any) -> Notice:
    """Return a notice whose time of sending is now."""
    sent = simulator.now.replace(microsecond=0)
    values = {"sent": sent, "expires": sent + timedelta(days=30), **changes}
    return make_notice(notice_id, **values)


def found(client: Client) -> list[Standing]:
    return Journal(client.session).all()


def states(client: Client) -> dict[str, State]:
    return {standing.notice.id: standing.state for standing in found(client)}


def refused(client: Client, code: ExitCode, message: str) -> FetchedNotices:
    """Check that a fetch refuses new notices, keeps earlier ones, fetches lists, and logs this."""
    before = found(client)
    assert client.fetch()[0].error is None
    (fetched,) = client.notices
    client.notices.clear()
    assert fetched.error is not None
    assert fetched.error.exit_code is code, fetched.error.message
    assert message in fetched.error.message
    assert fetched.error.message.isprintable() and len(fetched.error.message) < 600
    assert [s for s in found(client) if s.name in {b.name for b in before}] == before
    events = list(read(client.settings.layout.audit, event="refused"))
    assert fetched.error.message in [event.data["reason"] for event in events]
    assert client.leftovers() == set()
    return fetched


# Tests with an honest provider


def test_a_fetch_with_nothing_new_costs_two_requests(client: Client, simulator: Simulator) -> None:
    client.fetch()
    assert simulator.requests == ["metadata/2.root.json", "metadata/timestamp.json"]
    (fetched,) = client.notices
    assert (fetched.arrived, fetched.ended, fetched.error) == ((), (), None)


def test_a_new_notice_costs_its_own_request_and_that_of_the_role(
    client: Client, simulator: Simulator
) -> None:
    say(simulator, msgspec.structs.replace(FIRST, id="second"))
    client.fetch()
    asked = [path.rpartition("/")[2] for path in simulator.requests if "notices" in path]
    assert [name.partition(".")[2] for name in asked] == ["notices.json", "second.json"]
    (fetched,) = client.notices
    assert [s.notice.id for s in fetched.arrived] == ["second"]
    events = list(read(client.settings.layout.audit, event="notice-received"))
    assert [event.data["notice"] for event in events] == ["first", "second"]


@pytest.mark.slow
def test_updates_and_cancels_end_what_they_refer_to(client: Client, simulator: Simulator) -> None:
    board = NoticeBoard(simulator.repository)
    update = board.update(["first"], Said(headline="Another"), simulator.now)
    simulator.serve_published()
    client.fetch()
    assert states(client) == {"first": State.UPDATED, update.id: State.OPEN}
    cancel = board.cancel([update.id], Said(), simulator.now)
    simulator.serve_published()
    client.fetch()
    assert states(client) == {
        "first": State.UPDATED,
        update.id: State.CANCELLED,
        cancel.id: State.CANCEL,
    }
    assert [[s.notice.id for s in fetched.ended] for fetched in client.notices] == [
        ["first"],
        [update.id],
    ]


def test_a_client_of_lists_alone_is_not_kept_out(simulator: Simulator, tmp_path: Path) -> None:
    """The metadata can be read by python-tuf's own client and by a client of the first release."""
    for role in ("targets", "snapshot", NOTICES):
        simulator.rotate(role)
    targets = simulator.metadata("targets").signed
    assert not targets.targets
    roles = targets.delegations.roles
    assert list(roles) == ["baseline"]
    for role in roles.values():
        assert is_name(role.name)
        assert role.paths == [f"lists/{role.name}/*"] and role.terminating
    assert PlainClient(tmp_path / "plain", simulator).generation() == 1


# Keys of other roles or people


def test_a_role_signed_by_a_foreign_key_is_refused(client: Client, simulator: Simulator) -> None:
    simulator.edit(NOTICES, signers=[CryptoSigner.generate_ed25519()])
    refused(client, ExitCode.UNVERIFIED, "notices was signed by 0/1 keys")


@pytest.mark.parametrize("role", ["baseline", "targets", "snapshot", "timestamp", "root"])
def test_no_other_role_s_key_signs_notices(client: Client, simulator: Simulator, role: str) -> None:
    simulator.edit(NOTICES, signers=simulator.signers(role))
    refused(client, ExitCode.UNVERIFIED, "notices was signed by 0/1 keys")


def test_one_signature_twice_is_no_two(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)))
    NoticeBoard(simulator.repository).publish(FIRST, simulator.now, keys=Keys(2, 2))
    simulator.serve_published()
    client = Client(tmp_path / "state", simulator, simulator.root)
    (one, _) = simulator.signers(NOTICES)
    simulator.edit(
        NOTICES,
        signers=[one],
        raw=lambda document: document["signatures"].append(dict(document["signatures"][0])),
    )
    refused(client, ExitCode.UNVERIFIED, "")
    assert found(client) == []


def test_a_list_cannot_vouch_for_a_notice(client: Client, simulator: Simulator) -> None:
    data = encode_notice(fresh(simulator, "second"))
    target = TargetFile.from_data("notices/second.json", data, ["sha256"])
    simulator.edit("baseline", lambda signed: signed.targets.update({target.path: target}))
    client.fetch()
    assert states(client) == {"first": State.OPEN}


def test_a_key_that_was_replaced_counts_no_more(client: Client, simulator: Simulator) -> None:
    """Notices that the old key signed do not count until the role is signed again."""
    key = CryptoSigner.generate_ed25519().public_key

    def change(signed: Any) -> None:
        roles = signed.unrecognized_fields[FIELD]
        roles["keys"] = {key.keyid: key.to_dict()}
        roles["roles"][0]["keyids"] = [key.keyid]

    simulator.edit("targets", change)
    refused(client, ExitCode.UNVERIFIED, "notices was signed by 0/1 keys")


@pytest.mark.sampled
@pytest.mark.parametrize("role", [NOTICES, "targets", "snapshot", "timestamp", "root"])
def test_new_keys_of_any_role_are_followed(client: Client, simulator: Simulator, role: str) -> None:
    simulator.rotate(role)
    client.fetch()
    say(simulator, msgspec.structs.replace(FIRST, id="second"))
    client.fetch()
    assert all(fetched.error is None for fetched in client.notices)
    assert states(client).keys() == {"first", "second"}


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda field: field.pop(key)


def other_role(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda field: field["roles"][0].update(changes)


def second_role(field: dict[str, Any]) -> None:
    field["roles"].append({**field["roles"][0], "name": "more"})


FIELDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no keys": without("keys"),
    "no roles": without("roles"),
    "another role": other_role(name="other"),
    "a list's files": other_role(paths=["lists/baseline/*"]),
    "a list's files as well": other_role(paths=["notices/*", "lists/baseline/*"]),
    "no files": other_role(paths=[]),
    "not terminating": other_role(terminating=False),
    "threshold 0": other_role(threshold=0),
    "ids of keys are a text": other_role(keyids="x"),
    "a name that is none": other_role(name=["x"]),
    "two roles": second_role,
    "roles are an object": lambda field: field.update(roles={}),
    "roles are empty": lambda field: field.update(roles=[]),
    "keys are a list": lambda field: field.update(keys=[]),
}


@pytest.mark.sampled
@pytest.mark.parametrize("change", FIELDS.values(), ids=FIELDS)
def test_a_delegation_that_is_not_for_notices_alone_is_refused(
    client: Client, simulator: Simulator, change: Callable[[dict[str, Any]], object]
) -> None:
    simulator.edit("targets", lambda signed: change(signed.unrecognized_fields[FIELD]))
    refused(client, ExitCode.UNVERIFIED, "provider main: ")


@pytest.mark.parametrize("value", [None, [], "notices", 1, {}, True])
def test_a_delegation_that_is_none_is_refused(
    client: Client, simulator: Simulator, value: object
) -> None:
    simulator.edit("targets", lambda signed: signed.unrecognized_fields.update({FIELD: value}))
    refused(client, ExitCode.UNVERIFIED, "provider main: ")


def test_a_list_that_is_called_as_the_role_is_not_taken_for_it(
    client: Client, simulator: Simulator
) -> None:
    role = DelegatedRole(NOTICES, [], 1, terminating=True, paths=["lists/notices/*"])
    simulator.edit("targets", lambda signed: signed.delegations.roles.update({NOTICES: role}))
    with pytest.raises(HashclientError):
        client.fetch()
    (fetched,) = client.notices
    assert fetched.error is not None and "a list called notices" in fetched.error.message


def test_a_role_that_vanishes_is_refused(client: Client, simulator: Simulator) -> None:
    simulator.edit("targets", lambda signed: signed.unrecognized_fields.pop(FIELD))
    fetched = refused(client, ExitCode.UNVERIFIED, "its role of notices has vanished")
    path = client.settings.layout.notices_of("main")
    assert str(path) in str(fetched.error and fetched.error.hint)
    # If the file is damaged, the client still knows that the role of notices exists.
    path.write_bytes(b"?")
    client.fetch()
    (fetched,) = client.notices
    assert fetched.error is not None and "has vanished" in fetched.error.message
    # A person removes the file after making sure that the provider gave up the role.
    path.unlink()
    client.notices.clear()
    client.fetch()
    assert client.notices == []
    journal = Journal(client.session)
    assert (journal.all(), journal.failure) == ([], None)
    assert read_notices(client.settings, client.session.now()) is None


def test_a_role_that_delegates_on_is_refused(client: Client, simulator: Simulator) -> None:
    simulator.edit(NOTICES, lambda s: setattr(s, "delegations", Delegations({}, {})))
    refused(client, ExitCode.UNVERIFIED, "role notices delegates to others")


@pytest.mark.sampled
@pytest.mark.parametrize(
    "path",
    [
        "lists/baseline/index.json",
        "notices/../x.json",
        "notices/x",
        "notices/X.json",
        "notices/a/b.json",
        "notices/%2e%2e.json",
        "x.json",
    ],
)
def test_a_role_that_signs_something_else_is_refused(
    client: Client, simulator: Simulator, path: str
) -> None:
    target = TargetFile.from_data(path, b"x", ["sha256"])
    simulator.edit(NOTICES, lambda signed: signed.targets.update({path: target}))
    refused(client, ExitCode.UNVERIFIED, "no notice")


# Notices that are replayed, rolled back or held back


def test_an_older_role_is_refused(client: Client, simulator: Simulator) -> None:
    served = dict(simulator.files)
    say(simulator, msgspec.structs.replace(FIRST, id="second"))
    client.fetch()
    client.notices.clear()
    # TUF prevents the rollback, because the snapshot names the version of the notices.
    simulator.edit("snapshot", lambda s: s.meta.update({"notices.json": MetaFile(1)}))
    with pytest.raises(HashclientError, match=r"notices\.json version"):
        client.fetch()
    # The file of notices on this machine prevents the rollback, even if the metadata was removed.
    for path in client.settings.layout.metadata("main").glob("*.json"):
        path.unlink()
    simulator.files = served
    refused(client, ExitCode.UNVERIFIED, "version 1 of its notices is older than 2")
    assert states(client).keys() == {"first", "second"}


def test_new_snapshot_keys_let_versions_begin_again(client: Client, simulator: Simulator) -> None:
    simulator.edit(NOTICES, lambda signed: setattr(signed, "version", 1_000))
    client.fetch()
    for role in ("snapshot", "timestamp", NOTICES):
        simulator.rotate(role)
    client.notices.clear()
    client.fetch()
    assert client.notices[0].error is None
    assert states(client) == {"first": State.OPEN}


def test_an_old_notice_under_a_new_id_is_refused(client: Client, simulator: Simulator) -> None:
    sign(simulator, found(client)[0].notice, as_id="second")
    refused(client, ExitCode.UNVERIFIED, "notice second calls itself first")


def test_a_notice_published_again_with_another_content_is_refused(
    client: Client, simulator: Simulator
) -> None:
    sign(simulator, fresh(simulator, "first", headline="Something else"))
    refused(client, ExitCode.UNVERIFIED, "first was published again with another content")
    # A notice that was withdrawn earlier does not return when it is published again.
    unsign(simulator, "first")
    client.fetch()
    client.notices.clear()
    assert states(client) == {"first": State.WITHDRAWN}
    sign(simulator, fresh(simulator, "first", headline="Something else"))
    refused(client, ExitCode.UNVERIFIED, "first was published again with another content")
    assert states(client) == {"first": State.WITHDRAWN}


def test_a_cancelled_notice_that_is_replayed_stays_cancelled(
    client: Client, simulator: Simulator
) -> None:
    (first,) = found(client)
    sent = first.notice.sent + HOUR
    sign(simulator, fresh(simulator, "c", sent=sent, type=Type.CANCEL, refers_to=[first.notice]))
    client.fetch()
    unsign(simulator, "first")
    client.fetch()
    sign(simulator, first.notice)
    unsign(simulator, "c")
    client.fetch()
    assert states(client)["first"] is State.CANCELLED
    assert all(fetched.error is None for fetched in client.notices)


def test_a_cancel_that_comes_before_what_it_ends(client: Client, simulator: Simulator) -> None:
    late = fresh(simulator, "late")
    sign(
        simulator, fresh(simulator, "c", sent=late.sent + HOUR, type=Type.CANCEL, refers_to=[late])
    )
    client.fetch()
    sign(simulator, late)
    client.fetch()
    assert states(client)["late"] is State.CANCELLED
    # The notice was never in force on this machine, so no end is reported.
    assert [s.state for s in client.notices[-1].arrived] == [State.CANCELLED]
    assert client.notices[-1].ended == ()


def test_an_update_of_an_unknown_notice_stands(client: Client, simulator: Simulator) -> None:
    sign(simulator, fresh(simulator, "u", type=Type.UPDATE, refers_to=["never-heard-of"]))
    client.fetch()
    assert client.notices[0].error is None
    assert states(client)["u"] is State.OPEN


def test_a_notice_that_has_expired_already_is_not_open(
    client: Client, simulator: Simulator
) -> None:
    past = simulator.now.replace(microsecond=0) - timedelta(days=2)
    sign(simulator, fresh(simulator, "old", sent=past, expires=past + HOUR))
    client.fetch()
    assert states(client)["old"] is State.EXPIRED


def test_a_role_that_is_held_back_is_stale_once_it_expires(
    client: Client, simulator: Simulator
) -> None:
    simulator.expire(NOTICES)
    refused(client, ExitCode.STALE, "role notices has expired, on 2020-01-01")


def test_another_provider_s_notice_ends_none_of_this_one(
    client: Client, simulator: Simulator, tmp_path: Path
) -> None:
    (first,) = found(client)
    other = Simulator(tmp_path / "other")
    other.publish(csv(range(3)), "second")
    say(other, FIRST)
    sent = first.notice.sent + HOUR
    sign(other, fresh(other, "c", sent=sent, type=Type.CANCEL, refers_to=[first.notice]))
    other_client = Client(tmp_path / "other-state", other, other.root)
    other_client.fetch()
    # The saved notices of both providers are put into one state directory.
    book = load_book(other_client.settings.layout, "main")
    assert book is not None
    write_book(client.settings.layout, msgspec.structs.replace(book, provider="second"))
    by_name = {s.name: s.state for s in found(client)}
    assert by_name["main/first"] is State.OPEN
    assert by_name["second/first"] is State.CANCELLED


# Malformed, too large or too many notices


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "not valid"),
        (b"\xff", "not valid"),
        (b"[" * 9_000, "not valid"),
        (b" " * (MAX_NOTICE_BYTES + 1), "signed with 16385 bytes, more than 16384"),
        (
            encode_notice(make_notice("bad", headline="a")).replace(b'"a"', b'"\\u001b[2J"'),
            "headline has a control character",
        ),
        (
            encode_notice(make_notice("bad")).replace(b"notice/1", b"notice/2"),
            "this client reads hashclient-notice/1",
        ),
    ],
    ids=["empty", "no UTF-8", "deep", "long", "control", "newer"],
)
def test_a_bad_notice_keeps_no_good_one_back(
    client: Client, simulator: Simulator, data: bytes, message: str
) -> None:
    good = fresh(simulator, "good", severity=Severity.EXTREME)
    serve(simulator, {"bad": data, "good": encode_notice(good)})
    fetched = refused(client, ExitCode.UNVERIFIED, message)
    assert [s.notice.id for s in fetched.arrived] == ["good"]
    assert states(client) == {"first": State.OPEN, "good": State.OPEN}
    book = load_book(client.settings.layout, "main")
    assert book is not None and [one.id for one in book.refused] == ["bad"]
    assert fetched.refused == book.refused


def test_more_notices_than_may_be_are_refused(
    client: Client, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "MAX_NOTICES", 2)
    sign(simulator, fresh(simulator, "second"))
    client.fetch()
    client.notices.clear()
    sign(simulator, fresh(simulator, "third"))
    refused(client, ExitCode.UNVERIFIED, "has 3 notices, more than 2")
    assert MAX_NOTICES == 1_000


def test_a_role_of_terabytes_is_not_downloaded(client: Client, simulator: Simulator) -> None:
    simulator.edit("snapshot", lambda s: s.meta.update({"notices.json": MetaFile(2, 1 << 40)}))
    caps: list[int] = []

    def fault(_url: str, _data: bytes, max_bytes: int) -> bytes:
        caps.append(max_bytes)
        return bytes(max_bytes + 1)

    simulator.faults["metadata/2.notices.json"] = fault
    refused(client, ExitCode.UNVERIFIED, "body is longer than")
    assert caps == [1 << 20]


@pytest.mark.parametrize(
    "hashes",
    [{"md5": "0" * 32}, {"sha256": "../../x"}, {"sha256": "A" * 64}, {"sha512": "0" * 64}],
    ids=["md5", "path", "upper case", "short"],
)
def test_a_notice_without_a_hash_that_counts_is_refused(
    client: Client, simulator: Simulator, hashes: dict[str, str]
) -> None:
    target = TargetFile(10, hashes, "notices/x.json")
    simulator.edit(NOTICES, lambda signed: signed.targets.update({target.path: target}))
    refused(client, ExitCode.UNVERIFIED, "notice x ")


def test_bytes_of_the_same_length_are_not_taken_for_those_that_are_signed(
    client: Client, simulator: Simulator
) -> None:
    sign(simulator, fresh(simulator, "second", headline="Do that"))
    simulator.tamper("targets/notices/*.second.json", lambda d: d.replace(b"Do that", b"Do this"))
    refused(client, ExitCode.UNVERIFIED, "notice second: ")
    assert states(client).keys() == {"first"}


def test_a_role_that_was_tampered_with_is_refused(client: Client, simulator: Simulator) -> None:
    sign(simulator, fresh(simulator, "second"))
    simulator.tamper("metadata/2.notices.json", lambda data: data.replace(b"second", b"sec0nd"))
    refused(client, ExitCode.UNVERIFIED, "notices.json is not the file that the snapshot names")


def test_a_key_that_stands_twice_in_the_role_is_refused(
    client: Client, simulator: Simulator
) -> None:
    twice = b'{"signatures": [], '
    simulator.edit(NOTICES, text=lambda data: data.replace(b"{", twice, 1))
    refused(client, ExitCode.UNVERIFIED, "the same key twice")


# Failures of the network and of the disk


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (truncated, ExitCode.UNREACHABLE),
        (status(404), ExitCode.UNREACHABLE),
        (status(403), ExitCode.UNAUTHORISED),
        (endless, ExitCode.UNVERIFIED),
    ],
    ids=["cut", "404", "403", "endless"],
)
@pytest.mark.parametrize("where", ["metadata/2.notices.json", "targets/notices/*"])
def test_a_missing_notice_comes_with_the_next_fetch(
    client: Client, simulator: Simulator, fault: Any, code: ExitCode, where: str
) -> None:
    sign(simulator, fresh(simulator, "second"), fresh(simulator, "third"))
    simulator.faults[where] = fault
    fetched = refused(client, code, "")
    assert {one.id for one in fetched.refused} == ({"second", "third"} if "*" in where else set())
    assert states(client) == {"first": State.OPEN}
    simulator.faults.clear()
    client.fetch()
    assert client.notices[0].error is None
    assert states(client).keys() == {"first", "second", "third"}


def test_notices_that_drip_keep_no_list_waiting(
    client: Client, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(simulator, *(fresh(simulator, f"s-{number}") for number in range(9)))
    clock = [0.0]

    def slow(_url: str, data: bytes, _max_bytes: int) -> bytes:
        clock[0] += client.settings.provider("main").timeout_s * 0.75
        return data

    simulator.faults["targets/notices/*"] = slow
    monkeypatch.setitem(fetch_notices.__kwdefaults__ or {}, "monotonic", lambda: clock[0])
    fetched = refused(client, ExitCode.UNREACHABLE, "notice s-3: there was no time left for it")
    assert (len(fetched.arrived), len(fetched.refused)) == (3, 6)
    for _ in range(2):
        client.fetch()
    assert client.notices[-1].error is None and len(states(client)) == 10


def test_one_file_that_is_missing_keeps_no_other_back(client: Client, simulator: Simulator) -> None:
    sign(simulator, fresh(simulator, "a"), fresh(simulator, "b"))
    simulator.faults["targets/notices/*.a.json"] = status(404)
    fetched = refused(client, ExitCode.UNREACHABLE, "notice a: ")
    assert [s.notice.id for s in fetched.arrived] == ["b"]


def test_a_damaged_record_is_begun_again(client: Client) -> None:
    path = client.settings.layout.notices_of("main")
    Journal(client.session).acknowledge(found(client))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(HashclientError, match="damaged"):
        load_book(client.settings.layout, "main")
    assert found(client) == []
    client.fetch()
    # An acknowledged notice is open again, but the log still shows its acknowledgement.
    assert states(client) == {"first": State.OPEN}
    assert len(list(read(client.settings.layout.audit, event="notice-acknowledged"))) == 1


def test_a_record_of_a_newer_version_is_left_alone(client: Client) -> None:
    path = client.settings.layout.notices_of("main")
    data = path.read_bytes().replace(b"hashclient-notices/1", b"hashclient-notices/2", 1)
    path.write_bytes(data)
    client.fetch()
    (fetched,) = client.notices
    assert fetched.error is not None and fetched.error.exit_code is ExitCode.STATE
    assert path.read_bytes() == data


def changes_until_it_ends(work: Callable[[], object]) -> Iterator[int]:
    """Kill `work` at each of its changes of the disk in turn, until one run is not killed."""

    def killed(number: int) -> None:
        with watched(kill_at(number)):
            work()

    for number in range(1, 200):
        code = in_child(lambda number=number: killed(number))  # type: ignore[misc]
        if code == 0:
            return
        assert code == -signal.SIGKILL
        yield number
    raise AssertionError("it does not end")


@pytest.mark.slow
def test_a_kill_while_it_is_acknowledged_loses_nothing(client: Client) -> None:
    journal = Journal(client.session)
    count = 0
    for count in changes_until_it_ends(lambda: journal.acknowledge(found(client), "done")):  # noqa: B007
        (standing,) = found(client)
        logged = list(read(client.settings.layout.audit, event="notice-acknowledged"))
        assert standing.state is State.OPEN or logged
        # The test undoes the acknowledgement, so that the next attempt makes as many changes.
        path = client.settings.layout.notices_of("main")
        if standing.state is not State.OPEN:
            path.unlink()
            client.fetch()
    assert count > 3
    assert states(client) == {"first": State.ACKNOWLEDGED}


@pytest.mark.slow
def test_a_kill_while_notices_are_fetched_leaves_the_old_or_the_new(
    client: Client, simulator: Simulator
) -> None:
    sign(simulator, fresh(simulator, "second"))
    stages: list[int] = []
    for _ in changes_until_it_ends(client.fetch):
        here = states(client)
        assert here.keys() in ({"first"}, {"first", "second"})
        stages.append(len(here))
    assert stages == sorted(stages) and stages[0] == 1
    assert states(client).keys() == {"first", "second"}
    client.fetch()
    assert client.leftovers() == set()


def test_a_thousand_notices_are_taken(client: Client, simulator: Simulator) -> None:
    sign(simulator, *(fresh(simulator, f"n-{n}") for n in range(MAX_NOTICES - 1)))
    client.fetch()
    assert len(found(client)) == MAX_NOTICES
    role = client.settings.layout.metadata("main") / "notices.json"
    assert role.stat().st_size < additions.MAX_ROLE_BYTES / 2
    assert json.loads(role.read_bytes())["signed"]["_type"] == "targets"


def test_the_clock_of_a_notice_is_no_matter_of_where_it_is_read(client: Client) -> None:
    (standing,) = found(client)
    client.now = datetime.now(UTC) + timedelta(days=31)
    assert states(client) == {"first": State.EXPIRED}
    assert standing.notice.sent.tzinfo is UTC
