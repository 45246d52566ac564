"""Signing by separate people: a draft is published only when enough people have signed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import shutil
import stat
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from securesystemslib.signer import Signature
from tuf.api.metadata import Metadata, Targets

from fixtures.client import csv
from fixtures.people import sign
from fixtures.simulator import PlainClient, Simulator
from hashclient.audit import log as audit_log
from hashclient.core.errors import HashclientError, StateError, UsageError, VerificationError
from hashclient.lists import history
from hashclient.lists.wire import parse_index
from hashclient.notices.document import Severity
from hashclient.provider import drafting
from hashclient.provider import roles as provider_roles
from hashclient.provider.changes import withdrawals
from hashclient.provider.drafting import open_signer, published_bytes, sign_draft
from hashclient.provider.draftroles import known_keys
from hashclient.provider.drafts import load_draft, verify_digest, verify_root
from hashclient.provider.keyfiles import Passphrases, load_public, make_pair
from hashclient.provider.keys import Keys
from hashclient.provider.listfiles import next_history
from hashclient.provider.notices import NoticeBoard, Said
from hashclient.system import files as system_files
from hashclient.trust.metadatadir import MAX_METADATA_BYTES
from tests.kit import arguments, call, environment

NONE = Passphrases()
LATER = "2099-01-01T00:00:00Z"
PEOPLE = ("alice", "bob", "carol")


class World:
    """A provider whose list has the keys of three people, of whom two have to sign."""

    def __init__(self, directory: Path) -> None:
        """Make keys and a repository without a list."""
        self.directory = directory
        self.simulator = Simulator(directory / "repo")
        self.repository = self.simulator.repository
        for name in (*PEOPLE, "mallory"):
            make_pair(self.key(name), directory / f"{name}.pub", None)
        self.keys = self.public(*PEOPLE, threshold=2)
        self._count = 0

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def public(self, *names: str, threshold: int) -> Keys:
        keys = tuple(load_public(self.directory / f"{name}.pub") for name in names)
        return Keys(len(keys), threshold, keys)

    def place(self) -> Path:
        """Return a new path for a draft."""
        self._count += 1
        return self.directory / f"draft-{self._count}"

    def draft(self, numbers: range, list_name: str = "baseline") -> Path:
        where = self.place()
        keys = {} if list_name in self.repository.load().lists else {"list_keys": self.keys}
        self.simulator.publish(csv(numbers), list_name, draft=where, **keys)
        return where

    def sign(self, draft: Path, *names: str) -> None:
        for name in names:
            sign(draft, self.key(name))

    def publish(self, draft: Path) -> None:
        self.repository.publish_draft(draft)
        self.simulator.serve_published()

    def published(self) -> dict[str, bytes]:
        """Return all published files, and the keys."""
        return {
            str(path): path.read_bytes()
            for folder in ("public/metadata", "keys")
            for path in (self.repository.directory / folder).iterdir()
        }


@pytest.fixture
def empty(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def world(empty: World) -> World:
    """Return a world that has published the first generation of the list."""
    first = empty.draft(range(3))
    empty.sign(first, "alice", "bob")
    empty.publish(first)
    return empty


def test_two_of_three_publish_a_new_list_and_its_changes(world: World, tmp_path: Path) -> None:
    client = PlainClient(tmp_path / "client", world.simulator)
    assert client.generation() == 1
    draft = world.draft(range(10, 15))
    assert client.generation() == 1  # a draft changes no file that clients see
    for names in (("carol",), ("alice",)):
        world.sign(draft, *names)
    world.publish(draft)
    assert client.generation() == 2
    gone = world.place()
    world.repository.withdraw("baseline", ["e-1", "e-2"], draft=gone)
    world.sign(gone, "bob", "carol")
    world.publish(gone)
    index, _ = client.fetch()
    assert (index.generation, index.entries) == (3, 6)
    # The keys of the list were never on this machine.
    assert not list((world.repository.directory / "keys").glob("baseline-*"))


def test_one_signature_is_not_enough(world: World) -> None:
    draft, before = world.draft(range(5, 6)), world.published()
    for names, missing in (((), 2), (("alice",), 1)):
        world.sign(draft, *names)
        with pytest.raises(StateError, match=f"needs 2 signatures, {missing} missing"):
            world.publish(draft)
        assert world.published() == before


def test_signatures_may_be_gathered_from_copies(world: World) -> None:
    """Each person signs a copy of the draft and returns only the signature file."""
    draft = world.draft(range(5, 6))
    for name in ("alice", "carol"):
        copy = world.place()
        shutil.copytree(draft, copy)
        world.sign(copy, name)
        keyid = load_public(world.directory / f"{name}.pub").keyid
        shutil.copy(copy / "signatures" / f"baseline-{keyid[:16]}.json", draft / "signatures")
    world.publish(draft)
    assert world.repository.status().lists[0].generation == 2


def test_a_foreign_key_is_refused(world: World) -> None:
    draft = world.draft(range(5, 6))
    with pytest.raises(VerificationError, match="the key counts for no role of the draft"):
        world.sign(draft, "mallory")
    # A signature file that was written by hand does not count, whatever key it names.
    world.sign(draft, "alice")
    (alice,) = (draft / "signatures").iterdir()
    document = json.loads(alice.read_bytes())
    keyid = load_public(world.directory / "mallory.pub").keyid
    (draft / "signatures" / "x.json").write_text(json.dumps({**document, "keyid": keyid}))
    with pytest.raises(VerificationError, match="a signature of a key that does not count"):
        world.publish(draft)
    bob = load_public(world.directory / "bob.pub").keyid
    (draft / "signatures" / "x.json").write_text(json.dumps({**document, "keyid": bob}))
    with pytest.raises(VerificationError, match="the signature is not of this draft"):
        world.publish(draft)


def test_two_signatures_of_one_key_are_refused(world: World) -> None:
    draft = world.draft(range(5, 6))
    world.sign(draft, "alice")
    with pytest.raises(UsageError, match="has signed the draft already"):
        world.sign(draft, "alice")
    (alice,) = (draft / "signatures").iterdir()
    shutil.copy(alice, draft / "signatures" / "another.json")
    with pytest.raises(VerificationError, match="a key has signed twice"):
        world.publish(draft)


def test_a_draft_of_another_generation_is_refused(world: World) -> None:
    first, second = world.draft(range(5, 6)), world.draft(range(6, 7))
    for draft in (first, second):
        world.sign(draft, "alice", "bob")
    world.publish(first)
    for draft in (second, first):  # the first draft is published a second time, too
        with pytest.raises(VerificationError, match="follows another version of role baseline"):
            world.publish(draft)
    assert world.repository.status().lists[0].live == 4


def test_changes_of_other_lists_do_not_matter(world: World) -> None:
    draft = world.draft(range(5, 6))
    world.simulator.publish(csv(range(3)), "other")
    world.simulator.renew()
    world.sign(draft, "alice", "bob")
    world.publish(draft)
    assert [found.generation for found in world.repository.status().lists] == [2, 1]


def test_a_draft_of_another_repository_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = World(tmp_path / "elsewhere")
    draft = other.draft(range(3))
    other.sign(draft, "alice", "bob")
    before = world.published()
    with pytest.raises(VerificationError):
        world.publish(draft)
    assert world.published() == before


def test_keys_that_do_not_count_any_more(world: World) -> None:
    """The draft was signed before the list got other keys."""
    draft = world.draft(range(5, 6))
    world.sign(draft, "alice", "bob")
    world.simulator.rotate("baseline")
    with pytest.raises(VerificationError, match="follows another version"):
        world.publish(draft)


def edited(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def first_file(draft: Path, pattern: str) -> Path:
    return next(iter(sorted(draft.glob(pattern))))


def other_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def exchange(draft: Path, path: Path, data: bytes) -> None:
    """Give a new file of the list other bytes, and change the role accordingly."""
    digest, name = hashlib.sha256(data).hexdigest(), path.name.partition(".")[2]
    path.rename(path.with_name(f"{digest}.{name}")).write_bytes(data)
    files = {f"lists/baseline/{name}": {"length": len(data), "hashes": {"sha256": digest}}}
    edited(draft / "roles/baseline.json", lambda m: m["signed"]["targets"].update(files))
    before, after = (
        Metadata[Targets].from_bytes((draft / folder / "baseline.json").read_bytes()).signed.targets
        for folder in ("before", "roles")
    )
    at = "lists/baseline/index.json"
    index = parse_index(first_file(draft, "files/*/*/*.index.json").read_bytes(), "baseline")
    custom = {history.FIELD: history.written(next_history(before[at], index, after))}
    edited(
        draft / "roles/baseline.json", lambda m: m["signed"]["targets"][at].update(custom=custom)
    )


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" " * MAX_METADATA_BYTES)


def pipe_at(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def forget(draft: Path) -> None:
    (draft / "before/baseline.json").unlink()
    edited(draft / "roles/baseline.json", lambda m: m["signed"].update(version=1))


CHANGED: dict[str, Callable[[Path], object]] = {
    "a later expiry": lambda d: edited(
        d / "roles/baseline.json", lambda m: m["signed"].update(expires=LATER)
    ),
    "another version": lambda d: edited(
        d / "roles/baseline.json", lambda m: m["signed"].update(version=9)
    ),
    "no segment": lambda d: first_file(d, "files/*/*/*.parquet").unlink(),
    "a segment of other bytes": lambda d: other_bytes(first_file(d, "files/*/*/*.parquet")),
    "an index of other bytes": lambda d: other_bytes(first_file(d, "files/*/*/*.index.json")),
    "a target less": lambda d: edited(
        d / "roles/baseline.json", lambda m: m["signed"]["targets"].popitem()
    ),
    "a published file under another digest": lambda d: edited(
        d / "roles/baseline.json",
        lambda m: m["signed"]["targets"]["lists/baseline/g000001-add-000.parquet"].update(length=1),
    ),
    "a file of another list": lambda d: edited(
        d / "roles/baseline.json",
        lambda m: m["signed"]["targets"].update(
            {"lists/other/x": {"length": 1, "hashes": {"sha256": "00" * 32}}}
        ),
    ),
    "a file on the way up": lambda d: edited(
        d / "roles/baseline.json",
        lambda m: m["signed"]["targets"].update(
            {"lists/baseline/../x": {"length": 1, "hashes": {"sha256": "00" * 32}}}
        ),
    ),
    "what is before, not as it was": lambda d: edited(
        d / "before/baseline.json", lambda m: m["signed"].update(expires=LATER)
    ),
    "other keys before": lambda d: edited(
        d / "before/targets.json",
        lambda m: m["signed"]["delegations"]["roles"][0].update(threshold=1),
    ),
    "what is before, missing": forget,
    "a field that nobody knows": lambda d: edited(
        d / "roles/baseline.json", lambda m: m["signed"].update(note="x")
    ),
    "a fraction": lambda d: edited(
        d / "roles/baseline.json", lambda m: m["signed"].update(note=1.5)
    ),
    "no root before": lambda d: (d / "before/root.json").unlink(),
    "a role that is no role": lambda d: (d / "roles/snapshot.json").write_text("{}"),
    "no role": lambda d: (d / "roles/baseline.json").unlink(),
    "a role that is no JSON": lambda d: (d / "roles/baseline.json").write_text("nonsense"),
    "a role that is deep": lambda d: (d / "roles/baseline.json").write_text("[" * 100_000),
    "a signature that is no JSON": lambda d: (d / "signatures/x.json").write_text("nonsense"),
    "a signature of no role": lambda d: (d / "signatures/x.json").write_text(
        '{"role": "root", "keyid": "0", "sig": "0"}'
    ),
    "a signature of the wrong type": lambda d: (d / "signatures/x.json").write_text(
        '{"role": "baseline", "keyid": 1, "sig": "0"}'
    ),
    "a head that is none": lambda d: (d / "draft.json").write_text("[]"),
    "a head of a newer version": lambda d: edited(
        d / "draft.json", lambda h: h.update(format="hashclient-draft/2")
    ),
    "a pipe": lambda d: pipe_at(d / "roles/baseline.json"),
    "a role of very many bytes": lambda d: longer(d / "roles/baseline.json"),
    "very many roles": lambda d: [
        shutil.copy(d / "roles/baseline.json", d / f"roles/{number}.json") for number in range(270)
    ],
}


class Prepared(NamedTuple):
    """A provider with two drafts: one has no signature, and the other has enough."""

    world: World
    drafts: dict[str, Path]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    world = World(tmp_path_factory.mktemp("world"))
    first = world.draft(range(3))
    world.sign(first, "alice", "bob")
    world.publish(first)
    signed = world.place()
    unsigned = world.draft(range(5, 6))
    shutil.copytree(unsigned, signed)
    world.sign(signed, "alice", "bob")
    return Prepared(world, {"before it is signed": unsigned, "after": signed})


@pytest.mark.sampled
@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("when", ["before it is signed", "after"])
def test_a_draft_that_was_changed_is_refused(
    prepared: Prepared, tmp_path: Path, name: str, when: str
) -> None:
    """The person who should sign and the provider that should publish refuse the draft."""
    world, draft = prepared.world, tmp_path / "draft"
    shutil.copytree(prepared.drafts[when], draft)
    CHANGED[name](draft)
    before = world.published()
    # As long as nobody has signed, a draft may have a later expiry.
    if (name, when) != ("a later expiry", "before it is signed"):
        with pytest.raises(HashclientError):
            world.sign(draft, "carol")
    with pytest.raises((VerificationError, UsageError, StateError)):
        world.publish(draft)
    assert world.published() == before


def test_targets_cannot_be_given_more_than_the_draft_says(world: World) -> None:
    """A draft that adds a list is refused if it also changes keys of an existing list."""
    draft = world.draft(range(3), "second")

    def weaken(document: Any) -> None:
        for role in document["signed"]["delegations"]["roles"]:
            if role["name"] == "baseline":
                role["threshold"] = 1

    edited(draft / "roles/targets.json", weaken)
    for path in (draft / "signatures").iterdir():
        path.unlink()
    with pytest.raises(VerificationError, match="change list baseline, which is not in the draft"):
        load_draft(draft)


def test_a_draft_of_a_root_that_is_not_known_is_not_signed(world: World, tmp_path: Path) -> None:
    """All earlier metadata in the draft may be invented, and only the root shows that."""
    known = world.simulator.root
    draft = world.draft(range(5, 6))
    verify_root(load_draft(draft), known)
    (tmp_path / "elsewhere").mkdir()
    other = World(tmp_path / "elsewhere")
    with pytest.raises(VerificationError, match="follows another root"):
        verify_root(load_draft(other.draft(range(3))), known)
    with pytest.raises(VerificationError, match="follows another root"):
        verify_root(load_draft(draft), other.simulator.root)
    for nonsense in (b"", b"{}", published_bytes(world.repository.load(), "targets") or b""):
        with pytest.raises(VerificationError):
            verify_root(load_draft(draft), nonsense)


def test_a_root_that_was_renewed_is_known_by_its_keys(world: World) -> None:
    known = world.simulator.root
    world.simulator.now += timedelta(days=200)
    assert "root" in world.repository.renew().signed
    draft = world.draft(range(5, 6))
    verify_root(load_draft(draft), known)
    newest = world.simulator.root
    world.simulator.rotate("root")
    draft = world.draft(range(5, 6))
    verify_root(load_draft(draft), newest)  # the old keys have signed the new root
    # A signer with an older root file cannot check the draft, and needs the newest root by hand.
    world.simulator.rotate("root")
    with pytest.raises(VerificationError, match="follows another root"):
        verify_root(load_draft(world.draft(range(6, 7))), newest)


def test_an_expired_draft_is_refused(world: World) -> None:
    draft = world.draft(range(5, 6))
    world.sign(draft, "alice", "bob")
    world.simulator.now += timedelta(days=91)
    world.simulator.renew()
    with pytest.raises(StateError, match="role baseline of the draft has expired"):
        world.publish(draft)


def test_a_renewal_of_what_people_sign(world: World, tmp_path: Path) -> None:
    client = PlainClient(tmp_path / "client", world.simulator)
    client.generation()
    where = world.place()
    with pytest.raises(UsageError, match="no role is due whose keys are elsewhere"):
        world.repository.draft_renewal(where)
    world.simulator.now += timedelta(days=60)
    assert world.repository.renew().skipped == ("baseline",)
    assert world.repository.draft_renewal(where) == ["baseline"]
    assert load_draft(where).lists == {}
    world.sign(where, "bob", "carol")
    world.publish(where)
    assert world.repository.renew().skipped == ()
    assert world.repository.status().lists[0].generation == 1


def test_the_root_goes_to_people(world: World, tmp_path: Path) -> None:
    """The old key of the root and the required number of new keys sign the draft."""
    client = PlainClient(tmp_path / "client", world.simulator)
    client.generation()
    where = world.place()
    world.repository.rotate("root", world.public(*PEOPLE, threshold=2), draft=where)
    with pytest.raises(StateError, match="needs 2 signature"):
        world.publish(where)
    world.sign(where, "alice", "carol")
    world.publish(where)
    assert not list((world.repository.directory / "keys").glob("root-*"))
    assert client.generation() == 1
    # From now on, the people renew the root and replace each other.
    again = world.place()
    world.repository.rotate("root", world.public("bob", "mallory", threshold=2), draft=again)
    world.sign(again, "bob", "mallory")
    with pytest.raises(StateError, match="needs 2 signature"):
        world.publish(again)  # one old key and two new keys have signed
    world.sign(again, "alice")
    world.publish(again)
    assert world.repository.status().roles[0].version == 3
    assert client.generation() == 1


def test_a_list_goes_to_people_and_to_others(world: World, tmp_path: Path) -> None:
    client = PlainClient(tmp_path / "client", world.simulator)
    world.simulator.publish(csv(range(3)), "local")
    assert client.fetch("local")[0].generation == 1
    where = world.place()
    world.repository.rotate("local", world.public("alice", "bob", threshold=2), draft=where)
    world.sign(where, "alice", "bob")
    world.publish(where)
    assert not list((world.repository.directory / "keys").glob("local-*"))
    assert client.fetch("local")[0].generation == 1
    with pytest.raises(StateError, match="role local needs 2 signing"):
        world.simulator.publish(csv(range(5, 6)), "local")


def test_key_files_that_do_not_count_are_left_alone(world: World) -> None:
    """The program removes old keys only when a role gets other keys."""
    other = world.repository.directory / "keys" / f"baseline-{'0' * 16}.pem"
    other.write_text("of an earlier time")
    draft = world.draft(range(5, 6))
    world.sign(draft, "alice", "bob")
    world.publish(draft)
    assert other.read_text() == "of an earlier time"


def test_drafts_and_notices_leave_each_other_alone(world: World, tmp_path: Path) -> None:
    """The role of notices is separate from the lists; a draft of targets does not change it."""
    client = PlainClient(tmp_path / "client", world.simulator)
    board = NoticeBoard(world.repository)
    said = Said(sender="a", event="b", headline="c", severity=Severity.MINOR)
    board.publish(said, world.simulator.now)
    draft = world.draft(range(3), "second")
    world.sign(draft, "alice", "bob")
    world.publish(draft)
    board.publish(said, world.simulator.now)
    assert len(board.standing(world.simulator.now)) == 2
    assert client.fetch("second")[0].generation == 1


def test_small_segments_are_joined_by_people(world: World) -> None:
    for start in range(10, 40, 10):
        draft = world.draft(range(start, start + 5))
        world.sign(draft, "alice", "bob")
        world.publish(draft)
    where = world.place()
    world.repository.consolidate("baseline", keep_newest=0, draft=where)
    change = load_draft(where).lists["baseline"]
    assert (change.replaced, change.generation, change.live) == (4, 4, 18)
    world.sign(where, "alice", "bob")
    world.publish(where)
    assert world.repository.status().lists[0].segments == 1


def test_keys_of_people_need_a_draft(empty: World) -> None:
    with pytest.raises(UsageError, match="people who keep their own keys"):
        empty.simulator.publish(csv(range(3)), list_keys=empty.keys)
    with pytest.raises(UsageError, match="people who keep their own keys"):
        empty.repository.rotate("root", empty.keys)
    with pytest.raises(UsageError, match="needs their public halves"):
        empty.repository.rotate("root", draft=empty.place())


def test_a_list_that_is_there_keeps_its_keys(world: World) -> None:
    with pytest.raises(UsageError, match="the role has its keys already"):
        world.simulator.publish(csv(range(5, 6)), list_keys=world.keys, draft=world.place())


def test_a_publication_that_changes_nothing_makes_no_draft(world: World, tmp_path: Path) -> None:
    where = world.place()
    same = tmp_path / "same.csv"
    same.write_bytes(csv(range(3)))
    done = call(
        *("provider", "publish", world.repository.directory, "--list", "baseline", "--replace"),
        *("--draft", where, same, "--format", "json"),
    )
    assert (done.code, json.loads(done.out)["draft"], where.exists()) == (0, None, False)
    assert "nothing would change: there is no draft" in done.err


def test_other_keys_are_shown_to_who_signs(world: World) -> None:
    where = world.place()
    world.repository.rotate("baseline", world.public("alice", "mallory", threshold=1), draft=where)
    shown = call("provider", "draft", "show", where)
    assert "role baseline has other keys than before\n" in shown.out
    assert load_draft(world.draft(range(3), "second")).with_other_keys() == ["second"]
    assert load_draft(world.draft(range(5, 6))).with_other_keys() == []


def test_a_key_with_the_id_of_another_person_is_refused(world: World) -> None:
    """People recognise a key by its id, so an id must not lead to another key."""
    draft = world.place()
    keys = world.public("alice", "mallory", threshold=2)
    world.repository.rotate("baseline", keys, draft=draft)
    bob, mallory = (load_public(world.directory / f"{n}.pub").keyid for n in ("bob", "mallory"))
    shutil.rmtree(draft / "signatures")
    targets = draft / "roles/targets.json"
    good = targets.read_text()
    for wrong in (bob, "\x1b[2J", mallory.upper()):
        targets.write_text(good.replace(mallory, json.dumps(wrong).strip('"')))
        with pytest.raises(VerificationError, match="a key does not have its own id"):
            load_draft(draft)
    edited(targets, lambda m: m["signed"]["delegations"]["keys"].pop(mallory.upper()))
    with pytest.raises(VerificationError, match="a key does not have its own id"):
        load_draft(draft)


def test_a_key_without_a_role_is_new_when_it_gets_one(world: World) -> None:
    before = load_draft(world.draft(range(5, 6))).before
    mallory = load_public(world.directory / "mallory.pub")
    before["root"].signed.keys[mallory.keyid] = mallory
    assert mallory.keyid not in known_keys(before)


@pytest.mark.parametrize("name", [-1, "../x"])
def test_a_list_without_the_name_of_a_list_is_refused(world: World, name: object) -> None:
    draft = world.draft(range(3), "second")
    edited(
        draft / "roles/targets.json",
        lambda m: m["signed"]["delegations"]["roles"][-1].update(name=name),
    )
    with pytest.raises(VerificationError, match="by something else than a name"):
        load_draft(draft)


def test_true_is_not_a_version(world: World) -> None:
    """Python treats True like 1, but the published file would be called True.second.json."""
    draft = world.draft(range(3), "second")
    edited(draft / "roles/second.json", lambda m: m["signed"].update(version=True))
    with pytest.raises(VerificationError, match="the draft is not valid"):
        load_draft(draft)


@pytest.mark.sampled
@pytest.mark.parametrize("wrong", [{"checksum": "0" * 16}, {"generation": 9}, {"generation": 1}])
def test_an_index_that_clients_would_refuse_is_not_published(
    world: World, wrong: dict[str, Any]
) -> None:
    draft = world.draft(range(10, 12))
    (path,) = draft.glob("files/lists/baseline/*.index.json")
    document = json.loads(path.read_bytes()) | wrong
    for segment in document["segments"]:
        segment["first"] = segment["last"] = min(segment["last"], document["generation"])
    exchange(draft, path, json.dumps(document).encode())
    world.sign(draft, "alice", "bob")
    before = world.published()
    with pytest.raises(VerificationError, match="the draft is refused: list baseline does not"):
        world.publish(draft)
    assert world.published() == before


def test_a_withdrawal_of_an_entry_that_was_never_listed_is_not_published(world: World) -> None:
    draft = world.place()
    world.repository.withdraw("baseline", ["e-1"], draft=draft)
    (new,) = withdrawals(2, np.array([b"e-9"]))
    exchange(draft, first_file(draft, "files/*/*/*.parquet"), new.data)
    world.sign(draft, "alice", "bob")
    with pytest.raises(VerificationError, match="does not have the entries that its index counts"):
        world.publish(draft)


@pytest.mark.slow
def test_files_that_people_have_replaced_go_after_a_day(world: World) -> None:
    for start in (10, 20, 30):
        draft = world.draft(range(start, start + 5))
        world.sign(draft, "alice", "bob")
        world.publish(draft)
    joined = world.place()
    world.repository.consolidate("baseline", keep_newest=0, draft=joined)
    world.sign(joined, "alice", "bob")
    world.publish(joined)
    folder = world.repository.public / "targets/lists/baseline"
    before = len(list(folder.glob("*.parquet")))
    assert before == 5
    world.simulator.now += timedelta(days=2)
    world.simulator.renew()
    draft = world.draft(range(40, 41))
    world.sign(draft, "alice", "bob")
    world.publish(draft)
    assert len(list(folder.glob("*.parquet"))) == 2


def test_a_draft_takes_the_place_of_nothing(world: World) -> None:
    where = world.place()
    where.mkdir()
    with pytest.raises(UsageError, match="draft exists"):
        world.simulator.publish(csv(range(5, 6)), draft=where)
    assert list(where.iterdir()) == []
    link = world.place()
    link.symlink_to(world.directory / "elsewhere")
    with pytest.raises(UsageError, match="draft exists"):
        world.simulator.publish(csv(range(5, 6)), draft=link)


def test_a_draft_is_whole_or_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    where, left = world.place(), 0
    real = system_files.fsync_dir
    for step in range(100):
        left = step

        def fsync_dir(path: Path) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(path)

        with monkeypatch.context() as patch:
            patch.setattr(system_files, "fsync_dir", fsync_dir)
            try:
                world.simulator.publish(csv(range(5, 6)), draft=where)
                break
            except Killed:
                assert not where.exists()
    assert step > 3
    assert load_draft(where).lists["baseline"].added == 1


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the program catches it."""


