"""Feedback from a client to its provider: the content of the file, the counts, the proposals."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hashclient.audit import log
from hashclient.cli.app import App
from hashclient.provider import feedback as provider_feedback
from tests.docs.blocks import DOCS, marked_blocks, run_script
from tests.kit import Run, Site, call, csv_of, write_tree

LISTED = {"e-1": b"a harmless dummy", "e-2": b"another dummy", "e-3": b"a third dummy"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as site:
        site.publish(csv_of(LISTED))
        yield site


class Peer:
    """A client of the site with its own state directory."""

    def __init__(self, site: Site, directory: Path, name: str) -> None:
        self.site, self.name = site, name
        self.state = directory / f"state-{name}"
        self.output = directory / f"{name}.jsonl"
        self.tree = write_tree(
            directory / f"invoices-{name}",
            {"a": LISTED["e-1"], "b": LISTED["e-1"], "c": LISTED["e-2"], "d": LISTED["e-3"]},
        )
        assert self.call(*site.init_arguments()).code == 0
        assert self.call("scan", "--fetch", self.tree).code == 10

    def call(self, *words: object) -> Run:
        return self.site.call(*words, state=self.state)

    def ids(self) -> dict[str, str]:
        found = self.call("matches", "--format", "jsonl").lines
        return {Path(line["path"]).name: line["id"] for line in found}

    def review(self, name: str, verdict: str, why: str) -> None:
        reason = f"{why}: Alice Example has looked, ticket 4711"
        done = self.call("matches", "review", self.ids()[name], verdict, "--reason", reason)
        assert done.code == 0, done.err

    def write(self) -> Run:
        return self.call("feedback", "write", "--provider", "main", "--output", self.output)

    def key(self) -> str:
        shown = self.call("audit", "verify", "--format", "json")
        return str(json.loads(shown.out)["public_key"])

    def let_in(self) -> None:
        token = self.output.with_suffix(".token")
        provider(self.site, "client", "add", self.name, "--output", token)
        provider(self.site, "client", "key", self.name, self.key())


def provider(site: Site, *words: Any, code: int = 0) -> Run:
    """Run a command on the repository; `words` precede and follow the repository's path."""
    count = 2 if words[0] == "client" else 1
    done = call("provider", *words[:count], site.repository.directory, *words[count:])
    assert done.code == code, done.err
    return done


def entries(done: Run) -> dict[str, dict[str, Any]]:
    return {one["entry"]: one for one in json.loads(done.out)["entries"]}


def test_the_file_has_numbers_by_entry_and_nothing_else(site: Site, tmp_path: Path) -> None:
    peer = Peer(site, tmp_path, "peer")
    for name in "ab":
        peer.review(name, "--rejected", "harmless")
    peer.review("c", "--confirmed", "as-listed")
    done = peer.write()
    assert (done.code, done.out) == (0, f"written: {peer.output}: 2 entries\n")
    text = peer.output.read_text()
    content, signed = map(json.loads, text.splitlines())
    zero = {"list": "baseline", "confirmed": 0, "rejected": 0, "excepted": 0, "held": 0}
    assert content["entries"] == [
        {**zero, "entry": "e-1", "rejected": 2},
        {**zero, "entry": "e-2", "confirmed": 1},
    ]
    assert content.keys() == {"format", "provider_root", "made", "entries"}
    assert signed["public_key"] == peer.key()
    for word in ("invoices", "Alice", "ticket 4711", str(tmp_path), *peer.ids().values()):
        assert word not in text
    for data in LISTED.values():
        for kind in ("md5", "sha1", "sha256"):
            assert hashlib.new(kind, data).hexdigest() not in text.lower()
    ((logged),) = log.read(peer.state / "audit", event="feedback-written")
    assert (logged.data["entries"], logged.data["provider"]) == (2, "main")


def test_of_an_unknown_provider_there_is_no_file(site: Site, tmp_path: Path) -> None:
    peer = Peer(site, tmp_path, "peer")
    done = peer.call("feedback", "write", "--provider", "other", "--output", peer.output)
    assert done.code == 2 and not peer.output.exists()


def test_without_a_record_of_matches_there_is_no_file(site: Site, tmp_path: Path) -> None:
    peer = Peer(site, tmp_path, "peer")
    peer.review("a", "--rejected", "harmless")
    (peer.state / "matches.db").unlink()
    done = peer.write()
    assert (done.code, "no record of matches" in done.err) == (8, True)
    assert not peer.output.exists()
    peer.call("scan", peer.tree)
    assert "replaces all earlier counts" in peer.write().err


