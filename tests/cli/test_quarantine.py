"""`hashclient quarantine`, as an administrator uses it: the real command on a real state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hashclient.core.errors import ExitCode, StateError
from hashclient.core.kinds import MatchState
from hashclient.matches.store import Matches
from hashclient.quarantine.store import Room
from tests.kit import Run, State, bytes_path, call, run

FILES = {"a/one.bin": b"benign one", "a/two.bin": b"benign two", "b/three.bin": b"benign three"}


class Desk(State):
    """Files that match, and an officer's key."""

    def __init__(self, directory: Path) -> None:
        entries = {Path(name).stem: data for name, data in FILES.items()}
        super().__init__(directory, {"baseline": entries}, {**FILES, "clean.txt": b"clean"})
        self.key = directory / "officer.key"
        made = call("quarantine", "keygen", "--output", self.key, "--format", "json")
        self.public: str = json.loads(made.out)["public_key"]
        self.set(recipients=[self.public])

    def set(self, **values: object) -> None:
        """Write the table `[quarantine]`; JSON's texts, lists and numbers are valid TOML."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        self.configure("\n".join(["[quarantine]", *lines, ""]))

    def act(self, *args: object) -> Run:
        """Run `hashclient quarantine` in this process."""
        return self.call("quarantine", *args)

    def items(self, *args: object) -> list[dict[str, Any]]:
        """Run a command with `--format json`, and return its items."""
        items: list[dict[str, Any]] = json.loads(self.act(*args, "--format", "json").out)["items"]
        return items

    def logged(self) -> list[dict[str, Any]]:
        """Return the audit log."""
        return self.call("audit", "show", "--format", "jsonl").lines


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_whole_way(desk: Desk) -> None:
    ids = desk.ids()
    assert len(ids) == 3
    done = desk.act("add", ids["one.bin"], "--reason", "ticket 4711")
    one = desk.tree / "a/one.bin"
    assert (done.code, done.out) == (0, f"{ids['one.bin']}  {one}  quarantined\n")
    assert not one.exists()
    done = desk.act("add", "--all")
    assert done.code == 0
    assert sorted(line.split("  ")[0] for line in done.out.splitlines()) == sorted(
        {ids["two.bin"], ids["three.bin"]}
    )
    assert [p.name for p in desk.tree.rglob("*.*")] == ["clean.txt"]
    assert desk.ids() == {}

    listed = desk.act("list")
    assert listed.code == 0 and len(listed.out.splitlines()) == 3
    assert f"{ids['one.bin']}  quarantined   since " in listed.out
    shown = desk.act("show", ids["one.bin"])
    assert "reason       ticket 4711" in shown.out
    assert desk.public in shown.out
    assert desk.act("verify").code == 0

    refused = desk.act("restore", ids["one.bin"], "--identity", desk.key, "--reason", "r")
    assert refused.code == ExitCode.USAGE and "is not withdrawn" in refused.err
    assert "--force" in refused.err
    done = desk.act(
        *("restore", ids["one.bin"], "--identity", desk.key, "--reason", "mistake", "--force")
    )
    assert (done.code, done.out) == (0, f"{ids['one.bin']}  {one}  restored\n")
    assert one.read_bytes() == FILES["a/one.bin"]
    story = [e["event"] for e in desk.logged() if e["data"].get("id") == ids["one.bin"]]
    assert story == ["match", "quarantine-sealed", "quarantined", "restoring", "restored"]
    verified = desk.call("audit", "verify")
    assert verified.code == 0
    assert desk.ids() == {"one.bin": ids["one.bin"]}


@pytest.mark.slow
def test_a_member_is_isolated_with_its_container_only_if_that_is_asked_for(desk: Desk) -> None:
    mail = b"From: a@example.org\nSubject: s\n\n"
    box = b"".join(
        b"From a@example.org Thu Jan  1 00:00:00 2026\n" + mail + body + b"\n\n"
        for body in (b"hello", b"begin 644 x\n*8F5N:6=N(&]N90``\n`\nend", b"bye")
    )
    path = desk.tree / "mail.mbox"
    path.write_bytes(box)
    (match_id,) = {line["id"] for line in desk.scan(path).lines[:-1] if "id" in line}
    refused = desk.act("add", match_id)
    assert refused.code == ExitCode.USAGE
    assert f"isolated with everything in it: {path}" in refused.err
    assert "--with-container does that; it matched in " in refused.err
    # If one of several files fails, the others are isolated nevertheless.
    several = desk.act("add", "--all")
    assert several.code == ExitCode.USAGE and "--with-container" in several.err
    assert path.exists()
    done = desk.act("add", match_id, "--with-container")
    assert done.code == 0
    assert "quarantined: the container, with everything in it besides " in done.out
    assert not path.exists()
    assert "in quarantine already" in desk.act("add", match_id).out


def test_a_scan_takes_away_what_it_finds(desk: Desk) -> None:
    found = desk.call("scan", "--quarantine", desk.tree)
    assert found.code == ExitCode.MATCH
    assert [p.name for p in desk.tree.rglob("*.*")] == ["clean.txt"]
    assert found.out.count("-> quarantined") == 3
    assert len(desk.items("list")) == 3


def test_all_withdrawn_files_are_restored_by_one_command(desk: Desk, tmp_path: Path) -> None:
    ids = desk.ids()
    desk.act("add", "--all")
    with Matches(desk.path) as record:
        record.withdraw("baseline", ["one", "two"], 4, datetime.now(UTC))
    assert "its entry was withdrawn: restore the file" in desk.act("list").out
    done = desk.act("restore", "--withdrawn", "--identity", desk.key, "--reason", "withdrawn")
    assert done.code == 0 and done.out.count("restored") == 2
    assert sorted(p.name for p in desk.tree.rglob("*.bin")) == ["one.bin", "two.bin"]
    assert [item["id"] for item in desk.items("list")] == [ids["three.bin"]]
    again = desk.act("restore", "--withdrawn", "--identity", desk.key, "--reason", "withdrawn")
    assert (again.code, again.out) == (0, "")
    assert "nothing in quarantine is withdrawn" in again.err


def test_all_files_of_an_entry_are_restored_by_one_command(desk: Desk) -> None:
    ids = desk.ids()
    desk.act("add", "--all")
    words = ("restore", "--identity", desk.key, "--reason", "ticket 4711", "--entry")
    refused = desk.act(*words, "baseline/one")
    assert refused.code == ExitCode.USAGE and "is not withdrawn" in refused.err
    done = desk.act(*words, "baseline/one", "--force")
    assert (done.code, done.out.split("  ")[0]) == (0, ids["one.bin"])
    assert [p.name for p in desk.tree.rglob("*.bin")] == ["one.bin"]
    again = desk.act(*words, "baseline/one", "--force")
    assert (again.code, again.out) == (0, "") and "matches that" in again.err
    assert desk.act(*words, "baseline").code == ExitCode.USAGE


def test_items_that_were_restored_and_not_dropped_are_dropped_by_the_same_command(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.ids()
    desk.act("add", "--all")
    with Matches(desk.path) as record:
        record.withdraw("baseline", ["one", "two"], 4, datetime.now(UTC))

    def fail(*_: object) -> None:
        raise StateError("cannot remove from the quarantine")

    restore = ("restore", "--withdrawn", "--identity", desk.key, "--reason", "withdrawn")
    with monkeypatch.context() as patched:
        patched.setattr(Room, "drop", fail)
        assert desk.act(*restore).code == ExitCode.STATE
    assert len(desk.items("list")) == 3
    done = desk.act(*restore)
    assert done.code == 0 and done.out.count("  restored\n") == 2
    assert len(desk.items("list")) == 1


def test_one_failure_does_not_keep_the_others(desk: Desk) -> None:
    ids = desk.ids()
    two = desk.tree / "a/two.bin"
    two.write_bytes(b"edited two")  # the edited file has its old length
    os.link(desk.tree / "b/three.bin", desk.tree / "b/name.bin")
    done = desk.act("add", ids["two.bin"], "bbbbbbbbbb", ids["one.bin"], ids["three.bin"])
    assert done.code == ExitCode.INCOMPLETE
    assert "hashclient: warning: bbbbbbbbbb: no match has the id bbbbbbbbbb" in done.err
    details = {line.split("  ")[0]: line.split("  ")[2] for line in done.out.splitlines()}
    assert details == {
        ids["two.bin"]: "not quarantined: changed: it is not the file that matched any more",
        ids["one.bin"]: "quarantined",
        ids["three.bin"]: "quarantined; 1 other name of it remains",
    }
    assert two.read_bytes() == b"edited two"


def test_json_says_all_that_text_does(desk: Desk) -> None:
    ids = desk.ids()
    items = desk.items("add", "bbbbbbbbbb", ids["one.bin"])
    assert items == [
        {"id": "bbbbbbbbbb", "done": False, "detail": "no match has the id bbbbbbbbbb"},
        {
            "id": ids["one.bin"],
            "path": str(desk.tree / "a/one.bin"),
            "done": True,
            "detail": "quarantined",
            "attention": False,
            "sealed": True,
        },
    ]
    (item,) = desk.items("list")
    assert item["state"] == "quarantined" and item["entries"][0]["entry"] == "one"
    shown = json.loads(desk.act("show", ids["one.bin"], "--format", "json").out)
    assert {key: shown[key] for key in item} == item
    assert Path(shown["evidence"]).read_bytes().startswith(b"age-encryption.org/v1\n")
    (held,) = desk.items("hold", ids["one.bin"], "--reason", "order")
    assert held["detail"] == "on hold"
    (asked,) = desk.items("purge", "--dry-run")
    assert asked["done"] is False and asked["detail"].startswith("not purged: on hold since")
    (released,) = desk.items("release", ids["one.bin"], "--reason", "lifted")
    assert released["detail"] == "released"
    (found,) = desk.items("verify")
    assert found["detail"] == "whole"


def test_a_path_of_any_bytes_is_shown_without_loss(desk: Desk) -> None:
    name = os.fsdecode(b"caf\xe9\n.bin")
    (desk.tree / "a/one.bin").rename(desk.tree / name)
    ids = desk.ids()
    (item,) = desk.items("add", ids[json.loads(json.dumps("caf\ufffd\n.bin"))])
    assert bytes_path(item) == os.fsencode(desk.tree / name)
    assert "caf\\xe9\\x0a.bin" in desk.act("list").out


def test_no_act_goes_without_a_reason(desk: Desk) -> None:
    item = desk.ids()["one.bin"]
    desk.act("add", item)
    for act in (["hold"], ["purge", "--force"], ["restore", "--force", "--identity", desk.key]):
        result = desk.act(*act, item, "--reason", " ")
        assert result.code == ExitCode.USAGE and "--reason is empty" in result.err
    assert len(desk.items("list")) == 1


@pytest.mark.slow
def test_a_path_that_is_too_long_for_the_log_keeps_nothing_out_of_it(desk: Desk) -> None:
    name = "\1" * 250
    fd = os.open(desk.tree, os.O_RDONLY)
    for _ in range(900):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    with os.fdopen(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as stream:
        stream.write(FILES["a/one.bin"])
    os.close(fd)
    try:
        scanned = desk.call("scan", desk.tree)
        assert scanned.code == ExitCode.MATCH, scanned.err
        events = [event["event"] for event in desk.logged()]
        assert events[-6:] == ["scan-start", *["match"] * 4, "scan-end"]
        assert desk.act("add", "--all").code == ExitCode.OK
        assert len(desk.items("list")) == 4
    finally:
        subprocess.run(["rm", "-rf", desk.tree / name], check=True)


def test_taking_all_finishes_what_a_kill_left_between_the_record_and_the_item(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = desk.ids()

    def stop(*_: object, **__: object) -> None:
        raise StateError("as a kill does")

    with monkeypatch.context() as patch:
        patch.setattr("hashclient.quarantine.store.Room.saving", stop)
        assert desk.act("add", ids["one.bin"]).code == ExitCode.STATE
    damaged = desk.path / "quarantine" / ids["two.bin"] / "item.json"
    assert desk.act("verify").code == ExitCode.INCOMPLETE
    assert desk.act("add", ids["two.bin"]).code == ExitCode.OK
    damaged.write_text("{}")
    done = desk.act("add", "--all")
    assert done.code == ExitCode.OK
    assert {line.split("  ")[0] for line in done.out.splitlines()} == {
        ids["one.bin"],
        ids["three.bin"],
    }
    findings = desk.act("verify")
    assert f"{ids['one.bin']}  whole" in findings.out
    assert desk.act("add", "--all").out == ""


def test_purging(desk: Desk) -> None:
    ids = desk.ids()
    desk.set(recipients=[desk.public], keep_days=0)
    desk.act("add", "--all")
    assert desk.act("purge").out == ""
    named = desk.act("purge", ids["one.bin"])
    assert named.code == ExitCode.INCOMPLETE
    assert "not purged: kept until a report of it is acknowledged" in named.out
    for wrong in (["--force"], ["--force", ids["one.bin"]], ["--force", "--reason", "x"]):
        refused = desk.act("purge", *wrong)
        assert refused.code == ExitCode.USAGE and "needs ids and a --reason" in refused.err
    desk.act("hold", ids["one.bin"], "--reason", "order 12/34")
    assert desk.act("purge", "--order", " ", ids["one.bin"]).code == 2
    forced = desk.act("purge", "--force", ids["one.bin"], ids["two.bin"], "--reason", "order 17")
    assert forced.code == ExitCode.INCOMPLETE
    assert f"{ids['two.bin']}  {desk.tree / 'a/two.bin'}  purged\n" in forced.out
    assert {item["id"] for item in desk.items("list")} == {ids["one.bin"], ids["three.bin"]}
    purging = [e for e in desk.logged() if e["event"] == "purging"]
    assert [e["data"]["reason"] for e in purging] == ["order 17"]

    with Matches(desk.path) as record:
        record.change(ids["three.bin"], MatchState.ACKNOWLEDGED, datetime.now(UTC), {})
    asked = desk.act("purge", "--dry-run")
    assert asked.code == 0 and len(asked.out.splitlines()) == 2
    assert "would be purged: due since" in asked.out
    done = desk.act("purge")
    assert (done.code, len(done.out.splitlines())) == (0, 1)
    assert [item["id"] for item in desk.items("list")] == [ids["one.bin"]]


def test_verify_finds_damage(desk: Desk) -> None:
    ids = desk.ids()
    desk.act("add", "--all")
    evidence = desk.path / "quarantine" / ids["one.bin"] / "evidence.age"
    evidence.write_bytes(evidence.read_bytes()[:-1])
    found = desk.act("verify")
    assert found.code == ExitCode.STATE
    assert f"{ids['one.bin']}  evidence.age has " in found.out
    assert found.out.count("whole") == 2
    (evidence.parent / "item.json").write_text("{}")
    assert desk.act("list").code == ExitCode.STATE
    assert len(desk.items("list")) == 3


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["add"], 2, "no match to take"),
        (["add", "bbbbbbbbbb"], 2, "no match has the id"),
        (["show", "bbbbbbbbbb"], 2, "nothing in quarantine has the id"),
        (["show", "../audit"], 2, "not an id"),
        (["hold", "--reason", "x"], 2, "no item is given"),
        (["hold", "bbbbbbbbbb"], 2, "missing option '--reason'"),
        (["release", "bbbbbbbbbb", "--reason", "x"], 2, "nothing in quarantine has the id"),
        (["restore", "--identity", "KEY", "--reason", "x"], 2, "nothing to restore"),
        (
            ["restore", "a", "b", "--identity", "KEY", "--reason", "x", "--output", "f"],
            *(2, "--output is for one item"),
        ),
        (["restore", "a", "--identity", "none", "--reason", "x"], 2, "cannot read identity file"),
        (["keygen"], 2, "missing option '--output'"),
        (["keygen", "--output", "KEY"], 2, "file exists"),
    ],
)
def test_wrong_uses_are_refused(desk: Desk, args: list[str], code: int, words: str) -> None:
    result = desk.act(*(str(desk.key) if arg == "KEY" else arg for arg in args))
    assert result.code == code
    assert words in result.err


def test_without_recipients_it_says_what_to_do(desk: Desk) -> None:
    ids = desk.ids()
    (desk.path / "config.toml").write_text("")
    result = desk.act("add", *ids.values())
    assert result.code == ExitCode.USAGE
    assert result.err.count("no recipients for sealed files are configured") == 1
    assert "hashclient quarantine keygen" in result.err


def test_the_wrong_key(desk: Desk, tmp_path: Path) -> None:
    ids = desk.ids()
    desk.act("add", ids["one.bin"])
    desk.act("keygen", "--output", tmp_path / "other.key")
    args = ["restore", ids["one.bin"], "--reason", "x", "--force"]
    result = desk.act(*args, "--identity", tmp_path / "other.key")
    assert result.code == ExitCode.UNAUTHORISED
    assert "none of the identities opens the sealed file" in result.err
    (tmp_path / "other.key").chmod(0o644)
    result = desk.act(*args, "--identity", tmp_path / "other.key")
    assert result.code == ExitCode.USAGE and "can be read by others" in result.err


def test_the_secret_key_is_never_shown(tmp_path: Path) -> None:
    made = call("quarantine", "keygen", "--output", tmp_path / "officer.key")
    secret = (tmp_path / "officer.key").read_text().split()[-1]
    assert secret.startswith("AGE-SECRET-KEY-1")
    assert secret not in made.out + made.err
    public = (tmp_path / "officer.key").read_text().split("public key: ")[1].split()[0]
    assert made.out == f"{public}\n"
    assert "it stays on the officer's machine" in made.err
    assert (tmp_path / "officer.key").stat().st_mode & 0o777 == 0o600


def test_recipients_are_added_one_by_one(tmp_path: Path) -> None:
    """`keygen` keeps all other text of the configuration, and adds no key a second time."""
    state = tmp_path / "state"
    state.mkdir()
    config = state / "config.toml"
    # A policy may ask for quarantine before a key is configured.
    text = '# Kept.\n[[policy]]\nactions = ["quarantine"]  # all\n'
    config.write_text(text)
    where = ("--state-dir", state, "quarantine")
    refused = call(*where, "list")
    assert refused.code == 2 and "add-recipient" in refused.err
    publics = []
    for name in ("a.key", "b.key"):
        made = call(*where, "keygen", "--output", tmp_path / name, "--write-config")
        assert made.code == 0 and "move it to the officer's machine" in made.err
        publics.append(made.out.strip())
    third = call("quarantine", "keygen", "--output", tmp_path / "c.key").out.strip()
    for said in ("recipient added: ", "recipient is there already: "):
        added = call(*where, "add-recipient", third)
        assert (added.code, added.out) == (0, "")
        assert f"{config}: {said}{third}" in added.err
    publics.append(third)
    assert tomllib.loads(config.read_text())["quarantine"]["recipients"] == publics
    assert config.read_text().startswith(text)
    assert call(*where, "list").code == 0


def test_a_key_that_was_appended_to_the_file_is_said_to_be_one(tmp_path: Path) -> None:
    """A user may run `keygen >> config.toml`, once or twice."""
    config = tmp_path / "config.toml"
    text = "[scan]\njobs = 2\n"
    for name in ("a.key", "b.key"):
        text += call("quarantine", "keygen", "--output", tmp_path / name).out
        config.write_text(text)
        result = call("--state-dir", tmp_path, "scan", tmp_path)
        assert result.code == 2
        assert "hint: line 3 is a public key: remove the line, and give the key to" in result.err
        assert "`hashclient quarantine add-recipient`" in result.err


def test_a_key_that_would_not_count_is_not_added(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    text = '[quarantine]\nrecipients = []\n[since."0.1".quarantine]\nrecipients = ["age1x"]\n'
    config.write_text(text)
    key = call("quarantine", "keygen", "--output", tmp_path / "a.key").out.strip()
    result = call("--state-dir", tmp_path, "quarantine", "add-recipient", key)
    assert result.code == 2 and "[since] outranks" in result.err
    assert config.read_text() == text


def test_a_key_is_made_only_where_the_configuration_can_be_written(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[[quarantine]]\nkeep_days = 3\n")
    key = tmp_path / "officer.key"
    where = ("--state-dir", tmp_path, "quarantine")
    for args in (("keygen", "--write-config", "--output", key), ("add-recipient", "age1x")):
        result = call(*where, *args)
        assert result.code == 2, result
        assert config.read_text() == "[[quarantine]]\nkeep_days = 3\n"
    assert not key.exists()


#: Contents of key files with invented keys.
SECRETS = (
    "# created: today\n# public key: age1x\nAGE-SECRET-KEY-1TWC4QQQQTWC4",
    "age-secret-key-1twc4qqqq",  # the key is cut short
    "-----BEGIN OPENSSH PRIVATE KEY-----\nTWC4QQ==\nTWC4=\n-----END OPENSSH PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nTWC4QQ==\n-----END PRIVATE KEY-----\n",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("words", ["quarantine add-recipient", "quarantine show", "matches show"])
def test_a_secret_key_that_is_given_is_not_repeated(
    tmp_path: Path, words: str, secret: str
) -> None:
    for args in ([secret], ["--", secret]):
        result = call("--state-dir", tmp_path, *words.split(), *args)
        assert result.code == 2 and "TWC4" not in result.out + result.err
        assert "secret key" in result.err


def test_a_secret_key_among_several_ids_is_not_repeated(tmp_path: Path) -> None:
    words = ("quarantine", "add", "--format", "json", "--", "3kdz7wnq2m", *SECRETS)
    result = call("--state-dir", tmp_path, *words)
    assert result.code == 2 and "TWC4" not in result.out + result.err


def test_an_empty_quarantine(desk: Desk) -> None:
    for args, words in (
        (["list"], "nothing is in quarantine"),
        (["purge"], "nothing is in quarantine"),
    ):
        result = desk.act(*args)
        assert (result.code, result.out) == (0, "")
        assert words in result.err
    assert "--dry-run" not in desk.act("purge", "--dry-run").err
    assert desk.act("add", "--all").code == 0
    assert desk.act("verify").code == 0
    assert desk.items("list") == []


@pytest.mark.slow
def test_a_file_that_may_not_be_removed(desk: Desk) -> None:
    ids = desk.ids()
    folder = desk.tree / "a"
    folder.chmod(0o500)
    try:
        result = run(
            *("--state-dir", desk.path, "quarantine", "add", ids["one.bin"]), unprivileged=True
        )
    finally:
        folder.chmod(0o700)
    assert result.code == ExitCode.INCOMPLETE
    assert "sealed, but still in place: permission denied" in result.out
    assert "sealed, not removed (the file is at" in desk.act("verify").out
    assert desk.act("verify").code == ExitCode.INCOMPLETE
    result = run("--state-dir", desk.path, "quarantine", "add", ids["one.bin"])
    assert (result.code, (desk.tree / "a/one.bin").exists()) == (0, False)


@pytest.mark.skipif(shutil.which("age") is None, reason="the age tool is missing")
def test_by_hand_with_the_age_tool(desk: Desk) -> None:
    ids = desk.ids()
    desk.act("add", ids["one.bin"])
    evidence = json.loads(desk.act("show", ids["one.bin"], "--format", "json").out)["evidence"]
    opened = subprocess.run(
        ["age", "-d", "-i", desk.key, evidence], capture_output=True, check=True
    )
    assert opened.stdout == FILES["a/one.bin"]


def test_a_lost_record_of_matches_is_recovered(desk: Desk) -> None:
    ids = desk.ids()
    desk.act("add", "--all")
    (desk.path / "matches.db").unlink()
    assert {item["state"] for item in desk.items("list")} == {"unrecorded"}
    assert "`quarantine recover`" in desk.act("list").out
    done = desk.act("recover")
    assert done.code == 0
    assert {line.split("  ")[0] for line in done.out.splitlines()} == set(ids.values())
    assert {item["id"] for item in desk.items("list")} == set(ids.values())
    assert {item["state"] for item in desk.items("list")} == {"quarantined"}
    again = desk.act("recover")
    assert (again.code, again.out) == (0, "")
    assert "knows all" in again.err


def test_a_new_officer_gets_all_that_is_there(desk: Desk, tmp_path: Path) -> None:
    ids = desk.ids()
    assert desk.act("add", "--all").code == 0
    new = tmp_path / "new.key"
    made = call("quarantine", "keygen", "--output", new, "--format", "json")
    public = json.loads(made.out)["public_key"]
    desk.set(recipients=[public])

    refused = desk.act("reseal", "--all", "--identity", new)
    assert refused.code == ExitCode.UNAUTHORISED
    assert refused.err.count("none of the identities opens the sealed file") == 3
    one = ids["one.bin"]
    done = desk.act("reseal", one, "--identity", desk.key, "--identity", new)
    share = desk.tree / "a/one.bin"
    assert (done.code, done.out) == (0, f"{one}  {share}  sealed again: 1 recipient\n")
    items = desk.items("reseal", "--all", "--identity", desk.key)
    assert {i["id"]: i["detail"] for i in items} == {
        one: "sealed to these already: 1 recipient",
        ids["two.bin"]: "sealed again: 1 recipient",
        ids["three.bin"]: "sealed again: 1 recipient",
    }
    assert all(i["recipients"] == [public] and i["done"] for i in items)
    assert {i["id"]: i["recipients"] for i in desk.items("list")} == {
        i: [public] for i in ids.values()
    }
    both = desk.act(
        *("reseal", one, "--identity", new, "--recipient", desk.public, "--recipient", public),
        *("--reason", "for a deputy"),
    )
    assert both.out.endswith("sealed again: 2 recipients\n")
    assert desk.logged()[-1]["data"]["reason"] == "for a deputy"
    assert desk.act("verify").code == 0
    back = desk.act("restore", one, "--identity", new, "--reason", "r", "--force")
    assert back.code == 0 and share.read_bytes() == FILES["a/one.bin"]


def test_sealing_again_needs_to_know_what_and_to_whom(desk: Desk) -> None:
    (one, *_) = desk.ids().values()
    desk.act("add", one)
    key = ("--identity", desk.key)
    assert desk.act("reseal", *key).code == ExitCode.USAGE
    assert desk.act("reseal", "--all", one, *key).code == ExitCode.USAGE
    assert desk.act("reseal", one).code == ExitCode.USAGE
    secret = desk.key.read_text().splitlines()[-1]
    refused = desk.act("reseal", one, *key, "--recipient", secret)
    assert refused.code == ExitCode.USAGE and secret[:20] not in refused.err
    desk.set()
    refused = desk.act("reseal", one, *key)
    assert refused.code == ExitCode.USAGE and "no recipients" in refused.err


@pytest.mark.slow
def test_add_all_leaves_what_came_as_a_stream_alone(desk: Desk) -> None:
    found = run("--state-dir", desk.path, "scan", "-", stdin=FILES["a/one.bin"])
    assert found.code == ExitCode.MATCH
    done = desk.act("add", "--all")
    assert (done.code, done.out) == (0, "")
