"""`python -m bench`: run scenarios and print each figure beside its peer or floor.

At scale 1 the lists have up to 10 million entries and the trees up to 2 million files, which takes
many minutes and some 20 GB of disk; the default is a tenth of that. `curves` measures time and
memory against the size of list and tree, up to ten times as large, and draws them; it takes some 30
minutes and 25 GB of disk at scale 1. `all` is everything. With --write-docs, what was measured
replaces what docs/performance.md says of these scenarios; each row there has its commit and scale.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.curves import draw_lists, draw_trees, list_costs, table, tree_costs
from bench.document import machine, write_figures, write_section
from bench.measure import HEADER, Row
from bench.scenarios import SCENARIOS, Bench

DOCS = Path(__file__).parents[1] / "docs"
CURVES = "curves"
ALL = "all"


def main() -> None:
    """Parse the command line, run, print."""
    names = [*SCENARIOS, CURVES, ALL]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=", ".join(names))
    parser.add_argument("--scale", type=float, default=0.1, help="1 is full size (default: 0.1)")
    parser.add_argument("--work", type=Path, help="keep trees and lists here, to use them again")
    parser.add_argument("--write-docs", action="store_true", help="renew docs/performance.md")
    options = parser.parse_args()
    unknown = sorted(set(options.names).difference(names))
    if unknown:
        parser.error(f"no scenario called {unknown[0]}; there are: {', '.join(names)}")
    chosen = options.names or list(SCENARIOS)
    if ALL in chosen:
        chosen = [*SCENARIOS, CURVES]
    # What the caller has set for other programs must not make these slower.
    for name in [name for name in os.environ if name.startswith(("PYTHON", "OPENBLAS_"))]:
        del os.environ[name]
    print(f"{machine()}\nscale {options.scale:g}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="hashclient-bench-") as folder:
        work: Path = (options.work or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        docs = DOCS if options.write_docs else None
        scenarios = [name for name in chosen if name != CURVES]
        if scenarios:
            run_scenarios(scenarios, Bench(work, options.scale), docs)
        if CURVES in chosen:
            run_curves(work, options.scale, docs)


def run_scenarios(names: Sequence[str], bench: Bench, docs: Path | None) -> None:
    """Run scenarios, print their rows, and write them into `docs`."""
    print(HEADER, flush=True)
    for name in names:
        started, rows = time.perf_counter(), list[Row]()
        for row in SCENARIOS[name](bench):
            print(row.line(), flush=True)
            rows.append(row)
        print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)
        # At once: the next one may take long, or fail.
        if docs is not None:
            document = docs / "performance.md"
            write_figures(document, bench.scale, {name: rows}, [*SCENARIOS])


def run_curves(work: Path, scale: float, docs: Path | None) -> None:
    """Measure the curves, print their tables, draw them into `docs`, or into `work`."""
    lists = []
    for list_cost in list_costs(work, scale):
        print(list_cost, flush=True)
        lists.append(list_cost)
    trees = []
    for tree_cost in tree_costs(work, scale):
        print(tree_cost, flush=True)
        trees.append(tree_cost)
    lines = [*table(lists), "", *table(trees)]
    print("\n".join(lines))
    drawings = {
        "performance-lists.svg": draw_lists(lists, machine()),
        "performance-trees.svg": draw_trees(trees, machine()),
    }
    for name, drawing in drawings.items():
        ((docs or work) / name).write_text(drawing, encoding="utf-8")
    if docs is not None:
        write_section(docs / "performance.md", CURVES, scale, lines)


if __name__ == "__main__":
    main()
