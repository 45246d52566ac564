"""Answers of bodies to a report: only for this machine, by the pinned key, and once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fixtures.answers import PUBLIC, answer_of, signed
from fixtures.desk import A, Desk
from hashclient.audit.log import Event, read
from hashclient.core.errors import ConfigError, StateError, UsageError, VerificationError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match, keep_asked
from hashclient.packages.answer import Answer, Request, parse_answer
from hashclient.packages.chain import spelled_note
from hashclient.packages.verify import verify_retraction
from hashclient.reporting.outbox import Outbox
from hashclient.reporting.receiving import receive
from hashclient.reporting.report import Report, State
from tests.kit import Run, call

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests/vectors/answer"


def desk_at(directory: Path, key: str | None = PUBLIC) -> Desk:
    line = "" if key is None else f'key = "{key}"\n'
    return Desk(directory, keep_days=30, police=line)


def handed_over(desk: Desk) -> tuple[Match, Report]:
    match = desk.find("a", A)
    desk.quarantine(match)
    sent = desk.send(desk.prepare(match))
    assert sent.error is None
    return match, sent.report


def take(desk: Desk, answer: Answer) -> Report:
    with desk.record() as record:
        return receive(desk.outbox, record, signed(answer))[0]


def logged(desk: Desk, event: str) -> list[dict[str, Any]]:
    return [dict(r.data) for r in read(desk.settings.layout.audit, event=event)]


def ask(match: Match, what: Any, text: str = "order 17/4", **more: Any) -> Request:
    return Request(what, (match.id,), more.get("until"), text)


def test_an_answer_is_noted_in_the_report_the_story_and_the_log(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    answer = answer_of(desk, report)
    done = take(desk, answer)
    assert (done.state, done.reference) == (State.ACKNOWLEDGED, "case 4711/26")
    assert desk.story(match)[-2:] == ["answered", "acknowledged"]
    (record,) = logged(desk, "report-answered")
    assert (record["answer"], record["key"], record["accepted"]) == (answer.id, PUBLIC, [match.id])
    shown = call("--state-dir", desk.settings.state_dir, "report", "status", report.id).out
    assert re.search(r"answers +Police, unit 7, accepts\n", shown)


def test_an_answer_counts_once(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    answer = answer_of(desk, report)
    take(desk, answer)
    with pytest.raises(VerificationError, match="received before"):
        take(desk, answer)
    assert desk.story(match).count("answered") == len(logged(desk, "report-answered")) == 1
    take(desk, answer_of(desk, report, accepted=(), refused=report.matches))
    assert desk.story(match).count("answered") == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"log_id": "0" * 32}, "another machine"),
        ({"public_key": "0" * 64}, "another machine"),
        ({"accepted": ("bbbbbbbbbb",)}, "not in the report"),
        ({"requests": (Request("destroy", ("bbbbbbbbbb",), None, "x"),)}, "not in the report"),
    ],
)
def test_an_answer_that_is_not_for_this_report(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    desk = desk_at(tmp_path)
    _, report = handed_over(desk)
    with pytest.raises(VerificationError, match=said):
        take(desk, answer_of(desk, report, **changes))
    assert logged(desk, "report-answered") == []
    assert desk.outbox.get(report.id).state is State.SUBMITTED


def test_an_answer_by_a_key_that_is_not_pinned(tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes_raw().hex()
    desk = desk_at(tmp_path / "one")
    _, report = handed_over(desk)
    with desk.record() as record, pytest.raises(VerificationError, match="another key than that"):
        receive(desk.outbox, record, signed(answer_of(desk, report, key=public), other))
    # The sender names the pinned key but signs with another key.
    with desk.record() as record, pytest.raises(VerificationError, match="bad signature"):
        receive(desk.outbox, record, signed(answer_of(desk, report), other))
    unpinned = desk_at(tmp_path / "two", None)
    _, report = handed_over(unpinned)
    with pytest.raises(ConfigError, match="no key is pinned"):
        take(unpinned, answer_of(unpinned, report))


def test_an_answer_to_what_was_not_handed_over(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    report = desk.prepare(desk.find("a", A))
    with pytest.raises(VerificationError, match="was not handed over"):
        take(desk, answer_of(desk, report))
    with pytest.raises(UsageError, match="no report has the id"):
        take(desk, msgspec.structs.replace(answer_of(desk, report), report="r-bbbbbbbbbb"))


def test_many_answers_are_received_at_once_and_one_that_is_refused_stops_no_other(
    tmp_path: Path,
) -> None:
    desk = desk_at(tmp_path)
    reports = [desk.send(desk.prepare(desk.find(n, n.encode()))).report for n in "abc"]
    paths = [tmp_path / f"{number}.json" for number in range(4)]
    texts = [signed(answer_of(desk, report)) for report in reports]
    for path, text in zip(paths, [texts[0], texts[0], texts[1], texts[2]], strict=True):
        path.write_bytes(text)
    done = call("--state-dir", desk.settings.state_dir, "report", "receive", *paths)
    assert done.code == 6 and "received before" in done.err
    assert len(done.out.splitlines()) == 3
    assert {desk.outbox.get(r.id).state for r in reports} == {State.ACKNOWLEDGED}
    assert len(logged(desk, "report-answered")) == 3


def test_what_a_body_asks_to_keep_is_not_purged(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    until = desk.now() + timedelta(days=90)
    take(desk, answer_of(desk, report, ask(match, "keep", until=until)))
    desk.wait(days=60)
    for options in ({}, {"force": True}):
        purged = desk.purge(match, **options)
        assert purged.done is False and "on hold" in purged.detail and "until" in purged.detail
    desk.wait(days=31)
    assert desk.purge(match).done is True


def test_a_request_to_keep_waits_for_a_quarantine_that_is_not_mounted(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    answer = answer_of(desk, report, ask(match, "keep", until=desk.now() + timedelta(days=90)))
    with desk.unmounted(), pytest.raises(StateError, match="the quarantine is not there"):
        take(desk, answer)
    assert logged(desk, "report-answered") == []
    take(desk, answer)
    desk.wait(days=60)
    assert desk.purge(match).done is False


def test_what_is_isolated_after_a_body_has_asked_to_keep_it_is_not_purged(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match = desk.find("a", A)
    report = desk.send(desk.prepare(match)).report
    until = desk.now() + timedelta(days=90)
    take(desk, answer_of(desk, report, ask(match, "keep", until=until)))
    desk.quarantine(match)
    desk.wait(days=60)
    for options in ({}, {"force": True}, {"order": "order 18/4"}):
        purged = desk.purge(match, **options)
        assert purged.done is False and "by Police, unit 7, until" in purged.detail
    with desk.record() as record:
        desk.room().release(match.id, record, reason="the body has called")
        assert keep_asked(record.story(match.id)) is None
    assert desk.purge(match).done is True


def test_what_a_body_asks_to_destroy_is_due_and_a_certificate_says_that_it_was_done(
    tmp_path: Path,
) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)

    def command(*words: object) -> Run:
        return call("--state-dir", desk.settings.state_dir, *words)

    assert not desk.due(match).is_due
    (tmp_path / "answer.json").write_bytes(signed(answer_of(desk, report, ask(match, "destroy"))))
    received = command("report", "receive", tmp_path / "answer.json")
    assert received.code == 0 and "asks to destroy: order 17/4" in received.out
    assert command("report", "certificate", report.id).code == 2
    due = desk.due(match)
    assert due.is_due and due.why == "to be destroyed as ordered: order 17/4 (Police, unit 7)"
    assert desk.purge(match).done is True
    assert desk.get(match).state is MatchState.PURGED
    written = command("report", "certificate", report.id)
    path = desk.out / f"hashclient-report-{report.id}-destruction.json"
    assert (written.code, written.out) == (0, f"{path}\n")
    note = verify_retraction(path)
    assert (note.report_id, note.matches) == (report.id, (match.id,))
    assert note.record.event == "purged" and note.record.seq > 1
    shown = call("report", "verify", path, "--format", "jsonl").lines
    assert [(row["result"], row["match"]) for row in shown] == [("destruction", match.id)]
    assert "destruction verifies" in call("report", "verify", path).out


def test_a_file_that_was_destroyed_before_its_body_asked_for_this_is_in_no_certificate(
    tmp_path: Path,
) -> None:
    desk = desk_at(tmp_path)
    first, second = desk.find("a", A), desk.find("b", b"b")
    for match in first, second:
        desk.quarantine(match)
    report = desk.send(desk.prepare(first, second)).report
    assert desk.purge(first, order="17/4").done is True
    requests = (ask(first, "destroy"), ask(second, "destroy"))
    take(desk, answer_of(desk, report, *requests))
    certify = ("--state-dir", desk.settings.state_dir, "report", "certificate", report.id)
    assert call(*certify).code == 2
    assert desk.purge(second).done is True
    assert call(*certify).code == 0
    (path,) = desk.out.glob("*-destruction.json")
    assert verify_retraction(path).matches == (second.id,)
    # Without the record of the request, no valid certificate is possible.
    desk.audit.rotate()
    (desk.settings.layout.audit / "log-000001.jsonl").rename(tmp_path / "archived")
    assert call(*certify).code == 2


NOTES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another match": lambda note: note["matches"].__setitem__(0, "bbbbbbbbbb"),
    "no match": lambda note: note["matches"].clear(),
    "a match more": lambda note: note["matches"].append("bbbbbbbbbb"),
    "without the answer": lambda note: note["records"].pop(2),
    "without the purge": lambda note: note["records"].pop(),
    "another report": lambda note: note.update(report="r-bbbbbbbbbb"),
    "another format": lambda note: note.update(format="hashclient-retraction/1"),
    "another reason": lambda note: note["records"][-1]["data"].update(reason="x"),
    "odd matches": lambda note: note.update(matches=[{}]),
}


def test_a_certificate_that_was_edited(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    take(desk, answer_of(desk, report, ask(match, "destroy")))
    desk.purge(match)
    assert (
        call("--state-dir", desk.settings.state_dir, "report", "certificate", report.id).code == 0
    )
    (path,) = desk.out.glob("*-destruction.json")
    text = path.read_bytes()
    for edit in NOTES.values():
        note = json.loads(text)
        edit(note)
        path.write_bytes(json.dumps(note, indent=1).encode() + b"\n")
        with pytest.raises(VerificationError):
            verify_retraction(path)


def test_a_note_that_names_what_is_no_id_is_refused(tmp_path: Path) -> None:
    """The owner of a key can sign any values, so the ids in an answer are checked as well."""
    desk = desk_at(tmp_path)
    audit = desk.session.audit
    asked = [{"request": "destroy", "matches": ["a" * 10]}]
    cases: list[tuple[Any, Any]] = [("r-bbbbbbbbbb", {}), ("r-bbbbbbbbbb", "x"), ({}, "a" * 10)]
    for report, match in cases:
        audit.append([Event("report-answered", {"report": report, "requests": asked})])
        audit.append([Event("purged", {"id": match})], durable=True)
        first, *_, answered, purged = read(desk.settings.layout.audit)
        note = {"format": "hashclient-destruction/1", "report": report, "matches": [match]}
        lines = [json.loads(r.line) for r in (first, answered, purged)]
        path = tmp_path / "note.json"
        path.write_bytes(spelled_note({**note, "records": lines}))
        with pytest.raises(VerificationError):
            verify_retraction(path)


def test_a_later_request_to_keep_outranks_an_order_to_destroy(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    take(desk, answer_of(desk, report, ask(match, "destroy")))
    assert desk.due(match).is_due
    until = desk.now() + timedelta(days=1)
    take(desk, answer_of(desk, report, ask(match, "keep", until=until)))
    assert not desk.due(match).is_due
    desk.wait(days=2)
    assert not desk.due(match).is_due  # the order to wait has lost its effect


def test_a_request_to_retract_is_shown_and_left_to_a_person(tmp_path: Path) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    done = take(desk, answer_of(desk, report, ask(match, "retract", "not for us")))
    assert done.state is State.ACKNOWLEDGED
    shown = call("--state-dir", desk.settings.state_dir, "report", "status").out
    assert "asks to retract: not for us" in shown


def test_after_a_kill_the_same_answer_finishes_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_at(tmp_path)
    match, report = handed_over(desk)
    until = desk.now() + timedelta(days=90)
    answer = answer_of(desk, report, ask(match, "keep", until=until))
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "save", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            take(desk, answer)
    assert desk.outbox.get(report.id).answers == ()
    done = take(desk, answer)
    assert (done.state, len(done.answers)) == (State.ACKNOWLEDGED, 1)
    assert desk.story(match).count("answered") == desk.story(match).count("on-hold") == 1
    assert "on hold" in desk.due(match).why


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "another report": lambda text: text.replace(b'"report":"r-', b'"report":"r-b', 1),
    "another reference": lambda text: text.replace(b"4711", b"4712"),
    "a space": lambda text: text.replace(b'":"', b'": "', 1),
    "no newline": lambda text: text[:-1],
    "two newlines": lambda text: text + b"\n",
    "a key more": lambda text: text.replace(b'"body":', b'"more":1,"body":'),
    "a key twice": lambda text: text.replace(b'"body":', b'"body":"x","body":'),
    "another order": lambda text: json.dumps(json.loads(text), sort_keys=True).encode() + b"\n",
    "a signature changed": lambda text: re.sub(rb'"sig":"....', b'"sig":"0000', text),
    "a signature that is none": lambda text: re.sub(rb'"sig":"[^"]*"', b'"sig":"zz"', text),
    "a signature that is a number": lambda text: re.sub(rb'"sig":"[^"]*"', b'"sig":1', text),
    "no signature": lambda text: re.sub(rb',"sig":"[^"]*"', b"", text),
    "an older format": lambda text: text.replace(b"answer/1", b"answer/0"),
    "another time zone": lambda text: re.sub(rb'Z","body"', b'+00:00","body"', text),
    "before the first year": lambda text: re.sub(
        rb'"time":"[^"]*"', b'"time":"0001-01-01T00:00:00+14:00"', text
    ),
    "accepted and refused": lambda text: text.replace(
        b'"refused":[]', b'"refused":' + re.findall(rb'"accepted":(\[[^]]*\])', text)[0]
    ),
    "keep without an end": lambda text: text.replace(
        b'"requests":[]', b'"requests":[{"request":"keep","matches":[],"until":null,"text":"x"}]'
    ),
    "a control character": lambda text: text.replace(b"unit", b"\\u001b[2J"),
    "deep": lambda _: b"[" * 100_000,
    "no object": lambda _: b"[]\n",
    "too long": lambda text: text + b" " * (1 << 20),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("name", EDITS)
def test_an_answer_is_what_was_signed(name: str) -> None:
    text = (VECTORS / "accepted" / "answer.json").read_bytes()
    assert parse_answer(text).key == PUBLIC
    edited = EDITS[name](text)
    assert edited != text
    with pytest.raises(VerificationError):
        parse_answer(edited)


@pytest.mark.parametrize("path", sorted(p for p in VECTORS.iterdir() if p.is_dir()), ids=str)
def test_each_vector_has_the_expected_result_and_fits_the_schema(path: Path) -> None:
    expected = json.loads((path / "expect.json").read_text())
    text = (path / "answer.json").read_bytes()
    schema = json.loads((ROOT / "docs/answer.schema.json").read_bytes())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    if expected["expect"] == "refused":
        with pytest.raises(VerificationError):
            parse_answer(text)
        return
    validator.validate(json.loads(text))
    answer = parse_answer(text)
    assert signed(answer) == text
    found = {"report": answer.report, "key": answer.key, "matches": sorted(answer.matches)}
    assert expected == {"expect": "verifies", **found}


def test_the_schema_names_what_the_code_does() -> None:
    schema = json.loads((ROOT / "docs/answer.schema.json").read_bytes())
    assert tuple(schema["properties"]) == (*Answer.__struct_fields__, "sig")
    request = schema["properties"]["requests"]["items"]["properties"]
    assert tuple(request) == Request.__struct_fields__


def main() -> None:
    """Write the vectors of answers again."""
    time = datetime(2026, 1, 31, 12, tzinfo=UTC)
    ids = ("3kdz7wnq2m", "7rwtb2c9xh")
    base = Answer(
        "hashclient-answer/1", "0123456789abcdef" * 2, time, "Police, unit 7", "r-3kdz7wnq2m",
        "ab" * 16, "cd" * 32, "case 4711/26", ids, (), (), PUBLIC,
    )  # fmt: skip
    asks = (
        Request("keep", ids[:1], time + timedelta(days=365), "order 17/4"),
        Request("destroy", ids[1:], None, "order 17/5 \u00e9"),
        Request("retract", ids, None, "not for us"),
    )
    good = {
        "accepted": signed(base),
        "partly-refused": signed(
            msgspec.structs.replace(base, accepted=ids[:1], refused=ids[1:], reference=None)
        ),
        "with-requests": signed(msgspec.structs.replace(base, requests=asks)),
    }
    both = msgspec.structs.replace(base, refused=ids)
    bad = {name.replace(" ", "-"): edit(good["accepted"]) for name, edit in EDITS.items()}
    keep = ("a-space", "another-report", "a-key-twice", "no-newline", "another-time-zone")
    refused = {name: bad[name] for name in keep} | {"signed-accepted-and-refused": signed(both)}
    refused["signed-by-another-key"] = signed(base, Ed25519PrivateKey.from_private_bytes(b"x" * 32))
    for name, text in (good | refused).items():
        (VECTORS / name).mkdir(exist_ok=True)
        (VECTORS / name / "answer.json").write_bytes(text)
        expected: dict[str, Any] = {"expect": "refused"}
        if name in good:
            answer = parse_answer(text)
            expected = {"expect": "verifies", "report": answer.report, "key": answer.key}
            expected["matches"] = sorted(answer.matches)
        (VECTORS / name / "expect.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
