"""Republishing: verified live entries of another provider's list, and later their withdrawals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import Client, csv
from fixtures.people import sign
from fixtures.simulator import Simulator
from hashclient.audit import log as audit_log
from hashclient.core.errors import (
    HashclientError,
    StaleError,
    StateError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from hashclient.lists.offline import open_copy
from hashclient.provider import roles as provider_roles
from hashclient.provider.asking import difference, find, overview
from hashclient.provider.export import export_bundle
from hashclient.provider.find import Questions
from hashclient.provider.keyfiles import load_public, make_pair
from hashclient.provider.keys import Keys
from hashclient.provider.results import Published
from hashclient.provider.sharing import Share
from hashclient.system.files import write_atomic
from tests.kit import Run, call, csv_of


class Countries:
    """A provider, and a second provider that republishes its list as `a`, joined by bundles."""

    def __init__(self, directory: Path, now: datetime | None = None) -> None:
        self.directory = directory
        self.theirs = Simulator(directory / "theirs", now=now)
        self.ours = Simulator(directory / "ours")
        self.known = self.theirs.root
        self._count = 0

    def bundle(self) -> Path:
        self._count += 1
        path = self.directory / f"{self._count}.bundle"
        export_bundle(self.theirs.repository.directory, path, {})
        return path

    def share(
        self, bundle: Path | None = None, where: str | None = None, name: str = "a"
    ) -> Published:
        with open_copy(bundle or self.bundle()) as copy:
            share = Share(self.ours.repository.sources / name, copy, lambda: self.ours.now)
            share.begin(None if share.source else self.known, "baseline", where)
            done = self.ours.repository.publish(name, (), share=share)
        self.ours.serve_published()
        return done

    def listed(self, numbers: Iterable[int], name: str = "a") -> set[int]:
        """Return which entries are on the republished list."""
        answers = find(self.ours.repository, Questions([f"e-{n}" for n in numbers]), [name])
        live = {a.asked for a in answers if any(e.withdrawn is None for e in a.entries)}
        return {int(asked.removeprefix("e-")) for asked in live}


@pytest.fixture
def countries(tmp_path: Path) -> Countries:
    made = Countries(tmp_path)
    made.theirs.publish(csv(range(10)))
    made.theirs.withdraw("e-1", "e-2")
    return made


@pytest.mark.slow
def test_of_2669_added_and_1337_withdrawn_entries_1332_are_shared_on(tmp_path: Path) -> None:
    countries = Countries(tmp_path)
    countries.theirs.publish(csv(range(2000)))
    countries.theirs.withdraw(*(f"e-{n}" for n in range(0, 1400, 2)))
    countries.theirs.publish(csv(range(2000, 2669)))
    countries.theirs.withdraw(*(f"e-{n}" for n in range(1, 1274, 2)))
    segments = overview(countries.theirs.repository, "baseline").steps
    assert (sum(s.added for s in segments), sum(s.withdrawn for s in segments)) == (2669, 1337)
    done = countries.share()
    assert (done.generation, done.changed, done.withdrawn, done.live) == (1, 1332, 0, 1332)
    client = Client(tmp_path / "state", countries.ours, countries.ours.root)
    client.fetch()
    gone = {*range(0, 1400, 2), *range(1, 1274, 2)}
    assert client.numbers(range(2669)) == set(range(2669)) - gone
    countries.theirs.withdraw("e-2668", "e-1401")
    done = countries.share()
    assert (done.generation, done.changed, done.withdrawn, done.live) == (2, 0, 2, 1330)
    client.fetch()
    assert client.numbers(range(2669)) == set(range(2669)) - gone - {2668, 1401}


def test_live_entries_are_shared_on_and_withdrawals_follow(countries: Countries) -> None:
    done = countries.share()
    assert (done.generation, done.changed, done.withdrawn, done.live) == (1, 8, 0, 8)
    assert countries.listed(range(10)) == {0, *range(3, 10)}
    countries.theirs.withdraw("e-5")
    countries.theirs.publish(csv(range(10, 12)))
    done = countries.share()
    assert (done.generation, done.changed, done.withdrawn, done.live) == (2, 2, 1, 9)
    assert countries.share().generation == 2  # the second call publishes nothing new
    found = difference(countries.ours.repository, "a", 1, 2)
    assert (found.added, found.withdrawn) == (("e-10", "e-11"), ("e-5",))


@pytest.mark.slow
def test_entries_are_chosen_and_the_choice_is_remembered(countries: Countries) -> None:
    countries.theirs.publish(csv(range(20, 24), category="other"))
    assert countries.share(where="category = other").changed == 4
    countries.theirs.publish(csv(range(24, 26), category="other"))
    countries.theirs.publish(csv(range(30, 40)))
    done = countries.share()
    assert (done.changed, done.live) == (2, 6)
    assert countries.listed(range(40)) == set(range(20, 26))
    # With another choice, `publish` withdraws the entries that are left out.
    done = countries.share(where="category = synthetic")
    assert (done.changed, done.withdrawn) == (18, 6)


def test_an_entry_keeps_all_that_it_had(countries: Countries) -> None:
    rows = b"x,%s,,,5,baseline,2024-05-01\n" % (b"11" * 16)
    countries.theirs.publish(b"entry_id,md5,sha1,sha256,size,category,added\n" + rows)
    countries.theirs.publish(csv_of({"all": b"benign"}))
    countries.share()
    questions = Questions(["x", "all", "e-3"])
    ours = find(countries.ours.repository, questions, ["a"])
    theirs = find(countries.theirs.repository, Questions(["x", "all", "e-3"]))
    for one, other in zip(ours, theirs, strict=True):
        ((mine,), (yours,)) = one.entries, other.entries
        facts = [(e.entry_id, e.category, e.size, e.algorithms) for e in (mine, yours)]
        assert facts[0] == facts[1]


@pytest.mark.slow
def test_what_people_have_withdrawn_here_stays_out(countries: Countries) -> None:
    countries.share()
    countries.ours.withdraw("e-3", "e-4", list_name="a")
    assert countries.share().generation == 2
    countries.theirs.publish(csv(range(10, 12)))
    countries.share()
    assert countries.listed(range(12)) == {0, *range(5, 12)}
    countries.ours.repository.consolidate("a", keep_newest=0)
    countries.theirs.withdraw("e-9")
    countries.share()
    assert countries.listed(range(12)) == {0, *range(5, 9), 10, 11}


def test_a_kill_brings_no_withdrawn_entry_back(
    countries: Countries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed after the new generation was published."""

    class Killed(BaseException):
        pass

    countries.share()
    countries.ours.withdraw("e-3", list_name="a")
    countries.theirs.withdraw("e-9")
    write = write_atomic
    with monkeypatch.context() as patch:

        def written(path: Path, data: bytes, *, mode: int = 0o600) -> None:
            write(path, data, mode=mode)
            if path.name == "timestamp.json":
                raise Killed

        patch.setattr(provider_roles, "write_atomic", written)
        with pytest.raises(Killed):
            countries.share()
    countries.ours.serve_published()
    countries.share()
    assert countries.listed(range(10)) == {0, *range(4, 9)}


