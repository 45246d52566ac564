"""People who sign see whose keys count, which entries are new, and what their files say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from fixtures.client import csv
from fixtures.people import sign
from fixtures.simulator import PlainClient, Simulator
from hashclient.provider.drafts import load_draft
from hashclient.provider.keyfiles import load_public, make_pair, name_of
from hashclient.provider.keys import Keys
from tests.kit import call

PEOPLE = ("alice", "bob", "carol")


class Agency:
    """A provider whose list has keys of two people."""

    def __init__(self, directory: Path) -> None:
        """Publish the first generation, entries 0 to 4."""
        self.directory = directory
        self.simulator = Simulator(directory / "repo")
        for name in PEOPLE:
            make_pair(directory / f"{name}.pem", directory / f"{name}.pub", None)
        first = directory / "first"
        self.simulator.publish(csv(range(5)), draft=first, list_keys=self.keys("alice", "bob"))
        for name in ("alice", "bob"):
            sign(first, directory / f"{name}.pem")
        self.simulator.repository.publish_draft(first)
        self.simulator.serve_published()

    def keys(self, *names: str) -> Keys:
        keys = tuple(load_public(self.directory / f"{name}.pub") for name in names)
        return Keys(len(keys), len(keys), keys)

    def draft(self, numbers: Iterable[int], *, replace: bool = False) -> Path:
        where = self.directory / f"draft-{len(list(self.directory.glob('draft-*')))}"
        self.simulator.publish(csv(numbers), draft=where, replace=replace)
        return where


@pytest.fixture
def agency(tmp_path: Path) -> Agency:
    return Agency(tmp_path)


def test_keys_have_the_names_of_people_in_signed_metadata(agency: Agency, tmp_path: Path) -> None:
    targets = agency.simulator.metadata("targets").signed
    assert {name_of(key) for key in targets.delegations.keys.values()} == {"alice", "bob"}
    draft = agency.draft(range(5, 8))
    sign(draft, tmp_path / "bob.pem")
    shown = call("provider", "draft", "show", draft)
    ids = {name: load_public(tmp_path / f"{name}.pub").keyid[:16] for name in PEOPLE}
    assert f"    {ids['alice']} (alice) not yet\n" in shown.out
    assert f"    {ids['bob']} (bob) signed\n" in shown.out
    # All clients ignore the names of keys.
    assert PlainClient(tmp_path / "client", agency.simulator).generation() == 1


def test_a_key_that_did_not_count_before_is_called_new(agency: Agency, tmp_path: Path) -> None:
    """The person who makes a draft can choose any names for the keys in the draft."""
    where = tmp_path / "rotated"
    agency.simulator.repository.rotate("baseline", agency.keys("alice", "carol"), draft=where)
    shown = call("provider", "draft", "show", where).out
    carol, alice = (load_public(tmp_path / f"{n}.pub").keyid[:16] for n in ("carol", "alice"))
    assert f"    {carol} (carol, new key) not yet\n" in shown
    assert f"    {alice} (alice) not yet\n" in shown


def test_a_name_that_is_none_is_not_shown(agency: Agency, tmp_path: Path) -> None:
    odd = tmp_path / "Not a name.pub"
    odd.write_bytes((tmp_path / "alice.pub").read_bytes())
    key = load_public(odd)
    assert name_of(key) is None
    for nonsense in (7, "\x1b[2J", "x" * 100, ["alice"]):
        key.unrecognized_fields["hashclient-name"] = nonsense
        assert name_of(key) is None


def test_what_is_new_is_named_by_its_ids(agency: Agency) -> None:
    draft = agency.draft([0, 1, 2, 7, 8], replace=True)
    plain = call("provider", "draft", "show", draft).out
    shown = call("provider", "draft", "show", draft, "--ids")
    assert shown.code == 3
    lines = [line for line in shown.out.splitlines() if line not in plain.splitlines()]
    assert lines == ["+ e-7", "+ e-8", "- e-3", "- e-4"]
    document = json.loads(call("provider", "draft", "show", draft, "--ids", "--format", "json").out)
    assert document["lists"][0]["ids"] == {
        "added": ["e-7", "e-8"],
        "withdrawn": ["e-3", "e-4"],
        "renewed": [],
    }


def test_a_changed_entry_is_named_as_renewed(agency: Agency, tmp_path: Path) -> None:
    where = tmp_path / "changed"
    agency.simulator.publish(csv(range(5), category="other"), draft=where, replace=True)
    shown = call("provider", "draft", "show", where, "--ids").out
    assert [line for line in shown.splitlines() if line[:1] in "+-~"] == [
        f"~ e-{n}" for n in range(5)
    ]


def compare(draft: Path, *words: object) -> tuple[int, list[str]]:
    done = call("provider", "draft", "compare", draft, *words)
    return done.code, done.out.splitlines()


def test_a_draft_is_compared_with_a_file_of_ones_own(agency: Agency, tmp_path: Path) -> None:
    draft, mine = agency.draft(range(5, 10)), tmp_path / "mine.csv"
    mine.write_bytes(csv(range(20)))
    assert compare(draft, mine) == (
        0,
        [
            "list baseline: 5 added: 5 in the files, 0 not, 0 differ",
            "20 rows in the files, 15 not in the draft",
        ],
    )
    mine.write_bytes(csv([5, 6, 9]))
    assert compare(draft, mine) == (
        3,
        [
            "list baseline: 5 added: 3 in the files, 2 not, 0 differ",
            "  not in the files: e-7",
            "  not in the files: e-8",
            "3 rows in the files, 0 not in the draft",
        ],
    )


def test_an_entry_that_differs_in_a_digest_is_named(agency: Agency, tmp_path: Path) -> None:
    draft, mine = agency.draft([6]), tmp_path / "mine.csv"
    md5 = csv([6]).decode().splitlines()[1].split(",")[1]
    mine.write_text(f"md5,sha1\n{md5},{hashlib.sha1(b'another').hexdigest()}\n")
    done = call("provider", "draft", "compare", draft, mine, "--format", "json")
    assert done.code == 3
    (found,) = json.loads(done.out)["lists"]
    assert found == {"list": "baseline", "added": 1, "missing": [], "differing": ["e-6"]}
    assert md5 not in done.out + done.err


def test_rows_are_chosen_and_a_changed_draft_is_refused(agency: Agency, tmp_path: Path) -> None:
    draft, mine = agency.draft([5, 6]), tmp_path / "mine.csv"
    rows = csv([5, 6]).decode().splitlines()
    mine.write_text("\n".join([f"{rows[0]},ok", f"{rows[1]},yes", f"{rows[2]},no", ""]))
    assert compare(draft, "--where", "ok = true", mine)[1][1:2] == ["  not in the files: e-6"]
    mine.write_bytes(csv([5, 6]))
    assert compare(draft, "--root", tmp_path / "repo/root.json", mine)[0] == 0
    (segment,) = draft.glob("files/lists/baseline/*.parquet")
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    assert compare(draft, mine)[0] == 6
    assert load_draft(agency.draft([5])).lists["baseline"].added == 1
