"""`python -m bench`: run scenarios, and print each result beside a result to compare.

At scale 1 the lists have up to 10 million entries and the trees up to 2 million files, and a run
takes many minutes and some 20 GB of disk. The default scale is 0.1. The benchmark `curves` measures
time and memory against the size of lists and trees that are up to ten times as large, and draws the
curves; at scale 1 `curves` takes some 30 minutes and 25 GB of disk. `all` runs the scenarios and
`curves`. With --write-docs, the measured rows replace the rows of the same scenarios in
docs/performance.md; each row of docs/performance.md names the commit and the scale at which it was
measured.
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
    """Parse the command line, run the scenarios and the curves, and print the results."""
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
    # Environment variables that the caller has set for other programs must not slow the benchmarks
    # down.
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
    """Run scenarios, print their rows, and write the rows into `docs` unless `docs` is None."""
    print(HEADER, flush=True)
    for name in names:
        started, rows = time.perf_counter(), list[Row]()
        for row in SCENARIOS[name](bench):
            print(row.line(), flush=True)
            rows.append(row)
        print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)
        # The rows are written after each scenario, because the next scenario may take long or fail.
        if docs is not None:
            document = docs / "performance.md"
            write_figures(document, bench.scale, {name: rows}, [*SCENARIOS])


def run_curves(work: Path, scale: float, docs: Path | None) -> None:
    """Measure the curves, print their tables, and draw them into `docs`, or else into `work`."""
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
