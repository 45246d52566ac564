"""Alerts: which events are noticed, joined and delayed; the document, its schema and its vectors.

Run as a program, with the project on the path, this file writes the vectors again.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import string
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.mailbox import Mailbox
from hashclient.alerts import alert as alert_module
from hashclient.alerts import noticing, outbox
from hashclient.alerts.alert import MEANINGS, MOST_NAMED, Alert, Kind, Noticed, document_of, noticed
from hashclient.alerts.outbox import Outbox
from hashclient.alerts.receivers import Message, parse_secret, signature
from hashclient.audit.reading import read_backward
from hashclient.audit.record import Record
from hashclient.core.errors import ConfigError, ExitCode, StateError
from hashclient.core.kinds import Algorithm, MatchState
from hashclient.core.kinds import Kind as OutcomeKind
from hashclient.core.model import Hit, Outcome
from hashclient.matches.recent import _FOUND, Recent
from tests.kit import fast_directory
from tests.kit.depth import examples
from tests.told import Told, documents, into

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "alert"
SCHEMA = json.loads((ROOT / "docs" / "alert.schema.json").read_bytes())
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@pytest.fixture
def told() -> Iterator[Told]:
    with fast_directory() as directory:
        yield Told(directory)


def record(told: Told, count: int, *lists: str, hold: bool = False, start: int = 0) -> list[str]:
    """Record matches of each of these lists, as a scan does; return their ids."""
    sealer = told.sealer()
    hits = tuple(
        Hit(name, "e-1", "synthetic", 3, (Algorithm.SHA256,), complete=True) for name in lists
    )
    outcomes = [
        Outcome(
            OutcomeKind.MATCH,
            f"/srv/secret/{number}",
            3,
            hits=hits,
            tags={Algorithm.SHA256: number.to_bytes(16)},
        )
        for number in range(start, start + count)
    ]
    with told.record() as matches:
        ruled = (lambda cases, _: {case.id: True for case in cases}) if hold else None
        return [ref.id for ref in matches.record(outcomes, sealer.key_id, told.now(), hold=ruled)]


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_ten_thousand_matches_are_one_message(told: Told, count: int) -> None:
    ids = record(told, count - 10, "baseline")
    ids += record(told, 10, "baseline", "other", start=count)
    (document,) = told.sent()
    jsonschema.validate(document, SCHEMA)
    assert document["text"] == f"{count:,} new matches: baseline ({count:,}), other (10)"
    assert document["count"] == count
    assert len(document["matches"]) == MOST_NAMED and set(document["matches"]) <= set(ids)
    assert not re.search(r"secret|e-1|tester", json.dumps(document))
    assert told.sent() == []


def test_a_match_that_is_found_again_is_no_news_unless_it_had_ended(told: Told) -> None:
    (match_id,) = record(told, 1, "baseline")
    assert told.texts() == ["1 new match: baseline"]
    told.wait(hours=2)
    record(told, 1, "baseline")
    assert told.texts() == []
    with told.record() as matches:
        matches.change(match_id, MatchState.CLOSED, told.now(), {})
    assert told.texts() == []
    told.wait(hours=2)
    record(told, 1, "baseline")
    assert told.texts() == ["1 new match: baseline"]


def test_matches_found_after_the_newest_were_forgotten_are_news(told: Told) -> None:
    from hashclient.matches.pruning import Pruner

    (match_id,) = record(told, 1, "baseline")
    assert len(told.sent()) == 1
    told.wait(days=400)
    with told.record() as matches:
        matches.change(match_id, MatchState.CLOSED, told.now(), {})
    with Pruner(told.settings.state_dir) as pruner:
        assert pruner.prune([match_id]) == 1
    record(told, 1, "baseline", start=7)
    assert told.texts() == ["1 new match: baseline"]


def test_a_match_that_is_recorded_during_a_look_is_said_once(told: Told) -> None:
    record(told, 1, "baseline")
    assert len(told.sent()) == 1
    told.wait(hours=2)
    last = Recent.last

    def record_first(self: Recent) -> tuple[int, int]:
        told.wait(minutes=1)
        record(told, 1, "baseline", start=7)
        told.wait(minutes=1)
        return last(self)

    with mock.patch.object(Recent, "last", record_first):
        assert told.texts() == ["1 new match: baseline"]
    told.wait(hours=2)
    assert told.texts() == []


def test_a_match_that_a_clock_ahead_has_dated_is_said_once(told: Told) -> None:
    record(told, 1, "baseline")
    assert len(told.sent()) == 1
    told.wait(days=300)
    record(told, 1, "baseline", start=7)
    told.wait(days=-299)
    assert told.texts() == ["1 new match: baseline"]
    for _ in range(3):
        told.wait(hours=2)
        assert told.texts() == []


def test_a_look_reads_only_what_is_new_of_a_record(told: Told) -> None:
    record(told, 1, "baseline")
    with Recent(told.settings.state_dir, create=False) as recent:
        values = dict.fromkeys(re.findall(r":(\w+)", _FOUND), 0)
        plan = [row[3] for row in recent._db.execute(f"EXPLAIN QUERY PLAN {_FOUND}", values)]
    assert not [step for step in plan if step.startswith("SCAN")]
    by_number = [step for step in plan if "USING INTEGER PRIMARY KEY" in step]
    assert len(by_number) == 4, plan


def test_of_a_million_records_a_look_keeps_one_at_a_time(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Record] = []

    def newest(directory: Path) -> Iterator[Record]:
        for number, found in enumerate(read_backward(directory)):
            assert len(taken) == number
            yield found

    monkeypatch.setattr(noticing, "read_backward", newest)
    monkeypatch.setattr(noticing.News, "_take", lambda _, found: taken.append(found))
    for _ in range(3):
        told.fetched()
    told.alert()
    assert len(taken) == 4  # three alerts, and the first record of the audit log


def test_a_held_match_is_said_as_one_that_waits_and_its_release_is_no_news(told: Told) -> None:
    (match_id,) = record(told, 1, "baseline", hold=True)
    assert [(d["kind"], d["text"]) for d in told.sent()] == [
        ("held", "1 match held, waiting for a person: baseline")
    ]
    with told.record() as matches:
        matches.release(matches.get(match_id), told.now(), "tester", "right")
    told.wait(days=1)
    assert told.sent() == []


def test_a_match_that_only_the_log_has_is_said(told: Told) -> None:
    told.log("match", path="/srv/secret", hits=[{"list": "baseline", "entry": "e-1"}])
    (document,) = told.sent()
    assert document["text"] == "1 new match: baseline" and document["matches"] == []


def test_matches_are_joined_until_an_hour_has_passed(told: Told) -> None:
    record(told, 1, "baseline")
    assert len(told.sent()) == 1
    for number in range(1, 4):
        told.wait(minutes=15)
        record(told, 2, "baseline", start=10 * number)
        assert told.sent() == []
    told.wait(minutes=15)
    (document,) = told.sent()
    assert document["count"] == 6
    assert (document["since"], document["until"]) == (
        "2026-01-31T12:15:00Z",
        "2026-01-31T12:45:00Z",
    )


def test_a_match_of_another_list_is_said_at_once(told: Told) -> None:
    record(told, 1, "baseline")
    assert len(told.sent()) == 1
    told.wait(minutes=1)
    record(told, 1, "other", start=5)
    assert told.texts() == ["1 new match: other"]


def test_an_outage_is_said_once_a_day(told: Told) -> None:
    texts: list[str] = []
    for _ in range(49):
        told.refuse(ExitCode.UNREACHABLE, None)
        texts += told.texts()
        told.wait(hours=1)
    assert texts == ["1 fetch failed: main", "24 fetches failed: main (24)"] * 1 + [
        "24 fetches failed: main (24)"
    ]


def test_a_failed_fetch_is_forgotten_when_the_next_one_is_good(told: Told) -> None:
    # The fetch tries another address after the first address has failed.
    told.refuse(ExitCode.UNREACHABLE, None)
    told.fetched()
    assert told.sent() == []
    told.refuse(ExitCode.UNVERIFIED)
    assert told.texts() == ["1 update refused: main/baseline"]
    told.wait(hours=1)
    told.refuse(ExitCode.UNVERIFIED)
    assert told.sent() == []
    told.fetched()
    told.wait(days=2)
    assert told.sent() == []
    assert told.book().waiting == ()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ExitCode.UNREACHABLE, "fetch-failed"),
        (ExitCode.UNAUTHORISED, "fetch-failed"),
        (ExitCode.UNVERIFIED, "refused"),
        (ExitCode.STALE, "refused"),
        (ExitCode.USAGE, "refused"),
    ],
)
def test_what_failed_is_distinguished_from_what_was_refused(
    told: Told, code: ExitCode, kind: str
) -> None:
    told.refuse(code)
    (document,) = told.sent()
    assert (document["kind"], document["count"]) == (kind, 1)
    assert "path" not in json.dumps(document)


def test_what_stands_is_said_once_in_its_time(told: Told) -> None:
    def look() -> list[Noticed]:
        return [
            noticed(Kind.STALE, "baseline"),
            noticed(Kind.EXCEPTION_ENDS, "x-1", "x-2"),
            noticed(Kind.DAMAGED),
        ]

    texts: list[str] = []
    for _ in range(8 * 24):
        texts += told.texts(look=look)
        told.wait(hours=1)
    stale, ends = "1 list is past its expiry: baseline", "2 exceptions end within a week: x-1, x-2"
    assert texts == [stale, ends, *[stale] * 7, ends][: len(texts)]
    assert texts.count(stale) == 8 and texts.count(ends) == 2


def test_the_state_is_looked_at_once_an_hour(told: Told) -> None:
    looks = []

    def look() -> list[Noticed]:
        looks.append(told.now())
        return []

    for _ in range(13):
        told.alert(look=look)
        told.wait(minutes=10)
    assert len(looks) == 3


def test_every_hours_is_for_all_kinds(tmp_path: Path) -> None:
    told = Told(tmp_path, "every_hours = 0\n")
    for _ in range(3):
        told.refuse(ExitCode.UNREACHABLE)
        assert len(told.sent()) == 1


def test_a_clock_that_was_ahead_holds_nothing_back(told: Told) -> None:
    told.wait(days=3650)
    told.refuse(ExitCode.UNREACHABLE)
    assert len(told.sent()) == 1
    told.wait(days=-3650)
    told.refuse(ExitCode.UNREACHABLE)
    assert len(told.sent()) == 1


def test_a_log_that_cannot_be_read_and_one_that_was_cut_are_said(told: Told) -> None:
    for _ in range(3):
        told.refuse(ExitCode.UNREACHABLE)
    assert len(told.sent()) == 1
    log = told.settings.layout.audit / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    assert told.texts() == ["1 part of the state is missing or damaged: audit log"]
    log.write_bytes(b"nonsense\n")
    told.wait(days=2)
    assert told.texts() == ["1 part of the state is missing or damaged: audit log"]


def test_a_record_of_matches_that_is_damaged_is_said(told: Told) -> None:
    told.settings.layout.matches.write_bytes(b"nonsense" * 1000)
    assert told.texts() == ["1 part of the state is missing or damaged: matches"]


def test_a_log_and_a_record_of_matches_that_were_removed_are_said_once(told: Told) -> None:
    assert told.texts() == []  # a state without a log and without matches is not damaged
    told.refuse(ExitCode.UNREACHABLE)
    record(told, 1, "base")
    assert len(told.sent()) == 2
    shutil.rmtree(told.settings.layout.audit)
    told.settings.layout.matches.unlink()
    assert told.texts() == ["2 parts of the state are missing or damaged: audit log, matches"]
    told.wait(days=2)
    assert told.texts() == []


def test_machines_that_are_silent_wait_for_the_end_of_the_run(told: Told) -> None:
    Outbox(told.session).raise_silent(["web-1", "web-2"])
    Outbox(told.session).raise_silent(["web-2", "web-3"])
    Outbox(told.session).raise_silent([])
    assert told.texts() == ["3 machines are silent: web-1, web-2, web-3"]
    Outbox(told.session).raise_silent(["web-1"])
    assert told.sent() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"format":"hashclient-alerts/0"}',
        b"[" * 9999,
        b'{"looked":"2026-01-31T12:00:00"}',
        b'{"said":{"match":{"baseline":"2026-01-31T12:00:00"}}}',
        b'{"place":{"seq":0,"row":9223372036854775808,"step":0,"time":"2026-01-31T12:00:00Z"}}',
    ],
)
def test_a_damaged_outbox_is_begun_again_and_says_so(told: Told, content: bytes) -> None:
    told.refuse(ExitCode.UNREACHABLE)
    assert len(told.sent()) == 1
    told.settings.layout.alerts.write_bytes(content)
    assert sorted(told.texts()) == [
        "1 fetch failed: main/baseline",  # the alert counts at least one failed fetch
        "1 part of the state is missing or damaged: alerts",
    ]
    assert told.sent() == []


def test_the_outbox_of_a_newer_version_is_left_alone(told: Told) -> None:
    told.alert()
    newer = b'{"format":"hashclient-alerts/2"}'
    told.settings.layout.alerts.write_bytes(newer)
    with pytest.raises(StateError, match="newer hashclient"):
        told.alert()
    assert told.settings.layout.alerts.read_bytes() == newer


def test_without_receivers_nothing_is_read_or_written(told: Told) -> None:
    told.configure("")
    told.refuse(ExitCode.UNREACHABLE)
    Outbox(told.session).raise_silent(["web-1"])
    assert told.alert() == []
    assert not told.settings.layout.alerts.parent.exists()


def test_a_receiver_that_fails_holds_up_no_other_and_is_tried_again_later(told: Told) -> None:
    told.configure(into(told.inbox) + 'webhook = "http://127.0.0.1:9/x"\nsecret_env = "NONE"\n')
    told.refuse(ExitCode.UNREACHABLE)
    good, bad = told.alert()
    assert (good.receiver, good.taken, good.error) == ("command", 1, None)
    assert (bad.receiver, bad.taken) == ("webhook", 0) and bad.error is not None
    (alert,) = told.book().waiting
    assert alert.to == ("webhook",)
    assert told.alert() == []  # no second attempt is made directly after the receiver has failed
    attempts = []
    for _ in range(48):
        told.wait(minutes=5)
        attempts += told.alert()
    assert len(attempts) == 6  # the attempts follow after 5, 10, 20 and 40 minutes, then each hour
    assert told.book().receiver("webhook").attempts == 7
    # Once the receiver works again, it gets the same alert with the same id.
    told.configure(into(told.inbox))
    told.alert(at_once=True)
    assert told.book().waiting == ()


LATE, OTHER = "late@example.org", "abuse@example.org"


def mail_to(told: Told, box: Mailbox, *addresses: str) -> None:
    told.configure(
        f'mail = {list(addresses)}\nmail_from = "root@example.org"\nsmtp = "{box.address}"\n'
    )


def test_an_address_that_is_refused_for_now_gets_the_alert_later(told: Told) -> None:
    """Some mail servers refuse a sender that they do not know for some minutes."""
    with Mailbox(unknown=LATE.encode(), unknown_by=b"451 try again") as box:
        mail_to(told, box, LATE, OTHER)
        told.refuse(ExitCode.UNREACHABLE)
        (attempt,) = told.alert()
        assert attempt.taken == 1 and attempt.error is not None and LATE in attempt.error.message
        for minutes, refused in ((0, 1), (4, 1), (2, 2), (2, 2)):
            told.wait(minutes=minutes)
            assert told.alert() == [] and box.refused == refused
        told.refuse(ExitCode.UNREACHABLE, "other")
        assert len(told.alert()) == 1 and len(box.mails) == 2  # other alerts do not wait
        box.unknown = b""
        told.wait(minutes=10)
        told.alert()
        told.wait(hours=1)
        told.alert()
        first, second, *late = (mail for _, mail in box.mails)
        assert [mail["To"] for mail in late] == [LATE] * 2
        assert {mail["Message-ID"] for mail in late} == {first["Message-ID"], second["Message-ID"]}
        assert told.book().late == ()


@pytest.mark.parametrize("how", ["for ever", "at once", "not configured", "unreachable"])
def test_an_address_is_not_tried_again_for_ever(told: Told, how: str) -> None:
    code = b"550 who?" if how == "at once" else b"451 try again"
    with Mailbox(unknown=LATE.encode(), unknown_by=code) as box:
        mail_to(told, box, LATE, OTHER)
        told.refuse(ExitCode.UNREACHABLE)
        told.alert()
        assert len(told.book().late) == (how != "at once")
        if how == "not configured":
            mail_to(told, box, OTHER)
        address = box.address
    if how == "unreachable":
        told.configure(f'mail = ["{LATE}"]\nmail_from = "a@b.c"\nsmtp = "{address}"\n')
    else:
        with Mailbox(unknown=LATE.encode(), unknown_by=code) as box:
            mail_to(told, box, *([LATE] if how != "not configured" else []), OTHER)
            told.wait(hours=1)
            told.alert()
            assert box.refused == (how == "for ever") and box.mails == []
    for hours in (1, 22, 2):
        told.wait(hours=hours)
        told.alert()
    assert told.book().late == ()


@pytest.mark.parametrize(("patient", "left"), [(False, 1), (True, 0)])
def test_a_slow_receiver_gets_all_alerts_only_if_nobody_waits_for_a_run(
    told: Told, monkeypatch: pytest.MonkeyPatch, patient: bool, left: int
) -> None:
    minutes = itertools.count(step=60)
    monkeypatch.setattr(outbox, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    told.refuse(4)
    told.log("match", hits=[{"list": "baseline"}])
    assert len(told.sent(patient=patient)) == 2 - left
    assert len(told.book().waiting) == left


def test_a_receiver_that_fails_is_tried_again_after_the_clock_was_set_back(told: Told) -> None:
    told.configure('command = ["/bin/false"]\n')
    told.refuse(ExitCode.UNREACHABLE)
    told.alert()
    told.wait(hours=-12)
    assert len(told.alert()) == 1


def test_without_free_descriptors_an_alert_waits(told: Told) -> None:
    told.refuse(ExitCode.UNREACHABLE)
    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with mock.patch("os.memfd_create", side_effect=full):
        (attempt,) = told.alert()
    assert attempt.error is not None and "Too many open files" in attempt.error.message
    assert len(told.sent(at_once=True)) == 1


@pytest.mark.slow
def test_behind_a_receiver_that_is_dead_for_months_alerts_are_joined(told: Told) -> None:
    dead = 'webhook = "http://127.0.0.1:9/x"\nsecret_env = "NONE"\n'
    told.configure(into(told.inbox) + dead)
    for number in range(60):
        record(told, 2, "baseline", start=10 * number)
        told.refuse(ExitCode.UNREACHABLE)
        told.alert()
        told.wait(days=1)
    assert sum(d["count"] for d in documents(told.inbox)) == 180
    told.alert()
    waiting = told.book().waiting
    assert [a.kind for a in waiting] == [Kind.MATCH, Kind.FETCH_FAILED, Kind.MATCH]
    assert sum(a.count for a in waiting) == 180
    assert len({a.id for a in waiting}) == 3


def test_the_first_look_goes_back_a_day(told: Told) -> None:
    record(told, 3, "baseline")
    told.refuse(ExitCode.UNREACHABLE)
    told.wait(hours=25)
    told.refuse(ExitCode.UNVERIFIED)
    record(told, 1, "baseline", start=7)
    assert sorted(told.texts()) == ["1 new match: baseline", "1 update refused: main/baseline"]


def test_an_alert_does_not_change_once_it_was_sent_to_somebody(told: Told) -> None:
    told.configure('command = ["/bin/false"]\nevery_hours = 0\n')
    told.refuse(ExitCode.UNREACHABLE)
    told.alert()
    (before,) = told.book().waiting
    for _ in range(5):
        told.refuse(ExitCode.UNREACHABLE)
        told.alert(at_once=True)
    first, *later = told.book().waiting
    assert first == before
    told.configure(into(told.inbox))
    assert told.sent(at_once=True)[0]["id"] == before.id
    assert told.book().waiting == ()
    assert sum(a.count for a in later) == 5


def test_a_wrong_setting_is_a_failed_attempt(told: Told) -> None:
    for text, says in (
        ('command = ["page"]\n', "absolute path"),
        ('command = ["/nowhere/page"]\n', "cannot be run"),
        ('command = ["/bin/true", "\\u0000"]\n', "has a character that is zero"),
        ('webhook = "https://x.example/?token=1"\nsecret_env = "S"\n', "webhook of alerts"),
        ('webhook = "http://x.example/"\nsecret_env = "S"\n', "not https"),
        ('webhook = "https://x.example/"\n', "no secret_file"),
        ('mail = ["root"]\nmail_from = "a@b.example"\n', "mail of alerts"),
        ('mail = ["a@b.example"]\n', "mail_from"),
        ('mail = ["a@b.example"]\nmail_from = "a@b"\nsmtp = "host"\n', "smtp of alerts"),
        (
            f'mail = ["a@b.example"]\nmail_from = "a@b"\nsmtp = "host:{"9" * 5000}"\n',
            "smtp of alerts",
        ),
    ):
        told.configure(text)
        told.refuse(ExitCode.UNREACHABLE)
        (attempt,) = told.alert(at_once=True)
        assert attempt.error is not None and says in attempt.error.message, text
        assert attempt.error.exit_code is ExitCode.USAGE
        told.wait(days=2)


def test_paths_are_named_only_if_the_configuration_asks_for_them(tmp_path: Path) -> None:
    told = Told(tmp_path, "paths = true\n")
    odd = told.find(b"odd-\xff", b"first")
    (document,) = told.sent()
    jsonschema.validate(document, SCHEMA)
    (place,) = document["paths"]
    assert place["path"].endswith("odd-\N{REPLACEMENT CHARACTER}") and place["path_b64"]
    assert document["matches"] == [odd.id]


#: Secret texts that no alert may contain. Each text is so unusual that it cannot occur by chance.
_SECRET = st.text("\N{SNOWMAN}\N{UMBRELLA}", min_size=4, max_size=8)


@pytest.mark.slow
@given(
    path=_SECRET,
    entry=_SECRET,
    person=_SECRET,
    reason=_SECRET,
    digest=st.binary(min_size=16, max_size=16),
    code=st.sampled_from([4, 5, 6, 7, 8]),
)
@examples(40)
def test_no_path_digest_content_or_person_is_in_any_alert(
    path: str,
    entry: str,
    person: str,
    reason: str,
    digest: bytes,
    code: int,
) -> None:
    with fast_directory() as directory:
        texts = alerted(Told(directory), path, entry, person, reason, digest, code)
    for text in texts:
        assert not re.search("[\N{SNOWMAN}\N{UMBRELLA}]|u260[23]", text)
        assert digest.hex() not in text


def alerted(
    told: Told, path: str, entry: str, person: str, reason: str, digest: bytes, code: int
) -> list[str]:
    """Return all alerts, sent and waiting, whose text contains these words."""
    told.session = told.session_of(person)
    hit = Hit("baseline", entry, reason, 3, (Algorithm.SHA256,), complete=True)
    outcome = Outcome(
        OutcomeKind.MATCH, f"/{path}", 3, hits=(hit,), tags={Algorithm.SHA256: digest}
    )
    with told.record() as matches:
        matches.record([outcome], told.sealer().key_id, told.now())
    told.log("match", path=path, by=person, hits=[{"list": "base", "entry": entry}])
    told.log("refused", provider="main", list="baseline", exit_code=code, reason=reason, by=person)
    told.log("held", path=path, by=person, text=reason)
    sent: list[Message] = []

    def take(message: Message, _limit_s: float) -> None:
        sent.append(message)

    with mock.patch("hashclient.alerts.outbox.receiver_of", return_value=take):
        told.alert(also=[noticed(Kind.STALE, "baseline")])
    assert len(sent) == 3
    for message in sent:
        jsonschema.validate(json.loads(message.body), SCHEMA)
    kept = told.settings.layout.alerts.read_text()
    return [kept, *(f"{m.body.decode()} {m.text} {m.headline}" for m in sent)]


def test_every_kind_has_words_and_is_in_the_schema() -> None:
    assert set(MEANINGS) == set(Kind) == set(SCHEMA["properties"]["kind"]["enum"])
    for meaning in MEANINGS.values():
        assert meaning.one != meaning.many and meaning.every >= timedelta(0)


def of(kind: Kind, count: int, subjects: dict[str, int], **more: object) -> Alert:
    alert = Alert(id="a-3kdz7wnq2m", kind=kind, since=NOW, until=NOW + timedelta(seconds=5))
    return alert.replace(count=count, subjects=subjects, **more)


CASES: Mapping[str, Alert] = {
    "matches": of(Kind.MATCH, 10_000, {"other": 12, "baseline": 9_990}, matches=("7rwtb2c9xh",)),
    "paths": of(
        Kind.HELD,
        1,
        {"baseline": 1},
        matches=("7rwtb2c9xh",),
        paths=({"path": "/srv/a\N{REPLACEMENT CHARACTER}", "path_b64": "L3Nydi9h/w=="},),
    ),
    "many-machines": of(
        Kind.MACHINE_SILENT, 26, {f"web-{letter}": 1 for letter in string.ascii_lowercase}
    ),
    "test": of(Kind.TEST, 1, {}),
}


def vector(name: str) -> dict[str, object]:
    with mock.patch.object(alert_module, "__version__", "1.0.0"):
        body = Message.of("a-3kdz7wnq2m", "", document_of(CASES[name], "host-1")).body.decode()
    signed = signature(parse_secret(SECRET), "a-3kdz7wnq2m", 1_769_860_805, body.encode())
    headers = {
        "webhook-id": "a-3kdz7wnq2m",
        "webhook-timestamp": "1769860805",
        "webhook-signature": signed,
    }
    return {"secret": SECRET, "headers": headers, "body": body}


@pytest.mark.parametrize("name", CASES)
def test_each_vector_is_what_is_sent_and_fits_the_schema(name: str) -> None:
    kept = json.loads((VECTORS / f"{name}.json").read_text())
    assert kept == vector(name)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(kept["body"]), SCHEMA)


def test_there_are_no_other_vectors() -> None:
    assert {p.name for p in VECTORS.iterdir()} == {*(f"{n}.json" for n in CASES), "README.md"}


def test_the_example_of_standard_webhooks_is_signed_as_there() -> None:
    """The values are from the tests of the libraries of the Standard Webhooks specification."""
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_!", "whsec_c2hvcnQ=", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2"]
)
def test_a_secret_that_is_none_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_secret(text)
    encoded = text.removeprefix("whsec_")
    assert not encoded or encoded not in caught.value.message


if __name__ == "__main__":
    for case in CASES:
        (VECTORS / f"{case}.json").write_text(json.dumps(vector(case), indent=1) + "\n")