def test_a_withdrawal_here_can_be_undone(countries: Countries) -> None:
    countries.share()
    countries.ours.withdraw("e-3", "e-4", list_name="a")
    countries.share()
    countries.ours.repository.revert("a", 2)
    assert countries.share().generation == 3
    assert countries.listed(range(10)) == {0, *range(3, 10)}


@pytest.mark.slow
def test_what_its_provider_has_withdrawn_is_not_brought_back(countries: Countries) -> None:
    countries.share()
    countries.theirs.withdraw("e-5")
    countries.share()
    countries.share(where="entry_id != e-6")
    countries.ours.withdraw("e-7", list_name="a")
    revert = countries.ours.repository.revert
    for generation in (2, 3):
        with pytest.raises(UsageError, match="these cannot come back"):
            revert("a", generation)
    revert("a", 1)  # this `revert` adds no entries
    assert countries.listed(range(10)) == set()
    revert("a", 4)
    assert countries.listed(range(10)) == {7}
    revert("a", 5)
    assert countries.listed(range(10)) == {0, 3, 4, 7, 8, 9}
    # The entries are not published again either if the saved files of the republished list are
    # lost.
    for path in (countries.ours.repository.sources / "a").glob("*.json"):
        path.unlink()
    with pytest.raises(UsageError, match="these cannot come back"):
        revert("a", 2)


def test_what_its_provider_lists_again_is_shared_on_again(countries: Countries) -> None:
    countries.share()
    countries.theirs.withdraw("e-3")
    countries.share()
    countries.theirs.publish(csv([3]))
    assert countries.share().changed == 1
    assert 3 in countries.listed(range(10))


def test_an_older_bundle_brings_nothing_back(countries: Countries) -> None:
    old = countries.bundle()
    countries.theirs.withdraw("e-3")
    countries.share()
    with pytest.raises(VerificationError):
        countries.share(old)
    # The older bundle is refused even if the saved metadata of the other provider are lost.
    for path in (countries.ours.repository.sources / "a" / "metadata").glob("*.json"):
        path.unlink()
    with pytest.raises(VerificationError, match="is older than 3, which was republished already"):
        countries.share(old)
    assert countries.listed(range(10)) == {0, *range(4, 10)}


