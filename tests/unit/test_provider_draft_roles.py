"""Separate signers for every role: who gets the keys, and what these people then sign."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import csv
from fixtures.people import sign
from fixtures.simulator import PlainClient, Simulator
from hashclient.audit import log as audit_log
from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.notices.document import Severity
from hashclient.provider import roles as provider_roles
from hashclient.provider.drafts import load_draft
from hashclient.provider.keyfiles import Passphrases, load_public, make_pair
from hashclient.provider.keys import Keys
from hashclient.provider.notices import NoticeBoard, Said
from hashclient.system import files as system_files
from tests.kit import Run, call

NONE = Passphrases()
PEOPLE = ("alice", "bob", "carol")
ROLES = ("root", "targets", "snapshot", "timestamp", "notices", "baseline")
SAID = Said(sender="lists@a.example", event="test", headline="A test", severity=Severity.MINOR)


_NUMBERS = itertools.count()


class Desk:
    """A repository with a list and a notice, people with keys, and a client, run by commands."""

    def __init__(self, directory: Path) -> None:
        """Use the repository and keys that `made` wrote into the directory."""
        self.directory, self.repo = directory, directory / "repo"
        self.keys, self.root = self.repo / "keys", directory / "root.json"

    @classmethod
    def made(cls, directory: Path) -> Desk:
        desk = cls(directory)
        for name in (*PEOPLE, "mallory"):
            make_pair(directory / f"{name}.pem", directory / f"{name}.pub", None)
        desk.provider("init", desk.repo)
        shutil.copy(desk.repo / "root.json", desk.root)
        desk.publish("baseline", 0)
        desk.notice("n-1")
        desk.client("init", "--root", desk.root, "--from", desk.repo / "public")
        desk.fetch()
        return desk

    def provider(self, *words: object, code: int = 0) -> Run:
        done = call("provider", *words)
        assert done.code == code, done.err
        return done

    def client(self, *words: object) -> Run:
        done = call("--state-dir", self.directory / "state", *words)
        assert done.code == 0, done.err
        return done

    def fetch(self) -> str:
        return self.client("fetch", "--from", self.repo / "public").out

    def publish(self, list_name: str, start: int, *more: object, code: int = 0) -> Run:
        path = self.directory / f"{start}.csv"
        path.write_bytes(csv(range(start, start + 3)))
        words = ("--list", list_name, "--new-list", path, *more)
        return self.provider("publish", self.repo, *words, code=code)

    def notice(self, notice_id: str, *more: object, code: int = 0) -> Run:
        words = ("--id", notice_id, "--headline", "A test", "--severity", "minor")
        named = ("--sender", "lists@a.example", "--event", "test")
        return self.provider("notice", "publish", self.repo, *words, *named, *more, code=code)

    def place(self) -> Path:
        """Return a new path for a draft."""
        return self.directory / f"draft-{next(_NUMBERS)}"

    def public(self, *names: str) -> list[object]:
        return [word for n in names for word in ("--public-key", self.directory / f"{n}.pub")]

    def sign(self, draft: Path, *names: str, code: int = 0) -> None:
        shown = call("provider", "draft", "show", draft, "--format", "json").out
        digest = json.loads(shown)["draft_digest"] if shown else "none, as it is refused"
        words = ("--root", self.root, "--draft-digest", digest)
        for name in names:
            key = self.directory / f"{name}.pem"
            signed = self.provider("draft", "sign", draft, *words, "--key", key, code=code)
            assert "not the draft that was shown" not in signed.err

    def hand_over(self, role: str, *names: str) -> None:
        """Give the keys of a role to people; two of them have to sign."""
        draft = self.place()
        words = ("--threshold", 2, *self.public(*names), "--draft", draft)
        self.provider("rotate", self.repo, role, *words)
        self.sign(draft, *names[:2])
        self.provider("draft", "publish", self.repo, draft)

    def published(self) -> dict[str, bytes]:
        """Return all published metadata, and the keys."""
        return {
            str(path): path.read_bytes()
            for folder in (self.repo / "public/metadata", self.keys)
            for path in folder.iterdir()
        }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Desk.made(tmp_path_factory.mktemp("desk")).directory


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Desk:
    return Desk(Path(shutil.copytree(made, tmp_path / "desk")))


@pytest.fixture(scope="module")
def handed_over(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk whose notices, snapshot and timestamp are signed by people."""
    directory = tmp_path_factory.mktemp("all") / "desk"
    desk = Desk(Path(shutil.copytree(made, directory)))
    for role in ("notices", "snapshot", "timestamp"):
        desk.hand_over(role, *PEOPLE)
    return directory