def test_entries_of_a_list_of_that_name_from_another_provider_are_not_for_this_one(
    site: Site, tmp_path: Path
) -> None:
    peer = Peer(site, tmp_path, "peer")
    peer.review("c", "--confirmed", "as-listed")
    with (peer.state / "config.toml").open("a") as config:
        config.write(
            '[providers.other]\nurl = "https://other.example.org"\n'
            f'root_sha256 = "{"0" * 64}"\nlists = ["baseline"]\n'
        )
    for provider_name, count in (("other", 0), ("main", 1)):
        done = peer.call("feedback", "write", "--provider", provider_name, "--output", peer.output)
        content, _ = map(json.loads, peer.output.read_text().splitlines())
        assert (done.code, len(content["entries"])) == (0, count), done


@pytest.mark.slow
def test_what_several_clients_reject_is_proposed_once_each_counts(
    site: Site, tmp_path: Path
) -> None:
    one, two = (Peer(site, tmp_path, name) for name in ("one", "two"))
    for peer in (one, two):
        peer.let_in()
        peer.review("a", "--rejected", "harmless")
        peer.review("c", "--rejected", "harmless")
        peer.write()
    first = entries(provider(site, "feedback", one.output, "--format", "json"))
    assert (first["e-1"]["rejected_by"], first["e-1"]["proposed"]) == (1, False)
    both = entries(provider(site, "feedback", two.output, "--format", "json"))
    assert (both["e-1"]["rejected"], both["e-1"]["clients"]) == (2, 2)
    assert both["e-1"]["proposed"] and both["e-2"]["proposed"]
    # A file that was counted does not count again, even under another name.
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(one.output.read_bytes())
    again = provider(site, "feedback", one.output, copy, "--format", "json", code=2)
    assert again.err.count("is counted already") == 2 and entries(again) == both
    # A later file of a client replaces its earlier file, and does not add to it.
    two.review("c", "--confirmed", "as-listed")
    older = two.output.read_bytes()
    two.write()
    later = entries(provider(site, "feedback", two.output, "--format", "json"))
    assert (later["e-2"]["confirmed"], later["e-2"]["rejected"]) == (1, 1)
    assert later["e-1"]["proposed"] and not later["e-2"]["proposed"]
    copy.write_bytes(older)
    assert "is counted already" in provider(site, "feedback", copy, code=2).err
    # Once a proposed entry is withdrawn, it is no longer proposed.
    ids = tmp_path / "ids.txt"
    words = ("--list", "baseline", "--output", ids)
    said = provider(site, "feedback", *words)
    assert ids.read_text() == "e-1\n" and "withdraw" in said.err
    provider(site, "withdraw", "--list", "baseline", "--from", ids)
    gone = provider(site, "feedback", *words)
    assert "not listed any more" in gone.out and ids.read_text() == ""
    logged = [r.event for r in log.read(site.repository.log.directory)]
    assert (logged.count("feedback-taken"), logged.count("client-key")) == (3, 2)


@pytest.mark.slow
def test_a_revoked_client_does_not_count(site: Site, tmp_path: Path) -> None:
    peer = Peer(site, tmp_path, "peer")
    peer.let_in()
    peer.review("a", "--rejected", "harmless")
    peer.write()
    provider(site, "feedback", peer.output)
    provider(site, "client", "revoke", "peer")
    assert provider(site, "feedback").err == "no client has sent feedback yet\n"
    peer.write()
    assert "no client has the key" in provider(site, "feedback", peer.output, code=6).err


@pytest.mark.slow
def test_what_is_not_for_this_repository_or_of_nobody_is_refused(
    site: Site, tmp_path: Path
) -> None:
    peer = Peer(site, tmp_path, "peer")
    peer.review("a", "--rejected", "harmless")
    peer.write()
    assert "no client has the key" in provider(site, "feedback", peer.output, code=6).err
    peer.let_in()
    edited = tmp_path / "edited.jsonl"
    edited.write_bytes(peer.output.read_bytes().replace(b'"rejected":1', b'"rejected":9'))
    # If one file is refused, the other files still count.
    both = provider(site, "feedback", edited, peer.output, "--format", "json", code=6)
    assert "signature" in both.err and entries(both)["e-1"]["rejected"] == 1
    with Site(tmp_path / "elsewhere") as other:
        other.publish(csv_of(LISTED))
        token = tmp_path / "t"
        provider(other, "client", "add", "peer", "--output", token)
        provider(other, "client", "key", "peer", peer.key())
        assert "for another provider" in provider(other, "feedback", peer.output, code=6).err


def test_a_key_is_one_key_of_one_client(site: Site, tmp_path: Path) -> None:
    for name in ("one", "two"):
        provider(site, "client", "add", name, "--output", tmp_path / name)
    key = "ab" * 32
    provider(site, "client", "key", "one", key)
    assert "client one has this key" in provider(site, "client", "key", "two", key, code=2).err
    for wrong in ("ab", "AB" * 32, "zz" * 32):
        assert "not a public key" in provider(site, "client", "key", "two", wrong, code=2).err
    assert "no such client" in provider(site, "client", "key", "three", key, code=2).err
    provider(site, "client", "rotate", "one", "--output", tmp_path / "again")
    shown = json.loads(provider(site, "client", "list", "--format", "json").out)["clients"]
    assert [c["feedback_key"] for c in shown] == [key, None]


