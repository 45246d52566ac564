"""Other users of the machine, while root signs, writes outputs and reads configuration."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from securesystemslib.signer import Signature

from fixtures.client import csv
from fixtures.crash import interrupt_at, watched
from fixtures.desk import A, B, Desk
from fixtures.simulator import Simulator
from hashclient.core.errors import StateError, UsageError
from hashclient.packages.verify import verify_package, verify_retraction
from hashclient.provider.drafts import load_draft
from hashclient.provider.keyfiles import Passphrases, change_passphrase, load_public, make_pair
from hashclient.provider.keys import Keys
from hashclient.quarantine.age import load_identities, write_identity
from hashclient.quarantine.evidence import opener_of
from tests.kit import State, attacker, call
from tests.kit.attacker import (
    Victim,
    attack_once,
    attacking,
    exchange,
    give_tree,
    link,
    make_fifo,
    needs_root,
    remove,
    rename,
)

pytestmark = needs_root

#: A race has five rounds. In slow runs, four further tests have 50 rounds each.
rounds = pytest.mark.parametrize(
    "rounds", [5, *(pytest.param(50, marks=pytest.mark.slow, id=f"50-{n}") for n in range(4))]
)


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


_urandom = os.urandom


def guessable(count: int) -> bytes:
    """Return zeros for the names of temporary files, which are made from eight random bytes."""
    return bytes(count) if count == 8 else _urandom(count)


def until_seen(is_so: Callable[[], bool]) -> None:
    """Wait until an attack has an effect that the test can see."""
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, "the attack does not succeed"


@pytest.mark.slow
@rounds
def test_a_draft_that_another_user_exchanges_is_never_signed(ground: Path, rounds: int) -> None:
    """The signature is of the draft that was shown, or there is no signature."""
    home, theirs = ground / "home", ground / "theirs"
    home.mkdir(mode=0o700)
    theirs.mkdir()
    repo = Simulator(home / "repo")
    make_pair(home / "a.pem", home / "a.pub", None)
    key = load_public(home / "a.pub")
    first, second = theirs / "draft", theirs / "other"
    for draft, numbers in ((first, range(3)), (second, range(40))):
        repo.publish(csv(numbers), draft=draft, list_keys=Keys(1, 1, (key,)))
    found = load_draft(first)
    words = ("provider", "draft", "sign", first, "--root", home / "repo" / "root.json")
    give_tree(theirs, {})
    codes, steps = set(), 0
    for _ in range(rounds):
        with attacking(exchange(first, second), most_pause_us=20_000) as attack:
            signed = call(*words, "--draft-digest", found.digest, "--key", home / "a.pem")
        codes.add(signed.code)
        steps += attack.succeeded
        for path in theirs.glob("*/signatures/baseline-*"):
            signature = Signature(key.keyid, json.loads(path.read_bytes())["sig"])
            key.verify_signature(signature, found.roles["baseline"].signed_bytes)
            path.unlink()
    assert steps > 0
    assert codes <= {0, 2, 6}


# Outputs

LISTED = b"a benign file that the list names"


class Outputs:
    """A state of root, and a directory of another user into which root writes an output."""

    def __init__(self, ground: Path) -> None:
        """Make the state and the directory, and a file of root that nobody else may change."""
        (ground / "home").mkdir(mode=0o700)
        self.state = State(ground / "home", {"base": {"e": LISTED}}, {"a": LISTED, "b": b"other"})
        self.victim = Victim(ground / "closed" / "out", b"root's")
        self.theirs = give_tree(ground / "theirs", {"out": b"theirs", "real/x": b""})
        self.out = self.theirs / "out"

    def write(self, kind: str) -> int:
        """Let root write an output of a kind, and return the exit code."""
        words = {
            "scan": ("scan", "--output", self.out, self.state.tree),
            "status": ("status", "--output", self.out),
            "checkpoint": ("audit", "checkpoint", "--output", self.out),
            "keygen": ("quarantine", "keygen", "--output", self.out),
        }
        return self.state.call(*words[kind]).code


KINDS = ("scan", "status", "checkpoint", "keygen")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trap", ["link", "link to a directory", "pipe", "file"])
def test_an_output_in_a_directory_of_another_user_leads_nowhere_else(
    ground: Path, kind: str, trap: str
) -> None:
    """The output is refused by name, or replaces the old file; a pipe does not block it."""
    scene = Outputs(ground)
    attack_once(remove(scene.out))
    if trap == "link":
        attack_once(link(scene.out, scene.victim.path))
    elif trap == "link to a directory":
        attack_once(link(scene.theirs / "dir", scene.victim.path.parent))
        scene.out = scene.theirs / "dir" / "new"
    elif trap == "pipe":
        attack_once(make_fifo(scene.out))
    else:
        attack_once(attacker.write(scene.out, "theirs"))
    code = scene.write(kind)
    assert scene.victim.is_untouched()
    takes_the_place = kind in ("status", "checkpoint") and trap in ("link", "file")
    if not takes_the_place:
        assert code == 2
    else:
        assert stat.S_ISREG(scene.out.lstat().st_mode) and scene.out.lstat().st_uid == 0


@pytest.mark.slow
@rounds
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_never_written_through_a_link_that_is_exchanged(
    ground: Path, kind: str, rounds: int
) -> None:
    """The attacker puts a symbolic link in the place of the file or of its directory."""
    scene = Outputs(ground)
    scene.out = scene.theirs / "real" / "out"
    attack_once(link(scene.theirs / "link", scene.victim.path.parent))
    codes = set()
    for number in range(rounds):
        with attacking(exchange(scene.theirs / "real", scene.theirs / "link")):
            until_seen((scene.theirs / "real").is_symlink)
            codes.add(scene.write(kind))
        assert scene.victim.is_untouched(), number
        for path in scene.theirs.rglob("out"):
            path.unlink(missing_ok=True)
    assert codes <= {0, 2, 8, 10}


# Packages and drafts that root writes into directories of other users


def their_link(path: Path, target: Path) -> None:
    """Make a link that belongs to the attacker, without starting a process."""
    path.symlink_to(target)
    os.chown(path, attacker.ATTACKER, attacker.ATTACKER, follow_symlinks=False)


def clear(directory: Path, *, keep: str = "") -> None:
    """Remove what an attack has left in a directory."""
    for path in directory.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name != keep:
            shutil.rmtree(path)


@pytest.mark.slow
@rounds
@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_package_in_a_directory_of_another_user_is_written_nowhere_else(
    ground: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, is_sealed: bool
) -> None:
    """The attacker knows the temporary name, and exchanges it with a link."""
    key = write_identity(ground / "recipient.key", datetime(2026, 1, 31, tzinfo=UTC))
    table = f'[report.to.sealed]\nkind = "package"\ndirectory = "{ground}/desk/out"\n'
    desk = Desk(ground / "desk", f'{table}recipients = ["{key}"]\n')
    suffix = ".tar.age" if is_sealed else ""
    victim = Victim(ground / "closed" / "file", b"root's")
    give_tree(desk.out, {})
    attack_once(link(desk.out / "link", victim.path.parent))
    monkeypatch.setattr(os, "urandom", guessable)
    for number in range(rounds):
        match = desk.find(f"f{number}", A)
        report = desk.prepare(match, to="sealed" if is_sealed else "police")
        package = f"hashclient-report-{report.id}{suffix}"
        names = [f".tmp-{package}", f".tmp-{package}.{'0' * 16}"]
        with attacking(*(exchange(desk.out / name, desk.out / "link") for name in names)):
            sent = desk.send(report)
        assert victim.is_untouched(), number
        if sent.error is None:
            identities = load_identities(ground / "recipient.key")
            verify_package(desk.out / package, opener=opener_of(identities))
        clear(desk.out, keep=package)
        their_link(desk.out / "link", victim.path.parent)
    # The attacker may have caused each attempt to be refused; without the attacker, the next
    # attempt succeeds.
    calm = desk.prepare(desk.find("calm", A), to="sealed" if is_sealed else "police")
    assert desk.send(calm).error is None


@pytest.mark.parametrize("name", ["README.txt", "report.json"])
def test_a_closed_directory_under_the_name_of_a_leftover_is_not_removed(
    ground: Path, name: str
) -> None:
    """The directory's owner could not remove it, but may rename it within their directory."""
    desk = Desk(ground / "desk")
    give_tree(desk.out, {})
    victim = Victim(desk.out / "closed" / "file", b"root's")
    (victim.path.parent / name).write_bytes(b"root's")
    other, report = desk.prepare(desk.find("a", A)), desk.prepare(desk.find("b", B))
    assert desk.send(other).error is None
    moved, package = (desk.out / f".tmp-hashclient-report-{report.id}{n}" for n in ("", ".1"))
    attack_once(rename(victim.path.parent, moved))
    attack_once(rename(desk.out / f"hashclient-report-{other.id}", package))
    assert desk.send(report).error is None
    assert {path.name for path in moved.iterdir()} == {name, "file"}
    verify_package(package)


