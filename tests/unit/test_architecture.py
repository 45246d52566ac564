"""The architecture as a table: imports go down only, and some things stay in their place.

The table is the one of `docs/architecture.md`. A new module gets a line here first.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: From the bottom up. A module imports from the layers below its own, and from nothing else. A
#: package stands for all of its modules, which may import each other, but not in a circle.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__init__", "errors"}),
    frozenset({"fsio", "algorithms", "kinds", "memory", "model", "process", "strictjson"}),
    frozenset(
        {
            "config",
            "digestfile",
            "filesystems",
            "formats",
            "hashing",
            "hashlist",
            "match",
            "policy",
            "seal",
            "summary",
            "walk",
        }
    ),
    frozenset({"access", "connect", "transport", "trust"}),
    frozenset({"audit"}),
    frozenset(
        {
            "check",
            "gaps",
            "index",
            "inventory",
            "judge",
            "knowngood",
            "lists",
            "matches",
            "matchstore",
            "mounts",
            "pool",
            "reading",
        }
    ),
    frozenset({"provider", "quarantine", "reporting"}),
    frozenset(
        {
            "build",
            "fetch",
            "lookup",
            "metrics",
            "record",
            "respond",
            "scan",
            "setup",
            "status",
            "withdrawals",
        }
    ),
    frozenset({"__main__", "cli"}),
)

#: The exceptions, within one layer: a module may import those that stand after it in a chain.
CHAINS: tuple[tuple[str, ...], ...] = (
    ("__main__", "cli"),
    ("digestfile", "hashlist"),
    ("model", "kinds"),
    ("model", "algorithms"),
    ("formats", "summary"),
    ("policy", "config"),
    ("reporting", "quarantine"),
    ("knowngood", "index"),
    ("matches", "matchstore"),
    ("pool", "check", "inventory"),
    ("pool", "check", "reading"),
    ("pool", "check", "judge", "index"),
    ("lists", "judge", "index"),
    ("gaps", "index"),
    ("lookup", "scan", "fetch"),
    ("fetch", "build"),
    ("fetch", "withdrawals"),
    ("setup", "fetch", "build"),
    ("metrics", "status", "scan", "fetch"),
    ("trust", "transport", "access"),
    ("connect", "transport", "access"),
)

#: What only the top layer may do: it alone talks to a terminal, draws and exits.
TOP_ONLY_MODULES = frozenset({"click", "rich"})
TOP_ONLY_CALLS = frozenset({"print", "input", "exit", "quit", "sys.exit", "os._exit"})

#: The exception: where nothing can be raised, since what failed is an access to memory.
EXITS = frozenset({("process", "os._exit")})

#: Formats that run code when they are read.
BANNED_MODULES = frozenset({"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"})

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP = len(LAYERS) - 1
WITHIN_A_LAYER = frozenset(pair for chain in CHAINS for pair in combinations(chain, 2))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def unit(module: str) -> str:
    """Return the line of the table that a dotted module name falls under."""
    return [*module.split("."), "__init__"][1]


def imports(tree: ast.AST, importer: str) -> Iterator[tuple[str, int]]:
    """Yield each dotted name that is imported anywhere in `tree`, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}:{node.lineno}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def is_allowed(importer: str, imported: str) -> bool:
    """Tell whether one line of the table may import from another."""
    return (
        importer == imported
        or LEVEL.get(imported, TOP) < LEVEL[importer]
        or (importer, imported) in WITHIN_A_LAYER
    )


def called_name(call: ast.Call) -> str:
    return ast.unparse(call.func)


FILES = sorted((ROOT / "hashclient").rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=dotted)


def test_the_table_names_each_module_once() -> None:
    assert sum(len(names) for names in LAYERS) == len(LEVEL)


def test_the_chains_stay_in_their_layer_and_close_no_circle() -> None:
    order: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported in WITHIN_A_LAYER:
        assert LEVEL[importer] == LEVEL[imported]
        order.add(importer, imported)
    order.prepare()  # raises CycleError


@each_file
def test_imports_go_down_only(path: Path) -> None:
    module = dotted(path)
    importer = unit(module)
    assert importer in LEVEL, f"{module} is not in the table of layers"
    wrong = []
    for name, line in imports(ast.parse(path.read_bytes()), module):
        if name.split(".")[0] != "hashclient":
            continue
        # `from hashclient import __version__` names a value of the root, not a module.
        imported = unit(name) if unit(name) in LEVEL or name.count(".") > 1 else "__init__"
        if not is_allowed(importer, imported):
            wrong.append(f"{module}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {dotted(path): path for path in FILES}
    order: TopologicalSorter[str] = TopologicalSorter()
    for module, path in modules.items():
        for name, _ in imports(ast.parse(path.read_bytes()), module):
            imported = name if name in modules else name.rpartition(".")[0]
            if imported in modules and imported != module:
                order.add(module, imported)
    order.prepare()  # raises CycleError


@each_file
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if LEVEL.get(unit(dotted(path))) == TOP:
        return
    tree = ast.parse(path.read_bytes())
    wrong = [
        f"{dotted(path)}:{line} imports {name}"
        for name, line in imports(tree, dotted(path))
        if name.split(".")[0] in TOP_ONLY_MODULES
    ]
    wrong += [
        f"{dotted(path)}:{node.lineno} calls {called_name(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and called_name(node) in TOP_ONLY_CALLS
        and (unit(dotted(path)), called_name(node)) not in EXITS
    ]
    assert not wrong, "\n".join(wrong)


@each_file
def test_nothing_that_runs_code_when_read(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    wrong = [
        f"{dotted(path)}:{line} imports {name}"
        for name, line in imports(tree, dotted(path))
        if name.split(".")[0] in BANNED_MODULES or name.endswith(".*")
    ]
    wrong += [
        f"{dotted(path)}:{node.value.lineno} allows pickles"
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        if not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not wrong, "\n".join(wrong)
