"""The architecture document names the layers that are enforced, and all dependencies."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs.blocks import DOCS, ROOT, table_rows
from tests.unit.test_architecture import MODULES, USES, room

pytestmark = pytest.mark.docs

ARCHITECTURE = DOCS / "architecture.md"
#: The most words of a table's cell; a room with more modules has a separate table.
WORDS_OF_A_CELL = 80


def test_each_room_is_in_the_document_and_so_is_each_module_of_it() -> None:
    rows = table_rows(ARCHITECTURE, "## Rooms")
    documented = {name: row[1] for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert set(documented) == set(USES)
    for name in re.findall(r"^### `(\w+)`$", ARCHITECTURE.read_text(), re.MULTILINE):
        modules = [row[0].strip("`") for row in table_rows(ARCHITECTURE, f"### `{name}`")]
        known = {module.partition(f"hashclient.{name}.")[2].replace(".", "/") for module in MODULES}
        assert set(modules) <= known, name
        assert set(modules) == known - {""} or name == "cli"
        documented[name] += " ".join(modules)
    for module in MODULES:
        place = room(module)
        if place not in {"cli", "formats", "reporting"} and not module.endswith(f".{place}"):
            parts = module.split(".")[2:]
            assert all(re.search(rf"\b{part}\b", documented[place]) for part in parts[:1]), module


def test_a_cell_of_a_table_is_short() -> None:
    for line in ARCHITECTURE.read_text().splitlines():
        if line.startswith("|"):
            assert all(len(cell.split()) <= WORDS_OF_A_CELL for cell in line.split("|")), line


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=]", name)[0] for name in project["dependencies"]}
    rows = table_rows(ARCHITECTURE, "## Dependencies")
    assert {row[0] for row in rows} == needed
    assert all(row[1] for row in rows)
