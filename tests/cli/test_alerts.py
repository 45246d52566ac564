"""`alerts`, and the alerts that each run sends: by real commands, to real receivers on loopback."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pyrage import x25519

from fixtures.hostile import (
    MAX_WAIT_S,
    Behaviour,
    HostileServer,
    dripped,
    endless,
    head,
    raw,
    reply,
    reset_after,
    stall_at_once,
    then_stall,
)
from fixtures.mailbox import PASSWORD, USER, Mailbox
from fixtures.tls import Authority, server_context
from hashclient.alerts import outbox
from hashclient.alerts.alert import MEANINGS, Kind
from hashclient.alerts.receivers import parse_secret, signature
from hashclient.cli import alerts as alerts_command
from hashclient.core.errors import ExitCode, HashclientError, UnreachableError, VerificationError
from tests.clamd import instream
from tests.kit import State, arguments, edit_manifest, environment, wait_until
from tests.told import documents, into
from tests.unit.test_alerts import SCHEMA, SECRET

LISTED = {"base": {"e-1": b"listed"}}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return server_context(authority.issue("receiver"))


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, LISTED, {"a": b"listed", "b": b"other"})


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def secret(state: State, text: str = SECRET, name: str = "secret") -> Path:
    path = state.directory / name
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


def configure(state: State, text: str) -> None:
    state.configure(f"[alerts]\n{text}")


def to_webhook(state: State, server: HostileServer, authority: Authority | None = None) -> None:
    ca = "" if authority is None else f'ca = "{authority.ca}"\n'
    configure(state, f'webhook = "{server.origin}/hook"\nsecret_file = "{secret(state)}"\n{ca}')


def to_mail(state: State, address: str, more: str = "") -> None:
    configure(
        state,
        f'mail = ["abuse@example.org"]\nmail_from = "hc@example.org"\nsmtp = "{address}"\n{more}',
    )


def test_a_scan_says_a_match_once_after_its_output(state: State, inbox: Path) -> None:
    configure(state, into(inbox))
    first = state.scan()
    assert (first.code, first.err) == (10, "")
    (document,) = documents(inbox)
    jsonschema.validate(document, SCHEMA)
    assert document["text"] == "1 new match: base"
    assert document["matches"] == [first.lines[0]["id"]]
    assert str(state.tree) not in json.dumps(document)
    assert state.scan().code == 10
    assert state.call("matches").code == 0
    assert len(documents(inbox)) == 1


@pytest.mark.slow
def test_the_real_command_says_it_too(state: State, inbox: Path) -> None:
    configure(state, into(inbox))
    assert state.run("scan", state.tree).code == 10
    assert [d["kind"] for d in documents(inbox)] == ["match"]


def test_a_run_that_fails_of_damage_says_so(state: State, inbox: Path) -> None:
    configure(state, into(inbox))
    (state.path / "audit" / "log.jsonl").write_bytes(b"nonsense\n")
    assert state.call("audit", "verify").code == 9
    (document,) = documents(inbox)
    assert (document["kind"], document["subjects"]) == (
        "damaged",
        [{"name": "audit log", "count": 1}],
    )
    (state.path / "lists" / "base" / "manifest.json").unlink()
    assert state.scan().code in {8, 11}
    assert {s["name"] for d in documents(inbox) for s in d["subjects"]} >= {"audit log", "base"}


def test_fleet_show_says_once_which_machines_are_missing(state: State, inbox: Path) -> None:
    configure(state, into(inbox))
    place = state.directory / "fleet"
    place.mkdir()
    key = json.loads(state.call("audit", "verify", "--format", "json").out)["public_key"]
    assert state.call("fleet", "trust", "web-1", key).code == 0
    for _ in range(2):
        assert state.call("fleet", "show", place).code == 3
    assert [d["text"] for d in documents(inbox)] == ["1 machine is silent: web-1"]


def test_the_codes_of_other_machines_are_no_damage_here(
    state: State, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(state, into(inbox))
    place = state.directory / "fleet"
    place.mkdir()
    monkeypatch.setattr("hashclient.fleet.show.exit_code", lambda _rows: ExitCode.AUDIT)
    key = json.loads(state.call("audit", "verify", "--format", "json").out)["public_key"]
    assert state.call("fleet", "trust", "web-1", key).code == 0
    assert state.call("fleet", "show", place).code == 9
    assert [d["kind"] for d in documents(inbox)] == ["machine-silent"]


def test_without_receivers_a_run_leaves_nothing(state: State) -> None:
    assert state.scan().code == 10
    assert not (state.path / "alerts").exists()


def test_a_webhook_gets_the_alert_signed_over_tls(
    state: State, authority: Authority, context: ssl.SSLContext
) -> None:
    with HostileServer(context) as server:
        server.on("/hook", reply(status=204))
        to_webhook(state, server, authority)
        done = state.scan()
        assert (done.code, done.err) == (10, "")
        (request,) = server.requests
    assert request.method == "POST"
    names = ("webhook-id", "webhook-timestamp", "webhook-signature", "content-type")
    alert_id, timestamp, signed, content_type = map(request.header, names)
    assert alert_id and timestamp and content_type == "application/json"
    assert signed == signature(parse_secret(SECRET), alert_id, int(timestamp), request.body)
    assert abs(int(timestamp) - time.time()) < 60
    document = json.loads(request.body)
    jsonschema.validate(document, SCHEMA)
    assert document["id"] == alert_id
    assert SECRET not in str(request)


@pytest.mark.slow
def test_each_event_leaves_by_command_webhook_and_mail(tmp_path: Path, inbox: Path) -> None:
    """The events have different causes: scans, fetches, lists, an exception, damage, fleets."""
    listed = {"base": {"right": b"listed", "wrong": b"benign"}, "old": {"o-1": b"old"}}
    state = State(tmp_path, listed, {"a": b"listed", "b": b"benign", "c": b"benign"})
    (place := tmp_path / "fleet").mkdir()
    receivers = (
        f'{into(inbox)}webhook = "HOOK"\nsecret_file = "{secret(state)}"\n'
        'mail = ["abuse@example.org"]\nmail_from = "hc@example.org"\nsmtp = "SMTP"\n'
        "every_hours = 0\n"
        '[providers.sim]\nurl = "https://provider.test/lists"\nroot_sha256 = "00"\n'
        f'[quarantine]\nrecipients = ["{x25519.Identity.generate().to_public()}"]\n'
        '[brake]\nper_entry = 1\n[[policy]]\nactions = ["quarantine"]\n'
    )
    with HostileServer() as server, Mailbox() as box:
        server.on("/hook", reply(status=204))
        hook = f"{server.origin}/hook"
        configure(state, receivers.replace("HOOK", hook).replace("SMTP", box.address))
        assert state.scan().code == 11  # the matches of `b` and `c` are held
        until = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%d}"
        words = ("base/right", "--until", until, "--reason", "ticket 4711")
        assert state.call("exceptions", "add", *words).code == 0
        for problem in (UnreachableError("no route"), VerificationError("forged")):

            def fail(*_: object, problem: HashclientError = problem) -> bytes:
                raise problem

            state.provider.faults["*"] = fail
            with pytest.raises(HashclientError):
                state.client.fetch()
        edit_manifest(state.path, "old", expires="2026-01-01T00:00:00Z")
        key = json.loads(state.call("audit", "verify", "--format", "json").out)["public_key"]
        assert state.call("fleet", "trust", "web-1", key).code == 0
        assert state.call("fleet", "show", place).code == 3
        (state.path / "lists" / "base" / "manifest.json").unlink()
        assert state.scan().code in {8, 11}
        state.call("alerts", "send")
        assert state.call("alerts", "list", "--format", "json").out.count('"to"') == 0
        bodies = [json.loads(request.body) for request in server.requests]
        subjects = [mail["Subject"] for _, mail in box.mails]
    wanted = {str(kind) for kind in Kind} - {"test"}
    assert {document["kind"] for document in documents(inbox)} == wanted
    assert {document["kind"] for document in bodies} == wanted
    assert sorted(d["id"] for d in bodies) == sorted(d["id"] for d in documents(inbox))
    for kind in wanted:
        meaning = MEANINGS[Kind(kind)]
        assert [s for s in subjects if meaning.one in s or meaning.many in s], kind


#: Each answer of the server, and a text of the warning about the answer.
MISBEHAVIOUR: Mapping[str, tuple[Behaviour, str]] = {
    "500": (reply(status=500), "500"),
    "404": (reply(status=404), "404"),
    "refused": (reply(status=401), "credential"),
    "redirect": (reply(status=302, headers=[("Location", "/elsewhere")]), "redirects"),
    "nonsense": (raw(b"nonsense\r\n\r\n"), "HTTP|answer"),
    "reset": (reset_after(), "connection|answer"),
    "silence": (then_stall(), "stopped sending|answer|time"),
    "half a line": (then_stall(b"HTTP/1.1 "), "stopped sending|answer|time"),
    "byte by byte": (dripped(b"HTTP/1.1 200 OK\r\nx: "), "answer|time|HTTP"),
    "endless": (endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), "HTTP|answer|time"),
}
NO_END = {"silence", "half a line", "byte by byte", "endless"}
#: Bodies that follow a status of success.
ENDINGS: Mapping[str, Behaviour] = {
    "long": reply(b"x" * 100_000),
    "byte by byte": dripped(head(200)),
    "endless": endless(head(200), b"x" * 1000),
    "compressed": reply(b"zip", headers=[("Content-Encoding", "gzip")]),
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in NO_END - {"silence"} else [])
        for name in MISBEHAVIOUR
    ],
)
def test_a_webhook_that_misbehaves_is_a_warning_and_the_alert_waits(
    state: State,
    authority: Authority,
    context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    behaviour, says = MISBEHAVIOUR[name]
    # A busy machine may be slow, so only an endless answer gets a short time limit.
    monkeypatch.setattr(outbox, "RUN_S", 2.0 if name in NO_END else 60.0)
    with HostileServer(context) as server:
        server.on("/hook", behaviour)
        server.on("/elsewhere", reply())
        to_webhook(state, server, authority)
        done = state.scan()
        assert done.code == 10
        assert re.search(rf"warning: alert not sent: webhook.*({says})", done.err), done.err
        assert "/hook" not in done.err and SECRET not in done.err
        assert len(server.requests) == 1
        listed = state.call("alerts", "--format", "json")
        found = json.loads(listed.out)
        assert [w["to"] for w in found["waiting"]] == [["webhook"]]
        assert found["receivers"][0]["attempts"] == 1
        # After the failure, the next run does not contact the receiver for a while.
        quiet = state.scan()
        assert (quiet.code, quiet.err) == (10, "")
        assert len(server.requests) == 1
        # When the receiver works again, the same alert arrives, and no alert waits any more.
        server.on("/hook", reply())
        assert state.call("alerts", "send").out == "webhook: took 1 alert\n"
        first, last = server.requests[0], server.requests[-1]
        assert first.body == last.body and first.header("webhook-id") == last.header("webhook-id")
        assert state.call("alerts", "send", "--due").err == "nothing is due\n"


@pytest.mark.sampled
@pytest.mark.parametrize("name", ENDINGS)
def test_whatever_follows_a_success_it_has_arrived(state: State, name: str) -> None:
    with HostileServer() as server:  # a receiver on loopback may use plain HTTP
        server.on("/hook", ENDINGS[name])
        to_webhook(state, server)
        assert state.scan().err == ""
        assert len(server.requests) == 1


def test_a_webhook_with_the_certificate_of_somebody_else_gets_nothing(
    state: State, context: ssl.SSLContext
) -> None:
    with HostileServer(context) as server:
        to_webhook(state, server)
        done = state.call("alerts", "test")
        assert done.code in {4, 5} and "certificate" in done.err
        assert server.requests == []


@pytest.mark.slow
def test_a_server_that_never_begins_tls_holds_nothing_up(
    state: State, monkeypatch: pytest.MonkeyPatch, authority: Authority, context: ssl.SSLContext
) -> None:
    monkeypatch.setattr(outbox, "RUN_S", 0.3)
    with HostileServer(context, greeting=stall_at_once) as server:
        to_webhook(state, server, authority)
        began = time.monotonic()
        assert state.scan().code == 10
        assert time.monotonic() - began < MAX_WAIT_S  # the command stops waiting before this time


@pytest.mark.parametrize("login", [False, True])
def test_mail_goes_to_a_server(
    state: State, authority: Authority, context: ssl.SSLContext, login: bool
) -> None:
    with Mailbox(context, login=login) as box:
        basic = secret(state, f"{USER}:{PASSWORD}")
        more = f'ca = "{authority.ca}"\n' + (f'smtp_basic_file = "{basic}"\n' if login else "")
        to_mail(state, box.address, more)
        done = state.scan()
        assert (done.code, done.err) == (10, "")
        ((encrypted, mail),) = box.mails
    assert encrypted
    assert mail["To"] == "abuse@example.org" and mail["From"] == "hc@example.org"
    assert re.fullmatch(r"hashclient on \S+: 1 new match", mail["Subject"])
    assert re.match(r"<a-[a-z0-9]{10}@", mail["Message-ID"])
    assert mail["Auto-Submitted"] == "auto-generated"
    text = mail.get_content()
    assert "1 new match: base" in text and str(state.tree) not in text


def test_a_mail_server_without_encryption_is_for_loopback_alone(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Mailbox() as box:
        to_mail(state, box.address)
        assert state.call("alerts", "test").code == 0
        assert [encrypted for encrypted, _ in box.mails] == [False]
        monkeypatch.setattr("hashclient.net.credentials.is_loopback", lambda _host: False)
        done = state.call("alerts", "test")
        assert done.code == 4 and "SMTPNotSupportedError" in done.err
        assert len(box.mails) == 1


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"refuse": b"550 no"}, "SMTPDataError 550"),
        ({"login": True}, "SMTPSenderRefused 530"),
        ({"babble": b"2"}, "no answer within|mail: "),
        ({"babble": b"220-come in\r\n" * 10_000}, "SMTPServerDisconnected"),
    ],
    ids=["refuses", "wants a login", "babbles", "never ends its greeting"],
)
def test_a_mail_server_that_refuses_is_a_warning(
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.setattr(outbox, "PATIENT_S", 0.5 if how.get("babble") == b"2" else 30.0)
    with Mailbox(**how) as box:
        to_mail(state, box.address)
        done = state.call("alerts", "test")
        assert done.code == 4 and re.search(says, done.err), done.err
        assert box.mails == []


def test_an_address_that_the_mail_server_refuses_is_named_and_holds_up_no_other(
    state: State,
) -> None:
    with Mailbox(unknown=b"gone@example.org") as box:
        to_mail(state, box.address)
        config = state.path / "config.toml"
        state.configure(config.read_text().replace('["abuse', '["gone@example.org", "abuse'))
        done = state.call("alerts", "test")
        assert done.code == 4 and "the server refuses gone@example.org\n" in done.err
        done = state.scan()
        assert done.code == 10 and "the server refuses gone@example.org\n" in done.err
        assert len(box.mails) == 2
        done = state.call("alerts", "list")
        assert re.fullmatch("mail  FAILS: mail: the server refuses gone@example.org\n", done.out)


def test_a_wrong_password_of_the_mail_server_is_not_shown(state: State) -> None:
    with Mailbox(login=True) as box:
        basic = secret(state, f"{USER}:wrong-password")
        to_mail(state, box.address, f'smtp_basic_file = "{basic}"\n')
        done = state.call("alerts", "test")
        assert done.code == 5 and "refuses smtp_basic_file" in done.err
        assert "wrong-password" not in done.err


def test_a_command_that_fails_is_a_warning(state: State) -> None:
    configure(state, 'command = ["/bin/false"]\n')
    done = state.call("alerts", "test")
    assert done.code == 4 and "command: ended with 1" in done.err


@pytest.mark.slow
def test_a_command_that_hangs_ends_with_its_children(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENT_S", 4.0)
    marker = state.directory / "pid"
    configure(
        state,
        f'command = ["/bin/sh", "-c", "sleep 60 & echo $! > {marker}; wait"]\n',
    )
    done = state.call("alerts", "test")
    assert done.code == 4 and re.search("not done within|no answer within", done.err)
    child = Path("/proc", marker.read_text().strip())
    wait_until(lambda: not child.exists() or "zombie" in (child / "status").read_text(), 0)


def test_a_command_gets_nothing_secret_of_the_environment(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = state.directory / "environment"
    monkeypatch.setenv("HASHCLIENT_SEAL_KEY", "00" * 32)
    monkeypatch.setenv("A_TOKEN", "secret")
    configure(state, f'command = ["/bin/sh", "-c", "env > {kept}"]\n')
    assert state.call("alerts", "test").code == 0
    assert "PATH=" in kept.read_text()
    assert not re.search("SEAL_KEY|secret", kept.read_text())


def test_a_command_that_others_may_write_to_is_refused(state: State, tmp_path: Path) -> None:
    program = tmp_path / "page"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    configure(state, f'command = ["{program}"]\n')
    done = state.call("scan", state.tree)
    assert done.code == 2 and "command" in done.err


def test_a_bug_in_alerts_changes_no_verdict(
    state: State, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(state, into(inbox))
    monkeypatch.setattr(outbox.Outbox, "send", lambda *_, **__: 1 // 0)
    done = state.scan()
    assert done.code == 10 and "alerts are not sent: internal error" in done.err


def test_an_outbox_that_cannot_be_written_changes_no_verdict(state: State, inbox: Path) -> None:
    configure(state, into(inbox))
    (state.path / "alerts").write_text("in the way")
    done = state.scan()
    assert done.code == 10 and "warning: alerts are not sent: " in done.err


def test_the_commands_say_what_to_do(state: State, inbox: Path) -> None:
    for words in (("test",), ("send",)):
        done = state.call("alerts", *words)
        assert done.code == 2 and "no receiver of alerts is configured" in done.err
    assert "[alerts] in config.toml" in state.call("alerts").err
    configure(state, into(inbox))
    assert state.call("alerts").out == "command  not tried yet\n"
    assert state.call("alerts", "test").out == "command: took 1 alert\n"
    (document,) = documents(inbox)
    jsonschema.validate(document, SCHEMA)
    assert document["kind"] == "test"
    shown = json.loads(state.call("alerts", "test", "--format", "json").out)
    assert shown == {"attempts": [{"receiver": "command", "taken": 1, "error": None}]}


@pytest.mark.slow
def test_status_and_its_metrics_say_what_waits_and_who_fails(state: State) -> None:
    configure(state, 'command = ["/bin/false"]\n')
    assert "alert not sent: command: ended with 1" in state.scan().err
    config = state.path / "config.toml"
    config.write_text(f'{config.read_text()}[providers.main]\nroot_sha256 = "{"0" * 64}"\n')
    assert "alerts        1 waiting; command FAILS\n" in state.call("status").out
    found = json.loads(state.call("status", "--format", "json").out)["alerts"]
    assert found == {"waiting": 1, "failing": {"command": "command: ended with 1"}}
    metrics = state.call("status", "--format", "prometheus").out
    assert "\nhashclient_alerts_waiting 1.0\n" in metrics
    assert '\nhashclient_alert_receiver_failing{receiver="command"} 1.0\n' in metrics
    assert "command  FAILS: command: ended with 1; 1 failed attempt, the next at " in (
        state.call("alerts").out
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["watch", "serve"])
def test_long_running_commands_say_it_while_they_run(
    state: State, inbox: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    configure(state, into(inbox))
    (state.tree / "a").unlink()
    assert state.scan().code == 0
    words = {
        "watch": ("watch", "--settle", "1", state.tree),
        "serve": ("serve", "--jobs", "1", "--bind", f"unix:{state.directory}/socket"),
    }[command]
    # The pause between two looks at the state is usually too long for a test.
    script = (
        "import sys; from hashclient.system import beside; beside._REST_S = 0.1;"
        " from hashclient.cli.main import main; main(sys.argv[1:])"
    )
    start = [arguments()[0], "-c", script, "--state-dir", str(state.path), *map(str, words)]
    with subprocess.Popen(
        start, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as running:
        try:
            if command == "serve":
                with socket.socket(socket.AF_UNIX) as client:
                    place = str(state.directory / "socket")
                    wait_until(lambda: client.connect_ex(place) == 0, running.pid)
                    client.sendall(instream(b"listed"))
                    assert b"FOUND" in client.recv(1000)
            else:
                wait_until(lambda: len(state.events("scan-end")) > 1, running.pid)
                (state.tree / "new").write_bytes(b"listed")
            wait_until(inbox.exists, running.pid)
        finally:
            running.terminate()
            running.wait(60)
    # If the program ended before it noted the first delivery, the same alert arrives twice.
    assert [*{d["id"]: d["text"] for d in documents(inbox)}.values()] == ["1 new match: base"]


def test_a_long_running_command_runs_it_only_with_receivers(state: State, inbox: Path) -> None:
    from hashclient.cli.app import App
    from hashclient.config.settings import resolve_settings

    def app() -> App:
        return App(
            lambda: resolve_settings(
                state_dir=state.path, config_path=None, seal_key_file=None, environ={}
            ),
            0,
        )

    assert alerts_command.alerts_beside(app()) == []
    configure(state, into(inbox))
    assert len(alerts_command.alerts_beside(app())) == 1
