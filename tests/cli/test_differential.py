"""Containers in unusual forms: content that another program extracts is never clean.

`python -m fixtures.differential KIND` shows the differences. The test skips programs that are not
installed and names them, and checks recipes of earlier differences without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures import archives
from fixtures.differential import compare, corpus
from fixtures.differential.cases import PLANTED, Kind, Recipe
from fixtures.differential.compare import Comparison
from fixtures.differential.kinds import KINDS
from fixtures.differential.oracles import PROGRAMS
from fixtures.differential.ours import Said
from fixtures.differential.streams import FORMS


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return Comparison(tmp_path_factory.mktemp("planted"))


def missing_of(kind: str) -> set[str]:
    """Return the programs that should extract this kind of container and are not installed."""
    return {name for name in KINDS[kind].programs if PROGRAMS[name].missing}


def name_missing(kind: str) -> None:
    """Skip the test at its end if programs were missing, and name them; all other checks passed."""
    if missing := missing_of(kind):
        pytest.skip(f"passed without these, which are not here: {', '.join(sorted(missing))}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_program_extracts_what_is_written_as_usual(kind: str) -> None:
    """A program that is called in a wrong way would never find a fault of this project."""
    chosen = KINDS[kind]
    recipes: list[Recipe] = [{"as": form} for form in FORMS] if chosen.always else [{}]
    missing = missing_of(kind)
    with compare.written([(chosen, recipe) for recipe in recipes]) as cases:
        found = compare.extracting(set(chosen.programs) - missing, cases)
    assert {name for names in found.values() for name in names} | missing == set(chosen.programs)
    name_missing(kind)


@pytest.mark.slow
def test_a_tree_is_read_that_is_deeper_than_python_calls_functions() -> None:
    if PROGRAMS["tar"].missing:
        pytest.skip("tar is not here")
    name = "d/" * 1_100 + "x"
    deep = Kind("deep", ".tar", {}, lambda _, planted: archives.tar_of({name: planted}), ("tar",))
    with compare.written([(deep, {})]) as cases:
        assert compare.extracting(deep.programs, cases) == {case: ["tar"] for case in cases}


def recipes_found_once() -> Iterator[tuple[str, Recipe, str]]:
    """Yield the saved containers on which programs differed: kind, recipe, expected verdict."""
    for line in Path(compare.__file__).with_name("recipes.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield row["kind"], row["recipe"], row["expected"]


@pytest.mark.slow
def test_what_was_found_once_is_found(comparison: Comparison) -> None:
    rows = list(recipes_found_once())
    said = comparison.said([(KINDS[kind], recipe) for kind, recipe, _ in rows])
    wrong = []
    for (kind, recipe, expected), one in zip(rows, said, strict=True):
        is_found = f"p-{recipe.get('planted', 0)}" in one.found
        answer = "match" if is_found else "unread" if one.unread else "clean"
        if answer != expected:
            wrong.append((kind, recipe, answer, one.unread))
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_always_gives_the_same_bytes(kind: str) -> None:
    chosen = KINDS[kind]
    recipe = chosen.draw("1 7")
    assert recipe == chosen.draw("1 7")
    assert chosen.bytes_of(recipe) == chosen.bytes_of(json.loads(json.dumps(recipe)))
    assert {
        kind.draw(f"1 {n}").get("planted", 0) for kind in KINDS.values() for n in range(40)
    } == set(range(len(PLANTED)))


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_others_are_shown_to_each_program_that_may_open_them(kind: str) -> None:
    chosen = KINDS[kind]
    forms: list[Recipe] = [{"as": form} for form in FORMS] if chosen.always else [{}]
    for program in chosen.programs:
        asked = [corpus.is_asked(program, chosen.bytes_of(recipe)) for recipe in forms]
        assert any(asked), program


def test_a_member_of_a_file_of_others_is_found_or_the_reason_is_named() -> None:
    disk, dbx, damaged = "not-opened: disk", "not-opened: dbx", "damaged: tar: a header"
    assert corpus.answer(Said({"m-1"}, {damaged}), "m-1") == "found"
    assert corpus.answer(Said({"m-1"}, {damaged, disk}), "m-2") == "unread"
    assert corpus.answer(Said(set(), {dbx, disk}), "m-2") == f"{dbx}; {disk}"
    assert corpus.answer(Said({"m-1"}), "m-2") == "clean"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_clean_that_a_program_extracts(comparison: Comparison, kind: str) -> None:
    """In a few drawn containers, content that two programs extract is unread, never clean.

    `make check-deep` draws 20,000 containers.
    """
    chosen, number = KINDS[kind], 500
    found = comparison.differences(chosen, [chosen.draw(f"1 {each}") for each in range(number)])
    assert not [each.line() for each in found if not each.is_named]
    assert compare.is_tolerable(found, number)
    name_missing(kind)


@pytest.mark.docs
def test_each_reason_for_a_difference_stands_in_the_documents() -> None:
    folder = Path(__file__).parents[2] / "docs/operations"
    texts = {
        name: " ".join((folder / f"{name}.md").read_text().split())
        for name in ("archives-and-mail", "members-of-archives")
    }
    assert not [one.why for one in compare.CLEAN if one.why not in texts["archives-and-mail"]]
    whys = compare.UNREAD_FOR.values()
    assert not [why for why in whys if why not in texts["members-of-archives"]]


@pytest.mark.parametrize(
    ("kind", "recipe", "programs", "is_named"),
    [
        ("cab", {"front": ["picture", 60]}, ["cabextract"], True),
        ("cab", {"front": ["picture", 60]}, ["cabextract", "bsdtar"], False),
        ("cab", {"front": ["MZ", 60]}, ["cabextract"], False),
        ("cab", {"front": ["ELF", 70_000]}, ["cabextract", "7z"], False),
        ("compressed", {"as": "xz", "front": ["zeros", 60]}, ["7z", "busybox xzcat"], True),
        ("compressed", {"as": "xz", "front": ["zeros", 60]}, ["7z", "xz"], False),
        ("compressed", {"as": "lzma", "edits": [[0.23, "set", 108]]}, ["busybox lzcat"], True),
        ("compressed", {"as": "lzma", "edits": [[0.9, "set", 108]]}, ["busybox lzcat"], False),
        ("zip", {"front": ["picture", 60], "behind": ["junk", 5_000]}, ["unzip"], False),
        ("zip", {"front": ["zeros", 1], "behind": ["junk", 5_000]}, ["unzip"], True),
        ("mail", {"front": ["text", 60]}, ["munpack"], False),
        ("mail", {"front": ["text", 600]}, ["munpack"], True),
        ("mail", {"zero": 600, "planted": 2}, ["munpack"], False),
        ("cpio", {"edits": [[0.3, "set", 47]], "order": "last"}, ["cpio", "unar"], False),
    ],
)
def test_a_reason_is_that_of_certain_bytes_and_programs(
    kind: str, recipe: Recipe, programs: list[str], is_named: bool
) -> None:
    found = compare.Difference(kind, recipe, compare.LOST, tuple(programs), ())
    assert found.is_named is is_named
    unread = ("damaged: for another reason",)
    assert replace(found, ours=compare.UNREAD, reasons=unread).is_named is is_named
