"""Exceptions: matches that a person excepts are counted and named, but not acted upon."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyrage import x25519

from fixtures.archives import zip_of
from hashclient.cli.app import App
from hashclient.core.kinds import Algorithm, Kind
from hashclient.core.model import Outcome, Seen
from hashclient.decisions.exceptions import is_below
from hashclient.decisions.rulings import MOST, Book, load_book, write_book
from hashclient.index.blinding import load_sealer
from hashclient.matches.verify import verify_matches
from hashclient.system.layout import Layout
from tests.kit import Run, State, edit_manifest

WRONG, RIGHT = b"a licence that everybody has", b"a dummy that stands for what is meant"
REASON = ("--reason", "ticket 4711")
CONFIG = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'


class Ruled(State):
    """A tree with two files of the entry `wrong` and one of `right`."""

    def __init__(self, directory: Path, **how: Any) -> None:
        files = {"docs/wrong-1": WRONG, "wrong-2": WRONG, "other": b"nothing"}
        super().__init__(directory, {"base": {"wrong": WRONG, "right": RIGHT}}, files, **how)
        self.configure(CONFIG)

    @property
    def file(self) -> Path:
        return Layout(self.path).exceptions

    def exceptions(self, *args: object) -> Run:
        return self.call("exceptions", *args)

    def add(self, *args: object, **_: object) -> str:  # type: ignore[override]
        """Make an exception, and return its id."""
        result = self.exceptions("add", *args, *REASON, "--format", "json")
        assert result.code == 0, result
        return str(json.loads(result.out)["exception"]["id"])

    def kinds(self, *args: object) -> dict[str, str]:
        """Scan, and return the outcome of each file that is not clean, by its name."""
        return {Path(line["path"]).name: line["type"] for line in self.scan(*args).lines[:-1]}

    def obstacles(self) -> list[str | None]:
        listed = json.loads(self.exceptions("list", "--format", "json").out)["exceptions"]
        return [one["obstacle"] for one in listed]


@pytest.fixture
def world(tmp_path: Path) -> Ruled:
    return Ruled(tmp_path)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Set the clock of the program to another time."""

    def set_to(after: timedelta) -> None:
        monkeypatch.setattr(App, "now", staticmethod(lambda: datetime.now(UTC) + after))

    return set_to


def test_an_entry_is_set_aside_and_the_scan_ends_with_0(world: Ruled) -> None:
    assert world.scan().code == 10
    ruling = world.add("base/wrong")
    result = world.scan()
    assert result.code == 0, result
    summary = result.lines[-1]
    assert (summary["match"], summary["excepted"], summary["inputs"]) == (0, 2, 3)
    ((reason, number),) = summary["excepted_by"].items()
    assert (number, ruling in reason, "ticket 4711" in reason) == (2, True, True)
    for line in result.lines[:-1]:
        assert (line["type"], line["state"]) == ("excepted", "excepted")
        assert (line["entry"], line["exceptions"], line["reason"]) == ("wrong", [ruling], reason)
    assert world.states() == {"docs/wrong-1": "excepted", "wrong-2": "excepted"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "csv", "sarif", "ecs", "html", "jsonl"])
def test_every_format_names_the_exception_and_counts(world: Ruled, name: str) -> None:
    ruling = world.add("base/wrong")
    result = world.call("scan", "--format", name, world.tree)
    assert result.code == 0
    assert result.out.count(ruling) >= 3  # the id is shown with each file and with the count
    if name != "jsonl":
        assert "none matches besides 2 excepted matches" in result.out or name in ("ecs", "sarif")


def test_another_hit_of_a_file_is_a_match_all_the_same(world: Ruled) -> None:
    world.provider.add({"second": WRONG}, "other")
    world.client.fetch()
    world.add("base/wrong")
    assert world.scan().code == 10
    world.add("other/second")
    result = world.scan()
    assert result.code == 0
    assert {len(line["exceptions"]) for line in result.lines[:-1]} == {2}


def test_other_files_match_and_exceptions_are_counted_beside_them(world: Ruled) -> None:
    (world.tree / "meant").write_bytes(RIGHT)
    world.add("base/wrong")
    result = world.scan()
    assert result.code == 10
    assert world.kinds() == {"wrong-1": "excepted", "wrong-2": "excepted", "meant": "match"}
    assert world.scan("--no-exceptions").lines[-1]["match"] == 3
    assert world.scan("--no-exceptions").code == 10


