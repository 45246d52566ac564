"""The architecture document: its layers are those that are enforced, its dependencies complete."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs.blocks import DOCS, ROOT, table_rows
from tests.unit.test_architecture import LAYERS

pytestmark = pytest.mark.docs

ARCHITECTURE = DOCS / "architecture.md"


def test_the_layers_are_those_that_are_enforced() -> None:
    rows = table_rows(ARCHITECTURE, "## Modules and layers")
    documented = [frozenset(re.findall(r"`(\w+)`:", row[1])) for row in rows]
    assert documented == list(LAYERS)


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=]", name)[0] for name in project["dependencies"]}
    rows = table_rows(ARCHITECTURE, "## Dependencies")
    assert {row[0] for row in rows} == needed
    assert all(row[1] for row in rows)
