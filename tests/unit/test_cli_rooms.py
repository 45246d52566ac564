"""The command line: parsing, calling and rendering each have their own modules."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLI = sorted((ROOT / "hashclient/cli").glob("*.py"))
#: The most lines of a command's function. A longer function contains work that belongs to another
#: module.
MAX_LINES = 59


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name of each function and the lines of its body, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[ast.get_docstring(node) is not None :] or node.body
            yield node.name, (node.end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", CLI, ids=lambda path: path.stem)
def test_no_function_has_sixty_lines(path: Path) -> None:
    assert {name: lines for name, lines in functions(path) if lines > MAX_LINES} == {}


@functools.cache
def called(path: Path) -> set[str]:
    """Return the names that a module calls, as they are spelled in the source."""
    tree = ast.parse(path.read_text())
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize(
    ("call", "place"),
    [
        ("json.dumps", "output"),
        ("sys.stdout.write", "app"),
        ("signal.signal", "output"),
        ("os._exit", "output"),
    ],
)
def test_output_streams_and_signals_have_one_place_each(call: str, place: str) -> None:
    # The process that counts files for the progress bar has its own signal handlers and exits at
    # once.
    own = {"progress"} if call in {"signal.signal", "os._exit"} else set()
    assert {path.stem for path in CLI if call in called(path)} - own <= {place}