def test_a_stale_list_is_stale_all_the_same(world: Ruled) -> None:
    world.add("base/wrong")
    edit_manifest(world.path, "base", expires=datetime.now(UTC).isoformat())
    assert world.scan().code == 7


def test_nothing_is_done_about_what_is_excepted(world: Ruled) -> None:
    public = x25519.Identity.generate().to_public()
    policy = '[[policy]]\nactions = ["quarantine"]\n'
    world.configure(f'{CONFIG}[quarantine]\nrecipients = ["{public}"]\n{policy}')
    (world.tree / "meant").write_bytes(RIGHT)
    world.add("base/wrong")
    assert world.scan("--quarantine").code == 10
    assert world.left() == {"wrong-1", "wrong-2", "other"}
    assert world.states()["meant"] == "quarantined"
    assert world.call("quarantine", "add", "--all", *REASON).code == 0
    assert world.left() == {"wrong-1", "wrong-2", "other"}


def test_held_matches_are_excepted_at_once_and_a_release_does_nothing(world: Ruled) -> None:
    public = x25519.Identity.generate().to_public()
    world.configure(
        f'{CONFIG}[quarantine]\nrecipients = ["{public}"]\n[brake]\nper_entry = 1\n'
        '[[policy]]\nactions = ["quarantine"]\n'
    )
    assert world.scan().code == 11
    (held,) = (
        line["id"] for line in world.call("matches", "--state", "held", "--format", "jsonl").lines
    )
    result = world.exceptions("add", "base/wrong", *REASON)
    assert "excepted: 1 match on record" in result.err
    assert world.story(held)[-1] == "excepted"
    left = world.left()
    released = world.call("matches", "release", "--entry", "base/wrong", *REASON)
    assert (released.code, world.left()) == (0, left)
    assert [data["id"] for _, data in world.events("excepted")] == [held]
    verify_matches(world.path)


def test_a_release_passes_over_what_was_excepted_meanwhile(world: Ruled) -> None:
    world.configure(
        f'{CONFIG}[quarantine]\nrecipients = ["{x25519.Identity.generate().to_public()}"]\n'
        '[brake]\nper_entry = 1\n[[policy]]\nactions = ["quarantine"]\n'
    )
    world.scan()
    ruling = world.add("base/wrong")
    world.exceptions("remove", ruling, *REASON)
    world.scan()  # the brake holds both matches again
    layout, sealer = Layout(world.path), load_sealer(world.path, None, {})
    world.add("base/wrong", "--below", "/nowhere")
    (kept,) = load_book(layout, sealer).rulings
    write_book(layout, [msgspec.structs.replace(kept, below="")], sealer, datetime.now(UTC))
    left = world.left()
    assert world.call("matches", "release", "--entry", "base/wrong", *REASON).code == 0
    assert world.left() == left
    assert "excepted" in world.states().values()


@pytest.mark.slow
def test_the_story_has_each_change_and_the_log_who_and_why(world: Ruled) -> None:
    (first, _) = sorted(world.ids().values())
    ruling = world.add("base/wrong")
    world.scan()
    world.scan()
    world.exceptions("remove", ruling, "--reason", "the entry is right")
    assert world.scan().code == 10
    assert world.story(first) == ["found", "excepted", "found"]
    (added,) = (data for _, data in world.events("exception-added"))
    assert (added["id"], added["reason"]) == (ruling, "ticket 4711")
    assert added["entries"] == [{"list": "base", "entry": "wrong"}]
    assert added["by"]
    (removed,) = (data for _, data in world.events("exception-removed"))
    assert (removed["id"], removed["reason"]) == (ruling, "the entry is right")
    assert world.call("audit", "verify").code == 0
    verify_matches(world.path)


def test_the_log_of_a_scan_has_each_excepted_file_and_the_counts(world: Ruled) -> None:
    ruling = world.add("base/wrong")
    world.scan()
    assert [data["exceptions"] for _, data in world.events("excepted")] == [[ruling]] * 2
    (end,) = (data for _, data in world.events("scan-end"))
    assert (end["excepted"], list(end["excepted_by"].values())) == (2, [2])