def test_a_key_is_noted_when_a_client_is_let_in_or_nothing_is_done(
    site: Site, tmp_path: Path
) -> None:
    keys = {"one": "ab" * 32, "two": "cd" * 32}
    for name, key in keys.items():
        provider(site, "client", "add", name, "--key", key, "--output", tmp_path / name)
    for key, says in ((keys["one"], "client one has this key"), ("ab", "not a public key")):
        words = ("client", "add", "three", "--key", key, "--output", tmp_path / "three")
        assert says in provider(site, *words, code=2).err
    assert not (tmp_path / "three").exists()
    shown = json.loads(provider(site, "client", "list", "--format", "json").out)["clients"]
    assert {c["name"]: c["feedback_key"] for c in shown} == keys
    logged = [r.data for r in log.read(site.repository.log.directory, event="client-key")]
    assert {data["client"]: data["key"] for data in logged} == keys


def test_feedback_from_the_future_is_refused_and_the_next_one_counts(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(site, tmp_path, "peer")
    peer.let_in()
    peer.review("a", "--rejected", "harmless")
    for ahead, code in ((timedelta(days=400), 6), (timedelta(0), 0)):
        with monkeypatch.context() as patched:
            patched.setattr(App, "now", staticmethod(lambda by=ahead: datetime.now(UTC) + by))
            peer.write()
        done = provider(site, "feedback", peer.output, code=code)
        assert ("from the future" in done.err) is bool(code)


def test_feedback_that_could_not_be_read_again_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(site, tmp_path, "peer")
    peer.let_in()
    peer.review("a", "--rejected", "harmless")
    peer.write()
    monkeypatch.setattr(provider_feedback, "_MAX_BYTES", 100)
    done = provider(site, "feedback", peer.output, code=2)
    assert "the feedback of all clients would have" in done.err
    assert not site.repository.feedback_file.exists()


def test_feedback_counts_for_lists_that_the_client_may_fetch(site: Site, tmp_path: Path) -> None:
    site.publish(csv_of(LISTED), "other")
    provider(site, "client", "add", "guest", "--list", "other", "--output", tmp_path / "token")
    counts = {"confirmed": 0, "rejected": 1, "excepted": 0, "held": 0}
    given = [{"list": name, "entry": "e-1", **counts} for name in ("baseline", "other")]
    taken = {"made": "2026-01-01T00:00:00Z", "sha256": "", "entries": given}
    form = {"format": "hashclient-provider-feedback/1", "clients": {"guest": taken}}
    site.repository.feedback_file.write_text(json.dumps(form))
    done = provider(site, "feedback", "--clients", 1, "--format", "json")
    assert [(e["list"], e["proposed"]) for e in json.loads(done.out)["entries"]] == [
        ("other", True)
    ]


def test_a_key_of_two_clients_is_damage(site: Site, tmp_path: Path) -> None:
    for name in ("one", "two"):
        provider(site, "client", "add", name, "--output", tmp_path / name)
        provider(site, "client", "key", name, {"one": "ab", "two": "cd"}[name] * 32)
    path = site.repository.clients_file
    clients = json.loads(path.read_text())
    clients["clients"][0]["feedback_key"] = clients["clients"][1]["feedback_key"]
    path.write_text(json.dumps(clients))
    assert "damaged" in provider(site, "feedback", code=8).err


def test_damaged_feedback_is_no_empty_one(site: Site) -> None:
    site.repository.feedback_file.write_text("{")
    done = provider(site, "feedback", code=8)
    assert "damaged" in done.err and "Traceback" not in done.err


def test_a_root_that_cannot_be_read_ends_with_8(site: Site, tmp_path: Path) -> None:
    peer = Peer(site, tmp_path, "peer")
    peer.review("a", "--rejected", "harmless")
    peer.write()
    peer.let_in()
    (site.repository.public / "metadata/2.root.json").mkdir()
    assert "2.root.json" in provider(site, "feedback", peer.output, code=8).err


@pytest.mark.slow
def test_the_page_runs_as_it_stands(site: Site, tmp_path: Path) -> None:
    (client,) = marked_blocks(DOCS / "feedback.md", "feedback-client")
    (body,) = marked_blocks(DOCS / "feedback.md", "feedback-provider")
    peer = Peer(site, tmp_path, "alice")
    peer.review("a", "--rejected", "harmless")
    provider(site, "client", "add", "alice", "--output", tmp_path / "token")
    (tmp_path / "repo").symlink_to(site.repository.directory)
    state = shlex.quote(str(peer.state))
    script = f"set -e\nexport HASHCLIENT_STATE_DIR={state} key={peer.key()}\n{client}{body}"
    code, output = run_script(script, tmp_path)
    assert code == 0, output
    assert "written: feedback.jsonl: 1 entry" in output and "1 withdrawn" in output
