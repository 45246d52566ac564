"""Builds the one-file program `hashclient-verify`: `python -m docs.verify.bundle OUT`.

The file contains the modules that `hashclient.cli.officer.tool` imports, directly or indirectly.
Stand-ins replace two compiled modules. The build fails if a module needs any other package.
"""

from __future__ import annotations

import ast
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_STANDINS = Path(__file__).parent / "standins"
#: The files of stand-ins, by the name of the module that each replaces.
STANDINS = {
    "msgspec": _STANDINS / "msgspec.py",
    "hashclient.audit.ed25519": _STANDINS / "ed25519.py",
}
#: Packages that have an empty `__init__.py` in the one file, which lacks some of their modules.
EMPTY = frozenset({"hashclient"})
_MAIN = "from hashclient.cli.officer.tool import main\n\nmain()\n"
_FIRST_LINE = b"#!/usr/bin/env python3\n"
#: The time of all files in the bundle, so that the same tree always gives the same bundle.
_TIME = (1980, 1, 1, 0, 0, 0)


def modules() -> dict[str, Path | None]:
    """Return the files of the bundled modules by name; None for a module that is empty.

    Raises:
        ValueError: a module imports a package that has no stand-in.
    """
    found: dict[str, Path | None] = {}
    names = ["hashclient.cli.officer.tool"]
    while names:
        name = names.pop()
        parent = name.rpartition(".")[0]
        if parent and parent not in found:
            names.append(parent)
        if name in found:
            continue
        path = STANDINS.get(name) or _file_of(name)
        if path is None:
            raise ValueError(f"no module in the one file: {name}")
        found[name] = None if name in EMPTY else path
        if name not in EMPTY:
            names += [n for n in _imported(path) if n not in found]
    return found


def _file_of(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file() and name.split(".", maxsplit=1)[0] == "hashclient":
            return candidate
    return None


def _imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports anywhere, without the standard library and types."""
    for node in _nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if not _is_pythons(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not _is_pythons(node.module):
            yield node.module
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in inner if _file_of(name) is not None)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _nodes(child)


def _is_pythons(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in sys.stdlib_module_names


def bundle() -> bytes:
    """Return the bytes of the one-file program."""
    stream = io.BytesIO(_FIRST_LINE)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        found = modules()
        for name, path in sorted(found.items()):
            is_package = any(other.startswith(f"{name}.") for other in found)
            file = name.replace(".", "/") + ("/__init__.py" if is_package else ".py")
            _add(archive, file, b"" if path is None else path.read_bytes())
        _add(archive, "__main__.py", _MAIN.encode())
    return stream.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def main() -> None:
    """Write the one-file program to the path on the command line."""
    target = Path(sys.argv[1])
    target.write_bytes(bundle())
    target.chmod(0o755)


if __name__ == "__main__":
    main()