def test_a_file_is_excepted_by_its_sha256_wherever_it_is(world: Ruled) -> None:
    world.add("--file", world.tree / "wrong-2")
    assert world.scan().code == 0
    (world.tree / "meant").write_bytes(RIGHT)
    assert world.scan().code == 10


def test_a_match_is_excepted_by_its_id(world: Ruled) -> None:
    found = world.ids()
    world.add("--match", found["wrong-2"])
    assert world.scan().code == 0


def test_an_exception_of_a_file_does_not_cover_an_entry_that_comes_later(world: Ruled) -> None:
    world.add("--file", world.tree / "wrong-2")
    world.provider.add({"second": WRONG}, "other")
    world.client.fetch()
    assert world.scan().code == 10


def test_another_file_with_the_same_md5_is_no_part_of_an_exception(tmp_path: Path) -> None:
    """The entry has only an MD5, so the SHA-256 of the exception says which file was meant."""
    world = Ruled(tmp_path, algorithms=[Algorithm.MD5])
    world.add("--file", world.tree / "wrong-2")
    assert world.scan().code == 0
    from hashclient.client.client import Client
    from hashclient.core.kinds import Kind
    from hashclient.core.model import Hit, Outcome
    from hashclient.decisions.exceptions import Exceptions

    session = Client(world.path).session
    lists = session.open_lists()
    ruler = Exceptions.of(session, lists)
    hit = Hit("base", "wrong", "synthetic", 1, (Algorithm.MD5,), complete=True)

    def kind_of(content: bytes) -> Kind:
        digest = hashlib.sha256(content).digest()
        tag = lists.sealer.tags_of(Algorithm.SHA256, [digest]).tobytes()
        tags = {Algorithm.SHA256: tag}
        return ruler.rule(Outcome(Kind.MATCH, "/x", hits=(hit,), tags=tags)).kind

    assert (kind_of(WRONG), kind_of(b"its twin")) == (Kind.EXCEPTED, Kind.MATCH)
    assert ruler.rule(Outcome(Kind.MATCH, "/x", hits=(hit,))).kind is Kind.MATCH


@pytest.mark.parametrize("weak", [Algorithm.MD5, Algorithm.SHA1])
def test_an_entry_without_a_sha256_is_not_excepted_as_such(tmp_path: Path, weak: Algorithm) -> None:
    world = Ruled(tmp_path, algorithms=[weak])
    result = world.exceptions("add", "base/wrong", *REASON)
    assert result.code == 2 and "has no SHA-256" in result.err
    found = world.ids()
    result = world.exceptions("add", "--match", found["wrong-2"], *REASON)
    assert result.code == 2 and "the SHA-256 of match" in result.err
    world.add("--file", world.tree / "wrong-2")
    assert world.scan().code == 0


def test_what_is_known_by_a_weak_digest_alone_stays_a_match(world: Ruled) -> None:
    world.add("base/wrong")
    assert world.call("lookup", hashlib.md5(WRONG).hexdigest()).code == 10
    assert world.call("lookup", hashlib.sha1(WRONG).hexdigest()).code == 10
    assert world.call("lookup", hashlib.sha256(WRONG).hexdigest()).code == 0


def test_an_exception_below_a_path_counts_there_only(world: Ruled) -> None:
    world.add("base/wrong", "--below", world.tree / "docs")
    assert world.kinds() == {"wrong-1": "excepted", "wrong-2": "match"}
    (world.tree / "docs/link").symlink_to(world.tree)
    assert world.kinds("--follow-symlinks")["wrong-2"] == "match"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/\udcff", "s3://bucket/%FF"),
        ("s3://bucket/%61?versionId=%31", "s3://bucket/a?versionId=1"),
    ],
)
def test_a_uri_is_kept_as_scans_write_it(world: Ruled, given: str, kept: str) -> None:
    result = world.exceptions("add", "base/wrong", "--below", given, *REASON, "--format", "json")
    assert (result.code, json.loads(result.out)["exception"]["below"]) == (0, kept)