def change(desk: Desk, role: str, *more: object, code: int = 0) -> Run:
    """Make a change that `role` signs; snapshot and timestamp sign every change."""
    if role == "notices":
        return desk.notice("n-2", *more, code=code)
    return desk.publish("second" if role == "targets" else "baseline", 10, *more, code=code)


@pytest.mark.sampled
@pytest.mark.parametrize("role", ROLES)
def test_every_role_may_be_with_people(desk: Desk, role: str) -> None:
    """People get the role by a draft and then sign its changes, and a client follows."""
    keys = desk.place()
    words = ("--threshold", "2", *desk.public(*PEOPLE), "--draft", keys)
    before = desk.published()
    desk.provider("rotate", desk.repo, role, *words)
    assert desk.published() == before
    shown = desk.provider("draft", "show", keys, "--root", desk.root, code=3)
    assert f"role {role} has other keys than before\n" in shown.out
    desk.sign(keys, "alice")
    early = desk.provider("draft", "publish", desk.repo, keys, code=8)
    assert f"role {role} of the draft needs 2 signatures, 1 missing" in early.err
    assert desk.published() == before
    desk.sign(keys, "carol")
    desk.provider("draft", "show", keys)
    desk.provider("draft", "publish", desk.repo, keys)
    desk.provider("draft", "publish", desk.repo, keys, code=6)
    assert not list(desk.keys.glob(f"{role}-*"))
    desk.fetch()
    if role == "root":  # the root signs only changes of keys
        desk.provider("rotate", desk.repo, "timestamp", code=8)
        return
    refused = change(desk, role, code=8)
    assert f"role {role} needs 2 signing keys, 0 here" in refused.err
    draft = desk.place()
    change(desk, role, "--draft", draft)
    desk.sign(draft, "mallory", code=6)
    desk.sign(draft, "bob")
    desk.provider("draft", "publish", desk.repo, draft, code=8)
    desk.sign(draft, "carol")
    desk.provider("draft", "publish", desk.repo, draft)
    said = desk.fetch()
    assert (
        "n-2" if role == "notices" else "list second" if role == "targets" else "3 added"
    ) in said


@pytest.mark.slow
def test_all_roles_may_be_with_people_at_once(desk: Desk) -> None:
    """If people have all roles, nobody can publish alone, and each change needs one draft."""
    for role in ("notices", "baseline", "targets", "snapshot", "timestamp", "root"):
        desk.hand_over(role, *PEOPLE)
        desk.fetch()
    assert list(desk.keys.iterdir()) == []
    for role in ("baseline", "targets", "notices"):
        draft = desk.place()
        more = ("--threshold", 2, *desk.public(*PEOPLE)) if role == "targets" else ()
        change(desk, role, *more, "--draft", draft)
        assert {"snapshot", "timestamp"} < set(load_draft(draft).roles)
        desk.sign(draft, "alice", "bob")
        desk.provider("draft", "publish", desk.repo, draft)
        desk.fetch()
    bundle = desk.directory / "lists.bundle"
    desk.provider("export", desk.repo, "--to", bundle)
    desk.client("fetch", "--from", bundle)
    # Another person replaces one of the three people.
    desk.hand_over("timestamp", "carol", "alice", "mallory")
    desk.fetch()
    assert desk.client("audit", "verify").code == 0


