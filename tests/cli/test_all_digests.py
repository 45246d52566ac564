"""`scan --all-digests`: entries whose digests belong to different files."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from hashclient.core.kinds import Algorithm
from tests.kit import Run, call, csv_of, make_state, remember_at_once, run, write_tree

ONE, OTHER = b"file A", b"file B"  # the two contents have one size


def entry(name: str, digests: Mapping[Algorithm, bytes], size: int | None) -> str:
    """Return an entry with the digest of a content for each of the algorithms."""
    cells = [
        hashlib.new(a.label, digests[a]).hexdigest() if a in digests else "" for a in Algorithm
    ]
    return ",".join([name, *cells, "" if size is None else str(size)])


def state_of(directory: Path, *entries: str) -> Path:
    text = "\n".join(["entry_id,md5,sha1,sha256,size", *entries, ""])
    return make_state(directory, {"base": text.encode()})


def mixed(size: int | None = len(ONE)) -> str:
    """Return an entry whose MD5 belongs to another file than its other digests."""
    digests = {Algorithm.MD5: ONE, Algorithm.SHA1: OTHER, Algorithm.SHA256: OTHER}
    return entry("mixed", digests, size)


def scan(state: Path, *args: object) -> Run:
    return call("--state-dir", state, "scan", "--format", "jsonl", *args)


def sums(state: Path, tree: Path, *algorithms: Algorithm, sized: bool = False) -> Run:
    """Look up the digests of the files in a tree, as md5sum or hashdeep would print them."""
    rows = [",".join([*(a.label for a in algorithms), *(["size"] if sized else [])])]
    for path in sorted(tree.iterdir()):
        data = path.read_bytes()
        digests = [hashlib.new(a.label, data).hexdigest() for a in algorithms]
        rows.append(",".join([*digests, *([str(len(data))] if sized else [])]))
    source = state.parent / "sums.csv"
    source.write_text("\n".join([*rows, ""]))
    return call("--state-dir", state, "lookup", "--format", "jsonl", "--from", source)


def test_one_file_has_one_verdict(tmp_path: Path) -> None:
    """SHA-1 is the cheapest digest, but it does not find the file that has the MD5 of the entry."""
    state = state_of(tmp_path, mixed())
    tree = write_tree(tmp_path / "t", {"a": ONE})
    assert scan(state, tree).code == 0
    assert sums(state, tree, Algorithm.MD5).code == 10
    assert sums(state, tree, *Algorithm, sized=True).code == 3
    found = scan(state, "--all-digests", tree)
    assert (found.code, found.outcomes) == (3, {f"{tree}/a": "conflict"})


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_says_what_a_lookup_of_all_digests_says(tmp_path: Path, jobs: int) -> None:
    """The entries are mixed or complete, with a size or without, and all have a SHA-1."""
    chance = random.Random(jobs)
    contents = [b"content %02d" % n for n in range(30)]
    entries = []
    for number in range(40):
        kinds = {Algorithm.SHA1, *chance.sample(list(Algorithm), chance.randint(1, 3))}
        base = chance.choice(contents)
        digests = {a: chance.choice([base, base, chance.choice(contents)]) for a in sorted(kinds)}
        entries.append(entry(f"e-{number}", digests, chance.choice([10, 10, 11, None])))
    state = state_of(tmp_path, *entries)
    tree = write_tree(tmp_path / "t", {f"{n:02d}": data for n, data in enumerate(contents)})
    asked = sums(state, tree, *Algorithm, sized=True)
    found = scan(state, "--all-digests", "--show-all", "--jobs", jobs, tree)
    counts = ("match", "conflict", "clean", "unread")
    assert [found.summary[kind] for kind in counts] == [asked.summary[kind] for kind in counts]
    assert found.summary["conflict"] > 1 and found.summary["match"] > 1
    assert scan(state, "--show-all", tree).summary["clean"] > found.summary["clean"]


def test_the_cache_does_not_stand_for_digests_that_it_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    state = state_of(tmp_path, mixed())
    tree = write_tree(tmp_path / "t", {"a": ONE, "b": b"benign"})
    assert scan(state, tree).summary["files_read"] == 2
    assert scan(state, tree).summary["known_unchanged"] == 2
    first = scan(state, "--all-digests", tree)
    assert (first.code, first.summary["files_read"]) == (3, 2)
    again = scan(state, "--all-digests", tree)
    assert (again.code, again.outcomes) == (3, first.outcomes)
    assert again.summary["files_read"] == 0
    # A record with all digests also serves a list that needs fewer digests.
    assert scan(state, tree).summary["known_unchanged"] == 2


def test_sizes_and_kinds_of_digests_still_decide(tmp_path: Path) -> None:
    state = make_state(tmp_path, {"base": csv_of({"e": ONE}, algorithms=(Algorithm.MD5,))})
    tree = write_tree(tmp_path / "t", {"long": b"a longer file", "same": b"benign"})
    found = scan(state, "--all-digests", "--show-digests", "--show-all", tree)
    assert (found.code, found.summary["ruled_out_by_size"]) == (0, 1)
    shown = {Path(line["path"]).name: list(line.get("digests", ())) for line in found.lines[:-1]}
    assert shown == {"long": [], "same": ["md5"]}


@pytest.mark.slow
def test_a_stream(tmp_path: Path) -> None:
    state = state_of(tmp_path, mixed(None))
    for args, code in (((), 0), (("--all-digests",), 3)):
        assert run("--state-dir", state, "scan", *args, "-", stdin=ONE).code == code


def test_the_configuration_can_ask_for_it(tmp_path: Path) -> None:
    state = state_of(tmp_path, mixed())
    tree = write_tree(tmp_path / "t", {"a": ONE})
    (state / "config.toml").write_text("[scan]\nall_digests = true\n")
    assert scan(state, tree).code == 3