OBJECT = Outcome(Kind.MATCH, "s3://b/docs/a?versionId=1", is_object=True)


@pytest.mark.parametrize(
    ("place", "is_there"),
    [
        ("s3://b/", True),
        ("s3://b/docs", True),
        ("s3://b/docs/", True),
        ("s3://b/docs/a", True),
        ("s3://b/docs/a?versionId=1", True),
        ("s3://b/docs/a?versionId=2", False),
        ("s3://b/doc", False),
        ("s3://b/docs//", False),
        ("gs://b/", False),
        ("/", False),
    ],
)
def test_an_object_is_below_its_uri_and_its_prefixes(place: str, is_there: bool) -> None:
    assert is_below(OBJECT, place) is is_there


def test_a_file_whose_path_became_a_link_to_the_place_is_not_below_it(tmp_path: Path) -> None:
    place, read = tmp_path / "docs", tmp_path / "mine/wrong"
    for path in (place / "wrong", read):
        path.parent.mkdir()
        path.write_bytes(WRONG)
    status = read.stat()
    whole = Seen(None, None, status.st_dev, status.st_ino)
    read.unlink()
    read.symlink_to(place / "wrong")
    # The recorded match has the number of the device, but a match of another machine lacks it.
    for seen in (whole, msgspec.structs.replace(whole, device=None), None):
        outcome = Outcome(Kind.MATCH, str(read), seen=seen)
        assert not is_below(outcome, str(place))
    status = (place / "wrong").stat()
    there = Outcome(Kind.MATCH, str(read), seen=Seen(None, None, None, status.st_ino))
    assert is_below(there, str(place))
    (place / "wrong").unlink()
    assert not is_below(there, str(place))


def test_a_match_on_record_is_not_excepted_by_a_link_in_its_place(world: Ruled) -> None:
    world.scan()
    (world.tree / "wrong-2").unlink()
    (world.tree / "wrong-2").symlink_to(world.tree / "docs/wrong-1")
    world.add("base/wrong", "--below", world.tree / "docs")
    assert world.states() == {"docs/wrong-1": "excepted", "wrong-2": "found"}


def test_it_ends_at_its_time(world: Ruled, at: Callable[[timedelta], None]) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    world.add("base/wrong", "--until", soon.isoformat())
    assert world.scan().code == 0
    at(timedelta(hours=2))
    assert world.scan().code == 10
    assert world.obstacles() == ["it has ended"]
    assert world.exceptions("renew", *world_ids(world), *REASON).code == 0
    assert world.scan().code == 0


def world_ids(world: Ruled) -> list[str]:
    listed = json.loads(world.exceptions("list", "--format", "json").out)["exceptions"]
    return [one["id"] for one in listed]


def test_it_ends_after_thirty_days_unless_it_says_so_and_after_ninety_at_most(
    world: Ruled,
) -> None:
    ruling = world.add("base/wrong")
    shown = json.loads(world.exceptions("show", ruling, "--format", "json").out)
    made, until = (datetime.fromisoformat(shown[name]) for name in ("made_at", "until"))
    assert until - made == timedelta(days=30)
    late = (datetime.now(UTC) + timedelta(days=91)).isoformat()
    result = world.exceptions("renew", ruling, "--until", late, *REASON)
    assert result.code == 2 and "90 days" in result.err
    past = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert world.exceptions("renew", ruling, "--until", past, *REASON).code == 2


def test_a_clock_that_was_set_back_ends_it(world: Ruled, at: Callable[[timedelta], None]) -> None:
    world.add("base/wrong")
    at(-timedelta(hours=1))
    assert world.obstacles() == ["the clock was set back"]
    result = world.scan()
    assert (result.code, result.lines[-1]["excepted"]) == (11, 0)


def test_what_was_made_while_the_clock_was_ahead_does_not_count_for_years(
    world: Ruled, at: Callable[[timedelta], None]
) -> None:
    at(timedelta(days=9_000))
    world.add("base/wrong")
    at(timedelta())
    assert world.obstacles() == ["the clock was set back"]
    world.add("base/right")
    assert world.obstacles() == ["the clock was ahead when it was made", None]
    assert world.kinds() == {"wrong-1": "match", "wrong-2": "match"}


