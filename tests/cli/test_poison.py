"""The poison guard: the lists that a fetch refuses, the state afterwards, and options for it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import tomllib
from pathlib import Path

import numpy as np
import pytest

from fixtures.client import content, csv, digests_of
from hashclient.audit.log import read
from hashclient.core.kinds import Algorithm
from hashclient.provider import entries
from tests.kit import Run, Site, call

EMPTY = {a: hashlib.new(a.label).hexdigest() for a in Algorithm}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A provider that publishes entries 0 to 9, for a test that serves them."""
    site = Site(tmp_path)
    site.publish(csv(range(10)))
    return site


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the provider publish the empty file, as other software might."""
    none = np.zeros(0, np.uint32)
    monkeypatch.setattr(entries, "rows_of_the_empty_file", lambda _digests: none)


def command(site: Site, *args: str | Path) -> Run:
    """Run the command in this process, against the provider that is served."""
    return call("--state-dir", site.state, *args)


def init(site: Site, *options: str | Path) -> Run:
    return command(site, *site.init_arguments(*options))


def set_aside_at_most(site: Site, most: int) -> None:
    """Set how many entries of a list may be set aside."""
    config = site.state / "config.toml"
    table = "[providers.main]\n"
    assert table in config.read_text()
    config.write_text(config.read_text().replace(table, f"{table}max_set_aside = {most}\n"))


def fetch(site: Site, *args: str) -> Run:
    return command(site, "fetch", *args)


def scan_codes(site: Site, directory: Path, *numbers: int) -> dict[int, int]:
    codes = {}
    for number in numbers:
        path = directory / f"file-{number}"
        path.write_bytes(content(number))
        codes[number] = command(site, "scan", "--no-inventory", path).code
    return codes


@pytest.mark.slow
@pytest.mark.usefixtures("careless")
def test_the_empty_file_is_refused_and_the_old_generation_stays(site: Site, tmp_path: Path) -> None:
    with site:
        assert init(site).code == 0
        assert fetch(site).code == 0
        for number, algorithm in enumerate(Algorithm):
            rows = f"entry_id,{algorithm.label}\np-{number},{EMPTY[algorithm]}\n"
            site.publish(rows.encode())
            result = fetch(site)
            assert result.code == 6
            # Each generation still has the harmful entries of the earlier generations.
            named = ", ".join(f"p-{n}" for n in range(number + 1))
            assert f"the list holds the empty file: {named}\n" in result.err
            assert "hint: nothing was changed; tell the provider" in result.err
            told = (result.out + result.err).lower()
            assert not any(digest in told for digest in EMPTY.values())
        # `--accept-churn` accepts no poison.
        assert fetch(site, "--accept-churn").code == 6
        assert scan_codes(site, tmp_path, 3, 30) == {3: 10, 30: 0}
        (tmp_path / "empty").touch()
        assert command(site, "scan", tmp_path / "empty").code == 0
        log = (site.state / "audit" / "log.jsonl").read_text()
        assert '"refused"' in log and not any(digest in log for digest in EMPTY.values())


@pytest.mark.slow
@pytest.mark.usefixtures("careless")
def test_a_provider_mends_its_mistake_by_withdrawing_it(site: Site, tmp_path: Path) -> None:
    with site:
        assert init(site).code == 0
        assert fetch(site).code == 0
        site.publish(f"entry_id,md5\np-0,{EMPTY[Algorithm.MD5]}\np-1,{'ab' * 16}\n".encode())
        assert fetch(site).code == 6
        site.repository.withdraw("baseline", ["p-0"])
        # A client that had the list before the mistake and a new client behave in the same way.
        for state in site.state, tmp_path / "new":
            if state != site.state:
                assert call("--state-dir", state, *site.init_arguments()).code == 0
            result = call("--state-dir", state, "fetch")
            assert result.code == 0, result.err
            assert call("--state-dir", state, "fetch", "--rebuild").code == 0
            (tmp_path / "empty").touch()
            assert call("--state-dir", state, "scan", tmp_path / "empty").code == 0


@pytest.mark.slow
def test_the_empty_file_cannot_be_published(site: Site, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"md5\n{'ab' * 16}\n{EMPTY[Algorithm.MD5]}\n")
    done = site.run(*("provider", "publish", site.repository.directory, "--list", "baseline", rows))
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"hashclient: error: {rows}:3: has a digest of the empty file\n"
        "hint: nothing was published; remove the row: clients refuse every list with the empty "
        "file\n"
    )
    assert site.repository.status().lists[0].generation == 1


def make_good(directory: Path, kind: str) -> Path:
    """Make a file of known good digests that has the digest of file 20."""
    path = directory / f"good-{kind}"
    md5, sha1, sha256 = (d.hex() for d in digests_of(20).values())
    if kind == "sums":
        path.write_text(f"{sha256}  installer.exe\n")
    elif kind == "hashdeep":
        path.write_text(f"%%%% HASHDEEP-1.0\n%%%% size,md5,sha256,filename\n7,{md5},{sha256},/x\n")
    elif kind == "csv":
        path.write_text(f"sha1\n{sha1}\n")
    else:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE FILE (sha256 VARCHAR, sha1 VARCHAR, md5 VARCHAR)")
            db.execute("INSERT INTO FILE VALUES (?, ?, ?)", (sha256.upper(), sha1, md5))
        db.close()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sums", "hashdeep", "csv", "nsrl"])
def test_a_list_with_a_known_good_file_is_refused(site: Site, tmp_path: Path, kind: str) -> None:
    good = make_good(tmp_path, kind)
    with site:
        assert init(site, "--known-good", good).code == 0
        set_aside_at_most(site, 0)
        assert fetch(site).code == 0
        site.publish(csv([20, 21]))
        result = fetch(site)
        assert result.code == 6
        assert "the list holds files that are known to be good: e-20\n" in result.err
        assert not any(d.hex() in result.err for d in digests_of(20).values())
        assert fetch(site, "--accept-churn").code == 6
        assert scan_codes(site, tmp_path, 3, 21) == {3: 10, 21: 0}
        # Once the operator has corrected the file, the same generation is accepted.
        good.unlink()
        good.write_text("")
        assert fetch(site).code == 0
        assert scan_codes(site, tmp_path, 20) == {20: 10}


@pytest.mark.slow
def test_what_is_refused_is_shown_until_something_is_taken(site: Site, tmp_path: Path) -> None:
    good = make_good(tmp_path, "sums")
    with site:
        assert init(site, "--known-good", good).code == 0
        set_aside_at_most(site, 0)
        assert fetch(site).code == 0
        site.publish(csv([20, 21]))
        for _ in range(2):
            assert fetch(site).code == 6
            shown = command(site, "status")
            assert shown.code == 6
            assert "  state       fresh\n" in shown.out
            assert re.search(
                r"warning +the last update was refused at .*: the list holds files that are known"
                r" to be good: e-20\n",
                shown.out,
            )
            (entry,) = json.loads(command(site, "status", "--format", "json").out)["lists"]
            assert (entry["fresh"], entry["refused"]["exit_code"]) == (True, 6)
            metrics = command(site, "status", "--format", "prometheus").out
            assert 'hashclient_list_updated{list="baseline"} 0.0' in metrics
        site.repository.withdraw("baseline", ["e-20"])
        assert fetch(site).code == 0
        shown = command(site, "status")
        assert (shown.code, "warning" in shown.out) == (0, False)
    # If the provider cannot be reached, a message says so; `status` names the failure, but does not
    # warn before the list is stale.
    assert fetch(site).code == 4
    shown = command(site, "status")
    assert (shown.code, "the last update failed at" in shown.out) == (0, True)


@pytest.mark.slow
def test_an_entry_that_is_known_to_be_good_is_excepted_whenever_it_was_added(
    site: Site, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    good.write_text("")
    with site:
        assert init(site, "--known-good", good).code == 0
        assert fetch(site).err == ""
        good.write_text(
            "".join(f"{d[Algorithm.SHA256].hex()}  x\n" for d in map(digests_of, (2, 30)))
        )
        said = "list baseline: 1 entry is known to be good, by known_good, and excepted"
        for _ in range(2):
            done = fetch(site)
            assert (done.code, f"{said}: e-2; tell the provider" in done.err) == (0, True)
            assert "known to be good" in command(site, "status").out
        assert scan_codes(site, tmp_path, 2, 3) == {2: 0, 3: 10}
        (made,) = json.loads(command(site, "exceptions", "--format", "json").out)["exceptions"]
        assert (made["origin"], made["entries"]) == (
            "known_good",
            [{"list": "baseline", "entry": "e-2"}],
        )
        # The good entries of a generation are used although another entry is set aside.
        site.publish(csv([30, 31]))
        assert "2 entries are known to be good, by known_good, and excepted" in fetch(site).err
        assert scan_codes(site, tmp_path, 2, 30, 31) == {2: 0, 30: 0, 31: 10}
        site.repository.withdraw("baseline", ["e-2"])
        assert f"{said}: e-30; tell the provider" in fetch(site).err
        log = read(site.state / "audit", event={"exception-added", "exception-removed"})
        entries = [(r.event, r.data["entries"][0]["entry"]) for r in log]
        assert sorted(entries) == [
            ("exception-added", "e-2"),
            ("exception-added", "e-30"),
            ("exception-removed", "e-2"),
        ]
        # With an empty file, no digest is known to be good any more.
        good.write_text("")
        assert fetch(site).err == ""
        assert command(site, "exceptions").out == ""
        assert scan_codes(site, tmp_path, 30) == {30: 10}


@pytest.mark.slow
def test_matches_on_record_of_an_entry_that_is_known_to_be_good_are_excepted_at_once(
    site: Site, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    good.write_text("")
    with site:
        assert init(site, "--known-good", good).code == 0
        assert fetch(site).code == 0
        assert scan_codes(site, tmp_path, 2, 3) == {2: 10, 3: 10}
        good.write_text(f"{digests_of(2)[Algorithm.SHA256].hex()}  x\n")
        for _ in range(2):
            assert fetch(site).code == 0
            listed = command(site, "matches", "--format", "jsonl").lines
            assert sorted((one["entry"], one["state"]) for one in listed) == [
                ("e-2", "excepted"),
                ("e-3", "found"),
            ]
        assert len([*read(site.state / "audit", event="excepted")]) == 1


@pytest.mark.slow
def test_a_kill_before_it_is_noted_leaves_no_exception_that_nothing_ends(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good"
    of_two = f"{digests_of(2)[Algorithm.SHA256].hex()}  x\n"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def fetch_killed(function: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(function, killed)
            assert fetch(site).code == 130

    with site:
        good.write_text(of_two)
        assert init(site, "--known-good", good).code == 0
        # The first fetch is killed before anything is noted, and the mistake is then corrected.
        fetch_killed("hashclient.fetch.known_listed.write_atomic")
        assert command(site, "exceptions").out.count("baseline/e-2") == 1
        good.write_text("")
        assert fetch(site).code == 0
        assert command(site, "exceptions").out == ""
        for function in (
            "hashclient.fetch.fetcher.set_aside",
            "hashclient.fetch.known_listed.write_atomic",
        ):
            good.write_text(of_two)
            assert fetch(site).code == 0
            assert scan_codes(site, tmp_path, 2) == {2: 0}
            good.write_text("")
            fetch_killed(function)
            assert fetch(site).code == 0
            assert command(site, "exceptions").out == ""
            good.write_text(of_two)
            fetch_killed(function)
            assert fetch(site).code == 0
            assert command(site, "exceptions").out.count("baseline/e-2") == 1


def test_no_exception_is_left_when_both_the_setting_and_the_record_are_gone(
    site: Site, tmp_path: Path
) -> None:
    good, config = tmp_path / "good", site.state / "config.toml"
    good.write_text(f"{digests_of(2)[Algorithm.SHA256].hex()}  x\n")
    with site:
        assert init(site, "--known-good", good).code == 0
        assert fetch(site).code == 0
        (site.state / "known-good/listed.json").unlink()
        config.write_text(re.sub(r"(?m)^known_good = .*$", "", config.read_text()))
        own = ("exceptions", "add", "baseline/e-3", "--reason", "asked")
        assert command(site, *own).code == 0
        assert fetch(site).code == 0
        (left,) = json.loads(command(site, "exceptions", "--format", "json").out)["exceptions"]
        assert left["entries"] == [{"list": "baseline", "entry": "e-3"}]
        # Exceptions that cannot be read do not stop a fetch.
        (site.state / "decisions/exceptions.json").unlink()
        assert fetch(site).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("weak", [Algorithm.MD5, Algorithm.SHA1])
def test_a_twin_by_md5_or_sha1_of_a_good_file_stays_in_force(
    site: Site, tmp_path: Path, weak: Algorithm
) -> None:
    """A harmless file that is made with the MD5 of a listed file must not disable the entry."""
    good = tmp_path / "good"
    good.write_text("".join(f"{digests_of(n)[weak].hex()}  x\n" for n in (2, 30)))
    with site:
        assert init(site, "--known-good", good).code == 0
        site.publish(csv([30, 31]))
        done = fetch(site)
        assert done.code == 0
        said = "2 entries are known to be good, by known_good, but still in use: e-2, e-30"
        assert said in done.err and said in command(site, "status").out
        assert command(site, "exceptions").out == ""
        assert scan_codes(site, tmp_path, 2, 30) == {2: 10, 30: 10}


@pytest.mark.slow
def test_more_than_may_be_set_aside_refuse_the_generation_and_except_none(
    site: Site, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    rows = [",".join(d.hex() for d in digests_of(n).values()) for n in range(30)]
    good.write_text("\n".join(["md5,sha1,sha256", *rows, ""]))
    with site:
        assert init(site, "--known-good", good).code == 0
        set_aside_at_most(site, 10)
        assert "7 entries are known to be good, by known_good, and excepted" in fetch(site).err
        excepted = command(site, "exceptions").out
        site.publish(csv(range(10, 14)))
        done = fetch(site)
        assert done.code == 6
        assert "the list holds files that are known to be good: e-10, e-11, e-12" in done.err
        # Exceptions that the guard made earlier are kept.
        assert command(site, "exceptions").out == excepted
        assert scan_codes(site, tmp_path, 0, 12) == {0: 0, 12: 0}
        # Entries that are withdrawn are no longer counted.
        site.repository.withdraw("baseline", ["e-0"])
        assert fetch(site).code == 0
        assert scan_codes(site, tmp_path, 3, 12) == {3: 0, 12: 0}


@pytest.mark.slow
def test_a_broken_known_good_file_is_a_mistake_in_the_configuration(
    site: Site, tmp_path: Path
) -> None:
    good = make_good(tmp_path, "sums")
    with site:
        assert init(site, "--known-good", good).code == 0
        good.write_text("no such format\n")
        result = fetch(site)
        assert result.code == 2 and f"{good}:1" in result.err
        assert not (site.state / "lists" / "baseline" / "manifest.json").exists()
        good.unlink()
        result = fetch(site)
        assert result.code == 2 and f"cannot read known_good file: {good}" in result.err
        # Without a new generation there is no change to check, so a broken file delays no update.
        make_good(tmp_path, "sums")
        assert fetch(site).code == 0
        good.unlink()
        assert fetch(site).code == 0


@pytest.mark.slow
def test_too_much_change_is_refused_until_it_is_accepted(site: Site, tmp_path: Path) -> None:
    with site:
        assert init(site, "--max-churn", "0.5").code == 0
        assert fetch(site).code == 0
        site.publish(csv(range(10, 15)))
        assert fetch(site).code == 0
        # Of the 15 live entries, 8 change in two generations: 3 are withdrawn and 5 added.
        site.repository.withdraw("baseline", ["e-0", "e-1", "e-2"])
        site.publish(csv(range(20, 25)))
        result = fetch(site)
        assert result.code == 6
        assert "generation 4 changes 8 of 15 entries, more than max_churn = 0.5" in result.err
        assert "--accept-churn" in result.err
        assert scan_codes(site, tmp_path, 0, 20) == {0: 10, 20: 0}
        assert fetch(site, "--accept-churn").code == 0
        assert scan_codes(site, tmp_path, 0, 20) == {0: 0, 20: 10}


@pytest.mark.slow
def test_damage_is_no_way_round_the_limit_of_change(site: Site) -> None:
    with site:
        assert init(site, "--max-churn", "0.5").code == 0
        assert fetch(site).code == 0
        (run,) = (site.state / "lists/baseline").glob("run-*")
        os.truncate(run, 99)
        site.publish(csv(range(20, 40)))
        result = fetch(site)
        assert result.code == 6 and "generation 2 changes 20 of 10 entries" in result.err
        accepted = fetch(site, "--accept-churn")
        assert accepted.code == 0 and "built again" in accepted.out


@pytest.mark.slow
def test_change_that_the_counts_do_not_show_is_refused_until_it_is_accepted(
    site: Site, tmp_path: Path
) -> None:
    """After a consolidation, the rebuilt list has the same number of entries, but other ones."""
    with site:
        assert init(site, "--max-churn", "0.5").code == 0
        assert fetch(site).code == 0
        site.repository.withdraw("baseline", [f"e-{n}" for n in range(9)])
        site.publish(csv(range(20, 29)))
        done = site.repository.consolidate("baseline", keep_newest=0)
        assert (done.generation, done.after) == (3, 1)
        before = {p: p.read_bytes() for p in (site.state / "lists").rglob("*") if p.is_file()}
        result = fetch(site)
        assert result.code == 6
        assert "generation 3 changes 18 of 10 entries, more than max_churn = 0.5" in result.err
        # A rebuild does not read the local list, so it cannot count changes, and refuses a new
        # generation.
        blind = fetch(site, "--rebuild")
        assert (blind.code, "is not known without reading" in blind.err) == (6, True)
        after = {p: p.read_bytes() for p in (site.state / "lists").rglob("*") if p.is_file()}
        assert after == before
        assert scan_codes(site, tmp_path, 0, 20) == {0: 10, 20: 0}
        accepted = fetch(site, "--accept-churn")
        assert accepted.code == 0 and "built again" in accepted.out
        assert scan_codes(site, tmp_path, 0, 20) == {0: 0, 20: 10}
        # A rebuild of the same generation counts as no change.
        assert fetch(site, "--rebuild").code == 0


def test_init_writes_what_was_asked_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_good(tmp_path, "sums"), make_good(tmp_path, "csv")
    options: list[str | Path] = ["--known-good", one, "--known-good", two.name]
    options += ["--max-churn", "0.25", "--grace-hours", "36"]
    monkeypatch.chdir(tmp_path)
    with site:
        assert init(site, *options).code == 0
    config = tomllib.loads((site.state / "config.toml").read_text())["providers"]["main"]
    assert config["known_good"] == [str(one), str(two)]
    assert (config["max_churn"], config["grace_hours"]) == (0.25, 36.0)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "options",
    [
        ["--max-churn", "0"],
        ["--max-churn", "nan"],
        ["--max-churn", "-1"],
        ["--grace-hours", "-1"],
        ["--grace-hours", "nan"],
        ["--grace-hours", "inf"],
        ["--grace-hours", "1e300"],
        ["--known-good", "/nowhere/at/all"],
    ],
    ids=" ".join,
)
def test_init_refuses_what_cannot_be(site: Site, options: list[str]) -> None:
    with site:
        result = init(site, *options)
        assert result.code == 2, result.err
        assert not (site.state / "config.toml").exists()