def test_a_pipe_under_the_name_of_a_package_is_not_waited_for(ground: Path) -> None:
    """The record names a package that should appear, but a pipe has the name."""
    desk = Desk(ground / "desk")
    give_tree(desk.out, {})
    report = desk.prepare(desk.find("a", A))
    with watched(interrupt_at("rename", report.id)), pytest.raises(KeyboardInterrupt):
        desk.send(report)
    target = desk.out / f"hashclient-report-{report.id}"
    for trap in ("pipe", "link"):
        attack_once(make_fifo(target) if trap == "pipe" else link(target, ground / "desk"))
        sent = desk.send(report)
        assert isinstance(sent.error, StateError)
        attack_once(remove(target))
    assert desk.send(report).error is None


@pytest.mark.slow
@rounds
def test_a_draft_in_a_directory_of_another_user_is_written_nowhere_else(
    ground: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    (ground / "home").mkdir(mode=0o700)
    repo = Simulator(ground / "home" / "repo")
    make_pair(ground / "home" / "a.pem", ground / "home" / "a.pub", None)
    keys = Keys(1, 1, (load_public(ground / "home" / "a.pub"),))
    victim = Victim(ground / "closed" / "file", b"root's")
    theirs = give_tree(ground / "theirs", {})
    attack_once(link(theirs / "link", victim.path.parent))
    temporary = theirs / f".tmp-{'0' * 16}"
    monkeypatch.setattr(os, "urandom", guessable)
    for number in range(rounds):
        draft = theirs / f"draft-{number}"
        with (
            attacking(exchange(temporary, theirs / "link")),
            contextlib.suppress(UsageError, StateError),
        ):
            repo.publish(csv(range(3)), draft=draft, list_keys=keys)
            load_draft(draft)
        assert victim.is_untouched(), number
        clear(theirs)
        their_link(theirs / "link", victim.path.parent)
    # The attacker may have caused each attempt to be refused; without the attacker, the next
    # attempt succeeds.
    repo.publish(csv(range(3)), draft=theirs / "calm", list_keys=keys)
    load_draft(theirs / "calm")


# Bundles and copies that root fetches from


@pytest.mark.slow
@rounds
@pytest.mark.parametrize("kind", ["bundle", "copy"])
def test_a_bundle_that_another_user_exchanges_gives_a_signed_list_or_none(
    ground: Path, kind: str, rounds: int
) -> None:
    """The bundle is exchanged with another valid bundle, or with a link to a secret file."""
    (ground / "home").mkdir(mode=0o700)
    secret = b"a line of root's that nobody may see"
    victim = Victim(ground / "closed" / "metadata" / "timestamp.json", secret)
    theirs = give_tree(ground / "theirs", {})
    repo = Simulator(ground / "home" / "repo")
    for name, numbers in (("first", range(3)), ("second", range(3, 40))):
        repo.publish(csv(numbers))
        if kind == "bundle":
            words = ("provider", "export", ground / "home" / "repo", "--to", theirs / name)
            assert call(*words).code == 0
        else:
            shutil.copytree(ground / "home" / "repo" / "public", theirs / name)
    give_tree(theirs, {})
    is_copy = kind == "copy"
    leads_to = victim.path.parent.parent if is_copy else victim.path
    attack_once(link(theirs / "link", leads_to))
    root = ground / "home" / "repo" / "root.json"
    codes = set()
    for number in range(rounds):
        state = ("--state-dir", ground / "home" / f"state-{number}")
        steps = (
            exchange(theirs / "first", theirs / "second"),
            exchange(theirs / "first", theirs / "link"),
        )
        with attacking(*steps, most_pause_us=10_000):
            call(*state, "init", "--root", root, "--from", theirs / "first")
            fetched = call(*state, "fetch", "--from", theirs / "first", "--format", "json")
        codes.add(fetched.code)
        assert secret.decode() not in fetched.out + fetched.err
        if fetched.code == 0:
            (found,) = json.loads(fetched.out)["lists"]
            assert (found["generation"], found["added"]) in {(1, 3), (2, 40)}
        shutil.rmtree(ground / "home" / f"state-{number}", ignore_errors=True)
    assert victim.is_untouched()
    assert codes <= {0, 2, 3, 4, 6, 8}


def test_a_new_passphrase_replaces_no_key_on_a_way_of_others(ground: Path) -> None:
    """Another user may exchange the path after the key was read: another key would be lost."""
    closed = give_tree(ground / "theirs", {"x": b""}) / "closed"
    closed.mkdir(mode=0o700)
    make_pair(closed / "key.pem", closed / "key.pub", None)
    before = (closed / "key.pem").read_bytes()
    with pytest.raises(UsageError, match="on a way that user nobody may change"):
        change_passphrase(closed / "key.pem", Passphrases(lambda _: None), lambda: b"a new one")
    assert (closed / "key.pem").read_bytes() == before


@pytest.mark.slow
@rounds
def test_a_note_of_retraction_in_a_directory_of_another_user_is_written_nowhere_else(
    ground: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """The name or temporary name of the note is a link; the package is missing or is a link."""
    desk = Desk(ground / "desk")
    victim = Victim(ground / "closed" / "file", b"root's")
    give_tree(desk.out, {})
    monkeypatch.setattr(os, "urandom", guessable)
    retracted = 0
    for number in range(rounds):
        report = desk.prepare(desk.find(f"f{number}", A))
        assert desk.send(report).error is None
        package = desk.out / f"hashclient-report-{report.id}"
        note = desk.out / f"{package.name}-retraction.json"
        their_link(desk.out / "link", victim.path)
        traps = (desk.out / f".tmp-{'0' * 16}", note, package)
        with attacking(*(exchange(trap, desk.out / "link") for trap in traps)):
            sent = desk.retract(report)
        assert victim.is_untouched(), number
        retracted += sent.error is None
        if note.is_file() and not note.is_symlink():
            verify_retraction(note)
        clear(desk.out)
    assert retracted > 0


# Inputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("scan", "--files-from"), 2),
        (("lookup", "--from"), 2),
        (("audit", "verify", "--checkpoint"), 2),
        (("report", "verify"), 2),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_pipe_of_another_user_as_an_input_is_not_waited_for(
    ground: Path, words: tuple[str, ...], code: int
) -> None:
    """The pipe may also replace a file that root has named."""
    scene = Outputs(ground)
    assert scene.state.scan(scene.state.tree).code == 10
    attack_once(make_fifo(scene.theirs / "pipe"))
    done = scene.state.call(*words, scene.theirs / "pipe")
    assert done.code == code
    assert "a pipe of another user" in done.err or "not a regular file" in done.err


def test_a_pipe_of_ours_is_waited_for_and_so_is_one_of_a_shell(ground: Path) -> None:
    scene = Outputs(ground)
    ours = ground / "pipe"
    os.mkfifo(ours)
    name = f"{scene.state.tree}/a\n".encode()
    writer = threading.Thread(target=ours.write_bytes, args=(name,))
    writer.start()
    assert scene.state.call("scan", "--files-from", ours).code == 10
    writer.join()
    reading, writing = os.pipe()
    os.fchown(reading, attacker.ATTACKER, attacker.ATTACKER)
    os.write(writing, name)
    os.close(writing)
    assert scene.state.call("scan", "--files-from", f"/dev/fd/{reading}").code == 10
    os.close(reading)