def test_origin_and_terms_are_signed_and_kept(countries: Countries, tmp_path: Path) -> None:
    terms = "for the police of member countries only"
    countries.theirs.publish(csv([20]), terms=terms)
    countries.share()
    countries.ours.withdraw("e-0", list_name="a")
    countries.ours.repository.consolidate("a", keep_newest=0)
    found = overview(countries.ours.repository, "a").provenance
    (origin,) = found.origins
    assert (origin.list, origin.generation, found.terms) == ("baseline", 3, terms)
    assert origin.root_sha256 == hashlib.sha256(countries.known).hexdigest()
    shown = call("provider", "show", countries.ours.repository.directory, "--list", "a").out
    assert f"of the provider whose root.json has sha256 {origin.root_sha256}" in shown
    assert terms in shown
    # A client of a third provider sees where the entries were first published.
    third = Simulator(tmp_path / "third")
    bundle = tmp_path / "ours.bundle"
    export_bundle(countries.ours.repository.directory, bundle, {})
    with open_copy(bundle) as copy:
        share = Share(third.repository.sources / "b", copy, lambda: third.now)
        share.begin(countries.ours.root, "a", None)
        third.repository.publish("b", (), share=share)
    found = overview(third.repository, "b").provenance
    assert [o.list for o in found.origins] == ["baseline", "a"]
    assert found.terms == terms
    last = list(audit_log.read(third.repository.log.directory))[-1]
    assert last.data["origin"]["list"] == "a"


def test_a_list_has_its_own_entries_or_those_of_others(countries: Countries) -> None:
    countries.ours.publish(csv(range(50, 53)), "own")
    with pytest.raises(UsageError, match="list own has entries of its own"):
        countries.share(name="own")
    countries.share()
    with pytest.raises(UsageError, match="list a republishes another"):
        countries.ours.publish(csv([60]), "a")


def test_a_list_of_another_provider_does_not_take_its_place(countries: Countries) -> None:
    countries.share()
    other = Simulator(countries.directory / "other")
    other.publish(csv(range(3)))
    bundle = countries.directory / "other.bundle"
    export_bundle(other.repository.directory, bundle, {})
    with pytest.raises(VerificationError):
        countries.share(bundle)
    with open_copy(bundle) as copy:
        share = Share(countries.ours.repository.sources / "a", copy, lambda: countries.ours.now)
        assert not share.is_from()
        with pytest.raises(
            UsageError, match="already republishes list baseline of another provider"
        ):
            share.begin(other.root, None, None)


@pytest.mark.slow
def test_new_keys_of_the_other_provider_are_followed(countries: Countries) -> None:
    countries.share()
    for role in ("root", "baseline", "timestamp", "snapshot", "targets"):
        countries.theirs.rotate(role)
    countries.theirs.withdraw("e-3")
    assert countries.share().withdrawn == 1


@pytest.mark.slow
def test_all_may_be_withdrawn_but_a_list_that_ends_says_so(countries: Countries) -> None:
    countries.share()
    countries.theirs.withdraw(*(f"e-{n}" for n in (0, *range(3, 10))))
    done = countries.share()
    assert (done.withdrawn, done.live) == (8, 0)
    countries.theirs.repository.end_list("baseline")
    with pytest.raises(VerificationError, match="list baseline has ended at its provider"):
        countries.share()


def test_a_bundle_that_a_client_refuses_is_refused(countries: Countries, tmp_path: Path) -> None:
    bundle = countries.bundle()
    data = bundle.read_bytes()
    damaged, place = tmp_path / "damaged", data.rindex(b"PAR1")
    damaged.write_bytes(data[:place] + b"RAP1" + data[place + 4 :])
    with pytest.raises(VerificationError):
        countries.share(damaged)
    changes = tmp_path / "changes"
    export_bundle(countries.theirs.repository.directory, changes, {"baseline": 1})
    with pytest.raises(UnreachableError, match="there is no"):
        countries.share(changes)
    old = Countries(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=8))
    old.theirs.publish(csv(range(3)))
    with pytest.raises(StaleError):
        old.share()
    assert not (countries.ours.repository.sources / "a" / "source.json").exists()


def test_a_state_that_is_not_understood_is_refused(countries: Countries) -> None:
    countries.share()
    path = countries.ours.repository.sources / "a" / "source.json"
    good = path.read_text()
    for text, said in (
        ("{}", "damaged"),
        ("nonsense", "damaged"),
        (good.replace("source/1", "source/2"), "a newer"),
    ):
        path.write_text(text)
        with pytest.raises(StateError) as caught:
            countries.share()
        assert said in f"{caught.value.message} {caught.value.hint}"
    path.write_text(good)
    (path.parent / "root.json").write_text("nonsense")
    provider("follow", countries.ours.repository.directory, countries.bundle(), code=8)


