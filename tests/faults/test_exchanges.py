"""A tree's owner exchanges names while root scans: no listed file is missed.

A scan finds the listed file or does not end in 0, and no record names a place outside of the tree.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hashclient.core.errors import ExitCode
from hashclient.matches.store import Matches
from hashclient.scan.sources.finding_again import inode_of
from tests.kit import attacker
from tests.kit.attacker import Victim, attacking, exchange, give_tree, needs_root, rename
from tests.kit.depth import count_of
from tests.kit.state import State
from tests.kit.tree import fast_directory, write_tree

pytestmark = needs_root

LISTED = b"a benign file that the list names"
OTHER = b"another file, and of its length.."
OPTIONS = (
    (),
    ("--no-inventory", "--jobs", "1"),
    ("--no-inventory", "--jobs", "2"),
    ("--jobs", "2"),
)
#: For each race: the files, the links by their targets, and two names that are exchanged. Without a
#: second name, the first name is renamed and renamed back. `closed` is another directory.
RACES: Mapping[str, tuple[Mapping[str, bytes], Mapping[str, str], tuple[str, str]]] = {
    "two directories": ({"d/f": LISTED, "e/f": OTHER}, {}, ("d", "e")),
    "two files": ({"d/f": LISTED, "d/g": OTHER}, {}, ("d/f", "d/g")),
    "a file and a link": ({"d/f": LISTED, "d/h": OTHER}, {"d/g": "h"}, ("d/f", "d/g")),
    "a directory and a link": ({"d/f": LISTED}, {"e": "../closed"}, ("d", "e")),
    "directories above": ({"d/x/f": LISTED, "e/x/f": OTHER}, {}, ("d", "e")),
    "a file in two directories": ({"d/f": LISTED, "d/o": OTHER, "e/o": OTHER}, {}, ("d/f", "e/f")),
    "a directory in two": ({"d/x/f": LISTED, "e/o": OTHER}, {}, ("d/x", "e/x")),
    "files of two directories": ({"d/f": LISTED, "e/f": OTHER}, {}, ("d/f", "e/f")),
}
#: The longer rounds run the same lines as the short rounds, so `make coverage` skips them; they
#: would double its time.
UNMEASURED = (pytest.mark.slow, pytest.mark.no_cover)
#: For each size: the number of rounds, the number of other files, and the pause between exchanges.
#: With 300 files in each directory, the workers are separate processes; with rare exchanges,
#: directories stop changing. The two largest sizes take minutes for 200 rounds.
SIZES = [
    pytest.param(4, 0, 50, id="few"),
    pytest.param(200, 0, 50, id="often", marks=pytest.mark.slow),
    pytest.param(count_of(200, least=40), 0, 10_000, id="seldom", marks=UNMEASURED),
    pytest.param(count_of(200, least=40), 300, 50, id="many", marks=UNMEASURED),
]


@pytest.fixture
def ground() -> Iterator[Path]:
    with attacker.open_ground() as ground:
        yield ground


@pytest.fixture
def state() -> Iterator[State]:
    """A state in memory, because a scan of a few files waits mostly for the disk."""
    with fast_directory() as directory:
        yield State(directory, {"base": {"e-1": LISTED}}, sized=False)


def tree_of(ground: Path, race: str, others: int) -> Path:
    """Make the tree of a race, with `others` further files in each directory."""
    files, links, _ = RACES[race]
    tree = ground / "tree"
    places = {str(Path(name).parent) for name in files}
    more = {f"{place}/o{n:03d}": b"%d" % n for place in places for n in range(others)}
    for name, target in links.items():
        (tree / name).parent.mkdir(exist_ok=True, parents=True)
        (tree / name).symlink_to(target)
    return give_tree(tree, {**files, **more})


@pytest.mark.sampled
@pytest.mark.parametrize(("rounds", "others", "most_pause_us"), SIZES)
@pytest.mark.parametrize("race", RACES)
def test_a_listed_file_is_found_or_the_scan_is_not_clean(
    state: State, ground: Path, race: str, rounds: int, others: int, most_pause_us: int
) -> None:
    victim = Victim(ground / "closed" / "f", LISTED)
    tree = tree_of(ground, race, others)
    one, other = (tree / name for name in RACES[race][2])
    moves = [rename(one, other), rename(other, one)]
    steps = [exchange(one, other)] if other.exists() or other.is_symlink() else moves
    codes: Counter[int] = Counter()
    with attacking(*steps, most_pause_us=most_pause_us) as attack:
        for number in range(rounds):
            codes[state.scan(*OPTIONS[number % len(OPTIONS)], tree).code] += 1
    assert attack.succeeded
    assert codes[ExitCode.OK] == 0, codes
    assert victim.is_untouched()
    with Matches(state.path, create=False) as matches:
        assert [m.path for m in matches.find() if not m.path.startswith(f"{tree}/")] == []


#: The PATHs of a scan, and the two names that are exchanged during the scan.
GIVEN: Mapping[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "files": (("d/f", "e/f"), ("d/f", "e/f")),
    "files of exchanged directories": (("d/f", "e/f"), ("d", "e")),
    "directories": (("d", "e"), ("d", "e")),
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("rounds", "most_pause_us"), [(4, 50), pytest.param(200, 3_000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("way", ["PATH", "--files-from"])
@pytest.mark.parametrize("given", GIVEN)
def test_of_names_that_are_exchanged_none_stands_for_another(
    state: State, ground: Path, given: str, way: str, rounds: int, most_pause_us: int
) -> None:
    """Each of several PATHs or listed names is read once, or the scan is not clean."""
    tree = tree_of(ground, "files of two directories", 0)
    paths = [tree / name for name in GIVEN[given][0]]
    if way == "--files-from":
        if given == "directories":
            pytest.skip("a list names files")
        (state.directory / "names").write_text("".join(f"{path}\n" for path in paths))
    words = paths if way == "PATH" else [way, state.directory / "names"]
    one, other = (tree / name for name in GIVEN[given][1])
    codes: Counter[int] = Counter()
    with attacking(exchange(one, other), most_pause_us=most_pause_us) as attack:
        for number in range(rounds):
            codes[state.scan(*OPTIONS[number % len(OPTIONS)], *words).code] += 1
    assert attack.succeeded
    assert codes[ExitCode.OK] == 0, codes


@contextlib.contextmanager
def mounted(source: Path, place: Path) -> Iterator[None]:
    """Mount a file or directory on another place while the block runs."""
    if subprocess.run(["mount", "--bind", source, place], check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("race", "rounds"),
    [
        ("two directories", 4),
        ("two files", 4),
        pytest.param("two directories", 200, marks=pytest.mark.slow),
        pytest.param("two files", 200, marks=pytest.mark.slow),
    ],
)
def test_what_is_mounted_elsewhere_in_the_tree_hides_no_exchange(
    state: State, ground: Path, race: str, rounds: int
) -> None:
    """Beside bind mounts, whose inodes differ from the listing, an exchange must be noticed."""
    tree = tree_of(ground, race, 0)
    one, other = RACES[race][2]
    codes: Counter[int] = Counter()
    with contextlib.ExitStack() as mounts:
        for place in (ground / "source", tree):
            write_tree(place / "0", {"directory/x": b"mounted", "file": b"mounted"})
        for name in ("0/directory", "0/file"):
            mounts.enter_context(mounted(ground / "source" / name, tree / name))
        held = os.open(tree / "0", os.O_RDONLY)
        mounts.callback(os.close, held)
        assert {inode_of(held, name) for name in ("directory", "file")} == {None}
        # Without exchanges, the scan reads the whole tree.
        assert state.scan(tree).code == ExitCode.MATCH
        with attacking(exchange(tree / one, tree / other), most_pause_us=50) as attack:
            for number in range(rounds):
                codes[state.scan(*OPTIONS[number % len(OPTIONS)], tree).code] += 1
    assert attack.succeeded
    assert codes[ExitCode.OK] == 0, codes
