"""Exports of other bodies: published with their meaning, and looked up without a conversion."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures import exports
from fixtures.simulator import Simulator
from hashclient.lists.importers.importfile import OTHER_HASHES
from tests.kit import Run, call, csv_of, make_state

CONTENTS = [b"benign %d" % n for n in range(20)]
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    Simulator(tmp_path / "repo")
    return tmp_path / "repo"


def export(path: Path, write: Callable[..., None], **more: Any) -> list[exports.Entry]:
    some = list(exports.entries(40, seed=5, contents=CONTENTS))
    out = io.BytesIO()
    write(out, some, **more)
    path.write_bytes(out.getvalue())
    return some


def publish(repository: Path, *args: object, list_name: str = "baseline") -> Run:
    return call("provider", "publish", repository, "--list", list_name, *args)


def published(repository: Path, *args: object) -> dict[str, Any]:
    done = publish(repository, "--format", "json", *args)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_icse_is_published_as_baseline_alone(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "icse.csv"
    some = export(path, exports.icse)
    meant = sum(e.baseline for e in some)
    asked = publish(repository, path)
    assert asked.code == 2
    assert "which rows should be used?" in asked.err
    assert "--where" in asked.err
    tried = publish(repository, "--where", "Baseline = true", "--dry-run", path)
    first, *categories = tried.out.splitlines()
    assert first == f"list baseline: generation 1: {meant} would be added, {meant} live"
    assert categories == [f"  added in category baseline: {meant}"]
    done = publish(repository, "--where", "Baseline = true", path)
    assert done.out == f"list baseline: generation 1: {meant} added, {meant} live\n"
    assert done.err.count(OTHER_HASHES) == 1
    assert f"{len(some) - meant} rows were not meant" in done.err
    assert not any(e.md5[:12] in done.err.lower() for e in some)
    again = publish(repository, "--where", "Baseline = true", path)
    assert again.out == f"list baseline: generation 1: 0 added, {meant} live\n"
    assert "all entries are listed already: nothing was published" in again.err


def test_a_dry_run_changes_nothing(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    some = export(path, exports.vics)
    before = {p: p.stat().st_mtime_ns for p in sorted(repository.rglob("*")) if p.is_file()}
    keys = {p.name for p in (repository / "keys").iterdir()}
    found = published(repository, "--dry-run", path)
    assert (found["added"], found["dry_run"], found["generation"]) == (40, True, 1)
    after = {p: p.stat().st_mtime_ns for p in sorted(repository.rglob("*")) if p.is_file()}
    assert after == before
    assert {p.name for p in (repository / "keys").iterdir()} == keys
    published(repository, path)
    found = published(repository, "--dry-run", "--category", "other", path)
    assert (found["added"], found["generation"], found["live"]) == (0, 1, 40)
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(["md5", *(e.md5 for e in some[:3])]))
    found = published(repository, "--dry-run", bare)
    assert (found["listed_before"], found["generation"], found["live"]) == (3, 2, 43)


def test_categories_are_named_by_a_map_or_an_option(repository: Path, tmp_path: Path) -> None:
    path, names = tmp_path / "list.json", tmp_path / "map.toml"
    some = export(path, exports.vics)
    names.write_text('"Category 1" = "one"\n2 = false\n')
    found = published(repository, "--category-map", names, path)
    ones = sum(e.category == 1 for e in some)
    assert (found["added"], found["not_meant"]) == (ones, 40 - ones)
    bare = tmp_path / "bare"
    bare.write_text(f"{some[0].sha256}\n")
    assert published(repository, "--category", "else", bare)["added"] == 1
    wrong = publish(repository, "--category", "No Name", bare)
    assert wrong.code == 2
    assert "not a name for a category: No Name" in wrong.err


def test_rows_are_skipped_up_to_a_bound_or_nothing_is_published(
    repository: Path, tmp_path: Path
) -> None:
    path, good = tmp_path / "list.csv", tmp_path / "good.txt"
    some = [exports.entry_of(n, content) for n, content in enumerate(CONTENTS)]
    rows = [e.md5 for e in some]
    path.write_text("\n".join(["md5", EMPTY_MD5, *rows, "nonsense"]) + "\n")
    good.write_text(f"{some[3].md5}\n")
    options = ("--known-good", good)
    for bound in (0, 1, 2):
        refused = publish(repository, *options, "--max-bad", bound, path)
        assert refused.code == 2
        assert not (repository / "public" / "targets" / "lists").exists()
        assert not any(digest in refused.err for digest in (*rows, EMPTY_MD5))
    found = published(repository, *options, "--max-bad", "3", path)
    assert (found["added"], found["live"]) == (19, 19)
    assert {(Path(s["at"]).name, s["reason"]) for s in found["skipped"]} == {
        ("list.csv:2", "has a digest of the empty file"),
        ("list.csv:6", "has a digest of a known good file"),
        ("list.csv:23", "not a md5 digest in hexadecimal"),
    }
    done = publish(repository, *options, "--max-bad", "3", path, list_name="other")
    assert done.code == 2
    assert "no such list: other\nhint: `--new-list` makes a list; there are: baseline" in done.err
    words = (*options, "--new-list", "--max-bad", "3", path)
    done = publish(repository, *words, list_name="other")
    assert "3 rows could not be used, and skipped:" in done.err
    assert f"{path}:23: not a md5 digest" in done.err


def test_a_dry_run_shows_each_row_that_cannot_be_used(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    some = [exports.entry_of(n, content) for n, content in enumerate(CONTENTS)]
    rows = [f"{e.md5},c{n % 3}" for n, e in enumerate(some)]
    path.write_text("\n".join(["md5,category", *rows, *["nonsense,x"] * 30]) + "\n")
    tried = publish(repository, "--dry-run", "--max-bad", "30", path)
    assert tried.out.splitlines()[1:] == [
        "  added in category c0: 7",
        "  added in category c1: 7",
        "  added in category c2: 6",
    ]
    shown = [line for line in tried.err.splitlines() if line.startswith(f"  {path}:")]
    assert [line.split(":")[1] for line in shown] == [str(n) for n in range(22, 52)]
    # If the number of bad rows exceeds the limit by one, the message shows the limit.
    tried = publish(repository, "--dry-run", "--max-bad", "29", path)
    assert tried.code == 2
    assert tried.err.count(f"  {path}:") == 29
    assert "more than 29 rows cannot be used" in tried.err
    assert publish(repository, "--max-bad", "29", path).err.count(f"  {path}:") == 0
    # With --replace, only a dry run skips rows, and its exit code is not 0.
    tried = publish(repository, "--replace", "--dry-run", "--max-bad", "30", path)
    assert tried.code == 2
    assert tried.err.count(f"  {path}:") == 30
    assert "--replace would withdraw the entries of rows that cannot be used" in tried.err


@pytest.mark.sampled
@pytest.mark.parametrize("write", exports.FORMATS.values(), ids=exports.FORMATS)
def test_every_export_is_published_and_looked_up(
    write: Callable[..., None], repository: Path, tmp_path: Path
) -> None:
    path = tmp_path / "export"
    some = export(path, write)
    assert published(repository, "--where", "all", path)["added"] == 40
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": CONTENTS[2]})})
    found = call("--state-dir", state, "lookup", "--format", "jsonl", "--from", path)
    assert found.code == 10, found.err
    assert found.summary["match"] == 1
    assert found.summary["inputs"] == 40
    assert not any(e.md5[:12] in found.err.lower() for e in some)


def test_a_lookup_takes_the_rows_that_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    entry = exports.entry_of(1, CONTENTS[2])
    path.write_text(f"HASH\tkeep\n{entry.md5}\tno\n{'00' * 16}\tyes\n")
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": CONTENTS[2]})})
    look = ("--state-dir", state, "lookup", "--column", "md5=HASH", "--from", path)
    assert call(*look).code == 10
    chosen = call(*look, "--where", "keep = true")
    assert chosen.code == 0
    assert "1 row was not meant" in chosen.err
    assert call(*look, "--where", "keep =").code == 2
    assert call(*look, "--where", "other = 1").code == 2


def test_a_lookup_skips_no_row(tmp_path: Path) -> None:
    """A row that could not be read must not count as clean."""
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": CONTENTS[2]})})
    path = tmp_path / "list.json"
    export(path, exports.vics)
    content = path.read_text()
    path.write_text(content.replace('"MD5":"', '"MD5":"?', 1))
    found = call("--state-dir", state, "lookup", "--from", path)
    assert found.code == 2
    assert "list.json:1: not a md5 digest in hexadecimal" in found.err


def test_a_source_may_be_all_of_the_list(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "icse.csv"
    some = export(path, exports.icse)
    options = ("--replace", "--where", "Baseline = true")
    count = published(repository, *options, path)["added"]
    lines = path.read_text().splitlines(keepends=True)
    first = next(n for n, e in enumerate(some) if e.baseline) + 1
    path.write_text("".join(lines[:first] + lines[first + 1 :]))
    tried = published(repository, *options, "--dry-run", path)
    assert (tried["added"], tried["withdrawn"], tried["live"]) == (0, 1, count - 1)
    done = publish(repository, *options, path)
    assert done.out == (f"list baseline: generation 2: 0 added, 1 withdrawn, {count - 1} live\n")
    again = publish(repository, *options, path)
    assert again.out == (f"list baseline: generation 2: 0 added, 0 withdrawn, {count - 1} live\n")
    refused = publish(repository, "--replace", "--max-bad", "1", path)
    assert refused.code == 2
    assert "--replace excludes --max-bad" in refused.err