@pytest.mark.slow
def test_key_files_that_are_apart_sign_a_draft(desk: Desk) -> None:
    """The keys were made on this machine and then moved away; two of them have to sign."""
    for role in ("targets", "snapshot", "timestamp"):
        desk.provider("rotate", desk.repo, role, "--keys", "3", "--threshold", "2")
        for name, path in zip(PEOPLE, sorted(desk.keys.glob(f"{role}-*")), strict=True):
            path.rename(desk.directory / f"{name}-{role}.pem")
    draft = desk.place()
    desk.publish("second", 20, "--draft", draft)
    assert set(load_draft(draft).roles) == {"targets", "snapshot", "timestamp", "second"}
    roles = ("snapshot", "timestamp", "targets")
    desk.sign(draft, *(f"{name}-{role}" for name in ("alice", "carol") for role in roles))
    desk.provider("draft", "publish", desk.repo, draft)
    assert "list second" in desk.fetch()


def test_a_lost_key_is_replaced(desk: Desk) -> None:
    """The root gives the role other keys, and the lost key need not sign."""
    for role in ("targets", "snapshot", "timestamp"):
        for path in desk.keys.glob(f"{role}-*"):
            path.unlink()
        draft = desk.place()
        words = ("--threshold", 2, *desk.public(*PEOPLE), "--draft", draft)
        desk.provider("rotate", desk.repo, role, *words)
        desk.sign(draft, "alice", "bob")
        shown = desk.provider("draft", "show", draft)
        assert "  0 of 1 signatures of 1 keys, which are replaced and may be lost" in shown.out
        desk.provider("draft", "publish", desk.repo, draft)
        desk.fetch()


def test_of_two_drafts_the_first_wins(desk: Desk) -> None:
    """Every draft has a new timestamp, so the draft that is published first outdates the other."""
    desk.hand_over("timestamp", *PEOPLE)
    first, second = desk.place(), desk.place()
    desk.publish("baseline", 10, "--draft", first)
    desk.notice("n-2", "--draft", second)
    for draft in (first, second):
        desk.sign(draft, "alice", "bob")
    desk.provider("draft", "publish", desk.repo, first)
    before = desk.published()
    refused = desk.provider("draft", "publish", desk.repo, second, code=6)
    assert "the draft follows another version of role timestamp" in refused.err
    assert desk.published() == before


def test_keys_that_are_here_sign_when_a_draft_is_published(desk: Desk) -> None:
    """A draft that was made while the keys were away is not outdated by a renewal."""
    away = {path: path.read_bytes() for path in desk.keys.glob("[st][ni]*-*")}
    assert len(away) == 2
    for path in away:
        path.unlink()
    draft = desk.place()
    desk.publish("baseline", 10, "--draft", draft)
    assert set(load_draft(draft).roles) == {"baseline", "snapshot", "timestamp"}
    refused = desk.provider("draft", "publish", desk.repo, draft, code=8)
    assert "role snapshot of the draft needs 1 signature" in refused.err
    for path, data in away.items():
        path.write_bytes(data)
        path.chmod(0o600)
    desk.provider("renew", desk.repo)
    done = desk.provider("draft", "publish", desk.repo, draft)
    assert done.out == "role baseline: version 2 is published\n"
    snapshot = max((desk.repo / "public/metadata").glob("*.snapshot.json"), key=_version)
    meta = json.loads(snapshot.read_bytes())["signed"]["meta"]
    assert all("hashes" in described for described in meta.values())
    assert "3 added" in desk.fetch()


def _version(path: Path) -> int:
    return int(path.name.partition(".")[0])


# Notices