def test_a_kill_while_a_draft_is_published_leaves_the_old_state_or_the_new(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = PlainClient(tmp_path / "client", world.simulator)
    draft = world.draft(range(5, 6))
    world.sign(draft, "alice", "bob")
    real = system_files.write_atomic
    for writes in range(20):
        left = writes

        def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(path, data, mode=mode)

        with monkeypatch.context() as patch:
            patch.setattr(provider_roles, "write_atomic", write)
            patch.setattr(drafting, "write_atomic", write)
            try:
                world.publish(draft)
                break
            except Killed:
                world.simulator.serve_published()
                assert client.generation() == 1
    assert writes > 3
    assert client.generation() == 2


def test_a_key_from_the_vault_signs_as_those_of_people_do(empty: World) -> None:
    """A new list changes targets, whose key may be away from the machine that publishes."""
    (targets,) = (empty.repository.directory / "keys").glob("targets-*.pem")
    vault = empty.directory / "vault.pem"
    targets.rename(vault)
    draft = empty.draft(range(3))
    empty.sign(draft, "alice", "bob")
    with pytest.raises(StateError, match="role targets of the draft needs 1 signature"):
        empty.publish(draft)
    sign(draft, vault)
    empty.publish(draft)
    assert empty.repository.status().lists[0].live == 3


def test_the_digest_of_a_draft_is_that_of_its_roles_and_of_those_before(world: World) -> None:
    """The test computes the digest by the rule of docs/provider.md: sorted JSON without spaces."""
    draft = world.draft(range(5, 6))
    digest = load_draft(draft).digest
    lines = []
    for folder in ("before", "roles"):
        for path in sorted((draft / folder).iterdir()):
            signed = json.loads(path.read_bytes())["signed"]
            text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            lines.append(f"{sha256}  {folder}/{path.name}\n")
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == digest
    world.sign(draft, "alice")
    assert load_draft(draft).digest == digest
    other = world.place()
    shutil.copytree(draft, other)
    for path in (other / "signatures").iterdir():
        path.unlink()
    edited(other / "roles/baseline.json", lambda m: m["signed"].update(expires=LATER))
    assert load_draft(other).digest != digest
    verify_digest(load_draft(draft), digest)
    with pytest.raises(VerificationError, match="not the draft that was shown"):
        verify_digest(load_draft(other), digest)


def test_a_draft_that_is_exchanged_after_it_was_shown_is_not_signed(world: World) -> None:
    """Two valid drafts have the same path one after the other, so only the digest differs."""
    shown, other = world.draft(range(5, 6)), world.draft(range(6, 60))
    root = world.repository.directory / "root.json"
    looked = call("provider", "draft", "show", shown, "--root", root, "--format", "json")
    digest = json.loads(looked.out)["draft_digest"]
    aside = world.place()
    shown.rename(aside)
    other.rename(shown)
    words = ("provider", "draft", "sign", shown, "--root", root, "--draft-digest", digest)
    signed = call(*words, "--key", world.key("alice"))
    assert (signed.code, "not the draft that was shown" in signed.err) == (6, True)
    assert not list((shown / "signatures").iterdir())


@pytest.mark.parametrize("name", ["load_private", "write_new"])
def test_what_was_loaded_is_signed_whatever_is_in_the_folder_by_then(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The options --root and --draft-digest apply to exactly the bytes that are signed."""
    draft, other = world.draft(range(5, 6)), world.draft(range(6, 60))
    found = load_draft(draft)
    real = getattr(drafting, name)

    def exchange(*args: Any, **words: Any) -> Any:
        if not aside.exists():
            draft.rename(aside)
            other.rename(draft)
        return real(*args, **words)

    aside = world.place()
    monkeypatch.setattr(drafting, name, exchange)
    signed = sign_draft(found, *open_signer(found, world.key("alice"), NONE))
    assert signed.digest == found.digest
    (path,) = [*draft.glob("signatures/*"), *aside.glob("signatures/*")]
    document = json.loads(path.read_bytes())
    role = found.roles["baseline"]
    key = load_public(world.directory / "alice.pub")
    key.verify_signature(Signature(key.keyid, document["sig"]), role.signed_bytes)


@pytest.mark.sampled
@pytest.mark.parametrize(("answer", "count"), [(b"y", 1), (b"n", 0)])
def test_at_a_terminal_the_draft_is_shown_before_it_is_signed(
    world: World, answer: bytes, count: int
) -> None:
    draft, root = world.draft(range(5, 6)), world.repository.directory / "root.json"
    digest = load_draft(draft).digest
    ours, theirs = pty.openpty()
    words = ("provider", "draft", "sign", draft, "--root", root, "--key", world.key("alice"))
    with subprocess.Popen(
        arguments(*words), env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while not shown.endswith(b"[y/N]: "):
            shown += os.read(ours, 1000)
        assert f"draft digest {digest}".encode() in shown
        assert f"sign baseline of draft {digest}?".encode() in shown
        assert not list((draft / "signatures").iterdir())
        os.write(ours, answer + b"\n")
        with contextlib.suppress(OSError):  # a terminal that was closed gives this error
            while os.read(ours, 1000):
                pass
        assert process.wait(60) == (0 if count else 2)
    os.close(ours)
    assert len(list((draft / "signatures").iterdir())) == count


def test_a_draft_is_for_its_owner_alone(world: World) -> None:
    draft = world.draft(range(5, 6))
    assert stat.S_IMODE(draft.stat().st_mode) == 0o700


def test_the_log_names_the_signers_of_a_draft(world: World) -> None:
    draft = world.draft(range(5, 6))
    world.sign(draft, "alice", "carol")
    world.publish(draft)
    made, published = list(audit_log.read(world.repository.log.directory))[-2:]
    assert (made.event, made.data["roles"]) == ("draft-made", ["baseline"])
    assert published.event == "draft-published"
    assert published.data["lists"] == {"baseline": {"generation": 2, "added": 1, "withdrawn": 0}}
    ids = {load_public(world.directory / f"{n}.pub").keyid for n in ("alice", "carol")}
    assert set(published.data["signers"]["baseline"]) == ids


# The commands for drafts


def test_the_commands(tmp_path: Path) -> None:
    repo, draft = tmp_path / "repo", tmp_path / "draft"
    entries = tmp_path / "entries.csv"
    entries.write_bytes(csv(range(3)))
    assert call("provider", "init", repo).code == 0
    people: list[object] = []
    for name in PEOPLE:
        key, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        words = ("--output", key, "--public", public, "--no-passphrase")
        assert call("provider", "key", "new", *words).code == 0
        people += ["--public-key", public]
    made = call(
        *("provider", "publish", repo, "--list", "baseline", "--threshold", "2", *people),
        *("--draft", draft, entries),
    )
    assert made.code == 0, made.err
    assert "generation 1: 3 would be added, 3 live" in made.out
    assert "nothing is published" in made.err
    shown = call("provider", "draft", "show", draft, "--root", repo / "root.json")
    assert shown.code == 3
    assert "list baseline: generation 1: 3 added, 0 withdrawn, 3 live" in shown.out
    assert "  0 of 2 signatures of 3 keys" in shown.out
    assert call("provider", "draft", "sign", draft, "--key", tmp_path / "alice.pem").code == 2
    digest = shown.out.partition("draft digest ")[2].split()[0]
    command = ("provider", "draft", "sign", draft, "--root", repo / "root.json")
    unseen = call(*command, "--key", tmp_path / "alice.pem")
    assert (unseen.code, "--draft-digest is missing" in unseen.err) == (2, True)
    sign = (*command, "--draft-digest", digest, "--key")
    assert call(*sign, tmp_path / "alice.pem").code == 0
    assert call(*sign, tmp_path / "alice.pem").code == 2
    early = call("provider", "draft", "publish", repo, draft)
    assert (early.code, "1 missing" in early.err) == (8, True)
    assert call(*sign, tmp_path / "bob.pem", "--format", "json").code == 0
    document = json.loads(call("provider", "draft", "show", draft, "--format", "json").out)
    (policy,) = next(r for r in document["roles"] if r["role"] == "baseline")["policies"]
    assert (policy["missing"], len(policy["signed"])) == (0, 2)
    assert document["draft_digest"] == digest
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert call("provider", "draft", "show", draft, "--root", other).code == 6
    published = call("provider", "draft", "publish", repo, draft)
    assert (
        published.out
        == "role baseline: version 1 is published\nrole targets: version 2 is published\n"
    )
    assert call("provider", "draft", "publish", repo, draft).code == 6
    assert call("provider", "draft", "show", tmp_path / "nothing").code == 2
    gone = call(
        *("provider", "withdraw", repo, "--list", "baseline", "e-1"),
        *("--draft", tmp_path / "second", "--format", "json"),
    )
    assert json.loads(gone.out)["withdrawn"] == 1
    rotated = call(
        *("provider", "rotate", repo, "root", "--threshold", "2", *people),
        *("--draft", tmp_path / "third", "--format", "json"),
    )
    assert json.loads(rotated.out) == {"drafted": ["root"]}
    assert call("provider", "rotate", repo, "root", *people, "--draft", tmp_path / "x").code == 2
    nothing = call("provider", "renew", repo, "--draft", tmp_path / "fourth")
    assert (nothing.code, (tmp_path / "fourth").exists()) == (2, False)
    twice = call(
        *("provider", "rotate", repo, "root", "--threshold", "1", *people, *people),
        *("--draft", tmp_path / "x"),
    )
    assert (twice.code, "given twice" in twice.err) == (2, True)
