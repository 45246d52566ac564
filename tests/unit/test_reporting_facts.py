"""Facts about sources: from a command or added, sealed to the recipient, stored nowhere else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.desk import A, B, Desk, desk_and_service
from hashclient import Client
from hashclient.client.upkeep import prune_facts
from hashclient.core.errors import ConfigError, StateError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.fleet.document import verify_status
from hashclient.packages.document import Document, parse_document
from hashclient.quarantine.age import load_identities, write_identity
from hashclient.quarantine.evidence import unsealed
from hashclient.reporting import facts as module
from hashclient.reporting.facts import parse_facts
from hashclient.reporting.report import Report, State
from tests.kit import call, fast_directory

FACTS = {
    "account": "user 4711 «Zoë»",
    "address": "2001:db8::4711",
    "uploaded": "2026-01-30T08:15:00+01:00",
    "url": "https://files.example.org/u/4711?x=1",
    "message_id": "<4711.abc@mail.example.org>",
}
# Texts that reveal a fact. The number alone would also occur in keys, digests or times.
TEXTS = ("user 4711", "db8::4711", "u/4711", "<4711.abc")


def program(directory: Path, text: str) -> str:
    """Write a program, and return the lines of config.toml that name it."""
    path = directory / "facts"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f'[report.facts]\ncommand = ["{path}", "an argument"]\n'


def says(directory: Path, answer: str) -> str:
    """Return the settings of a program that saves its input and prints this answer."""
    (directory / "answer.json").write_text(answer)
    return program(directory, f"cat >> {directory}/asked\ncat {directory}/answer.json")


def package_of(desk: Desk, report: Report) -> tuple[Path, Document]:
    path = desk.out / f"hashclient-report-{report.id}"
    return path, parse_document((path / "document.json").read_bytes())


def opened(desk: Desk, path: Path) -> Any:
    return json.loads(b"".join(unsealed(iter((path.read_bytes(),)), desk.identities())))


def held(desk: Desk, match: Match) -> str:
    """Return the reason in the history of a match for which it is not sent."""
    with desk.record() as record:
        (why,) = (s.detail["why"] for s in record.story(match.id) if s.event == "report-held")
    assert isinstance(why, str)
    return why


def test_the_command_is_asked_and_its_answer_is_sealed_into_the_package(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=says(tmp_path, json.dumps(FACTS)))
    match, other = desk.find(b"a\xff", A), desk.find("b", B)
    desk.quarantine(match)
    sent = desk.send(desk.prepare(match, other))
    assert sent.error is None
    path, document = package_of(desk, sent.report)
    asked = (tmp_path / "asked").read_text()
    for known, reported in zip((match, other), document.matches, strict=True):
        assert f'"id":"{known.id}"' in asked
        assert reported.facts is not None
        assert reported.facts.recipients == (desk.officer_public,)
        assert opened(desk, path / reported.facts.name) == FACTS
    assert '"path_b64"' in asked and str(desk.files) in asked
    # No part of the facts stays on this machine.
    assert not (desk.outbox.folder(sent.report.id) / "sealed").exists()
    target = tmp_path / "extracted"
    target.mkdir()
    words = ("report", "verify", path, "--identity", desk.officer, "--extract", target)
    assert call(*words).code == 0
    (folder,) = target.iterdir()
    assert {p.name for p in folder.iterdir()} == {
        f"{match.id}.bin",
        f"{match.id}.facts.json",
        f"{other.id}.facts.json",
    }
    assert json.loads((folder / f"{other.id}.facts.json").read_bytes()) == FACTS


def test_they_are_sealed_to_the_recipients_of_the_package_alone(tmp_path: Path) -> None:
    key = tmp_path / "police.key"
    public = write_identity(key, datetime(2026, 1, 31, tzinfo=UTC))
    review, police = says(tmp_path, json.dumps(FACTS)), f'recipients = ["{public}"]\n'
    desk = Desk(tmp_path, review=review, police=police)
    sent = desk.send(desk.prepare(desk.find("a", A)))
    assert sent.error is None
    (sealed,) = (m.facts for m in desk.outbox.document(sent.report).matches)
    assert sealed is not None and sealed.recipients == (public,)
    (package,) = desk.out.iterdir()
    found = call("report", "verify", package, "--identity", key)
    assert found.code == 0 and not any(text in found.out for text in TEXTS)


def test_a_match_of_which_nothing_is_known_goes_without_facts(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=says(tmp_path, "{}"))
    sent = desk.send(desk.prepare(desk.find("a", A)))
    assert sent.error is None
    path, document = package_of(desk, sent.report)
    assert document.matches[0].facts is None
    assert b'"facts"' not in (path / "document.json").read_bytes()


FAILURES = {
    "an end with another code": ("exit 3", "command: ended with 3"),
    "no JSON": ("echo no JSON", "the facts are no JSON"),
    "nothing": ("true", "the facts are no JSON"),
    "a list": ("echo '[]'", "the facts are no JSON object"),
    "a key twice": ('echo \'{"url": "a:b", "url": "a:c"}\'', "the facts are no JSON"),
    "an unknown key": ("echo '{\"secret-name\": 1}'", "the facts have an unknown key"),
    "a wrong address": ('echo \'{"address": "secret"}\'', "the facts have a wrong address"),
    "a time without a zone": (
        'echo \'{"uploaded": "2026-01-30T08:15:00"}\'',
        "the facts have a wrong uploaded",
    ),
    "a wrong URL": ('echo \'{"url": "secret place"}\'', "the facts have a wrong url"),
    "a line break": ('echo \'{"account": "secret\\\\n"}\'', "the facts have a wrong account"),
    "too much": ("yes secret", "command: writes more than 65536 bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_what_is_wrong_with_the_answer_holds_the_match_and_not_the_others(
    tmp_path: Path, failure: str
) -> None:
    text, why = FAILURES[failure]
    given = tmp_path / "given"
    good = f"grep -q good {given} && echo '{{}}' && exit 0"
    desk = Desk(tmp_path, review=program(tmp_path, f"cat > {given}\n{good}\n{text}"))
    first, second = desk.find("good", A), desk.find("bad", B)
    report = desk.prepare(first, second)
    sent = desk.send(report)
    assert sent.error is None and sent.report.matches == (first.id,)
    (apart,) = sent.report.apart
    waiting = desk.outbox.get(apart.report)
    assert waiting.is_open and waiting.matches == (second.id,)
    assert waiting.problem is not None
    assert waiting.problem.message == f"match {second.id}: {why}"
    assert held(desk, second) == why
    assert any(apart.report in note for note in sent.notes)
    assert "secret" not in "".join(p.read_text() for p in desk.outbox.folder(waiting.id).iterdir())
    # If no match can be sent, the whole report waits.
    again = desk.send(waiting)
    assert again.error is not None and why in again.error.message
    assert held(desk, second) == why


@pytest.mark.parametrize("is_shorter", [False, True], ids=["another byte", "one byte less"])
def test_a_rehearsal_names_what_is_missing_of_each_match_and_shows_no_fact(
    tmp_path: Path, is_shorter: bool
) -> None:
    given = tmp_path / "given"
    answer = f"cat > {given}; grep -q good {given} && echo '{json.dumps(FACTS)}'"
    desk = Desk(tmp_path, review=program(tmp_path, answer))
    first, second, third = (desk.find(name, name.encode()) for name in ("good", "bad", "good 2"))
    for match in (first, third):
        desk.quarantine(match)
    copy = desk.settings.layout.quarantine / third.id / "evidence.age"
    *kept, last = copy.read_bytes()
    copy.write_bytes(bytes(kept if is_shorter else [*kept, last ^ 1]))
    report = desk.prepare(first, second, third)
    words = ("--state-dir", desk.settings.state_dir, "report", "submit", report.id, "--dry-run")
    done = call(*words)
    assert done.code == 3 and "example.org/u" not in done.out + done.err
    assert f"file evidence/{first.id}.facts.age\n" in done.out
    assert f"match {second.id}: command: ended with 1\n" in done.err
    assert f"match {second.id}: its file is not in quarantine\n" in done.err
    assert f"match {third.id}: sealed copy is damaged: " in done.err
    assert f"match {first.id}: " not in done.err
    assert not (desk.outbox.folder(report.id) / "sealed").exists()


def test_a_command_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.1)
    desk = Desk(tmp_path, review=program(tmp_path, "sleep 600 & sleep 600"))
    match = desk.find("a", A)
    sent = desk.send(desk.prepare(match))
    assert sent.error is not None and "not done within 0.1 s" in held(desk, match)
    assert sent.report.state is State.PREPARED and sent.report.next_attempt is not None


def test_a_command_that_fails_again_and_again_is_not_asked_for_all(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review=program(tmp_path, f"echo >> {tmp_path}/asked\nexit 1"))
    matches = [desk.find(f"{n}", b"%d" % n) for n in range(9)]
    assert desk.send(desk.prepare(*matches)).error is not None
    assert len((tmp_path / "asked").read_text()) == module.MOST_FAILURES
    assert {held(desk, match) for match in matches} == {"command: ended with 1"}


def test_a_command_without_an_absolute_path_is_not_run(tmp_path: Path) -> None:
    desk = Desk(tmp_path, review='[report.facts]\ncommand = ["facts"]\n')
    match = desk.find("a", A)
    assert desk.send(desk.prepare(match)).report.state is State.FAILED
    assert "command of report.facts does not begin with an absolute path" in held(desk, match)


def add(desk: Desk, match: Match) -> None:
    time = datetime.fromisoformat(FACTS["uploaded"])
    Client(desk.session).add_facts(match.id, **FACTS | {"uploaded": time})  # type: ignore[arg-type]


def test_added_facts_are_kept_sealed_and_go_with_the_report(tmp_path: Path) -> None:
    # The test fails if this program is run.
    desk = Desk(tmp_path, review=program(tmp_path, "exit 1"))
    match = desk.find("a", A)
    desk.quarantine(match)
    add(desk, match)
    path = desk.settings.layout.facts_of(match.id)
    assert not any(text.encode() in path.read_bytes() for text in TEXTS)
    assert path.stat().st_mode & 0o777 == 0o600
    sent = desk.send(desk.prepare(match))
    assert sent.error is None
    package, document = package_of(desk, sent.report)
    assert document.matches[0].facts is not None
    assert opened(desk, package / document.matches[0].facts.name) == FACTS
    assert "facts-added" in desk.events()
    # The facts are destroyed together with the file.
    assert prune_facts(desk.session) == 0
    assert desk.purge(match, order="17/4").done
    assert not path.exists()


def test_facts_of_a_match_that_has_ended_are_removed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match, other = desk.find("a", A), desk.find("b", B)
    for one in (match, other):
        add(desk, one)
    words = ("--state-dir", desk.settings.state_dir, "matches", "close", match.id)
    assert call(*words, "--reason", "test").code == 0
    assert prune_facts(desk.session) == 1
    assert [p.stem for p in desk.settings.layout.facts.iterdir()] == [other.id]


def test_facts_of_an_excepted_match_are_kept_while_its_entry_is_listed(tmp_path: Path) -> None:
    """The exception ends: then a report of the match needs the facts."""
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    add(desk, match)
    with desk.record() as record:
        record.change(match.id, MatchState.EXCEPTED, desk.now(), {"exceptions": ["x-3kdz7wnq2m"]})
    assert prune_facts(desk.session) == 0
    with desk.record() as record:
        record.withdraw("baseline", [match.hits[0].entry], 4, desk.now())
    assert prune_facts(desk.session) == 1


def test_facts_about_a_file_in_quarantine_outlive_the_record_of_matches(tmp_path: Path) -> None:
    """`hashclient quarantine recover` records the match again, and its report needs the facts."""
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    desk.quarantine(match)
    add(desk, match)
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{desk.settings.layout.matches}{suffix}").unlink(missing_ok=True)
    desk.settings.layout.matches.touch()
    assert prune_facts(desk.session) == 0
    assert desk.settings.layout.facts_of(match.id).exists()


def test_what_cannot_be_added(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    client = Client(desk.session)
    with pytest.raises(UsageError, match="wrong address"):
        client.add_facts(match.id, address="secret")
    with pytest.raises(UsageError, match="wrong uploaded"):
        client.add_facts(match.id, uploaded=datetime(2026, 1, 31))  # noqa: DTZ001 - the case
    with pytest.raises(UsageError):
        client.add_facts("bbbbbbbbbb", account="x")
    assert not desk.settings.layout.facts.exists()
    add(desk, match)
    desk.settings.layout.facts_of(match.id).write_bytes(b"{}")
    sent = desk.send(desk.prepare(match))
    assert isinstance(sent.error, StateError) and "damaged" in sent.error.message


def test_without_a_key_facts_are_not_added(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    text = desk.config.replace(f'recipients = ["{desk.officer_public}"]', "")
    (desk.settings.state_dir / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match="no recipients"):
        Client(desk.settings.state_dir).add_facts(desk.find("a", A).id, account="x")


def test_the_fields_of_a_service(tmp_path: Path) -> None:
    with fast_directory() as directory, desk_and_service(directory) as (desk, service):
        command = says(tmp_path, json.dumps(FACTS))
        desk = Desk(directory / "own", f"[report.to.hotline]\n{service.table()}{command}")
        match = desk.find("a", A)
        with desk.sender() as sender:
            report = desk.prepare(match, to="hotline")
            ((_, shown),) = sender.rehearse([report.id])
        texts = b"".join(shown.texts.values()).decode()
        assert texts.count("(not shown)") == 7 and not any(text in texts for text in TEXTS)
        sent = desk.send(report)
        assert sent.error is None, sent.error
        (file,) = service.finished.files.values()
        assert file.details is not None
        details = file.details.decode()
        for text in (
            "<uploadedToEspTimestamp>2026-01-30T08:15:00+01:00</uploadedToEspTimestamp>",
            "<locationOfFile>https://files.example.org/u/4711?x=1</locationOfFile>",
            "<ipCaptureEvent><ipAddress>2001:db8::4711</ipAddress><eventName>Upload</eventName>",
            "<dateTime>2026-01-30T08:15:00+01:00</dateTime></ipCaptureEvent>",
            "account of its source: user 4711 «Zoë»",
            "message id of its source: &lt;4711.abc@mail.example.org&gt;",
        ):
            assert text in details
        person = "<personOrUserReported><espIdentifier>user 4711 «Zoë»</espIdentifier>"
        assert person in service.finished.document.decode()
        written = b"".join(
            p.read_bytes() for p in desk.settings.state_dir.rglob("*") if p.is_file()
        )
        assert b"files.example.org" not in written and "Zoë".encode() not in written


def test_added_facts_wait_for_the_key_where_a_service_gets_them(tmp_path: Path) -> None:
    with fast_directory() as directory, desk_and_service(directory) as (desk, service):
        match, other = desk.find("a", A), desk.find("b", B)
        add(desk, match)
        sent = desk.send(desk.prepare(match, other, to="hotline"))
        assert sent.error is None and sent.report.matches == (other.id,)
        (apart,) = sent.report.apart
        assert held(desk, match) == "the facts about its source are sealed"
        last = desk.send(desk.outbox.get(apart.report), identities=desk.identities())
        assert last.error is None, last.error
        assert service.states() == ["finished", "finished"]


def test_facts_that_do_not_fit_the_schema_are_not_repeated(tmp_path: Path) -> None:
    with fast_directory() as directory, desk_and_service(directory) as (desk, service):
        place = b'<xs:element name="locationOfFile" type="xs:anyURI"'
        assert place in service.schema
        service.schema = service.schema.replace(place, place.replace(b"anyURI", b"int"))
        match, other = desk.find("a", A), desk.find("b", B)
        add(desk, match)
        report = desk.prepare(match, other, to="hotline")
        sent = desk.send(report, identities=desk.identities())
        assert sent.error is None and sent.report.matches == (other.id,)
        assert "facts about the source do not fit the schema" in held(desk, match)
        assert service.states() == ["retracted", "finished"]
        for path in desk.settings.state_dir.rglob("*"):
            assert not path.is_file() or b"files.example.org" not in path.read_bytes()


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "account": st.text(st.characters(categories=["L", "N", "P", "S"])).map("zqj4{}".format),
            "address": st.ip_addresses(network="2001:db8::/32")
            .map(str)
            .filter(lambda a: len(a) > 14),
            "url": st.text("abcdefghij0123456789/?=").map("https://zqj4{}".format),
            "message_id": st.text(st.characters(categories=["L", "N"])).map("zqj4{}".format),
        },
    ).filter(bool)
)
@pytest.mark.slow
def test_facts_are_in_no_output_log_metric_alert_or_document(facts: dict[str, str]) -> None:
    with fast_directory() as directory:
        took = directory / "alerts"
        alerts = f'[alerts]\ncommand = ["/bin/sh", "-c", "cat >> {took}"]\npaths = true\n'
        (fleet := directory / "fleet").mkdir()
        # The command `status` is refused without a provider.
        provider = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'
        desk = Desk(directory, alerts + provider, review=says(directory, json.dumps(facts)))
        match, other = desk.find("a", A), desk.find("b", B)
        desk.quarantine(match)
        Client(desk.session).add_facts(other.id, **facts)  # type: ignore[arg-type]
        report = desk.prepare(match, other)
        state = ("--state-dir", desk.settings.state_dir)
        output = ""
        for words in (
            ("report", "submit", report.id, "--dry-run"),
            ("-v", "report", "submit", report.id),
            ("report", "status", report.id, "--format", "json"),
            ("report", "export", report.id),
            ("matches", "show", match.id, "--format", "json"),
            ("matches", "--format", "jsonl"),
            ("status", "--format", "json"),
            ("status", "--format", "prometheus"),
            ("audit", "show"),
            ("alerts", "send"),
            ("status", "--publish", fleet),
            ("fleet", "show", fleet, "--format", "jsonl"),
            ("fleet", "show", fleet, "--format", "html"),
            ("report", "verify", desk.out / f"hashclient-report-{report.id}", "--format", "jsonl"),
        ):
            done = call(*(() if words[1] == "verify" else state), *words)
            assert done.code != 2, done.err
            output += done.out + done.err
        assert desk.outbox.get(report.id).state is State.SUBMITTED, output
        (document,) = fleet.iterdir()
        matches = verify_status(document.read_bytes()).document.matches
        assert matches is not None and matches[MatchState.REPORTED] == 2, output
        written = b"".join(
            path.read_bytes()
            for path in directory.rglob("*")
            if path.is_file() and path.name not in ("answer.json", "asked")
        )
        for text in facts.values():
            spelled = json.dumps(text)[1:-1]
            for each in (text, spelled):
                assert each not in output
                assert each.encode() not in written
        sealed = desk.out / f"hashclient-report-{report.id}" / "evidence"
        keys = load_identities(desk.officer)
        for one in (match, other):
            path = sealed / f"{one.id}.facts.age"
            assert json.loads(b"".join(unsealed(iter((path.read_bytes(),)), keys))) == facts


def test_what_are_facts() -> None:
    assert not parse_facts({}) and not parse_facts({"account": None})
    assert parse_facts({"address": "192.0.2.1"}).texts() == {"address": "192.0.2.1"}
    with pytest.raises(UsageError, match="wrong account"):
        parse_facts({"account": "x" * 501})
