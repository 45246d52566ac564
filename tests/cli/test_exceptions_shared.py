"""Exceptions that one machine exports and others import: the exported fields, and the refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hashclient.cli.app import App
from hashclient.decisions import keeping
from hashclient.decisions.rulings import load_book
from hashclient.decisions.sharing import FORMAT, Export, Shared
from hashclient.system.signed import sign_document, verify_document
from tests.cli.test_exceptions import REASON, RIGHT, Ruled
from tests.kit import Run, Site

ROOT = "ab" * 32
CONFIG = f'[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "{ROOT}"\n'
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TAG = b"hashclient exceptions v1\n"


def trusting(**keys: str) -> str:
    names = ", ".join(f'{name} = "{key}"' for name, key in keys.items())
    return f"{CONFIG}[decisions]\ntrusted = {{ {names} }}\n"


class Pair:
    """The machine that decides, and a second machine that trusts the key of the first."""

    def __init__(self, directory: Path) -> None:
        self.hub, self.server = (Ruled(directory / name) for name in ("hub", "server"))
        self.hub.configure(CONFIG)
        assert self.hub.scan().code == 10
        shown = self.hub.call("audit", "verify", "--format", "json")
        self.key = str(json.loads(shown.out)["public_key"])
        public = KEY.public_key().public_bytes_raw().hex()
        self.server.configure(trusting(hub=self.key, other=public))
        self.file = directory / "exceptions.jsonl"

    def export(self) -> Run:
        done = self.hub.exceptions("export", "--output", self.file)
        assert done.code == 0, done
        return done

    def take(self, file: Path | None = None) -> Run:
        return self.server.exceptions("import", file or self.file)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def shared(number: int = 1, **other: Any) -> Shared:
    now = datetime.now(UTC)
    until = now + timedelta(days=30)
    one = Shared(f"x-{number:010}", "base", "wrong", "a reason", "eve", "", now, until)
    return msgspec.structs.replace(one, **other)


def signed(*exceptions: Shared, key: Ed25519PrivateKey = KEY, **other: Any) -> bytes:
    """Return an export that any machine with a key could have made."""
    roots: dict[str, tuple[str, ...]] = {one.list: (ROOT,) for one in exceptions}
    export = Export(FORMAT, 1, datetime.now(UTC), roots, exceptions)
    return sign_document(msgspec.structs.replace(export, **other), TAG, key)


def write(pair: Pair, data: bytes) -> Path:
    path = pair.file.with_name("hostile.jsonl")
    path.write_bytes(data)
    return path


def listed(world: Ruled) -> list[dict[str, Any]]:
    found: list[dict[str, Any]]
    found = json.loads(world.exceptions("list", "--format", "json").out)["exceptions"]
    return found


def list_on(world: Ruled, **contents: bytes) -> None:
    """Publish entries in the list of one machine, and fetch them on the same machine."""
    world.provider.add(contents, "base")
    world.client.fetch()


def test_an_exception_of_an_entry_counts_on_the_other_machine(pair: Pair) -> None:
    ruling = pair.hub.add("base/wrong")
    pair.export()
    assert pair.server.scan().code == 10
    done = pair.take()
    assert (done.code, "excepted: 2 matches on record" in done.err) == (0, True), done
    assert done.out.startswith(f"{ruling}  until ")
    result = pair.server.scan()
    assert (result.code, result.lines[-1]["excepted"]) == (0, 2)
    (one,) = listed(pair.server)
    (there,) = listed(pair.hub)
    assert (one["id"], one["by"], one["until"]) == (ruling, there["by"], there["until"])
    assert (one["origin"], one["approved_by"]) == (f"key {pair.key}", "key hub")
    (imported,) = (data for _, data in pair.server.events("exceptions-imported"))
    assert (imported["key"], imported["name"]) == (pair.key, "hub")
    assert [data["id"] for _, data in pair.server.events("exception-added")] == [ruling]
    assert pair.server.call("audit", "verify").code == 0


def test_what_is_removed_or_renewed_there_is_so_here_with_the_next_file(pair: Pair) -> None:
    first, second = pair.hub.add("base/wrong"), pair.hub.add("base/right")
    pair.export()
    pair.take()
    pair.hub.exceptions("remove", first, *REASON)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=60)
    pair.hub.exceptions("renew", second, *REASON, "--until", until.isoformat())
    pair.export()
    assert pair.take().code == 0
    assert [(one["id"], one["until"]) for one in listed(pair.server)] == [
        (second, until.isoformat())
    ]
    assert pair.server.scan().code == 10
    changes = [name for name, _ in pair.server.events() if name.startswith("exception-")]
    assert changes[-2:] == ["exception-removed", "exception-renewed"]


def test_no_path_and_no_digest_is_in_the_file_and_what_has_one_stays(pair: Pair) -> None:
    travels = pair.hub.add("base/right")
    below = pair.hub.add("base/wrong", "--below", pair.hub.tree / "docs")
    of_file = pair.hub.add("--file", pair.hub.tree / "wrong-2")
    told = pair.export()
    for ruling in (below, of_file):
        assert f"only counts on this machine: {ruling}" in told.err
    text = pair.file.read_text()
    content = json.loads(text.splitlines()[0])
    assert [one["id"] for one in content["exceptions"]] == [travels]
    assert str(pair.hub.directory) not in text
    rulings = load_book(
        pair.hub.client.session.settings.layout, pair.hub.client.session.sealer()
    ).rulings
    for one in rulings:
        assert one.entries[0].fingerprint not in text
        assert not one.content or one.content not in text
    pair.take()
    assert [one["id"] for one in listed(pair.server)] == [travels]


@pytest.mark.slow
def test_what_waits_or_has_ended_or_was_imported_does_not_travel(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    pair.take()
    onward = pair.server.directory / "onward.jsonl"
    assert pair.server.exceptions("export", "--output", onward).code == 0
    assert b'"exceptions":[]' in onward.read_bytes()
    pair.hub.configure(f"{CONFIG}[decisions]\npeople = 2\n")
    waits = pair.hub.add("base/right")
    monkeypatch.setattr(App, "now", staticmethod(lambda: datetime.now(UTC) + timedelta(days=31)))
    pair.export()
    assert b'"exceptions":[]' in pair.file.read_bytes() and waits


def test_an_edited_export_is_refused(pair: Pair) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    data = pair.file.read_bytes()
    for old, new in ((b'"entry":"wrong"', b'"entry":"right"'), (b'"version":1', b'"version":9')):
        assert old in data
        done = pair.take(write(pair, data.replace(old, new)))
        assert (done.code, "the signature of the exceptions is wrong" in done.err) == (6, True)
    assert not listed(pair.server) and pair.server.scan().code == 10


def test_a_key_that_is_not_trusted_is_refused_by_name(pair: Pair) -> None:
    """The export of another organisation is refused, too."""
    pair.hub.add("base/wrong")
    pair.export()
    pair.server.configure(CONFIG)
    done = pair.take()
    assert (done.code, pair.key in done.err) == (6, True)
    assert not listed(pair.server)


def test_a_machine_does_not_import_its_own_decisions(pair: Pair) -> None:
    """If a machine imported its own export, one person could count as two."""
    pair.hub.add("base/wrong")
    pair.export()
    pair.hub.configure(trusting(hub=pair.key))
    done = pair.hub.exceptions("import", pair.file)
    assert (done.code, "of this machine" in done.err) == (2, True)


@pytest.mark.slow
def test_an_older_export_is_refused_by_its_version_and_the_same_one_changes_nothing(
    pair: Pair,
) -> None:
    ruling = pair.hub.add("base/wrong")
    pair.export()
    older = pair.file.read_bytes()
    pair.take()
    # If an exception was removed on this machine, a second import of the file does not restore it.
    pair.server.exceptions("remove", ruling, *REASON)
    again = pair.take()
    assert (again.code, "was imported before" in again.err) == (0, True)
    assert not listed(pair.server) and pair.server.scan().code == 10
    pair.hub.exceptions("remove", ruling, *REASON)
    pair.export()
    assert pair.take().code == 0
    done = pair.take(write(pair, older))
    assert done.code == 6
    assert "the exceptions of hub are of version 1, which is older than version 2" in done.err
    assert not listed(pair.server) and pair.server.scan().code == 10
    # A second import does not restore the exception after all exceptions were removed, either.
    pair.server.exceptions("remove", "--all", *REASON)
    assert pair.take(write(pair, older)).code == 6


@pytest.mark.slow
def test_a_replay_after_the_versions_were_lost_is_refused_by_its_time(pair: Pair) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    pair.take()
    pair.server.file.write_bytes(b"{}")
    assert pair.take().code == 8
    assert pair.server.exceptions("remove", "--all", *REASON).code == 0
    done = pair.take()
    assert (done.code, "were made before those here were lost" in done.err) == (6, True)
    pair.export()
    assert pair.take().code == 0 and pair.server.scan().code == 0


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"made": datetime.now(UTC) + timedelta(hours=2)}, 6),
        ({"version": -1}, 6),
        ({"roots": {}}, 6),
        ({"format": "hashclient-feedback/1"}, 6),
        ({}, 0),
    ],
)
def test_an_export_out_of_bounds_is_refused(pair: Pair, changed: dict[str, Any], code: int) -> None:
    done = pair.take(write(pair, signed(shared(), **changed)))
    assert done.code == code, done
    assert len(listed(pair.server)) == (not code)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "changed",
    [
        {"until": datetime.now(UTC) + timedelta(days=92)},
        {"until": datetime.now(UTC) - timedelta(days=1)},
        {"id": "x-../../etc"},
        {"list": "../base"},
        {"entry": "a b"},
        {"reason": "x" * 501},
        {"by": "x" * 1001},
    ],
)
def test_an_exception_out_of_bounds_refuses_the_file(pair: Pair, changed: dict[str, Any]) -> None:
    data = signed(shared(), shared(2, **changed))
    done = pair.take(write(pair, data))
    assert (done.code, "not exceptions of the format" in done.err) == (6, True), done
    assert not listed(pair.server)


def test_an_exception_twice_refuses_the_file(pair: Pair) -> None:
    assert pair.take(write(pair, signed(shared(), shared()))).code == 6


def test_a_signature_for_another_use_is_none(pair: Pair) -> None:
    _, key = verify_document(signed(shared()), TAG, Export, 1 << 20)
    assert len(key) == 64
    line = signed(shared()).split(b"\n")[0]
    data = sign_document(msgspec.Raw(line), b"hashclient feedback v1\n", KEY)
    assert "signature" in pair.take(write(pair, data)).err


def test_a_clock_that_was_set_back_refuses_the_file_and_ends_what_came_by_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    pair.take()
    back = staticmethod(lambda: datetime.now(UTC) - timedelta(days=3))
    monkeypatch.setattr(App, "now", back)
    done = pair.take()
    assert (done.code, "are from the future" in done.err) == (6, True)
    assert pair.server.obstacles() == ["the clock was set back"]


@pytest.mark.slow
def test_an_entry_that_is_not_here_is_said_and_the_rest_is_taken(pair: Pair) -> None:
    pair.hub.add("base/wrong")
    list_on(pair.hub, later=b"listed there only")
    missing = pair.hub.add("base/later")
    pair.export()
    done = pair.take()
    assert done.code == 0
    assert f"{missing}  no more: base/later was not here when it was imported" in done.out
    assert pair.server.scan().code == 0
    # Once this machine has the entry, an import of the same file adds the exception.
    (pair.server.tree / "later").write_bytes(b"listed there only")
    list_on(pair.server, later=b"listed there only")
    assert pair.server.scan().code == 10
    assert pair.take().code == 0
    assert pair.server.scan().code == 0


@pytest.mark.slow
def test_an_entry_that_has_changed_since_is_not_taken_for_the_one_that_was_meant(
    pair: Pair,
) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    pair.take()
    pair.server.provider.withdraw("wrong", list_name="base")
    pair.server.client.fetch()
    list_on(pair.server, wrong=RIGHT)
    pair.hub.add("base/right")
    pair.export()
    pair.take()
    obstacles = {one["entries"][0]["entry"]: one["obstacle"] for one in listed(pair.server)}
    assert obstacles == {"wrong": "base/wrong has changed", "right": None}


def test_a_list_of_another_provider_with_this_name_is_left_out(pair: Pair) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    pair.server.configure(trusting(hub=pair.key).replace(ROOT, "cd" * 32))
    done = pair.take()
    assert (done.code, "list base is of another provider here" in done.err) == (3, True)
    assert not listed(pair.server) and pair.server.scan().code == 10


def test_an_id_that_is_taken_here_is_left_out(pair: Pair) -> None:
    own = pair.server.add("base/right")
    done = pair.take(write(pair, signed(shared(id=own), shared())))
    assert (done.code, f"left out: {own}" in done.err) == (3, True)
    assert {one["id"]: one["by"] != "eve" for one in listed(pair.server)} == {
        own: True,
        shared().id: False,
    }


def test_each_key_decides_about_its_own_exceptions_only(pair: Pair) -> None:
    ruling = pair.hub.add("base/wrong")
    pair.export()
    pair.take()
    assert pair.take(write(pair, signed())).code == 0
    assert [one["id"] for one in listed(pair.server)] == [ruling]


def test_a_signature_counts_as_the_second_person(pair: Pair) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    pair.server.configure(trusting(hub=pair.key).replace("trusted", "people = 2\ntrusted"))
    pair.server.add("base/right")
    assert pair.take().code == 0
    assert sorted(map(str, pair.server.obstacles())) == ["None", "it waits for a second person"]
    assert pair.server.scan().code == 0


def test_a_kill_between_the_log_and_the_exceptions_is_made_good_by_the_next_import(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.hub.add("base/wrong")
    pair.export()

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(keeping, "write_book", kill)
        with pytest.raises(Killed):
            pair.take()
    assert not listed(pair.server) and pair.server.scan().code == 10
    assert pair.take().code == 0
    assert pair.server.scan().code == 0
    assert len([*pair.server.events("exceptions-imported")]) == 2
    assert pair.server.call("audit", "verify").code == 0


@pytest.mark.slow
def test_an_export_comes_from_an_address_with_https(pair: Pair, tmp_path: Path) -> None:
    pair.hub.add("base/wrong")
    pair.export()
    with Site(tmp_path / "site") as site:
        targets = site.repository.public / "targets"
        targets.mkdir(exist_ok=True)
        (targets / "exceptions.jsonl").write_bytes(pair.file.read_bytes())
        where = f"{site.endpoint.url.rstrip('/')}/targets/exceptions.jsonl"
        words = ("import", where, "--ca", site.endpoint.ca)
        assert pair.server.exceptions(*words).code == 5
        done = pair.server.exceptions(*words, "--token-file", site.endpoint.token_file)
        assert done.code == 0, done
    assert pair.server.scan().code == 0
    for address, code in (("http://lists.example.org/x", 2), ("https://127.0.0.1:9/x", 4)):
        assert pair.server.exceptions("import", address).code == code


def test_a_file_that_is_not_there_is_named(pair: Pair) -> None:
    done = pair.server.exceptions("import", "/nowhere")
    assert (done.code, "cannot read /nowhere" in done.err) == (2, True)
