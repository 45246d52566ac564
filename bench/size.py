"""`python -m bench.size [DIRECTORY]`: the size of the package, in statements of its syntax trees.

For `scan` this module also counts the rooms (modules and packages), and the pairs of rooms whose
first room imports the second.

Docstrings, comments and line breaks are not counted. Therefore formatting doesn't change the number
of statements; only less code makes it smaller. The package need not be installed.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hashclient"


def statements(source: bytes) -> int:
    """Return the number of statements in a module, without docstrings and other bare strings."""
    return sum(
        isinstance(node, ast.stmt)
        and not (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        for node in ast.walk(ast.parse(source))
    )


def by_room(package: Path) -> Counter[str]:
    """Return the number of statements of each package or module in `package`."""
    counted: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        counted[path.relative_to(package).parts[0].removesuffix(".py")] += statements(
            path.read_bytes()
        )
    return counted


def arrows(package: Path, name: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the rooms of a package, and pairs of rooms whose first imports the second."""
    files = {path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")}
    rooms = {parts[0] for parts in files} - {"__init__"}
    found = set()
    for parts in files:
        tree = ast.parse(package.joinpath(*parts).with_suffix(".py").read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{name}."):
                inner = str(node.module).removeprefix(name).lstrip(".").partition(".")[0]
                found |= {(parts[0], inner or alias.name) for alias in node.names}
    return rooms, {(one, other) for one, other in found if one != other}


def main() -> None:
    """Print the statements of each room, the largest first, their sum, then rooms of `scan`."""
    package = Path(sys.argv[1]) if sys.argv[1:] else PACKAGE
    counted = by_room(package)
    for name, number in [*counted.most_common(), ("all", counted.total())]:
        print(f"{number:>7,}  {name}")
    rooms, between = arrows(package / "scan", "hashclient.scan")
    print(f"scan: {len(rooms)} rooms, {len(between)} arrows")


if __name__ == "__main__":
    main()