def test_a_notice_is_shown_to_who_signs_it(desk: Desk) -> None:
    desk.hand_over("notices", *PEOPLE)
    draft = desk.place()
    text = ("--description", "All of it.", "--list", "baseline")
    done = desk.notice("n-2", *text, "--draft", draft, "--format", "json")
    assert json.loads(done.out) == {"id": "n-2", "type": "Alert", "draft": str(draft)}
    shown = desk.provider("draft", "show", draft, code=3).out
    for line in ("notice n-2 is new", "  headline      A test", "    All of it."):
        assert f"{line}\n" in shown
    document = json.loads(desk.provider("draft", "show", draft, "--format", "json", code=3).out)
    assert [notice["id"] for notice in document["notices"]["added"]] == ["n-2"]
    desk.sign(draft, "alice", "bob")
    desk.provider("draft", "publish", desk.repo, draft)
    for verb, old in (("update", "n-2"), ("cancel", "n-3")):
        draft = desk.place()
        more = ("--id", "n-3") if verb == "update" else ()
        desk.provider("notice", verb, desk.repo, old, *more, "--draft", draft)
        desk.sign(draft, "bob", "carol")
        desk.provider("draft", "publish", desk.repo, draft)
    listed = json.loads(desk.provider("notice", "list", desk.repo, "--format", "json").out)
    found = {n["notice"]["id"]: n["state"] for n in listed["notices"]}
    assert {name: found[name] for name in ("n-1", "n-2", "n-3")} == {
        "n-1": "open",
        "n-2": "updated",
        "n-3": "cancelled",
    }
    desk.fetch()
    published = list(audit_log.read(desk.repo / "log"))[-1]
    assert (published.event, len(published.data["notices"])) == ("draft-published", 1)
    assert len(published.data["signers"]["notices"]) == 2


def test_the_first_notice_may_be_a_draft(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)))
    client = PlainClient(tmp_path / "client", simulator)
    client.generation()
    board, draft = NoticeBoard(simulator.repository), tmp_path / "draft"
    make_pair(tmp_path / "a.pem", tmp_path / "a.pub", None)
    keys = Keys(1, 1, (load_public(tmp_path / "a.pub"),))
    with pytest.raises(UsageError, match="people who keep their own keys"):
        board.publish(SAID, simulator.now, keys=keys)
    board.publish(SAID, simulator.now, keys=keys, draft=draft)
    assert board.standing(simulator.now) == []
    assert load_draft(draft).with_other_keys() == ["notices"]
    sign(draft, tmp_path / "a.pem")
    simulator.repository.publish_draft(draft)
    simulator.serve_published()
    assert len(board.standing(simulator.now)) == 1
    assert client.generation() == 1
    with pytest.raises(UsageError, match="the role has its keys already"):
        board.publish(SAID, simulator.now, keys=keys, draft=tmp_path / "other")