# The commands for republishing


def provider(*words: object, code: int = 0) -> Run:
    done = call("provider", *words)
    assert done.code == code, done.err
    return done


@pytest.mark.slow
def test_the_commands(countries: Countries, tmp_path: Path) -> None:
    root, ours = tmp_path / "theirs.json", countries.ours.repository.directory
    root.write_bytes(countries.known)
    words = ("publish", ours, "--list", "a", "--from-list", "baseline", "--from-bundle")
    first = countries.bundle()
    assert "--root is missing" in provider(*words, first, code=2).err
    assert "no list here republishes" in provider("follow", ours, first, code=2).err
    tried = provider(*words, first, "--root", root, "--dry-run")
    assert tried.out.startswith("list a: generation 1: 8 would be added, 0 withdrawn, 8 live\n")
    assert not (ours / "sources").exists()
    done = provider(*words, first, "--root", root)
    assert done.out == "list a: generation 1: 8 added, 0 withdrawn, 8 live\n"
    assert "from list baseline, generation 2" in done.err
    assert provider("follow", ours, first).err.count("nothing was published") == 1
    countries.theirs.withdraw("e-3")
    second = countries.bundle()
    tried = provider("follow", ours, second, "--dry-run", "--format", "json")
    (document,) = json.loads(tried.out)["lists"]
    assert (document["withdrawn"], document["live"], document["dry_run"]) == (1, 7, True)
    done = provider("follow", ours, second)
    assert done.out == "list a: generation 2: 0 added, 1 withdrawn, 7 live\n"
    assert provider("follow", ours, first, code=6).out == ""
    assert provider("follow", ours, second, "--list", "b", code=2).out == ""
    for wrong in (("--category", "x"), ("--max-bad", "1"), ("--replace",), ("--terms", "x")):
        assert "does not change entries and terms" in provider(*words, first, *wrong, code=2).err
    assert provider(*words, first, "more.csv", code=2).out == ""


def test_people_sign_what_is_shared_on(countries: Countries, tmp_path: Path) -> None:
    make_pair(tmp_path / "alice.pem", tmp_path / "alice.pub", None)
    root, draft, ours = tmp_path / "root.json", tmp_path / "draft", countries.ours.repository
    root.write_bytes(countries.known)
    keys = Keys(1, 1, (load_public(tmp_path / "alice.pub"),))
    with open_copy(countries.bundle()) as copy:
        share = Share(ours.sources / "a", copy, lambda: countries.ours.now)
        share.begin(countries.known, "baseline", None)
        ours.publish("a", (), share=share, draft=draft, list_keys=keys)
    shown = provider("draft", "show", draft, code=3).out
    assert "  origin: list baseline, generation 2, of the provider whose root.json" in shown
    sign(draft, tmp_path / "alice.pem")
    ours.publish_draft(draft)
    countries.theirs.withdraw("e-3")
    second = tmp_path / "second"
    provider("follow", ours.directory, countries.bundle(), "--draft", second)
    sign(second, tmp_path / "alice.pem")
    ours.publish_draft(second)
    assert countries.listed(range(10)) == {0, *range(4, 10)}


def test_a_draft_that_says_more_of_a_file_is_refused(countries: Countries, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    countries.theirs.publish(csv([20]), draft=draft, terms="x")
    path = draft / "roles" / "baseline.json"
    document = json.loads(path.read_text())
    targets = document["signed"]["targets"]
    odd: list[Any] = [7, None, [], "x", {}]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("lists/baseline/index.json", {"custom": {"hashclient-provenance": {}, "more": 1}}),
        ("lists/baseline/index.json", {"custom": {"hashclient-provenance": {"terms": 7}}}),
        ("lists/baseline/index.json", {"custom": {"hashclient-history": {"3": "0" * 16}}}),
        *(("lists/baseline/index.json", {"custom": wrong}) for wrong in odd),
        ("lists/baseline/g000003-add-000.parquet", {"custom": {"more": 1}}),
    ]
    for name, said in cases:
        changed = json.loads(json.dumps(document))
        changed["signed"]["targets"][name] = {**targets[name], **said}
        path.write_text(json.dumps(changed))
        for signature in (draft / "signatures").iterdir():
            signature.unlink()
        assert provider("draft", "show", draft, code=6).out == ""


def test_terms_are_bounded(countries: Countries) -> None:
    for wrong in ("x" * 2001, "\x1b[2J"):
        with pytest.raises(HashclientError, match="terms of a list have at most"):
            countries.theirs.publish(csv([20]), terms=wrong)
