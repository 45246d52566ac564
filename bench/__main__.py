"""`python -m bench`: run scenarios and print each figure beside its peer or floor.

At scale 1 the lists have up to 10 million entries and the trees up to a million files, which takes
many minutes and some 10 GB of disk; the default is a tenth of that.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

from bench.measure import HEADER
from bench.scenarios import SCENARIOS, Bench


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--scale", type=float, default=0.1, help="1 is full size (default: 0.1)")
    parser.add_argument("--work", type=Path, help="keep trees and lists here, to use them again")
    options = parser.parse_args()
    unknown = sorted(set(options.names).difference(SCENARIOS))
    if unknown:
        parser.error(f"no scenario called {unknown[0]}; there are: {', '.join(SCENARIOS)}")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"scale {options.scale:g}\n\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hashclient-bench-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name in options.names or SCENARIOS:
            for row in SCENARIOS[name](Bench(work.absolute(), options.scale)):
                print(row.line(), flush=True)


if __name__ == "__main__":
    main()
