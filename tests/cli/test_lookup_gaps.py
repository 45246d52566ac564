"""If entries lack the kinds of digests that are looked up, the input is unread, not clean."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hashclient.audit.log import read
from hashclient.core.kinds import Algorithm
from hashclient.index.reader import RunSet
from tests.kit import Run, call, csv_of, digests_of, make_state, run

MD5, SHA1, SHA256 = Algorithm
#: Entries with all digests, and entries with only one: with a size, and without.
WHOLE = {f"w-{n}": b"listed wholly, %d" % n for n in range(5)}
BY_SHA256 = b"listed by its SHA-256"
CLEAN = b"listed nowhere"


def state_of(directory: Path, *, sized: bool, **more: bytes) -> Path:
    by_sha256 = csv_of({"e-1": BY_SHA256}, algorithms=(SHA256,), sized=sized)
    lists = {"base": csv_of(WHOLE), "other": by_sha256, **more}
    return make_state(directory, lists)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return state_of(tmp_path_factory.mktemp("site"), sized=False)


def look_up(state: Path, *args: object) -> Run:
    return call("--state-dir", state, "lookup", *args)


def test_a_listed_file_is_not_clean_since_its_list_has_another_digest(state: Path) -> None:
    md5, sha1, sha256 = digests_of(BY_SHA256)
    assert look_up(state, sha256).code == 10
    for digest in (md5, sha1):
        result = look_up(state, digest)
        assert result.code == 3
        assert "1 unread" in result.out and digest not in result.out
        assert "--accept-gaps" in result.err


def test_digests_of_kinds_that_the_list_has_are_clean(state: Path) -> None:
    result = look_up(state, digests_of(CLEAN)[2])
    assert (result.code, result.err) == (0, "")


def test_a_match_is_a_match_all_the_same(state: Path) -> None:
    md5, sha1, _ = digests_of(WHOLE["w-1"])
    assert look_up(state, md5).code == 10
    assert look_up(state, md5, sha1, digests_of(CLEAN)[0]).code == 11
    # The input is a match already, so no missing kind of digest is shown.
    assert "gap" not in look_up(state, "--format", "jsonl", md5).summary


def test_rows_are_shown_one_by_one_with_all_only(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums"
    rows = [(f"f{n}", digests_of(b"%d" % n)[0]) for n in range(300)]
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in rows))
    result = look_up(state, "--format", "jsonl", "--from", path)
    assert (result.code, len(result.lines)) == (3, 1)
    assert result.summary["unread"] == 300
    told = look_up(state, "--format", "jsonl", "--show-all", "--from", path)
    assert told.code == 3
    assert told.outcomes == {name: "unread" for name, _ in rows}
    assert {line["reason"] for line in told.lines[:-1]} == {"other: 1 of 1 entries has no md5"}
    of_a_run = {"started": "", "elapsed_s": 0}
    assert {**told.summary, **of_a_run} == {**result.summary, **of_a_run}


def test_a_size_rules_out_first(tmp_path: Path) -> None:
    state = state_of(tmp_path, sized=True)
    path = tmp_path / "rows.csv"
    md5 = digests_of(CLEAN)[0]
    for size, kind in ((len(BY_SHA256), "unread"), (len(BY_SHA256) + 1, "clean"), ("", "unread")):
        path.write_text(f"md5,size\n{md5},{size}\n")
        result = look_up(state, "--format", "jsonl", "--show-all", "--from", path)
        assert result.code == {"unread": 3, "clean": 0}[kind]
        assert result.lines[0]["type"] == kind
    # If an entry has no size, files of all sizes are checked.
    state = state_of(tmp_path / "unsized", sized=False)
    path.write_text(f"md5,size\n{md5},{len(BY_SHA256) + 1}\n")
    assert look_up(state, "--from", path).code == 3


@pytest.mark.slow
def test_gaps_are_accepted_when_asked_for(state: Path) -> None:
    md5 = digests_of(CLEAN)[0]
    result = look_up(state, "--accept-gaps", "--show-all", "--format", "jsonl", md5)
    assert (result.code, result.outcomes, result.err) == (0, {md5: "clean"}, "")
    (end,) = read(state / "audit", event="lookup-end", limit=1)
    (gap,) = end.data["gaps"]
    assert (gap["list"], gap["algorithms"], gap["rows"]) == ("other", ["md5"], 1)
    assert (end.data["gaps_accepted"], end.data["exit_code"]) == (True, 0)
    # `--accept-gaps` accepts neither a match nor any other fault.
    assert look_up(state, "--accept-gaps", digests_of(BY_SHA256)[2]).code == 10
    env = {"HASHCLIENT_LOOKUP_ACCEPT_GAPS": "1"}
    assert run("--state-dir", state, "lookup", md5, env=env).code == 0


def test_the_configuration_accepts_gaps(tmp_path: Path) -> None:
    state = state_of(tmp_path, sized=False)
    (state / "config.toml").write_text("[lookup]\naccept_gaps = true\n")
    assert look_up(state, digests_of(CLEAN)[0]).code == 0
    assert look_up(state, digests_of(WHOLE["w-0"])[0]).code == 10


def test_a_withdrawn_entry_is_no_gap(tmp_path: Path) -> None:
    from fixtures.client import Client
    from fixtures.simulator import Simulator

    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv_of(WHOLE))
    simulator.publish(csv_of({"e-1": BY_SHA256}, algorithms=(SHA256,), sized=False))
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    md5 = digests_of(CLEAN)[0]
    assert look_up(tmp_path / "state", md5).code == 3
    simulator.withdraw("e-1")
    client.fetch()
    assert look_up(tmp_path / "state", md5).code == 0


def test_many_rows_of_several_kinds(tmp_path: Path) -> None:
    """One message is printed for each list and set of digest kinds; it counts each row once."""
    by_md5 = csv_of({"m-1": b"x", "m-2": b"y"}, algorithms=(MD5,), sized=False)
    state = state_of(tmp_path, sized=False, weak=by_md5)
    path = tmp_path / "rows.csv"
    md5, sha1, sha256 = digests_of(CLEAN)
    rows = [(md5, "", ""), ("", sha1, ""), ("", "", sha256), (md5, sha1, ""), (md5, "", sha256)]
    path.write_text("\n".join(["md5,sha1,sha256", *map(",".join, rows), ""]))
    result = look_up(state, "--format", "jsonl", "--show-all", "--from", path)
    assert [line.get("reason") for line in result.lines[:-1]] == [
        "other: 1 of 1 entries has no md5",
        "other: 1 of 1 entries has no sha1; weak: 2 of 2 entries have no sha1",
        "weak: 2 of 2 entries have no sha256",
        "other: 1 of 1 entries has neither md5 nor sha1",
        None,
    ]
    assert (result.code, result.summary["unread"], result.summary["clean"]) == (3, 4, 1)


def test_a_lookup_is_not_slowed_where_there_is_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(tmp_path, {"base": csv_of(WHOLE)})

    def read_nothing(*_: object, sized: bool) -> None:
        raise AssertionError("masks are read")

    monkeypatch.setattr(RunSet, "_blind", read_nothing)
    digests = [hashlib.md5(b"%d" % n).hexdigest() for n in range(10)]
    assert look_up(state, *digests).code == 0