@pytest.mark.slow
def test_it_ends_with_the_withdrawal_of_the_entry_and_does_not_come_back_with_another(
    world: Ruled,
) -> None:
    world.add("base/wrong")
    world.provider.withdraw("wrong", list_name="base")
    world.client.fetch()
    assert world.scan().code == 0
    assert world.obstacles() == ["base/wrong is not on the list any more"]
    # The provider uses the id again for other content, which the exception does not cover.
    world.provider.add({"wrong": RIGHT + b"!"}, "base")
    world.client.fetch()
    (world.tree / "new").write_bytes(RIGHT + b"!")
    assert world.kinds() == {"new": "match"}
    assert world.obstacles() == ["base/wrong has changed"]


def test_an_edited_file_counts_for_nothing_and_the_scan_ends_with_11_or_8(world: Ruled) -> None:
    world.add("base/wrong", "--below", "/nowhere")
    data = world.file.read_bytes()
    world.file.write_bytes(data.replace(b'"/nowhere"', b'"/        "'))
    result = world.scan()
    assert (result.code, result.lines[-1]["match"]) == (11, 2)
    assert "not as they were written" in result.err
    for path in world.tree.rglob("wrong*"):
        path.unlink()
    assert world.scan().code == 8
    assert world.exceptions("list").code == 8
    assert world.exceptions("add", "base/right", *REASON).code == 8
    status = world.call("status")
    assert (status.code, "not as they were written" in status.out) == (8, True)


def test_a_lost_file_is_not_taken_for_none(world: Ruled) -> None:
    world.add("base/wrong")
    world.file.unlink()
    result = world.scan()
    assert (result.code, result.lines[-1]["match"]) == (11, 2)
    assert "the exceptions are lost" in result.err
    assert world.call("status").code == 8
    assert world.exceptions("remove", "--all", *REASON).code == 0
    assert world.scan().code == 10
    assert world.call("status").code == 0
    assert [data["reason"] for _, data in world.events("exceptions-cleared")] == ["ticket 4711"]


def test_an_earlier_file_that_is_put_back_is_refused(world: Ruled) -> None:
    ruling = world.add("base/wrong")
    earlier = world.file.read_bytes()
    world.exceptions("remove", ruling, *REASON)
    world.file.write_bytes(earlier)
    result = world.scan()
    assert (result.code, "earlier exceptions were put back" in result.err) == (11, True)


def test_exceptions_of_another_key_are_refused(world: Ruled) -> None:
    world.add("base/wrong")
    layout = Layout(world.path)
    (kept,) = load_book(layout, load_sealer(world.path, None, {})).rulings
    from hashclient.index.blinding import Sealer

    write_book(layout, [kept], Sealer(bytes(32)), datetime.now(UTC))
    assert "of another seal key" in world.scan().err


def test_a_kill_between_the_two_files_loses_nothing(world: Ruled) -> None:
    """Exceptions are written before `state.json`, and are valid with the earlier `state.json`."""
    state = (world.path / "state.json").read_bytes()
    world.add("base/wrong")
    (world.path / "state.json").write_bytes(state)
    assert world.scan().code == 0
    assert world.exceptions("list").out.count("ticket 4711") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "say what is excepted"),
        (("base/wrong", "--match", "bcdfghjkmn"), "say what is excepted"),
        (("base/nothing",), "no such entry: base/nothing"),
        (("nothing/wrong",), "no such entry: nothing/wrong"),
        (("wrong",), "id of a match, which is in brackets: --match ID"),
        (("base/",), "not of the form LIST/ENTRY"),
        (("--match", "bcdfghjkmn"), "no match has the id"),
        (("--file", "/nowhere"), "cannot read /nowhere"),
        (("--file", "other"), "the file matches no entry"),
        (("base/wrong", "--until", "2020-01-01"), "cannot end at 2020-01-01"),
        (("base/wrong", "--reason", " "), "--reason is empty"),
        (("base/wrong", "--below", ""), "--below is empty"),
        (("base/wrong", "--below", "s3://"), "not the URI of a bucket"),
        (("base/wrong", "--below", "s3://bucket/100%"), "is not part of an escape"),
        (("base/wrong", "--below", "/srv/\udcff"), "not UTF-8"),
        (("base/wrong", "--reason", "x" * 501), "more than 500 characters"),
    ],
)
def test_an_exception_that_says_nothing_clear_is_refused(
    world: Ruled, args: tuple[str, ...], why: str
) -> None:
    args = tuple(str(world.tree / arg) if arg == "other" else arg for arg in args)
    reason = () if "--reason" in args else REASON
    result = world.exceptions("add", *args, *reason)
    assert result.code == 2 and why in result.err, result
    assert world.exceptions("list").out == ""
    assert world.scan().code == 10


