"""`python -m bench.size [DIRECTORY]`: how large the package is, in statements of its syntax trees.

Docstrings are not counted, and neither are comments and line breaks; so the figure is the same
however the code is formatted, and only less code makes it less. It needs no installed package.
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
    """Return the statements of each package or module that lies in `package`."""
    counted: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        counted[path.relative_to(package).parts[0].removesuffix(".py")] += statements(
            path.read_bytes()
        )
    return counted


def main() -> None:
    """Print the statements of each room, the largest first, and of all of them."""
    counted = by_room(Path(sys.argv[1]) if sys.argv[1:] else PACKAGE)
    for name, number in [*counted.most_common(), ("all", counted.total())]:
        print(f"{number:>7,}  {name}")


if __name__ == "__main__":
    main()
