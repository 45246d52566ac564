"""Cost curves: time and memory against the size of a list, and against the size of a tree.

At scale 1 lists have from 1 to 100 million entries and trees from 10,000 to 2 million files. Each
entry has all three digests and a size; a tree consists of folders of 10,000 small files each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bench.measure import hashclient, run
from bench.plot import Line, Panel, short, svg
from bench.site import publish_delta, repository, served, site, tree, write_digests

LIST_ENTRIES = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000)
TREE_FILES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000)
FOLDER_FILES = 10_000
ASKED = 2_000_000
CHANGED = 10_000


@dataclass(frozen=True, slots=True)
class ListCost:
    """The costs of a list with `entries` entries. Times are in seconds, peaks in bytes."""

    entries: int
    fetch_s: float
    fetch_bytes: int
    index_bytes: int
    one_file_s: float
    one_file_bytes: int
    lookup_s: float
    lookup_bytes: int
    delta_s: float
    delta_bytes: int


@dataclass(frozen=True, slots=True)
class TreeCost:
    """The costs of a first scan, a second scan, and a scan of files whose sizes no entry has."""

    files: int
    find_s: float
    first_s: float
    first_bytes: int
    again_s: float
    again_bytes: int
    unfit_s: float
    unfit_bytes: int


def list_costs(work: Path, scale: float) -> Iterator[ListCost]:
    """Measure each size of list: a first fetch, one file, many digests, and a small change."""
    path = work / "one-file"
    path.write_text("a dummy file\n")
    for full in LIST_ENTRIES:
        entries = max(ASKED // 1000, int(full * scale))  # 1 of 1,000 looked-up digests is listed
        algorithms = ("md5", "sha1", "sha256")
        root = repository(work, "all", entries=entries, algorithms=algorithms, sizes=True)
        with served(root) as here:
            first = run(hashclient(here.state, "fetch"), repeat=1)
            index = sum(p.stat().st_size for p in (here.state / "lists").rglob("run-*"))
            one = run(hashclient(here.state, "scan", path), repeat=5)
            digests = root / f"asked-{ASKED}.txt"
            if not digests.exists():
                write_digests(digests, here.csv, "sha256", ASKED)
            many = run(hashclient(here.state, "lookup", "--from", digests), expect=[10])
            publish_delta(here, entries=CHANGED)
            delta = run(hashclient(here.state, "fetch"), repeat=1)
        yield ListCost(
            entries,
            first.wall_s,
            first.rss_bytes,
            index,
            one.wall_s,
            one.rss_bytes,
            many.wall_s,
            many.rss_bytes,
            delta.wall_s,
            delta.rss_bytes,
        )


def tree_costs(work: Path, scale: float) -> Iterator[TreeCost]:
    """Measure three scans of each size of tree; `TreeCost` names the three scans."""
    counts = sorted({max(1, int(n * scale) // FOLDER_FILES) * FOLDER_FILES for n in TREE_FILES})
    whole = tree(work, files=counts[-1], total_bytes=counts[-1] * 64)
    folders = sorted(whole.iterdir())
    entries = max(1000, int(1_000_000 * scale))
    wanted = {"entries": entries, "algorithms": ("sha256",)}
    unfit = {"sizes": True, "smallest": 1 << 20}
    with (
        site(work, "unsized", **wanted) as reading,
        site(work, "sized", **wanted, **unfit) as planning,
    ):
        for files in counts:
            part = folders[: files // FOLDER_FILES]
            scan = hashclient(reading.state, "scan", *part)
            forget: list[str | Path] = ["rm", "-f", reading.state / "inventory.db"]
            repeat = 3 if files <= 300_000 else 2
            find = run(["find", *part, "-printf", "%s\n"], repeat=repeat)
            first = run(scan, repeat=repeat, before=forget)
            again = run(scan, repeat=repeat)
            unread = run(hashclient(planning.state, "scan", *part), repeat=repeat)
            yield TreeCost(
                files,
                find.wall_s,
                first.wall_s,
                first.rss_bytes,
                again.wall_s,
                again.rss_bytes,
                unread.wall_s,
                unread.rss_bytes,
            )


def _points(costs: Sequence[object], x: str, y: str) -> list[tuple[float, float]]:
    return [(getattr(cost, x), getattr(cost, y)) for cost in costs]


def _seconds(value: float) -> str:
    return f"{value:g} s"


def _bytes(value: float) -> str:
    return f"{value / 1e9:g} GB" if value >= 1e9 else f"{value / 1e6:g} MB"


def draw_lists(costs: Sequence[ListCost], note: str) -> str:
    """Return the plots of time and memory against the size of the list."""

    def lines(unit: str) -> list[Line]:
        names = {
            "fetch": "first fetch",
            "lookup": f"lookup of {short(ASKED)} digests",
            "delta": f"fetch of {CHANGED:,} new entries",
            "one_file": "scan of one small file, whole process",
        }
        return [
            Line(name, _points(costs, "entries", f"{key}_{unit}")) for key, name in names.items()
        ]

    x_title = "entries of the list"
    time = Panel("Time against list size", x_title, "wall time", _seconds, lines("s"))
    memory = Panel("Memory against list size", x_title, "peak resident", _bytes, lines("bytes"))
    return svg([time, memory], note)


def draw_trees(costs: Sequence[TreeCost], note: str) -> str:
    """Return the plots of time and memory against the size of the tree."""

    def lines(unit: str) -> list[Line]:
        names = {
            "first": "first scan: reads every file",
            "again": "nothing changed: reads none",
            "unfit": "no size fits: opens none",
        }
        return [Line(name, _points(costs, "files", f"{key}_{unit}")) for key, name in names.items()]

    x_title = "files of the tree"
    find = Line("find -printf '%s\\n'", _points(costs, "files", "find_s"), limit=True)
    time = Panel("Time against tree size", x_title, "wall time", _seconds, [*lines("s"), find])
    title = "Memory against tree size"
    y_title = "peak of the largest process"
    memory = Panel(title, x_title, y_title, _bytes, lines("bytes"), from_zero=True)
    return svg([time, memory], note)


def table(costs: Sequence[ListCost] | Sequence[TreeCost]) -> list[str]:
    """Return the lines of a Markdown table: a row for each size."""
    heads: dict[str, tuple[str, Callable[[float], str]]] = {
        "entries": ("entries", lambda n: f"{n:,}"),
        "files": ("files", lambda n: f"{n:,}"),
        "index_bytes": ("index", _rounded_bytes),
        "find_s": ("`find`", _rounded_seconds),
    }
    names = {
        "fetch": "first fetch",
        "one_file": "one file",
        "lookup": f"lookup of {ASKED:,}",
        "delta": f"{CHANGED:,} new",
        "first": "first scan",
        "again": "nothing changed",
        "unfit": "no size fits",
    }
    for key, name in names.items():
        heads[f"{key}_s"] = (name, _rounded_seconds)
        heads[f"{key}_bytes"] = ("memory", _rounded_bytes)
    columns = [heads[field.name] for field in fields(costs[0])]
    rows = [
        [f(getattr(c, k.name)) for (_, f), k in zip(columns, fields(c), strict=True)] for c in costs
    ]
    head = [name for name, _ in columns]
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---:"] * len(head), *rows]]


def _rounded_seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _rounded_bytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