def test_what_is_not_there_is_neither_shown_nor_changed(world: Ruled) -> None:
    for args in (("show", "x-1"), ("renew", "x-1", *REASON), ("remove", "x-1", *REASON)):
        result = world.exceptions(*args)
        assert result.code == 2 and "no exception has the id x-1" in result.err, result
    assert world.exceptions("remove", *REASON).code == 2
    assert not world.file.exists()


def test_status_and_metrics_warn_a_week_before_the_end(world: Ruled) -> None:
    assert "exceptions" not in world.call("status").out
    soon = (datetime.now(UTC) + timedelta(days=6)).isoformat()
    ruling = world.add("base/wrong", "--until", soon)
    world.add("base/right")
    shown = world.call("status")
    assert shown.code == 0
    assert "exceptions    2, 1 ends within a week\n" in shown.out
    assert f"  {ruling}  ends " in shown.out
    document = json.loads(world.call("status", "--format", "json").out)["exceptions"]
    assert (document["standing"], [one["id"] for one in document["ending"]]) == (2, [ruling])
    metrics = world.call("status", "--format", "prometheus").out
    assert "hashclient_exceptions 2.0" in metrics
    assert "hashclient_exceptions_ending 1.0" in metrics


def test_the_list_says_what_is_excepted_until_when_and_why(world: Ruled) -> None:
    first = world.add("base/wrong", "--below", world.tree)
    second = world.add("--file", world.tree / "wrong-2")
    shown = world.exceptions()
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert (
        lines[0].startswith(f"{first}  until 2") and f"base/wrong, below {world.tree}" in lines[0]
    )
    assert (
        lines[1].startswith(f"{second}  until 2") and "one file that matches base/wrong" in lines[1]
    )
    assert lines[0].endswith("ticket 4711")
    assert "  by" in world.exceptions("show", first).out


@pytest.mark.slow
def test_an_archive_with_another_listed_member_stays_a_match_on_record(world: Ruled) -> None:
    (world.tree / "both.zip").write_bytes(zip_of({"a": WRONG, "b": RIGHT}))
    (world.tree / "one.zip").write_bytes(zip_of({"a": WRONG, "b": b"nothing"}))
    world.add("base/wrong")
    result = world.scan()
    assert result.code == 10
    assert result.lines[-1]["excepted"] == 4
    assert world.states()["both.zip"] == "found"
    assert world.states()["one.zip"] == "excepted"
    ruling = world.add("base/right")
    assert world.scan().code == 0
    assert world.states()["both.zip"] == "excepted"
    world.exceptions("remove", ruling, *REASON)
    assert world.scan().code == 10
    assert world.states()["both.zip"] == "found"


@pytest.mark.slow
def test_ten_thousand_exceptions_are_kept_and_no_more(world: Ruled) -> None:
    layout, sealer = Layout(world.path), load_sealer(world.path, None, {})
    world.add("base/wrong")
    (kept,) = load_book(layout, sealer).rulings
    many = [msgspec.structs.replace(kept, id=f"x-{n}") for n in range(MOST)]
    write_book(layout, many, sealer, datetime.now(UTC))
    assert world.scan().code == 0
    result = world.exceptions("add", "base/right", *REASON)
    assert result.code == 2 and "10,000 exceptions already" in result.err


def test_a_run_that_matches_nothing_does_not_decode_them(
    world: Ruled, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("base/wrong")

    def refuse(_: Book) -> None:
        raise AssertionError

    monkeypatch.setattr(Book, "rulings", property(refuse))
    clean = world.directory / "clean"
    clean.mkdir()
    (clean / "a").write_bytes(b"clean")
    assert world.scan(clean).code == 0