def test_notices_that_have_expired_are_taken_out_by_a_draft(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    board = NoticeBoard(simulator.repository)
    board.publish(SAID, simulator.now)
    simulator.now += timedelta(days=70)
    simulator.renew()
    draft = tmp_path / "draft"
    board.publish(SAID, simulator.now, draft=draft)
    found = load_draft(draft).notices
    assert found is not None and (len(found.added), len(found.removed)) == (1, 1)
    simulator.repository.publish_draft(draft)
    (standing,) = board.standing(simulator.now)
    assert standing.notice.id == found.added[0].id
    assert len(list((tmp_path / "repo/public/targets/notices").iterdir())) == 2
    simulator.now += timedelta(days=2)
    board.publish(SAID, simulator.now, draft=tmp_path / "next")
    simulator.repository.publish_draft(tmp_path / "next")
    assert len(list((tmp_path / "repo/public/targets/notices").iterdir())) == 2


# Changes between making and publishing a draft


def edited(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document["signed"])
    path.write_text(json.dumps(document))


def other_text(draft: Path) -> None:
    (notice,) = (draft / "files/notices").iterdir()
    notice.write_bytes(notice.read_bytes().replace(b"A test", b"B test"))


NOTICES = "hashclient-notices"
CHANGED: dict[str, Callable[[Path], object]] = {
    "a snapshot that names another version": lambda d: edited(
        d / "roles/snapshot.json", lambda s: s["meta"]["baseline.json"].update(version=9)
    ),
    "a snapshot without a list": lambda d: edited(
        d / "roles/snapshot.json", lambda s: s["meta"].pop("baseline.json")
    ),
    "a snapshot with one more role": lambda d: edited(
        d / "roles/snapshot.json", lambda s: s["meta"].update({"x.json": {"version": 1}})
    ),
    "a snapshot of a version ahead": lambda d: edited(
        d / "roles/snapshot.json", lambda s: s.update(version=999)
    ),
    "a timestamp that names another snapshot": lambda d: edited(
        d / "roles/timestamp.json", lambda s: s["meta"]["snapshot.json"].update(version=999)
    ),
    "a timestamp in place of the snapshot": lambda d: shutil.copy(
        d / "roles/timestamp.json", d / "roles/snapshot.json"
    ),
    "no snapshot before": lambda d: (d / "before/snapshot.json").unlink(),
    "a snapshot before that is not signed": lambda d: edited(
        d / "before/snapshot.json", lambda s: s.update(version=1)
    ),
    "another text": other_text,
    "no text": lambda d: shutil.rmtree(d / "files/notices"),
    "a notice less": lambda d: edited(d / "roles/notices.json", lambda s: s["targets"].clear()),
    "a notice that is published, changed": lambda d: edited(
        d / "roles/notices.json", lambda s: s["targets"]["notices/n-1.json"].update(length=1)
    ),
    "a file that is no notice": lambda d: edited(
        d / "roles/notices.json",
        lambda s: s["targets"].update(
            {"lists/baseline/x": {"length": 1, "hashes": {"sha256": "00" * 32}}}
        ),
    ),
    "a delegation": lambda d: edited(
        d / "roles/notices.json", lambda s: s.update(delegations={"keys": {}, "roles": []})
    ),
    "other keys of notices before": lambda d: edited(
        d / "before/targets.json", lambda s: s[NOTICES]["roles"][0].update(threshold=1)
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("when", ["before it is signed", "after"])
def test_naming_roles_and_notices_of_a_draft_that_were_changed_are_refused(
    handed_over: Path, tmp_path: Path, name: str, when: str
) -> None:
    """The person who should sign and the provider that should publish refuse the draft."""
    desk = Desk(Path(shutil.copytree(handed_over, tmp_path / "desk")))
    draft = desk.place()
    desk.notice("n-2", "--draft", draft)
    if when == "after":
        desk.sign(draft, "alice", "bob")
    CHANGED[name](draft)
    before = desk.published()
    # Before anybody has signed, a draft that removes a notice is valid, and signers are shown the
    # removal.
    if (name, when) != ("a notice less", "before it is signed"):
        desk.sign(draft, "carol", code=2 if name == "no text" else 6)
    assert call("provider", "draft", "publish", desk.repo, draft).code in (2, 6, 8)
    assert desk.published() == before


def test_a_root_gives_no_other_keys_than_the_draft_says(desk: Desk) -> None:
    draft = desk.place()
    words = ("--threshold", 1, *desk.public("alice"), "--draft", draft)
    desk.provider("rotate", desk.repo, "snapshot", *words)
    shutil.rmtree(draft / "signatures")
    edited(draft / "roles/root.json", lambda s: s["roles"]["timestamp"].update(threshold=2))
    with pytest.raises(VerificationError):  # the threshold is above the number of keys
        load_draft(draft)
    key = desk.provider("draft", "show", draft, code=6)
    assert "the draft" in key.err
    (draft / "roles/snapshot.json").unlink()
    edited(draft / "roles/root.json", lambda s: s["roles"]["timestamp"].update(threshold=1))
    with pytest.raises(VerificationError, match="the root has other keys for role snapshot"):
        load_draft(draft)


def test_targets_give_notices_no_other_keys_than_the_draft_says(desk: Desk) -> None:
    desk.hand_over("notices", *PEOPLE)
    draft = desk.place()
    desk.publish("second", 10, "--draft", draft)
    shutil.rmtree(draft / "signatures")
    edited(draft / "roles/targets.json", lambda s: s[NOTICES]["roles"][0].update(threshold=1))
    with pytest.raises(VerificationError, match="change list notices, which is not in the draft"):
        load_draft(draft)
    edited(draft / "roles/targets.json", lambda s: s[NOTICES]["roles"][0].update(threshold=2))
    edited(draft / "roles/targets.json", lambda s: s[NOTICES].update(more=1))
    with pytest.raises(VerificationError, match="has unknown fields"):
        load_draft(draft)
    edited(draft / "roles/targets.json", lambda s: s.update({NOTICES: []}))
    with pytest.raises(VerificationError, match="role of notices in targets is not valid"):
        load_draft(draft)


# Kills, and time


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the program catches it."""


@pytest.mark.sampled
@pytest.mark.parametrize("role", ["root", "snapshot", "timestamp", "notices"])
def test_a_kill_leaves_a_state_that_the_same_draft_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Keys that the root names change in two steps, and a client follows after each step."""
    first = Simulator(tmp_path / "repo")
    first.publish(csv(range(3)))
    NoticeBoard(first.repository).publish(SAID, first.now)
    for name in PEOPLE:
        make_pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub", None)
    keys = Keys(3, 2, tuple(load_public(tmp_path / f"{name}.pub") for name in PEOPLE))
    draft = tmp_path / "draft"
    first.repository.rotate(role, keys, draft=draft)
    for name in ("alice", "bob"):
        sign(draft, tmp_path / f"{name}.pem")
    real, kills = system_files.write_atomic, 0
    for writes in range(20):
        shutil.copytree(tmp_path / "repo", tmp_path / f"repo-{writes}")
        simulator = Simulator(tmp_path / f"repo-{writes}", now=first.now)
        client = PlainClient(tmp_path / f"client-{writes}", simulator)
        assert client.generation() == 1
        left = writes

        def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(path, data, mode=mode)

        with monkeypatch.context() as patch:
            patch.setattr(provider_roles, "write_atomic", write)
            try:
                simulator.repository.publish_draft(draft)
                break
            except Killed:
                kills += 1
        simulator.serve_published()
        assert client.generation() == 1
        # A root that clients see is published, although the copy for new clients may be older.
        if len(list((simulator.repository.public / "metadata").glob("*.root.json"))) == 1:
            simulator.repository.publish_draft(draft)
            assert simulator.repository.load().key_policy(role)[1] == 2
        simulator.serve_published()
        assert client.generation() == 1
    assert kills == {"root": 2, "snapshot": 4, "timestamp": 3, "notices": 4}[role]


@pytest.mark.slow
def test_roles_that_people_sign_are_renewed_by_a_draft(tmp_path: Path) -> None:
    """The timestamp is valid for a week, so the people with its key sign at least weekly."""
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)))
    client = PlainClient(tmp_path / "client", simulator)
    client.generation()
    make_pair(tmp_path / "a.pem", tmp_path / "a.pub", None)
    keys = Keys(1, 1, (load_public(tmp_path / "a.pub"),))
    repository, count = simulator.repository, 0

    def signed(make: Callable[..., object]) -> set[str]:
        nonlocal count
        count += 1
        draft = tmp_path / f"draft-{count}"
        make(draft=draft)
        sign(draft, tmp_path / "a.pem")
        repository.publish_draft(draft)
        simulator.serve_published()
        assert client.generation() == 1
        return set(load_draft(draft).roles)

    for role in ("timestamp", "snapshot"):
        signed(partial(repository.rotate, role, keys))
    with pytest.raises(UsageError, match="no role is due whose keys are elsewhere"):
        repository.draft_renewal(tmp_path / "early")
    with pytest.raises(StateError, match="role timestamp needs 1 signing"):
        repository.renew()
    simulator.now += timedelta(days=5)
    assert signed(repository.draft_renewal) == {"timestamp"}
    simulator.now += timedelta(days=12)
    assert signed(repository.draft_renewal) == {"timestamp", "snapshot"}
    # A draft can be published only until its timestamp expires.
    late = tmp_path / "late"
    simulator.publish(csv(range(5, 8)), draft=late)
    sign(late, tmp_path / "a.pem")
    simulator.now += timedelta(days=8)
    with pytest.raises(StateError, match="role timestamp of the draft has expired"):
        repository.publish_draft(late)
